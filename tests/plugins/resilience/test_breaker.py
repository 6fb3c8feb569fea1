"""A model that fails again and again is left alone, and tried once in a while."""

from __future__ import annotations

import anyio
import pytest
from kaizen.errors import (
    ModelAuthError,
    ModelConnectionError,
    ModelError,
    ModelOverloadedError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from kaizen_resilience import (
    CircuitOpenError,
    QueueFullError,
    Resilience,
    ResilienceSettings,
)
from kaizen_resilience._breaker import MOST_KNOWN, Breakers, is_outage

from .conftest import Actor, Staged, Staging

pytestmark = pytest.mark.anyio

KEY = ("first", "model")
OPEN_S = 0.05


def busy() -> ModelOverloadedError:
    return ModelOverloadedError("first", "is busy")


def opened(failures: int = 3, *, open_s: float = OPEN_S) -> Breakers:
    """Return breakers of which one has just opened."""
    settings = ResilienceSettings(circuit_failures=failures, circuit_open_s=open_s)
    breakers = Breakers(settings)
    outcomes = [breakers.failed(KEY, probe=False) for _ in range(failures)]
    assert outcomes == [False] * (failures - 1) + [True]
    return breakers


async def fail(stage: Staged, times: int) -> None:
    """Let an agent fail some times."""
    for _ in range(times):
        with pytest.raises(ModelOverloadedError):
            await stage.agent().run(question="?")


async def test_a_model_that_failed_many_times_in_a_row_is_not_asked(
    staging: Staging,
) -> None:
    actor = Actor([busy()])

    async with staging(actor, retries=0, circuit_failures=3) as stage:
        await fail(stage, 3)
        with pytest.raises(CircuitOpenError) as raised:
            await stage.agent().run(question="?")

    assert len(actor.requests) == 3
    assert raised.value.retryable
    assert raised.value.retry_after_s == pytest.approx(30, abs=5)


async def test_another_model_of_the_provider_is_asked_as_ever(staging: Staging) -> None:
    actor = Actor([busy()], [busy()], "Hello")

    async with staging(actor, retries=0, circuit_failures=2) as stage:
        await fail(stage, 2)
        result = await stage.agent({"model": "other"}).run(question="?")

    assert result.answer == "Hello"


async def test_while_it_is_left_alone_the_fallback_answers_at_once(
    staging: Staging,
) -> None:
    first, second = Actor([busy()]), Actor("Hello", name="second")

    async with staging(first, second, circuit_failures=3, fallbacks=["second"]) as stage:
        answers = [(await stage.agent().run(question="?")).answer for _ in range(3)]

    assert answers == ["Hello"] * 3
    assert len(first.requests) == 3


async def test_after_its_time_one_call_finds_out_and_the_others_follow(
    staging: Staging,
) -> None:
    actor = Actor([busy()], [busy()], "Hello")

    async with staging(
        actor, retries=1, circuit_failures=2, circuit_open_s=OPEN_S
    ) as stage:
        await fail(stage, 1)
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == "Hello"
    assert reader.kinds() == ["retry", "circuit_closed"]


async def test_that_it_opened_is_noted(staging: Staging) -> None:
    actor = Actor([busy()], "Hello")

    async with staging(actor, circuit_failures=1, circuit_open_s=OPEN_S) as stage:
        reader, _ = await stage.read(stage.agent())

    assert reader.kinds() == ["circuit_opened", "retry", "retry", "circuit_closed"]


async def test_only_one_call_at_a_time_finds_out() -> None:
    breakers = opened()
    await anyio.sleep(OPEN_S)

    assert breakers.admit(KEY) is True
    for _ in range(10):
        with pytest.raises(CircuitOpenError):
            breakers.admit(KEY)


async def test_a_failed_attempt_to_find_out_opens_it_again() -> None:
    breakers = opened()
    await anyio.sleep(OPEN_S)
    assert breakers.admit(KEY)

    assert breakers.failed(KEY, probe=True)

    with pytest.raises(CircuitOpenError) as raised:
        breakers.admit(KEY)
    assert raised.value.retry_after_s == pytest.approx(OPEN_S, abs=OPEN_S / 2)


async def test_a_call_that_was_to_find_out_and_was_cancelled_leaves_it_to_the_next() -> (
    None
):
    breakers = opened()
    await anyio.sleep(OPEN_S)
    assert breakers.admit(KEY)

    breakers.dropped(KEY, probe=True)

    assert breakers.admit(KEY) is True


async def test_a_success_closes_it_and_the_count_begins_again() -> None:
    breakers = opened()
    await anyio.sleep(OPEN_S)
    assert breakers.admit(KEY)

    assert breakers.succeeded(KEY, probe=True)

    assert breakers.admit(KEY) is False
    assert breakers.failed(KEY, probe=False) is False


async def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    breakers = Breakers(ResilienceSettings(circuit_failures=2))

    for _ in range(10):
        assert not breakers.failed(KEY, probe=False)
        breakers.succeeded(KEY, probe=False)

    assert breakers.admit(KEY) is False


async def test_calls_that_began_before_it_opened_decide_nothing() -> None:
    breakers = opened(open_s=60)

    assert not breakers.failed(KEY, probe=False)
    assert not breakers.succeeded(KEY, probe=False)

    with pytest.raises(CircuitOpenError):
        breakers.admit(KEY)


async def test_it_can_be_turned_off() -> None:
    breakers = Breakers(ResilienceSettings(circuit_failures=0))

    assert not any(breakers.failed(KEY, probe=False) for _ in range(100))

    assert breakers.admit(KEY) is False


async def test_it_remembers_a_bounded_number_of_models() -> None:
    breakers = Breakers(ResilienceSettings(circuit_failures=1))

    for number in range(MOST_KNOWN + 1):
        breakers.failed(("first", str(number)), probe=False)

    assert breakers.admit(("first", "0")) is False
    with pytest.raises(CircuitOpenError):
        breakers.admit(("first", "1"))


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (busy(), True),
        (ModelTimeoutError("first", "is slow"), True),
        (ModelConnectionError("first", "is gone"), True),
        (ModelError("first", "failed", status=500), True),
        (ModelError("first", "failed", status=418), False),
        (ModelError("first", "failed"), False),
        (ModelAuthError("first", "knows no key"), False),
        (ModelRateLimitError("first", "is asked too much"), False),
        (CircuitOpenError("first", "is open"), False),
        (QueueFullError("first", "is full"), False),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_what_counts_as_a_failure(error: ModelError, *, counts: bool) -> None:
    assert is_outage(error) is counts


async def test_a_circuit_of_an_agents_own_holds_beside_that_of_all(
    staging: Staging,
) -> None:
    actor = Actor([busy()])
    own = Resilience(retries=0, circuit_failures=1)

    async with staging(actor, retries=0, circuit_failures=3) as stage:
        with pytest.raises(ModelOverloadedError):
            await stage.agent(hooks=[own]).run(question="?")
        with pytest.raises(CircuitOpenError):
            await stage.agent(hooks=[own]).run(question="?")
        await fail(stage, 2)  # the others still ask, and what they find out counts
        with pytest.raises(CircuitOpenError):
            await stage.agent().run(question="?")

    assert len(actor.requests) == 3


async def test_an_open_circuit_of_all_says_nothing_of_the_agents_own(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("kaizen_resilience._breaker.monotonic", lambda: now[0])
    actor = Actor([busy()])
    own = Resilience(retries=0, circuit_failures=2, circuit_open_s=60)

    async with staging(actor, retries=0, circuit_failures=2, circuit_open_s=5) as stage:
        await fail(stage, 1)
        agent = stage.agent(hooks=[own])
        with pytest.raises(ModelOverloadedError):
            await agent.run(question="?")
        with pytest.raises(CircuitOpenError) as raised:
            await agent.run(question="?")
        assert raised.value.retry_after_s == 5
        now[0] = 6.0
        with pytest.raises(ModelOverloadedError):
            await agent.run(question="?")
        with pytest.raises(CircuitOpenError) as raised:
            await agent.run(question="?")

    assert raised.value.retry_after_s == 60
    assert len(actor.requests) == 3


async def test_without_a_word_of_an_agent_the_circuit_of_all_alone_holds(
    staging: Staging,
) -> None:
    actor = Actor([busy()])
    own = Resilience(retries=0)

    async with staging(actor, circuit_failures=0) as stage:
        for _ in range(7):
            with pytest.raises(ModelOverloadedError):
                await stage.agent(hooks=[own]).run(question="?")

    assert len(actor.requests) == 7
