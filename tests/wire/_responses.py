"""OpenAI's responses: items instead of messages, and an event for each step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.wire._api import Event, Page, Refused, as_json, list_of, text_of
from tests.wire._openai import (
    CREATED,
    ERRORS,
    AzureKeys,
    OpenAi,
    check_schema,
    error,
    must_call,
)
from tests.wire.script import Call, Fault, Request, Said, Stop, Turn, Usage

__all__ = ["AzureResponses", "OpenAiResponses"]


class OpenAiResponses(OpenAi):
    """`/v1/responses`."""

    kind = "responses"

    def understand(self, request: Request) -> None:
        body = request.json
        if not isinstance(body, dict):
            raise Refused(error(400, "We could not parse the JSON body of your request."))
        request.model = str(body.get("model") or "")
        if not request.model:
            raise Refused(error(400, "Missing required parameter: 'model'.", param="model"))
        given = body.get("input")
        if not given:
            raise Refused(error(400, "Missing required parameter: 'input'.", param="input"))
        request.stream = body.get("stream") is True
        if body.get("instructions"):
            request.turns.append(Turn("system", str(body["instructions"])))
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        request.turns += [turn_of(each) for each in list_of(items)]
        check_calls(request.turns)
        for tool in list_of(body.get("tools")):
            if tool.get("type") == "function":
                request.tools[str(tool.get("name"))] = tool.get("parameters") or {}
        request.must_call = must_call(body.get("tool_choice"), request)
        wanted = (body.get("text") or {}).get("format") or {}
        request.schema = wanted.get("schema")
        if wanted.get("type") == "json_object":
            request.schema = {"type": "object"}
        check_schema({"json_schema": wanted})

    def page(self, request: Request, said: Said) -> Page:
        items = []
        if said.thinking:
            items.append(reasoning(said.number, said.thinking))
        if text := said.text():
            items.append(message(said.number, text))
        items += [called(call) for call in said.calls]
        stop, usage = said.ending()
        return as_json(whole(said, items, stop, usage))

    def events(self, request: Request, said: Said) -> Iterator[Event]:
        steps = Steps()
        started = whole(said, [], None, None)
        yield steps.event("response.created", response=started)
        yield steps.event("response.in_progress", response=started)
        if said.thinking:
            yield from reasoning_events(steps, said)
        yield from message_events(steps, said)
        for call in said.calls:
            yield from call_events(steps, call)
        stop, usage = said.ending()
        last = whole(said, steps.items, stop, usage)
        yield steps.event(f"response.{last['status']}", end=True, response=last)

    def failure_event(self, request: Request, fault: Fault) -> bytes:
        text, _, param, _ = ERRORS["server_error"]
        told = {"code": "server_error", "message": fault.message or text, "param": param}
        value = {"type": "error", "sequence_number": 99, **told}
        return f"event: error\ndata: {json.dumps(value)}\n\n".encode()


class AzureResponses(AzureKeys, OpenAiResponses):
    """`/openai/v1/responses`."""


class Steps:
    """Numbers the events, and keeps the items that are whole."""

    def __init__(self) -> None:
        self._number = 0
        self.items: list[dict[str, Any]] = []

    def event(
        self, kind: str, *, content: bool = False, end: bool = False, **fields: Any
    ) -> Event:
        value = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        data = f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()
        return Event(data, content=content, end=end)

    def started(self, item: Mapping[str, Any]) -> Event:
        place = len(self.items)
        return self.event("response.output_item.added", output_index=place, item=item)

    def done(self, item: dict[str, Any]) -> Event:
        place = len(self.items)
        self.items.append(item)
        return self.event("response.output_item.done", output_index=place, item=item)


def reasoning_events(steps: Steps, said: Said) -> Iterator[Event]:
    item = reasoning(said.number, said.thinking)
    where = {"item_id": item["id"], "output_index": len(steps.items), "summary_index": 0}
    name = "response.reasoning_summary"
    yield steps.started(item | {"summary": []})
    empty = {"type": "summary_text", "text": ""}
    yield steps.event(f"{name}_part.added", **where, part=empty)
    yield steps.event(f"{name}_text.delta", **where, delta=said.thinking)
    yield steps.event(f"{name}_text.done", **where, text=said.thinking)
    yield steps.event(f"{name}_part.done", **where, part=item["summary"][0])
    yield steps.done(item)


def message_events(steps: Steps, said: Said) -> Iterator[Event]:
    """Give the message, and none where there is no text."""
    empty = message(said.number, "")
    part = empty["content"][0]
    where: dict[str, Any] = {"item_id": empty["id"], "output_index": len(steps.items)}
    where["content_index"] = 0
    text = ""
    for piece in said.pieces():
        if not text:
            yield steps.started(empty | {"content": [], "status": "in_progress"})
            yield steps.event("response.content_part.added", **where, part=part)
        text += piece
        more = where | {"delta": piece, "logprobs": []}
        yield steps.event("response.output_text.delta", content=True, **more)
    if text:
        item = message(said.number, text)
        yield steps.event("response.output_text.done", **where, text=text, logprobs=[])
        yield steps.event("response.content_part.done", **where, part=item["content"][0])
        yield steps.done(item)


def call_events(steps: Steps, call: Call) -> Iterator[Event]:
    item = called(call)
    where = {"item_id": item["id"], "output_index": len(steps.items)}
    name = "response.function_call_arguments"
    yield steps.started(item | {"arguments": "", "status": "in_progress"})
    written = item["arguments"]
    for at in range(0, len(written), 8):
        yield steps.event(
            f"{name}.delta", content=True, **where, delta=written[at : at + 8]
        )
    yield steps.event(f"{name}.done", **where, arguments=written, name=call.name)
    yield steps.done(item)


def reasoning(number: int, text: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": f"rs_{number}", "type": "reasoning", "summary": summary}


def message(number: int, text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    head = {"id": f"msg_{number}", "type": "message", "role": "assistant"}
    return head | {"status": "completed", "content": [part]}


def called(call: Call) -> dict[str, Any]:
    return {
        "id": f"fc_{call.id}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": json.dumps(call.arguments),
        "status": "completed",
    }


def whole(
    said: Said, items: list[dict[str, Any]], stop: Stop | None, usage: Usage | None
) -> dict[str, Any]:
    """Return a response; one that goes on has no stop and no usage."""
    reasons: dict[Stop | None, str] = {
        "length": "max_output_tokens",
        "content_filter": "content_filter",
    }
    reason = reasons.get(stop)
    status = "in_progress" if stop is None else "incomplete" if reason else "completed"
    return {
        "id": f"resp_{said.number}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        "model": said.model,
        "output": list(items),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage_of(usage) if usage else None,
    }


def usage_of(usage: Usage) -> dict[str, Any]:
    cached = {
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
    }
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": cached,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def turn_of(item: Mapping[str, Any]) -> Turn:
    call_id = str(item.get("call_id"))
    if item.get("type") == "function_call":
        return Turn("assistant", calls=(call_id,))
    if item.get("type") == "function_call_output":
        return Turn("tool", text_of(item.get("output")), answers=(call_id,))
    content = item.get("content")
    images = sum(part.get("type") == "input_image" for part in list_of(content))
    return Turn(str(item.get("role") or item.get("type")), text_of(content), images=images)


def check_calls(turns: list[Turn]) -> None:
    """Refuse a call without an answer, or an answer without a call."""
    calls = {each for turn in turns for each in turn.calls}
    answers = {each for turn in turns for each in turn.answers}
    for call_id in sorted(calls - answers):
        text = f"No tool output found for function call {call_id}."
        raise Refused(error(400, text, param="input"))
    for call_id in sorted(answers - calls):
        text = f"No tool call found for function call output with call_id {call_id}."
        raise Refused(error(400, text, param="input"))
