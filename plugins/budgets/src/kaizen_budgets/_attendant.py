"""What goes on beside a run: its reservations are renewed, and its time is counted."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.abc
from anyio.lowlevel import checkpoint_if_cancelled
from kaizen.errors import AgentInterrupted

from kaizen_budgets._amounts import SECONDS, Amounts, milliseconds
from kaizen_budgets._errors import BudgetExceededError, LedgerError, SoftLimitError
from kaizen_budgets._meter import note_settled
from kaizen_budgets._stopping import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaizen_budgets._ledger import Account, Ledger
    from kaizen_budgets._limits import SpendLimits
    from kaizen_budgets._meter import Meter

__all__ = ["attended"]

SLICE_S = 5.0
"""How much time a run has reserved at once, so that others may run beside it."""

SLICES = 20
"""Into how many slices at least a limit is cut that runs share."""

SHORTEST_SLICE_S = 0.05
SHORTEST_GRACE_S = 0.05

RENEWALS = 3
"""How often a reservation is renewed before its lease would end."""

CLEANUP_S = 30.0
_LOG = logging.getLogger("kaizen")

_Slice: TypeAlias = tuple[str, float]
"""The reservation of some time, and how much that is, in seconds."""


@asynccontextmanager
async def attended(
    limits: SpendLimits, ledger: Ledger, meter: Meter
) -> AsyncGenerator[None]:
    """Renew the reservations of a run and count its time, while the block goes on.

    What the block raises leaves it as it is, and not as part of a group.

    Raises:
        AgentInterrupted: There is no time for the run to begin.
        BudgetExceededError: Its time was up, the block was cut off, and the run is stopped.
        ToolUnaffordableError: Either, in a tool that is called without a model.
    """
    timed = meter.timed
    clock = _Clock(limits, ledger, meter, timed) if timed else None
    if clock is not None:
        await clock.begin()
    error: BaseException | None = None
    cut_off = False
    try:
        async with anyio.create_task_group() as tasks:
            if ledger.leases:
                tasks.start_soon(_renew, ledger, meter, limits.terms.lease_seconds)
            if clock is not None:
                tasks.start_soon(clock.count, tasks)
            try:
                yield
            except anyio.get_cancelled_exc_class():
                cut_off = True
                raise
            except BaseException as raised:  # noqa: BLE001 - raised again below
                error = raised
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        await checkpoint_if_cancelled()  # who is cancelled hears of nothing else
        if error is None:
            error = _only(group)
        else:
            _LOG.error("beside run %s: %s", meter.run.id, _only(group))
    if error is None and clock is not None:
        error = await clock.verdict(cut_off=cut_off)
    if error is not None:
        try:
            raise error
        finally:
            del error


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what went wrong beside a run by itself, where it is one thing."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _renew(ledger: Ledger, meter: Meter, lease_s: float) -> None:
    while True:
        await anyio.sleep(lease_s / RENEWALS)
        held = tuple(meter.open)
        if not held:
            continue
        try:
            await ledger.renew(held, lease_s=lease_s)
        except LedgerError as error:
            _LOG.warning("reservations of run %s: %s", meter.run.id, error)


class _Clock:
    """Counts the time that a run takes, slice by slice, each reserved before it begins.

    A run that gets no further slice is stopped: gracefully a little before its time is
    over, and at once when it is. At a soft limit the run makes no further call while
    somebody is asked, and what is under way goes on, up to the hard one.
    """

    def __init__(
        self,
        limits: SpendLimits,
        ledger: Ledger,
        meter: Meter,
        accounts: Sequence[Account],
    ) -> None:
        self._limits = limits
        self._ledger = ledger
        self._meter = meter
        self._accounts = accounts
        self._wanted = _slice_of(accounts)
        self._prefix = f"{limits.name}:{meter.run.id}:time-{monotonic():.6f}"
        self._number = 0
        self._held: _Slice | None = None
        self._short: BudgetExceededError | None = None
        self._asking = False
        self._over: BudgetExceededError | None = None
        self._unsettled: LedgerError | None = None

    async def begin(self) -> None:
        """Reserve the first slice: wait for others, and ask, as before any call."""
        until = self._limits.waits_until()
        while (held := await self._reserve()) is None:
            assert self._short is not None
            await self._limits.clear(self._meter, self._short, until)
        self._held = held

    async def count(self, tasks: anyio.abc.TaskGroup) -> None:
        """Count until the run is over, and cut it off when its time is."""
        held = self._held
        while held is not None:
            reservation_id, length_s = held
            began = monotonic()
            following: _Slice | None = None
            try:
                grace_s = min(self._grace(), length_s / 10)
                await anyio.sleep(length_s - grace_s)
                following = await self._follow(tasks)
                if following is None and grace_s > 0:
                    await self._limits.refused(self._meter, self._missing(length_s))
                await anyio.sleep(max(0.0, began + length_s - monotonic()))
            except BaseException:
                await self._end(reservation_id, monotonic() - began, length_s, following)
                raise
            try:
                await self._settle(reservation_id, length_s, length_s)
            except BaseException:
                await self._give_back(following)
                raise
            held = following or await self._reserve()
        assert self._short is not None
        self._cut_off(self._short, tasks)

    async def verdict(self, *, cut_off: bool) -> BaseException | None:
        """Return what to raise when the run is over.

        Where its time was up, the run is stopped here, after its end: so that its own scope
        is not cancelled before it can be marked, and the kernel hears why it was.
        """
        if not cut_off or self._over is None:
            return self._unsettled
        raised = await self._limits.refused(self._meter, self._over, at_once=True)
        return self._over if isinstance(raised, AgentInterrupted) else raised

    def _grace(self) -> float:
        """Return how long a run may take to stop gracefully; 0: it is not worth a try.

        It is shorter than what the kernel waits, so that the run ends by this clock.
        """
        grace_s = self._meter.run.plan.config.graceful_shutdown_timeout / 2
        return grace_s if grace_s >= SHORTEST_GRACE_S else 0

    def _missing(self, length_s: float) -> BudgetExceededError:
        """Return why there is no further slice, with the one under way as spent."""
        assert self._short is not None
        if isinstance(self._short, SoftLimitError):
            return self._short
        mine, short = milliseconds(length_s), self._short.shortage
        short = short._replace(spent=short.spent + mine, reserved=short.reserved - mine)
        return BudgetExceededError(self._short.account, short)

    async def _follow(self, tasks: anyio.abc.TaskGroup) -> _Slice | None:
        """Reserve the slice that follows; at a soft limit, somebody is asked meanwhile."""
        following = await self._reserve()
        if following is None and isinstance(self._short, SoftLimitError):
            self._asking = True
            tasks.start_soon(self._ask, self._short, tasks)
            following = await self._reserve()
        return following

    async def _ask(self, error: SoftLimitError, tasks: anyio.abc.TaskGroup) -> None:
        """Ask whether to go on; the run makes no further call until that is answered."""
        grace_s = self._grace()
        try:
            with self._limits.answers.awaited(self._meter.run):
                if await self._limits.may_go_on(self._meter, error):
                    return
                if grace_s > 0:
                    await self._limits.refused(self._meter, error)
                if self._meter.run.interrupted is None:  # it cannot stop gracefully
                    self._cut_off(error, tasks)
                    return
            await anyio.sleep(grace_s)
            self._cut_off(error, tasks)
        except AgentInterrupted:  # it was stopped for another reason meanwhile
            pass
        finally:
            self._asking = False  # only now: who has answered is not asked again

    def _cut_off(self, error: BudgetExceededError, tasks: anyio.abc.TaskGroup) -> None:
        self._over = error
        tasks.cancel_scope.cancel()

    async def _reserve(self) -> _Slice | None:
        """Set a slice aside, or what is left of one; `None` if nothing is."""
        wanted = self._wanted
        while wanted > 0:
            self._number += 1
            reservation_id = f"{self._prefix}-{self._number}"
            try:
                await self._ledger.reserve(
                    self._accounts,
                    Amounts.of((0, 0, 0, 0, wanted)),
                    reservation_id=reservation_id,
                    lease_s=self._limits.terms.lease_seconds,
                    beyond_soft=self._asking or self._meter.run.interrupted is not None,
                )
            except BudgetExceededError as error:
                self._short = _least(error)
                wanted = min(wanted - 1, error.shortage.left)
            except BaseException:  # it may have been made all the same
                await self._give_back((reservation_id, wanted / 1_000))
                raise
            else:
                self._meter.open.add(reservation_id)
                return reservation_id, wanted / 1_000
        return None

    async def _end(
        self,
        reservation_id: str,
        took_s: float,
        length_s: float,
        following: _Slice | None,
    ) -> None:
        """Settle the slice in which a run ended, and give back the one after it.

        What the ledger cannot do must not take the place of what is under way.
        """
        await self._give_back(following)
        try:
            await self._settle(reservation_id, took_s, length_s)
        except LedgerError as error:
            self._unsettled = error
            _LOG.error("time of run %s is not settled: %s", self._meter.run.id, error)

    async def _give_back(self, held: _Slice | None) -> None:
        if held is None:
            return
        reservation_id, _ = held
        self._meter.open.discard(reservation_id)
        with anyio.move_on_after(CLEANUP_S, shield=True):
            try:
                await self._ledger.release(reservation_id)
            except LedgerError as error:
                _LOG.error("time of run %s is kept: %s", self._meter.run.id, error)

    async def _settle(self, reservation_id: str, took_s: float, length_s: float) -> None:
        """Count what a slice took; the moment that it takes to notice its end is free."""
        run = self._meter.run
        spent = Amounts(seconds=min(took_s, length_s))
        with anyio.move_on_after(CLEANUP_S, shield=True):
            settlement = await self._ledger.settle(reservation_id, spent)
            self._meter.open.discard(reservation_id)
            self._meter.count(spent)
            most = Amounts(seconds=length_s)
            note_settled(run, reservation_id, "time", most, spent)
            for crossing in settlement.crossings:
                await warn(run, crossing)


def _slice_of(accounts: Sequence[Account]) -> int:
    """Return how many milliseconds to reserve at once.

    Of a short limit that runs share, each takes little, so that it leaves some to others.
    """
    shared = (
        each.limits[SECONDS] // SLICES for each in accounts if not each.budget.ends_with_run
    )
    most = min([milliseconds(SLICE_S), *shared])
    return max(milliseconds(SHORTEST_SLICE_S), most)


def _least(error: BudgetExceededError) -> BudgetExceededError:
    """Return an error of the hard limit as if the least had been wanted: any time helps."""
    if isinstance(error, SoftLimitError):
        return error
    return BudgetExceededError(error.account, error.shortage._replace(wanted=1))
