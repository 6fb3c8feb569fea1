"""Keeps the logs of runs in their stores: claims, writes that may wait, and the end.

There is one `Keeper` for each kernel. For each store that runs are kept in, two tasks work
as long as there are such runs: one writes what runs with durability `async` have logged,
the other holds on to the claims of all runs. So a store that hangs delays no other one, and
no writing delays a claim. When the kernel stops, runs that still go on are interrupted, and
everything is written first.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from kaizen._records import record
from kaizen.claims import new_owner
from kaizen.errors import CheckpointError, ClaimLostError
from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)

if TYPE_CHECKING:
    from kaizen.ports import CheckpointStore
    from kaizen.runlog import RunLog

__all__ = ["LEASE_S", "STORE_TIMEOUT_S", "Durability", "Keeper", "Keeping"]

Durability: TypeAlias = Literal["sync", "async", "exit"]
"""When the log of a run is on disk: before it goes on, soon, or when it ends."""

Stop: TypeAlias = Callable[[InterruptReason], object]
"""Asks a run to stop."""

LEASE_S = 60.0
RENEW_S = 15.0
RENEWALS_AT_ONCE = 8
MAX_WAITING = 256
STORE_TIMEOUT_S = 30.0
GIVE_UP_S = 5.0
STOP_S = 10.0
_LOG = logging.getLogger("kaizen")


@record
class Keeping:
    """How the logs of an agent's runs are kept.

    Attributes:
        durability: When they are on disk.
        go_on: Whether a run goes on, and only says so, when its store fails.
    """

    store: CheckpointStore
    keeper: Keeper
    durability: Durability
    go_on: bool


class Keeper:
    """Writes the logs of one kernel's runs and holds their claims.

    Attributes:
        owner: Who this kernel is to stores.
        closed: Whether nothing is written any more but by the runs themselves.
    """

    def __init__(self) -> None:
        self.owner = new_owner()
        self.closed = False
        self._logs: dict[str, RunLog] = {}
        self._stops: dict[RunLog, Stop] = {}
        self._shelves: dict[int, _Shelf] = {}
        self._stopped = anyio.Event()
        self._new_scope: type[CancelScope] | None = None

    @property
    def busy(self) -> bool:
        """Whether there are runs that go on, or whose end is not written yet."""
        return bool(self._logs)

    def carries(self, run_id: str) -> bool:
        """Whether a run is carried out here right now."""
        return run_id in self._logs

    def scope(self, limit_s: float) -> CancelScope:
        """Return a scope that ends in time; `anyio.move_on_after` takes twice as long."""
        if self._new_scope is None:
            self._new_scope = type(anyio.CancelScope())
        return self._new_scope(deadline=anyio.current_time() + limit_s)

    def add(self, log: RunLog, tasks: TaskGroup | None, stop: Stop | None = None) -> None:
        """Take charge of a log.

        Args:
            log: The log of a run that begins or goes on. It fails at its next step if the
                kernel has stopped, or is about to.
            tasks: Where to work on it; `None` if the kernel has stopped.
            stop: What stops the run when the kernel does.
        """
        self._logs[log.run_id] = log
        if stop is not None:
            self._stops[log] = stop
        if tasks is None or self.closed:
            self.closed = True
            log.lose(_given_up(log))
            return
        shelf = self._shelves.get(id(log.store))
        if shelf is None:
            shelf = self._shelves[id(log.store)] = _Shelf(self, log.store)
            tasks.start_soon(shelf.write)
            tasks.start_soon(shelf.hold)
        shelf.logs[log] = None

    def write_soon(self, log: RunLog) -> None:
        """Have a log written while its run goes on."""
        shelf = self._shelves.get(id(log.store))
        if shelf is not None and log in shelf.logs:
            log.due = True
            shelf.due[log] = None
            shelf.wake.set()

    async def let_go(self, log: RunLog) -> None:
        """Give up the claim of a run that has ended, and forget it whatever happens.

        That a task is cancelled meanwhile does not shorten it, and a store that hangs does
        not make it long: a claim that was not given up ends with its lease.
        """
        try:
            limit = min(GIVE_UP_S, STORE_TIMEOUT_S)
            with anyio.move_on_after(limit, shield=True) as scope:
                await _reported(log, log.give_up(self.owner))
            if scope.cancelled_caught:
                _LOG.warning("run %s: its store did not take its claim back", log.run_id)
        finally:
            self._forget(log)

    def _forget(self, log: RunLog) -> None:
        if self._logs.get(log.run_id) is log:
            del self._logs[log.run_id]
        shelf = self._shelves.get(id(log.store))
        if shelf is not None:
            shelf.learn(log)
            shelf.logs.pop(log, None)
            shelf.due.pop(log, None)
        self._stops.pop(log, None)
        if self.closed and not self._stops:
            self._stopped.set()

    async def finish(self, run_id: str) -> bool:
        """Write the end of a run that has ended, should that still be to do.

        Returns:
            Whether the run is not carried out here any more.
        """
        log = self._logs.get(run_id)
        if log is not None and log.over:
            await log.flush()
            await self.let_go(log)
        return run_id not in self._logs

    def let_go_soon(self, log: RunLog) -> bool:
        """Write what is left of an ended run, and give up its claim, when there is time.

        Returns:
            Whether it may wait. If not, the run has to wait itself: as long as the store
            has not shown that it works, or is slower than the runs, since what waits must
            neither be lost unnoticed nor fill the memory.
        """
        shelf = self._shelves.get(id(log.store))
        if self.closed or shelf is None or len(shelf.due) >= MAX_WAITING:
            return False
        if log.troubled or not shelf.works:
            return False
        log.over = True
        self._stops.pop(log, None)
        self.write_soon(log)
        return True

    async def close(self) -> None:
        """Stop the runs that still go on, write everything, and give up every claim.

        A run that has not stopped in time must not go on unseen: it fails at its next step.
        """
        self.closed = True
        for shelf in self._shelves.values():
            shelf.retire()
        with anyio.move_on_after(STORE_TIMEOUT_S, shield=True):
            await self._stop_runs()
            async with anyio.create_task_group() as tasks:
                for log in tuple(self._logs.values()):
                    tasks.start_soon(self._write_last, log)
        for log in tuple(self._logs.values()):
            log.lose(_given_up(log))
            self._forget(log)

    async def _stop_runs(self) -> None:
        """Interrupt the runs that go on, and wait for their ends."""
        reason = InterruptReason(
            source=InterruptSource.SYSTEM,
            mode=InterruptMode.IMMEDIATE,
            signal=InterruptSignal.SHUTDOWN,
            message="the kernel stops",
        )
        for log, stop in tuple(self._stops.items()):
            if not log.over:
                stop(reason)
        if self._stops:
            with anyio.move_on_after(min(STOP_S, STORE_TIMEOUT_S / 3)):
                await self._stopped.wait()

    async def _write_last(self, log: RunLog) -> None:
        await _reported(log, log.flush())
        if not log.over:
            log.lose(_given_up(log))
        await self.let_go(log)


class _Shelf:
    """What there is to do for the runs of one store.

    Attributes:
        store: The store, which keeps its identity for as long as it has a shelf.
        logs: All logs that are kept there and not let go.
        due: Those of them that have something to write.
        works: Whether the store took what it was last given.
    """

    def __init__(self, keeper: Keeper, store: CheckpointStore | None) -> None:
        self.store = store
        self.logs: dict[RunLog, None] = {}
        self.due: dict[RunLog, None] = {}
        self.works = False
        self.wake = anyio.Event()
        self._keeper = keeper
        self._retired = anyio.Event()

    def retire(self) -> None:
        """End both tasks."""
        self._retired.set()
        self.wake.set()

    def learn(self, log: RunLog) -> None:
        """Take a log as a sign of whether the store works, if it is one."""
        if log.troubled:
            self.works = False
        elif log.proven:
            self.works = True

    async def write(self) -> None:
        """Write what is due, one log after the other, so that each write takes much."""
        while True:
            await self.wake.wait()
            self.wake = anyio.Event()
            while self.due and not self._retired.is_set():
                log = next(iter(self.due))
                del self.due[log]
                log.due = False
                await _reported(log, log.flush(), again=log.troubled)
                self.learn(log)
                if log.over and log not in self.due:  # it may have ended meanwhile
                    await self._keeper.let_go(log)
            if self._retired.is_set():
                return

    async def hold(self) -> None:
        """Renew all claims from time to time; leave when there are none any more."""
        renewal = anyio.current_time()
        while self.logs:
            renewal = max(renewal + RENEW_S, anyio.current_time())
            with anyio.move_on_at(renewal):
                await self._retired.wait()
            if self._retired.is_set():
                return
            left = iter(tuple(self.logs))
            async with anyio.create_task_group() as tasks:
                for _ in range(min(RENEWALS_AT_ONCE, len(self.logs))):
                    tasks.start_soon(self._renew, left)
        self._keeper._shelves.pop(id(self.store), None)
        self.retire()

    async def _renew(self, logs: Iterator[RunLog]) -> None:
        for log in logs:
            with anyio.move_on_after(RENEW_S):
                await _reported(log, log.renew(self._keeper.owner))


def _given_up(log: RunLog) -> ClaimLostError:
    return ClaimLostError(
        f"run {log.run_id!r}",
        "was given up when its kernel stopped",
        "Resume it on another kernel.",
    )


async def _reported(log: RunLog, work: Awaitable[None], *, again: bool = False) -> None:
    """Do what nobody waits for; what a run has to know of it, its log tells it.

    Args:
        log: The log of the run.
        work: What is done.
        again: Whether it failed before, and was told.
    """
    try:
        await work
    except CheckpointError as error:
        if again:
            return
        _LOG.warning("run %s is not kept: %s", log.run_id, error)
    except Exception:  # noqa: BLE001 - a store of a stranger
        _LOG.exception("run %s is not kept", log.run_id)
