"""The hook that this plugin adds to those of the kernel.

Write `@hookimpl(optionalhook=True)`, so that your plugin also works where there is no
command line:

    @hookimpl(optionalhook=True)
    def register_commands(self, commands: Commands) -> None:
        commands.add("weather", "kaizen_weather._command:weather", help="Ask for weather.")

A command that is registered by the hook works, and is not listed by `kaizen --help`, which
starts no kernel. To have it listed, name it as an entry point instead:

    [project.entry-points."kaizen.commands"]
    weather = "kaizen_weather._command:weather"
"""

from __future__ import annotations

from kaizen.hookspecs import hookspec

from kaizen_cli.commands import Commands

__all__ = ["register_commands"]


@hookspec
def register_commands(commands: Commands) -> None:
    """Add commands to `kaizen`. Called where one is asked for that is not known already.

    Not a coroutine. The kernel runs, with every enabled plugin in it.

    Args:
        commands: Where they are added.
    """
    raise NotImplementedError
