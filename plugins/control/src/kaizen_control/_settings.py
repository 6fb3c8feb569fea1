"""What a user may set."""

from __future__ import annotations

from pathlib import Path

from kaizen.config import PluginSettings
from pydantic import Field

__all__ = ["ControlSettings"]


class ControlSettings(PluginSettings):
    """What a user may write under `[plugins.control]`."""

    http_host: str = Field(
        default="127.0.0.1", description="The address of the channel `http`."
    )
    http_port: int = Field(
        default=0, ge=0, le=65_535, description="Its port; 0 for any that is free."
    )
    http_token_file: Path | None = Field(
        default=None,
        description="The file that keeps its token; by default one of each process.",
    )
    http_allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Names, with the port, by which it may be asked for beside its own.",
    )
    http_allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Origins of its own page behind a proxy, such as 'https://asks.example'.",
    )
    http_detached: bool = Field(
        default=False,
        description="Let runs stop until there is an answer, which goes to their store.",
    )
    progress_interval: float = Field(
        default=0.1,
        ge=0,
        le=3_600,
        description="Least time between two reports of a run's progress, in seconds.",
    )
