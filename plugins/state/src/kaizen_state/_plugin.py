"""Joins state to the kernel."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kaizen.config import PluginSettings
from kaizen.events import InterruptEvent
from kaizen.hooks import Priority, hookimpl
from kaizen.hookspecs import AgentLoop, Cycle
from kaizen.kernel import Kernel
from kaizen.operations import CycleRequest, CycleResult, Result, RunRequest
from kaizen.ports import CheckpointStore
from kaizen.registry import Registry
from pydantic import Field

from kaizen_state._automatic import Automatic

if TYPE_CHECKING:
    from kaizen_state._filesystem import FilesystemStorage
    from kaizen_state._retention import Retention

__all__ = ["StatePlugin", "StateSettings"]


class StateSettings(PluginSettings):
    """What a user may write under `[plugins.state]`."""

    path: Path | None = Field(
        default=None,
        description="Where the runs are kept; by default in the user's folder for data.",
    )
    compress: bool = Field(
        default=True, description="Whether to pack the logs of runs that ended."
    )
    checkpoint_frequency: int = Field(
        default=10, ge=0, description="Mark a run after so many turns; 0 for never."
    )
    checkpoint_interval: float = Field(
        default=60.0, ge=0, description="Mark a run after so many seconds; 0 for never."
    )
    checkpoint_on_interrupt: bool = Field(
        default=True, description="Whether to mark a run that stops on request."
    )
    retention_count: int = Field(
        default=0, ge=0, description="Most ended runs kept of an agent; 0 for all."
    )
    ttl_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long ended runs are kept, in seconds; 0 for ever.",
    )


class StatePlugin:
    """Durable runs for Kaizen agents: checkpoints in files, and their manager."""

    Settings = StateSettings

    def __init__(self, settings: StateSettings) -> None:
        self._settings = settings
        self._automatic = Automatic(
            _retention(settings),
            frequency=settings.checkpoint_frequency or None,
            interval_s=settings.checkpoint_interval or None,
            on_interrupt=settings.checkpoint_on_interrupt,
        )

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Take part in whole runs only if old ones have to go after them."""
        if not (self._settings.retention_count or self._settings.ttl_seconds):
            yield
            return
        name = kernel.hooks.add(_Retaining(self._automatic), name="state.retention")
        try:
            yield
        finally:
            kernel.hooks.remove(name)

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            CheckpointStore,
            "filesystem",
            self._filesystem,
            description="Keeps each run in a folder of its own.",
        )

    @hookimpl(priority=Priority.HIGH)
    async def wrap_cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
        return await self._automatic.cycle(request, call_next)

    @hookimpl(priority=Priority.LOWEST)
    async def pre_interrupt(self, event: InterruptEvent) -> None:
        await self._automatic.interrupt(event)

    def _filesystem(self) -> FilesystemStorage:
        from kaizen_state._filesystem import FilesystemStorage

        path = self._settings.path or _data_folder() / "kaizen" / "runs"
        return FilesystemStorage(path, compress=self._settings.compress)


class _Retaining:
    """Lets old runs go when one is over."""

    def __init__(self, automatic: Automatic) -> None:
        self._automatic = automatic

    @hookimpl(priority=Priority.HIGH)
    async def wrap_agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        return await self._automatic.agent_loop(request, call_next)


def _retention(settings: StateSettings) -> Retention | None:
    """Return what lets old runs go, if any ever have to."""
    if not (settings.retention_count or settings.ttl_seconds):
        return None
    from kaizen_state._retention import Retention

    return Retention(settings.retention_count or None, settings.ttl_seconds or None)


def _data_folder() -> Path:
    """Return where programs keep data of a user, the same from wherever they are started.

    See the XDG Base Directory Specification: a value that is not absolute does not count.
    """
    folder = Path(os.environ.get("XDG_DATA_HOME", ""))
    return folder if folder.is_absolute() else Path.home() / ".local" / "share"
