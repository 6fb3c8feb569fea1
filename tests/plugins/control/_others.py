"""The other sides of the four transports, as the conformance tests need them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream
from kaizen import AnswerRefusedError, PendingRequest
from kaizen_control import HTTPTransport, MemoryTransport, RequestMessage
from kaizen_control._messages import as_json

from tests.plugins.control._client import Client
from tests.plugins.control._pipe import Pipe
from tests.plugins.control._terminal import Seat


class Heard:
    """What was heard so far, and how to wait for more."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self._news = anyio.Event()

    def tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()

    async def refused(self) -> str:
        await self.until(lambda: bool(self.reasons))
        return self.reasons.pop(0)

    def find(self, kind: str, **wanted: Any) -> dict[str, Any] | None:
        for each in self.messages:
            if each["type"] == kind and wanted.items() <= each.items():
                return each
        return None

    async def sees(self, request: PendingRequest) -> None:
        await self.until(lambda: self.find("request", id=request.id) is not None)
        assert self.find("request", id=request.id) == wire(request)

    async def closed(self, request: PendingRequest) -> None:
        await self.until(lambda: self.find("closed", id=request.id) is not None)

    async def progress(self, message: str) -> None:
        await self.until(lambda: self.find("progress", message=message) is not None)


def wire(request: PendingRequest) -> Any:
    return json.loads(as_json(RequestMessage.of(request)))


class MemorySide:
    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self._reasons: list[str] = []
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as self._tasks:
            yield
            self._tasks.cancel_scope.cancel()

    async def sees(self, request: PendingRequest) -> None:
        while request.id not in self.transport.open:
            await self.transport.changed()
        assert self.transport.open[request.id] == request

    async def answers(self, request: PendingRequest, **fields: Any) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._answer, request, fields)

    async def _answer(self, request: PendingRequest, fields: dict[str, Any]) -> None:
        try:
            await self.transport.answer(request, principal="me", **fields)
        except AnswerRefusedError as error:
            self._reasons.append(error.problem)

    async def refused(self) -> str:
        while not self._reasons:
            await anyio.lowlevel.checkpoint()
        return self._reasons.pop(0)

    async def closed(self, request: PendingRequest) -> None:
        while request.id in self.transport.open:
            await self.transport.changed()

    async def progress(self, message: str) -> None:
        while message not in [each.message for each in self.transport.progressed]:
            await self.transport.changed()

    async def sends_nonsense(self) -> None:
        raise NotImplementedError

    async def hangs_up(self) -> None:
        self.transport.hang_up()


class StdioSide(Heard):
    def __init__(self, to_us: Pipe, from_us: Pipe) -> None:
        super().__init__()
        self._to_us = to_us
        self._from_us = from_us

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            yield
            tasks.cancel_scope.cancel()

    async def _listen(self) -> None:
        lines = BufferedByteReceiveStream(self._from_us)  # type: ignore[arg-type]
        while True:
            message = json.loads(await lines.receive_until(b"\n", 2_000_000))
            if message["type"] == "refused":
                self.reasons.append(message["reason"])
            self.messages.append(message)
            self.tell()

    async def answers(self, request: PendingRequest, **fields: Any) -> None:
        digest = request.action_digest
        body = {"id": request.id, "action_digest": digest, "ref": "r1", **fields}
        await self._to_us.send(json.dumps(body).encode() + b"\n")

    async def sends_nonsense(self) -> None:
        await self._to_us.send(b"{nonsense\n")

    async def hangs_up(self) -> None:
        await self._to_us.aclose()


class HTTPSide(Heard):
    def __init__(self, transport: HTTPTransport) -> None:
        super().__init__()
        self._transport = transport
        self._tasks: TaskGroup | None = None

    @property
    def _client(self) -> Client:
        port = int(self._transport.url.rstrip("/").rpartition(":")[2])
        return Client(port, self._transport.token)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        self.messages.clear()
        async with anyio.create_task_group() as self._tasks:
            self._connected = anyio.Event()
            self._tasks.start_soon(self._listen)
            await self._connected.wait()
            yield
            self._tasks.cancel_scope.cancel()

    async def _listen(self) -> None:
        async with self._client.events() as events:
            async for event in events:
                self._connected.set()
                self.messages += event.data.get("requests", [event.data])
                self.tell()

    async def answers(self, request: PendingRequest, **fields: Any) -> None:
        assert self._tasks is not None
        if request.action_digest:
            fields["action_digest"] = request.action_digest
        self._tasks.start_soon(self._answer, request.id, fields)

    async def _answer(self, request_id: str, fields: dict[str, Any]) -> None:
        reply = await self._client.answer(request_id, **fields)
        if reply.status != 200:
            self.reasons.append(reply.json["reason"])
            self.tell()

    async def sends_nonsense(self) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._answer, "run:ask_1", {"nonsense": True})

    async def hangs_up(self) -> None:
        raise NotImplementedError


class CLISide:
    def __init__(self, terminal: Seat) -> None:
        self._terminal = terminal

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        yield

    async def sees(self, request: PendingRequest) -> None:
        await self._terminal.sees(request.text)
        if request.details:
            await self._terminal.sees('"pay"')
            await self._terminal.sees("5")
            await self._terminal.sees('"Zoë"')
        await self._terminal.sees(request.principal)
        await self._terminal.sees(request.id)
        await self._terminal.sees(": ")

    async def answers(self, request: PendingRequest, **fields: Any) -> None:
        words = "y " if fields.get("approved") else ""
        await self._terminal.types(f"{words}{fields['text']}\n")

    async def refused(self) -> str:
        await self._terminal.sees("Not taken: ")
        shown = await self._terminal.sees("\n")
        await self._terminal.sees(": ")
        return shown

    async def closed(self, request: PendingRequest) -> None:
        await self._terminal.sees("(This was withdrawn.)")

    async def progress(self, message: str) -> None:
        await self._terminal.sees(message)

    async def sends_nonsense(self) -> None:
        raise NotImplementedError

    async def hangs_up(self) -> None:
        self._terminal.hang_up()
