"""The manager: knows the runs, stops them, and asks handlers whether one must stop."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import isawaitable
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from kaizen.errors import InterruptHandlerError
from kaizen.hooks import Priority, hookimpl
from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)

from kaizen_interrupts._budget import user_of
from kaizen_interrupts._company import company
from kaizen_interrupts._handlers import require_positive

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from kaizen.hookspecs import AgentLoop, Cycle
    from kaizen.operations import CycleRequest, CycleResult, Result, RunRequest
    from kaizen.ports import Interrupter
    from kaizen.run import Run

__all__ = ["InterruptManager"]

MIN_WAIT_S = 0.001
ANSWER_S = 5.0
MAX_TOLD = 1_000
_LOG = logging.getLogger("kaizen")
Value = TypeVar("Value")


class InterruptManager:
    """Stops runs on request, and those that one of its handlers wants to stop.

    It serves the runs of the agents that it is given to, `BaseAgent(…, hooks=[manager])`;
    that of the plugin serves all runs of its kernel. A request stops every run that it
    knows, and every one that begins until `clear_interrupt`. Its methods may be called from
    any task and any thread.

    Args:
        check_interval: How often handlers are asked while a run goes on, in seconds. They
            are asked before each turn as well.
        on_begin: Is called with each run that begins.
    """

    def __init__(
        self,
        *,
        check_interval: float = 0.5,
        on_begin: Callable[[Run], None] | None = None,
    ) -> None:
        self.check_interval = require_positive("check_interval", check_interval)
        self._on_begin = on_begin
        self._lock = Lock()
        self._reason: InterruptReason | None = None
        self._handlers: tuple[Interrupter, ...] = ()
        self._children: tuple[InterruptManager, ...] = ()
        self._known: dict[str, _Known] = {}

    def __repr__(self) -> str:
        state = "interrupted" if self.is_interrupted() else "not interrupted"
        return f"<InterruptManager of {len(self._known)} runs, {state}>"

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that go on, in the order in which they began."""
        with self._lock:
            return tuple(each.run for each in self._known.values())

    @property
    def handlers(self) -> tuple[Interrupter, ...]:
        """The handlers, in the order in which they are asked."""
        return self._handlers

    def request_interrupt(
        self,
        reason: InterruptReason | str = "",
        *,
        signal: InterruptSignal | None = None,
        source: InterruptSource | None = None,
        mode: InterruptMode = InterruptMode.GRACEFUL,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Stop the runs that go on, those of child managers, and those that begin.

        A second request that is immediate turns a graceful stop into an immediate one, and
        is otherwise ignored.

        Args:
            reason: A whole reason, or its message.
            signal: Why; by default what follows from `source`.
            source: Who asks; by default who would for this `signal`.
            mode: How the runs stop.
            metadata: What else there is to say.

        Returns:
            Whether the request changed anything.

        Raises:
            TypeError: The reason is neither, or its message or metadata are of no use.
            ValueError: There is no such signal, source or mode.
        """
        if isinstance(reason, str):
            source, signal = _who_and_why(source, signal)
            reason = InterruptReason(
                source=source,
                mode=mode,
                signal=signal,
                message=reason or "stopped on request",
                metadata=metadata or {},
            )
        elif signal or source or metadata or mode is not InterruptMode.GRACEFUL:
            raise TypeError("give an InterruptReason, or its parts, but not both")
        reason = _checked(reason)
        with self._lock:
            if not _sharpens(reason, self._reason):
                return False
            self._reason = reason
            children = self._children
        for run in self._outermost():
            _reach(run, partial(run.interrupt, reason))
        for child in children:
            child.request_interrupt(reason)
        return True

    def is_interrupted(self) -> bool:
        """Whether a request is in force."""
        return self._reason is not None

    def get_reason(self) -> InterruptReason | None:
        """Return the request that is in force, or `None`."""
        return self._reason

    def clear_interrupt(self) -> bool:
        """Let runs begin again; those that were stopped stay so.

        What child managers were asked through this one is cleared too.

        Returns:
            Whether a request was in force.
        """
        with self._lock:
            reason, self._reason = self._reason, None
            children = self._children
        for child in children:
            if reason is not None and child.get_reason() is reason:
                child.clear_interrupt()
        return reason is not None

    def add_handler(self, handler: Interrupter) -> None:
        """Ask a handler from now on, also about runs that go on: from their next turn.

        Args:
            handler: A `BaseInterruptHandler`, or anything else that has `check_interrupt`,
                a `def` or an `async def`.

        Raises:
            TypeError: It has none.
        """
        if isinstance(handler, type) or not hasattr(handler, "check_interrupt"):
            raise TypeError(f"{handler!r} is no object with check_interrupt()")
        with self._lock:
            if handler not in self._handlers:
                self._handlers = (*self._handlers, handler)

    def remove_handler(self, handler: Interrupter) -> bool:
        """Ask a handler no more; say whether it was one."""
        with self._lock:
            left = tuple(each for each in self._handlers if each is not handler)
            found = len(left) < len(self._handlers)
            self._handlers = left
        return found

    def add_child(self, manager: InterruptManager) -> None:
        """Let requests reach the runs of another manager as well.

        Runs that are started inside a run need no such thing: they follow by themselves.

        Raises:
            ValueError: The other one is this one, or above it.
        """
        if manager is self or manager._is_above(self):
            raise ValueError("a manager cannot be its own child")
        with self._lock:
            if manager not in self._children:
                self._children = (*self._children, manager)
            reason = self._reason
        if reason is not None:
            manager.request_interrupt(reason)

    def remove_child(self, manager: InterruptManager) -> bool:
        """Let requests no longer reach another manager; say whether they did."""
        with self._lock:
            left = tuple(each for each in self._children if each is not manager)
            found = len(left) < len(self._children)
            self._children = left
        return found

    def pause(self, run_id: str | None = None, *, by: str = "") -> bool:
        """Let a run, or all, wait before the next step; say whether that changed anything.

        Args:
            run_id: Which run; without one, all that this manager knows.
            by: Who asks, for the log.
        """
        return self._each(run_id, lambda run: run.pause(by))

    def resume(self, run_id: str | None = None, *, by: str = "") -> bool:
        """Let a run that is paused, or all, go on; say whether that changed anything."""
        return self._each(run_id, lambda run: run.resume(by))

    def steer(self, text: str, run_id: str | None = None, *, by: str = "") -> bool:
        """Give the model of a run a message; say whether it can hear it.

        Without a run, the models of all are told, but for those of runs inside others.

        Raises:
            ValueError: It is empty or longer than 100,000 characters.
        """
        from kaizen_interrupts._commands import MAX_TEXT_CHARS

        if not 0 < len(text) <= MAX_TEXT_CHARS:  # also where no run is that would say so
            raise ValueError(f"a message has 1 to {MAX_TEXT_CHARS} characters")
        return self._each(run_id, lambda run: run.steer(text, by))

    def cancel(self, run_id: str | None = None, *, message: str = "cancelled") -> bool:
        """Stop a run, or all, at once; say whether that changed anything.

        It ends as `cancelled`: nothing carries it on by itself, and only an explicit
        `resume`, a fork or a rewind goes on from it.
        """
        return self._each(run_id, lambda run: run.cancel(message))

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        """Know a run while it goes on, and have it watched if there is a handler."""
        from kaizen.run import current_run  # a kernel that starts needs no runs

        run = current_run()
        if run.id in self._known:  # the agent was given the manager of its kernel
            return await call_next(request)
        known = _Known(run)
        with self._lock:
            self._known[run.id] = known
            reason = self._reason
        try:
            if self._on_begin is not None:
                self._on_begin(run)
            if reason is not None:
                run.interrupt(reason)
            if self._handlers:
                return await self._watched(known, partial(call_next, request))
            return await call_next(request)
        finally:
            with self._lock:
                del self._known[run.id]

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
        """Ask the handlers before a turn, and do not begin it if the run has to stop."""
        if not self._handlers:
            return await call_next(request)
        known = self._known[request.run_id]
        run = known.run
        self._meet(known)
        for handler in self._handlers:
            await self._ask(known, handler)
        if run.interrupted is not None:
            await run.until_continued()  # raises
        if known.tasks is None:
            return await self._watched(known, partial(call_next, request))
        self._watch_new(known)
        return await call_next(request)

    async def _watched(self, known: _Known, work: Callable[[], Awaitable[Value]]) -> Value:
        """Do some work of a run, and ask the handlers meanwhile."""
        async with company() as tasks:
            known.tasks = tasks
            self._meet(known)
            self._watch_new(known)
            try:
                return await work()
            finally:
                known.tasks, known.watched = None, ()

    def _meet(self, known: _Known) -> None:
        """Tell handlers of a run that they do not know."""
        for handler in self._handlers:
            if handler in known.met:
                continue
            known.met = (*known.met, handler)
            begin = getattr(handler, "begin", None)
            if begin is None:
                continue
            try:
                begin(known.run)
            except Exception as error:  # noqa: BLE001 - it fails as if it had been asked
                self._failed(known, handler, error)

    def _watch_new(self, known: _Known) -> None:
        for handler in self._handlers:
            if handler not in known.watched and known.tasks is not None:
                known.watched = (*known.watched, handler)
                known.tasks.start_soon(self._watch, known, handler)

    async def _watch(self, known: _Known, handler: Interrupter) -> None:
        """Ask one handler at intervals, and when it is due, until the run has ended."""
        while True:
            await anyio.sleep(self._pause_before(known, handler))
            if handler not in self._handlers:
                known.watched = tuple(each for each in known.watched if each != handler)
                return
            await self._ask(known, handler)

    def _pause_before(self, known: _Known, handler: Interrupter) -> float:
        due_in = getattr(handler, "due_in", None)
        if due_in is None or known.run.interrupted is not None:
            return self.check_interval
        try:
            due = due_in(_context(known.run))
        except Exception as error:  # noqa: BLE001 - it is asked all the same, and reported
            self._failed(known, handler, error)
            return self.check_interval
        if due is None:
            return self.check_interval
        return max(MIN_WAIT_S, min(float(due), self.check_interval))

    async def _ask(self, known: _Known, handler: Interrupter) -> None:
        """Ask one handler about a run, and stop the run if it says so, or fails."""
        limit_s = getattr(handler, "timeout_s", ANSWER_S)
        reason: Any = None
        try:
            with anyio.move_on_after(limit_s) as scope:
                reason = handler.check_interrupt(_context(known.run))
                if isawaitable(reason):
                    reason = await reason
            if scope.cancelled_caught:
                raise TimeoutError(f"no answer in {limit_s:g} s")
            if reason is not None:
                known.run.interrupt(_checked(reason))
        except Exception as error:  # noqa: BLE001 - a stranger's, reported
            self._failed(known, handler, error)

    def _failed(self, known: _Known, handler: Interrupter, problem: Exception) -> None:
        """Stop a run of which a handler cannot say whether it must stop, if that counts."""
        name = type(handler).__name__
        stops = getattr(handler, "on_failure", "stop") == "stop"
        error = InterruptHandlerError(
            f"interrupt handler {name!r}",
            f"failed: {type(problem).__name__}: {problem}"[:MAX_TOLD],
            "The run is stopped." if stops else "The run goes on.",
        )
        if handler not in known.failed:
            known.failed = (*known.failed, handler)
            _LOG.error("run %s: %s", known.run.id, error, exc_info=problem)
            if not known.run.ended:
                data = {"handler": name, "code": error.code, "error": str(error)}
                known.run.note("interrupts", "handler_failed", data)
        if stops:
            known.run.interrupt(
                InterruptReason(
                    source=InterruptSource.SYSTEM,
                    message=str(error),
                    metadata={"handler": name, "error_code": error.code},
                )
            )

    def _is_above(self, other: InterruptManager) -> bool:
        return any(each is other or each._is_above(other) for each in self._children)

    def _outermost(self) -> tuple[Run, ...]:
        """Return the runs that are not inside others: through these, all are reached."""
        runs = self.runs
        known = set(runs)
        return tuple(each for each in runs if each.parent not in known)

    def _each(self, run_id: str | None, call: Callable[[Run], bool]) -> bool:
        if run_id is None:
            runs = self._outermost()
        else:
            runs = tuple(each for each in self.runs if each.id == run_id)
        changed = [_reach(run, partial(call, run)) for run in runs]
        return any(changed)


class _Known:
    """A run that goes on.

    Attributes:
        tasks: Where its watchers live, if there are any.
        met: The handlers that know of it.
        watched: The handlers that are asked about it at intervals.
        failed: The handlers whose failure was reported.
    """

    __slots__ = ("failed", "met", "run", "tasks", "watched")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.tasks: TaskGroup | None = None
        self.met: tuple[Interrupter, ...] = ()
        self.watched: tuple[Interrupter, ...] = ()
        self.failed: tuple[Interrupter, ...] = ()


def _context(run: Run) -> Mapping[str, Any]:
    """Return what handlers are told of a run."""
    state = run.state
    return {
        "run": run,
        "run_id": run.id,
        "agent_id": run.agent_id,
        "session_id": run.session_id,
        "user": user_of(run),
        "cycles": state.cycles,
        "tool_calls": state.tool_calls,
        "elapsed_s": perf_counter() - run.started,
        "usage": state.usage,
        "cost_usd": state.cost_usd,
        "metadata": run.metadata,
    }


def _reach(run: Run, call: Callable[[], bool]) -> bool:
    """Ask something of a run; should that fail, the next runs are asked all the same.

    A run may end at this moment, with its event loop.
    """
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - one run must not keep others from it
        if not run.ended:
            _LOG.warning("run %s could not be reached: %s", run.id, error)
        return False


def _sharpens(reason: InterruptReason, known: InterruptReason | None) -> bool:
    """Whether a request says more than the one in force."""
    if known is None:
        return True
    immediate = InterruptMode.IMMEDIATE
    return reason.mode is immediate and known.mode is not immediate


_SOURCES = {
    InterruptSignal.USER_REQUESTED: InterruptSource.USER,
    InterruptSignal.CUSTOM: InterruptSource.PROGRAMMATIC,
}


def _checked(reason: object) -> InterruptReason:
    """Return a reason with enumerations in it, where their values may have been given.

    Raises:
        TypeError: It is no reason, or one with parts of the wrong kind.
        ValueError: There is no such source, mode or signal.
    """
    if not isinstance(reason, InterruptReason):
        problem = f"{reason!r:.100} is no InterruptReason"
        if isinstance(reason, InterruptSignal | InterruptSource | InterruptMode):
            name = type(reason).__name__.removeprefix("Interrupt").lower()
            problem += f": write request_interrupt({name}=…)"
        raise TypeError(problem)
    message: object = reason.message
    metadata: object = reason.metadata
    if not isinstance(message, str) or not isinstance(metadata, Mapping):
        raise TypeError("a reason has a text as message and a mapping as metadata")
    source, mode = InterruptSource(reason.source), InterruptMode(reason.mode)
    signal = InterruptSignal(reason.signal)
    if (source, mode, signal) == (reason.source, reason.mode, reason.signal):
        return reason
    return replace(reason, source=source, mode=mode, signal=signal)


def _who_and_why(
    source: InterruptSource | None, signal: InterruptSignal | None
) -> tuple[InterruptSource, InterruptSignal]:
    """Fill in who asks for a stop, or why, from the other."""
    if signal is None:
        by_user = source is InterruptSource.USER
        signal = InterruptSignal.USER_REQUESTED if by_user else InterruptSignal.CUSTOM
    return source or _SOURCES.get(signal, InterruptSource.SYSTEM), signal
