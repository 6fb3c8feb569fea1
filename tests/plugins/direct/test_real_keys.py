"""The real providers, for those who have a key and set KAIZEN_REAL_KEYS=1."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import pytest
from kaizen import Effect, Kernel, ModelAuthError, OutputSpec, Provider, ToolSpec
from kaizen_direct import DirectPlugin

from .conftest import answered, asking

KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        os.environ.get("KAIZEN_REAL_KEYS") != "1", reason="KAIZEN_REAL_KEYS is not 1"
    ),
]
SUM = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}


@pytest.fixture(params=KEYS)
async def real(request: pytest.FixtureRequest) -> AsyncGenerator[Provider]:
    """A provider whose key is set."""
    name: str = request.param
    if not os.environ.get(KEYS[name]):
        pytest.skip(f"{KEYS[name]} is not set")
    async with Kernel(plugins=[DirectPlugin], discover=False, config_file=False) as kernel:
        yield await kernel.get(Provider, name)  # type: ignore[type-abstract]


@pytest.mark.parametrize("stream", [False, True])
async def test_text(real: Provider, stream: bool) -> None:
    reply = await answered(real, asking("Say the word 'chess'."), stream=stream)

    assert "chess" in reply.text.lower()
    assert reply.usage.input_tokens > 0
    assert reply.cost_usd


@pytest.mark.parametrize("stream", [False, True])
async def test_structured_output(real: Provider, stream: bool) -> None:
    output = OutputSpec(name="sum", schema=SUM)

    reply = await answered(real, asking("2 + 3?", output=output), stream=stream)

    assert reply.text.replace(" ", "") == '{"sum":5}'


@pytest.mark.parametrize("stream", [False, True])
async def test_tools(real: Provider, stream: bool) -> None:
    spec = ToolSpec(
        name="add", description="Add up.", parameters=SUM, effect=Effect.of("safe")
    )

    reply = await answered(
        real, asking("Call `add` with the sum 5.", tools=(spec,)), stream=stream
    )

    assert [use.name for use in reply.tool_uses] == ["add"]
    assert reply.finish_reason == "tool_calls"


async def test_models(real: Provider) -> None:
    assert len(await real.models()) > 3


@pytest.mark.parametrize(("name", "variable"), KEYS.items())
async def test_a_wrong_key(name: str, variable: str) -> None:
    async with Kernel(
        plugins=[DirectPlugin],
        discover=False,
        config_file=False,
        environ={variable: "sk-wrong"},
    ) as kernel:
        provider = await kernel.get(Provider, name)  # type: ignore[type-abstract]
        with pytest.raises(ModelAuthError):
            await provider.complete(asking())
