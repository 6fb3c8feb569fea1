"""What can be told of a run that is kept: found by the beginning of its id, and read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from kaizen.checkpoints import read_log, split_checkpoint_id
from kaizen.errors import CheckpointLoadError
from kaizen.ports import CheckpointStore, RunRecord
from kaizen.runlog import (
    Entry,
    Forked,
    Marked,
    Resumed,
    Rewound,
    RunEnded,
    RunState,
    ToolIntended,
    fold,
    history,
)

from kaizen_cli._recorded import Recorded

__all__ = [
    "Overview",
    "all_records",
    "beneath",
    "carried_out_by",
    "cut_off_in",
    "find",
    "moment",
    "newest",
    "overview",
]

MOST = 1_000_000
SHOWN_DIGITS = 8
RESUMABLE = ("running", "interrupted", "failed")
_UNFINISHED = ("running", "paused", "crashed", "ready")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A run, read from its store.

    Attributes:
        entries: Its log, or nothing if that is damaged.
        state: What the log comes to.
        cut_off: The calls of tools that it had begun, and of which nobody knows the end.
        problem: Why the log cannot be read, or `""`.
    """

    record: RunRecord
    entries: Sequence[Entry] = ()
    state: RunState | None = None
    cut_off: Sequence[ToolIntended] = ()
    problem: str = ""

    @property
    def run_id(self) -> str:
        """The run."""
        return self.record.run_id

    @property
    def recorded(self) -> Recorded:
        """How the command line started it, if it did."""
        started = self.state.started if self.state else None
        return Recorded.read(started.metadata if started else {})

    @property
    def status(self) -> str:
        """What it is doing, in one word; see `kaizen runs list --help`."""
        if self.state is None:
            return "damaged"
        if self.record.status != "running":
            return self.record.status
        if self.record.owner:
            return "paused" if self.state.paused else "running"
        if self.entries and isinstance(self.entries[-1], Forked | Rewound):
            return "ready"
        return "crashed"

    @property
    def undecided(self) -> Sequence[ToolIntended]:
        """The calls that were cut off, and need a decision before it can go on."""
        return [each for each in self.cut_off if not each.idempotent]

    @property
    def waits_for(self) -> str:
        """What has to come before it goes on: `answer`, `decision`, or `""`."""
        if self.state is None or self.record.status not in RESUMABLE:
            return ""
        if self.state.questions:
            return "answer"
        return "decision" if self.undecided else ""

    @property
    def checkpoints(self) -> Sequence[Marked | RunEnded]:
        """The places to go back to, oldest first."""
        counting = history(self.entries)
        return [each for each in counting if isinstance(each, Marked | RunEnded)]

    @property
    def about(self) -> str:
        """What it was asked: its first input, or the message of a conversation."""
        started = self.state.started if self.state else None
        if started is None:
            return ""
        inputs: Mapping[str, Any] = started.inputs
        if self.recorded.command == "chat" and "message" in inputs:
            return str(inputs["message"])
        return next((str(each) for each in inputs.values() if each), "")

    @property
    def can_go_on(self) -> bool:
        """Whether `kaizen runs resume` may let it go on; a part of another run may not."""
        started = self.state.started if self.state else None
        if started is None or started.direct or self.record.parent_id:
            return False
        return not self.record.owner and self.record.status in RESUMABLE


async def overview(store: CheckpointStore, record: RunRecord) -> Overview:
    """Read the log of a run; one that is damaged is told of, not raised for."""
    try:
        entries = await read_log(store, record.run_id)
        state = fold(entries)
    except CheckpointLoadError as error:
        return Overview(record=record, problem=str(error))
    return Overview(
        record=record,
        entries=entries,
        state=state,
        cut_off=_cut_off(record, entries, state),
    )


def _cut_off(
    record: RunRecord, entries: Sequence[Entry], state: RunState
) -> Sequence[ToolIntended]:
    """Return the calls that the run would find without a result if it went on now."""
    if record.owner or record.status == "completed" or not (state.pending or state.closed):
        return ()
    reopened = fold([*entries, Resumed(seq=len(entries), at=0.0, owner="")])
    return [*reopened.pending.values()]


async def all_records(store: CheckpointStore) -> Sequence[RunRecord]:
    """Return what the store says of every run, last updated first."""
    return await store.runs(limit=MOST)


async def newest(
    store: CheckpointStore,
    *,
    agent: str | None,
    status: str | None,
    limit: int,
    with_children: bool,
) -> list[Overview]:
    """Return the runs that are wanted, last updated first, and read the logs of no others.

    Where only its log tells what a run is waiting for, the logs of those are read that may.
    """
    found: list[Overview] = []
    async for record in _records(store, agent, _kept_as(status), limit):
        if (record.parent_id and not with_children) or not _may_be(record, status):
            continue
        read = await overview(store, record)
        if status in (None, read.status) or (status == "waiting" and read.waits_for):
            found.append(read)
        if len(found) == limit:
            break
    return found


def _kept_as(status: str | None) -> str | None:
    """Return the status under which a store keeps the runs that are wanted."""
    if status in _UNFINISHED:
        return "running"
    return None if status in ("waiting", "damaged") else status


def _may_be(record: RunRecord, status: str | None) -> bool:
    """Whether a run may have a status, as far as its store can say."""
    if status in ("running", "paused"):
        return bool(record.owner)
    if status in ("crashed", "ready"):
        return not record.owner
    return status != "waiting" or record.status in RESUMABLE


async def _records(
    store: CheckpointStore, agent: str | None, status: str | None, wanted: int
) -> AsyncIterator[RunRecord]:
    """Give records, last updated first, and ask for more only where they are needed."""
    seen: set[str] = set()
    limit = wanted * 2 + 20
    while True:
        records = await store.runs(agent_id=agent, status=status, limit=limit)
        for record in records:
            if record.run_id not in seen:
                seen.add(record.run_id)
                yield record
        if len(records) < limit or limit >= MOST:
            return
        limit = min(MOST, limit * 8)


def find(records: Iterable[RunRecord], name: str) -> tuple[RunRecord, int | None]:
    """Return the run that an id or the beginning of one means, and a position in it.

    Raises:
        CheckpointLoadError: There is no such run, or there can be none.
        click.UsageError: There are several.
    """
    start, position = split_checkpoint_id(name)
    found = [each for each in records if each.run_id.startswith(start)]
    exact = [each for each in found if each.run_id == start]
    if exact:
        return exact[0], position
    if len(found) == 1:
        return found[0], position
    if not found:
        raise CheckpointLoadError(
            f"run {start!r}", "is unknown to the store", "`kaizen runs list` shows them."
        )
    some = ", ".join(each.run_id for each in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise click.UsageError(
        f"{start!r} is the beginning of {len(found)} runs: {some}{more}. Add a digit."
    )


def beneath(records: Iterable[RunRecord], run_id: str) -> list[RunRecord]:
    """Return the runs that were started inside a run, and inside those, and so on."""
    inside: dict[str, list[RunRecord]] = {}
    for each in records:
        if each.parent_id:
            inside.setdefault(each.parent_id, []).append(each)
    found: dict[str, RunRecord] = {}
    parents = [run_id]
    while parents:
        for each in inside.pop(parents.pop(), ()):
            found[each.run_id] = each
            parents.append(each.run_id)
    found.pop(run_id, None)  # a store that says so is wrong
    return list(found.values())


async def cut_off_in(
    store: CheckpointStore, records: Iterable[RunRecord], run: Overview
) -> list[tuple[str, ToolIntended]]:
    """Return the calls of a run, and of those inside it, that were cut off.

    Those that are `idempotent` need no decision, but where their tool has changed since.

    Returns:
        Each with what it is called on the command line.
    """
    calls = [(each.call_id, each) for each in run.cut_off]
    if run.record.owner or run.record.status == "completed":
        return calls
    for record in beneath(records, run.run_id):
        child = await overview(store, record)
        calls += [(f"{child.run_id}:{each.call_id}", each) for each in child.cut_off]
    return calls


def carried_out_by(record: RunRecord) -> str:
    """Say who carries out a run, such as `pid 123 on myhost`; `""` if nobody does."""
    return record.owner.partition(":")[0]


def moment(seconds: float) -> datetime | None:
    """Return a time of the log, or `None` if it is unknown, or none that there can be."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None
