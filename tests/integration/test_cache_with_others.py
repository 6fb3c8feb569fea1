"""The cache with the real plugins around it: a hit asks none of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest
from kaizen import BaseAgent, BaseProvider, Kernel
from kaizen.errors import ModelOverloadedError
from kaizen.messages import ModelDelta, ModelReply, ModelRequest
from kaizen.runlog import ModelSwitched, TextDelta
from kaizen.testing import ModelPlugin, ScriptedModel
from kaizen_budgets import Budget, SpendLimits
from kaizen_cache import CachePlugin
from kaizen_resilience import Resilience

Ask: TypeAlias = Callable[..., Awaitable[str]]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every test on asyncio and on trio."""
    backend: str = request.param
    return backend


async def read(agent: BaseAgent, question: str = "?") -> str:
    """Return what a reader of the stream has read at the end."""
    text = ""
    with anyio.fail_after(20):
        async with agent.stream(question=question) as run:
            async for event in run:
                if isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, ModelSwitched) and event.restarts:
                    text = ""
    return text


async def answered(agent: BaseAgent, question: str = "?") -> str:
    """Return what the run gave."""
    with anyio.fail_after(20):
        return str((await agent.run(question=question)).answer)


BUDGETS = {"limits": {"all": {"requests": 1, "scope": "kernel"}}}


@pytest.mark.parametrize("ask", [answered, read])
@pytest.mark.parametrize(
    "order", [("cache", "resilience", "budgets"), ("budgets", "resilience", "cache")]
)
async def test_a_hit_is_in_no_budget_whatever_the_order(
    order: tuple[str, ...], ask: Ask
) -> None:
    model = ScriptedModel("hello")
    async with Kernel(
        plugins=[ModelPlugin(model), *order],
        config={"default_provider": "scripted", "cache_enabled": True},
        settings={
            "budgets": BUDGETS,
            "resilience": {"limits": {"*": {"requests_per_minute": 1}}},
        },
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        answers = [await ask(agent) for _ in range(5)]

    assert answers == ["hello"] * 5
    assert len(model.requests) == 1


@pytest.mark.parametrize("ask", [answered, read])
async def test_a_hit_passes_by_the_limits_of_the_agent_itself(ask: Ask) -> None:
    model = ScriptedModel("hello")
    hooks: list[Any] = [
        SpendLimits(Budget(requests=1, scope="agent")),
        Resilience(limits={"*": {"requests_per_minute": 1}}),
    ]
    async with Kernel(
        plugins=[ModelPlugin(model), CachePlugin],
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        config = {"cache_enabled": True}
        agent = BaseAgent(config, "question -> answer", kernel=kernel, hooks=hooks)
        answers = [await ask(agent) for _ in range(5)]

    assert answers == ["hello"] * 5
    assert len(model.requests) == 1


@pytest.mark.parametrize("ask", [answered, read])
async def test_a_reply_after_retries_is_kept_and_that_of_a_fallback_is_not(
    ask: Ask,
) -> None:
    busy = ModelOverloadedError("scripted", "is busy")
    first, second = ScriptedModel(busy, "hello", busy, busy), ScriptedModel("stand-in", "b")
    offering = ModelPlugin(second, "second")
    offering.name = "second"
    async with Kernel(
        plugins=[ModelPlugin(first), offering, "cache", "resilience"],
        config={"default_provider": "scripted", "cache_enabled": True},
        settings={"resilience": {"retries": 1, "backoff_s": 0, "fallbacks": ["second"]}},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        kept = [await ask(agent, "one") for _ in range(3)]
        first.say(busy, busy)
        not_kept = [await ask(agent, "two") for _ in range(2)]

    assert kept == ["hello"] * 3
    assert not_kept == ["stand-in", "b"]


async def test_readers_of_one_call_that_fails_over_all_read_the_whole_answer() -> None:
    second, gate = ScriptedModel("the whole answer"), anyio.Event()

    class Breaking(BaseProvider):
        """Breaks off when half the answer is out."""

        name = "scripted"

        async def complete(self, request: ModelRequest) -> ModelReply:
            raise NotImplementedError

        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            yield ModelDelta(text="half an")
            await gate.wait()
            raise ModelOverloadedError("scripted", "is busy")

    offering = ModelPlugin(second, "second")
    offering.name = "second"
    texts: list[str] = []
    async with Kernel(
        plugins=[ModelPlugin(Breaking(), "scripted"), offering, "cache", "resilience"],
        config={"default_provider": "scripted", "cache_enabled": True},
        settings={"resilience": {"retries": 0, "fallbacks": ["second"]}},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)

        async def reader() -> None:
            texts.append(await read(agent))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            tasks.start_soon(reader)
            await anyio.wait_all_tasks_blocked()
            second.say("the whole answer")
            gate.set()

    assert texts == ["the whole answer"] * 2
