"""One run that is being written: its files stay open as long as somebody holds it."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kaizen.claims import Claim, held_by_another
from kaizen.errors import CheckpointError, CheckpointLoadError, CheckpointSaveError
from kaizen.ports import RunRecord, StoredEntry
from kaizen.runlog import described

from kaizen_state._claim_file import CLAIM, Claims
from kaizen_state._files import (
    TEMPORARY,
    Folder,
    lock,
    sync,
    try_lock,
    unlock,
    write_all,
)
from kaizen_state._lines import lines_of
from kaizen_state._log import SEGMENT_BYTES, Head, Log, segment_name

__all__ = ["Known", "Moved", "Writer", "warn"]

_MAX_CUTS = 8
_MAX_CUT_BYTES = 16 * 1024 * 1024
_CUT = re.compile(r"cut-[0-9]+-([0-9]{1,9})")
_SETS_STATUS = frozenset(("run_started", "forked", "resumed", "rewound", "run_ended"))


class Moved(Exception):
    """The folder is no longer that of the run."""


@dataclass(slots=True, kw_only=True)
class Known:
    """The end of a log that was found whole, and by what it is recognised.

    Attributes:
        name: The segment that is written next, or `""` if it is still to be made.
        first: First entry of that segment.
        size: Where its last whole append ends.
        mark: Inode and time of last change of the segment.
        status: The status of the run, or `""` if none of its entries is its own.
    """

    name: str
    first: int
    size: int
    length: int
    status: str
    updated_ns: int
    mark: tuple[int, int] = (0, 0)


class Writer:
    """The files of one run. Whoever uses it holds its `mutex`.

    Attributes:
        keep: Whether somebody holds the run, so that its files stay open.
        retired: Whether the store has forgotten this object.
    """

    def __init__(self, run_id: str, path: Path) -> None:
        self.run_id = run_id
        self.mutex = threading.Lock()
        self.keep = False
        self.retired = False
        self.known: Known | None = None
        self._claim_path = path / run_id / CLAIM
        self._folder: Folder | None = None
        self._claim_name = str(self._claim_path)
        self._lock = -1
        self._lock_inode = -1
        self._segment = -1
        self._claims: Claims | None = None

    @property
    def folder(self) -> Folder:
        """Its folder, while it is open."""
        if self._folder is None:
            raise Moved
        return self._folder

    @property
    def claims(self) -> Claims:
        """Who holds the run, as long as it is locked."""
        self._claims = Claims.read(self._lock, self._claims)
        return self._claims

    def lock(self, open_folder: Callable[[], Folder]) -> None:
        """Keep other processes from writing the run until `unlock`.

        Raises:
            Moved: The folder was deleted in the meantime.
        """
        if self._folder is None:
            self._folder = open_folder()
        if self._lock < 0:
            self._lock = self._folder.open_file(CLAIM, os.O_RDWR | os.O_CREAT)
            self._lock_inode = os.fstat(self._lock).st_ino
        lock(self._lock, self._claim_path)
        if not self._is_there():
            self.close()
            raise Moved

    def _is_there(self) -> bool:
        """Whether the file that is locked is that of the run, which was not deleted."""
        try:
            there = os.lstat(self._claim_name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return there.st_ino == self._lock_inode

    def unlock(self) -> None:
        """Let other processes write."""
        if self._lock >= 0:
            unlock(self._lock)

    def close(self) -> None:
        """Close every file, and remember by what the log is recognised."""
        if self.known is not None and self._segment >= 0:
            found = os.fstat(self._segment)
            self.known.mark = (found.st_ino, found.st_mtime_ns)
        self._close_segment()
        if self._lock >= 0:
            os.close(self._lock)
        if self._folder is not None:
            self._folder.close()
        self._lock, self._folder, self._claims = -1, None, None

    def claim(self, owner: str, lease_s: float) -> Claim:
        """Change who holds the run."""
        claim = self.claims.next(self.run_id, owner=owner, lease_s=lease_s)
        self._claims = self.claims.write(self._lock, claim, self.run_id)
        self.keep = lease_s > 0
        return claim

    def require_free(self) -> None:
        """Raise if somebody holds the run."""
        claim = self.claims.claim
        if claim is not None and self.claims.held():
            raise held_by_another(self.run_id, claim)

    def append(
        self,
        entries: Sequence[StoredEntry],
        token: int | None,
        *,
        now_ns: Callable[[int], int],
        status_before: Callable[[Log], str],
    ) -> bool:
        """Write an append; say whether a segment was closed by it.

        Args:
            entries: Consecutive entries.
            token: The token of the writer.
            now_ns: Gives the time of writing, later than another time.
            status_before: Gives the status of a log that has no entry of its own.
        """
        self.claims.check(self.run_id, token)
        self.keep = token is not None
        known = self._end()
        _require_following(self.run_id, known.length, entries)
        statuses = self._statuses(known, entries, status_before)
        data = lines_of(entries, statuses)
        closes = bool(known.name) and known.size >= SEGMENT_BYTES
        if closes:
            self._close_segment()
            known = Known(
                name="",
                first=known.length,
                size=0,
                length=known.length,
                status=known.status,
                updated_ns=known.updated_ns,
            )
        self._write(known, data, statuses[-1], len(entries), now_ns(known.updated_ns))
        return closes

    def append_shortly(
        self, entries: Sequence[StoredEntry], token: int, now_ns: Callable[[int], int]
    ) -> bool:
        """Write an append if nothing has changed since the one before, or say no.

        It checks what `lock` and `append` check, with fewer words: an append takes hardly
        longer than its sync.
        """
        known, claims = self.known, self._claims
        if known is None or claims is None or self._segment < 0 or not try_lock(self._lock):
            return False
        try:
            found = os.fstat(self._segment)
            if (
                not self._is_there()
                or not claims.are_still(self._lock, token)
                or found.st_size != known.size
                or found.st_nlink != 1
                or known.size >= SEGMENT_BYTES
                or not known.status
                or entries[0].seq != known.length
                or any(entry.type in _SETS_STATUS for entry in entries)
            ):
                return False
            _require_following(self.run_id, known.length, entries)
            statuses = [known.status] * len(entries)
            data = lines_of(entries, statuses)
            self._write(known, data, known.status, len(entries), now_ns(known.updated_ns))
        finally:
            unlock(self._lock)
        return True

    def _write(
        self, known: Known, data: bytes, status: str, count: int, now_ns: int
    ) -> None:
        made = not known.name
        self.known = None
        if made:
            known.name = segment_name(known.first)
            self._segment = self.folder.open_file(
                known.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
            )
        try:
            write_all(self._segment, data)
            os.utime(self._segment, ns=(now_ns, now_ns))
            sync(self._segment)
            if made:
                self.folder.sync()
                self._sync_parent(known)
        except OSError as error:
            error.filename = error.filename or str(self.folder.path / known.name)
            self._take_back(known.size)
            raise
        known.size += len(data)
        known.length += count
        known.status = status
        known.updated_ns = now_ns
        self.known = known
        if made and known.first:
            self._name_newest(known.first)

    def _sync_parent(self, known: Known) -> None:
        """Make the folder itself durable, with its first entry."""
        if not known.length:
            with Folder.open(self.folder.path.parent) as parent:
                parent.sync()

    def _take_back(self, size: int) -> None:
        """Cut off what was written in part; if that fails, the next writer does it.

        After a failed `fsync` nobody knows what the disk has: the file is closed, and read
        again before it is written again.
        """
        with suppress(OSError):
            os.ftruncate(self._segment, size)
            sync(self._segment)
        self._close_segment()

    def _name_newest(self, first: int) -> None:
        """Write down which segment is the last, so that it cannot vanish unnoticed.

        The entries are safe already: an error here does not fail their append.
        """
        try:
            head = Head.read(self.folder)
            if head.newest < first and first > head.first:
                replace(head, newest=first).write(self.folder)
        except (OSError, CheckpointError) as error:
            warn("run %r: its last segment was not noted: %s", self.run_id, error)

    def _statuses(
        self,
        known: Known,
        entries: Sequence[StoredEntry],
        status_before: Callable[[Log], str],
    ) -> list[str]:
        status = known.status
        if not status:
            status = "running"
            if known.length and entries[0].type not in _SETS_STATUS:
                status = status_before(Log(self.folder, self.run_id))
        record = RunRecord(
            run_id=self.run_id, agent_id="", status=status, length=0, updated_at=0.0
        )
        statuses: list[str] = []
        for entry in entries:
            if entry.type in _SETS_STATUS:
                record = described(record, entry)
            statuses.append(record.status)
        return statuses

    def _end(self) -> Known:
        """Return how the log ends, having made sure of it if somebody else was here."""
        known = self.known
        if known is not None and known.name:
            if self._segment >= 0:
                found = os.fstat(self._segment)
                if found.st_size == known.size and found.st_nlink == 1:
                    return known
            elif self._is_as_it_was(known):
                return known
        self._close_segment()
        self.known = self._look()
        return self.known

    def _is_as_it_was(self, known: Known) -> bool:
        """Open the segment that was written last; say whether nobody has written it since.

        Every append has a time of its own, so that this need not be read to be known.
        """
        try:
            self._segment = self.folder.open_file(known.name, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return False
        found = os.fstat(self._segment)
        return (found.st_size, found.st_ino, found.st_mtime_ns) == (known.size, *known.mark)

    def _look(self) -> Known:
        """Read the end of the log, and remove what a crash has left."""
        log = Log(self.folder, self.run_id)
        if log.head.deleted:
            raise CheckpointSaveError(
                f"run {self.run_id!r}",
                "was deleted, and other runs still share its entries",
                "Choose another id.",
            )
        self._tidy(log)
        last = log.last_first
        if last is None:
            return Known(
                name="", first=log.first, size=0, length=log.first, status="", updated_ns=0
            )
        updated_ns = log.updated_ns()
        if log.segments[last].endswith(".gz"):
            end = log.last()
            return Known(
                name="",
                first=end.length,
                size=0,
                length=end.length,
                status=end.status,
                updated_ns=updated_ns,
            )
        return self._look_at_plain(log, last, updated_ns)

    def _look_at_plain(self, log: Log, first: int, updated_ns: int) -> Known:
        name = log.segments[first]
        lines = log.read_segment(first)
        self._close_segment()
        self._segment = self.folder.open_file(name, os.O_RDWR | os.O_APPEND)
        torn = os.fstat(self._segment).st_size - lines.end
        if torn:
            length = first + len(lines.entries)
            kept = self._keep_cut(log, length, lines.end, torn)
            os.ftruncate(self._segment, lines.end)
            sync(self._segment)
            warn(
                "run %r: cut %d bytes of an unfinished append off %s, after its %d entries;"
                " they are kept as %s",
                self.run_id,
                torn,
                self.folder.path / name,
                length,
                kept,
            )
        status = lines.status
        if not status and first > log.first:
            status = log.last().status
        return Known(
            name=name,
            first=first,
            size=lines.end,
            length=first + len(lines.entries),
            status=status,
            updated_ns=updated_ns,
        )

    def _keep_cut(self, log: Log, seq: int, start: int, size: int) -> str:
        """Copy what will be cut off the open segment; return the name of the copy.

        Should it be more than the rest of a write, it can still be looked at. The oldest of
        many copies is removed, and only the start of a large one is kept.
        """
        there = sorted((int(m[1]), m[0]) for m in map(_CUT.fullmatch, log.names) if m)
        name = f"cut-{seq}-{there[-1][0] + 1 if there else 1}"
        self.folder.put(name, os.pread(self._segment, min(size, _MAX_CUT_BYTES), start))
        for _, old in there[: max(len(there) + 1 - _MAX_CUTS, 0)]:
            self.folder.remove(old)
        return name

    def _tidy(self, log: Log) -> None:
        """Finish what a crash has interrupted."""
        for name in log.names:
            if name.startswith(TEMPORARY):
                self.folder.remove(name)
        for name in log.spare:
            first = int(name.partition(".")[0])
            log.read_segment(first)  # the packed one is whole
            self.folder.remove(name)

    def pack(self) -> None:
        """Pack every closed segment; the last one is closed if the run has ended.

        Nothing depends on it: what cannot be packed stays as it is, and is reported.
        """
        try:
            log = Log(self.folder, self.run_id)
            self._tidy(log)
            plain = [first for first, name in log.segments.items() if name[-3:] != ".gz"]
            ended = log.last().status not in ("", "running")
            for first in plain:
                if first != log.last_first or ended:
                    if first == log.last_first:
                        self._close_segment()
                        self.known = None
                    log.pack_segment(first)
        except (OSError, CheckpointLoadError) as error:
            warn("run %r: its log was not packed: %s", self.run_id, error)

    def _close_segment(self) -> None:
        if self._segment >= 0:
            fd, self._segment = self._segment, -1
            os.close(fd)


def _require_following(run_id: str, length: int, entries: Sequence[StoredEntry]) -> None:
    for place, entry in enumerate(entries, start=length):
        if entry.seq != place:
            raise CheckpointSaveError(
                f"entry {entry.seq} of run {run_id!r}", f"does not follow entry {place - 1}"
            )


def warn(message: str, *values: object) -> None:
    """Report what a user should know of and nothing fails of."""
    logging.getLogger("kaizen").warning(message, *values)
