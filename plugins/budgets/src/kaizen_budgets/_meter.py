"""What one run spends, and what it had spent before it was resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kaizen.errors import UnknownRunError
from kaizen.runlog import ChildStarted, Entry, Noted, Reserved, Settled, decode

from kaizen_budgets._amounts import SECONDS, UNLIMITED, Amounts, dollars
from kaizen_budgets._ledger import Account, Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaizen.run import Run

    from kaizen_budgets._sqlite import Lost

__all__ = [
    "SOURCE",
    "Meter",
    "close_lost",
    "note_children",
    "note_settled",
    "noted_inside",
    "spent_before",
    "tell_parent",
]

SOURCE = "budgets"
"""Whose notes they are in the log of a run."""


class Meter:
    """One run that spends.

    Attributes:
        accounts: Where it spends from.
        parent: The meter of the run around it, or `None`.
        total: What it has spent in all, runs inside it included, in whole units.
        open: Its reservations that are neither settled nor released.
    """

    __slots__ = ("accounts", "open", "parent", "run", "total")

    def __init__(
        self, run: Run, accounts: Sequence[Account], parent: Meter | None = None
    ) -> None:
        self.run = run
        self.accounts = accounts
        self.parent = parent
        self.total = Amounts()
        self.open: set[str] = set()

    @property
    def limits_money(self) -> bool:
        """Whether one of its accounts limits money."""
        return any(each.limits[0] < UNLIMITED for each in self.accounts)

    @property
    def limits_tokens(self) -> bool:
        """Whether one of its accounts limits tokens."""
        return any(each.limits[1] < UNLIMITED for each in self.accounts)

    @property
    def timed(self) -> tuple[Account, ...]:
        """Where the time of this run is counted: not where that around it is already."""
        counted = {each.key for each in self.parent.accounts} if self.parent else set()
        return tuple(
            each
            for each in self.accounts
            if each.limits[SECONDS] < UNLIMITED and each.key not in counted
        )

    def count(self, amounts: Amounts) -> None:
        """Add what was spent, here and in the runs around."""
        meter: Meter | None = self
        while meter is not None:
            meter.total += amounts
            meter = meter.parent


def note_settled(
    run: Run, reservation_id: str, what: str, most: Amounts, cost: Amounts
) -> None:
    """Write down what became of a reservation, unless the log is closed."""
    if run.ended:
        return
    if reservation_id in run.state.reserved:
        run.add(Settled, reservation_id=reservation_id, amount_usd=dollars(cost.units[0]))
    data = {
        "reservation_id": reservation_id,
        "what": what[:200],
        "reserved": most.as_json(),
        "settled": cost.as_json(),
    }
    run.note(SOURCE, "settled", data)


def tell_parent(run: Run, spent: Amounts, gate: str) -> None:
    """Tell the run around a run what that has spent in all, for when it is resumed."""
    parent = run.parent
    if parent is not None and not parent.ended and spent:
        data = {"gate": gate, "run_id": run.id, "spent": spent.as_json()}
        parent.note(SOURCE, "inside", data)


def spent_before(entries: Iterable[Entry], gate: str) -> Amounts:
    """Return what a run has spent by its log: itself, and the runs inside it on record.

    Spending cannot be undone: what was rewound counts, and so does the past of a fork.
    """
    total = Amounts()
    inside: dict[str, Amounts] = {}
    for kind, data in _notes(entries):
        if kind == "settled" and str(data.get("reservation_id")).startswith(f"{gate}:"):
            total += Amounts.from_json(data["settled"])
        elif kind == "inside" and data.get("gate") == gate:
            inside[data["run_id"]] = Amounts.from_json(data["spent"])
    return sum(inside.values(), total)


def noted_inside(run: Run, child_id: str, gate: str) -> Amounts:
    """Return what one inside a run has spent, as far as that run has it on record."""
    spent = Amounts()
    for kind, data in _notes(run.log.entries):
        if kind == "inside" and data["run_id"] == child_id and data["gate"] == gate:
            spent = Amounts.from_json(data["spent"])
    return spent


async def note_children(run: Run, gate: str) -> None:
    """Put on record what the runs inside a run have spent, by their own logs.

    Their process may have ended after they had, and before the run around heard of it.
    """
    for entry in [each for each in run.log.entries if isinstance(each, ChildStarted)]:
        spent = await _spent_inside(run, entry.run_id, gate)
        if spent != noted_inside(run, entry.run_id, gate):
            data = {"gate": gate, "run_id": entry.run_id, "spent": spent.as_json()}
            run.note(SOURCE, "inside", data)


async def _spent_inside(run: Run, child_id: str, gate: str) -> Amounts:
    store = run.log.store
    if store is None:
        return Amounts()
    try:
        entries = [decode(each) for each in await store.read(child_id)]
    except UnknownRunError:  # it was about to begin
        return Amounts()
    spent = spent_before(entries, gate)
    noted = {data["run_id"] for kind, data in _notes(entries) if kind == "inside"}
    for entry in entries:
        if isinstance(entry, ChildStarted) and entry.run_id not in noted:
            spent += await _spent_inside(run, entry.run_id, gate)
    return spent


def _notes(entries: Iterable[Entry]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in entries:
        if isinstance(entry, Noted) and entry.source == SOURCE:
            yield entry.kind, entry.data


async def close_lost(run: Run, ledger: Ledger, gate: str, lost: Lost) -> None:
    """Close the reservations that a run had when its process ended, each once.

    What the ledger knows of them counts: it may have been settled before that was logged.
    """
    for entry in [each for each in run.log.entries if isinstance(each, Reserved)]:
        reservation_id = entry.reservation_id
        if reservation_id not in run.state.reserved:
            continue
        if not reservation_id.startswith(f"{gate}:{run.id}:"):  # a fork has others too
            continue
        outcome, amounts = await ledger.outcome(reservation_id)
        most = amounts
        if outcome == "open":
            if lost == "charge":
                await ledger.settle(reservation_id, amounts)
            else:
                await ledger.release(reservation_id)
                amounts = Amounts()
        elif outcome == "unknown":
            most = Amounts(usd=entry.amount_usd)
            amounts = most if lost == "charge" else Amounts()
        note_settled(run, reservation_id, f"found again: {outcome}", most, amounts)
