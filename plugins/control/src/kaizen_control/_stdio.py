"""A transport of JSON lines, by default over the process's own stdin and stdout."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kaizen_control._company import company
from kaizen_control._descriptors import can_wait, read_some, write_all
from kaizen_control._messages import (
    MAX_ANSWER_BYTES,
    MalformedError,
    Outgoing,
    Received,
    RefusedMessage,
    as_json,
    read_answer,
)
from kaizen_control._transport import TransportClosedError

__all__ = ["StdioTransport"]

MAX_QUEUED = 100
_GONE = "the other side has closed the line"
_FAILURES = (OSError, ValueError, anyio.ClosedResourceError, anyio.BrokenResourceError)


class StdioTransport:
    """Writes messages as JSON lines, and reads answers as JSON lines.

    A line that is no answer is answered with a line of type `refused`. Whoever starts this
    process is the other side, so nobody else may write to its stdout: print elsewhere.

    Args:
        source: Where answers are read; by default the process's stdin.
        sink: Where messages are written; by default the process's stdout.
        principal: Who the other side is, for the log.
    """

    detached = False

    def __init__(
        self,
        source: ByteReceiveStream | None = None,
        sink: ByteSendStream | None = None,
        *,
        principal: str = "stdio",
    ) -> None:
        self._source = source
        self._sink = sink
        self._principal = principal
        self._read = bytearray()
        self._too_long = False
        self._lines: MemoryObjectSendStream[bytes] | None = None
        self._broken = anyio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Be open. What was sent before the end is still written, if it can be."""
        source = self._source or _Descriptor(sys.stdin.fileno())
        sink = self._sink or _Descriptor(sys.stdout.fileno())
        lines, written = anyio.create_memory_object_stream[bytes](MAX_QUEUED)
        self._broken = anyio.Event()
        self._read.clear()
        self._too_long = False
        async with company() as tasks, lines, written:
            self._lines, self._from = lines, source
            done = anyio.Event()
            tasks.start_soon(self._write, written, sink, done)
            try:
                yield
            finally:
                self._lines = None
                lines.close()
                with anyio.move_on_after(1.0, shield=True):
                    await done.wait()

    async def send(self, message: Outgoing) -> None:
        """Write a message; it returns when the line is next to be written."""
        if self._lines is None or self._broken.is_set():
            raise TransportClosedError(_GONE)
        try:
            await self._lines.send(as_json(message) + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise TransportClosedError(_GONE) from None

    async def receive(self) -> Received:
        """Wait for a line that is an answer."""
        while True:
            line = await self._line()
            if line.strip():
                try:
                    return Received(answer=read_answer(line), principal=self._principal)
                except MalformedError as error:
                    await self._refuse(str(error))

    async def _refuse(self, reason: str) -> None:
        await self.send(RefusedMessage(problem="malformed", reason=reason))

    async def _line(self) -> bytes:
        """Return the next line that is not too long; the rest of one is passed over."""
        while True:
            end = self._read.find(b"\n")
            if end >= 0:
                line = bytes(self._read[:end])
                del self._read[: end + 1]
                if self._too_long:
                    self._too_long = False
                    continue
                return line
            if len(self._read) > MAX_ANSWER_BYTES:
                self._read.clear()
                if not self._too_long:
                    self._too_long = True
                    await self._refuse(f"a line is longer than {MAX_ANSWER_BYTES} bytes")
            more = await self._more()
            if not more and self._read and not self._too_long:
                more = b"\n"  # the last line may lack its end
            if not more:
                raise TransportClosedError(_GONE)
            self._read += more

    async def _more(self) -> bytes:
        """Return the next bytes, or none at the end."""
        try:
            return await self._from.receive()
        except anyio.EndOfStream:
            return b""
        except _FAILURES as error:
            raise TransportClosedError(f"{_GONE}: {type(error).__name__}") from None

    async def _write(
        self,
        lines: MemoryObjectReceiveStream[bytes],
        sink: ByteSendStream | _Descriptor,
        done: anyio.Event,
    ) -> None:
        """Write line by line, so that whoever gives up leaves no half of one."""
        try:
            async for line in lines:
                await sink.send(line)
        except _FAILURES:
            self._broken.set()
            lines.close()
        finally:
            done.set()


class _Descriptor:
    """A file descriptor as a stream of bytes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._wait = can_wait(fd)

    async def receive(self) -> bytes:
        found = await read_some(self._fd, wait=self._wait)
        if not found:
            raise anyio.EndOfStream
        return found

    async def send(self, data: bytes) -> None:
        await write_all(self._fd, data, wait=self._wait)
