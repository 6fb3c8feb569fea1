"""Ollama's own addresses; it needs no key, and streams lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.wire._api import (
    BAD_GATEWAY,
    STATUS,
    Api,
    Event,
    Page,
    Refused,
    as_json,
    delay,
    list_of,
)
from tests.wire._openai import vector
from tests.wire.script import Fault, FaultKind, Request, Said, Turn

__all__ = [
    "OllamaChat",
    "OllamaEmbed",
    "OllamaGenerate",
    "OllamaShow",
    "OllamaTags",
    "OllamaVersion",
]

CREATED = "2026-01-02T03:04:05.678901Z"
ERRORS: Mapping[FaultKind, str] = {
    "unauthorized": "unauthorized",
    "forbidden": "access denied",
    "unknown_model": "model '{model}' not found",
    "bad_request": "invalid message role: wire",
    "context_length": "the input length exceeds the context length",
    "content_filter": "the request was refused",
    "rate_limit": "you have reached your hourly usage limit, please upgrade to continue",
    "quota": "you have reached your weekly usage limit, please upgrade to continue",
    "server_error": "llama runner process has terminated: exit status 2",
    "unavailable": "service unavailable",
    "overloaded": "server busy, please try again.  maximum pending requests exceeded",
}
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "1.2B",
    "quantization_level": "Q8_0",
}


def error(status: int, message: str, headers: Mapping[str, str] = {}) -> Page:
    return as_json({"error": message}, status=status, headers=headers)


class Ollama(Api):
    """What all of Ollama's addresses share: errors, and one line for each event."""

    provider = "ollama"

    def failure(self, request: Request, fault: Fault) -> Page:
        if fault.kind == "bad_gateway":
            return Page(BAD_GATEWAY, 502, "text/html")
        status = 503 if fault.kind == "overloaded" else STATUS[fault.kind]
        message = fault.message or ERRORS[fault.kind].format(model=request.model)
        return error(status, message, delay(fault, {}))

    def failure_event(self, request: Request, fault: Fault) -> bytes:
        told = {"error": fault.message or ERRORS["server_error"]}
        return self.line(json.dumps(told).encode())

    def line(self, data: bytes) -> bytes:
        return data + b"\n"

    def stream_type(self, request: Request) -> str:
        return "application/x-ndjson"

    def understand(self, request: Request) -> None:
        body = request.json
        if not isinstance(body, dict):
            raise Refused(
                error(400, "invalid character 'w' looking for beginning of value")
            )
        request.model = str(body.get("model") or "")
        if not request.model:
            raise Refused(error(400, "model is required"))


class OllamaChat(Ollama):
    """`/api/chat`, which streams unless it is told not to."""

    def understand(self, request: Request) -> None:
        super().understand(request)
        body = request.json
        request.stream = body.get("stream") is not False
        wanted = body.get("format")
        request.schema = wanted if isinstance(wanted, dict) else None
        if wanted == "json":
            request.schema = {"type": "object"}
        self._read(request, body)

    def _read(self, request: Request, body: Mapping[str, Any]) -> None:
        request.turns = [turn_of(each) for each in list_of(body.get("messages"))]
        for tool in list_of(body.get("tools")):
            function = tool.get("function") or {}
            request.tools[str(function.get("name"))] = function.get("parameters") or {}
        last = request.turns[-1] if request.turns else Turn("none")
        if last.role == "assistant" and not last.calls:
            request.prefix = last.text

    def page(self, request: Request, said: Said) -> Page:
        message = self._part(said.text(), said.thinking, call_list(said))
        return as_json(self._head(said) | message | ended(said))

    def events(self, request: Request, said: Said) -> Iterator[Event]:
        def line(part: dict[str, Any], end: dict[str, Any] | None = None) -> bytes:
            whole = self._head(said) | part | (end or {"done": False})
            return self.line(json.dumps(whole).encode())

        if said.thinking:
            yield Event(line(self._part("", said.thinking)))
        for piece in said.pieces():
            yield Event(line(self._part(piece)), content=True)
        for call in call_list(said):
            yield Event(line(self._part("", calls=[call])), content=True)
        yield Event(line(self._part(""), ended(said)), end=True)

    def _head(self, said: Said) -> dict[str, Any]:
        return {"model": said.model, "created_at": CREATED}

    def _part(
        self, text: str, thinking: str = "", calls: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {"message": message}


class OllamaGenerate(OllamaChat):
    """`/api/generate`: one prompt, no conversation."""

    kind = "generate"

    def _read(self, request: Request, body: Mapping[str, Any]) -> None:
        if system := body.get("system"):
            request.turns.append(Turn("system", str(system)))
        images = len(body.get("images") or ())
        request.turns.append(Turn("user", str(body.get("prompt") or ""), images=images))

    def _part(
        self, text: str, thinking: str = "", calls: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        part = {"response": text}
        return part | {"thinking": thinking} if thinking else part


def call_list(said: Said) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "function": {
                "index": place,
                "name": call.name,
                "arguments": dict(call.arguments),
            },
        }
        for place, call in enumerate(said.calls)
    ]


def ended(said: Said) -> dict[str, Any]:
    stop, usage = said.ending()
    return {
        "done": True,
        "done_reason": "length" if stop == "length" else "stop",
        "total_duration": 4_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": usage.input_tokens,
        "prompt_eval_duration": 1_000_000,
        "eval_count": usage.output_tokens,
        "eval_duration": 2_000_000,
    }


def turn_of(message: Mapping[str, Any]) -> Turn:
    calls = list_of(message.get("tool_calls"))
    name = message.get("tool_name")
    return Turn(
        role=str(message.get("role")),
        text=str(message.get("content") or ""),
        calls=tuple(str((each.get("function") or {}).get("name")) for each in calls),
        answers=(str(name),) if name else (),
        images=len(message.get("images") or ()),
    )


class OllamaEmbed(Ollama):
    """`/api/embed`, and `/api/embeddings` for one text."""

    kind = "embed"

    def understand(self, request: Request) -> None:
        super().understand(request)
        given = request.json.get("input", request.json.get("prompt"))
        request.texts = [given] if isinstance(given, str) else list(given or ())

    def page(self, request: Request, said: Said) -> Page:
        vectors = said.answer.vectors or [vector(str(text)) for text in request.texts]
        if request.path.endswith("/embeddings"):
            return as_json({"embedding": vectors[0]})
        counted = {"prompt_eval_count": said.answer.usage.input_tokens}
        times = {"total_duration": 2_000_000, "load_duration": 1_000_000}
        return as_json({"model": said.model, "embeddings": vectors} | times | counted)


class OllamaTags(Ollama):
    """`/api/tags`: what is there."""

    kind = "list"

    def understand(self, request: Request) -> None:
        """Take any request."""

    def page(self, request: Request, said: Said) -> Page:
        models = [
            {
                "name": name,
                "model": name,
                "modified_at": CREATED,
                "size": 1_321_098_329,
                "digest": f"{number:064x}",
                "details": DETAILS,
            }
            for number, name in enumerate(self.models)
        ]
        return as_json({"models": models})


class OllamaShow(Ollama):
    """`/api/show`: what one model can do."""

    kind = "list"

    def page(self, request: Request, said: Said) -> Page:
        if request.model not in self.models:
            return self.failure(request, Fault("unknown_model"))
        return as_json(
            {
                "modelfile": "FROM wire",
                "parameters": "num_ctx 8192",
                "template": "{{ .Prompt }}",
                "details": DETAILS,
                "model_info": {
                    "general.architecture": "llama",
                    "llama.context_length": 131072,
                    "llama.embedding_length": 2048,
                },
                "capabilities": ["completion", "tools", "vision"],
                "modified_at": CREATED,
            }
        )


class OllamaVersion(OllamaTags):
    """`/api/version`."""

    def page(self, request: Request, said: Said) -> Page:
        return as_json({"version": "0.13.0"})
