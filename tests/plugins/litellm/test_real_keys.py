"""The real providers, for those who have a key and set KAIZEN_REAL_KEYS=1.

| provider | is asked where this is set | and its model stands in |
|---|---|---|
| `openai` | `OPENAI_API_KEY` | |
| `anthropic` | `ANTHROPIC_API_KEY` | |
| `google` | `GOOGLE_API_KEY` | |
| `cohere` | `COHERE_API_KEY` | |
| `huggingface` | `HF_TOKEN` | |
| `azure` | `AZURE_OPENAI_API_KEY`, with its `…_ENDPOINT` | `KAIZEN_REAL_AZURE_MODEL` |
| `ollama` | `OLLAMA_HOST` | `KAIZEN_REAL_OLLAMA_MODEL`, or it is the first |
| any route | `KAIZEN_REAL_ROUTE`, as `groq/llama-3.3-70b-versatile`, with its key | |
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
from kaizen import (
    Effect,
    Kernel,
    ModelAuthError,
    ModelReply,
    ModelRequest,
    OutputSpec,
    Provider,
    ToolSpec,
)
from kaizen_litellm import LitellmPlugin

from .conftest import answered, asking, kernel_for

KEYS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GOOGLE_API_KEY",
    "cohere": "COHERE_API_KEY",
    "huggingface": "HF_TOKEN",
}
SET = {
    **KEYS,
    "azure": "AZURE_OPENAI_API_KEY",
    "ollama": "OLLAMA_HOST",
    "litellm": "KAIZEN_REAL_ROUTE",
}
MODELS = {
    "huggingface": "openai/gpt-oss-20b",
    "azure": os.environ.get("KAIZEN_REAL_AZURE_MODEL", ""),
    "ollama": os.environ.get("KAIZEN_REAL_OLLAMA_MODEL", ""),
    "litellm": os.environ.get("KAIZEN_REAL_ROUTE", ""),
}
UNPRICED = {"huggingface", "azure", "litellm"}  # some of their models have a price
UNCERTAIN = {"huggingface", "ollama", "litellm"}  # some of their models can do it

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        os.environ.get("KAIZEN_REAL_KEYS") != "1", reason="KAIZEN_REAL_KEYS is not 1"
    ),
]
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
SUM = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _nobody_else_is_asked() -> None:
    """Let these tests look beyond this machine."""


@dataclass
class Real:
    """A provider, and the model that is asked."""

    name: str
    provider: Provider

    async def answer(self, text: str, *, stream: bool, **fields: Any) -> ModelReply:
        model = MODELS.get(self.name, "")
        request: ModelRequest = asking(text, model=model, **fields)
        return await answered(self.provider, request, stream=stream)


@pytest.fixture(params=SET)
async def real(request: pytest.FixtureRequest) -> AsyncGenerator[Real]:
    """A provider of which is set what it needs."""
    name: str = request.param
    if not os.environ.get(SET[name]):
        pytest.skip(f"{SET[name]} is not set")
    async with Kernel(plugins=[LitellmPlugin], discover=False, config_file=False) as kernel:
        yield Real(name, await kernel.get(Provider, name))  # type: ignore[type-abstract]


@both
async def test_text(real: Real, stream: bool) -> None:
    reply = await real.answer("Say the word 'chess'.", stream=stream)

    assert "chess" in reply.text.lower()
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0
    if real.name == "ollama":
        assert reply.cost_usd == 0
    elif real.name not in UNPRICED:
        assert reply.cost_usd


@both
async def test_structured_output(real: Real, stream: bool) -> None:
    if real.name in UNCERTAIN:
        pytest.skip("not every model of it is held to a schema")
    output = OutputSpec(name="sum", schema=SUM)

    reply = await real.answer("2 + 3?", stream=stream, output=output)

    assert "".join(reply.text.split()) == '{"sum":5}'


@both
async def test_tools(real: Real, stream: bool) -> None:
    if real.name in UNCERTAIN:
        pytest.skip("not every model of it calls tools")
    spec = ToolSpec(
        name="add", description="Add up.", parameters=SUM, effect=Effect.of("safe")
    )

    reply = await real.answer("Call `add` with the sum 5.", stream=stream, tools=(spec,))

    assert [use.name for use in reply.tool_uses] == ["add"]
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("name", ["openai", "google", "cohere"])
async def test_vectors(name: str) -> None:
    if not os.environ.get(KEYS[name]):
        pytest.skip(f"{KEYS[name]} is not set")

    async with kernel_for(environ=os.environ) as kernel:
        provider = await kernel.get(Provider, name)  # type: ignore[type-abstract]
        one, other = await provider.embed(["chess", "the moon"])

    assert len(one) == len(other) > 1
    assert one != other


@pytest.mark.parametrize(("name", "variable"), KEYS.items())
async def test_a_wrong_key(name: str, variable: str) -> None:
    async with kernel_for(environ={variable: "sk-wrong"}) as kernel:
        provider = await kernel.get(Provider, name)  # type: ignore[type-abstract]
        with pytest.raises(ModelAuthError):
            await provider.complete(asking(model=MODELS.get(name, "")))
