"""Joins resilience to the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaizen.hooks import Priority, hookimpl
from kaizen.run import current_run

from kaizen_resilience._policy import Policy
from kaizen_resilience._resilience import carry
from kaizen_resilience._settings import ResilienceSettings
from kaizen_resilience._traffic import Traffic

if TYPE_CHECKING:
    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.registry import Registry

__all__ = ["ResiliencePlugin"]


class ResiliencePlugin:
    """Sees the model calls of all agents through: retries, fail-over, limits.

    It stands inside a cache, whose hits ask nobody, and outside of budgets, which count
    each attempt. A `Resilience` of an agent stands outside of it and takes its place.
    """

    Settings = ResilienceSettings
    serves: ClassVar[tuple[str, ...]] = ("retry_attempts",)

    def __init__(self, settings: ResilienceSettings) -> None:
        self._policy = Policy(settings)
        self._traffic = Traffic(settings)

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            Traffic,
            "default",
            self._traffic,
            description="Limits and circuit breakers of all model calls of this kernel.",
        )

    @hookimpl(priority=Priority.LOW)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        return await carry(
            self._policy, (self._traffic,), current_run(), request, call_next
        )
