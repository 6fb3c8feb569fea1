"""Ollama's own interface, which says more than its imitation of OpenAI's."""

from __future__ import annotations

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
    Unsendable,
    arguments_object,
    encoded,
    number,
    parts_of,
    reserved,
    tell_schema,
    text_of,
    wrong_media,
)

__all__ = ["OllamaAssembly", "OllamaCodec"]

_OURS = frozenset({"messages", "model", "stream", "tools"})
_APART = frozenset({"extra_headers", "options", "response_format", "tool_choice"})
_TOP = frozenset({"format", "keep_alive", "logprobs", "think", "top_logprobs"})


class OllamaCodec:
    """`/api/chat`, `/api/embed`, `/api/tags`."""

    chat_path: ClassVar[str] = "/api/chat"
    embed_path: ClassVar[str] = "/api/embed"
    list_path: ClassVar[str] = "/api/tags"
    keeps_blanks: ClassVar[bool] = True
    lines: ClassVar[bool] = True
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def chat(self, call: Prepared) -> dict[str, Any]:
        request = call.request
        settings, extra = request.settings, request.settings.extra
        options: dict[str, Any] = dict(extra.get("options") or {})
        body: dict[str, Any] = {
            "model": call.model,
            "messages": self._messages(call),
            "stream": call.stream,
        }
        for name, value in reserved(extra, _OURS):
            if name in _TOP:
                body[name] = value
            elif name not in _APART:
                options[name] = value
        if settings.temperature is not None:
            options["temperature"] = settings.temperature
        if settings.max_tokens is not None:
            options["num_predict"] = settings.max_tokens
        if options:
            body["options"] = options
        if request.tools and extra.get("tool_choice") != "none":
            body["tools"] = [_tool(each) for each in request.tools]
        elif call.output is not None:
            body["format"] = call.output.schema if call.output.strict else "json"
        return body

    def _messages(self, call: Prepared) -> list[dict[str, Any]]:
        made = [_message(each, call) for each in call.request.messages]
        if call.output is not None and call.output.strict and call.request.tools:
            # A schema would keep the model from calling a tool, so it is told in words.
            tell_schema(made, call.output)
        if call.request.prefix:
            made.append({"role": "assistant", "content": call.request.prefix})
        return made

    def read(self, data: Any) -> Answer:
        assembly = OllamaAssembly()
        assembly.add(data)
        if not assembly.finished:
            raise Unreadable
        return assembly.answer()

    def assembly(self) -> OllamaAssembly:
        return OllamaAssembly()

    def embed(self, texts: Sequence[str], model: str) -> dict[str, Any]:
        return {"model": model, "input": list(texts)}

    def vectors(self, data: Any) -> list[list[float]]:
        found = data.get("embeddings") if isinstance(data, dict) else None
        if not isinstance(found, list) or not all(isinstance(v, list) for v in found):
            raise Unreadable
        return [[float(each) for each in vector] for vector in found]

    def names(self, data: Any) -> list[str]:
        listed = data.get("models") if isinstance(data, dict) else None
        if not isinstance(listed, list):
            raise Unreadable
        names = (
            each.get("model") or each.get("name")
            for each in listed
            if isinstance(each, dict)
        )
        return [name for name in names if isinstance(name, str)]


class OllamaAssembly:
    """Puts the lines of `/api/chat` together."""

    def __init__(self) -> None:
        self.finished = False
        self.done = False
        self.size = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._uses: list[ToolUse] = []
        self._last: dict[str, Any] = {}
        self._model = ""

    def add(self, event: Any) -> ModelDelta | None:
        if type(event) is not dict:
            raise Unreadable
        if event.get("error"):
            raise Failed(event["error"])
        message = event.get("message")
        if event.get("done") is True:
            self._last = event
            self.finished = self.done = True
        elif type(message) is not dict:
            raise Unreadable
        if not self._model and isinstance(event.get("model"), str):
            self._model = event["model"][:200]
        return self._taken(message) if type(message) is dict else None

    def _taken(self, message: dict[str, Any]) -> ModelDelta | None:
        text, reasoning = text_of(message.get("content")), text_of(message.get("thinking"))
        calls = message.get("tool_calls") or ()
        for call in calls:
            self._uses.append(_use(call, len(self._uses)))
            self.size += 64
        if not text and not reasoning and not calls:
            return None
        if text:
            self._text.append(text)
        if reasoning:
            self._reasoning.append(reasoning)
        self.size += len(text) + len(reasoning)
        return ModelDelta(text=text, reasoning=reasoning)

    def answer(self) -> Answer:
        last, uses = self._last, tuple(self._uses) if self.finished else ()
        stop = last.get("done_reason")
        stop = stop if isinstance(stop, str) and stop else "stop"
        return Answer(
            text="".join(self._text),
            tool_uses=uses,
            counts=Counts(
                input=number(last.get("prompt_eval_count")),
                output=number(last.get("eval_count")),
                known=self.finished,
            ),
            finish_reason="tool_calls" if uses and stop == "stop" else stop,
            model=self._model,
            reasoning="".join(self._reasoning),
        )


def _message(message: Message, call: Prepared) -> dict[str, Any]:
    images: list[str] = []
    texts: list[str] = []
    for part in parts_of(message):
        if isinstance(part, str):
            texts.append(part)
        elif part.url is None and part.kind == "image":
            images.append(encoded(call, part))
        elif part.url is None and part.media_type.startswith("text/"):
            texts.append(call.media[id(part)].decode(errors="replace"))
        else:
            raise _wrong(part)
    made: dict[str, Any] = {"role": message.role, "content": "\n".join(texts)}
    if images:
        made["images"] = images
    if message.role == "tool":
        made["tool_name"] = message.name
    if message.tool_uses:
        made["tool_calls"] = [
            {"function": {"name": use.name, "arguments": arguments_object(use)}}
            for use in message.tool_uses
        ]
    return made


def _wrong(media: Media) -> Unsendable:
    if media.url is not None:
        return Unsendable("fetches nothing itself, and was given a URL")
    return wrong_media(media)


def _tool(spec: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": spec.name,
            "description": spec.description,
            "parameters": spec.parameters,
        },
    }


def _use(call: Any, place: int) -> ToolUse:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unreadable
    arguments = function.get("arguments") or {}
    if not isinstance(arguments, str | dict):
        raise Unreadable
    call_id = text_of(call.get("id")) or f"call_{place}"
    return ToolUse(id=call_id, name=function["name"], arguments=arguments)
