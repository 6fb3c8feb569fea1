"""A server that answers with the bytes of a test, for what no provider should say."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

from kaizen import Provider

from .conftest import kernel_for

Reply = bytes | Callable[[bytes], bytes]


class RawServer:
    """Answers every request in the same way.

    Args:
        reply: What it answers, or a function that gives it for the bytes of a request. An
            answer without a length ends with its connection.

    Attributes:
        requests: Head and body of each request.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.requests: list[bytes] = []
        self._server = ThreadingTCPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: bytes) -> bytes:
        """Return what is answered to a request."""
        self.requests.append(request)
        return self.reply if isinstance(self.reply, bytes) else self.reply(request)

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(owner: RawServer) -> type[StreamRequestHandler]:
    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            try:
                while request := self._request():
                    answer = owner.answer(request)
                    self.wfile.write(answer)
                    if b"content-length:" not in answer.partition(b"\r\n\r\n")[0]:
                        return
            except OSError:
                pass  # the other end has gone

        def _request(self) -> bytes:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = self.rfile.readline()
                if not line:
                    return b""
                head += line
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            return head + self.rfile.read(length)

    return Handler


def http(
    body: Any, kind: str = "application/json", *, status: str = "200 OK", **headers: str
) -> bytes:
    """Return an answer with a body, which is JSON if it is no bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def events(*each: Any, cut: bool = False) -> bytes:
    """Return a stream of events.

    Args:
        cut: It breaks off in the middle of the line behind the last one's.
    """
    data = b"".join(
        b"data: " + (one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n\n"
        for one in each
    )
    kind = "text/event-stream"
    if not cut:
        return http(data, kind)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    return head.encode() + f"{len(data):x}\r\n".encode() + data + b"\r\n"


def is_stream(request: bytes) -> bool:
    """Whether a request asks for a stream."""
    plain = request.replace(b" ", b"")
    return b'"stream":true' in plain or b"streamGenerateContent" in request


def both(whole: bytes, stream: bytes) -> Callable[[bytes], bytes]:
    """Return one answer in its two forms."""
    return lambda request: stream if is_stream(request) else whole


def completion(text: str | None = "hi", reason: str = "stop", **fields: Any) -> Any:
    """Return a `chat.completion`; a field that is `None` is left out."""
    message = {"role": "assistant", "content": text, **fields.pop("message", {})}
    made = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        **fields,
    }
    return {name: value for name, value in made.items() if value is not None}


def chunk(
    delta: Mapping[str, Any] | None = None,
    reason: str | None = None,
    *,
    index: int = 0,
    **fields: Any,
) -> Any:
    """Return a `chat.completion.chunk`; a field that is `None` is left out."""
    made = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "choices": [{"index": index, "delta": delta or {}, "finish_reason": reason}],
        **fields,
    }
    return {name: value for name, value in made.items() if value is not None}


def gemini(*parts: Any, reason: str | None = None, **fields: Any) -> Any:
    """Return an answer of Gemini's, which is the same in a stream."""
    candidate: dict[str, Any] = {"index": 0}
    if parts:
        candidate["content"] = {"role": "model", "parts": list(parts)}
    if reason:
        candidate["finishReason"] = reason
    return {
        "candidates": [candidate],
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
        **fields,
    }


def claude(*blocks: Mapping[str, Any]) -> list[Any]:
    """Return the events of an answer of Anthropic's, with these in its middle."""
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    return [
        {"type": "message_start", "message": message},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        *({"type": "content_block_delta", "index": 0, **each} for each in blocks),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]


MODELS = {
    "openai": ("OPENAI_API_KEY", "gpt-4o"),
    "anthropic": ("ANTHROPIC_API_KEY", "claude-haiku-4-5"),
    "google": ("GOOGLE_API_KEY", "gemini-2.5-flash"),
    "cohere": ("COHERE_API_KEY", "command-a-03-2025"),
}


@asynccontextmanager
async def asked_at(
    server: RawServer,
    name: str = "openai",
    *,
    key: str = "a-key",
    settings: Mapping[str, Any] | None = None,
    **changes: Any,
) -> AsyncGenerator[Provider]:
    """Open a provider that asks this server, or a route of litellm."""
    is_route = name not in MODELS
    variable, model = MODELS.get(name, (f"{name.upper()}_API_KEY", ""))
    given = {"base_url": server.url, **({} if is_route else {"model": model}), **changes}
    async with kernel_for(
        {"providers": {name: given}, **(settings or {})}, {variable: key}
    ) as kernel:
        yield await kernel.get(Provider, "litellm" if is_route else name)  # type: ignore[type-abstract]
