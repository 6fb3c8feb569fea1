"""One transaction on the ledger in a file: accounts are read once, and written at its end.

What many calls want at the same time is done in one transaction, so that an account that
all of them share is read and written once for all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from kaizen_budgets._amounts import NOTHING, Units
from kaizen_budgets._book import State, parts_of, settle
from kaizen_budgets._budget import Budget, window_at
from kaizen_budgets._errors import LedgerError
from kaizen_budgets._ledger import Account, Outcome

__all__ = ["Page", "Row", "as_text", "as_units"]

Row: TypeAlias = tuple[Units, Outcome, list[int]]
"""A reservation: what is set aside or counted, what became of it, and its accounts."""

MAX_BUDGETS = 10_000
KEEP_S = 30 * 86_400.0
KEEP_WINDOWS_S = 400 * 86_400.0
_SELECT = (
    "SELECT id, starts, ends, budget, spent, reserved, raised, warned, key, label"
    " FROM account"
)


class Page:
    """What one transaction sees and changes.

    Args:
        connection: In a transaction.
        clock: The time, seconds since the epoch, UTC.
        budgets: The accounts that were read before, so that each budget is read once.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Callable[[], float],
        budgets: dict[tuple[str, str], Account],
    ) -> None:
        self.connection = connection
        self._clock = clock
        self._budgets = budgets
        self._states: dict[int, State] = {}
        self._keys: dict[str, State] = {}
        self._changed: dict[int, State] = {}

    def find(self, accounts: Sequence[Account]) -> list[State]:
        """Return how accounts stand in their windows, and begin those that are due.

        The window that began last counts until it ends: a clock that is set back neither
        opens an old one again nor a new one early.
        """
        missing = [each.key for each in accounts if each.key not in self._keys]
        if missing:
            question = f"{_SELECT} WHERE key IN ({_marks(missing)})"
            for row in self.connection.execute(question, missing):
                self._keys[row[8]] = self._state(row)
        return [self._current(each) for each in accounts]

    def _current(self, account: Account) -> State:
        state = self._keys.get(account.key)
        if state is None:
            return self._begin(account)
        if state.ends is not None and self._clock() >= state.ends:
            self.connection.execute(
                "UPDATE account SET key = ? WHERE id = ?",
                (f"{account.key} {state.starts}", state.row),
            )
            return self._begin(account)
        if state.account is not account and state.account.text != account.text:
            self.connection.execute(
                "UPDATE account SET budget = ?, label = ? WHERE id = ?",
                (account.text, account.label, state.row),
            )
            state.adopt(account)
        return state

    def _begin(self, account: Account) -> State:
        starts, ends = window_at(account.budget.window, self._clock())
        state = State(account, starts=starts, ends=ends)
        made = self.connection.execute(
            "INSERT INTO account (key, starts, ends, label, budget, spent, reserved,"
            " raised, warned, used_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                account.key,
                starts,
                ends,
                account.label,
                account.text,
                as_text(state.spent),
                as_text(state.reserved),
                as_text(state.raised),
                as_text(state.warned),
                self._clock(),
            ),
        )
        state.row = int(made.lastrowid or 0)
        self._states[state.row] = self._keys[account.key] = state
        return state

    def rows(self, numbers: Sequence[int]) -> list[State]:
        """Return how accounts stand in the windows in which something was reserved."""
        missing = [each for each in numbers if each not in self._states]
        if missing:
            question = f"{_SELECT} WHERE id IN ({_marks(missing)})"
            for row in self.connection.execute(question, missing).fetchall():
                state = self._state(row)
                if row[8] == state.account.key:
                    self._keys[row[8]] = state
        try:
            return [self._states[each] for each in numbers]
        except KeyError:
            raise LedgerError("the ledger", "has lost an account", "Restore it.") from None

    def all(self) -> list[State]:
        """Return how all accounts stand whose window has not ended."""
        rows = self.connection.execute(
            f"{_SELECT} WHERE ends IS NULL OR ends > ? ORDER BY label, key",
            (self._clock(),),
        ).fetchall()
        return [self._state(row) for row in rows]

    def _state(self, row: Sequence[Any]) -> State:
        number, starts, ends, text, spent, reserved, raised, warned, key, label = row
        known = self._states.get(number)
        if known is not None:
            return known
        account = self._budgets.get((key, text))
        if account is None:
            if len(self._budgets) >= MAX_BUDGETS:
                self._budgets.clear()
            account = Account(key, Budget.model_validate_json(text), label=label)
            self._budgets[(key, text)] = account
        state = self._states[number] = State(
            account,
            spent=as_units(spent),
            reserved=as_units(reserved),
            raised=as_units(raised),
            warned=as_units(warned),
            starts=starts,
            ends=ends,
            row=number,
        )
        return state

    def change(self, states: Iterable[State]) -> None:
        """Have accounts written at the end."""
        for each in states:
            self._changed[each.row] = each

    def write(self) -> None:
        """Write the accounts that were changed."""
        if not self._changed:
            return
        now = self._clock()
        self.connection.executemany(
            "UPDATE account SET spent = ?, reserved = ?, raised = ?, warned = ?,"
            " used_at = ? WHERE id = ?",
            [
                (
                    as_text(each.spent),
                    as_text(each.reserved),
                    as_text(each.raised),
                    as_text(each.warned),
                    now,
                    each.row,
                )
                for each in self._changed.values()
            ],
        )

    def reservation(self, reservation_id: str) -> Row | None:
        """Return what is known of a reservation."""
        row = self.connection.execute(
            "SELECT units, 'open', accounts FROM reservation WHERE id = ?"
            " UNION ALL SELECT units, outcome, accounts FROM closed WHERE id = ?",
            (reservation_id, reservation_id),
        ).fetchone()
        if row is None:
            return None
        return as_units(row[0]), row[1], list(map(int, row[2].split()))

    def conclude(
        self, reservation_id: str, outcome: Outcome, counted: Units, rows: Sequence[int]
    ) -> bool:
        """Write down what became of an open reservation, if it is open."""
        done = self.connection.execute(
            "DELETE FROM reservation WHERE id = ?", (reservation_id,)
        )
        if done.rowcount != 1:
            return False
        self.connection.execute(
            "INSERT OR REPLACE INTO closed VALUES (?, ?, ?, ?, ?)",
            (reservation_id, outcome, as_text(counted), as_text(rows), self._clock()),
        )
        return True

    def correct(self, reservation_id: str, counted: Units) -> None:
        """Write down what a reservation has cost after all that had lapsed."""
        self.connection.execute(
            "UPDATE closed SET outcome = 'settled', units = ? WHERE id = ?",
            (as_text(counted), reservation_id),
        )

    def end(
        self,
        reservation_id: str,
        outcome: Outcome,
        held: Units,
        rows: Sequence[int],
        counted: Units = NOTHING,
    ) -> None:
        """Close an open reservation that nobody settles, and count what is given."""
        states = self.rows(rows)
        settle(states, parts_of(held), parts_of(counted))
        self.change(states)
        self.conclude(reservation_id, outcome, counted, rows)

    def tidy(self) -> None:
        """Forget what nobody will ask for any more."""
        now = self._clock()
        self.connection.execute("DELETE FROM closed WHERE closed_at < ?", (now - KEEP_S,))
        held: set[int] = set()
        for (accounts,) in self.connection.execute("SELECT accounts FROM reservation"):
            held.update(map(int, accounts.split()))
        rows = self.connection.execute(
            "SELECT id, ends, budget FROM account"
            " WHERE ends < ? OR (ends IS NULL AND used_at < ?)",
            (now - KEEP_WINDOWS_S, now - KEEP_S),
        ).fetchall()
        gone = [
            (row,)
            for row, ends, text in rows
            if row not in held
            and (ends is not None or Budget.model_validate_json(text).ends_with_run)
        ]
        self.connection.executemany("DELETE FROM account WHERE id = ?", gone)


def as_text(values: Iterable[int]) -> str:
    """Return whole numbers as a text."""
    return " ".join(map(str, values))


def as_units(text: str) -> Units:
    """Return the amounts that a text holds.

    Raises:
        ValueError: It holds something else.
    """
    usd, tokens, requests, tool_calls, seconds = map(int, text.split())
    return (usd, tokens, requests, tool_calls, seconds)


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
