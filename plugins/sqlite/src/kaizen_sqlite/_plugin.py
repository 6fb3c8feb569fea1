"""Joins the store to the kernel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kaizen import CheckpointStore, PluginSettings, Registry, hookimpl
from pydantic import AfterValidator, Field

from kaizen_sqlite._path import file_at

if TYPE_CHECKING:
    from kaizen_sqlite._storage import SqliteStorage

__all__ = ["SqlitePlugin"]


def _default_path() -> Path:
    """Return where this user's programs keep data, by the XDG base directories."""
    folder = os.environ.get("XDG_DATA_HOME", "")
    data = Path(folder) if Path(folder).is_absolute() else Path("~/.local/share")
    return data / "kaizen" / "kaizen.db"


def _checked(path: Path) -> Path:
    """Refuse what is no path of a file, where the user can still see what was written."""
    file_at(path)
    return path


class SqliteSettings(PluginSettings):
    """What a user may write under `[plugins.sqlite]`."""

    path: Annotated[Path, AfterValidator(_checked)] = Field(
        default_factory=_default_path, description="The file that keeps the runs."
    )
    timeout_s: float = Field(
        default=10.0,
        ge=0,
        le=600,
        description="How long to wait for other processes that write, in seconds.",
    )


class SqlitePlugin:
    """Keeps runs in one SQLite file, under the name `sqlite`."""

    Settings = SqliteSettings

    def __init__(self, settings: SqliteSettings) -> None:
        self._settings = settings

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            CheckpointStore,
            "sqlite",
            self._storage,
            description="Keeps runs in one SQLite file, for many processes at once.",
        )

    def _storage(self) -> SqliteStorage:
        from kaizen_sqlite._storage import SqliteStorage

        return SqliteStorage(self._settings.path, timeout_s=self._settings.timeout_s)
