"""What the gate counts, whom it asks, and what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import anyio
import pytest
from kaizen import (
    AgentInterrupted,
    Answer,
    BaseAgent,
    Kernel,
    Message,
    ModelProfile,
    ModelReply,
    ModelRequest,
    PendingRequest,
    RunError,
    ToolRefusedError,
    current_run,
    hookimpl,
    tool,
)
from kaizen.runlog import Noted, Settled
from kaizen.testing import Call
from kaizen_budgets import (
    Amounts,
    Balance,
    Budget,
    BudgetExceededError,
    MemoryLedger,
    SoftLimitError,
    SpendLimits,
    UnknownPriceError,
    charge,
    metered,
)

from .conftest import PricedModel, Running, answering, ledger_of, used

pytestmark = pytest.mark.anyio


class Outside:
    """A person who says yes or no to everything."""

    def __init__(self, *, approves: bool = True) -> None:
        self.approves = approves
        self.asked: list[PendingRequest] = []
        self.told: list[str] = []

    async def ask(self, request: PendingRequest) -> Answer:
        self.asked.append(request)
        await anyio.lowlevel.checkpoint()
        return Answer(approved=self.approves)

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        self.told.append(message)


@tool(danger="safe")
async def work() -> str:
    """Work."""
    return "worked"


async def balances_of(kernel: Kernel) -> Mapping[str, Balance]:
    """Return how accounts stand, by the first word of what they are called."""
    found = await (await ledger_of(kernel)).balances()
    return {each.label.partition(" ")[0]: each for each in found}


async def test_of_two_tool_calls_the_second_is_refused_and_usage_is_counted(
    running: Running,
) -> None:
    limits = {"agent": {"usd": "0.0001", "scope": "agent"}}
    async with running(limits=limits, tool_costs={"work": "0.0001"}) as kernel:
        agent = BaseAgent(signature="a -> b", tools=[work], kernel=kernel)
        first = await agent.execute_tool("work")
        second = await agent.execute_tool("work")
        balance = (await balances_of(kernel))["agent"]

    assert (first.success, first.result) == (True, "worked")
    assert (second.success, second.approved, second.error_code) == (
        False,
        False,
        "BUDGET_001",
    )
    assert "$0.00 are left" in second.content
    assert balance.spent == Amounts(usd="0.0001", tool_calls=1)


async def test_twenty_dollars_are_not_spent_of_five_by_calls_at_once(
    running: Running, priced: PricedModel
) -> None:
    priced.cost_usd = Decimal("0.01")
    priced.say(*["yes"] * 2_000)
    limits = {"session": {"usd": "0.05", "scope": "session"}}
    stopped = 0
    async with running(limits=limits, wait_seconds=0) as kernel:
        agent = answering(kernel).bind(session_id="s")

        async def ask() -> None:
            nonlocal stopped
            try:
                await agent.run(question="?")
            except AgentInterrupted:
                stopped += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
        balance = (await balances_of(kernel))["session"]

    assert balance.spent.usd == priced.charged == Decimal("0.05")
    assert stopped == 15


async def test_a_call_waits_for_what_others_will_give_back(
    running: Running, priced: PricedModel
) -> None:
    priced.say(*["yes"] * 5)
    limits = {"session": {"usd": "0.018", "scope": "session"}}
    async with running(limits=limits) as kernel:
        agent = answering(kernel).bind(session_id="s")
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(lambda: agent.run(question="?"))
        balance = (await balances_of(kernel))["session"]

    assert balance.spent.usd == Decimal("0.01")


def delegating(kernel: Kernel, inner: BaseAgent, **options: Any) -> BaseAgent:
    """An agent whose tool asks another agent."""

    @tool(danger="safe")
    async def delegate() -> str:
        """Ask another agent."""
        result = await inner.run(question="?")
        return str(result.answer)

    return BaseAgent(
        signature="question -> answer", tools=[delegate], kernel=kernel, **options
    )


async def test_a_child_spends_from_every_account_around_it(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("delegate"), "inner", "outer")
    limits = {
        "run": {"usd": "1"},
        "agent": {"usd": "1", "scope": "agent"},
        "user": {"usd": "1", "scope": "user", "window": "day"},
        "tenant": {"usd": "1", "scope": "tenant", "window": "month"},
        "each": {"usd": "1", "scope": "user", "window": "run"},
        "all": {"usd": "1", "scope": "kernel"},
    }
    async with running(limits=limits) as kernel:
        inner = answering(kernel, name="inner")
        outer = delegating(kernel, inner, name="outer")
        me = {"user_id": "me", "tenant_id": "us"}
        result = await outer.bind(metadata=me).run(question="?")
        balances = await (await ledger_of(kernel)).balances()

    spent = sorted(
        (each.label.partition(" of run")[0], each.spent.usd) for each in balances
    )
    two, six = Decimal("0.002"), Decimal("0.006")
    assert result.cost_usd == six
    assert spent == [
        ("agent of agent inner", two),
        ("agent of agent outer", six),
        ("all", six),
        ("each of user me", two),
        ("each of user me", six),
        ("run", two),
        ("run", six),
        ("tenant of tenant us", six),
        ("user of user me", six),
    ]


async def test_a_child_can_spend_no_more_than_the_run_around_it_has_left(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("delegate"), *["again"] * 5)
    async with running(limits={"run": {"usd": "0.011"}}) as kernel:
        inner = answering(kernel, name="inner")
        outer = delegating(kernel, inner, name="outer")
        async with outer.stream(question="?") as run:
            with pytest.raises(AgentInterrupted) as caught:
                await run.wait()

    assert caught.value.run_id == run.id
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert run.id in caught.value.__cause__.account.key
    assert run.state.marks
    assert len(priced.requests) == 1


async def test_a_child_that_has_spent_its_own_budget_stops_and_the_run_around_goes_on(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("delegate"), Call("work"), "outer")
    limits = {"inner": {"requests": 1, "scope": "agent", "window": "run"}}
    async with running() as kernel:
        own = SpendLimits(Budget(**limits["inner"]), name="inner")  # type: ignore[arg-type]
        inner = answering(kernel, name="inner", hooks=[own], tools=[work])
        result = await delegating(kernel, inner).run(question="?")

    assert result.answer == "outer"
    told = [each.text for each in result.messages if each.role == "tool"]
    assert "1 requests" in told[0]


async def test_limits_of_one_agent_hold_for_the_runs_inside_its_runs(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("delegate"), "inner", "outer", Call("delegate"), "inner", "never")
    ledger = MemoryLedger()
    limits = SpendLimits(
        Budget(usd="1", requests=5, tool_calls=9, scope="agent"), ledger=ledger
    )
    async with running() as kernel:
        inner = answering(kernel, name="inner")
        outer = delegating(kernel, inner, name="outer", hooks=[limits])
        await outer.run(question="?")
        with pytest.raises(AgentInterrupted, match="5 requests"):
            await outer.run(question="?")
    balances = {each.label.split()[-1]: each for each in await ledger.balances()}

    assert balances["outer"].spent == Amounts(
        usd="0.01", tokens=75, requests=5, tool_calls=2
    )
    assert balances["inner"].spent.requests == 2


async def test_limits_that_an_agent_and_those_inside_share_count_once(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("delegate"), "inner", "outer")
    ledger = MemoryLedger()
    limits = SpendLimits(Budget(usd="1", scope="session"), ledger=ledger)
    async with running(limits={"all": {"usd": "1", "scope": "kernel"}}) as kernel:
        inner = answering(kernel, name="inner", hooks=[limits])
        await delegating(kernel, inner, hooks=[limits]).run(question="?")
        direct = BaseAgent(signature="a -> b", tools=[work], kernel=kernel, hooks=[limits])
        await direct.execute_tool("work")
        every = (await balances_of(kernel))["all"]
    first, second = await ledger.balances()

    assert first.spent == Amounts(usd="0.006", tokens=45, requests=3, tool_calls=1)
    assert second.spent == Amounts(tool_calls=1)
    assert every.spent == Amounts(usd="0.006", tokens=45, requests=3, tool_calls=2)


async def test_who_says_yes_at_the_soft_limit_raises_it_by_what_was_said(
    running: Running, priced: PricedModel
) -> None:
    priced.cost_usd = Decimal("0.01")
    priced.say(*["yes"] * 10)
    outside = Outside()
    limits = {"s": {"usd": "0.06", "scope": "session", "soft_at": 0.5, "soft_step": 0.2}}
    async with running(limits=limits) as kernel:
        agent = answering(kernel, control_protocol=outside).bind(session_id="s")
        for _ in range(6):
            await agent.run(question="?")
        with pytest.raises(AgentInterrupted, match=r"\$0.00 are left"):
            await agent.run(question="?")

    first, second, third = (each.details for each in outside.asked)
    assert outside.asked[0].kind == "approval"
    assert outside.asked[0].action_digest.startswith("sha256:")
    assert first["soft_limit"] == "$0.03"
    assert first["new_soft_limit"] == "$0.042"
    assert second["new_soft_limit"] == "$0.054"
    assert third["new_soft_limit"] == third["limit"] == "$0.06"
    assert priced.charged == Decimal("0.06")


@pytest.mark.parametrize("outside", [Outside(approves=False), None])
async def test_nobody_who_says_yes_at_the_soft_limit_stops_the_run(
    running: Running, priced: PricedModel, outside: Outside | None
) -> None:
    limits = {"run": {"usd": "0.015", "soft_at": 0.5}}
    async with running(limits=limits) as kernel:
        agent = answering(kernel, control_protocol=outside)
        with pytest.raises(AgentInterrupted) as caught:
            await agent.run(question="?")

    assert isinstance(caught.value.__cause__, SoftLimitError)
    assert caught.value.reason.metadata["checkpoint_id"]
    assert priced.requests == []


async def test_calls_at_once_ask_once(running: Running, priced: PricedModel) -> None:
    outside = Outside()
    limits = {"run": {"tool_calls": 10, "soft_at": 0.1, "soft_step": 0.9}}
    priced.say([Call("work"), Call("work"), Call("work")], "done")
    async with running(limits=limits) as kernel:
        agent = BaseAgent(
            signature="question -> answer",
            tools=[work],
            kernel=kernel,
            control_protocol=outside,
        )
        await agent.run(question="?")

    assert len(outside.asked) == 1


async def test_a_warning_is_logged_noted_and_told_once(
    running: Running, priced: PricedModel, caplog: pytest.LogCaptureFixture
) -> None:
    priced.say(Call("work"), Call("work"), Call("work"), "done")
    outside = Outside()
    limits = {"run": {"requests": 4, "warn_at": [0.5]}}
    with caplog.at_level(logging.WARNING, "kaizen"):
        async with running(limits=limits) as kernel:
            agent = BaseAgent(
                signature="question -> answer",
                tools=[work],
                kernel=kernel,
                control_protocol=outside,
            )
            async with agent.stream(question="?") as run:
                await run.wait()

    noted = [
        each.data
        for each in run.log.entries
        if isinstance(each, Noted) and each.kind == "warning"
    ]
    assert [(each["share"], each["spent"], each["limit"]) for each in noted] == [
        (0.5, "2 requests", "4 requests")
    ]
    assert len(outside.told) == 1
    assert "50% reached" in outside.told[0]
    assert outside.told[0] in caplog.text


async def test_the_model_is_told_what_is_left_if_that_is_set(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("work"), "done")
    limits = {"run": {"usd": "1", "requests": 5}}
    async with running(limits=limits, tell_model=True) as kernel:
        agent = BaseAgent(signature="question -> answer", tools=[work], kernel=kernel)
        await agent.run(question="?")

    last = [each.messages[-1] for each in priced.requests]
    assert [each.origin for each in last] == ["budgets", "budgets"]
    assert "$1.00, 5 requests left" in last[0].text
    assert "$0.998, 4 requests left" in last[1].text


class NoPrice(PricedModel):
    def describe(self, model: str) -> ModelProfile:
        return ModelProfile(name=model or "nameless")


async def test_a_model_without_a_price_is_refused_where_money_is_limited() -> None:
    model = NoPrice("yes", "yes", "yes", cost_usd=None)
    from kaizen.testing import ModelPlugin

    async def ask(**options: Any) -> Amounts:
        limits = SpendLimits(Budget(usd="1"), ledger=(ledger := MemoryLedger()), **options)
        await answering(kernel, hooks=[limits]).run(question="?")
        (balance,) = await ledger.balances()
        return balance.spent

    async with Kernel(
        plugins=[ModelPlugin(model)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        with pytest.raises(UnknownPriceError, match="names"):
            await ask()
        assumed = await ask(
            unknown_price="assume",
            assumed_usd_per_million="10",
            assumed_output_tokens=123,
        )
        free = await ask(unknown_price="zero-with-warning")

    assert assumed == Amounts(usd="0.00015", tokens=15, requests=1)
    assert free == Amounts(tokens=15, requests=1)
    assert [each.settings.max_tokens for each in model.requests] == [123, 8192]


async def test_what_a_tool_reports_counts_in_the_accounts_of_its_run(
    running: Running, priced: PricedModel
) -> None:
    @tool(danger="safe")
    async def search() -> str:
        """Search."""
        await charge("0.10", what="search")
        await charge(usd="0.20", tokens=7, what="embedding", spent=True)
        return "found"

    priced.say(Call("search"), "done")
    async with running(limits={"run": {"usd": "1"}}) as kernel:
        agent = BaseAgent(signature="question -> answer", tools=[search], kernel=kernel)
        async with agent.stream(question="?") as run:
            await run.wait()
        direct = await agent.execute_tool("search")
        balances = await (await ledger_of(kernel)).balances()

    assert direct.success
    spent = [each.spent.usd for each in balances]
    assert spent == [Decimal("0.304"), Decimal("0.30")]
    entries = [each for each in run.log.entries if isinstance(each, Settled)]
    assert sum(each.amount_usd for each in entries) == Decimal("0.304")


async def test_a_charge_that_cannot_be_paid_stops_the_run_before_it_is_made(
    running: Running, priced: PricedModel
) -> None:
    bought = []

    @tool(danger="safe")
    async def buy() -> str:
        """Buy."""
        await charge("0.50")
        bought.append(1)
        return "bought"

    priced.say([Call("buy"), Call("buy"), Call("buy")], "never")
    async with running(limits={"run": {"usd": "1.01"}}) as kernel:
        agent = BaseAgent(signature="question -> answer", tools=[buy], kernel=kernel)
        with pytest.raises(AgentInterrupted) as caught:
            await agent.run(question="?")

    assert len(bought) == 2
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert caught.value.reason.metadata["checkpoint_id"]


@pytest.mark.parametrize("usd", [0.5, "NaN", "-1", "Infinity", "x", True, "1" * 65])
async def test_a_charge_is_an_amount_of_money(
    running: Running, priced: PricedModel, usd: Any
) -> None:
    @tool(danger="safe")
    async def buy() -> str:
        """Buy."""
        await charge(usd)
        return "bought"

    async with running(limits={"run": {"usd": "1"}}) as kernel:
        agent = BaseAgent(signature="question -> answer", tools=[buy], kernel=kernel)
        result = await agent.execute_tool("buy")
        (balance,) = await (await ledger_of(kernel)).balances()

    assert not result.success
    assert balance.spent.usd == 0


class Embedding(PricedModel):
    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        return [[0.0] for _ in texts]

    def describe(self, model: str) -> ModelProfile:
        return ModelProfile(
            name="embedding",
            input_usd_per_million=Decimal(100),
            output_usd_per_million=Decimal(100),
        )


async def test_guards_and_embeddings_count_in_the_same_accounts(
    running: Running, priced: PricedModel
) -> None:
    guard = Embedding("fine", cost_usd="0.05")
    paid = metered(guard)

    class Guarded:
        @hookimpl
        async def wrap_model_call(self, request: ModelRequest, call_next: Any) -> Any:
            await paid.complete(
                ModelRequest(messages=(Message(role="user", content="harmless?"),))
            )
            await paid.embed(["a" * 84])
            return await call_next(request)

    priced.say("yes")
    async with running(limits={"run": {"usd": "1", "requests": 3}}) as kernel:
        agent = answering(kernel, hooks=[Guarded()])
        await agent.run(question="?")
        (balance,) = await (await ledger_of(kernel)).balances()

    embedded = Decimal(100) / 10**6 * (84 + 16)
    assert balance.spent.usd == Decimal("0.002") + Decimal("0.05") + embedded
    assert balance.spent.requests == 3


async def test_outside_a_run_nobody_can_pay() -> None:
    with pytest.raises(RunError):
        await charge("0.10")
    with pytest.raises(RunError):
        await metered(Embedding()).embed(["a"])


async def test_a_refused_tool_costs_nothing(running: Running, priced: PricedModel) -> None:
    class Refusing:
        @hookimpl
        async def wrap_tool_call(self, call: Any, call_next: Any) -> Any:
            raise ToolRefusedError("tool", "is refused")

    limits = {"agent": {"usd": "1", "tool_calls": 1, "scope": "agent"}}
    async with running(limits=limits, tool_costs={"work": "0.5"}) as kernel:
        agent = BaseAgent(
            signature="a -> b", tools=[work], kernel=kernel, hooks=[Refusing()]
        )
        await agent.execute_tool("work")
        assert not await (await ledger_of(kernel)).balances()


async def test_a_tool_that_fails_has_cost_what_it_costs(running: Running) -> None:
    @tool(danger="safe")
    async def fail() -> str:
        """Fail."""
        raise ValueError("no")

    limits = {"agent": {"usd": "1", "scope": "agent"}}
    async with running(limits=limits, tool_costs={"fail": "0.5"}) as kernel:
        agent = BaseAgent(signature="a -> b", tools=[fail], kernel=kernel)
        await agent.execute_tool("fail")
        balance = (await balances_of(kernel))["agent"]

    assert balance.spent == Amounts(usd="0.5", tool_calls=1)


@pytest.mark.parametrize(("lost", "usd"), [("release", "0"), ("charge", "0.01")])
async def test_a_call_that_was_cut_off_counts_as_the_terms_say(
    running: Running, priced: PricedModel, lost: str, usd: str
) -> None:
    begun = anyio.Event()

    def wait(_request: ModelRequest) -> str:
        begun.set()
        return "late"

    priced.delay_s = 3_600
    priced.say(wait)
    limits = {"all": {"usd": "1", "scope": "kernel"}}
    async with running(limits=limits, lost=lost) as kernel:
        async with answering(kernel).stream(question="?") as run:
            with anyio.fail_after(10):
                while not priced.requests:
                    await anyio.lowlevel.checkpoint()
            run.cancel()
            with pytest.raises(AgentInterrupted):
                await run.wait()
        balance = (await balances_of(kernel))["all"]

    assert balance.spent.usd == Decimal(usd)
    assert balance.spent.requests == 1
    assert not balance.reserved
    assert run.state.reserved == {}


async def test_the_time_of_a_run_ends_with_its_budget(
    running: Running, priced: PricedModel
) -> None:
    priced.delay_s = 3_600
    limits = {"run": {"seconds": 0.2}}
    with anyio.fail_after(10):
        async with running(limits=limits) as kernel:
            with pytest.raises(AgentInterrupted, match=r"allows 0\.2 s") as caught:
                await answering(kernel).run(question="?")
            (balance,) = await (await ledger_of(kernel)).balances()

    assert caught.value.reason.metadata["dimension"] == "seconds"
    assert 0.1 < balance.spent.seconds <= 0.2


async def test_time_is_counted_once_in_each_account(
    running: Running, priced: PricedModel
) -> None:
    priced.say(Call("delegate"), "inner", "outer")
    limits = {"all": {"seconds": 60, "scope": "kernel"}, "run": {"seconds": 60}}
    async with running(limits=limits) as kernel:
        outer = delegating(kernel, answering(kernel, name="inner"))
        async with outer.stream(question="?") as run:
            result = await run.wait()
        balances = await (await ledger_of(kernel)).balances()

    every = [each.spent.seconds for each in balances if each.label == "all"]
    runs = [each.spent.seconds for each in balances if each.label.startswith("run")]
    assert every == [max(runs)]
    assert len(runs) == 2
    assert every[0] <= result.duration_ms / 1_000 + 0.1


async def test_nothing_is_counted_and_nothing_noted_without_budgets(
    running: Running, priced: PricedModel
) -> None:
    priced.say("yes")
    async with running() as kernel:
        async with answering(kernel).stream(question="?") as run:
            await run.wait()
        assert not await (await ledger_of(kernel)).balances()
    assert not [each for each in run.log.entries if isinstance(each, Noted | Settled)]


async def test_what_a_provider_says_that_cannot_be_counts_as_the_most(
    running: Running, priced: PricedModel
) -> None:
    priced.say(
        ModelReply(text="a", usage=used(), cost_usd=Decimal("NaN")),
        ModelReply(text="b", usage=used(), cost_usd=Decimal(-5)),
        ModelReply(text="c"),
    )
    limits = {"all": {"usd": "1", "scope": "kernel"}}
    async with running(limits=limits) as kernel:
        agent = answering(kernel)
        for _ in range(3):
            await agent.run(question="?")
        balance = (await balances_of(kernel))["all"]

    assert balance.spent.usd == Decimal("0.03")


async def test_current_run_is_the_one_that_pays(running: Running) -> None:
    @tool(danger="safe")
    async def who() -> str:
        """Say who pays."""
        await charge("0.01")
        return current_run().id

    async with running(limits={"run": {"usd": "1"}}) as kernel:
        agent = BaseAgent(signature="a -> b", tools=[who], kernel=kernel)
        result = await agent.execute_tool("who")
        (balance,) = await (await ledger_of(kernel)).balances()

    assert str(result.result) in balance.key
