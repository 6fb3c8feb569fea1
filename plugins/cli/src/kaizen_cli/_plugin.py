"""Joins the command line to the kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from kaizen.config import PluginSettings
from kaizen.hooks import hookimpl
from kaizen.kernel import Kernel
from kaizen.ports import Channel
from kaizen.registry import Registry
from pydantic import Field

from kaizen_cli import hookspecs as _hookspecs
from kaizen_cli._channel import TERMINAL, TerminalChannel

__all__ = ["CliPlugin", "CliSettings"]


class CliSettings(PluginSettings):
    """What a user may write under `[plugins.cli]`."""

    max_cycles: int = Field(
        default=20, ge=1, le=1_000, description="Most turns for one answer."
    )
    max_history: int = Field(
        default=20_000,
        ge=0,
        le=10_000_000,
        description="Characters of a conversation that `kaizen chat` passes on.",
    )
    keep_runs: bool = Field(
        default=True,
        description="Keep runs in the store `sqlite` where no `checkpoint_store` is named.",
    )


class CliPlugin:
    """Specifies the hook with which plugins add commands, and keeps the settings.

    Attributes:
        settings: The settings of the command line.
        channel: By which runs ask whoever sits at the terminal, while the kernel runs.
    """

    Settings = CliSettings
    hookspecs = _hookspecs

    def __init__(self, settings: CliSettings) -> None:
        self.settings = settings
        self.channel: TerminalChannel | None = None

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Make the channel, which asks by another one of the kernel."""
        self.channel = TerminalChannel(kernel)
        try:
            yield
        finally:
            self.channel = None

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            Channel,
            TERMINAL,
            lambda: self.channel,
            description="Whoever sits at the terminal of `kaizen`.",
        )
