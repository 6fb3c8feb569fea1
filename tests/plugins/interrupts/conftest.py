"""Kernels with the plugin, and agents whose model waits until it is told to go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any, TypeAlias

import anyio
import pytest
from kaizen import BaseAgent, Kernel, Run, tool
from kaizen.testing import Call, ModelPlugin, ScriptedModel
from kaizen_interrupts import InterruptManager, InterruptsPlugin

Running: TypeAlias = Callable[..., AbstractAsyncContextManager[Kernel]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend


@pytest.fixture
def running(model: ScriptedModel) -> Running:
    """Start a kernel with the plugin and some settings; its provider is `model`."""

    @asynccontextmanager
    async def started(*plugins: object, **settings: Any) -> AsyncGenerator[Kernel]:
        async with Kernel(
            plugins=[ModelPlugin(model), InterruptsPlugin, *plugins],
            discover=False,
            settings={"interrupts": settings},
            config={"default_provider": "scripted"},
            config_file=False,
            environ={},
        ) as kernel:
            yield kernel

    return started


class Worker:
    """An agent that goes on for ever, one turn after the other, each when it may.

    Attributes:
        agent: The agent.
        turn: Is set when a turn has begun.
        turns: How many there were.
    """

    def __init__(
        self, model: ScriptedModel, kernel: Kernel, *, waits: bool = True, **options: Any
    ) -> None:
        self.turn = anyio.Event()
        self.go_on = anyio.Event()
        self.turns = 0
        self._waits = waits
        model.say(*[Call("work")] * 50)

        @tool(danger="safe", idempotent=True)
        async def work() -> str:
            """Work."""
            self.turns += 1
            self.turn.set()
            if self._waits:
                await self.go_on.wait()
            return "worked"

        self.agent = BaseAgent(
            {"max_cycles": 50},
            "question -> answer",
            tools=[work],
            kernel=kernel,
            **options,
        )

    async def next_turn(self) -> None:
        """Let the turn under way end, and wait until the next has begun."""
        waiting, self.go_on, self.turn = self.go_on, anyio.Event(), anyio.Event()
        waiting.set()
        with anyio.fail_after(10):
            await self.turn.wait()


async def default_manager(kernel: Kernel) -> InterruptManager:
    """Return the manager of a kernel's plugin."""
    return await kernel.get(InterruptManager, "default")


def costing(model: ScriptedModel, cost_usd: str) -> None:
    """Let each request cost something."""
    model.cost_usd = Decimal(cost_usd)


async def ended(run: Run) -> BaseException | None:
    """Wait until a run has ended, and return what it ended with."""
    with anyio.fail_after(10):
        try:
            await run.wait()
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            return error
    return None
