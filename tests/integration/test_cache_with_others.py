"""The cache with the real plugins around it: a hit asks none of them."""

from __future__ import annotations

from typing import Any

import pytest
from kaizen import BaseAgent, Kernel
from kaizen.errors import ModelOverloadedError
from kaizen.testing import ModelPlugin, ScriptedModel
from kaizen_budgets import Budget, SpendLimits
from kaizen_cache import CachePlugin
from kaizen_resilience import Resilience

pytestmark = pytest.mark.asyncio

BUDGETS = {"limits": {"all": {"requests": 1, "scope": "kernel"}}}


@pytest.mark.parametrize(
    "order", [("cache", "resilience", "budgets"), ("budgets", "resilience", "cache")]
)
async def test_a_hit_is_in_no_budget_whatever_the_order(order: tuple[str, ...]) -> None:
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
        answers = [(await agent.run(question="?")).answer for _ in range(5)]

    assert answers == ["hello"] * 5
    assert len(model.requests) == 1


async def test_a_hit_passes_by_the_limits_of_the_agent_itself() -> None:
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
        answers = [(await agent.run(question="?")).answer for _ in range(5)]

    assert answers == ["hello"] * 5
    assert len(model.requests) == 1


async def test_a_reply_after_retries_is_kept_and_that_of_a_fallback_is_not() -> None:
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
        kept = [(await agent.run(question="one")).answer for _ in range(3)]
        first.say(busy, busy)
        not_kept = [(await agent.run(question="two")).answer for _ in range(2)]

    assert kept == ["hello"] * 3
    assert not_kept == ["stand-in", "b"]
