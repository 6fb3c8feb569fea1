"""Limits of one agent hold for the runs inside its runs, and each call is paid for once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
from kaizen import AgentInterrupted, BaseAgent, Kernel, tool
from kaizen.testing import Call, ModelPlugin
from kaizen_budgets import Amounts, Budget, BudgetsPlugin, MemoryLedger, SpendLimits

from .conftest import PricedModel, Running, answering

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def bare(priced: PricedModel) -> AsyncGenerator[Kernel]:
    """A kernel in which the plugin is not enabled."""
    async with Kernel(
        plugins=[ModelPlugin(priced)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        yield kernel


@tool(danger="safe")
async def work() -> str:
    """Work."""
    return "worked"


def delegating(kernel: Kernel, inner: BaseAgent, *hooks: object) -> BaseAgent:
    """An agent whose tool asks another agent."""

    @tool(danger="safe")
    async def delegate() -> str:
        """Ask another agent."""
        return str((await inner.run(question="?")).answer)

    return BaseAgent(
        signature="question -> answer", tools=[delegate], kernel=kernel, hooks=hooks
    )


async def test_a_child_spends_no_more_than_is_left_where_the_plugin_is_not_enabled(
    priced: PricedModel,
) -> None:
    priced.cost_usd = Decimal("0.01")
    priced.say(Call("delegate"), *[Call("work")] * 20)
    limits = SpendLimits(Budget(usd="0.05"))
    async with bare(priced) as kernel:
        inner = BaseAgent(signature="question -> answer", tools=[work], kernel=kernel)
        with pytest.raises(AgentInterrupted, match=r"allows \$0\.05"):
            await delegating(kernel, inner, limits).run(question="?")

    assert priced.charged == Decimal("0.05")


async def test_a_tool_without_a_model_holds_the_runs_inside_it_too(
    priced: PricedModel,
) -> None:
    priced.say("inner")
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(usd="1", scope="kernel"), ledger=ledger)
    async with bare(priced) as kernel:
        outer = delegating(kernel, answering(kernel), limits)
        await outer.execute_tool("delegate")
        (balance,) = await ledger.balances()

    assert balance.spent == Amounts(usd="0.002", tokens=15, requests=1, tool_calls=1)


async def test_runs_around_which_nothing_is_limited_spend_as_before(
    priced: PricedModel,
) -> None:
    priced.say("outer", "alone")
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(usd="1", scope="kernel"), ledger=ledger)
    async with bare(priced) as kernel:
        await answering(kernel, hooks=[limits]).run(question="?")
        await answering(kernel).run(question="?")
        (balance,) = await ledger.balances()

    assert balance.spent.requests == 1


async def test_a_kernel_is_reached_once_however_many_limits_are_used_there(
    priced: PricedModel,
) -> None:
    priced.say(*["yes"] * 6)
    many = [SpendLimits(Budget(usd="1"), name=name) for name in "abc"]
    async with bare(priced) as kernel:
        for each in [*many, *many]:
            await answering(kernel, hooks=[each]).run(question="?")
        names = [each for each in kernel.hooks.names() if "budgets" in each]
        hooks = weakref.ref(kernel.hooks)
    del kernel
    gc.collect()

    assert names == ["budgets-inheritance"]
    assert hooks() is None
    assert [len(each._reached) for each in many] == [0, 0, 0]


@pytest.mark.parametrize("enabled", [False, True])
async def test_a_kernel_that_starts_again_is_reached_again(
    priced: PricedModel, enabled: bool
) -> None:
    for _ in range(2):
        priced.say(Call("delegate"), "inner", "outer")
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(requests=100, scope="kernel"), ledger=ledger)
    kernel = Kernel(
        plugins=[ModelPlugin(priced), *([BudgetsPlugin] if enabled else [])],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    )
    for _ in range(2):
        async with kernel:
            await delegating(kernel, answering(kernel), limits).run(question="?")
            names = [each for each in kernel.hooks.names() if "inheritance" in each]
            assert len(names) == (0 if enabled else 1)
    (balance,) = await ledger.balances()

    assert balance.spent.requests == 6


@pytest.mark.parametrize("enabled", [False, True])
async def test_a_tool_of_another_agent_that_a_tool_calls_is_paid_for_once(
    running: Running, priced: PricedModel, enabled: bool
) -> None:
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(tool_calls=9, scope="kernel"), ledger=ledger)
    priced.say(Call("call"), "done")
    settings = {"all": {"tool_calls": 9, "scope": "kernel"}}
    started = running(limits=settings) if enabled else bare(priced)
    async with started as kernel:
        other = BaseAgent(signature="q -> a", tools=[work], kernel=kernel, hooks=[limits])

        @tool(danger="safe")
        async def call() -> str:
            """Call a tool of another agent."""
            return str((await other.execute_tool("work")).result)

        agent = BaseAgent(signature="q -> a", tools=[call], kernel=kernel, hooks=[limits])
        await agent.run(q="?")
        balances = [*await ledger.balances()]
        if enabled:
            plugin = await kernel.get(SpendLimits, "default")
            balances += await (await plugin.ledger()).balances()

    assert [each.spent.tool_calls for each in balances] == [2] * (1 + enabled)


async def test_a_tool_that_a_tool_of_the_same_run_calls_is_paid_for_too(
    priced: PricedModel,
) -> None:
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(tool_calls=9, scope="kernel"), ledger=ledger)
    async with bare(priced) as kernel:

        @tool(danger="safe")
        async def twice() -> str:
            """Work, by way of another tool."""
            return str((await inner.execute_tool("work")).result)

        inner = BaseAgent(
            signature="question -> answer", tools=[work, twice], kernel=kernel
        )
        priced.say(Call("delegate"), Call("twice"), "inner", "outer")
        await delegating(kernel, inner, limits).run(question="?")
        (balance,) = await ledger.balances()

    assert balance.spent.tool_calls == 3


async def test_limits_hold_in_another_kernel_in_which_the_plugin_is_enabled(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("delegate"), "inner", "outer")
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(requests=9, scope="kernel"), ledger=ledger)
    async with bare(priced) as kernel, running() as another:
        await delegating(kernel, answering(another), limits).run(question="?")
        (balance,) = await ledger.balances()

    assert balance.spent.requests == 3
