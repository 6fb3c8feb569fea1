"""Tells whether a path stays inside the roots, as its folders and links are now."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from posixpath import commonpath, isabs, join, normpath, realpath

from kaizen_permissions._words import NotUnderstoodError, Word, named

__all__ = ["Places"]

_DEVICES = named(
    "/dev/null /dev/stdin /dev/stdout /dev/stderr /dev/zero /dev/random /dev/urandom"
)
_PIPE = "/dev/fd/63"
_PARTS = re.compile(r"[=:@,]")
_PROTECTED = re.compile(
    r"(^|/)(\.git|\.hg|\.svn|\.kaizen[^/]*|kaizen\.toml|\.ssh|\.bashrc|\.bash_profile"
    r"|\.profile|\.zshrc|\.zshenv|\.env|\.env\.[^/]*|\.envrc|\.husky|\.gitconfig|\.gitmodules"
    r"|\.mcp\.json|\.vscode|\.idea)(/|$)",
    re.IGNORECASE,
)
_PROSE = re.compile(r"[^\s=/~@.-][^\s=@]*\s")
_MAX_ENTRIES = 5_000
_MAX_PATH = 4_096


class Places:
    """The directories that a command may use, and the one in which it begins."""

    def __init__(self, start: str, roots: Sequence[str]) -> None:
        self.start = start
        self._roots = [realpath(root) for root in roots]
        self._known: dict[str, bool] = {}
        self._left = _MAX_ENTRIES

    def inside(self, word: Word, places: Sequence[str]) -> bool:
        """Tell whether a path stays inside the roots, from each of some directories.

        Of a pattern, the files are looked at that match it now.
        """
        text = word.text
        if not word.known:
            return False
        if word.piped or text in ("", "-") or text in _DEVICES:
            return True
        if text.startswith("~") or len(text) > _MAX_PATH:
            return False
        if word.pattern >= 0:
            return all(self._matches_inside(word, place) for place in places)
        return all(self._contains(join(place, text)) for place in places)

    def entered(self, word: Word, places: Sequence[str]) -> tuple[str, ...]:
        """Return the directories that `cd` leads to.

        Raises:
            NotUnderstoodError: It leads out of the roots, or is not known.
        """
        text = word.text
        if not word.plain or text in ("", "-") or text.startswith(("~", "+", "-")):
            raise NotUnderstoodError("the directory to change to is not known")
        if not self.inside(word, places):
            raise NotUnderstoodError("it leaves the directories that it may use")
        return tuple(dict.fromkeys(normpath(join(place, text)) for place in places))

    def shown(self, word: Word, places: Sequence[str]) -> list[str]:
        """Return a path relative to where the command began, from each of some places."""
        if word.piped or word.text in ("", "-", _PIPE):
            return []
        if tuple(places) == (self.start,) or isabs(word.text) or word.text.startswith("~"):
            return [word.text]
        return [normpath(join(place, word.text)) for place in places]

    def leads_out(self, text: str, places: Sequence[str]) -> bool:
        """Tell whether an argument leads out of the roots, or to a protected name."""
        if text.casefold().startswith("file:"):
            return True
        if _is_prose(text):
            return False
        candidates = [text]
        if text.startswith("-") and not text.startswith("--"):
            candidates.append(text[2:])
        if "://" not in text:
            candidates += _PARTS.split(text)
        return any(
            _PROTECTED.search(each) is not None or not self.inside(Word(text=each), places)
            for each in dict.fromkeys(candidates)
            if each
        )

    def is_protected(self, word: Word) -> bool:
        """Tell whether a path names what a program must not change unasked."""
        return _PROTECTED.search(word.text) is not None

    def _matches_inside(self, word: Word, place: str) -> bool:
        """Tell whether all that a pattern matches stays inside the roots."""
        folder, slash, _ = word.text[: word.pattern].rpartition("/")
        parts = word.text[len(folder) + len(slash) :].split("/")
        folders = [join(place, folder or ("/" if slash else "."))]
        if ".." in parts or not self._contains(folders[0]):
            return False
        for part in parts:
            read = (entry for each in folders for entry in _entries(each))
            entries = list(islice(read, self._left))
            self._left -= len(entries)
            if self._left <= 0:
                return False
            wanted = "*" if "[" in part else part  # bash knows more of these
            found = [entry for entry in entries if fnmatchcase(entry.name, wanted)]
            if any(
                entry.is_symlink() and not self._contains(entry.path) for entry in found
            ):
                return False
            folders = [entry.path for entry in found]
        return True

    def _contains(self, path: str) -> bool:
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = self._resolved_inside(path)
        return found

    def _resolved_inside(self, path: str) -> bool:
        try:
            real = realpath(path)
            return any(commonpath((root, real)) == root for root in self._roots)
        except (OSError, ValueError):
            return False


def _is_prose(text: str) -> bool:
    """Tell whether a text is one of several words, and no path that leads anywhere."""
    return _PROSE.match(text) is not None and ".." not in text.split("/")


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return
