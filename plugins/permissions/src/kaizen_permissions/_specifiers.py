"""Specifiers of commands: the words that a rule speaks about."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from posixpath import normpath

from kaizen_permissions._judged import Invocation
from kaizen_permissions._words import named

__all__ = ["Specifier", "specifier"]

# Long names of options that are refused most often, by the letter.
_LONG = {
    "r": ("--recursive",),
    "f": ("--force",),
    "i": ("--in-place", "--interactive"),
    "a": ("--all",),
    "n": ("--no-verify",),
    "d": ("--delete",),
    "D": ("--delete",),
    "g": ("--global",),
    "y": ("--yes",),
    "m": ("--message",),
    "o": ("--output",),
    "c": ("--config",),
}
# Other words for what rules refuse.
_SAME_AS = {("git", "push"): named("send-pack http-push subtree")}
# Programs whose words are subcommands and names, but for what follows some of them.
_SUBCOMMANDS = named(
    "git npm npx pnpm yarn bun cargo go pip pip3 uv poetry docker podman kubectl helm gh"
    " brew apt apt-get dnf yum pacman systemctl conda gem bundle terraform aws gcloud az"
    " flatpak snap svn hg"
)
_LEADS_ON = named("exec run -- foreach -x -c")
# Programs that run none of their words.
_RUNS_NONE = named(
    "rm cp mv ln mkdir rmdir touch chmod chown chgrp tee truncate shred unlink install"
    " rsync pytest ruff mypy black isort flake8 pylint nox tox make cmake gcc clang cc g++"
    " tsc eslint prettier grep egrep fgrep rg sed cat ls echo printf head tail wc sort zip"
    " unzip tar gzip dd which type kill pkill killall test [ : cd read set trap scp sftp"
    " curl wget"
)
_MAX_LENGTH = 2_000
_SYSTEM = re.compile(r"(/usr)?(/local)?/s?bin/[^/]+|/opt/homebrew/bin/[^/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Specifier:
    """Words of a command line, some of which stand for others.

    Attributes:
        words: The words, the program first. `*` alone stands for one word, and a `*` inside
            a word for any part of it.
        more: Whether any further words may follow.
    """

    words: tuple[str, ...]
    more: bool = False

    def covers(self, invocation: Invocation) -> bool:
        """Tell whether this names a program with all of its words, as a rule that allows.

        No `*` stands for a word that runs code or that leads out of the roots: those have
        to be spelled out. A program that is named with a folder is another program than
        the one of the same name that the shell would find, unless the folder is a
        system's.
        """
        argv = invocation.argv
        if not self.words:
            return True
        if len(argv) < len(self.words) or (len(argv) > len(self.words) and not self.more):
            return False
        if not self._same_program(invocation):
            return False
        given = len(self.words)
        if any(at >= given or self.words[at] != argv[at] for at in invocation.special):
            return False
        if any(at < given and self.words[at] != "*" for at in invocation.unknown):
            return False
        return all(map(_fits, self.words[1:], argv[1:given]))

    def touches(self, invocation: Invocation) -> bool:
        """Tell whether this names, or might name, a program, as a rule that forbids."""
        if not self.words:
            return True
        head = self.words[0].rpartition("/")[2].casefold()
        if any(name.casefold() == head for name in invocation.wrappers):
            return True
        argv = invocation.argv
        same = 0 in invocation.unknown or _fits(head, argv[0].casefold())
        if same and self._might_fit(argv, invocation.unknown):
            return True
        return not invocation.harmless and self._follows(head, argv)

    def _follows(self, head: str, argv: tuple[str, ...]) -> bool:
        """Look for the program behind another one, which might run it."""
        if argv[0] in _RUNS_NONE:
            return False
        led = argv[0] not in _SUBCOMMANDS
        for at, word in enumerate(argv[1:], start=1):
            if led and any(
                _fits(head, part.rpartition("/")[2].casefold())
                and self._might_fit((part, *further), frozenset())
                for part, further in _readings(word, argv[at + 1 :])
            ):
                return True
            led = led or word in _LEADS_ON
        return False

    def mentioned(self, words: AbstractSet[str]) -> bool:
        """Tell whether all words that this spells out are among some words."""
        return all(
            word.casefold().rpartition("/")[2] in words
            for word in self.words
            if "*" not in word
        )

    def _same_program(self, invocation: Invocation) -> bool:
        wanted = self.words[0]
        if "/" in wanted:
            return normpath(wanted) == normpath(invocation.path or invocation.argv[0])
        if invocation.path and not _SYSTEM.fullmatch(invocation.path):
            return False
        return 0 not in invocation.unknown and _fits(wanted, invocation.argv[0])

    def _might_fit(self, argv: tuple[str, ...], unknown: AbstractSet[int]) -> bool:
        """Look for the options anywhere, and for the other words in their order."""
        if any(at > 0 for at in unknown):
            return True  # they may be any number of words
        if argv[0] == "git" and any(word.startswith("alias.") for word in argv):
            return True  # its subcommand may be any
        options = [word for word in self.words[1:] if _is_option(word)]
        if not all(_has_option(argv, option) for option in options):
            return False
        at = 1
        for wanted in self.words[1:]:
            if _is_option(wanted):
                continue
            others = _SAME_AS.get((self.words[0], wanted), frozenset())
            while at < len(argv) and not (_same(wanted, argv[at]) or argv[at] in others):
                if not argv[at].startswith("-"):
                    return False
                at += 2 if _value_follows(argv, at, wanted) else 1
            if at >= len(argv):
                return False
            at += 1
        return self.more or all(_is_option(word) for word in argv[at:])


def _readings(word: str, further: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give a word with those after it, also if it is a script of several words."""
    yield word, further
    parts = tuple(re.split(r"[\s;&|()'\"]+", word))
    if len(parts) > 1:
        yield from ((part, parts[at + 1 :]) for at, part in enumerate(parts) if part)


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and "*" not in word


def _has_option(argv: tuple[str, ...], wanted: str) -> bool:
    """Tell whether an option is given: among others, shortened or in its long form."""
    if wanted.startswith("--"):
        name = wanted.partition("=")[0]
        letters = [letter for letter, names in _LONG.items() if name in names]
        return any(
            _shortens(word, name) or any(_has_letter(word, letter) for letter in letters)
            for word in argv[1:]
        )
    return wanted in argv[1:] or all(
        any(
            _has_letter(word, letter)
            or any(_shortens(word, name) for name in _LONG.get(letter, ()))
            for word in argv[1:]
        )
        for letter in wanted[1:].replace("R", "r")
    )


def _shortens(word: str, name: str) -> bool:
    """Tell whether a word is a long option, or the beginning of one."""
    return len(word) > 2 and name.startswith(word.partition("=")[0])


def _has_letter(word: str, letter: str) -> bool:
    return _is_option(word) and word[1] != "-" and letter in word.replace("R", "r")


def _value_follows(argv: tuple[str, ...], at: int, wanted: str) -> bool:
    """Tell whether the word after an option is its value, as far as one can tell."""
    if at + 1 >= len(argv) or "=" in argv[at]:
        return False
    value = argv[at + 1]
    return not value.startswith("-") and not _same(wanted, value)


def _same(wanted: str, word: str) -> bool:
    """Tell whether two words mean the same, be they the same path spelled differently."""
    if _fits(wanted, word):
        return True
    if re.search(r"[*?[]", word) and fnmatchcase(wanted, re.sub(r"\[.*", "*", word)):
        return True  # it is a pattern, perhaps
    if "/" not in wanted or "/" not in word:
        return False
    return _fits(_plain(wanted), _plain(word))


def _plain(path: str) -> str:
    return normpath("/" + path.lstrip("/")) if path.startswith("/") else normpath(path)


def _fits(wanted: str, word: str) -> bool:
    if wanted in ("*", word):
        return True
    if "*" not in wanted or ".." in word.split("/"):
        return False
    first, *between, last = wanted.split("*")
    if len(word) < len(first) + len(last):
        return False
    if not word.startswith(first) or not word.endswith(last):
        return False
    at, end = len(first), len(word) - len(last)
    for part in between:
        found = word.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@lru_cache(maxsize=4_096)
def specifier(text: str) -> Specifier:
    """Read a specifier: `git status`, `git log *`, `npm run test:*`.

    `name:*` at the end is another way to write `name *`. A specifier of nothing but `*`
    stands for every command that can be understood.

    Raises:
        ValueError: A quote is not closed, the text holds a control character, is too long,
            or has no words.
    """
    if len(text) > _MAX_LENGTH or not text.isprintable():
        raise ValueError(
            f"a command of a rule is printable, of at most {_MAX_LENGTH} characters"
        )
    words = shlex.split(text, posix=True)
    if not words:
        raise ValueError("a command of a rule names a program")
    more = words[-1] == "*"
    if more:
        words.pop()
    elif words[-1].endswith(":*"):
        more = True
        words[-1] = words[-1][:-2]
    if words and not words[0]:
        raise ValueError("a command of a rule names a program")
    return Specifier(words=tuple(words), more=more)
