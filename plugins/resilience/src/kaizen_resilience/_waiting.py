"""Waits of a run that end when it is to stop, whatever they wait for."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import anyio
from kaizen.errors import AgentInterrupted

if TYPE_CHECKING:
    from kaizen.run import Run
    from kaizen.runlog import Subscription

__all__ = ["Wait"]


class Wait:
    """One run that waits, for a time or until somebody wakes it.

    It listens to the log of the run: that is where an interrupt shows first, also a
    graceful one, which cancels nothing. Whoever wakes it ends the listening, so that one
    thing is waited for and no task is needed.
    """

    __slots__ = ("_events", "_woken")

    def __init__(self) -> None:
        self._events: Subscription | None = None
        self._woken = False

    def wake(self) -> None:
        """End the wait, or the next one if nobody waits now."""
        self._woken = True
        if self._events is not None:
            self._events.cancel()

    async def until(self, run: Run, time: float = inf) -> None:
        """Wait until it is woken, at most until a time of the event loop.

        Raises:
            AgentInterrupted: The run was asked to stop.
        """
        self._events = events = run.log.subscribe(start=len(run.log.entries), buffer=1)
        try:
            with anyio.CancelScope(deadline=time):
                while run.interrupted is None and not self._woken:
                    if await anext(events, None) is None:
                        break
        finally:
            events.cancel()
            self._events = None
        self._woken = False
        if run.interrupted is not None:
            raise AgentInterrupted(run.interrupted, run.id)
