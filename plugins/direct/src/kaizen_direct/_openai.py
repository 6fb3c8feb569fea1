"""OpenAI's chat completions, and everybody else's who speaks them."""

from __future__ import annotations

import re
from array import array
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from sys import byteorder
from typing import Any, ClassVar

from kaizen.media import Media
from kaizen.messages import Message, ModelDelta, ToolUse

from kaizen_direct._endpoints import Endpoint
from kaizen_direct._wire import (
    Answer,
    Counts,
    Failed,
    Prepared,
    Unreadable,
    arguments_text,
    encoded,
    number,
    parts_of,
    reserved,
    tell_schema,
    text_of,
    wire_id,
    wrong_media,
)

__all__ = ["OpenAiAssembly", "OpenAiCodec"]

_ID = re.compile(r"[\x21-\x7e]{1,40}")
_FINISH = {"function_call": "tool_calls", "max_tokens": "length", "eos": "stop"}
_OURS = frozenset({"messages", "model", "stream", "tools"})
_APART = frozenset({"response_format", "extra_headers", "tool_choice"})
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_USUAL_TIERS = (None, "auto", "default", "standard", "on_demand")


class OpenAiCodec:
    """`/chat/completions`, `/embeddings`, `/models`."""

    chat_path: ClassVar[str] = "/chat/completions"
    embed_path: ClassVar[str] = "/embeddings"
    list_path: ClassVar[str] = "/models"
    keeps_blanks: ClassVar[bool] = True
    lines: ClassVar[bool] = False
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def chat(self, call: Prepared) -> dict[str, Any]:
        request, endpoint = call.request, self._endpoint
        settings = request.settings
        body: dict[str, Any] = {"model": call.model, "messages": self._messages(call)}
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        if settings.max_tokens is not None:
            body[endpoint.max_tokens_field] = settings.max_tokens
        if request.tools:
            body["tools"] = [_tool(each) for each in request.tools]
            if "tool_choice" in settings.extra:
                body["tool_choice"] = settings.extra["tool_choice"]
        if call.output is not None and not self._words(call):
            body["response_format"] = _response_format(call)
        if request.prefix and endpoint.extends:
            body["continue_final_message"] = True
            body["add_generation_prompt"] = False
        if call.stream:
            body["stream"] = True
            if endpoint.stream_usage:
                body["stream_options"] = {"include_usage": True}
        body.update(
            (name, value)
            for name, value in reserved(settings.extra, _OURS)
            if name not in _APART
        )
        return body

    def _words(self, call: Prepared) -> bool:
        """Whether the schema has to stand in the prompt, as tools and it exclude it."""
        return bool(call.request.tools) and not self._endpoint.schema_with_tools

    def _messages(self, call: Prepared) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        behind: list[dict[str, Any]] = []
        for message in call.request.messages:
            if message.role != "tool" and behind:
                made.append({"role": "user", "content": behind})
                behind = []
            made.append(_message(message, call, behind))
        if behind:
            made.append({"role": "user", "content": behind})
        if call.output is not None and call.output.strict and self._words(call):
            tell_schema(made, call.output)
        if call.request.prefix:
            made.append({"role": "assistant", "content": call.request.prefix})
        return made

    def read(self, data: Any) -> Answer:
        if not isinstance(data, dict):
            raise Unreadable
        if data.get("error"):
            raise Failed(data["error"])
        choices = data.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise Unreadable
        choice = choices[0]
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Unreadable
        calls = message.get("tool_calls") or ()
        uses = tuple(_use(each, place) for place, each in enumerate(calls))
        refusal = text_of(message.get("refusal"))
        return Answer(
            text=text_of(message.get("content")) + refusal,
            tool_uses=uses,
            counts=_counts(data.get("usage"), data.get("service_tier")),
            finish_reason=_finish(choice.get("finish_reason"), bool(uses), bool(refusal)),
            model=_name(data.get("model")),
            reasoning=_reasoning(message),
        )

    def assembly(self) -> OpenAiAssembly:
        return OpenAiAssembly()

    def embed(self, texts: Sequence[str], model: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if self._endpoint.packed_vectors:
            body["encoding_format"] = "base64"
        return body

    def vectors(self, data: Any) -> list[list[float]]:
        if not isinstance(data, dict) or not isinstance(data.get("data"), list):
            raise Unreadable
        found = data["data"]
        if not all(isinstance(each, dict) for each in found):
            raise Unreadable
        ordered = sorted(found, key=lambda each: number(each.get("index")))
        return [_vector(each.get("embedding")) for each in ordered]

    def names(self, data: Any) -> list[str]:
        listed = data.get("data") if isinstance(data, dict) else None
        if not isinstance(listed, list):
            raise Unreadable
        names = (each.get("id") for each in listed if isinstance(each, dict))
        return [name for name in names if isinstance(name, str)]


class OpenAiAssembly:
    """Puts `chat.completion.chunk` events together."""

    def __init__(self) -> None:
        self.finished = False
        self.done = False
        self.size = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refused = False
        self._calls: list[dict[str, Any]] = []
        self._ids: dict[str, dict[str, Any]] = {}
        self._latest: dict[int | None, dict[str, Any]] = {}
        self._stop: Any = None
        self._model = ""
        self._usage: Any = None
        self._tier: Any = None

    def add(self, event: Any) -> ModelDelta | None:
        if type(event) is not dict:
            raise Unreadable
        if event.get("error"):
            raise Failed(event["error"])  # also where half a choice stands beside it
        choices = event.get("choices")
        if event.get("usage"):
            self._usage = event["usage"]
        if not self._model:
            self._model = _name(event.get("model"))
            self._tier = event.get("service_tier")
        if not choices:
            if choices is None and not event.get("usage"):
                raise Unreadable
            return None
        choice = choices[0]
        if type(choice) is not dict or choice.get("index", 0):
            return None  # of several choices, the first is taken
        if choice.get("finish_reason"):
            self._stop = choice["finish_reason"]
            self.finished = True
        delta = choice.get("delta")
        return self._taken(delta) if type(delta) is dict else None

    def _taken(self, delta: dict[str, Any]) -> ModelDelta | None:
        text = delta.get("content")
        if delta.get("refusal"):
            self._refused = True
            text = text_of(text) + text_of(delta["refusal"])
        elif text and type(text) is not str:
            text = text_of(text)
        if text:
            self._text.append(text)
            self.size += len(text)
        calls = delta.get("tool_calls")
        if calls:
            self._call(calls)
        reasoning = _reasoning(delta)
        if reasoning:
            self._reasoning.append(reasoning)
            self.size += len(reasoning)
        if text or reasoning or calls:  # without a text, it is a sign of life
            return ModelDelta(text=text or "", reasoning=reasoning)
        return None

    def _call(self, pieces: Any) -> None:
        if not isinstance(pieces, list):
            raise Unreadable
        for piece in pieces:
            if not isinstance(piece, dict):
                raise Unreadable
            call = self._slot(piece)
            function = piece.get("function") or {}
            if not isinstance(function, dict):
                raise Unreadable
            if name := function.get("name"):
                call["name"] = text_of(name)
            arguments = function.get("arguments")
            if isinstance(arguments, dict):
                call["whole"] = arguments
            elif arguments:
                call["arguments"].append(text_of(arguments))
                self.size += len(arguments)

    def _slot(self, piece: dict[str, Any]) -> dict[str, Any]:
        """Return the call that a piece belongs to; some servers number them all 0."""
        call_id = text_of(piece.get("id"))
        place = piece.get("index")
        if type(place) is not int:
            place = None
        known = self._ids.get(call_id) if call_id else self._latest.get(place)
        if known is None and call_id:
            known = self._latest.get(place) if place is not None else None
            if known is not None and known["id"]:
                known = None
        if known is None:
            known = {"id": "", "name": "", "arguments": []}
            self._calls.append(known)
            self.size += 64
        if call_id:
            known["id"] = call_id
            self._ids[call_id] = known
        self._latest[place] = self._latest[None] = known
        return known

    def answer(self) -> Answer:
        uses = tuple(self._uses()) if self.finished else ()
        return Answer(
            text="".join(self._text),
            tool_uses=uses,
            counts=_counts(self._usage, self._tier),
            finish_reason=_finish(self._stop, bool(uses), self._refused),
            model=self._model,
            reasoning="".join(self._reasoning),
        )

    def _uses(self) -> Iterator[ToolUse]:
        for place, call in enumerate(self._calls):
            arguments = call.get("whole") or "".join(call["arguments"]) or "{}"
            yield ToolUse(
                id=call["id"] or f"call_{place}", name=call["name"], arguments=arguments
            )


def _message(
    message: Message, call: Prepared, behind: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return one message; what a tool message cannot hold goes behind the tool messages."""
    if message.role == "tool":
        behind.extend(
            _part(part, call) for part in parts_of(message) if isinstance(part, Media)
        )
        return {
            "role": "tool",
            "tool_call_id": wire_id(message.tool_use_id, _ID),
            "content": message.text,
        }
    if message.role != "assistant":
        return {"role": message.role, "content": _content(message, call)}
    made: dict[str, Any] = {"role": "assistant", "content": message.text}
    if message.tool_uses:
        made["content"] = message.text or None
        made["tool_calls"] = [
            {
                "id": wire_id(use.id, _ID),
                "type": "function",
                "function": {"name": use.name, "arguments": arguments_text(use)},
            }
            for use in message.tool_uses
        ]
    return made


def _content(message: Message, call: Prepared) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    parts = parts_of(message)
    if all(isinstance(part, str) for part in parts):
        return message.text
    return [_part(part, call) for part in parts]


def _part(part: str | Media, call: Prepared) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "image":
        url = part.url or f"data:{part.media_type};base64,{encoded(call, part)}"
        return {"type": "image_url", "image_url": {"url": url}}
    if part.url is None and part.kind == "audio" and part.media_type in _AUDIO:
        heard = {"data": encoded(call, part), "format": _AUDIO[part.media_type]}
        return {"type": "input_audio", "input_audio": heard}
    if part.url is None and part.media_type.startswith("text/"):
        return {"type": "text", "text": call.media[id(part)].decode(errors="replace")}
    if part.url is None and part.media_type == "application/pdf":
        name = part.path.name if part.path else "document.pdf"
        data = f"data:application/pdf;base64,{encoded(call, part)}"
        return {"type": "file", "file": {"filename": name, "file_data": data}}
    raise wrong_media(part)


def _tool(spec: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": spec.name,
            "description": spec.description,
            "parameters": spec.parameters,
        },
    }


def _response_format(call: Prepared) -> dict[str, Any]:
    output = call.output
    if output is None or not output.strict:
        return {"type": "json_object"}
    name = re.sub(r"[^A-Za-z0-9_-]", "_", output.name)[:64] or "output"
    strict = call.request.output is not None or not _is_lax(call.request.settings.extra)
    wanted = {"name": name, "strict": strict, "schema": output.schema}
    return {"type": "json_schema", "json_schema": wanted}


def _is_lax(extra: Mapping[str, Any]) -> bool:
    """Whether a user's `response_format` says itself that the schema is a mere hint."""
    told = extra["response_format"].get("json_schema")
    return isinstance(told, Mapping) and told.get("strict") is False


def _use(call: Any, place: int) -> ToolUse:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unreadable
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str | dict):
        raise Unreadable
    call_id = text_of(call.get("id")) or f"call_{place}"
    return ToolUse(id=call_id, name=function["name"], arguments=arguments)


def _reasoning(message: dict[str, Any]) -> str:
    """Return what a model thought: OpenAI does not show it, others do in two ways."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def _finish(stop: Any, has_calls: bool, refused: bool) -> str:
    if refused:
        return "content_filter"
    if has_calls and stop in ("stop", None):
        return "tool_calls"
    return _FINISH.get(stop, stop) if isinstance(stop, str) and stop else "stop"


def _name(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""


def _counts(usage: Any, tier: Any) -> Counts:
    if not isinstance(usage, dict):
        return Counts()
    sent = usage.get("prompt_tokens_details")
    came = usage.get("completion_tokens_details")
    sent = sent if isinstance(sent, dict) else {}
    came = came if isinstance(came, dict) else {}
    cached = sent.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))
    return Counts(
        input=number(usage.get("prompt_tokens")),
        cached=number(cached),
        written=number(sent.get("cache_write_tokens")),
        output=number(usage.get("completion_tokens")),
        reasoning=number(came.get("reasoning_tokens")),
        known=True,
        odd=tier not in _USUAL_TIERS
        or bool(number(sent.get("audio_tokens")) or number(came.get("audio_tokens"))),
    )


def _vector(value: Any) -> list[float]:
    if isinstance(value, list):
        return [float(each) for each in value]
    if not isinstance(value, str):
        raise Unreadable
    numbers = array("f")
    try:
        numbers.frombytes(b64decode(value, validate=True))
    except ValueError:
        raise Unreadable from None
    if byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
