"""A command while it runs: what it writes, how it ends, and that all of it does."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
from anyio.to_thread import run_sync

from kaizen_tools._order import Order
from kaizen_tools._private import remove_tree
from kaizen_tools._settings import BashSettings
from kaizen_tools._spawning import Spawner
from kaizen_tools._text import ends

__all__ = ["Captured", "Running", "kill_session", "started"]

_CHUNK = 1 << 16
_LINES, _WORDS = 2, 3
_KILL_S = 12.0
_LAST_OUTPUT_S = 1.0
_JSON_AROUND = 300


@asynccontextmanager
async def started(
    spawner: Spawner,
    directory: int,
    order: Order,
    settings: BashSettings,
    max_chars: int,
) -> AsyncGenerator[Running]:
    """Run a command for the time of an `async with` block; it is gone afterwards.

    Args:
        directory: The descriptor of the directory that it runs in.
        order: What to run.
    """
    with _Beginning() as beginning:
        # Nothing that a thread has made may be lost because nobody waits for it any more.
        with anyio.CancelScope(shield=True):
            begin = partial(beginning.begin, spawner, directory, order)
            control, outputs, unsent = await run_sync(begin)
        running = Running(control, outputs, settings, max_chars)
        try:
            await running.send(unsent)
            yield running
        finally:
            with anyio.CancelScope(shield=True):
                await running.end()


class _Beginning:
    """A thread that starts a command, and who waits for it, who may stop to wait.

    A task of asyncio that is cancelled by its own means does not care for a shield. The
    thread then goes on alone: it sends no order any more, and closes what it has opened.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_over = True
            self._opened.close()

    def begin(
        self, spawner: Spawner, directory: int, order: Order
    ) -> tuple[socket.socket, tuple[int, int], bytes]:
        """Start a supervisor, and send it as much of the order as it takes at once.

        Returns:
            The socket of the supervisor; what to read the command's outputs from; and the
            rest of the order.
        """
        text = order.encoded()
        with ExitStack() as opened:
            read, write = _pipes(opened)
            try:
                control = spawner.start([directory, *write])
            finally:
                for descriptor in write:
                    os.close(descriptor)
            opened.callback(control.close)
            with self._lock:
                if self._is_over:
                    raise RuntimeError("nobody waits for the command any more")
                with suppress(ConnectionError):
                    text = text[control.send(text) :]
                self._opened = opened.pop_all()
        return control, read, text


def _pipes(stack: ExitStack) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return what two pipes are read from, and what they are written to."""
    output, errors = os.pipe(), os.pipe()
    for reading, _ in (output, errors):
        os.set_blocking(reading, False)
        stack.callback(os.close, reading)
    return (output[0], errors[0]), (output[1], errors[1])


class Running:
    """A command that was started, with its supervisor.

    Attributes:
        why: Why it was stopped: `time`, `output`, `processes`, `replaced`,
            or `""`.
        left: What could not be killed, in words, or `""`.
    """

    def __init__(
        self,
        control: socket.socket,
        outputs: tuple[int, int],
        settings: BashSettings,
        max_chars: int,
    ) -> None:
        self._control = control
        self._outputs = outputs
        self._settings = settings
        self._report = b""
        self._ended = False
        self._is_over = False
        self._stdout = Captured(keep=max_chars)
        self._stderr = Captured(keep=max_chars)
        self._exit_code = 128 + signal.SIGKILL
        self.why = ""
        self.left = ""

    async def send(self, order: bytes) -> None:
        """Say what to run. If nobody listens any more, the report will be missing."""
        with suppress(ConnectionError):
            while order:
                try:
                    order = order[self._control.send(order) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._control)

    async def finish(self, timeout_s: float) -> None:
        """Read what the command writes until it ends, at most so many seconds."""
        async with anyio.create_task_group() as readers:
            with anyio.move_on_after(timeout_s) as waiting:
                read = partial(self._read, waiting=waiting)
                for output, captured in zip(
                    self._outputs, (self._stdout, self._stderr), strict=True
                ):
                    readers.start_soon(read, output, captured)
                await self._wait()
            if waiting.cancelled_caught:
                self.why = self.why or "time"
            await self.end()
            readers.cancel_scope.deadline = anyio.current_time() + _LAST_OUTPUT_S

    async def end(self) -> None:
        """Stop the command if it still runs, and wait until it is gone."""
        if self._is_over:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._settings.grace_s + _KILL_S):
                with suppress(OSError):
                    self._control.shutdown(socket.SHUT_WR)
                await self._wait()
            if not self._ended:
                self._kill()
            await self._read_report()
            self._is_over = True
            *_, private = self._begun
            if private and not self._is_reported:  # The supervisor could not remove it.
                with anyio.move_on_after(_KILL_S):
                    remove = partial(remove_tree, private)
                    await run_sync(remove, abandon_on_cancel=True)

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

    async def _wait(self) -> None:
        """Wait until the supervisor has said all, or has ended."""
        while not self._ended:
            await anyio.wait_readable(self._control)
            try:
                piece = self._control.recv(4096)
            except BlockingIOError:
                continue
            except ConnectionError:
                piece = b""
            self._report += piece
            self._ended = not piece or self._is_reported

    async def _read(
        self, output: int, captured: Captured, *, waiting: anyio.CancelScope
    ) -> None:
        while True:
            await anyio.wait_readable(output)
            try:
                piece = os.read(output, _CHUNK)
            except BlockingIOError:
                continue
            if not piece:
                return
            captured.add(piece)
            if self._stdout.count + self._stderr.count > self._settings.max_output_bytes:
                self.why = self.why or "output"
                waiting.cancel()

    @property
    def has_begun(self) -> bool:
        """Whether a supervisor has said anything, which it does before a command runs."""
        return bool(self._report)

    @property
    def _is_reported(self) -> bool:
        """Whether the supervisor has said how the command ended."""
        return self._report.count(b"\n") == _LINES

    @property
    def _begun(self) -> tuple[int, int, str]:
        """The supervisor and the first process of the command, or 0, and what it has."""
        words = self._report.partition(b"\n")[0].split(b" ")
        if len(words) < _WORDS:
            return 0, 0, ""
        private = os.fsdecode(bytes.fromhex(words[2].decode()))
        return int(words[0]), int(words[1]), private

    def _kill(self) -> None:
        """Kill a supervisor that does not end."""
        supervisor, _, _ = self._begun
        if supervisor:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(supervisor, signal.SIGKILL)

    async def _read_report(self) -> None:
        """Learn how the command ended; clean up after a supervisor that was killed."""
        if self._is_reported:
            code, left, why = self._report.decode().split("\n")[1].split(" ")
            self._exit_code = int(code)
            if why in ("processes", "replaced"):
                self.why = why
            if left != "0":
                self.left = f"processes that could not be killed: {left}"
            return
        _, child, _ = self._begun
        if child:
            self.left = "the supervisor was killed: what left the session may still run"
            await run_sync(kill_session, child)
        else:
            self.left = "the supervisor was killed before it said what it had started"

    def _notice(self) -> str:
        notices = {
            "output": f"it wrote over {self._settings.max_output_bytes} bytes",
            "processes": f"it had over {self._settings.processes} processes",
            "replaced": "somebody else replaced what was protected or hidden",
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
