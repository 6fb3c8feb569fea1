"""Joins budgets to the kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from kaizen.hooks import Priority, hookimpl
from kaizen.kernel import Kernel
from kaizen.registry import Registry

from kaizen_budgets._inherited import Inheritance
from kaizen_budgets._ledger import Ledger
from kaizen_budgets._limits import SpendLimits
from kaizen_budgets._memory import MemoryLedger
from kaizen_budgets._settings import BudgetsSettings
from kaizen_budgets._terms import Terms

if TYPE_CHECKING:
    from kaizen.hookspecs import AgentLoop, CallNext, ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.operations import Result, RunRequest
    from kaizen.tools import ToolCall, ToolResult

    from kaizen_budgets._sqlite import SqliteLedger

__all__ = ["BudgetsPlugin"]


class BudgetsPlugin(Inheritance):
    """Keeps the runs of a kernel within budgets, also when many spend at once.

    Attributes:
        limits: What the hooks are done by.
    """

    Settings = BudgetsSettings

    def __init__(self, settings: BudgetsSettings) -> None:
        self._settings = settings
        self._kernel: Kernel | None = None
        terms = {name: getattr(settings, name) for name in Terms.model_fields}
        self.limits = SpendLimits(
            *settings.budgets, ledger=self._get_ledger, name="budgets", **terms
        )

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Know the kernel, which opens the ledger when it is first needed."""
        self._kernel = kernel
        yield

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            SpendLimits,
            "default",
            self.limits,
            description="The budgets of this kernel, and its ledger.",
        )
        registry.add(
            Ledger,
            "memory",
            MemoryLedger,
            description="Accounts in memory: for one process, and forgotten with it.",
        )
        registry.add(
            Ledger,
            "sqlite",
            self._open_file,
            description="Accounts in a file: for all processes of one machine.",
        )

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        return await self.limits.wrap_agent_loop(request, call_next)

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        around = partial(super().wrap_model_call, call_next=call_next)
        return await self.limits.wrap_model_call(request, around)

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        around = partial(super().wrap_tool_call, call_next=call_next)
        return await self.limits.wrap_tool_call(call, around)

    async def _get_ledger(self) -> Ledger:
        assert self._kernel is not None
        return await self._kernel.get(Ledger, self._settings.ledger)  # type: ignore[type-abstract]

    def _open_file(self) -> SqliteLedger:
        from kaizen_budgets._sqlite import SqliteLedger

        settings = self._settings
        return SqliteLedger(
            settings.path, lost=settings.lost, timeout_s=settings.timeout_seconds
        )
