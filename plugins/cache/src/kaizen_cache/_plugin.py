"""Joins the cache to the kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic, time
from typing import ClassVar

from anyio import create_task_group
from kaizen.hooks import hookimpl
from kaizen.kernel import Kernel
from kaizen.registry import Registry

from kaizen_cache._asking import Arrivals
from kaizen_cache._cache import ModelCache
from kaizen_cache._memory import MemoryCacheStore
from kaizen_cache._settings import CacheSettings
from kaizen_cache._store import CacheStore

__all__ = ["CachePlugin"]

FIRST, LAST = -1, 1_000_000


class CachePlugin:
    """Answers model calls whose like was made before.

    It stands behind every plugin of priority `NORMAL`: what they add to a request, such as
    what is remembered, is in the key, and what they forbid stays forbidden. And it stands
    before an agent's own hooks and before `LOW` and `LOWEST`: a hit waits for no limiter
    and reserves no money. There is no priority between these, so the middleware is
    registered by its rank.

    Attributes:
        cache: What the hooks are done by.
    """

    Settings = CacheSettings
    serves: ClassVar[tuple[str, ...]] = ("cache_backend", "cache_enabled")

    def __init__(
        self,
        settings: CacheSettings,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
    ) -> None:
        self.cache = ModelCache(settings, now=now, clock=clock)
        self._settings = settings
        self._clock = clock

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Take two places among the middleware of each model call."""
        tasks = await create_task_group().__aenter__()
        self.cache.bind(kernel, tasks)
        names = (
            kernel.hooks.add(self.cache, name="cache:answers", rank=LAST),
            kernel.hooks.add(Arrivals(), name="cache:arrivals", rank=FIRST),
        )
        try:
            yield
        finally:
            for name in names:
                kernel.hooks.remove(name)
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)  # what passes by stays what it is

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            CacheStore,
            "memory",
            self._open_memory,
            description="Replies in memory: for one process, and forgotten with it.",
        )
        registry.add(
            ModelCache,
            "default",
            self.cache,
            description="The cache of this kernel: what it did, and how to clear it.",
        )

    def _open_memory(self) -> MemoryCacheStore:
        settings = self._settings
        return MemoryCacheStore(
            max_entries=settings.max_entries,
            max_bytes=settings.max_bytes,
            clock=self._clock,
        )
