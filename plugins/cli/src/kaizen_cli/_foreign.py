"""Runs the commands that plugins bring."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Literal, cast

import anyio
from kaizen.errors import PluginError
from kaizen.kernel import Kernel

from kaizen_cli._options import Options
from kaizen_cli._session import session
from kaizen_cli._terminal import Terminal
from kaizen_cli.commands import Command, Commands

__all__ = ["commands_of", "run"]


def run(options: Options, name: str, arguments: Sequence[str]) -> int | None:
    """Run a plugin's command; return its exit code, or `None` if there is none."""
    return anyio.run(_run, options, name, arguments)


async def _run(options: Options, name: str, arguments: Sequence[str]) -> int | None:
    points = [each for each in entry_points(group="kaizen.commands") if each.name == name]
    mode: Literal["skip"] | None = None if points else "skip"
    async with session(options, Terminal(options), on_plugin_error=mode) as kernel:
        command = _announced(kernel, points) or _added(kernel, name)
        if command is None:
            return None
        outcome = command(kernel, arguments)
        code = await outcome if isinstance(outcome, Awaitable) else outcome
        return code or 0


def commands_of(kernel: Kernel, plugin: str) -> Commands:
    """Return the commands that a plugin adds by its hook.

    Raises:
        PluginError: Its hook failed.
    """
    commands = Commands()
    for each in kernel.hooks.implementations("register_commands"):
        if each.plugin != plugin:
            continue
        try:
            each.function(*([commands] if each.accepts else []))
        except Exception as error:
            raise PluginError(
                plugin,
                f"could not add its commands: {type(error).__name__}: {error}",
                "Correct it, or leave it out of `plugins`.",
            ) from error
    return commands


def _announced(kernel: Kernel, points: Sequence[EntryPoint]) -> Command | None:
    """Load the command of an entry point, if its plugin is enabled.

    Raises:
        PluginError: It is disabled, or its command cannot be imported.
    """
    if not points:
        return None
    point = points[0]
    brought_by = {each.dist.name if each.dist else "" for each in points}
    if len(brought_by) > 1:
        raise PluginError(
            point.name,
            f"is a command of several distributions: {', '.join(sorted(brought_by))}",
            "Uninstall all but one of them.",
        )
    distribution = point.dist.name if point.dist else ""
    _require_enabled(kernel, point.name, distribution)
    try:
        return cast(Command, point.load())
    except Exception as error:
        raise PluginError(
            point.name,
            f"cannot be imported from {point.value!r}: {type(error).__name__}: {error}",
            "Reinstall it.",
            distribution,
        ) from error


def _require_enabled(kernel: Kernel, command: str, distribution: str) -> None:
    """Refuse a command whose plugin the user has disabled."""
    own = [each for each in kernel.plugins if each.distribution == distribution]
    if own and not any(each.status == "enabled" for each in own):
        raise PluginError(
            own[0].name,
            f"is {own[0].status}, so its command {command!r} is too",
            "Enable it in `plugins`; `kaizen plugins doctor` says more.",
            distribution,
        )


def _added(kernel: Kernel, name: str) -> Command | None:
    """Return the command that a plugin has added by its hook."""
    for each in kernel.plugins:
        plugin = each.name
        found = commands_of(kernel, plugin).find(name)
        if found is None:
            continue
        if not isinstance(found.command, str):
            return found.command
        try:
            return cast(Command, resolve_name(found.command))
        except (ImportError, AttributeError) as error:
            raise PluginError(
                plugin, f"has a command that cannot be imported: {error}", "Reinstall it."
            ) from error
    return None
