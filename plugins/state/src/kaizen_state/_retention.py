"""Lets old runs go: all but the newest of each agent, and what is older than it may be.

What may go is a run that has ended and is carried out by nobody. One that was
interrupted could go on, and so could one that failed since nobody knows what a call did:
somebody has to decide. A run inside another one is never let go by itself, since the outer
one, once it is resumed, would do its work again; it goes with the outer one, after it.
States that were made by hand, and forks of these, never go because of runs.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import time

from kaizen import (
    CheckpointLoadError,
    CheckpointSaveError,
    CheckpointStore,
    OutcomeUnknownError,
    RunRecord,
    StoredEntry,
)
from kaizen.checkpoints import read_log
from kaizen.runlog import ChildEnded, RunEnded, decode

from kaizen_state._agent_state import infos_of
from kaizen_state._series import is_fork_by_hand, place_in_series

__all__ = ["Retention", "drop", "in_order", "old_logs"]

MAX_RUNS = 1_000_000
MAX_AGENTS = 1_000
LOOK_AGAIN = 100
_LISTED = 1_000
_FINISHED = ("completed", "failed", "cancelled")  # as `kaizen runs prune` has it


@dataclass(slots=True)
class _Line:
    """The runs of an agent that have ended, oldest first, and when.

    Attributes:
        left: How many runs may end until the store is asked again what it has.
    """

    store: CheckpointStore
    runs: deque[tuple[str, float]] = field(default_factory=deque)
    left: int = LOOK_AGAIN


class Retention:
    """How many runs of an agent are kept, and for how long.

    Args:
        count: Most runs that have ended; `None` for any number.
        ttl_s: The longest time since a run was last written, in seconds, or `None`.
    """

    def __init__(self, count: int | None, ttl_s: float | None) -> None:
        self.count = count
        self.ttl_s = ttl_s
        self._lines: OrderedDict[tuple[int, str], _Line] = OrderedDict()

    async def after(
        self, store: CheckpointStore, agent_id: str, run_id: str, *, ended: bool
    ) -> None:
        """Let go what is too much, now that one more run of an agent is over.

        The store is asked what it has for each agent at first, and then once in a hundred
        runs, so that also runs of other processes count.

        Args:
            store: What keeps the runs.
            agent_id: The agent.
            run_id: The run.
            ended: Whether it has ended, so that it counts.
        """
        line = await self._line(store, agent_id)
        line.runs = deque(each for each in line.runs if each[0] != run_id)
        if ended:
            line.runs.append((run_id, time()))
        line.left -= 1
        while line.runs and self._is_too_much(len(line.runs), line.runs[0][1]):
            oldest, _ = line.runs.popleft()
            if oldest != run_id:
                await drop(store, oldest)

    async def prune(
        self, store: CheckpointStore, agent_id: str | None, *, unfinished: bool
    ) -> list[str]:
        """Let go what is too much of one agent, or of all; return what went."""
        records = await store.runs(limit=MAX_RUNS)
        there = {each.run_id for each in records}
        by_agent: dict[str, list[RunRecord]] = {}
        for each in records:
            inside = each.parent_id and each.parent_id in there
            if agent_id in (None, each.agent_id) and not inside and not each.owner:
                by_agent.setdefault(each.agent_id, []).append(each)
        dropped: list[str] = []
        for own in by_agent.values():
            runs, series, forks = _parted(own, unfinished=unfinished)
            for place, each in enumerate(runs, start=1):
                if self._is_too_much(place, each.updated_at):
                    dropped += await drop(store, each.run_id, unfinished=unfinished)
            for logs in (in_order(series), forks):
                for each in await self._not_needed(store, logs):
                    dropped += await drop(store, each.run_id)
        self._lines.clear()
        return dropped

    def _is_too_much(self, place: int, at: float) -> bool:
        if self.count is not None and place > self.count:
            return True
        return self.ttl_s is not None and at < time() - self.ttl_s

    async def _not_needed(
        self, store: CheckpointStore, logs: Sequence[RunRecord]
    ) -> list[RunRecord]:
        """Return the logs of states made by hand that may go; the newest come first."""
        old = await old_logs(store, logs, self.count)
        expired = [each for each in logs if self._is_too_much(0, each.updated_at)]
        return [*old, *(each for each in expired if each not in old)]

    async def _line(self, store: CheckpointStore, agent_id: str) -> _Line:
        key = (id(store), agent_id)
        line = self._lines.get(key)
        if line is None or line.left <= 0 or line.store is not store:
            limit = (self.count or 0) + _LISTED
            records = await store.runs(agent_id=agent_id, limit=limit)
            ended, _, _ = _parted(records, unfinished=False)
            outer = [(each.run_id, each.updated_at) for each in ended if not each.parent_id]
            line = _Line(store, deque(reversed(outer)))
        self._lines[key] = line
        self._lines.move_to_end(key)
        if len(self._lines) > MAX_AGENTS:
            self._lines.popitem(last=False)
        return line


def _parted(
    records: Iterable[RunRecord], *, unfinished: bool
) -> tuple[list[RunRecord], list[RunRecord], list[RunRecord]]:
    """Part runs that may go from logs of states made by hand, and from forks of these."""
    runs: list[RunRecord] = []
    series: list[RunRecord] = []
    forks: list[RunRecord] = []
    for each in records:
        if place_in_series(each.run_id) is not None:
            series.append(each)
        elif is_fork_by_hand(each.run_id):
            forks.append(each)
        elif not each.owner and (unfinished or each.status in _FINISHED):
            runs.append(each)
    return runs, series, forks


def in_order(series: Iterable[RunRecord]) -> list[RunRecord]:
    """Return the logs of a series, the newest first."""
    return sorted(
        series,
        key=lambda each: (place_in_series(each.run_id) or 0, each.run_id),
        reverse=True,
    )


async def old_logs(
    store: CheckpointStore, logs: Sequence[RunRecord], count: int | None
) -> list[RunRecord]:
    """Return the logs that the newest so many states made by hand do not need.

    Args:
        store: What keeps them.
        logs: The logs, the newest first.
        count: How many states have to stay, or `None` for all.
    """
    if count is None:
        return []
    left = count
    for place, each in enumerate(logs):
        if left <= 0:
            return list(logs[place:])
        left -= await _states_in(store, each)
    return []


async def _states_in(store: CheckpointStore, log: RunRecord) -> int:
    """Return how many states a log adds to those that it shares; a fork is one itself."""
    shared = log.forked_from[1] if log.forked_from else 0
    try:
        entries = await read_log(store, log.run_id)
        states = len(infos_of(log.run_id, entries, start=shared))
    except CheckpointLoadError:  # it is damaged, and helps nobody
        return 0
    return max(states, 1) if shared else states


async def drop(
    store: CheckpointStore, run_id: str, *, unfinished: bool = False
) -> list[str]:
    """Let a run go, and those inside it; return which of them went.

    One that somebody carries out stays, and so does one that has not ended, unless that was
    asked for.
    """
    try:
        stored = await store.read(run_id)
        if not unfinished and not _has_ended(stored):
            return []
    except CheckpointLoadError:  # it is gone, or damaged, which somebody has to look at
        return []
    try:
        await store.delete(run_id)
    except CheckpointSaveError:
        return []
    dropped = [run_id]
    for child in _children(stored):
        dropped += await drop(store, child, unfinished=True)
    return dropped


def _has_ended(stored: Sequence[StoredEntry]) -> bool:
    """Whether a run has ended, and nobody has to decide anything."""
    telling = (RunEnded.type, "resumed", "rewound", "forked")
    last = next((each for each in reversed(stored) if each.type in telling), None)
    entry = decode(last) if last is not None else None
    return (
        isinstance(entry, RunEnded)
        and entry.status in _FINISHED
        and entry.error_code != OutcomeUnknownError.code
    )


def _children(stored: Iterable[StoredEntry]) -> list[str]:
    """Return the runs inside a run, each once."""
    found: dict[str, None] = {}
    for each in stored:
        if each.type == ChildEnded.type:
            entry = decode(each)
            assert isinstance(entry, ChildEnded)
            found[entry.run_id] = None
    return list(found)
