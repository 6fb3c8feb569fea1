"""Time limits that cost little until the work has to wait.

Most hooks and tools finish without suspending. Setting a timer costs as much as they do,
so the coroutine is stepped by hand: the scope around it gets its deadline when the
coroutine suspends for the first time.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from anyio import CancelScope, current_time

__all__ = ["OutOfTimeError", "bounded", "stepped"]

Value = TypeVar("Value")


class OutOfTimeError(TimeoutError):
    """Our limit was reached; a plain `TimeoutError` comes from the work itself."""


@types.coroutine
def bounded(
    coroutine: Coroutine[Any, Any, Value],
    timeout_s: float,
    new_scope: Callable[[], CancelScope] = CancelScope,
) -> Generator[Any, Any, Value]:
    """Await a coroutine for at most some seconds from its first suspension on.

    Args:
        coroutine: The work.
        timeout_s: The time, in seconds.
        new_scope: Makes the scope around the work; see `Plan.new_scope`.

    Raises:
        OutOfTimeError: Time ran out; the coroutine was cancelled and has ended.
    """
    with new_scope() as scope:
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        scope.deadline = current_time() + timeout_s
        value: Value = yield from _relay(coroutine, yielded, _nothing)
    if scope.cancel_called:
        raise OutOfTimeError
    return value


@types.coroutine
def stepped(
    coroutine: Coroutine[Any, Any, Value], on_wait: Callable[[], None]
) -> Generator[Any, Any, Value]:
    """Await a coroutine and call a function each time before it waits."""
    try:
        yielded = coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    return (yield from _relay(coroutine, yielded, on_wait))


def _relay(
    coroutine: Coroutine[Any, Any, Value], yielded: Any, on_wait: Callable[[], None]
) -> Generator[Any, Any, Value]:
    """Stand between a coroutine that waits and its event loop until it ends."""
    try:
        while True:
            on_wait()
            try:
                sent = yield yielded
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                yielded = coroutine.throw(error)
            else:
                yielded = coroutine.send(sent)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _nothing() -> None: ...
