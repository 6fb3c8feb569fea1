"""Anthropic's messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
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
    text_of,
)
from tests.wire.script import Fault, FaultKind, Request, Said, Stop, Turn, Usage

__all__ = ["AnthropicMessages", "AnthropicModels", "is_anthropic"]

SIGNATURE = "d2lyZS1zaWduYXR1cmU="
# Models of today do not go on with a beginning that they did not write.
NO_PREFILL = re.compile(r"claude-(fable|mythos|\w+-(4-[6-9]|[5-9]))")
STOPS: Mapping[Stop, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
ERRORS: Mapping[FaultKind, tuple[str, str]] = {
    "unauthorized": ("authentication_error", "invalid x-api-key"),
    "forbidden": ("permission_error", "Your API key does not have permission to do this."),
    "unknown_model": ("not_found_error", "model: {model}"),
    "bad_request": ("invalid_request_error", "messages.0.role: Input should be 'user'"),
    "context_length": (
        "invalid_request_error",
        "prompt is too long: 219898 tokens > 200000 maximum",
    ),
    "content_filter": (
        "invalid_request_error",
        "Output blocked by content filtering policy",
    ),
    "rate_limit": (
        "rate_limit_error",
        "This request would exceed your organization's limit of 50 requests per minute.",
    ),
    "quota": (
        "invalid_request_error",
        (
            "Your credit balance is too low to access the Anthropic API. Please go to "
            "Plans & Billing to upgrade or purchase credits."
        ),
    ),
    "server_error": ("api_error", "Internal server error"),
    "unavailable": ("api_error", "Service unavailable"),
    "overloaded": ("overloaded_error", "Overloaded"),
}


def error(status: int, kind: str, message: str, headers: Mapping[str, str] = {}) -> Page:
    told = {"type": kind, "message": message}
    whole = {"type": "error", "error": told, "request_id": "req_wire"}
    return as_json(whole, status=status, headers={"request-id": "req_wire", **headers})


def bad(message: str) -> Refused:
    return Refused(error(400, "invalid_request_error", message))


def is_anthropic(headers: Mapping[str, str]) -> bool:
    """Say whether a request to an address that others have too is meant for Anthropic."""
    return "anthropic-version" in headers or "x-api-key" in headers


class Anthropic(Api):
    """What all of Anthropic's addresses share: keys and errors."""

    provider = "anthropic"

    def authorise(self, request: Request) -> None:
        if "anthropic-version" not in request.headers:
            raise bad("anthropic-version: header is required")
        given = request.headers.get("x-api-key")
        given = given or request.headers.get("authorization", "").removeprefix("Bearer ")
        if not given:
            message = "x-api-key header is required"
            raise Refused(error(401, "authentication_error", message))
        if given != self.key:
            raise Refused(error(401, *ERRORS["unauthorized"]))

    def failure(self, request: Request, fault: Fault) -> Page:
        if fault.kind == "bad_gateway":
            return Page(BAD_GATEWAY, 502, "text/html")
        status = 400 if fault.kind == "quota" else STATUS[fault.kind]
        kind, message = ERRORS[fault.kind]
        message = fault.message or message.format(model=request.model)
        when = datetime.now(UTC) + timedelta(seconds=fault.retry_after_s or 0)
        reset = {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": f"{when:%Y-%m-%dT%H:%M:%SZ}",
        }
        return error(status, kind, message, delay(fault, reset))

    def failure_event(self, request: Request, fault: Fault) -> bytes:
        kind, message = ERRORS["overloaded"]
        told = {"type": kind, "message": fault.message or message}
        return named("error", {"type": "error", "error": told})

    def line(self, data: bytes) -> bytes:
        return b"event: content_block_delta\ndata: " + data + b"\n\n"


def named(name: str, value: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


class AnthropicMessages(Anthropic):
    """`/v1/messages`."""

    def understand(self, request: Request) -> None:
        body = request.json
        if not isinstance(body, dict):
            raise bad("The request body is not valid JSON")
        for name in ("model", "max_tokens", "messages"):
            if not body.get(name):
                raise bad(f"{name}: Field required")
        request.model = str(body["model"])
        request.stream = body.get("stream") is True
        request.turns = [turn_of(each) for each in list_of(body["messages"])]
        self._check(request, body)
        if body.get("system"):
            request.turns.insert(0, Turn("system", text_of(body["system"])))
        for tool in list_of(body.get("tools")):
            request.tools[str(tool.get("name"))] = tool.get("input_schema") or {}
        choice = body.get("tool_choice") or {}
        if choice.get("type") in ("any", "tool"):
            request.must_call = str(choice.get("name") or next(iter(request.tools), ""))
        output = (body.get("output_config") or {}).get("format") or body.get(
            "output_format"
        )
        request.schema = output.get("schema") if isinstance(output, dict) else None

    def _check(self, request: Request, body: Mapping[str, Any]) -> None:
        check_turns(request.turns)
        check_thinking(body["messages"])
        last = request.turns[-1]
        if last.role != "assistant" or last.calls:
            return
        if NO_PREFILL.match(request.model):
            raise bad(
                "This model does not support assistant message prefill. The conversation "
                "must end with a user message."
            )
        if last.text != last.text.rstrip():
            raise bad(
                "messages: final assistant content cannot end with trailing whitespace"
            )
        request.prefix = last.text

    def page(self, request: Request, said: Said) -> Page:
        blocks: list[dict[str, Any]] = []
        if said.thinking:
            thought = {"thinking": said.thinking, "signature": SIGNATURE}
            blocks.append({"type": "thinking", **thought})
        if text := said.text():
            blocks.append({"type": "text", "text": text})
        for call in said.calls:
            used = {"id": call.id, "name": call.name, "input": dict(call.arguments)}
            blocks.append({"type": "tool_use", **used})
        stop, usage = said.ending()
        whole = message_of(said, usage) | {"content": blocks, "stop_reason": STOPS[stop]}
        return as_json(whole, headers={"request-id": "req_wire"})

    def events(self, request: Request, said: Said) -> Iterator[Event]:
        usage = said.answer.usage
        start = message_of(said, usage)
        start["usage"] = usage_of(usage) | {"output_tokens": 1}
        yield Event(named("message_start", {"type": "message_start", "message": start}))
        yield Event(named("ping", {"type": "ping"}))
        blocks = Blocks()
        if said.thinking:
            yield blocks.start({"type": "thinking", "thinking": "", "signature": ""})
            yield blocks.delta("thinking_delta", "thinking", said.thinking)
            yield blocks.delta("signature_delta", "signature", SIGNATURE)
            yield blocks.stop()
        yield from text_events(said, blocks)
        for call in said.calls:
            used = {"id": call.id, "name": call.name, "input": {}}
            yield blocks.start({"type": "tool_use", **used})
            written = json.dumps(call.arguments)
            yield blocks.delta("input_json_delta", "partial_json", "")
            for at in range(0, len(written), 8):
                piece = written[at : at + 8]
                yield blocks.delta("input_json_delta", "partial_json", piece, content=True)
            yield blocks.stop()
        stop, usage = said.ending()
        end = {"stop_reason": STOPS[stop], "stop_sequence": None}
        last = {"type": "message_delta", "delta": end, "usage": usage_of(usage)}
        yield Event(named("message_delta", last), end=True)
        yield Event(named("message_stop", {"type": "message_stop"}))


def text_events(said: Said, blocks: Blocks) -> Iterator[Event]:
    """Give the block of text, and none where there is no text."""
    pieces = said.pieces()
    for number, piece in enumerate(pieces):
        if not number:
            yield blocks.start({"type": "text", "text": ""})
        yield blocks.delta("text_delta", "text", piece, content=True)
    if blocks.open:
        yield blocks.stop()


class Blocks:
    """The blocks of a message that is streamed, numbered from 0."""

    def __init__(self) -> None:
        self._index = 0
        self.open = False

    def _event(self, name: str, more: Mapping[str, Any], *, content: bool = False) -> Event:
        value = {"type": name, "index": self._index, **more}
        return Event(named(name, value), content=content)

    def start(self, block: Mapping[str, Any]) -> Event:
        self.open = True
        return self._event("content_block_start", {"content_block": block})

    def delta(self, kind: str, field: str, value: str, *, content: bool = False) -> Event:
        delta = {"type": kind, field: value}
        return self._event("content_block_delta", {"delta": delta}, content=content)

    def stop(self) -> Event:
        event = self._event("content_block_stop", {})
        self._index += 1
        self.open = False
        return event


def message_of(said: Said, usage: Usage) -> dict[str, Any]:
    return {
        "id": f"msg_{said.number}",
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(usage),
    }


def usage_of(usage: Usage) -> dict[str, Any]:
    """Count as Anthropic does: what was cached is not among the input tokens."""
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


def turn_of(message: Mapping[str, Any]) -> Turn:
    blocks = list_of(message.get("content"))

    def ids(kind: str, name: str) -> tuple[str, ...]:
        return tuple(str(each.get(name)) for each in blocks if each.get("type") == kind)

    answers = ids("tool_result", "tool_use_id")
    text = text_of(message.get("content"))
    return Turn(
        role="tool" if answers and not text else str(message.get("role")),
        text=text,
        calls=ids("tool_use", "id"),
        answers=answers,
        images=len(ids("image", "type")),
    )


def check_turns(turns: list[Turn]) -> None:
    """Refuse a conversation in which a tool call has no answer, or an answer no call."""
    called: tuple[str, ...] = ()
    for place, turn in enumerate([*turns, Turn("end")]):
        if turn.role == "system":
            raise bad(
                f'messages.{place}.role: Unexpected role "system". The Messages API '
                'accepts a top-level `system` parameter, not "system" as an input role.'
            )
        if missing := [each for each in called if each not in turn.answers]:
            raise bad(
                f"messages.{place - 1}: `tool_use` ids were found without `tool_result` "
                f"blocks immediately after: {', '.join(missing)}. Each `tool_use` block "
                "must have a corresponding `tool_result` block in the next message."
            )
        if unknown := [each for each in turn.answers if each not in called]:
            raise bad(
                f"messages.{place}.content.0: unexpected `tool_use_id` found in "
                f"`tool_result` blocks: {', '.join(unknown)}. Each `tool_result` block "
                "must have a corresponding `tool_use` block in the previous message."
            )
        called = turn.calls


def check_thinking(messages: Any) -> None:
    """Refuse thoughts that come back changed."""
    for place, message in enumerate(list_of(messages)):
        for number, block in enumerate(list_of(message.get("content"))):
            if block.get("type") == "thinking" and block.get("signature") != SIGNATURE:
                raise bad(
                    f"messages.{place}.content.{number}: Invalid `signature` in `thinking` "
                    "block"
                )


class AnthropicModels(Anthropic):
    """`/v1/models`."""

    kind = "list"

    def page(self, request: Request, said: Said) -> Page:
        data = [
            {
                "type": "model",
                "id": name,
                "display_name": name.title(),
                "created_at": "2026-01-02T03:04:05Z",
                "lifecycle": "active",
                "max_input_tokens": 200000,
                "max_tokens": 64000,
            }
            for name in self.models
        ]
        ends = {"first_id": self.models[0], "last_id": self.models[-1]}
        return as_json({"data": data, "has_more": False, **ends})
