"""A pipe within one process."""

from __future__ import annotations

import anyio


class Pipe:
    """Bytes in one direction, at most some at a time."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[bytes](10_000)
        self.limit: int | None = None

    async def send(self, data: bytes) -> None:
        step = self.limit or len(data)
        for start in range(0, len(data), step):
            await self._send.send(data[start : start + step])

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self._receive.receive()

    async def send_eof(self) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._send.close()

    def break_(self) -> None:
        self._receive.close()

    def close(self) -> None:
        self._send.close()
        self._receive.close()
