"""Anthropic's messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    arguments_object,
    encoded,
    number,
    parts_of,
    reserved,
    text_of,
    wire_id,
    wrong_media,
)

__all__ = ["AnthropicAssembly", "AnthropicCodec"]

VERSION = "2023-06-01"
MAX_TOKENS = 8_192
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_OURS = frozenset({"messages", "model", "stream", "system", "tools"})
_APART = frozenset(
    {
        "extra_headers",
        "output_config",
        "parallel_tool_calls",
        "response_format",
        "tool_choice",
    }
)
_NESTED = ("properties", "$defs")
_LISTS = ("anyOf", "allOf")
_KNOWN = frozenset(
    {"$ref", "additionalProperties", "const", "description", "enum", "required", "title"}
    | {"type", "items", *_NESTED, *_LISTS}
)
_TAKEN: Mapping[str, tuple[Any, ...]] = {
    "format": (
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "uuid",
    ),
    "minItems": (0, 1),
}


class AnthropicCodec:
    """`/v1/messages` and `/v1/models`."""

    chat_path: ClassVar[str] = "/v1/messages"
    embed_path: ClassVar[str] = ""
    list_path: ClassVar[str] = "/v1/models?limit=1000"
    keeps_blanks: ClassVar[bool] = False
    lines: ClassVar[bool] = False
    headers: ClassVar[Mapping[str, str]] = {"anthropic-version": VERSION}

    def __init__(self, endpoint: Endpoint) -> None:
        self._name = endpoint.name

    def chat(self, call: Prepared) -> dict[str, Any]:
        request = call.request
        settings, extra = request.settings, request.settings.extra
        system, messages = self._conversation(call)
        body: dict[str, Any] = {
            "model": call.model,
            "max_tokens": settings.max_tokens or call.max_output_tokens or MAX_TOKENS,
            "messages": messages,
        }
        if system:
            body["system"] = system
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        if request.tools:
            body["tools"] = [_tool(each) for each in request.tools]
            if choice := _choice(extra):
                body["tool_choice"] = choice
        config = dict(extra.get("output_config") or {})
        if call.output is not None and call.output.strict:
            wanted = _plain(call.output.schema)
            config["format"] = {"type": "json_schema", "schema": wanted}
        if config:
            body["output_config"] = config
        if call.stream:
            body["stream"] = True
        body.update(
            (name, value) for name, value in reserved(extra, _OURS) if name not in _APART
        )
        if "thinking" in body and self._must_not_think(call, body["thinking"]):
            del body["thinking"]
        return body

    def _must_not_think(self, call: Prepared, thinking: Any) -> bool:
        """Whether thinking has to be off, since the turn began without it.

        A reply that is continued begins with text; and a turn with tools whose thoughts
        are not there, since another model began it, cannot be gone on with in thoughts
        that are demanded. A model that thinks as it sees fit may have had none.
        """
        if call.request.prefix:
            return True
        if not isinstance(thinking, Mapping) or thinking.get("type") != "enabled":
            return False
        for message in reversed(call.request.messages):
            if message.role == "assistant":
                return bool(message.tool_uses) and not self._thoughts(message)
            if message.role != "tool":
                return False
        return False

    def _thoughts(self, message: Message) -> list[Mapping[str, Any]]:
        """Return the blocks of thinking that belong to a message."""
        own = (message.provider_data or {}).get(self._name)
        blocks = own.get("thinking") if isinstance(own, Mapping) else None
        if not isinstance(blocks, list | tuple):
            return []
        return [each for each in blocks if isinstance(each, Mapping)]

    def _conversation(self, call: Prepared) -> tuple[str, list[dict[str, Any]]]:
        system: list[str] = []
        made: list[dict[str, Any]] = []
        for message in call.request.messages:
            if message.role == "system" and not made:
                system.append(message.text)
                continue
            role = "assistant" if message.role == "assistant" else "user"
            blocks = self._blocks(message, call)
            if made and made[-1]["role"] == role:
                made[-1]["content"].extend(blocks)
            elif blocks or role == "user":
                made.append({"role": role, "content": blocks})
        for each in made:
            if not each["content"]:  # which is not accepted
                each["content"].append({"type": "text", "text": "(empty)"})
        if beginning := call.request.prefix.rstrip():
            made.append({"role": "assistant", "content": beginning})
        return "\n\n".join(filter(None, system)), made

    def _blocks(self, message: Message, call: Prepared) -> list[dict[str, Any]]:
        blocks = [_part(part, call) for part in parts_of(message) if not _blank(part)]
        if message.role == "tool":
            result = {
                "type": "tool_result",
                "tool_use_id": wire_id(message.tool_use_id, _ID),
                "content": blocks,
            }
            return [result]
        if message.role != "assistant":
            return blocks
        uses = [
            {
                "type": "tool_use",
                "id": wire_id(use.id, _ID),
                "name": use.name,
                "input": arguments_object(use),
            }
            for use in message.tool_uses
        ]
        thoughts = [dict(each) for each in self._thoughts(message)]
        if woven := self._woven(message, thoughts, uses):
            return woven
        said = [*blocks, *uses]
        return [*thoughts, *said] if said else []

    def _woven(
        self, message: Message, thoughts: list[dict[str, Any]], uses: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the blocks in the order in which they came, if that can be told.

        Signatures hold for thoughts in their places. Where the text or the calls are not
        what came any more, there are no such places.
        """
        own = (message.provider_data or {}).get(self._name)
        order = own.get("order") if isinstance(own, Mapping) else None
        text = message.text
        if not isinstance(order, list | tuple) or not all(_is_place(x) for x in order):
            return []
        lengths = [each for each in order if isinstance(each, int)]
        counts = (order.count("thinking"), order.count("tool_use"), sum(lengths))
        if counts != (len(thoughts), len(uses), len(text)):
            return []
        made: list[dict[str, Any]] = []
        left = {"thinking": iter(thoughts), "tool_use": iter(uses)}
        for each in order:
            if not isinstance(each, int):
                made.append(next(left[each]))
                continue
            piece, text = text[:each], text[each:]
            if not _blank(piece):
                made.append({"type": "text", "text": piece})
        return made

    def read(self, data: Any) -> Answer:
        if not isinstance(data, dict):
            raise Unreadable
        if data.get("type") == "error" or "error" in data:
            raise Failed(data.get("error"))
        content = data.get("content")
        if not isinstance(content, list):
            raise Unreadable
        blocks = [each for each in content if isinstance(each, dict)]
        return _answer(
            blocks,
            data.get("stop_reason"),
            data.get("model"),
            data.get("usage"),
            self._name,
        )

    def assembly(self) -> AnthropicAssembly:
        return AnthropicAssembly(self._name)

    def embed(self, texts: Sequence[str], model: str) -> dict[str, Any]:
        raise NotImplementedError

    def vectors(self, data: Any) -> list[list[float]]:
        raise NotImplementedError

    def names(self, data: Any) -> list[str]:
        listed = data.get("data") if isinstance(data, dict) else None
        if not isinstance(listed, list):
            raise Unreadable
        names = (each.get("id") for each in listed if isinstance(each, dict))
        return [name for name in names if isinstance(name, str)]


class AnthropicAssembly:
    """Puts the events from `message_start` to `message_stop` together."""

    def __init__(self, name: str) -> None:
        self.finished = False
        self.done = False
        self.size = 0
        self._name = name
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}
        self._stop: Any = None
        self._model: Any = ""

    def add(self, event: Any) -> ModelDelta | None:
        kind = event.get("type") if type(event) is dict else None
        if kind == "content_block_delta":
            return self._delta(event)
        if kind == "content_block_start":
            return self._start(event)
        if kind == "message_start":
            message = event.get("message")
            if not isinstance(message, dict):
                raise Unreadable
            self._model = message.get("model")
            self._count(message.get("usage"))
        elif kind == "message_delta":
            delta = event.get("delta")
            if not isinstance(delta, dict):
                raise Unreadable
            self._count(event.get("usage"))
            self._stop = delta.get("stop_reason") or self._stop
            self.finished = self._stop is not None
        elif kind == "message_stop":
            self.finished = self.done = True
        elif kind == "error":
            raise Failed(event.get("error"))
        elif not isinstance(kind, str):
            raise Unreadable
        return None

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage.update({k: v for k, v in usage.items() if v is not None})

    def _start(self, event: dict[str, Any]) -> ModelDelta | None:
        block, place = event.get("content_block"), event.get("index")
        if not isinstance(block, dict) or type(place) is not int:
            raise Unreadable
        self._blocks[place] = dict(block)
        self._pieces[place] = []
        self.size += 64
        if block.get("type") not in ("text", "thinking"):
            return ModelDelta()  # a sign of life
        text = block.get("text")
        return ModelDelta(text=text) if isinstance(text, str) and text else None

    def _delta(self, event: dict[str, Any]) -> ModelDelta | None:
        place, delta = event.get("index"), event.get("delta")
        if type(delta) is not dict or place not in self._blocks:
            raise Unreadable
        kind = delta.get("type")
        if kind == "text_delta":
            text = text_of(delta.get("text"))
            self._add(place, text)
            return ModelDelta(text=text) if text else None
        if kind == "thinking_delta":
            text = text_of(delta.get("thinking"))
            self._add(place, text)
            return ModelDelta(reasoning=text) if text else None
        if kind == "input_json_delta":
            self._add(place, text_of(delta.get("partial_json")))
            return ModelDelta()  # a sign of life
        if kind == "signature_delta":
            block = self._blocks[place]
            block["signature"] = text_of(block.get("signature")) + text_of(
                delta.get("signature")
            )
        return None

    def _add(self, place: int, text: str) -> None:
        self._pieces[place].append(text)
        self.size += len(text)

    def answer(self) -> Answer:
        blocks = [self._whole(place) for place in sorted(self._blocks)]
        if not self.finished:
            blocks = [each for each in blocks if each.get("type") == "text"]
        return _answer(blocks, self._stop, self._model, self._usage, self._name)

    def _whole(self, place: int) -> dict[str, Any]:
        block, written = self._blocks[place], "".join(self._pieces[place])
        kind = block.get("type")
        if kind in ("text", "thinking"):
            return {**block, kind: text_of(block.get(kind)) + written}
        if kind == "tool_use" and written:
            return {**block, "input": written}
        return block


def _answer(
    blocks: Sequence[dict[str, Any]], stop: Any, model: Any, usage: Any, name: str
) -> Answer:
    texts: list[str] = []
    reasoning: list[str] = []
    thoughts: list[dict[str, Any]] = []
    uses: list[ToolUse] = []
    order: list[str | int] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(text_of(block.get("text")))
            order.append(len(texts[-1]))
        elif kind in ("thinking", "redacted_thinking"):
            thoughts.append(block)
            order.append("thinking")
            reasoning.append(text_of(block.get("thinking")))
        elif kind == "tool_use":
            uses.append(_use(block))
            order.append("tool_use")
    stop = stop if isinstance(stop, str) else "tool_use" if uses else "end_turn"
    return Answer(
        text="".join(texts),
        tool_uses=tuple(uses),
        counts=_counts(usage),
        finish_reason=_FINISH.get(stop, stop),
        model=model[:200] if isinstance(model, str) else "",
        reasoning="\n\n".join(filter(None, reasoning)),
        provider_data={name: _kept(thoughts, order)} if thoughts else None,
    )


def _kept(thoughts: list[dict[str, Any]], order: list[str | int]) -> dict[str, Any]:
    """Return what is wanted back: thoughts, and their places if they are not the first.

    Places are told by the lengths of texts, as the message holds the texts themselves.
    """
    ranks = [0 if each == "thinking" else 2 if each == "tool_use" else 1 for each in order]
    usual = ranks == sorted(ranks) and ranks.count(1) <= 1
    return {"thinking": thoughts} if usual else {"thinking": thoughts, "order": order}


def _is_place(value: Any) -> bool:
    return value in ("thinking", "tool_use") or (type(value) is int and value >= 0)


def _use(block: dict[str, Any]) -> ToolUse:
    call_id, name, given = block.get("id"), block.get("name"), block.get("input")
    if not isinstance(call_id, str) or not isinstance(name, str):
        raise Unreadable
    if not isinstance(given, dict | str):
        raise Unreadable
    return ToolUse(id=call_id, name=name, arguments=given)


def _counts(usage: Any) -> Counts:
    if not isinstance(usage, dict) or not usage:
        return Counts()
    cached = number(usage.get("cache_read_input_tokens"))
    written = number(usage.get("cache_creation_input_tokens"))
    created, details = usage.get("cache_creation"), usage.get("output_tokens_details")
    kept_long = created.get("ephemeral_1h_input_tokens") if isinstance(created, dict) else 0
    thought = details.get("thinking_tokens") if isinstance(details, dict) else 0
    served = usage.get("server_tool_use")
    return Counts(
        input=number(usage.get("input_tokens")) + cached + written,
        cached=cached,
        written=written,
        written_long=min(number(kept_long), written),
        output=number(usage.get("output_tokens")),
        reasoning=number(thought),
        known=True,
        odd=usage.get("service_tier") not in (None, "standard")
        or usage.get("speed") not in (None, "standard")
        or usage.get("inference_geo") == "us"
        or (isinstance(served, dict) and any(map(number, served.values()))),
    )


def _blank(part: str | Media) -> bool:
    return isinstance(part, str) and not part.strip()


def _part(part: str | Media, call: Prepared) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind not in ("image", "document"):
        raise wrong_media(part)
    if part.url is not None:
        return {"type": part.kind, "source": {"type": "url", "url": part.url}}
    if part.media_type.startswith("text/"):
        text = call.media[id(part)].decode(errors="replace")
        source = {"type": "text", "media_type": "text/plain", "data": text}
        return {"type": "document", "source": source}
    if part.kind == "document" and part.media_type != "application/pdf":
        raise wrong_media(part)
    source = {
        "type": "base64",
        "media_type": part.media_type,
        "data": encoded(call, part),
    }
    return {"type": part.kind, "source": source}


def _tool(spec: Any) -> dict[str, Any]:
    return {
        "name": spec.name,
        "description": spec.description,
        "input_schema": spec.parameters,
    }


def _choice(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a choice of tools; OpenAI's words for it are understood, too."""
    given = extra.get("tool_choice")
    words = {"auto": "auto", "none": "none", "required": "any", "any": "any"}
    made: dict[str, Any] | None = None
    if isinstance(given, str):
        made = {"type": words.get(given, given)}
    elif isinstance(given, Mapping) and isinstance(given.get("function"), Mapping):
        made = {"type": "tool", "name": given["function"].get("name")}
    elif isinstance(given, Mapping):
        made = dict(given)
    if extra.get("parallel_tool_calls") is False:
        made = {**(made or {"type": "auto"}), "disable_parallel_tool_use": True}
    return made


def _plain(schema: Any) -> dict[str, Any]:
    """Return a closed schema without the limits that Anthropic does not know.

    They are told in the description instead, as Anthropic's own libraries do. A schema may
    be `true`, which is any value, or `false`, which is none.
    """
    if not isinstance(schema, Mapping):
        return {} if schema is True else {"description": f"{{schema: {schema}}}"}
    made: dict[str, Any] = {}
    told: list[str] = []
    for word, value in schema.items():
        if word in _NESTED and isinstance(value, Mapping):
            made[word] = {name: _plain(each) for name, each in value.items()}
        elif word in _LISTS and isinstance(value, list | tuple):
            made[word] = [_plain(each) for each in value]
        elif word == "oneOf" and isinstance(value, list | tuple) and "anyOf" not in schema:
            made["anyOf"] = [_plain(each) for each in value]
        elif word == "items" and value is False:
            told.append("no items")
        elif word == "items":
            made[word] = _plain(value)
        elif word in _KNOWN or value in _TAKEN.get(word, ()):
            made[word] = value
        else:
            told.append(f"{word}: {value}")
    if "enum" in made or "const" in made:
        made.pop("type", None)
    if told:
        before = f"{made['description']}\n\n" if made.get("description") else ""
        made["description"] = f"{before}{{{', '.join(told)}}}"
    return made
