"""What the wire formats share: what a call needs, and what comes of an answer."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar, Protocol

from kaizen.media import Media
from kaizen.messages import Message, ModelDelta, ModelRequest, OutputSpec, ToolUse
from pydantic_core import from_json, to_json

__all__ = [
    "Answer",
    "Assembly",
    "Codec",
    "Counts",
    "Failed",
    "Prepared",
    "Seam",
    "Unreadable",
    "Unsendable",
    "arguments_object",
    "arguments_text",
    "as_json",
    "encoded",
    "number",
    "parsed",
    "parts_of",
    "reserved",
    "tell_schema",
    "text_of",
    "wire_id",
    "wrong_media",
]

MOST = 10**12
_FINITE = frozenset({bool, int, str})
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""Each escape as a whole, so that a backslash which is meant as one begins no other."""


class Unreadable(Exception):
    """An answer that is not of the shape that it has to have."""


class Unsendable(Exception):
    """A request that this wire format has no words for.

    Attributes:
        problem: What the endpoint cannot do, as the end of a sentence.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class Failed(Exception):
    """An answer that says that there is none.

    Attributes:
        told: What the provider says of it.
    """

    def __init__(self, told: Any) -> None:
        super().__init__()
        self.told = told


@dataclass(slots=True)
class Counts:
    """Tokens, as they are paid for.

    Attributes:
        input: All that was sent, cached or not.
        cached: Of those, what was read from a cache.
        written: Of those, what was written into one.
        written_long: Of what was written, what is kept for longer and costs more.
        output: All that came, reasoning included.
        known: Whether the provider counted, rather than we.
        odd: Whether it was charged in a way that the price table does not know.
    """

    input: int = 0
    cached: int = 0
    written: int = 0
    written_long: int = 0
    output: int = 0
    reasoning: int = 0
    known: bool = False
    odd: bool = False


@dataclass(slots=True)
class Answer:
    """A whole answer, in words of ours."""

    text: str = ""
    tool_uses: tuple[ToolUse, ...] = ()
    counts: Counts = field(default_factory=Counts)
    finish_reason: str = "stop"
    model: str = ""
    reasoning: str = ""
    provider_data: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request, and what was looked up for it.

    Attributes:
        media: The bytes of media in its messages, by `id` of the medium.
        max_output_tokens: Most tokens that its model writes, if known.
    """

    request: ModelRequest
    model: str
    output: OutputSpec | None
    media: Mapping[int, bytes]
    stream: bool
    max_output_tokens: int | None = None


class Seam:
    """Keeps the blanks at the end of a prefix from standing there twice.

    Who goes on only from a beginning without blanks at its end is not given them, and may
    write them again.
    """

    def __init__(self, blanks: str) -> None:
        self._left = blanks

    def without(self, text: str) -> str:
        """Return the next piece of the reply without the blanks that stand there."""
        while self._left and text and text[0] == self._left[0]:
            self._left, text = self._left[1:], text[1:]
        if text:
            self._left = ""
        return text


class Assembly(Protocol):
    """Puts the events of a stream together.

    Attributes:
        finished: Whether the model said that it has ended.
        done: Whether the stream said so, and nothing follows.
        size: Characters that came.
    """

    finished: bool
    done: bool
    size: int

    def add(self, event: Any) -> ModelDelta | None:
        """Take an event, and return what of it is for the reader.

        Of what no reader is shown, such as a tool call, an empty piece is a sign of life.

        Raises:
            Unreadable: It is of no shape that is known.
            Failed: It says that the rest will not come.
        """
        ...

    def answer(self) -> Answer:
        """Return the whole; before it is finished, what there is without half calls."""
        ...


class Codec(Protocol):
    """One wire format."""

    chat_path: ClassVar[str]
    embed_path: ClassVar[str]
    list_path: ClassVar[str]
    keeps_blanks: ClassVar[bool]
    """Whether it goes on from a prefix with blanks at its end."""
    lines: ClassVar[bool]
    """Whether a stream has one JSON object in each line, rather than events."""
    headers: ClassVar[Mapping[str, str]]

    def chat(self, call: Prepared) -> dict[str, Any]:
        """Return the body of a request.

        Raises:
            Unsendable: It holds what cannot be said.
        """
        ...

    def read(self, data: Any) -> Answer:
        """Return the answer that a body holds.

        Raises:
            Unreadable: It holds none.
            Failed: It says why there is none.
        """
        ...

    def assembly(self) -> Assembly:
        """Return what puts a stream together."""
        ...

    def embed(self, texts: Sequence[str], model: str) -> dict[str, Any]:
        """Return the body of a request to embed."""
        ...

    def vectors(self, data: Any) -> list[list[float]]:
        """Return the vectors that a body holds, in their order."""
        ...

    def names(self, data: Any) -> list[str]:
        """Return the models that a body lists."""
        ...


def number(value: Any) -> int:
    """Return a count that came from outside; 0 if it is none."""
    return value if type(value) is int and 0 <= value < MOST else 0


def as_json(value: Any) -> bytes:
    """Return a value as JSON; what is no number becomes null.

    Raises:
        ValueError: It cannot be written as JSON.
    """
    return to_json(value, inf_nan_mode="null", fallback=_mapping)


def _mapping(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def parsed(data: bytes) -> Any:
    """Return what a JSON text says.

    Halves of characters, which some servers send apart, become the mark for what cannot be
    read: no text of ours may hold them.

    Raises:
        ValueError: It is none.
    """
    try:
        return from_json(data)
    except ValueError:
        mended = _ESCAPE.sub(_mended, data)
        if mended == data:
            raise
    return from_json(mended)


def _mended(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["half"] else escape[0]


def text_of(value: Any) -> str:
    """Return a text that came from outside: a string, or parts with strings.

    Raises:
        Unreadable: It is something else.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list):
        found = (part.get("text") for part in value if isinstance(part, dict))
        return "".join(each for each in found if isinstance(each, str))
    raise Unreadable


def arguments_text(use: ToolUse) -> str:
    """Return a call's arguments as the JSON text of an object."""
    if isinstance(use.arguments, str):
        return use.arguments or "{}"
    return as_json(use.arguments).decode()


def arguments_object(use: ToolUse) -> Mapping[str, Any]:
    """Return a call's arguments as an object, also where the model wrote none."""
    if not isinstance(use.arguments, str):
        return use.arguments
    try:
        read = from_json(use.arguments or "{}")
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {"unreadable": use.arguments}


def wire_id(call_id: str, allowed: re.Pattern[str]) -> str:
    """Return the id of a call as a provider accepts it; the same for the same id."""
    if allowed.fullmatch(call_id):
        return call_id
    return f"call_{sha256(call_id.encode()).hexdigest()[:24]}"


def parts_of(message: Message) -> Sequence[str | Media]:
    """Return what a message says, without what is empty."""
    content = message.content
    parts = (content,) if isinstance(content, str) else content
    return [part for part in parts if part]


def tell_schema(messages: list[dict[str, Any]], output: OutputSpec) -> None:
    """Tell a model in its system message what it cannot be held to."""
    words = (
        "When you give your answer, rather than call a tool, write one JSON object that "
        "fits this JSON schema, and nothing else:\n" + as_json(output.schema).decode()
    )
    first = messages[0] if messages else {}
    if first.get("role") == "system" and isinstance(first.get("content"), str):
        first["content"] = f"{first['content']}\n\n{words}"
    else:
        messages.insert(0, {"role": "system", "content": words})


def wrong_media(media: Media) -> Unsendable:
    """Say that a medium cannot be sent."""
    return Unsendable(f"takes no {media.kind} of type {media.media_type!r}")


def encoded(call: Prepared, media: Media) -> str:
    """Return a medium's bytes in base64."""
    return b64encode(call.media[id(media)]).decode("ascii")


def reserved(extra: Mapping[str, Any], names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Give the fields that a user adds; those that only we can fill in are refused.

    So are those that JSON cannot hold, which would be sent as something else.

    Raises:
        Unsendable: It says which one.
    """
    for name, value in extra.items():
        if name in names:
            raise Unsendable(f"cannot be given {name!r} by `provider_config`")
        if not _is_finite(value):
            raise Unsendable(
                f"cannot be given {name!r} by `provider_config`, as it holds a number that "
                "is not finite"
            )
        yield name, value


def _is_finite(value: Any) -> bool:
    """Whether JSON has words for all the numbers of a value."""
    if type(value) in _FINITE:
        return True
    exactly = to_json(value, inf_nan_mode="constants", fallback=_mapping)
    return exactly == as_json(value)
