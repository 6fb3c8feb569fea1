"""The tool that runs shell commands, in a sandbox if there is one."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from shlex import quote
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from kaizen.errors import ToolError
from kaizen.tools import FunctionTool, tool
from pydantic import Field

from kaizen_tools._order import Order, Terms, is_below
from kaizen_tools._private import remove_tree
from kaizen_tools._roots import Root, Roots
from kaizen_tools._running import Running, started
from kaizen_tools._sandbox import Sandbox, find_sandbox
from kaizen_tools._settings import BashSettings, ToolsSettings
from kaizen_tools._spawning import Spawner

__all__ = ["Shell", "opened_shell"]

_LOG = logging.getLogger("kaizen.tools")
_MAX_COMMAND = 100_000
_MARGIN_S = 20.0
_TRIAL_S = 10.0
_TRIES = 2
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - what is made there is private
_TRIAL = """
: >"$HOME/made" && ! (: <"$OUTSIDE") 2>/dev/null || exit
(: >>/proc/sys/kernel/core_pattern) 2>/dev/null || echo confined"""
"""Says so only if it runs, may write where it may, and cannot read what is outside. Not
even root may open the settings of the machine for writing; nothing is written."""
_NO_SANDBOX = """\
It is not confined: it may do whatever the user may, and its clean environment hides no
secret from it."""


@asynccontextmanager
async def opened_shell(
    roots: Roots, settings: ToolsSettings, directory: Path
) -> AsyncGenerator[Shell]:
    """Hold the program that starts commands, and the best sandbox that works here.

    Args:
        directory: What relative paths of the settings are relative to.

    Raises:
        ConfigurationError: The settings demand a sandbox that does not work.
    """

    async def trial(sandbox: Sandbox) -> str:
        async with _shell(roots, settings, sandbox) as shell:
            return await shell.problem()

    sandbox = await find_sandbox(settings.bash, roots, directory, trial)
    if sandbox.backend == "none":
        _LOG.warning("bash_command is not confined: %s", sandbox.problem)
    for path in sandbox.exposed:
        _LOG.warning(
            "bash_command can change %r, and this program runs what is there, unconfined. "
            "Keep `roots` away from it",
            path,
        )
    async with _shell(roots, settings, sandbox) as shell:
        yield shell


@asynccontextmanager
async def _shell(
    roots: Roots, settings: ToolsSettings, sandbox: Sandbox
) -> AsyncGenerator[Shell]:
    terms = Terms(
        processes=settings.bash.processes,
        grace_s=settings.bash.grace_s,
        limits=_limits(settings.bash),
        temporary=f"{_temporary(roots)}/kaizen-{token_hex(8)}",
        confinement=sandbox.confinement,
    )
    spawner = Spawner(terms)
    try:
        yield Shell(roots, settings, spawner, sandbox)
    finally:
        with anyio.CancelScope(shield=True):
            await run_sync(spawner.close)
            await run_sync(remove_tree, terms.temporary)


def _temporary(roots: Roots) -> str:
    """Return where to put what is temporary: where no command can get at it, if possible.

    Below a root, one command could put something into the home of the next.
    """
    usual = os.path.realpath(tempfile.gettempdir())
    candidates = (usual, *_TEMPORARY) if os.name == "posix" else (usual,)
    for path in candidates:
        is_open = any(path == root.path or is_below(path, root.path) for root in roots)
        if not is_open and os.access(path, os.W_OK | os.X_OK):
            return path
    return usual


class Shell:
    """Runs shell commands, in the first directory among some roots.

    Attributes:
        sandbox: What they run in.
    """

    def __init__(
        self, roots: Roots, settings: ToolsSettings, spawner: Spawner, sandbox: Sandbox
    ) -> None:
        self._roots = roots
        self._root = roots.first_directory
        self._settings = settings.bash
        self._max_chars = settings.max_output_chars
        self._spawner = spawner
        self.sandbox = sandbox

    def tool(self) -> FunctionTool:
        """Return the tool. What it says of its danger follows from the sandbox."""
        timeout_s = self._settings.timeout_s + self._settings.grace_s + _MARGIN_S
        return tool(
            self.bash_command,
            directory="" if self._root is None else self._root.path,
            danger="critical" if self.sandbox.backend == "none" else "high",
            reads=True,
            external=self.sandbox.network,
            description=self._description(),
            category="system",
            timeout_s=timeout_s,
            max_output_chars=self._max_chars,
        )

    async def bash_command(
        self, command: str, timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    ) -> dict[str, Any]:
        """Run a command with bash, in the directory that the settings name.

        Gives `exit_code` (128 and more: ended by a signal), `stdout`, `stderr`, `truncated`
        if the middle of an output is left out, `timed_out`, and what `sandbox` it ran in.
        There is no input, and nothing that the command starts outlives it, background
        processes included; `stderr` says if something could not be ended.

        Args:
            command: What bash runs.
            timeout_s: After so many seconds it is stopped.
        """
        if "\0" in command or len(_encoded(command)) > _MAX_COMMAND:
            raise ToolError(
                "the command",
                f"contains a NUL or is over {_MAX_COMMAND} bytes",
                "Write a script to a file and run that.",
            )
        shell = (str(self._settings.shell), "-c", "--", command)
        limit_s = min(timeout_s, self._settings.timeout_s)
        return await self._run(self._directory(), shell, limit_s)

    async def problem(self) -> str:
        """Return what is wrong with the sandbox, found by running something in it."""
        if self._root is None:
            return ""
        temporary = _temporary(self._roots)
        with tempfile.NamedTemporaryFile(prefix="kaizen-", dir=temporary) as outside:
            is_shown = any(is_below(outside.name, root.path) for root in self._roots)
            name = "" if is_shown else quote(outside.name)
            command = ("/bin/sh", "-c", f"OUTSIDE={name}; {_TRIAL}")
            result = await self._run(self._root, command, _TRIAL_S)
        if result["stdout"] == "confined\n":
            return ""
        lines = [line for line in result["stderr"].splitlines() if line.strip()]
        return lines[-1] if lines else "a command that was tried was not confined"

    def _directory(self) -> Root:
        if self._root is None:
            raise ToolError(
                "bash_command", "has no directory to run in", "Add one to `roots`."
            )
        return self._root

    async def _run(
        self, root: Root, command: tuple[str, ...], timeout_s: float
    ) -> dict[str, Any]:
        order = Order(command=command, environment=self._environment(), directory=root.path)
        for _ in range(_TRIES):
            try:
                running = await self._finished(root, order, timeout_s)
            except OSError as error:
                raise ToolError(
                    "bash_command",
                    f"cannot start a program: {error}",
                    "See whether there is memory, and room for processes and files.",
                ) from error
            if running.has_begun or running.why:
                break
            # What starts commands was killed from outside, and this one was not started.
        return {**running.result(self._max_chars), "sandbox": self.sandbox.backend}

    async def _finished(self, root: Root, order: Order, timeout_s: float) -> Running:
        async with started(
            self._spawner, root.descriptor, order, self._settings, self._max_chars
        ) as running:
            await running.finish(timeout_s)
        return running

    def _environment(self) -> Mapping[str, str]:
        named = {
            name: os.environ[name] for name in self._settings.env if name in os.environ
        }
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            **named,
        }

    def _description(self) -> str:
        """Return what the model is told: the docstring, and what confines the command."""
        text = (Shell.bash_command.__doc__ or "").partition("Args:")[0]
        lines = [line.strip() for line in text.strip().splitlines()]
        return "\n".join([*lines, "", *self._bounds()]).strip()

    def _bounds(self) -> list[str]:
        sandbox, protected = self.sandbox, self._settings.protected
        if sandbox.backend == "none":
            return [_NO_SANDBOX.replace("\n", " ")]
        bounds = [
            "It is confined: it can change files below "
            + ", ".join(repr(root.path) for root in self._roots)
            + " and in $HOME and $TMPDIR, which are private and removed afterwards; "
            "it can read the system and nothing else.",
        ]
        if protected:
            bounds.append(f"What it can only read there: {', '.join(protected)}.")
        if sandbox.python:
            paths = ", ".join(repr(path) for path in sandbox.python)
            bounds.append(f"It can only read what runs this program: {paths}.")
        if (protected or sandbox.python) and sandbox.backend == "landlock":
            bounds.append(
                "Directories that hold, or could hold, one of these take no new names, and "
                "lose none; the files and directories in them can be changed. No rights, "
                "owners or times of files can be changed."
            )
        reach = "can" if sandbox.network else "cannot"
        return [*bounds, f"It {reach} reach the network."]


def _limits(settings: BashSettings) -> dict[str, int]:
    return {
        "RLIMIT_CPU": settings.cpu_s,
        "RLIMIT_AS": settings.memory_mb << 20,
        "RLIMIT_FSIZE": settings.file_mb << 20,
        "RLIMIT_NOFILE": settings.open_files,
        "RLIMIT_CORE": 0,
    }


def _encoded(command: str) -> bytes:
    try:
        return command.encode("utf-8")
    except UnicodeEncodeError:
        raise ToolError("the command", "is not valid Unicode", "Correct it.") from None
