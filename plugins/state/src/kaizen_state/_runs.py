"""Every run below one folder, for the threads of one process.

Everything here blocks. Whoever writes a run holds the mutex of its `Writer`, against the
threads of this process, and the lock of its `claim` file, against other processes. Whoever
reads holds nothing: a log only grows, and an append that is not whole is passed over.
Where several runs are locked at once, it is in the order of their ids.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from time import time_ns
from typing import TypeAlias, TypeVar

from kaizen.claims import is_run_id
from kaizen.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointSaveError,
    UnknownRunError,
)
from kaizen.ports import RunRecord, StoredEntry
from kaizen.runlog import described

from kaizen_state import _mail
from kaizen_state._claim_file import CLAIM, Claims
from kaizen_state._files import Folder
from kaizen_state._log import FORK, HEAD, Head, Log
from kaizen_state._writer import Known, Moved, Writer, warn

__all__ = ["Runs"]

Value = TypeVar("Value")
Said: TypeAlias = dict[str, tuple[str, str]]
"""The agent and the parent that the past of a run names, by the run's id."""

MAX_OPEN = 64
MAX_KNOWN = 1024
_TRIES = 4
_TRASH = ".trash"
_CLOCK = ".clock"
_DAMAGED = "damaged"
_OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Runs:
    """What a `FilesystemStorage` does, without its event loop."""

    def __init__(self, base: Path, *, compress: bool) -> None:
        self.base = base
        self._compress = compress
        self._mutex = threading.Lock()
        self._writers: OrderedDict[str, Writer] = OrderedDict()
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._latest_ns = 0
        self._pid = os.getpid()

    # --- what the port asks for -------------------------------------------------

    def append(
        self, run_id: str, entries: Sequence[StoredEntry], token: int | None
    ) -> None:
        """Add entries at the end of a log."""
        if token is not None and self._append_shortly(run_id, entries, token):
            return
        _require_id(run_id, CheckpointSaveError)
        try:
            with self._writing(run_id) as writer:
                closed = writer.append(
                    entries, token, now_ns=self._now_ns, status_before=self._status_before
                )
                if closed and self._compress:
                    writer.pack()
        except CheckpointLoadError as error:
            raise CheckpointSaveError(error.subject, error.problem, error.remedy) from error

    def read(self, run_id: str, start: int, limit: int | None) -> list[StoredEntry]:
        """Return entries in order."""
        _require_id(run_id, CheckpointLoadError)
        start = max(start, 0)
        stop = None if limit is None else start + max(limit, 0)
        return self._settled(run_id, lambda: self._read(run_id, start, stop))

    def runs(self, agent_id: str | None, status: str | None, limit: int) -> list[RunRecord]:
        """Return the records of the runs, last updated first."""
        found: list[RunRecord] = []
        said: Said = {}
        for updated_ns, run_id in self._by_update():
            if len(found) >= limit:
                break
            record = self._record(run_id, updated_ns, said)
            if record is None or agent_id not in (None, record.agent_id):
                continue
            if status in (None, record.status):
                found.append(record)
        return found

    def fork(self, run_id: str, length: int, new_run_id: str) -> None:
        """Begin a new log with the first entries of another."""
        _require_id(run_id, CheckpointLoadError)
        _require_id(new_run_id, CheckpointSaveError)
        while True:
            sharing = self._settled(run_id, lambda: self._owner_of(run_id, length))
            involved = {run_id, new_run_id} | ({sharing} if sharing else set())
            if len(involved) < 2 or run_id == new_run_id:
                raise _not_forked(run_id, length, new_run_id)
            with ExitStack() as stack:
                writers = {
                    each: stack.enter_context(self._writing(each))
                    for each in sorted(involved)
                }
                if self._owner_of(run_id, length) != sharing:
                    continue
                self._fork(writers, run_id, length, new_run_id, sharing)
                return

    def claim(self, run_id: str, owner: str, lease_s: float) -> int:
        """Become the only writer of a run, or give it up."""
        _require_id(run_id, CheckpointSaveError)
        with self._writing(run_id) as writer:
            with suppress(FileNotFoundError):
                if HEAD in writer.folder.names() and _is_deleted(writer.folder):
                    raise _is_kept(run_id)
            claim = writer.claim(owner, lease_s)
            if not writer.keep and self._compress:
                writer.pack()
            return claim.token

    def delete(self, run_id: str) -> None:
        """Forget a run, and free what only it shared."""
        _require_id(run_id, CheckpointSaveError)
        base = self._open_base()
        if base is None:
            return
        with base:
            with suppress(FileNotFoundError):
                base.status(run_id)
                with self._writing(run_id) as writer:
                    writer.require_free()
                    writer.keep = False
                    self._discard(base, writer)
            self._known.pop(run_id, None)
            _mail.drop(base, run_id)
            self._empty_trash(base)

    def send(self, run_id: str, message: bytes) -> None:
        """Leave a message."""
        _require_id(run_id, CheckpointSaveError)
        with self._make_base() as base:
            _mail.send(base, run_id, message)

    def receive(self, run_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Take messages."""
        base = self._open_base()
        if base is None:
            return []
        with base:
            return _mail.take(base, run_ids)

    def close(self) -> None:
        """Close every file."""
        with self._mutex:
            writers = list(self._writers.values())
            self._writers.clear()
        for writer in writers:
            with writer.mutex:
                writer.retired = True
                writer.close()

    # --- the folder ---------------------------------------------------------------

    def _open_base(self) -> Folder | None:
        try:
            return Folder.open(self.base)
        except FileNotFoundError:
            return None

    def _make_base(self) -> Folder:
        """Open the folder of runs; make it, and what is above it, if it is not there."""
        missing: list[Path] = []
        path = self.base
        while not path.exists() and path != path.parent:
            missing.append(path)
            path = path.parent
        for path in reversed(missing):
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            with Folder.open(path.parent) as parent:
                parent.sync()
        return Folder.open(self.base)

    def _make_folder(self, run_id: str) -> Folder:
        with self._make_base() as base:
            base.make(run_id)
            self._note_time(base)
            try:
                return base.folder(run_id)
            except FileNotFoundError:  # deleted at this very moment
                raise Moved from None

    # --- writing ------------------------------------------------------------------

    def _append_shortly(
        self, run_id: str, entries: Sequence[StoredEntry], token: int
    ) -> bool:
        """Write an append if the run is open, and as it was left."""
        writer = self._writers.get(run_id)
        if writer is None or self._pid != os.getpid():
            return False
        if not writer.mutex.acquire(blocking=False):
            return False
        try:
            return not writer.retired and writer.append_shortly(
                entries, token, self._now_ns
            )
        finally:
            writer.mutex.release()

    @contextmanager
    def _writing(self, run_id: str) -> Iterator[Writer]:
        """Lock a run for as long as it is written, and look after its files."""
        writer = self._lock(run_id)
        try:
            yield writer
        except BaseException:
            writer.keep = False  # it is looked at anew, as if by another process
            raise
        finally:
            self._release(writer)
        self._close_some()

    def _lock(self, run_id: str) -> Writer:
        while True:
            writer = self._writer(run_id)
            writer.mutex.acquire()
            if writer.retired:
                writer.mutex.release()
                continue
            try:
                writer.lock(lambda: self._make_folder(run_id))
            except Moved:
                writer.mutex.release()
                continue
            except BaseException:
                self._retire(writer)
                writer.mutex.release()
                raise
            return writer

    def _release(self, writer: Writer) -> None:
        try:
            writer.unlock()
            if writer.known is not None:
                self._known[writer.run_id] = writer.known
                self._known.move_to_end(writer.run_id)
            else:
                self._known.pop(writer.run_id, None)
            if not writer.keep:
                self._retire(writer)
        finally:
            writer.mutex.release()

    def _writer(self, run_id: str) -> Writer:
        with self._mutex:
            if self._pid != os.getpid():
                self._forget_parent()
            writer = self._writers.get(run_id)
            if writer is None:
                writer = self._writers[run_id] = Writer(run_id, self.base)
                writer.known = self._known.get(run_id)
            self._writers.move_to_end(run_id)
            return writer

    def _forget_parent(self) -> None:
        """In a process that was forked off: let go of the files of the one before.

        They share its locks, so that using them would lock nobody out.
        """
        self._pid = os.getpid()
        for writer in self._writers.values():
            with suppress(OSError):
                writer.close()
        self._writers.clear()

    def _retire(self, writer: Writer) -> None:
        """Close a writer, whose mutex the caller holds, and forget it."""
        writer.close()
        writer.retired = True
        with self._mutex:
            if self._writers.get(writer.run_id) is writer:
                del self._writers[writer.run_id]
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def _close_some(self) -> None:
        """Close the files of those that were not written for longest, if many are open."""
        if len(self._writers) <= MAX_OPEN:
            return
        with self._mutex:
            surplus = list(self._writers.values())[: len(self._writers) - MAX_OPEN]
        for writer in surplus:
            if writer.mutex.acquire(blocking=False):
                try:
                    self._retire(writer)
                finally:
                    writer.mutex.release()

    def _now_ns(self, before: int) -> int:
        """Return the time, later than any that was given, also if a clock is wrong."""
        with self._mutex:
            now = max(time_ns(), self._latest_ns + 1, before + 1)
            self._latest_ns = now
        if now - time_ns() > 1_000_000_000:
            with Folder.open(self.base) as base:
                self._note_time(base)
        return now

    def _note_time(self, base: Folder) -> None:
        """Share with other processes what the latest time is, as that of a file."""
        with suppress(OSError, CheckpointLoadError):
            fd = base.open_file(_CLOCK, os.O_RDWR | os.O_CREAT)
            try:
                with self._mutex:
                    there = os.fstat(fd).st_mtime_ns
                    latest = max(there, self._latest_ns, time_ns())
                    self._latest_ns = max(
                        self._latest_ns, there if there > time_ns() else 0
                    )
                os.utime(fd, ns=(latest, latest))
            finally:
                os.close(fd)

    # --- reading ------------------------------------------------------------------

    def _settled(self, run_id: str, look: Callable[[], Value]) -> Value:
        """Look at a log, again if it has been changed at that very moment."""
        for _ in range(_TRIES - 1):
            with suppress(FileNotFoundError, CheckpointLoadError):
                return look()
        try:
            return look()
        except FileNotFoundError as error:
            raise CheckpointLoadError(
                f"run {run_id!r}",
                f"lacks the file {error.filename!r}",
                "Restore it from a backup.",
            ) from None

    @contextmanager
    def _log(self, run_id: str, *, deleted: bool = False) -> Iterator[Log]:
        """Look at the log of a run.

        Args:
            run_id: The run.
            deleted: Whether one will do that only forks still need.

        Raises:
            CheckpointLoadError: There is none, or it is damaged.
        """
        try:
            with Folder.open(self.base) as base:
                folder = base.folder(run_id)
        except FileNotFoundError:
            raise _unknown(run_id) from None
        except NotADirectoryError as error:
            if error.filename != str(self.base / run_id):
                raise
            raise _no_folder(self.base / run_id) from None
        except OSError as error:
            if (self.base / run_id).is_symlink():
                raise _no_folder(self.base / run_id) from error
            raise
        with folder:
            log = Log(folder, run_id)
            if log.head.deleted and not deleted:
                raise _unknown(run_id)
            yield log

    def _read(self, run_id: str, start: int, stop: int | None) -> list[StoredEntry]:
        with self._log(run_id) as log:
            own = log.read(start, stop)
            if not own and log.head.fork is None and log.last().length == 0:
                raise _unknown(run_id)
            first, fork = log.first, log.head.fork
        pieces = [own]
        while fork is not None and start < first:
            end = first if stop is None else min(stop, first)
            with self._ancestor(run_id, fork) as log:
                piece = log.read(start, end)
                if max(start, log.first) + len(piece) < end:
                    raise _lacks(run_id, log.run_id, max(start, log.first) + len(piece))
                first, fork = log.first, log.head.fork
            pieces.append(piece)
        return [entry for piece in reversed(pieces) for entry in piece]

    @contextmanager
    def _ancestor(self, run_id: str, fork: tuple[str, int]) -> Iterator[Log]:
        """Look at the log from which another goes on."""
        parent, length = fork
        try:
            with self._log(parent, deleted=True) as log:
                if length and log.first >= length:
                    raise _lacks(run_id, parent, length - 1)
                yield log
        except CheckpointLoadError as error:
            if not isinstance(error, UnknownRunError):
                raise
            if not (self.base / run_id).exists():
                raise _unknown(run_id) from None
            raise _lacks(run_id, parent, length - 1) from None

    def _owner_of(self, run_id: str, length: int) -> str:
        """Return whose own the last of some entries is, or `""` where they are none.

        Raises:
            CheckpointSaveError: The log is shorter.
        """
        with self._log(run_id) as log:
            there = log.last().length
            if not there and log.head.fork is None:
                raise _unknown(run_id)
            if not 0 <= length <= there:
                raise _not_forked(run_id, length, "another run")
            first, fork, owner = log.first, log.head.fork, run_id
        if not length:
            return ""
        while length <= first and fork is not None:
            owner = fork[0]
            with self._ancestor(run_id, fork) as log:
                first, fork = log.first, log.head.fork
        return owner

    def _status_before(self, log: Log) -> str:
        """Return the status of a log that has no entry of its own."""
        length, fork = log.first, log.head.fork
        while fork is not None and length:
            with self._ancestor(log.run_id, fork) as parent:
                if length > parent.first:
                    return parent.status_after(length)
                fork = parent.head.fork
        return "running"

    # --- listing ------------------------------------------------------------------

    def _by_update(self) -> list[tuple[int, str]]:
        """Return the runs that have a log and when each was written, the last one first."""
        base = self._open_base()
        if base is None:
            return []
        found: list[tuple[int, str]] = []
        with base:
            for name in base.names():
                if is_run_id(name):
                    updated_ns = self._updated_ns(base, name)
                    if updated_ns:
                        found.append((updated_ns, name))
        return sorted(found, reverse=True)

    def _updated_ns(self, base: Folder, run_id: str) -> int:
        """Return when a run was written, or 0 if it has no log."""
        try:
            with base.folder(run_id) as folder:
                names = [
                    name
                    for name in folder.names()
                    if name == HEAD or name.endswith((".jsonl", ".gz"))
                ]
                return max((folder.status(name).st_mtime_ns for name in names), default=0)
        except FileNotFoundError:
            return 0
        except OSError:
            try:
                there = base.status(run_id)
            except FileNotFoundError:
                return 0
            except OSError:
                return time_ns()  # it is there, and nobody can tell that it is old
            return 0 if stat.S_ISREG(there.st_mode) else there.st_mtime_ns

    def _record(self, run_id: str, updated_ns: int, said: Said) -> RunRecord | None:
        """Return what there is to say of a run, or `None` if it has no log.

        Args:
            run_id: The run.
            updated_ns: When it was written, should it not be able to tell that itself.
            said: What is known of runs whose past it may share, for this one listing.
        """
        try:
            return self._settled(run_id, lambda: self._describe(run_id, said))
        except UnknownRunError:
            return None
        except (CheckpointLoadError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_PROCESS:
                raise
            warn("run %r is listed as damaged: %s", run_id, error)
            return RunRecord(
                run_id=run_id,
                agent_id="",
                status=_DAMAGED,
                length=0,
                updated_at=updated_ns / 1e9,
            )

    def _describe(self, run_id: str, said: Said) -> RunRecord:
        with self._log(run_id) as log:
            last, fork = log.last(), log.head.fork
            if not last.length and fork is None:
                raise _unknown(run_id)
            record = RunRecord(
                run_id=run_id,
                agent_id="",
                status="running",
                length=0,
                updated_at=log.updated_ns() / 1e9,
                forked_from=None if fork is None else (log.head.origin, fork[1]),
                owner=_owner(log.folder),
            )
            first = log.first_entry()
            if fork is not None and (first is None or first.type != "run_started"):
                record = self._inherited(record, log, said)
            for entry in (first, last.entry):
                if entry is not None:
                    record = described(record, entry)
            status = last.status or record.status
            return replace(record, length=last.length, status=status)

    def _inherited(self, record: RunRecord, log: Log, said: Said) -> RunRecord:
        """Return what a fork has of its past.

        Whose it is stands where a run of the line began, or was given to another agent:
        as far back as that is. It has an end, since each log begins before the one that
        shares it.
        """
        status = self._status_before(log)
        line: list[tuple[str, StoredEntry | None]] = []
        fork, found = log.head.fork, False
        while fork is not None and fork[1] and fork[0] not in said and not found:
            with self._ancestor(log.run_id, fork) as parent:
                first, fork = parent.first_entry(), parent.head.fork
            line.append((parent.run_id, first))
            found = first is not None and bool(described(record, first).agent_id)
        if fork is not None and fork[1] and not found:
            agent_id, parent_id = said.get(fork[0], ("", ""))
            record = replace(record, agent_id=agent_id, parent_id=parent_id)
        for run_id, first in reversed(line):
            record = record if first is None else described(record, first)
            said[run_id] = (record.agent_id, record.parent_id)
        return replace(record, status=status)

    # --- forks --------------------------------------------------------------------

    def _fork(
        self,
        writers: dict[str, Writer],
        run_id: str,
        length: int,
        new_run_id: str,
        sharing: str,
    ) -> None:
        """Make a fork, whose runs are locked.

        The note that it shares something comes first: without the fork it does no harm.
        """
        new = writers[new_run_id]
        there = Log(new.folder, new_run_id)
        if there.head.deleted or there.head.fork or there.last().length:
            raise _not_forked(run_id, length, new_run_id)
        if sharing:
            folder = writers[sharing].folder
            os.close(folder.open_file(FORK + new_run_id, os.O_WRONLY | os.O_CREAT))
            folder.sync()
        new.known = None
        head = Head(fork=(sharing or run_id, length), origin=run_id)
        head.write(new.folder, time_ns=self._now_ns(0))
        with Folder.open(self.base) as base:
            base.sync()

    def _discard(self, base: Folder, writer: Writer) -> None:
        """Throw a run away that is locked, or keep it for those that share its entries."""
        run_id, folder = writer.run_id, writer.folder
        names = folder.names()
        writer.known = None
        if any(self._is_shared_by(run_id, name) for name in names):
            head = Head.read(folder)
            if not head.deleted:
                replace(head, deleted=True).write(folder)
            return
        if base.make(_TRASH):
            base.sync()
        with base.folder(_TRASH) as trash:
            base.move(run_id, f"{run_id},{token_hex(8)}", folder=trash)
            base.sync()
            trash.sync()

    def _is_shared_by(self, run_id: str, name: str) -> bool:
        """Whether a note in the folder of a run is that of a fork which is still there."""
        if not name.startswith(FORK) or not is_run_id(name.removeprefix(FORK)):
            return False
        try:
            with (
                Folder.open(self.base) as base,
                base.folder(name.removeprefix(FORK)) as folder,
            ):
                fork = Head.read(folder).fork
        except FileNotFoundError:
            return False
        except (OSError, CheckpointError):
            return True  # it is there, and nobody can tell what it shares
        return fork is not None and fork[0] == run_id

    def _empty_trash(self, base: Folder) -> None:
        """Remove what was thrown away, also by a process that crashed."""
        try:
            trash = base.folder(_TRASH)
        except FileNotFoundError:
            return
        seen: set[str] = set()
        with trash:
            while waiting := set(trash.names()) - seen:  # one may throw away the next
                for name in sorted(waiting):
                    self._remove(base, trash, name)
                seen |= waiting

    def _remove(self, base: Folder, trash: Folder, name: str) -> None:
        """Remove a folder from the trash, and what it needed of others."""
        run_id = name.partition(",")[0]
        with suppress(FileNotFoundError), trash.folder(name) as folder:
            try:
                fork = Head.read(folder).fork
            except CheckpointLoadError:
                fork = None
            if fork is not None and is_run_id(run_id):
                self._let_go(base, run_id, fork[0])
            # The head comes last: it says what is still to be done.
            for each in sorted(folder.names(), key=lambda each: each == HEAD):
                folder.remove(each)
        trash.remove_folder(name)

    def _let_go(self, base: Folder, run_id: str, parent: str) -> None:
        """Take back the note that a run shares entries of another.

        If that was deleted, and nobody shares them any more, it is thrown away too.
        """
        try:
            base.status(parent)
        except FileNotFoundError:
            return
        with self._writing(parent) as writer:
            if not self._is_shared_by(parent, FORK + run_id):
                writer.folder.remove(FORK + run_id)
            with suppress(CheckpointLoadError):
                if Head.read(writer.folder).deleted:
                    self._discard(base, writer)


def _require_id(
    run_id: str, error: type[CheckpointLoadError | CheckpointSaveError]
) -> None:
    if not is_run_id(run_id):
        raise error(f"run {run_id[:200]!r}", "has an id that no run has")


def _unknown(run_id: str) -> UnknownRunError:
    return UnknownRunError(
        f"run {run_id!r}", "is unknown to the store", "`kaizen runs list` shows them."
    )


def _lacks(run_id: str, parent: str, seq: int) -> CheckpointLoadError:
    return CheckpointLoadError(
        f"run {run_id!r}",
        f"lacks entry {seq}, which it shares with run {parent!r}",
        "Restore that run from a backup.",
    )


def _no_folder(path: Path) -> CheckpointLoadError:
    return CheckpointLoadError(
        f"run {path.name!r}", f"has no folder: something else is at {str(path)!r}"
    )


def _not_forked(run_id: str, length: int, new_run_id: str) -> CheckpointSaveError:
    return CheckpointSaveError(
        f"run {run_id!r}", f"cannot be forked after {length} entries as {new_run_id!r}"
    )


def _is_kept(run_id: str) -> CheckpointSaveError:
    return CheckpointSaveError(
        f"run {run_id!r}",
        "was deleted, and other runs still share its entries",
        "Choose another id.",
    )


def _is_deleted(folder: Folder) -> bool:
    return Head.read(folder).deleted


def _owner(folder: Folder) -> str:
    """Return who holds the run of a folder, or `""`."""
    try:
        fd = folder.open_file(CLAIM)
    except (OSError, CheckpointLoadError):
        return ""
    try:
        claims = Claims.read(fd)
    finally:
        os.close(fd)
    return claims.claim.owner if claims.claim is not None and claims.held() else ""
