"""Running an agent: inputs, outputs, tools, errors, results."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal
from weakref import WeakKeyDictionary

import anyio
import pytest
from kaizen import (
    AgentConfig,
    BaseAgent,
    BaseHook,
    Checkpoint,
    CheckpointEvent,
    CheckpointStore,
    HookContext,
    HookEvent,
    HookManager,
    InputField,
    Kernel,
    Message,
    ModelReply,
    ModelRequest,
    OutputField,
    Provider,
    Result,
    Run,
    Signature,
    TextDelta,
    ToolContext,
    Usage,
    current_run,
    hookimpl,
    tool,
)
from kaizen.errors import (
    AgentCreationError,
    AgentTimeoutError,
    CheckpointSaveError,
    ConfigurationError,
    ConvergenceError,
    HookExecutionError,
    InitializationError,
    InputError,
    ModelError,
    OutputError,
    RunError,
    ToolRefusedError,
    UnknownNameError,
)
from kaizen.hookspecs import ModelCall
from kaizen.runlog import decode, fold
from kaizen.testing import (
    Call,
    MemoryCheckpointStore,
    ModelPlugin,
    RecordingPlugin,
    ScriptedModel,
)

pytestmark = pytest.mark.anyio


class Review(Signature):
    """Judge a product review."""

    text: str = InputField(desc="The review")
    language: str = InputField(desc="Its language", default="English")
    sentiment: Literal["good", "bad", "mixed"] = OutputField(desc="Overall tone")
    confidence: float = OutputField(desc="0 to 1", ge=0, le=1)


class Question(Signature):
    """Answer the question."""

    question: str = InputField(desc="The question")
    answer: str = OutputField(desc="The answer")


@tool(danger="safe")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(danger="high")
async def erase(path: str) -> str:
    """Erase a file."""
    raise AssertionError(f"{path} must not be erased")


# Answers.


async def test_a_result_gives_its_outputs_by_key_and_by_attribute(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.cost_usd = Decimal("0.01")
    model.say({"sentiment": "good", "confidence": 0.9})
    result = await BaseAgent(signature=Review, kernel=kernel).run(text="Loved it")

    assert result["sentiment"] == result.sentiment == "good"
    assert dict(result) == {"sentiment": "good", "confidence": 0.9}
    assert (result.cycles, result.tool_calls) == (1, 0)
    assert result.usage == Usage(requests=1, input_tokens=10, output_tokens=5)
    assert result.cost_usd == Decimal("0.01")
    assert len(result.run_id) == 32
    assert result.duration_ms > 0
    assert [message.role for message in result.messages] == ["system", "user", "assistant"]
    with pytest.raises(KeyError, match="no output 'sentimet'"):
        result["sentimet"]
    with pytest.raises(AttributeError, match="the outputs are sentiment, confidence"):
        _ = result.sentimet


async def test_a_single_text_output_is_the_reply_itself(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say("Forty-two.")
    result = await BaseAgent(signature=Question, kernel=kernel).run(question="6 × 7?")
    assert result.answer == "Forty-two."
    assert model.requests[0].output is None


async def test_the_model_is_told_what_the_signature_says(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say({"sentiment": "bad", "confidence": 1})
    config = AgentConfig(
        model="m", temperature=0.5, max_tokens=9, provider_config={"seed": 1}
    )
    await BaseAgent(config, Review(), kernel=kernel).run(text="Awful")

    (request,) = model.requests
    assert "Judge a product review." in request.messages[0].text
    assert "Awful" in request.messages[1].text
    assert "English" in request.messages[1].text
    assert request.output is not None
    assert request.output.strict
    assert set(request.output.schema["properties"]) == {"sentiment", "confidence"}
    assert (request.model, request.settings.temperature) == ("m", 0.5)
    assert (request.settings.max_tokens, request.settings.extra) == (9, {"seed": 1})


async def test_a_provider_without_structured_output_gets_the_schema_in_the_prompt(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say({"sentiment": "bad", "confidence": 1})
    agent = BaseAgent({"strict_outputs": False}, Review, kernel=kernel)
    await agent.run(text="Awful")
    assert '"sentiment"' in model.requests[0].messages[0].text
    assert model.requests[0].output is not None
    assert not model.requests[0].output.strict


async def test_signatures_may_be_written_as_a_string(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say({"answer": "4", "sure": True})
    agent = BaseAgent(signature="question -> answer: int, sure: bool", kernel=kernel)
    assert dict(await agent.run(question="2+2?")) == {"answer": 4, "sure": True}


# What is wrong with inputs is said, and nobody is asked.


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "text"),
        ({"text": "x", "langage": "German"}, "Did you mean 'language'|langage"),
        ({"text": 5}, "text"),
    ],
    ids=["missing", "unknown", "wrong type"],
)
async def test_wrong_inputs_are_an_error_and_no_model_is_asked(
    kernel: Kernel, model: ScriptedModel, inputs: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        await BaseAgent(signature=Review, kernel=kernel).run(**inputs)
    assert caught.value.code == "EXEC_001"
    assert model.requests == []


# What is wrong with outputs is sent back.


async def test_a_reply_that_does_not_fit_is_sent_back_with_what_is_wrong(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(
        {"sentiment": "great", "confidence": 7}, {"sentiment": "good", "confidence": 0.7}
    )
    result = await BaseAgent(signature=Review, kernel=kernel).run(text="Loved it")

    assert result.sentiment == "good"
    assert result.cycles == 2
    feedback = model.requests[1].messages[-1]
    assert feedback.role == "user"
    assert "sentiment" in feedback.text
    assert "confidence" in feedback.text
    assert model.requests[1].messages[-2].role == "assistant"


@pytest.mark.parametrize(
    "reply",
    [
        "I think it is good.",
        "",
        "{",
        '{"sentiment": "good"}',
        "x" * 10_000_000,
        "[1]",
        "null",
    ],
    ids=["prose", "empty", "cut", "missing field", "10 MB", "list", "null"],
)
async def test_a_reply_that_never_fits_is_an_error_and_no_answer(
    kernel: Kernel, model: ScriptedModel, reply: str
) -> None:
    model.say(reply, reply, reply)
    with pytest.raises(OutputError) as caught:
        await BaseAgent(signature=Review, kernel=kernel).run(text="Loved it")
    assert caught.value.code == "AGENT_002"
    assert caught.value.feedback
    assert len(str(caught.value)) < 2_000
    assert len(model.requests) == 3
    assert sum(len(message.text) for message in model.requests[-1].messages) < 10_000


async def test_how_often_a_reply_is_sent_back_can_be_configured(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say("no", "no")
    with pytest.raises(OutputError):
        await BaseAgent({"max_output_retries": 0}, Review, kernel=kernel).run(text="x")
    assert len(model.requests) == 1


async def test_an_error_of_the_provider_reaches_the_caller_as_it_is(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(ModelError("scripted", "is overloaded", retryable=True), RuntimeError("boom"))
    agent = BaseAgent(signature=Question, kernel=kernel)
    with pytest.raises(ModelError, match="is overloaded"):
        await agent.run(question="?")
    with pytest.raises(RuntimeError, match="boom"):
        await agent.run(question="?")


# Tools.


async def test_the_loop_goes_on_while_the_model_asks_for_tools(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(
        Call("add", {"a": 2, "b": 3}, id="c1"), Call("add", '{"a": 5, "b": 1}'), "six"
    )
    result = await BaseAgent(signature=Question, tools=[add], kernel=kernel).run(
        question="?"
    )

    assert result.answer == "six"
    assert (result.cycles, result.tool_calls) == (3, 2)
    assert result.usage.requests == 3
    answers = [message for message in result.messages if message.role == "tool"]
    assert next((each.text, each.tool_use_id) for each in answers) == ("5", "c1")
    assert answers[1].origin == "tool:add"
    assert [each.name for each in model.requests[0].tools] == ["add"]


async def test_tools_of_one_turn_that_only_read_run_at_once_and_others_in_order(
    kernel: Kernel, model: ScriptedModel
) -> None:
    trail: list[str] = []
    both = anyio.Event()

    @tool(danger="low")
    async def look(place: str) -> str:
        """Look at a place."""
        trail.append(f"look {place}")
        if len(trail) == 2:
            both.set()
        with anyio.fail_after(5):
            await both.wait()
        return f"seen {place}"

    @tool(danger="low", writes=True)
    async def put(place: str) -> str:
        """Put something."""
        trail.append(f"put {place}")
        return "put"

    calls = [Call("look", {"place": "a"}), Call("look", {"place": "b"})]
    writes = [Call("put", {"place": "c"}), Call("put", {"place": "d"})]
    model.say([*calls, *writes], "done")
    agent = BaseAgent(signature=Question, tools=[look, put], kernel=kernel)
    result = await agent.run(question="?")

    assert sorted(trail[:2]) == ["look a", "look b"]
    assert trail[2:] == ["put c", "put d"]
    assert result.tool_calls == 4


async def test_a_tool_that_raises_tells_the_model_and_the_run_goes_on(
    kernel: Kernel, model: ScriptedModel
) -> None:
    @tool(danger="safe")
    async def broken() -> None:
        """Break."""
        raise ValueError("out of paper")

    model.say(Call("broken"), "I could not.")
    result = await BaseAgent(signature=Question, tools=[broken], kernel=kernel).run(
        question="?"
    )
    told = result.messages[-2].text
    assert result.answer == "I could not."
    assert told.startswith("Error: [TOOL_001]")
    assert "ValueError: out of paper" in told


async def test_a_tool_that_hangs_is_stopped(kernel: Kernel, model: ScriptedModel) -> None:
    stopped = False

    @tool(danger="safe", timeout_s=0.02)
    async def hang() -> None:
        """Hang."""
        nonlocal stopped
        try:
            await anyio.sleep_forever()
        finally:
            stopped = True

    model.say(Call("hang"), "It hangs.")
    result = await BaseAgent(signature=Question, tools=[hang], kernel=kernel).run(
        question="?"
    )
    assert stopped
    assert "[TOOL_003] tool 'hang' took longer than 0.02 s" in result.messages[-2].text


async def test_a_tool_that_returns_what_json_cannot_hold_tells_the_model(
    kernel: Kernel, model: ScriptedModel
) -> None:
    @tool(danger="safe")
    async def odd() -> object:
        """Return something odd."""
        return object()

    model.say(Call("odd"), "Odd.")
    result = await BaseAgent(signature=Question, tools=[odd], kernel=kernel).run(
        question="?"
    )
    assert "'object' is nothing that JSON can hold" in result.messages[-2].text


async def test_long_output_is_cut_with_a_mark(kernel: Kernel, model: ScriptedModel) -> None:
    @tool(danger="safe", max_output_chars=10)
    async def talk() -> str:
        """Talk."""
        return "x" * 50

    model.say(Call("talk"), "ok")
    result = await BaseAgent(signature=Question, tools=[talk], kernel=kernel).run(
        question="?"
    )
    assert result.messages[-2].text == "x" * 10 + "\n[cut: 40 of 50 characters not shown]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"a": 1}, "b: Field required"),
        ({"a": 1, "b": "two"}, "b: Input should be a valid integer"),
        ({"a": 1, "b": 2, "c": 3}, "c: "),
        ('{"a": 1', "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"a": NaN, "b": 1}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": "' + "x" * 1_100_000 + '"}', "longer than"),
    ],
    ids=["missing", "type", "extra", "cut", "list", "nan", "deep", "long"],
)
async def test_arguments_that_do_not_fit_are_explained_to_the_model(
    kernel: Kernel, model: ScriptedModel, arguments: Any, said: str
) -> None:
    model.say(Call("add", arguments), "sorry")
    result = await BaseAgent(signature=Question, tools=[add], kernel=kernel).run(
        question="?"
    )
    assert said in result.messages[-2].text
    assert "TOOL_002" in result.messages[-2].text


async def test_an_unknown_tool_is_explained_to_the_model(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(Call("ad", {"a": 1, "b": 2}), "sorry")
    result = await BaseAgent(signature=Question, tools=[add], kernel=kernel).run(
        question="?"
    )
    assert "tool 'ad' is unknown. Did you mean 'add'?" in result.messages[-2].text


async def test_a_dangerous_tool_is_refused_without_a_grant(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(Call("erase", {"path": "x"}), "I may not.")
    result = await BaseAgent(signature=Question, tools=[erase], kernel=kernel).run(
        question="?"
    )
    assert "[PERMISSION_001]" in result.messages[-2].text


async def test_a_grant_in_code_lets_a_tool_run(
    kernel: Kernel, model: ScriptedModel
) -> None:
    @tool(danger="high")
    async def shred(path: str) -> str:
        """Shred a file."""
        return f"{path} is gone"

    model.say(Call("shred", {"path": "x"}), "Done.")
    agent = BaseAgent(signature=Question, tools=[shred], grants=["shred"], kernel=kernel)
    result = await agent.run(question="?")
    assert result.messages[-2].text == "x is gone"


async def test_middleware_may_grant_change_or_refuse_a_call(
    kernel: Kernel, model: ScriptedModel
) -> None:
    @tool(danger="high")
    async def shred(path: str) -> str:
        """Shred a file."""
        return f"{path} is gone"

    class Gate:
        @hookimpl
        async def wrap_tool_call(self, call: Any, call_next: Any) -> Any:
            if call.arguments["path"].startswith("/"):
                raise ToolRefusedError(f"tool {call.name!r}", "may not touch the root")
            path = call.arguments["path"].upper()
            return await call_next(replace(call, arguments={"path": path}).granted("gate"))

    model.say(Call("shred", {"path": "x"}), Call("shred", {"path": "/"}), "Done.")
    agent = BaseAgent(signature=Question, tools=[shred], hooks=[Gate()], kernel=kernel)
    result = await agent.run(question="?")
    told = [message.text for message in result.messages if message.role == "tool"]
    assert told[0] == "X is gone"
    assert "may not touch the root" in told[1]


async def test_changed_arguments_are_validated_again(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Spoil:
        @hookimpl
        async def wrap_tool_call(self, call: Any, call_next: Any) -> Any:
            return await call_next(replace(call, arguments={"a": "x", "b": 1}))

    model.say(Call("add", {"a": 1, "b": 1}), "ok")
    agent = BaseAgent(signature=Question, tools=[add], hooks=[Spoil()], kernel=kernel)
    result = await agent.run(question="?")
    assert "a: Input should be a valid integer" in result.messages[-2].text


async def test_a_gate_that_breaks_stops_the_run_and_the_tool_does_not_run(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Broken:
        @hookimpl
        async def wrap_tool_call(self, call: Any, call_next: Any) -> Any:
            raise OSError("policy file is gone")

    model.say(Call("erase", {"path": "x"}), "never")
    agent = BaseAgent(
        signature=Question, tools=[erase], grants=["erase"], hooks=[Broken()], kernel=kernel
    )
    with pytest.raises(OSError, match="policy file is gone"):
        await agent.run(question="?")


async def test_a_model_that_never_stops_asking_does_not_converge(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(*[Call("add", {"a": 1, "b": 1})] * 3)
    agent = BaseAgent({"max_cycles": 3}, Question, tools=[add], kernel=kernel)
    with pytest.raises(ConvergenceError, match="no answer in 3 cycles") as caught:
        await agent.run(question="?")
    assert caught.value.code == "AGENT_005"


async def test_what_does_not_converge_counts_turns_and_not_requests(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Cautious:
        @hookimpl
        async def wrap_model_call(self, request: Any, call_next: Any) -> Any:
            await call_next(request)
            return await call_next(request)

    model.say(*[Call("add", {"a": 1, "b": 1})] * 6)
    agent = BaseAgent(
        {"max_cycles": 3}, Question, tools=[add], hooks=[Cautious()], kernel=kernel
    )

    with pytest.raises(ConvergenceError, match="no answer in 3 cycles"):
        await agent.run(question="?")


async def test_an_unsure_answer_is_asked_for_again(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(
        {"sentiment": "good", "confidence": 0.2}, {"sentiment": "bad", "confidence": 0.9}
    )
    agent = BaseAgent(
        {"min_confidence_threshold": 0.8}, Review, kernel=kernel, strategy="multi_cycle"
    )
    assert (await agent.run(text="x")).sentiment == "bad"


async def test_calls_with_the_same_id_are_told_apart(
    kernel: Kernel, model: ScriptedModel
) -> None:
    same = [Call("add", {"a": 1, "b": 1}, id="x"), Call("add", {"a": 2, "b": 2}, id="x")]
    model.say(same, Call("add", {"a": 3, "b": 3}, id="x"), "ok")
    result = await BaseAgent(signature=Question, tools=[add], kernel=kernel).run(
        question="?"
    )
    ids = [message.tool_use_id for message in result.messages if message.role == "tool"]
    asked = [use.id for message in result.messages for use in message.tool_uses]
    assert len(set(ids)) == 3
    assert sorted(ids) == sorted(asked)


async def test_a_tool_finds_its_run_and_its_idempotency_key(
    kernel: Kernel, model: ScriptedModel
) -> None:
    seen: list[Any] = []

    @tool(danger="safe")
    async def look(context: ToolContext) -> str:
        """Look around."""
        seen.append((current_run(), context.run, context.idempotency_key))
        return "ok"

    model.say(Call("look", id="c9"), "ok")
    agent = BaseAgent(signature=Question, tools=[look], kernel=kernel)
    result = await agent.bind(session_id="s", metadata={"user": "ann"}).run(question="?")
    run, same, key = seen[0]
    assert run is same
    assert (run.id, run.session_id, run.metadata) == (result.run_id, "s", {"user": "ann"})
    assert key == f"{result.run_id}:c9"


async def test_outside_a_run_there_is_no_current_run() -> None:
    with pytest.raises(RunError, match="outside a run"):
        current_run()


# Tools by name, and by hand.


async def test_tools_by_name_come_from_plugins(model: ScriptedModel) -> None:
    class ToolPlugin:
        @hookimpl
        def contribute(self, registry: Any) -> None:
            from kaizen import Tool, ToolSource

            registry.add(Tool, "add", add)
            registry.add(Tool, "erase", erase)
            registry.add(ToolSource, "more", More)

    class More:
        async def tools(self) -> list[Any]:
            return [tool(sub, danger="low", category="math")]

    async def sub(a: int, b: int) -> int:
        """Subtract."""
        return a - b

    options: Any = {"discover": False, "config_file": False, "environ": {}}
    plugins = [ModelPlugin(model), ToolPlugin]
    config = {"default_provider": "scripted"}
    async with Kernel(plugins=plugins, config=config, **options) as kernel:
        every = BaseAgent(signature=Question, tools="all", kernel=kernel)
        named = BaseAgent(signature=Question, tools=["add", "sub"], kernel=kernel)
        wrong = BaseAgent(signature=Question, tools=["ad"], kernel=kernel)

        assert [each.name for each in await every.discover_tools()] == [
            "add",
            "erase",
            "sub",
        ]
        assert [each.name for each in await named.discover_tools(category="math")] == [
            "sub"
        ]
        safe = await every.discover_tools(safe_only=True)
        assert [each.name for each in safe] == ["add", "sub"]
        with pytest.raises(
            UnknownNameError, match=r"tool 'ad' is unknown\. Did you mean 'add'"
        ):
            await wrong.run(question="?")


async def test_a_tool_called_by_hand_goes_through_all_hooks(model: ScriptedModel) -> None:
    recording = RecordingPlugin()
    options: Any = {"discover": False, "config_file": False, "environ": {}}
    config = {"default_provider": "scripted"}
    plugins = [ModelPlugin(model), recording]
    async with Kernel(plugins=plugins, config=config, **options) as kernel:
        agent = BaseAgent(signature=Question, tools=[add, erase], kernel=kernel)
        result = await agent.execute_tool("add", {"a": 2, "b": 3})
        refused = await agent.execute_tool("erase", {"path": "x"})
        wrong = await agent.execute_tool("add", {"a": 2})

    assert (result.success, result.approved, result.result) == (True, True, 5)
    assert (refused.success, refused.approved, refused.result) == (False, False, None)
    assert (wrong.success, wrong.error_code) == (False, "TOOL_002")
    assert recording.hooks.count("pre_tool_call") == 2
    assert recording.wrapped.count("tool_call") == 2


async def test_a_chain_of_tools_stops_at_the_first_failure(kernel: Kernel) -> None:
    agent = BaseAgent(signature=Question, tools=[add], kernel=kernel)
    good = {"tool_name": "add", "params": {"a": 1, "b": 1}}
    results = await agent.execute_tool_chain(
        [good, {"tool_name": "add", "params": {}}, good]
    )
    assert [each.success for each in results] == [True, False]
    with pytest.raises(TypeError, match="tool_name"):
        await agent.execute_tool_chain([{"name": "add"}])


# Making agents.


async def test_config_is_read_from_anything_that_has_its_fields(
    kernel: Kernel, model: ScriptedModel
) -> None:
    @dataclass
    class Mine:
        llm_provider: str = "scripted"
        temperature: float = 0.3
        favourite_colour: str = "blue"

    model.say("ok")
    await BaseAgent(Mine(), Question, kernel=kernel).run(question="?")
    assert model.requests[0].settings.temperature == 0.3


async def test_the_kernels_defaults_lie_below_the_agents_config_below_the_call(
    model: ScriptedModel,
) -> None:
    model.say("1", "2", "3")
    config = {
        "default_provider": "scripted",
        "agent": {"temperature": 0.1, "max_tokens": 5},
    }
    plugins = [ModelPlugin(model)]
    async with Kernel(
        plugins=plugins, discover=False, config=config, config_file=False, environ={}
    ) as kernel:
        plain = BaseAgent(signature=Question, kernel=kernel)
        own = BaseAgent({"temperature": 0.2}, Question, kernel=kernel)
        await plain.run(question="?")
        await own.run(question="?")
        await own.bind(temperature=0.3).run(question="?")
    settings = [(r.settings.temperature, r.settings.max_tokens) for r in model.requests]
    assert settings == [(0.1, 5), (0.2, 5), (0.3, 5)]


async def test_agents_do_not_change(kernel: Kernel) -> None:
    agent = BaseAgent(signature=Question, kernel=kernel)
    with pytest.raises(AttributeError, match="agents do not change"):
        agent.signature = Review
    with pytest.raises(TypeError, match="unknown fields: temprature"):
        agent.bind(temprature=1)


def test_what_an_agent_cannot_be_made_of_is_explained() -> None:
    def plain(a: int) -> int:
        return a

    with pytest.raises(AgentCreationError, match="was given no signature"):
        BaseAgent()
    with pytest.raises(AgentCreationError, match=r'@tool\(danger="safe"\)'):
        BaseAgent(signature=Question, tools=[plain])  # type: ignore[list-item]
    with pytest.raises(AgentCreationError, match="'temperature'"):
        BaseAgent({"temperature": "warm"}, Question)


async def test_a_missing_or_unknown_provider_is_explained(kernel: Kernel) -> None:
    with pytest.raises(UnknownNameError, match=r"provider 'nosuch'.*Known: scripted"):
        await BaseAgent({"llm_provider": "nosuch"}, Question, kernel=kernel).run(
            question="?"
        )
    async with Kernel(discover=False, config_file=False, environ={}) as empty:
        with pytest.raises(ConfigurationError, match="names no provider"):
            await BaseAgent(signature=Question, kernel=empty).run(question="?")


async def test_a_switch_that_nobody_serves_names_the_plugin(kernel: Kernel) -> None:
    agent = BaseAgent({"cache_enabled": True}, Question, kernel=kernel)
    with pytest.raises(ConfigurationError, match="pip install kaizen-cache"):
        await agent.run(question="?")


async def test_an_agent_of_a_kernel_that_is_not_running_says_so() -> None:
    agent = BaseAgent({"llm_provider": "x"}, Question, kernel=Kernel())
    with pytest.raises(InitializationError, match="async with Kernel"):
        await agent.run(question="?")


async def test_an_agent_notices_that_its_kernel_was_started_again() -> None:
    opened: list[ScriptedModel] = []

    def open_model() -> ScriptedModel:
        opened.append(ScriptedModel(f"answer {len(opened)}"))
        return opened[-1]

    class ModelsPlugin:
        @hookimpl
        def contribute(self, registry: Any) -> None:
            registry.add(Provider, "it", open_model)

    kernel = Kernel(plugins=[ModelsPlugin], discover=False, config_file=False, environ={})
    agent = BaseAgent({"llm_provider": "it"}, Question, kernel=kernel)
    for number in range(2):
        async with kernel:
            assert (await agent.run(question="?")).answer == f"answer {number}"
        with pytest.raises(InitializationError):
            await agent.run(question="?")


async def test_default_ids_are_unique_and_the_same_each_time(model: ScriptedModel) -> None:
    async def ids() -> list[str]:
        model.say("1", "2", "3")
        options: Any = {"discover": False, "config_file": False, "environ": {}}
        config = {"default_provider": "scripted"}
        async with Kernel(plugins=[ModelPlugin(model)], config=config, **options) as kernel:
            first = BaseAgent(signature=Question, kernel=kernel)
            second = BaseAgent(signature=Question, kernel=kernel)
            bound = first.bind(session_id="s")
            for each in (bound, first, second):
                await each.run(question="?")
            return [first.agent_id, bound.agent_id, second.agent_id]

    assert await ids() == await ids() == ["Question", "Question", "Question-2"]


async def test_an_id_that_was_chosen_is_not_given_to_another(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say("1", "2")
    chosen = BaseAgent(signature=Question, kernel=kernel, agent_id="Question")
    other = BaseAgent(signature=Question, kernel=kernel)
    await chosen.run(question="?")
    await other.run(question="?")
    assert (chosen.agent_id, other.agent_id) == ("Question", "Question-2")


async def test_the_kernel_keeps_agents_by_name(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say("ok")
    agent = kernel.agent("helper", {"temperature": 0}, signature=Question)
    assert kernel.agents.get_agent("helper") is agent
    assert kernel.agents.list_agents() == ("helper",)
    assert (agent.name, agent.agent_id) == ("helper", "helper")
    assert (await agent.run(question="?")).answer == "ok"
    with pytest.raises(ConfigurationError, match="exists already"):
        kernel.agent("helper", signature=Question)
    with pytest.raises(UnknownNameError, match="Did you mean 'helper'"):
        kernel.agents.get_agent("helpr")


def test_a_card_says_what_an_agent_does() -> None:
    card = BaseAgent(signature=Review, name="reviewer").to_a2a_card()
    assert card["name"] == "reviewer"
    assert card["description"] == "Judge a product review."
    assert card["skills"][0]["tags"] == ["confidence", "language", "sentiment", "text"]
    assert json.loads(json.dumps(card)) == card


# Strategies.


async def test_a_strategy_of_ones_own_decides_how_an_agent_runs(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Twice:
        async def execute(
            self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
        ) -> Mapping[str, Any]:
            run = current_run()
            first = await run.cycle()
            again = Message(role="user", content="Are you sure?")
            second = await run.cycle([again])
            return {"answer": f"{first.reply.text}, {second.reply.text}"}

    model.say("yes", "indeed")
    result = await BaseAgent(signature=Question, strategy=Twice(), kernel=kernel).run(
        question="?"
    )
    assert result.answer == "yes, indeed"
    assert result.cycles == 2


async def test_what_a_strategy_returns_is_validated(kernel: Kernel) -> None:
    class Wrong:
        async def execute(self, signature: Any, inputs: Any, config: Any) -> Any:
            return {"sentiment": "splendid", "confidence": 2}

    with pytest.raises(OutputError, match="sentiment"):
        await BaseAgent(signature=Review, strategy=Wrong(), kernel=kernel).run(text="x")


async def test_an_error_in_a_strategy_keeps_its_type_and_message(kernel: Kernel) -> None:
    class Broken:
        async def execute(self, signature: Any, inputs: Any, config: Any) -> Any:
            raise RuntimeError("the real message")

    with pytest.raises(RuntimeError, match="the real message"):
        await BaseAgent(signature=Question, strategy=Broken(), kernel=kernel).run(
            question="?"
        )


async def test_a_single_shot_offers_no_tools(kernel: Kernel, model: ScriptedModel) -> None:
    model.say("ok")
    agent = BaseAgent(
        signature=Question, tools=[add], strategy="single_shot", kernel=kernel
    )
    await agent.run(question="?")
    assert model.requests[0].tools == ()


# Runs inside runs.


async def test_a_run_inside_a_run_is_its_child_and_on_its_account(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.cost_usd = Decimal("0.5")
    seen: list[Any] = []
    inner = BaseAgent(signature=Question, kernel=kernel, name="inner")

    @tool(danger="safe")
    async def delegate(question: str) -> str:
        """Ask somebody else."""
        outer = current_run()
        result = await inner.run(question=question)
        seen.append((outer, result))
        return str(result.answer)

    model.say(Call("delegate", {"question": "deep?"}), "deep answer", "final")
    agent = BaseAgent(signature=Question, tools=[delegate], kernel=kernel)
    result = await agent.run(question="?")

    outer, child = seen[0]
    assert result.usage.requests == 3
    assert result.cost_usd == Decimal("1.5")
    assert child.usage.requests == 1
    assert outer.children == ()
    kinds = [type(entry).type for entry in outer.log.entries]
    assert "child_ended" in kinds


async def test_runs_may_not_lie_inside_one_another_without_end(
    kernel: Kernel, model: ScriptedModel
) -> None:
    holder: list[BaseAgent] = []

    @tool(danger="safe")
    async def again() -> str:
        """Call yourself."""
        return str((await holder[0].run(question="?")).answer)

    for _ in range(40):
        model.say(lambda request: Call("again") if request.cycle == 1 else "up")
    for _ in range(80):
        model.say("up")
    holder.append(BaseAgent(signature=Question, tools=[again], kernel=kernel))
    result = await holder[0].run(question="?")
    assert len(model.requests) <= 70
    assert result.answer == "up"


# Hooks of one agent, and the order of everything.


async def test_every_operation_of_a_run_is_observed_in_order(model: ScriptedModel) -> None:
    recording = RecordingPlugin()
    options: Any = {"discover": False, "config_file": False, "environ": {}}
    config = {"default_provider": "scripted"}
    plugins = [ModelPlugin(model), recording]
    async with Kernel(plugins=plugins, config=config, **options) as kernel:
        model.say(Call("add", {"a": 1, "b": 1}), "2", "3")
        agent = BaseAgent(signature=Question, tools=[add], kernel=kernel)
        result = await agent.run(question="?")
        first = list(recording.hooks)
        await agent.run(question="?")

    turn = ["pre_cycle", "pre_model_call", "post_model_call"]
    assert first == [
        *["pre_agent_init", "post_agent_init", "pre_agent_loop"],
        *[*turn, "pre_tool_call", "post_tool_call", "post_cycle"],
        *[*turn, "post_cycle", "post_agent_loop"],
    ]
    assert recording.hooks.count("pre_agent_init") == 1
    for hook, event in recording.events[2:12]:
        assert event.run_id == result.run_id, hook
        assert event.trace_id == result.run_id
    assert recording.wrapped[:4] == ["agent_loop", "cycle", "model_call", "tool_call"]


async def test_a_hook_manager_tells_its_handlers_of_one_agent_only(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Watch(BaseHook):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.events = [HookEvent.POST_AGENT_LOOP, HookEvent.PRE_MODEL_CALL]

        async def handle(self, context: HookContext) -> None:
            told.append((context.event_type.value, context.agent_id, context.metadata))

    told: list[Any] = []
    manager = HookManager()
    manager.register_hook(Watch("watch"))
    watched = BaseAgent(
        signature=Question, hook_manager=manager, kernel=kernel, name="mine"
    )
    other = BaseAgent(signature=Question, kernel=kernel)
    model.say("a", "b")
    await watched.bind(metadata={"user_id": "ann"}).run(question="?")
    await other.run(question="?")

    assert [each[0] for each in told] == ["pre_model_call", "post_agent_loop"]
    assert {each[1] for each in told} == {"mine"}
    assert told[1][2]["status"] == "ok"
    assert told[1][2]["user_id"] == "ann"


async def test_hooks_that_come_while_a_kernel_runs_are_seen_by_the_next_run(
    kernel: Kernel, model: ScriptedModel
) -> None:
    recording = RecordingPlugin()
    agent = BaseAgent(signature=Question, kernel=kernel)
    model.say("a", "b", "c")
    await agent.run(question="?")
    kernel.hooks.add(recording, name="guest")
    await agent.run(question="?")
    seen = len(recording.events)
    kernel.hooks.remove("guest")
    await agent.run(question="?")
    assert seen > 0
    assert len(recording.events) == seen


async def test_middleware_may_answer_in_the_models_place(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Cache:
        @hookimpl
        async def wrap_model_call(self, request: Any, call_next: Any) -> ModelReply:
            return ModelReply(text="cached", usage=Usage(requests=1, input_tokens=7))

    agent = BaseAgent(signature=Question, hooks=[Cache()], kernel=kernel)
    result = await agent.run(question="?")
    assert result.answer == "cached"
    assert model.requests == []
    assert result.usage == Usage()


async def test_every_attempt_that_was_paid_for_is_on_the_account(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Retry:
        @hookimpl
        async def wrap_model_call(self, request: Any, call_next: Any) -> ModelReply:
            await call_next(request)
            reply: ModelReply = await call_next(request)
            return replace(reply, text="polished")

    model.cost_usd = Decimal(1)
    model.say("a", "b")
    result = await BaseAgent(signature=Question, hooks=[Retry()], kernel=kernel).run(
        question="?"
    )
    assert result.answer == "polished"
    assert result.usage.requests == 2
    assert result.cost_usd == 2


async def test_middleware_around_a_run_may_change_inputs_and_result(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Around:
        @hookimpl
        async def wrap_agent_loop(self, request: Any, call_next: Any) -> Result:
            result: Result = await call_next(
                replace(request, inputs={"question": "changed"})
            )
            return result.with_outputs(answer=result.answer.upper())

    model.say("yes")
    result = await BaseAgent(signature=Question, hooks=[Around()], kernel=kernel).run(
        question="?"
    )
    assert result.answer == "YES"
    assert "changed" in model.requests[0].messages[1].text


# Streaming.


async def test_a_stream_gives_entries_and_text_in_order(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(Call("add", {"a": 1, "b": 1}), "one two three")
    agent = BaseAgent(signature=Question, tools=[add], kernel=kernel)
    async with agent.stream(question="?") as run:
        events = [event async for event in run]
        result = await run.wait()

    positions = [event.position for event in events]
    assert positions == sorted(set(positions))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == "one two three" == result.answer
    names = [
        type(event).__name__ for event in events if type(event).__name__ != "TextDelta"
    ]
    assert names == [
        *["RunStarted", "ModelRequested", "ModelReplied", "ToolIntended", "ToolFinished"],
        *["ModelRequested", "ModelReplied", "RunEnded"],
    ]
    assert result.tool_calls == 1


async def test_an_ended_run_can_be_read_again(kernel: Kernel, model: ScriptedModel) -> None:
    model.say("hello there")
    async with BaseAgent(signature=Question, kernel=kernel).stream(question="?") as run:
        await run.wait()
        with anyio.fail_after(5):
            first = [event async for event in run]
            second = [event async for event in run]
    assert any(type(event).__name__ == "TextDelta" for event in first)
    assert [e for e in first if type(e).__name__ != "TextDelta"] == second


async def test_a_stream_of_a_run_that_fails_raises_at_its_end(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say(ModelError("scripted", "is overloaded"))
    seen: list[str] = []
    agent = BaseAgent(signature=Question, kernel=kernel)
    async with agent.stream(question="?") as run:
        events = aiter(run)
        while len(seen) < 3:
            seen.append(type(await anext(events)).__name__)
        with pytest.raises(ModelError, match="overloaded"):
            await anext(events)
    assert seen == ["RunStarted", "ModelRequested", "RunEnded"]
    with pytest.raises(ModelError, match="overloaded"):
        await run.wait()


async def test_leaving_a_stream_cancels_its_run(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.delay_s = 60
    model.say("never")
    with anyio.fail_after(5):
        async with BaseAgent(signature=Question, kernel=kernel).stream(question="?") as run:
            async for _ in run:
                break
    assert run.state.status == "cancelled"


async def test_an_error_in_the_block_passes_through_unwrapped(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.say("ok")
    with pytest.raises(KeyError, match="mine"):
        async with BaseAgent(signature=Question, kernel=kernel).stream(question="?"):
            raise KeyError("mine")


# Time, concurrency, storage.


async def test_a_run_may_take_only_so_long(kernel: Kernel, model: ScriptedModel) -> None:
    model.delay_s = 60
    model.say("never")
    agent = BaseAgent({"timeout": 0.02}, Question, kernel=kernel)
    with pytest.raises(AgentTimeoutError, match=r"took longer than 0\.02 s") as caught:
        await agent.run(question="?")
    assert caught.value.code == "AGENT_003"


async def test_a_thousand_runs_at_once_do_not_disturb_each_other(
    kernel: Kernel, model: ScriptedModel
) -> None:
    def reply(request: Any) -> Any:
        if request.cycle == 1:
            return Call("add", {"a": number(request), "b": 1})
        return request.messages[-1].text

    def number(request: Any) -> int:
        return int(request.messages[1].text.rpartition("#")[2])

    model.say(*[reply] * 2_000)
    agent = BaseAgent(signature=Question, tools=[add], kernel=kernel)
    answers: dict[int, str] = {}

    async def ask(count: int) -> None:
        answers[count] = (await agent.run(question=f"#{count}")).answer

    async with anyio.create_task_group() as tasks:
        for count in range(1_000):
            tasks.start_soon(ask, count)
    assert answers == {count: str(count + 1) for count in range(1_000)}


async def test_the_log_is_on_disk_before_each_effect_and_folds_to_the_run(
    model: ScriptedModel,
) -> None:
    store = MemoryCheckpointStore()
    at_effect: list[str] = []

    class StorePlugin:
        @hookimpl
        def contribute(self, registry: Any) -> None:
            registry.add(CheckpointStore, "memory", store)

    @tool(danger="safe")
    async def look() -> str:
        """Look at what is stored."""
        at_effect.extend(each.type for each in await store.read(current_run().id))
        await current_run().checkpoint("halfway")
        return "seen"

    model.say(Call("look"), "done")
    options: Any = {"discover": False, "config_file": False, "environ": {}}
    config = {"default_provider": "scripted", "checkpoint_store": "memory"}
    plugins = [ModelPlugin(model), StorePlugin]
    async with Kernel(plugins=plugins, config=config, **options) as kernel:
        agent = BaseAgent(signature=Question, tools=[look], kernel=kernel)
        result = await agent.run(question="?")

    assert at_effect == ["run_started", "model_requested", "model_replied", "tool_intended"]
    state = fold(decode(each) for each in await store.read(result.run_id))
    assert state.status == "completed"
    assert tuple(state.messages) == result.messages
    assert state.usage == result.usage
    assert [mark.description for mark in state.marks] == ["halfway"]
    assert state.outputs == {"answer": "done"}
    assert not state.pending


async def test_tools_that_run_at_once_share_one_durable_log(model: ScriptedModel) -> None:
    class Slow(MemoryCheckpointStore):
        async def append(
            self, run_id: str, entries: Any, *, token: int | None = None
        ) -> None:
            await anyio.lowlevel.checkpoint()
            await super().append(run_id, entries, token=token)
            await anyio.lowlevel.checkpoint()

    class StorePlugin:
        @hookimpl
        def contribute(self, registry: Any) -> None:
            registry.add(CheckpointStore, "slow", Slow)

    model.say([Call("add", {"a": n, "b": n}) for n in range(8)], "done")
    options: Any = {"discover": False, "config_file": False, "environ": {}}
    config = {"default_provider": "scripted", "checkpoint_store": "slow"}
    plugins = [ModelPlugin(model), StorePlugin]
    async with Kernel(plugins=plugins, config=config, **options) as kernel:
        agent = BaseAgent(signature=Question, tools=[add], kernel=kernel)
        result = await agent.run(question="?")
        store = await kernel.get(CheckpointStore, "slow")  # type: ignore[type-abstract]
        state = fold(decode(each) for each in await store.read(result.run_id))
    assert state.tool_calls == 8
    assert state.status == "completed"


async def test_middleware_that_forgets_to_return_is_told_so(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Forgetful:
        @hookimpl
        async def wrap_model_call(self, request: Any, call_next: Any) -> None:
            await call_next(request)

    model.say("lost")
    agent = BaseAgent(signature=Question, hooks=[Forgetful()], kernel=kernel)
    with pytest.raises(
        HookExecutionError, match="returned 'NoneType' instead of 'ModelReply'"
    ):
        await agent.run(question="?")


async def test_a_provider_that_returns_nothing_is_named(
    kernel: Kernel, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(request: Any) -> None: ...

    monkeypatch.setattr(model, "complete", nothing)
    with pytest.raises(ModelError, match="provider 'scripted' answered with 'NoneType'"):
        await BaseAgent(signature=Question, kernel=kernel).run(question="?")


async def test_a_checkpoint_is_an_operation_like_the_others(
    kernel: Kernel, model: ScriptedModel
) -> None:
    seen: list[Any] = []

    class Watch:
        @hookimpl
        async def pre_checkpoint_save(self, event: CheckpointEvent) -> None:
            seen.append(("pre", event.request.description))

        @hookimpl
        async def wrap_checkpoint_save(self, request: Any, call_next: Any) -> Checkpoint:
            mark: Checkpoint = await call_next(replace(request, description="changed"))
            return mark

        @hookimpl
        async def post_checkpoint_save(self, event: CheckpointEvent) -> None:
            assert event.result is not None
            seen.append(("post", event.result.description))

    marks: list[Checkpoint] = []

    @tool(danger="safe")
    async def save() -> str:
        """Save."""
        marks.append(await current_run().checkpoint("halfway", {"page": 3}))
        return "saved"

    model.say(Call("save"), "done")
    agent = BaseAgent(signature=Question, tools=[save], hooks=[Watch()], kernel=kernel)
    result = await agent.run(question="?")
    assert seen == [("pre", "halfway"), ("post", "changed")]
    assert marks[0].id == f"{result.run_id}:{marks[0].seq}"


async def test_a_store_that_fails_stops_the_run_before_the_effect(
    model: ScriptedModel,
) -> None:
    class Full(MemoryCheckpointStore):
        async def append(
            self, run_id: str, entries: Any, *, token: int | None = None
        ) -> None:
            if any(entry.type == "tool_intended" for entry in entries):
                raise CheckpointSaveError("the disk", "is full")
            await super().append(run_id, entries, token=token)

    class StorePlugin:
        @hookimpl
        def contribute(self, registry: Any) -> None:
            registry.add(CheckpointStore, "full", Full)

    called = False

    @tool(danger="safe")
    async def act() -> str:
        """Act."""
        nonlocal called
        called = True
        return "done"

    model.say(Call("act"), "done")
    options: Any = {"discover": False, "config_file": False, "environ": {}}
    config = {"default_provider": "scripted", "checkpoint_store": "full"}
    plugins = [ModelPlugin(model), StorePlugin]
    async with Kernel(plugins=plugins, config=config, **options) as kernel:
        agent = BaseAgent(signature=Question, tools=[act], kernel=kernel)
        with pytest.raises(CheckpointSaveError, match="is full"):
            await agent.run(question="?")
    assert not called


async def test_the_hooks_of_an_agent_itself_can_be_asked_for(
    kernel: Kernel, model: ScriptedModel
) -> None:
    kept: WeakKeyDictionary[Run, str] = WeakKeyDictionary()

    class Keeping:
        """Keeps something of each run, as long as that lives."""

        @hookimpl
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            kept[current_run()] = "something"
            seen.append(len(kept))
            return await call_next(request)

    seen: list[int] = []
    model.say("42")
    keeping, plain = Keeping(), BaseAgent(signature=Question, kernel=kernel)
    agent = BaseAgent(signature=Question, kernel=kernel, hooks=[keeping])
    await agent.run(question="6 × 7?")
    gc.collect()

    (own,) = agent.own_hooks
    (found,) = own.implementations("wrap_model_call")
    assert found.function == keeping.wrap_model_call
    assert plain.own_hooks == ()
    assert (seen, len(kept)) == ([1], 0)
