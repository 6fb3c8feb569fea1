"""What a ledger is, and what passes in and out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

from kaizen_budgets._amounts import (
    DIMENSIONS,
    UNLIMITED,
    Amounts,
    Units,
    dollars,
    told,
)
from kaizen_budgets._budget import SHARES, Budget

__all__ = [
    "LEASE_S",
    "Account",
    "Balance",
    "Crossing",
    "Ledger",
    "Outcome",
    "Reservation",
    "Settlement",
]

LEASE_S = 60.0
"""For how long a reservation is held unless it is renewed, in seconds."""

Outcome: TypeAlias = Literal["open", "settled", "released", "lapsed", "unknown"]
"""What became of a reservation. One whose lease ended has lapsed."""


class Account:
    """Whose money is spent: one budget, for one of those who each have it.

    Attributes:
        key: What it is found by.
        budget: The limits.
        label: What a person is told.
        shares: Where to warn, in hundredths of a percent.
        alarms: The same in whole units, and at last what is never reached.
    """

    __slots__ = ("_text", "alarms", "budget", "key", "label", "limits", "shares")

    def __init__(self, key: str, budget: Budget, *, label: str = "") -> None:
        self.key = key
        self.budget = budget
        self.label = label or budget.label
        self.limits = budget.limits()
        self.shares = budget.shares()
        self.alarms = [*(_alarm(self.limits, each) for each in self.shares), _NEVER]
        self._text = ""

    @property
    def text(self) -> str:
        """The budget as JSON."""
        if not self._text:
            self._text = self.budget.model_dump_json(exclude_defaults=True)
        return self._text

    def __repr__(self) -> str:
        return f"<Account {self.label!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _account, (self.key, self.budget, self.label)


def _alarm(limits: Units, share: int) -> Sequence[int]:
    """Return how much has to be spent of each limit to reach a share, rounded up."""
    return tuple(max(1, -(-each * share // SHARES)) for each in limits)


_NEVER = (UNLIMITED * SHARES,) * len(DIMENSIONS)


def _account(key: str, budget: Budget, label: str) -> Account:
    return Account(key, budget, label=label)


class Reservation:
    """What is set aside for one call: the most that it can cost.

    Attributes:
        id: Unique in its ledger.
        accounts: Where it is set aside, all of them.
        units: How much, in whole units.
    """

    __slots__ = ("accounts", "id", "units")

    def __init__(self, id: str, accounts: Sequence[Account], units: Units) -> None:  # noqa: A002
        self.id = id
        self.accounts = accounts
        self.units = units

    @property
    def amounts(self) -> Amounts:
        """How much."""
        return Amounts.of(self.units)

    def __repr__(self) -> str:
        return f"<Reservation {self.id!r} of {self.amounts!r}>"


class Crossing:
    """A share of a limit that was reached with what was just settled.

    Attributes:
        share: Which one, from 0 to 1.
        dimension: Of which limit.
        spent: What is spent, in whole units.
        limit: The limit, in whole units.
    """

    __slots__ = ("account", "dimension", "limit", "share", "spent")

    def __init__(
        self, account: Account, share: float, dimension: str, spent: int, limit: int
    ) -> None:
        self.account = account
        self.share = share
        self.dimension = dimension
        self.spent = spent
        self.limit = limit

    def __str__(self) -> str:
        place = DIMENSIONS.index(self.dimension)
        return (
            f"budget {self.account.label!r} has spent {told(place, self.spent)} of "
            f"{told(place, self.limit)} ({self.share:.0%} reached)"
        )


class Settlement:
    """What came of a reservation.

    Attributes:
        outcome: `settled` or `released`; `lapsed` if its lease had ended before, and what
            was spent is counted all the same.
        amounts: What is counted.
        crossings: Shares of limits that were reached by it, each told once.
        over: Accounts that have spent more than they may: the call cost more than the
            most that it could.
        repeated: Whether it was closed before, and nothing was done now.
    """

    __slots__ = ("amounts", "crossings", "outcome", "over", "repeated")

    def __init__(
        self,
        outcome: Outcome,
        amounts: Amounts,
        *,
        crossings: Sequence[Crossing] = (),
        over: Sequence[Account] = (),
        repeated: bool = False,
    ) -> None:
        self.outcome = outcome
        self.amounts = amounts
        self.crossings = crossings
        self.over = over
        self.repeated = repeated


class Balance:
    """How an account stands.

    Attributes:
        limits: The limits, in whole units.
        starts: When its window began, seconds since the epoch, UTC; 0 for none.
        ends: When its window ends, or `None`.
        soft: Its soft limits as shares of the limits, by dimension; empty: it has none.
    """

    __slots__ = ("ends", "key", "label", "limits", "reserved", "soft", "spent", "starts")

    def __init__(
        self,
        key: str,
        label: str,
        *,
        limits: Units,
        spent: Units,
        reserved: Units,
        starts: int = 0,
        ends: int | None = None,
        soft: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.key = key
        self.label = label
        self.limits = limits
        self.spent = Amounts.of(spent)
        self.reserved = Amounts.of(reserved)
        self.starts = starts
        self.ends = ends
        self.soft = soft

    def left(self, dimension: str) -> int | None:
        """Return what is left in whole units, below 0 if it was passed; `None`: no limit.

        Raises:
            ValueError: There is no such dimension.
        """
        place = DIMENSIONS.index(dimension)
        limit = self.limits[place]
        if limit >= UNLIMITED:
            return None
        return limit - self.spent.units[place] - self.reserved.units[place]

    @property
    def left_usd(self) -> Decimal | None:
        """US dollars that are left, or `None` where money is not limited."""
        units = self.left("usd")
        return None if units is None else dollars(max(0, units))


class Ledger(Protocol):
    """Keeps accounts. Every method is atomic, over all accounts at once.

    What is reserved counts as spent until it is settled or released; so no number of calls
    at once can spend more than there is, as long as none costs more than it reserved.
    """

    @property
    def leases(self) -> bool:
        """Whether reservations have to be renewed: others would free them otherwise."""
        ...

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
        """Set amounts aside in all accounts, or in none.

        Args:
            accounts: Where, each once.
            amounts: How much, in each of them.
            reservation_id: Unique; with a run's id in front it is found after a crash.
            lease_s: For how long, unless it is renewed, in seconds.
            spent: It is spent already: set it aside whatever is left.
            beyond_soft: Pass soft limits, since somebody is being asked about them.

        Raises:
            SoftLimitError: There is enough, but a soft limit would be passed.
            BudgetExceededError: There is not enough left in one of them.
            LedgerError: The ledger cannot be read or written.
        """
        ...

    async def settle(self, reservation_id: str, amounts: Amounts) -> Settlement:
        """Count what a call cost, and give back the rest. The second time does nothing.

        The truth is counted, be it more than was reserved.

        Raises:
            LedgerError: There is no such reservation, or the ledger cannot be written.
        """
        ...

    async def release(self, reservation_id: str) -> Settlement:
        """Give back all of a reservation; one that is not there, or is closed, is no error.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        ...

    async def renew(
        self, reservation_ids: Sequence[str], *, lease_s: float = LEASE_S
    ) -> None:
        """Hold reservations for some time more; those that are closed are left alone."""
        ...

    async def outcome(self, reservation_id: str) -> tuple[Outcome, Amounts]:
        """Return what became of a reservation, and what is set aside or counted for it."""
        ...

    async def allow(self, account: Account, dimension: str, share: int) -> None:
        """Let an account spend beyond a soft limit, up to a share of the hard one.

        Args:
            account: Which one.
            dimension: Of which limit; the soft limits of the others stay as they are.
            share: In hundredths of a percent; one that is lower than before does nothing,
                and one beyond the hard limit is that.
        """
        ...

    async def ended(self, accounts: Sequence[Account]) -> None:
        """Hear that the run whose accounts they are has ended.

        They may be forgotten: should it be resumed, what it had spent is in its log, and is
        recorded again. Until they are, they stand as they did.
        """
        ...

    async def record(self, account: Account, amounts: Amounts) -> None:
        """Count what was spent elsewhere, such as by a run before it came here."""
        ...

    async def knows(self, account: Account) -> bool:
        """Say whether anything was ever counted for an account in this ledger."""
        ...

    async def balance(self, account: Account) -> Balance:
        """Return how an account stands; one that nobody used has spent nothing."""
        ...

    async def balances(self) -> Sequence[Balance]:
        """Return how all accounts stand, those of windows that ended left out."""
        ...

    async def changed(self, timeout_s: float) -> None:
        """Wait until something may have been given back, or for that long at most."""
        ...
