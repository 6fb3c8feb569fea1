"""Shell commands, judged on what would run.

`analyse` takes a command apart with a shell's grammar, down to the programs that would run,
and says of each whether it only reads. Where it cannot tell what would run, it says that
instead: such a command asks, whatever the rules allow. This is no confinement: it decides
who is asked, and the operating system decides what a program can do.

A specifier is what stands in the brackets of `bash_command(...)`: words as in a shell, of
which the last may be `*` for any further words, and another `*` for any one word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kaizen_permissions._invocations import Walk
from kaizen_permissions._judged import Analysis, Invocation
from kaizen_permissions._specifiers import Specifier, specifier

__all__ = [
    "Analysis",
    "Invocation",
    "Specifier",
    "analyse",
    "covers",
    "matches",
    "specifier",
    "touches",
]


def analyse(command: str, *, cwd: Path, roots: Sequence[Path]) -> Analysis:
    """Say what a command would run.

    Links are resolved as they are now. Never raises, and takes time in proportion to the
    length of the command.

    Args:
        command: What a shell, bash, would be given with `-c`.
        cwd: Where it would run.
        roots: The directories that it may read and write in.
    """
    return Walk(cwd, roots).analysis(command)


def matches(analysis: Analysis, wanted: str | Specifier) -> bool:
    """Tell whether every program that would run is one that a specifier names."""
    return (
        analysis.understood
        and bool(analysis.invocations)
        and all(_compiled(wanted).covers(each) for each in analysis.invocations)
    )


def covers(
    analysis: Analysis,
    allowed: Iterable[str | Specifier],
    *,
    may_write: Callable[[str], bool] = lambda _path: False,
) -> bool:
    """Tell whether specifiers that allow, taken together, allow a command.

    Each program that would run has to be one that only reads, or that one of the
    specifiers names. A specifier says which programs may run, not which files the shell
    itself may write for them with `>`: that is another question, which `may_write`
    answers, and nothing outside the roots is ever allowed.

    Args:
        analysis: What the command would run.
        allowed: What rules allow.
        may_write: Whether the shell may write a file inside the roots, by its path as
            `Invocation.redirected` has it.
    """
    if not analysis.understood:
        return False
    compiled = [_compiled(each) for each in allowed]
    return all(
        not each.leaves
        and all(may_write(path) for path in each.redirected)
        and (each.harmless or any(one.covers(each) for one in compiled))
        for each in analysis.invocations
    )


def touches(analysis: Analysis, refused: str | Specifier) -> bool:
    """Tell whether a command would, or might, run something that a specifier names.

    This is for rules that deny or ask: one program among many is enough, whatever it is
    wrapped in and however it is spelled. A word that is not known before the command runs
    counts as any word. In a command that cannot be parsed, it is enough that the words
    occur.
    """
    compiled = _compiled(refused)
    return any(compiled.touches(each) for each in analysis.invocations) or (
        bool(analysis.mentions) and compiled.mentioned(analysis.mentions)
    )


def _compiled(wanted: str | Specifier) -> Specifier:
    return specifier(wanted) if isinstance(wanted, str) else wanted
