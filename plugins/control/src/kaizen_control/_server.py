"""The server that an HTTP transport starts by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from kaizen_control._company import company

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["ABORT", "serving"]

ABORT = "kaizen_control.abort"
REQUEST_TIMEOUT_S = 20.0
GRACE_S = 2
SPARE_CONNECTIONS = 100


class _Connection(H11Protocol):
    """Ends what sends no request, and lets an app end what reads no answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self._impatience = self.loop.call_later(REQUEST_TIMEOUT_S, self._lose_patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self._impatience.cancel()
        super().connection_lost(exc)

    def _lose_patience(self) -> None:
        if self.cycle is None:
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
    server = _Server(_config(app, max_clients))
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


def _config(app: ASGIApp, max_clients: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=max_clients + SPARE_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE_S,
        backlog=2_048,
    )
