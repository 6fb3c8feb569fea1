"""Cohere's second version."""

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
from tests.wire._openai import call_deltas, must_call, turn_of, vector
from tests.wire.script import Fault, FaultKind, Request, Said, Stop, Usage

__all__ = ["CohereChat", "CohereEmbed", "CohereModels"]

STOPS: Mapping[Stop, str] = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "content_filter": "ERROR",
}
ERRORS: Mapping[FaultKind, str] = {
    "unauthorized": "invalid api token",
    "forbidden": "Your account does not have access to this resource.",
    "unknown_model": (
        "model '{model}' not found, make sure the correct model ID was used and that you "
        "have access to the model."
    ),
    "bad_request": "invalid request: message must be at least 1 token long.",
    "context_length": (
        "too many tokens: size limit exceeded by 12021 tokens. Try using shorter or fewer "
        "inputs. The limit for this model is 128000 tokens."
    ),
    "content_filter": "the request was blocked: it may violate the usage guidelines.",
    "rate_limit": (
        "You are using a Trial key, which is limited to 20 API calls / minute. You can "
        "continue to use the Trial key for free or upgrade to a Production key."
    ),
    "quota": "Payment required: your account has reached its billing limit.",
    "server_error": (
        "internal server error, this has been reported to our developers. id wire"
    ),
    "unavailable": "service unavailable",
    "overloaded": "the model is overloaded, please try again later",
}
STATUSES: Mapping[FaultKind, int] = {
    **STATUS,
    "quota": 402,
    "overloaded": 503,
}


def error(status: int, message: str, headers: Mapping[str, str] = {}) -> Page:
    return as_json({"id": "wire", "message": message}, status=status, headers=headers)


class Cohere(Api):
    """What all of Cohere's addresses share: keys and errors."""

    provider = "cohere"

    def authorise(self, request: Request) -> None:
        given = request.headers.get("authorization", "").split(" ")[-1]
        if not given:
            raise Refused(error(401, "no api key supplied"))
        if given != self.key:
            raise Refused(error(401, ERRORS["unauthorized"]))

    def understand(self, request: Request) -> None:
        body = request.json
        if not isinstance(body, dict):
            raise Refused(error(400, "invalid json syntax"))
        request.model = str(body.get("model") or "")
        if not request.model:
            raise Refused(error(400, "invalid request: model is required."))

    def failure(self, request: Request, fault: Fault) -> Page:
        if fault.kind == "bad_gateway":
            return Page(BAD_GATEWAY, 502, "text/html")
        message = fault.message or ERRORS[fault.kind].format(model=request.model)
        return error(STATUSES[fault.kind], message, delay(fault, {}))

    def failure_event(self, request: Request, fault: Fault) -> bytes:
        told = {"finish_reason": "ERROR", "error": fault.message or ERRORS["server_error"]}
        return event("message-end", {"delta": told})

    def line(self, data: bytes) -> bytes:
        return b"event: content-delta\ndata: " + data + b"\n\n"

    def framed(self, request: Request, event: bytes) -> bytes:
        """Send lines of JSON to who says that it takes JSON, as Cohere does."""
        if not wants_lines(request):
            return event
        data = event.removesuffix(b"\n\n").split(b"data: ", 1)[1]
        return b"" if data == b"[DONE]" else data + b"\n"

    def stream_type(self, request: Request) -> str:
        if wants_lines(request):
            return "application/stream+json"
        return super().stream_type(request)


def wants_lines(request: Request) -> bool:
    return request.headers.get("accept") == "application/json"


def event(name: str, value: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **value})}\n\n".encode()


class CohereChat(Cohere):
    """`/v2/chat`."""

    def understand(self, request: Request) -> None:
        super().understand(request)
        body = request.json
        if not list_of(body.get("messages")):
            message = "invalid request: messages must be at least one message long."
            raise Refused(error(400, message))
        request.stream = body.get("stream") is True
        request.turns = [turn_of(each) for each in list_of(body["messages"])]
        for tool in list_of(body.get("tools")):
            function = tool.get("function") or {}
            request.tools[str(function.get("name"))] = function.get("parameters") or {}
        request.must_call = must_call(str(body.get("tool_choice")).lower(), request)
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_object":
            request.schema = (
                wanted.get("json_schema") or wanted.get("schema") or {"type": "object"}
            )

    def page(self, request: Request, said: Said) -> Page:
        content = []
        if said.thinking:
            content.append({"type": "thinking", "thinking": said.thinking})
        if text := said.text():
            content.append({"type": "text", "text": text})
        message: dict[str, Any] = {"role": "assistant"}
        if content:
            message["content"] = content
        if said.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments),
                    },
                }
                for call in said.calls
            ]
        stop, usage = said.ending()
        ends = {"finish_reason": STOPS[stop], "usage": usage_of(usage)}
        return as_json({"id": f"wire-{said.number}", "message": message, **ends})

    def events(self, request: Request, said: Said) -> Iterator[Event]:
        start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}
        head = {"id": f"wire-{said.number}", "delta": {"message": start}}
        yield Event(event("message-start", head))
        index = 0
        if said.thinking:
            yield from text_events("thinking", iter([said.thinking]), index)
            index += 1
        yield from text_events("text", said.pieces(), index)
        for place, call in enumerate(said.calls):
            yield from call_events(place, call.id, call.name, call.arguments)
        stop, usage = said.ending()
        delta = {"finish_reason": STOPS[stop], "usage": usage_of(usage)}
        yield Event(event("message-end", {"delta": delta}), end=True)
        yield Event(b"data: [DONE]\n\n")


def text_events(kind: str, pieces: Iterator[str], index: int) -> Iterator[Event]:
    """Give one block of content, and none where there is no text."""

    def part(name: str, content: dict[str, str]) -> bytes:
        return event(name, {"index": index, "delta": {"message": {"content": content}}})

    started = False
    for piece in pieces:
        if not started:
            started = True
            yield Event(part("content-start", {"type": kind, kind: ""}))
        yield Event(part("content-delta", {kind: piece}), content=kind == "text")
    if started:
        yield Event(event("content-end", {"index": index}))


def call_events(
    index: int, call_id: str, name: str, arguments: Mapping[str, Any]
) -> Iterator[Event]:
    for number, delta in enumerate(call_deltas(call_id, name, arguments)):
        kind = "tool-call-delta" if number else "tool-call-start"
        value = {"index": index, "delta": {"message": {"tool_calls": delta}}}
        yield Event(event(kind, value), content=number > 0)
    yield Event(event("tool-call-end", {"index": index}))


def usage_of(usage: Usage) -> dict[str, Any]:
    tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    billed = tokens | {"input_tokens": usage.input_tokens - usage.cached_tokens}
    return {"billed_units": billed, "tokens": tokens, "cached_tokens": usage.cached_tokens}


class CohereEmbed(Cohere):
    """`/v2/embed`."""

    kind = "embed"

    def understand(self, request: Request) -> None:
        super().understand(request)
        if not request.json.get("input_type"):
            raise Refused(error(400, "invalid request: input_type is required."))
        request.texts = [str(each) for each in request.json.get("texts") or ()]

    def page(self, request: Request, said: Said) -> Page:
        vectors = said.answer.vectors or [vector(text) for text in request.texts]
        billed = {"input_tokens": said.answer.usage.input_tokens}
        return as_json(
            {
                "id": f"wire-{said.number}",
                "embeddings": {"float": vectors},
                "texts": request.texts,
                "response_type": "embeddings_by_type",
                "meta": {"api_version": {"version": "2"}, "billed_units": billed},
            }
        )


class CohereModels(Cohere):
    """`/v1/models`."""

    kind = "list"

    def understand(self, request: Request) -> None:
        """Take any request."""

    def page(self, request: Request, said: Said) -> Page:
        models = [
            {"name": name, "endpoints": ["chat"], "context_length": 128000}
            for name in self.models
        ]
        return as_json({"models": models})
