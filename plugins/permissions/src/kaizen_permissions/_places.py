"""Tells whether a path stays inside the roots, as its folders and links are now."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from posixpath import commonpath, dirname, isabs, join, normpath, realpath

from kaizen_permissions._repositories import git_folder, runs_nothing
from kaizen_permissions._words import NotUnderstoodError, Word, named

__all__ = ["Places", "Reach"]

_DEVICES = named(
    "/dev/null /dev/stdin /dev/stdout /dev/stderr /dev/zero /dev/random /dev/urandom"
)
_PIPE = "/dev/fd/63"
_PARTS = re.compile(r"[=:@,]")
_QUOTED = re.compile(r"[\s'\"`();,<>|&={}\[\]]+")
_PROTECTED = re.compile(
    r"(^|/)(\.git|\.hg|\.svn|\.kaizen[^/]*|kaizen\.toml|\.ssh|\.bashrc|\.bash_profile"
    r"|\.profile|\.zshrc|\.zshenv|\.env|\.env\.[^/]*|\.envrc|\.husky|\.gitconfig|\.gitmodules"
    r"|\.mcp\.json|\.vscode|\.idea)(/|$)",
    re.IGNORECASE,
)
# Names of those, to see whether a pattern may match one.
_PROTECTED_NAMES = named(
    ".git .hg .svn .kaizen .kaizen.x kaizen.toml .ssh .bashrc .bash_profile .profile .zshrc"
    " .zshenv .env .env.x .envrc .husky .gitconfig .gitmodules .mcp.json .vscode .idea"
)
_PROSE = re.compile(r"[^\s=/~@.-][^\s=@]*\s")
_MAX_ENTRIES = 5_000
_MAX_PATH = 4_096
_MAX_CLUSTER = 200


class Places:
    """The directories that a command may use, and the one in which it begins."""

    def __init__(self, start: str, roots: Sequence[str]) -> None:
        self.start = start
        self._roots = [realpath(root) for root in roots]
        self._known: dict[str, str | None] = {}
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
            return all(self._matching(word, place) is not None for place in places)
        return all(self._contains(join(place, text)) for place in places)

    def entered(self, word: Word, places: Sequence[str]) -> tuple[str, ...]:
        """Return the directories that `cd` leads to.

        Raises:
            NotUnderstoodError: It leads out of the roots or to a protected one, or is not
                known.
        """
        text = word.text
        if not word.plain or text in ("", "-") or text.startswith(("~", "+", "-")):
            raise NotUnderstoodError("the directory to change to is not known")
        if not self.inside(word, places):
            raise NotUnderstoodError("it leaves the directories that it may use")
        if self._protects(text, places):
            raise NotUnderstoodError("it enters a directory that is protected")
        return tuple(dict.fromkeys(normpath(join(place, text)) for place in places))

    def shown(self, word: Word, places: Sequence[str]) -> list[str]:
        """Return a path relative to where the command began, from each of some places."""
        if word.piped or word.text in ("", "-", _PIPE):
            return []
        if word.known and word.pattern >= 0:
            found = [self._matching(word, place) for place in places]
            names = dict.fromkeys(name for each in found for name in each or ())
            if names and None not in found:
                return [
                    each for name in names for each in self.shown(Word(text=name), places)
                ]
        if tuple(places) == (self.start,) or isabs(word.text) or word.text.startswith("~"):
            return [word.text]
        return [normpath(join(place, word.text)) for place in places]

    def leads_out(self, text: str, places: Sequence[str]) -> bool:
        """Tell whether an argument leads out of the roots, or to a protected name."""
        if text.casefold().startswith("file:"):
            return True
        candidates = [text]
        if _is_prose(text):
            if len(text) > _MAX_PATH:
                return False  # no system has names that long
        else:
            if len(text) > 1 and text[0] in "-+" and not text.startswith("--"):
                # Letters may stand together, and the value of the last one with them.
                if len(text) > _MAX_CLUSTER:
                    return True
                candidates += [text[at:] for at in range(2, len(text))]
            if "://" not in text:
                candidates += _PARTS.split(text)
        return any(
            not self.inside(Word(text=each), places) or self._protects(each, places)
            for each in dict.fromkeys(candidates)
            if each
        )

    def files_in(self, text: str, places: Sequence[str]) -> Iterator[Word]:
        """Give the files that a word names, be it as the value of an option."""
        if len(text) > _MAX_PATH:
            return
        parts = [text, *_PARTS.split(text)]
        if text.startswith("-") and len(text) < _MAX_CLUSTER:
            parts += [text[at:] for at in range(2, len(text))]
        for each in dict.fromkeys(parts):
            if each and any(Path(place, each).is_file() for place in places):
                yield Word(text=each)

    def paths_in(
        self, text: str, places: Sequence[str], *, script: bool = False
    ) -> Iterator[str]:
        """Give what may be a path in a word, be it in an option or as its value.

        What has no slash is one only where there is something of that name, or if it is
        the whole word. A cluster of options that is too long to look at may name anything
        in the folder.

        Args:
            text: The word.
            places: Where the program may start.
            script: Whether the word may be a script, with paths in it.
        """
        parts = [text]
        if "://" not in text:
            parts += _PARTS.split(text)
        if text.startswith("-"):
            short = len(text) < _MAX_CLUSTER
            parts += [text[at:] for at in range(2, len(text))] if short else []
            if not short and not text.startswith("--"):
                parts.append(".")
        if script:
            parts += _QUOTED.split(text)
        for each in dict.fromkeys(parts):
            if not 0 < len(each) <= _MAX_PATH:  # no system has names that long
                continue
            is_path = "/" in each or (each is text and not text.startswith("-"))
            if _is_prose(each) or "://" in each:
                is_path = False
            if is_path or any(os.path.lexists(join(place, each)) for place in places):
                yield each

    def may_be_protected(self, word: Word, places: Sequence[str]) -> bool:
        """Tell whether a pattern may match what a program must not change unasked."""
        if word.pattern < 0:
            return False
        if any(self._protects(path, [self.start]) for path in self.shown(word, places)):
            return True
        parts = re.split(r"[/=:@,]", word.text)
        return any(
            _may_match(part, name)
            for part in parts
            if re.search(r"[*?[]", part) and re.search(r"[a-z.]", part)
            for name in _PROTECTED_NAMES
        )

    def is_folder(self, word: Word, places: Sequence[str]) -> bool:
        """Tell whether a word is a folder now, or stands for what is in one."""
        return word.known and any(Path(place, word.text).is_dir() for place in places)

    def has_no_way_out(self, folder: str, places: Sequence[str]) -> bool:
        """Tell whether no link below a folder leads out of the roots, as far as is seen."""
        waiting = [join(place, folder) for place in places]
        while waiting:
            entries = list(islice(_entries(waiting.pop()), self._left))
            self._left -= len(entries)
            if self._left <= 0:
                return False
            for entry in entries:
                if entry.is_symlink():
                    if not self._contains(entry.path):
                        return False
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
        return True

    def repository(self, folder: str, places: Sequence[str]) -> bool | None:
        """Tell whether git would find a repository inside the roots that is its owner's.

        A folder that merely looks like what is in `.git` is a repository to git as well;
        it could come with files from anywhere, and its configuration runs programs.

        Returns:
            `None` if there is no repository.
        """
        found = {self._repository(realpath(join(place, folder))) for place in places}
        return False if False in found else None if None in found else True

    def _repository(self, path: str) -> bool | None:
        found = None
        while self._contains(path):
            git = join(path, ".git")
            if os.path.lexists(git):
                if not self._contains(git) or Path(git).is_file():
                    return _leads_to_git(git)
                if os.path.lexists(join(git, "HEAD")):
                    return True
                found = True
            if os.path.lexists(join(path, "HEAD")):
                return False
            if path == dirname(path):
                break
            path = dirname(path)
        return found

    def git_runs_nothing(self, folder: str, places: Sequence[str]) -> bool:
        """Tell whether no repository that git may find in a folder makes it run anything.

        One that lacks something is passed over by git, so that all around it count, and
        so does a folder that is itself like a `.git`.
        """
        around = [
            each for place in places for each in self._around(realpath(join(place, folder)))
        ]
        if any(os.path.lexists(join(each, "HEAD")) for each in around):
            return False
        found = dict.fromkeys(join(each, ".git") for each in around)
        return all(map(runs_nothing, filter(os.path.lexists, found)))

    def tops(self, folder: str, places: Sequence[str]) -> Iterator[str]:
        """Give the folder inside the roots that is around all that git may change.

        Which repository it finds is not known: it passes over those that lack something.
        """
        for place in places:
            yield from [*self._around(realpath(join(place, folder)))][-1:]

    def _around(self, path: str) -> Iterator[str]:
        """Give a folder and those that it is in, as far as they are inside the roots."""
        while self._contains(path):
            yield path
            if path == dirname(path):
                return
            path = dirname(path)

    def is_protected(self, word: Word, places: Sequence[str]) -> bool:
        """Tell whether a path names what a program must not change unasked."""
        return self._protects(word.text, places)

    def _matching(self, word: Word, place: str) -> list[str] | None:
        """Return what a pattern matches, or `None` if it leads out, or may do so.

        An option among the names that match counts as one that leads out.
        """
        folder, slash, _ = word.text[: word.pattern].rpartition("/")
        begin = folder + slash
        parts = word.text[len(begin) :].split("/")
        if ".." in parts or not self._contains(join(place, begin or ".")):
            return None
        names = [begin]
        for part in parts:
            if _may_match(part, ".."):
                return None
            found = self._entering(part, names, place)
            if found is None:
                return None
            names = [f"{each}/" for each in found]
        return [each[:-1] for each in names]

    def _entering(self, part: str, names: Sequence[str], place: str) -> list[str] | None:
        """Return what one part of a pattern matches in each of some folders."""
        found: list[str] = []
        for name in names:
            entries = list(islice(_entries(join(place, name or ".")), self._left))
            self._left -= len(entries)
            if self._left <= 0:
                return None
            for entry in entries:
                if not _may_match(part, entry.name):
                    continue
                if not name and entry.name.startswith("-"):
                    return None
                if entry.is_symlink() and not self._contains(entry.path):
                    return None
                found.append(name + entry.name)
        return found

    def _contains(self, path: str) -> bool:
        return self._below_root(path) is not None

    def _below_root(self, path: str) -> str | None:
        """Return where in a root a path leads, links resolved, or `None` if out of them."""
        if path not in self._known:
            self._known[path] = self._resolved(path)
        return self._known[path]

    def _resolved(self, path: str) -> str | None:
        try:
            real = realpath(path)
            return next(
                (real[len(r) :] for r in self._roots if commonpath((r, real)) == r), None
            )
        except (OSError, ValueError):
            return None

    def _protects(self, text: str, places: Sequence[str]) -> bool:
        """Tell whether a path, or what it leads to, must not be changed unasked."""
        return _PROTECTED.search(text) is not None or any(
            _PROTECTED.search(self._below_root(join(place, text)) or "") is not None
            for place in places
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """What a program reaches from where it may start."""

    places: Places
    starts: Sequence[str]

    def __call__(self, word: Word) -> bool:
        """Tell whether a path stays inside the roots."""
        return self.places.inside(word, self.starts)

    def is_folder(self, word: Word) -> bool:
        """Tell whether a word is a folder now."""
        return self.places.is_folder(word, self.starts)

    def repository(self, folder: str) -> bool | None:
        """Tell whether git would find a repository that can be trusted, or `None`."""
        return self.places.repository(folder, self.starts)

    def git_runs_nothing(self, folder: str) -> bool:
        """Tell whether no repository that git may find there makes it run anything."""
        return self.places.git_runs_nothing(folder, self.starts)


def _may_match(pattern: str, name: str) -> bool:
    """Tell whether one part of a path may match a name; of brackets, little is known."""
    if name.startswith(".") and not pattern.startswith("."):
        return False
    if "[" not in pattern:
        return fnmatchcase(name, pattern)
    return fnmatchcase(name, f"{pattern.partition('[')[0]}*")


def _leads_to_git(path: str) -> bool:
    """Tell whether a file names the repository of a worktree, or of a submodule."""
    found = None if Path(path).is_dir() else git_folder(path)
    return found is not None and os.path.lexists(join(found, "HEAD"))


def _is_prose(text: str) -> bool:
    """Tell whether a text is one of several words, and no path that leads anywhere."""
    return _PROSE.match(text) is not None and ".." not in text.split("/")


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return
