"""The options that every command has."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Options"]


@dataclass(slots=True)
class Options:
    """What was said on the command line before or behind the name of a command.

    Attributes:
        config: The configuration file that was named, if one was.
        plugins: Plugins to enable beside the others, as `module:Class`.
        debug: Whether errors show their traceback, and the log is printed.
        color: Whether colours may be used where there is a terminal.
    """

    config: Path | None = None
    plugins: list[str] = field(default_factory=list)
    debug: bool = False
    color: bool = field(default_factory=lambda: not os.environ.get("NO_COLOR"))
