"""Budgets: what runs spent is counted once, whoever spent it, and stops them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import anyio
import pytest
from kaizen import (
    AgentInterrupted,
    AgentLoop,
    BaseAgent,
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    Kernel,
    Result,
    Run,
    RunRequest,
    current_run,
    hookimpl,
    tool,
)
from kaizen.checkpoints import fork, read_log
from kaizen.runlog import Interrupted, Marked, Noted
from kaizen.testing import Call, MemoryCheckpointStore, ScriptedModel
from kaizen_interrupts import BudgetAlert, BudgetInterruptHandler

from .conftest import Running, Worker, costing, default_manager, ended

pytestmark = pytest.mark.anyio


async def with_budget(kernel: Kernel, handler: BudgetInterruptHandler) -> None:
    (await default_manager(kernel)).add_handler(handler)


async def test_a_run_stops_before_the_turn_that_it_cannot_pay(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "0.10")
    async with running(max_budget_usd="0.30", check_interval=3_600) as kernel:
        worker = Worker(model, kernel, waits=False)
        async with worker.agent.stream(question="?") as run:
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)
    assert error.reason.signal is InterruptSignal.BUDGET_EXCEEDED
    assert error.reason.metadata["budget_spent_usd"] == Decimal("0.30")
    assert error.reason.metadata["budget_limit_usd"] == Decimal("0.30")
    assert worker.turns == 3
    assert run.cost_usd == Decimal("0.30")


async def test_a_sum_of_many_small_costs_is_exact(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "0.1")
    handler = BudgetInterruptHandler(1)
    async with running() as kernel:
        await with_budget(kernel, handler)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        for _ in range(9):
            model.say("yes")
            await agent.bind(session_id="s").run(question="?")
        assert handler.spent_usd("s") == Decimal("0.9")


@pytest.mark.parametrize(
    ("track_by", "same", "other"),
    [
        ("session", {"session_id": "a"}, {"session_id": "b"}),
        ("user", {"metadata": {"user_id": "a"}}, {"metadata": {"user_id": "b"}}),
        ("user", {"metadata": {"user_id": "a"}}, {}),
    ],
)
async def test_runs_of_one_key_share_a_budget_and_others_do_not(
    running: Running,
    model: ScriptedModel,
    track_by: Literal["session", "user"],
    same: dict[str, Any],
    other: dict[str, Any],
) -> None:
    costing(model, "1")
    async with running(max_budget_usd=2, track_by=track_by) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        model.say("a", "b", "c")
        await agent.bind(**same).run(question="?")
        await agent.bind(**same).run(question="?")

        with pytest.raises(AgentInterrupted, match="spent its budget"):
            await agent.bind(**same).run(question="?")
        await agent.bind(**other).run(question="?")


async def test_runs_of_one_agent_share_a_budget(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    async with running(max_budget_usd=1, track_by="agent") as kernel:
        mine, other = (
            BaseAgent(signature="question -> answer", kernel=kernel) for _ in range(2)
        )
        model.say("a", "b")
        await mine.run(question="?")
        with pytest.raises(AgentInterrupted, match="agent"):
            await mine.run(question="?")
        await other.run(question="?")


async def test_a_run_without_a_session_is_one_by_itself(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    async with running(max_budget_usd=1) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        model.say("a", "b")
        await agent.run(question="?")
        await agent.run(question="?")


def delegating(kernel: Kernel, inner: BaseAgent, **options: Any) -> BaseAgent:
    @tool(danger="safe", idempotent=True)
    async def delegate() -> str:
        """Delegate."""
        return str((await inner.run(question="?")).answer)

    return BaseAgent(
        signature="question -> answer", tools=[delegate], kernel=kernel, **options
    )


@pytest.mark.parametrize("track_by", ["session", "user", "agent"])
async def test_a_run_inside_a_run_is_counted_with_it_once(
    running: Running, model: ScriptedModel, track_by: Literal["session", "user", "agent"]
) -> None:
    costing(model, "1")
    handler = BudgetInterruptHandler(100, track_by=track_by)
    key = {"session": "s", "user": "u", "agent": "outer"}[track_by]
    seen: list[Decimal] = []

    def look(say: Any) -> Callable[[object], Any]:
        def line(request: object) -> Any:
            seen.append(handler.spent_usd(key))
            return say

        return line

    async with running() as kernel:
        await with_budget(kernel, handler)
        inner = BaseAgent(signature="question -> answer", kernel=kernel, name="inner")
        outer = delegating(kernel, inner, name="outer").bind(
            session_id="s", metadata={"user_id": "u"}
        )
        model.say(look(Call("delegate")), look("inner"), look(Call("delegate")))
        model.say(look("inner"), look("outer"))
        result = await outer.run(question="?")

    assert seen == [0, 1, 2, 3, 4]
    assert handler.spent_usd(key) == result.cost_usd == 5
    if track_by == "agent":
        assert handler.spent_usd("inner") == 2


async def test_runs_inside_a_run_stop_with_its_budget(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    async with running(max_budget_usd=3, check_interval=3_600) as kernel:
        inner = Worker(model, kernel, waits=False)
        model._script.insert(0, Call("delegate"))
        outer = delegating(kernel, inner.agent)
        with pytest.raises(AgentInterrupted, match="spent its budget"):
            await outer.run(question="?")
    assert inner.turns == 2


async def test_a_run_that_is_resumed_is_counted_once(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    handler = BudgetInterruptHandler(100)
    async with running() as kernel:
        await with_budget(kernel, handler)

        @tool(danger="safe", idempotent=True)
        async def stop() -> str:
            """Stop, the first time."""
            if len(model.requests) == 1:
                current_run().interrupt(InterruptReason())
            return "stopped"

        agent = BaseAgent(
            signature="question -> answer",
            tools=[stop],
            kernel=kernel,
            store=MemoryCheckpointStore(),
        ).bind(session_id="s")
        model.say(Call("stop"), "done")
        with pytest.raises(AgentInterrupted) as caught:
            await agent.run(question="?")
        assert handler.spent_usd("s") == 1

        result = await agent.resume(caught.value.run_id)

    assert result.cost_usd == 2
    assert handler.spent_usd("s") == 2


async def test_a_fork_is_charged_with_what_it_cost_since(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    handler = BudgetInterruptHandler(100, track_by="agent")
    store = MemoryCheckpointStore()

    @tool(danger="safe", idempotent=True)
    async def mark() -> str:
        """Mark the run."""
        await current_run().checkpoint("here")
        return "marked"

    async with running() as kernel:
        await with_budget(kernel, handler)
        agent = BaseAgent(
            signature="question -> answer",
            tools=[mark],
            kernel=kernel,
            store=store,
            agent_id="a",
        )
        model.say(Call("mark"), "one", "two", "three")
        first = await agent.run(question="?")
        assert first.cost_usd == handler.spent_usd("a") == 2

        await agent.resume(await fork(store, first.run_id))
        assert handler.spent_usd("a") == 2
        (place,) = (
            each.mark_id
            for each in await read_log(store, first.run_id)
            if isinstance(each, Marked)
        )
        forked = await fork(store, place)
        second = await agent.resume(forked)
        assert second.cost_usd == 2
        assert handler.spent_usd("a") == 3
        await agent.resume(forked)
        await agent.resume(await fork(store, forked))

    assert handler.spent_usd("a") == 3


async def test_a_run_that_names_its_user_on_its_way_is_counted_for_that_user(
    running: Running, model: ScriptedModel
) -> None:
    class Login:
        @hookimpl
        async def wrap_agent_loop(
            self, request: RunRequest, call_next: AgentLoop
        ) -> Result:
            current_run().metadata = {"user_id": request.inputs["question"]}
            return await call_next(request)

    costing(model, "1")
    handler = BudgetInterruptHandler(2, track_by="user")
    async with running(Login()) as kernel:
        await with_budget(kernel, handler)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        model.say("yes", "yes", "yes")
        for user in ("ann", "bob", "ann"):
            await agent.run(question=user)
        with pytest.raises(AgentInterrupted, match="user 'ann' has spent its budget"):
            await agent.run(question="ann")

    assert handler.spent_usd("ann") == 2
    assert handler.spent_usd("bob") == 1
    assert handler.spent_usd("") == 0


async def test_a_run_that_names_its_user_after_it_was_counted_stops_nobody(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    handler = BudgetInterruptHandler(100, track_by="user")
    async with running() as kernel:
        await with_budget(kernel, handler)

        @tool(danger="safe")
        async def login() -> str:
            """Name the user."""
            current_run().metadata = {"user_id": "ann"}
            return "welcome"

        agent = BaseAgent(
            {"max_cycles": 2}, "question -> answer", tools=[login], kernel=kernel
        )
        model.say(Call("login"), "yes", "yes")
        await agent.run(question="?")
        await agent.run(question="?")

    assert handler.spent_usd("ann") == 2
    assert handler.spent_usd("") == 1


async def test_a_run_inside_a_resumed_run_is_counted_once(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    handler = BudgetInterruptHandler(100)
    store = MemoryCheckpointStore()
    seen: list[Decimal] = []

    def look(request: object) -> str:
        seen.append(handler.spent_usd("s"))
        return "inner"

    async with running() as kernel:
        await with_budget(kernel, handler)

        @tool(danger="safe", idempotent=True)
        async def stop() -> str:
            """Stop the run around this one, the first time."""
            if not seen:
                seen.append(handler.spent_usd("s"))
                parent = current_run().parent
                assert parent is not None
                parent.interrupt(InterruptReason(mode=InterruptMode.IMMEDIATE))
                await anyio.sleep_forever()
            return "stopped"

        inner = BaseAgent(
            signature="question -> answer", tools=[stop], kernel=kernel, store=store
        )
        outer = delegating(kernel, inner, store=store).bind(session_id="s")
        model.say(Call("delegate"), Call("stop"), look, "outer")
        with anyio.fail_after(10), pytest.raises(AgentInterrupted) as caught:
            await outer.run(question="?")
        seen.append(handler.spent_usd("s"))

        result = await outer.resume(caught.value.run_id)

    assert seen == [2, 2, 2]
    assert result.cost_usd == handler.spent_usd("s") == 4


async def test_a_warning_comes_once_for_each_budget(
    running: Running, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    costing(model, "0.4")
    alerts: list[BudgetAlert] = []

    async def tell(alert: BudgetAlert) -> None:
        alerts.append(alert)

    handler = BudgetInterruptHandler(1, on_alert=tell)
    async with running(check_interval=3_600) as kernel:
        await with_budget(kernel, handler)
        worker = Worker(model, kernel, waits=False)
        async with worker.agent.bind(session_id="s").stream(question="?") as run:
            await ended(run)
        with pytest.raises(AgentInterrupted):
            await worker.agent.bind(session_id="s").run(question="?")

    (alert,) = alerts
    assert (alert.track_by, alert.key) == ("session", "s")
    assert (alert.spent_usd, alert.limit_usd) == (Decimal("0.8"), Decimal(1))
    assert alert.run_id == run.id
    (note,) = (each for each in run.log.entries if isinstance(each, Noted))
    assert note.kind == "budget_alert"
    assert note.data["budget_spent_usd"] == "0.8"
    assert [each.getMessage() for each in caplog.records] == [str(alert)]
    assert "session 's' has spent 0.8 of 1 US dollars" in caplog.text


async def test_a_warning_that_fails_is_reported_and_stops_nothing(
    running: Running, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    costing(model, "0.9")

    def fail(alert: BudgetAlert) -> None:
        raise ValueError("nobody listens")

    async with running() as kernel:
        await with_budget(kernel, BudgetInterruptHandler(1, on_alert=fail))
        worker = Worker(model, kernel, waits=False)
        model._script[1] = "done"
        assert (await worker.agent.run(question="?")).answer == "done"
    assert "nobody listens" in caplog.text


async def test_what_a_budget_cost_can_be_kept(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    store = MemoryCheckpointStore()
    async with running(max_budget_usd=1) as kernel:
        worker = Worker(model, kernel, waits=False, store=store)
        async with worker.agent.stream(question="?") as run:
            await ended(run)
        again = worker.agent.resume_stream(run.id)
        async with again as resumed:
            await ended(resumed)
    entries = [each for each in resumed.log.entries if isinstance(each, Interrupted)]
    assert entries[0].metadata["budget_limit_usd"] == "1"


async def test_a_handler_given_to_an_agent_inside_counts_that_agents_runs(
    kernel: Kernel, model: ScriptedModel
) -> None:
    from kaizen_interrupts import InterruptManager

    costing(model, "1")
    manager = InterruptManager()
    handler = BudgetInterruptHandler(100)
    manager.add_handler(handler)
    inner = BaseAgent(signature="question -> answer", kernel=kernel, hooks=[manager])
    outer = delegating(kernel, inner).bind(session_id="s")
    model.say(Call("delegate"), "inner", "outer")

    await outer.run(question="?")

    assert handler.spent_usd("s") == 1


async def test_a_budget_keeps_no_run_that_has_ended_but_the_last(
    running: Running, model: ScriptedModel
) -> None:
    costing(model, "1")
    handler = BudgetInterruptHandler(100)
    async with running() as kernel:
        await with_budget(kernel, handler)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        for number in range(20):
            model.say("yes")
            await agent.bind(session_id=f"s{number}").run(question="?")
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, Run)]
        kept = [each for each in kept if each.kernel is kernel]

    assert len(kept) <= 1
    assert handler.spent_usd("s7") == 1


async def test_what_costs_nothing_known_counts_as_nothing(
    running: Running, model: ScriptedModel
) -> None:
    handler = BudgetInterruptHandler("0.01")
    async with running() as kernel:
        await with_budget(kernel, handler)
        worker = Worker(model, kernel, waits=False)
        model._script[3] = "done"
        assert (await worker.agent.bind(session_id="s").run(question="?")).cycles == 4
    assert handler.spent_usd("s") == handler.spent_usd("nobody") == 0


@pytest.mark.parametrize(
    "options",
    [
        {"max_budget_usd": 0},
        {"max_budget_usd": "NaN"},
        {"max_budget_usd": "much"},
        {"max_budget_usd": float("inf")},
        {"max_budget_usd": 1, "track_by": "planet"},
        {"max_budget_usd": 1, "alert_threshold": 0},
        {"max_budget_usd": 1, "alert_threshold": 1.5},
    ],
)
async def test_a_budget_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is"):
        BudgetInterruptHandler(**options)
