"""What is sent and what comes back, the same through every endpoint that can do it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from math import inf, nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from kaizen import (
    Audio,
    Content,
    Document,
    Effect,
    Image,
    InputField,
    Message,
    ModelDelta,
    ModelError,
    ModelReply,
    ModelRequest,
    ModelRequestError,
    ModelSettings,
    OutputField,
    OutputSpec,
    Signature,
    ToolSpec,
    ToolUse,
    create_structured_output_config,
)
from kaizen_direct import _provider
from kaizen_direct._anthropic import AnthropicCodec, _plain
from kaizen_direct._endpoints import PRESETS
from kaizen_direct._provider import _Reader
from kaizen_direct._wire import Prepared

from tests.wire.script import Usage
from tests.wire.server import Answer, Call, WireServer

from .conftest import Opened, Serving, answered, asking, streamed

pytestmark = pytest.mark.anyio

each_way = pytest.mark.parametrize(
    "way", ["openai", "azure_ai", "anthropic", "ollama", "docker", "mine_anthropic"]
)
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])

WEATHER = ToolSpec(
    name="weather",
    description="Tell the weather.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    effect=Effect.of("safe"),
)
PLACE = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "people": {"type": "integer", "minimum": 1, "maximum": 50},
        "seen": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    },
    "required": ["city", "people", "seen"],
    "additionalProperties": False,
}


class Judged(Signature):
    question: str = InputField()
    answer: str = OutputField()
    sure: bool = OutputField()


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


def extra(**fields: Any) -> ModelSettings:
    return ModelSettings(extra=fields)


@each_way
@both
async def test_text_comes_back_as_it_was_written(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    text = 'ä \u2028 \U0001f600 "quoted" \\ \n\n data: [DONE]\r\n 東京\t'
    wire.say(Answer(chunks=list(text)))

    async with opened(way) as provider:
        reply = await answered(provider, asking("ß 東京?"), stream=stream)

    assert reply.text == text
    assert reply.finish_reason == "stop"
    assert wire.requests[-1].prompt == "ß 東京?"


@each_way
async def test_the_system_prompt_and_the_settings_arrive(
    wire: WireServer, opened: Opened, way: str
) -> None:
    request = ModelRequest(
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Why?"),
            Message(role="assistant", content="Because."),
            Message(role="user", content="Why so?"),
        ),
        settings=ModelSettings(temperature=0.5, max_tokens=77, extra={"top_p": 0.9}),
    )

    async with opened(way) as provider:
        await provider.complete(request)

    arrived = wire.requests[-1]
    assert [(turn.role, turn.text) for turn in arrived.turns] == [
        ("system", "Be brief."),
        ("user", "Why?"),
        ("assistant", "Because."),
        ("user", "Why so?"),
    ]
    body = arrived.json.get("options", arrived.json)
    limit = {"max_tokens", "max_completion_tokens", "num_predict"} & body.keys()
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    assert [body[name] for name in limit] == [77]


@each_way
@both
async def test_a_model_calls_tools_at_once(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    wire.say(
        Answer(
            "Let me look.",
            calls=[Call("weather", {"city": "Köln"}), Call("weather", {"city": "Rom"})],
        )
    )

    async with opened(way) as provider:
        reply = await answered(provider, asking(tools=(WEATHER,)), stream=stream)

    assert reply.finish_reason == "tool_calls"
    assert reply.text == "Let me look."
    assert [(use.name, arguments(use)) for use in reply.tool_uses] == [
        ("weather", {"city": "Köln"}),
        ("weather", {"city": "Rom"}),
    ]
    assert len({use.id for use in reply.tool_uses}) == 2
    assert list(wire.requests[-1].tools) == ["weather"]


@each_way
async def test_what_tools_said_goes_back_to_the_calls_that_asked(
    wire: WireServer, opened: Opened, way: str
) -> None:
    odd = "call:1/" + "x" * 60  # an id of another provider
    uses = (
        ToolUse(id=odd, name="weather", arguments={"city": "Köln"}),
        ToolUse(id="b", name="weather", arguments='{"city": "Rom"}'),
        ToolUse(id="c", name="weather", arguments="{nonsense"),
    )
    request = ModelRequest(
        messages=(
            Message(role="user", content="Where is it warm?"),
            Message(role="assistant", content="", tool_uses=uses),
            *(
                Message(role="tool", content=said, tool_use_id=use.id, name=use.name)
                for use, said in zip(uses, ("7 °C", "21 °C", "an error"), strict=True)
            ),
        ),
        tools=(WEATHER,),
    )
    wire.say("In Rome.")

    async with opened(way) as provider:
        reply = await provider.complete(request)

    assert reply.text == "In Rome."
    assert "21 °C" in wire.requests[-1].body.decode()


@pytest.mark.parametrize("way", ["openai", "azure", "anthropic", "docker", "mine"])
async def test_who_calls_is_told_which_tool_to_call(
    wire: WireServer, opened: Opened, way: str
) -> None:
    wanted = {"type": "function", "function": {"name": "weather"}}
    async with opened(way) as provider:
        await provider.complete(
            asking(
                tools=(WEATHER,),
                settings=extra(tool_choice=wanted, parallel_tool_calls=False),
            )
        )
        await provider.complete(
            asking(tools=(WEATHER,), settings=extra(tool_choice="required"))
        )
        await provider.complete(asking(settings=extra(tool_choice="required")))

    one, some, none = (each.json for each in wire.requests)
    if way == "anthropic":
        assert one["tool_choice"] == {
            "type": "tool",
            "name": "weather",
            "disable_parallel_tool_use": True,
        }
        assert some["tool_choice"] == {"type": "any"}
    else:
        assert one["tool_choice"] == wanted
        assert one["parallel_tool_calls"] is False
        assert some["tool_choice"] == "required"
    assert "tool_choice" not in none


@each_way
@both
async def test_strict_output_fits_its_schema(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    output = OutputSpec(name="Place of birth", schema=PLACE)

    async with opened(way) as provider:
        reply = await answered(provider, asking(output=output), stream=stream)

    assert set(json.loads(reply.text)) == {"city", "people", "seen"}
    assert wire.requests[-1].schema is not None


async def test_limits_that_anthropic_does_not_know_are_told_in_words(
    wire: WireServer, opened: Opened
) -> None:
    async with opened("anthropic") as provider:
        await provider.complete(asking(output=OutputSpec(name="p", schema=PLACE)))

    schema = wire.requests[-1].schema
    assert schema is not None
    assert schema["properties"]["people"] == {
        "type": "integer",
        "description": "{minimum: 1, maximum: 50}",
    }
    assert schema["properties"]["seen"]["description"] == "{minItems: 2}"


@pytest.mark.parametrize("way", ["openai", "azure_ai", "docker", "ollama"])
async def test_legacy_output_asks_for_some_json(
    wire: WireServer, opened: Opened, way: str
) -> None:
    output = OutputSpec(name="place", schema=PLACE, strict=False)

    async with opened(way) as provider:
        await provider.complete(asking("Answer in JSON.", output=output))

    body = wire.requests[-1].json
    assert body.get("format", body.get("response_format")) in (
        "json",
        {"type": "json_object"},
    )


@pytest.mark.parametrize("way", ["openai", "anthropic", "ollama", "mine"])
@pytest.mark.parametrize("strict", [True, False])
async def test_a_response_format_among_the_fields_of_a_user_is_understood(
    wire: WireServer, opened: Opened, way: str, strict: bool
) -> None:
    wanted = create_structured_output_config(Judged, strict=strict, name="an answer")

    async with opened(way) as provider:
        reply = await provider.complete(asking(settings=extra(response_format=wanted)))

    if strict:
        assert set(json.loads(reply.text)) == {"answer", "sure"}
    else:
        assert b'"json_schema"' not in wire.requests[-1].body


@pytest.mark.parametrize("way", ["docker", "vllm", "ollama", "mine"])
async def test_where_a_schema_would_forbid_tool_calls_it_is_told_in_words(
    wire: WireServer, opened: Opened, way: str
) -> None:
    request = ModelRequest(
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Where?"),
        ),
        tools=(WEATHER,),
        output=OutputSpec(name="place", schema=PLACE),
    )
    wire.say(Call("weather", {"city": "Rom"}))

    async with opened(way) as provider:
        reply = await provider.complete(request)

    arrived = wire.requests[-1]
    assert reply.tool_uses
    assert arrived.schema is None
    assert arrived.turns[0].text.startswith("Be brief.\n\nWhen you give your answer")
    assert '"people"' in arrived.turns[0].text


@each_way
@both
async def test_usage_is_counted_with_what_was_cached_and_thought(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    counted = Usage(
        input_tokens=1_000, output_tokens=50, cached_tokens=900, reasoning_tokens=30
    )
    wire.say(Answer("Yes.", usage=counted))

    async with opened(way) as provider:
        reply = await answered(provider, asking(), stream=stream)

    usage = reply.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (1, 1_000, 50)
    if way != "ollama":
        assert usage.cached_tokens == 900
    if way not in ("ollama", "anthropic", "mine_anthropic"):
        assert usage.reasoning_tokens == 30


@each_way
@both
async def test_reasoning_is_kept_apart_from_the_text(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    wire.say(Answer("42", thinking="Six times seven …"))

    async with opened(way) as provider:
        reply = await answered(provider, asking(), stream=stream)

    assert reply.text == "42"
    assert reply.reasoning == "Six times seven …"


@each_way
async def test_what_comes_behind_the_last_text_is_a_sign_of_life(
    wire: WireServer, opened: Opened, way: str
) -> None:
    wire.say(Answer(chunks=["Hel", "lo"], between_s=0.05))

    async with opened(way) as provider:
        *deltas, reply = [each async for each in provider.stream(asking())]

    shown = [each for each in deltas if each != ModelDelta()]
    assert shown == [ModelDelta(text="Hel"), ModelDelta(text="lo")]
    assert deltas[0] == shown[0]  # what comes before is not yet an answer
    assert deltas[-1] == ModelDelta()
    assert isinstance(reply, ModelReply)


@pytest.mark.parametrize("way", ["openai", "anthropic"])
async def test_an_answer_that_is_whole_does_not_wait_long_for_its_account(
    wire: WireServer, opened: Opened, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_provider, "ACCOUNT_S", 0.02)
    wire.say(Answer(chunks=["Hello"], between_s=0.3))

    async with opened(way) as provider:
        text, reply = await streamed(provider, asking())

    assert text == reply.text == "Hello"
    assert reply.finish_reason == "stop"
    assert way == "anthropic" or reply.usage.output_tokens == 0  # it did not come in time


async def test_the_end_is_passed_on_before_its_connection_is_waited_for(
    serving: Serving, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ModelDelta | ModelReply | str] = []
    drain = _Reader._drain

    async def draining(reader: _Reader) -> None:
        seen.append("waits")
        await drain(reader)

    monkeypatch.setattr(_Reader, "_drain", draining)
    body = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
        b"data: [DONE]\n\n"
    )

    async with opened("vllm", base_url=serving(body)) as provider:
        async for piece in provider.stream(asking()):
            seen += [piece]

    assert seen[0] == ModelDelta(text="Hi")
    assert seen[-2] == "waits"
    assert isinstance(seen[-1], ModelReply)


async def test_reasoning_is_streamed(wire: WireServer, opened: Opened) -> None:
    wire.say(Answer("42", thinking="Six times seven …"))

    async with opened("anthropic") as provider:
        pieces = [each async for each in provider.stream(asking())]

    assert pieces[0] == ModelDelta(reasoning="Six times seven …")


@each_way
@both
@pytest.mark.parametrize("stop", ["length", "content_filter"])
async def test_stop_reasons_have_one_word_everywhere(
    wire: WireServer, opened: Opened, way: str, stream: bool, stop: Any
) -> None:
    wire.say(Answer("And so", stop=stop))

    async with opened(way) as provider:
        reply = await answered(provider, asking(), stream=stream)

    ollamas = "stop" if stop == "content_filter" else stop
    assert reply.finish_reason == (ollamas if way == "ollama" else stop)
    assert reply.text == "And so"


@each_way
async def test_an_image_is_sent(
    wire: WireServer, opened: Opened, way: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    content: Content = ("What is this?", Image(PNG), Image(tmp_path / "a.png"))

    async with opened(way) as provider:
        await provider.complete(
            ModelRequest(messages=(Message(role="user", content=content),))
        )

    arrived = wire.requests[-1]
    assert arrived.turns[-1].images == 2
    assert arrived.body.count(b64encode(PNG)) == 2
    assert arrived.prompt == "What is this?"


@pytest.mark.parametrize("way", ["openai", "anthropic"])
async def test_an_image_on_the_web_is_fetched_by_the_provider(
    wire: WireServer, opened: Opened, way: str
) -> None:
    content = ("What?", Image("https://example.org/a.png"))

    async with opened(way) as provider:
        await provider.complete(
            ModelRequest(messages=(Message(role="user", content=content),))
        )

    assert b"https://example.org/a.png" in wire.requests[-1].body


@pytest.mark.parametrize("way", ["openai", "anthropic"])
async def test_documents_are_sent_in_the_form_that_there_is_for_them(
    wire: WireServer, opened: Opened, way: str
) -> None:
    pdf = Document(b"%PDF-1.7 ...", media_type="application/pdf")
    text = Document("Grüße".encode(), media_type="text/plain")

    async with opened(way) as provider:
        await provider.complete(
            ModelRequest(messages=(Message(role="user", content=("Sum up.", pdf, text)),))
        )

    body = wire.requests[-1].body
    assert b64encode(b"%PDF-1.7 ...") in body
    assert "Grüße".encode() in body


@pytest.mark.parametrize(
    ("way", "media"),
    [
        ("anthropic", Audio(b"RIFF    WAVE", media_type="audio/wav")),
        ("ollama", Image("https://example.org/a.png")),
        ("openai", Document(b"PK", media_type="application/epub+zip")),
    ],
)
async def test_what_a_provider_cannot_read_is_refused_before_it_is_sent(
    wire: WireServer, opened: Opened, way: str, media: Any
) -> None:
    async with opened(way) as provider:
        with pytest.raises(ModelError, match=r"takes no|fetches nothing"):
            await provider.complete(
                ModelRequest(messages=(Message(role="user", content=("?", media)),))
            )

    assert not wire.requests


async def test_what_a_tool_shows_is_seen_where_a_tool_message_holds_only_text(
    wire: WireServer, opened: Opened
) -> None:
    use = ToolUse(id="a", name="weather", arguments={"city": "Rom"})
    request = ModelRequest(
        messages=(
            Message(role="user", content="Look."),
            Message(role="assistant", content="", tool_uses=(use,)),
            Message(
                role="tool", content=("Here.", Image(PNG)), tool_use_id="a", name="weather"
            ),
        ),
        tools=(WEATHER,),
    )

    async with opened() as provider:
        await provider.complete(request)

    roles = [(turn.role, turn.images) for turn in wire.requests[-1].turns]
    assert roles == [("user", 0), ("assistant", 0), ("tool", 0), ("user", 1)]


@pytest.mark.parametrize("way", ["openai", "azure", "ollama", "docker", "vllm", "mine"])
async def test_texts_are_embedded_in_batches_and_in_their_order(
    wire: WireServer, opened: Opened, way: str
) -> None:
    texts = [f"text {number}" for number in range(7)]

    async with opened(way, settings={"embed_batch": 3}) as provider:
        vectors = await provider.embed(texts, model="embedder")
        alone = [(await provider.embed([text], model="embedder"))[0] for text in texts]
        nothing = await provider.embed([], model="embedder")

    assert [len(each.texts) for each in wire.requests[:3]] == [3, 3, 1]
    assert vectors == alone
    assert len({tuple(each) for each in vectors}) == 7
    assert nothing == []


async def test_vectors_that_come_in_another_order_are_put_right(
    wire: WireServer, opened: Opened
) -> None:
    from kaizen_direct._endpoints import PRESETS
    from kaizen_direct._openai import OpenAiCodec

    said = {
        "data": [{"index": 1, "embedding": [2, 0]}, {"index": 0, "embedding": [1.5, 0]}]
    }

    assert OpenAiCodec(PRESETS["openai"]).vectors(said) == [[1.5, 0.0], [2.0, 0.0]]


async def test_fewer_vectors_than_texts_are_an_error(
    wire: WireServer, opened: Opened
) -> None:
    wire.say(Answer(vectors=[[1.0, 0.0]]))

    async with opened() as provider:
        with pytest.raises(ModelError, match="cannot be understood"):
            await provider.embed(["a", "b"])


async def test_anthropic_embeds_nothing_and_says_so(opened: Opened) -> None:
    async with opened("anthropic") as provider:
        with pytest.raises(ModelError, match="cannot embed texts"):
            await provider.embed(["a"])
        with pytest.raises(ModelError, match="cannot transcribe"):
            await provider.transcribe(Audio(b"RIFF    WAVE", media_type="audio/wav"))


@pytest.mark.parametrize("way", ["openai", "azure"])
@pytest.mark.parametrize(
    ("model", "language", "duration_s"),
    [("whisper-1", "de", 1.5), ("gpt-4o-transcribe", "", 2)],
)
async def test_speech_becomes_text_with_language_and_duration(
    wire: WireServer,
    opened: Opened,
    way: str,
    model: str,
    language: str,
    duration_s: float,
    tmp_path: Path,
) -> None:
    recording = b"RIFF    WAVE\r\n--boundary\r\n" + bytes(range(256))
    (tmp_path / "a.wav").write_bytes(recording)
    wire.say(Answer("Grüß Gott", language="german", duration_s=1.5))

    async with opened(way) as provider:
        said = await provider.transcribe(Audio(tmp_path / "a.wav"), model=model)

    assert (said.text, said.language, said.duration_s) == (
        "Grüß Gott",
        language,
        duration_s,
    )
    assert wire.requests[-1].form["file"] == recording


@pytest.mark.parametrize(
    ("word", "code"),
    [("english", "en"), ("German", "de"), ("cantonese", "yue"), ("fr", "fr"), ("", "")],
)
def test_languages_have_their_codes(word: str, code: str) -> None:
    from kaizen_direct._speech import transcript

    assert transcript({"text": "", "language": word}).language == code


@each_way
async def test_models_are_listed_where_the_endpoint_lists_them(
    wire: WireServer, opened: Opened, way: str
) -> None:
    async with opened(way) as provider:
        found = [each.name for each in await provider.models()]

    assert found == ([] if way.startswith("azure") else ["wire-1", "wire-2"])


@pytest.mark.parametrize("way", ["ollama", "docker", "vllm"])
async def test_a_server_that_runs_its_own_models_is_asked_for_its_first(
    wire: WireServer, opened: Opened, way: str
) -> None:
    async with opened(way, model="") as provider:
        first = await provider.complete(asking())
        second = await provider.complete(asking())

    assert (first.model, second.model) == ("wire-1", "wire-1")
    assert [each.kind for each in wire.requests] == ["list", "chat", "chat"]


async def test_azure_has_to_be_told_its_deployment(opened: Opened) -> None:
    async with opened("azure", model="") as provider:
        with pytest.raises(ModelError, match="was asked for no model"):
            await provider.complete(asking())


async def test_azure_is_asked_by_deployment_and_version(
    wire: WireServer, opened: Opened
) -> None:
    async with opened("azure", api_version="2025-01-01-preview") as provider:
        await provider.complete(asking(model="my dep"))

    arrived = wire.requests[-1]
    assert arrived.path == "/openai/deployments/my dep/chat/completions"
    assert arrived.query == {"api-version": "2025-01-01-preview"}
    assert arrived.headers["api-key"] == wire.key
    assert "authorization" not in arrived.headers


@pytest.mark.parametrize("way", ["anthropic", "ollama", "docker", "vllm", "mine_anthropic"])
@both
async def test_a_reply_goes_on_from_its_beginning(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    wire.say("Once upon a time there was a king.")

    async with opened(way) as provider:
        assert provider.describe("").continues
        reply = await answered(provider, asking(prefix="Once upon a time"), stream=stream)

    assert reply.text == " there was a king."
    assert wire.requests[-1].prefix == "Once upon a time"


@both
async def test_blanks_at_the_seam_are_not_doubled(
    wire: WireServer, opened: Opened, stream: bool
) -> None:
    wire.say("Once upon \n a time.")

    async with opened("anthropic") as provider:
        reply = await answered(provider, asking(prefix="Once upon \n"), stream=stream)

    assert wire.requests[-1].prefix == "Once upon"
    assert reply.text == " a time."


@pytest.mark.parametrize(
    ("way", "model"),
    [("openai", ""), ("azure", ""), ("lm_studio", ""), ("anthropic", "claude-opus-4-6")],
)
async def test_who_cannot_go_on_from_a_beginning_says_so(
    wire: WireServer, opened: Opened, way: str, model: str
) -> None:
    async with opened(way) as provider:
        assert not provider.describe(model).continues
        with pytest.raises(ModelError, match="cannot go on from the beginning"):
            await provider.complete(asking(model=model, prefix="Once"))

    assert not wire.requests


async def test_fields_that_only_we_can_fill_in_are_refused(opened: Opened) -> None:
    async with opened() as provider:
        with pytest.raises(ModelError, match="cannot be given 'messages'"):
            await provider.complete(asking(settings=extra(messages=[])))
        with pytest.raises(ModelError, match="no JSON"):
            await provider.complete(asking(settings=extra(seed=object())))


@each_way
async def test_a_field_that_is_no_finite_number_is_refused_and_nothing_is_sent(
    wire: WireServer, opened: Opened, way: str
) -> None:
    nested = MappingProxyType({"a": [1.5, {"b": nan}]})

    async with opened(way) as provider:
        for value in (nan, inf, -inf, nested):
            for stream in (False, True):
                request = asking(settings=extra(seed=7, mine=value))
                with pytest.raises(ModelRequestError, match=r"'mine'.* not finite"):
                    await answered(provider, request, stream=stream)

    assert not wire.requests


async def test_headers_of_the_settings_and_of_a_request_are_sent(
    wire: WireServer, opened: Opened
) -> None:
    async with opened("anthropic", headers={"X-Team": "blue"}) as provider:
        await provider.complete(
            asking(settings=extra(extra_headers={"anthropic-beta": "context-1m"}))
        )
        await provider.complete(asking(settings=extra(extra_headers={"X-TEAM": "red"})))

    first, second = (each.headers for each in wire.requests)
    assert (first["x-team"], first["anthropic-beta"]) == ("blue", "context-1m")
    assert second["x-team"] == "red"  # in its place, and not beside it
    assert "anthropic-beta" not in second


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "caf\xe9"},
        {"X-A": "a\r\nb: c"},
        {"X-A": None},
        {"X A": "a"},
        {1: "a"},
        ["a"],
    ],
)
async def test_headers_that_are_none_are_refused_and_not_shown(
    wire: WireServer, opened: Opened, headers: Any
) -> None:
    async with opened() as provider:
        with pytest.raises(ModelRequestError, match="extra_headers") as caught:
            await provider.complete(asking(settings=extra(extra_headers=headers)))

    assert "caf" not in str(caught.value)
    assert not wire.requests


async def test_a_schema_that_is_a_hint_is_not_made_strict(
    wire: WireServer, opened: Opened
) -> None:
    async with opened() as provider:
        for strict in ({"strict": False}, {"strict": True}, {}):
            wanted = {"name": "o", "schema": PLACE, **strict}
            form = {"type": "json_schema", "json_schema": wanted}
            await provider.complete(asking(settings=extra(response_format=form)))

    told = [each.json["response_format"]["json_schema"] for each in wire.requests]
    assert [each["strict"] for each in told] == [False, True, True]


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        ({"type": "array", "items": True}, {"type": "array", "items": {}}),
        (
            {"type": "array", "items": False},
            {"type": "array", "description": "{no items}"},
        ),
        (
            {"type": "object", "properties": {"a": True}, "additionalProperties": False},
            {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        ),
        (
            {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
            {
                "anyOf": [
                    {"type": "string", "description": "{maxLength: 3}"},
                    {"type": "null"},
                ]
            },
        ),
    ],
)
def test_every_schema_has_words_that_anthropic_knows(schema: Any, plain: Any) -> None:
    assert _plain(schema) == plain


async def test_thoughts_go_back_to_who_thought_them(
    wire: WireServer, opened: Opened
) -> None:
    wire.say(Answer("I look.", thinking="Hm.", calls=[Call("weather", {"city": "Rom"})]))
    thinking = {"type": "enabled", "budget_tokens": 1024}

    async with opened("anthropic") as provider:
        _, reply = await streamed(
            provider, asking(tools=(WEATHER,), settings=extra(thinking=thinking))
        )
        said = Message(
            role="assistant",
            content=reply.text,
            tool_uses=reply.tool_uses,
            provider_data=reply.provider_data,
        )
        result = Message(
            role="tool", content="21 °C", tool_use_id=reply.tool_uses[0].id, name="weather"
        )
        again = asking(tools=(WEATHER,), settings=extra(thinking=thinking))
        await provider.complete(again.with_messages(said, result))

    body = wire.requests[-1].json
    kinds = [block["type"] for block in body["messages"][1]["content"]]
    assert kinds == ["thinking", "text", "tool_use"]
    assert body["messages"][1]["content"][0]["thinking"] == "Hm."
    assert body["thinking"] == thinking


@pytest.mark.parametrize(
    ("thinking", "stays"),
    [({"type": "enabled", "budget_tokens": 1024}, False), ({"type": "adaptive"}, True)],
)
async def test_a_turn_that_another_model_began_is_finished_without_enforced_thinking(
    wire: WireServer, opened: Opened, thinking: dict[str, Any], stays: bool
) -> None:
    use = ToolUse(id="a", name="weather", arguments={"city": "Rom"})
    request = asking(tools=(WEATHER,), settings=extra(thinking=thinking)).with_messages(
        Message(role="assistant", content="", tool_uses=(use,)),
        Message(role="tool", content="21 °C", tool_use_id="a", name="weather"),
    )

    async with opened("anthropic") as provider:
        await provider.complete(request)

    assert ("thinking" in wire.requests[-1].json) is stays


INTERLEAVED: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "s1"},
    {"type": "text", "text": "I look."},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
    {"type": "text", "text": " And there."},
    {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
]


@pytest.mark.parametrize("changed", [False, True])
def test_thoughts_between_other_blocks_go_back_to_their_places(changed: bool) -> None:
    codec = AnthropicCodec(PRESETS["anthropic"])
    answer = codec.read({"content": INTERLEAVED})
    said = Message(
        role="assistant",
        content="I was changed." if changed else answer.text,
        tool_uses=answer.tool_uses,
        provider_data=json.loads(json.dumps(answer.provider_data)),
    )

    sent = codec.chat(Prepared(asking().with_messages(said), "claude", None, {}, False))

    blocks = sent["messages"][1]["content"]
    first, text, hidden, *_ = INTERLEAVED
    if changed:  # then no place is theirs, and all stand first
        assert blocks[:3] == [first, hidden, {**text, "text": "I was changed."}]
    else:
        assert blocks == INTERLEAVED


async def test_empty_messages_are_sent_as_anthropic_accepts_them(
    wire: WireServer, opened: Opened
) -> None:
    request = ModelRequest(
        messages=(
            Message(role="user", content=""),
            Message(role="assistant", content=" "),
            Message(role="system", content="Now be brief."),
            Message(role="user", content="Go on."),
        )
    )

    async with opened("anthropic") as provider:
        await provider.complete(request)

    (only,) = wire.requests[-1].json["messages"]
    assert [block["text"] for block in only["content"]] == ["Now be brief.", "Go on."]


def arguments(use: ToolUse) -> Any:
    given = use.arguments
    return json.loads(given) if isinstance(given, str) else given


def test_the_test_image_is_one() -> None:
    assert b64decode(b64encode(PNG)) == PNG
