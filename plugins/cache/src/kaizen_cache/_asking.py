"""What becomes of a call that the cache passed on, in the hooks of the agent itself."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from kaizen.hooks import Priority, hookimpl
from kaizen.messages import ModelReply
from kaizen.run import current_run

from kaizen_cache._answer import in_json, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelRequest
    from kaizen.run import Run

__all__ = ["ASKING", "Arrivals", "Asking"]

Told = TypeVar("Told")


class Asking:
    """A call that the cache passed on.

    Hooks may also change it in place: what can be changed of it is kept as it was.

    Attributes:
        run: Whose call it is.
        request: What is asked.
    """

    __slots__ = ("_asked_parts", "_reply", "_reply_parts", "request", "run")

    def __init__(self, run: Run, request: ModelRequest) -> None:
        self.run = run
        self.request = request
        self._asked_parts = _told(_asked_parts, request)
        self._reply: object = None
        self._reply_parts: bytes | None = None

    def is_asked_by(self, request: ModelRequest) -> bool:
        """Whether a request is the one that was passed on, but for its time limit."""
        asked = self.request
        if request is not asked:
            settings = replace(request.settings, timeout_s=asked.settings.timeout_s)
            if replace(request, settings=settings) != asked:
                return False
        return _told(_asked_parts, request) == self._asked_parts

    def answered(self, reply: object) -> None:
        """Take note of what that very request brought."""
        self._reply = reply
        if isinstance(reply, ModelReply):
            self._reply_parts = _told(parts_of, reply)

    def is_answered_by(self, reply: object) -> bool:
        """Whether a reply is what that request brought, but for what it cost."""
        known = self._reply
        if not isinstance(known, ModelReply) or not isinstance(reply, ModelReply):
            return False
        if known is not reply:
            known = replace(known, usage=reply.usage, cost_usd=reply.cost_usd)
            if known != reply:
                return False
        return _told(parts_of, reply) == self._reply_parts


def _asked_parts(request: ModelRequest) -> bytes | None:
    """Return what can be changed in a request; `None` if nothing can."""
    parts: list[object] = [
        [[use.arguments for use in each.tool_uses], each.provider_data]
        for each in request.messages
        if each.tool_uses or each.provider_data is not None
    ]
    extra = request.settings.extra
    return in_json([extra, parts]) if extra or parts else None


def _told(tell: Callable[[Told], bytes | None], of: Told) -> bytes | None:
    """Return what is told of something, or nothing where JSON cannot hold that.

    Such a call has no key, and such a reply is not kept.
    """
    try:
        return tell(of)
    except (TypeError, ValueError, RecursionError):
        return None


ASKING: ContextVar[Asking | None] = ContextVar("kaizen_cache", default=None)
"""The innermost call inside which this code runs and which a cache passed on."""


class Arrivals:
    """Sees what an agent's own hooks made of a request, before all others that follow.

    These others are all of priority `LOW` and below, also the agent's own: what they change
    is not seen, and has to be the same for the same request.
    """

    @hookimpl(priority=Priority.LOW)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Pass a call on, and take note if it is one that the cache passed on as it was."""
        asking = ASKING.get()
        if asking is None or asking.run is not current_run():
            return await call_next(request)
        # Now and not later, when others may have changed back what their runs share.
        is_same = asking.is_asked_by(request)
        reply = await call_next(request)
        if is_same:
            asking.answered(reply)
        return reply
