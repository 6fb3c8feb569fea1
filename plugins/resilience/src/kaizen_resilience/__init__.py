"""Model calls of Kaizen agents that survive: retries, fail-over, limits.

The plugin does it for every agent of a kernel; `Resilience` as one of an agent's `hooks`,
for that agent in its own way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen_resilience._errors import CircuitOpenError, QueueFullError
    from kaizen_resilience._plugin import ResiliencePlugin
    from kaizen_resilience._resilience import Resilience
    from kaizen_resilience._settings import LimitSettings, ResilienceSettings
    from kaizen_resilience._traffic import Traffic

__all__ = [
    "CircuitOpenError",
    "LimitSettings",
    "QueueFullError",
    "Resilience",
    "ResiliencePlugin",
    "ResilienceSettings",
    "Traffic",
]

_HOMES = {
    "CircuitOpenError": "_errors",
    "LimitSettings": "_settings",
    "QueueFullError": "_errors",
    "Resilience": "_resilience",
    "ResiliencePlugin": "_plugin",
    "ResilienceSettings": "_settings",
    "Traffic": "_traffic",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no more: a kernel needs little of it to start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
