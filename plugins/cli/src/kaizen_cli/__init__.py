"""The `kaizen` command: run agents, and see which plugins are installed.

Importing this package imports nothing else: `kaizen --help` needs neither the kernel nor
any plugin, and the kernel needs no command line to load this plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen_cli._plugin import CliPlugin, CliSettings
    from kaizen_cli.commands import Command, Commands

__all__ = ["CliPlugin", "CliSettings", "Command", "Commands", "main"]

_HOMES = {
    "CliPlugin": "kaizen_cli._plugin",
    "CliSettings": "kaizen_cli._plugin",
    "Command": "kaizen_cli.commands",
    "Commands": "kaizen_cli.commands",
}


def main() -> int:
    """Carry out the command line of this process and return its exit code."""
    try:
        from kaizen_cli import _main
    except KeyboardInterrupt:  # so early that nothing else hears it
        return 130
    return _main.main()


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
