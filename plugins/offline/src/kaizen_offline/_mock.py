"""A model for tests: it says what it was told to say, or the least that fits."""

from __future__ import annotations

import inspect
import itertools
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, TypeAlias, cast, get_args

import anyio
from kaizen import (
    BaseProvider,
    ModelDelta,
    ModelError,
    ModelProfile,
    ModelReply,
    ModelRequest,
    ToolUse,
)

from kaizen_offline._replies import estimate_usage, words

__all__ = ["MockProvider", "MockReply", "Scripted"]

OnExhausted: TypeAlias = Literal["default", "error", "repeat"]

_FREE = Decimal(0)
_TEXT = "This is a mock reply."
_MAX_INDIRECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """One reply of a script, and how it comes.

    An exception as `reply` is raised after `delay_s`; when streamed, after the pieces.

    Attributes:
        reply: What is replied, or raised.
        delay_s: Time before the reply, and before each piece of it, in seconds.
        chunks: The pieces in which the reply is streamed, or how many there are.
    """

    reply: MockReply
    delay_s: float = 0.0
    chunks: Sequence[str] | int | None = None


MockReply: TypeAlias = (
    str
    | Mapping[str, Any]
    | ModelReply
    | ToolUse
    | Sequence[ToolUse]
    | BaseException
    | Scripted
    | Callable[[ModelRequest], "MockReply | Awaitable[MockReply]"]
)
"""What a script may hold: a text, outputs, a whole reply, tool calls, an exception to
raise, or a function of the request that returns one of them."""


class MockProvider(BaseProvider):
    """Replies from a script, one item a call; without one, with the least that fits.

    After the script, and without one, the reply to a request for structured output is a
    value that fits its schema and depends on nothing else. Nothing costs anything; tokens
    are estimated at four characters each. Any number of runs may share one provider: each
    call takes the next item.

    Args:
        replies: The script.
        on_exhausted: What follows the script: the least that fits (`default`), a
            `ModelError` (`error`), or the script again (`repeat`).
        max_requests: How many of the last requests `requests` keeps.

    A request whose `settings.extra` has `replies`, and perhaps `on_exhausted`, is answered
    from there instead: by the item that its `cycle` names.
    """

    name = "mock"

    def __init__(
        self,
        replies: Sequence[MockReply] = (),
        *,
        on_exhausted: OnExhausted = "default",
        max_requests: int = 1000,
    ) -> None:
        if isinstance(replies, str):
            raise TypeError("replies must be a list of replies, not one text")
        if on_exhausted not in get_args(OnExhausted):
            raise ValueError(f"on_exhausted must be one of {get_args(OnExhausted)}")
        self._replies = tuple(replies)
        self._on_exhausted = on_exhausted
        self._requests: deque[ModelRequest] = deque(maxlen=max_requests)
        self._positions = itertools.count()

    @property
    def requests(self) -> list[ModelRequest]:
        """The last requests, oldest first."""
        return list(self._requests)

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Reply with the next item of the script.

        Raises:
            ModelError: The script is at its end, or the schema cannot be filled.
        """
        item = self._next(request)
        if type(item) is not str:
            item, scripted = await self._said(item, request)
            if scripted is not None and scripted.delay_s:
                await anyio.sleep(scripted.delay_s)
        return _reply(item, request)

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        """Reply with the next item of the script in pieces, by default word by word."""
        item, scripted = await self._said(self._next(request), request)
        chunks = None if scripted is None else scripted.chunks
        delay_s = 0.0 if scripted is None else scripted.delay_s
        reply = None if isinstance(item, BaseException) else _reply(item, request)
        for piece in _pieces("" if reply is None else reply.text, chunks):
            await anyio.sleep(delay_s)
            yield ModelDelta(text=piece)
        yield _reply(item, request) if reply is None else reply

    def describe(self, model: str) -> ModelProfile:
        """Say that everything is possible and nothing costs anything."""
        return ModelProfile(
            name=model or self.name,
            media=frozenset({"image", "audio", "document"}),
            input_usd_per_million=_FREE,
            output_usd_per_million=_FREE,
        )

    def _next(self, request: ModelRequest) -> MockReply:
        self._requests.append(request)
        if "replies" in request.settings.extra:
            return self._from_settings(request)
        if not self._replies:
            return self._after_script(request, self._on_exhausted, 0)
        position = next(self._positions)
        if position < len(self._replies):
            return self._replies[position]
        if self._on_exhausted == "repeat":
            return self._replies[position % len(self._replies)]
        return self._after_script(request, self._on_exhausted, len(self._replies))

    def _from_settings(self, request: ModelRequest) -> MockReply:
        replies = request.settings.extra["replies"]
        if isinstance(replies, str) or not isinstance(replies, Sequence):
            raise ModelError(
                self.name,
                f"was given replies of type {type(replies).__name__}",
                "Write `provider_config` as {'replies': [...]}, one item a cycle.",
            )
        position = max(request.cycle, 1) - 1
        follows = request.settings.extra.get("on_exhausted", self._on_exhausted)
        if position < len(replies):
            return cast("MockReply", replies[position])
        if follows == "repeat" and replies:
            return cast("MockReply", replies[position % len(replies)])
        return self._after_script(request, follows, len(replies))

    def _after_script(
        self, request: ModelRequest, follows: OnExhausted, length: int
    ) -> MockReply:
        if follows == "error":
            raise ModelError(
                self.name,
                f"has no reply left: its script has {length}",
                'Add a reply to the script, or choose on_exhausted="default".',
            )
        if follows not in get_args(OnExhausted):
            raise ModelError(
                self.name,
                f"does not know on_exhausted={follows!r}",
                f"Choose one of {', '.join(get_args(OnExhausted))}.",
            )
        if request.output is None:
            return _TEXT
        from kaizen_offline._defaults import default_value

        try:
            return json.dumps(default_value(request.output.schema), ensure_ascii=False)
        except ValueError as error:
            raise ModelError(
                self.name,
                f"found nothing that fits the outputs of {request.output.name!r}: {error}",
                "Give it a scripted reply.",
            ) from error

    async def _said(
        self, item: MockReply, request: ModelRequest
    ) -> tuple[MockReply, Scripted | None]:
        """Follow functions and `Scripted` to what is to be said."""
        scripted = None
        for _ in range(_MAX_INDIRECTIONS):
            if isinstance(item, Scripted):
                scripted, item = item, item.reply
            elif callable(item):
                made = item(request)
                item = await made if inspect.isawaitable(made) else made
            else:
                return item, scripted
        raise ModelError(
            self.name, "was given functions that return functions without an end"
        )


def _reply(item: MockReply, request: ModelRequest) -> ModelReply:
    if isinstance(item, str):
        return ModelReply(
            text=item,
            usage=estimate_usage(request, item),
            cost_usd=_FREE,
            model=request.model or "mock",
        )
    if isinstance(item, BaseException):
        raise item
    if isinstance(item, Mapping):
        return _reply(json.dumps(item, ensure_ascii=False, default=str), request)
    if isinstance(item, ToolUse):
        return _reply([item], request)
    if isinstance(item, ModelReply):
        return _completed(item, request)
    if isinstance(item, Sequence):
        uses = tuple(each for each in item if isinstance(each, ToolUse))
        if len(uses) == len(item):
            reply = ModelReply(tool_uses=uses, finish_reason="tool_calls")
            return _completed(reply, request)
    raise ModelError(
        "mock",
        f"cannot reply with {type(item).__name__}",
        "A script holds texts, mappings, tool calls, replies, exceptions and functions.",
    )


def _completed(reply: ModelReply, request: ModelRequest) -> ModelReply:
    """Fill in what a hand-written reply leaves open."""
    counted = reply.usage.requests or reply.usage.total_tokens
    usage = reply.usage if counted else estimate_usage(request, reply.text, reply)
    cost_usd = _FREE if reply.cost_usd is None else reply.cost_usd
    model = reply.model or request.model or "mock"
    return replace(reply, usage=usage, cost_usd=cost_usd, model=model)


def _pieces(text: str, chunks: Sequence[str] | int | None) -> Iterator[str]:
    if chunks is None:
        yield from words(text)
    elif isinstance(chunks, int):
        size = max(-(-len(text) // max(chunks, 1)), 1)
        yield from (text[start : start + size] for start in range(0, len(text), size))
    else:
        yield from chunks
