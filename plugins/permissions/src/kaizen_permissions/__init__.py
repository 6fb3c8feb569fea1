"""Decides which tool calls of Kaizen agents may happen, and asks people.

`ExecutionContext` says what one agent may do, `PermissionRule` what a call may or may not,
and `Policy` decides. The plugin does the same for all agents of a kernel, from settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen_permissions._context import ExecutionContext, ToolUsage
    from kaizen_permissions._plugin import PermissionsPlugin
    from kaizen_permissions._policy import Decided, Policy
    from kaizen_permissions._rules import PermissionRule
    from kaizen_permissions._settings import PermissionsSettings
    from kaizen_permissions._types import PermissionMode, PermissionType, Who

__all__ = [
    "Decided",
    "ExecutionContext",
    "PermissionMode",
    "PermissionRule",
    "PermissionType",
    "PermissionsPlugin",
    "PermissionsSettings",
    "Policy",
    "ToolUsage",
    "Who",
]

_HOMES = {
    "Decided": "_policy",
    "ExecutionContext": "_context",
    "PermissionMode": "_types",
    "PermissionRule": "_rules",
    "PermissionType": "_types",
    "PermissionsPlugin": "_plugin",
    "PermissionsSettings": "_settings",
    "Policy": "_policy",
    "ToolUsage": "_context",
    "Who": "_types",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no more: a kernel needs little of it to start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
