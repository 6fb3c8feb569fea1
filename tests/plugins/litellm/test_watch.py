"""What a provider sends is looked at before litellm reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest
from kaizen import ModelError, ModelRequestError
from kaizen_litellm._watch import Watch

from tests.wire.server import WireServer

from .conftest import Opened, answered, asking


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def said(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": reason}]}


GOOD = event(said("ö")) + b": a comment\n\n" + event(said("", "length"))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize(
    "bad",
    [b"data: {nonsense\n\n", event({"wire": 1}), event({"error": {"code": 500}})],
    ids=["no JSON", "another shape", "an error"],
)
def test_what_came_before_something_bad_is_good(size: int, bad: bytes) -> None:
    watch, stream, good = Watch("openai"), GOOD + bad + GOOD, b""

    for start in range(0, len(stream), size):
        chunk = stream[start : start + size]
        taken = watch.feed(chunk)
        good += chunk[:taken]
        if watch.is_bad:
            break

    assert watch.is_bad
    assert good.startswith(GOOD)
    assert bad not in good
    assert (watch.told is not None) == (b"error" in bad)


@pytest.mark.parametrize(
    ("route", "last", "reason"),
    [
        ("openai", said("", "stop"), "stop"),
        ("openai", said("", "function_call"), "tool_calls"),
        ("anthropic", {"type": "m", "delta": {"stop_reason": "max_tokens"}}, "length"),
        ("anthropic", {"type": "m", "delta": {"stop_reason": "end_turn"}}, "stop"),
        ("gemini", {"candidates": [{"finishReason": "SAFETY"}]}, "content_filter"),
        ("gemini", {"candidates": [{"finishReason": "OTHER"}]}, "content_filter"),
        ("gemini", {"promptFeedback": {"blockReason": "OTHER"}}, "content_filter"),
        (
            "cohere_chat",
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
            "stop",
        ),
        (
            "openai",
            {
                "type": "response.incomplete",
                "response": {
                    "object": "response",
                    "status": "incomplete",
                    "incomplete_details": {"reason": "max_output_tokens"},
                },
            },
            "length",
        ),
        ("anthropic", {"type": "message_start"}, ""),
        ("openai", said("more"), ""),
    ],
)
def test_it_sees_whether_and_why_a_model_ended(
    route: str, last: dict[str, Any], reason: str
) -> None:
    watch = Watch(route)

    watch.feed(event(last))

    assert (watch.reason, watch.is_bad) == (reason, False)


def test_an_event_has_ended_with_the_line_behind_it() -> None:
    watch = Watch("openai")
    line, _, behind = event(said("", "stop")).partition(b"\n")

    watch.feed(line + b"\n")
    assert watch.reason == ""
    watch.feed(behind)

    assert watch.reason == "stop"


def test_the_last_line_needs_no_end() -> None:
    watch = Watch("cohere_chat")

    watch.feed(b'{"type": "message-end", "delta": {"finish_reason": "MAX_TOKENS"}}')
    watch.end()

    assert watch.reason == "length"


def test_the_plan_that_cohere_makes_before_a_call_is_a_thought() -> None:
    whole, watch = Watch("cohere_chat"), Watch("cohere_chat")
    plan = {"role": "assistant", "tool_plan": "I will look.", "tool_calls": [{}]}

    whole.whole(json.dumps({"message": plan, "finish_reason": "TOOL_CALL"}).encode())
    for piece in ("I will ", "look."):
        delta = {"message": {"tool_plan": piece}}
        watch.feed(event({"type": "tool-plan-delta", "delta": delta}))

    assert (whole.thoughts(), whole.reason, whole.text) == (
        "I will look.",
        "tool_calls",
        "",
    )
    assert (watch.thoughts(), watch.thoughts()) == ("I will look.", "")


@pytest.mark.parametrize("content", [None, "text", [None, {"text": 1}], {"thinking": []}])
def test_what_cohere_says_may_have_any_shape(content: Any) -> None:
    watch = Watch("cohere_chat")

    watch.whole(json.dumps({"message": {"content": content}}).encode())
    watch.feed(event({"type": "m", "delta": {"message": {"content": content}}}))

    assert (watch.text, watch.thoughts(), watch.is_bad) == ("", "", False)


def test_of_a_provider_that_is_not_known_only_what_is_broken_is_seen() -> None:
    watch = Watch("")

    watch.feed(event({"anything": 1}))
    assert not watch.is_bad
    watch.feed(b"data: {nonsense\n")
    assert watch.spoiled


@pytest.fixture
def elsewhere(wire: WireServer) -> Iterator[str]:
    """The address of a server that sends everybody to another one."""
    there = f"{wire.base_url('docker')}/chat/completions"
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n"

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(moved.encode())

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["docker", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_redirect_is_not_followed_with_the_key(
    wire: WireServer, opened: Opened, elsewhere: str, way: str, stream: bool
) -> None:
    async with opened(way, base_url=elsewhere) as provider:
        with pytest.raises(ModelError, match="another address") as caught:
            await answered(provider, asking(), stream=stream)

    assert type(caught.value) is ModelRequestError
    assert not wire.requests
