"""What a model is to say, what is to go wrong, and what a request asked.

One vocabulary for every provider: an `Answer` becomes a chat completion, a message, a
candidate or a line of JSON, according to the address that was asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tests.wire._multipart import parts

if TYPE_CHECKING:
    from tests.wire.server import Gate

__all__ = [
    "Answer",
    "Call",
    "Fault",
    "FaultKind",
    "Reply",
    "Request",
    "Stop",
    "Usage",
]

Stop: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why a model ended, in the words of OpenAI; each provider gets its own."""

FaultKind: TypeAlias = Literal[
    # An error instead of an answer: its status, and the body that the provider sends.
    "unauthorized",  # 401
    "forbidden",  # 403
    "unknown_model",  # 404
    "bad_request",  # 400
    "context_length",  # 400
    "content_filter",  # 400, or 200 without content where a provider does it so
    "rate_limit",  # 429, with a delay
    "quota",  # 429 (402 where a provider does it so), and waiting does not help
    "server_error",  # 500
    "bad_gateway",  # 502, a page of HTML from a proxy
    "unavailable",  # 503
    "overloaded",  # 529, or 503 where a provider does it so
    # No error, and no answer.
    "hang_headers",  # the request is read, then nothing
    "hang_first",  # the headers come, then nothing
    "hang_between",  # `at` pieces come, then nothing
    "reset",  # the connection is reset; in a stream after `at` pieces
    "cut",  # the connection ends after `at` pieces, and in the middle of one if `inside`
    # An answer that is none.
    "malformed",  # broken JSON; in a stream after `at` pieces
    "truncated",  # half of the JSON, in a response that is whole as HTTP
    "wrong_schema",  # JSON of another shape; in a stream after `at` pieces
    "enormous",  # `size` bytes of JSON; in a stream one event, after `at` pieces
    "wrong_content_type",  # status 200 and a page of HTML
    "error_event",  # a stream that says after `at` pieces that it failed
    # An answer, byte by byte, `between_s` apart.
    "slow",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        at: In a stream, after how many pieces of content (text, arguments of tools).
        inside: Whether a cut leaves half of the next event behind.
        retry_after_s: The delay that an error announces, in seconds.
        delay_in: Where it is announced: in `retry-after`, as seconds or as a `date`, in
            `retry-after-ms`, or in `reset`, the provider's own headers of its limits.
        message: What an error says instead of the provider's usual sentence.
        size: Of what is enormous, in bytes.
    """

    kind: FaultKind
    at: int = 0
    inside: bool = False
    retry_after_s: float | None = None
    delay_in: Literal["retry-after", "date", "retry-after-ms", "reset"] = "retry-after"
    message: str = ""
    size: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model makes; its id is made up where none is given."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is counted.

    Attributes:
        input_tokens: All of them, those read from and written to a cache included.
        output_tokens: All of them, those of reasoning included.
    """

    input_tokens: int = 12
    output_tokens: int = 7
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says.

    With neither text, chunks, calls nor data, a request for structured output is answered
    with values that fit its schema, one that demands a tool call with such a call, and any
    other with a short sentence.

    Attributes:
        chunks: The text in the pieces that a stream sends; by default words. May be made
            while it is sent; then `ending` says afterwards why it ended and what it cost.
        data: The text as a JSON value; where a tool has to be called, its arguments.
        thinking: What the model thought first.
        stop: Why it ended; by default what follows from the rest.
        model: The model's name in the reply; by default the one that was asked for.
        vectors: For a request to embed; by default made of the texts.
        delay_s: Time before the headers, in seconds.
        between_s: Time between two events of a stream, in seconds.
        gate: Opened by the test; nothing is sent before.
        headers: More headers of the response.
    """

    text: str = ""
    chunks: Iterable[str] = field(default=(), kw_only=True)
    calls: Sequence[Call] = field(default=(), kw_only=True)
    data: Any = field(default=None, kw_only=True)
    thinking: str = field(default="", kw_only=True)
    stop: Stop | None = field(default=None, kw_only=True)
    usage: Usage = field(default=Usage(), kw_only=True)
    model: str = field(default="", kw_only=True)
    vectors: Sequence[Sequence[float]] = field(default=(), kw_only=True)
    language: str = field(default="english", kw_only=True)
    duration_s: float = field(default=1.5, kw_only=True)
    delay_s: float = field(default=0.0, kw_only=True)
    between_s: float = field(default=0.0, kw_only=True)
    gate: Gate | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    fault: Fault | None = field(default=None, kw_only=True)
    ending: Callable[[], tuple[Stop, Usage]] | None = field(default=None, kw_only=True)


Reply: TypeAlias = (
    "str | Mapping[str, Any] | Call | Answer | Fault | Callable[[Request], Reply]"
)
"""What a test may script: a text, a JSON object, a tool call, an answer, a fault, or a
function that decides when the request is there."""


@dataclass(slots=True)
class Turn:
    """One message of a conversation, in the words of OpenAI whoever was asked."""

    role: str
    text: str = ""
    calls: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    images: int = 0


@dataclass
class Request:
    """A request as it came, and what it means.

    Attributes:
        number: Its place among all requests, from 0.
        path: Without the query.
        headers: By lower-case name.
        provider: Who was asked, such as `openai` or `azure`.
        kind: `chat`, `responses`, `generate`, `embed`, `transcribe` or `list`.
        schema: The JSON schema of the structured output wanted.
        turns: The conversation, the system prompt first.
        tools: The tools offered: the JSON schema of their arguments, by name.
        must_call: The tool that has to be called, or `""`.
        prefix: The beginning of the answer, where the request gives it and the provider
            goes on from there.
        outcome: `answered`, `refused` (an error), `broken` (a fault), or `gone` (the client
            closed the connection first); `""` while it goes on.
    """

    number: int
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    provider: str = ""
    kind: str = ""
    model: str = ""
    stream: bool = False
    schema: Mapping[str, Any] | None = None
    turns: list[Turn] = field(default_factory=list)
    tools: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    must_call: str = ""
    texts: list[str] = field(default_factory=list)
    prefix: str = ""
    outcome: str = ""

    @cached_property
    def json(self) -> Any:
        """The body as JSON, or `None` if it is something else."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @cached_property
    def form(self) -> Mapping[str, bytes]:
        """The fields of a form that was sent with a file."""
        return parts(self.headers.get("content-type", ""), self.body)

    @property
    def prompt(self) -> str:
        """What the user said last."""
        said = (turn.text for turn in reversed(self.turns) if turn.role == "user")
        return next(said, "")


class Said:
    """An answer made ready for one request: nothing in it is left open."""

    def __init__(self, answer: Answer, request: Request, number: int) -> None:
        self.answer = answer
        self.number = number
        self.model = answer.model or request.model
        self.thinking = answer.thinking
        self.calls = [
            Call(call.name, call.arguments, call.id or f"call_{number}_{place}")
            for place, call in enumerate(answer.calls)
        ]
        self._prefix = request.prefix

    def pieces(self) -> Iterator[str]:
        """Give the text piece by piece, without what the request began already."""
        answer = self.answer
        text = answer.text if answer.data is None else json.dumps(answer.data)
        pieces = answer.chunks or re.findall(r"\s*\S+|\s+$", text)
        if not self._prefix:
            yield from pieces
            return
        whole = list(pieces)
        skip = len(self._prefix) if "".join(whole).startswith(self._prefix) else 0
        for piece in whole:
            if piece[skip:]:
                yield piece[skip:]
            skip = max(0, skip - len(piece))

    def text(self) -> str:
        """Give the text in one piece."""
        return "".join(self.pieces())

    def ending(self) -> tuple[Stop, Usage]:
        """Say why it ended and what it cost; to be asked after the last piece."""
        if self.answer.ending is not None:
            return self.answer.ending()
        stop = self.answer.stop or ("tool_calls" if self.calls else "stop")
        return stop, self.answer.usage
