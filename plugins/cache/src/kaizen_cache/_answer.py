"""Replies as they are kept: JSON, which is checked when it comes back."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kaizen.messages import ModelReply, ToolUse, Usage
from pydantic import BaseModel, ConfigDict, FiniteFloat
from pydantic_core import from_json, to_json

if TYPE_CHECKING:
    from weakref import ref

    from kaizen.signatures import CompiledSignature

__all__ = [
    "Answer",
    "DamagedError",
    "Piece",
    "in_json",
    "lengths_of",
    "parts_of",
    "pieces_of",
    "read",
    "written",
]

VERSION = 1
MOST_USD = Decimal(1_000_000)
MOST_TOKENS = 10**12
OBJECTS_BYTES = 1_500
"""About what the objects take that an answer consists of, beside its texts."""
_SMALLEST_USD = -30
_FREE, _UNUSED = Decimal(0), Usage()
_WORDS = re.compile(r"\s*\S{1,40}|\s+")


class DamagedError(Exception):
    """A kept value is not what was kept."""


class Piece(NamedTuple):
    """A part of a reply, as it was streamed.

    Attributes:
        is_thought: Whether it belongs to the reasoning.
    """

    text: str
    is_thought: bool = False


class Answer:
    """A reply that may be given again, and that nobody else can change.

    Attributes:
        reply: As the provider gave it, with what it cost, but without what could be changed
            in it: arguments of tools and the provider's data. `whole` has these too.
        lengths: How long each piece was in which it was streamed, thoughts with a minus;
            `None` if it was not.
        at: When it was given, seconds since the epoch, UTC.
        good_for: The mark of the cache that last gave it again, and the signature that it
            fitted, which is not kept alive by that.
        saved: What a log is told of it each time that it is given again.
        saved_tokens: How many tokens that saves.

    Raises:
        ValueError: The reply has something in it that JSON cannot hold, or numbers that
            cannot be.
    """

    __slots__ = (
        "_given",
        "_parts",
        "at",
        "good_for",
        "lengths",
        "reply",
        "saved",
        "saved_tokens",
    )

    def __init__(self, reply: ModelReply, lengths: Sequence[int] | None, at: float) -> None:
        _refuse_odd_numbers(reply)
        self._parts = parts_of(reply)
        self.reply = reply if self._parts is None else _bare(reply)
        self.lengths = None if lengths is None else array("q", lengths)
        self.at = at
        self.good_for: tuple[object, ref[CompiledSignature]] | None = None
        self.saved = _saved(reply)
        self.saved_tokens = reply.usage.input_tokens + reply.usage.output_tokens
        self._given = replace(self.reply, cached=True, usage=_UNUSED, cost_usd=_FREE)

    @property
    def size(self) -> int:
        """About how much memory it takes, in bytes."""
        reply = self.reply
        parts: list[object] = [reply.text, reply.reasoning, self._parts, self.lengths]
        for use in reply.tool_uses:
            parts += [use, use.id, use.name, use.arguments]
        return sum(getsizeof(each) for each in parts) + OBJECTS_BYTES

    def again(self) -> ModelReply:
        """Return the reply as it is given again: marked, and for nothing."""
        return self._with_parts(self._given)

    def whole(self) -> ModelReply:
        """Return the reply as the provider gave it."""
        return self._with_parts(self.reply)

    def _with_parts(self, reply: ModelReply) -> ModelReply:
        """Return a reply with parts of its own where these can be changed."""
        if self._parts is None:
            return reply
        data, arguments = from_json(self._parts)
        uses = zip(reply.tool_uses, arguments, strict=True)
        return ModelReply(
            text=reply.text,
            tool_uses=tuple(
                ToolUse(id=use.id, name=use.name, arguments=own) for use, own in uses
            ),
            usage=reply.usage,
            finish_reason=reply.finish_reason,
            cost_usd=reply.cost_usd,
            model=reply.model,
            reasoning=reply.reasoning,
            cached=reply.cached,
            provider_data=data,
        )


def _saved(reply: ModelReply) -> dict[str, object]:
    usage, cost_usd = reply.usage, reply.cost_usd
    return {
        "saved_input_tokens": usage.input_tokens,
        "saved_output_tokens": usage.output_tokens,
        "saved_usd": None if cost_usd is None else str(cost_usd),
    }


def parts_of(reply: ModelReply) -> bytes | None:
    """Return what can be changed in a reply; `None` if nothing can, and all may share it.

    Raises:
        ValueError: It is something that JSON cannot hold.
    """
    uses = reply.tool_uses
    if reply.provider_data is None and all(
        isinstance(each.arguments, str) for each in uses
    ):
        return None
    return in_json([reply.provider_data, [each.arguments for each in uses]])


def _bare(reply: ModelReply) -> ModelReply:
    """Return a reply without what can be changed in it."""
    uses = tuple(ToolUse(id=use.id, name=use.name, arguments="") for use in reply.tool_uses)
    return replace(reply, tool_uses=uses, provider_data=None)


class _Kept(BaseModel):
    """An answer in a store."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True
    )

    version: Literal[1]
    key: str
    at: FiniteFloat
    reply: ModelReply
    lengths: list[int] | None


def _refuse_odd_numbers(reply: ModelReply) -> None:
    """Refuse what no model uses or costs, and what cannot be added up.

    Raises:
        ValueError: It is too much, too little or too fine.
    """
    usage, cost = reply.usage, reply.cost_usd
    counts = [usage.requests, usage.input_tokens, usage.output_tokens]
    counts += [usage.cached_tokens, usage.reasoning_tokens]
    if not all(0 <= each <= MOST_TOKENS for each in counts):
        raise ValueError("nobody uses that many tokens")
    if cost is None:
        return
    exponent = cost.as_tuple().exponent
    if not isinstance(exponent, int) or not 0 <= cost <= MOST_USD:
        raise ValueError("no reply costs that")
    if exponent < _SMALLEST_USD:
        raise ValueError("no price is that exact")


def written(key: str, answer: Answer) -> bytes:
    """Return an answer as it is kept.

    Raises:
        ValueError: It holds what JSON cannot.
    """
    lengths = answer.lengths
    kept = {
        "version": VERSION,
        "key": key,
        "at": answer.at,
        "reply": answer.whole(),
        "lengths": None if lengths is None else lengths.tolist(),
    }
    return in_json(kept)


def read(key: str, value: object, *, max_bytes: int) -> Answer:
    """Return the answer that is kept in a value.

    Raises:
        DamagedError: It is none, or too large, or that of another key.
    """
    if not isinstance(value, bytes):
        raise DamagedError(f"it is {type(value).__name__!r} instead of bytes")
    if len(value) > max_bytes:
        raise DamagedError("it is too large")
    try:
        kept = _Kept.model_validate_json(value)
        answer = Answer(kept.reply, _fitting(kept.reply, kept.lengths), kept.at)
    except (ValueError, RecursionError) as error:
        raise DamagedError(type(error).__name__) from None
    if kept.key != key:
        raise DamagedError("it is that of another key")
    return answer


def _fitting(reply: ModelReply, lengths: list[int] | None) -> list[int] | None:
    """Return the lengths of pieces, or `None` if these are not all of a reply."""
    if lengths is None:
        return None
    text = sum(each for each in lengths if each > 0)
    thought = -sum(each for each in lengths if each < 0)
    return lengths if (text, thought) == (len(reply.text), len(reply.reasoning)) else None


def lengths_of(pieces: Iterable[Piece]) -> list[int]:
    """Return how long pieces are, thoughts with a minus."""
    return [-len(each.text) if each.is_thought else len(each.text) for each in pieces]


def pieces_of(answer: Answer) -> list[Piece]:
    """Return an answer as it is streamed: as it was, or else word by word."""
    reply = answer.reply
    if answer.lengths is None:
        thoughts, words = _WORDS.findall(reply.reasoning), _WORDS.findall(reply.text)
        return [*(Piece(each, True) for each in thoughts), *map(Piece, words)]
    pieces: list[Piece] = []
    text = thought = 0
    for length in answer.lengths:
        if length > 0:
            pieces.append(Piece(reply.text[text : text + length]))
            text += length
        elif length < 0:
            pieces.append(Piece(reply.reasoning[thought : thought - length], True))
            thought -= length
    return pieces


def in_json(value: object) -> bytes:
    """Return a value as JSON.

    Raises:
        ValueError: It is something that JSON cannot hold.
    """
    return to_json(value, inf_nan_mode="constants", fallback=_as_dict)


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)
