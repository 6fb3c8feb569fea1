"""Limits of what is asked of a provider: never more, and everybody gets a turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any

import anyio
import pytest
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    InterruptMode,
    InterruptReason,
    Run,
    current_run,
)
from kaizen.errors import ModelError, ModelRateLimitError
from kaizen.messages import Usage
from kaizen.runlog import Noted
from kaizen_resilience import LimitSettings, QueueFullError, Resilience
from kaizen_resilience._limits import Gate

from .conftest import Actor, Attempt, Staged, Staging, broken

pytestmark = pytest.mark.anyio

MINUTE_S = 0.2


class Crowd:
    """A provider's visitors: how many are in at a time, and who came in when."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.order: list[str] = []
        self.times: list[float] = []
        self.leave = anyio.Event()

    def pieces(self) -> Sequence[Any]:
        """Return what a visitor does."""
        return [self._come, self.leave, self._go, "Hello"]

    def _come(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(current_run().agent_id)
        self.times.append(monotonic())

    def _go(self) -> None:
        self.inside -= 1


@asynccontextmanager
async def waiting_run(staging: Staging) -> AsyncGenerator[Run]:
    """Give a run that does nothing for as long as it is needed."""
    async with (
        staging(Actor([None])) as stage,
        stage.agent().stream(question="?") as run,
    ):
        await anyio.lowlevel.checkpoint()
        yield run


async def until(condition: Any) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


def named(stage: Staged, name: str, **options: Any) -> BaseAgent:
    return stage.agent(agent_id=name, **options)


async def test_never_more_calls_at_a_time_than_may_be(staging: Staging) -> None:
    crowd = Crowd()
    actor = Actor(crowd.pieces())

    async with staging(actor, limits={"first": {"concurrency": 3}}) as stage:
        agent = stage.agent()
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(lambda: agent.run(question="?"))
            await until(lambda: crowd.inside == 3)
            crowd.leave.set()

    assert len(crowd.order) == 50
    assert crowd.most == 3


async def test_a_star_stands_for_each_provider_that_is_not_named(
    staging: Staging,
) -> None:
    crowd = Crowd()
    actor = Actor(crowd.pieces())
    limits = {"*": {"concurrency": 2}, "second": {"concurrency": 9}}

    async with staging(actor, limits=limits) as stage:
        agent = stage.agent()
        async with anyio.create_task_group() as tasks:
            for _ in range(9):
                tasks.start_soon(lambda: agent.run(question="?"))
            await until(lambda: crowd.inside == 2)
            crowd.leave.set()

    assert crowd.most == 2


async def test_who_asks_much_does_not_keep_others_waiting(staging: Staging) -> None:
    crowd = Crowd()

    async with staging(
        Actor(crowd.pieces()), limits={"first": {"concurrency": 1}}
    ) as stage:
        greedy, modest = named(stage, "greedy"), named(stage, "modest")
        async with anyio.create_task_group() as tasks:
            for agent in [greedy] * 20 + [modest] * 2:
                tasks.start_soon(partial(agent.run, question="?"))
                await anyio.lowlevel.checkpoint()
            await until(lambda: crowd.inside == 1)
            crowd.leave.set()

    assert len(crowd.order) == 22
    assert crowd.order[:5].count("modest") == 2


async def test_tenants_take_turns_whichever_agents_they_use(staging: Staging) -> None:
    crowd = Crowd()

    async with (
        staging(Actor(crowd.pieces()), limits={"first": {"concurrency": 1}}) as stage,
        anyio.create_task_group() as tasks,
    ):
        for number in range(12):
            tenant = "small" if number == 11 else "big"
            agent = named(stage, f"{tenant}-{number}").bind(metadata={"tenant": tenant})
            tasks.start_soon(partial(agent.run, question="?"))
            await anyio.lowlevel.checkpoint()
        await until(lambda: crowd.inside == 1)
        crowd.leave.set()

    assert crowd.order.index("small-11") <= 3


async def test_one_line_goes_first_come_first_served(staging: Staging) -> None:
    gate = Gate("first", LimitSettings(concurrency=1))
    order: list[int] = []

    async with waiting_run(staging) as run:

        async def come(number: int) -> None:
            ticket = await gate.enter(run, "all")
            order.append(number)
            gate.leave(ticket)

        first = await gate.enter(run, "all")
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(come, number)
                await until(lambda number=number: gate.waiting == number + 1)
            gate.leave(first)

    assert order == list(range(30))


async def test_a_full_queue_is_a_clear_error(staging: Staging) -> None:
    crowd = Crowd()
    limits = {"first": {"concurrency": 1, "queue": 2}}

    async with staging(Actor(crowd.pieces()), limits=limits) as stage:
        agent = stage.agent()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(lambda: agent.run(question="?"))
            await until(lambda: crowd.inside == 1)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(QueueFullError, match=r"2 calls waiting.*Raise `queue`"):
                await agent.run(question="?")
            crowd.leave.set()

    assert len(crowd.order) == 3


async def test_where_the_queue_is_full_the_fallback_answers(staging: Staging) -> None:
    crowd = Crowd()
    first, second = Actor(crowd.pieces()), Actor("Hi", name="second")
    limits = {"first": {"concurrency": 1, "queue": 0}}

    async with staging(first, second, limits=limits, fallbacks=["second"]) as stage:
        agent = stage.agent()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agent.run(question="?"))
            await until(lambda: crowd.inside == 1)
            assert (await agent.run(question="?")).answer == "Hi"
            crowd.leave.set()


async def test_in_no_span_of_a_minute_there_are_more_requests_than_may_be(
    staging: Staging,
) -> None:
    gate = Gate("first", LimitSettings(requests_per_minute=5), minute_s=MINUTE_S)
    times: list[float] = []

    async with waiting_run(staging) as run:

        async def come() -> None:
            ticket = await gate.enter(run, "all")
            times.append(monotonic())
            gate.leave(ticket)

        async with anyio.create_task_group() as tasks:
            for _ in range(17):
                tasks.start_soon(come)

    assert len(times) == 17
    assert all(
        later - earlier >= MINUTE_S * 0.99
        for earlier, later in zip(times, times[5:], strict=False)
    )
    assert times[-1] - times[0] < MINUTE_S * 5


async def test_in_no_span_of_a_minute_there_are_more_tokens_than_may_be(
    staging: Staging,
) -> None:
    gate = Gate("first", LimitSettings(tokens_per_minute=100), minute_s=MINUTE_S)
    taken: list[tuple[float, int]] = []

    async with waiting_run(staging) as run:

        async def come(tokens: int) -> None:
            ticket = await gate.enter(run, "all", tokens)
            taken.append((ticket.at, tokens))
            gate.leave(ticket, tokens)

        async with anyio.create_task_group() as tasks:
            for tokens in [30, 60, 20, 50, 40, 90, 10]:
                tasks.start_soon(come, tokens)

    assert len(taken) == 7
    for begin, _ in taken:
        within = [n for at, n in taken if begin <= at < begin + MINUTE_S * 0.99]
        assert sum(within) <= 100


async def test_a_call_that_needs_more_than_there_ever_is_goes_alone(
    staging: Staging,
) -> None:
    gate = Gate("first", LimitSettings(tokens_per_minute=100), minute_s=MINUTE_S)

    async with waiting_run(staging) as run:
        small = await gate.enter(run, "all", 1)
        gate.leave(small, 1)
        with anyio.fail_after(10):
            large = await gate.enter(run, "all", 1_000_000)

    assert large.at - small.at >= MINUTE_S * 0.99


async def test_what_a_call_really_took_counts_for_those_who_come_after(
    staging: Staging,
) -> None:
    gate = Gate("first", LimitSettings(tokens_per_minute=100), minute_s=MINUTE_S)

    async with waiting_run(staging) as run:
        cheap = await gate.enter(run, "all", 90)
        gate.leave(cheap, 10)
        at_once = await gate.enter(run, "all", 80)
        gate.leave(at_once, 500)
        late = await gate.enter(run, "all", 1)

    assert at_once.at - cheap.at < MINUTE_S / 2
    assert late.at - at_once.at >= MINUTE_S * 0.99


async def test_tokens_are_those_that_replies_name(staging: Staging) -> None:
    usage = Usage(requests=1, input_tokens=100_000, output_tokens=1)
    actor = Actor(Attempt(["Hello"], usage=usage))
    limits = {"first": {"tokens_per_minute": 50_000}}

    async with staging(actor, limits=limits) as stage:
        await stage.agent().run(question="?")
        with anyio.move_on_after(0.1) as scope:
            await stage.agent().run(question="?")

    assert scope.cancelled_caught
    assert len(actor.requests) == 1


@pytest.mark.parametrize("mode", InterruptMode)
async def test_an_interrupt_ends_the_wait_for_a_turn(
    staging: Staging, mode: InterruptMode
) -> None:
    crowd = Crowd()
    config = {"graceful_shutdown_timeout": 60}

    async with staging(
        Actor(crowd.pieces()), limits={"first": {"concurrency": 1}}
    ) as stage:
        agent = stage.agent(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agent.run(question="?"))
            await until(lambda: crowd.inside == 1)
            async with agent.stream(question="?") as run:
                await anyio.wait_all_tasks_blocked()
                run.interrupt(InterruptReason(mode=mode))
                with anyio.fail_after(10), pytest.raises(AgentInterrupted):
                    await run.wait()
            crowd.leave.set()
            result = await agent.run(question="?")

    assert result.answer == "Hello"
    assert len(crowd.order) == 2


async def test_whoever_leaves_the_queue_takes_nothing_along(staging: Staging) -> None:
    crowd = Crowd()
    limits = {"first": {"concurrency": 2, "requests_per_minute": 1_000}}

    async with staging(Actor(crowd.pieces()), limits=limits) as stage:
        agent = stage.agent()

        async def give_up() -> None:
            with anyio.move_on_after(0.02):
                await agent.run(question="?")

        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(give_up)
        crowd.leave.set()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(lambda: agent.run(question="?"))

    assert crowd.order[2:] != []


async def test_a_turn_that_comes_while_its_waiter_is_cancelled_goes_to_the_next(
    staging: Staging,
) -> None:
    gate = Gate("first", LimitSettings(concurrency=1, requests_per_minute=1_000))

    async with waiting_run(staging) as run:
        first = await gate.enter(run, "all")
        got: list[str] = []

        async def come(name: str) -> None:
            ticket = await gate.enter(run, name)
            got.append(name)
            gate.leave(ticket)

        with anyio.fail_after(10):
            async with (
                anyio.create_task_group() as others,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(come, "cancelled")
                await until(lambda: gate.waiting == 1)
                others.start_soon(come, "next")
                await until(lambda: gate.waiting == 2)
                tasks.cancel_scope.cancel()
                gate.leave(first)  # the turn is given to who is on the way out

    assert got == ["next"]
    assert gate.waiting == 0


async def test_a_place_is_given_back_while_a_retry_waits(staging: Staging) -> None:
    slow = ModelRateLimitError("first", "is asked too much")
    slow.retry_after_s = 15
    actor = Actor([slow], "Hello")

    async with staging(actor, limits={"first": {"concurrency": 1}}) as stage:
        agent = stage.agent()
        async with agent.stream(question="?"):
            await until(lambda: actor.requests)
            with anyio.fail_after(10):
                result = await agent.run(question="?")

    assert result.answer == "Hello"


async def test_that_a_call_waited_is_noted(staging: Staging) -> None:
    crowd = Crowd()

    async with staging(
        Actor(crowd.pieces()), limits={"first": {"concurrency": 1}}
    ) as stage:
        agent = stage.agent()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agent.run(question="?"))
            await until(lambda: crowd.inside == 1)
            async with agent.stream(question="?") as run:
                await anyio.sleep(0.01)
                crowd.leave.set()
                await run.wait()

    (note,) = [each for each in run.log.entries if isinstance(each, Noted)]
    assert note.kind == "waited"
    assert note.data["provider"] == "first"
    assert note.data["seconds"] > 0


async def test_an_agent_of_its_own_ways_keeps_to_the_limits_of_all(
    staging: Staging,
) -> None:
    crowd = Crowd()
    own = Resilience(limits={"first": {"concurrency": 5}})

    async with staging(
        Actor(crowd.pieces()), limits={"first": {"concurrency": 2}}
    ) as stage:
        agent = stage.agent(hooks=[own])
        async with anyio.create_task_group() as tasks:
            for _ in range(9):
                tasks.start_soon(lambda: agent.run(question="?"))
            await until(lambda: crowd.inside == 2)
            await anyio.wait_all_tasks_blocked()
            crowd.leave.set()

    assert crowd.most == 2
    assert len(crowd.order) == 9


async def test_failures_give_their_places_back(staging: Staging) -> None:
    actor = Actor([broken()])

    async with staging(
        actor, circuit_failures=0, limits={"first": {"concurrency": 1}}
    ) as stage:
        with anyio.fail_after(10):
            for _ in range(5):
                with pytest.raises(ModelError):
                    await stage.agent().run(question="?")

    assert len(actor.requests) == 15
