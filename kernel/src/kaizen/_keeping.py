"""Keeps the logs of runs in their stores: claims, writes that may wait, and the end.

There is one `Keeper` for each kernel. It has a task of its own as soon as a run needs a
store: that task writes what runs with durability `async` have logged, and holds on to the
claims of all runs. When the kernel stops, everything is written first.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup

from kaizen._records import record
from kaizen.claims import new_owner
from kaizen.errors import CheckpointError

if TYPE_CHECKING:
    from kaizen.ports import CheckpointStore
    from kaizen.runlog import RunLog

__all__ = ["STORE_TIMEOUT_S", "Durability", "Keeper", "Keeping"]

Durability: TypeAlias = Literal["sync", "async", "exit"]
"""When the log of a run is on disk: before it goes on, soon, or when it ends."""

LEASE_S = 60.0
RENEW_S = 15.0
MAX_WAITING = 256
STORE_TIMEOUT_S = 30.0
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
    """

    def __init__(self) -> None:
        self.owner = new_owner()
        self._logs: dict[str, RunLog] = {}
        self._due: dict[str, RunLog] = {}
        self._wake = anyio.Event()
        self._working = False
        self._closed = anyio.Event()

    @property
    def busy(self) -> bool:
        """Whether there are runs that go on, or whose end is not written yet."""
        return bool(self._logs)

    def carries(self, run_id: str) -> bool:
        """Whether a run is carried out here right now."""
        return run_id in self._logs

    def add(self, log: RunLog, tasks: TaskGroup | None) -> None:
        """Take charge of a log."""
        self._logs[log.run_id] = log
        if not self._working and tasks is not None:
            self._working = True
            tasks.start_soon(self._work)

    def write_soon(self, log: RunLog) -> None:
        """Have a log written while its run goes on."""
        if log.run_id not in self._due:
            self._due[log.run_id] = log
            self._wake.set()

    async def let_go(self, log: RunLog) -> None:
        """Give up the claim of a run that has ended and whose log is written."""
        await _reported(log, log.give_up(self.owner))
        if self._logs.get(log.run_id) is log:
            del self._logs[log.run_id]

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
            Whether there is room for one more to wait. If not, the run has to wait itself,
            so that a store that is slower than the runs does not fill the memory.
        """
        if len(self._due) >= MAX_WAITING:
            return False
        log.over = True
        self.write_soon(log)
        return True

    async def close(self) -> None:
        """Write everything, and give up every claim."""
        self._closed.set()
        self._wake.set()
        for log in tuple(self._logs.values()):
            with anyio.move_on_after(STORE_TIMEOUT_S, shield=True):
                await _reported(log, log.flush())
                await self.let_go(log)

    async def _work(self) -> None:
        renewal = anyio.current_time() + RENEW_S
        while not self._closed.is_set():
            with anyio.move_on_at(renewal):
                await self._wake.wait()
            self._wake = anyio.Event()
            while self._due:
                run_id = next(iter(self._due))
                await self._write(self._due.pop(run_id))
            if anyio.current_time() >= renewal:
                await self._renew()
                renewal = anyio.current_time() + RENEW_S
        self._working = False

    async def _write(self, log: RunLog) -> None:
        with anyio.move_on_after(STORE_TIMEOUT_S) as scope:
            await _reported(log, log.flush())
            if log.over:
                await self.let_go(log)
        if scope.cancelled_caught:
            _LOG.warning(
                "run %s: its store did not answer in %g s", log.run_id, STORE_TIMEOUT_S
            )

    async def _renew(self) -> None:
        for log in tuple(self._logs.values()):
            with anyio.move_on_after(STORE_TIMEOUT_S):
                await _reported(log, log.hold(self.owner, LEASE_S))


async def _reported(log: RunLog, work: Awaitable[None]) -> None:
    """Do what nobody waits for; what a run has to know of it, its log tells it."""
    try:
        await work
    except CheckpointError as error:
        _LOG.warning("run %s is not kept: %s", log.run_id, error)
    except Exception:  # noqa: BLE001 - a store of a stranger
        _LOG.exception("run %s is not kept", log.run_id)
