"""The mock model says what a script says, in its order, and counts what it says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import anyio
import pytest
from kaizen import (
    Message,
    ModelDelta,
    ModelError,
    ModelReply,
    ModelRequest,
    ModelSettings,
    OutputSpec,
    Provider,
    ToolUse,
    Usage,
)
from kaizen_offline import MockProvider, Scripted

pytestmark = pytest.mark.asyncio


def request(text: str = "Hello", **fields: Any) -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", content=text),), **fields)


def wanting(schema: dict[str, Any]) -> ModelRequest:
    return request(output=OutputSpec(name="Answer", schema=schema))


async def test_replies_come_in_the_order_of_the_script() -> None:
    provider = MockProvider(["one", "two"])

    said = [(await provider.complete(request())).text for _ in range(2)]

    assert said == ["one", "two"]


async def test_it_is_a_provider() -> None:
    assert isinstance(MockProvider(), Provider)


async def test_a_mapping_is_said_as_json() -> None:
    provider = MockProvider([{"answer": "Straße", "sure": True}])

    reply = await provider.complete(request())

    assert json.loads(reply.text) == {"answer": "Straße", "sure": True}


async def test_tool_calls_are_proposed_alone_or_several_at_once() -> None:
    first = ToolUse(id="1", name="add", arguments={"a": 1})
    second = ToolUse(id="2", name="add", arguments={"a": 2})
    provider = MockProvider([first, [first, second]])

    one = await provider.complete(request())
    two = await provider.complete(request())

    assert one.tool_uses == (first,)
    assert two.tool_uses == (first, second)
    assert {one.finish_reason, two.finish_reason} == {"tool_calls"}


async def test_a_whole_reply_keeps_what_it_states_and_gains_what_it_leaves_open() -> None:
    stated = ModelReply(text="Hi", model="gpt", usage=Usage(requests=1, input_tokens=7))
    provider = MockProvider([stated, ModelReply(text="Hi there")])

    one = await provider.complete(request())
    two = await provider.complete(request("four"))

    assert (one.model, one.usage.input_tokens) == ("gpt", 7)
    assert (two.model, two.usage.input_tokens, two.usage.output_tokens) == ("mock", 1, 2)


async def test_an_exception_is_raised_with_its_type() -> None:
    provider = MockProvider([ModelError("mock", "is down", retryable=True), "up again"])

    with pytest.raises(ModelError, match="is down"):
        await provider.complete(request())

    assert (await provider.complete(request())).text == "up again"


async def test_functions_see_the_request_and_may_be_async() -> None:
    async def later(asked: ModelRequest) -> str:
        await anyio.lowlevel.checkpoint()
        return asked.messages[0].text.upper()

    provider = MockProvider([lambda asked: asked.messages[0].text, later])

    said = [(await provider.complete(request("echo"))).text for _ in range(2)]

    assert said == ["echo", "ECHO"]


async def test_a_function_that_always_returns_itself_is_an_error() -> None:
    def forever(_: ModelRequest) -> Any:
        return forever

    with pytest.raises(ModelError, match="without an end"):
        await MockProvider([forever]).complete(request())


async def test_what_cannot_be_said_is_named() -> None:
    replies: Any = [object(), 5]
    with pytest.raises(ModelError, match="cannot reply with object"):
        await MockProvider(replies).complete(request())


@pytest.mark.parametrize(
    ("on_exhausted", "said"), [("default", "This is a mock reply."), ("repeat", "one")]
)
async def test_after_the_script_comes_what_was_chosen(on_exhausted: Any, said: str) -> None:
    provider = MockProvider(["one"], on_exhausted=on_exhausted)
    await provider.complete(request())

    assert (await provider.complete(request())).text == said


async def test_the_end_of_the_script_can_be_an_error() -> None:
    provider = MockProvider(["one"], on_exhausted="error")
    await provider.complete(request())

    with pytest.raises(ModelError, match="its script has 1"):
        await provider.complete(request())


async def test_a_wrong_script_is_refused_where_it_is_made() -> None:
    wrong: Any = "never"
    with pytest.raises(TypeError, match="list of replies"):
        MockProvider("one")
    with pytest.raises(ValueError, match="on_exhausted"):
        MockProvider(on_exhausted=wrong)


async def test_usage_is_a_quarter_of_the_characters_and_costs_nothing() -> None:
    reply = await MockProvider(["12345"]).complete(request("123456789"))

    assert reply.usage == Usage(requests=1, input_tokens=3, output_tokens=2)
    assert reply.cost_usd == Decimal(0)


async def test_tool_calls_of_the_conversation_count_as_input() -> None:
    use = ToolUse(id="1", name="add", arguments={"a": 1})
    asked = request("Hello").with_messages(
        Message(role="assistant", content="", tool_uses=(use,))
    )

    plain = await MockProvider(["x"]).complete(request("Hello"))
    longer = await MockProvider(["x"]).complete(asked)

    assert longer.usage.input_tokens > plain.usage.input_tokens


async def test_requests_are_kept_up_to_a_bound() -> None:
    provider = MockProvider(max_requests=2)
    for text in ("a", "b", "c"):
        await provider.complete(request(text))

    assert [each.messages[0].text for each in provider.requests] == ["b", "c"]


async def test_a_stream_gives_words_and_then_the_whole_reply() -> None:
    parts = [part async for part in MockProvider(["Two words"]).stream(request())]

    assert parts[:-1] == [ModelDelta(text="Two "), ModelDelta(text="words")]
    assert isinstance(parts[-1], ModelReply)
    assert parts[-1].text == "Two words"


@pytest.mark.parametrize(
    ("chunks", "pieces"), [(2, ["abc", "de"]), (["a", "bcde"], ["a", "bcde"])]
)
async def test_a_script_says_how_a_stream_is_cut(chunks: Any, pieces: list[str]) -> None:
    provider = MockProvider([Scripted(reply="abcde", chunks=chunks)])

    parts = [part async for part in provider.stream(request())]

    assert [part.text for part in parts[:-1]] == pieces
    assert isinstance(parts[-1], ModelReply)


async def test_a_stream_can_break_after_some_pieces() -> None:
    broken = Scripted(reply=ModelError("mock", "hung up"), chunks=["a", "b"])
    stream = MockProvider([broken]).stream(request())

    heard = [(await anext(stream)).text for _ in range(2)]

    assert heard == ["a", "b"]
    with pytest.raises(ModelError, match="hung up"):
        await anext(stream)


async def test_a_delayed_reply_can_be_cancelled() -> None:
    provider = MockProvider([Scripted(reply="late", delay_s=3600)])

    with anyio.move_on_after(0.01) as scope:
        await provider.complete(request())

    assert scope.cancelled_caught


async def test_a_thousand_runs_share_one_script_and_none_is_said_twice() -> None:
    provider = MockProvider([str(i) for i in range(1000)])
    said: list[str] = []

    async def run() -> None:
        said.append((await provider.complete(request())).text)

    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(run)

    assert sorted(map(int, said)) == list(range(1000))


async def test_the_settings_of_an_agent_can_hold_the_script() -> None:
    settings = ModelSettings(extra={"replies": ["one", {"answer": 2}]})
    provider = MockProvider(["unused"])

    said = [
        (await provider.complete(request(settings=settings, cycle=cycle))).text
        for cycle in (2, 1, 3)
    ]

    assert said == ['{"answer": 2}', "one", "This is a mock reply."]


async def test_the_settings_of_an_agent_can_say_what_follows() -> None:
    repeating = ModelSettings(extra={"replies": ["one"], "on_exhausted": "repeat"})
    ending = ModelSettings(extra={"replies": ["one"], "on_exhausted": "error"})
    provider = MockProvider()

    assert (await provider.complete(request(settings=repeating, cycle=5))).text == "one"
    with pytest.raises(ModelError, match="no reply left"):
        await provider.complete(request(settings=ending, cycle=2))


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"replies": "one"}, "replies of type str"),
        ({"replies": [], "on_exhausted": "never"}, "on_exhausted='never'"),
    ],
)
async def test_a_wrong_script_in_the_settings_is_named(
    extra: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelError, match=problem):
        await MockProvider().complete(request(settings=ModelSettings(extra=extra)))


async def test_without_a_script_the_reply_fits_the_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string"}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
    }

    reply = await MockProvider().complete(wanting(schema))

    assert json.loads(reply.text) == {"answer": "mock answer", "sure": False}


async def test_a_schema_that_nothing_fits_is_named() -> None:
    schema = {"type": "object", "properties": {"a": False}, "required": ["a"]}

    with pytest.raises(ModelError, match="found nothing that fits the outputs of 'Answer'"):
        await MockProvider().complete(wanting(schema))


async def test_it_describes_itself_as_free_and_able() -> None:
    profile = MockProvider().describe("")

    assert (profile.name, profile.tools, profile.structured_output) == ("mock", True, True)
    assert profile.input_usd_per_million == profile.output_usd_per_million == Decimal(0)
