"""Listing and searching below the roots. All of it blocks: run it in a thread of anyio."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from anyio.from_thread import check_cancelled
from kaizen.errors import ToolError

from kaizen_tools._files import read_at_most
from kaizen_tools._patterns import Pattern, glob_pattern, line_pattern
from kaizen_tools._roots import Place, Roots, kind_of, shown_name

__all__ = ["Search"]

_MAX_DEPTH = 64
_MAX_ENTRIES = 100_000
_MAX_LINE = 400
_CHUNK = 1 << 16
_STEP = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that a walk has come by.

    Attributes:
        directory: The directory it is in; open until the walk goes on.
        relative: Its path from where the walk began.
        shown: What a model calls it.
        kind: `file`, `directory`, `link` or `other`.
    """

    directory: int
    name: str
    relative: str
    shown: str
    kind: str

    @property
    def size(self) -> int:
        """The size of a file in bytes; 0 for what is none, or is gone."""
        if self.kind != "file":
            return 0
        try:
            status = os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except OSError:
            return 0
        return status.st_size


class Findings:
    """What a search has found, up to a number, a length and a time."""

    def __init__(self, *, limit: int, max_chars: int, deadline: float) -> None:
        self.items: list[Any] = []
        self.truncated = False
        self._full = False
        self._limit = limit
        self._left = max_chars
        self._deadline = deadline

    def add(self, item: Any) -> bool:
        """Keep an item; say whether there is room for another."""
        self._left -= len(json.dumps(item, ensure_ascii=False)) + 1
        if len(self.items) >= self._limit or self._left < 0:
            self.truncated = self._full = True
            return False
        self.items.append(item)
        return True

    def go_on(self) -> bool:
        """Say whether there is time left; raise if the call was cancelled."""
        check_cancelled()
        if time.monotonic() > self._deadline:
            self.truncated = self._full = True
        return not self._full


class Search:
    """Lists and searches what is below some roots.

    Args:
        roots: Where to look.
        skip: Names of directories that a search does not enter.
        max_file_bytes: How much of a file is searched.
        max_chars: Longest result.
        timeout_s: After so many seconds a search gives what it has.
    """

    def __init__(
        self,
        roots: Roots,
        *,
        skip: tuple[str, ...],
        max_file_bytes: int,
        max_chars: int,
        timeout_s: float,
    ) -> None:
        self._roots = roots
        self._skip = frozenset(skip)
        self._max_file_bytes = max_file_bytes
        self._max_chars = max_chars
        self._timeout_s = timeout_s

    def list(self, path: str, *, recursive: bool, limit: int) -> dict[str, Any]:
        """Return what is in a directory."""
        findings = self._findings(limit)
        starts = self._roots.starts(path)
        gathered = bool(starts[-1][1])
        if not gathered:
            self._require_directory(starts[0][0])
        skip = self._skip if recursive else None
        for place, before in starts:
            if before and not (recursive and not place.root.file):
                _add_entry(findings, _root_entry(place, before))
                continue
            with closing(self._walk(place, before, findings, skip)) as entries:
                for entry in entries:
                    if not _add_entry(findings, entry):
                        break
        shown = path if gathered else starts[0][0].shown
        return {
            "path": shown,
            "entries": findings.items,
            "truncated": findings.truncated,
        }

    def files(self, pattern: str, path: str, *, limit: int) -> dict[str, Any]:
        """Return the files whose path matches a glob."""
        fits = glob_pattern(pattern)
        findings = self._findings(limit)
        with closing(self._all(path, findings, asked=pattern)) as entries:
            for entry in entries:
                if fits.matches(entry.relative) and not findings.add(entry.shown):
                    break
        return {"matches": findings.items, "truncated": findings.truncated}

    def grep(
        self,
        pattern: str,
        path: str,
        *,
        glob: str,
        ignore_case: bool,
        limit: int,
        context: int,
    ) -> dict[str, Any]:
        """Return the lines that match a regular expression."""
        wanted = line_pattern(pattern, ignore_case=ignore_case)
        fits = glob_pattern(glob or "**")
        findings = self._findings(limit)
        with closing(self._all(path, findings, asked=glob)) as entries:
            for entry in entries:
                if not findings.go_on():
                    break
                if not fits.matches(entry.relative):
                    continue
                data = self._contents(entry, findings)
                lines = matching_lines(data, wanted, findings, context=context)
                if not all(findings.add({"path": entry.shown, **line}) for line in lines):
                    break
        return {"matches": findings.items, "truncated": findings.truncated}

    def _require_directory(self, place: Place) -> None:
        status = self._roots.status(place)
        if place.root.file or (status and kind_of(status.st_mode) == "file"):
            raise ToolError(
                f"path {place.shown!r}", "is a file, not a directory", "Use read_file."
            )

    def _findings(self, limit: int) -> Findings:
        deadline = time.monotonic() + self._timeout_s
        return Findings(limit=limit, max_chars=self._max_chars, deadline=deadline)

    def _all(self, path: str, findings: Findings, *, asked: str) -> Generator[Entry]:
        """Walk through the files below a path; what is asked for by name is not skipped."""
        skip = self._skip.difference(asked.split("/"))
        for place, before in self._roots.starts(path):
            with closing(self._walk(place, before, findings, skip)) as entries:
                yield from (entry for entry in entries if entry.kind == "file")

    def _walk(
        self, place: Place, before: str, findings: Findings, skip: frozenset[str] | None
    ) -> Generator[Entry]:
        """Walk through what is below a place, sorted; a file is all there is below itself.

        Args:
            place: Where to begin.
            before: What is put before the relative paths.
            findings: Ends the walk when it is full.
            skip: Directories not to enter; `None` to enter none.
        """
        status = self._roots.status(place)
        if status is not None and kind_of(status.st_mode) == "file":
            with self._roots.parent(place) as (directory, name):
                yield Entry(
                    directory=directory,
                    name=name,
                    relative=before or shown_name(name),
                    shown=place.shown,
                    kind="file",
                )
            return
        with self._roots.directory(place) as opened:
            shown = "" if place.shown == "." else place.shown
            yield from _descend(opened, before, shown, findings, skip, depth=1)

    def _contents(self, entry: Entry, findings: Findings) -> bytes:
        """Return the start of a text file; nothing of one that is binary or unreadable."""
        try:
            opened = os.open(entry.name, _READ | os.O_CLOEXEC, dir_fd=entry.directory)
        except OSError:
            return b""
        try:
            if kind_of(os.fstat(opened).st_mode) != "file":
                return b""
            data = read_at_most(opened, self._max_file_bytes + 1)
        except OSError:
            return b""
        finally:
            os.close(opened)
        if b"\0" in data[:8192]:
            return b""
        findings.truncated |= len(data) > self._max_file_bytes
        return data[: self._max_file_bytes].replace(b"\r\n", b"\n")


def _descend(
    directory: int,
    before: str,
    shown: str,
    findings: Findings,
    skip: frozenset[str] | None,
    *,
    depth: int,
) -> Iterator[Entry]:
    if not findings.go_on():
        return
    with os.scandir(directory) as scanned:
        found = list(itertools.islice(scanned, _MAX_ENTRIES + 1))
    if len(found) > _MAX_ENTRIES or depth > _MAX_DEPTH:
        findings.truncated = True
        return
    for item in sorted(found, key=lambda each: each.name):
        name = shown_name(item.name)
        entry = Entry(
            directory=directory,
            name=item.name,
            relative=_joined(before, name),
            shown=_joined(shown, name),
            kind=_kind(item),
        )
        yield entry
        if entry.kind != "directory" or skip is None or item.name in skip:
            continue
        try:
            below = os.open(item.name, _STEP | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            continue
        try:
            yield from _descend(
                below, entry.relative, entry.shown, findings, skip, depth=depth + 1
            )
        finally:
            os.close(below)


def matching_lines(
    data: bytes, wanted: Pattern, findings: Findings, *, context: int
) -> Iterator[dict[str, Any]]:
    """Give the lines that match, with their numbers from 1.

    The text is searched some kilobytes at a time, so that one call of the engine never
    takes long. Of a line longer than that, only the start is searched.
    """
    number, counted, position = 1, 0, 0
    while position < len(data) and findings.go_on():
        end, following = _chunk(data, position)
        findings.truncated |= following > end + 1
        for start in _matches(wanted.find, data[position:end]):
            begin = data.rfind(b"\n", 0, position + start) + 1
            close = data.find(b"\n", position + start)
            close = len(data) if close < 0 else close
            number += data.count(b"\n", counted, begin)
            counted = begin
            yield {
                "line": number,
                "text": _cut_line(data[begin:close], at=position + start - begin),
                **(_around(data, begin, close, context) if context else {}),
            }
        position = following


def _matches(find: Callable[[bytes, int], int | None], chunk: bytes) -> Iterator[int]:
    """Give where the first match begins, of each line that has one."""
    position = 0
    while position <= len(chunk) and (found := find(chunk, position)) is not None:
        yield found
        newline = chunk.find(b"\n", found)
        if newline < 0:
            return
        position = newline + 1


def _chunk(data: bytes, position: int) -> tuple[int, int]:
    """Return where a chunk of whole lines ends, less its last newline, and the next one."""
    if len(data) - position <= _CHUNK:
        end = len(data) - data.endswith(b"\n")
        return max(end, position), len(data)
    newline = data.rfind(b"\n", position, position + _CHUNK)
    if newline >= 0:
        return newline, newline + 1
    following = data.find(b"\n", position + _CHUNK)
    return position + _CHUNK, len(data) if following < 0 else following + 1


def _around(data: bytes, start: int, end: int, count: int) -> dict[str, list[str]]:
    before: list[str] = []
    position = start
    while position > 0 and len(before) < count:
        begin = data.rfind(b"\n", 0, position - 1) + 1
        before.append(_cut_line(data[begin : position - 1]))
        position = begin
    after: list[str] = []
    position = end + 1
    while position < len(data) and len(after) < count:
        stop = data.find(b"\n", position)
        stop = len(data) if stop < 0 else stop
        after.append(_cut_line(data[position:stop]))
        position = stop + 1
    return {"before": before[::-1], "after": after}


def _cut_line(line: bytes, at: int = 0) -> str:
    """Return a line as text; of a long one, the part around byte `at`."""
    text = line.decode("utf-8", "replace")
    if len(text) <= _MAX_LINE:
        return text
    at = len(line[:at].decode("utf-8", "replace"))
    start = at - _MAX_LINE // 4 if at > _MAX_LINE // 2 else 0
    part = text[start : start + _MAX_LINE]
    return f"{part} [cut: {len(part)} of {len(text)} characters shown]"


def _root_entry(place: Place, before: str) -> Entry:
    return Entry(
        directory=place.root.descriptor,
        name=place.root.file,
        relative=before,
        shown=place.shown,
        kind="file" if place.root.file else "directory",
    )


def _add_entry(findings: Findings, entry: Entry) -> bool:
    return findings.add({"name": entry.relative, "type": entry.kind, "size": entry.size})


def _kind(item: os.DirEntry[str]) -> str:
    try:
        if item.is_symlink():
            return "link"
        if item.is_dir(follow_symlinks=False):
            return "directory"
        return "file" if item.is_file(follow_symlinks=False) else "other"
    except OSError:
        return "other"


def _joined(before: str, name: str) -> str:
    return f"{before}/{name}" if before else name
