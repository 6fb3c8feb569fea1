"""A thousand clients read the events of one server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from kaizen_control import HTTPTransport, ProgressMessage

CLIENTS = 1_000
EVENTS = 50
PROGRAM = Path(__file__).with_name("many_clients.py")
TOKEN = "t" * 40


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_thousand_clients_lose_and_double_nothing_wherever_they_are_cut_off() -> (
    None
):
    transport = HTTPTransport(token=TOKEN)
    async with transport.opened():
        port = transport.url.rstrip("/").rpartition(":")[2]
        arguments = [str(PROGRAM), port, TOKEN, str(CLIENTS), str(EVENTS)]
        async with await anyio.open_process(
            [sys.executable, *arguments], stderr=subprocess.PIPE
        ) as process:
            assert process.stdout
            lines = BufferedByteReceiveStream(process.stdout)
            with anyio.fail_after(45):
                assert await lines.receive_until(b"\n", 100) == b"ready"
                assert transport.readers >= CLIENTS - CLIENTS // EVENTS
                for number in range(EVENTS):
                    text = "end" if number == EVENTS - 1 else f"step {number}"
                    await transport.send(ProgressMessage(message=text))
                    for _ in range(50):
                        await anyio.lowlevel.checkpoint()
                found = json.loads(await lines.receive_until(b"\n", 10_000_000))

    assert found == [[list(range(EVENTS + 1)), CLIENTS]]
