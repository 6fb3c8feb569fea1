"""Hits: when the model is not asked, what the run has of it, and for how long."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from kaizen import InterruptReason, Priority, current_run, hookimpl
from kaizen.errors import ModelError, OutputError
from kaizen.hookspecs import Cycle, ModelCall
from kaizen.messages import ModelReply, ModelRequest, Usage
from kaizen.operations import CycleRequest, CycleResult
from kaizen.runlog import ModelReplied, ModelRequested, ModelSwitched, decode
from kaizen.testing import MemoryCheckpointStore
from kaizen_cache import ModelCache

from .conftest import PRICE, USED, Clock, Staging, Teller, notes, tell

pytestmark = pytest.mark.anyio


class Around:
    """Middleware of a test's choice."""

    name = "around"

    def __init__(self, act: Any) -> None:
        self._act = act

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        reply: ModelReply = await self._act(request, call_next)
        return reply


class Inside(Around):
    """The same, where limiters and budgets stand."""

    name = "inside"

    @hookimpl(priority=Priority.LOW)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        reply: ModelReply = await self._act(request, call_next)
        return reply


async def test_what_was_asked_before_is_not_asked_again(staging: Staging) -> None:
    model = Teller("hello")
    async with staging(model) as staged:
        agent = staged.agent()

        first, second = await tell(agent), await tell(agent)

    assert first.answer == second.answer == "hello"
    assert len(model.requests) == 1


async def test_without_cache_enabled_each_call_is_made(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent({"cache_enabled": False})

        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 1", "answer 2"]


async def test_the_switch_of_the_kernel_is_that_of_its_agents(staging: Staging) -> None:
    model = Teller()
    async with staging(model, config={"cache_enabled": True, "cache_ttl": 60}) as staged:
        config = {"llm_provider": "teller"}
        agent = staged.kernel.agent("asker", config, signature="question -> answer")

        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 1", "answer 1"]


async def test_a_hit_is_marked_and_costs_nothing(staging: Staging) -> None:
    replies: list[ModelReply] = []

    async def see(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        replies.append(await call_next(request))
        return replies[-1]

    async with staging(Teller("hello"), plugins=[Around(see)]) as staged:
        agent = staged.agent()
        first, second = await tell(agent), await tell(agent)

    assert (first.usage, first.cost_usd) == (USED, PRICE)
    assert (second.usage, second.cost_usd) == (Usage(), Decimal(0))
    assert [each.cached for each in replies] == [False, True]
    assert (replies[1].usage, replies[1].cost_usd) == (Usage(), Decimal(0))
    assert (replies[1].text, replies[1].model) == ("hello", "teller-1")


async def test_what_a_hit_saved_is_in_the_log_and_in_the_figures(
    staging: Staging, clock: Clock
) -> None:
    async with staging(Teller("hello")) as staged:
        agent = staged.agent()
        await tell(agent)
        await clock.let_pass(7.5)
        async with agent.stream(question="?") as run:
            await run.wait()
        figures = staged.cache.figures

    (note,) = notes(run)
    assert note.data["age_s"] == 7.5
    assert (note.data["saved_input_tokens"], note.data["saved_output_tokens"]) == (10, 5)
    assert note.data["saved_usd"] == "0.01"
    assert not note.data["shared"]
    replied = next(each for each in run.log.entries if isinstance(each, ModelReplied))
    assert replied.cached
    assert not [each for each in run.log.entries if isinstance(each, ModelRequested)]
    assert (figures.hits, figures.misses, figures.kept) == (1, 1, 1)
    assert (figures.saved_tokens, figures.saved_usd) == (15, PRICE)


async def test_the_figures_are_to_be_had_from_the_kernel(staging: Staging) -> None:
    async with staging(Teller()) as staged:
        assert await staged.kernel.get(ModelCache, "default") is staged.cache


async def test_a_hit_asks_no_limiter_and_no_budget(staging: Staging) -> None:
    passed: list[ModelRequest] = []

    async def count(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        passed.append(request)
        return await call_next(request)

    # Whichever is named first: the cache stands outside.
    async with staging(Teller("hello"), plugins=[Inside(count)]) as staged:
        agent = staged.agent()
        await tell(agent)
        await tell(agent)

    assert len(passed) == 1


@pytest.mark.parametrize("kind", [Around, Inside])
async def test_a_hit_asks_no_hook_of_the_agent(
    staging: Staging, kind: type[Around]
) -> None:
    passed: list[ModelRequest] = []

    async def count(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        passed.append(request)
        return await call_next(request)

    async with staging(Teller("hello")) as staged:
        agent = staged.agent(hooks=[kind(count)])
        await tell(agent)
        await tell(agent)

    assert len(passed) == 1


async def test_a_gate_is_asked_before_a_hit(staging: Staging) -> None:
    closed: list[bool] = []

    async def refuse(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        if closed:
            raise PermissionError("closed")
        return await call_next(request)

    async with staging(Teller("hello"), plugins=[Around(refuse)]) as staged:
        agent = staged.agent()
        await tell(agent)
        closed.append(True)

        with pytest.raises(PermissionError):
            await tell(agent)


async def test_what_other_plugins_add_to_a_request_makes_it_another(
    staging: Staging,
) -> None:
    remembered = ["", "My name is Zoë.", ""]

    async def recall(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        return await call_next(request.with_context(remembered.pop(0)))

    model = Teller()
    async with staging(model, plugins=[Around(recall)]) as staged:
        agent = staged.agent()
        answers = [(await tell(agent)).answer for _ in range(3)]

    assert answers == ["answer 1", "answer 2", "answer 1"]


async def test_what_an_agents_own_hooks_change_is_not_kept(staging: Staging) -> None:
    async def add(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        return await call_next(request.with_context(f"It is {len(model.requests)}."))

    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent(hooks=[Around(add)])
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 1", "answer 2"]


async def test_what_an_agents_own_hooks_answer_is_not_kept(staging: Staging) -> None:
    said = iter(["one", "two"])

    async def answer(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        return ModelReply(text=next(said))

    async with staging(Teller()) as staged:
        agent = staged.agent(hooks=[Around(answer)])
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["one", "two"]


async def test_a_reply_of_another_model_than_was_asked_is_not_kept(
    staging: Staging,
) -> None:
    async def fail_over(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        current_run().add(
            ModelSwitched,
            cycle=request.cycle,
            from_provider="teller",
            from_model="",
            provider="teller",
            model="smaller",
        )
        return await call_next(request)

    model = Teller()
    async with staging(model, plugins=[Inside(fail_over)]) as staged:
        agent = staged.agent()
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 1", "answer 2"]


async def test_a_reply_is_good_as_long_as_cache_ttl_says(
    staging: Staging, clock: Clock
) -> None:
    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent({"cache_ttl": 60})
        answers = [(await tell(agent)).answer]
        for seconds in (59.9, 0.2, 59.7):
            await clock.let_pass(seconds)
            answers.append((await tell(agent)).answer)

    assert answers == ["answer 1", "answer 1", "answer 2", "answer 2"]


async def test_a_reply_is_no_older_than_the_one_who_asks_wants(
    staging: Staging, clock: Clock
) -> None:
    model = Teller()
    async with staging(model) as staged:
        patient = staged.agent({"cache_ttl": 3_600})
        eager = staged.agent({"cache_ttl": 60})
        await tell(patient)
        await clock.let_pass(61)

        assert (await tell(eager)).answer == "answer 2"
        assert (await tell(patient)).answer == "answer 2"


async def test_a_clock_that_was_set_back_makes_nothing_younger(
    staging: Staging, clock: Clock
) -> None:
    model = Teller()
    async with staging(model) as staged:
        patient, eager = staged.agent(), staged.agent({"cache_ttl": 60})
        await tell(patient)
        clock.now -= 0.5  # as clocks of two machines differ
        near = (await tell(eager)).answer
        clock.now -= 500

        assert near == "answer 1"
        assert (await tell(eager)).answer == "answer 2"


async def test_with_a_ttl_of_0_nothing_is_kept(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        lasting, agent = staged.agent(), staged.agent({"cache_ttl": 0})
        await tell(lasting)
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 2", "answer 3"]


async def test_a_cleared_cache_is_empty(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent()
        await tell(agent)
        await staged.cache.clear()

        assert (await tell(agent)).answer == "answer 2"


async def test_two_kernels_share_nothing(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as one, staging(model) as other:
        answers = [(await tell(each.agent())).answer for each in (one, other)]

    assert answers == ["answer 1", "answer 2"]


@pytest.mark.parametrize(
    "cut",
    [
        ModelReply(text="half an ans", finish_reason="length"),
        ModelReply(text="I may not", finish_reason="content_filter"),
        ModelReply(text="half an ans", finish_reason="odd"),
        ModelReply(text=""),
    ],
    ids=["length", "content_filter", "odd", "empty"],
)
async def test_a_reply_that_is_not_whole_is_not_kept(
    staging: Staging, cut: ModelReply
) -> None:
    model = Teller(cut, "whole")
    async with staging(model) as staged:
        agent = staged.agent({"max_output_retries": 0})
        with suppress(OutputError):
            await tell(agent)

        assert (await tell(agent)).answer == "whole"


async def test_a_reply_that_does_not_fit_is_not_kept(staging: Staging) -> None:
    model = Teller('{"count": "many"}', '{"count": 3}')
    async with staging(model) as staged:
        options = {"signature": "question -> count: int"}
        agent = staged.agent({"max_output_retries": 0}, **options)
        with pytest.raises(OutputError):
            await tell(agent)

        results = [await tell(agent) for _ in range(2)]

    assert [each["count"] for each in results] == [3, 3]
    assert len(model.requests) == 2


async def test_an_error_is_not_kept(staging: Staging) -> None:
    broken = ModelError("teller", "broke off")
    broken.partial = ModelReply(text="half an ans", usage=USED, cost_usd=PRICE)
    model = Teller(broken, "whole")
    async with staging(model) as staged:
        agent = staged.agent()
        with pytest.raises(ModelError, match="broke off"):
            await tell(agent)

        assert (await tell(agent)).answer == "whole"


async def test_a_reply_to_a_run_that_was_interrupted_is_not_kept(
    staging: Staging,
) -> None:
    async def stop(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        if not model.requests:
            current_run().interrupt(InterruptReason())
        return await call_next(request)

    model = Teller()
    async with staging(model, plugins=[Inside(stop)]) as staged:
        agent = staged.agent()
        answers = [(await tell(agent)).answer for _ in range(3)]

    assert answers == ["answer 1", "answer 2", "answer 2"]


async def test_chance_that_was_asked_for_is_not_taken_away_by_the_kernels_switch(
    staging: Staging,
) -> None:
    model = Teller()
    async with staging(model, config={"cache_enabled": True}) as staged:
        kept = []
        configs: list[dict[str, Any]] = [
            {"temperature": 0.7},
            {"provider_config": {"temperature": 0.7}},
            {"temperature": 0},
            {},
        ]
        for number, config in enumerate(configs):
            agent = staged.kernel.agent(
                f"asker {number}",
                {"llm_provider": "teller", **config},
                signature="question -> answer",
            )
            kept.append((await tell(agent)).answer == (await tell(agent)).answer)

    assert kept == [False, False, True, True]


async def test_an_agent_that_wants_chance_and_a_cache_has_both(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent({"temperature": 0.7})
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 1", "answer 1"]


class FailsAfterATurn:
    """Lets a run fail after a turn of it, when a test wants it to."""

    name = "fails"

    def __init__(self) -> None:
        self.armed = False

    @hookimpl
    async def wrap_cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
        result = await call_next(request)
        if self.armed:
            raise RuntimeError("after the turn")
        return result


async def test_a_resumed_run_has_its_cached_reply_from_its_log(staging: Staging) -> None:
    store, model, failing = MemoryCheckpointStore(), Teller(), FailsAfterATurn()
    async with staging(model, plugins=[failing]) as staged:
        agent = staged.agent(store=store)
        await tell(agent)
        failing.armed = True
        with pytest.raises(RuntimeError):
            await tell(agent)
        run_id = (await store.runs())[0].run_id
        failing.armed = False
        await staged.cache.clear()
        result = await agent.resume(run_id)

    entries = [decode(each) for each in await store.read(run_id)]
    replied = [each for each in entries if isinstance(each, ModelReplied)]
    assert result.answer == "answer 1"
    assert [each.cached for each in replied] == [True]
    assert len(model.requests) == 1
