"""The handler that stops runs when their money is spent."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)

from kaizen_interrupts._handlers import BaseInterruptHandler

if TYPE_CHECKING:
    from kaizen.run import Run

__all__ = ["BudgetAlert", "BudgetInterruptHandler", "user_of"]

MAX_ACCOUNTS = 100_000
MAX_ENDED = 10_000
_NOTHING = Decimal(0)
_LOG = logging.getLogger("kaizen")

TrackBy: TypeAlias = Literal["session", "agent", "user"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAlert:
    """Most of a budget is spent.

    Attributes:
        track_by: Whose budget: that of a session, an agent or a user.
        key: Which session, agent or user.
        spent_usd: What is spent, in US dollars.
        limit_usd: The budget.
        run_id: The run in which it was noticed.
    """

    track_by: TrackBy
    key: str
    spent_usd: Decimal
    limit_usd: Decimal
    run_id: str

    def __str__(self) -> str:
        whose = f"{self.track_by} {self.key!r}"
        return f"{whose} has spent {self.spent_usd} of {self.limit_usd} US dollars"


@dataclass(frozen=True, slots=True)
class _Charged:
    """A run that goes on, and what it had cost before it began, with another's past."""

    run: Run
    inherited: Decimal

    def spent(self) -> Decimal:
        return _cost(self.run) - self.inherited


class _Account:
    """What the runs of one key spent.

    Attributes:
        key: Which session, agent or user; what runs say of themselves may change.
        ended: What those that have ended spent.
        live: Those that go on, by id. One that has ended leaves when somebody looks.
        alerted: Whether somebody was warned.
    """

    __slots__ = ("alerted", "ended", "key", "live")

    def __init__(self, key: str) -> None:
        self.key = key
        self.ended = _NOTHING
        self.live: dict[str, _Charged] = {}
        self.alerted = False


class BudgetInterruptHandler(BaseInterruptHandler):
    """Stops the runs of a session, an agent or a user once they have spent a budget.

    Counted is what providers say that they cost; what they do not name is nothing. Runs
    inside a run are counted with it, and once; so is a run that is resumed, wherever it was
    begun, and of a fork what it cost since. A run whose session, agent or user changes
    while it goes on is counted where it belongs now. A run without a session is one by
    itself, with the runs inside it; runs that name no user share one account. What was
    spent is known to this object alone and forgotten with it; of more than 100,000
    accounts, those without runs go, the oldest first.

    It stops what goes on, and reserves nothing: the turn that reaches the limit, and those
    that other runs have under way, may pass it.

    Args:
        max_budget_usd: The budget of each session, agent or user, in US dollars.
        track_by: Whose runs share it.
        alert_threshold: The share at which it warns, once: in the log of the run, on the
            logger `kaizen`, and through `on_alert`.
        on_alert: Is told of the warning.
        mode: How the runs stop.
    """

    def __init__(
        self,
        max_budget_usd: Decimal | float | str,
        track_by: TrackBy = "session",
        alert_threshold: float = 0.8,
        on_alert: Callable[[BudgetAlert], Awaitable[None] | None] | None = None,
        mode: InterruptMode = InterruptMode.GRACEFUL,
    ) -> None:
        budget = _amount(max_budget_usd)
        if track_by not in _KEYS:
            raise ValueError(f"track_by is 'session', 'agent' or 'user', not {track_by!r}")
        if not 0 < alert_threshold <= 1:
            raise ValueError(f"alert_threshold is from 0 to 1, not {alert_threshold!r}")
        self.max_budget_usd = budget
        self.track_by: TrackBy = track_by
        self.mode = InterruptMode(mode)
        self._alert_at = budget * Decimal(str(alert_threshold))
        self._on_alert = on_alert
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._open: dict[str, _Account] = {}
        self._ended: OrderedDict[str, tuple[str, Decimal]] = OrderedDict()

    def spent_usd(self, key: str) -> Decimal:
        """Return what the runs of a session, agent or user have spent so far."""
        account = self._accounts.get(key)
        return self._sum(account) if account is not None else _NOTHING

    def begin(self, run: Run) -> None:
        """Count a run from now on, unless it is counted with one around it."""
        for each in tuple(self._open.values()):
            self._settle(each)
        account = self._account(self._key(run))
        if any(each.id in account.live for each in _around(run)):
            return
        for inside in [each.run for each in account.live.values()]:
            if run in _around(inside):
                del account.live[inside.id]
        before = self._ended.pop(run.id, None)
        if before is not None and before[0] in self._accounts:
            self._accounts[before[0]].ended -= before[1]
        account.live[run.id] = _Charged(run, _inherited(run))
        self._open[account.key] = account

    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        run: Run = context["run"]
        key = self._key(run)
        self._move(run, key)
        account = self._account(key)
        spent = self._sum(account)
        if spent >= self._alert_at and not account.alerted:
            account.alerted = True
            await self._alert(key, spent, run)
        if spent < self.max_budget_usd:
            return None
        return InterruptReason(
            source=InterruptSource.SYSTEM,
            mode=self.mode,
            signal=InterruptSignal.BUDGET_EXCEEDED,
            message=f"{self.track_by} {key!r} has spent its budget of "
            f"{self.max_budget_usd} US dollars",
            metadata={
                "budget_spent_usd": spent,
                "budget_limit_usd": self.max_budget_usd,
                "track_by": self.track_by,
            },
        )

    def _move(self, run: Run, key: str) -> None:
        """Count a run under another key, if it is counted and says so now."""
        known = self._accounts.get(key)
        if known is not None and run.id in known.live:
            return
        for account in tuple(self._open.values()):
            if account.key != key and run.id in account.live:
                del account.live[run.id]
                self._settle(account)
                self.begin(run)

    async def _alert(self, key: str, spent: Decimal, run: Run) -> None:
        alert = BudgetAlert(
            track_by=self.track_by,
            key=key,
            spent_usd=spent,
            limit_usd=self.max_budget_usd,
            run_id=run.id,
        )
        _LOG.warning("%s", alert)
        if not run.ended:
            data = {
                "track_by": self.track_by,
                "key": key,
                "budget_spent_usd": str(spent),
                "budget_limit_usd": str(self.max_budget_usd),
            }
            run.note("interrupts", "budget_alert", data)
        if self._on_alert is None:
            return
        try:
            outcome = self._on_alert(alert)
            if isawaitable(outcome):
                await outcome
        except Exception:  # noqa: BLE001 - who is only told cannot stop a run
            _LOG.exception("the `on_alert` of a budget failed")

    def _sum(self, account: _Account) -> Decimal:
        self._settle(account)
        return sum((each.spent() for each in account.live.values()), account.ended)

    def _settle(self, account: _Account) -> None:
        """Keep of runs that have ended only what they spent."""
        for each in [each for each in account.live.values() if each.run.ended]:
            del account.live[each.run.id]
            spent = (each.run.cost_usd or _NOTHING) - each.inherited
            account.ended += spent
            self._ended[each.run.id] = (account.key, spent)
        if not account.live:
            self._open.pop(account.key, None)
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def _account(self, key: str) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(key)
            if len(self._accounts) > MAX_ACCOUNTS:
                self._forget_one()
        self._accounts.move_to_end(key)
        return account

    def _forget_one(self) -> None:
        for key, account in self._accounts.items():
            if not account.live:
                del self._accounts[key]
                return

    def _key(self, run: Run) -> str:
        return _KEYS[self.track_by](run)


def _amount(value: Decimal | float | str) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = _NOTHING
    if not amount.is_finite() or amount <= 0:
        raise ValueError(f"max_budget_usd is an amount above 0, not {value!r}")
    return amount


def user_of(run: Run) -> str:
    """Return the user for whom a run is made: its own, or that of a run around it."""
    each: Run | None = run
    while each is not None:
        user = each.metadata.get("user_id")
        if user is not None:
            return str(user)
        each = each.parent
    return ""


def _session_of(run: Run) -> str:
    return run.session_id or run.trace_id


def _agent_of(run: Run) -> str:
    return run.agent_id


_KEYS: Mapping[TrackBy, Callable[[Run], str]] = {
    "session": _session_of,
    "agent": _agent_of,
    "user": user_of,
}


def _around(run: Run) -> Iterator[Run]:
    """Yield the runs around a run that go on and will be charged with what it costs."""
    each = run.parent
    while each is not None and not each.ended:
        yield each
        each = each.parent


def _cost(run: Run) -> Decimal:
    """Return what a run has cost, with the runs inside it that have not ended.

    One of those that was resumed is in the account of the run around it with what it had
    cost before, and is not counted twice.
    """
    cost = run.cost_usd or _NOTHING
    for child in run.children:
        cost += _cost(child) - (_known_before(run, child) if child.past else _NOTHING)
    return cost


def _known_before(run: Run, child: Run) -> Decimal:
    from kaizen.runlog import ChildEnded

    for entry in reversed(run.log.entries):
        if isinstance(entry, ChildEnded) and entry.run_id == child.id:
            return entry.cost_usd or _NOTHING
    return _NOTHING


def _inherited(run: Run) -> Decimal:
    """Return what a fork had cost when it was made, which another run was charged with."""
    from kaizen.runlog import Forked, fold

    entries = run.log.entries if run.past is not None else ()
    for place in range(len(entries) - 1, -1, -1):
        if isinstance(entries[place], Forked):
            return fold(entries[:place]).cost_usd or _NOTHING
    return _NOTHING
