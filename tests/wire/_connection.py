"""One client's connection: reads requests, writes bytes exactly as they are meant."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["Connection", "Gone", "Head"]

RECEIVE = 64 * 1024


class Gone(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request as it came over the wire."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """Speaks HTTP/1.1 with one client.

    What is written reaches the wire at once and in pieces of its own, so that a test says
    where exactly it ends.
    """

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER)
        self._slow_s: float | None = None

    async def read(self) -> Head | None:
        """Return the next request, or `None` after the last one."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        elif self._http.our_state is not h11.IDLE:
            return None
        self._slow_s = None
        head, body = None, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._more()
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = {k.decode(): v.decode("latin-1") for k, v in head.headers}
                return Head(
                    head.method.decode(), head.target.decode(), headers, bytes(body)
                )
            else:
                return None

    async def _more(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._write(self._http.send(go_on))
        try:
            data = await self._stream.receive(RECEIVE)
        except anyio.EndOfStream:
            data = b""
        except anyio.BrokenResourceError as error:
            raise Gone from error
        self._http.receive_data(data)

    def slow_down(self, between_s: float) -> None:
        """Send the rest of this response byte by byte."""
        self._slow_s = between_s

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of a response; without a length it is chunked."""
        response = h11.Response(status_code=status, headers=list(headers.items()))
        await self._write(self._http.send(response))

    async def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        await self._write(self._http.send(h11.Data(data=data)))

    async def finish(self) -> None:
        """End the response."""
        await self._write(self._http.send(h11.EndOfMessage()))

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a response in one piece."""
        response = h11.Response(status_code=status, headers=list(headers.items()))
        parts = (response, h11.Data(data=body), h11.EndOfMessage())
        await self._write(b"".join(self._http.send(part) or b"" for part in parts))

    async def _write(self, data: bytes | None) -> None:
        if not data:
            return
        size = len(data) if self._slow_s is None else 1
        try:
            for start in range(0, len(data), size):
                await self._stream.send(data[start : start + size])
                if self._slow_s:
                    await anyio.sleep(self._slow_s)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise Gone from error

    async def until_gone(self) -> None:
        """Wait until the client gives up.

        Raises:
            Gone: It has.
        """
        while True:
            try:
                await self._stream.receive(RECEIVE)
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                raise Gone from error

    async def unless_gone(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait for something, but not longer than the client does.

        Raises:
            Gone: The client has closed the connection.
        """
        gone = False
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal gone
                with contextlib.suppress(Gone):
                    await self.until_gone()
                gone = True
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await wait()
            tasks.cancel_scope.cancel()
        if gone:
            raise Gone

    def reset(self) -> None:
        """Make the end of this connection an abrupt one: a reset instead of a farewell."""
        raw = self._stream.extra(SocketAttribute.raw_socket)
        linger = struct.pack("ii", 1, 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
