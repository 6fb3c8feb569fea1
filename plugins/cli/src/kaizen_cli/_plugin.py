"""Joins the command line to the kernel."""

from __future__ import annotations

from kaizen.config import PluginSettings
from pydantic import Field

from kaizen_cli import hookspecs as _hookspecs

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
    """Specifies the hook with which plugins add commands, and keeps the settings."""

    Settings = CliSettings
    hookspecs = _hookspecs

    def __init__(self, settings: CliSettings) -> None:
        self.settings = settings
