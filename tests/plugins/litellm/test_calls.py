"""What is sent and what comes back, the same through every provider that can do it."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
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
    ModelSettings,
    OutputField,
    OutputSpec,
    Signature,
    ToolSpec,
    ToolUse,
    create_structured_output_config,
)

from tests.wire.script import Usage
from tests.wire.server import Answer, Call, WireServer

from .conftest import Opened, answered, asking, streamed

pytestmark = pytest.mark.anyio

each_way = pytest.mark.parametrize(
    "way",
    [
        "openai",
        "azure",
        "azure_ai",
        "anthropic",
        "google",
        "ollama",
        "docker",
        "cohere",
        "huggingface",
    ],
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
        "people": {"type": "integer"},
        "seen": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city", "people", "seen"],
    "additionalProperties": False,
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


class Judged(Signature):
    question: str = InputField()
    answer: str = OutputField()
    sure: bool = OutputField()


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
    sent = arrived.body.decode()
    assert all(each in sent for each in ("0.5", "77", "0.9"))


@each_way
@both
async def test_a_model_calls_tools_at_once(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    calls = [Call("weather", {"city": "Köln"}), Call("weather", {"city": "Rom"})]
    wire.say(Answer("Let me look.", calls=calls))

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
    assert "21 °C" in json.dumps(wire.requests[-1].json, ensure_ascii=False)


@pytest.mark.parametrize("way", ["openai", "azure", "anthropic", "docker"])
async def test_who_calls_is_told_which_tool_to_call(
    wire: WireServer, opened: Opened, way: str
) -> None:
    wanted = {"type": "function", "function": {"name": "weather"}}

    async with opened(way) as provider:
        await provider.complete(
            asking(tools=(WEATHER,), settings=extra(tool_choice=wanted))
        )
        await provider.complete(
            asking(tools=(WEATHER,), settings=extra(tool_choice="required"))
        )
        await provider.complete(asking(settings=extra(tool_choice="required")))

    one, some, none = (each.json for each in wire.requests)
    if way == "anthropic":
        assert one["tool_choice"] == {"type": "tool", "name": "weather"}
        assert some["tool_choice"] == {"type": "any"}
    else:
        assert one["tool_choice"] == wanted
        assert some["tool_choice"] == "required"
    assert "tool_choice" not in none


@each_way
@both
async def test_strict_output_fits_its_schema(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    output = OutputSpec(name="Place of birth", schema=PLACE)

    async with opened(way) as provider:
        natively = provider.describe("").structured_output
        if not natively:
            wire.say({"city": "Ulm", "people": 1, "seen": []})
        reply = await answered(provider, asking(output=output), stream=stream)

    assert set(json.loads(reply.text)) == {"city", "people", "seen"}
    if natively:
        assert wire.requests[-1].schema is not None
    else:
        assert "people" in wire.requests[-1].turns[0].text


@pytest.mark.parametrize("way", ["openai", "azure", "docker", "ollama", "google"])
async def test_legacy_output_asks_for_some_json(
    wire: WireServer, opened: Opened, way: str
) -> None:
    output = OutputSpec(name="place", schema=PLACE, strict=False)

    async with opened(way) as provider:
        await provider.complete(asking("Answer in JSON.", output=output))

    sent = wire.requests[-1].body
    asked = (b"json_object", b'"format":"json"', b'"format": "json"', b"application/json")
    assert any(each in sent for each in asked)


@pytest.mark.parametrize("way", ["openai", "anthropic", "ollama"])
@pytest.mark.parametrize("strict", [True, False])
async def test_a_response_format_among_the_fields_of_a_user_is_understood(
    wire: WireServer, opened: Opened, way: str, strict: bool
) -> None:
    wanted = create_structured_output_config(Judged, strict=strict, name="an answer")

    async with opened(way) as provider:
        reply = await provider.complete(
            asking("Answer in JSON.", settings=extra(response_format=wanted))
        )

    if strict:
        assert set(json.loads(reply.text)) == {"answer", "sure"}
    else:
        assert b'"json_schema"' not in wire.requests[-1].body


@pytest.mark.parametrize("way", ["docker", "ollama", "cohere"])
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
    assert usage.cached_tokens == 900
    if way not in ("cohere", "anthropic"):
        assert usage.reasoning_tokens == 30


@pytest.mark.parametrize(
    "way", ["azure_ai", "anthropic", "google", "ollama", "docker", "cohere"]
)
@both
async def test_reasoning_is_kept_apart_from_the_text(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    wire.say(Answer("42", thinking="Six times seven …"))

    async with opened(way) as provider:
        reply = await answered(provider, asking(), stream=stream)

    assert reply.text == "42"
    assert reply.reasoning == "Six times seven …"


@both
async def test_cohere_drops_nothing_beside_tool_calls(
    wire: WireServer, opened: Opened, stream: bool
) -> None:
    counted = Usage(input_tokens=1_000, output_tokens=50, cached_tokens=600)
    call = Call("weather", {"city": "Rom"})
    wire.say(Answer("Let me look.", calls=[call], thinking="Hm.", usage=counted))

    async with opened("cohere") as provider:
        request = asking(tools=(WEATHER,))
        if stream:
            first, reply = [each async for each in provider.stream(request)]
            assert first == ModelDelta(text="Let me look.", reasoning="Hm.")
        else:
            reply = await provider.complete(request)

    assert isinstance(reply, ModelReply)
    assert (reply.text, reply.reasoning) == ("Let me look.", "Hm.")
    assert (reply.usage.cached_tokens, reply.usage.input_tokens) == (600, 1_000)
    assert [use.name for use in reply.tool_uses] == ["weather"]


@pytest.mark.parametrize("way", ["anthropic", "cohere"])
async def test_reasoning_is_streamed(wire: WireServer, opened: Opened, way: str) -> None:
    wire.say(Answer("42", thinking="Six times seven …"))

    async with opened(way) as provider:
        pieces = [each async for each in provider.stream(asking())]

    assert pieces[0] == ModelDelta(reasoning="Six times seven …")


@each_way
@both
async def test_a_reply_that_was_cut_short_says_so(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    wire.say(Answer("And so", stop="length"))

    async with opened(way) as provider:
        reply = await answered(provider, asking(), stream=stream)

    assert (reply.finish_reason, reply.text) == ("length", "And so")


@pytest.mark.parametrize("way", ["openai", "azure", "anthropic", "docker"])
@both
async def test_a_reply_that_was_filtered_says_so(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    wire.say(Answer("And so", stop="content_filter"))

    async with opened(way) as provider:
        reply = await answered(provider, asking(), stream=stream)

    assert (reply.finish_reason, reply.text) == ("content_filter", "And so")


@pytest.mark.parametrize(
    "way", ["openai", "azure", "anthropic", "google", "ollama", "docker", "huggingface"]
)
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
async def test_documents_are_sent_in_the_form_that_there_is_for_them(
    wire: WireServer, opened: Opened, way: str
) -> None:
    pdf = Document(b"%PDF-1.7 ...", media_type="application/pdf")
    text = Document("Grüße".encode(), media_type="text/plain")

    async with opened(way) as provider:
        await provider.complete(
            ModelRequest(messages=(Message(role="user", content=("Sum up.", pdf, text)),))
        )

    sent = wire.requests[-1]
    assert b64encode(b"%PDF-1.7 ...") in sent.body
    assert "Grüße" in json.dumps(sent.json, ensure_ascii=False)


async def test_what_cannot_be_sent_is_refused_before_it_is(
    wire: WireServer, opened: Opened
) -> None:
    book = Document(b"PK", media_type="application/epub+zip")

    async with opened() as provider:
        with pytest.raises(ModelError, match="takes no document"):
            await provider.complete(
                ModelRequest(messages=(Message(role="user", content=("?", book)),))
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


@pytest.mark.parametrize("way", ["openai", "azure", "google", "ollama", "docker", "cohere"])
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


@pytest.mark.parametrize("way", ["anthropic", "huggingface"])
async def test_who_cannot_embed_or_transcribe_says_so(opened: Opened, way: str) -> None:
    async with opened(way) as provider:
        with pytest.raises(ModelError, match="cannot embed texts"):
            await provider.embed(["a"])
        with pytest.raises(ModelError, match="cannot transcribe audio"):
            await provider.transcribe(Audio(b"RIFF    WAVE", media_type="audio/wav"))


@pytest.mark.parametrize("way", ["openai", "azure"])
async def test_speech_becomes_text_with_its_language_and_duration(
    wire: WireServer, opened: Opened, way: str
) -> None:
    wire.say(Answer("Guten Tag.", language="german", duration_s=2.5))
    audio = Audio(b"RIFF\x00\x00\x00\x00WAVEfmt ", media_type="audio/wav")

    async with opened(way) as provider:
        heard = await provider.transcribe(audio, model="whisper-1")

    assert (heard.text, heard.language, heard.duration_s) == ("Guten Tag.", "de", 2.5)
    assert wire.requests[-1].form["file"] == audio.data


@pytest.mark.parametrize("way", ["ollama", "docker"])
async def test_a_server_that_runs_its_own_models_is_asked_for_its_first(
    wire: WireServer, opened: Opened, way: str
) -> None:
    async with opened(way, model="") as provider:
        first = await provider.complete(asking())
        second = await provider.complete(asking())
        found = [each.name for each in await provider.models()]

    assert (first.model, second.model) == ("wire-1", "wire-1")
    assert [each.kind for each in wire.requests] == ["list", "chat", "chat", "list"]
    assert found == ["wire-1", "wire-2"]


async def test_azure_has_to_be_told_its_deployment(opened: Opened) -> None:
    async with opened("azure", model="") as provider:
        with pytest.raises(ModelError, match="was asked for no model"):
            await provider.complete(asking())


async def test_azure_is_asked_by_deployment_and_version(
    wire: WireServer, opened: Opened
) -> None:
    async with opened("azure", api_version="2025-01-01-preview") as provider:
        await provider.complete(asking(model="mine"))

    arrived = wire.requests[-1]
    assert arrived.path == "/openai/deployments/mine/chat/completions"
    assert arrived.query == {"api-version": "2025-01-01-preview"}
    assert arrived.headers["api-key"] == wire.key


@pytest.mark.parametrize("way", ["anthropic", "ollama", "docker"])
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
    [("openai", ""), ("azure", ""), ("google", ""), ("anthropic", "claude-opus-4-6")],
)
async def test_who_cannot_go_on_from_a_beginning_says_so(
    wire: WireServer, opened: Opened, way: str, model: str
) -> None:
    async with opened(way) as provider:
        assert not provider.describe(model).continues
        with pytest.raises(ModelError, match="cannot go on from the beginning"):
            await provider.complete(asking(model=model, prefix="Once"))

    assert not wire.requests


@pytest.mark.parametrize(
    "field", ["messages", "api_key", "api_base", "fallbacks", "client"]
)
async def test_fields_that_only_we_can_fill_in_are_refused(
    opened: Opened, field: str
) -> None:
    async with opened() as provider:
        with pytest.raises(ModelError, match=f"cannot be given '{field}'"):
            await provider.complete(asking(settings=extra(**{field: []})))


async def test_headers_of_the_settings_and_of_a_request_are_sent(
    wire: WireServer, opened: Opened
) -> None:
    for way in ("openai", "anthropic"):
        async with opened(way, headers={"X-Team": "blue"}) as provider:
            await provider.complete(
                asking(settings=extra(extra_headers={"X-Trace": "one"}))
            )
            await provider.complete(asking())

        first, second = (each.headers for each in wire.requests[-2:])
        assert (first["x-team"], first["x-trace"]) == ("blue", "one")
        assert (second["x-team"], "x-trace" in second) == ("blue", False)


@pytest.mark.parametrize("way", ["anthropic", "google"])
@both
async def test_what_a_provider_wants_back_goes_back_to_it(
    wire: WireServer, opened: Opened, way: str, stream: bool
) -> None:
    wire.say(Answer("I look.", thinking="Hm.", calls=[Call("weather", {"city": "Rom"})]))
    thinking = {"type": "enabled", "budget_tokens": 1024}
    request = asking(tools=(WEATHER,), settings=extra(thinking=thinking))

    async with opened(way) as provider:
        reply = await answered(provider, request, stream=stream)
        said = Message(
            role="assistant",
            content=reply.text,
            tool_uses=reply.tool_uses,
            provider_data=json.loads(json.dumps(reply.provider_data)),
        )
        result = Message(
            role="tool", content="21 °C", tool_use_id=reply.tool_uses[0].id, name="weather"
        )
        await provider.complete(request.with_messages(said, result))

    body = wire.requests[-1].json
    if way == "anthropic":
        thought, *others = body["messages"][1]["content"]
        assert (thought["thinking"], bool(thought["signature"])) == ("Hm.", True)
        assert [block["type"] for block in others] == ["text", "tool_use"]
    else:
        assert "thoughtSignature" in json.dumps(body).replace("thought_s", "thoughtS")


async def test_what_one_provider_wants_back_is_not_given_to_another(
    wire: WireServer, opened: Opened
) -> None:
    kept = {"litellm": {"route": "anthropic", "thinking_blocks": [{"type": "thinking"}]}}
    said = Message(role="assistant", content="Hm.", provider_data=kept)
    request = asking().with_messages(said, Message(role="user", content="And?"))

    async with opened("openai") as provider:
        await provider.complete(request)

    assert b"thinking" not in wire.requests[-1].body


async def test_one_client_serves_all_time_limits(wire: WireServer, opened: Opened) -> None:
    async with opened() as provider:
        for seconds in (1.5, 2.5, 3.5):
            await streamed(provider, asking(settings=ModelSettings(timeout_s=seconds)))
        assert wire.open_connections == 1


@both
@pytest.mark.parametrize("model", ["gpt-5-codex", "o1-pro"])
async def test_models_that_are_asked_in_openais_newer_format_answer_alike(
    wire: WireServer, opened: Opened, model: str, stream: bool
) -> None:
    wire.say(
        Answer("And so", thinking="Hm.", stop="length"), Call("weather", {"city": "Rom"})
    )

    async with opened(model=model) as provider:
        short = await answered(provider, asking(), stream=stream)
        calls = await answered(provider, asking(tools=(WEATHER,)), stream=stream)

    assert [each.kind for each in wire.requests] == ["responses", "responses"]
    assert (short.text, short.finish_reason) == ("And so", "length")
    assert [arguments(use) for use in calls.tool_uses] == [{"city": "Rom"}]
    assert calls.finish_reason == "tool_calls"
    assert calls.usage.output_tokens == 7


def arguments(use: ToolUse) -> Any:
    given = use.arguments
    return json.loads(given) if isinstance(given, str) else given
