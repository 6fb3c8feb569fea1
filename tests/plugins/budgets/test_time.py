"""Time is a limit like others: it is asked about, waited for, and ends in good order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from kaizen import (
    AgentInterrupted,
    Answer,
    BaseAgent,
    InterruptMode,
    Kernel,
    PendingRequest,
    Run,
    hookimpl,
    tool,
)
from kaizen.testing import Call, MemoryCheckpointStore
from kaizen_budgets import (
    Amounts,
    Budget,
    BudgetExceededError,
    MemoryLedger,
    SoftLimitError,
    SpendLimits,
    SqliteLedger,
    _attendant,
    charge,
)

from .conftest import PricedModel, Running, answering

pytestmark = pytest.mark.anyio
SECOND = Amounts(seconds=1)


class Outside:
    """A person who is asked, and answers when the test says so."""

    def __init__(self, *, approves: bool = True, at_once: bool = True) -> None:
        self.approves = approves
        self.asked: list[PendingRequest] = []
        self.called = anyio.Event()
        self.answers = anyio.Event()
        if at_once:
            self.answers.set()

    async def ask(self, request: PendingRequest) -> Answer:
        self.asked.append(request)
        self.called.set()
        await self.answers.wait()
        return Answer(approved=self.approves)

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        """Hear nothing."""


SOON_ASKED = {"run": {"seconds": 60, "soft_at": 0.002, "soft_step": 0.5}}
"""Limits at which somebody is asked for more time after 0.12 s."""


def waiting_for(outside: Outside, kernel: Kernel, **config: Any) -> BaseAgent:
    """An agent whose tool goes on once somebody was asked."""

    @tool(danger="safe")
    async def wait() -> str:
        """Wait until somebody was asked."""
        await outside.called.wait()
        return "waited"

    return BaseAgent(
        config, "q -> a", tools=[wait], kernel=kernel, control_protocol=outside
    )


@asynccontextmanager
async def asked_for_time(
    running: Running, outside: Outside, **config: Any
) -> AsyncGenerator[Run]:
    """A run which calls `wait`, and about which somebody is being asked for more time."""
    with anyio.fail_after(10):
        async with (
            running(limits=SOON_ASKED) as kernel,
            waiting_for(outside, kernel, **config).stream(q="?") as run,
        ):
            await outside.called.wait()
            yield run


class Waited(MemoryLedger):
    """A ledger that says when somebody waits for what others hold."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = anyio.Event()

    async def changed(self, timeout_s: float) -> None:
        self.waiting.set()
        await super().changed(timeout_s)


async def test_at_the_soft_limit_of_time_the_user_is_asked_and_a_yes_goes_on(
    running: Running, priced: PricedModel
) -> None:
    outside = Outside()
    priced.say(Call("wait"), "done")
    with anyio.fail_after(10):
        async with running(limits=SOON_ASKED) as kernel:
            result = await waiting_for(outside, kernel).run(q="?")

    assert result.a == "done"
    (asked,) = outside.asked
    assert asked.details["dimension"] == "seconds"
    assert (asked.details["spent"], asked.details["soft_limit"]) == ("0.12 s", "0.12 s")
    assert "next call" not in asked.text


async def test_a_run_makes_no_step_while_somebody_is_asked_for_more_time(
    running: Running, priced: PricedModel
) -> None:
    outside = Outside(at_once=False)
    priced.say(Call("wait"), "done")
    async with asked_for_time(running, outside) as run:
        await anyio.wait_all_tasks_blocked()
        before = len(priced.requests)
        outside.answers.set()
        result = await run.wait()

    assert before == 1
    assert result.a == "done"


async def test_a_tool_call_waits_while_somebody_is_asked_for_more_time(
    running: Running, priced: PricedModel
) -> None:
    outside = Outside(at_once=False)
    called: list[str] = []

    class Late:
        @hookimpl
        async def wrap_model_call(self, request: Any, call_next: Any) -> Any:
            reply = await call_next(request)
            await outside.called.wait()
            return reply

    @tool(danger="safe")
    async def search() -> str:
        """Search."""
        called.append("search")
        return "found"

    priced.say(Call("search"), "done")
    with anyio.fail_after(10):
        async with running(limits=SOON_ASKED) as kernel:
            agent = BaseAgent(
                signature="q -> a",
                tools=[search],
                kernel=kernel,
                control_protocol=outside,
                hooks=[Late()],
            )
            async with agent.stream(q="?") as run:
                await outside.called.wait()
                await anyio.wait_all_tasks_blocked()
                before = list(called)
                outside.answers.set()
                await run.wait()

    assert (before, called) == ([], ["search"])


async def test_a_pause_of_the_user_outlasts_the_question_for_more_time(
    running: Running, priced: PricedModel
) -> None:
    outside = Outside(at_once=False)
    priced.say(Call("wait"), "done")
    async with asked_for_time(running, outside) as run:
        await anyio.wait_all_tasks_blocked()
        own = run.pause("ann")
        outside.answers.set()
        await anyio.wait_all_tasks_blocked()
        paused, before = run.state.paused, len(priced.requests)
        run.resume("ann")
        result = await run.wait()

    assert (own, paused, before) == (True, True, 1)
    assert result.a == "done"


async def test_who_lets_a_run_go_on_does_not_answer_for_who_is_asked_for_more_time(
    running: Running, priced: PricedModel
) -> None:
    outside = Outside(at_once=False)
    priced.say(Call("wait"), "done")
    async with asked_for_time(running, outside) as run:
        run.pause("ann")
        run.resume("ann")
        await anyio.wait_all_tasks_blocked()
        before = len(priced.requests)
        outside.answers.set()
        await run.wait()

    assert (before, len(priced.requests)) == (1, 2)


async def test_a_no_ends_the_call_that_waits_for_it(
    running: Running, priced: PricedModel
) -> None:
    outside = Outside(approves=False, at_once=False)
    priced.say(Call("wait"), "never")
    async with asked_for_time(running, outside, graceful_shutdown_timeout=3_600) as run:
        await anyio.wait_all_tasks_blocked()
        outside.answers.set()
        with pytest.raises(AgentInterrupted) as caught:
            await run.wait()

    assert caught.value.reason.mode is InterruptMode.GRACEFUL
    assert isinstance(caught.value.__cause__, SoftLimitError)
    assert len(priced.requests) == 1


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_run_inside_waits_too_while_somebody_is_asked_for_more_time(
    running: Running, priced: PricedModel, stopped: bool
) -> None:
    outside = Outside(at_once=False)
    inside: list[Run] = []

    @tool(danger="safe")
    async def delegate() -> str:
        """Let another agent answer, once somebody was asked."""
        await outside.called.wait()
        async with answering(kernel).stream(question="?") as run:
            inside.append(run)
            return str((await run.wait()).answer)

    priced.say(Call("delegate"), "done", "done")
    with anyio.fail_after(10):
        async with running(limits=SOON_ASKED) as kernel:
            agent = BaseAgent(
                signature="q -> a",
                tools=[delegate],
                kernel=kernel,
                control_protocol=outside,
            )
            async with agent.stream(q="?") as run:
                await outside.called.wait()
                await anyio.wait_all_tasks_blocked()
                before = len(priced.requests)
                if stopped:  # by itself: it does not wait for the answer any more
                    inside[0].interrupt()
                    while not inside[0].ended:
                        await anyio.lowlevel.checkpoint()
                outside.answers.set()
                await run.wait()

    assert (before, len(priced.requests)) == (1, 2 if stopped else 3)


@pytest.mark.parametrize("approves", [False, None])
async def test_a_no_at_the_soft_limit_of_time_stops_the_run_with_a_checkpoint(
    running: Running, priced: PricedModel, approves: bool | None
) -> None:
    outside = None if approves is None else Outside(approves=approves)
    priced.delay_s = 3_600
    limits = {"run": {"seconds": 60, "soft_at": 0.002}}
    config = {"graceful_shutdown_timeout": 0.2}
    with anyio.fail_after(10):
        async with running(limits=limits) as kernel:
            agent = answering(
                kernel,
                config=config,
                control_protocol=outside,
                store=MemoryCheckpointStore(),
            )
            with pytest.raises(AgentInterrupted, match=r"allows 0\.12 s") as caught:
                await agent.run(question="?")

    assert caught.value.reason.metadata["checkpoint_id"]
    assert isinstance(caught.value.__cause__, SoftLimitError)


async def test_at_the_hard_limit_nobody_waits_for_an_answer_any_more(
    running: Running, priced: PricedModel
) -> None:
    outside = Outside(at_once=False)
    priced.delay_s = 3_600
    limits = {"run": {"seconds": 0.3, "soft_at": 0.3}}
    with anyio.fail_after(10):
        async with running(limits=limits) as kernel:
            agent = answering(kernel, control_protocol=outside)
            with pytest.raises(AgentInterrupted, match=r"allows 0\.3 s") as caught:
                await agent.run(question="?")

    assert len(outside.asked) == 1
    cause = caught.value.__cause__
    assert isinstance(cause, BudgetExceededError)
    assert not isinstance(cause, SoftLimitError)


async def test_who_has_passed_the_soft_limit_of_time_is_asked_before_the_run_begins(
    running: Running, priced: PricedModel
) -> None:
    outside, ledger = Outside(), MemoryLedger()
    budget = Budget(seconds=60, scope="kernel", soft_at=0.5)
    limits = SpendLimits(budget, ledger=ledger)
    priced.say("first", "second", "third")
    async with running() as kernel:
        agent = answering(kernel, hooks=[limits], control_protocol=outside)
        await agent.run(question="?")
        (balance,) = await ledger.balances()
        (account,) = (state.account for state in ledger._states.values())
        await ledger.record(account, Amounts(seconds=30 - balance.spent.seconds))
        await agent.run(question="?")
        outside.approves = False
        await ledger.record(account, Amounts(seconds=7))
        with pytest.raises(AgentInterrupted) as caught:
            await agent.run(question="?")

    assert len(outside.asked) == 2
    assert isinstance(caught.value.__cause__, SoftLimitError)
    assert len(priced.requests) == 2


class Together:
    """Keeps runs inside until a number of them is there."""

    def __init__(self, number: int) -> None:
        self.missing = number
        self.all_there = anyio.Event()

    @hookimpl
    async def wrap_model_call(self, request: Any, call_next: Any) -> Any:
        self.missing -= 1
        if not self.missing:
            self.all_there.set()
        await self.all_there.wait()
        return await call_next(request)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_runs_at_once_share_a_limit_of_time_that_is_shorter_than_a_slice(
    running: Running, priced: PricedModel, kind: str, tmp_path: Any
) -> None:
    priced.say(*["yes"] * 3)
    async with SqliteLedger(tmp_path / "budgets.db") as file:
        ledger = file if kind == "sqlite" else MemoryLedger()
        limits = SpendLimits(
            Budget(seconds=5, scope="agent"), ledger=ledger, wait_seconds=0
        )
        with anyio.fail_after(10):
            async with running() as kernel:
                agent = answering(kernel, hooks=[limits, Together(3)])
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(lambda: agent.run(question="?"))
        (balance,) = await ledger.balances()

    assert len(priced.requests) == 3
    assert 0 < balance.spent.seconds < 5
    assert not balance.reserved


async def test_a_run_waits_for_time_that_others_hold(
    running: Running, priced: PricedModel
) -> None:
    ledger = Waited()
    limits = SpendLimits(Budget(seconds=60, scope="kernel"), ledger=ledger)
    priced.say("first", "second")
    with anyio.fail_after(10):
        async with running() as kernel:
            agent = answering(kernel, hooks=[limits])
            await agent.run(question="?")
            (balance,) = await ledger.balances()
            (account,) = (state.account for state in ledger._states.values())
            rest = Amounts(seconds=60 - balance.spent.seconds)
            await ledger.reserve([account], rest, reservation_id="another's")
            async with agent.stream(question="?") as run:
                await ledger.waiting.wait()
                before = len(priced.requests)
                await ledger.release("another's")
                await run.wait()

    assert (before, len(priced.requests)) == (1, 2)


async def test_a_run_that_waited_in_vain_for_time_does_not_begin(
    running: Running, priced: PricedModel
) -> None:
    ledger = Waited()
    limits = SpendLimits(
        Budget(seconds=60, scope="kernel"), ledger=ledger, wait_seconds=0.05
    )
    priced.say("first", "never")
    with anyio.fail_after(10):
        async with running() as kernel:
            agent = answering(kernel, hooks=[limits])
            await agent.run(question="?")
            (account,) = (state.account for state in ledger._states.values())
            (balance,) = await ledger.balances()
            rest = Amounts(seconds=60 - balance.spent.seconds)
            await ledger.reserve([account], rest, reservation_id="another's")
            with pytest.raises(AgentInterrupted, match="0 s are left") as caught:
                await agent.run(question="?")

    assert ledger.waiting.is_set()
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert len(priced.requests) == 1


@pytest.mark.parametrize("graceful_s", [0, 0.01, 30])
async def test_where_time_is_up_there_is_a_checkpoint_and_a_cause(
    running: Running, priced: PricedModel, graceful_s: float
) -> None:
    priced.delay_s = 3_600
    config = {"graceful_shutdown_timeout": graceful_s}
    with anyio.fail_after(10):
        async with running(limits={"run": {"seconds": 0.2}}) as kernel:
            agent = answering(kernel, config=config, store=MemoryCheckpointStore())
            async with agent.stream(question="?") as run:
                with pytest.raises(AgentInterrupted) as caught:
                    await run.wait()

    reason = caught.value.reason
    assert reason.mode is InterruptMode.IMMEDIATE
    assert reason.metadata["checkpoint_id"] == run.state.marks[-1].mark_id
    assert reason.metadata["spent"] == reason.metadata["limit"] == "0.2 s"
    assert "wanted" not in reason.metadata
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert run.state.status == "interrupted"
    assert run.state.reserved == {}


async def test_a_run_that_stops_gracefully_before_its_time_is_up_says_why(
    running: Running, priced: PricedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = anyio.Event()

    class Watching:
        @hookimpl
        async def wrap_checkpoint_save(self, request: Any, call_next: Any) -> Any:
            stopping.set()
            return await call_next(request)

    @tool(danger="safe")
    async def wait() -> str:
        """Wait for the end."""
        await stopping.wait()
        return "waited"

    priced.say(Call("wait"), "never")
    with anyio.fail_after(10):
        async with running(limits={"run": {"seconds": 2}}) as kernel:
            agent = BaseAgent(
                signature="q -> a", tools=[wait], kernel=kernel, hooks=[Watching()]
            )
            with pytest.raises(AgentInterrupted) as caught:
                await agent.run(q="?")

    assert caught.value.reason.mode is InterruptMode.GRACEFUL
    assert caught.value.reason.metadata["spent"] == "2 s"
    assert caught.value.reason.metadata["checkpoint_id"]
    assert isinstance(caught.value.__cause__, BudgetExceededError)


async def test_who_is_cancelled_from_outside_hears_nothing_of_time(
    running: Running, priced: PricedModel
) -> None:
    priced.delay_s = 3_600
    with anyio.fail_after(10):
        async with running(limits={"run": {"seconds": 0.2}}) as kernel:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def ask() -> None:
                        await answering(kernel).run(question="?")

                    tasks.start_soon(ask)
                    while not priced.requests:
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

    assert scope.cancelled_caught


async def test_a_tool_without_a_model_whose_time_is_up_is_refused(
    running: Running, priced: PricedModel
) -> None:
    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        await anyio.sleep(3_600)
        return "late"

    limits = {"agent": {"seconds": 0.1, "scope": "agent"}}
    with anyio.fail_after(10):
        async with running(limits=limits) as kernel:
            agent = BaseAgent(signature="q -> a", tools=[wait], kernel=kernel)
            during = await agent.execute_tool("wait")
            before = await agent.execute_tool("wait")

    codes: Sequence[Any] = [(each.success, each.error_code) for each in (during, before)]
    assert codes == [(False, "BUDGET_001")] * 2
    assert "0 s are left" in before.content


@pytest.mark.parametrize("scope", ["run", "kernel"])
@pytest.mark.parametrize("graceful_s", [0, 3_600])
@pytest.mark.parametrize("approves", [False, None])
async def test_a_no_at_the_soft_limit_of_time_stops_a_tool_without_a_model_at_once(
    running: Running, approves: bool | None, graceful_s: float, scope: str
) -> None:
    outside = None if approves is None else Outside(approves=approves)

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        await anyio.sleep(3_600)
        return "late"

    limits = {"all": {"seconds": 60, "soft_at": 0.002, "scope": scope}}
    config = {"graceful_shutdown_timeout": graceful_s}
    with anyio.fail_after(5):
        async with running(limits=limits) as kernel:
            agent = BaseAgent(
                config, "q -> a", tools=[wait], kernel=kernel, control_protocol=outside
            )
            result = await agent.execute_tool("wait")

    assert (result.success, result.error_code) == (False, "BUDGET_001")
    assert "allows 0.12 s" in result.content
    assert outside is None or len(outside.asked) == 1


async def test_a_slice_of_a_limit_that_is_shared_is_a_small_part_of_it() -> None:
    def slice_s(*budgets: Budget) -> float:
        from kaizen_budgets import Account

        return _attendant._slice_of([Account(str(each), each) for each in budgets]) / 1_000

    assert slice_s(Budget(seconds=5)) == 5
    assert slice_s(Budget(seconds=5, scope="agent")) == 0.25
    assert slice_s(Budget(seconds=5), Budget(seconds=20, scope="user")) == 1
    assert slice_s(Budget(seconds=900, scope="kernel")) == 5
    assert slice_s(Budget(seconds=0.1, scope="kernel")) == 0.05


async def test_a_tool_without_a_model_that_cannot_pay_is_refused(
    running: Running, priced: PricedModel
) -> None:
    @tool(danger="safe")
    async def buy() -> str:
        """Buy."""
        await charge("5")
        return "bought"

    async with running(limits={"agent": {"usd": "1", "scope": "agent"}}) as kernel:
        agent = BaseAgent(signature="q -> a", tools=[buy], kernel=kernel)
        result = await agent.execute_tool("buy")

    assert (result.success, result.error_code) == (False, "BUDGET_001")
    assert "$1.00 are left" in result.content
