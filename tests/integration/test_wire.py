"""The test server speaks as the providers do: their own client libraries accept it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.wire.script import FaultKind
from tests.wire.server import CHAOS, Answer, Call, Fault, Request, Usage, WireServer

# A module without types.
jsonschema: Any = import_module("jsonschema")

TEXT = "The answer is four."
PIECES = ["The", " answer", " is", " four."]
PATIENCE = httpx.Timeout(10, read=0.5)
"""Of a client that waits for connections, and not for answers."""
ASK = [{"role": "user", "content": "2 + 2?"}]
ADD, SHOW = Call("add", {"a": 2, "b": 2}), Call("show", {"text": "é\n"})
USED = Usage(input_tokens=20, output_tokens=9, cached_tokens=8, reasoning_tokens=4)
SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["good", "bad"]},
        "score": {"type": "number", "minimum": 0.5, "maximum": 1},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "minItems": 2},
        "note": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 8}]},
    },
    "required": ["mood", "score", "tags", "note"],
    "additionalProperties": False,
    "$defs": {
        "Tag": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["name", "count"],
            "additionalProperties": False,
        }
    },
}
ADD_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}


def drain(stream: Iterable[Any], seen: list[Any]) -> None:
    """Read a stream to its end, and keep what came if that is an error."""
    seen.extend(stream)


@pytest.fixture
def wire() -> Iterator[WireServer]:
    with WireServer() as server:
        yield server


@pytest.fixture
def http(wire: WireServer) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {wire.key}"}
    with httpx.Client(base_url=wire.url, headers=headers, timeout=5) as client:
        yield client


# OpenAI


@pytest.fixture
def openai() -> Any:
    return pytest.importorskip("openai")


@pytest.fixture
def openai_client(openai: Any, wire: WireServer) -> Iterator[Any]:
    url = wire.base_url("openai")
    with openai.OpenAI(base_url=url, api_key=wire.key, max_retries=0) as client:
        yield client


def test_openai_is_answered_with_text_and_told_what_it_cost(
    openai_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, usage=USED, thinking="2 + 2"))

    reply = openai_client.chat.completions.create(model="wire-1", messages=ASK)

    choice = reply.choices[0]
    assert (choice.message.content, choice.finish_reason) == (TEXT, "stop")
    assert choice.message.reasoning_content == "2 + 2"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (20, 9)
    assert reply.usage.prompt_tokens_details.cached_tokens == 8
    assert reply.usage.completion_tokens_details.reasoning_tokens == 4
    request = wire.requests[0]
    assert (request.provider, request.model, request.prompt) == (
        "openai",
        "wire-1",
        "2 + 2?",
    )


def test_openai_is_asked_to_call_tools_at_once(
    openai_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(calls=[ADD, SHOW]))

    reply = openai_client.chat.completions.create(model="wire-1", messages=ASK)

    calls = reply.choices[0].message.tool_calls
    found = [(each.function.name, json.loads(each.function.arguments)) for each in calls]
    assert found == [("add", {"a": 2, "b": 2}), ("show", {"text": "é\n"})]
    assert len({each.id for each in calls}) == 2
    assert reply.choices[0].finish_reason == "tool_calls"


def test_openai_streams_what_it_would_have_said_at_once(
    openai_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, usage=USED))

    chunks = list(
        openai_client.chat.completions.create(
            model="wire-1",
            messages=ASK,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    deltas = [each.choices[0].delta.content for each in chunks if each.choices]
    assert [each for each in deltas if each] == PIECES
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 8


def test_openai_streams_tool_calls(openai_client: Any, wire: WireServer) -> None:
    wire.say(Answer("Let me see.", calls=[ADD, SHOW]))

    calls: dict[int, list[str]] = {}
    for chunk in openai_client.chat.completions.create(
        model="wire-1", messages=ASK, stream=True
    ):
        for part in chunk.choices[0].delta.tool_calls or ():
            said = calls.setdefault(part.index, [])
            said.append(part.function.name or part.function.arguments)

    assert [(name, json.loads("".join(rest))) for name, *rest in calls.values()] == [
        ("add", {"a": 2, "b": 2}),
        ("show", {"text": "é\n"}),
    ]


def test_openai_fills_the_schema_that_is_asked_for(openai_client: Any) -> None:
    wanted = {"name": "review", "strict": True, "schema": SCHEMA}

    reply = openai_client.chat.completions.create(
        model="wire-1",
        messages=ASK,
        response_format={"type": "json_schema", "json_schema": wanted},
    )

    jsonschema.validate(json.loads(reply.choices[0].message.content), SCHEMA)


def test_openai_refuses_a_strict_schema_that_is_open(
    openai: Any, openai_client: Any
) -> None:
    wanted = {"name": "review", "strict": True, "schema": ADD_SCHEMA}

    with pytest.raises(openai.BadRequestError, match="additionalProperties"):
        openai_client.chat.completions.create(
            model="wire-1",
            messages=ASK,
            response_format={"type": "json_schema", "json_schema": wanted},
        )


def test_openai_calls_the_tool_that_has_to_be_called(openai_client: Any) -> None:
    reply = openai_client.chat.completions.create(
        model="wire-1",
        messages=ASK,
        tools=[{"type": "function", "function": {"name": "add", "parameters": ADD_SCHEMA}}],
        tool_choice={"type": "function", "function": {"name": "add"}},
    )

    (call,) = reply.choices[0].message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), ADD_SCHEMA)


def test_openai_refuses_tool_calls_that_nobody_answered(
    openai: Any, openai_client: Any
) -> None:
    function = {"name": "add", "arguments": "{}"}
    call = {"id": "1", "type": "function", "function": function}
    called = {"role": "assistant", "tool_calls": [call]}
    answered = {"role": "tool", "tool_call_id": "1", "content": "4"}

    openai_client.chat.completions.create(model="wire-1", messages=[*ASK, called, answered])
    with pytest.raises(openai.BadRequestError, match="did not have response messages: 1"):
        openai_client.chat.completions.create(model="wire-1", messages=[*ASK, called])
    with pytest.raises(openai.BadRequestError, match="preceding message"):
        openai_client.chat.completions.create(model="wire-1", messages=[*ASK, answered])


def test_openai_sees_images(openai_client: Any, wire: WireServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa=="}}
    parts = [{"type": "text", "text": "What is it?"}, image]

    openai_client.chat.completions.create(
        model="wire-1", messages=[{"role": "user", "content": parts}]
    )

    (turn,) = wire.requests[0].turns
    assert (turn.text, turn.images) == ("What is it?", 1)


def test_openai_responses_hold_items(openai_client: Any, wire: WireServer) -> None:
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD], usage=USED))

    reply = openai_client.responses.create(model="wire-1", input="2 + 2?")

    assert [each.type for each in reply.output] == ["reasoning", "message", "function_call"]
    assert (reply.output_text, reply.status) == (TEXT, "completed")
    assert json.loads(reply.output[2].arguments) == {"a": 2, "b": 2}
    assert reply.usage.input_tokens_details.cached_tokens == 8


def test_openai_responses_are_streamed(openai_client: Any, wire: WireServer) -> None:
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD]))

    with openai_client.responses.stream(model="wire-1", input="2 + 2?") as stream:
        events = list(stream)
        final = stream.get_final_response()

    text = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert text == PIECES
    assert final.output_text == TEXT
    assert [each.sequence_number for each in events] == list(range(len(events)))


def test_openai_responses_fill_the_schema(openai_client: Any) -> None:
    wanted = {"type": "json_schema", "name": "review", "strict": True, "schema": SCHEMA}

    reply = openai_client.responses.create(
        model="wire-1", input="2 + 2?", text={"format": wanted}
    )

    jsonschema.validate(json.loads(reply.output_text), SCHEMA)


def test_openai_embeds_and_lists(openai_client: Any) -> None:
    reply = openai_client.embeddings.create(model="wire-1", input=["cat", "dog", "cat"])

    first, second, third = [each.embedding for each in reply.data]
    assert first == third != second
    assert sum(each * each for each in first) == pytest.approx(1)
    assert [each.id for each in openai_client.models.list()] == ["wire-1", "wire-2"]


def test_openai_transcribes(openai_client: Any, wire: WireServer) -> None:
    wire.say(Answer("Bonjour.", language="french", duration_s=2.5), "Bonjour.")

    said = openai_client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", b"RIFF\x00\r\n--"), response_format="verbose_json"
    )
    short = openai_client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", b"RIFF")
    )

    assert (said.text, said.language, said.duration) == ("Bonjour.", "french", 2.5)
    assert short.text == "Bonjour."
    assert wire.requests[0].form["file"] == b"RIFF\x00\r\n--"


OPENAI_ERRORS = {
    "unauthorized": "AuthenticationError",
    "forbidden": "PermissionDeniedError",
    "unknown_model": "NotFoundError",
    "bad_request": "BadRequestError",
    "context_length": "BadRequestError",
    "content_filter": "BadRequestError",
    "rate_limit": "RateLimitError",
    "quota": "RateLimitError",
    "server_error": "InternalServerError",
    "bad_gateway": "InternalServerError",
    "unavailable": "InternalServerError",
    "overloaded": "InternalServerError",
    "reset": "APIConnectionError",
    "cut": "APIConnectionError",
}


@pytest.mark.parametrize(("kind", "name"), OPENAI_ERRORS.items())
def test_openai_knows_each_error(
    openai: Any, openai_client: Any, wire: WireServer, kind: FaultKind, name: str
) -> None:
    wire.say(Fault(kind))

    with pytest.raises(openai.OpenAIError) as caught:
        openai_client.chat.completions.create(model="wire-1", messages=ASK)

    assert type(caught.value).__name__ == name
    codes = {"quota": "insufficient_quota", "context_length": "context_length_exceeded"}
    if kind in codes:
        assert caught.value.code == codes[kind]


def test_openai_refuses_other_keys(openai: Any, wire: WireServer) -> None:
    url = wire.base_url("openai")
    with (
        openai.OpenAI(base_url=url, api_key="sk-other-1234", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()

    assert caught.value.code == "invalid_api_key"


def test_openai_hears_of_an_error_in_a_stream(
    openai: Any, openai_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, fault=Fault("error_event", at=2)))
    seen: list[Any] = []
    stream = openai_client.chat.completions.create(
        model="wire-1", messages=ASK, stream=True
    )

    with pytest.raises(openai.APIError, match="The server had an error"):
        drain(stream, seen)

    assert [each.choices[0].delta.content for each in seen[1:]] == PIECES[:2]


@pytest.mark.parametrize("version", ["2024-10-21", "v1"])
def test_azure_is_openai_under_other_addresses(
    openai: Any, wire: WireServer, version: str
) -> None:
    wire.say(TEXT, Fault("content_filter"))
    if version == "v1":
        client = openai.OpenAI(
            base_url=f"{wire.base_url('azure')}/openai/v1", api_key=wire.key, max_retries=0
        )
    else:
        client = openai.AzureOpenAI(
            azure_endpoint=wire.base_url("azure"),
            api_key=wire.key,
            api_version=version,
            max_retries=0,
        )

    with client:
        chunks = client.chat.completions.create(model="dep", messages=ASK, stream=True)
        text = [each.choices[0].delta.content or "" for each in chunks if each.choices]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="dep", messages=ASK)

    assert "".join(text) == TEXT
    assert (wire.requests[0].provider, wire.requests[0].model) == ("azure", "dep")
    assert caught.value.code == "content_filter"


@pytest.mark.parametrize("provider", ["docker", "local", "huggingface", "azure_ai"])
def test_others_speak_as_openai(openai: Any, wire: WireServer, provider: str) -> None:
    wire.say(TEXT)
    url = wire.base_url(provider)

    with openai.OpenAI(base_url=url, api_key=wire.key, max_retries=0) as client:
        reply = client.chat.completions.create(model="wire-1", messages=ASK)

    assert reply.choices[0].message.content == TEXT


@pytest.mark.parametrize(
    ("provider", "extra", "text"),
    [
        ("docker", {}, "wer is four."),
        ("ollama", {}, "wer is four."),
        ("local", {}, TEXT),
        ("local", {"continue_final_message": True}, "wer is four."),
        ("openai", {}, TEXT),
    ],
)
def test_some_go_on_with_a_beginning(
    http: httpx.Client, wire: WireServer, provider: str, extra: Any, text: str
) -> None:
    wire.say(TEXT)
    begun = [*ASK, {"role": "assistant", "content": "The ans"}]

    reply = http.post(
        f"/{provider}/v1/chat/completions",
        json={"model": "wire-1", "messages": begun, **extra},
    ).json()

    assert reply["choices"][0]["message"]["content"] == text


# Anthropic


@pytest.fixture
def anthropic() -> Any:
    return pytest.importorskip("anthropic")


@pytest.fixture
def anthropic_client(anthropic: Any, wire: WireServer) -> Iterator[Any]:
    url = wire.base_url("anthropic")
    with anthropic.Anthropic(base_url=url, api_key=wire.key, max_retries=0) as client:
        yield client


CLAUDE: dict[str, Any] = {"model": "claude-wire", "max_tokens": 100}


def test_anthropic_answers_in_blocks(anthropic_client: Any, wire: WireServer) -> None:
    usage = Usage(input_tokens=20, cached_tokens=8, cache_write_tokens=2, output_tokens=9)
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD, SHOW], usage=usage))

    reply = anthropic_client.messages.create(messages=ASK, system="Be brief.", **CLAUDE)

    kinds = [each.type for each in reply.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert reply.content[0].signature
    assert reply.content[3].input == {"text": "é\n"}
    assert reply.stop_reason == "tool_use"
    used = reply.usage
    assert (used.input_tokens, used.cache_read_input_tokens) == (10, 8)
    assert used.cache_creation_input_tokens == 2
    assert [turn.role for turn in wire.requests[0].turns] == ["system", "user"]


def test_anthropic_streams_what_it_would_have_said_at_once(
    anthropic_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD, SHOW], stop="length"))

    with anthropic_client.messages.stream(messages=ASK, **CLAUDE) as stream:
        events = list(stream)
        whole = stream.get_final_message()

    assert [each.text for each in events if each.type == "text"] == PIECES
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    assert [each.type for each in whole.content][:2] == ["thinking", "text"]
    assert [each.input for each in whole.content[2:]] == [{"a": 2, "b": 2}, {"text": "é\n"}]
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 7)


def test_anthropic_goes_on_with_a_beginning(
    anthropic_client: Any, wire: WireServer
) -> None:
    wire.say(TEXT, Answer(chunks=PIECES))
    begun = [*ASK, {"role": "assistant", "content": "The ans"}]

    reply = anthropic_client.messages.create(messages=begun, **CLAUDE)
    with anthropic_client.messages.stream(messages=begun, **CLAUDE) as stream:
        pieces = list(stream.text_stream)

    assert reply.content[0].text == "wer is four."
    assert pieces == ["wer", " is", " four."]


@pytest.mark.parametrize(
    ("model", "beginning", "problem"),
    [
        ("claude-opus-4-8", "The", "does not support assistant message prefill"),
        ("claude-sonnet-5", "The", "does not support assistant message prefill"),
        ("claude-haiku-4-5", "The ", "trailing whitespace"),
    ],
)
def test_anthropic_does_not_go_on_with_every_beginning(
    anthropic: Any, anthropic_client: Any, model: str, beginning: str, problem: str
) -> None:
    begun = [*ASK, {"role": "assistant", "content": beginning}]

    with pytest.raises(anthropic.BadRequestError, match=problem):
        anthropic_client.messages.create(messages=begun, model=model, max_tokens=9)


def test_anthropic_refuses_what_does_not_fit_together(
    anthropic: Any, anthropic_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(thinking="2 + 2", calls=[ADD]))
    blocks = anthropic_client.messages.create(messages=ASK, **CLAUDE).to_dict()["content"]
    called = {"role": "assistant", "content": blocks}
    result = {"type": "tool_result", "tool_use_id": blocks[1]["id"], "content": "4"}
    answered = {"role": "user", "content": [result]}

    anthropic_client.messages.create(messages=[*ASK, called, answered], **CLAUDE)
    with pytest.raises(anthropic.BadRequestError, match="without `tool_result`"):
        anthropic_client.messages.create(messages=[*ASK, called], **CLAUDE)
    with pytest.raises(anthropic.BadRequestError, match="unexpected `tool_use_id`"):
        anthropic_client.messages.create(messages=[answered], **CLAUDE)
    blocks[0]["signature"] = "changed"
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
        anthropic_client.messages.create(messages=[*ASK, called, answered], **CLAUDE)


def test_anthropic_fills_the_schema_that_is_asked_for(anthropic_client: Any) -> None:
    tool = {"name": "add", "input_schema": ADD_SCHEMA}

    written = anthropic_client.messages.create(
        messages=ASK,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        **CLAUDE,
    )
    called = anthropic_client.messages.create(
        messages=ASK, tools=[tool], tool_choice={"type": "tool", "name": "add"}, **CLAUDE
    )

    jsonschema.validate(json.loads(written.content[0].text), SCHEMA)
    jsonschema.validate(called.content[0].input, ADD_SCHEMA)


ANTHROPIC_ERRORS = {
    "unauthorized": "AuthenticationError",
    "forbidden": "PermissionDeniedError",
    "unknown_model": "NotFoundError",
    "bad_request": "BadRequestError",
    "context_length": "BadRequestError",
    "content_filter": "BadRequestError",
    "rate_limit": "RateLimitError",
    "quota": "BadRequestError",
    "server_error": "InternalServerError",
    "bad_gateway": "InternalServerError",
    "unavailable": "ServiceUnavailableError",
    "overloaded": "OverloadedError",
    "reset": "APIConnectionError",
    "cut": "APIConnectionError",
}


@pytest.mark.parametrize(("kind", "name"), ANTHROPIC_ERRORS.items())
def test_anthropic_knows_each_error(
    anthropic: Any, anthropic_client: Any, wire: WireServer, kind: FaultKind, name: str
) -> None:
    wire.say(Fault(kind))

    with pytest.raises(anthropic.AnthropicError) as caught:
        anthropic_client.messages.create(messages=ASK, **CLAUDE)

    assert type(caught.value).__name__ == name


def test_anthropic_hears_of_an_error_in_a_stream(
    anthropic: Any, anthropic_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, fault=Fault("error_event", at=2)))
    seen: list[Any] = []

    with (
        anthropic_client.messages.stream(messages=ASK, **CLAUDE) as stream,
        pytest.raises(anthropic.APIStatusError, match="overloaded_error"),
    ):
        drain(stream.text_stream, seen)

    assert seen == PIECES[:2]


def test_anthropic_lists_its_models_and_refuses_other_keys(
    anthropic: Any, anthropic_client: Any
) -> None:
    assert [each.id for each in anthropic_client.models.list()] == ["wire-1", "wire-2"]

    with (
        anthropic_client.copy(api_key="other") as other,
        pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"),
    ):
        other.messages.create(messages=ASK, **CLAUDE)


# Gemini


@pytest.fixture
def genai() -> Any:
    return pytest.importorskip("google.genai")


@pytest.fixture
def gemini(genai: Any, wire: WireServer) -> Iterator[Any]:
    options = {"base_url": wire.base_url("google"), "api_version": "v1beta"}
    client = genai.Client(api_key=wire.key, http_options=options)
    yield client.models
    client.close()


def test_gemini_answers_in_parts(gemini: Any, wire: WireServer) -> None:
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD, SHOW], usage=USED))

    reply = gemini.generate_content(model="gemini-wire", contents="2 + 2?")

    thought, text, first, second = reply.candidates[0].content.parts
    assert (thought.thought, thought.text, text.text) == (True, "2 + 2", TEXT)
    assert (first.function_call.name, second.function_call.args) == ("add", {"text": "é\n"})
    assert first.thought_signature
    assert second.thought_signature is None
    used = reply.usage_metadata
    assert (used.prompt_token_count, used.cached_content_token_count) == (20, 8)
    assert (used.candidates_token_count, used.thoughts_token_count) == (5, 4)


def test_gemini_streams_what_it_would_have_said_at_once(
    gemini: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, calls=[ADD], stop="length"))

    chunks = list(gemini.generate_content_stream(model="gemini-wire", contents="2 + 2?"))

    parts = [part for each in chunks for part in each.candidates[0].content.parts]
    assert [part.text for part in parts if part.text] == PIECES
    assert [part.function_call.args for part in parts if part.function_call] == [
        {"a": 2, "b": 2}
    ]
    assert chunks[-1].candidates[0].finish_reason == "MAX_TOKENS"


def test_gemini_fills_the_schema_that_is_asked_for(gemini: Any) -> None:
    reply = gemini.generate_content(
        model="gemini-wire",
        contents="2 + 2?",
        config={"response_mime_type": "application/json", "response_json_schema": SCHEMA},
    )

    jsonschema.validate(json.loads(reply.text), SCHEMA)


def test_gemini_takes_both_spellings_of_its_fields(wire: WireServer) -> None:
    body = {
        "contents": [{"role": "user", "parts": [{"text": "2 + 2?"}]}],
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {
            "response_mime_type": "application/json",
            "response_json_schema": {"properties": {"a_b": {"type": "integer"}}},
        },
    }

    reply = httpx.post(
        f"{wire.url}/v1beta/models/gemini-wire:generateContent",
        headers={"x-goog-api-key": wire.key},
        json=body,
    ).json()

    text = reply["candidates"][0]["content"]["parts"][0]["text"]
    assert json.loads(text) == {"a_b": 0}
    assert wire.requests[0].turns[0].text == "Be brief."


def test_gemini_embeds_and_lists(gemini: Any) -> None:
    reply = gemini.embed_content(model="text-wire", contents=["cat", "dog", "cat"])

    first, second, third = [each.values for each in reply.embeddings]
    assert first == third != second
    assert [each.name for each in gemini.list()] == ["models/wire-1", "models/wire-2"]


GEMINI_ERRORS = {
    "unauthorized": (400, "INVALID_ARGUMENT"),
    "forbidden": (403, "PERMISSION_DENIED"),
    "unknown_model": (404, "NOT_FOUND"),
    "bad_request": (400, "INVALID_ARGUMENT"),
    "context_length": (400, "INVALID_ARGUMENT"),
    "rate_limit": (429, "RESOURCE_EXHAUSTED"),
    "quota": (429, "RESOURCE_EXHAUSTED"),
    "server_error": (500, "INTERNAL"),
    "unavailable": (503, "UNAVAILABLE"),
    "overloaded": (503, "UNAVAILABLE"),
}


@pytest.mark.parametrize(("kind", "expected"), GEMINI_ERRORS.items())
def test_gemini_knows_each_error(
    genai: Any, gemini: Any, wire: WireServer, kind: FaultKind, expected: tuple[int, str]
) -> None:
    wire.say(Fault(kind, retry_after_s=1.5))

    with pytest.raises(genai.errors.APIError) as caught:
        gemini.generate_content(model="gemini-wire", contents="2 + 2?")

    assert (caught.value.code, caught.value.status) == expected
    assert ("'retryDelay': '1.5s'" in str(caught.value)) == (kind == "rate_limit")


def test_gemini_says_without_an_error_that_a_prompt_was_blocked(
    gemini: Any, wire: WireServer
) -> None:
    wire.say(Fault("content_filter"), Fault("content_filter"))

    reply = gemini.generate_content(model="gemini-wire", contents="2 + 2?")
    (chunk,) = gemini.generate_content_stream(model="gemini-wire", contents="2 + 2?")

    for each in (reply, chunk):
        assert (each.candidates, each.prompt_feedback.block_reason) == (
            None,
            "PROHIBITED_CONTENT",
        )


def test_gemini_hears_of_an_error_in_a_stream(
    genai: Any, gemini: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, fault=Fault("error_event", at=2)))
    seen: list[Any] = []
    stream = gemini.generate_content_stream(model="gemini-wire", contents="?")

    with pytest.raises(genai.errors.ServerError, match="overloaded"):
        drain(stream, seen)

    assert [each.text for each in seen] == PIECES[:2]


def test_gemini_3_wants_its_signatures_back(
    genai: Any, gemini: Any, wire: WireServer
) -> None:
    wire.say(Answer(calls=[ADD]))
    reply = gemini.generate_content(model="gemini-3-pro", contents="2 + 2?")
    asked = genai.types.UserContent(parts=[genai.types.Part.from_text(text="2 + 2?")])
    result = genai.types.Part.from_function_response(name="add", response={"result": 4})
    answered = genai.types.UserContent(parts=[result])
    called = reply.candidates[0].content

    gemini.generate_content(model="gemini-3-pro", contents=[asked, called, answered])
    called.parts[0].thought_signature = None
    with pytest.raises(genai.errors.ClientError, match="missing a thought_signature"):
        gemini.generate_content(model="gemini-3-pro", contents=[asked, called, answered])


# Ollama


@pytest.fixture
def ollama() -> Any:
    return pytest.importorskip("ollama")


@pytest.fixture
def ollama_client(ollama: Any, wire: WireServer) -> Iterator[Any]:
    with ollama.Client(host=wire.base_url("ollama")) as client:
        yield client


def test_ollama_chats(ollama_client: Any, wire: WireServer) -> None:
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD, SHOW], usage=USED))

    reply = ollama_client.chat(model="wire-1", messages=ASK)

    assert (reply.message.content, reply.message.thinking) == (TEXT, "2 + 2")
    calls = [each.function for each in reply.message.tool_calls]
    assert [each.name for each in calls] == ["add", "show"]
    assert calls[1].arguments == {"text": "é\n"}
    assert (reply.prompt_eval_count, reply.eval_count) == (20, 9)


def test_ollama_streams_lines(ollama_client: Any, wire: WireServer) -> None:
    wire.say(Answer(TEXT, calls=[ADD], stop="length"), TEXT)

    chats = list(ollama_client.chat(model="wire-1", messages=ASK, stream=True))
    texts = list(ollama_client.generate(model="wire-1", prompt="2 + 2?", stream=True))

    assert [each.message.content for each in chats if each.message.content] == PIECES
    assert [each.done for each in chats].index(True) == len(chats) - 1
    assert chats[-1].done_reason == "length"
    assert [each.response for each in texts[:-1]] == PIECES
    assert wire.requests[1].prompt == "2 + 2?"


def test_ollama_goes_on_with_a_beginning(ollama_client: Any, wire: WireServer) -> None:
    wire.say(TEXT)

    begun = [*ASK, {"role": "assistant", "content": "The answer "}]
    reply = ollama_client.chat(model="wire-1", messages=begun)

    assert reply.message.content == "is four."


def test_ollama_fills_the_schema_embeds_and_lists(ollama_client: Any) -> None:
    chat = ollama_client.chat(model="wire-1", messages=ASK, format=SCHEMA)
    embedded = ollama_client.embed(model="wire-1", input=["cat", "dog"])

    jsonschema.validate(json.loads(chat.message.content), SCHEMA)
    assert len(embedded.embeddings) == 2
    assert [each.model for each in ollama_client.list().models] == ["wire-1", "wire-2"]
    assert "tools" in ollama_client.show("wire-1").capabilities
    assert httpx.get(f"{ollama_client._client.base_url}api/version").json()["version"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("unauthorized", 401),
        ("unknown_model", 404),
        ("bad_request", 400),
        ("context_length", 400),
        ("rate_limit", 429),
        ("server_error", 500),
        ("overloaded", 503),
    ],
)
def test_ollama_knows_each_error(
    ollama: Any, ollama_client: Any, wire: WireServer, kind: FaultKind, status: int
) -> None:
    wire.say(Fault(kind), Fault(kind))

    with pytest.raises(ollama.ResponseError) as caught:
        ollama_client.chat(model="wire-1", messages=ASK)
    with pytest.raises(ollama.ResponseError) as streamed:
        list(ollama_client.chat(model="wire-1", messages=ASK, stream=True))

    assert caught.value.status_code == streamed.value.status_code == status


def test_ollama_hears_of_an_error_in_a_stream(
    ollama: Any, ollama_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, fault=Fault("error_event", at=2)))
    seen: list[Any] = []
    stream = ollama_client.chat(model="wire-1", messages=ASK, stream=True)

    with pytest.raises(ollama.ResponseError, match="llama runner process"):
        drain(stream, seen)

    assert [each.message.content for each in seen] == PIECES[:2]


# Cohere


@pytest.fixture
def cohere() -> Any:
    return pytest.importorskip("cohere")


@pytest.fixture
def cohere_client(cohere: Any, wire: WireServer) -> Iterator[Any]:
    with httpx.Client() as http:
        yield cohere.ClientV2(
            api_key=wire.key, base_url=wire.base_url("cohere"), httpx_client=http
        )


def test_cohere_answers_in_parts(cohere_client: Any, wire: WireServer) -> None:
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD], usage=USED))

    reply = cohere_client.chat(model="wire-1", messages=ASK)

    assert [each.type for each in reply.message.content] == ["thinking", "text"]
    assert reply.message.content[1].text == TEXT
    assert json.loads(reply.message.tool_calls[0].function.arguments) == {"a": 2, "b": 2}
    assert reply.finish_reason == "TOOL_CALL"
    assert (reply.usage.tokens.input_tokens, reply.usage.cached_tokens) == (20, 8)


def test_cohere_streams_what_it_would_have_said_at_once(
    cohere_client: Any, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, thinking="2 + 2", calls=[ADD, SHOW], stop="length"))

    events = list(cohere_client.chat_stream(model="wire-1", messages=ASK))

    text = [e.delta.message.content.text for e in events if e.type == "content-delta"]
    assert [each for each in text if each] == PIECES
    written = ["", ""]
    for event in events:
        if event.type == "tool-call-delta":
            part = event.delta.message.tool_calls.function.arguments
            written[event.index] += part
    assert [json.loads(each) for each in written] == [{"a": 2, "b": 2}, {"text": "é\n"}]
    assert events[-1].delta.finish_reason == "MAX_TOKENS"


def test_cohere_sends_lines_of_json_to_who_takes_json(
    http: httpx.Client, wire: WireServer
) -> None:
    wire.say(Answer(TEXT))
    body = {"model": "wire-1", "messages": ASK, "stream": True}

    response = http.post(
        "/cohere/v2/chat", json=body, headers={"accept": "application/json"}
    )

    events = [json.loads(line) for line in response.text.splitlines()]
    assert [each["type"] for each in events][::6] == ["message-start", "content-end"]
    deltas = [each for each in events if each["type"] == "content-delta"]
    assert [each["delta"]["message"]["content"]["text"] for each in deltas] == PIECES


def test_cohere_fills_the_schema_and_embeds(cohere_client: Any) -> None:
    reply = cohere_client.chat(
        model="wire-1",
        messages=ASK,
        response_format={"type": "json_object", "json_schema": SCHEMA},
    )
    embedded = cohere_client.embed(
        model="wire-1",
        texts=["cat", "dog"],
        input_type="search_query",
        embedding_types=["float"],
    )

    jsonschema.validate(json.loads(reply.message.content[0].text), SCHEMA)
    assert len(embedded.embeddings.float_) == 2


COHERE_ERRORS = {
    "unauthorized": "UnauthorizedError",
    "forbidden": "ForbiddenError",
    "unknown_model": "NotFoundError",
    "bad_request": "BadRequestError",
    "context_length": "BadRequestError",
    "rate_limit": "TooManyRequestsError",
    "server_error": "InternalServerError",
    "overloaded": "ServiceUnavailableError",
}


@pytest.mark.parametrize(("kind", "name"), COHERE_ERRORS.items())
def test_cohere_knows_each_error(
    cohere: Any, cohere_client: Any, wire: WireServer, kind: FaultKind, name: str
) -> None:
    wire.say(Fault(kind))

    with pytest.raises(getattr(cohere.errors, name)):
        cohere_client.chat(model="wire-1", messages=ASK, request_options={"max_retries": 0})


def test_cohere_hears_of_an_error_in_a_stream(cohere_client: Any, wire: WireServer) -> None:
    wire.say(Answer(TEXT, fault=Fault("error_event", at=2)))

    *_, last = cohere_client.chat_stream(model="wire-1", messages=ASK)

    assert last.delta.finish_reason == "ERROR"
    assert "internal server error" in last.delta.error


# Faults, on the wire itself


def chat(http: httpx.Client, *, stream: bool = False) -> httpx.Response:
    body = {"model": "wire-1", "messages": ASK, "stream": stream}
    return http.post("/v1/chat/completions", json=body)


def read_until_it_breaks(http: httpx.Client) -> tuple[bytes, str]:
    """Return what came of a stream, and the kind of its end."""
    body = {"model": "wire-1", "messages": ASK, "stream": True}
    came = b""
    try:
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            for data in response.iter_raw():
                came += data
    except httpx.TransportError as error:
        return came, type(error).__name__
    return came, "end"


def texts(data: bytes) -> list[str]:
    """Return the pieces of text in a stream, whole events only."""
    events = [each.removeprefix(b"data: ") for each in data.split(b"\n\n")[:-1]]
    chunks = [json.loads(each) for each in events if each != b"[DONE]"]
    deltas = [each["choices"][0]["delta"] for each in chunks if each["choices"]]
    return [each["content"] for each in deltas if each.get("content")]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("at", range(5))
def test_a_stream_is_cut_after_exactly_so_many_pieces(
    http: httpx.Client, wire: WireServer, at: int, inside: bool
) -> None:
    wire.say(Answer(TEXT, fault=Fault("cut", at=at, inside=inside)))

    came, end = read_until_it_breaks(http)

    assert (texts(came), end) == (PIECES[:at], "RemoteProtocolError")
    assert came.endswith(b"\n\n") != inside
    assert b'"finish_reason": "stop"' not in came
    assert b"[DONE]" not in came


def test_a_stream_is_reset_and_not_only_closed(
    http: httpx.Client, wire: WireServer
) -> None:
    wire.say(Fault("reset"), Answer(TEXT, fault=Fault("reset", at=2)))

    assert read_until_it_breaks(http) == (b"", "ReadError")
    assert read_until_it_breaks(http)[1] == "ReadError"


@pytest.mark.parametrize(
    ("kind", "pieces"), [("hang_headers", 0), ("hang_first", 0), ("hang_between", 2)]
)
def test_an_answer_hangs_until_the_client_gives_up(
    wire: WireServer, kind: FaultKind, pieces: int
) -> None:
    wire.say(Answer(TEXT, fault=Fault(kind, at=2)))
    headers = {"authorization": f"Bearer {wire.key}"}

    with httpx.Client(base_url=wire.url, headers=headers, timeout=PATIENCE) as http:
        came, end = read_until_it_breaks(http)
    anyio.run(wire.quiet)

    assert (texts(came), end) == (PIECES[:pieces], "ReadTimeout")
    assert bool(came) == (kind != "hang_headers")
    assert wire.requests[0].outcome == "gone"


@pytest.mark.parametrize("kind", ["malformed", "truncated", "wrong_content_type"])
def test_an_answer_is_no_json(
    http: httpx.Client, wire: WireServer, kind: FaultKind
) -> None:
    wire.say(Fault(kind))

    response = chat(http)

    assert response.status_code == 200
    with pytest.raises(ValueError, match="line"):
        response.json()
    assert ("html" in response.headers["content-type"]) == (kind == "wrong_content_type")


def test_an_answer_has_another_shape(http: httpx.Client, wire: WireServer) -> None:
    wire.say(Fault("wrong_schema"), Answer(TEXT, fault=Fault("wrong_schema", at=1)))

    assert "choices" not in chat(http).json()
    events = chat(http, stream=True).text.split("\n\n")
    assert '"wire"' in events[2]
    assert "[DONE]" in events[-2]


def test_an_event_of_a_stream_is_malformed_and_the_stream_goes_on(
    http: httpx.Client, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, fault=Fault("malformed", at=1)))

    events = chat(http, stream=True).text.split("\n\n")

    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(events[2].removeprefix("data: "))
    assert "[DONE]" in events[-2]


def test_a_stream_ends_too_early_without_an_error(
    http: httpx.Client, wire: WireServer
) -> None:
    wire.say(Answer(TEXT, fault=Fault("truncated", at=3)))

    came, end = read_until_it_breaks(http)

    assert (texts(came), end) == (PIECES[:3], "end")
    assert b"[DONE]" not in came


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_comes_byte_by_byte(
    http: httpx.Client, wire: WireServer, stream: bool
) -> None:
    wire.say(Answer(TEXT), Answer(TEXT, fault=Fault("slow")))

    fast, slow = chat(http, stream=stream), chat(http, stream=stream)

    assert slow.text.replace("chatcmpl-1", "chatcmpl-0") == fast.text
    assert wire.requests[1].outcome == "answered"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_enormous(http: httpx.Client, wire: WireServer, stream: bool) -> None:
    wire.say(Fault("enormous", size=3_000_000))

    assert len(chat(http, stream=stream).content) >= 3_000_000


@pytest.mark.parametrize(
    ("delay_in", "header", "value"),
    [
        ("retry-after", "retry-after", "1.5"),
        ("retry-after-ms", "retry-after-ms", "1500"),
        ("reset", "x-ratelimit-reset-requests", "1.5s"),
    ],
)
def test_an_error_announces_a_delay(
    http: httpx.Client, wire: WireServer, delay_in: Any, header: str, value: str
) -> None:
    wire.say(Fault("rate_limit", retry_after_s=1.5, delay_in=delay_in))

    assert chat(http).headers[header] == value


def test_an_error_announces_a_date(http: httpx.Client, wire: WireServer) -> None:
    wire.say(Fault("rate_limit", retry_after_s=30, delay_in="date"))

    when = parsedate_to_datetime(chat(http).headers["retry-after"])

    assert when.timestamp() == pytest.approx(time.time() + 30, abs=3)


def test_the_same_seed_lets_the_same_requests_fail() -> None:
    outcomes = []
    for seed in (7, 7, 8):
        with WireServer() as wire:
            wire.chaos(0.5, seed=seed)
            headers = {"authorization": f"Bearer {wire.key}"}
            with httpx.Client(base_url=wire.url, headers=headers) as http:
                outcomes.append([read_until_it_breaks(http)[1] for _ in range(30)])
            anyio.run(wire.closed)
            failed = [each.outcome for each in wire.requests].count("answered")
            assert 5 < failed < 25

    assert outcomes[0] == outcomes[1] != outcomes[2]
    assert set(CHAOS).isdisjoint({"hang_headers", "hang_first", "hang_between"})


# A model that is none of a script


@pytest.fixture
def inferring(openai: Any) -> Iterator[Any]:
    pytest.importorskip("numpy")
    pytest.importorskip("llguidance")
    from tests.wire.tiny_model import TinyModel

    with (
        WireServer(otherwise=TinyModel()) as wire,
        openai.OpenAI(
            base_url=wire.base_url("openai"), api_key=wire.key, max_retries=0
        ) as client,
    ):
        yield client.chat.completions


WANTED = {
    "type": "json_schema",
    "json_schema": {
        "name": "review",
        "strict": True,
        "schema": SCHEMA,
    },
}


def test_what_a_model_infers_fits_the_schema(inferring: Any) -> None:
    replies = [
        inferring.create(model="tiny", messages=ASK, response_format=WANTED, seed=seed)
        for seed in range(1, 21)
    ]

    said = [each.choices[0].message.content for each in replies]
    for each in said:
        jsonschema.validate(json.loads(each), SCHEMA)
    assert len(set(said)) == 20
    used = [each.usage.completion_tokens for each in replies]
    assert used == [len(each.encode()) for each in said]


def test_what_a_model_infers_is_streamed_as_it_comes(inferring: Any) -> None:
    asked = {"model": "tiny", "messages": ASK, "response_format": WANTED, "seed": 3}

    whole = inferring.create(**asked).choices[0].message.content
    chunks = list(inferring.create(**asked, stream=True))

    pieces = [each.choices[0].delta.content or "" for each in chunks]
    assert "".join(pieces) == whole
    assert max(map(len, pieces)) == 1
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_model_stops_where_it_is_told_to(inferring: Any) -> None:
    asked = {"model": "tiny", "messages": ASK, "seed": 5}
    free = inferring.create(**asked).choices[0].message.content

    short = inferring.create(**asked, max_tokens=10)
    stopped = inferring.create(**asked, stop=[free[8:11]], stream=True)

    assert short.choices[0].message.content == free[:10]
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 10)
    said = "".join(each.choices[0].delta.content or "" for each in stopped)
    assert said == free[: free.index(free[8:11])]


# The server itself


def test_it_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())

    with WireServer("Hello") as wire:
        headers = {"authorization": f"Bearer {wire.key}"}
        with httpx.Client(base_url=wire.url, headers=headers) as http:
            assert "Hello" in chat(http).text
            assert wire.open_connections == 1
        anyio.run(wire.closed)
        url = wire.url

    assert set(threading.enumerate()) <= before
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_it_is_started_in_less_than_half_a_second() -> None:
    took = []
    for _ in range(3):
        started = time.perf_counter()
        with WireServer():
            took.append(time.perf_counter() - started)

    assert min(took) < 0.5


def test_it_stops_while_an_answer_hangs() -> None:
    with WireServer(Fault("hang_headers")) as wire:
        headers = {"authorization": f"Bearer {wire.key}"}
        with (
            httpx.Client(base_url=wire.url, headers=headers, timeout=PATIENCE) as http,
            pytest.raises(httpx.ReadTimeout),
        ):
            chat(http)


def test_a_function_decides_and_the_script_comes_first(
    http: httpx.Client, wire: WireServer
) -> None:
    wire.otherwise = lambda request: request.prompt.upper()
    wire.say("First")

    said = [chat(http).json()["choices"][0]["message"]["content"] for _ in range(2)]

    assert said == ["First", "2 + 2?"]
    assert [each.outcome for each in wire.requests] == ["answered", "answered"]


def test_what_a_function_of_the_script_raises_is_raised_in_the_end() -> None:
    def fail(request: Request) -> str:
        raise ZeroDivisionError(request.prompt)

    def ask() -> None:
        with WireServer(fail) as wire:
            headers = {"authorization": f"Bearer {wire.key}"}
            with (
                httpx.Client(base_url=wire.url, headers=headers) as http,
                pytest.raises(httpx.ReadError),
            ):
                chat(http)

    with pytest.raises(ZeroDivisionError, match="2"):
        ask()


def test_it_runs_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "tests.wire", "--chunks", "3"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        headers = {"authorization": "Bearer wire-key"}
        with httpx.Client(base_url=url, headers=headers) as http:
            came, end = read_until_it_breaks(http)
        process.stdin.close()

    assert texts(came) == ["piece 0 ", "piece 1 ", "piece 2 "]
    assert (end, process.returncode) == ("end", 0)


def test_an_unknown_address_is_not_found(http: httpx.Client) -> None:
    assert http.post("/v1/nothing", json={}).status_code == 404


def test_what_is_asked_of_what_there_is_can_fail_too(
    http: httpx.Client, wire: WireServer
) -> None:
    wire.listing = Fault("unavailable")

    assert http.get("/ollama/api/tags").status_code == 503


@pytest.mark.parametrize("answer", [Answer(delay_s=9), Answer(TEXT, between_s=9)])
def test_it_sees_at_once_that_a_client_has_given_up(
    wire: WireServer, answer: Answer
) -> None:
    wire.say(answer)
    headers = {"authorization": f"Bearer {wire.key}"}

    with httpx.Client(base_url=wire.url, headers=headers, timeout=PATIENCE) as http:
        assert read_until_it_breaks(http)[1] == "ReadTimeout"
    anyio.run(wire.closed)

    assert wire.requests[0].outcome == "gone"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_gate_holds_answers_back(wire: WireServer) -> None:
    gate = wire.gate()
    wire.otherwise = Answer(TEXT, gate=gate)
    headers = {"authorization": f"Bearer {wire.key}"}
    body = {"model": "wire-1", "messages": ASK}
    answers: list[int] = []

    async with httpx.AsyncClient(base_url=wire.url, headers=headers) as http:

        async def ask() -> None:
            response = await http.post("/v1/chat/completions", json=body)
            answers.append(response.status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await wire.arrived(3)
            assert answers == []
            gate.open()

    assert answers == [200, 200, 200]
    await wire.closed()
