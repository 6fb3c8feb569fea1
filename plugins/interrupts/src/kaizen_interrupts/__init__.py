"""Stops, pauses and steers runs of Kaizen agents.

`InterruptManager` stops the runs that it knows and asks handlers whether one must stop.
`handle_signals` lets Ctrl+C and SIGTERM do it; `RunControl` does it from another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen_interrupts._budget import BudgetAlert, BudgetInterruptHandler
    from kaizen_interrupts._control import RunControl
    from kaizen_interrupts._handlers import (
        BaseInterruptHandler,
        ResourceInterruptHandler,
        TimeoutInterruptHandler,
    )
    from kaizen_interrupts._manager import InterruptManager
    from kaizen_interrupts._plugin import InterruptsPlugin
    from kaizen_interrupts._settings import InterruptsSettings
    from kaizen_interrupts._signals import handle_signals

__all__ = [
    "BaseInterruptHandler",
    "BudgetAlert",
    "BudgetInterruptHandler",
    "InterruptManager",
    "InterruptsPlugin",
    "InterruptsSettings",
    "ResourceInterruptHandler",
    "RunControl",
    "TimeoutInterruptHandler",
    "handle_signals",
]

_HOMES = {
    "BaseInterruptHandler": "_handlers",
    "BudgetAlert": "_budget",
    "BudgetInterruptHandler": "_budget",
    "InterruptManager": "_manager",
    "InterruptsPlugin": "_plugin",
    "InterruptsSettings": "_settings",
    "ResourceInterruptHandler": "_handlers",
    "RunControl": "_control",
    "TimeoutInterruptHandler": "_handlers",
    "handle_signals": "_signals",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no more: a kernel needs little of it to start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
