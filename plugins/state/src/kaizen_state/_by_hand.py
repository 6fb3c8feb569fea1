"""Keeps states that somebody made: for each agent a log, in which each is what is new."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from time import time

import anyio
from kaizen import (
    Checkpoint,
    CheckpointError,
    CheckpointLoadError,
    CheckpointRequest,
    CheckpointSaveError,
    CheckpointStore,
    StoredEntry,
)
from kaizen.claims import is_run_id, new_owner
from kaizen.runlog import (
    Entry,
    Forked,
    Marked,
    RunEnded,
    RunStarted,
    decode,
    encode,
)

from kaizen_state._agent_state import (
    MADE_BY_HAND,
    SOURCE,
    Kept,
    Packed,
    agent_of,
    difference,
    is_by_hand,
    kept_in,
    saved,
)
from kaizen_state._retention import MAX_RUNS, drop
from kaizen_state._series import (
    is_fork_by_hand,
    new_fork_by_hand,
    place_in_series,
    series_of,
)

__all__ = ["StatesByHand", "in_time", "is_gone", "writing"]

STORAGE_TIMEOUT_S = 30.0
LEASE_S = 60.0
PATIENCE_S = 5.0
RETRY_S = 0.02
MAX_REMEMBERED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """What is known of a log of states, as long as its last entry is still the last.

    Attributes:
        tail: The last entry as it is stored; `None` if there is no log yet.
        states: How many states it holds.
    """

    run_id: str
    agent_id: str = ""
    tail: StoredEntry | None = None
    kept: Kept = field(default_factory=Kept)
    states: int = 0

    @property
    def length(self) -> int:
        """How many entries it has."""
        return 0 if self.tail is None else self.tail.seq + 1


class StatesByHand:
    """Saves states, each as what is different from the one before it.

    Args:
        storage: What keeps them.
        count: How many states of an agent have to be kept; `None` for all.
    """

    def __init__(self, storage: CheckpointStore, count: int | None) -> None:
        self._storage = storage
        self._count = count
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._busy: dict[str, anyio.Event] = {}

    async def save(self, state: Packed, request: CheckpointRequest) -> Checkpoint:
        """Add a state to its log; once begun, the writing comes to its end.

        Raises:
            CheckpointSaveError: It cannot be kept, or the storage does not answer.
        """
        series = series_of(state.agent_id)
        with in_time(f"a state of agent {state.agent_id[:200]!r}"):
            async with self._alone(series):
                log = await self._log_for(state, series)
                try:
                    log, checkpoint = await self._write(log, state, request)
                except CheckpointSaveError:
                    if log.tail is None or not await is_gone(self._storage, log.run_id):
                        raise
                    self._logs.pop(log.run_id, None)  # it was deleted behind our back
                    log = await self._log_for(state, series)
                    log, checkpoint = await self._write(log, state, request)
            self._logs[log.run_id] = log
            self._logs.move_to_end(log.run_id)
            if len(self._logs) > MAX_REMEMBERED:
                self._logs.popitem(last=False)
            return checkpoint

    async def fork(self, run_id: str, seq: int, agent_id: str) -> str:
        """Begin a log that shares the past of another up to a checkpoint."""
        new_run_id = new_fork_by_hand()
        forked = Forked(
            seq=seq + 1,
            at=time(),
            run_id=new_run_id,
            agent_id=agent_id,
            parent_run_id=run_id,
        )
        added = [encode(forked), encode(_ended(seq + 2))]
        with in_time(f"the fork of {run_id!r}"):
            await self._storage.fork(run_id, length=seq + 1, new_run_id=new_run_id)
            await self._storage.append(new_run_id, added)
        return new_run_id

    async def end_again(self, run_id: str) -> None:
        """Say once more that nobody has to carry out what was just reopened."""
        with in_time(f"the end of {run_id!r}"):
            async with writing(self._storage, run_id) as token:
                length = len(await self._storage.read(run_id))
                await self._storage.append(run_id, [encode(_ended(length))], token=token)

    def forget(self, run_id: str) -> None:
        """Forget what is known of a log, since it is deleted."""
        self._logs.pop(run_id, None)

    async def _write(
        self, log: _Log, state: Packed, request: CheckpointRequest
    ) -> tuple[_Log, Checkpoint]:
        """Add a state to a log, whatever others have written there in the meantime."""
        async with writing(self._storage, log.run_id) as token:
            return await self._add(await self._checked(log), state, request, token)

    async def _add(
        self, log: _Log, state: Packed, request: CheckpointRequest, token: int
    ) -> tuple[_Log, Checkpoint]:
        data = difference(state, log.kept)
        at, length = time(), log.length
        entries: list[Entry] = []
        if length == 0:
            entries = [_started(log.run_id, state.agent_id, at), _ended(1)]
            length = 2
        mark = Marked(
            seq=length + 1,
            at=at,
            mark_id=f"{log.run_id}:{length + 1}",
            description=request.description,
            metadata=request.metadata,
        )
        stored = [encode(each) for each in (*entries, saved(length, at, data), mark)]
        await self._storage.append(log.run_id, stored, token=token)
        checkpoint = Checkpoint(
            id=mark.mark_id, run_id=log.run_id, seq=mark.seq, description=mark.description
        )
        after = _Log(
            run_id=log.run_id,
            agent_id=state.agent_id,
            tail=stored[-1],
            kept=state.kept,
            states=log.states + 1,
        )
        return after, checkpoint

    async def _log_for(self, state: Packed, series: str) -> _Log:
        """Return the log that a state belongs into: a fork, or the newest of its agent."""
        count = self._count
        if is_fork_by_hand(state.run_id):
            log = await self._look_up(state.run_id)
            fits = log.tail is not None and (count is None or log.states < count)
            if fits and log.agent_id == state.agent_id:
                return log
        known = [each for each in self._logs if each.startswith(f"{series}_")]
        if not known:
            records = await self._storage.runs(agent_id=state.agent_id, limit=MAX_RUNS)
            known = [each.run_id for each in records if each.run_id.startswith(series)]
        places = [place_in_series(each) for each in known]
        place = max((each for each in places if each is not None), default=0)
        log = await self._log_at(series, place)
        if count is None or log.states < count:
            return log
        for each in places:
            if each is not None and each < place:
                await self._let_go(f"{series}_{each}")
        return await self._log_at(series, place + 1)

    async def _log_at(self, series: str, place: int) -> _Log:
        """Return the log of a place, or the first behind it whose name is free.

        A store may not give a name again while forks share what was deleted under it.
        """
        while True:
            log = await self._look_up(f"{series}_{place}")
            if log.tail is not None:
                return log
            try:
                async with writing(self._storage, log.run_id, PATIENCE_S / 10):
                    return log
            except CheckpointSaveError:
                place += (await self._look_up(log.run_id)).tail is None

    async def _let_go(self, run_id: str) -> None:
        """Delete a log of old states; should it fail, there will be a next time."""
        self._logs.pop(run_id, None)
        try:
            await drop(self._storage, run_id)
        except CheckpointError:
            return

    async def _look_up(self, run_id: str) -> _Log:
        """Return what is known of a log of states, or read it."""
        known = self._logs.get(run_id)
        return known if known is not None else await self._read_states(run_id)

    async def _read_states(self, run_id: str) -> _Log:
        try:
            stored = await self._storage.read(run_id)
        except CheckpointLoadError:  # should it be there, but damaged, it takes no entry 0
            return _Log(run_id=run_id)
        entries = [decode(each) for each in stored]
        if not is_by_hand(entries):
            raise CheckpointSaveError(f"run {run_id!r}", "holds no states made by hand")
        states = sum(isinstance(each, Marked) for each in entries)
        return _Log(
            run_id=run_id,
            agent_id=agent_of(run_id, entries),
            tail=stored[-1],
            kept=kept_in(entries),
            states=states,
        )

    async def _checked(self, log: _Log) -> _Log:
        """Return what is known of a log that nobody else can write now."""
        if log.tail is None:
            return await self._read_states(log.run_id)
        try:
            end = await self._storage.read(log.run_id, start=log.tail.seq)
        except CheckpointLoadError:
            end = ()
        if tuple(end) == (log.tail,):
            return log
        return await self._read_states(log.run_id)

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Wait until nobody else in this process saves states of an agent."""
        while (other := self._busy.get(key)) is not None:
            await other.wait()
        self._busy[key] = done = anyio.Event()
        try:
            yield
        finally:
            del self._busy[key]
            done.set()


@asynccontextmanager
async def writing(
    storage: CheckpointStore, run_id: str, patience_s: float | None = None
) -> AsyncIterator[int]:
    """Hold a log for one write, after waiting a little for others that do the same."""
    owner = new_owner()
    waiting_s = PATIENCE_S if patience_s is None else patience_s
    token = await _claim(storage, run_id, owner, waiting_s)
    try:
        yield token
    finally:
        with anyio.move_on_after(STORAGE_TIMEOUT_S, shield=True):
            await storage.claim(run_id, owner=owner, lease_s=0)


async def _claim(
    storage: CheckpointStore, run_id: str, owner: str, patience_s: float
) -> int:
    deadline = anyio.current_time() + patience_s
    while True:
        try:
            return await storage.claim(run_id, owner=owner, lease_s=LEASE_S)
        except CheckpointSaveError:
            if not is_run_id(run_id) or anyio.current_time() > deadline:
                raise
        await anyio.sleep(RETRY_S)


async def is_gone(storage: CheckpointStore, run_id: str) -> bool:
    """Whether a run that could not be read is not there, rather than damaged."""
    try:
        await storage.read(run_id, limit=1)
    except CheckpointLoadError:
        records = await storage.runs(limit=MAX_RUNS)
        return all(each.run_id != run_id for each in records)
    return False


@contextmanager
def in_time(subject: str) -> Iterator[None]:
    """Let what was begun come to its end, cancelled or not, unless that takes too long.

    Raises:
        CheckpointSaveError: The storage did not answer.
    """
    with anyio.move_on_after(STORAGE_TIMEOUT_S, shield=True) as scope:
        yield
    if scope.cancelled_caught:
        raise CheckpointSaveError(
            subject,
            f"may not be kept: the storage did not answer in {STORAGE_TIMEOUT_S:g} s",
            "`list()` shows whether it is there.",
        )


def _started(run_id: str, agent_id: str, at: float) -> RunStarted:
    return RunStarted(
        seq=0,
        at=at,
        run_id=run_id,
        agent_id=agent_id,
        parent_id="",
        trace_id=run_id,
        session_id="",
        inputs={},
        messages=(),
        metadata={SOURCE: MADE_BY_HAND},
        direct=True,
    )


def _ended(seq: int) -> RunEnded:
    """Return what says that no run is left to be carried out."""
    return RunEnded(seq=seq, at=time(), status="completed")
