"""One HTTP/1.1 exchange over httpcore. Importing this takes a while: do it when needed."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import httpcore
from kaizen.errors import ToolError

from kaizen_tools._urls import Target

__all__ = ["exchange"]

Received: TypeAlias = tuple[int, list[tuple[bytes, bytes]], AsyncIterator[bytes]]
"""Status, headers, and the pieces of the body."""

_CONNECT_S = 10.0


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, whatever the host is called."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers."""
        *others, last = self._addresses
        for address in others:
            try:
                return await self._connect(address, port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._connect(last, port, timeout)

    async def _connect(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        return await self._backend.connect_tcp(address, port, timeout=timeout)


@asynccontextmanager
async def exchange(
    target: Target,
    *,
    method: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    addresses: Sequence[str],
    tls: ssl.SSLContext | None,
) -> AsyncIterator[Received]:
    """Send a request and give what comes back, for the time of an `async with` block.

    Raises:
        ToolError: The server cannot be reached, or does not speak HTTP.
    """
    url = httpcore.URL(
        scheme=target.scheme.encode(),
        host=target.host.encode(),
        port=target.port,
        target=target.path.encode(),
    )
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    try:
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=tls, max_connections=1, network_backend=PinnedBackend(addresses)
            ) as pool,
            pool.stream(
                method,
                url,
                headers=encoded,
                content=body or None,
                extensions={"timeout": {"connect": _CONNECT_S}},
            ) as response,
        ):
            yield response.status, response.headers, response.aiter_stream()
    except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
        raise _failed(target, "could not be reached", error) from error
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise _failed(target, "does not answer as HTTP demands", error) from error


def _failed(target: Target, problem: str, error: Exception) -> ToolError:
    reason = str(error) or type(error).__name__
    return ToolError(
        f"the server {target.authority!r}",
        f"{problem}: {reason[:300]}",
        "Try again later, or another URL.",
    )
