"""The plugin: its settings, and its place among the others."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest
from kaizen import BaseAgent, Kernel, ModelCall, Priority, hookimpl
from kaizen.errors import ConfigurationError, KaizenError
from kaizen.messages import ModelReply, ModelRequest
from kaizen.runlog import ModelSwitched, Noted, decode
from kaizen.testing import MemoryCheckpointStore, ModelPlugin
from kaizen_resilience import (
    CircuitOpenError,
    QueueFullError,
    Resilience,
    ResiliencePlugin,
    ResilienceSettings,
    Traffic,
)
from pydantic import ValidationError

from .conftest import Actor, Staging, broken

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "settings",
    [
        {"retries": -1},
        {"retries": 21},
        {"backoff_s": -1},
        {"timeout_s": -1},
        {"timeout_s": 100_000},
        {"max_wait_s": 4_000},
        {"fallbacks": ["x"] * 17},
        {"circuit_failures": 1_001},
        {"circuit_open_s": 0},
        {"limits": {"first": {"concurrency": 0}}},
        {"limits": {"first": {"queue": -1}}},
        {"limits": {"first": {"speed": 1}}},
        {"nosuch": 1},
    ],
    ids=str,
)
async def test_a_setting_out_of_bounds_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResilienceSettings(**settings)
    with pytest.raises(ValidationError):
        Resilience(**settings)


async def test_settings_come_from_the_environment_too() -> None:
    actor = Actor([broken()])

    async with Kernel(
        plugins=[ModelPlugin(actor, "first"), ResiliencePlugin],
        discover=False,
        config_file=False,
        environ={
            "KAIZEN_RESILIENCE__RETRIES": "3",
            "KAIZEN_RESILIENCE__BACKOFF_S": "0",
            "KAIZEN_RESILIENCE__LIMITS": '{"first": {"concurrency": 1}}',
        },
    ) as kernel:
        agent = BaseAgent({"llm_provider": "first"}, "question -> answer", kernel=kernel)
        with pytest.raises(KaizenError):
            await agent.run(question="?")

    assert len(actor.requests) == 4


async def test_a_misspelt_setting_is_named() -> None:
    kernel = Kernel(
        plugins=[ResiliencePlugin],
        discover=False,
        config_file=False,
        environ={},
        settings={"resilience": {"retrys": 3}},
    )

    with pytest.raises((ConfigurationError, KaizenError), match="retrys"):
        await kernel.__aenter__()


async def test_each_attempt_passes_through_what_stands_inside(staging: Staging) -> None:
    class Counting:
        def __init__(self, name: str) -> None:
            self.name = name
            self.calls = 0

    class Outside(Counting):
        @hookimpl(priority=Priority.NORMAL)
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            self.calls += 1
            return await call_next(request)

    class Inside(Counting):
        @hookimpl(priority=Priority.LOWEST)
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            self.calls += 1
            return await call_next(request)

    outside, inside = Outside("outside"), Inside("inside")

    async with staging(
        Actor([broken()], [broken()], "Hello"), plugins=[outside, inside]
    ) as stage:
        await stage.agent().run(question="?")

    assert (outside.calls, inside.calls) == (1, 3)


async def test_a_resilience_does_without_the_plugin() -> None:
    actor = Actor([broken()], "Hello")

    async with Kernel(
        plugins=[ModelPlugin(actor, "first")],
        discover=False,
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(
            {"llm_provider": "first"},
            "question -> answer",
            kernel=kernel,
            hooks=[Resilience(backoff_s=0)],
        )
        result = await agent.run(question="?")

    assert result.answer == "Hello"
    assert result.cost_usd == Decimal("0.02")


async def test_the_limits_and_breakers_are_offered_to_others(staging: Staging) -> None:
    async with staging(Actor("Hello")) as stage:
        traffic = await stage.kernel.get(Traffic, "default")

    assert traffic.gate("first") is None


async def test_kernels_share_no_state(staging: Staging) -> None:
    busy = Actor([broken(status=503)])

    async with (
        staging(busy, retries=0, circuit_failures=1) as one,
        staging(busy, retries=0, circuit_failures=1) as other,
    ):
        for stage in (one, other):
            with pytest.raises(KaizenError, match="broke off"):
                await stage.agent().run(question="?")

    assert len(busy.requests) == 2


async def test_what_was_noted_and_switched_is_kept_with_the_run(staging: Staging) -> None:
    store = MemoryCheckpointStore()
    actor = Actor(["Hel", broken(status=500)], ["lo"], continues=True)

    async with staging(actor, circuit_failures=1, circuit_open_s=0.01) as stage:
        _, run = await stage.read(stage.agent(store=store))

    kept = [decode(each) for each in await store.read(run.id)]
    assert kept == run.log.entries
    kinds = [each.kind for each in kept if isinstance(each, Noted)]
    assert kinds == ["circuit_opened", "retry", "retry", "circuit_closed"]
    assert len([each for each in kept if isinstance(each, ModelSwitched)]) == 1


@pytest.mark.parametrize("kind", [CircuitOpenError, QueueFullError])
async def test_errors_of_the_plugin_can_be_copied(
    kind: type[CircuitOpenError | QueueFullError],
) -> None:
    error = kind("first", "is left alone", "Wait.", retry_after_s=3.0)

    copied = pickle.loads(pickle.dumps(error))

    assert type(copied) is kind
    assert str(copied) == str(error)
    assert (copied.retry_after_s, copied.retryable) == (3.0, True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import kaizen_resilience

    with pytest.raises(AttributeError, match="nosuch"):
        kaizen_resilience.nosuch  # noqa: B018
