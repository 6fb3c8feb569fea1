"""The ledger in one SQLite file: for any number of processes of one machine."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from threading import Lock
from time import monotonic, time
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint_if_cancelled
from kaizen.claims import is_gone, new_owner

from kaizen_budgets import _book
from kaizen_budgets._amounts import DIMENSIONS, NOTHING, Amounts, Units
from kaizen_budgets._book import Parts, State, parts_of
from kaizen_budgets._errors import BudgetExceededError, LedgerError
from kaizen_budgets._ledger import (
    LEASE_S,
    Account,
    Balance,
    Outcome,
    Reservation,
    Settlement,
)
from kaizen_budgets._page import Page, as_text, as_units
from kaizen_budgets._schema import begin, is_busy, open_ledger

__all__ = ["Lost", "SqliteLedger"]

Value = TypeVar("Value")
Work: TypeAlias = Callable[[Page], Value]
Lost: TypeAlias = Literal["release", "charge"]
"""What counts for a call of which nobody will say what it cost: nothing, or the most."""

POLL_S = 0.05
"""How often who waits looks what other processes have given back."""

SWEEP_S = 0.25
"""How often at most those who are refused look whether others have ended."""

MAX_LEASE_S = 7 * 86_400.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Job(Generic[Value]):
    """Something to do within a transaction, by itself or together with others."""

    __slots__ = ("done", "dropped", "error", "value", "work")

    def __init__(self, work: Work[Value]) -> None:
        self.work = work
        self.value: Value | None = None
        self.error: Exception | None = None
        self.done = False
        self.dropped = False


class SqliteLedger:
    """Keeps accounts in a file that processes share.

    What calls of one process ask at the same time is done in one transaction, which is on
    disk before any of them goes on. A reservation is held for as long as its lease, unless
    it is renewed, or until its process has ended: a process that was killed keeps nothing
    from the others.

    Args:
        path: The file. It is made when it is first needed, for this user alone.
        lost: What counts for a reservation whose lease ended: nothing (`release`), or all
            of it (`charge`), since the call may have been paid for.
        timeout_s: How long to wait for other processes, in seconds.
        clock: The time, seconds since the epoch, UTC.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        lost: Lost = "release",
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time,
    ) -> None:
        self._path = Path(path).absolute()
        self._lost = lost
        self._timeout_s = timeout_s
        self._clock = clock
        self._owner = new_owner()
        self._boot = _boot()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._jobs: deque[_Job[Any]] = deque()
        self._held: dict[str, tuple[Units, Sequence[int]]] = {}
        self._budgets: dict[tuple[str, str], Account] = {}
        self._turn = anyio.Lock(fast_acquire=True)
        self._one = Lock()
        self._limiter: anyio.CapacityLimiter | None = None
        self._changed: anyio.Event | None = None
        self._next_sweep = 0.0

    async def __aenter__(self) -> Self:
        await self._do(Page.tidy)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def leases(self) -> bool:
        """True: another process frees what is not renewed."""
        return True

    async def aclose(self) -> None:
        """Close the file, after what is under way. It cannot be used any more."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            async with self._turn:
                await self._thread(self._close)

    async def reserve(
        self,
        accounts: Sequence[Account],
        amounts: Amounts,
        *,
        reservation_id: str,
        lease_s: float = LEASE_S,
        spent: bool = False,
        beyond_soft: bool = False,
    ) -> Reservation:
        """Set amounts aside in all accounts, or in none; see `Ledger.reserve`."""
        made = Reservation(reservation_id, accounts, amounts.units)

        def work(page: Page) -> None:
            parts = parts_of(made.units)
            states = page.find(accounts)
            if not spent:
                self._check(page, states, parts, beyond_soft=beyond_soft)
            self._hold(page, made, states, lease_s)

        await self._do(work)
        return made

    async def settle(self, reservation_id: str, amounts: Amounts) -> Settlement:
        """Count what a call cost, and give back the rest; see `Ledger.settle`."""
        return await self._freeing(lambda page: self._settle(page, reservation_id, amounts))

    async def release(self, reservation_id: str) -> Settlement:
        """Give back all of a reservation; see `Ledger.release`."""
        return await self._freeing(lambda page: self._release(page, reservation_id))

    async def renew(
        self, reservation_ids: Sequence[str], *, lease_s: float = LEASE_S
    ) -> None:
        """Hold reservations for some time more; see `Ledger.renew`."""

        def work(page: Page) -> None:
            until = self._until(lease_s)
            page.connection.executemany(
                "UPDATE reservation SET until = ?, boot = ? WHERE id = ?",
                [(until, self._boot, each) for each in reservation_ids],
            )

        await self._do(work)

    async def outcome(self, reservation_id: str) -> tuple[Outcome, Amounts]:
        """Return what became of a reservation; see `Ledger.outcome`."""

        def work(page: Page) -> tuple[Outcome, Amounts]:
            self._sweep(page)
            row = page.reservation(reservation_id)
            return ("unknown", Amounts()) if row is None else (row[1], Amounts.of(row[0]))

        return await self._do(work)

    async def allow(self, account: Account, dimension: str, share: int) -> None:
        """Let an account spend beyond a soft limit; see `Ledger.allow`."""
        place = DIMENSIONS.index(dimension)

        def work(page: Page) -> None:
            (state,) = page.find((account,))
            state.allow(place, share)
            page.change((state,))

        await self._do(work)

    async def ended(self, accounts: Sequence[Account]) -> None:
        """Do nothing: there is room, and what is old goes when the file is opened."""

    async def record(self, account: Account, amounts: Amounts) -> None:
        """Count what was spent elsewhere; see `Ledger.record`."""

        def work(page: Page) -> None:
            states = page.find((account,))
            _book.settle(states, (), parts_of(amounts.units))
            page.change(states)

        await self._do(work)

    async def knows(self, account: Account) -> bool:
        """Say whether anything was ever counted for an account in this file."""

        def work(page: Page) -> bool:
            found = page.connection.execute(
                "SELECT 1 FROM account WHERE key = ?", (account.key,)
            )
            return found.fetchone() is not None

        return await self._do(work)

    async def balance(self, account: Account) -> Balance:
        """Return how an account stands."""

        def work(page: Page) -> Balance:
            self._sweep(page)
            return page.find((account,))[0].balance()

        return await self._do(work)

    async def balances(self) -> Sequence[Balance]:
        """Return how all accounts stand, those of windows that ended left out."""

        def work(page: Page) -> list[Balance]:
            self._sweep(page)
            return [each.balance() for each in page.all()]

        return await self._do(work)

    async def changed(self, timeout_s: float) -> None:
        """Wait until something was given back here, or may have been elsewhere."""
        if self._changed is None:
            self._changed = anyio.Event()
        with anyio.move_on_after(min(timeout_s, POLL_S)):
            await self._changed.wait()

    async def _freeing(self, work: Work[Settlement]) -> Settlement:
        try:
            return await self._do(work)
        finally:
            if self._changed is not None:
                self._changed.set()
                self._changed = None

    def _check(
        self, page: Page, states: Sequence[State], parts: Parts, *, beyond_soft: bool
    ) -> None:
        """Raise if there is not enough, also after what others have left open is closed."""
        try:
            _book.check(states, parts, beyond_soft=beyond_soft)
        except BudgetExceededError:
            if self._now() < self._next_sweep or not self._sweep(page):
                raise
            _book.check(states, parts, beyond_soft=beyond_soft)

    def _hold(
        self, page: Page, made: Reservation, states: Sequence[State], lease_s: float
    ) -> None:
        rows = [each.row for each in states]
        page.connection.execute(
            "INSERT INTO reservation VALUES (?, ?, ?, ?, ?, ?)",
            (
                made.id,
                self._owner,
                self._boot,
                self._until(lease_s),
                as_text(made.units),
                as_text(rows),
            ),
        )
        _book.set_aside(states, parts_of(made.units))
        page.change(states)
        self._held[made.id] = (made.units, rows)

    def _settle(self, page: Page, reservation_id: str, amounts: Amounts) -> Settlement:
        units = amounts.units
        held = self._held.pop(reservation_id, None)
        if held is not None and page.conclude(reservation_id, "settled", units, held[1]):
            states = page.rows(held[1])
            crossings, over = _book.settle(states, parts_of(held[0]), parts_of(units))
            page.change(states)
            return Settlement("settled", amounts, crossings=crossings, over=over)
        row = page.reservation(reservation_id)
        if row is None:
            raise LedgerError(f"reservation {reservation_id!r}", "is unknown")
        before, outcome, rows = row
        if outcome not in ("open", "lapsed"):
            return Settlement(outcome, Amounts.of(before), repeated=True)
        states = page.rows(rows)
        if outcome == "open":
            page.conclude(reservation_id, "settled", units, rows)
            crossings, over = _book.settle(states, parts_of(before), parts_of(units))
        else:  # what was counted when its lease ended is counted no more
            page.correct(reservation_id, units)
            _book.settle(states, (), [(at, -each) for at, each in enumerate(before)])
            crossings, over = _book.settle(states, (), parts_of(units))
        page.change(states)
        known: Outcome = "settled" if outcome == "open" else "lapsed"
        return Settlement(known, amounts, crossings=crossings, over=over)

    def _release(self, page: Page, reservation_id: str) -> Settlement:
        self._held.pop(reservation_id, None)
        row = page.reservation(reservation_id)
        if row is None:
            return Settlement("unknown", Amounts(), repeated=True)
        held, outcome, rows = row
        if outcome != "open":
            return Settlement(outcome, Amounts.of(held), repeated=True)
        page.end(reservation_id, "released", held, rows)
        return Settlement("released", Amounts())

    def _sweep(self, page: Page) -> bool:
        """Close the reservations whose leases or processes have ended."""
        now = self._now()
        self._next_sweep = now + SWEEP_S
        rows = page.connection.execute(
            "SELECT id, owner, boot, until, units, accounts FROM reservation"
        ).fetchall()
        gone = {owner: is_gone(owner) for owner in {row[1] for row in rows}}
        lapsed = False
        for reservation_id, owner, boot, until, units, accounts in rows:
            if boot == self._boot and until > now and not gone[owner]:
                continue
            lapsed = True
            held = as_units(units)
            counted = held if self._lost == "charge" else NOTHING
            numbers = list(map(int, accounts.split()))
            page.end(reservation_id, "lapsed", held, numbers, counted)
        return lapsed

    def _now(self) -> float:
        """Return the time by which leases end: one that nobody can set, if there is one."""
        return monotonic() if self._boot else self._clock()

    def _until(self, lease_s: float) -> float:
        return self._now() + min(max(0.0, lease_s), MAX_LEASE_S)

    async def _do(self, work: Work[Value]) -> Value:
        """Do some work in a transaction, together with what others want meanwhile.

        Who is cancelled while it is done waits for its end, and what had not begun by then
        is not done.
        """
        await checkpoint_if_cancelled()
        job: _Job[Value] = _Job(work)
        self._jobs.append(job)
        try:
            with anyio.CancelScope(shield=True):
                async with self._turn:
                    while not job.done:  # by whoever had the turn before, most often
                        await self._thread(self._transact)
        except BaseException:  # asyncio itself knows no shields
            job.dropped = True
            raise
        if job.error is not None:
            raise job.error
        return job.value  # type: ignore[return-value]

    async def _thread(self, work: Callable[[], None]) -> None:
        # A thread of its own: those of the tools may all wait for what is done here.
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)
        await anyio.to_thread.run_sync(work, limiter=self._limiter)

    def _transact(self) -> None:
        """Do what is wanted by now.

        Jobs are taken here, where they are done for certain: a task that asyncio cancels
        may have started its thread, or not.
        """
        with self._one:  # such a thread may still be at it
            jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
            wanted = [each for each in jobs if not each.dropped]
            failure = self._attempt(wanted)
            for each in wanted if failure is not None else ():
                # One of many may be the reason: each by itself.
                again = self._attempt([each]) if len(wanted) > 1 else failure
                each.error = again or each.error
            for each in jobs:
                each.done = True

    def _attempt(self, jobs: Sequence[_Job[Any]]) -> LedgerError | None:
        """Do jobs in one transaction, or none of them; return what went wrong."""
        for each in jobs:
            each.error = None
        try:
            self._transact_all(jobs)
        except LedgerError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            return self._failure(error)
        return None

    def _transact_all(self, jobs: Sequence[_Job[Any]]) -> None:
        if self._closed:
            raise LedgerError(f"ledger {str(self._path)!r}", "is closed", "Open a new one.")
        if not jobs:
            return
        connection = self._connection
        if connection is None:
            connection = open_ledger(self._path, timeout_s=self._timeout_s)
            self._connection = connection
        begin(connection, self._timeout_s)
        try:
            page = Page(connection, self._clock, self._budgets)
            for each in jobs:
                try:
                    each.value = each.work(page)
                except BudgetExceededError as error:  # before it changed anything
                    each.error = error
            page.write()
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _failure(self, error: Exception) -> LedgerError:
        remedy = "Check the disk, and who may write there; nothing is spent meanwhile."
        if isinstance(error, sqlite3.Error) and is_busy(error):
            remedy = "Find what writes to it, or raise `timeout_s`."
        failure = LedgerError(
            f"ledger {str(self._path)!r}", f"cannot be used: {error}", remedy
        )
        failure.__cause__ = error
        return failure

    def _close(self) -> None:
        with self._one:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def _boot() -> str:
    """Return which start of which machine this is, where the system says so."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
