"""The ledger in memory: for one process, and forgotten with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time
from typing import TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from kaizen_budgets import _book
from kaizen_budgets._amounts import DIMENSIONS, Amounts, Units
from kaizen_budgets._book import Parts, State, parts_of
from kaizen_budgets._budget import window_at
from kaizen_budgets._errors import LedgerError
from kaizen_budgets._ledger import (
    LEASE_S,
    Account,
    Balance,
    Outcome,
    Reservation,
    Settlement,
)

__all__ = ["MemoryLedger"]

MAX_ACCOUNTS = 100_000
MAX_CLOSED = 10_000


_Open: TypeAlias = tuple[Sequence[State], Parts, Units]
"""A reservation, and where it was made: windows may end before it is settled."""


class MemoryLedger:
    """Keeps accounts in the memory of one process.

    Nothing waits in it, so that each method is atomic by itself. Use it from one thread.
    It has room for 100,000 accounts: those of runs and windows that have ended make way for
    new ones, the runs that ended first before others; if there are none of these, new ones
    are refused.

    Args:
        clock: The time, seconds since the epoch, UTC.
    """

    def __init__(self, *, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._states: dict[str, State] = {}
        self._open: dict[str, _Open] = {}
        self._ended: dict[str, None] = {}
        self._closed: dict[str, tuple[Outcome, Amounts]] = {}
        self._closed_before: dict[str, tuple[Outcome, Amounts]] = {}
        self._changed: anyio.Event | None = None

    @property
    def leases(self) -> bool:
        """False: whoever could lose a reservation loses the ledger with it."""
        return False

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
        if reservation_id in self._open or self._known(reservation_id):
            raise LedgerError(f"reservation {reservation_id!r}", "was made before")
        units = amounts.units
        parts = parts_of(units)
        states = self._find(accounts)
        if not spent:
            _book.check(states, parts, beyond_soft=beyond_soft)
        _book.set_aside(states, parts)
        self._open[reservation_id] = (states, parts, units)
        return Reservation(reservation_id, accounts, units)

    async def settle(self, reservation_id: str, amounts: Amounts) -> Settlement:
        """Count what a call cost, and give back the rest; see `Ledger.settle`."""
        reserved = self._open.pop(reservation_id, None)
        if reserved is None:
            return self._again(reservation_id)
        states, parts, _ = reserved
        crossings, over = _book.settle(states, parts, parts_of(amounts.units))
        self._close(reservation_id, "settled", amounts)
        return Settlement("settled", amounts, crossings=crossings, over=over)

    async def release(self, reservation_id: str) -> Settlement:
        """Give back all of a reservation; see `Ledger.release`."""
        reserved = self._open.pop(reservation_id, None)
        if reserved is None:
            if self._known(reservation_id):
                return self._again(reservation_id)
            return Settlement("unknown", Amounts(), repeated=True)
        states, parts, _ = reserved
        _book.settle(states, parts, ())
        nothing = Amounts()
        self._close(reservation_id, "released", nothing)
        return Settlement("released", nothing)

    async def renew(
        self, reservation_ids: Sequence[str], *, lease_s: float = LEASE_S
    ) -> None:
        """Do nothing: a reservation lasts as long as the process."""

    async def outcome(self, reservation_id: str) -> tuple[Outcome, Amounts]:
        """Return what became of a reservation; see `Ledger.outcome`."""
        reserved = self._open.get(reservation_id)
        if reserved is not None:
            return "open", Amounts.of(reserved[2])
        return self._known(reservation_id) or ("unknown", Amounts())

    async def allow(self, account: Account, dimension: str, share: int) -> None:
        """Let an account spend beyond a soft limit; see `Ledger.allow`."""
        (state,) = self._find((account,))
        state.allow(DIMENSIONS.index(dimension), share)

    async def ended(self, accounts: Sequence[Account]) -> None:
        """Let these make way for others from now on; see `Ledger.ended`."""
        for account in accounts:
            if account.key in self._states:
                self._ended[account.key] = None

    async def record(self, account: Account, amounts: Amounts) -> None:
        """Count what was spent elsewhere; see `Ledger.record`."""
        _book.settle(self._find((account,)), (), parts_of(amounts.units))

    async def knows(self, account: Account) -> bool:
        """Say whether anything was ever counted for an account here."""
        return account.key in self._states

    async def balance(self, account: Account) -> Balance:
        """Return how an account stands."""
        state = self._states.get(account.key)
        if state is None or (state.ends is not None and self._clock() >= state.ends):
            state = State(account)
        return state.balance()

    async def balances(self) -> Sequence[Balance]:
        """Return how all accounts stand, those of windows that ended left out."""
        now = self._clock()
        return [
            state.balance()
            for state in self._states.values()
            if state.ends is None or now < state.ends
        ]

    async def changed(self, timeout_s: float) -> None:
        """Wait until something was given back, or for that long at most."""
        if self._changed is None:
            self._changed = anyio.Event()
        with anyio.move_on_after(timeout_s):
            await self._changed.wait()
        await checkpoint()

    def _find(self, accounts: Sequence[Account]) -> list[State]:
        """Return the states of accounts in their windows.

        A window ends by the clock and begins once: a clock that is set back finds the one
        that it has seen last.
        """
        known, ended = self._states, self._ended
        found = []
        now = 0.0
        if ended:  # who spends again has not ended, and makes no way for what comes with it
            for account in accounts:
                ended.pop(account.key, None)
        for account in accounts:
            state = known.get(account.key)
            if state is None:
                state = self._begin(account)
            elif state.ends is not None:
                now = now or self._clock()
                if now >= state.ends:
                    state = self._begin(account)
            if state.account is not account and state.account.budget != account.budget:
                state.adopt(account)
            found.append(state)
        return found

    def _begin(self, account: Account) -> State:
        if len(self._states) >= MAX_ACCOUNTS and account.key not in self._states:
            self._make_room()
        starts, ends = window_at(account.budget.window, self._clock())
        state = self._states[account.key] = State(account, starts=starts, ends=ends)
        return state

    def _make_room(self) -> None:
        for key in self._ended:
            if not any(self._states[key].reserved):
                del self._states[key], self._ended[key]
                return
        now = self._clock()
        for key, state in self._states.items():
            if state.ends is not None and now >= state.ends:
                del self._states[key]
                self._ended.pop(key, None)
                return
        raise LedgerError(
            "the ledger in memory",
            f"has {MAX_ACCOUNTS:,} accounts whose runs and windows go on: no more fit",
            'Use `ledger = "sqlite"`, fewer budgets a user, or shorter windows.',
        )

    def _close(self, reservation_id: str, outcome: Outcome, amounts: Amounts) -> None:
        self._closed[reservation_id] = (outcome, amounts)
        if len(self._closed) >= MAX_CLOSED:  # the last so many are known, or twice that
            self._closed_before, self._closed = self._closed, {}
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _known(self, reservation_id: str) -> tuple[Outcome, Amounts] | None:
        known = self._closed.get(reservation_id)
        return known or self._closed_before.get(reservation_id)

    def _again(self, reservation_id: str) -> Settlement:
        known = self._known(reservation_id)
        if known is None:
            raise LedgerError(f"reservation {reservation_id!r}", "is unknown")
        return Settlement(known[0], known[1], repeated=True)
