"""A reservation lasts as long as somebody renews it, and no longer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Literal

import anyio
import pytest
from kaizen import Kernel, ModelReply, ModelRequest
from kaizen.testing import ModelPlugin
from kaizen_budgets import (
    Account,
    Amounts,
    Budget,
    BudgetExceededError,
    SpendLimits,
    SqliteLedger,
    _sqlite,
)

from .conftest import PricedModel, answering

pytestmark = pytest.mark.anyio
CENT = Amounts(usd="0.01")
NOTHING = Amounts()


def only() -> Account:
    return Account("a", Budget(usd="0.01"))


@pytest.mark.parametrize(("lost", "counted"), [("release", NOTHING), ("charge", CENT)])
async def test_what_is_not_renewed_lapses_and_counts_as_is_said(
    tmp_path: Path, lost: Literal["release", "charge"], counted: Amounts
) -> None:
    async with SqliteLedger(tmp_path / "budgets.db", lost=lost) as ledger:
        await ledger.reserve([only()], CENT, reservation_id="1", lease_s=0)

        balance = await ledger.balance(only())

        assert (balance.spent, balance.reserved) == (counted, NOTHING)
        assert await ledger.outcome("1") == ("lapsed", counted)


@pytest.mark.parametrize("lost", ["release", "charge"])
async def test_what_comes_too_late_is_counted_all_the_same_and_once(
    tmp_path: Path, lost: Literal["release", "charge"]
) -> None:
    cost = Amounts(usd="0.007")
    async with SqliteLedger(tmp_path / "budgets.db", lost=lost) as ledger:
        await ledger.reserve([only()], CENT, reservation_id="1", lease_s=0)
        await ledger.balances()

        late = await ledger.settle("1", cost)
        again = await ledger.settle("1", cost)

        assert (late.outcome, late.repeated) == ("lapsed", False)
        assert (again.outcome, again.repeated) == ("settled", True)
        assert (await ledger.balance(only())).spent == cost


async def test_a_call_finds_what_a_lapsed_one_leaves(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "budgets.db") as ledger:
        await ledger.reserve([only()], CENT, reservation_id="1", lease_s=0)
        await ledger.reserve([only()], CENT, reservation_id="2")


async def test_who_renews_keeps_what_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteLedger(tmp_path / "budgets.db") as ledger:
        await ledger.reserve([only()], CENT, reservation_id="1", lease_s=10)
        now = monotonic()
        monkeypatch.setattr(_sqlite, "monotonic", lambda: now + 9)
        await ledger.renew(["1", "none"], lease_s=10)
        monkeypatch.setattr(_sqlite, "monotonic", lambda: now + 18)
        with pytest.raises(BudgetExceededError):
            await ledger.reserve([only()], CENT, reservation_id="2")
        monkeypatch.setattr(_sqlite, "monotonic", lambda: now + 20)
        await ledger.reserve([only()], CENT, reservation_id="3")


async def test_another_start_of_the_machine_ends_every_reservation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteLedger(tmp_path / "budgets.db") as ledger:
        await ledger.reserve([only()], CENT, reservation_id="1", lease_s=3_600)
    monkeypatch.setattr(_sqlite, "_boot", lambda: "another")
    async with SqliteLedger(tmp_path / "budgets.db") as ledger:
        assert not (await ledger.balance(only())).reserved


async def test_a_call_that_goes_on_is_renewed(tmp_path: Path) -> None:
    renewed = anyio.Event()

    class Renewing(SqliteLedger):
        async def renew(self, ids: Sequence[str], *, lease_s: float = 60) -> None:
            await super().renew(ids, lease_s=lease_s)
            renewed.set()

    class Slow(PricedModel):
        async def complete(self, request: ModelRequest) -> ModelReply:
            with anyio.fail_after(10):
                await renewed.wait()
            return await super().complete(request)

    async with Renewing(tmp_path / "budgets.db") as ledger:
        limits = SpendLimits(Budget(usd="1"), ledger=ledger, lease_seconds=1)
        async with Kernel(
            plugins=[ModelPlugin(Slow("yes"))],
            discover=False,
            config={"default_provider": "scripted"},
            config_file=False,
            environ={},
        ) as kernel:
            await answering(kernel, hooks=[limits]).run(question="?")
        (balance,) = await ledger.balances()

    assert balance.spent.usd == Amounts(usd="0.002").usd
