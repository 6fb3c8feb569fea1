"""What it costs to see a call through that goes well, and to wait for a turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from kaizen import (
    BaseAgent,
    BaseProvider,
    Kernel,
    ModelDelta,
    ModelReply,
    ModelRequest,
    TextDelta,
)
from kaizen.testing import ModelPlugin
from kaizen_resilience import ResiliencePlugin

from tests.benchmarks._measure import awaited, interleave, ratio, slope, unit
from tests.benchmarks._table import Row, Table

CONFIG = {"default_provider": "waiting"}
PIECES = 60
WAITING = 1_000
NO_LIMITS: dict[str, Any] = {"timeout_s": 0, "first_token_s": 0, "between_tokens_s": 0}


class Waiting(BaseProvider):
    """Waits as a network makes it wait, and answers."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        await checkpoint()
        return ModelReply(text="hello")

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        for _ in range(PIECES):
            await checkpoint()
            yield ModelDelta(text="word ")
        yield ModelReply(text="word " * PIECES)


async def agent_of(
    stack: AsyncExitStack, settings: dict[str, Any] | None = None
) -> BaseAgent:
    """Return an agent, with the plugin if there are settings for it."""
    kernel = Kernel(
        plugins=[
            ModelPlugin(Waiting(), "waiting"),
            *([ResiliencePlugin] if settings is not None else []),
        ],
        discover=False,
        config=CONFIG,
        settings={} if settings is None else {"resilience": settings},
        config_file=False,
        environ={},
    )
    kernel = await stack.enter_async_context(kernel)
    agent = BaseAgent(signature="question -> answer", kernel=kernel)
    await agent.run(question="?")  # the first call imports what calls need
    return agent


def running(agent: BaseAgent) -> Callable[[], Awaitable[object]]:
    return lambda: agent.run(question="?")


def reading(agent: BaseAgent) -> Callable[[], Awaitable[object]]:
    async def read() -> None:
        async with agent.stream(question="?") as run:
            texts = [event async for event in run if isinstance(event, TextDelta)]
        assert len(texts) == PIECES

    return read


def together(agent: BaseAgent, count: int) -> Callable[[], Awaitable[object]]:
    async def one() -> None:
        await agent.run(question="?")

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(one)

    return run


def each(more: Sequence[float], less: Sequence[float], count: int = 1) -> Sequence[float]:
    return slope(less, more, count)


def test_a_call_that_goes_well(table: Table) -> None:
    async def measure() -> dict[str, list[float]]:
        async with AsyncExitStack() as stack:
            bare = await agent_of(stack)
            plain = await agent_of(stack, NO_LIMITS)
            usual = await agent_of(stack, {})
            limited = await agent_of(
                stack,
                {
                    "limits": {
                        "waiting": {
                            "concurrency": 100,
                            "requests_per_minute": 1_000_000,
                            "tokens_per_minute": 1_000_000_000,
                        }
                    }
                },
            )
            return await interleave(
                {
                    "unit": unit,
                    "bare": awaited(running(bare)),
                    "plain": awaited(running(plain)),
                    "usual": awaited(running(usual)),
                    "limited": awaited(running(limited)),
                    "read": awaited(reading(bare)),
                    "read, usual": awaited(reading(usual)),
                }
            )

    measured = anyio.run(measure)

    one, bare = measured["unit"], measured["bare"]
    table.saw_unit(one)
    table.add(
        Row(
            what="resilience: a call that goes well, without limits of time",
            measured=ratio(each(measured["plain"], bare), one),
            reach=2.5,
        ),
        Row(
            what="resilience: a call that goes well, with its limit of time",
            measured=ratio(each(measured["usual"], bare), one),
            reach=7,
        ),
        Row(
            what="resilience: the same, with limits of concurrency and rates",
            measured=ratio(each(measured["limited"], bare), one),
        ),
        Row(
            what=f"resilience: each of {PIECES} pieces of a stream that is watched",
            measured=ratio(each(measured["read, usual"], measured["read"], PIECES), one),
            reach=2,
        ),
    )


def test_a_thousand_calls_that_wait_for_their_turn(table: Table) -> None:
    async def measure() -> dict[str, list[float]]:
        async with AsyncExitStack() as stack:
            free = await agent_of(stack, {})
            limited = await agent_of(stack, {"limits": {"waiting": {"concurrency": 1}}})
            return await interleave(
                {
                    "unit": unit,
                    "free": awaited(together(free, WAITING)),
                    "limited": awaited(together(limited, WAITING)),
                },
                rounds=5,
            )

    measured = anyio.run(measure)

    table.saw_unit(measured["unit"])
    table.add(
        Row(
            what=f"resilience: each of {WAITING:,} calls that wait in the queue of one",
            measured=ratio(
                each(measured["limited"], measured["free"], WAITING), measured["unit"]
            ),
            reach=10,
        )
    )
