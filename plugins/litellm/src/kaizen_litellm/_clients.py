"""The HTTP clients that litellm uses for one provider."""

from __future__ import annotations

import re
from collections.abc import Callable
from http.cookiejar import CookieJar
from typing import Any

import httpx

from kaizen_litellm._call import CALL, Call, Limits, Transport

__all__ = ["Clients", "SharedCache", "Unkeyed"]

_TIMEOUT = re.compile(r"\btimeout=(?:Timeout\([^)]*\)|[^,]*)")
_OTHERS_KEY = "litellm would send a key of OpenAI's to another provider"


class Unkeyed(Exception):
    """A request would go out with a key that belongs to somebody else."""


class _NoCookies(CookieJar):
    """Keeps none: what a provider sets is of no use, and is not to go to another."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Take no cookie."""


class Clients:
    """The clients of one provider: they share one pool, and end with it.

    Args:
        handler: litellm's client for providers that have no library of their own.
        others: Keys that litellm takes where it finds none.
    """

    def __init__(
        self, limits: Limits, handler: Callable[..., Any], others: frozenset[str]
    ) -> None:
        self._transport = Transport(limits)
        self._timeout = httpx.Timeout(limits.idle_s, connect=limits.connect_s)
        self._http = httpx.AsyncClient(
            transport=self._transport,
            timeout=self._timeout,
            cookies=_NoCookies(),
            follow_redirects=False,
            trust_env=False,
        )
        self.handler = handler(
            timeout=self._timeout, transport=self._transport, follow_redirects=False
        )
        self._sdk: dict[str, Any] = {}
        self._others = others

    def find(self, key: str) -> Any:
        """Return the client that litellm asks for, or `None`."""
        if key.startswith("async_httpx_client"):
            return self.handler
        return self._sdk.get(_TIMEOUT.sub("", key))

    def keep(self, key: str, client: Any, call: Call) -> None:
        """Keep a client that litellm made, with our connections instead of its own.

        Raises:
            Unkeyed: It is for a provider of which no key is known, and has one.
        """
        if not isinstance(getattr(client, "_client", None), httpx.AsyncClient):
            return
        if call.foreign and client.api_key in self._others - {call.own_key}:
            call.unkeyed = True
            raise Unkeyed(_OTHERS_KEY)
        client._client = self._http
        self._sdk[_TIMEOUT.sub("", key)] = client

    async def close(self) -> None:
        """Close all connections."""
        await self.handler.close()
        await self._http.aclose()
        self._sdk.clear()


class SharedCache:
    """Stands where litellm keeps its clients for the whole process.

    A call of ours finds there the clients of its provider, and puts them there; everybody
    else finds what there would be without us. So kernels share no connection, and what a
    kernel opened is closed with it.

    Args:
        inner: What stood there.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_cache(self, key: str, **options: Any) -> Any:
        """Return a client, or `None`."""
        call = CALL.get()
        found = None if call is None else call.clients.find(key)
        return self._inner.get_cache(key, **options) if found is None else found

    def set_cache(self, key: str, value: Any, **options: Any) -> Any:
        """Keep a client."""
        call = CALL.get()
        if call is None or key.startswith("httpx_client"):
            return self._inner.set_cache(key, value, **options)
        return call.clients.keep(key, value, call)
