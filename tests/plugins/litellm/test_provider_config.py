"""What a user may set for a model goes to it, and nothing else goes to litellm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kaizen import (
    Audio,
    Effect,
    Message,
    ModelRequest,
    ModelRequestError,
    ModelSettings,
    OutputSpec,
    ToolSpec,
)
from kaizen_litellm import ProviderSettings
from kaizen_litellm._asking import _PARAMETERS
from kaizen_litellm._keys import Keys
from kaizen_litellm._targets import route_target, target

from tests.wire.server import WireServer

from .conftest import Opened, asking

pytestmark = pytest.mark.anyio

WEATHER = ToolSpec(
    name="weather",
    description="Tell the weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
    effect=Effect.of("safe"),
)
PLACE = OutputSpec(
    name="place",
    schema={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)


def extra(**fields: Any) -> ModelSettings:
    return ModelSettings(extra=fields)


@pytest.mark.parametrize(
    "field",
    [
        "azure_ad_token",
        "caching",
        "deployment_id",
        "functions",
        "headers",
        "input_cost_per_token",
        "metadata",
        "model_info",
        "organization",
        "request_timeout",
        "ssl_verify",
        "stream_timeout",
        "use_litellm_proxy",
        "vertex_credentials",
    ],
)
async def test_what_is_not_for_the_model_is_refused(
    wire: WireServer, opened: Opened, field: str
) -> None:
    async with opened() as provider:
        with pytest.raises(ModelRequestError, match=f"cannot be given '{field}'"):
            await provider.complete(asking(settings=extra(**{field: "x"})))

    assert not wire.requests


async def test_none_of_litellms_own_parameters_is_let_through() -> None:
    from kaizen_litellm._loaded import litellm

    assert not _PARAMETERS & set(litellm.all_litellm_params) - {"allowed_openai_params"}


@pytest.mark.parametrize("way", ["openai", "google", "cohere", "ollama"])
async def test_fields_that_litellm_does_not_know_are_sent_in_extra_body(
    wire: WireServer, opened: Opened, way: str
) -> None:
    async with opened(way) as provider:
        await provider.complete(asking(settings=extra(extra_body={"of_its_own": 0.25})))

    assert wire.requests[-1].json["of_its_own"] == 0.25


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("abc", "takes an object as `extra_body`"),
        ({"messages": []}, "cannot be given 'messages' by `extra_body`"),
        ({"x": 1, "stream": True}, "cannot be given 'stream' by `extra_body`"),
    ],
)
async def test_extra_body_holds_nothing_that_only_we_can_fill_in(
    wire: WireServer, opened: Opened, body: Any, problem: str
) -> None:
    async with opened() as provider:
        with pytest.raises(ModelRequestError, match=problem):
            await provider.complete(asking(settings=extra(extra_body=body)))

    assert not wire.requests


@pytest.mark.parametrize(
    "headers", ["abc", {"X": 5}, {"X-Key": "sk-hidden\r\nX: y"}, {"a b": "c"}, {5: "c"}]
)
async def test_headers_that_are_none_are_refused_and_not_shown(
    wire: WireServer, opened: Opened, headers: Any
) -> None:
    async with opened() as provider:
        with pytest.raises(ModelRequestError, match="extra_headers") as caught:
            await provider.complete(asking(settings=extra(extra_headers=headers)))

    assert not caught.value.retryable
    assert "hidden" not in str(caught.value)
    assert not wire.requests


@pytest.mark.parametrize("way", ["openai", "azure", "google", "cohere"])
async def test_headers_of_the_settings_are_sent_with_texts_to_embed(
    wire: WireServer, opened: Opened, way: str
) -> None:
    async with opened(way, headers={"X-Team": "blue"}) as provider:
        await provider.embed(["a"], model="embedder")

    assert wire.requests[-1].headers["x-team"] == "blue"


@pytest.mark.parametrize("way", ["openai", "azure"])
async def test_headers_of_the_settings_are_sent_with_speech(
    wire: WireServer, opened: Opened, way: str
) -> None:
    audio = Audio(b"RIFF\x00\x00\x00\x00WAVEfmt ", media_type="audio/wav")

    async with opened(way, headers={"X-Team": "blue"}) as provider:
        await provider.transcribe(audio, model="whisper-1")

    assert wire.requests[-1].headers["x-team"] == "blue"


@pytest.mark.parametrize("strict", [True, False, None])
async def test_a_schema_that_is_a_mere_hint_is_sent_as_one(
    wire: WireServer, opened: Opened, strict: bool | None
) -> None:
    told: dict[str, Any] = {"name": "place", "schema": PLACE.schema}
    told |= {} if strict is None else {"strict": strict}
    wanted = {"type": "json_schema", "json_schema": told}

    async with opened() as provider:
        await provider.complete(asking(settings=extra(response_format=wanted)))

    sent = wire.requests[-1].json["response_format"]["json_schema"]
    assert sent["strict"] is (strict is not False)


@pytest.mark.parametrize(
    ("way", "model"),
    [
        ("google", "gemini-2.5-flash"),
        ("anthropic", "claude-sonnet-4-20250514"),
        ("huggingface", "openai/gpt-oss-20b"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
async def test_a_model_that_cannot_have_both_a_schema_and_tools_has_tools(
    wire: WireServer, opened: Opened, way: str, model: str, strict: bool
) -> None:
    output = OutputSpec(name="place", schema=PLACE.schema, strict=strict)
    asked = Message(role="user", content="Where? Answer in JSON.")

    async with opened(way, model=model) as provider:
        await provider.complete(
            ModelRequest(messages=(asked,), tools=(WEATHER,), output=output)
        )

    arrived = wire.requests[-1]
    sent = json.dumps(arrived.json)
    assert list(arrived.tools) == ["weather"]
    assert "tool_choice" not in sent
    assert not any(
        word in sent
        for word in ("response_format", "response_mime_type", "responseMimeType")
    )
    assert ("When you give your answer" in sent) is strict


@pytest.mark.parametrize(
    ("way", "model"), [("anthropic", "claude-haiku-4-5"), ("openai", "gpt-4o")]
)
async def test_a_model_that_can_have_both_has_both(
    wire: WireServer, opened: Opened, way: str, model: str
) -> None:
    async with opened(way, model=model) as provider:
        await provider.complete(asking(tools=(WEATHER,), output=PLACE))

    arrived = wire.requests[-1]
    assert list(arrived.tools) == ["weather"]
    assert arrived.schema is not None


@pytest.mark.parametrize(
    ("known", "both"),
    [({}, False), ({"supports_native_structured_output": True}, True)],
)
async def test_claude_can_have_both_or_not_wherever_it_is(
    known: dict[str, Any], both: bool
) -> None:
    azure = target("azure", ProviderSettings(), Keys({}))

    assert azure.holds_with_tools("claude-opus-4-6", known) is both
    assert azure.holds_with_tools("gpt-4o", known)
    assert route_target("mistral", None).holds_with_tools("large", known) is both
