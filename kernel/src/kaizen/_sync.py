"""The way from code that is not async to code that is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import CancelScope, from_thread
from anyio.lowlevel import current_token

from kaizen.errors import InitializationError
from kaizen.run import leave_run

if TYPE_CHECKING:
    from kaizen.kernel import Kernel

__all__ = ["run_agent_sync", "run_sync"]

HEARING_S = 0.5
Value = TypeVar("Value")


def run_sync(work: Awaitable[Value]) -> Value:
    """Run a coroutine to its end and return what it returns.

    Where an event loop is running already, as in a notebook, the coroutine runs in another
    thread with a loop of its own, and sees the context variables of the caller.
    """

    async def main() -> Value:
        leave_run()
        return await work

    if not _inside_a_loop():
        return anyio.run(main)
    return _in_thread(main)


def run_agent_sync(kernel: Kernel | None, work: Callable[[], Awaitable[Value]]) -> Value:
    """Run an agent's work where its kernel runs.

    Raises:
        InitializationError: The kernel runs in the very loop that the caller blocks.
    """

    async def main() -> Value:
        return await work()

    async def with_kernel() -> Value:
        assert kernel is not None
        async with kernel:
            return await work()

    if kernel is None:
        return run_sync(main())
    if not kernel.running:
        return run_sync(with_kernel())
    token = kernel._token
    if _inside_a_loop() and token == current_token():
        raise InitializationError(
            "run_sync()",
            "would block the event loop in which the agent's kernel runs",
            "Write `await agent.run(…)` instead.",
        )
    return from_thread.run(main, token=token)


def _inside_a_loop() -> bool:
    try:
        current_token()
    except RuntimeError:
        return False
    return True


def _in_thread(main: Callable[[], Awaitable[Value]]) -> Value:
    outcome: list[Value] = []
    failure: list[BaseException] = []
    stops: list[Callable[[], None]] = []
    abandoned, ended = Event(), Event()
    context = copy_context()

    async def adopted() -> Value:
        _adopt(context)
        with CancelScope() as scope:
            stops.append(partial(from_thread.run_sync, scope.cancel, token=current_token()))
            if abandoned.is_set():
                scope.cancel()
            return await main()
        raise KeyboardInterrupt

    def target() -> None:
        try:
            outcome.append(anyio.run(adopted))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failure.append(error)
        finally:
            ended.set()

    thread = Thread(target=target, name="kaizen-run-sync")
    try:
        thread.start()
        # An interrupted `join` takes the thread for ended; and a signal that comes just
        # before an endless wait is heard when that ends.
        while not ended.wait(HEARING_S):
            continue
    except BaseException:  # Ctrl+C: the work stops as well
        abandoned.set()
        with suppress(RuntimeError):  # it has ended
            for stop in stops:
                stop()
        if thread.ident is not None:
            ended.wait()
        raise
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _adopt(context: Context) -> None:
    """Set here what was set in another context, but for what belongs to its event loop."""
    here = copy_context()
    for variable, value in context.items():
        if variable not in here:
            variable.set(value)
