"""Follows a run: shows what it does, and stops it when the user wants."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio.abc import TaskStatus
from kaizen.agent import RunStream
from kaizen.errors import AgentInterrupted
from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)
from kaizen.run import Run
from kaizen.runlog import (
    Asked,
    Continued,
    ModelRequested,
    Paused,
    Steered,
    StreamEvent,
    TextDelta,
    ToolFinished,
    ToolIntended,
)

from kaizen_cli._recorded import Recorded
from kaizen_cli._session import terminal_channel
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import shortened

if TYPE_CHECKING:
    from rich.status import Status

__all__ = [
    "Lines",
    "Progress",
    "Spinner",
    "follow",
    "interrupt",
    "progress_for",
    "stopped",
]

INTERRUPTED = 130
_CTRL_C = "Ctrl+C"
_STOPPING = "Stopping after this turn. Ctrl+C again stops at once."
_MAX_STEP = 200
_MAX_VALUE = 60


async def follow(
    stream: RunStream,
    terminal: Terminal,
    progress: Progress,
    recorded: Recorded,
    on_text: Callable[[str], None] | None = None,
) -> Run:
    """Carry out a run, show what it does, and let Ctrl+C stop it in good order.

    Of a run that goes on, only what is new is shown.

    Args:
        stream: The run that begins, or goes on.
        terminal: Where the user is told of a stop.
        progress: What shows each step.
        recorded: How the run was started, so that an error can say how it goes on.
        on_text: What is told each piece of a reply.

    Returns:
        The run, which has a result unless it was interrupted.
    """
    with progress:
        async with _interruptible(terminal, progress) as interrupts, stream as run:
            interrupts.run = run
            channel = terminal_channel(run.kernel)
            if channel is not None:
                channel.hidden = progress.hidden
                channel.tell = partial(progress.say, terminal)
            begin = len(run.log.entries)
            try:
                async for event in run:
                    if event.position < (begin, 0):
                        continue
                    progress.show(event)
                    if on_text is not None and isinstance(event, TextDelta):
                        on_text(event.text)
                await run.wait()
            except AgentInterrupted:
                return run
            except Exception as error:
                if run.log.durable:
                    error.add_note(f"Go on with: {recorded.resume(run.id)}")
                raise
            return run


def stopped(run: Run, recorded: Recorded, *, without: str) -> str:
    """Say that a run was interrupted, and how it goes on.

    Args:
        run: The run.
        recorded: How it was started.
        without: What it did not give.
    """
    why = run.interrupted.message if run.interrupted else ""
    known = ("", _CTRL_C, InterruptReason().message)
    told = "" if why in known else f" ({shortened(why, _MAX_STEP)})"
    if run.cancelled:
        return f"Cancelled{told}, no {without}. Run {run.id}"
    if not run.log.durable:
        return f"Interrupted{told}, no {without}. Run {run.id}"
    return f"Interrupted{told}. Go on with: {recorded.resume(run.id)}"


class Progress:
    """Shows nothing of what a run does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def show(self, event: StreamEvent) -> None:
        """Show one event."""

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Draw nothing for the time of a `with` block."""
        yield

    def say(self, terminal: Terminal, text: str) -> None:
        """Tell the user something meanwhile."""
        terminal.note(text, style="yellow")


class Lines(Progress):
    """Prints a line for each step."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._start = monotonic()

    def show(self, event: StreamEvent) -> None:
        step = described(event)
        if step:
            self._terminal.note(f"{monotonic() - self._start:6.1f} s  {step}")


class Spinner(Progress):
    """Shows the present step in one line that goes away at the end."""

    def __init__(self, terminal: Terminal) -> None:
        self._status = self._made(terminal)
        self._calls: dict[str, str] = {}
        self._paused = ""
        self._hidden = 0
        self._entered = False

    def __enter__(self) -> Self:
        self._status.start()
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered = False
        self._status.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        self._hidden += 1
        self._status.stop()
        try:
            yield
        finally:
            self._hidden -= 1
            if not self._hidden and self._entered:
                self._status.start()

    def show(self, event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            self._update("writing the answer")
        elif isinstance(event, ToolIntended):
            self._calls[event.call_id] = described(event)
            self._update(described(event))
        elif isinstance(event, ToolFinished):
            self._calls.pop(event.call_id, None)
            waits = self._paused or "thinking"
            self._update(next(reversed(self._calls.values()), waits))
        elif isinstance(event, ModelRequested | Paused | Continued):
            self._paused = described(event) if isinstance(event, Paused) else ""
            self._update(described(event))

    def _update(self, step: str) -> None:
        from rich.text import Text

        self._status.update(Text(step, style="dim", no_wrap=True, overflow="ellipsis"))

    @staticmethod
    def _made(terminal: Terminal) -> Status:
        from rich.status import Status
        from rich.text import Text

        return Status(Text("starting", style="dim"), console=terminal.err)


def progress_for(terminal: Terminal, *, verbose: bool) -> Progress:
    """Return what suits: lines if they are wanted, a spinner if somebody watches."""
    if verbose:
        return Lines(terminal)
    if terminal.interactive and os.environ.get("TERM") != "dumb":
        return Spinner(terminal)
    return Progress()


def described(event: StreamEvent) -> str:
    """Say in one line what an event means; `""` if it need not be said."""
    if isinstance(event, ModelRequested):
        model = f" {event.model}" if event.model else ""
        return shortened(f"turn {event.cycle}: asking {event.provider}{model}", _MAX_STEP)
    if isinstance(event, ToolIntended):
        return shortened(f"{event.name} {_arguments(event.arguments)}", _MAX_STEP)
    if isinstance(event, Paused):
        return shortened(f"paused{_by(event.by)}", _MAX_STEP)
    if isinstance(event, Continued):
        return shortened(f"goes on{_by(event.by)}", _MAX_STEP)
    if isinstance(event, Asked):
        return shortened(f"asks: {event.text}", _MAX_STEP)
    if isinstance(event, Steered):
        return shortened(f"to be read by the model: {event.message.text}", _MAX_STEP)
    if isinstance(event, ToolFinished) and not event.success:
        return shortened(f"{event.name} failed: {event.content}", _MAX_STEP)
    return ""


def _by(who: str) -> str:
    return f" by {who}" if who else ""


def _arguments(arguments: Mapping[str, Any]) -> str:
    pairs = (
        f"{name}={shortened(str(value), _MAX_VALUE)}"
        for name, value in arguments.items()
        if value not in (None, "", [], {})
    )
    return " ".join(pairs)


def interrupt(run: Run, *, immediate: bool) -> None:
    """Stop a run because the user pressed Ctrl+C."""
    mode = InterruptMode.IMMEDIATE if immediate else InterruptMode.GRACEFUL
    run.interrupt(
        InterruptReason(
            source=InterruptSource.USER,
            mode=mode,
            message=_CTRL_C,
            signal=InterruptSignal.USER_REQUESTED,
        )
    )


class _Interrupts:
    """Turns Ctrl+C into a stop: after the turn, then at once, then without manners."""

    def __init__(
        self, terminal: Terminal, progress: Progress, scope: anyio.CancelScope
    ) -> None:
        self.run: Run | None = None
        self.scope = scope
        self._terminal = terminal
        self._progress = progress
        self._count = 0

    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        """Wait for Ctrl+C again and again."""
        try:
            with anyio.open_signal_receiver(signal.SIGINT) as signals:
                task_status.started()
                async for _ in signals:
                    self._stop()
        except NotImplementedError:  # Windows: Ctrl+C cancels everything
            task_status.started()

    def _stop(self) -> None:
        self._count += 1
        if self.run is None:
            self.scope.cancel()
            return
        if self._count > 2:
            self._progress.__exit__(None, None, None)
            os._exit(INTERRUPTED)
        immediate = self._count == 2
        said = "Stopping at once." if immediate else _STOPPING
        self._progress.say(self._terminal, said)
        interrupt(self.run, immediate=immediate)


@asynccontextmanager
async def _interruptible(
    terminal: Terminal, progress: Progress
) -> AsyncIterator[_Interrupts]:
    """Let Ctrl+C stop the run that the block sets."""
    # Left by hand, so that an error that passes is not wrapped into a group.
    tasks = await anyio.create_task_group().__aenter__()
    interrupts = _Interrupts(terminal, progress, tasks.cancel_scope)
    try:
        await tasks.start(interrupts.listen)
        yield interrupts
    finally:
        given_up = tasks.cancel_scope.cancel_called
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)
        if given_up:
            raise KeyboardInterrupt
