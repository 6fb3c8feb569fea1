"""Retries: after how long, how often, and when not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import pytest
from anyio import current_time
from kaizen import (
    AgentInterrupted,
    InterruptMode,
    InterruptReason,
    Kernel,
    ModelCall,
    Priority,
    current_run,
    hookimpl,
    tool,
)
from kaizen.errors import (
    AgentTimeoutError,
    ConfigurationError,
    ModelError,
    ModelOverloadedError,
    ModelRateLimitError,
)
from kaizen.messages import ModelReply, ModelRequest
from kaizen.runlog import Noted
from kaizen_resilience import Resilience, ResilienceSettings
from kaizen_resilience._policy import Policy

from .conftest import Actor, Piece, Staged, Staging, broken

pytestmark = pytest.mark.anyio

LONG_S = 3_000.0


def told_to_wait(seconds: float) -> ModelRateLimitError:
    error = ModelRateLimitError("first", "gets too many requests")
    error.retry_after_s = seconds
    return error


class Inside:
    """Middleware between the plugin and the model."""

    name = "inside"

    def __init__(self, act: Callable[[ModelCall, ModelRequest], Any]) -> None:
        self._act = act

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        reply: ModelReply = await self._act(call_next, request)
        return reply


async def test_a_wait_is_any_time_up_to_one_that_doubles_up_to_the_longest() -> None:
    policy = Policy(ResilienceSettings(backoff_s=1, max_wait_s=5), random=Random(1))

    waits = [[policy.wait_s(broken(), n) for _ in range(500)] for n in range(6)]

    for longest, seen in zip([1, 2, 4, 5, 5, 5], waits, strict=True):
        assert 0 <= min(seen) < 0.05 * longest
        assert 0.95 * longest < max(seen) <= longest


async def test_a_wait_is_as_long_as_the_provider_says_and_a_bit() -> None:
    policy = Policy(ResilienceSettings(backoff_s=1, max_wait_s=10), random=Random(1))

    told = [policy.wait_s(told_to_wait(4), 0) for _ in range(100)]
    nearly_too_long = [policy.wait_s(told_to_wait(9.5), 0) for _ in range(100)]

    assert all(4 <= each <= 5 for each in told)
    assert len(set(told)) > 1
    assert all(9.5 <= each <= 10 for each in nearly_too_long)


@pytest.mark.parametrize("odd", [-1.0, float("nan"), 0.0])
async def test_a_delay_that_is_none_is_not_heard(odd: float) -> None:
    policy = Policy(ResilienceSettings(backoff_s=1))

    assert 0 <= policy.wait_s(told_to_wait(odd), 0) <= 1


async def test_the_delay_that_a_provider_asks_for_is_kept(staging: Staging) -> None:
    times: list[float] = []
    attempt: list[Piece] = [lambda: times.append(current_time()), told_to_wait(0.05)]
    actor = Actor(attempt, [lambda: times.append(current_time()), "Hello"])

    async with staging(actor) as stage:
        result = await stage.agent().run(question="?")

    assert result.answer == "Hello"
    assert times[1] - times[0] >= 0.05


async def test_where_the_delay_is_too_long_the_next_model_is_asked_at_once(
    staging: Staging,
) -> None:
    first, second = Actor([told_to_wait(LONG_S)]), Actor("Hello", name="second")

    async with staging(first, second, fallbacks=["second"]) as stage:
        with anyio.fail_after(5):
            result = await stage.agent().run(question="?")

    assert result.answer == "Hello"
    assert len(first.requests) == 1


async def test_where_the_delay_is_too_long_and_nobody_else_is_there_it_fails_at_once(
    staging: Staging,
) -> None:
    actor = Actor([told_to_wait(float("inf"))])

    async with staging(actor) as stage:
        with anyio.fail_after(5), pytest.raises(ModelRateLimitError):
            await stage.agent().run(question="?")

    assert len(actor.requests) == 1


async def test_a_run_that_has_no_time_to_wait_fails_of_what_went_wrong(
    staging: Staging,
) -> None:
    actor = Actor([told_to_wait(25)])

    async with staging(actor) as stage:
        with anyio.fail_after(5), pytest.raises(ModelRateLimitError):
            await stage.agent({"timeout": 4}).run(question="?")


@pytest.mark.parametrize(
    ("config", "asked"),
    [({}, 4), ({"retry_attempts": 1}, 2), ({"retry_attempts": 0}, 1)],
    ids=["default", "one", "none"],
)
async def test_the_agents_config_says_how_often_if_it_says_anything(
    staging: Staging, config: dict[str, Any], asked: int
) -> None:
    actor = Actor([broken()])

    async with staging(actor, retries=3) as stage:
        with pytest.raises(ModelError, match="broke off"):
            await stage.agent(config).run(question="?")

    assert len(actor.requests) == asked


async def test_what_an_agent_was_given_as_a_hook_says_more_than_its_config(
    staging: Staging,
) -> None:
    actor = Actor([broken()])
    hooks = [Resilience(retries=2, backoff_s=0)]

    async with staging(actor) as stage:
        with pytest.raises(ModelError, match="broke off"):
            await stage.agent({"retry_attempts": 9}, hooks=hooks).run(question="?")

    assert len(actor.requests) == 3


async def test_without_the_plugin_the_switch_has_no_meaning() -> None:
    async with Kernel(discover=False, config_file=False, environ={}) as kernel:
        stage = Staged(kernel)
        with pytest.raises(ConfigurationError, match="kaizen-resilience"):
            await stage.agent({"retry_attempts": 1}).run(question="?")


async def test_what_is_not_worth_a_retry_gets_none(staging: Staging) -> None:
    actor = Actor([ModelError("first", "is broken for good")], "Hello")

    async with staging(actor) as stage:
        with pytest.raises(ModelError, match="for good"):
            await stage.agent().run(question="?")

    assert len(actor.requests) == 1


async def test_a_strangers_error_passes_as_it_is(staging: Staging) -> None:
    actor = Actor([ZeroDivisionError("of a provider")], "Hello")

    async with staging(actor) as stage:
        with pytest.raises(ZeroDivisionError):
            await stage.agent().run(question="?")

    assert len(actor.requests) == 1


async def test_a_reply_that_was_given_is_not_asked_for_again(staging: Staging) -> None:
    async def refuse(call_next: ModelCall, request: ModelRequest) -> ModelReply:
        await call_next(request)
        raise ZeroDivisionError

    actor = Actor("Hello")

    async with staging(actor, plugins=[Inside(refuse)]) as stage:
        with pytest.raises(ZeroDivisionError):
            await stage.agent().run(question="?")

    assert len(actor.requests) == 1


async def test_a_call_is_not_repeated_once_a_tool_was_called_for_it(
    staging: Staging,
) -> None:
    called: list[str] = []

    @tool(danger="safe")
    async def send() -> str:
        """Send."""
        called.append("sent")
        return "sent"

    async def act(call_next: ModelCall, request: ModelRequest) -> ModelReply:
        await current_run().agent.execute_tool("send")
        return await call_next(request)

    first, second = Actor([broken()]), Actor("Hello", name="second")

    async with staging(first, second, plugins=[Inside(act)], fallbacks=["second"]) as stage:
        with pytest.raises(ModelError, match="broke off"):
            await stage.agent(tools=[send]).run(question="?")

    assert called == ["sent"]
    assert len(first.requests) + len(second.requests) == 1


@pytest.mark.parametrize("mode", InterruptMode)
async def test_an_interrupt_ends_a_wait_at_once(
    staging: Staging, mode: InterruptMode
) -> None:
    actor = Actor([told_to_wait(20)])
    config = {"graceful_shutdown_timeout": 60}

    async with staging(actor) as stage, stage.agent(config).stream(question="?") as run:
        events = aiter(run)
        with anyio.fail_after(30):
            while getattr(await anext(events), "kind", "") != "retry":
                pass
            run.interrupt(InterruptReason(mode=mode))
            with pytest.raises(AgentInterrupted):
                await run.wait()

    assert run.state.status == "interrupted"
    assert len(actor.requests) == 1


async def test_a_run_that_is_to_stop_asks_nobody_else_after_a_failure(
    staging: Staging,
) -> None:
    def stop() -> None:
        current_run().interrupt(InterruptReason(mode=InterruptMode.GRACEFUL))

    first, second = Actor([stop, broken()]), Actor("Hello", name="second")

    async with staging(first, second, fallbacks=["second"]) as stage:
        with anyio.fail_after(10), pytest.raises(AgentInterrupted) as raised:
            await stage.agent().run(question="?")

    assert isinstance(raised.value.__cause__, ModelError)
    assert (len(first.requests), second.requests) == (1, [])


async def test_the_time_of_a_run_goes_on_while_a_model_is_asked_again(
    staging: Staging,
) -> None:
    actor = Actor([told_to_wait(0.1), broken()], [None])

    async with staging(actor) as stage:
        with anyio.fail_after(10), pytest.raises(AgentTimeoutError):
            await stage.agent({"timeout": 0.3}).run(question="?")


async def test_a_caller_that_is_cancelled_waits_no_longer(staging: Staging) -> None:
    actor = Actor([told_to_wait(20)])

    async with staging(actor) as stage:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                agent = stage.agent()
                tasks.start_soon(lambda: agent.run(question="?"))
                while not actor.requests:
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()


async def test_the_notes_of_one_call_are_bounded(staging: Staging) -> None:
    actor = Actor([ModelOverloadedError("first", "x" * 5_000)])
    chain = [f"model-{n}" for n in range(16)]

    async with (
        staging(actor, retries=20, circuit_failures=0, fallbacks=chain) as stage,
        stage.agent().stream(question="?") as run,
    ):
        with pytest.raises(ModelOverloadedError):
            await run.wait()

    notes = [each for each in run.log.entries if isinstance(each, Noted)]
    assert len(actor.requests) == 21 * 17
    assert len(notes) == 64
    assert all(len(each.data["reason"]) <= 200 for each in notes)
