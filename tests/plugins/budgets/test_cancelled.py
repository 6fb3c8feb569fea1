"""Who is cancelled at whatever moment leaves nothing reserved, and the ledger usable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen import AgentInterrupted, BaseAgent, Kernel, tool
from kaizen.testing import Call, ModelPlugin
from kaizen_budgets import (
    Account,
    Amounts,
    Budget,
    BudgetExceededError,
    Ledger,
    LedgerError,
    MemoryLedger,
    SpendLimits,
    SqliteLedger,
    charge,
)

from .conftest import PricedModel

CENT = Amounts(usd="0.01")


@tool(danger="safe", idempotent=True)
async def buy() -> str:
    """Buy."""
    await charge("0.01")
    await anyio.lowlevel.checkpoint()
    return "bought"


async def cut_off(ledger: Ledger, after: int) -> None:
    """Cancel a run after it has gone on for so many turns of the loop."""
    model = PricedModel(Call("buy"), "done")
    limits = SpendLimits(Budget(usd="9", tool_calls=999, scope="kernel"), ledger=ledger)
    async with Kernel(
        plugins=[ModelPlugin(model)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(signature="q -> a", tools=[buy], kernel=kernel, hooks=[limits])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agent.run(q="?"))
            for _ in range(after):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_run_that_is_cancelled_anywhere_leaves_nothing_reserved(
    tmp_path: Path, kind: str
) -> None:
    async with SqliteLedger(tmp_path / "budgets.db") as file:
        ledger: Ledger = file if kind == "sqlite" else MemoryLedger()
        for after in range(60):
            await cut_off(ledger, after if kind == "memory" else after * 20)
            assert [each for each in await ledger.balances() if each.reserved] == []


async def reserve_and_settle(ledger: Ledger, where: Sequence[Account], name: str) -> None:
    """Do as the gate does, and release what was not settled."""
    try:
        await ledger.reserve(where, CENT, reservation_id=name)
    except BudgetExceededError:
        return
    except BaseException:
        with anyio.CancelScope(shield=True):
            await ledger.release(name)
        raise
    try:
        await asyncio.sleep(0)
    finally:
        with anyio.CancelScope(shield=True):
            await ledger.settle(name, CENT)


def test_asyncio_itself_may_cancel_anywhere(tmp_path: Path) -> None:
    async def main() -> None:
        where = [Account("a", Budget(usd="1"))]
        async with SqliteLedger(tmp_path / "budgets.db") as ledger:
            for after in range(60):
                others = [
                    asyncio.create_task(
                        reserve_and_settle(ledger, where, f"{after}-{number}")
                    )
                    for number in range(3)
                ]
                for _ in range(after):
                    await asyncio.sleep(0)
                others[after % 3].cancel()
                for each in others:
                    with suppress(asyncio.CancelledError):
                        await each
            balance = await ledger.balance(where[0])
        assert balance.spent.usd <= 1
        # What asyncio cut off while it was settled ends with its lease.
        assert balance.reserved.usd + balance.spent.usd <= 1

    before = set(threading.enumerate())
    anyio.run(main, backend="asyncio")
    for each in set(threading.enumerate()) - before:
        each.join(10)
        assert not each.is_alive()


@pytest.mark.anyio
async def test_one_that_goes_wrong_does_not_take_the_others_with_it(
    tmp_path: Path,
) -> None:
    where = [Account("a", Budget(usd="1"))]
    outcomes: dict[str, Any] = {}
    async with SqliteLedger(tmp_path / "budgets.db") as ledger:

        async def settle(name: str) -> None:
            try:
                outcomes[name] = (await ledger.settle(name, CENT)).outcome
            except LedgerError as error:
                outcomes[name] = error.problem

        for name in "ab":
            await ledger.reserve(where, CENT, reservation_id=name)
        async with anyio.create_task_group() as tasks:
            for name in ("a", "nothing", "b"):
                tasks.start_soon(settle, name)
        balance = await ledger.balance(where[0])

    assert outcomes == {"a": "settled", "nothing": "is unknown", "b": "settled"}
    assert balance.spent == Amounts(usd="0.02")
    assert not balance.reserved


@pytest.mark.anyio
async def test_a_run_without_any_time_does_not_begin() -> None:
    model = PricedModel("yes")
    limits = SpendLimits(Budget(seconds=0))
    async with Kernel(
        plugins=[ModelPlugin(model)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(signature="q -> a", kernel=kernel, hooks=[limits])
        with anyio.fail_after(10), pytest.raises(AgentInterrupted):
            await agent.run(q="?")

    assert model.requests == []
