"""What one agent may do: a policy of its own, and what its tools may cost."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakSet

from kaizen.errors import (
    ConfigurationError,
    ToolArgumentsError,
    ToolRefusedError,
    UnknownNameError,
)
from kaizen.hooks import HookManager, Priority, hookimpl
from kaizen.hookspecs import AgentLoop, CallNext
from kaizen.operations import Result, RunRequest
from kaizen.run import current_run, running
from kaizen.tools import ToolCall, ToolResult

from kaizen_permissions._defaults import PROTECTED
from kaizen_permissions._policy import Decided, Policy, Unasked
from kaizen_permissions._rules import PermissionRule
from kaizen_permissions._types import NOBODY, PermissionMode

if TYPE_CHECKING:
    from kaizen.tools import ToolSpec

__all__ = ["ExecutionContext", "ToolUsage"]

Money: TypeAlias = Decimal | int | float | str
_MOST_USD = Decimal(10) ** 12


class ToolUsage(NamedTuple):
    """What was used of one tool.

    Attributes:
        calls: How often it was called.
        cost_usd: What that cost, in US dollars.
    """

    calls: int
    cost_usd: Decimal


class ExecutionContext:
    """What one agent, and every run inside its runs, may do.

        context = ExecutionContext(mode="plan", denied_tools={"delete_file"})
        agent = BaseAgent(config, signature, tools="all", hooks=[context])

    It holds beside the settings of the plugin, and the strictest of both counts; where one
    allows and the other says nothing, it is allowed. In a run inside another, the contexts
    of all of them hold, so that a child can do no more than its parent: on the same kernel,
    or on another one in which the plugin is enabled.

    Args:
        mode: What happens where no rule speaks; a `PermissionMode` or its word.
        budget_limit: Most US dollars that calls may cost, or `None`.
        allowed_tools: If given, these may be called and nothing else may; an empty set is
            nothing at all, and `None` is no restriction.
        denied_tools: What may not be called, whatever rules say.
        rules: Rules about tools and their arguments.
        tool_costs: What one call costs, by tool, in US dollars.
        roots: The folders and files that the agent works in.
        directory: What relative paths are relative to; by default the working directory.
        unasked: The highest danger level that runs where no rule speaks.
        protected: Patterns of paths; each change of what they name is asked about.
        roles: Who has which roles, for rules about roles: names of principals by role.
    """

    def __init__(
        self,
        mode: PermissionMode | str = PermissionMode.DEFAULT,
        budget_limit: Money | None = None,
        allowed_tools: Iterable[str] | None = None,
        denied_tools: Iterable[str] = (),
        rules: Iterable[PermissionRule] = (),
        *,
        tool_costs: Mapping[str, Money] | None = None,
        roots: Sequence[Path | str] = (".",),
        directory: Path | str | None = None,
        unasked: Unasked = "safe",
        protected: Iterable[str] = PROTECTED,
        roles: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self._policy = Policy(
            rules,
            mode=mode,
            allowed_tools=allowed_tools,
            denied_tools=denied_tools,
            roots=roots,
            directory=directory,
            unasked=unasked,
            protected=protected,
            roles=roles,
        )
        self.budget_limit = None if budget_limit is None else _usd(budget_limit)
        self._costs = {name: _usd(cost) for name, cost in (tool_costs or {}).items()}
        self._lock = Lock()
        self._usage: dict[str, ToolUsage] = {}
        self._used = Decimal(0)
        self._reserved = Decimal(0)
        self._gated: WeakSet[HookManager] = WeakSet()

    def __repr__(self) -> str:
        return f"<ExecutionContext {self.mode.value}, {len(self.rules)} rules>"

    @property
    def policy(self) -> Policy:
        """What decides, with the rules that were added since."""
        return self._policy

    @property
    def mode(self) -> PermissionMode:
        """What happens where no rule speaks."""
        return self._policy.mode

    @property
    def rules(self) -> tuple[PermissionRule, ...]:
        """All rules, also those that a person added by answering "always"."""
        return self._policy.rules

    def add_rules(self, *rules: PermissionRule) -> None:
        """Add rules from now on."""
        with self._lock:
            self._policy = self._policy.with_rules(*rules)

    def can_use_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        spec: ToolSpec | None = None,
    ) -> Decided:
        """Return whether a tool may be called without a question, and why.

        The answer is true or false as it stands, and can be taken apart:
        `allowed, reason = context.can_use_tool("write_file", {"path": "notes.md"})`.
        Only this context is asked; the settings of the plugin, and contexts around it, may
        be stricter.

        Args:
            name: The tool.
            arguments: What it would be called with. Without them, a tool counts as allowed
                only if it is whatever they are.
            spec: What is known of the tool; inside a run, that run's agent knows it.
        """
        who = NOBODY
        if (run := running()) is not None:
            from kaizen_permissions._gate import who_of

            who = who_of(run)
            spec = run.plan.spec_of.get(name) if spec is None else spec
        return self._policy.decide(name, arguments, spec=spec, who=who)

    @property
    def budget_used(self) -> Decimal:
        """What calls have cost so far, in US dollars."""
        return self._used

    @property
    def usage(self) -> Mapping[str, ToolUsage]:
        """What was used so far, by tool."""
        with self._lock:
            return MappingProxyType(dict(self._usage))

    def has_budget(self, cost: Money = 0) -> bool:
        """Whether something may still be spent, and a cost in US dollars fits in it."""
        with self._lock:
            return self._has_room(_usd(cost))

    def record_tool_usage(self, name: str, cost: Money = 0) -> None:
        """Count one call of a tool, and what it cost in US dollars. From any thread."""
        amount = _usd(cost)
        with self._lock:
            calls, before = self._usage.get(name, ToolUsage(0, Decimal(0)))
            self._usage[name] = ToolUsage(calls + 1, before + amount)
            self._used += amount

    @contextmanager
    def spending(self, name: str) -> Generator[None]:
        """Keep what a call costs free while it is made, and count it afterwards.

        A call that is refused before it is made is not counted.

        Raises:
            ToolRefusedError: There is not enough left for it.
        """
        cost = self._costs.get(name, Decimal(0))
        with self._lock:
            if not self._has_room(cost):
                raise ToolRefusedError(
                    f"tool {name!r}",
                    f"costs more than is left of the budget of {self.budget_limit} USD",
                    "Finish without it.",
                )
            self._reserved += cost
        made = True
        try:
            yield
        except (ToolRefusedError, ToolArgumentsError, UnknownNameError):
            made = False
            raise
        finally:
            if made:
                self.record_tool_usage(name, cost)
            with self._lock:
                self._reserved -= cost

    def _has_room(self, cost: Decimal) -> bool:
        if self.budget_limit is None:
            return True
        taken = self._used + self._reserved
        return taken < self.budget_limit and taken + cost <= self.budget_limit

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        from kaizen_permissions._gate import in_force

        self._hold_inner_runs()
        with in_force(self):
            return await call_next(request)

    @hookimpl(specname="wrap_tool_call", priority=Priority.CRITICAL)
    async def enter_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        """Hold during a call, also one that is made outside a loop."""
        from kaizen_permissions._gate import in_force

        self._hold_inner_runs()
        with in_force(self):
            return await call_next(call)

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        from kaizen_permissions._gate import pass_gate

        return await pass_gate(call, call_next)

    def _hold_inner_runs(self) -> None:
        """See to it that all runs of this kernel pass a gate: the plugin's, or ours."""
        kernel = current_run().plan.kernel
        if kernel.hooks in self._gated:
            return
        from kaizen_permissions._gate import InnerGate
        from kaizen_permissions._plugin import PermissionsPlugin

        if (
            kernel.registry.offered(PermissionsPlugin, "default") is None
            and InnerGate.NAME not in kernel.hooks.names()
        ):
            kernel.hooks.add(InnerGate(), name=InnerGate.NAME)
        self._gated.add(kernel.hooks)


def _usd(amount: Money) -> Decimal:
    """Return an amount of money exactly as it is written."""
    try:
        if isinstance(amount, bool):
            raise TypeError("a truth value")
        exact = amount if isinstance(amount, Decimal) else Decimal(str(amount))
    except (InvalidOperation, TypeError, ValueError):
        exact = Decimal("NaN")
    if not exact.is_finite() or not 0 <= exact <= _MOST_USD:
        raise ConfigurationError(
            f"the amount {amount!r}", "is none that can be spent", "Give US dollars from 0."
        )
    return exact
