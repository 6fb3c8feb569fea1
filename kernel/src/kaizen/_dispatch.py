"""Compiles, per operation, what its hooks come to.

An operation without hooks is the bare work. Middleware becomes a chain of calls that is
built once; observers become a list that is walked. Nothing is looked up while an agent
runs; when a plugin comes or goes, the whole plan is compiled again.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from time import perf_counter, time
from traceback import walk_tb
from typing import Any, NamedTuple, TypeAlias, TypeVar

from anyio import (
    CancelScope,
    current_time,
    get_cancelled_exc_class,
    get_current_task,
)

from kaizen._bounded import OutOfTimeError, stepped
from kaizen.errors import HookExecutionError
from kaizen.events import Event
from kaizen.hooks import DEFAULT_TIMEOUT_S, HookManager, Implementation

__all__ = ["MakeEvent", "Observer", "compile_operation", "notify", "observers"]

Request = TypeVar("Request")
Reply = TypeVar("Reply")
MakeEvent: TypeAlias = Callable[..., Event]
"""Makes an operation's event of `request`, `metadata`, and after it `duration_ms`, `result`
and `error`."""


class Observer(NamedTuple):
    """One observer, ready to be told.

    Attributes:
        call: Takes the event.
        is_async: Whether the outcome has to be awaited.
    """

    call: Callable[[Event], Any]
    is_async: bool
    implementation: Implementation
    manager: HookManager
    timeout_s: float


def compile_operation(
    name: str,
    work: Callable[[Request], Awaitable[Reply]],
    managers: Sequence[HookManager],
    make_event: MakeEvent,
    gives: type[Reply] | None = None,
) -> Callable[[Request], Awaitable[Reply]]:
    """Return an operation with all its hooks; without any, the work itself.

    Args:
        name: The operation, such as `tool_call`.
        work: What it does when no hook changes it.
        managers: Whose hooks take part, the kernel's before the agent's at equal order.
        make_event: Makes what observers are told.
        gives: What the operation gives; middleware that returns something else, such as
            nothing since it forgot its `return`, is an error.
    """
    chain = work
    links = _ordered(f"wrap_{name}", managers)
    for each, manager in reversed(links):
        chain = _link(each, chain, trace=manager.trace)
    if links:
        chain = _checked(chain, work, [each for each, _ in links], gives or object)
    before = observers(f"pre_{name}", managers)
    after = observers(f"post_{name}", managers)
    if not before and not after:
        return chain
    return _observed(chain, before, after, make_event)


def observers(hook: str, managers: Sequence[HookManager]) -> tuple[Observer, ...]:
    """Return the observers of a hook in order.

    A manager without a time limit of its own takes that of the first one, the kernel's.
    """
    default_s = (managers[0].timeout_s if managers else None) or DEFAULT_TIMEOUT_S
    return tuple(
        _observer(each, manager, default_s) for each, manager in _ordered(hook, managers)
    )


async def notify(told: tuple[Observer, ...], event: Event) -> None:
    """Tell observers one after the other; report those that fail, and go on."""
    if told:
        await _notify(told, event)


def _ordered(
    hook: str, managers: Sequence[HookManager]
) -> list[tuple[Implementation, HookManager]]:
    found = [
        (each, manager) for manager in managers for each in manager.implementations(hook)
    ]
    place = {id(manager): place for place, manager in enumerate(managers)}
    return sorted(
        found, key=lambda pair: (pair[0].order[0], place[id(pair[1])], pair[0].order[1:])
    )


def _observer(each: Implementation, manager: HookManager, default_s: float) -> Observer:
    timeout_s = manager.timeout_s or default_s
    call = each.function if each.accepts else _without_arguments(each.function)
    is_async = each.is_async
    if manager.trace:
        call, is_async = _traced_observer(call, each), True
    return Observer(call, is_async, each, manager, timeout_s)


def _without_arguments(function: Callable[[], Any]) -> Callable[[Event], Any]:
    return lambda _event: function()


def _link(
    each: Implementation, call_next: Callable[..., Any], *, trace: bool
) -> Callable[..., Any]:
    """Return a call that puts one middleware before the rest of the chain."""
    function = each.function
    if trace:
        function = _traced_middleware(function, each)
    elif not each.is_async:
        function = _awaitable(function)
    takes_next = "call_next" in each.accepts
    takes_request = any(name != "call_next" for name in each.accepts)
    if takes_next and takes_request:
        if each.accepts[0] == "call_next":
            return lambda request: function(call_next, request)
        return lambda request: function(request, call_next)
    if takes_next:
        return lambda _request: function(call_next)
    if takes_request:
        return function
    return lambda _request: function()


def _checked(
    chain: Callable[[Request], Awaitable[Reply]],
    work: Callable[[Request], Awaitable[Reply]],
    links: Sequence[Implementation],
    gives: type[object],
) -> Callable[[Request], Awaitable[Reply]]:
    """Check what middleware returns, and let an error that it raised say whose it was."""
    owners = {getattr(each.function, "__code__", None): each for each in links}
    inside = getattr(work, "__code__", None)

    async def run(request: Request) -> Reply:
        try:
            reply = await chain(request)
        except Exception as error:
            raised_by = None
            for frame, _ in walk_tb(error.__traceback__):
                raised_by = owners.get(frame.f_code, raised_by)
                if frame.f_code is inside:
                    raised_by = None
            if raised_by is not None:
                error.add_note(
                    f"raised by plugin {raised_by.plugin!r} in hook {raised_by.hook!r}"
                )
            raise
        if isinstance(reply, gives):
            return reply
        raise HookExecutionError(
            f"hook {links[0].hook!r} of {' or '.join(repr(each.plugin) for each in links)}",
            f"returned {type(reply).__name__!r} instead of {gives.__name__!r}",
            "Write `return await call_next(…)`.",
        )

    return run


def _awaitable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a plain function serve as middleware; it may return what `call_next` gave it."""

    async def call(*arguments: Any) -> Any:
        outcome = function(*arguments)
        return await outcome if isawaitable(outcome) else outcome

    return call


def _observed(
    chain: Callable[[Request], Awaitable[Reply]],
    before: tuple[Observer, ...],
    after: tuple[Observer, ...],
    make_event: MakeEvent,
) -> Callable[[Request], Awaitable[Reply]]:
    async def run(request: Request) -> Reply:
        metadata: dict[str, Any] = {}
        if before:
            await _notify(before, make_event(request=request, metadata=metadata))
        started = perf_counter()
        try:
            result = await chain(request)
        except BaseException as error:
            if after:
                spent = (perf_counter() - started) * 1_000
                event = make_event(
                    request=request, metadata=metadata, duration_ms=spent, error=error
                )
                with CancelScope(shield=True):  # each observer has its own time
                    await _notify(after, event)
            raise
        if after:
            spent = (perf_counter() - started) * 1_000
            event = make_event(
                request=request, metadata=metadata, duration_ms=spent, result=result
            )
            await _notify(after, event)
        return result

    return run


async def _notify(told: tuple[Observer, ...], event: Event) -> None:
    """Deliver an event; each observer has its own time once it waits."""
    delivery = _Delivery(told, event)
    while delivery.at < len(told):
        with CancelScope() as delivery.scope:
            await stepped(delivery.go_on(), delivery.arm)
        if delivery.at < len(told):
            delivery.report(OutOfTimeError())
            delivery.at += 1


class _Delivery:
    """One event on its way through a list of observers.

    Attributes:
        at: Whose turn it is.
        scope: Is cancelled when that observer runs out of time.
    """

    __slots__ = ("_armed", "_event", "_told", "at", "scope")

    def __init__(self, told: tuple[Observer, ...], event: Event) -> None:
        self._told = told
        self._event = event
        self._armed = -1
        self.at = 0
        self.scope: CancelScope

    def arm(self) -> None:
        """Give the observer that waits its time."""
        if self._armed != self.at:
            self._armed = self.at
            self.scope.deadline = current_time() + self._told[self.at].timeout_s

    async def go_on(self) -> None:
        """Tell the observers that are left, up to one that runs out of time."""
        event, told = self._event, self._told
        for at in range(self.at, len(told)):
            self.at = at
            observer = told[at]
            try:
                outcome = observer[0](event)
                if observer[1] or (outcome is not None and isawaitable(outcome)):
                    await outcome
            except Exception as error:  # noqa: BLE001 - observers fail open, and reported
                if self._armed != at or not self.scope.cancel_called:
                    self.report(error)
            except get_cancelled_exc_class() as error:
                if self.scope.cancel_called or _is_being_cancelled():
                    raise
                self.report(error)
            if self._armed == at and self.scope.cancel_called:
                return
        self.at = len(told)

    def report(self, error: BaseException) -> None:
        """Report the observer whose turn it is."""
        observer = self._told[self.at]
        manager = observer.manager
        manager.report(manager.failure(observer.implementation, error, observer.timeout_s))


def _is_being_cancelled() -> bool:
    """Tell whether a cancellation is meant for this task.

    If not, an observer awaited something else that was cancelled. Asked where an observer
    is cancelled, and nowhere else. The loop of asyncio cancels tasks without anyio as well,
    and counts that; it is looked up here, since the kernel imports no event loop.
    """
    if get_current_task().has_pending_cancellation():
        return True
    asyncio = sys.modules.get("asyncio")
    try:
        task = asyncio.current_task() if asyncio is not None else None
    except RuntimeError:  # it is not the loop that runs
        return True
    return task is None or task.cancelling() > 0


def _traced_observer(
    call: Callable[[Event], Any], each: Implementation
) -> Callable[[Event], Any]:
    async def traced(event: Event) -> Any:
        with _Trace(each):
            outcome = call(event)
            return await outcome if isawaitable(outcome) else outcome

    return traced


def _traced_middleware(
    function: Callable[..., Any], each: Implementation
) -> Callable[..., Any]:
    async def traced(*arguments: Any) -> Any:
        with _Trace(each):
            outcome = function(*arguments)
            return await outcome if isawaitable(outcome) else outcome

    return traced


class _Trace:
    """Writes to standard error what one implementation took and how it ended."""

    __slots__ = ("_implementation", "_started")

    def __init__(self, implementation: Implementation) -> None:
        self._implementation = implementation

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        spent = (perf_counter() - self._started) * 1_000
        ended = f" raised {type(error).__name__}" if error is not None else ""
        each = self._implementation
        line = f"kaizen {time():.3f} {each.hook} {each.plugin} {spent:.3f} ms{ended}"
        sys.stderr.write(f"{line}\n")
