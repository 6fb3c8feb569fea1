"""Paths: where they lead, and the patterns that rules have for them.

What counts is the place that a path leads to when the call is decided, after `..`, links
and moved folders. A path may be read in more than one way: a tool may take `a/link/../b` by
its spelling or follow the link. What allows must hold for all of them; what asks or refuses
needs one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kaizen.errors import ConfigurationError

from kaizen_permissions._patterns import Matcher, compile_all, literal, wildcards

__all__ = ["Place", "Reading", "Sources"]

ROOTS = "@roots"
MAX_PATH_CHARS = 4_096
MAX_ENTRIES = 5_000
_NOT_PLAIN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]|\A(?:file:|\s)|\s\Z", re.IGNORECASE
)
_ODD = re.compile(r"//|/\.\.?(/|\Z)|/\Z")
_ELSEWHERE = re.compile(r"/(proc|dev/(fd|stdin|stdout|stderr))(/|\Z)")
_WILD = re.compile(r"[*?\[{]")
_ONE = r"[^/]"
_ANY_NAME = "kaizen any name"
_CAN_SAY = sys.platform == "linux" and Path("/proc/self/fd").is_dir()


class Reading(NamedTuple):
    """What a value of a call means, in every way in which it may be read.

    Attributes:
        strict: What it leads to; all of it has to be allowed.
        loose: That, and how it is spelt; any of it may be refused.
    """

    strict: tuple[str, ...]
    loose: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """The regular expressions of one specifier, for what allows and for what refuses."""

    strict: tuple[str, ...]
    loose: tuple[str, ...]


class Place:
    """Where relative paths begin, and which folders are the agent's to work in.

    Attributes:
        directory: What relative paths and patterns are relative to.
        roots: The folders and files inside which agents work, without links.
    """

    def __init__(
        self, directory: Path | str | None = None, roots: Sequence[Path | str] = (".",)
    ) -> None:
        self.directory = os.path.abspath(directory or Path.cwd())  # noqa: PTH100 - keeps links
        self._home = os.path.expanduser("~")  # noqa: PTH111 - also where there is no home
        self._spelt = tuple(self._joined(str(root)) for root in roots)
        self.roots = tuple(_real(each) for each in self._spelt)
        self._inside: Matcher = compile_all(
            f"{_prefix(each)}(?:/.*)?" for each in self.roots
        )

    def starting(self, directory: str) -> Place:
        """Return the same roots, with relative paths that begin in another folder."""
        if directory == self.directory:
            return self
        other = object.__new__(Place)
        other.__dict__.update(self.__dict__)
        other.directory = os.path.abspath(directory)  # noqa: PTH100 - keeps links
        return other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Place):
            return NotImplemented
        return (self.directory, self._spelt, self.roots) == (
            other.directory,
            other._spelt,
            other.roots,
        )

    def __hash__(self) -> int:
        return hash((self.directory, self.roots))

    def is_here(self, reading: Reading) -> bool:
        """Whether a path leads to the folder in which relative paths begin."""
        return _real(self.directory) in reading.strict

    def anything_in(self, reading: Reading) -> Reading | None:
        """Return a path in the folder that a path leads to; `None` if it is no folder."""
        folders = [each for each in map(_folder, reading.strict) if each is not None]
        inner = tuple(f"{each.rstrip('/')}/{_ANY_NAME}" for each in folders)
        return Reading(inner, inner) if inner else None

    def inside(self, reading: Reading | None) -> bool:
        """Whether a path leads into a root, however it is read."""
        return reading is not None and all(map(self._inside, reading.strict))

    def meets(self, reading: Reading | None) -> bool:
        """Whether a path may have to do with a root, by its spelling or where it leads."""
        return reading is None or any(map(self._inside, reading.loose))

    def below(self, reading: Reading) -> list[Reading | None]:
        """Return what is in the folders that a path or pattern leads to, however deep.

        `None` in it is what cannot be understood, or what is more than can be looked at. A
        path that is no folder has nothing in it.
        """
        found: list[Reading | None] = []
        waiting = [_folder(each) for each in reading.strict]
        seen = set()
        while waiting:
            folder = waiting.pop()
            if folder is None or folder in seen:
                continue
            seen.add(folder)
            for entry in _entries(folder):
                if len(found) >= MAX_ENTRIES or not _is_plain(entry.path):
                    return [*found, None]
                real = _real(entry.path) if entry.is_symlink() else entry.path
                texts = tuple(dict.fromkeys((real, entry.path)))
                found.append(Reading(texts, texts))
                if os.path.isdir(real):  # noqa: PTH112
                    waiting.append(real)
        return found

    def may_be_below(self, pattern: str, reading: Reading, *, named: bool = False) -> bool:
        """Whether a pattern could be about something in a folder, there or yet to be.

        Args:
            pattern: A pattern of paths.
            reading: The folder.
            named: Whether only a pattern counts that names the folder, or one in it.
        """
        parts = [part for part in pattern.strip().split("/") if part not in ("", ".")]
        folders = [
            f"{each.rstrip('/')}/".casefold()
            for each in map(_folder, reading.strict)
            if each is not None
        ]
        for base, rest in self._bases(pattern.strip(), parts) if folders else ():
            fixed = list(_fixed(rest))
            more = len(fixed) < len(rest) or pattern.strip().endswith("/")
            spelt = os.path.normpath("/".join((base, *fixed)))
            for start in (spelt, _real(spelt)):
                known = f"{start.rstrip('/')}/".casefold()
                for folder in folders:
                    if known.startswith(folder) and (more or known != folder):
                        return True
                    if more and not named and folder.startswith(known):
                        return True
        return False

    def relative(self, path: str) -> str | None:
        """Return a real path relative to the directory, or `None` if it is not below it."""
        start = _real(self.directory).rstrip("/") + "/"
        return path.removeprefix(start) if path.startswith(start) else None

    def read(self, path: str) -> Reading | None:
        """Return where a path leads; `None` if that cannot be said.

        It looks at the file system.
        """
        if not path or len(path) > MAX_PATH_CHARS or not _is_plain(path):
            return None
        plain = self._joined_raw(path)
        if path[0] != "~" and _ODD.search(plain) is None:  # as nearly all are
            if _leads_elsewhere(plain):
                return None
            found = _real(plain)
            only = (found,)
            return Reading(only, only if found == plain else (found, plain))
        joined = [plain]
        if path.startswith("~"):
            if path != "~" and not path.startswith("~/"):
                return None
            joined.append(self._home + path[1:])
        spelt = [os.path.normpath(each) for each in joined]
        every = list(dict.fromkeys((*joined, *spelt)))
        if any(map(_leads_elsewhere, every)):
            return None
        real = tuple(map(_real, every))
        return Reading(tuple(dict.fromkeys(real)), tuple(dict.fromkeys((*real, *spelt))))

    def compile(self, pattern: str) -> Sources:
        """Return the expressions of a pattern.

        Raises:
            ConfigurationError: It is not one.
        """
        plain = pattern.strip()
        whole = plain.endswith("/")
        parts = [part for part in plain.split("/") if part not in ("", ".")]
        if not plain or ".." in parts or _NOT_PLAIN.search(plain):
            raise ConfigurationError(
                f"the path {pattern!r}",
                "is no pattern for paths",
                "Write it without `..` and without characters that nobody sees.",
            )
        strict: list[str] = []
        loose: list[str] = []
        for base, rest in self._bases(plain, parts):
            fixed = list(_fixed(rest))
            below = _below(rest[len(fixed) :], whole=whole)
            spelt = os.path.normpath("/".join((base, *fixed)))
            real = _real(spelt)
            strict.append(_prefix(real) + below)
            loose += [strict[-1], _prefix(spelt) + below]
            if real == "/" and len(fixed) == len(rest):
                strict.append("/")  # the one folder whose path ends with a slash
                loose.append("/")
        return Sources(tuple(strict), tuple(dict.fromkeys(loose)))

    def _bases(self, plain: str, parts: list[str]) -> Iterable[tuple[str, list[str]]]:
        if plain.startswith("/"):
            return [("/", parts)]
        if parts and parts[0] == ROOTS:
            return [(root, parts[1:]) for root in self._spelt]
        if parts and parts[0] == "~":
            return [(self._home, parts[1:])]
        return [(self.directory, parts)]

    def _joined(self, path: str) -> str:
        return os.path.normpath(self._joined_raw(os.path.expanduser(path)))  # noqa: PTH111

    def _joined_raw(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.directory}/{path}"


def _is_plain(path: str) -> bool:
    """Whether a path holds nothing that is read in more ways than one."""
    if path.isascii() and path.isprintable() and path[0] not in " fF" and path[-1] != " ":
        return True
    return _NOT_PLAIN.search(path) is None


def _real(path: str) -> str:
    """Return where a path leads; the system says it of what is there."""
    if not _CAN_SAY:
        return os.path.realpath(path)
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(path)
    try:
        found = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - twice as fast
    finally:
        os.close(descriptor)
    if found.startswith("/") and not found.endswith(" (deleted)"):
        return found
    return os.path.realpath(path)


def _folder(path: str) -> str | None:
    """Return the folder that a path leads to, or in which what a pattern names begins."""
    if os.path.isdir(path):  # noqa: PTH112 - a text is all that is needed
        return path
    found = None if os.path.lexists(path) else _WILD.search(path)
    if found is None:
        return None
    start = path[: found.start()].rpartition("/")[0] or "/"
    return start if os.path.isdir(start) else None  # noqa: PTH112


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return


def _prefix(path: str) -> str:
    return literal(path.rstrip("/"))


def _leads_elsewhere(path: str) -> bool:
    """Whether a path means something else to every process that reads it."""
    if "/proc" not in path and "/dev" not in path:
        return False
    return _ELSEWHERE.match(re.sub("/+", "/", path)) is not None


def _fixed(parts: Sequence[str]) -> Iterable[str]:
    """Yield the parts before the first one with a wildcard."""
    for part in parts:
        if "*" in part or "?" in part:
            return
        yield part


def _below(parts: Sequence[str], *, whole: bool) -> str:
    """Return the expression of the parts from the first wildcard on.

    `*` and `?` stay in one part of a path; `**` is any number of parts, and at the end at
    least one. A slash at the end is a folder and all that is in it.
    """
    source = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1 and not whole
        if part == "**":
            source += f"(?:/{_ONE}+)" + ("+" if last else "*")
        elif part.strip("*") == "":
            source += f"/{_ONE}+"
        else:
            source += "/" + wildcards(part, many=f"{_ONE}*", one=_ONE)
    return source + (f"(?:/{_ONE}+)*" if whole else "")
