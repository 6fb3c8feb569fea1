"""The manager of checkpoints: it makes them by itself and by hand, finds and loads them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from time import time
from types import UnionType
from typing import Any

from kaizen import (
    AgentLoop,
    Checkpoint,
    CheckpointLoadError,
    CheckpointRequest,
    CheckpointSaveError,
    CheckpointStore,
    Cycle,
    CycleRequest,
    CycleResult,
    HookManager,
    InterruptEvent,
    Priority,
    Result,
    RunRecord,
    RunRequest,
    hookimpl,
)
from kaizen.checkpoints import fork, read_log, rewind, split_checkpoint_id
from kaizen.run import Run, running
from kaizen.runlog import Entry, Marked, RunEnded, RunState, encode

from kaizen_state._agent_state import (
    HIDDEN,
    SOURCE,
    AgentState,
    CheckpointInfo,
    hidden,
    hiding,
    infos_of,
    is_about_checkpoints,
    is_by_hand,
    is_hidden,
    last_place,
    packed,
    state_at,
)
from kaizen_state._automatic import Automatic
from kaizen_state._by_hand import StatesByHand, in_time, is_gone, writing
from kaizen_state._retention import Retention, drop
from kaizen_state._series import place_in_series
from kaizen_state._through_hooks import save_through_hooks

__all__ = ["StateManager"]

MAX_TOLD = 100
_LOG = logging.getLogger("kaizen")


class StateManager:
    """Makes checkpoints of agents, by itself and by hand, and finds them again.

    Given to an agent as `state_manager`, it keeps the agent's runs in its storage and marks
    them while they go on. What is saved by hand stands beside them, in the same storage.

    Args:
        storage: Any checkpoint store.
        checkpoint_frequency: Mark a run after so many turns since its last checkpoint, or
            never for that reason if it is `None`.
        checkpoint_interval: Mark it after the first turn that ends so many seconds after
            its last checkpoint, or `None`.
        retention_count: How many runs of an agent, and how many states of it that were
            saved by hand, are kept; `None` for all.
        ttl_seconds: For how long a run is kept after it was last written, or `None`.
        checkpoint_on_interrupt: Whether a run that is about to stop on request is marked.
        hook_manager: Whose hooks are told when a state is saved by hand.

    Raises:
        TypeError: The storage is none, or a number is no number.
        ValueError: A number is not above zero.
    """

    def __init__(
        self,
        storage: CheckpointStore,
        checkpoint_frequency: int | None = 10,
        checkpoint_interval: float | None = 60.0,
        retention_count: int | None = 100,
        ttl_seconds: float | None = None,
        checkpoint_on_interrupt: bool = True,
        hook_manager: HookManager | None = None,
    ) -> None:
        _require_store(storage)
        _require_above_zero("checkpoint_frequency", checkpoint_frequency, int)
        _require_above_zero("checkpoint_interval", checkpoint_interval, int | float)
        _require_above_zero("retention_count", retention_count, int)
        _require_above_zero("ttl_seconds", ttl_seconds, int | float)
        self._storage = storage
        self._retention = Retention(retention_count, ttl_seconds)
        limited = retention_count is not None or ttl_seconds is not None
        self._automatic = Automatic(
            self._retention if limited else None,
            frequency=checkpoint_frequency,
            interval_s=checkpoint_interval,
            on_interrupt=checkpoint_on_interrupt,
        )
        self._hooks = () if hook_manager is None else (hook_manager,)
        self._by_hand = StatesByHand(storage, retention_count)

    @property
    def storage(self) -> CheckpointStore:
        """What keeps the runs and states."""
        return self._storage

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        return await self._automatic.agent_loop(request, call_next)

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
        return await self._automatic.cycle(request, call_next)

    @hookimpl(priority=Priority.LOW)
    async def pre_interrupt(self, event: InterruptEvent) -> None:
        await self._automatic.interrupt(event)

    async def save_checkpoint(
        self,
        state: AgentState | Run | RunState,
        description: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Save a state, or mark a run that is under way, and return the checkpoint's id.

        Of a state of an agent only what is new since the last one is stored.

        Args:
            state: The state, a run, or the state of a run.
            description: What the checkpoint is about.
            metadata: What is kept with the checkpoint, as JSON values.

        Raises:
            CheckpointSaveError: It holds what cannot be kept, somebody else writes the
                same, or the run is kept elsewhere or not at all.
            TypeError: It is no state.
        """
        if isinstance(state, RunState):
            state = self._run_of(state)
        if isinstance(state, Run):
            self._require_kept_here(state)
            return (await state.checkpoint(description, metadata)).id
        if not isinstance(state, AgentState):
            raise TypeError(
                f"save_checkpoint() takes an AgentState, a Run or the state of a run, not "
                f"{type(state).__name__!r}: write AgentState(agent_id=…, …)"
            )
        made = packed(state)

        async def save(request: CheckpointRequest) -> Checkpoint:
            return await self._by_hand.save(made, request)

        request = CheckpointRequest(
            run_id="",
            agent_id=made.agent_id,
            description=description or ("" if state.checkpoint_id else state.description),
            metadata=metadata or {},
        )
        return (await save_through_hooks(self._hooks, request, save)).id

    async def save_state(self, state: AgentState) -> str:
        """Save a state; the same as `save_checkpoint` without more to say."""
        return await self.save_checkpoint(state)

    async def create_checkpoint(self, agent_id: str, description: str = "") -> str:
        """Mark the run of an agent that is under way, or save its latest state anew.

        Of several runs the one is marked inside which this is called, else the one that
        began last. An agent of which nothing is known yet gets an empty state.

        Returns:
            The checkpoint's id.
        """
        run = self._under_way(agent_id)
        if run is not None:
            return await self.save_checkpoint(run, description)
        latest = await self.resume_from_latest(agent_id)
        if latest is None:
            latest = AgentState(agent_id=agent_id, status="pending")
        return await self.save_checkpoint(latest, description)

    async def load_checkpoint(
        self, checkpoint_id: str, *, agent_id: str | None = None
    ) -> AgentState:
        """Return the state at a checkpoint; the id of a run stands for the end of its log.

        Args:
            checkpoint_id: A checkpoint or a run.
            agent_id: Whose it has to be; by default anybody's.

        Raises:
            CheckpointLoadError: There is no such checkpoint, it was deleted, is damaged, or
                belongs to another agent.
        """
        _, _, state = await self._read(checkpoint_id)
        if agent_id not in (None, state.agent_id):
            raise CheckpointLoadError(
                f"checkpoint {checkpoint_id!r}",
                f"belongs to agent {state.agent_id!r}, not to {agent_id!r}",
                "`list(agent_id)` shows those that the agent has.",
            )
        return state

    async def restore_checkpoint(self, checkpoint_id: str) -> AgentState:
        """Return the state at a checkpoint; the same as `load_checkpoint`."""
        return await self.load_checkpoint(checkpoint_id)

    async def resume_from_latest(self, agent_id: str) -> AgentState | None:
        """Return the last state of an agent, over all its runs; `None` if there is none.

        To go on with the run that it is of, give its `checkpoint_id` to `agent.resume`.
        """
        async with aclosing(self._newest_first(agent_id, self._log)) as logs:
            async for record, entries in logs:
                place = last_place(record.run_id, entries)
                if place is not None or not is_by_hand(entries):
                    end = place if is_by_hand(entries) else None
                    return state_at(record.run_id, entries, end)
        return None

    async def fork_from_checkpoint(
        self, checkpoint_id: str, new_agent_id: str | None = None
    ) -> AgentState:
        """Begin a new past that shares the old one up to a checkpoint; return its state.

        Nothing is copied. A run goes on from there with `agent.resume(state.run_id)`, and a
        state that was made by hand with `save_checkpoint(state)`.

        Args:
            checkpoint_id: A checkpoint or a run.
            new_agent_id: Whose it is from now on; by default that of the same agent.

        Raises:
            CheckpointLoadError: There is no such checkpoint.
        """
        entries, seq, state = await self._read(checkpoint_id)
        if new_agent_id is not None:
            state.agent_id = new_agent_id
        run_id, _ = split_checkpoint_id(checkpoint_id)
        if seq is None or not is_by_hand(entries):
            new_run_id = await fork(
                self._storage,
                f"{run_id}:{seq}" if seq is not None else run_id,
                agent_id=state.agent_id,
            )
            update: dict[str, Any] = {"status": "running"}
        else:
            new_run_id = await self._by_hand.fork(run_id, seq, state.agent_id)
            update = {}
        update |= {"run_id": new_run_id, "checkpoint_id": new_run_id}
        return state.model_copy(update=update)

    async def rewind(self, checkpoint_id: str) -> AgentState:
        """Go back to a checkpoint, within the same run, and return the state there.

        Nothing is erased, and what was spent stays on the account.

        Raises:
            CheckpointLoadError: There is no such checkpoint.
            CheckpointSaveError: The run is carried out right now.
        """
        entries, _, _ = await self._read(checkpoint_id)
        await rewind(self._storage, checkpoint_id)
        run_id, _ = split_checkpoint_id(checkpoint_id)
        if is_by_hand(entries):
            await self._by_hand.end_again(run_id)
        return await self.load_checkpoint(checkpoint_id)

    async def list(
        self, agent_id: str | None = None, limit: int = 100
    ) -> Sequence[CheckpointInfo]:
        """Return the checkpoints of an agent, or of all, newest first.

        These are the marks and the ends of runs, and the states that were saved by hand.
        Those of one run stand together, and first those of the run that was written last:
        no clock is asked. The logs are read for that, as many as are needed.
        """
        found: list[CheckpointInfo] = []
        left: dict[str, int] = {}
        async with aclosing(self._newest_first(agent_id, self._log_or_none)) as logs:
            async for record, entries in logs:
                if len(found) >= limit:
                    break
                try:
                    found += self._shown(record, entries, left)
                except CheckpointLoadError as error:
                    _not_listed(record.run_id, error)
        return found[: max(0, limit)]

    async def delete(self, checkpoint_id: str) -> None:
        """Delete a checkpoint, or a whole run with those inside it.

        The place of a checkpoint stays in its log, since the state is what the log comes
        to: it is hidden, and loads no more. Forks of a run keep what they share with it.

        Raises:
            CheckpointLoadError: There is no such checkpoint.
            CheckpointSaveError: The run is carried out right now.
        """
        run_id, seq = _split(checkpoint_id)
        if seq is None:
            await self._delete_run(run_id)
            return
        await self._read(checkpoint_id)
        run = self._automatic.running.get(run_id)
        if run is not None and not run.ended:
            run.note(SOURCE, HIDDEN, hiding(seq))
            await run.log.flush()
            return
        with in_time(f"the deletion of {checkpoint_id!r}"):
            async with writing(self._storage, run_id) as token:
                length = len(await self._storage.read(run_id))
                entry = encode(hidden(length, time(), seq))
                await self._storage.append(run_id, [entry], token=token)

    async def prune(
        self, agent_id: str | None = None, *, unfinished: bool = False
    ) -> Sequence[str]:
        """Let go what `retention_count` and `ttl_seconds` do not keep; return what went.

        A run that is carried out stays, and so does one that could go on: it has not ended,
        was interrupted, or somebody has to decide about a call. Of states that were saved
        by hand the newest `retention_count` stay, and at most as many again, since they go
        in blocks; the same holds for forks of these, apart.

        Args:
            agent_id: Of one agent only.
            unfinished: Let also go what could go on and nobody carries out.
        """
        return await self._retention.prune(self._storage, agent_id, unfinished=unfinished)

    async def _newest_first(
        self,
        agent_id: str | None,
        read: Callable[[RunRecord], Awaitable[Sequence[Entry]]],
    ) -> AsyncGenerator[tuple[RunRecord, Sequence[Entry]]]:
        """Yield runs with their logs, last written first, as the store has it.

        That a checkpoint of a run was deleted is no reason to come earlier.
        """
        touched: list[tuple[float, RunRecord, Sequence[Entry]]] = []
        async with aclosing(self._records(agent_id)) as records:
            async for record in records:
                entries = await read(record)
                if not entries:
                    continue
                at = _written_at(entries)
                if is_about_checkpoints(entries[-1]):
                    touched.append((at, record, entries))
                    touched.sort(key=lambda each: each[0])
                    continue
                while touched and touched[-1][0] > at:
                    yield touched.pop()[1:]
                yield record, entries
        while touched:
            yield touched.pop()[1:]

    async def _records(self, agent_id: str | None) -> AsyncGenerator[RunRecord]:
        """Yield the records of runs, last updated first; more are asked for as needed."""
        if agent_id is not None:
            await self._tell_of_damage(agent_id)
        seen: set[str] = set()
        limit = 16
        while True:
            records = await self._storage.runs(agent_id=agent_id, limit=limit)
            for each in records:
                if each.run_id not in seen:
                    seen.add(each.run_id)
                    yield each
            if len(records) < limit:
                return
            limit *= 8

    async def _tell_of_damage(self, agent_id: str) -> None:
        """Say of which runs nobody can tell whose they are: one may be what is sought.

        Only the last ones written are looked at; an older one would not have been found.
        """
        for each in await self._storage.runs(limit=MAX_TOLD):
            if not each.agent_id:
                _LOG.warning(
                    "run %s is damaged, so that nobody can tell whether it is of agent %s",
                    each.run_id,
                    agent_id,
                )

    async def _log(self, record: RunRecord) -> Sequence[Entry]:
        """Return the log of a run; an empty one if it was deleted since it was listed."""
        try:
            return await read_log(self._storage, record.run_id)
        except CheckpointLoadError:
            if await is_gone(self._storage, record.run_id):
                return ()
            raise

    async def _log_or_none(self, record: RunRecord) -> Sequence[Entry]:
        """Return the log of a run; an empty one also if it is damaged, which is told."""
        try:
            return await self._log(record)
        except CheckpointLoadError as error:
            _not_listed(record.run_id, error)
            return ()

    def _shown(
        self, record: RunRecord, entries: Sequence[Entry], left: dict[str, int]
    ) -> Sequence[CheckpointInfo]:
        """Return the checkpoints of one run, newest first.

        Args:
            record: The run.
            entries: Its log.
            left: How many states made by hand are still to be shown of each agent.
        """
        start = record.forked_from[1] if record.forked_from else 0
        infos = infos_of(record.run_id, entries, start=start)[::-1]
        count = self._retention.count
        if place_in_series(record.run_id) is None or count is None:
            return infos
        infos = infos[: left.get(record.agent_id, count)]
        left[record.agent_id] = left.get(record.agent_id, count) - len(infos)
        return infos

    def _run_of(self, state: RunState) -> Run:
        """Return the run under way whose state this is."""
        found = running()
        while found is not None and found.state is not state:
            found = found.parent
        for each in self._automatic.running.values():
            if each.state is state:
                found = each
        if found is None:
            raise CheckpointSaveError(
                "the state of a run",
                "is of none that is under way here",
                "Give the run itself, or an AgentState.",
            )
        return found

    def _under_way(self, agent_id: str) -> Run | None:
        here = running()
        while here is not None:
            if here.agent_id == agent_id and not here.ended and self._keeps(here):
                return here
            here = here.parent
        own = [
            each
            for each in self._automatic.running.values()
            if each.agent_id == agent_id and not each.ended
        ]
        return own[-1] if own else None

    def _keeps(self, run: Run) -> bool:
        keeping = run.plan.keeping
        return keeping is not None and keeping.store is self._storage

    def _require_kept_here(self, run: Run) -> None:
        if not self._keeps(run):
            raise CheckpointSaveError(
                f"run {run.id!r}",
                "is kept in no storage of this manager",
                "Make its agent with `state_manager=` this one.",
            )

    async def _read(
        self, checkpoint_id: str
    ) -> tuple[Sequence[Entry], int | None, AgentState]:
        """Return the log, the position and the state of a checkpoint that there is."""
        run_id, seq = _split(checkpoint_id)
        entries = await read_log(self._storage, run_id)
        if seq is not None:
            place = entries[seq] if seq < len(entries) else None
            if not isinstance(place, Marked | RunEnded):
                raise CheckpointLoadError(
                    f"run {run_id!r}",
                    f"has no checkpoint at position {seq}",
                    "`list()` shows those that there are.",
                )
            if is_hidden(entries, seq):
                raise CheckpointLoadError(
                    f"checkpoint {checkpoint_id!r}",
                    "was deleted",
                    "`list()` shows those that there are.",
                )
        elif is_by_hand(entries):
            seq = last_place(run_id, entries)
            if seq is None:
                raise CheckpointLoadError(f"run {run_id!r}", "has no checkpoint any more")
        return entries, seq, state_at(run_id, entries, seq)

    async def _delete_run(self, run_id: str) -> None:
        self._by_hand.forget(run_id)
        if run_id in await drop(self._storage, run_id, unfinished=True):
            return
        if await is_gone(self._storage, run_id):
            raise CheckpointLoadError(
                f"run {run_id!r}",
                "is unknown to the storage",
                "`list()` shows what is there.",
            )
        await self._storage.delete(run_id)  # it is damaged; or this says why it cannot be


def _require_store(storage: object) -> None:
    """Refuse what is no store, such as the name of a folder.

    Raises:
        TypeError: It is none.
    """
    asked = ("append", "read", "runs", "claim")
    if isinstance(storage, type) or not all(hasattr(storage, each) for each in asked):
        raise TypeError(
            "storage is a checkpoint store, such as FilesystemStorage('./checkpoints'), "
            f"not {storage!r:.200}"
        )


def _require_above_zero(name: str, value: float | None, kind: type | UnionType) -> None:
    """Refuse what is no number above zero.

    Raises:
        TypeError: It is no number, or no whole one where that is needed.
        ValueError: It is not above zero.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, kind):
        whole = "a whole number" if kind is int else "a number"
        raise TypeError(f"{name} is {whole} above 0, or None; it is {value!r:.100}")
    if not value > 0:
        raise ValueError(f"{name} must be above 0, or None; it is {value!r}")


def _split(checkpoint_id: object) -> tuple[str, int | None]:
    """Return the run and the position of a checkpoint.

    Raises:
        CheckpointLoadError: It is no id of a checkpoint or a run.
        TypeError: It is no text, but perhaps what has such an id.
    """
    if isinstance(checkpoint_id, str):
        return split_checkpoint_id(checkpoint_id)
    wanted = {
        AgentState: "its `checkpoint_id`",
        CheckpointInfo: "its `id`",
        Run: "its `id`",
    }
    give = wanted.get(type(checkpoint_id), "the id of a checkpoint or a run")
    name = type(checkpoint_id).__name__
    raise TypeError(f"a checkpoint is named by a text, not by {name!r}: give {give}")


def _written_at(entries: Sequence[Entry]) -> float:
    """Return when a log was written last for its own sake."""
    own = (each for each in reversed(entries) if not is_about_checkpoints(each))
    return next(own, entries[0]).at


def _not_listed(run_id: str, error: CheckpointLoadError) -> None:
    _LOG.warning("run %s is not listed: %s", run_id, error)
