"""Reads what litellm answers: whole, or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kaizen.messages import ModelDelta, ToolUse, Usage

from kaizen_litellm._prices import Counts

__all__ = [
    "Answer",
    "Assembly",
    "Seam",
    "Unreadable",
    "counts_of",
    "joined",
    "usage_of",
    "whole",
]

MOST = 10**12
_USUAL_TIERS = (None, "", "auto", "default", "standard", "on_demand")
_FINISH = {"function_call": "tool_calls", "max_tokens": "length", "eos": "stop"}


class Unreadable(Exception):
    """An answer that is not of the shape that it has to have."""


@dataclass(slots=True)
class Answer:
    """A whole answer, in words of ours."""

    text: str = ""
    tool_uses: tuple[ToolUse, ...] = ()
    counts: Counts = field(default_factory=Counts)
    finish_reason: str = "stop"
    model: str = ""
    reasoning: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """About how many characters the model wrote."""
        calls = sum(64 + len(str(use.arguments)) for use in self.tool_uses)
        return len(self.text) + len(self.reasoning) + calls

    def fill(self, text: str, reasoning: str, usage: Any) -> None:
        """Take what litellm has left out of it."""
        self.text = self.text or text
        self.reasoning = self.reasoning or reasoning
        if usage is not None:
            self.counts = counts_of(usage)


class Seam:
    """Keeps the blanks at the end of a prefix from standing there twice.

    They are not sent, since not every provider takes them, and the model may write them
    again.
    """

    def __init__(self, prefix: str) -> None:
        self._left = prefix[len(prefix.rstrip()) :]

    def without(self, text: str) -> str:
        """Return the next piece of the reply without the blanks that stand there."""
        while self._left and text and text[0] == self._left[0]:
            self._left, text = self._left[1:], text[1:]
        if text:
            self._left = ""
        return text


def whole(response: Any, reason: str = "") -> Answer:
    """Read a `ModelResponse`.

    Args:
        reason: Why the model ended, if that is known; litellm has its own words for it.

    Raises:
        Unreadable: It holds no answer.
    """
    choices: Any = getattr(response, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise Unreadable
    told, around = _fields(message), _fields(response)
    refusal = _text((told.get("provider_specific_fields") or {}).get("refusal"))
    calls = told.get("tool_calls") or ()
    uses = tuple(_use(each, place) for place, each in enumerate(calls))
    return Answer(
        text=_text(told.get("content")) + refusal,
        tool_uses=uses,
        counts=counts_of(around.get("usage"), around.get("service_tier")),
        finish_reason=_finish(
            reason or choices[0].finish_reason, bool(uses), bool(refusal)
        ),
        model=_text(around.get("model"))[:200],
        reasoning=_text(told.get("reasoning_content")),
        kept=_kept(told.get("thinking_blocks"), calls, uses),
    )


class Assembly:
    """Puts the chunks of a stream together, as litellm gives them.

    Attributes:
        finished: Whether the model said that it has ended.
        size: Characters that came.
    """

    def __init__(self, prefix: str = "") -> None:
        self.finished = False
        self.size = 0
        self._seam = Seam(prefix)
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._blocks: list[dict[str, Any]] = []
        self._refused = False
        self._calls: list[dict[str, Any]] = []
        self._ids: dict[str, dict[str, Any]] = {}
        self._latest: dict[Any, dict[str, Any]] = {}
        self._stop: Any = None
        self._model = ""
        self._counts = Counts()

    def note(self, raw: Any) -> ModelDelta | None:
        """Take from a chunk, as the provider's library gave it, what litellm keeps back.

        Counts grow in the course of a stream, or come in parts. Of a refusal, litellm gives
        nothing.
        """
        if not self._model:
            self._model = _text(_get(raw, "model"))[:200]
        usage = _get(raw, "usage")
        if usage is not None:
            found = counts_of(usage, _get(raw, "service_tier"))
            self._counts = _larger(self._counts, found)
        choices = _get(raw, "choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        refusal = _text(_get(_get(choice, "delta"), "refusal"))
        if not refusal or _get(choice, "index"):
            return None
        self._refused = True
        self.size += len(refusal)
        self._text.append(refusal)
        return ModelDelta(text=refusal)

    def think(self, thoughts: str) -> ModelDelta | None:
        """Take thoughts that litellm drops."""
        if not thoughts:
            return None
        self.size += len(thoughts)
        self._reasoning.append(thoughts)
        return ModelDelta(reasoning=thoughts)

    def add(self, chunk: Any) -> ModelDelta | None:
        """Take a chunk, as litellm makes it of the provider's, and return what is read."""
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        if choice.index:
            return None  # of several choices, the first is taken
        return self._taken(choice.delta)

    def end(self, reason: Any) -> None:
        """Note why the model ended, if it said so."""
        if reason:
            self._stop = reason
            self.finished = True

    def _taken(self, delta: Any) -> ModelDelta | None:
        if delta is None:
            return None
        text = _text(delta.content)
        for piece in delta.tool_calls or ():
            self._call(piece)
        reasoning = _text(_get(delta, "reasoning_content"))
        if blocks := _get(delta, "thinking_blocks"):
            self._blocks += [dict(each) for each in blocks if isinstance(each, Mapping)]
        self.size += len(text) + len(reasoning)
        text = self._seam.without(text)
        if text:
            self._text.append(text)
        if reasoning:
            self._reasoning.append(reasoning)
        if text or reasoning or delta.tool_calls:  # without a text, it is a sign of life
            return ModelDelta(text=text, reasoning=reasoning)
        return None

    def _call(self, piece: Any) -> None:
        known = self._slot(_text(_get(piece, "id")), _get(piece, "index"))
        function = _get(piece, "function")
        known["name"] = known["name"] or _text(_get(function, "name"))
        if arguments := _text(_get(function, "arguments")):
            known["arguments"].append(arguments)
            self.size += len(arguments)
        known["fields"] = known["fields"] or _get(piece, "provider_specific_fields")

    def _slot(self, call_id: str, place: Any) -> dict[str, Any]:
        """Return the call that a piece belongs to; some servers number them all 0."""
        if type(place) is not int:
            place = None
        known = self._ids.get(call_id) if call_id else self._latest.get(place)
        if known is None and call_id and place is not None:
            known = self._latest.get(place)
            if known is not None and known["id"]:
                known = None
        if known is None:
            known = {"id": "", "name": "", "arguments": [], "fields": None}
            self._calls.append(known)
            self.size += 64
        if call_id:
            known["id"] = call_id
            self._ids[call_id] = known
        self._latest[place] = self._latest[None] = known
        return known

    def answer(self) -> Answer:
        """Return the whole; before it is finished, what there is without half calls."""
        uses = tuple(self._uses()) if self.finished else ()
        blocks = _blocks(self._blocks) if self.finished else []
        return Answer(
            text="".join(self._text),
            tool_uses=uses,
            counts=self._counts,
            finish_reason=_finish(self._stop, bool(uses), self._refused),
            model=self._model,
            reasoning="".join(self._reasoning),
            kept=_kept(blocks, self._calls, uses),
        )

    def _uses(self) -> Iterator[ToolUse]:
        for place, call in enumerate(self._calls):
            yield ToolUse(
                id=call["id"] or f"call_{place}",
                name=call["name"],
                arguments="".join(call["arguments"]) or "{}",
            )


def joined(one: ModelDelta | None, other: ModelDelta | None) -> ModelDelta | None:
    """Return two pieces as one."""
    if one is None or other is None:
        return other if one is None else one
    return ModelDelta(text=one.text + other.text, reasoning=one.reasoning + other.reasoning)


def usage_of(counts: Counts) -> Usage:
    """Return what is put on the account."""
    return Usage(
        requests=1,
        input_tokens=counts.input,
        output_tokens=counts.output,
        cached_tokens=counts.cached,
        reasoning_tokens=counts.reasoning,
    )


def counts_of(usage: Any, tier: Any = None) -> Counts:
    """Read a `Usage` of litellm, which is all zeros where the provider has not counted."""
    if usage is None:
        return Counts()
    told = _fields(usage)
    sent = _fields(told.get("prompt_tokens_details"))
    came = _fields(told.get("completion_tokens_details"))
    written = told.get("cache_creation_input_tokens")
    if written is None:
        written = sent.get("cache_creation_tokens") or sent.get("cache_write_tokens")
    kept = _fields(sent.get("cache_creation_token_details"))
    heard = _number(sent.get("audio_tokens")) + _number(came.get("audio_tokens"))
    given, made = _number(told.get("prompt_tokens")), _number(told.get("completion_tokens"))
    return Counts(
        input=given,
        cached=_number(sent.get("cached_tokens")),
        written=_number(written),
        written_long=_number(kept.get("ephemeral_1h_input_tokens")),
        output=made,
        reasoning=_number(came.get("reasoning_tokens")),
        known=bool(given or made),
        odd=bool(heard) or tier not in _USUAL_TIERS or _is_odd(told, sent),
    )


def _is_odd(told: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
    """Whether more than tokens at the usual price is paid: haste, a place, a search."""
    served = told.get("server_tool_use")
    return (
        told.get("service_tier") not in _USUAL_TIERS
        or told.get("speed") not in (None, "", "standard")
        or told.get("inference_geo") == "us"
        or bool(_number(sent.get("web_search_requests")))
        or (served is not None and any(map(_number, dict(served).values())))
    )


def _fields(owner: Any) -> Mapping[str, Any]:
    """Return the fields of an object or a mapping of litellm's, which has both.

    To ask one of its objects for a field that is not there takes long.
    """
    if isinstance(owner, Mapping):
        return owner
    more = getattr(owner, "__pydantic_extra__", None) or {}
    return {**getattr(owner, "__dict__", {}), **more}


def _larger(one: Counts, other: Counts) -> Counts:
    return Counts(
        input=max(one.input, other.input),
        cached=max(one.cached, other.cached),
        written=max(one.written, other.written),
        written_long=max(one.written_long, other.written_long),
        output=max(one.output, other.output),
        reasoning=max(one.reasoning, other.reasoning),
        known=one.known or other.known,
        odd=one.odd or other.odd,
    )


def _kept(blocks: Any, calls: Any, uses: tuple[ToolUse, ...]) -> dict[str, Any]:
    """Return what a provider wants back with its answer."""
    kept: dict[str, Any] = {}
    if blocks:
        kept["thinking_blocks"] = [dict(each) for each in blocks]
    fields = {
        use.id: dict(found)
        for use, call in zip(uses, calls, strict=False)
        if isinstance(
            found := _get(call, "provider_specific_fields") or _get(call, "fields"), Mapping
        )
    }
    if fields:
        kept["tool_fields"] = fields
    return kept


def _blocks(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return thinking blocks from the pieces in which they were streamed.

    A block ends with its signature.
    """
    made: list[dict[str, Any]] = []
    open_block: dict[str, Any] | None = None
    for piece in pieces:
        if piece.get("type") != "thinking":
            made.append(piece)
            open_block = None
            continue
        if open_block is None:
            open_block = {"type": "thinking", "thinking": ""}
            made.append(open_block)
        open_block["thinking"] += _text(piece.get("thinking"))
        if signature := piece.get("signature"):
            open_block["signature"] = signature
            open_block = None
    return made


def _use(call: Any, place: int) -> ToolUse:
    function = _get(call, "function")
    arguments = _get(function, "arguments") or "{}"
    if not isinstance(arguments, str | dict):
        raise Unreadable
    name = _text(_get(function, "name"))
    return ToolUse(id=_text(call.id) or f"call_{place}", name=name, arguments=arguments)


def _finish(stop: Any, has_calls: bool, refused: bool) -> str:
    if refused:
        return "content_filter"
    if has_calls and stop in ("stop", None):
        return "tool_calls"
    if stop == "tool_calls" and not has_calls:
        return "stop"  # it was made to call a tool in order to hold it to a schema
    return _FINISH.get(stop, stop) if isinstance(stop, str) and stop else "stop"


def _get(owner: Any, name: str) -> Any:
    """Return a field of an object or a mapping of litellm's, which has both."""
    if isinstance(owner, Mapping):
        return owner.get(name)
    return getattr(owner, name, None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int:
    """Return a count that came from outside; 0 if it is none."""
    return value if type(value) is int and 0 <= value < MOST else 0
