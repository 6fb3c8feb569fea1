"""A run: one execution of an agent, from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from threading import get_ident
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CancelScope, from_thread

from kaizen._records import record
from kaizen.errors import AgentInterrupted, OutputError, RunError
from kaizen.interrupts import InterruptMode, InterruptReason
from kaizen.messages import Message, ModelReply, ModelRequest, Usage
from kaizen.operations import (
    Checkpoint,
    CheckpointRequest,
    CycleRequest,
    CycleResult,
    Result,
    RunRequest,
)
from kaizen.runlog import Interrupted, Noted, RunLog, RunState, StreamEvent, Subscription
from kaizen.tools import Outcome, Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from kaizen._dispatch import Observer
    from kaizen.agent import BaseAgent
    from kaizen.config import AgentConfig
    from kaizen.kernel import Kernel
    from kaizen.messages import ModelProfile, ModelSettings, OutputSpec
    from kaizen.ports import CheckpointStore, Provider, Strategy
    from kaizen.signatures import CompiledSignature
    from kaizen.tools import ToolSpec

__all__ = ["Plan", "Run", "current_run", "leave_run", "running"]

MAX_DEPTH = 32
_CUT_SHORT = ("length", "content_filter")
_CURRENT: ContextVar[Run | None] = ContextVar("kaizen_run", default=None)


def current_run() -> Run:
    """Return the run inside which this code is called: by a tool, a hook or a strategy.

    Raises:
        RunError: There is none.
    """
    run = _CURRENT.get()
    if run is None:
        raise RunError(
            "current_run()",
            "was called outside a run",
            "Call it in a tool, hook or strategy.",
        )
    return run


def running() -> Run | None:
    """Return the run inside which this code is called, or `None`."""
    return _CURRENT.get()


def leave_run() -> None:
    """Forget the current run here: what follows is in another event loop."""
    _CURRENT.set(None)


@record
class Plan:
    """Everything about an agent that its runs share: worked out once, used by each.

    Attributes:
        version: The hooks' version for which the operations were compiled.
        spec_of: What each tool said of itself when the plan was made; nothing else counts.
        specs: What the model is offered.
        offered: The names of these.
        free: Tools that run without a grant for the call: harmless ones, and those that the
            agent was granted.
        hooked: Whether hooks see tool calls, and what they may do has to be checked.
        opening: The messages that every conversation begins with.
        new_scope: Makes a cancel scope of this event loop. It is the scopes' own class:
            `CancelScope` itself looks up the event loop each time, for a third of the cost.
    """

    version: int
    kernel: Kernel
    config: AgentConfig
    signature: CompiledSignature
    provider: Provider
    provider_name: str
    profile: ModelProfile
    strategy: Strategy
    store: CheckpointStore | None
    tools: Mapping[str, Tool]
    spec_of: Mapping[str, ToolSpec]
    specs: tuple[ToolSpec, ...]
    offered: frozenset[str]
    output: OutputSpec | None
    settings: ModelSettings
    opening: tuple[Message, ...]
    free: frozenset[str]
    hooked: bool
    new_scope: Callable[[], CancelScope]
    agent_loop: Callable[[RunRequest], Awaitable[Result]]
    cycle: Callable[[CycleRequest], Awaitable[CycleResult]]
    model_call: Callable[[ModelRequest], Awaitable[ModelReply]]
    tool_call: Callable[[ToolCall], Awaitable[ToolResult]]
    checkpoint_save: Callable[[CheckpointRequest], Awaitable[Checkpoint]]
    pre_interrupt: tuple[Observer, ...]
    post_interrupt: tuple[Observer, ...]


class Run:
    """One execution of an agent.

    A tool, hook or strategy finds the run it works for with `current_run()`. Iterating over
    a run gives its events in order: every log entry, and the text as it is written.

    Attributes:
        id: 32 hexadecimal digits.
        agent: Whose run it is.
        agent_id: The agent's id.
        parent: The run inside which it was started.
        session_id: What the caller groups runs by, or `""`.
        trace_id: The id of the outermost run.
        inputs: The validated inputs.
        metadata: What the caller and plugins want to keep with the run.
        log: Everything it did.
        result: What it gave; `None` while it runs and if it failed.
        error: What it failed of, or `None`.
        interrupted: The reason for which it was asked to stop, or `None`.
    """

    __slots__ = (
        "_children",
        "_cycle",
        "_direct_calls",
        "_done",
        "_given",
        "_outcomes",
        "_scope",
        "_subscription",
        "_uncharged",
        "_validated",
        "agent",
        "agent_id",
        "depth",
        "ended",
        "error",
        "id",
        "inputs",
        "interrupted",
        "log",
        "metadata",
        "parent",
        "plan",
        "result",
        "session_id",
        "started",
        "trace_id",
    )

    def __init__(
        self,
        *,
        run_id: str,
        agent: BaseAgent,
        plan: Plan,
        inputs: Mapping[str, Any],
        parent: Run | None,
        session_id: str,
        metadata: Mapping[str, Any],
    ) -> None:
        self.id = run_id
        self.agent = agent
        self.agent_id = agent.agent_id
        self.plan = plan
        self.inputs = inputs
        self.parent = parent
        self.session_id = session_id
        self.metadata = metadata
        self.log = RunLog(run_id, plan.store)
        self.started = perf_counter()
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.interrupted: InterruptReason | None = None
        self.ended = False
        self._children: set[Run] | None = None
        self._scope: CancelScope | None = None
        self._subscription: Subscription | None = None
        self._cycle = 0
        self._uncharged: ModelReply | None = None
        self._given: Mapping[str, Any] = inputs
        self._validated: dict[str, tuple[Tool, dict[str, Any], Mapping[str, Any]]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._direct_calls = 0
        self._done: anyio.Event | None = None
        if parent is None:
            self.trace_id = run_id
            self.depth = 0
        else:
            self.trace_id = parent.trace_id
            self.depth = parent.depth + 1

    def __repr__(self) -> str:
        return f"<Run {self.id} of {self.agent_id!r}, {self.state.status}>"

    @property
    def kernel(self) -> Kernel:
        """The kernel that it runs on."""
        return self.plan.kernel

    @property
    def state(self) -> RunState:
        """The fold of the log."""
        return self.log.state

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far."""
        return tuple(self.log.state.messages)

    @property
    def usage(self) -> Usage:
        """What was consumed so far, ended child runs included."""
        return self.log.state.usage

    @property
    def cost_usd(self) -> Decimal | None:
        """Known costs so far in US dollars, or `None` if no provider named one."""
        return self.log.state.cost_usd

    @property
    def children(self) -> tuple[Run, ...]:
        """The runs that were started inside this one and have not ended."""
        return tuple(self._children or ())

    def interrupt(self, reason: InterruptReason | None = None) -> bool:
        """Ask the run and every run inside it to stop.

        A graceful stop lets the cycle under way finish, an immediate one cancels it. The
        run then raises `AgentInterrupted`, and its history is valid. A second call may turn
        a graceful stop into an immediate one, and is otherwise ignored.

        Returns:
            Whether the call changed anything.
        """
        if self.plan.kernel.thread != get_ident():
            return from_thread.run_sync(
                self.interrupt, reason, token=self.plan.kernel._token
            )
        reason = reason or InterruptReason()
        immediate = reason.mode is InterruptMode.IMMEDIATE
        known = self.interrupted
        if self.ended or (known is not None and not immediate):
            return False
        if known is not None and known.mode is InterruptMode.IMMEDIATE:
            return False
        self.interrupted = reason
        self.log.append(
            Interrupted(
                seq=len(self.log.entries),
                at=time(),
                source=reason.source.value,
                mode=reason.mode.value,
                signal=reason.signal.value,
                message=reason.message,
                metadata=reason.metadata,
            )
        )
        for child in self.children:
            child.interrupt(reason)
        if immediate and self._scope is not None:
            self._scope.cancel()
        return True

    def note(self, source: str, kind: str, data: Mapping[str, Any]) -> None:
        """Put a plugin's own record into the log, from any thread.

        Args:
            source: The plugin.
            kind: What the record is.
            data: JSON values.

        Raises:
            RunError: The run has ended.
        """
        if self.plan.kernel.thread != get_ident():
            hop = partial(self.note, source, kind, data)
            from_thread.run_sync(hop, token=self.plan.kernel._token)
            return
        self._refuse_if_ended("be added to")
        entry = Noted(
            seq=len(self.log.entries), at=time(), source=source, kind=kind, data=data
        )
        self.log.append(entry)

    def cycle(self, added: Sequence[Message] = ()) -> Awaitable[CycleResult]:
        """Make one turn of the loop: one model call and its tool calls. For strategies.

        Args:
            added: Messages to add to the conversation first.

        Raises:
            AgentInterrupted: The run was asked to stop.
        """
        if _CURRENT.get() is not self:
            raise RunError(f"run {self.id!r}", "can be driven by its own strategy only")
        if self.interrupted is not None:
            raise AgentInterrupted(self.interrupted, self.id)
        self._cycle += 1
        return self.plan.cycle(
            CycleRequest(
                run_id=self.id,
                agent_id=self.agent_id,
                cycle=self._cycle,
                added=tuple(added),
            )
        )

    def read(self, reply: ModelReply) -> dict[str, Any]:
        """Return the validated outputs that a reply holds. For strategies.

        Raises:
            OutputError: It does not fit the signature, or was cut short.
        """
        if reply.finish_reason in _CUT_SHORT:
            raise OutputError(
                f"agent {self.agent_id!r}",
                (f"the reply was cut short ({reply.finish_reason}): answer more briefly",),
                reply.text,
            )
        return self.plan.signature.parse_output(reply.text)

    async def checkpoint(
        self, description: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Mark this place in the log, to come back to.

        Raises:
            RunError: The run has ended.
        """
        self._refuse_if_ended("be marked")
        token = _CURRENT.set(self)
        try:
            return await self.plan.checkpoint_save(
                CheckpointRequest(
                    run_id=self.id,
                    agent_id=self.agent_id,
                    description=description,
                    metadata=metadata or {},
                )
            )
        finally:
            _CURRENT.reset(token)

    async def wait(self) -> Result:
        """Wait until the run has ended and return its result.

        Raises:
            Exception: What the run failed of.
        """
        if not self.ended:
            if self._done is None:
                self._done = anyio.Event()
            await self._done.wait()
        if self.result is not None:
            return self.result
        if isinstance(self.error, Exception):
            raise self.error
        raise RunError(f"run {self.id!r}", "was cancelled")

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        subscription, self._subscription = self._subscription, None
        return _Events(self, subscription or self.log.subscribe())

    def listen(self) -> None:
        """Keep the events from here on for whoever iterates over the run first."""
        self._subscription = self.log.subscribe()

    def next_direct_call(self) -> str:
        """Return an id for a tool call that no model asked for."""
        while True:
            self._direct_calls += 1
            call_id = f"direct_{self._direct_calls}"
            if call_id not in self.log.state.call_ids:
                return call_id

    def _refuse_if_ended(self, what: str) -> None:
        if self.ended:
            raise RunError(f"run {self.id!r}", f"has ended and cannot {what}")

    def _join(self, child: Run) -> None:
        if self._children is None:
            self._children = set()
        self._children.add(child)
        if self.interrupted is not None:
            child.interrupt(self.interrupted)


class _Events(AsyncIterator[StreamEvent]):
    """The events of a run, then what it failed of."""

    __slots__ = ("_run", "_subscription")

    def __init__(self, run: Run, subscription: Subscription) -> None:
        self._run = run
        self._subscription = subscription

    async def __anext__(self) -> StreamEvent:
        try:
            return await self._subscription.__anext__()
        except StopAsyncIteration:
            if isinstance(self._run.error, Exception):
                raise self._run.error from None
            raise
