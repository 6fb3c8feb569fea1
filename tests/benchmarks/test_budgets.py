"""What it costs to reserve before a call and to settle after it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import anyio.to_thread
from kaizen_budgets import (
    Account,
    Amounts,
    Budget,
    Ledger,
    MemoryLedger,
    SqliteLedger,
)

from tests.benchmarks._measure import awaited, interleave, ratio
from tests.benchmarks._table import Row, Table

PATH = ("run", "session", "user", "day")
TOGETHER = 50


def accounts(number: int) -> Sequence[Account]:
    """The accounts that a run spends from: its own, its session's, its user's, a day's."""
    return tuple(
        Account(
            f"{number} {name}",
            Budget(
                usd=10**9,
                tokens=10**12,
                requests=10**12,
                name=name,
                window="day" if name == "day" else "forever",
            ),
        )
        for name in PATH[:number]
    )


def paying(
    ledger: Ledger, where: Sequence[Account]
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Reserve and settle as a model call does, its amounts reckoned from its prices."""
    numbers = count()
    most, cost = Decimal("0.0123"), Decimal("0.0101")

    async def pay() -> None:
        name = f"{len(where)}-{next(numbers)}"
        reserved = Amounts(usd=most, tokens=1_000, requests=1)
        await ledger.reserve(where, reserved, reservation_id=name)
        await ledger.settle(name, Amounts(usd=cost, tokens=700, requests=1))

    return pay


def test_reserve_and_settle_in_memory(table: Table) -> None:
    async def measure() -> dict[str, list[float]]:
        return await interleave(
            {
                "one": awaited(paying(MemoryLedger(), accounts(1))),
                "four": awaited(paying(MemoryLedger(), accounts(4))),
            }
        )

    measured = anyio.run(measure)

    table.add(
        Row(
            what="budgets: reserve + settle in memory, one account",
            measured=min(measured["one"]) * 1e6,
            form="{:.1f} µs",
            reach=10,
        ),
        Row(
            what="budgets: the same, in a run's, session's, user's and day's at once",
            measured=min(measured["four"]) * 1e6,
            form="{:.1f} µs",
        ),
    )


class Bare:
    """The least that keeps a reservation as durably: two transactions of two statements."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False
        )
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("CREATE TABLE account (id INTEGER PRIMARY KEY, spent TEXT) STRICT")
        execute("CREATE TABLE reservation (id TEXT PRIMARY KEY, units TEXT) STRICT")
        execute("INSERT INTO account VALUES (1, '')")
        self._numbers = count()
        self._limiter = anyio.CapacityLimiter(1)
        self._name = ""

    def _amounts(self) -> str:
        """Some amounts, others each time: SQLite does not write what is there already."""
        return f"{10**10 + next(self._numbers)} 1000 1 0 0"

    def reserve(self) -> None:
        self._name = f"reservation-{next(self._numbers)}"
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        execute("INSERT INTO reservation VALUES (?, ?)", (self._name, self._amounts()))
        execute("UPDATE account SET spent = ? WHERE id = 1", (self._amounts(),))
        execute("COMMIT")

    def settle(self) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE reservation SET units = ? WHERE id = ?", (self._amounts(), self._name)
        )
        execute("UPDATE account SET spent = ? WHERE id = 1", (self._amounts(),))
        execute("COMMIT")

    async def here(self) -> None:
        self.reserve()
        self.settle()

    async def there(self) -> None:
        await anyio.to_thread.run_sync(self.reserve, limiter=self._limiter)
        await anyio.to_thread.run_sync(self.settle, limiter=self._limiter)

    def close(self) -> None:
        self._connection.close()


def test_reserve_and_settle_in_a_file(table: Table, tmp_path: Path) -> None:
    async def measure() -> dict[str, list[float]]:
        bare = Bare(tmp_path / "bare.db")
        async with SqliteLedger(tmp_path / "budgets.db") as ledger:
            pay = paying(ledger, accounts(1))

            async def together() -> None:
                async with anyio.create_task_group() as tasks:
                    for _ in range(TOGETHER):
                        tasks.start_soon(pay)

            measured = await interleave(
                {
                    "here": awaited(bare.here, perf_counter),
                    "there": awaited(bare.there, perf_counter),
                    "one": awaited(pay, perf_counter),
                    "four": awaited(paying(ledger, accounts(4)), perf_counter),
                    "together": awaited(together, perf_counter),
                },
                at_least_s=0.05,
            )
        bare.close()
        return measured

    measured = anyio.run(measure)
    each = [whole / TOGETHER for whole in measured["together"]]

    table.add(
        Row(
            what="budgets: reserve + settle in SQLite, to two raw transactions in a thread",
            measured=ratio(measured["one"], measured["there"]),
            form="{:.2f} ×",
            reach=1.5,
        ),
        Row(
            what="budgets: of it, to two raw transactions in the same thread",
            measured=ratio(measured["one"], measured["here"]),
            form="{:.2f} ×",
        ),
        Row(
            what="budgets: of it, four accounts at once, to two in a thread",
            measured=ratio(measured["four"], measured["there"]),
            form="{:.2f} ×",
        ),
        Row(
            what=f"budgets: of it, each of {TOGETHER} calls at once, to two in a thread",
            measured=ratio(each, measured["there"]),
            form="{:.2f} ×",
        ),
    )
