"""Runs spend what they may, and stop where they may not."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    InterruptMode,
    InterruptSignal,
    ModelCall,
    ModelError,
    ModelProfile,
    ModelReply,
    ModelRequest,
    Provider,
    hookimpl,
    tool,
)
from kaizen.runlog import Noted, Reserved, Settled
from kaizen.testing import Call, MemoryCheckpointStore
from kaizen_budgets import BudgetExceededError

from .conftest import PricedModel, Running, answering, ledger_of, used

pytestmark = pytest.mark.anyio


async def test_a_call_reserves_the_most_and_settles_what_it_cost(
    running: Running, priced: PricedModel
) -> None:
    priced.say("yes")
    async with running(limits={"run": {"usd": "1"}}) as kernel:
        async with answering(kernel).stream(question="?") as run:
            await run.wait()
        (balance,) = await (await ledger_of(kernel)).balances()

    reserved = [each for each in run.log.entries if isinstance(each, Reserved)]
    settled = [each for each in run.log.entries if isinstance(each, Settled)]
    assert [each.amount_usd for each in reserved] == [Decimal("0.01")]
    assert [each.amount_usd for each in settled] == [Decimal("0.002")]
    assert [each.reservation_id for each in reserved] == [settled[0].reservation_id]
    assert balance.spent.usd == priced.charged == Decimal("0.002")
    assert not balance.reserved
    assert run.state.reserved == {}


async def test_a_run_stops_with_a_checkpoint_before_the_call_that_it_cannot_pay(
    running: Running, priced: PricedModel
) -> None:
    priced.say(*[Call("work")] * 10)
    async with running(limits={"run": {"usd": "0.013"}}) as kernel:

        @tool(danger="safe")
        async def work() -> str:
            """Work."""
            return "worked"

        agent = BaseAgent(
            signature="question -> answer",
            tools=[work],
            kernel=kernel,
            store=MemoryCheckpointStore(),
        )
        async with agent.stream(question="?") as run:
            with pytest.raises(AgentInterrupted) as caught:
                await run.wait()

    reason = caught.value.reason
    assert reason.signal is InterruptSignal.BUDGET_EXCEEDED
    assert reason.mode is InterruptMode.GRACEFUL
    assert reason.metadata["checkpoint_id"] == run.state.marks[-1].mark_id
    assert reason.metadata["budget_limit_usd"] == "0.013"
    cause = caught.value.__cause__
    assert isinstance(cause, BudgetExceededError)
    assert (cause.dimension, cause.limit) == ("usd", Decimal("0.013"))
    assert (cause.spent, cause.left) == (Decimal("0.004"), Decimal("0.009"))
    assert priced.charged == Decimal("0.004")
    assert run.state.reserved == {}
    assert run.state.status == "interrupted"


async def test_a_stopped_run_goes_on_once_there_is_more_money(
    running: Running, priced: PricedModel
) -> None:
    store = MemoryCheckpointStore()
    priced.say(Call("work"), "done")

    @tool(danger="safe")
    async def work() -> str:
        """Work."""
        return "worked"

    def agent_of(kernel: object) -> BaseAgent:
        return BaseAgent(
            signature="question -> answer",
            tools=[work],
            kernel=kernel,  # type: ignore[arg-type]
            store=store,
            agent_id="worker",
        )

    async with running(limits={"run": {"usd": "0.011"}}) as kernel:
        with pytest.raises(AgentInterrupted) as caught:
            await agent_of(kernel).run(question="?")
    checkpoint = caught.value.reason.metadata["checkpoint_id"]
    async with running(limits={"run": {"usd": "0.011"}}) as kernel:
        with pytest.raises(AgentInterrupted, match=r"\$0.009 are left"):
            await agent_of(kernel).resume(checkpoint)
    async with running(limits={"run": {"usd": "0.012"}}) as kernel:
        result = await agent_of(kernel).resume(checkpoint)
        (balance,) = await (await ledger_of(kernel)).balances()

    assert result.answer == "done"
    assert balance.spent.usd == priced.charged == Decimal("0.004")


async def test_what_was_charged_above_the_most_counts_and_stops_the_next_call(
    running: Running, priced: PricedModel
) -> None:
    priced.say(
        ModelReply(text="dear", usage=used(), cost_usd=Decimal("0.5")), "never asked"
    )
    limits = {"session": {"usd": "0.10", "scope": "session"}}
    async with running(limits=limits) as kernel:
        agent = answering(kernel).bind(session_id="s")
        async with agent.stream(question="?") as run:
            await run.wait()
        with pytest.raises(AgentInterrupted, match=r"-\$0.40 are left"):
            await agent.run(question="?")
        (balance,) = await (await ledger_of(kernel)).balances()

    assert balance.spent.usd == Decimal("0.5")
    assert len(priced.requests) == 1
    kinds = [each.kind for each in run.log.entries if isinstance(each, Noted)]
    assert "over" in kinds


async def test_a_request_to_another_provider_is_reckoned_at_its_price(
    running: Running, priced: PricedModel
) -> None:
    class Dear(PricedModel):
        def describe(self, model: str) -> ModelProfile:
            price = Decimal(1_000_000)
            return replace(
                super().describe(model),
                input_usd_per_million=price,
                output_usd_per_million=price,
            )

    class Switching:
        name = "switching"

        @hookimpl
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            return await call_next(replace(request, provider="dear"))

    limits = {"all": {"usd": "1", "scope": "kernel"}}
    async with running(limits=limits) as kernel:
        kernel.registry.add(Provider, "dear", Dear())
        agent = answering(kernel, hooks=[Switching()])
        with pytest.raises(AgentInterrupted, match="budget"):
            await agent.run(question="?")

    assert not priced.requests


async def test_what_a_failed_attempt_consumed_is_settled(
    running: Running, priced: PricedModel
) -> None:
    half = ModelError("priced", "broke off")
    half.partial = ModelReply(text="y", usage=used(1_000), cost_usd=Decimal("0.003"))
    priced.say(half, ModelError("priced", "refused"), "yes")
    limits = {"all": {"usd": "1", "requests": 10, "scope": "kernel"}}
    async with running(limits=limits) as kernel:
        for _ in range(2):
            with pytest.raises(ModelError):
                await answering(kernel).run(question="?")
        (balance,) = await (await ledger_of(kernel)).balances()

    assert balance.spent.usd == Decimal("0.003")
    assert balance.spent.requests == 2
    assert not balance.reserved
