"""The log of one run, as its folder holds it.

| file | what it is |
|---|---|
| `00000000.jsonl` | a segment, named by its first entry; only the last one is written |
| `00000000.jsonl.gz` | a closed segment, see `_archive` |
| `head.json` | what the log goes on from, its last segment, whether it was deleted |
| `claim` | who may write it, see `_claim_file` |
| `fork.<run>` | that another log shares entries of this one |
| `cut-<entry>-<n>` | what was cut off where that entry is now, see `_writer` |

`head.json` is there only if it has something to say. It names the last segment once there
is more than one, so that a segment that vanished is noticed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from kaizen.claims import is_run_id
from kaizen.errors import CheckpointLoadError
from kaizen.ports import StoredEntry

from kaizen_state._archive import HEADER_BYTES, contents, pack, unpack, unpack_start
from kaizen_state._files import Folder
from kaizen_state._lines import MAX_APPEND_BYTES, Line, Lines, line_at, read_lines

__all__ = ["FORK", "HEAD", "SEGMENT_BYTES", "Head", "Log", "segment_name"]

HEAD = "head.json"
FORK = "fork."
SEGMENT_BYTES = 8 * 1024 * 1024
MAX_SEGMENT_BYTES = SEGMENT_BYTES + MAX_APPEND_BYTES

_MAX_HEAD_BYTES = 4096
_LOOK_BYTES = 64 * 1024
_SEGMENT = re.compile(r"([0-9]{8,16})\.jsonl(\.gz)?")
_LINE_START = b'\n{"crc":"'


def segment_name(first: int) -> str:
    """Return the name of the segment that begins with an entry."""
    return f"{first:08d}.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What there is to say of a log besides its entries.

    Attributes:
        fork: The log whose entries it shares, and how many.
        origin: The run that it was forked from; if the entries were not its own, it is not
            that which they are shared with.
        deleted: Whether only forks still need it.
        newest: First entry of its last segment, or 0.
    """

    fork: tuple[str, int] | None = None
    origin: str = ""
    deleted: bool = False
    newest: int = 0

    @property
    def first(self) -> int:
        """The first entry that is the log's own."""
        return 0 if self.fork is None else self.fork[1]

    @staticmethod
    def read(folder: Folder) -> Head:
        """Read it, if there is one.

        Raises:
            CheckpointLoadError: It is damaged.
        """
        where = str(folder.path / HEAD)
        try:
            data = folder.read(HEAD, limit=_MAX_HEAD_BYTES)
        except FileNotFoundError:
            return Head()
        start, rest = data[:18], data[18:]
        if start != b'{"crc":"%08x",' % crc32(rest):
            raise _damaged_file(where)
        try:
            values: Any = json.loads(b"{" + rest)
        except (ValueError, RecursionError):
            raise _damaged_file(where) from None
        if type(values.get("v")) is int and values["v"] > 1:
            raise CheckpointLoadError(
                f"the file {where!r}", "has a newer format", "Update Kaizen."
            )
        match values:
            case {
                "fork": None | [str(), int()] as fork,
                "origin": str(origin),
                "deleted": bool(deleted),
                "newest": int(newest),
            } if fork is None or (is_run_id(fork[0]) and fork[1] >= 0):
                shared = None if fork is None else (fork[0], int(fork[1]))
                return Head(fork=shared, origin=origin, deleted=deleted, newest=newest)
        raise _damaged_file(where)

    def write(self, folder: Folder, *, time_ns: int | None = None) -> None:
        """Write it, and make it durable."""
        values = {
            "v": 1,
            "fork": self.fork,
            "origin": self.origin,
            "deleted": self.deleted,
            "newest": self.newest,
        }
        rest = json.dumps(values, separators=(",", ":")).encode("ascii").removeprefix(b"{")
        rest += b"\n"
        folder.put(HEAD, b'{"crc":"%08x",' % crc32(rest) + rest, time_ns=time_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """How a log ends.

    Attributes:
        length: How many entries it has, those that it shares included.
        status: The status after the last one, or `""` if none is its own.
        entry: The last one of its own, where it was read.
    """

    length: int
    status: str
    entry: StoredEntry | None = None


class Log:
    """What a folder holds, as it was when it was looked at.

    Attributes:
        first: The first entry that is the log's own.
        segments: Name of each segment, by its first entry, in order.
        spare: Segments that are there packed as well, as a crash leaves them.
    """

    def __init__(self, folder: Folder, run_id: str) -> None:
        """Look at a folder.

        Raises:
            CheckpointLoadError: Something in it is damaged, missing or strange.
        """
        self.folder = folder
        self.run_id = run_id
        self.names = folder.names()
        self.head = Head.read(folder) if HEAD in self.names else Head()
        self.first = self.head.first
        self.segments: dict[int, str] = {}
        self.spare: list[str] = []
        for name in sorted(self.names):
            self._take(name)
        if self.segments and min(self.segments) != self.first:
            raise self._missing(self.first)
        if self.head.newest and max(self.segments, default=0) < self.head.newest:
            raise self._missing(self.head.newest)

    def _take(self, name: str) -> None:
        found = _SEGMENT.fullmatch(name)
        if found is None:
            if name.endswith((".jsonl", ".jsonl.gz")):
                raise self._strange(name)
            return
        first = int(found[1])
        if name not in (segment_name(first), segment_name(first) + ".gz"):
            raise self._strange(name)
        if first in self.segments:  # sorted, the packed one comes second
            self.spare.append(self.segments[first])
        self.segments[first] = name

    @property
    def last_first(self) -> int | None:
        """First entry of the last segment."""
        return max(self.segments, default=None)

    def where(self, name: str) -> str:
        """Say in errors where something stands."""
        return f"{str(self.folder.path / name)!r} of run {self.run_id!r}"

    def read(self, start: int, stop: int | None) -> list[StoredEntry]:
        """Return the log's own entries from one on, and before another.

        Raises:
            CheckpointLoadError: Something is damaged.
            FileNotFoundError: It has been changed since it was looked at.
        """
        found: list[StoredEntry] = []
        firsts = list(self.segments)
        for first, following in zip(firsts, [*firsts, None][1:], strict=True):
            if stop is not None and first >= stop:
                break
            if following is not None and following <= start:
                continue
            entries = self.read_segment(first).entries
            if following is not None and first + len(entries) != following:
                raise self._missing(first + len(entries))
            ahead, behind = max(start - first, 0), len(entries)
            if stop is not None:
                behind = min(behind, stop - first)
            found += entries[ahead:behind] if ahead or behind < len(entries) else entries
        return found

    def read_segment(self, first: int) -> Lines:
        """Read and check one segment."""
        name = self.segments[first]
        data = self.folder.read(name, limit=MAX_SEGMENT_BYTES)
        where = self.where(name)
        if not name.endswith(".gz"):
            torn = first == self.last_first
            return read_lines(data, first, where=where, may_be_torn=torn)
        said = contents(data, where=where)
        data = unpack(data, limit=MAX_SEGMENT_BYTES, where=where)
        lines = read_lines(data, first, where=where, may_be_torn=False)
        if len(lines.entries) != said.entries or lines.status != said.status:
            raise _damaged_file(where)
        return lines

    def last(self) -> Last:
        """Say how it ends, from its last lines alone.

        Raises:
            CheckpointLoadError: They are damaged.
        """
        for first in reversed(self.segments):
            name = self.segments[first]
            if name.endswith(".gz"):
                header = self._start(name, HEADER_BYTES)
                said = contents(header, where=self.where(name))
                return Last(length=first + said.entries, status=said.status)
            line = self._last_line(first)
            if line is not None:
                length = line.entry.seq + 1
                return Last(length=length, status=line.status, entry=line.entry)
        return Last(length=self.first, status="")

    def first_entry(self) -> StoredEntry | None:
        """Return the first entry of its own, without reading more than that.

        Raises:
            CheckpointLoadError: It is damaged.
        """
        if not self.segments:
            return None
        name = self.segments[self.first]
        size = _LOOK_BYTES
        while True:
            data = self._start(name, size)
            is_all = len(data) < size
            if name.endswith(".gz"):
                data = unpack_start(data, limit=size, where=self.where(name))
            line = line_at(data)
            if line is not None:
                return line.entry
            if is_all or size >= MAX_SEGMENT_BYTES:
                if self.last().length > self.first:
                    raise _damaged_file(self.where(name))
                return None
            size *= 8

    def status_after(self, length: int) -> str:
        """Return the status of the run after some entries, or `""` if none is its own."""
        if length <= self.first:
            return ""
        first = max(each for each in self.segments if each < length)
        name = self.segments[first]
        data = self.folder.read(name, limit=MAX_SEGMENT_BYTES)
        if name.endswith(".gz"):
            data = unpack(data, limit=MAX_SEGMENT_BYTES, where=self.where(name))
        for line in _lines(data):
            if line.entry.seq == length - 1:
                return line.status
        raise self._missing(length - 1)

    def updated_ns(self) -> int:
        """Return when it was last written, in nanoseconds since the epoch, UTC."""
        last = self.last_first
        name = HEAD if last is None else self.segments[last]
        return self.folder.status(name).st_mtime_ns

    def pack_segment(self, first: int) -> None:
        """Put a packed segment in the place of a plain one, as long as that is whole."""
        name = self.segments[first]
        plain = self.folder.read(name, limit=MAX_SEGMENT_BYTES)
        lines = read_lines(plain, first, where=self.where(name), may_be_torn=False)
        if not lines.entries:
            return
        packed = pack(plain, entries=len(lines.entries), status=lines.status)
        time_ns = self.folder.status(name).st_mtime_ns
        self.folder.put(f"{name}.gz", packed, time_ns=time_ns)
        self.folder.remove(name)
        self.folder.sync()

    def _start(self, name: str, size: int) -> bytes:
        fd = self.folder.open_file(name)
        try:
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)

    def _last_line(self, first: int) -> Line | None:
        """Return the last line of the last whole append of a segment.

        Raises:
            CheckpointLoadError: What follows it was not left by a crash.
        """
        name = self.segments[first]
        fd = self.folder.open_file(name)
        try:
            size = os.fstat(fd).st_size
            look = _LOOK_BYTES
            while True:
                start = max(size - look, 0)
                data = os.pread(fd, size - start, start)
                line = _last_whole(data, is_all=start == 0)
                if line is not None or start == 0:
                    end, seq = (line.end, line.entry.seq + 1) if line else (0, first)
                    read_lines(data[end:], seq, where=self.where(name), may_be_torn=True)
                    return line
                look *= 8
        finally:
            os.close(fd)

    def _missing(self, seq: int) -> CheckpointLoadError:
        return CheckpointLoadError(
            f"run {self.run_id!r}",
            f"lacks entry {seq}, which should stand in {str(self.folder.path)!r}",
            "Restore the file from a backup.",
        )

    def _strange(self, name: str) -> CheckpointLoadError:
        return CheckpointLoadError(
            f"run {self.run_id!r}",
            f"has the file {str(self.folder.path / name)!r}, which is none of its segments",
            "Move it elsewhere.",
        )


def _last_whole(data: bytes, *, is_all: bool) -> Line | None:
    """Return the last line of the last append of which every line is there."""
    last: Line | None = None
    seq = first = -1  # the line that comes next, backwards, and the first of its append
    at = stop = len(data)
    while at > 0:
        found = data.rfind(_LINE_START, 0, at)
        if found < 0 and not is_all:
            return None
        at = max(found, 0)
        line = line_at(data, found + 1)
        if line is not None and line.more == 0:
            last, seq, first = line, line.entry.seq, line.first
        elif line is None or (line.entry.seq, line.first, line.end) != (seq, first, stop):
            last, seq = None, -1
        if last is not None and seq == first:
            return last
        seq, stop = seq - 1, found + 1
    return None


def _lines(data: bytes) -> Iterator[Line]:
    at = 0
    while (line := line_at(data, at)) is not None:
        yield line
        at = line.end


def _damaged_file(where: str) -> CheckpointLoadError:
    return CheckpointLoadError(
        f"the file {where}", "is damaged", "Restore it from a backup."
    )
