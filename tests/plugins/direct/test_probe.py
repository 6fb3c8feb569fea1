"""Servers on this machine are found, whatever they do with connections."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from kaizen_direct._probe import answers

pytestmark = pytest.mark.anyio

MODELS = b'{"data": [{"id": "one"}]}'


async def talk(stream: SocketStream) -> None:
    """Close the connection only if that is asked for, as many servers do."""
    async with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        size = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(MODELS)
        await stream.send(size + MODELS)
        if b"connection: close" not in head.lower():
            await anyio.sleep_forever()


async def test_a_server_that_keeps_connections_is_asked_to_close_this_one() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/v1/models"

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        found = await answers(url)
        tasks.cancel_scope.cancel()

    assert found


@pytest.mark.parametrize("host", ["a" * 64, "a..b", f"{'a' * 64}.example"])
async def test_a_host_that_can_be_none_is_not_there(host: str) -> None:
    assert not await answers(f"http://{host}:1/v1/models")
