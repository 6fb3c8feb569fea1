"""What goes on beside a run: its reservations are renewed, and its time is counted."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from anyio.lowlevel import checkpoint_if_cancelled
from kaizen.interrupts import InterruptMode

from kaizen_budgets._amounts import Amounts, milliseconds
from kaizen_budgets._errors import BudgetExceededError, LedgerError
from kaizen_budgets._meter import note_settled
from kaizen_budgets._stopping import reason_of, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaizen_budgets._ledger import Account, Ledger
    from kaizen_budgets._meter import Meter

__all__ = ["attended"]

SLICE_S = 5.0
"""How much time a run has reserved at once, so that others may run beside it."""

RENEWALS = 3
"""How often a reservation is renewed before its lease would end."""

CLEANUP_S = 30.0
_LOG = logging.getLogger("kaizen")


@asynccontextmanager
async def attended(
    ledger: Ledger, meter: Meter, *, lease_s: float, name: str
) -> AsyncGenerator[None]:
    """Renew the reservations of a run and count its time, while the block goes on.

    What the block raises leaves it as it is, and not as part of a group.
    """
    timed = meter.timed
    if not ledger.leases and not timed:
        yield
        return
    clock = _Clock(ledger, meter, timed, lease_s=lease_s, name=name) if timed else None
    error: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            if ledger.leases:
                tasks.start_soon(_renew, ledger, meter, lease_s)
            if clock is not None:
                await tasks.start(clock.count)
            try:
                yield
            except anyio.get_cancelled_exc_class():
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
        error = clock.unsettled
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
    over, and at once when it is.

    Attributes:
        unsettled: Why the last slice could not be settled, if the run was over by then.
    """

    def __init__(
        self,
        ledger: Ledger,
        meter: Meter,
        accounts: Sequence[Account],
        *,
        lease_s: float,
        name: str,
    ) -> None:
        self._ledger = ledger
        self._meter = meter
        self._accounts = accounts
        self._lease_s = lease_s
        self._prefix = f"{name}:{meter.run.id}:time-{monotonic():.6f}"
        self._number = 0
        self._short: BudgetExceededError | None = None
        self.unsettled: LedgerError | None = None

    async def count(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Count until the run is over; it begins once it has its first slice."""
        run = self._meter.run
        held = await self._reserve()
        task_status.started()
        while held is not None:
            reservation_id, length_s = held
            began = monotonic()
            following: tuple[str, float] | None = None
            try:
                grace_s = min(run.plan.config.graceful_shutdown_timeout, length_s / 10)
                await anyio.sleep(length_s - grace_s)
                following = await self._reserve()
                if following is None and self._short is not None:
                    run.interrupt(reason_of(self._short))
                await anyio.sleep(max(0.0, began + length_s - monotonic()))
            except BaseException:
                await self._end(reservation_id, monotonic() - began, length_s, following)
                raise
            try:
                await self._settle(reservation_id, length_s, length_s)
            except BaseException:
                await self._give_back(following)
                raise
            held = following
        if self._short is not None:
            run.interrupt(reason_of(self._short, InterruptMode.IMMEDIATE))

    async def _reserve(self) -> tuple[str, float] | None:
        """Set a slice aside, or what is left of one; `None` if nothing is."""
        wanted = milliseconds(SLICE_S)
        while wanted > 0:
            self._number += 1
            reservation_id = f"{self._prefix}-{self._number}"
            try:
                await self._ledger.reserve(
                    self._accounts,
                    Amounts.of((0, 0, 0, 0, wanted)),
                    reservation_id=reservation_id,
                    lease_s=self._lease_s,
                )
            except BudgetExceededError as error:
                self._short = error
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
        following: tuple[str, float] | None,
    ) -> None:
        """Settle the slice in which a run ended, and give back the one after it.

        What the ledger cannot do must not take the place of what is under way.
        """
        await self._give_back(following)
        try:
            await self._settle(reservation_id, took_s, length_s)
        except LedgerError as error:
            self.unsettled = error
            _LOG.error("time of run %s is not settled: %s", self._meter.run.id, error)

    async def _give_back(self, held: tuple[str, float] | None) -> None:
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
