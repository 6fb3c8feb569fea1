"""Answers of models that Kaizen agents were given before.

A model call whose like was made before is answered from a `CacheStore`, and those that are
made at the same time are made once. What is the like of what is in the key: everything that
may change the answer, and whom it may be shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen_cache._cache import CacheFigures, ModelCache
    from kaizen_cache._memory import MemoryCacheStore
    from kaizen_cache._plugin import CachePlugin
    from kaizen_cache._settings import CacheSettings
    from kaizen_cache._store import CacheStore

__all__ = [
    "CacheFigures",
    "CachePlugin",
    "CacheSettings",
    "CacheStore",
    "MemoryCacheStore",
    "ModelCache",
]

_HOMES = {
    "CacheFigures": "_cache",
    "CachePlugin": "_plugin",
    "CacheSettings": "_settings",
    "CacheStore": "_store",
    "MemoryCacheStore": "_memory",
    "ModelCache": "_cache",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no more: a kernel needs little of it to start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
