"""The arithmetic of accounts, for every ledger the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from kaizen_budgets._amounts import (
    DIMENSIONS,
    NOTHING,
    REQUESTS,
    TOOL_CALLS,
    UNLIMITED,
    Units,
)
from kaizen_budgets._budget import SHARES
from kaizen_budgets._errors import BudgetExceededError, Shortage, SoftLimitError
from kaizen_budgets._ledger import Account, Balance, Crossing

__all__ = ["Parts", "State", "check", "parts_of", "set_aside", "settle"]

Parts: TypeAlias = Sequence[tuple[int, int]]
"""Amounts by dimension, those that do not count left out."""


def parts_of(units: Units) -> Parts:
    """Return the dimensions in which a call is counted, and how much.

    A request to a model is counted in money and tokens, be it said to cost none, and a tool
    in money: who has passed such a limit pays for nothing more that is counted there.
    """
    usd, tokens, requests, tool_calls, seconds = units
    if requests and not tool_calls and not seconds:
        return ((0, usd), (1, tokens), (REQUESTS, requests))
    if tool_calls and not requests and not seconds and not tokens:
        return ((0, usd), (TOOL_CALLS, tool_calls))
    return [(place, amount) for place, amount in enumerate(units) if amount]


class State:
    """How an account stands in one window.

    Attributes:
        room: What is neither spent nor reserved, by dimension.
        allowed: The soft limits in shares of the hard ones, by dimension; none: empty.
        raised: How far somebody has allowed to go, in such shares, by dimension.
        warned: How many of its warnings were given, by dimension.
        alarm: Where the next one is due, by dimension.
        starts: When its window began.
        ends: When it ends, or `None`.
        row: Where a ledger keeps it.
    """

    __slots__ = (
        "account",
        "alarm",
        "allowed",
        "ends",
        "raised",
        "reserved",
        "room",
        "row",
        "shares",
        "spent",
        "starts",
        "warned",
    )

    def __init__(
        self,
        account: Account,
        *,
        spent: Sequence[int] = NOTHING,
        reserved: Sequence[int] = NOTHING,
        raised: Sequence[int] = NOTHING,
        warned: Sequence[int] = NOTHING,
        starts: int = 0,
        ends: int | None = None,
        row: int = 0,
    ) -> None:
        self.spent = list(spent)
        self.reserved = list(reserved)
        self.raised = list(raised)
        self.warned = list(warned)
        self.starts = starts
        self.ends = ends
        self.row = row
        self.adopt(account)

    def adopt(self, account: Account) -> None:
        """Have the limits of whoever asks last, such as a larger one."""
        soft = account.budget.soft_at
        self.account = account
        share = round(soft * SHARES) if soft else 0
        self.allowed = [max(share, each) for each in self.raised] if share else ()
        self.shares = account.shares
        self.room = list(map(_left, account.limits, self.spent, self.reserved))
        self.arm()

    def arm(self) -> None:
        """Set the alarm to where the next warnings are due."""
        alarms = self.account.alarms
        self.alarm = alarms[0]
        if any(self.warned):
            last = len(self.shares)
            self.alarm = [alarms[min(n, last)][at] for at, n in enumerate(self.warned)]

    def allow(self, place: int, share: int) -> None:
        """Raise one soft limit, up to the hard one; a lower share does nothing."""
        self.raised[place] = max(self.raised[place], min(share, SHARES))
        self.adopt(self.account)

    def soft_limit(self, place: int) -> int:
        """Return how far it may be spent without a question, where it has soft limits."""
        limit = self.account.limits[place]
        return limit if limit >= UNLIMITED else limit * self.allowed[place] // SHARES

    def shortage(self, place: int, wanted: int, limit: int) -> Shortage:
        """Return how it stands in one dimension."""
        return Shortage(place, limit, self.spent[place], self.reserved[place], wanted)

    def balance(self) -> Balance:
        """Return what is told of it."""
        return Balance(
            self.account.key,
            self.account.label,
            limits=self.account.limits,
            spent=_units(self.spent),
            reserved=_units(self.reserved),
            starts=self.starts,
            ends=self.ends,
            soft={
                name: share / SHARES
                for name, share, limit in zip(
                    DIMENSIONS, self.allowed, self.account.limits, strict=False
                )
                if limit < UNLIMITED
            },
        )


def _left(limit: int, spent: int, reserved: int) -> int:
    return limit - spent - reserved


def check(states: Iterable[State], parts: Parts, *, beyond_soft: bool = False) -> None:
    """Raise if there is not enough in one of the accounts.

    Args:
        states: The accounts.
        parts: What is wanted.
        beyond_soft: Whether soft limits may be passed.

    Raises:
        SoftLimitError: There is enough, but a soft limit would be passed.
        BudgetExceededError: There is not.
    """
    soft = False
    for state in states:
        soft = soft or (not beyond_soft and len(state.allowed) != 0)
        room = state.room
        for place, wanted in parts:
            if wanted > room[place]:
                limit = state.account.limits[place]
                shortage = state.shortage(place, wanted, limit)
                raise BudgetExceededError(state.account, shortage)
    if soft:
        _check_softly(states, parts)


def _check_softly(states: Iterable[State], parts: Parts) -> None:
    for state in states:
        if not state.allowed:
            continue
        for place, wanted in parts:
            limit = state.soft_limit(place)
            if wanted and state.spent[place] + state.reserved[place] + wanted > limit:
                raise SoftLimitError(state.account, state.shortage(place, wanted, limit))


def set_aside(states: Iterable[State], parts: Parts) -> None:
    """Reserve amounts in all accounts."""
    for state in states:
        room, reserved = state.room, state.reserved
        for place, amount in parts:
            room[place] -= amount
            reserved[place] += amount


def settle(
    states: Iterable[State], reserved: Parts, spent: Parts
) -> tuple[Sequence[Crossing], Sequence[Account]]:
    """Take back what was reserved and count what was spent.

    Returns:
        What was reached by it, and who has spent more than there was.
    """
    crossings: list[Crossing] = []
    over: list[Account] = []
    for state in states:
        room, kept = state.room, state.reserved
        for place, amount in reserved:
            room[place] += amount
            kept[place] -= amount
        counted, alarm = state.spent, state.alarm
        rings = passed = False
        for place, amount in spent:
            room[place] -= amount
            counted[place] += amount
            if counted[place] >= alarm[place]:
                rings = True
            if amount and counted[place] > state.account.limits[place]:
                passed = True
        if passed:
            over.append(state.account)
        if rings:
            crossings.extend(_crossed(state))
    return crossings, over


def _crossed(state: State) -> Iterable[Crossing]:
    """Yield the shares of limits that were reached for the first time."""
    account, alarms = state.account, state.account.alarms
    for at, (name, spent) in enumerate(zip(DIMENSIONS, state.spent, strict=True)):
        warned = state.warned[at]
        while warned < len(state.shares) and spent >= alarms[warned][at]:
            share = state.shares[warned] / SHARES
            yield Crossing(account, share, name, spent, account.limits[at])
            warned += 1
        state.warned[at] = warned
    state.arm()


def _units(values: Sequence[int]) -> Units:
    usd, tokens, requests, tool_calls, seconds = values
    return (usd, tokens, requests, tool_calls, seconds)
