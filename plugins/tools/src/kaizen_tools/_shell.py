"""Running shell commands that end when they are told to, and leave nothing behind.

This is not a sandbox: a command may do what the user may. What is here are limits, a clean
environment, and an end. The environment hides no secret from a command that looks for it:
it may read `/proc` of this program, which runs as the same user.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.to_thread import run_sync
from kaizen.errors import ToolError
from kaizen.tools import FunctionTool, tool
from pydantic import Field

from kaizen_tools._roots import Roots
from kaizen_tools._settings import BashSettings, ToolsSettings
from kaizen_tools._text import ends

__all__ = ["Shell"]

_MAX_COMMAND = 100_000
_CHUNK = 1 << 16
_MARGIN_S = 20.0
_KILL_S = 12.0
_LAST_OUTPUT_S = 1.0
_JSON_AROUND = 300


class Shell:
    """The tool that runs shell commands, in the first directory among some roots."""

    def __init__(self, roots: Roots, settings: ToolsSettings) -> None:
        self._roots = roots
        self._settings = settings.bash
        self._max_chars = settings.max_output_chars

    def tools(self) -> dict[str, FunctionTool]:
        """Return the tool by its name."""
        timeout_s = self._settings.timeout_s + self._settings.grace_s + _MARGIN_S
        made = tool(
            self.bash_command,
            danger="high",
            reads=True,
            external=True,
            category="system",
            timeout_s=timeout_s,
            max_output_chars=self._max_chars,
        )
        return {"bash_command": made}

    async def bash_command(
        self, command: str, timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    ) -> dict[str, Any]:
        """Run a command with bash, in the directory that the settings name.

        Gives `exit_code` (128 and more: ended by a signal), `stdout`, `stderr`, `truncated`
        if the middle of an output is left out, and `timed_out`. There is no input, and
        nothing that the command starts outlives it, background processes included; `stderr`
        says if something could not be ended. It is not confined: it may do whatever the
        user may, and its clean environment hides no secret from it.

        Args:
            command: What bash runs.
            timeout_s: After so many seconds it is stopped.
        """
        if "\0" in command or len(os.fsencode(_valid(command))) > _MAX_COMMAND:
            raise ToolError(
                "the command",
                f"contains a NUL or is over {_MAX_COMMAND} bytes",
                "Write a script to a file and run that.",
            )
        limit_s = min(timeout_s, self._settings.timeout_s)
        async with self._started(command) as running:
            await running.finish(limit_s)
        return running.result(self._max_chars)

    @asynccontextmanager
    async def _started(self, command: str) -> AsyncGenerator[Running]:
        """Run a command for the time of an `async with` block; it is gone afterwards."""
        root = self._roots.first_directory
        if root is None:
            raise ToolError(
                "bash_command", "has no directory to run in", "Add one to `roots`."
            )
        home = await run_sync(partial(tempfile.mkdtemp, prefix="kaizen-"))
        report, reporter = os.pipe()
        os.set_blocking(report, False)
        running: Running | None = None
        try:
            try:
                # A supervisor that is killed while it starts could leave a command behind.
                with anyio.CancelScope(shield=True):
                    process = await anyio.open_process(
                        self._arguments(command, root.descriptor, reporter),
                        env=self._environment(home),
                        start_new_session=True,
                        pass_fds=(root.descriptor, reporter),
                    )
            finally:
                os.close(reporter)
            running = Running(process, report, self._settings, self._max_chars)
            yield running
        finally:
            with anyio.CancelScope(shield=True):
                if running is not None:
                    await running.end()
                os.close(report)
                with anyio.move_on_after(_KILL_S):
                    remove = partial(rmtree, home, ignore_errors=True)
                    await run_sync(remove, abandon_on_cancel=True)

    def _arguments(self, command: str, directory: int, report: int) -> list[str]:
        settings = self._settings
        order = {
            "directory": directory,
            "report": report,
            "grace_s": settings.grace_s,
            "processes": settings.processes,
            "RLIMIT_CPU": settings.cpu_s,
            "RLIMIT_AS": settings.memory_mb << 20,
            "RLIMIT_FSIZE": settings.file_mb << 20,
            "RLIMIT_NOFILE": settings.open_files,
            "RLIMIT_CORE": 0,
        }
        words = " ".join(f"{name}={value}" for name, value in order.items())
        supervisor = str(Path(__file__).with_name("_supervisor.py"))
        shell = [str(settings.shell), "-c", "--", command]
        return [sys.executable, "-I", "-S", supervisor, words, *shell]

    def _environment(self, home: str) -> Mapping[str, str]:
        named = {
            name: os.environ[name] for name in self._settings.env if name in os.environ
        }
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": path, "LANG": "C.UTF-8", "HOME": home, "TMPDIR": home, **named}


class Running:
    """A command that was started, with its supervisor.

    Attributes:
        why: Why it was stopped: `time`, `output`, `processes`, or `""`.
        left: What could not be killed, in words, or `""`.
    """

    def __init__(
        self, process: Process, report: int, settings: BashSettings, max_chars: int
    ) -> None:
        self._process = process
        self._report = report
        self._settings = settings
        self._stdout = Captured(keep=max_chars)
        self._stderr = Captured(keep=max_chars)
        self._exit_code = 128 + signal.SIGKILL
        self.why = ""
        self.left = ""

    async def finish(self, timeout_s: float) -> None:
        """Read what the command writes until it ends, at most so many seconds."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with anyio.create_task_group() as readers:
            with anyio.move_on_after(timeout_s) as waiting:
                read = partial(self._read, waiting=waiting)
                readers.start_soon(read, self._process.stdout, self._stdout)
                readers.start_soon(read, self._process.stderr, self._stderr)
                await self._process.wait()
            if waiting.cancelled_caught:
                self.why = self.why or "time"
            await self.end()
            readers.cancel_scope.deadline = anyio.current_time() + _LAST_OUTPUT_S

    async def end(self) -> None:
        """Stop the command if it still runs, and wait until it is gone."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._settings.grace_s + _KILL_S):
                await self._ask_to_stop()
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            await self._read_report()

    def result(self, max_chars: int) -> dict[str, Any]:
        """Return what the model is told."""
        room = max_chars - _JSON_AROUND
        stderr, cut_stderr = self._stderr.text(room // 3)
        stderr += self._notice()
        stdout, cut_stdout = self._stdout.text(room - len(json.dumps(stderr)))
        return {
            "exit_code": self._exit_code,
            "stdout": stdout,
            "stderr": stderr,
            "truncated": cut_stdout or cut_stderr,
            "timed_out": self.why == "time",
        }

    async def _read(
        self, stream: ByteReceiveStream, captured: Captured, *, waiting: anyio.CancelScope
    ) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                captured.add(await stream.receive(_CHUNK))
                if (
                    self._stdout.count + self._stderr.count
                    > self._settings.max_output_bytes
                ):
                    self.why = self.why or "output"
                    waiting.cancel()

    async def _ask_to_stop(self) -> None:
        assert self._process.stdin is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await self._process.stdin.send(b".")
        await self._process.stdin.aclose()

    async def _read_report(self) -> None:
        """Learn how the command ended; clean up after a supervisor that was killed."""
        try:
            lines = os.read(self._report, 4096).decode().split("\n")
        except BlockingIOError:
            return
        if len(lines) == 3:
            code, left, why = lines[1].split(" ")
            self._exit_code = int(code)
            if why == "processes":
                self.why = why
            if left != "0":
                self.left = f"processes that could not be killed: {left}"
        elif lines[0].isdigit():
            self.left = "the supervisor was killed: what left the session may still run"
            await run_sync(kill_session, int(lines[0]))

    def _notice(self) -> str:
        notices = {
            "output": f"it wrote over {self._settings.max_output_bytes} bytes",
            "processes": f"it had over {self._settings.processes} processes",
        }
        stopped = f"\n[stopped: {notices[self.why]}]" if self.why in notices else ""
        return stopped + (f"\n[{self.left}]" if self.left else "")


@dataclass(slots=True)
class Captured:
    """Start and end of what a command writes.

    Attributes:
        keep: How many bytes to keep of either.
        count: How many bytes there were.
    """

    keep: int
    count: int = 0
    start: bytes = b""
    rest: bytearray | None = None

    def add(self, piece: bytes) -> None:
        """Take what was written next."""
        self.count += len(piece)
        room = self.keep - len(self.start)
        self.start += piece[:room]
        self.rest = bytearray() if self.rest is None else self.rest
        self.rest += piece[room:]
        if len(self.rest) > 2 * self.keep:
            del self.rest[: -self.keep]

    def text(self, max_chars: int) -> tuple[str, bool]:
        """Return the text, cut in the middle if need be, and whether it is cut."""
        rest = bytes(self.rest or b"")
        left_out = self.count - len(self.start) - len(rest)
        start = self.start
        if not left_out:
            start, rest = start + rest, b""
        return ends(
            start.decode("utf-8", "replace"),
            rest.decode("utf-8", "replace"),
            left_out,
            max_chars,
        )


def kill_session(session: int) -> None:
    """Kill all processes of a session, as far as `/proc` shows them. Blocks."""
    for _ in range(100):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)
        members = list(_members(session))
        for process in members:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if not members:
            return


def _members(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_bytes().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(of) == session and state not in (b"Z", b"X"):
            found.append(int(path.parent.name))
    return found


def _valid(command: str) -> str:
    try:
        command.encode("utf-8")
    except UnicodeEncodeError:
        raise ToolError("the command", "is not valid Unicode", "Correct it.") from None
    return command
