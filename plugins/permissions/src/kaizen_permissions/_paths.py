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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kaizen.errors import ConfigurationError

from kaizen_permissions._patterns import Matcher, compile_all, literal, wildcards

__all__ = ["Place", "Reading", "Sources"]

ROOTS = "@roots"
MAX_PATH_CHARS = 4_096
_NOT_PLAIN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]|\A(?:file:|\s)|\s\Z", re.IGNORECASE
)
_ODD = re.compile(r"//|/\.\.?(/|\Z)|/\Z")
_ELSEWHERE = re.compile(r"/(proc|dev/(fd|stdin|stdout|stderr))(/|\Z)")
_ONE = r"[^/]"
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

    def inside(self, reading: Reading | None) -> bool:
        """Whether a path leads into a root, however it is read."""
        return reading is not None and all(map(self._inside, reading.strict))

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
        joined = [self._joined_raw(path)]
        if path.startswith("~"):
            if path != "~" and not path.startswith("~/"):
                return None
            joined.append(self._home + path[1:])
        spelt = joined
        if any(map(_ODD.search, joined)):
            spelt = [os.path.normpath(each) for each in joined]
        every = joined if joined is spelt else list(dict.fromkeys((*joined, *spelt)))
        if any(map(_leads_elsewhere, every)):
            return None
        real = tuple(map(_real, every))
        if real == (spelt[0],):
            return Reading(real, real)
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
