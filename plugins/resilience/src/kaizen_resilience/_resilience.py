"""The middleware: for the agents of a kernel, or for one in its own way."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kaizen.hooks import hookimpl
from kaizen.run import current_run

from kaizen_resilience._policy import Policy
from kaizen_resilience._settings import ResilienceSettings
from kaizen_resilience._traffic import Traffic

if TYPE_CHECKING:
    from random import Random

    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run

__all__ = ["Resilience", "carry"]

_CARRIED: ContextVar[str] = ContextVar("kaizen_resilience", default="")
"""The run whose model call is seen through already, by a middleware further outside."""


class Resilience:
    """Sees the model calls of one agent through, as its `hooks` say and not the plugin.

        BaseAgent(..., hooks=[Resilience(fallbacks=["anthropic/claude-sonnet-4-5"])])

    With the plugin, its limits and its circuit breakers hold as well: they belong to all
    With the plugin, its limits and its circuit breakers hold as well: they belong to all
    who ask. Breakers of its own it has beside them if its settings say so
    (`circuit_failures`, `circuit_open_s`). Serves one event loop at a time.

    Args:
        random: Where chance comes from.
        settings: The fields of `ResilienceSettings`.

    Raises:
        pydantic.ValidationError: A field is unknown, or its value is none.
    """

    def __init__(self, *, random: Random | None = None, **settings: Any) -> None:
        self._policy = Policy(ResilienceSettings(**settings), owned=True, random=random)
        self._traffic = Traffic(self._policy.settings)

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        run = current_run()
        return await carry(self._policy, self._shared(run), run, request, call_next)

    def _shared(self, run: Run) -> tuple[Traffic, ...]:
        """Return what has to be minded: first its own limits, then those of the kernel."""
        offer = run.kernel.registry.offered(Traffic, "default")
        if offer is None:
            return (self._traffic,)
        return (self._traffic, offer.factory)


async def carry(
    policy: Policy,
    traffic: tuple[Traffic, ...],
    run: Run,
    request: ModelRequest,
    call_next: ModelCall,
) -> ModelReply:
    """See one model call through, unless somebody further outside does."""
    if _CARRIED.get() == run.id:
        return await call_next(request)
    from kaizen_resilience._call import Call  # a kernel that starts needs none of it

    token = _CARRIED.set(run.id)
    try:
        settings = policy.in_time(request.settings)
        if settings is not request.settings:
            request = replace(request, settings=settings)
        return await Call(policy, run, request, call_next, traffic).answer()
    finally:
        _CARRIED.reset(token)
