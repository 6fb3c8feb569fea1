"""The HTTP clients that litellm uses for one provider."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar
from typing import Any

import httpx

from kaizen_litellm._call import CALL, Call, Limits, Transport

__all__ = ["Clients", "SharedCache", "SharedClient", "Unkeyed"]

_HANDLERS = "async_httpx_client"
_TIMEOUT = re.compile(r"\btimeout=(?:Timeout\([^)]*\)|[^,]*)")
# How often a client of the `openai` library asks again, whatever it is told: on some routes
# litellm tells it to do so twice, although it is told not to.
_NONE = property(lambda client: 0, lambda client, value: None)
_OTHERS_KEY = "litellm would send a key of OpenAI's to another provider"


class Unkeyed(Exception):
    """A request would go out with a key that belongs to somebody else."""


class _OwnTransport(Transport):
    """Sends what is one provider's own: its headers, and no key of another one.

    litellm drops headers from uploads, and takes OpenAI's key for some of its routes where
    it finds no other.
    """

    def __init__(
        self, limits: Limits, others: frozenset[str], headers: Mapping[str, str]
    ) -> None:
        super().__init__(limits)
        self._others = others
        self._headers = headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = CALL.get()
        if call is not None and call.foreign and not call.own_key:
            sent = [str(request.url), *request.headers.values()]
            if any(key in line for key in self._others for line in sent):
                call.unkeyed = True
                raise Unkeyed(_OTHERS_KEY)
        for name, value in self._headers.items():
            request.headers.setdefault(name, value)
        return await super().handle_async_request(request)


class _NoCookies(CookieJar):
    """Keeps none: what a provider sets is of no use, and is not to go to another."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Take no cookie."""


class Clients:
    """The clients of one provider: they share one pool, and end with it.

    Args:
        handler: litellm's client for providers that have no library of their own.
        others: Keys that litellm takes where it finds none.
        headers: What the provider is sent with each request.
    """

    def __init__(
        self,
        limits: Limits,
        handler: Callable[..., Any],
        others: frozenset[str],
        headers: Mapping[str, str],
    ) -> None:
        self._transport = _OwnTransport(limits, others, headers)
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

    def find(self, key: str) -> Any:
        """Return the client that litellm asks for, or `None`."""
        if key.startswith(_HANDLERS):
            return self.handler
        return self._sdk.get(_TIMEOUT.sub("", key))

    def keep(self, key: str, client: Any) -> None:
        """Keep a client that litellm made, with our connections instead of its own."""
        if not isinstance(getattr(client, "_client", None), httpx.AsyncClient):
            return
        if not _is_openais(client):
            # The library takes both from the environment, whoever it is to ask.
            client.organization = client.project = None
        client._client = self._http
        kind = type(client)
        client.__class__ = type(kind.__name__, (kind,), {"max_retries": _NONE})
        self._sdk[_TIMEOUT.sub("", key)] = client

    async def close(self) -> None:
        """Close all connections."""
        await self.handler.close()
        await self._http.aclose()
        self._sdk.clear()


class SharedCache:
    """Stands where litellm keeps its clients for the whole process.

    A call of ours finds there the clients of its provider and no others, and puts them
    there. Everybody else finds what there would be without us; so does what litellm does
    beside a call, such as telling others of it. So kernels share no connection, and what a
    kernel opened is closed with it.

    Args:
        inner: What stood there.
        routes: litellm's names of all providers.
    """

    def __init__(self, inner: Any, routes: tuple[str, ...]) -> None:
        self._inner = inner
        self._routes = routes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_cache(self, key: str, **options: Any) -> Any:
        """Return a client, or `None`."""
        call = self._call(key)
        if call is None:
            return self._inner.get_cache(key, **options)
        return call.clients.find(key)

    def set_cache(self, key: str, value: Any, **options: Any) -> Any:
        """Keep a client."""
        call = self._call(key)
        if call is None:
            return self._inner.set_cache(key, value, **options)
        return call.clients.keep(key, value)

    def _call(self, key: str) -> Call | None:
        """Return the call of ours for which a client is, if it is for one."""
        if key.startswith(_HANDLERS) and not key.endswith(self._routes):
            return None
        return None if key.startswith("httpx_client") else CALL.get()


class SharedClient:
    """Stands where litellm keeps the client that some of its routes use without asking.

    A call of ours is sent by its provider's client, everything else by the one that stood
    there.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        call = CALL.get()
        return getattr(self._inner if call is None else call.clients.handler, name)


def _is_openais(client: Any) -> bool:
    """Whether a client of the `openai` library asks OpenAI itself."""
    host = httpx.URL(str(client.base_url)).host
    return host == "openai.com" or host.endswith(".openai.com")
