"""The gate that every tool call passes: decide, ask if need be, and let it through or not.

A call may pass several gates, that of the plugin and those of contexts; the first one that
it reaches decides for all of them. Contexts hold for everything that is started inside
them, which is what context variables are for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import anyio.to_thread
from kaizen.errors import ToolRefusedError
from kaizen.hooks import Priority, hookimpl
from kaizen.hookspecs import CallNext
from kaizen.run import Run, current_run
from kaizen.tools import ToolCall, ToolResult, action_digest
from pydantic_core import to_json

from kaizen_permissions._policy import Decided, Policy, judge, strictest
from kaizen_permissions._rules import PermissionRule
from kaizen_permissions._subject import Subject
from kaizen_permissions._types import NOBODY, PermissionType, Who

if TYPE_CHECKING:
    from kaizen_permissions._context import ExecutionContext

__all__ = ["Council", "InnerGate", "Operator", "in_force", "pass_gate", "who_of"]

MAX_SHOWN_CHARS = 500
MAX_NOTED_BYTES = 4_096
SOURCE = "permissions"
_IN_FORCE: ContextVar[tuple[ExecutionContext, ...]] = ContextVar(
    "kaizen_permissions_in_force", default=()
)
_PASSED: ContextVar[_Passed | None] = ContextVar("kaizen_permissions_passed", default=None)


class _Passed(NamedTuple):
    """A call that a gate has let through, and who decided about it."""

    run_id: str
    call: ToolCall
    council: Council


class Operator(Protocol):
    """Whoever runs the kernel: the settings of the plugin."""

    @property
    def policy(self) -> Policy:
        """What they allow and refuse."""
        ...

    @property
    def expires_s(self) -> float | None:
        """How long an answer is waited for, in seconds; `None` for the kernel's time."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether rules that a person adds are kept in a file."""
        ...

    def reviews(self, call: ToolCall) -> Awaitable[Sequence[tuple[str, PermissionType]]]:
        """Return what other plugins say of a call, with their names."""
        ...

    async def remember(self, rule: PermissionRule) -> str:
        """Keep a rule that a person has added; return where."""
        ...


@contextmanager
def in_force(context: ExecutionContext) -> Generator[None]:
    """Let a context hold for what is started inside the block, for as long as that goes."""
    now = _IN_FORCE.get()
    if any(each is context for each in now):
        yield
        return
    token = _IN_FORCE.set((*now, context))
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Council:
    """Who decides about one call: the settings, and the contexts around it."""

    operator: Operator | None
    contexts: tuple[ExecutionContext, ...]
    who: Who = NOBODY

    def subject(self, call: ToolCall) -> Subject:
        """Return the call as rules look at it."""
        policy = self.operator.policy if self.operator else self.contexts[-1].policy
        return policy.subject(call, who=self.who)

    def levels(self, rule: PermissionRule | None = None) -> list[tuple[Policy, ...]]:
        """Return the policies that hold together, once for each context.

        Args:
            rule: How it would be if a person had added this rule.
        """
        base: tuple[Policy, ...] = ()
        if self.operator is not None:
            base = (self.operator.policy,)
        own = [each.policy for each in self.contexts]
        if rule is not None and self._kept_by_operator:
            base = tuple(each.with_rules(rule) for each in base)
        elif rule is not None:
            own = [each.with_rules(rule) for each in own]
        return [(*base, each) for each in own] or [base]

    def decide(self, subject: Subject, *, granted: bool) -> tuple[Decided, Decided | None]:
        """Return what is decided, and what the settings alone would have decided."""
        levels = [judge(each, subject, granted=granted) for each in self.levels()]
        base = None
        if self.operator is not None:
            base = levels[0]
            if self.contexts:
                base = judge((self.operator.policy,), subject, granted=granted)
        return strictest(levels), base

    def looks_at_files(self, subject: Subject) -> bool:
        """Whether to decide about a call belongs in a thread."""
        return any(
            policy.looks_at_files(subject) for level in self.levels() for policy in level
        )

    async def add(self, rule: PermissionRule) -> str:
        """Keep a rule that a person has added; return where."""
        if self.operator is not None and self._kept_by_operator:
            return await self.operator.remember(rule)
        for each in self.contexts:
            each.add_rules(rule)
        return "the contexts of this run"

    @property
    def keeps_in_a_file(self) -> bool:
        """Whether a rule that is added now holds in other programs, too."""
        return self.operator is not None and self.operator.remembers

    @property
    def _kept_by_operator(self) -> bool:
        if self.operator is None:
            return False
        return self.operator.remembers or not self.contexts


class InnerGate:
    """Holds all runs of a kernel without the plugin to the contexts that are in force.

    A run that a tool starts has hooks of its own; only the kernel's it shares with the
    runs around it.
    """

    NAME = "permissions_of_contexts"

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        if not _IN_FORCE.get():
            return await call_next(call)
        return await pass_gate(call, call_next)


async def pass_gate(
    call: ToolCall, call_next: CallNext, operator: Operator | None = None
) -> ToolResult:
    """Decide about a call, and make it if it may be made.

    Raises:
        ToolRefusedError: It may not be made; the message is for the model.
    """
    run = current_run()
    passed = _PASSED.get()
    if passed is not None and (passed.run_id, passed.call.id) != (run.id, call.id):
        passed = None
    if passed is not None and _is_the_same(passed, call, operator):
        return await call_next(call)
    council = Council(operator=operator, contexts=_IN_FORCE.get(), who=who_of(run))
    decided = await _decided(run, call, council)
    if decided.type is PermissionType.DENY:
        raise _refused(call, decided)
    if call.grant is not None and call.grant.approval:
        granted = call  # a person was asked; the kernel sees whether about this very call
    elif decided.type is PermissionType.ALLOW:
        granted = call.granted(by=SOURCE, reason=_short(decided.reason))
    else:
        from kaizen_permissions._asking import approved

        granted = await approved(run, call, decided, council)
    charged = passed.council.contexts if passed is not None else ()
    token = _PASSED.set(_Passed(run.id, granted, council))
    try:
        with ExitStack() as stack:
            for each in council.contexts:
                if each not in charged:
                    _spend(run, call, each, stack)
            return await call_next(granted)
    finally:
        _PASSED.reset(token)


def who_of(run: Run) -> Who:
    """Return on whose behalf a run acts: what the program that starts runs says of it.

    The tenant is that of the run, or of the next one around it that names one.
    """
    said = (each.metadata.get("tenant_id") for each in reversed(run.path))
    tenant = next((each for each in said if each not in (None, "")), "")
    return Who(run.principal, str(tenant))


def _spend(run: Run, call: ToolCall, context: ExecutionContext, stack: ExitStack) -> None:
    """Keep what a call costs free until it is made; that there is too little is noted."""
    try:
        stack.enter_context(context.spending(call.name))
    except ToolRefusedError as error:
        data = {"call_id": call.id, "tool": call.name, "reason": _short(str(error))}
        run.note(SOURCE, "over_budget", data)
        raise


def _is_the_same(passed: _Passed, call: ToolCall, operator: Operator | None) -> bool:
    """Whether a gate has let this very call through, and our settings had a say in it."""
    known = passed.call
    return (
        known.name == call.name
        and known.arguments is call.arguments
        and known.spec is call.spec
        and (operator is None or operator is passed.council.operator)
    )


async def _decided(run: Run, call: ToolCall, council: Council) -> Decided:
    subject = council.subject(call)
    decide = partial(council.decide, subject, granted=_is_granted(run, call))
    if council.looks_at_files(subject):
        decided, base = await anyio.to_thread.run_sync(decide)
    else:
        decided, base = decide()
    if council.operator is not None:
        for plugin, kind in await council.operator.reviews(call):
            if kind.strictness > decided.type.strictness:
                decided = Decided(kind, f"the plugin {plugin!r} wants it so")
    _note(run, call, council, subject, decided, base)
    return decided


def _is_granted(run: Run, call: ToolCall) -> bool:
    """Whether code granted the call, or the tool to the agent."""
    if call.grant is not None and call.grant.by != SOURCE:
        return True
    return call.name in run.agent.grants


def _note(
    run: Run,
    call: ToolCall,
    council: Council,
    subject: Subject,
    decided: Decided,
    base: Decided | None,
) -> None:
    """Put a decision into the log, with what is needed to decide the call again."""
    effect = call.spec.effect
    policies = [policy for level in council.levels() for policy in level]
    data: dict[str, Any] = {
        "call_id": call.id,
        "tool": call.name,
        "decision": decided.type.value,
        "rule": None if decided.rule is None else _short(str(decided.rule)),
        "reason": _short(decided.reason),
        "mode": ",".join(dict.fromkeys(each.mode.value for each in policies)),
        "digest": action_digest(call, run.principal),
        "category": _short(call.spec.category),
        "danger": effect.danger.name.lower(),
        "writes": effect.writes,
        "external": effect.external,
        "granted": _is_granted(run, call),
    }
    if subject.directory not in ("", subject.base.directory):
        data["directory"] = subject.directory
    for name, value in council.who._asdict().items():
        if value:
            data[name] = _short(value)
    if base is not None:
        data["settings"] = base.type.value
    if decided.type is not PermissionType.ALLOW:
        arguments = to_json(dict(call.arguments), inf_nan_mode="constants")
        if len(arguments) <= MAX_NOTED_BYTES:
            data["arguments"] = dict(call.arguments)
    run.note(SOURCE, "decision", data)


def _refused(call: ToolCall, decided: Decided) -> ToolRefusedError:
    return ToolRefusedError(
        f"this call of tool {call.name!r}",
        f"is refused: {decided.reason}",
        decided.remedy or "Do without it, or in another way that is allowed.",
    )


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
