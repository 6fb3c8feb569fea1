"""Requests that take too long, whatever their provider does about it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import pytest
from kaizen import ModelCall, Priority, hookimpl
from kaizen.errors import ModelConnectionError, ModelTimeoutError
from kaizen.messages import ModelDelta, ModelReply, ModelRequest, Usage
from kaizen.runlog import ModelCharged

from .conftest import Actor, Piece, Staging

pytestmark = pytest.mark.anyio

SOON_S = 0.05
STREAM = {"stream": True}
PRICES: dict[str, Any] = {
    "input_usd_per_million": Decimal(4_000_000),
    "output_usd_per_million": Decimal(8_000_000),
}


class Stubborn(Actor):
    """Makes another error of it when it is cancelled.

    Attributes:
        closed: How many streams have ended.
    """

    closed = 0

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        try:
            async for piece in super().stream(request):
                yield piece
        except anyio.get_cancelled_exc_class():
            raise ModelConnectionError("first", "lost its connection") from None
        finally:
            self.closed += 1


async def fails(staging: Staging, actor: Actor, config: Any, **settings: Any) -> str:
    """Run an agent whose provider hangs, and return what the error says."""
    async with staging(actor, retries=0, **settings) as stage:
        with anyio.fail_after(10), pytest.raises(ModelTimeoutError) as raised:
            await stage.agent(config).run(question="?")
    assert raised.value.retryable
    assert raised.value.provider == "first"
    return raised.value.problem


@pytest.mark.parametrize("config", [{}, STREAM], ids=["whole", "streamed"])
async def test_a_reply_that_does_not_come_in_time_is_given_up(
    staging: Staging, config: dict[str, Any]
) -> None:
    problem = await fails(staging, Actor([None]), config, timeout_s=SOON_S)

    assert problem == "did not answer within 0.05 s"


async def test_a_stream_that_does_not_begin_is_given_up(staging: Staging) -> None:
    problem = await fails(staging, Actor([None]), STREAM, first_token_s=SOON_S)

    assert problem == "sent nothing for 0.05 s"


@pytest.mark.parametrize(
    "piece", ["Hello", ModelDelta(reasoning="hm")], ids=["text", "reasoning"]
)
async def test_a_stream_that_falls_silent_is_given_up(
    staging: Staging, piece: Piece
) -> None:
    actor = Actor([piece, None])

    problem = await fails(staging, actor, STREAM, between_tokens_s=SOON_S)

    assert problem == "sent nothing more for 0.05 s"


async def test_a_stream_that_never_ends_is_given_up(staging: Staging) -> None:
    class Endless(Actor):
        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            while True:
                await anyio.sleep(0.001)
                yield ModelDelta(text="and ")

    problem = await fails(staging, Endless("never"), STREAM, timeout_s=SOON_S)

    assert problem == "did not answer within 0.05 s"


async def test_a_stream_in_time_is_let_be(staging: Staging) -> None:
    actor = Actor(["Hel", "lo"])

    async with staging(actor, timeout_s=10, first_token_s=10, between_tokens_s=10) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == reader.text == "Hello"


async def test_what_was_read_of_a_silent_stream_is_gone_on_from(staging: Staging) -> None:
    actor = Actor(["Hello", " wor", None], "ld", continues=True)

    async with staging(actor, between_tokens_s=SOON_S) as stage:
        reader, run = await stage.read(stage.agent())

    assert run.result is not None
    assert run.result.answer == reader.text == "Hello world"
    assert actor.requests[1].prefix == "Hello wor"
    assert [each.restarts for each in reader.switches] == [False]


async def test_a_stream_that_was_given_up_is_charged_by_what_was_read(
    staging: Staging,
) -> None:
    actor = Actor(["x" * 9, None], **PRICES)

    async with (
        staging(actor, retries=0, between_tokens_s=SOON_S) as stage,
        stage.agent().stream(question="?") as run,
    ):
        with anyio.fail_after(10), pytest.raises(ModelTimeoutError):
            await run.wait()

    (charged,) = [each for each in run.log.entries if isinstance(each, ModelCharged)]
    chars = sum(len(each.text) for each in actor.requests[0].messages)
    inputs = -(-chars // 4)
    assert charged.usage == Usage(requests=1, input_tokens=inputs, output_tokens=3)
    assert charged.cost_usd == 4 * inputs + 8 * 3


async def test_a_request_of_which_nothing_came_counts_as_a_request(
    staging: Staging,
) -> None:
    actor = Actor([None], "Hello", **PRICES)

    async with staging(actor, timeout_s=SOON_S) as stage:
        _, run = await stage.read(stage.agent())

    (charged,) = [each for each in run.log.entries if isinstance(each, ModelCharged)]
    assert (charged.usage, charged.cost_usd) == (Usage(requests=1), None)


@pytest.mark.parametrize("config", [{}, STREAM], ids=["whole", "streamed"])
async def test_a_provider_that_makes_another_error_of_it_has_still_taken_too_long(
    staging: Staging, config: dict[str, Any]
) -> None:
    actor = Stubborn([None])

    problem = await fails(staging, actor, config, timeout_s=SOON_S)

    assert problem == "did not answer within 0.05 s"
    assert actor.closed == 1


@pytest.mark.parametrize("config", [{}, STREAM], ids=["whole", "streamed"])
async def test_the_time_begins_when_the_provider_is_asked(
    staging: Staging, config: dict[str, Any]
) -> None:
    class Patient:
        """Waits for a person, say, before the provider is asked."""

        name = "patient"

        @hookimpl(priority=Priority.LOWEST)
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            await anyio.sleep(4 * SOON_S)
            return await call_next(request)

    limits = dict.fromkeys(("timeout_s", "first_token_s", "between_tokens_s"), SOON_S)

    async with staging(Actor("Hello"), retries=0, plugins=[Patient()], **limits) as stage:
        result = await stage.agent(config).run(question="?")

    assert result.answer == "Hello"


async def test_the_provider_is_told_how_long_it_may_take(staging: Staging) -> None:
    actor = Actor("Hello")

    async with staging(actor, timeout_s=123) as stage:
        await stage.agent().run(question="?")

    assert actor.requests[0].settings.timeout_s == 123


@pytest.mark.parametrize(
    ("timeout_s", "own_s", "told_s"), [(9, 5, 5), (9, 20, 9), (0, 20, 20), (0, None, None)]
)
async def test_the_shorter_of_two_times_holds(
    staging: Staging, timeout_s: float, own_s: float | None, told_s: float | None
) -> None:
    class Hasty:
        name = "hasty"

        @hookimpl(priority=Priority.HIGH)
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            settings = replace(request.settings, timeout_s=own_s)
            return await call_next(replace(request, settings=settings))

    actor = Actor("Hello")

    async with staging(actor, plugins=[Hasty()], timeout_s=timeout_s) as stage:
        await stage.agent().run(question="?")

    assert actor.requests[0].settings.timeout_s == told_s


@pytest.mark.parametrize("config", [{}, STREAM], ids=["whole", "streamed"])
async def test_without_limits_of_time_nothing_is_given_up(
    staging: Staging, config: dict[str, Any]
) -> None:
    gate = anyio.Event()
    actor = Actor([gate, "Hello"])
    limits = dict.fromkeys(("timeout_s", "first_token_s", "between_tokens_s"), 0)
    answers: list[str] = []

    async with staging(actor, **limits) as stage:
        agent = stage.agent(config)

        async def ask() -> None:
            answers.append((await agent.run(question="?")).answer)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                while not actor.requests:
                    await anyio.lowlevel.checkpoint()
                gate.set()

    assert answers == ["Hello"]


async def test_text_that_nobody_could_follow_is_begun_again(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaizen_resilience._timing.MOST_UNREAD", 2)
    texts: Sequence[Piece] = [f"{n} " for n in range(9)]
    actor = Actor([*texts, None], "Hello", continues=True)

    async with staging(actor, between_tokens_s=SOON_S, timeout_s=0.5) as stage:
        reader, _ = await stage.read(stage.agent())

    assert [each.restarts for each in reader.switches] == [True]
    assert reader.text == "Hello"


async def test_a_stream_that_writes_what_no_reader_is_shown_is_not_silent(
    staging: Staging,
) -> None:
    class Writing(Actor):
        """Writes the arguments of a tool call for a while."""

        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            yield ModelDelta(text="Hel")
            until = anyio.current_time() + 10 * SOON_S
            while anyio.current_time() < until:
                await anyio.sleep(SOON_S / 10)
                yield ModelDelta()
            async for piece in super().stream(request):
                yield piece

    actor = Writing("lo")

    async with staging(actor, retries=0, between_tokens_s=4 * SOON_S) as stage:
        reader, _ = await stage.read(stage.agent())

    assert reader.text == "Hello"
    assert len(actor.requests) == 1


async def test_a_stream_that_falls_silent_in_a_tool_call_is_given_up(
    staging: Staging,
) -> None:
    actor = Actor([ModelDelta(), None])
    limits = {"first_token_s": SOON_S, "between_tokens_s": SOON_S}

    problem = await fails(staging, actor, STREAM, **limits)

    assert problem == "sent nothing more for 0.05 s"


async def test_signs_of_life_do_not_lengthen_the_whole_time(staging: Staging) -> None:
    class Endless(Actor):
        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            while True:
                await anyio.sleep(0.001)
                yield ModelDelta()

    limits = {"timeout_s": 3 * SOON_S, "between_tokens_s": SOON_S}

    problem = await fails(staging, Endless("never"), STREAM, **limits)

    assert problem == "did not answer within 0.15 s"


@pytest.mark.parametrize("config", [{}, STREAM], ids=["whole", "streamed"])
async def test_a_provider_that_says_what_it_consumed_when_it_is_late_is_charged_once(
    staging: Staging, config: dict[str, Any]
) -> None:
    class Counting(Actor):
        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            try:
                async for piece in super().stream(request):
                    yield piece
            except anyio.get_cancelled_exc_class():
                error = ModelConnectionError("first", "lost its connection")
                error.partial = ModelReply(usage=used)
                raise error from None

    used = Usage(requests=1, input_tokens=100, output_tokens=1)
    actor = Counting(["abcd", None], **PRICES)

    async with staging(actor, retries=0, timeout_s=SOON_S) as stage:
        agent = stage.agent(config)
        async with agent.stream(question="?") as run:
            with anyio.fail_after(10), pytest.raises(ModelTimeoutError):
                await run.wait()

    charged = [each for each in run.log.entries if isinstance(each, ModelCharged)]
    assert [each.usage for each in charged] == [used]
