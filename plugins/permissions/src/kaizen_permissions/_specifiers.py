"""Specifiers of commands: the words that a rule speaks about."""

from __future__ import annotations

import re
import shlex
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from posixpath import normpath

from kaizen_permissions._judged import Invocation

__all__ = ["Specifier", "specifier"]

# Long names of options that are refused most often, by the letter.
_LONG = {"r": "--recursive", "f": "--force", "i": "--in-place", "a": "--all"}
_SHORT = {name: letter for letter, name in _LONG.items()}
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
        if 0 not in invocation.unknown and not _fits(head, argv[0].casefold()):
            return False
        return self._might_fit(argv, invocation.unknown)

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
        options = [word for word in self.words[1:] if _is_option(word)]
        if not all(_has_option(argv, option) for option in options):
            return False
        at = 1
        for wanted in self.words[1:]:
            if _is_option(wanted):
                continue
            while at < len(argv) and not _same(wanted, argv[at]):
                if not argv[at].startswith("-"):
                    return False
                at += 2 if _value_follows(argv, at, wanted) else 1
            if at >= len(argv):
                return False
            at += 1
        return self.more or all(_is_option(word) for word in argv[at:])


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and "*" not in word


def _has_option(argv: tuple[str, ...], wanted: str) -> bool:
    """Tell whether an option is given, be it among others or in its long form."""
    if wanted.startswith("--"):
        name = wanted.partition("=")[0]
        short = _SHORT.get(name)
        return any(
            (len(word) > 3 and name.startswith(word.partition("=")[0]))
            or (short is not None and _has_letter(word, short))
            for word in argv[1:]
        )
    return wanted in argv[1:] or all(
        any(
            _has_letter(word, letter)
            or (len(word) > 3 and _LONG.get(letter, "").startswith(word.partition("=")[0]))
            for word in argv[1:]
        )
        for letter in wanted[1:].replace("R", "r")
    )


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
