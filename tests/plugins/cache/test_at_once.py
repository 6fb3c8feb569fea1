"""Identical calls at the same time: made once, and nobody is hurt by what befalls one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from kaizen import BaseAgent, BaseProvider, InterruptReason, Run, current_run, hookimpl
from kaizen.errors import AgentTimeoutError, ModelError
from kaizen.hookspecs import ModelCall
from kaizen.messages import ModelReply, ModelRequest, Usage
from kaizen.testing import ModelPlugin

from .conftest import PRICE, USED, Staged, Staging, Teller, following, notes, tell

pytestmark = pytest.mark.anyio


class Crowd:
    """Runs of one agent that ask the same, each in a task of its own.

    Attributes:
        answers: What each got, or what it failed of, by number.
    """

    def __init__(self, staged: Staged, agent: BaseAgent, model: Teller) -> None:
        self.answers: dict[int, Any] = {}
        self.runs: dict[int, Run] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}
        self._staged = staged
        self._agent = agent
        self._model = model

    async def gather(self, tasks: TaskGroup, count: int) -> None:
        """Let the first one ask the model, and then the others wait for it."""
        tasks.start_soon(self.ask, 0)
        await self._model.asked.wait()
        for number in range(1, count):
            tasks.start_soon(self.ask, number)
        await following(self._staged, count - 1)

    async def ask(self, number: int) -> None:
        """Ask, until its scope is cancelled."""
        with anyio.CancelScope() as scope:
            self.scopes[number] = scope
            try:
                async with self._agent.stream(question="?") as run:
                    self.runs[number] = run
                    self.answers[number] = (await run.wait()).answer
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.answers[number] = error


async def test_a_thousand_identical_calls_at_once_are_one(staging: Staging) -> None:
    model = Teller("hello")
    model.gate = anyio.Event()
    results = []

    async def ask() -> None:
        results.append(await agent.run(question="?"))

    async with staging(model) as staged:
        agent = staged.agent()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(1_000):
                    tasks.start_soon(ask)
                await following(staged, 999)
                model.gate.set()

    assert len(model.requests) == 1
    assert [each.answer for each in results] == ["hello"] * 1_000
    assert sorted(each.usage.total_tokens for each in results) == [0] * 999 + [15]
    assert [each.cost_usd for each in results if each.cost_usd] == [PRICE]
    figures = staged.cache.figures
    assert (figures.misses, figures.shared, figures.hits) == (1, 999, 0)
    assert figures.saved_usd == 999 * PRICE


async def test_what_was_shared_is_in_the_log(staging: Staging) -> None:
    model = Teller("hello")
    model.gate = anyio.Event()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        await crowd.gather(tasks, 2)
        model.gate.set()

    shared = [note.data["shared"] for run in crowd.runs.values() for note in notes(run)]
    assert shared == [True]


async def test_different_calls_at_once_do_not_wait_for_each_other(
    staging: Staging,
) -> None:
    model = Teller()
    model.gate = anyio.Event()
    async with staging(model) as staged:
        agent = staged.agent()
        async with anyio.create_task_group() as tasks:
            for whom in ("acme", "other", "third"):
                tasks.start_soon(tell, agent.bind(metadata={"tenant": whom}))
            with anyio.fail_after(10):
                while len(model.requests) < 3:
                    await checkpoint()
            assert staged.cache.figures.waiting == 0
            model.gate.set()


async def test_who_waits_for_a_call_that_fails_makes_its_own(staging: Staging) -> None:
    model = Teller(ModelError("teller", "broke off"), "hello")
    model.gate = anyio.Event()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        await crowd.gather(tasks, 10)
        model.gate.set()

    failed = [each for each in crowd.answers.values() if isinstance(each, ModelError)]
    assert len(failed) == 1
    assert list(crowd.answers.values()).count("hello") == 9
    assert len(model.requests) == 2


async def test_a_model_that_is_down_is_not_asked_by_all_in_a_row(
    staging: Staging,
) -> None:
    model = Teller(*(ModelError("teller", "is down") for _ in range(50)))
    async with staging(model) as staged:
        crowd = Crowd(staged, staged.agent(), model)
        model.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await crowd.gather(tasks, 50)
            for turn in range(3):
                await following(staged, 49 - turn)
                gate, model.gate = model.gate, anyio.Event()
                gate.set()
                with anyio.fail_after(10):
                    while len(model.requests) < turn + 2:
                        await checkpoint()
            with anyio.fail_after(10):
                while len(model.requests) < 50:
                    await checkpoint()
            waiting = staged.cache.figures.waiting
            model.gate.set()

    assert waiting == 0
    assert all(isinstance(each, ModelError) for each in crowd.answers.values())


async def test_who_waits_for_a_call_that_is_cancelled_makes_its_own(
    staging: Staging,
) -> None:
    model = Teller("never said", "hello")
    model.gate = anyio.Event()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        await crowd.gather(tasks, 10)
        crowd.scopes[0].cancel()
        with anyio.fail_after(10):
            while len(model.requests) < 2:
                await checkpoint()
        await following(staged, 8)
        model.gate.set()

    assert 0 not in crowd.answers
    assert crowd.answers == dict.fromkeys(range(1, 10), "hello")
    assert len(model.requests) == 2


async def test_who_waits_may_be_cancelled_and_nobody_else_is(staging: Staging) -> None:
    model = Teller("hello")
    model.gate = anyio.Event()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        await crowd.gather(tasks, 3)
        crowd.scopes[1].cancel()
        with anyio.fail_after(10):
            while staged.cache.figures.waiting > 1:
                await checkpoint()
        model.gate.set()

    assert crowd.answers == {0: "hello", 2: "hello"}
    assert len(model.requests) == 1


async def test_who_waits_has_no_more_time_than_its_own(staging: Staging) -> None:
    model = Teller("hello")
    model.gate = anyio.Event()
    async with staging(model) as staged:
        patient, hasty = staged.agent(), staged.agent({"timeout": 0.02})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell, patient)
            await model.asked.wait()
            with pytest.raises(AgentTimeoutError):
                await tell(hasty)
            model.gate.set()

    assert len(model.requests) == 1


async def test_the_reply_of_a_run_that_was_interrupted_is_not_shared(
    staging: Staging,
) -> None:
    model = Teller("to one who stops", "hello")
    model.gate = anyio.Event()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        await crowd.gather(tasks, 3)
        crowd.runs[0].interrupt(InterruptReason())
        model.gate.set()

    assert crowd.answers == {0: "to one who stops", 1: "hello", 2: "hello"}
    assert len(model.requests) == 2


async def test_a_reply_for_one_alone_lets_all_others_ask_at_once(
    staging: Staging,
) -> None:
    cut = ModelReply(text="half an ans", finish_reason="odd", usage=USED)
    model = Teller(cut)
    model.gate = anyio.Event()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        await crowd.gather(tasks, 5)
        gate, model.gate = model.gate, anyio.Event()
        gate.set()
        with anyio.fail_after(10):
            while len(model.requests) < 5:
                await checkpoint()
        model.gate.set()

    assert crowd.answers.pop(0) == "half an ans"
    assert set(crowd.answers.values()) == {f"answer {n}" for n in range(2, 6)}


async def test_a_cache_that_is_cleared_meanwhile_keeps_nothing_of_before(
    staging: Staging,
) -> None:
    model = Teller("before", "after")
    model.gate = anyio.Event()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        tasks.start_soon(crowd.ask, 0)
        await model.asked.wait()
        await staged.cache.clear()
        gate, model.gate = model.gate, None
        answer = (await tell(staged.agent())).answer
        gate.set()
        with anyio.fail_after(10):
            while 0 not in crowd.answers:
                await checkpoint()
        again = (await tell(staged.agent())).answer

    assert crowd.answers == {0: "before"}
    assert answer == again == "after"


async def test_a_call_that_is_made_inside_a_like_one_does_not_wait_for_it(
    staging: Staging,
) -> None:
    class Mirror(BaseProvider):
        """Asks an agent that asks it the same, once."""

        depth = 0

        async def complete(self, request: ModelRequest) -> ModelReply:
            self.depth += 1
            if self.depth > 1:
                return ModelReply(text="the bottom", usage=Usage(requests=1))
            return ModelReply(text=(await agent.run(question="?")).answer)

    plugin = ModelPlugin(Mirror(), "mirror")
    plugin.name = "mirrors"
    async with staging(Teller(), plugins=[plugin]) as staged:
        agent = staged.agent({"llm_provider": "mirror"})

        assert (await tell(agent)).answer == "the bottom"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_may_be_cancelled_at_any_moment_and_nothing_is_left(
    staging: Staging, streamed: bool
) -> None:
    class Slowly(Teller):
        async def complete(self, request: ModelRequest) -> ModelReply:
            await checkpoint()
            return await super().complete(request)

    async def first(scope: anyio.CancelScope) -> None:
        with scope:
            await agent.run(question="?")

    async def second(question: str) -> None:
        answers.append((await agent.run(question=question)).answer)

    async with staging(Slowly(), plugins=[Slow()], store_timeout_s=0.5) as staged:
        agent = staged.agent({"stream": streamed})
        for moment in range(25):
            await staged.cache.clear()
            answers: list[str] = []
            scope = anyio.CancelScope()
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(first, scope)
                    await checkpoint()
                    tasks.start_soon(second, "?")
                    tasks.start_soon(second, "?")
                    for _ in range(moment):
                        await checkpoint()
                    scope.cancel()

            assert len(set(answers)) == 1
            assert len(answers) == 2
            assert staged.cache.figures.waiting == 0
            assert not staged.cache._flights


class Slow:
    """Lets calls wait on the way to the model."""

    name = "slow"

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        for _ in range(int(current_run().id, 16) % 5):
            await checkpoint()
        return await call_next(request)


async def test_calls_that_come_and_go_at_random_all_get_an_answer(
    staging: Staging,
) -> None:
    said = [ModelError("teller", "broke off") if n % 3 == 0 else f"{n}" for n in range(99)]
    model = Teller(*said)
    async with staging(model, plugins=[Slow()]) as staged:
        agent = staged.agent({"cache_ttl": 0})
        crowd = Crowd(staged, agent, model)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(crowd.ask, number)
                    await checkpoint()
                    if number % 4 == 3:
                        crowd.scopes[number - 2].cancel()
        figures = staged.cache.figures

    answered: Mapping[int, Any] = crowd.answers
    assert len(answered) >= 45
    assert figures.waiting == 0
    assert not staged.cache._flights
