"""Agents work with real wire formats: tools, structured output, streams, accounts."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from kaizen import (
    BaseAgent,
    InputField,
    Kernel,
    ModelConnectionError,
    OutputField,
    Signature,
    TextDelta,
    tool,
)
from kaizen_direct import DirectPlugin

from tests.wire.server import Answer, Call, Fault, WireServer

from .conftest import WAYS, environment, table

pytestmark = pytest.mark.anyio

each_way = pytest.mark.parametrize(
    "way", ["openai", "azure", "anthropic", "ollama", "docker"]
)


class Trip(Signature):
    """Say where to go."""

    wish: str = InputField()
    city: str = OutputField()
    degrees: int = OutputField(ge=-50, le=60)
    why: list[str] = OutputField(min_length=1)


@tool(danger="safe", reads=True)
async def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"{city}: 21 °C"


@asynccontextmanager
async def agent_of(
    wire: WireServer, way: str, signature: Any, **config: Any
) -> AsyncGenerator[BaseAgent]:
    known = WAYS[way]
    tools = config.pop("tools", ())
    async with Kernel(
        plugins=[DirectPlugin],
        discover=False,
        settings={
            "direct": {"dotenv": False, "endpoints": {known.name: table(wire, known)}}
        },
        config_file=False,
        environ=environment(wire, known),
    ) as kernel:
        yield BaseAgent(
            {"llm_provider": known.name, **config}, signature, tools=tools, kernel=kernel
        )


@each_way
@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_calls_tools_and_gives_its_outputs(
    wire: WireServer, way: str, stream: bool
) -> None:
    wire.say(
        Answer(
            "",
            thinking="Let me see.",
            calls=[Call("weather", {"city": "Köln"}), Call("weather", {"city": "Rom"})],
        ),
        {"city": "Rom", "degrees": 21, "why": ["It is warm."]},
    )

    async with agent_of(wire, way, Trip, tools=[weather], stream=stream) as agent:
        result = await agent.run(wish="Somewhere warm")

    assert (result.city, result.degrees, result.why) == ("Rom", 21, ["It is warm."])
    assert result.usage.requests == 2
    assert "Köln: 21 °C" in wire.requests[-1].body.decode()
    if way == "anthropic":
        assert b'"Let me see."' in wire.requests[-1].body


@each_way
async def test_outputs_that_the_provider_fills_fit_the_signature(
    wire: WireServer, way: str
) -> None:
    async with agent_of(wire, way, Trip) as agent:
        result = await agent.run(wish="Somewhere warm")

    assert set(result) == {"city", "degrees", "why"}
    assert len(wire.requests) == 1


@each_way
async def test_a_reader_sees_the_text_as_it_comes(wire: WireServer, way: str) -> None:
    pieces = [f"{number} " for number in range(20)]
    wire.say(Answer(chunks=pieces))

    async with (
        agent_of(wire, way, "question -> answer") as agent,
        agent.stream(question="Count.") as run,
    ):
        seen = [event.text async for event in run if isinstance(event, TextDelta)]

    assert "".join(seen) == "".join(pieces)
    assert len(seen) > 1


async def test_what_a_broken_stream_cost_is_on_the_account(wire: WireServer) -> None:
    wire.say(Answer("word " * 40, fault=Fault("cut", at=30)))

    async with (
        agent_of(wire, "openai", "question -> answer", stream=True) as agent,
        agent.stream(question="Why?") as run,
    ):
        with pytest.raises(ModelConnectionError) as caught:
            await run.wait()

    assert caught.value.partial is not None
    assert caught.value.partial.text == ("word " * 30).rstrip()
    assert run.usage.output_tokens == 38
    assert run.usage.input_tokens > 0
    assert run.cost_usd == caught.value.partial.cost_usd != Decimal(0)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("llguidance", "numpy"))),
    reason="numpy and llguidance are not installed",
)
@pytest.mark.parametrize("way", ["docker", "openai"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_infers_gives_outputs_that_fit(way: str, stream: bool) -> None:
    from tests.wire.tiny_model import TinyModel

    with WireServer(otherwise=TinyModel()) as wire:
        async with agent_of(wire, way, Trip, stream=stream, max_output_retries=0) as agent:
            for wish in ("Sea", "Hills", "Snow"):
                result = await agent.run(wish=wish)
                assert isinstance(result.degrees, int)
                assert result.why
