"""Ctrl+C and SIGTERM: the first stops gracefully, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from signal import Signals

import anyio
from anyio.lowlevel import RunVar
from kaizen.errors import ConfigurationError
from kaizen.interrupts import InterruptMode, InterruptSignal, InterruptSource

from kaizen_interrupts._company import company
from kaizen_interrupts._manager import InterruptManager

__all__ = ["handle_signals"]

_HANDLED: RunVar[bool] = RunVar("kaizen_interrupts_signals")


@asynccontextmanager
async def handle_signals(
    manager: InterruptManager,
    signals: Sequence[Signals] = (Signals.SIGINT, Signals.SIGTERM),
) -> AsyncGenerator[None]:
    """Let signals stop the runs of a manager, for the time of an `async with` block.

    The first signal stops them gracefully, the second at once. The third ends the process
    on the spot, by the system's own default: nothing is cleaned up, not even by Python.
    While the event loop is blocked, none is heard.

    SIGINT comes from a user, any other from the system, as a shutdown. The request stays in
    force, so that no other run begins.

    Raises:
        ConfigurationError: This is not the main thread, the only one that signals reach, or
            somebody handles signals in this event loop already.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "handle_signals",
            "works in the main thread only, which alone is told of signals",
            "Leave it out, and call `request_interrupt` from the main thread.",
        )
    if _HANDLED.get(False):
        raise ConfigurationError(
            "handle_signals",
            "is in use in this event loop already, and a signal has one receiver",
            "Leave it out, and give that manager this one with `add_child`.",
        )
    before = {each: signal.getsignal(each) for each in signals}
    handled = _HANDLED.set(True)
    try:
        with anyio.open_signal_receiver(*signals) as received:
            async with company() as tasks:
                tasks.start_soon(_obey, received, manager)
                yield
    finally:
        _HANDLED.reset(handled)
        for number, handler in before.items():
            if handler is not None and not _belongs_to_a_loop(handler):
                signal.signal(number, handler)


def _belongs_to_a_loop(handler: object) -> bool:
    """Whether a handler only wakes asyncio, which does not know of the signal any more."""
    return getattr(handler, "__module__", "") == "asyncio.unix_events"


async def _obey(received: AsyncIterator[Signals], manager: InterruptManager) -> None:
    heard = 0
    async for number in received:
        heard += 1
        if heard > 2:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        mode = InterruptMode.GRACEFUL if heard == 1 else InterruptMode.IMMEDIATE
        by_user = number is Signals.SIGINT
        manager.request_interrupt(
            f"the process received {number.name}",
            source=InterruptSource.USER if by_user else InterruptSource.SYSTEM,
            signal=InterruptSignal.USER_REQUESTED if by_user else InterruptSignal.SHUTDOWN,
            mode=mode,
            metadata={"signal": number.name},
        )
