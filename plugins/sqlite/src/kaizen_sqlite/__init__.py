"""Durable runs of Kaizen agents in one SQLite file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaizen_sqlite._plugin import SqlitePlugin
    from kaizen_sqlite._storage import SqliteStorage

__all__ = ["SqlitePlugin", "SqliteStorage"]

_MODULES = {"SqlitePlugin": "_plugin", "SqliteStorage": "_storage"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a kernel that starts needs the plugin alone."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
