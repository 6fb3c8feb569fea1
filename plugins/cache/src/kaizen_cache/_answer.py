"""Replies as they are kept: JSON, which is checked when it comes back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from typing import Literal, NamedTuple

from kaizen.messages import ModelReply, Usage
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

__all__ = ["Answer", "DamagedError", "Piece", "pieces_of", "read", "written"]

VERSION = 1
MOST_PIECES = 100_000
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
    """A reply that may be given again.

    Attributes:
        reply: As the provider gave it, with what it cost.
        pieces: How it was streamed, or `None` if it was not.
        at: When it was given, seconds since the epoch, UTC.
        is_frozen: Whether nobody can change anything in it, so that many may have the
            same one.
    """

    __slots__ = ("_given", "at", "is_frozen", "pieces", "reply")

    def __init__(
        self, reply: ModelReply, pieces: Sequence[Piece] | None, at: float
    ) -> None:
        self.reply = reply
        self.pieces = pieces
        self.at = at
        self.is_frozen = reply.provider_data is None and all(
            isinstance(use.arguments, str) for use in reply.tool_uses
        )
        self._given: ModelReply | None = None

    def again(self) -> ModelReply:
        """Return the reply as it is given again: marked, and for nothing."""
        given = self._given
        if given is None:
            given = replace(self.reply, cached=True, usage=Usage(), cost_usd=Decimal(0))
            self._given = given
        if self.is_frozen:
            return given
        return replace(
            given,
            tool_uses=deepcopy(given.tool_uses),
            provider_data=deepcopy(given.provider_data),
        )


class _Kept(BaseModel):
    """An answer in a store.

    Attributes:
        lengths: How long each piece was, thoughts with a minus.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True
    )

    version: Literal[1]
    key: str
    at: float
    reply: ModelReply
    lengths: list[int] | None


def written(key: str, answer: Answer) -> bytes:
    """Return an answer as it is kept.

    Raises:
        ValueError: It holds what JSON cannot.
    """
    pieces = answer.pieces
    lengths = None
    if pieces is not None and len(pieces) <= MOST_PIECES:
        lengths = [len(each.text) * (-1 if each.is_thought else 1) for each in pieces]
    kept = {
        "version": VERSION,
        "key": key,
        "at": answer.at,
        "reply": answer.reply,
        "lengths": lengths,
    }
    return to_json(kept, inf_nan_mode="constants")


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
    except (ValidationError, RecursionError) as error:
        raise DamagedError(type(error).__name__) from None
    if kept.key != key:
        raise DamagedError("it is that of another key")
    return Answer(kept.reply, _cut(kept.reply, kept.lengths), kept.at)


def _cut(reply: ModelReply, lengths: list[int] | None) -> list[Piece] | None:
    """Return a reply in pieces of some lengths; `None` if that is not all of it."""
    if lengths is None:
        return None
    pieces: list[Piece] = []
    text = thought = 0
    for length in lengths:
        if length >= 0:
            pieces.append(Piece(reply.text[text : text + length]))
            text += length
        else:
            pieces.append(Piece(reply.reasoning[thought : thought - length], True))
            thought -= length
    whole = (text, thought) == (len(reply.text), len(reply.reasoning))
    return pieces if whole else None


def pieces_of(answer: Answer) -> Sequence[Piece]:
    """Return an answer as it is streamed: as it was, or else word by word."""
    if answer.pieces is not None:
        return answer.pieces
    reply = answer.reply
    return [
        *(Piece(each, True) for each in _WORDS.findall(reply.reasoning)),
        *(Piece(each) for each in _WORDS.findall(reply.text)),
    ]
