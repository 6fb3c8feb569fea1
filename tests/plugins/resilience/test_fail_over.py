"""A stream that breaks off: the reader ends up with the whole text, and nothing twice."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import anyio
import pytest
from kaizen import (
    InputField,
    ModelCall,
    OutputField,
    Priority,
    Provider,
    Registry,
    Signature,
    ToolUse,
    hookimpl,
    tool,
)
from kaizen.errors import (
    ModelAuthError,
    ModelContextError,
    ModelError,
    ModelFilterError,
    ModelOverloadedError,
    ModelQuotaError,
    ModelRequestError,
    UnknownNameError,
)
from kaizen.messages import ModelDelta, ModelReply, ModelRequest
from kaizen.run import current_run
from kaizen.runlog import (
    ModelCharged,
    ModelReplied,
    ModelSwitched,
    Subscription,
    TextDelta,
)
from kaizen_resilience import Resilience

from .conftest import PRICE, USED, Actor, Attempt, Staging, broken

pytestmark = pytest.mark.anyio

CHUNKS = [f"\n{n}: größer – 日本" if n % 7 == 3 else f" w{n}" for n in range(60)]
WHOLE = "".join(CHUNKS)


class Two(Signature):
    """Answer in two parts."""

    question: str = InputField(desc="What to answer")
    first: str = OutputField(desc="One")
    second: str = OutputField(desc="Two")


def cut_at(count: int, **actor: Any) -> Actor:
    """Break off after some chunks; asked again, say the rest or the whole."""
    rest = CHUNKS[count:] if actor.get("continues") and count else CHUNKS
    return Actor([*CHUNKS[:count], broken()], rest, **actor)


@pytest.mark.parametrize("continues", [False, True], ids=["restarts", "continues"])
async def test_a_stream_cut_at_any_chunk_is_whole_and_says_nothing_twice(
    staging: Staging, *, continues: bool
) -> None:
    whole = 0
    for count in range(61):
        actor = cut_at(count, continues=continues)
        async with staging(actor) as stage:
            reader, run = await stage.read(stage.agent())

        assert run.result is not None
        assert run.result.answer == WHOLE
        assert reader.text == WHOLE
        assert [each.restarts for each in reader.switches] == [not continues] * bool(count)
        assert run.usage == USED + USED
        assert run.cost_usd == PRICE * 2
        whole += 1
    assert whole == 61


@pytest.mark.parametrize("continues", [False, True], ids=["restarts", "continues"])
async def test_another_model_takes_a_stream_over_at_any_chunk(
    staging: Staging, *, continues: bool
) -> None:
    for count in range(61):
        first = Actor([*CHUNKS[:count], broken()])
        rest = CHUNKS[count:] if continues and count else CHUNKS
        second = Actor(rest, name="second", continues=continues)
        async with staging(first, second, retries=0, fallbacks=["second/big"]) as stage:
            reader, run = await stage.read(stage.agent({"model": "small"}))

        assert run.result is not None
        assert run.result.answer == WHOLE
        assert reader.text == WHOLE
        (switch,) = reader.switches
        assert (switch.from_provider, switch.from_model) == ("first", "small")
        assert (switch.provider, switch.model) == ("second", "big")
        assert "broke off" in switch.reason
        assert switch.restarts is bool(count and not continues)
        assert run.usage == USED + USED
        assert run.cost_usd == PRICE * 2


async def test_the_charges_of_the_attempts_stand_side_by_side_in_the_log(
    staging: Staging,
) -> None:
    actor = Actor(Attempt(["He", broken()], cost_usd=Decimal("0.002")), "Hello")

    async with staging(actor) as stage:
        _, run = await stage.read(stage.agent())

    charged = [
        (type(each), each.cost_usd)
        for each in run.log.entries
        if isinstance(each, ModelCharged | ModelReplied)
    ]
    assert charged == [(ModelCharged, Decimal("0.002")), (ModelReplied, PRICE)]


async def test_the_model_is_given_the_text_that_stands_and_goes_on_from_its_end(
    staging: Staging,
) -> None:
    actor = Actor(["Hello", " wo", broken()], ["rld", broken()], ["!"], continues=True)

    async with staging(actor) as stage:
        reader, run = await stage.read(stage.agent())

    assert [each.prefix for each in actor.requests] == ["", "Hello wo", "Hello world"]
    assert reader.text == "Hello world!"
    assert [each.kept_chars for each in reader.switches] == [8, 11]
    replied = next(each for each in run.log.entries if isinstance(each, ModelReplied))
    assert replied.message.content == "Hello world!"


async def test_the_reader_is_told_once_however_many_attempts_it_takes(
    staging: Staging,
) -> None:
    actor = Actor(["Hello", broken()], [broken()], [broken()], " world", continues=True)

    async with staging(actor, retries=3) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == reader.text == "Hello world"
    assert len(reader.switches) == 1


async def test_the_reader_is_told_of_a_restart_before_the_first_text_of_the_new_answer(
    staging: Staging,
) -> None:
    gate = anyio.Event()
    actor = Actor(["old", broken()], [gate, "new"])

    async with staging(actor) as stage, stage.agent().stream(question="?") as run:
        with anyio.fail_after(10):
            async for event in run:
                if isinstance(event, ModelSwitched):
                    told = event
                    gate.set()
            assert (await run.wait()).answer == "new"

    assert told.restarts
    assert told.kept_chars == 0


async def test_where_nothing_was_read_a_retry_is_noted_and_nobody_is_disturbed(
    staging: Staging,
) -> None:
    actor = Actor([broken(status=503)], "Hello")

    async with staging(actor) as stage:
        reader, _ = await stage.read(stage.agent())

    assert reader.switches == []
    ((kind, data),) = reader.notes
    assert kind == "retry"
    assert data["status"] == 503
    assert data["target"] == "first"


async def test_reasoning_that_was_read_is_begun_again_with_a_word_to_the_reader(
    staging: Staging,
) -> None:
    actor = Actor(
        [ModelDelta(reasoning="hmm"), broken()],
        [ModelDelta(reasoning="well"), "Hello"],
        continues=True,
    )

    async with staging(actor) as stage:
        reader, _ = await stage.read(stage.agent())

    assert [each.restarts for each in reader.switches] == [True]
    assert (reader.thoughts, reader.text) == ("well", "Hello")


async def test_reasoning_before_a_text_that_goes_on_is_kept_with_it(
    staging: Staging,
) -> None:
    actor = Actor(
        [ModelDelta(reasoning="hmm"), "Hello", broken()], " world", continues=True
    )

    async with staging(actor) as stage:
        reader, run = await stage.read(stage.agent())

    assert [each.restarts for each in reader.switches] == [False]
    replied = next(each for each in run.log.entries if isinstance(each, ModelReplied))
    assert (replied.reasoning, replied.message.content) == ("hmm", "Hello world")


async def test_structured_output_is_never_put_together_of_two_replies(
    staging: Staging,
) -> None:
    whole = '{"first": "a", "second": "b"}'
    actor = Actor([whole[:12], broken()], whole, continues=True)

    async with staging(actor) as stage:
        reader, run = await stage.read(stage.agent(signature=Two))

    assert run.result is not None
    assert (run.result.first, run.result.second) == ("a", "b")
    assert [each.restarts for each in reader.switches] == [True]
    assert [each.prefix for each in actor.requests] == ["", ""]


@pytest.mark.parametrize("space", [" ", "\n\n", "\u00a0", "\u3000"], ids=ascii)
async def test_an_answer_is_not_gone_on_with_from_white_space(
    staging: Staging, space: str
) -> None:
    actor = Actor([f"Hello{space}", broken()], f"Hello{space}world", continues=True)

    async with staging(actor) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == reader.text == f"Hello{space}world"
    assert [each.restarts for each in reader.switches] == [True]


async def test_half_written_tool_calls_begin_again(staging: Staging) -> None:
    called = []

    @tool(danger="safe")
    async def look(place: str) -> str:
        """Look."""
        called.append(place)
        return "seen"

    error = broken()
    error.partial = ModelReply(tool_uses=(ToolUse(id="1", name="look", arguments='{"pl'),))
    uses = (ToolUse(id="2", name="look", arguments={"place": "here"}),)
    actor = Actor(
        ["I will look.", error],
        Attempt(["I will look."], reply=ModelReply(tool_uses=uses)),
        "Seen.",
        continues=True,
    )

    async with staging(actor) as stage:
        reader, run = await stage.read(stage.agent(tools=[look]))

    assert called == ["here"]
    assert [each.restarts for each in reader.switches] == [True]
    assert run.result is not None
    assert run.result.answer == "Seen."


async def test_a_model_that_says_its_prefix_again_is_not_heard_twice(
    staging: Staging,
) -> None:
    actor = Actor(
        ["Once upon a time there", broken()],
        Attempt([" was a king."], repeats=True),
        continues=True,
    )

    async with staging(actor) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == "Once upon a time there was a king."
    assert reader.text == "Once upon a time there was a king."
    assert len(actor.requests) == 2


async def test_where_a_repeated_beginning_may_be_meant_the_model_is_asked_afresh(
    staging: Staging,
) -> None:
    actor = Actor(["ha", broken()], ["ha-ha!"], ["haha-ha!"], continues=True)

    async with staging(actor) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == "haha-ha!"
    assert reader.text == "haha-ha!"
    assert actor.requests[2].prefix == ""
    assert run.cost_usd == PRICE * 3


async def test_a_model_that_refuses_a_prefix_is_asked_without_it(
    staging: Staging,
) -> None:
    refusal = ModelRequestError("first", "takes no last message of an assistant")
    actor = Actor(["Hello", broken()], [refusal], "Hello world", continues=True)

    async with staging(actor, retries=1) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == reader.text == "Hello world"
    assert [each.restarts for each in reader.switches] == [False, True]
    assert reader.kinds() == ["retry", "prefix_refused"]


async def test_an_answer_that_nobody_reads_begins_again_in_silence(
    staging: Staging,
) -> None:
    actor = Actor(["Hello ", broken()], "Hello world", continues=True)

    async with staging(actor) as stage:
        agent = stage.agent()
        result = await agent.run(question="?")

    assert result.answer == "Hello world"
    assert actor.requests[1].prefix == ""
    assert result.usage == USED + USED


@pytest.mark.parametrize(
    "error",
    [
        ModelAuthError("first", "does not know the key"),
        ModelQuotaError("first", "is not paid"),
        ModelContextError("first", "reads less"),
        ModelRequestError("first", "does not understand"),
        ModelError("first", "is odd"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_a_retry_cannot_help_goes_to_the_next_model_at_once(
    staging: Staging, error: ModelError
) -> None:
    first, second = Actor([error]), Actor("Hello", name="second")

    async with staging(first, second, fallbacks=["second"]) as stage:
        result = await stage.agent().run(question="?")

    assert result.answer == "Hello"
    assert len(first.requests) == 1


async def test_a_content_filter_is_not_evaded(staging: Staging) -> None:
    refusal = ModelFilterError("first", "will not answer this")
    first, second = Actor([refusal]), Actor("Hello", name="second")

    async with staging(first, second, fallbacks=["second"]) as stage:
        with pytest.raises(ModelFilterError):
            await stage.agent().run(question="?")

    assert second.requests == []


async def test_models_are_asked_in_the_order_of_the_chain_and_each_as_often_as_set(
    staging: Staging,
) -> None:
    first, second = Actor([broken()]), Actor([broken()], name="second")
    third = Actor("Hello", name="third")
    chain = ["other", "second/x", "third"]

    async with staging(first, second, third, retries=1, fallbacks=chain) as stage:
        result = await stage.agent({"model": "main"}).run(question="?")

    assert result.answer == "Hello"
    assert [each.model for each in first.requests] == ["main", "main", "other", "other"]
    assert [each.model for each in second.requests] == ["x", "x"]


async def test_if_all_fail_the_first_ones_error_is_raised_and_tells_of_the_others(
    staging: Staging,
) -> None:
    first = Actor([ModelOverloadedError("first", "is busy")])
    second = Actor([ModelAuthError("second", "has no key")], name="second")

    async with staging(first, second, fallbacks=["second/x"]) as stage:
        with pytest.raises(ModelOverloadedError) as raised:
            await stage.agent().run(question="?")

    notes = "\n".join(raised.value.__notes__)
    assert "'second/x'" in notes
    assert "has no key" in notes


async def test_a_fallback_that_cannot_do_what_is_asked_is_left_out(
    staging: Staging,
) -> None:
    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        return "seen"

    first = Actor([broken()])
    second = Actor("never", name="second", tools=False)
    third = Actor("Hello", name="third")

    async with staging(
        first, second, third, retries=0, fallbacks=["second", "third"]
    ) as stage:
        reader, run = await stage.read(stage.agent(tools=[look]))

    assert run.result is not None
    assert run.result.answer == "Hello"
    assert second.requests == []
    assert reader.kinds() == ["skipped"]


async def test_a_fallback_without_schemas_is_told_the_schema_in_its_prompt(
    staging: Staging,
) -> None:
    first = Actor([broken()])
    second = Actor('{"first": "a", "second": "b"}', name="second", structured_output=False)

    async with staging(first, second, retries=0, fallbacks=["second"]) as stage:
        result = await stage.agent(signature=Two).run(question="?")

    assert result.second == "b"
    (asked,) = second.requests
    assert asked.output is not None
    assert not asked.output.strict
    assert '"properties"' in asked.messages[0].text
    assert '"properties"' not in first.requests[0].messages[0].text


async def test_fields_for_one_provider_do_not_go_to_another(staging: Staging) -> None:
    first, second = Actor([broken()]), Actor("Hello", name="second")
    config = {"provider_config": {"seed": 1}, "temperature": 0.5}

    async with staging(first, second, retries=0, fallbacks=["small", "second"]) as stage:
        await stage.agent(config).run(question="?")

    assert [dict(each.settings.extra) for each in first.requests] == [{"seed": 1}] * 2
    assert dict(second.requests[0].settings.extra) == {}
    assert second.requests[0].settings.temperature == 0.5


async def test_a_fallback_that_nobody_offers_is_an_error_at_the_first_call(
    staging: Staging,
) -> None:
    async with staging(Actor("Hello"), fallbacks=["nosuch/model"]) as stage:
        with pytest.raises(Exception, match=r"'nosuch' is unknown.*fallback"):
            await stage.agent().run(question="?")


class RoutesPlugin:
    """Takes names that nobody offers."""

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "router", Actor(name="router"), routes=["groq"])


async def test_a_typo_in_a_fallback_is_no_route(staging: Staging) -> None:
    routes = RoutesPlugin()

    for fallback, meant in (("first2/m", "first"), ("gorq/m", "groq")):
        async with staging(
            Actor("Hello", name="first"), plugins=[routes], fallbacks=[fallback]
        ) as stage:
            agent = stage.agent({"llm_provider": "first"})
            with pytest.raises(UnknownNameError, match=f"mean '{meant}'.*fallback"):
                await agent.run(question="?")


async def test_an_agent_has_a_chain_of_its_own_and_no_attempt_is_made_twice_over(
    staging: Staging,
) -> None:
    first, second = Actor([broken()]), Actor("Hello", name="second")
    own = Resilience(retries=1, backoff_s=0, fallbacks=["second"])

    async with staging(first, second, retries=5) as stage:
        result = await stage.agent(hooks=[own]).run(question="?")

    assert result.answer == "Hello"
    assert len(first.requests) == 2


async def test_each_turn_begins_with_the_agents_own_model(staging: Staging) -> None:
    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        return "seen"

    uses = (ToolUse(id="1", name="look", arguments={}),)
    first = Actor([broken()], "Hello")
    second = Actor(Attempt([], reply=ModelReply(tool_uses=uses)), name="second")

    async with staging(first, second, retries=0, fallbacks=["second"]) as stage:
        result = await stage.agent(tools=[look]).run(question="?")

    assert result.answer == "Hello"
    assert (len(first.requests), len(second.requests)) == (2, 1)


LIMITED = [{}, {"timeout_s": 0, "first_token_s": 0, "between_tokens_s": 0}]


class Guard:
    """Refuses the first reply when it has been read already, and knows nothing of that.

    Attributes:
        listens: Whether it begins to read the stream itself, so late that it is not yet
            known whether anybody does.
    """

    name = "guard"

    def __init__(self, *, listens: bool = False) -> None:
        self.listens = listens
        self.refused = False
        self.reader: Subscription | None = None

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        if self.listens and self.reader is None:
            self.reader = current_run().log.subscribe()
        reply = await call_next(request)
        if not self.refused and not self.listens:
            self.refused = True
            raise broken("was refused")
        return reply


@pytest.mark.parametrize("limits", LIMITED, ids=["limited", "unlimited"])
async def test_text_is_begun_again_with_a_word_also_if_the_error_does_not_tell_of_it(
    staging: Staging, limits: dict[str, Any]
) -> None:
    actor = Actor("One.", "Two.")

    async with staging(actor, plugins=[Guard()], **limits) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == reader.text == "Two."
    assert [each.restarts for each in reader.switches] == [True]


async def test_who_begins_to_read_after_an_attempt_began_is_told_of_a_restart_too(
    staging: Staging,
) -> None:
    guard = Guard(listens=True)
    actor = Actor(["Hello wor", broken()], "Hello world")

    async with staging(actor, plugins=[guard]) as stage:
        result = await stage.agent().run(question="?")

    assert guard.reader is not None
    text = ""
    async for event in guard.reader:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, ModelSwitched) and event.restarts:
            text = ""
    assert result.answer == text == "Hello world"
