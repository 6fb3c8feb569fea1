"""Joins litellm to the kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from kaizen import Kernel, Provider, Registry, hookimpl
from kaizen.errors import UnknownNameError

from kaizen_litellm._keys import Keys
from kaizen_litellm._names import ROUTES
from kaizen_litellm._probe import answers
from kaizen_litellm._provider import LitellmProvider
from kaizen_litellm._routes import RoutesProvider
from kaizen_litellm._settings import LitellmSettings
from kaizen_litellm._shop import Shop
from kaizen_litellm._targets import ADDRESS_VARIABLES, PRESETS, Target

__all__ = ["LitellmPlugin"]

OTHERS = "litellm"


class LitellmPlugin:
    """Every model that litellm reaches, for Kaizen agents."""

    Settings = LitellmSettings

    def __init__(self, settings: LitellmSettings) -> None:
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
        shop = Shop(self._settings, self._keys)
        preferred = set(self._settings.prefer)
        if unknown := sorted(preferred - PRESETS.keys()):
            raise UnknownNameError("provider", unknown[0], PRESETS)
        for name in PRESETS:
            known = shop.target(name)
            registry.add(
                Provider,
                name,
                partial(LitellmProvider, known, shop),
                description=known.description,
                rank=1 if name in preferred else -1,
                available=self._available(known),
                preference=known.preference,
            )
        registry.add(
            Provider,
            OTHERS,
            partial(RoutesProvider, OTHERS, shop),
            description="Any other model that litellm reaches, as `provider/model`.",
            routes=ROUTES.union(self._settings.providers) - PRESETS.keys(),
        )

    def _available(self, known: Target) -> Callable[[], bool | Awaitable[bool]]:
        if known.lists:
            return partial(answers, known.list_url)
        return partial(self._has_key, known)

    def _has_key(self, known: Target) -> bool:
        if not known.base_url:
            return False
        return known.key is not None or bool(self._keys.find(known.key_variables))
