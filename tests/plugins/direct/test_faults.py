"""Whatever goes wrong becomes one of the kernel's errors, and tells no secret."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from kaizen import (
    ModelAuthError,
    ModelConnectionError,
    ModelContextError,
    ModelDelta,
    ModelError,
    ModelFilterError,
    ModelOverloadedError,
    ModelQuotaError,
    ModelRateLimitError,
    ModelReply,
    ModelRequestError,
    ModelTimeoutError,
    ModelUnavailableError,
    Provider,
)
from kaizen_direct._errors import refusal, retry_after, told

from tests.wire.script import FaultKind
from tests.wire.server import Answer, Fault, WireServer

from .conftest import KEY, Opened, Serving, answered, asking, within

PROMPT = "the prompt that nobody else may read"
EXPECTED: dict[FaultKind, type[ModelError]] = {
    "unauthorized": ModelAuthError,
    "forbidden": ModelAuthError,
    "unknown_model": ModelUnavailableError,
    "bad_request": ModelRequestError,
    "context_length": ModelContextError,
    "content_filter": ModelFilterError,
    "rate_limit": ModelRateLimitError,
    "quota": ModelQuotaError,
    "server_error": ModelOverloadedError,
    "bad_gateway": ModelOverloadedError,
    "unavailable": ModelOverloadedError,
    "overloaded": ModelOverloadedError,
    "hang_headers": ModelTimeoutError,
    "hang_first": ModelTimeoutError,
    "hang_between": ModelTimeoutError,
    "reset": ModelConnectionError,
    "cut": ModelConnectionError,
    "malformed": ModelRequestError,
    "truncated": ModelRequestError,
    "wrong_schema": ModelRequestError,
    "enormous": ModelRequestError,
    "wrong_content_type": ModelRequestError,
    "error_event": ModelOverloadedError,
}
LASTING = (
    ModelAuthError,
    ModelUnavailableError,
    ModelContextError,
    ModelFilterError,
    ModelQuotaError,
)


@pytest.fixture(autouse=True)
def _no_secret_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Listen to every logger at its most talkative; none may say the key or the prompt."""
    with caplog.at_level(logging.DEBUG):
        yield
    assert KEY not in caplog.text
    assert PROMPT not in caplog.text


def everything(error: BaseException | None) -> str:
    """Return all that an error says, with all that hangs on it."""
    if error is None:
        return ""
    parts = [
        str(error),
        repr(error),
        repr(error.args),
        repr(getattr(error, "__notes__", ())),
        repr(vars(error)),
        *traceback.format_exception(error),
        everything(error.__cause__),
        everything(error.__context__),
    ]
    return "\n".join(parts)


async def failing(provider: Provider, *, stream: bool, seconds: float = 5) -> ModelError:
    """Ask, and return the error."""
    with pytest.raises(ModelError) as caught:
        await answered(provider, asking(PROMPT, settings=within(seconds)), stream=stream)
    return caught.value


async def read_into(seen: list[str], provider: Provider) -> None:
    """Read a stream, and keep what it said also when it breaks."""
    async for piece in provider.stream(asking()):
        assert isinstance(piece, ModelDelta)
        seen.append(piece.text)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "azure", "anthropic", "ollama", "docker"])
@pytest.mark.parametrize("kind", EXPECTED)
async def test_each_fault_has_its_error_and_tells_no_secret(
    wire: WireServer, opened: Opened, way: str, kind: FaultKind
) -> None:
    fault = Fault(kind, at=1, size=3 * 1024 * 1024)
    seconds = 0.15 if kind.startswith("hang") else 5
    wire.say(*[Answer("Hello there, you", fault=fault)] * 2)

    async with opened(way, settings={"max_reply_mb": 1}) as provider:
        whole = await failing(provider, stream=False, seconds=seconds)
        stream = await failing(provider, stream=True, seconds=seconds)

    expected = EXPECTED[kind]
    if (way, kind) == ("ollama", "content_filter"):  # which has none
        expected = ModelRequestError
    assert type(whole) is expected
    assert type(stream) is (ModelConnectionError if kind == "truncated" else expected)
    for error in (whole, stream):
        assert error.provider == way
        assert KEY not in everything(error)
        assert PROMPT not in everything(error)
        assert error.__cause__ is None
        assert error.__context__ is None
        assert not (error.retryable and isinstance(error, LASTING))


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "azure", "anthropic", "docker"])
@pytest.mark.parametrize(
    "kind", ["unauthorized", "bad_request", "rate_limit", "error_event"]
)
async def test_a_provider_that_repeats_key_and_prompt_is_not_quoted(
    wire: WireServer, opened: Opened, way: str, kind: FaultKind
) -> None:
    fault = Fault(kind, message=f"Bearer {KEY} may not say: {PROMPT}")
    wire.say(*[Answer("Hello", fault=fault)] * 2)

    async with opened(way) as provider:
        errors = [
            await failing(provider, stream=False),
            await failing(provider, stream=True),
        ]

    for error in errors:
        assert KEY not in everything(error)
        assert PROMPT not in everything(error)


@pytest.mark.parametrize("value", [KEY, f"bad_key.{KEY}", KEY[:12]])
def test_a_code_that_holds_the_key_is_not_shown(value: str) -> None:
    body = {"error": {"code": value, "type": "invalid_request_error"}}

    for error in (
        refusal("openai", 401, {}, body, key=KEY),
        told("openai", body["error"], key=KEY),
    ):
        assert value not in everything(error)
        assert "invalid_request_error" in str(error)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "anthropic", "ollama"])
@pytest.mark.parametrize("inside", [False, True], ids=["between", "inside"])
async def test_of_a_stream_cut_anywhere_all_that_came_is_kept(
    wire: WireServer, opened: Opened, way: str, inside: bool
) -> None:
    pieces = [f"piece {number} ö " for number in range(60)]

    async with opened(way) as provider:
        for cut in range(61):
            fault = Fault("cut", at=cut, inside=inside)
            wire.say(Answer(chunks=pieces, fault=fault))
            seen: list[str] = []
            with pytest.raises(ModelConnectionError) as caught:
                await read_into(seen, provider)
            assert seen == pieces[:cut]
            partial = caught.value.partial
            assert partial is not None
            assert partial.text == "".join(seen)
            assert partial.usage.input_tokens > 0
            assert (partial.usage.output_tokens > 0) == (cut > 0 or way == "anthropic")
        await wire.closed()


@pytest.mark.anyio
async def test_a_stream_that_breaks_after_the_model_has_ended_is_whole(
    serving: Serving, opened: Opened
) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n"
    )
    chunk = b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'

    async with opened("vllm", base_url=serving(head + chunk)) as provider:
        reply = await answered(provider, asking(), stream=True)

    assert (reply.text, reply.finish_reason) == ("Hi", "stop")


@pytest.mark.anyio
@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_that_cannot_be_put_together_is_an_error_of_ours(
    serving: Serving, opened: Opened, ends: bool
) -> None:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta"}},
        *[{"type": "message_stop"}] * ends,
    ]
    body = b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in events)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

    url = serving(head + body)
    async with opened("mine_anthropic", base_url=url, api_key_env="") as provider:
        error = await failing(provider, stream=True)

    assert type(error) is (ModelRequestError if ends else ModelConnectionError)
    assert error.partial is not None


@pytest.mark.anyio
async def test_half_a_tool_call_is_no_call(wire: WireServer, opened: Opened) -> None:
    from tests.wire.server import Call

    for way in ("openai", "anthropic"):
        call = Call("weather", {"city": "a long name of a city"})
        wire.say(Answer("I look.", calls=[call], fault=Fault("cut", at=4)))
        async with opened(way) as provider:
            error = await failing(provider, stream=True)

        assert error.partial is not None
        assert error.partial.text == "I look."
        assert error.partial.tool_uses == ()


@pytest.mark.anyio
async def test_an_attempt_that_was_refused_cost_nothing(
    wire: WireServer, opened: Opened
) -> None:
    async with opened() as provider:
        for kind in ("unauthorized", "rate_limit", "overloaded", "wrong_content_type"):
            wire.say(Fault(kind))
            assert (await failing(provider, stream=True)).partial is None


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "anthropic"])
@pytest.mark.parametrize("form", ["retry-after", "date", "retry-after-ms", "reset"])
async def test_the_delay_of_a_rate_limit_is_read_in_every_form(
    wire: WireServer, opened: Opened, way: str, form: str
) -> None:
    wire.say(Fault("rate_limit", retry_after_s=30, delay_in=form))  # type: ignore[arg-type]

    async with opened(way) as provider:
        error = await failing(provider, stream=False)

    assert error.retry_after_s == pytest.approx(30, abs=3)
    assert error.retryable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1" * 400}, None),
        ({"retry-after": "999999999999"}, 86_400),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"x-ms-retry-after-ms": "250"}, 0.25),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1s"}, None),
        (
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0.5s"},
            360.5,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "later"}, None),
    ],
)
def test_delays_are_read_with_care(headers: dict[str, str], seconds: float | None) -> None:
    found = retry_after(headers)

    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.anyio
async def test_a_request_ends_in_its_time_however_slowly_the_answer_dribbles(
    wire: WireServer, opened: Opened
) -> None:
    slow = Answer("word " * 50, between_s=0.02, fault=Fault("slow"))

    async with opened() as provider:
        for stream in (False, True):
            wire.say(slow)
            with anyio.fail_after(5):
                error = await failing(provider, stream=stream, seconds=0.3)
            assert type(error) is ModelTimeoutError
        await wire.closed()


@pytest.mark.anyio
async def test_silence_ends_a_request_before_its_time(
    wire: WireServer, opened: Opened
) -> None:
    wire.say(Answer("Hello there", fault=Fault("hang_between", at=1)))

    async with opened(settings={"idle_timeout_s": 1}) as provider:
        error = await failing(provider, stream=True)

    assert type(error) is ModelTimeoutError
    assert error.partial is not None
    assert error.partial.text == "Hello"


@pytest.mark.anyio
async def test_nobody_there_is_a_connection_error(opened: Opened) -> None:
    async with opened("vllm", base_url="http://127.0.0.1:1/v1") as provider:
        error = await failing(provider, stream=True)

    assert type(error) is ModelConnectionError
    assert error.retryable
    assert error.partial is None


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_redirect_is_not_followed_with_the_key(
    serving: Serving, opened: Opened, wire: WireServer, stream: bool
) -> None:
    there = f"{wire.base_url('openai')}/chat/completions"
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n"

    async with opened("mine", base_url=serving(moved.encode())) as provider:
        error = await failing(provider, stream=stream)

    assert type(error) is ModelRequestError
    assert "another address" in str(error)
    assert not wire.requests


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_compressed_is_refused(
    serving: Serving, opened: Opened, stream: bool
) -> None:
    packed = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    )

    async with opened("vllm", base_url=serving(packed)) as provider:
        error = await failing(provider, stream=stream)

    assert "compressed" in str(error)


@pytest.mark.anyio
async def test_a_server_that_streams_nothing_is_understood_all_the_same(
    serving: Serving, opened: Opened
) -> None:
    body = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"new":{}}'
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )

    async with opened("vllm", base_url=serving(head % len(body) + body)) as provider:
        pieces = [piece async for piece in provider.stream(asking())]

    first, last = pieces
    assert first == ModelDelta(text="Hi")
    assert isinstance(last, ModelReply)
    assert last.text == "Hi"


@pytest.mark.anyio
@pytest.mark.parametrize("status", [b"200 OK", b"503 Busy"])
async def test_what_is_refused_since_it_is_compressed_gives_its_connection_back(
    serving: Serving, opened: Opened, status: bytes
) -> None:
    packed = b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    url = serving(b"HTTP/1.1 " + status + b"\r\n" + packed)
    few = {"max_connections": 1, "idle_timeout_s": 1}

    async with opened("vllm", base_url=url, settings=few) as provider:
        errors = [await failing(provider, stream=False) for _ in range(3)]

    assert not [each for each in errors if isinstance(each, ModelTimeoutError)]


LIMIT = (
    "Rate limit reached for gpt-4o-mini on requests per min (RPM): Limit 3, Used 3. You "
    "can increase your rate limit by adding a payment method at https://example.org/billing."
)
RATE: dict[str, Any] = {"message": LIMIT, "type": "requests", "code": "rate_limit_exceeded"}
QUOTA: dict[str, Any] = {"message": "Look at the plan.", "code": "insufficient_quota"}


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (429, RATE, ModelRateLimitError),
        (429, {"message": LIMIT}, ModelRateLimitError),
        (429, {"message": LIMIT, "type": "tokens", "code": None}, ModelRateLimitError),
        (
            429,
            {"message": "exceeded your current quota", "type": "rate_limit_error"},
            ModelRateLimitError,
        ),
        (429, QUOTA, ModelQuotaError),
        (403, QUOTA, ModelQuotaError),
        (403, {"message": "No payment for this."}, ModelAuthError),
        (429, {"message": "You exceeded your current quota."}, ModelQuotaError),
        (429, {"code": "billing_hard_limit_reached"}, ModelQuotaError),
        (400, {"message": "Your credit balance is too low."}, ModelQuotaError),
    ],
)
def test_a_rate_that_is_too_high_is_told_from_a_quota_that_is_used_up(
    status: int, said: dict[str, Any], kind: type[ModelError]
) -> None:
    error = refusal("p", status, {"retry-after": "20"}, {"error": said})

    assert type(error) is kind
    assert error.retry_after_s == (20 if kind is ModelRateLimitError else None)


@pytest.mark.parametrize("said", [RATE, {"message": LIMIT}, {"type": "tokens"}])
def test_a_stream_that_ends_for_its_rate_is_no_matter_of_payment(
    said: dict[str, Any],
) -> None:
    assert type(told("p", said)) is ModelRateLimitError
