"""Whatever goes wrong becomes one of the kernel's errors, and tells no secret."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator

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
    ModelRequestError,
    ModelSettings,
    ModelTimeoutError,
    ModelUnavailableError,
    Provider,
)

from tests.wire.script import FaultKind
from tests.wire.server import Answer, Call, Fault, WireServer

from .conftest import KEY, WAYS, Opened, answered, asking, within

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
def _no_secret_in_logs(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Listen to all loggers and streams; none may say the key or the prompt."""
    with caplog.at_level(logging.DEBUG):
        yield
    said = capfd.readouterr()
    for text in (caplog.text, said.out, said.err):
        assert KEY not in text
        assert PROMPT not in text
    assert said.out == said.err == ""


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


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EXPECTED)
async def test_each_fault_has_its_error_and_tells_no_secret(
    wire: WireServer, opened: Opened, way: str, kind: FaultKind
) -> None:
    fault = Fault(kind, at=1, size=3 * 1024 * 1024)
    seconds = 1 if kind.startswith("hang") else 5
    wire.say(*[Answer("Hello there, you", fault=fault)] * 2)

    async with opened(way, settings={"max_reply_mb": 1}) as provider:
        whole = await failing(provider, stream=False, seconds=seconds)
        stream = await failing(provider, stream=True, seconds=seconds)

    expected = EXPECTED[kind]
    assert type(whole) is expected
    assert type(stream) is (ModelConnectionError if kind == "truncated" else expected)
    for error in (whole, stream):
        assert error.provider == WAYS[way].name
        assert KEY not in everything(error)
        assert PROMPT not in everything(error)
        assert error.__cause__ is None
        assert error.__context__ is None
        assert not (error.retryable and isinstance(error, LASTING))
    assert len(wire.requests) == 2  # nothing is sent twice


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "azure", "anthropic", "google", "cohere"])
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


async def read_into(seen: list[str], provider: Provider) -> None:
    """Read a stream, and keep what it said also when it breaks."""
    async for piece in provider.stream(asking()):
        assert isinstance(piece, ModelDelta)
        seen.append(piece.text)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "anthropic", "google", "ollama", "cohere"])
@pytest.mark.parametrize("inside", [False, True], ids=["between", "inside"])
async def test_of_a_stream_cut_anywhere_all_that_came_is_kept(
    wire: WireServer, opened: Opened, way: str, inside: bool
) -> None:
    pieces = [f"piece {number} ö " for number in range(20)]

    async with opened(way) as provider:
        for cut in range(21):
            fault = Fault("cut", at=cut, inside=inside)
            wire.say(Answer(chunks=pieces, fault=fault))
            seen: list[str] = []
            with pytest.raises(ModelConnectionError) as caught:
                await read_into(seen, provider)
            assert "".join(seen) == "".join(pieces[:cut])
            partial = caught.value.partial
            assert partial is not None
            assert partial.text == "".join(seen)
            assert partial.usage.input_tokens > 0
            assert partial.usage.output_tokens > 0 or not cut
        await wire.closed()


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "anthropic"])
async def test_half_a_tool_call_is_no_call(
    wire: WireServer, opened: Opened, way: str
) -> None:
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
@pytest.mark.parametrize("way", ["openai", "anthropic", "google"])
@pytest.mark.parametrize("form", ["retry-after", "date", "retry-after-ms", "reset"])
async def test_the_delay_of_a_rate_limit_is_read_in_every_form(
    wire: WireServer, opened: Opened, way: str, form: str
) -> None:
    wire.say(Fault("rate_limit", retry_after_s=30, delay_in=form))  # type: ignore[arg-type]

    async with opened(way) as provider:
        error = await failing(provider, stream=False)

    assert error.retry_after_s == pytest.approx(30, abs=3)
    assert error.retryable


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

    async with opened(settings={"idle_timeout_s": 0.2}) as provider:
        error = await failing(provider, stream=True)

    assert type(error) is ModelTimeoutError
    assert error.partial is not None
    assert error.partial.text == "Hello"


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["docker", "ollama"])
async def test_nobody_there_is_a_connection_error(opened: Opened, way: str) -> None:
    async with opened(way, base_url="http://127.0.0.1:1/v1") as provider:
        error = await failing(provider, stream=True)

    assert type(error) is ModelConnectionError
    assert error.retryable
    assert error.partial is None


@pytest.mark.anyio
async def test_an_option_that_a_model_does_not_have_is_named(opened: Opened) -> None:
    async with opened(model="o3-mini") as provider:
        request = asking(PROMPT, settings=ModelSettings(temperature=0.3))
        with pytest.raises(ModelRequestError, match="temperature") as caught:
            await provider.complete(request)

    assert PROMPT not in everything(caught.value)
