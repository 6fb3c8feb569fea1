"""Kernels with budgets, and a model that costs what a test says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any, TypeAlias

import pytest
from kaizen import BaseAgent, Kernel, ModelProfile, ModelReply, ModelRequest, Usage
from kaizen.testing import Line, ModelPlugin, ScriptedModel
from kaizen_budgets import BudgetsPlugin, Ledger

Running: TypeAlias = Callable[..., AbstractAsyncContextManager[Kernel]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend


class PricedModel(ScriptedModel):
    """A model with prices: each reply may have 1,000 tokens, for a cent.

    Attributes:
        charged: What it has charged in all.
    """

    def __init__(self, *script: Line, cost_usd: str | None = "0.002") -> None:
        super().__init__(*script, cost_usd=None if cost_usd is None else Decimal(cost_usd))
        self.charged = Decimal(0)

    def describe(self, model: str) -> ModelProfile:
        return ModelProfile(
            name=model or "priced",
            context_window=100_000,
            max_output_tokens=1_000,
            input_usd_per_million=Decimal(0),
            output_usd_per_million=Decimal(10),
        )

    async def complete(self, request: ModelRequest) -> ModelReply:
        reply = await super().complete(request)
        self.charged += reply.cost_usd or 0
        return reply


@pytest.fixture
def priced() -> PricedModel:
    return PricedModel()


@pytest.fixture
def running(priced: PricedModel) -> Running:
    """Start a kernel with the plugin and some settings; its provider is `priced`."""

    @asynccontextmanager
    async def started(
        *plugins: object, config: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncGenerator[Kernel]:
        async with Kernel(
            plugins=[ModelPlugin(priced), BudgetsPlugin, *plugins],
            discover=False,
            settings={"budgets": settings},
            config={"default_provider": "scripted", **(config or {})},
            config_file=False,
            environ={},
        ) as kernel:
            yield kernel

    return started


def answering(kernel: Kernel, **options: Any) -> BaseAgent:
    """An agent that answers a question."""
    return BaseAgent(signature="question -> answer", kernel=kernel, **options)


async def ledger_of(kernel: Kernel, name: str = "memory") -> Ledger:
    """Return the ledger that a kernel counts in."""
    return await kernel.get(Ledger, name)  # type: ignore[type-abstract]


def used(tokens: int = 15) -> Usage:
    """What a request consumed."""
    return Usage(requests=1, input_tokens=tokens // 2, output_tokens=tokens - tokens // 2)
