"""Identical calls at the same time: made once, and nobody is hurt by what befalls one."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, cast

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from kaizen import BaseAgent, BaseProvider, InterruptReason, Run, current_run, hookimpl
from kaizen.errors import AgentTimeoutError, ModelError
from kaizen.hookspecs import ModelCall
from kaizen.messages import ModelDelta, ModelReply, ModelRequest, Usage
from kaizen.testing import ModelPlugin
from kaizen_cache import MemoryCacheStore

from .conftest import (
    PRICE,
    USED,
    Clock,
    Offering,
    Staged,
    Staging,
    Teller,
    following,
    notes,
    tell,
)
from .test_hits import Around

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


class Gated(MemoryCacheStore):
    """Lets a test stop it in the middle of what it does.

    Attributes:
        gates: What it waits for after reading, and before writing.
        reached: Are set when it gets there.
    """

    def __init__(self, *stopped: str) -> None:
        super().__init__()
        self.gates = {each: anyio.Event() for each in stopped}
        self.reached = {each: anyio.Event() for each in stopped}

    async def get(self, key: str) -> bytes | None:
        value = await super().get(key)
        await self._pass("get")
        return value

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        await self._pass("put")
        await super().put(key, value, ttl_s=ttl_s)

    async def _pass(self, name: str) -> None:
        if name in self.gates:
            self.reached[name].set()
            await self.gates[name].wait()


@pytest.mark.parametrize("ttl", [10, 0])
async def test_who_waits_gets_nothing_from_a_store_that_is_older_than_it_wants(
    staging: Staging, clock: Clock, ttl: int
) -> None:
    store, model = Gated(), Teller("old", "new")
    answers: list[str] = []

    async def ask(agent: BaseAgent) -> None:
        answers.append((await tell(agent)).answer)

    async with staging(
        model, plugins=[Offering(store)], store="mine", store_timeout_s=10
    ) as staged:
        patient, eager = staged.agent(), staged.agent({"cache_ttl": ttl})
        await tell(patient)
        await clock.let_pass(1_000)
        store.gates["get"], store.reached["get"] = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, patient)
            await store.reached["get"].wait()
            tasks.start_soon(ask, eager)
            await following(staged, 1)
            store.gates.pop("get").set()

    assert sorted(answers) == ["new", "old"]


class Spoiler:
    """Empties what the one who made the call gets of its provider's data.

    Attributes:
        seen: What it was of each reply.
    """

    name = "spoiler"

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        reply = await call_next(request)
        data = cast(dict[str, Any], reply.provider_data)
        self.seen.append(json.dumps(dict(data)))
        if not reply.cached:
            data.clear()
        return reply


async def test_the_one_who_made_a_call_cannot_change_what_others_get(
    staging: Staging,
) -> None:
    data = {"teller": {"signature": "a"}}
    model = Teller(ModelReply(text="hello", provider_data=data, usage=USED))
    model.gate = anyio.Event()
    spoiler = Spoiler()
    async with staging(model, plugins=[spoiler]) as staged:
        agent = staged.agent()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(tell, agent)
            await following(staged, 2)
            model.gate.set()
        await tell(agent)

    assert spoiler.seen == ['{"teller": {"signature": "a"}}'] * 4
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("data", "calls"), [(MappingProxyType({"teller": 1}), 1), ({"teller": object()}, 3)]
)
async def test_what_json_cannot_hold_fails_nobody_who_waits(
    staging: Staging, data: Mapping[str, Any], calls: int
) -> None:
    # What it can hold is shared, whatever it is; the rest is for the one who made it.
    async def strip(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        reply = await call_next(request)
        return replace(reply, provider_data=None)

    model = Teller(ModelReply(text="hello", provider_data=data, usage=USED), *["hello"] * 2)
    model.gate = anyio.Event()
    async with staging(model, plugins=[Around(strip)]) as staged:
        crowd = Crowd(staged, staged.agent(), model)
        async with anyio.create_task_group() as tasks:
            await crowd.gather(tasks, 3)
            model.gate.set()

    assert crowd.answers == dict.fromkeys(range(3), "hello")
    assert len(model.requests) == calls


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_cache_that_is_cleared_while_a_reply_is_put_keeps_nothing_of_before(
    staging: Staging, cancelled: bool
) -> None:
    class Late(Gated):
        async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
            with anyio.CancelScope(shield=cancelled):
                await super().put(key, value, ttl_s=ttl_s)

    store, model = Late("put"), Teller("before", "after")
    async with staging(
        model, plugins=[Offering(store)], store="mine", store_timeout_s=10
    ) as staged:
        agent = staged.agent()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell, agent)
            await store.reached["put"].wait()
            await staged.cache.clear()
            if cancelled:
                tasks.cancel_scope.cancel()
            store.gates.pop("put").set()
        answer = (await tell(agent)).answer

    assert answer == "after"


async def test_what_was_read_before_the_cache_was_cleared_is_not_given_after_it(
    staging: Staging,
) -> None:
    store, model = Gated(), Teller("before", "after")
    async with staging(
        model, plugins=[Offering(store)], store="mine", store_timeout_s=10
    ) as staged:
        agent = staged.agent()
        crowd = Crowd(staged, agent, model)
        await tell(agent)
        store.gates["get"], store.reached["get"] = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(crowd.ask, 0)
            await store.reached["get"].wait()
            await staged.cache.clear()
            store.gates.pop("get").set()

    assert crowd.answers == {0: "after"}


async def test_who_waits_does_so_no_longer_than_its_request_may_take(
    staging: Staging,
) -> None:
    async def hasten(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        if current_run().metadata.get("hasty"):
            settings = replace(request.settings, timeout_s=0.02)
            request = replace(request, settings=settings)
        return await call_next(request)

    model = Teller("to the patient", "to the hasty")
    model.gate = anyio.Event()
    async with staging(model, plugins=[Around(hasten)]) as staged:
        agent = staged.agent()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell, agent)
            await model.asked.wait()
            gate, model.gate = model.gate, None
            hasty = await tell(agent, hasty=True)
            gate.set()

    assert hasty.answer == "to the hasty"
    assert staged.cache.figures.waiting == 0


async def test_what_stops_a_program_passes_as_it_is(staging: Staging) -> None:
    class Stopped(Teller):
        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            raise KeyboardInterrupt
            yield

    async with staging(Stopped()) as staged:
        agent = staged.agent({"stream": True})
        with pytest.raises(KeyboardInterrupt):
            await agent.run(question="?")
        flights = dict(staged.cache._flights)

    assert not flights


class Suspending(MemoryCacheStore):
    """Waits before and after each thing that it does."""

    async def get(self, key: str) -> bytes | None:
        await checkpoint()
        value = await super().get(key)
        await checkpoint()
        return value

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        await checkpoint()
        await super().put(key, value, ttl_s=ttl_s)
        await checkpoint()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_may_be_cancelled_while_a_store_is_asked(
    staging: Staging, streamed: bool
) -> None:
    async def first(scope: anyio.CancelScope) -> None:
        with scope:
            await agent.run(question="?")

    async def second() -> None:
        reading, run = await staged.stream(agent)
        assert run.result is not None
        assert reading.text == run.result.answer
        answers.append(reading.text)

    plugins = [Slow(), Offering(Suspending())]
    async with staging(
        Teller(), plugins=plugins, store="mine", store_timeout_s=10
    ) as staged:
        agent = staged.agent({"stream": streamed})
        for moment in range(25):
            await staged.cache.clear()
            answers: list[str] = []
            scope = anyio.CancelScope()
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(first, scope)
                    await checkpoint()
                    tasks.start_soon(second)
                    tasks.start_soon(second)
                    for _ in range(moment):
                        await checkpoint()
                    scope.cancel()

            assert len(answers) == 2
            assert staged.cache.figures.waiting == 0
            assert not staged.cache._flights


@pytest.mark.parametrize("followed", [False, True])
async def test_of_those_who_cannot_use_what_was_kept_one_asks_for_all(
    staging: Staging, clock: Clock, followed: bool
) -> None:
    store, model = Gated(), Teller("old", "new")
    answers: list[str] = []

    async def ask(agent: BaseAgent) -> None:
        if followed and agent is patient:
            _, run = await staged.stream(agent)
            assert run.result is not None
            answers.append(run.result.answer)
        else:
            answers.append((await tell(agent)).answer)

    async with staging(
        model, plugins=[Offering(store)], store="mine", store_timeout_s=10
    ) as staged:
        patient = staged.agent()
        eager = patient.bind(cache_ttl=10)
        await tell(patient)
        await clock.let_pass(100)
        store.gates["get"], store.reached["get"] = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, patient)
            await store.reached["get"].wait()
            for _ in range(6):
                tasks.start_soon(ask, eager)
            await following(staged, 6)
            store.gates.pop("get").set()

    assert answers.count("old") == 1
    assert answers.count("new") == 6
    assert len(model.requests) == 2


async def test_replies_that_are_kept_at_the_same_time_are_all_counted(
    staging: Staging,
) -> None:
    store = Gated("put")
    async with staging(
        Teller(), plugins=[Offering(store)], store="mine", store_timeout_s=10
    ) as staged:
        agent = staged.agent()
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(tell, agent, f"{number}")
            await store.reached["put"].wait()
            with anyio.fail_after(10):
                while staged.cache.figures.misses < 5:
                    await checkpoint()
            store.gates["put"].set()

    assert staged.cache.figures.kept == 5


@pytest.mark.parametrize(
    "odd", [{"cost_usd": Decimal("NaN")}, {"usage": Usage(input_tokens=-1)}]
)
async def test_a_reply_with_numbers_that_cannot_be_is_not_shared(
    staging: Staging, odd: Mapping[str, Any]
) -> None:
    model = Teller(ModelReply(text="odd", **odd), "plain", "plain")
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        crowd = Crowd(staged, staged.agent(), model)
        model.gate = anyio.Event()
        await crowd.gather(tasks, 3)
        model.gate.set()

    assert crowd.answers == {0: "odd", 1: "plain", 2: "plain"}
    assert staged.cache.figures.saved_usd.is_finite()
    assert len(notes(crowd.runs[0], "not_kept")) == 1
