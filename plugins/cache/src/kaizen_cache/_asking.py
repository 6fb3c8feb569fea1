"""What becomes of a call that the cache passed on, in the hooks of the agent itself."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

from kaizen.hooks import Priority, hookimpl
from kaizen.messages import ModelReply
from kaizen.run import current_run

if TYPE_CHECKING:
    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelRequest
    from kaizen.run import Run

__all__ = ["ASKING", "Arrivals", "Asking"]


class Asking:
    """A call that the cache passed on.

    Attributes:
        run: Whose call it is.
    """

    __slots__ = ("_reply", "_request", "run")

    def __init__(self, run: Run, request: ModelRequest) -> None:
        self.run = run
        self._request = request
        self._reply: object = None

    def is_asked_by(self, request: ModelRequest) -> bool:
        """Whether a request is the one that was passed on, but for its time limit."""
        asked = self._request
        if request is asked:
            return True
        settings = replace(request.settings, timeout_s=asked.settings.timeout_s)
        return replace(request, settings=settings) == asked

    def answered(self, reply: object) -> None:
        """Take note of what that very request brought."""
        self._reply = reply

    def is_answered_by(self, reply: object) -> bool:
        """Whether a reply is what that request brought, but for what it cost."""
        known = self._reply
        if not isinstance(known, ModelReply) or not isinstance(reply, ModelReply):
            return False
        if known is reply:
            return True
        return replace(known, usage=reply.usage, cost_usd=reply.cost_usd) == reply


ASKING: ContextVar[Asking | None] = ContextVar("kaizen_cache", default=None)
"""The innermost call inside which this code runs and which a cache passed on."""


class Arrivals:
    """Sees what an agent's own hooks made of a request, before all others that follow."""

    @hookimpl(priority=Priority.LOW)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Pass a call on, and take note if it is one that the cache passed on as it was."""
        asking, run = ASKING.get(), current_run()
        reply = await call_next(request)
        if asking is not None and asking.run is run and asking.is_asked_by(request):
            asking.answered(reply)
        return reply
