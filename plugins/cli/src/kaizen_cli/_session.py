"""Starts the kernel that a command works with."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import click
from kaizen.config import Sources, read_config
from kaizen.kernel import Kernel

from kaizen_cli._options import Options
from kaizen_cli._plugin import CliPlugin, CliSettings
from kaizen_cli._terminal import Terminal
from kaizen_cli._trust import config_file

__all__ = ["imported", "own_settings", "provider_config", "session"]

_TOOLS = "tools"


@asynccontextmanager
async def session(
    options: Options,
    terminal: Terminal,
    *,
    roots: Sequence[Path] = (),
    on_plugin_error: Literal["raise", "skip"] | None = None,
    quiet: bool = False,
) -> AsyncIterator[Kernel]:
    """Run a kernel with the configuration that takes effect here.

    Args:
        options: The configuration file and plugins that were named.
        terminal: Where the user is told what is ignored or goes wrong.
        roots: What the file tools may read; by default what they are set to.
        on_plugin_error: What a plugin that fails does; by default what is configured.
        quiet: Whether the log is kept from the user.
    """
    _listen_to_log(terminal, options, quiet=quiet)
    file = config_file(options, terminal)
    extra = [imported(each) for each in options.plugins]
    kernel = Kernel(
        plugins=[*_enabled(file), *extra] if extra else None,
        settings=_roots(roots, extra),
        config_file=file,
        on_plugin_error=on_plugin_error,
    )
    async with kernel:
        yield kernel


def imported(place: str) -> Any:
    """Return what `module:name` leads to; modules of the working directory count.

    Raises:
        click.UsageError: There is no such module or name.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise click.UsageError(
            f"{place!r} leads nowhere. Write MODULE:NAME, such as my_plugins:WeatherPlugin."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise click.UsageError(
            f"There is no module {error.name!r}, neither installed nor in {here}."
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise click.UsageError(f"Module {module!r} has no {name!r}.")
        found = getattr(found, part)
    return found


def provider_config(kernel: Kernel, provider: str | None, model: str) -> dict[str, Any]:
    """Return who is to answer: who was named, else who is configured, else `offline`."""
    config: dict[str, Any] = {}
    if provider:
        config["llm_provider"] = provider
    elif not (kernel.config.default_provider or kernel.config.agent.get("llm_provider")):
        config["llm_provider"] = "offline"
    if model:
        config["model"] = model
    return config


def own_settings(kernel: Kernel) -> CliSettings:
    """Return the settings of this very plugin, if it is enabled; else the defaults."""
    for info in kernel.plugins:
        if isinstance(info.plugin, CliPlugin):
            return info.plugin.settings
    return CliSettings()


def _enabled(file: Path | Literal[False]) -> list[str]:
    """Return the plugins that a kernel would enable without being told, in order."""
    contents = read_config(file) if file else {}
    sources = Sources(code={}, environ=os.environ, file=contents, path=str(file))
    configured = sources.kernel({}).plugins
    if configured is not None:
        return list(configured)
    tables = list(contents.get("plugins", {}))
    names = {point.name for point in entry_points(group="kaizen.plugins")}
    return [*(name for name in tables if name in names), *sorted(names - set(tables))]


def _roots(roots: Sequence[Path], extra: Sequence[Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the setting that keeps the file tools inside what the user named."""
    names = {point.name for point in entry_points(group="kaizen.plugins")}
    names.update(getattr(each, "name", "") for each in extra)
    if not roots or _TOOLS not in names:
        return {}
    return {_TOOLS: {"roots": [str(root) for root in roots]}}


class _Notes(logging.Handler):
    """Shows the kernel's warnings to the user, one line each."""

    def __init__(self, terminal: Terminal, *, debug: bool) -> None:
        super().__init__(logging.DEBUG if debug else logging.WARNING)
        self._terminal = terminal
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if self._debug:
            message = self.format(record)
        self._terminal.note(f"{record.levelname.lower()}: {message}", style="yellow")


def _listen_to_log(terminal: Terminal, options: Options, *, quiet: bool) -> None:
    log = logging.getLogger("kaizen")
    log.propagate = False
    notes = _Notes(terminal, debug=options.debug)
    log.handlers = [logging.NullHandler() if quiet else notes]
    if options.debug:
        log.setLevel(logging.DEBUG)
