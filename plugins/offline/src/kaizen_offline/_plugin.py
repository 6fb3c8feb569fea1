"""Joins the two models to the kernel."""

from __future__ import annotations

from kaizen import PluginSettings, Provider, Registry, hookimpl
from pydantic import Field

from kaizen_offline._mock import MockProvider
from kaizen_offline._offline import OfflineProvider


class OfflineSettings(PluginSettings):
    """What a user may write under `[plugins.offline]`."""

    max_turns: int = Field(
        default=5,
        ge=1,
        le=50,
        description="Most turns in which the model makes tool calls.",
    )
    max_reads: int = Field(
        default=18, ge=1, le=1000, description="Most files it reads for one question."
    )


class OfflinePlugin:
    """Brings two models that need no key and no network: `mock` and `offline`."""

    Settings = OfflineSettings

    def __init__(self, settings: OfflineSettings) -> None:
        self._settings = settings

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            Provider, "mock", MockProvider, description="Says what a test tells it to say."
        )
        registry.add(
            Provider,
            "offline",
            self._offline,
            description="Finds sentences in what it is given; not a language model.",
        )

    def _offline(self) -> OfflineProvider:
        return OfflineProvider(
            max_turns=self._settings.max_turns, max_reads=self._settings.max_reads
        )
