"""Lets people and programs answer what Kaizen agents ask.

`ControlProtocol` is a channel over a transport: a terminal, HTTP, JSON lines, or code of
the same process. `kaizen_control.testing` has what every transport must pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen_control._cli import CLITransport
    from kaizen_control._http import HTTPTransport
    from kaizen_control._memory import MemoryTransport
    from kaizen_control._messages import (
        AnswerMessage,
        ClosedMessage,
        Outgoing,
        ProgressMessage,
        Received,
        RefusedMessage,
        RequestMessage,
    )
    from kaizen_control._plugin import ControlPlugin
    from kaizen_control._protocol import ControlProtocol
    from kaizen_control._settings import ControlSettings
    from kaizen_control._stdio import StdioTransport
    from kaizen_control._transport import Transport, TransportClosedError

__all__ = [
    "AnswerMessage",
    "CLITransport",
    "ClosedMessage",
    "ControlPlugin",
    "ControlProtocol",
    "ControlSettings",
    "HTTPTransport",
    "MemoryTransport",
    "Outgoing",
    "ProgressMessage",
    "Received",
    "RefusedMessage",
    "RequestMessage",
    "StdioTransport",
    "Transport",
    "TransportClosedError",
]

_HOMES = {
    "AnswerMessage": "_messages",
    "CLITransport": "_cli",
    "ClosedMessage": "_messages",
    "ControlPlugin": "_plugin",
    "ControlProtocol": "_protocol",
    "ControlSettings": "_settings",
    "HTTPTransport": "_http",
    "MemoryTransport": "_memory",
    "Outgoing": "_messages",
    "ProgressMessage": "_messages",
    "Received": "_messages",
    "RefusedMessage": "_messages",
    "RequestMessage": "_messages",
    "StdioTransport": "_stdio",
    "Transport": "_transport",
    "TransportClosedError": "_transport",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no more: a kernel needs little of it to start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
