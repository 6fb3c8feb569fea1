"""An HTTP client that sends whatever a test wants to see refused."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import anyio
from anyio.abc import SocketStream

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Event:
    """One server-sent event."""

    id: str = ""
    name: str = ""
    data: Any = None


@dataclass(slots=True)
class Client:
    """Knows a server, and the token that it wants."""

    port: int
    token: str | None = None
    host: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def head(
        self, method: str, path: str, headers: Mapping[str, str | None] | None = None
    ) -> bytes:
        """Return the start of a request; a header that is `None` is left out."""
        all_headers: dict[str, str | None] = {"host": self.host or f"127.0.0.1:{self.port}"}
        if self.token is not None:
            all_headers["authorization"] = f"Bearer {self.token}"
        all_headers |= {**self.headers, **(headers or {})}
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [
            f"{name}: {value}" for name, value in all_headers.items() if value is not None
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str | None] | None = None,
    ) -> Reply:
        """Send one request over a connection of its own."""
        about: dict[str, str | None] = {"connection": "close"}
        if body:
            about |= {
                "content-type": "application/json",
                "content-length": str(len(body)),
            }
        return await self.raw(self.head(method, path, {**about, **(headers or {})}) + body)

    async def raw(self, data: bytes) -> Reply:
        """Send bytes, and read what comes back."""
        with anyio.fail_after(DEADLINE_S):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                await stream.send(data)
                return await read_reply(stream)

    async def get(self, path: str, **headers: str | None) -> Reply:
        return await self.send("GET", path, headers=named(headers))

    async def answer(self, request_id: str, /, **fields: Any) -> Reply:
        """Answer a request."""
        path = f"/requests/{quote(request_id, safe='')}/answer"
        return await self.send("POST", path, json.dumps(fields).encode())

    @asynccontextmanager
    async def events(self, last_event_id: str = "") -> AsyncGenerator[AsyncIterator[Event]]:
        """Read events."""
        headers = {"last-event-id": last_event_id} if last_event_id else {}
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            await stream.send(self.head("GET", "/events", headers))
            yield Events(stream)


class Events(AsyncIterator[Event]):
    """The events of a response, as they come."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._rest = b""
        self._begun = False

    async def __anext__(self) -> Event:
        with anyio.fail_after(DEADLINE_S):
            while True:
                block, found, rest = self._rest.partition(b"\n\n")
                if found:
                    self._rest = rest
                    event = parsed(block)
                    if event.name:
                        return event
                    continue
                try:
                    await self._more()
                except anyio.EndOfStream:
                    raise StopAsyncIteration from None

    async def _more(self) -> None:
        """Read more of the body, whose pieces are chunks."""
        if not self._begun:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await self._stream.receive()
            assert b" 200 " in head, head
            head, _, self._raw = head.partition(b"\r\n\r\n")
            self._begun = True
        while True:
            size, found, after = self._raw.partition(b"\r\n")
            if found and len(after) >= int(size, 16) + 2:
                length = int(size, 16)
                self._rest += after[:length]
                self._raw = after[length + 2 :]
                if not length:
                    raise anyio.EndOfStream
                return
            self._raw += await self._stream.receive()


def parsed(block: bytes) -> Event:
    event = Event()
    for line in block.decode().split("\n"):
        name, _, value = line.partition(": ")
        if name == "id":
            event.id = value
        elif name == "event":
            event.name = value
        elif name == "data":
            event.data = json.loads(value)
    return event


async def read_reply(stream: SocketStream) -> Reply:
    """Read one response to its end."""
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        pass
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = unchunked(body)
    return Reply(status=int(first.split(" ")[1]), headers=headers, body=body)


def unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        whole, body = whole + rest[:length], rest[length + 2 :]
    return whole


def named(headers: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
