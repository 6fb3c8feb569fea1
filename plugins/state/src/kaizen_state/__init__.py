"""Durable runs for Kaizen agents: checkpoints in files, and their manager."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaizen_state._agent_state import AgentState, CheckpointInfo
    from kaizen_state._filesystem import FilesystemStorage
    from kaizen_state._manager import StateManager
    from kaizen_state._plugin import StatePlugin

__all__ = [
    "AgentState",
    "CheckpointInfo",
    "FilesystemStorage",
    "StateManager",
    "StatePlugin",
]

_MODULES = {
    "AgentState": "_agent_state",
    "CheckpointInfo": "_agent_state",
    "FilesystemStorage": "_filesystem",
    "StateManager": "_manager",
    "StatePlugin": "_plugin",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a kernel that starts needs the plugin alone."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
