"""What plugin authors test with: the scripted model, the recorder, the fixtures."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from decimal import Decimal

import anyio
import pytest
from kaizen import (
    BaseAgent,
    HookEvent,
    Kernel,
    Message,
    ModelDelta,
    ModelReply,
    ModelRequest,
    Provider,
    tool,
)
from kaizen.errors import KaizenError, ModelError
from kaizen.testing import Call, Line, ModelPlugin, RecordingPlugin, ScriptedModel

pytestmark = pytest.mark.anyio


def request(text: str = "hi") -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", content=text),))


async def spoken(line: Line) -> ModelReply:
    return await ScriptedModel(line).complete(request())


@pytest.fixture
async def recorded() -> AsyncGenerator[tuple[Kernel, ScriptedModel, RecordingPlugin]]:
    model, recording = ScriptedModel(), RecordingPlugin()
    async with Kernel(
        plugins=[ModelPlugin(model), recording],
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        yield kernel, model, recording


async def test_a_text_is_said() -> None:
    reply = await spoken("hello")
    assert (reply.text, reply.tool_uses, reply.finish_reason) == ("hello", (), "stop")
    assert (reply.usage.requests, reply.cost_usd) == (1, None)


async def test_a_mapping_is_said_as_json() -> None:
    assert (
        await spoken({"score": 0.5, "tags": ["a"]})
    ).text == '{"score": 0.5, "tags": ["a"]}'


async def test_a_call_asks_for_a_tool() -> None:
    reply = await spoken(Call("add", {"a": 1}))
    assert reply.finish_reason == "tool_calls"
    assert [(use.name, use.arguments) for use in reply.tool_uses] == [("add", {"a": 1})]


async def test_several_calls_have_ids_of_their_own() -> None:
    reply = await spoken([Call("add", '{"a": 1}'), Call("add"), Call("add", id="mine")])
    assert [use.arguments for use in reply.tool_uses] == ['{"a": 1}', {}, {}]
    assert len({use.id for use in reply.tool_uses}) == 3
    assert reply.tool_uses[2].id == "mine"


async def test_calls_of_different_turns_have_ids_of_their_own() -> None:
    model = ScriptedModel(Call("add"), Call("add"))
    first, second = await model.complete(request()), await model.complete(request())
    assert first.tool_uses[0].id != second.tool_uses[0].id


async def test_a_whole_reply_is_given_as_it_is() -> None:
    reply = ModelReply(text="as it is", finish_reason="length")
    assert await spoken(reply) is reply


async def test_an_error_is_raised() -> None:
    with pytest.raises(ModelError, match="is busy"):
        await spoken(ModelError("scripted", "is busy"))


async def test_a_function_of_the_request_gives_the_line() -> None:
    def echo(asked: ModelRequest) -> Line:
        return {"heard": asked.messages[-1].text}

    def later(asked: ModelRequest) -> Line:
        return echo

    reply = await ScriptedModel(later).complete(request("loud"))
    assert reply.text == '{"heard": "loud"}'


async def test_lines_are_said_in_order_and_requests_remembered() -> None:
    model = ScriptedModel("one")
    model.say("two", "three")

    texts = [(await model.complete(request(word))).text for word in ("a", "b", "c")]

    assert texts == ["one", "two", "three"]
    assert [asked.messages[0].text for asked in model.requests] == ["a", "b", "c"]


async def test_a_script_that_is_at_its_end_says_so() -> None:
    model = ScriptedModel("only one")
    await model.complete(request())
    with pytest.raises(ModelError, match=r"has no line for request 2\. Give"):
        await model.complete(request())
    model.say("one more")
    assert (await model.complete(request())).text == "one more"


async def test_a_reply_has_the_price_that_the_test_sets() -> None:
    model = ScriptedModel("a", "b", cost_usd=Decimal("0.5"))
    assert (await model.complete(request())).cost_usd == Decimal("0.5")


async def test_a_model_that_thinks_can_be_cancelled() -> None:
    model = ScriptedModel("late", delay_s=3_600)
    with anyio.move_on_after(0.01) as scope:
        await model.complete(request())
    assert scope.cancelled_caught
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "a b a",
        "to be or not to be",
        "  two  spaces ",
        "a\nb\n\n c\t",
        " ",
        "\n",
        "",
        '{"a": "b b"}',
        "aa a aaa",
    ],
)
async def test_a_stream_is_the_reply_in_pieces(text: str) -> None:
    *deltas, last = [piece async for piece in ScriptedModel(text).stream(request())]

    assert isinstance(last, ModelReply)
    assert last.text == text
    pieces = [piece.text for piece in deltas if isinstance(piece, ModelDelta)]
    assert len(pieces) == len(deltas)
    assert "".join(pieces) == text
    assert all(pieces)


async def test_a_stream_has_a_piece_for_each_word() -> None:
    pieces = [piece async for piece in ScriptedModel("one two three").stream(request())]
    assert len(pieces) == 4


async def test_a_stream_of_tool_calls_has_no_text() -> None:
    (reply,) = [piece async for piece in ScriptedModel(Call("add")).stream(request())]
    assert isinstance(reply, ModelReply)
    assert reply.tool_uses


async def test_a_model_plugin_offers_its_model_by_name() -> None:
    model = ScriptedModel()
    async with Kernel(
        plugins=[ModelPlugin(model, "other")], config_file=False, environ={}
    ) as kernel:
        assert await kernel.get(Provider, "other") is model  # type: ignore[type-abstract]


async def test_a_recorder_remembers_every_operation_in_order(
    recorded: tuple[Kernel, ScriptedModel, RecordingPlugin],
) -> None:
    kernel, model, recording = recorded

    @tool(danger="safe")
    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model.say(Call("add", {"a": 1, "b": 2}), "three")
    agent = BaseAgent({}, "question -> answer", tools=[add], kernel=kernel)
    await agent.run(question="1 + 2?")

    assert recording.hooks == [
        "pre_agent_init",
        "post_agent_init",
        "pre_agent_loop",
        "pre_cycle",
        "pre_model_call",
        "post_model_call",
        "pre_tool_call",
        "post_tool_call",
        "post_cycle",
        "pre_cycle",
        "pre_model_call",
        "post_model_call",
        "post_cycle",
        "post_agent_loop",
    ]
    assert recording.wrapped == [
        "agent_loop",
        "cycle",
        "model_call",
        "tool_call",
        "cycle",
        "model_call",
    ]
    assert len(recording.of("post_tool_call")) == 1
    assert recording.errors() == []


async def test_a_recorder_remembers_errors(
    recorded: tuple[Kernel, ScriptedModel, RecordingPlugin],
) -> None:
    kernel, model, recording = recorded
    failure = ModelError("scripted", "is busy")
    model.say(failure)

    with pytest.raises(ModelError):
        await BaseAgent({}, "question -> answer", kernel=kernel).run(question="?")

    assert set(recording.errors()) == {failure}
    assert [event.error for event in recording.of("post_model_call")] == [failure]


async def test_a_recorder_hears_every_hook_and_knows_no_other() -> None:
    recording = RecordingPlugin()
    for event in HookEvent:
        assert callable(getattr(recording, event.value))
        assert recording.of(event.value) == []
    with pytest.raises(KaizenError, match="hook 'post_lunch' is unknown"):
        recording.of("post_lunch")


Suite = Callable[..., pytest.RunResult]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    """Run tests as a plugin author's own, in a process of their own."""

    def run(code: str, **outcomes: int) -> pytest.RunResult:
        pytester.makeini("[pytest]\nfilterwarnings = error")
        pytester.makepyfile(code)
        result = pytester.runpytest_subprocess(
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
        )
        result.assert_outcomes(**outcomes)
        return result

    return run


USES_THE_FIXTURES = """
import pytest
from kaizen import BaseAgent, Provider

pytestmark = pytest.mark.{mark}

async def test_the_model_is_the_default_provider(kernel, model):
    model.say("four")
    agent = BaseAgent({{}}, "question -> answer", kernel=kernel)
    result = await agent.run(question="2 + 2?")
    assert result.answer == "four"
    assert len(model.requests) == 1

async def test_every_test_has_a_model_and_a_kernel_of_its_own(kernel, model):
    assert model.requests == []
    assert kernel.running
    assert await kernel.get(Provider, "scripted") is model

async def test_no_installed_plugin_and_no_setting_is_found(kernel):
    assert [info.name for info in kernel.plugins if info.status == "enabled"] == [
        "scripted_model"
    ]
    assert kernel.config.hook_timeout == 5.0
"""


@pytest.mark.parametrize(("mark", "backends"), [("anyio", 2), ("asyncio", 1)])
def test_the_fixtures_are_found_wherever_the_kernel_is_installed(
    suite: Suite,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    mark: str,
    backends: int,
) -> None:
    monkeypatch.setenv("KAIZEN_HOOK_TIMEOUT", "1")
    pytester.path.joinpath("kaizen.toml").write_text(
        "[kaizen]\nhook_timeout = 2\n", encoding="utf-8"
    )
    suite(USES_THE_FIXTURES.format(mark=mark), passed=3 * backends)


def test_a_script_that_is_too_short_fails_the_test_with_advice(suite: Suite) -> None:
    result = suite(
        """
        import pytest
        from kaizen import BaseAgent

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_unscripted(kernel):
            await BaseAgent({}, "question -> answer", kernel=kernel).run(question="?")
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(["*has no line for request 1. Give ScriptedModel as many*"])


def test_the_model_needs_no_async_test(suite: Suite) -> None:
    suite(
        """
        def test_plain(model):
            model.say("a")
            assert model.requests == []
        """,
        passed=1,
    )
