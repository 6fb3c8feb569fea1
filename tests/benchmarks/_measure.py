"""Measures in rounds: the unit and every subject take turns, so that noise hits them alike.

What is compared is always from one round, and what is reported is the median over rounds.
Garbage is collected as usual, since users pay for that too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from time import process_time
from typing import TypeAlias

__all__ = ["Subject", "awaited", "called", "interleave", "ratio", "slope", "unit"]

Subject: TypeAlias = Callable[[int], Awaitable[float]]
"""Does its work a number of times and returns the seconds that one time took."""


def awaited(
    work: Callable[[], Awaitable[object]], clock: Callable[[], float] = process_time
) -> Subject:
    """Measure something that is awaited, by default in seconds of CPU."""

    async def repeat(count: int) -> float:
        started = clock()
        for _ in range(count):
            await work()
        return (clock() - started) / count

    return repeat


def called(work: Callable[[], object]) -> Subject:
    """Measure something that is only called, in seconds of CPU."""

    async def repeat(count: int) -> float:
        started = process_time()
        for _ in range(count):
            work()
        return (process_time() - started) / count

    return repeat


async def _empty() -> None: ...


async def _task() -> None:
    await asyncio.create_task(_empty())


unit = awaited(_task)
"""What everything is compared with: to start one task and wait for it."""


async def interleave(
    subjects: Mapping[str, Subject], *, rounds: int = 25, at_least_s: float = 0.01
) -> dict[str, list[float]]:
    """Measure subjects in turns.

    Args:
        subjects: What to measure, by name.
        rounds: How often it is each subject's turn. Every other round goes backwards, so
            that none always comes after the same one.
        at_least_s: How long a turn lasts, in seconds; a subject repeats its work as often
            as that needs.

    Returns:
        For each subject the seconds that its work took once, by round.
    """
    counts = {name: await _warm_up(each, at_least_s) for name, each in subjects.items()}
    measured: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for _ in range(rounds):
        for name in order:
            measured[name].append(await subjects[name](counts[name]))
        order.reverse()
    return measured


async def _warm_up(subject: Subject, at_least_s: float) -> int:
    """Return how often a subject has to repeat its work in one turn."""
    count = 1
    while (once := await subject(count)) * count < at_least_s:
        count = max(count * 2, int(at_least_s / once) if once else 0)
    return count


def ratio(subject: Sequence[float], base: Sequence[float]) -> float:
    """Return how many times as long as the base a subject took: the median over rounds."""
    return median(each / other for each, other in zip(subject, base, strict=True))


def slope(few: Sequence[float], many: Sequence[float], steps: int) -> list[float]:
    """Return by round what each step took that separates two sizes of one subject."""
    return [(more - less) / steps for less, more in zip(few, many, strict=True)]
