"""What is sent to a server."""

from __future__ import annotations

import httpx

__all__ = ["Body"]


class Body(httpx.AsyncByteStream):
    """The body of a request, in one piece.

    The one that httpx makes is a generator, which a request that is cancelled while it is
    sent leaves unfinished; trio warns of those.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._is_sent = False

    def __aiter__(self) -> Body:
        """Give it from the start."""
        self._is_sent = False
        return self

    async def __anext__(self) -> bytes:
        """Give all of it, once."""
        if self._is_sent:
            raise StopAsyncIteration
        self._is_sent = True
        return self._content
