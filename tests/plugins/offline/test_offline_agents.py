"""Agents of a real kernel work with both models, with no other plugin installed."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import pytest
from anyio import run_process
from kaizen import (
    BaseAgent,
    InputField,
    Kernel,
    ModelError,
    OutputField,
    Provider,
    Signature,
    TextDelta,
    ToolUse,
    tool,
)
from kaizen_offline import MockProvider, OfflinePlugin, OfflineProvider, OfflineSettings

pytestmark = pytest.mark.asyncio


class Ask(Signature):
    """Answer a question from a text."""

    context: str = InputField(desc="What may be known")
    question: str = InputField(desc="What is asked")
    answer: str = OutputField(desc="The answer")
    confidence: float = OutputField(desc="How sure", ge=0, le=1)


class Review(Signature):
    """Judge a product review."""

    text: str = InputField(desc="The review")
    sentiment: Literal["good", "bad", "mixed"] = OutputField(desc="Overall tone")
    confidence: float = OutputField(desc="0 to 1", ge=0, le=1)


class Research(Signature):
    """Find out from the files."""

    question: str = InputField(desc="What is asked")
    answer: str = OutputField(desc="The answer")
    sources: list[str] = OutputField(desc="Where it stands")


def offline_kernel(**settings: int) -> Kernel:
    plugin = OfflinePlugin(OfflineSettings(**settings))
    return Kernel(plugins=[plugin], discover=False, config_file=False, environ={})


async def test_an_agent_answers_from_what_it_is_given() -> None:
    async with offline_kernel() as kernel:
        agent = BaseAgent(config={"llm_provider": "offline"}, signature=Ask, kernel=kernel)

        result = await agent.run(
            context="The desk opens at nine.\n\nhours: see the door",
            question="When does the desk open?",
        )

    assert result["answer"].startswith("The desk opens at nine.")
    assert result["confidence"] > 0.5
    assert result.usage.total_tokens > 0
    assert result.cost_usd == 0


async def test_an_agent_says_that_it_does_not_know() -> None:
    async with offline_kernel() as kernel:
        agent = BaseAgent(config={"llm_provider": "offline"}, signature=Ask, kernel=kernel)

        result = await agent.run(context="The desk is green.", question="Who is the mayor?")

    assert result["answer"].startswith("I do not know")
    assert result["confidence"] == 0


async def test_a_signature_of_one_text_is_answered_in_words() -> None:
    async with offline_kernel() as kernel:
        agent = BaseAgent(
            config={"llm_provider": "offline"},
            signature="context, question -> answer",
            kernel=kernel,
        )

        result = await agent.run(context="Ada keeps bees.", question="What does Ada keep?")

    assert result["answer"].startswith("Ada keeps bees.")


async def test_a_class_is_chosen_or_refused_with_the_name_of_the_field() -> None:
    async with offline_kernel() as kernel:
        agent = BaseAgent(
            config={"llm_provider": "offline"}, signature=Review, kernel=kernel
        )

        result = await agent.run(text="Loved it")

        assert result["sentiment"] == "good"
        with pytest.raises(ModelError, match="cannot answer field 'sentiment'"):
            await agent.run(text="It came on Monday.")


async def test_an_agent_with_file_tools_reads_before_it_answers(corpus: Any) -> None:
    @tool(danger="low")
    async def list_directory(path: str) -> str:
        """List a directory."""
        return str(corpus.list_directory(path))

    @tool(danger="low")
    async def grep(pattern: str, ignore_case: bool = False, limit: int = 100) -> str:
        """Search the files."""
        return str(corpus.grep(pattern, ".", ignore_case, limit))

    @tool(danger="low")
    async def read_file(path: str, start_line: int = 1) -> str:
        """Read a file."""
        return str(corpus.read_file(path, start_line))

    async with offline_kernel(max_turns=4) as kernel:
        agent = BaseAgent(
            config={"llm_provider": "offline"},
            signature=Research,
            tools=[list_directory, grep, read_file],
            kernel=kernel,
        )

        result = await agent.run(question="Who designed the lighthouse?")

    assert "Ebba Lindqvist" in result["answer"]
    assert result["sources"][0].startswith("notes/island.txt:5: The lighthouse")
    assert result.tool_calls > 2
    assert 2 < result.cycles <= 5


async def test_the_words_of_an_answer_are_streamed() -> None:
    async with offline_kernel() as kernel:
        agent = BaseAgent(config={"llm_provider": "offline"}, signature=Ask, kernel=kernel)

        async with agent.stream(
            context="Ada keeps bees.", question="Who keeps bees?"
        ) as run:
            pieces = [event.text async for event in run if isinstance(event, TextDelta)]

    assert len(pieces) > 1
    assert "Ada keeps bees." in json.loads("".join(pieces))["answer"]


async def test_the_mock_always_fills_the_signature() -> None:
    async with offline_kernel() as kernel:
        agent = BaseAgent(config={"llm_provider": "mock"}, signature=Review, kernel=kernel)

        result = await agent.run(text="Loved it")

    assert result["sentiment"] == "good"
    assert result["confidence"] == 0


async def test_the_config_of_an_agent_holds_the_script_of_the_mock() -> None:
    replies = [{"sentiment": "mixed", "confidence": 0.4}]
    async with offline_kernel() as kernel:
        agent = BaseAgent(
            config={"llm_provider": "mock", "provider_config": {"replies": replies}},
            signature=Review,
            kernel=kernel,
        )

        results = [await agent.run(text="So so") for _ in range(2)]

    assert [each["sentiment"] for each in results] == ["mixed", "mixed"]


async def test_a_scripted_mock_calls_tools_and_keeps_what_it_was_asked() -> None:
    @tool(danger="safe")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    call = ToolUse(id="1", name="add", arguments={"a": 2, "b": 3})
    provider = MockProvider([call, lambda asked: asked.messages[-1].text])
    async with offline_kernel() as kernel:
        kernel.registry.add(Provider, "scripted", provider)
        agent = BaseAgent(
            config={"llm_provider": "scripted"},
            signature="question -> answer",
            tools=[add],
            kernel=kernel,
        )

        result = await agent.run(question="What is 2 and 3?")

    assert result["answer"] == "5"
    assert [each.cycle for each in provider.requests] == [1, 2]


async def test_the_installed_plugin_brings_both_models() -> None:
    async with Kernel(plugins=["offline"], config_file=False, environ={}) as kernel:
        mock = await kernel.get(Provider, "mock")  # type: ignore[type-abstract]
        offline = await kernel.get(Provider, "offline")  # type: ignore[type-abstract]

    assert isinstance(mock, MockProvider)
    assert isinstance(offline, OfflineProvider)


async def test_importing_the_plugin_loads_no_database_and_no_parser() -> None:
    code = (
        "import kaizen, sys; [getattr(kaizen, name) for name in kaizen.__all__]; "
        "before = set(sys.modules); import kaizen_offline; "
        "print(sorted(m for m in set(sys.modules) - before if 'kaizen_offline' not in m))"
    )

    done = await run_process([sys.executable, "-c", code])

    assert done.stdout.decode().strip() == "[]"
