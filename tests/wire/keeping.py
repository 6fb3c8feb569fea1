"""A server that closes a connection only where it is asked to, as many do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["keeping_connections"]

MODELS = b'{"data": [{"id": "one"}, {"id": "two"}]}'


@asynccontextmanager
async def keeping_connections() -> AsyncIterator[str]:
    """Serve a list of the models `one` and `two`, and give its address."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, _talk)
        yield f"http://127.0.0.1:{port}/v1/models"
        tasks.cancel_scope.cancel()


async def _talk(stream: SocketStream) -> None:
    async with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        size = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(MODELS)
        await stream.send(size + MODELS)
        if b"connection: close" not in head.lower():
            await anyio.sleep_forever()
