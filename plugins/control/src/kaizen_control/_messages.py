"""What goes over a transport, as JSON objects that are validated and bounded.

    request     →   what is asked
    answer      ←   what somebody answers
    refused     →   why an answer was not taken; the question stays as it was
    closed      →   a question is open no more: answered, expired or withdrawn
    progress    →   how far the work is

Who answers is nothing that a message says: a transport knows it, or nobody does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from kaizen.ports import PendingRequest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json, to_json

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AnswerMessage",
    "ClosedMessage",
    "MalformedError",
    "Outgoing",
    "Problem",
    "ProgressMessage",
    "Received",
    "RefusedMessage",
    "RequestMessage",
    "as_json",
    "check_shape",
    "read_answer",
    "read_object",
    "read_value",
]

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_PARTS = 5_000
MAX_PROGRESS_CHARS = 2_000
MAX_REASON_CHARS = 1_000

Problem: TypeAlias = Literal[
    "malformed",
    "unknown",
    "answered",
    "expired",
    "withdrawn",
    "other_action",
    "misfit",
    "busy",
]
"""What is wrong with an answer, as a word for programs."""

_Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class MalformedError(ValueError):
    """What came is no answer; the text says why and quotes nothing of it."""


class _Message(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        populate_by_name=True,
    )


class RequestMessage(_Message):
    """Somebody is asked. See `kaizen.ports.PendingRequest` for the fields."""

    type: Literal["request"] = "request"
    id: _Id
    kind: Literal["question", "approval"]
    text: str
    options: tuple[str, ...] = ()
    details: dict[str, Any] = Field(default_factory=dict)
    json_schema: dict[str, Any] = Field(default_factory=dict, alias="schema")
    action_digest: str = ""
    principal: str = ""
    run_path: tuple[str, ...] = ()
    agent_path: tuple[str, ...] = ()
    expires_at: float | None = None

    @classmethod
    def of(cls, request: PendingRequest) -> RequestMessage:
        """Return the message that puts a request."""
        return cls(
            id=request.id,
            kind=request.kind,
            text=request.text,
            options=tuple(request.options),
            details=dict(request.details),
            schema=dict(request.schema),
            action_digest=request.action_digest,
            principal=request.principal,
            run_path=tuple(request.run_path),
            agent_path=tuple(request.agent_path),
            expires_at=request.expires_at,
        )

    @property
    def request(self) -> PendingRequest:
        """What is asked."""
        return PendingRequest(
            id=self.id,
            kind=self.kind,
            text=self.text,
            options=self.options,
            details=self.details,
            schema=self.json_schema,
            action_digest=self.action_digest,
            principal=self.principal,
            run_path=self.run_path,
            agent_path=self.agent_path,
            expires_at=self.expires_at,
        )


class AnswerMessage(_Message):
    """Somebody answers.

    Attributes:
        id: The request.
        approved: For an approval, yes or no.
        text: For a question the answer, for an approval a comment.
        value: For a question with a schema, the answer as JSON. Where it is left out, it is
            made of the text.
        always: With a yes, that the rule which was shown holds from now on.
        action_digest: For an approval, that of the request: what exactly is approved.
        declined: That nobody will answer; for an approval it is a no.
        ref: Whatever the sender likes; it comes back with what became of the answer.
    """

    type: Literal["answer"] = "answer"
    id: _Id
    approved: bool | None = None
    text: Annotated[str, StringConstraints(max_length=100_000)] = ""
    value: Any = None
    always: bool = False
    action_digest: Annotated[str, StringConstraints(max_length=200)] = ""
    declined: bool = False
    ref: Annotated[str, StringConstraints(max_length=200)] = ""


class RefusedMessage(_Message):
    """An answer was not taken.

    Attributes:
        id: The request that it named, or `""`.
        problem: Why, as a word for programs.
        reason: Why, as a sentence.
        ref: That of the answer.
    """

    type: Literal["refused"] = "refused"
    id: str = ""
    problem: Problem
    reason: str
    ref: str = ""


class ClosedMessage(_Message):
    """A request is open no more.

    Attributes:
        why: `answered`, by whomever; `expired`; or `withdrawn`: nobody wants to know.
        ref: That of the answer that was taken, or `""`.
    """

    type: Literal["closed"] = "closed"
    id: str
    why: Literal["answered", "expired", "withdrawn"]
    ref: str = ""


class ProgressMessage(_Message):
    """How far the work is.

    Attributes:
        percentage: From 0 to 100, or `None`.
        principal: On whose behalf, as far as a request of the same run has said so.
        run_path: The runs that do it, outermost first.
    """

    type: Literal["progress"] = "progress"
    message: str
    percentage: float | None = None
    principal: str = ""
    run_path: tuple[str, ...] = ()


Outgoing: TypeAlias = RequestMessage | RefusedMessage | ClosedMessage | ProgressMessage
"""What a transport takes to the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An answer, and what the transport knows of who gave it.

    Attributes:
        principal: Who answers.
        scope: The one principal whose requests they may see, or `None` for all.
    """

    answer: AnswerMessage
    principal: str = ""
    scope: str | None = None


def as_json(message: Outgoing | AnswerMessage) -> bytes:
    """Return a message as one line of JSON, without the newline."""
    return to_json(message, by_alias=True, inf_nan_mode="null")


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that some bytes from outside hold.

    Raises:
        MalformedError: They hold none, or are too many.
    """
    found = read_value(body)
    if not isinstance(found, dict):
        raise MalformedError("it is no JSON object")
    return found


def read_value(body: bytes) -> Any:
    """Return what JSON from outside says.

    Raises:
        MalformedError: It is too long, no JSON, too deep, or too much.
    """
    if len(body) > MAX_ANSWER_BYTES:
        raise MalformedError(f"it is longer than {MAX_ANSWER_BYTES} bytes")
    try:
        found = from_json(body, allow_inf_nan=False, cache_strings=False)
        json.loads(body, object_pairs_hook=_refuse_twice)
    except MalformedError:
        raise
    except (ValueError, RecursionError):
        raise MalformedError("it is no JSON") from None
    check_shape(found)
    return found


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object that says one thing twice: others may have read the other value."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise MalformedError("a name stands in one object twice")


def read_answer(body: bytes | dict[str, Any]) -> AnswerMessage:
    """Return the answer that something from outside holds.

    Raises:
        MalformedError: It is none.
    """
    found = body if isinstance(body, dict) else read_object(body)
    try:
        return AnswerMessage.model_validate(found)
    except ValidationError as error:
        told = "; ".join(
            f"{_named(each['loc'])}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False)[:5]
        )
        raise MalformedError(told[:MAX_REASON_CHARS]) from None


def _named(place: tuple[str | int, ...]) -> str:
    """Return the name of a field if it is one of ours; never what a stranger called it."""
    name = str(place[0]) if place else ""
    return name if name in AnswerMessage.model_fields else "a field"


def check_shape(value: object) -> None:
    """Refuse what is so deep or so much that looking at it would take long.

    Raises:
        MalformedError: It is.
    """
    parts = 0
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        parts += len(inner)
        if parts > MAX_PARTS:
            raise MalformedError(f"it has more than {MAX_PARTS} parts")
        if not inner:
            return
        level = inner
    raise MalformedError(f"it is deeper than {MAX_DEPTH}")
