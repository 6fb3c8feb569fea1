"""Plugins for tests."""

from __future__ import annotations

from typing import Any

from kaizen.errors import KaizenError
from kaizen.events import Event
from kaizen.hooks import HookEvent, Priority, hookimpl
from kaizen.ports import Provider
from kaizen.registry import Registry

__all__ = ["ModelPlugin", "RecordingPlugin"]


class ModelPlugin:
    """Offers one provider, by default under the name `scripted`."""

    name = "scripted_model"

    def __init__(self, provider: Provider, name: str = "scripted") -> None:
        self._provider = provider
        self._offered_as = name

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        """Offer the provider."""
        registry.add(Provider, self._offered_as, self._provider)


class RecordingPlugin:
    """Remembers every operation that it sees.

    Attributes:
        events: Pairs of hook name and event, in order, from the observers.
        wrapped: Names of the operations that passed through its middleware, in order.
    """

    name = "recording"

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.wrapped: list[str] = []

    @property
    def hooks(self) -> list[str]:
        """The names of the observed hooks, in order."""
        return [name for name, _ in self.events]

    def errors(self) -> list[BaseException]:
        """What the observed operations raised, in order."""
        return [event.error for _, event in self.events if event.error is not None]

    def of(self, hook: str) -> list[Event]:
        """The events of one hook.

        Raises:
            KaizenError: There is no such hook.
        """
        if hook not in {each.value for each in HookEvent}:
            raise KaizenError(f"hook {hook!r}", "is unknown")
        return [event for name, event in self.events if name == hook]


def _observe(hook: str) -> Any:
    async def observe(self: RecordingPlugin, event: Event) -> None:
        self.events.append((hook, event))

    observe.__name__ = hook
    observe.__doc__ = f"Remember the event of `{hook}`."
    return hookimpl(priority=Priority.LOWEST)(observe)


def _wrap(operation: str) -> Any:
    hook = f"wrap_{operation}"
    if operation == "tool_call":

        async def wrap_call(self: RecordingPlugin, call: Any, call_next: Any) -> Any:
            self.wrapped.append(operation)
            return await call_next(call)

        return hookimpl(specname=hook)(wrap_call)

    async def wrap(self: RecordingPlugin, request: Any, call_next: Any) -> Any:
        self.wrapped.append(operation)
        return await call_next(request)

    return hookimpl(specname=hook)(wrap)


for _event in HookEvent:
    setattr(RecordingPlugin, _event.value, _observe(_event.value))
for _operation in ("agent_loop", "cycle", "model_call", "tool_call", "checkpoint_save"):
    setattr(RecordingPlugin, f"wrap_{_operation}", _wrap(_operation))
