"""One call as it goes over the wire: what was sent, and what came back.

litellm asks each provider through a client of its own choice. All of them are given one
transport here, so that limits, errors and cancellation are the same whoever is asked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx

from kaizen_litellm._watch import Watch

if TYPE_CHECKING:
    from kaizen_litellm._clients import Clients

__all__ = ["CALL", "QUIET", "Call", "Limits", "Transport", "handing_over", "not_ours"]

DRAIN_S = 0.5
MAX_ERROR_BYTES = 64 * 1024
LARGE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take, and how large they may be.

    Attributes:
        reply_bytes: The most that one answer may be.
    """

    connect_s: float = 10
    idle_s: float = 300
    reply_bytes: int = 32 * 1024 * 1024
    connections: int = 1_000
    proxy: str = field(default="", repr=False)
    ca_file: Path | None = None


class Call:
    """What happens with one call.

    Attributes:
        clients: The clients of the provider that makes it.
        watch: Looks at the answer.
        stream: Whether it is asked to come piece by piece.
        deadline: When it has to be over.
        status: The HTTP status of the last answer; 0 before there is one.
        headers: Its headers.
        body: What it said, if it was a refusal.
        failure: What kept an answer from coming, or from coming whole.
        too_large: Whether more came than may.
        compressed: Whether what came is compressed, which nobody asked for.
        own_key: The key of its provider, or `""`.
        foreign: Whether litellm looks for a key by itself, and may take one of OpenAI's.
        unkeyed: Whether it did.
    """

    __slots__ = (
        "_bodies",
        "_handing",
        "_is_left",
        "_prepared",
        "body",
        "clients",
        "compressed",
        "deadline",
        "failure",
        "foreign",
        "headers",
        "own_key",
        "status",
        "stream",
        "too_large",
        "unkeyed",
        "watch",
    )

    def __init__(
        self,
        clients: Clients,
        watch: Watch,
        *,
        stream: bool = False,
        deadline: float = math.inf,
        own_key: str = "",
        foreign: bool = False,
    ) -> None:
        self.clients = clients
        self.watch = watch
        self.stream = stream
        self.deadline = deadline
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.failure: httpx.TransportError | None = None
        self.too_large = False
        self.compressed = False
        self.own_key = own_key
        self.foreign = foreign
        self.unkeyed = False
        self._bodies: list[_Body] = []
        self._handing = Lock()
        self._is_left = False
        self._prepared: list[Coroutine[Any, Any, Any]] = []

    @property
    def is_open(self) -> bool:
        """Whether something is still coming."""
        return any(not body.is_closed for body in self._bodies)

    @property
    def is_page(self) -> bool:
        """Whether what came is for a browser: no model has written it."""
        return self.headers.get("content-type", "").startswith("text/html")

    def hand_over(self, prepared: Coroutine[Any, Any, Any]) -> None:
        """Take what a thread has prepared, and is to be awaited."""
        with self._handing:
            if not self._is_left:
                self._prepared.append(prepared)
                return
        prepared.close()

    def leave(self) -> None:
        """Close what was prepared for a call that was cancelled meanwhile."""
        with self._handing:
            self._is_left = True
            prepared, self._prepared = self._prepared, []
        for each in prepared:
            if getcoroutinestate(each) == CORO_CREATED:
                each.close()

    def take(self, response: httpx.Response, limit: int) -> None:
        """Watch over an answer that is still coming."""
        body = _Body(_async(response.stream), self, limit)
        self._bodies.append(body)
        response.stream = body

    async def close(self) -> None:
        """Close what is still coming, whatever litellm does with it."""
        for body in self._bodies:
            await body.aclose()


CALL: ContextVar[Call | None] = ContextVar("kaizen_litellm_call", default=None)
"""The call that the current task makes through litellm, if it makes one."""


QUIET: ContextVar[bool] = ContextVar("kaizen_litellm_quiet", default=False)
"""Whether nothing is to be logged, while litellm is imported."""


def not_ours(record: logging.LogRecord) -> bool:
    """Keep out of a log what a library says of a call of ours: it quotes whole prompts."""
    return CALL.get() is None and not QUIET.get()


def handing_over(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of litellm that hands to a call of ours what it prepares for it.

    litellm prepares requests in a thread of asyncio's, for which others may be queueing,
    and gives back a coroutine. If a call is cancelled meanwhile, nobody gets that, and
    Python would complain that it was never awaited.
    """

    @wraps(prepare)
    def prepared(*given: Any, **options: Any) -> Any:
        made = prepare(*given, **options)
        call = CALL.get()
        if call is not None and iscoroutine(made):
            call.hand_over(made)
        return made

    return prepared


class Lost(httpx.NetworkError):
    """A connection that cannot be made, or broke off.

    litellm sends a request again where httpx says so by the types that it has for it. When
    and what to ask again is not decided here, and never unseen.
    """


class Transport(httpx.AsyncBaseTransport):
    """Sends requests: no redirects, no compression, bounded answers, nothing sent twice."""

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.reply_bytes
        idle = limits.idle_s
        self._waits = {
            "connect": limits.connect_s,
            "read": idle,
            "write": idle,
            "pool": idle,
        }
        verify: Any = True
        if limits.ca_file is not None:
            import ssl

            verify = ssl.create_default_context(cafile=str(limits.ca_file))
        self._inner = httpx.AsyncHTTPTransport(
            verify=verify,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=limits.connections, max_keepalive_connections=50
            ),
            proxy=limits.proxy or None,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = CALL.get()
        request.headers["accept-encoding"] = "identity"
        request.extensions["timeout"] = self._waits
        try:
            response = await self._inner.handle_async_request(request)
        except httpx.TransportError as error:
            raise _noted(error, call) from None
        if call is not None:
            call.status, call.headers = response.status_code, response.headers
            await self._look(response, call)
        return response

    async def _look(self, response: httpx.Response, call: Call) -> None:
        """Look at an answer that begins, and see to it that litellm gets what it may."""
        if not _is_plain(response.headers):  # and may grow without bounds
            await _async(response.stream).aclose()
            response.stream = httpx.ByteStream(b"")
            del response.headers["content-encoding"]
            if response.status_code < 300:
                call.compressed = True
                raise Lost("a compressed answer")
        elif response.status_code >= 300:
            call.body = await _start(response)
            response.stream = httpx.ByteStream(call.body)
        elif call.is_page:
            call.watch.spoiled = True
            await _async(response.stream).aclose()
            raise Lost("a page for a browser")
        elif _comes_whole(call):
            response.stream = httpx.ByteStream(await self._whole(response, call))
        else:
            call.take(response, self._limit)

    async def _whole(self, response: httpx.Response, call: Call) -> bytes:
        """Return an answer after it has come, and been looked at."""
        stream = _async(response.stream)
        parts, left = [], self._limit
        try:
            async for chunk in stream:
                parts.append(chunk)
                left -= len(chunk)
                if left < 0:
                    call.too_large = True
                    raise Lost("more came than may")
        except httpx.TransportError as error:
            raise _noted(error, call) from None
        finally:
            await stream.aclose()
        body = b"".join(parts)
        if len(body) > LARGE:
            await anyio.to_thread.run_sync(call.watch.whole, body)
        else:
            call.watch.whole(body)
        if call.watch.is_bad:
            raise Lost("no answer")
        return body

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Body(httpx.AsyncByteStream):
    """An answer while it comes."""

    def __init__(self, stream: httpx.AsyncByteStream, call: Call, limit: int) -> None:
        self._stream = stream
        self._call = call
        self._left = limit
        self._coming: AsyncIterator[bytes] | None = None
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        call = self._call
        watch = call.watch if call.stream and _is_text(call.headers) else None
        self._coming = aiter(self._stream)
        try:
            async for chunk in self._coming:
                self._left -= len(chunk)
                if self._left < 0:
                    call.too_large = True
                    raise Lost("more came than may")
                good = len(chunk) if watch is None else watch.feed(chunk)
                if good == len(chunk):
                    yield chunk
                    continue
                yield chunk[:good]
                raise Lost("no answer")
        except httpx.TransportError as error:
            raise _noted(error, call) from None
        if watch is not None:
            watch.end()
            if watch.is_bad:
                raise Lost("no answer")

    async def aclose(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self._call.watch.reason and self._coming is not None:
            # The model has ended: the connection can be used again once all has come.
            with anyio.move_on_after(DRAIN_S), suppress(httpx.TransportError):
                async for _ in self._coming:
                    pass
        await self._stream.aclose()


def _noted(error: httpx.TransportError, call: Call | None) -> httpx.TransportError:
    """Write down why there is no answer, and return what litellm is to see of it."""
    if call is not None and call.failure is None and not isinstance(error, Lost):
        call.failure = error
    if isinstance(error, httpx.TimeoutException | Lost):
        return error
    return Lost(type(error).__name__)


def _async(stream: object) -> httpx.AsyncByteStream:
    assert isinstance(stream, httpx.AsyncByteStream)
    return stream


def _is_text(headers: Mapping[str, str]) -> bool:
    """Whether an answer has a line for each event."""
    kind = headers.get("content-type", "").partition(";")[0]
    return kind.startswith("text/") or "json" in kind


def _is_plain(headers: Mapping[str, str]) -> bool:
    """Whether an answer is as it was asked for: not compressed."""
    return headers.get("content-encoding", "").strip().lower() in ("", "identity")


def _comes_whole(call: Call) -> bool:
    """Whether an answer is waited for, and looked at, before litellm gets any of it."""
    if call.stream:
        return call.watch.knows and _is_json(call.headers)
    return call.watch.knows or _is_json(call.headers)


def _is_json(headers: Mapping[str, str]) -> bool:
    """Whether an answer is one object, as from a model that does not stream."""
    return headers.get("content-type", "").partition(";")[0] == "application/json"


async def _start(response: httpx.Response) -> bytes:
    """Return the start of what a refusal says; that it breaks off makes it no other."""
    stream = _async(response.stream)
    said = b""
    try:
        async for chunk in stream:
            said += chunk
            if len(said) > MAX_ERROR_BYTES:
                break
    except httpx.TransportError:
        pass
    finally:
        await stream.aclose()
    return said[:MAX_ERROR_BYTES]
