"""What is known of a shell command before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Analysis", "Invocation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One program that a command would run.

    Attributes:
        argv: Its words, without quotes; the first is the program's name without folders.
            A pattern such as `*.py` stands as it was written, and so does a word that is
            not known before the command runs, in a command that is not understood.
        path: The program as it was written, if that had a slash.
        wrappers: What it is wrapped in, outermost first: `("env", "timeout")`.
        environment: The variables that are set for it.
        writes: The files that it or the shell would write, as far as that is known,
            relative to the directory in which the whole command begins.
        reads: The files that it or the shell would read, likewise: those that a pattern
            matches now, and a folder if the files in it are read.
        touched: What else it is given that may name a file or folder, likewise, if it is
            not known only to read: it may read or write there.
        redirected: Those among `writes` that the shell itself writes, with `>`.
        harmless: Known to change nothing, and to reach nothing outside the roots, with
            these arguments; what the shell writes for it is not counted.
        leaves: The shell, or the program itself, would touch a file outside the roots.
        special: Positions in `argv` of words that no `*` stands for: code, options that
            run code, and paths that are protected, or outside the roots.
        unknown: Positions in `argv` of words that are not known before the command runs.
    """

    argv: tuple[str, ...]
    path: str = ""
    wrappers: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()
    redirected: tuple[str, ...] = ()
    harmless: bool = False
    leaves: bool = False
    special: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()

    @property
    def only_reads(self) -> bool:
        """Whether it is known to change nothing, and to stay inside the roots."""
        return self.harmless and not self.leaves and not self.redirected


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What a command would run.

    Attributes:
        understood: Whether all of it is known. If not, somebody has to be asked.
        problem: What could not be understood; empty if all was.
        invocations: The programs, as far as they are known.
        mentions: The words of a command that could not be parsed at all, in lower case.
    """

    understood: bool
    problem: str = ""
    invocations: tuple[Invocation, ...] = ()
    mentions: frozenset[str] = frozenset()

    @property
    def only_reads(self) -> bool:
        """Whether nothing would change, and nothing outside the roots would be reached."""
        return self.understood and all(each.only_reads for each in self.invocations)

    @property
    def writes(self) -> tuple[str, ...]:
        """The files that would be written, as far as that is known."""
        return tuple(
            dict.fromkeys(path for each in self.invocations for path in each.writes)
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """The files that would be read, as far as that is known."""
        return tuple(
            dict.fromkeys(path for each in self.invocations for path in each.reads)
        )
