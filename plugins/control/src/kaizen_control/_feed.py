"""Events for many readers, each of which goes on where it was.

There is no queue for each reader: what was sent last is kept once, and a reader is a
position in it. One that falls behind what is kept, or comes from before a restart, is told
what is open now, so that it may have missed progress, but never a request.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from itertools import chain
from secrets import token_hex

import anyio

__all__ = ["Feed", "in_pieces"]

MAX_KEPT_BYTES = 16 * 1024 * 1024
PIECE_BYTES = 64 * 1024
_ID = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")


class Feed:
    """Server-sent events, and what to say to those who have missed some.

    Args:
        state: Returns what is open now, as the parts of the data of an event; told whether
            the reader has missed anything.
        kept: How many events are kept for readers that come back.
        ping_s: After how many seconds of silence a comment is sent.
    """

    def __init__(
        self,
        state: Callable[[bool], Iterable[bytes]],
        *,
        kept: int = 1_000,
        ping_s: float = 15.0,
    ) -> None:
        self._state = state
        self._kept = kept
        self._ping_s = ping_s
        self._epoch = token_hex(8)
        self._events: dict[int, bytes] = {}
        self._bytes = 0
        self._last = 0
        self._news = anyio.Event()
        self._closed = False
        self.readers = 0

    def publish(self, event: str, data: bytes) -> None:
        """Send an event to everybody, now and when they come back."""
        self._last += 1
        encoded = self._encode(event, data)
        self._events[self._last] = encoded
        self._bytes += len(encoded)
        while len(self._events) > self._kept or self._bytes > MAX_KEPT_BYTES:
            oldest = next(iter(self._events))
            self._bytes -= len(self._events.pop(oldest))
        news, self._news = self._news, anyio.Event()
        news.set()

    def close(self) -> None:
        """Let all readers end."""
        self._closed = True
        self._news.set()

    async def follow(self, last_event_id: str = "") -> AsyncGenerator[bytes]:
        """Give the events after one, and then those to come, in pieces to be sent.

        Args:
            last_event_id: The last one that the reader has, or `""`.
        """
        position = self._position(last_event_id)
        missed = bool(last_event_id)
        parts: Iterable[bytes]
        self.readers += 1
        try:
            while not self._closed:
                if position is None or position < self._last - len(self._events):
                    position, parts = self._last, self._snapshot(missed)
                    missed = True
                elif position < self._last:
                    position, parts = self._next(position)
                else:
                    parts = [] if await self._wait() else [b": ping\n\n"]
                for piece in in_pieces(parts):
                    yield piece
        finally:
            self.readers -= 1

    async def _wait(self) -> bool:
        """Wait for news; false if there were none for a while."""
        news = self._news
        with anyio.move_on_after(self._ping_s):
            await news.wait()
        return news.is_set()

    def _position(self, last_event_id: str) -> int | None:
        """Return the number of an event, if it is one of ours."""
        match = _ID.fullmatch(last_event_id)
        if match is None or match[1] != self._epoch:
            return None
        number = int(match[2])
        return number if number <= self._last else None

    def _next(self, position: int) -> tuple[int, Iterable[bytes]]:
        """Return the next events, as many as are sent at once."""
        parts, size = [], 0
        while position < self._last and size < PIECE_BYTES:
            position += 1
            parts.append(self._events[position])
            size += len(parts[-1])
        return position, parts

    def _snapshot(self, missed: bool) -> Iterable[bytes]:
        return chain([self._head("open")], self._state(missed), [b"\n\n"])

    def _encode(self, event: str, data: bytes) -> bytes:
        return b"%s%s\n\n" % (self._head(event), data)

    def _head(self, event: str) -> bytes:
        return f"id: {self._epoch}-{self._last}\nevent: {event}\ndata: ".encode()


def in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Give some bytes in pieces of a size at which one waits for the reader."""
    piece = bytearray()
    for part in parts:
        for start in range(0, len(part), PIECE_BYTES):
            piece += part[start : start + PIECE_BYTES]
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)
