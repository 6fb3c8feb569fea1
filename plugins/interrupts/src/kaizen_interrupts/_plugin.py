"""Joins interrupts to the kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from kaizen.hooks import Priority, hookimpl
from kaizen.kernel import Kernel
from kaizen.registry import Registry

from kaizen_interrupts._budget import BudgetInterruptHandler
from kaizen_interrupts._company import company
from kaizen_interrupts._handlers import ResourceInterruptHandler, TimeoutInterruptHandler
from kaizen_interrupts._listener import Listener
from kaizen_interrupts._manager import InterruptManager
from kaizen_interrupts._settings import InterruptsSettings

if TYPE_CHECKING:
    from kaizen.hookspecs import AgentLoop, Cycle
    from kaizen.operations import CycleRequest, CycleResult, Result, RunRequest
    from kaizen.run import Run

    from kaizen_interrupts._handlers import BaseInterruptHandler

__all__ = ["InterruptsPlugin"]


class InterruptsPlugin:
    """Stops, pauses and steers runs: on request, by limits, and from other processes.

    Attributes:
        manager: The manager of all runs of the kernel.
    """

    Settings = InterruptsSettings

    def __init__(self, settings: InterruptsSettings) -> None:
        self._settings = settings
        self._listener: Listener | None = None
        self.manager = InterruptManager(
            check_interval=settings.check_interval, on_begin=self._begin
        )
        for handler in _handlers(settings):
            self.manager.add_handler(handler)

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Listen to other processes, and to signals if that is set."""
        async with AsyncExitStack() as stack:
            if self._settings.poll_interval:
                self._listener = Listener(self.manager, self._settings.poll_interval)
                tasks = await stack.enter_async_context(company())
                tasks.start_soon(self._listener.listen)
            if self._settings.handle_signals:
                from kaizen_interrupts._signals import handle_signals

                await stack.enter_async_context(handle_signals(self.manager))
            try:
                yield
            finally:
                self._listener = None

    def _begin(self, run: Run) -> None:
        if self._listener is not None and run.log.durable:
            self._listener.wake()

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            InterruptManager,
            "default",
            self.manager,
            description="Stops, pauses and steers all runs of this kernel.",
        )

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        listener = self._listener
        try:
            return await self.manager.wrap_agent_loop(request, call_next)
        finally:
            if listener is not None:
                await listener.put_back(request.run_id)

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
        return await self.manager.wrap_cycle(request, call_next)


def _handlers(settings: InterruptsSettings) -> Iterator[BaseInterruptHandler]:
    """Yield a handler for each limit that is set."""
    if settings.timeout_seconds is not None:
        yield TimeoutInterruptHandler(settings.timeout_seconds)
    if settings.max_budget_usd is not None:
        yield BudgetInterruptHandler(
            settings.max_budget_usd,
            track_by=settings.track_by,
            alert_threshold=settings.alert_threshold,
        )
    if settings.max_memory_mb is not None or settings.max_cpu_percent is not None:
        yield ResourceInterruptHandler(settings.max_memory_mb, settings.max_cpu_percent)
