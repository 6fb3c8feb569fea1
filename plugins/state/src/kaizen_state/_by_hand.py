"""Keeps states that somebody made: for each agent a log, in which each is what is new.

A log takes so many states as are kept; then it is closed, with an entry that says so, and
the next one is begun. So who finds the end of a log as it was knows that it is still the
one to write: whatever others did elsewhere, they would have closed it before.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
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
    RunRecord,
    StoredEntry,
)
from kaizen.claims import is_run_id, new_owner
from kaizen.errors import UnknownRunError
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
    closed,
    difference,
    is_by_hand,
    is_closed,
    kept_in,
    saved,
)
from kaizen_state._retention import MAX_RUNS, drop, in_order, old_logs
from kaizen_state._series import (
    is_fork_by_hand,
    new_fork_by_hand,
    new_in_series,
    next_of,
    place_in_series,
    series_of,
)

__all__ = ["StatesByHand", "in_time", "is_gone", "writing"]

STORAGE_TIMEOUT_S = 30.0
LEASE_S = 60.0
PATIENCE_S = 5.0
RETRY_S = 0.02
MAX_REMEMBERED = 256
_LOG = logging.getLogger("kaizen")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """What is known of a log of states, as long as its last entry is still the last.

    Attributes:
        tail: The last entry as it is stored; `None` if there is no log yet.
        states: How many states it holds, but for those that a fork shares.
        closed: Whether the next log is written instead.
    """

    run_id: str
    agent_id: str = ""
    tail: StoredEntry | None = None
    kept: Kept = field(default_factory=Kept)
    states: int = 0
    closed: bool = False

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
                return await self._save(state, series, request)

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
        for place, log in tuple(self._logs.items()):
            if log.run_id == run_id:
                del self._logs[place]

    async def _save(
        self, state: Packed, series: str, request: CheckpointRequest
    ) -> Checkpoint:
        """Add a state to its fork, or to the newest log of its agent."""
        if is_fork_by_hand(state.run_id):
            added = await self._go_on(state.run_id, state.run_id, state, request)
            if added is not None:
                return added
        known = self._logs.get(series)
        if known is not None:
            added = await self._go_on(series, known.run_id, state, request)
            if added is not None:
                return added
        async with self._beginning(series):
            return await self._choose(state, series, request)

    async def _choose(
        self, state: Packed, series: str, request: CheckpointRequest
    ) -> Checkpoint:
        """Go on with the newest log that is stored, or close it and begin the next."""
        records = await self._storage.runs(agent_id=state.agent_id, limit=MAX_RUNS)
        logs = in_order(each for each in records if each.run_id.startswith(f"{series}_"))
        if logs:
            added = await self._go_on(series, logs[0].run_id, state, request)
            if added is not None:
                return added
            await self._close(logs[0].run_id)
        place = (place_in_series(logs[0].run_id) or 0) + 1 if logs else 0
        log = _Log(run_id=new_in_series(series, place))
        async with writing(self._storage, log.run_id) as token:
            added = await self._add(series, log, state, request, token)
        await self._let_old_ones_go(logs)
        return added

    async def _go_on(
        self, place: str, run_id: str, state: Packed, request: CheckpointRequest
    ) -> Checkpoint | None:
        """Add a state to a log, unless it is gone, closed, full or of another agent.

        Args:
            place: Under what the log is remembered.
            run_id: The log.
            state: The state.
            request: What is said of it.
        """
        if not await self._is_readable(run_id):
            self._logs.pop(place, None)
            return None
        async with writing(self._storage, run_id) as token:
            log = await self._as_it_is(place, run_id)
            full = self._count is not None and log.states >= self._count
            if log.tail is None or full or log.closed or log.agent_id != state.agent_id:
                self._logs.pop(place, None)
                return None
            return await self._add(place, log, state, request, token)

    async def _close(self, run_id: str) -> None:
        """Let nobody go on with a log, unless it cannot be written anyway."""
        if not await self._is_readable(run_id):
            return
        async with writing(self._storage, run_id) as token:
            log = await self._as_it_is("", run_id)
            if log.tail is not None and not log.closed:
                entry = encode(closed(log.length, time()))
                await self._storage.append(run_id, [entry], token=token)

    async def _is_readable(self, run_id: str) -> bool:
        try:
            await self._storage.read(run_id, limit=1)
        except CheckpointLoadError:
            return False
        return True

    async def _add(
        self,
        place: str,
        log: _Log,
        state: Packed,
        request: CheckpointRequest,
        token: int,
    ) -> Checkpoint:
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
        self._logs[place] = _Log(
            run_id=log.run_id,
            agent_id=state.agent_id,
            tail=stored[-1],
            kept=state.kept,
            states=log.states + 1,
        )
        self._logs.move_to_end(place)
        if len(self._logs) > MAX_REMEMBERED:
            self._logs.popitem(last=False)
        return Checkpoint(
            id=mark.mark_id, run_id=log.run_id, seq=mark.seq, description=mark.description
        )

    async def _let_old_ones_go(self, logs: Sequence[RunRecord]) -> None:
        """Delete what nobody needs any more; should it fail, there will be a next time."""
        with suppress(CheckpointError):
            for each in await old_logs(self._storage, logs, self._count):
                await drop(self._storage, each.run_id)

    async def _as_it_is(self, place: str, run_id: str) -> _Log:
        """Return what there is to know of a log that nobody else can write now."""
        known = self._logs.get(place)
        if known is not None and known.run_id == run_id and known.tail is not None:
            with suppress(CheckpointLoadError):
                end = await self._storage.read(run_id, start=known.tail.seq)
                if tuple(end) == (known.tail,):
                    return known
        try:
            stored = await self._storage.read(run_id)
            entries = [decode(each) for each in stored]
            by_hand = is_by_hand(entries)
            kept, agent_id = kept_in(entries), agent_of(run_id, entries)
        except CheckpointLoadError as error:  # the next log has nothing to do with it
            _LOG.warning("states are saved beside run %s: %s", run_id, error)
            return _Log(run_id=run_id)
        if not by_hand:
            raise CheckpointSaveError(f"run {run_id!r}", "holds no states made by hand")
        return _Log(
            run_id=run_id,
            agent_id=agent_id,
            tail=stored[-1],
            kept=kept,
            states=_own_states(entries),
            closed=is_closed(entries),
        )

    @asynccontextmanager
    async def _beginning(self, series: str) -> AsyncIterator[None]:
        """Be the only one, in any process, that chooses and begins logs of a series."""
        name = next_of(series)
        async with writing(self._storage, name):
            yield
        with suppress(CheckpointSaveError):  # it is held by whoever waited for it
            await self._storage.delete(name)

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
    except UnknownRunError:
        return True
    except CheckpointLoadError:  # not every store tells the two apart
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


def _own_states(entries: Sequence[Entry]) -> int:
    states = 0
    for each in entries:
        states = 0 if isinstance(each, Forked) else states + isinstance(each, Marked)
    return states


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
