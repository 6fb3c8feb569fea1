"""Limits of one agent hold for the runs inside its runs, whatever agents these are of."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kaizen.hooks import Priority, hookimpl
from kaizen.run import current_run

from kaizen_budgets._limits import GATES, SpendLimits

if TYPE_CHECKING:
    from kaizen.hookspecs import CallNext, ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run
    from kaizen.tools import ToolCall, ToolResult

__all__ = ["Inheritance"]


class Inheritance:
    """Holds every run of a kernel to the limits around it: hooks for that kernel.

    The plugin is one; to a kernel without it, the first limits that are used there add one.
    """

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Pay for a request out of the accounts of the limits around the run."""
        if GATES.get():
            for gate in _inherited(current_run()):
                call_next = partial(gate.wrap_model_call, call_next=call_next)
        return await call_next(request)

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        """Pay for a tool call out of the same accounts."""
        if GATES.get():
            for gate in _inherited(current_run()):
                call_next = partial(gate.wrap_tool_call, call_next=call_next)
        return await call_next(call)


def _inherited(run: Run) -> tuple[SpendLimits, ...]:
    """Return the limits around a run that its own agent does not have."""
    return tuple(gate for gate in GATES.get() if not gate.attends(run))
