"""Commands that plugins add to `kaizen`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kaizen.errors import ConfigurationError

if TYPE_CHECKING:
    from kaizen.kernel import Kernel

__all__ = ["Command", "Commands", "Registered"]

Command: TypeAlias = "Callable[[Kernel, Sequence[str]], int | Awaitable[int | None] | None]"
"""Takes the running kernel and what stood behind the command's name; returns an exit code,
where `None` is 0. May be a coroutine function."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PLACE = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One command that a plugin has added.

    Attributes:
        command: What carries it out, or where that is, as `module:function`.
        help: One line about what it does.
    """

    name: str
    command: Command | str
    help: str = ""


class Commands:
    """The commands that plugins add, by name."""

    def __init__(self) -> None:
        self._commands: dict[str, Registered] = {}

    def __iter__(self) -> Iterator[Registered]:
        return iter(self._commands.values())

    def add(self, name: str, command: Command | str, *, help: str = "") -> None:  # noqa: A002
        """Add a command.

        Args:
            name: What follows `kaizen`: small letters, digits and hyphens.
            command: What carries it out, or `module:function`, which is imported when the
                command is used.
            help: One line about what it does.

        Raises:
            ConfigurationError: The name is taken or cannot be typed, or `command` leads
                nowhere.
        """
        subject = f"command {name!r}"
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                subject, "has a name that is hard to type", "Use a-z, 0-9 and hyphens."
            )
        if name in self._commands:
            raise ConfigurationError(
                subject, "is added twice", "Disable one of the plugins that add it."
            )
        if isinstance(command, str) and not _PLACE.fullmatch(command):
            raise ConfigurationError(
                subject, f"cannot be found at {command!r}", "Write 'module:function'."
            )
        self._commands[name] = Registered(name=name, command=command, help=help)

    def find(self, name: str) -> Registered | None:
        """Return a command, or `None`."""
        return self._commands.get(name)
