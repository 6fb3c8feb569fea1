"""Joins the endpoints to the kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from kaizen import Kernel, Provider, Registry, hookimpl
from kaizen.errors import UnknownNameError

from kaizen_direct._endpoints import ADDRESS_VARIABLES, Endpoint, endpoints
from kaizen_direct._http import Limits
from kaizen_direct._keys import Keys
from kaizen_direct._probe import answers
from kaizen_direct._provider import DirectProvider
from kaizen_direct._settings import DirectSettings

__all__ = ["DirectPlugin"]


class DirectPlugin:
    """OpenAI-compatible and Anthropic models for Kaizen agents, small and fast."""

    Settings = DirectSettings

    def __init__(self, settings: DirectSettings) -> None:
        self._settings = settings
        self._keys = Keys({})

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Look for keys where this kernel looks for its settings."""
        self._keys = Keys(
            kernel.environ,
            Path.cwd() if self._settings.dotenv else None,
            addresses=ADDRESS_VARIABLES,
        )
        yield

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        wanted = self._settings.offers
        known = {
            each.name: each for each in endpoints(self._settings.endpoints, self._keys)
        }
        for name in known if wanted is None else wanted:
            if name not in known:
                raise UnknownNameError("endpoint", name, known)
            registry.add(
                Provider,
                name,
                partial(self._open, known[name]),
                description=known[name].description,
                available=self._available(known[name]),
                preference=known[name].preference,
            )

    def _open(self, endpoint: Endpoint) -> DirectProvider:
        settings = self._settings
        limits = Limits(
            connect_s=settings.connect_timeout_s,
            idle_s=settings.idle_timeout_s,
            whole_s=settings.timeout_s,
            reply_bytes=settings.max_reply_mb * 1024 * 1024,
            connections=settings.max_connections,
            embed_batch=settings.embed_batch,
            proxy=settings.proxy.get_secret_value() if settings.proxy else "",
            ca_file=settings.ca_file,
        )
        return DirectProvider(
            endpoint, keys=self._keys, limits=limits, prices=settings.prices
        )

    def _available(self, endpoint: Endpoint) -> Callable[[], bool | Awaitable[bool]]:
        if endpoint.probe:
            return partial(answers, f"{endpoint.base_url}{endpoint.probe}")
        return partial(self._has_key, endpoint)

    def _has_key(self, endpoint: Endpoint) -> bool:
        if not endpoint.base_url:
            return False
        if endpoint.key is not None or not endpoint.needs_key:
            return True
        return bool(self._keys.find(endpoint.key_variables))
