"""However a call or a run ends, what it spent is counted and the rest is given back."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    Kernel,
    Message,
    ModelReply,
    ModelRequest,
    current_run,
    tool,
)
from kaizen.testing import Call, ModelPlugin
from kaizen_budgets import (
    Account,
    Amounts,
    Budget,
    Ledger,
    LedgerError,
    MemoryLedger,
    Reservation,
    Settlement,
    SpendLimits,
    SqliteLedger,
    _attendant,
    _memory,
    charge,
    metered,
)
from kaizen_budgets._page import Page

from .conftest import PricedModel, Running, answering

CENT = Amounts(usd="0.01")
HI = ModelRequest(messages=(Message(role="user", content="harmless?"),))


def reserved_in(ledger: MemoryLedger) -> list[str]:
    return list(ledger._open)


class Watched(MemoryLedger):
    """A ledger that says when a slice of time was reserved, and can be out of order."""

    def __init__(self, *, broken: Sequence[str] = ()) -> None:
        super().__init__()
        self.broken = set(broken)
        self.slices = 0
        self.second = anyio.Event()

    async def reserve(
        self,
        accounts: Sequence[Account],
        amounts: Amounts,
        *,
        reservation_id: str,
        lease_s: float = 60.0,
        spent: bool = False,
        beyond_soft: bool = False,
    ) -> Reservation:
        self._fail("reserve")
        made = await super().reserve(
            accounts,
            amounts,
            reservation_id=reservation_id,
            lease_s=lease_s,
            spent=spent,
            beyond_soft=beyond_soft,
        )
        if amounts.seconds:
            self.slices += 1
            if self.slices == 2:
                self.second.set()
        return made

    async def settle(self, reservation_id: str, amounts: Amounts) -> Settlement:
        self._fail("settle")
        return await super().settle(reservation_id, amounts)

    def _fail(self, what: str) -> None:
        if what in self.broken:
            raise LedgerError("the ledger", "is out of order", "Mend it.")


@pytest.mark.anyio
async def test_a_run_that_ends_late_in_a_slice_of_time_gives_back_the_next_one(
    running: Running, priced: PricedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_attendant, "SLICE_S", 0.4)
    ledger = Watched()
    limits = SpendLimits(Budget(seconds=60, scope="kernel"), ledger=ledger)

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        await ledger.second.wait()
        return "waited"

    priced.say(Call("wait"), "done")
    async with running() as kernel:
        agent = BaseAgent(signature="q -> a", tools=[wait], kernel=kernel, hooks=[limits])
        with anyio.fail_after(10):
            started = anyio.current_time()
            await agent.run(q="?")
            took = anyio.current_time() - started
        (balance,) = await ledger.balances()

    assert reserved_in(ledger) == []
    assert not balance.reserved
    assert 0.3 < balance.spent.seconds <= took


@pytest.mark.anyio
async def test_a_ledger_that_counts_no_time_says_so_by_itself(running: Running) -> None:
    limits = SpendLimits(Budget(seconds=60), ledger=Watched(broken=["reserve"]))

    async with running() as kernel:
        with pytest.raises(LedgerError, match="out of order"):
            await answering(kernel, hooks=[limits]).run(question="?")


@pytest.mark.anyio
async def test_a_ledger_that_breaks_while_a_run_goes_on_stops_it_and_says_so_by_itself(
    running: Running, priced: PricedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_attendant, "SLICE_S", 0.2)
    ledger = Watched()
    limits = SpendLimits(Budget(seconds=60), ledger=ledger)

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        ledger.broken = {"reserve"}
        await anyio.sleep_forever()
        return "never"

    priced.say(Call("wait"))
    async with running() as kernel:
        agent = BaseAgent(signature="q -> a", tools=[wait], kernel=kernel, hooks=[limits])
        with anyio.fail_after(10), pytest.raises(LedgerError, match="out of order"):
            await agent.run(q="?")


@pytest.mark.anyio
async def test_time_that_cannot_be_settled_when_a_run_is_over_fails_it(
    running: Running, priced: PricedModel
) -> None:
    class Late(MemoryLedger):
        async def settle(self, reservation_id: str, amounts: Amounts) -> Settlement:
            if amounts.seconds:
                raise LedgerError("the ledger", "is out of order", "Mend it.")
            return await super().settle(reservation_id, amounts)

    priced.say("yes")
    limits = SpendLimits(Budget(seconds=60), ledger=Late())
    async with running() as kernel:
        with pytest.raises(LedgerError, match="out of order"):
            await answering(kernel, hooks=[limits]).run(question="?")


@pytest.mark.anyio
@pytest.mark.parametrize("budget", [{"seconds": 60}, {"usd": "1"}])
async def test_a_ledger_that_is_out_of_order_takes_no_place_of_a_cancellation(
    running: Running,
    priced: PricedModel,
    caplog: pytest.LogCaptureFixture,
    budget: dict[str, Any],
) -> None:
    ledger = Watched()
    limits = SpendLimits(Budget(**budget), ledger=ledger)

    with anyio.CancelScope() as scope:

        @tool(danger="safe")
        async def leave() -> str:
            """Leave."""
            ledger.broken = {"settle"}
            scope.cancel()
            await anyio.sleep_forever()
            return "never"

        priced.say(Call("leave"))
        async with running() as kernel:
            agent = BaseAgent(
                signature="q -> a", tools=[leave], kernel=kernel, hooks=[limits]
            )
            with caplog.at_level(logging.ERROR, "kaizen"):
                await agent.run(q="?")

    assert scope.cancelled_caught
    assert "out of order" in caplog.text


class Streaming(PricedModel):
    """A model that answers in three pieces.

    Attributes:
        closed: Whether its last stream was.
    """

    closed = False

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Any]:
        try:
            async with aclosing(super().stream(request)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.closed = True


async def guarded(
    ledger: Ledger, guard: Any, model: PricedModel, *, alone: bool = False
) -> None:
    """Run an agent with a tool that asks a guard, or that tool by itself."""
    limits = SpendLimits(Budget(usd="1", scope="kernel"), ledger=ledger)
    async with Kernel(
        plugins=[ModelPlugin(model)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(signature="q -> a", tools=[guard], kernel=kernel, hooks=[limits])
        with anyio.fail_after(10):
            if alone:
                assert (await agent.execute_tool("guard")).success
            else:
                await agent.run(q="?")


@pytest.mark.anyio
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_stream_that_another_task_closes_is_settled(
    tmp_path: Path, kind: str, alone: bool
) -> None:
    model = Streaming("fine")

    @tool(danger="safe")
    async def guard() -> str:
        """Guard."""
        stream = metered(model).stream(HI)
        await anext(stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.aclose)
        return "harmless"

    async with SqliteLedger(tmp_path / "budgets.db") as file:
        ledger: Ledger = file if kind == "sqlite" else MemoryLedger()
        await guarded(ledger, guard, PricedModel(Call("guard"), "done"), alone=alone)
        (balance,) = await ledger.balances()

    assert model.closed
    assert not balance.reserved
    assert balance.spent.requests == (1 if alone else 3)


@pytest.mark.anyio
async def test_a_stream_that_is_read_to_its_end_costs_what_its_reply_says() -> None:
    model = Streaming("fine", cost_usd="0.03")
    ledger = MemoryLedger()

    @tool(danger="safe")
    async def guard() -> str:
        """Guard."""
        async with aclosing(metered(model).stream(HI)) as pieces:
            last = [each async for each in pieces][-1]
        assert isinstance(last, ModelReply)
        return "harmless"

    await guarded(ledger, guard, PricedModel("unused"), alone=True)
    (balance,) = await ledger.balances()

    assert balance.spent.usd == Decimal("0.03")
    assert reserved_in(ledger) == []


def test_a_stream_that_is_left_to_the_collector_is_settled() -> None:
    model, ledger = Streaming("fine"), MemoryLedger()

    @tool(danger="safe")
    async def guard() -> str:
        """Guard."""
        async for _ in metered(model).stream(HI):
            break
        gc.collect()
        while len(ledger._open) > 1:  # that of the tool itself
            await anyio.lowlevel.checkpoint()
        return "harmless"

    async def main() -> None:
        await guarded(ledger, guard, PricedModel(Call("guard"), "done"))

    anyio.run(main, backend="asyncio")  # trio warns of such code

    assert reserved_in(ledger) == []


@pytest.mark.anyio
async def test_what_is_spent_counts_although_the_run_is_cut_off(
    running: Running, priced: PricedModel
) -> None:
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(usd="1", scope="kernel"), ledger=ledger)

    @tool(danger="safe")
    async def pay() -> str:
        """Pay."""
        with anyio.CancelScope() as scope:
            scope.cancel()
            await charge("0.40", what="paid", spent=True)
        return "paid"

    priced.say(Call("pay"), "done")
    async with running() as kernel:
        agent = BaseAgent(signature="q -> a", tools=[pay], kernel=kernel, hooks=[limits])
        await agent.run(q="?")
        (balance,) = await ledger.balances()

    assert balance.spent.usd == Decimal("0.404")
    assert reserved_in(ledger) == []


@pytest.mark.anyio
async def test_what_is_spent_counts_although_the_log_cannot_be_written(
    running: Running, priced: PricedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = MemoryLedger(), MemoryLedger()
    hooks = [
        SpendLimits(Budget(usd="1", scope="kernel"), ledger=each, name=name)
        for each, name in ((first, "first"), (second, "second"))
    ]

    @tool(danger="safe")
    async def pay() -> str:
        """Pay."""

        async def fail(_: object) -> None:
            raise OSError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(type(current_run()), "settle", fail)
            with pytest.raises(OSError, match="full"):
                await charge("0.40", what="paid", spent=True)
        return "paid"

    priced.say(Call("pay"), "done")
    async with running() as kernel:
        agent = BaseAgent(signature="q -> a", tools=[pay], kernel=kernel, hooks=hooks)
        await agent.run(q="?")

    for ledger in (first, second):
        (balance,) = await ledger.balances()
        assert balance.spent.usd == Decimal("0.404")
        assert reserved_in(ledger) == []


@pytest.mark.anyio
async def test_a_ledger_is_opened_once_however_many_wait_for_it() -> None:
    made: list[MemoryLedger] = []
    go_on = anyio.Event()

    async def open_one() -> MemoryLedger:
        await go_on.wait()
        made.append(MemoryLedger())
        return made[-1]

    limits = SpendLimits(Budget(usd="1"), ledger=open_one)
    got: list[Ledger] = []

    async def get() -> None:
        got.append(await limits.ledger())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        go_on.set()

    assert len(made) == 1
    assert got == made * 3


@pytest.mark.anyio
async def test_a_ledger_that_could_not_be_opened_is_tried_again() -> None:
    tries: list[int] = []

    async def open_one() -> MemoryLedger:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not yet")
        return MemoryLedger()

    limits = SpendLimits(Budget(usd="1"), ledger=open_one)
    with pytest.raises(OSError, match="not yet"):
        await limits.ledger()

    assert await limits.ledger() is await limits.ledger()


@pytest.mark.anyio
async def test_no_account_of_a_run_that_goes_on_makes_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_memory, "MAX_ACCOUNTS", 3)
    ledger = MemoryLedger()
    runs = [Account(name, Budget(usd="1")) for name in "abcd"]
    for each in runs[:3]:
        await ledger.reserve([each], CENT, reservation_id=each.key)
        await ledger.settle(each.key, CENT)

    with pytest.raises(LedgerError, match="3 accounts whose runs and windows go on"):
        await ledger.reserve([runs[3]], CENT, reservation_id="4")
    await ledger.ended([runs[1], Account("unknown", Budget(usd="1"))])
    await ledger.reserve([runs[3]], CENT, reservation_id="4")

    assert [await ledger.knows(each) for each in runs] == [True, False, True, True]
    assert (await ledger.balance(runs[0])).spent == CENT


@pytest.mark.anyio
async def test_an_account_of_a_run_that_goes_on_again_makes_no_way_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_memory, "MAX_ACCOUNTS", 2)
    ledger = MemoryLedger()
    again, other, new = (Account(name, Budget(usd="1")) for name in "abc")
    for each in (again, other):
        await ledger.record(each, CENT)
        await ledger.ended([each])

    await ledger.record(again, CENT)
    await ledger.record(new, CENT)

    assert await ledger.knows(again)
    assert not await ledger.knows(other)
    with pytest.raises(LedgerError):
        await ledger.record(other, CENT)


@pytest.mark.anyio
@pytest.mark.parametrize("alone", [False, True])
async def test_runs_that_have_ended_make_way_for_others(
    running: Running,
    priced: PricedModel,
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,
) -> None:
    monkeypatch.setattr(_memory, "MAX_ACCOUNTS", 2)
    ledger = MemoryLedger()
    limits = SpendLimits(
        Budget(usd="1", name="own"), Budget(usd="9", scope="kernel"), ledger=ledger
    )

    @tool(danger="safe")
    async def work() -> str:
        """Work."""
        await charge("0.001")
        return "worked"

    priced.say(*["yes"] * 5)
    async with running() as kernel:
        agent = BaseAgent(signature="q -> a", tools=[work], kernel=kernel, hooks=[limits])
        for _ in range(5):
            if alone:
                assert (await agent.execute_tool("work")).success
            else:
                await agent.run(q="?")
        balances = {each.label[:3]: each.spent.usd for each in await ledger.balances()}

    once = Decimal("0.001") if alone else Decimal("0.002")
    assert sorted(balances.values()) == [once, 5 * once]


@pytest.mark.anyio
async def test_a_run_makes_no_way_between_its_calls(
    running: Running, priced: PricedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "MAX_ACCOUNTS", 2)
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(usd="1"), ledger=ledger)  # not those of the run inside
    other = Account("other", Budget(usd="1"))

    @tool(danger="safe")
    async def crowd() -> str:
        """Crowd."""
        with pytest.raises(LedgerError):
            await ledger.record(other, CENT)
        return "full"

    async with running() as kernel:
        inner = BaseAgent(signature="q -> a", tools=[crowd], kernel=kernel)

        @tool(danger="safe")
        async def delegate() -> str:
            """Delegate."""
            return str((await inner.run(q="?")).a)

        priced.say(Call("delegate"), Call("crowd"), "inner", "outer")
        agent = BaseAgent(
            signature="q -> a", tools=[delegate], kernel=kernel, hooks=[limits]
        )
        await agent.run(q="?")
        spent = [each.spent.usd for each in await ledger.balances()]

    assert sorted(spent) == [Decimal("0.004"), Decimal("0.008")]


@pytest.mark.anyio
async def test_work_that_goes_wrong_in_whatever_way_leaves_nobody_waiting(
    tmp_path: Path,
) -> None:
    where = [Account("a", Budget(usd="1"))]
    outcomes: list[str] = []

    def burst(_page: Page) -> None:
        raise ZeroDivisionError("of all things")

    async with SqliteLedger(tmp_path / "budgets.db") as ledger:

        async def go_wrong() -> None:
            with pytest.raises(LedgerError, match="of all things"):
                await ledger._do(burst)
            outcomes.append("wrong")

        async def reserve(name: str) -> None:
            await ledger.reserve(where, CENT, reservation_id=name)
            outcomes.append(name)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reserve, "1")
                tasks.start_soon(go_wrong)
                tasks.start_soon(reserve, "2")

    assert sorted(outcomes) == ["1", "2", "wrong"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_nobody_allows_more_than_the_limit(tmp_path: Path, kind: str) -> None:
    soft = Account("a", Budget(usd="1", soft_at=0.5))
    async with SqliteLedger(tmp_path / "budgets.db") as file:
        ledger: Ledger = file if kind == "sqlite" else MemoryLedger()

        await ledger.allow(soft, "usd", 1 << 80)

        balance = await ledger.balance(soft)
    assert balance.soft == {"usd": 1}
