"""What no provider should say, and what litellm keeps back, is read as it was meant."""

from __future__ import annotations

from contextlib import suppress
from threading import get_ident
from typing import Any

import pytest
from kaizen import (
    Image,
    Message,
    ModelDelta,
    ModelError,
    ModelFilterError,
    ModelRateLimitError,
    ModelReply,
    ModelRequest,
    ModelRequestError,
    Provider,
)
from kaizen_litellm._pictures import PASSED_ON
from kaizen_litellm._watch import Watch

from tests.wire.server import Answer, Call, WireServer

from .conftest import Opened, answered, asking, streamed
from .raw import (
    MODELS,
    RawServer,
    asked_at,
    both,
    chunk,
    claude,
    completion,
    events,
    gemini,
    http,
)
from .test_calls import WEATHER

pytestmark = pytest.mark.anyio

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
DONE = b"[DONE]"


def text(said: str) -> dict[str, Any]:
    return {"delta": {"type": "text_delta", "text": said}}


async def failing(provider: Provider, *, stream: bool, **fields: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await answered(provider, asking(**fields), stream=stream)
    return caught.value


BROKEN = {
    "openai": [
        chunk({"content": "Hello "}),
        chunk(choices=[None]),
        chunk({"content": "end"}, "stop"),
        DONE,
    ],
    "anthropic": claude(text("Hello "), {}, text("end")),
    "google": [
        gemini({"text": "Hello "}),
        gemini({"functionCall": {"name": "now"}}, reason="STOP"),
    ],
}


@pytest.mark.parametrize("way", BROKEN)
async def test_of_a_stream_with_an_event_that_nobody_can_read_half_is_not_the_whole(
    way: str,
) -> None:
    with RawServer(events(*BROKEN[way])) as server:
        async with asked_at(server, way) as provider:
            error = await failing(provider, stream=True)

    assert type(error) is ModelRequestError
    assert error.retryable
    assert error.partial is not None
    assert (error.partial.text, error.partial.tool_uses) == ("Hello ", ())


@pytest.mark.parametrize("way", ["openai", "google"])
async def test_a_stream_that_breaks_off_behind_its_end_is_whole(way: str) -> None:
    ends: dict[str, Any] = {
        "openai": chunk({"content": "all"}, "stop"),
        "google": gemini({"text": "all"}, reason="STOP"),
    }

    with RawServer(events(ends[way], cut=True)) as server:
        async with asked_at(server, way) as provider:
            seen, reply = await streamed(provider, asking())

    assert (seen, reply.finish_reason) == ("all", "stop")


async def test_what_comes_behind_the_last_text_is_a_sign_of_life() -> None:
    """So that who watches for silence does not give an answer up that is whole."""
    answer = events(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "a"}),
        chunk({"content": "ll"}),
        chunk({}, "stop"),
        DONE,
    )

    with RawServer(answer) as server:
        async with asked_at(server, "openai") as provider:
            *deltas, reply = [each async for each in provider.stream(asking())]

    assert [each.text for each in deltas if isinstance(each, ModelDelta)] == ["a", "ll", ""]
    assert isinstance(reply, ModelReply)
    assert reply.text == "all"


async def test_an_end_of_which_the_last_line_is_missing_is_no_end() -> None:
    whole = events(chunk({"content": "a"}), chunk({"content": "ll"}, "stop"), cut=True)
    head, _, body = whole.partition(b"\r\n\r\n")
    cut = body.partition(b"\r\n")[2].removesuffix(b"\n\r\n")
    reply = head + b"\r\n\r\n" + f"{len(cut):x}\r\n".encode() + cut + b"\r\n"

    with RawServer(reply) as server:
        async with asked_at(server) as provider:
            error = await failing(provider, stream=True)

    assert error.partial is not None
    assert error.partial.text == "a"


@both_ways
async def test_tokens_that_were_not_counted_are_estimated_and_not_none(
    stream: bool,
) -> None:
    said = "one two three four"
    reply = both(
        http(completion(said, usage=None)),
        events(chunk({"content": said}), chunk({}, "stop"), DONE),
    )

    with RawServer(reply) as server:
        async with asked_at(server) as provider:
            answer = await answered(provider, asking("a b c d e f g"), stream=stream)

    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 5)
    assert answer.cost_usd


@both_ways
async def test_a_refusal_is_told_in_its_own_words(stream: bool) -> None:
    refused = {"refusal": "I cannot help."}
    reply = both(
        http(completion(None, message=refused)),
        events(
            chunk({"role": "assistant", "content": None, "refusal": ""}),
            chunk({"refusal": "I cannot "}),
            chunk({"refusal": "help."}),
            chunk({"refusal": "of another"}, index=1),
            chunk({}, "stop"),
            DONE,
        ),
    )

    with RawServer(reply) as server:
        async with asked_at(server) as provider:
            answer = await answered(provider, asking(), stream=stream)

    assert (answer.text, answer.finish_reason) == ("I cannot help.", "content_filter")


@pytest.mark.parametrize("way", ["openai", "azure", "anthropic"])
async def test_while_the_arguments_of_a_call_come_there_are_signs_of_life(
    wire: WireServer, opened: Opened, way: str
) -> None:
    wire.say(Call("weather", {"city": "a long name of a city " * 20}))

    async with opened(way) as provider:
        *pieces, _ = [each async for each in provider.stream(asking(tools=(WEATHER,)))]

    assert len(pieces) > 10
    assert {each.text for each in pieces if isinstance(each, ModelDelta)} == {""}


def piece(arguments: str, index: int = 0, **fields: Any) -> Any:
    function = {**fields.pop("function", {}), "arguments": arguments}
    call = {"type": "function", "function": function, "index": index, **fields}
    return chunk({"tool_calls": [call]})


async def test_calls_that_a_server_gives_one_number_keep_their_own_arguments() -> None:
    named: Any = {"function": {"name": "f"}}
    stream = events(
        piece('{"x":', id="a", **named),
        piece("1}"),
        piece('{"x":', id="b", **named),
        piece("2}"),
        piece("", id="a"),
        chunk({}, "tool_calls"),
        DONE,
    )

    with RawServer(stream) as server:
        async with asked_at(server) as provider:
            _, reply = await streamed(provider, asking())

    assert [(use.id, use.arguments) for use in reply.tool_uses] == [
        ("a", '{"x":1}'),
        ("b", '{"x":2}'),
    ]


async def test_calls_that_come_at_once_keep_their_own_arguments() -> None:
    named: Any = {"function": {"name": "f"}}
    stream = events(
        piece("", 0, id="a", **named),
        piece("", 1, id="b", **named),
        piece('{"x":', 0),
        piece('{"x":', 1),
        piece("1}", 0),
        piece("2}", 1),
        chunk({}, "tool_calls"),
        DONE,
    )

    with RawServer(stream) as server:
        async with asked_at(server) as provider:
            _, reply = await streamed(provider, asking())

    assert [use.arguments for use in reply.tool_uses] == ['{"x":1}', '{"x":2}']


@both_ways
@pytest.mark.parametrize("reason", ["OTHER", "LANGUAGE", "SAFETY"])
async def test_an_answer_of_which_nothing_was_let_through_is_a_filters(
    stream: bool, reason: str
) -> None:
    said = gemini(reason=reason)

    with RawServer(both(http(said), events(said))) as server:
        async with asked_at(server, "google") as provider:
            error = await failing(provider, stream=stream)

    assert type(error) is ModelFilterError


@both_ways
async def test_a_prompt_that_was_blocked_is_a_filters(stream: bool) -> None:
    said = {**gemini(), "candidates": [], "promptFeedback": {"blockReason": "OTHER"}}

    with RawServer(both(http(said), events(said))) as server:
        async with asked_at(server, "google") as provider:
            error = await failing(provider, stream=stream)

    assert type(error) is ModelFilterError


@both_ways
async def test_a_call_that_the_model_could_not_write_is_no_empty_reply(
    stream: bool,
) -> None:
    said = gemini(reason="MALFORMED_FUNCTION_CALL")

    with RawServer(both(http(said), events(said))) as server:
        async with asked_at(server, "google") as provider:
            error = await failing(provider, stream=stream)

    assert type(error) is ModelRequestError
    assert error.retryable
    assert error.partial is not None
    assert error.partial.finish_reason == "MALFORMED_FUNCTION_CALL"


@both_ways
async def test_an_answer_in_openais_newer_format_that_failed_says_why(
    stream: bool,
) -> None:
    failed = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "gpt-5-codex",
        "status": "failed",
        "error": {"code": "rate_limit_exceeded", "message": "slow down"},
        "output": [],
    }
    told = {"type": "response.failed", "sequence_number": 1, "response": failed}

    with RawServer(both(http(failed), events(told))) as server:
        async with asked_at(server, model="gpt-5-codex") as provider:
            error = await failing(provider, stream=stream)

    assert type(error) is ModelRateLimitError


async def test_a_last_event_that_only_counts_needs_no_choices() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
    stream = events(
        chunk({"content": "one"}),
        chunk({}, "stop"),
        chunk(choices=None, usage=usage),
        DONE,
    )

    with RawServer(stream) as server:
        async with asked_at(server) as provider:
            seen, reply = await streamed(provider, asking())

    assert (seen, reply.usage.input_tokens, reply.usage.output_tokens) == ("one", 9, 8)


async def test_that_another_choice_has_ended_does_not_end_the_one_that_is_read() -> None:
    stream = events(
        chunk({"content": "one "}), chunk({"content": "A"}, "stop", index=1), cut=True
    )

    with RawServer(stream) as server:
        async with asked_at(server) as provider:
            error = await failing(provider, stream=True)

    assert error.partial is not None
    assert error.partial.text == "one "


@both_ways
async def test_an_error_in_an_answer_that_is_none_is_told_of_any_provider(
    stream: bool,
) -> None:
    said = {"error": {"code": 429, "message": "Rate limit exceeded"}}

    with RawServer(both(http(said), events(said))) as server:
        async with asked_at(server, "openrouter") as provider:
            error = await failing(provider, stream=stream, model="openrouter/x/y")

    assert type(error) is ModelRateLimitError


@both_ways
@pytest.mark.parametrize("way", ["openai", "anthropic", "groq"])
async def test_an_answer_that_is_compressed_is_not_read(way: str, stream: bool) -> None:
    reply = both(
        http(b"\x1f\x8b" + bytes(100), content_encoding="gzip"),
        http(b"\x1f\x8b" + bytes(100), "text/event-stream", content_encoding="gzip"),
    )
    model = "groq/m" if way == "groq" else ""

    with RawServer(reply) as server:
        async with asked_at(server, way) as provider:
            error = await failing(provider, stream=stream, model=model)

    assert type(error) is ModelRequestError
    assert "compressed" in error.problem
    assert not error.retryable
    assert len(server.requests) == 1


async def test_a_refusal_that_is_compressed_is_one() -> None:
    reply = http(b"\x1f\x8b", status="429 Slow", content_encoding="gzip", retry_after="7")

    with RawServer(reply) as server:
        async with asked_at(server) as provider:
            error = await failing(provider, stream=False)

    assert type(error) is ModelRateLimitError
    assert error.retry_after_s == 7


def picture(url: str) -> tuple[Message, ...]:
    return (Message(role="user", content=("What is this?", Image(url))),)


@both_ways
@pytest.mark.parametrize(
    ("way", "scheme"),
    [("google", "https"), ("google", "http"), ("anthropic", "http"), ("bedrock", "https")],
)
async def test_no_image_is_fetched_from_an_address_that_somebody_wrote(
    stream: bool, way: str, scheme: str
) -> None:
    model = "bedrock/m" if way == "bedrock" else ""

    with RawServer(http(b"\x89PNG", "image/png")) as elsewhere:
        url = f"{scheme}{elsewhere.url.removeprefix('http')}/a.png"
        request = ModelRequest(messages=picture(url), model=model)
        async with asked_at(elsewhere, way) as provider:
            with pytest.raises(ModelRequestError, match="unguarded") as caught:
                await answered(provider, request, stream=stream)

    assert not elsewhere.requests
    assert "give their bytes" in caught.value.remedy
    assert not caught.value.retryable


async def test_where_a_provider_fetches_images_itself_it_is_given_the_address() -> None:
    passing = {"anthropic": "anthropic", "cohere": "cohere_chat", "openai": "openai"}
    passing |= {each: each for each in PASSED_ON if each not in passing.values()}
    del passing["azure"], passing["azure_ai"]

    with RawServer(http(completion())) as server:
        for name, route in passing.items():
            for scheme in PASSED_ON[route]:
                url = f"{scheme}127.0.0.1:1/{name}.png"
                model = f"{name}/m" if name == route and name not in MODELS else ""
                request = ModelRequest(messages=picture(url), model=model)
                before = len(server.requests)
                async with asked_at(server, name) as provider:
                    with suppress(ModelError):  # not each of them answers in this form
                        await provider.complete(request)
                assert len(server.requests) == before + 1
                assert url.encode() in server.requests[-1]


async def test_a_large_answer_does_not_hold_up_the_event_loop(
    wire: WireServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    look = Watch.whole

    def noted(watch: Watch, body: bytes) -> None:
        threads.append(get_ident())
        look(watch, body)

    monkeypatch.setattr(Watch, "whole", noted)
    wire.say(Answer("word " * 400_000), "Hello")

    async with opened() as provider:
        large = await provider.complete(asking())
        await provider.complete(asking())

    assert len(large.text) == 2_000_000
    assert [each == get_ident() for each in threads] == [False, True]
