"""A run: one execution of an agent, from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from decimal import Decimal
from functools import partial
from hashlib import sha256
from threading import get_ident
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
from anyio import CancelScope, RunFinishedError, from_thread
from pydantic_core import to_json

from kaizen import errors
from kaizen._asking import Question, ask, checked_progress, tell
from kaizen._past import Past
from kaizen._plain import clean, plain, shown
from kaizen._records import maker, record
from kaizen.errors import AgentInterrupted, KaizenError, OutputError, RunError
from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)
from kaizen.messages import Message, ModelReply, ModelRequest, Usage
from kaizen.operations import (
    Checkpoint,
    CheckpointRequest,
    CycleRequest,
    CycleResult,
    Result,
    RunRequest,
)
from kaizen.runlog import (
    Continued,
    CycleFailed,
    CycleGave,
    Entry,
    Interrupted,
    Noted,
    Paused,
    RunLog,
    RunState,
    Steered,
    StreamEvent,
    Subscription,
)
from kaizen.tools import Outcome, Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from kaizen._dispatch import Observer
    from kaizen._keeping import Keeping
    from kaizen.agent import BaseAgent
    from kaizen.config import AgentConfig
    from kaizen.kernel import Kernel
    from kaizen.messages import ModelProfile, ModelSettings, OutputSpec
    from kaizen.ports import Answer, Provider, Strategy
    from kaizen.signatures import CompiledSignature
    from kaizen.tools import ToolSpec

__all__ = ["Decision", "Plan", "Run", "current_run", "leave_run", "running"]

Record = TypeVar("Record", bound=Entry)

MAX_DEPTH = 32
_CUT_SHORT = ("length", "content_filter")
MAX_STEER_CHARS = 100_000
MAX_FAILURE_CHARS = 10_000
_PLAIN = (str, int, float, bool, type(None))
_cycle_request = maker(CycleRequest)
_CURRENT: ContextVar[Run | None] = ContextVar("kaizen_run", default=None)
_STEP: ContextVar[tuple[str | int, ...]] = ContextVar("kaizen_step", default=())


@record
class Decision:
    """What is known, or to be done, about a tool call that was cut off.

    Attributes:
        action: `repeat` if it did nothing, and is to be made again; `done` if it did its
            work; `skip` if it did not, and is not to be made again.
        content: With `done`, the result that the model reads.
        by: Who decided, for the log.
    """

    action: Literal["repeat", "done", "skip"]
    content: str = ""
    by: str = ""


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
        definitions: The digests of that, by the tools' names, if runs are kept.
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
    keeping: Keeping | None
    tools: Mapping[str, Tool]
    spec_of: Mapping[str, ToolSpec]
    definitions: Mapping[str, str]
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
        cancelled: Whether `cancel` was what asked it to stop.
        past: What it did before it was resumed, or `None`.
        decisions: What the caller who resumed it decided about calls that were cut off.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_begun",
        "_children",
        "_cycle",
        "_done",
        "_given",
        "_numbers",
        "_outcomes",
        "_replied",
        "_scope",
        "_subscription",
        "_uncharged",
        "_unpaused",
        "_validated",
        "_waiting",
        "agent",
        "agent_id",
        "cancelled",
        "decisions",
        "depth",
        "ended",
        "error",
        "id",
        "inputs",
        "interrupted",
        "log",
        "metadata",
        "parent",
        "past",
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
        trace_id: str = "",
        log: RunLog | None = None,
        past: Past | None = None,
        decisions: Mapping[str, Decision] | Decision | None = None,
    ) -> None:
        self.id = run_id
        self.agent = agent
        self.agent_id = agent.agent_id
        self.plan = plan
        self.inputs = inputs
        self.parent = parent
        self.session_id = session_id
        self.metadata = metadata
        self.log = log if log is not None else RunLog(run_id, plan.keeping)
        self.past = past
        self.decisions = decisions
        self.started = perf_counter()
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.interrupted: InterruptReason | None = None
        self.cancelled = False
        self.ended = False
        self._asked: set[str] | None = None
        self._begun = False
        self._children: set[Run] | None = None
        self._scope: CancelScope | None = None
        self._subscription: Subscription | None = None
        self._cycle = 0
        self._uncharged: ModelReply | None = None
        self._given: Mapping[str, Any] = inputs
        self._validated: dict[str, tuple[Tool, dict[str, Any], Mapping[str, Any]]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._numbers: dict[str, int] | None = None
        self._replied: ModelReply | None = None
        self._unpaused: anyio.Event | None = None
        self._done: anyio.Event | None = None
        self._waiting: set[CancelScope] | None = None
        if parent is None:
            self.trace_id = trace_id or run_id
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
    def principal(self) -> str:
        """On whose behalf it acts: `principal` in the metadata of the outermost run."""
        return clean(str(self.path[0].metadata.get("principal", "")))

    @property
    def path(self) -> tuple[Run, ...]:
        """The runs around this one and itself, outermost first."""
        path, each = [self], self.parent
        while each is not None:
            path.append(each)
            each = each.parent
        return tuple(reversed(path))

    @property
    def children(self) -> tuple[Run, ...]:
        """The runs that were started inside this one and have not ended."""
        return tuple(self._children or ())

    def interrupt(self, reason: InterruptReason | None = None) -> bool:
        """Ask the run and every run inside it to stop.

        A graceful stop lets the cycle under way finish, but waits no longer than
        `graceful_shutdown_timeout`; an immediate one cancels it. The run then raises
        `AgentInterrupted`, and its history is valid. A second call may turn a graceful stop
        into an immediate one, and is otherwise ignored. May be called from any thread.

        Returns:
            Whether the call changed anything.
        """
        if self._elsewhere():
            return self._hop(partial(self.interrupt, reason))
        reason = _checked(reason)
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
                message=clean(reason.message),
                metadata=shown(reason.metadata),
            )
        )
        self._keep_soon()
        for child in self.children:
            child.interrupt(reason)
        if self._scope is not None:
            if immediate:
                self._scope.cancel()
            else:
                self._hurry(self._scope)
        if self._unpaused is not None:
            self._unpaused.set()
        for waiting in self._waiting or ():  # nobody waits for people who may not come
            waiting.cancel()
        return True

    def _hurry(self, scope: CancelScope) -> None:
        """Let a graceful stop take no longer than it may."""
        latest = anyio.current_time() + self.plan.config.graceful_shutdown_timeout
        scope.deadline = min(scope.deadline, latest)

    def cancel(self, message: str = "cancelled") -> bool:
        """Stop the run and every run inside it at once.

        The same as an immediate interrupt, but that the run ends as `cancelled`: nobody
        waits for it to go on, though an explicit `resume` still can. May be called from any
        thread.

        Returns:
            Whether the call changed anything.
        """
        if self._elsewhere():
            return self._hop(partial(self.cancel, message))
        if self.ended:
            return False
        self.cancelled = True
        return self.interrupt(
            InterruptReason(
                source=InterruptSource.PROGRAMMATIC,
                mode=InterruptMode.IMMEDIATE,
                message=message,
                signal=InterruptSignal.USER_REQUESTED,
            )
        )

    def pause(self, by: str = "") -> bool:
        """Let the run, and every run inside it, wait before its next step.

        A step is a turn of the loop or a tool call; what is under way comes to its end. The
        time that the run may take goes on. May be called from any thread.

        Args:
            by: Who asks, for the log.

        Returns:
            Whether the call changed anything.
        """
        if self._elsewhere():
            return self._hop(partial(self.pause, by))
        if self.ended or self.interrupted is not None or self.state.paused:
            return False
        self._unpaused = anyio.Event()
        self.log.append(Paused(seq=len(self.log.entries), at=time(), by=clean(by)))
        self._keep_soon()
        for child in self.children:
            child.pause(by)
        return True

    def resume(self, by: str = "") -> bool:
        """Let a run that was paused go on, and every run inside it.

        To go on with a run that has ended, see `BaseAgent.resume`. May be called from any
        thread.

        Args:
            by: Who asks, for the log.

        Returns:
            Whether the call changed anything.
        """
        if self._elsewhere():
            return self._hop(partial(self.resume, by))
        if self.ended or not self.state.paused:
            return False
        self.log.append(Continued(seq=len(self.log.entries), at=time(), by=clean(by)))
        self._keep_soon()
        for child in self.children:
            child.resume(by)
        if self._unpaused is not None:
            self._unpaused.set()
        return True

    def steer(self, text: str, by: str = "") -> bool:
        """Give the model a message, from outside, while the run goes on.

        It joins the conversation before the model is asked next. An answer that was
        given without it having been read is not taken for the last word: the model is asked
        once more, if the run has turns left. May be called from any thread.

        Args:
            text: What the model is to read, as a user's message.
            by: Who says it; kept as the message's origin.

        Returns:
            Whether the run can still hear it.

        Raises:
            ValueError: It is empty, or longer than 100,000 characters.
        """
        if self._elsewhere():
            return self._hop(partial(self.steer, text, by))
        if not 0 < len(text) <= MAX_STEER_CHARS:
            raise ValueError(f"a message has 1 to {MAX_STEER_CHARS} characters")
        if self.ended or self.interrupted is not None:
            return False
        seq = len(self.log.entries)
        origin = f"steer:{clean(by)}" if by else "user"
        message = Message(role="user", content=clean(text), origin=origin)
        steer_id = f"steer_{seq}"
        self.log.append(Steered(seq=seq, at=time(), steer_id=steer_id, message=message))
        self._keep_soon()
        return True

    @property
    def steered(self) -> bool:
        """Whether the model has not read yet what steers the run. For strategies."""
        if self.past is not None and self._cycle < self.past.last:
            return self.past.steered(self._cycle + 1)
        return bool(self.log.state.steered)

    async def until_continued(self) -> None:
        """Wait while the run is paused.

        Raises:
            AgentInterrupted: It was asked to stop while it waited.
        """
        while self.state.paused and self.interrupted is None:
            if self._unpaused is None or self._unpaused.is_set():
                self._unpaused = anyio.Event()
            await self._unpaused.wait()
        if self.interrupted is not None:
            raise AgentInterrupted(self.interrupted, self.id)

    def _keep_soon(self) -> None:
        """Have the store learn what was asked from outside, however long a step takes."""
        keeping = self.plan.keeping
        if keeping is not None and self._begun and keeping.durability != "exit":
            keeping.keeper.write_soon(self.log)

    def _elsewhere(self) -> bool:
        return self.plan.kernel.thread != get_ident()

    def _hop(self, call: Callable[[], bool]) -> bool:
        """Make a call where the run is carried out; false if nobody is there any more."""
        token = self.plan.kernel._token
        if self.ended or token is None:
            return False
        try:
            return from_thread.run_sync(call, token=token)
        except RunFinishedError:
            return False

    def note(self, source: str, kind: str, data: Mapping[str, Any]) -> None:
        """Put a plugin's own record into the log, from any thread.

        Args:
            source: The plugin.
            kind: What the record is.
            data: JSON values; they are copied.

        Raises:
            RunError: The run has ended.
            TypeError: The data hold what JSON cannot, and nothing after it could be stored.
        """
        source, kind = clean(source), clean(kind)
        if not self._note(source, kind, plain(f"a note of {source!r}", data)):
            raise RunError(f"run {self.id!r}", "has ended and cannot be added to")

    def _note(self, source: str, kind: str, data: Mapping[str, Any]) -> bool:
        if self._elsewhere():
            return self._hop(partial(self._note, source, kind, data))
        if self.ended:
            return False
        entry = Noted(
            seq=len(self.log.entries), at=time(), source=source, kind=kind, data=data
        )
        self.log.append(entry)
        return True

    def add(self, entry_type: type[Record], /, **values: Any) -> Record:
        """Put an entry at the end of the log, in the thread of the run, and return it.

        Args:
            entry_type: What it is.
            values: Its fields, as JSON can hold them: what it cannot hold fails the run
                when it is stored.

        Raises:
            RunError: The run has ended.
        """
        self._refuse_if_ended("be added to")
        entry = entry_type(seq=len(self.log.entries), at=time(), **values)
        self.log.append(entry)
        return entry

    async def settle(self) -> None:
        """Wait until the log is as durable as the agent's `durability` demands."""
        if self.plan.keeping is not None and self.log.must_wait():
            await self.log.settle()

    async def ask(
        self,
        text: str,
        *,
        kind: Literal["question", "approval"] = "question",
        options: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
        answer_type: Any = None,
        expires_s: float | None = None,
        action_digest: str = "",
    ) -> Answer:
        """Ask a person or a program outside, and wait for the answer.

        It goes out by the channel of the outermost run whose agent has one, or by that of
        the kernel. Question and answer are in the log. A run that is resumed asks again by
        the same id what had no answer, and does not ask what had one that is still good.

        Args:
            text: What the other side reads first.
            kind: What is wanted: an answer, or a yes.
            options: Answers to choose from.
            details: What an approval is about, all of it; JSON values.
            answer_type: What pydantic makes of the answer to a question; by default text.
            expires_s: How long an answer is waited for, and then good, in seconds; by
                default the kernel's `answer_timeout`. A tool that asks has no longer than
                its own `timeout_s`.
            action_digest: What an approval is bound to, from
                `kaizen.tools.action_digest`.

        Returns:
            The answer. To a question, `value` is of `answer_type`.

        Raises:
            NobodyToAskError: There is no channel.
            NotAnsweredError: The time ran out, the other side is gone, or it gave three
                answers that do not fit.
            AgentInterrupted: The run was asked to stop. The question stays open.
        """
        default_s = self.kernel.config.answer_timeout
        question = Question(
            text,
            kind=kind,
            options=options,
            details=details,
            answer_type=answer_type,
            action_digest=action_digest,
            expires_s=default_s if expires_s is None else expires_s,
        )
        self._refuse_if_ended("ask")
        if self._waiting is None:
            self._waiting = set()
        with CancelScope() as waiting:
            self._waiting.add(waiting)
            try:
                if self.interrupted is None:
                    return await ask(self, question)
            finally:
                self._waiting.discard(waiting)
        assert self.interrupted is not None
        raise AgentInterrupted(self.interrupted, self.id)

    async def report_progress(
        self, message: str, *, percentage: float | None = None
    ) -> None:
        """Tell whoever is outside how far the work is; it is a note in the log as well.

        Args:
            message: What they read.
            percentage: From 0 to 100, if it is known.

        Raises:
            ValueError: The percentage is none, or the message is too long.
        """
        data: dict[str, Any] = {"message": checked_progress(message, percentage)}
        if percentage is not None:
            data["percentage"] = percentage
        self.note("kernel", "progress", data)
        path = self.path
        agents = [each.agent for each in path]
        await tell(agents, self.kernel, data["message"], percentage, path)

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
        request = _cycle_request(
            run_id=self.id, agent_id=self.agent_id, cycle=self._cycle, added=tuple(added)
        )
        plan = self.plan
        if plan.keeping is not None or self.log.state.paused:
            return self._cycle_kept(request)
        return plan.cycle(request)

    async def _cycle_kept(self, request: CycleRequest) -> CycleResult:
        """Make one turn, unless it is on record; number what happens inside by itself."""
        if self.past is not None:
            result = self.past.whole(request.cycle)
            if result is not None:
                return result
        if self.log.state.paused:
            await self.until_continued()
        token = _STEP.set(("cycle", request.cycle))
        self._replied = None
        try:
            result = await self.plan.cycle(request)
        except AgentInterrupted:
            raise
        except Exception as error:
            self.log.append(_failed_turn(self, request.cycle, error))
            raise
        finally:
            _STEP.reset(token)
        if result.reply is not self._replied:
            self.log.append(_changed_turn(self, request.cycle, result.reply))
        return result

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
        if not self._begun:
            raise RunError(
                f"run {self.id!r}", "has not begun and cannot be marked", "Mark it later."
            )
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

    def listen(self, *, start: int = 0) -> None:
        """Keep the events from an entry on for whoever iterates over the run first."""
        self._subscription = self.log.subscribe(start=start)

    def next_direct_call(self) -> str:
        """Return an id for a tool call that no model asked for.

        A run that can be resumed numbers what happens inside each turn and each tool call
        by itself, so that the same call has the same id whatever is not repeated.
        """
        while True:
            call_id = self._numbered("direct_")
            if call_id not in self.state.call_ids:
                return call_id
            if self.past is not None and self.past.knows(call_id):
                return call_id

    def place_of_questions(self) -> str:
        """Return with what ids of questions of this step begin, behind the run's."""
        return f"{_step()}ask_"

    def asked_ids(self) -> set[str]:
        """Return the ids of what was asked since the run began or was resumed."""
        if self._asked is None:
            self._asked = set()
        return self._asked

    def place_of(self, child: Run) -> str:
        """Return by what a run inside this one is found again, if this step is repeated.

        That is the step, the agent, and what it is given.
        """
        inputs = to_json(
            child.inputs, inf_nan_mode="constants", fallback=repr, serialize_unknown=True
        )
        return f"{_step()}{child.agent_id}:{sha256(inputs).hexdigest()[:16]}"

    def _numbered(self, kind: str) -> str:
        place = f"{_step()}{kind}"
        if self._numbers is None:
            self._numbers = {}
        self._numbers[place] = number = self._numbers.get(place, 0) + 1
        return f"{place}{number}"

    def _refuse_if_ended(self, what: str) -> None:
        if self.ended:
            raise RunError(f"run {self.id!r}", f"has ended and cannot {what}")

    def _leave(self, child: Run) -> None:
        if self._children is not None:
            self._children.discard(child)

    def _join(self, child: Run) -> None:
        if self._children is None:
            self._children = set()
        self._children.add(child)
        if self.interrupted is not None:
            child.interrupt(self.interrupted)
        elif self.state.paused:
            child.pause()


def _step() -> str:
    """Return the name of the step of a kept run inside which this code is called."""
    return "".join(f"{part}." for part in _STEP.get())


def _checked(reason: InterruptReason | None) -> InterruptReason:
    """Return a reason whose parts are what they have to be; words are accepted.

    Raises:
        TypeError: It is no reason.
        ValueError: One of its words is none that there is.
    """
    if reason is None:
        return InterruptReason()
    if not isinstance(reason, InterruptReason):
        raise TypeError(f"{reason!r} is no InterruptReason")
    source, mode = InterruptSource(reason.source), InterruptMode(reason.mode)
    signal = InterruptSignal(reason.signal)
    if (source, mode, signal) == (reason.source, reason.mode, reason.signal):
        return reason
    return replace(reason, source=source, mode=mode, signal=signal)


def _failed_turn(run: Run, cycle: int, error: Exception) -> CycleFailed:
    """Return the entry that says what a turn failed of."""
    ours = isinstance(error, KaizenError) and type(error).__module__ == errors.__name__
    plain = ours and all(isinstance(each, _PLAIN) for each in error.args)
    return CycleFailed(
        seq=len(run.log.entries),
        at=time(),
        cycle=cycle,
        error=type(error).__name__ if plain else "",
        arguments=tuple(_clean_text(each) for each in error.args) if plain else (),
        message=clean(f"{type(error).__name__}: {error}")[:MAX_FAILURE_CHARS],
    )


def _clean_text(value: Any) -> Any:
    return clean(value) if isinstance(value, str) else value


def _changed_turn(run: Run, cycle: int, reply: ModelReply) -> CycleGave:
    """Return the entry that says what a turn gave in place of the model's reply."""
    return CycleGave(
        seq=len(run.log.entries),
        at=time(),
        cycle=cycle,
        text=reply.text,
        tool_uses=reply.tool_uses,
        finish_reason=reply.finish_reason,
    )


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
