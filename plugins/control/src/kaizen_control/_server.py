"""The server that an HTTP transport starts by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from kaizen_control._company import company
from kaizen_control._guard import ABORT, KNOWN

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["serving"]

REQUEST_TIMEOUT_S = 20.0
GRACE_S = 2
SPARE_CONNECTIONS = 100
MAX_STRANGERS = 256
STRANGER_S = 2.0


class _Strangers:
    """The connections of which no request was let in yet, oldest first.

    When there are many, the oldest are ended, so that the owner always finds a place. Many
    clients may come at once; a moment later each has said who it is.

    Args:
        most: How many there may be even for a moment.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._since: dict[_Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: _Connection) -> None:
        """Keep an eye on a connection."""
        self._since.pop(connection, None)
        self._since[connection] = connection.loop.time()
        while len(self._since) > self.most:
            self._end(next(iter(self._since)))
        if len(self._since) > MAX_STRANGERS and self._timer is None:
            self._timer = connection.loop.call_later(STRANGER_S, self._trim)

    def discard(self, connection: _Connection) -> None:
        """Forget a connection, which is known now, or gone."""
        self._since.pop(connection, None)

    def close(self) -> None:
        """Forget all of them."""
        self._since.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _trim(self) -> None:
        """End the oldest that have sent no request for a while, until few are left."""
        self._timer = None
        for connection, since in tuple(self._since.items()):
            if len(self._since) <= MAX_STRANGERS:
                return
            loop = connection.loop
            if since + STRANGER_S > loop.time():
                break
            if connection.idle:
                self._end(connection)
        if len(self._since) > MAX_STRANGERS:
            self._timer = loop.call_later(STRANGER_S, self._trim)

    def _end(self, connection: _Connection) -> None:
        self.discard(connection)
        connection.transport.abort()


class _Connection(H11Protocol):
    """Ends what is long without a whole request, and lets an app end what does not read."""

    def __init__(self, *args: Any, strangers: _Strangers, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._strangers = strangers
        self._impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        known = partial(self._strangers.discard, self)
        self.app_state = {**self.app_state, ABORT: transport.abort, KNOWN: known}
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._strangers.discard(self)
        if self._impatience is not None:
            self._impatience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._await_request()
        super().on_response_complete()

    def _await_request(self) -> None:
        """Be a stranger's until a request says otherwise; wait for one, but not long."""
        if self.transport.is_closing():
            return
        self._strangers.add(self)
        if self._impatience is not None:
            self._impatience.cancel()
        self._impatience = self.loop.call_later(REQUEST_TIMEOUT_S, self._lose_patience)

    @property
    def idle(self) -> bool:
        """Whether no whole head of a request waits for a response."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _lose_patience(self) -> None:
        if self.idle:
            self.transport.abort()


class _Server(uvicorn.Server):
    """Leaves signals to the program that it is part of."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, *, max_clients: int, before_end: Any
) -> AsyncGenerator[None]:
    """Serve an app on a socket that listens; then close it and every connection.

    Args:
        before_end: Is called first at the end, and lets endless responses end.
    """
    strangers = _Strangers(max(max_clients, MAX_STRANGERS))
    server = _Server(_config(app, max_clients, strangers))
    ended = anyio.Event()

    async def serve() -> None:
        with anyio.CancelScope(shield=True):
            try:
                await server.serve(sockets=[listener])
            finally:
                ended.set()

    async with company() as tasks:
        tasks.start_soon(serve)
        try:
            await server.ready.wait()
            yield
        finally:
            before_end()
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await ended.wait()
            for connection in tuple(server.server_state.connections):
                connection.transport.abort()
            strangers.close()


def _config(app: ASGIApp, max_clients: int, strangers: _Strangers) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(_Connection, strangers=strangers),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=max_clients + strangers.most + SPARE_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE_S,
        backlog=2_048,
    )
