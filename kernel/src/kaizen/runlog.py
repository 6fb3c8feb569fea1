"""The run log: everything a run does, as one ordered list of typed entries.

**The state of a run is the fold of its log**: `fold(entries)` and the `RunState` of a
living run come from the same `apply` of each entry, in order. An entry that announces an
effect is written before the effect.

Entries hold what is new, not the history again. Each type has a name and a version;
`encode` and `decode` turn an entry into JSON and back, checked by pydantic. An older
version is migrated; an unknown type, or a version that this release does not know, is
refused and never guessed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, fields, replace
from decimal import Decimal
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from kaizen import _keeping
from kaizen._records import maker, record
from kaizen.claims import taken_over
from kaizen.errors import (
    CheckpointLoadError,
    CheckpointSaveError,
    ClaimLostError,
    StorageUnavailableError,
    UnknownRunError,
)
from kaizen.media import Media
from kaizen.messages import Message, ToolUse, Usage
from kaizen.ports import CheckpointStore, RunRecord, StoredEntry
from kaizen.tools import Outcome

if TYPE_CHECKING:
    from kaizen._keeping import Keeping

__all__ = [
    "Answered",
    "Asked",
    "ChildEnded",
    "ChildStarted",
    "Continued",
    "CycleFailed",
    "CycleGave",
    "Entry",
    "Forked",
    "Gap",
    "Interrupted",
    "Marked",
    "MessageAdded",
    "ModelCharged",
    "ModelReplied",
    "ModelRequested",
    "ModelSwitched",
    "Noted",
    "OutcomeDecided",
    "Paused",
    "ReasoningDelta",
    "Reserved",
    "Resumed",
    "Rewound",
    "RunEnded",
    "RunLog",
    "RunStarted",
    "RunState",
    "Settled",
    "Steered",
    "StreamEvent",
    "Subscription",
    "Tap",
    "TextDelta",
    "ToolFinished",
    "ToolIntended",
    "decode",
    "described",
    "encode",
    "entry_types",
    "fold",
    "history",
]

MAX_ENTRY_BYTES = 64 * 1024 * 1024
_SURELY_READABLE = 400
"""Bytes that suffice neither for a depth nor for a number that JSON parsers refuse."""
DEFAULT_BUFFER = 1_024
_LOG = logging.getLogger("kaizen")

RunStatus: TypeAlias = Literal["running", "completed", "failed", "interrupted", "cancelled"]
Migration: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


class RunState:
    """What the entries of a run come to.

    Attributes:
        messages: The conversation so far, valid for a provider once the run has ended.
        call_ids: The ids of every tool call that a model asked for.
        pending: Tool calls that were intended and have no result, by call id.
        unknown: Calls that may not be repeated and of which nobody knows what they did.
        questions: Questions without an answer, by request id.
        answers: What was answered, by request id.
        used: Requests by whose id nothing is asked any more: approvals that allowed a call
            that was begun, and what was asked before the run went back.
        redone: Calls that had come to an end before the run went back behind that.
        reserved: What is reserved and not settled, by reservation id, in US dollars.
        closed: Calls that got a result only so that the history is valid, and what each
            intended if it was begun; they are open again once the run goes on.
        steered: Messages for the model that have not joined the conversation yet.
        paused: Whether the run waits for somebody to let it go on.
        cycles: Requests to the model, repeated ones included.
        turns: Turns in which a model was asked or answered from a cache, each counted once.
    """

    __slots__ = (
        "_charges",
        "_children",
        "_cost_usd",
        "answers",
        "call_ids",
        "closed",
        "cycles",
        "error",
        "marks",
        "messages",
        "outputs",
        "paused",
        "pending",
        "questions",
        "redone",
        "reserved",
        "started",
        "status",
        "steered",
        "tool_calls",
        "turns",
        "unknown",
        "used",
    )

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.status: RunStatus = "running"
        self.messages: list[Message] = []
        self.call_ids: set[str] = _NO_IDS
        self.pending: dict[str, ToolIntended] = {}
        self.questions: dict[str, Asked] = {}
        self.answers: dict[str, Answered] = {}
        self.used: frozenset[str] = _NONE
        self.redone: frozenset[str] = _NONE
        self.reserved: dict[str, Decimal] = {}
        self.unknown: tuple[ToolIntended, ...] = ()
        self.marks: tuple[Marked, ...] = ()
        self.closed: tuple[tuple[str, ToolIntended | None], ...] = ()
        self.steered: tuple[Steered, ...] = ()
        self.paused = False
        self._charges: list[Usage] | None = None
        self._children: dict[str, ChildEnded] | None = None
        self._cost_usd: Decimal | None = None
        self.cycles = 0
        self.turns = 0
        self.tool_calls = 0
        self.outputs: Mapping[str, Any] | None = None
        self.error = ""

    @property
    def usage(self) -> Usage:
        """What was consumed."""
        charges = self._charges or []
        if len(charges) > 1:
            charges[:] = [Usage.total(charges)]
        if self._children:
            return Usage.total(
                [*charges, *(each.usage for each in self._children.values())]
            )
        return charges[0] if charges else _NOTHING

    @property
    def cost_usd(self) -> Decimal | None:
        """Known costs in US dollars; `None` until a provider named one."""
        if not self._children:
            return self._cost_usd
        costs = [self._cost_usd, *(each.cost_usd for each in self._children.values())]
        known = [each for each in costs if each is not None]
        return sum(known, Decimal(0)) if known else None

    def know(self, call_id: str) -> None:
        """Remember the id of a tool call."""
        if self.call_ids is _NO_IDS:
            self.call_ids = {call_id}
        else:
            self.call_ids.add(call_id)

    def charge(self, usage: Usage, cost_usd: Decimal | None) -> None:
        """Add what was consumed."""
        if self._charges is None:
            self._charges = [usage]
        else:
            self._charges.append(usage)
        if cost_usd is not None:
            before = self._cost_usd
            self._cost_usd = cost_usd if before is None else before + cost_usd

    def charge_child(self, child: ChildEnded) -> None:
        """Set what a run inside this one has consumed in all; the latest word counts."""
        if self._children is None:
            self._children = {}
        known = self._children.get(child.run_id)
        if known is None or known.seq <= child.seq:
            self._children[child.run_id] = child


_NOTHING = Usage()
_message = maker(Message)
_NONE: frozenset[str] = frozenset()
_NO_IDS: set[str] = set()  # stands for each empty one; never added to


@record
class Entry:
    """One thing that a run did.

    Attributes:
        seq: Position in the log, from 0 without gaps.
        at: When it was written, seconds since the epoch, UTC.
    """

    type: ClassVar[str] = ""
    version: ClassVar[int] = 1
    migrations: ClassVar[Mapping[int, Migration]] = MappingProxyType({})
    """For each older version, what makes a body of the next version of one."""

    seq: int
    at: float

    @property
    def position(self) -> tuple[int, int]:
        """Place in the stream of the run: entries stand at `(seq, 0)`."""
        return (self.seq, 0)

    def apply(self, state: RunState) -> None:
        """Change a state by what this entry says."""

    def apply_undone(self, state: RunState) -> None:
        """Change a state by what remains of this entry after the run was rewound."""


@record
class RunStarted(Entry):
    """A run began.

    Attributes:
        parent_id: The run inside which it was started, or `""`.
        inputs: The inputs as JSON values.
        messages: The conversation that it begins with.
        direct: Whether it asks no model and only calls tools.
    """

    type: ClassVar[str] = "run_started"

    run_id: str
    agent_id: str
    parent_id: str
    trace_id: str
    session_id: str
    inputs: Mapping[str, Any]
    messages: tuple[Message, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    direct: bool = False

    def apply(self, state: RunState) -> None:
        state.started = self
        state.messages.extend(self.messages)


@record
class Forked(Entry):
    """A run began with the past of another, which it shares from here on back.

    Attributes:
        run_id: The new run.
        agent_id: Whose run it is, or `""` if it stays that of the same agent.
        parent_run_id: The run whose past it shares.
        parent_id: The run inside which it belongs, or `""`.
    """

    type: ClassVar[str] = "forked"

    run_id: str
    agent_id: str
    parent_run_id: str
    parent_id: str = ""

    def apply(self, state: RunState) -> None:
        if state.started is not None:
            state.started = replace(
                state.started,
                run_id=self.run_id,
                agent_id=self.agent_id or state.started.agent_id,
                parent_id=self.parent_id,
            )
        state.questions.clear()  # they are the other run's
        _reopen(state)


@record
class Rewound(Entry):
    """The run went back to an earlier entry: what came after it is undone.

    Nothing is erased. The state is that after entry `to_seq`, but for what cannot be
    undone: what was consumed, and which ids were given to calls. Written while nobody
    carries out the run, since it counts only when the log is read again.

    Attributes:
        to_seq: The last entry that counts.
    """

    type: ClassVar[str] = "rewound"

    to_seq: int

    def apply(self, state: RunState) -> None:
        _reopen(state)


@record
class Resumed(Entry):
    """A run that had stopped goes on.

    Attributes:
        owner: Who carries it out; see `kaizen.claims`.
    """

    type: ClassVar[str] = "resumed"

    owner: str

    def apply(self, state: RunState) -> None:
        _reopen(state)


@record
class Paused(Entry):
    """The run waits, before its next step, for somebody to let it go on."""

    type: ClassVar[str] = "paused"

    by: str = ""

    def apply(self, state: RunState) -> None:
        state.paused = True


@record
class Continued(Entry):
    """A run that was paused goes on."""

    type: ClassVar[str] = "continued"

    by: str = ""

    def apply(self, state: RunState) -> None:
        state.paused = False


@record
class Steered(Entry):
    """Somebody has a message for the model; it joins the conversation at the next turn.

    Attributes:
        steer_id: Unique within the run.
    """

    type: ClassVar[str] = "steered"

    steer_id: str
    message: Message

    def apply(self, state: RunState) -> None:
        state.steered += (self,)


@record
class MessageAdded(Entry):
    """A message joined the conversation: feedback on a reply, or what steers the run.

    Attributes:
        cycle: The turn before which it joined.
        steer_id: Which of the messages that steer the run it is, or `""`.
    """

    type: ClassVar[str] = "message_added"

    message: Message
    cycle: int = 0
    steer_id: str = ""

    def apply(self, state: RunState) -> None:
        state.messages.append(self.message)
        if self.steer_id:
            left = (each for each in state.steered if each.steer_id != self.steer_id)
            state.steered = tuple(left)


@record
class ModelRequested(Entry):
    """A model is about to be asked."""

    type: ClassVar[str] = "model_requested"

    cycle: int
    provider: str
    model: str

    def apply(self, state: RunState) -> None:
        state.cycles += 1
        state.turns = self.cycle
        if state.closed:  # the conversation went on with these results
            state.closed = ()


@record
class ModelReplied(Entry):
    """A model answered.

    Attributes:
        cached: Whether it is an earlier reply, given again.
    """

    type: ClassVar[str] = "model_replied"

    cycle: int
    message: Message
    usage: Usage
    cost_usd: Decimal | None
    finish_reason: str
    model: str
    reasoning: str = ""
    cached: bool = False

    def apply(self, state: RunState) -> None:
        if state.closed:  # as when it is asked; who answers from a cache asks nobody
            state.closed = ()
        state.turns = self.cycle
        state.messages.append(self.message)
        for use in self.message.tool_uses:
            state.know(use.id)
        state.charge(self.usage, self.cost_usd)

    def apply_undone(self, state: RunState) -> None:
        for use in self.message.tool_uses:
            state.know(use.id)
        state.charge(self.usage, self.cost_usd)


@record
class ModelSwitched(Entry):
    """A request goes to another model, since the first one did not answer it.

    Attributes:
        from_provider: Who was asked before.
        provider: Who is asked now.
        reason: Why, in words.
        restarts: Whether the answer begins again: what was read of it does not count.
        kept_chars: How many characters of the answer stand, and are gone on from.
    """

    type: ClassVar[str] = "model_switched"

    cycle: int
    from_provider: str
    from_model: str
    provider: str
    model: str
    reason: str = ""
    restarts: bool = False
    kept_chars: int = 0


@record
class ModelCharged(Entry):
    """A reply was paid for that did not join the conversation, such as a failed attempt."""

    type: ClassVar[str] = "model_charged"

    usage: Usage
    cost_usd: Decimal | None

    def apply(self, state: RunState) -> None:
        state.charge(self.usage, self.cost_usd)

    apply_undone = apply


@record
class ToolIntended(Entry):
    """A tool is about to be called. Written before the effect.

    Attributes:
        idempotency_key: `<run id>:<call id>`; the same when the call is repeated.
        idempotent: Whether the tool declared that a repeat is harmless.
        grant: Who allowed it, where it needed that.
        approval: The request that a person approved, which is used up by this entry.
        definition: The digest of what the tool said of itself, or `""` if it is not known.
        in_history: Whether the model asked for it, so that its result is a message.
    """

    type: ClassVar[str] = "tool_intended"

    call_id: str
    name: str
    arguments: Mapping[str, Any]
    idempotency_key: str
    idempotent: bool
    cycle: int
    grant: str = ""
    in_history: bool = True
    approval: str = ""
    definition: str = ""

    def apply(self, state: RunState) -> None:
        state.pending[self.call_id] = self
        self.apply_undone(state)

    def apply_undone(self, state: RunState) -> None:
        if not self.in_history:
            state.know(self.call_id)
        if self.approval:
            state.used |= {self.approval}


@record
class ToolFinished(Entry):
    """A tool call has a result, be it that it was refused or cancelled.

    Attributes:
        outcome: Whether it is known what the call did; see `ToolResult`.
        closing: Whether it stands only for a valid history, since the run was stopped
            before the call had a result; if the run goes on, the call is open again.
        as_json: Whether the content is a value as JSON, and not the tool's own text.
    """

    type: ClassVar[str] = "tool_finished"

    call_id: str
    name: str
    success: bool
    approved: bool
    content: str
    error_code: str
    duration_ms: float
    outcome: Outcome = "known"
    in_history: bool = True
    closing: bool = False
    as_json: bool = False

    def apply(self, state: RunState) -> None:
        begun = state.pending.pop(self.call_id, None)
        if self.closing:
            state.closed += ((self.call_id, begun),)
        elif state.questions:  # nobody waits any more for what the call asked
            inside = f":{self.call_id}.ask_"
            for request_id in [each for each in state.questions if inside in each]:
                del state.questions[request_id]
        if begun is not None and self.outcome == "unknown" and not begun.idempotent:
            state.unknown += (begun,)
        state.tool_calls += 1
        if self.in_history:
            state.messages.append(
                _message(
                    role="tool",
                    content=self.content,
                    tool_use_id=self.call_id,
                    name=self.name,
                    origin=f"tool:{self.name}",
                )
            )

    def apply_undone(self, state: RunState) -> None:
        if self.outcome != "not_made":
            state.redone |= {self.call_id}


@record
class CycleGave(Entry):
    """A turn gave something else than what the model replied: middleware changed it."""

    type: ClassVar[str] = "cycle_gave"

    cycle: int
    text: str
    tool_uses: tuple[ToolUse, ...]
    finish_reason: str


@record
class CycleFailed(Entry):
    """A turn came to nothing.

    Attributes:
        error: The class of the error, if it is one of `kaizen.errors`, or `""`.
        arguments: What it was made of.
        message: What it said.
    """

    type: ClassVar[str] = "cycle_failed"

    cycle: int
    error: str
    arguments: tuple[Any, ...]
    message: str


@record
class ChildStarted(Entry):
    """A run is about to begin inside this one.

    Attributes:
        place: The step inside which it begins, and what it is given, so that it is found
            again if that step is repeated.
        replaces: The run that it was forked from to take its place, or `""`.
    """

    type: ClassVar[str] = "child_started"

    run_id: str
    agent_id: str
    place: str
    replaces: str = ""


@record
class ChildEnded(Entry):
    """A run that was started inside this one has ended, and what it consumed."""

    type: ClassVar[str] = "child_ended"

    run_id: str
    agent_id: str
    status: RunStatus
    usage: Usage
    cost_usd: Decimal | None

    def apply(self, state: RunState) -> None:
        state.charge_child(self)

    apply_undone = apply


@record
class OutcomeDecided(Entry):
    """Somebody found out what a call did that was cut off, or decided what to do about it.

    Attributes:
        decision: `repeat` if it did nothing, and is made again; `done` if it did its work;
            `skip` if it did not, and is not made again.
        by: Who decided.
    """

    type: ClassVar[str] = "outcome_decided"

    call_id: str
    decision: Literal["repeat", "done", "skip"]
    by: str = ""

    def apply(self, state: RunState) -> None:
        begun = state.pending.get(self.call_id)
        if begun is not None and self.decision == "repeat":
            state.pending[self.call_id] = replace(begun, idempotent=True)


@record
class Asked(Entry):
    """Somebody outside is asked, and the run waits. See `PendingRequest` for the fields.

    Attributes:
        question: A digest of what is asked, by which an answer is known to be to this.
    """

    type: ClassVar[str] = "asked"

    request_id: str
    kind: Literal["question", "approval"]
    text: str
    options: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    action_digest: str = ""
    principal: str = ""
    run_path: tuple[str, ...] = ()
    agent_path: tuple[str, ...] = ()
    expires_at: float | None = None
    question: str = ""

    def apply(self, state: RunState) -> None:
        if self.request_id not in state.used:
            state.questions[self.request_id] = self

    def apply_undone(self, state: RunState) -> None:
        state.used |= {self.request_id}


@record
class Answered(Entry):
    """An answer came, or it is certain that none will.

    Attributes:
        question: The digest of what was asked.
        action_digest: What an approval was asked for, and is good for.
        expires_at: Until when it is good, seconds since the epoch, UTC.
        problem: Why there is no answer that can be used, or `""`.
    """

    type: ClassVar[str] = "answered"

    request_id: str
    approved: bool
    text: str = ""
    value: Any = None
    always: bool = False
    principal: str = ""
    action_digest: str = ""
    expires_at: float | None = None
    problem: str = ""
    question: str = ""

    def apply(self, state: RunState) -> None:
        state.questions.pop(self.request_id, None)
        state.answers[self.request_id] = self


@record
class Reserved(Entry):
    """Money was set aside before a call."""

    type: ClassVar[str] = "reserved"

    reservation_id: str
    amount_usd: Decimal

    def apply(self, state: RunState) -> None:
        state.reserved[self.reservation_id] = self.amount_usd


@record
class Settled(Entry):
    """A reservation was settled at what the call cost, or released at zero."""

    type: ClassVar[str] = "settled"

    reservation_id: str
    amount_usd: Decimal

    def apply(self, state: RunState) -> None:
        state.reserved.pop(self.reservation_id, None)


@record
class Noted(Entry):
    """A plugin's own record, such as a decision of a gate.

    Attributes:
        source: The plugin.
        kind: What the record is, in the plugin's words.
        data: JSON values.
    """

    type: ClassVar[str] = "noted"

    source: str
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


@record
class Interrupted(Entry):
    """The run was asked to stop."""

    type: ClassVar[str] = "interrupted"

    source: str
    mode: str
    signal: str
    message: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@record
class Marked(Entry):
    """A checkpoint: a place to come back to."""

    type: ClassVar[str] = "marked"

    mark_id: str
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, state: RunState) -> None:
        state.marks += (self,)


@record
class RunEnded(Entry):
    """The run is over.

    Attributes:
        outputs: The outputs as JSON values, if it completed.
        error: What it failed of, or `""`.
    """

    type: ClassVar[str] = "run_ended"

    status: RunStatus
    outputs: Mapping[str, Any] | None = None
    error: str = ""
    error_code: str = ""

    def apply(self, state: RunState) -> None:
        state.status = self.status
        state.outputs = self.outputs
        state.error = self.error


@record
class TextDelta:
    """A piece of a reply that is still being written. It is not kept in the log.

    Attributes:
        seq: The entry that it follows.
        index: Its number behind that entry, from 1.
    """

    seq: int
    index: int
    text: str

    @property
    def position(self) -> tuple[int, int]:
        """Place in the stream of the run."""
        return (self.seq, self.index)


@record
class ReasoningDelta:
    """A piece of what a model thinks before it answers. It is not kept in the log.

    Attributes:
        seq: The entry that it follows.
        index: Its number behind that entry, from 1; texts and reasoning count together.
    """

    seq: int
    index: int
    text: str

    @property
    def position(self) -> tuple[int, int]:
        """Place in the stream of the run."""
        return (self.seq, self.index)


@record
class Gap:
    """A slow reader missed some deltas. Entries are never missed.

    Attributes:
        position: The place of the first one missed.
        missed: How many are missing.
    """

    position: tuple[int, int]
    missed: int


_Delta: TypeAlias = TextDelta | ReasoningDelta
StreamEvent: TypeAlias = Entry | _Delta | Gap


def fold(entries: Iterable[Entry]) -> RunState:
    """Return the state that entries come to.

    Args:
        entries: A log from its start on.

    Raises:
        CheckpointLoadError: It was rewound to an entry that there is not.
    """
    entries = list(entries)
    counting = history(entries)
    state = RunState()
    if len(counting) < len(entries):
        kept = {entry.seq for entry in counting}
        for entry in entries:
            if entry.seq not in kept:
                entry.apply_undone(state)
    for entry in counting:
        entry.apply(state)
    return state


def history(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries that count: those that were not undone by going back.

    That a run was forked cannot be undone: it stays what it is.

    Args:
        entries: A log from its start on.

    Raises:
        CheckpointLoadError: It was rewound to an entry that there is not.
    """
    if not any(type(entry) is Rewound for entry in entries):
        return entries
    path: list[Entry] = []
    at = len(entries) - 1
    while at >= 0:
        entry = entries[at]
        path.append(entry)
        at -= 1
        if type(entry) is Rewound:
            if not 0 <= entry.to_seq <= at:
                raise CheckpointLoadError(
                    f"entry {entry.seq} ('rewound')", f"goes back to entry {entry.to_seq}"
                )
            # Whose run it is cannot be undone.
            undone = reversed(entries[entry.to_seq + 1 : at + 1])
            path.extend(each for each in undone if type(each) is Forked)
            at = entry.to_seq
    return path[::-1]


def _reopen(state: RunState) -> None:
    """Let a run that had ended or stopped go on from where it was."""
    state.status, state.outputs, state.error, state.paused = "running", None, "", False
    if state.closed:
        _reopen_calls(state)
    if state.used:  # who repeats a call that was cut off does what was approved
        begun = state.pending.items()
        state.used -= {each.approval for call, each in begun if call not in state.redone}


def _reopen_calls(state: RunState) -> None:
    """Take back results that only made the history valid."""
    closed = dict(state.closed)
    state.closed = ()
    state.messages[:] = [
        each
        for each in state.messages
        if each.role != "tool" or each.tool_use_id not in closed
    ]
    state.tool_calls -= len(closed)
    state.unknown = tuple(each for each in state.unknown if each.call_id not in closed)
    state.pending.update((call_id, begun) for call_id, begun in closed.items() if begun)


def described(record: RunRecord, entry: StoredEntry) -> RunRecord:
    """Return what the record of a run becomes with one more entry.

    For stores, which need to know nothing else of entries. The time of writing is theirs
    to add. An entry that cannot be read changes the length alone.
    """
    changes: dict[str, Any] = {"length": entry.seq + 1}
    if entry.type in ("run_started", "forked", "run_ended"):
        try:
            body = from_json(entry.body)
        except ValueError:
            body = None
        for name in ("agent_id", "parent_id", "status"):
            if isinstance(body, dict) and isinstance(body.get(name), str) and body[name]:
                changes[name] = body[name]
    if entry.type in ("resumed", "rewound", "forked"):
        changes["status"] = "running"
    if entry.type == "forked":
        changes.setdefault("parent_id", "")
    return replace(record, **changes)


_DELTAS: dict[type[_Delta], type[_Delta]] = {
    kind: maker(kind) for kind in (TextDelta, ReasoningDelta)
}


class RunLog:
    """The log of one run, in memory and, if it has a store, there as well.

    Attributes:
        run_id: The run.
        state: The fold of the entries, kept up to date.
        over: Whether nothing will be added any more.
        pulse: How many pieces of replies came so far, those that show nothing included.
        due: Whether it is written soon, and nothing is wrong with that: then its run need
            not wait. Most often this says all that `must_wait` would.
    """

    __slots__ = (
        "_claimed",
        "_closed",
        "_delta_seq",
        "_deltas",
        "_keeping",
        "_locks",
        "_lost",
        "_problem",
        "_proven",
        "_soon",
        "_stored",
        "_subscriptions",
        "_token",
        "_told",
        "_unsure",
        "due",
        "entries",
        "over",
        "pulse",
        "run_id",
        "state",
    )

    def __init__(self, run_id: str, keeping: Keeping | None = None) -> None:
        self.entries: list[Entry] = []
        self.state = RunState()
        self.run_id = run_id
        self.over = False
        self.pulse = 0
        self.due = False
        self._keeping = keeping
        self._stored = 0
        self._deltas = 0
        self._delta_seq = 0
        self._closed = False
        self._subscriptions: tuple[Subscription | Tap, ...] = ()
        if keeping is not None:
            self._soon = keeping.durability == "async"
            self._unsure = False
            self._proven = False
            self._claimed = False
            self._token: int | None = None
            self._problem: Exception | None = None
            self._told = False
            self._lost: ClaimLostError | None = None
            self._locks: tuple[anyio.Lock, anyio.Lock] | None = None

    def append(self, entry: Entry) -> None:
        """Add an entry at the end; its `seq` must be the log's length."""
        entries = self.entries
        if entry.seq != len(entries):
            raise ValueError(
                f"entry {entry.seq} does not follow the {len(entries)} there are"
            )
        entries.append(entry)
        entry.apply(self.state)
        if self._subscriptions:
            for subscription in self._subscriptions:
                subscription._wake()

    def must_wait(self) -> bool:
        """Say whether the run has to wait, with `settle`, until its entries are durable.

        Without a store it has not, and with durability `exit` not before its end; with
        `async`, the entries are written while it goes on, unless that has failed.
        """
        if self.due:
            return False
        keeping = self._keeping
        if keeping is None:
            return False
        if self._lost is not None:
            return True
        if keeping.durability == "exit":
            return False
        if self._soon and not keeping.keeper.closed:
            keeping.keeper.write_soon(self)
            if self._problem is None:
                return False
            self.due = False
            return True
        return self._stored < len(self.entries)

    async def settle(self) -> None:
        """Make every entry durable, or go on without if that is what the run does then.

        That a run goes on so is told once, until it is kept again.

        Raises:
            ClaimLostError: The run is not carried out here any more, and must stop.
            CheckpointError: The store did not take the entries.
        """
        try:
            await self.flush()
        except ClaimLostError:
            raise
        except Exception as error:
            if self._keeping is None or not self._keeping.go_on:
                raise
            if not self._told:
                self._told = True
                _LOG.warning("run %s goes on, and is not kept: %s", self.run_id, error)

    async def flush(self) -> None:
        """Make every entry durable, whatever the run demands; without a store, at once.

        Raises:
            CheckpointError: The store did not take them, or not in time.
        """
        keeping = self._keeping
        if keeping is None:
            return
        if self._lost is None and self._stored == len(self.entries):
            return
        limit = _keeping.STORE_TIMEOUT_S
        try:
            with keeping.keeper.scope(limit) as scope:
                async with self._turns()[0]:
                    await self._write(keeping)
            if scope.cancelled_caught:
                raise StorageUnavailableError(
                    f"the store of run {self.run_id!r}", f"did not answer in {limit:g} s"
                )
        except Exception as error:
            self._problem = error
            self.due = False
            if isinstance(error, ClaimLostError):
                self.lose(error)
            raise
        self._problem = None
        if self._told:
            self._told = False
            _LOG.warning("run %s is kept again, and nothing is missing", self.run_id)

    async def _write(self, keeping: Keeping) -> None:
        if self._lost is not None:
            raise self._lost
        store = keeping.store
        if self._token is None:
            self._token = await self._claim(keeping)
        if self._unsure:
            await self._look_up(store)
        fresh = [encode(entry) for entry in self.entries[self._stored :]]
        if fresh:
            self._unsure = True
            await store.append(self.run_id, fresh, token=self._token)
            self._stored += len(fresh)
            self._proven = True
        self._unsure = False

    async def _look_up(self, store: CheckpointStore) -> None:
        """Find out what the store kept of a write that was cancelled or failed."""
        try:
            kept = await store.read(self.run_id, start=self._stored)
        except UnknownRunError:
            return
        end = self._stored + len(kept)
        if [encode(entry) for entry in self.entries[self._stored : end]] != list(kept):
            raise ClaimLostError(
                f"run {self.run_id!r}",
                f"was written by somebody else from entry {self._stored} on",
                "Claim a run before writing it.",
            )
        self._stored = end

    async def take_up(self) -> None:
        """Claim a run that is in the store already, and read its log.

        Raises:
            ClaimLostError: Somebody else carries it out.
            UnknownRunError: There is no such run.
            CheckpointLoadError: Its log is damaged.
        """
        keeping = self._keeping
        assert keeping is not None
        await keeping.store.read(self.run_id, limit=1)  # else a claim would be left behind
        self._token = await self._claim(keeping)
        stored = await keeping.store.read(self.run_id)
        self.entries = [decode(each) for each in stored]
        self.state = fold(self.entries)
        self._stored = len(self.entries)

    async def _claim(self, keeping: Keeping) -> int:
        self._claimed = True  # also if the answer does not come
        try:
            return await keeping.store.claim(
                self.run_id, owner=keeping.keeper.owner, lease_s=_keeping.LEASE_S
            )
        except ClaimLostError:
            self._claimed = False
            raise

    async def renew(self, owner: str) -> None:
        """Hold the run for some time more, if it is claimed.

        Raises:
            ClaimLostError: Somebody else has it, or had it meanwhile.
        """
        keeping = self._keeping
        async with self._turns()[1]:
            if keeping is None or self._token is None or self._lost is not None:
                return
            store = keeping.store
            try:
                token = await store.claim(
                    self.run_id, owner=owner, lease_s=_keeping.LEASE_S
                )
                if token != self._token:
                    await store.claim(self.run_id, owner=owner, lease_s=0)
                    raise taken_over(self.run_id)
            except ClaimLostError as error:
                self.lose(error)
                raise

    def lose(self, error: ClaimLostError) -> None:
        """Let the run fail at its next step, since it must not go on here."""
        if self._lost is None:
            self._lost = error
            self.due = False

    async def give_up(self, owner: str) -> None:
        """Let others have the run."""
        keeping = self._keeping
        async with self._turns()[0], self._turns()[1]:
            self._token = None
            if keeping is None or not self._claimed:
                return
            with suppress(ClaimLostError):  # others have it already
                await keeping.store.claim(self.run_id, owner=owner, lease_s=0)
            self._claimed = False

    @property
    def proven(self) -> bool:
        """Whether the store has taken entries of it since it was opened here."""
        return self._proven

    @property
    def troubled(self) -> bool:
        """Whether the last write failed, or none may follow."""
        return self._problem is not None or self._lost is not None

    @property
    def store(self) -> CheckpointStore | None:
        """Where it is kept, or `None`."""
        return None if self._keeping is None else self._keeping.store

    def _turns(self) -> tuple[anyio.Lock, anyio.Lock]:
        """Return what lets one write at a time, and one change of the claim.

        Made when it is first needed, which in many runs is after their end.
        """
        if self._locks is None:
            self._locks = (anyio.Lock(fast_acquire=True), anyio.Lock(fast_acquire=True))
        return self._locks

    @property
    def stored(self) -> int:
        """How many entries are in the store."""
        return self._stored

    @property
    def durable(self) -> bool:
        """Whether the log has a store."""
        return self._keeping is not None

    def publish(self, text: str, kind: type[_Delta] = TextDelta) -> None:
        """Send a piece of a reply to those who listen."""
        seq = len(self.entries) - 1
        self._deltas = self._deltas + 1 if seq == self._delta_seq else 1
        self._delta_seq = seq
        if self._subscriptions:
            delta = _DELTAS[kind](seq=seq, index=self._deltas, text=text)
            for subscription in self._subscriptions:
                subscription._push(delta)

    @property
    def watched(self) -> bool:
        """Whether anybody listens."""
        return bool(self._subscriptions)

    def subscribe(self, *, start: int = 0, buffer: int = DEFAULT_BUFFER) -> Subscription:
        """Return the stream of the log from an entry on.

        Args:
            start: The first entry wanted.
            buffer: Most deltas kept for a slow reader; older ones become a `Gap`.
        """
        subscription = Subscription(self, start=start, buffer=buffer)
        self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def tap(self, hear: Callable[[StreamEvent], None]) -> Tap:
        """Have a function called with each event from now on, at once.

        For what keeps up by nature, such as a copy: it takes no task, and misses nothing.
        Cancel what is returned to end it; until then the log is watched.

        Args:
            hear: Is called where the event comes from, so it must not fail, nor add to the
                log itself.
        """
        tap = Tap(self, hear)
        self._subscriptions = (*self._subscriptions, tap)
        return tap

    def close(self) -> None:
        """Let subscriptions end once they have delivered what there is."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription._wake()


class Subscription(AsyncIterator[StreamEvent]):
    """One reader of a run: every entry, and the deltas that it keeps up with, in order.

    The entries are read from the log itself, so that a slow reader costs no memory and
    misses none; deltas wait in a bounded buffer.
    """

    __slots__ = ("_buffer", "_cancelled", "_cursor", "_deltas", "_gap", "_log", "_signal")

    def __init__(self, log: RunLog, *, start: int, buffer: int) -> None:
        self._log = log
        self._cursor = max(0, start)
        self._buffer = max(1, buffer)
        self._deltas: deque[_Delta] = deque()
        self._gap: Gap | None = None
        self._signal = anyio.Event()
        self._cancelled = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> StreamEvent:
        while True:
            event = self._next()
            if event is not None:
                return event
            if self._log._closed or self._cancelled:
                self.cancel()
                raise StopAsyncIteration
            self._signal = anyio.Event()
            await self._signal.wait()

    def cancel(self) -> None:
        """Stop listening; a reader that waits comes to the end."""
        others = (each for each in self._log._subscriptions if each is not self)
        self._log._subscriptions = tuple(others)
        self._cancelled = True
        self._signal.set()

    def _next(self) -> StreamEvent | None:
        entries = self._log.entries
        due = (self._cursor, 0) if self._cursor < len(entries) else None
        waiting = self._gap or (self._deltas[0] if self._deltas else None)
        if waiting is not None and (due is None or waiting.position < due):
            if waiting is self._gap:
                self._gap = None
            else:
                self._deltas.popleft()
            return waiting
        if due is None:
            return None
        self._cursor += 1
        return entries[self._cursor - 1]

    def _push(self, delta: _Delta) -> None:
        if len(self._deltas) == self._buffer:
            dropped = self._deltas.popleft()
            first = self._gap.position if self._gap else dropped.position
            self._gap = Gap(position=first, missed=self._gap.missed + 1 if self._gap else 1)
        self._deltas.append(delta)
        self._signal.set()

    def _wake(self) -> None:
        self._signal.set()


class Tap:
    """Hears each event of a run when it happens; see `RunLog.tap`."""

    __slots__ = ("_heard", "_log", "_push")

    def __init__(self, log: RunLog, hear: Callable[[StreamEvent], None]) -> None:
        self._log = log
        self._push = hear
        self._heard = len(log.entries)

    def cancel(self) -> None:
        """Hear no more."""
        others = (each for each in self._log._subscriptions if each is not self)
        self._log._subscriptions = tuple(others)

    def _wake(self) -> None:
        entries = self._log.entries
        while self._heard < len(entries):
            self._heard += 1
            self._push(entries[self._heard - 1])


_TYPES: dict[str, type[Entry]] = {
    each.type: each
    for each in (
        RunStarted,
        Forked,
        Rewound,
        Resumed,
        Paused,
        Continued,
        Steered,
        MessageAdded,
        ModelRequested,
        ModelReplied,
        ModelSwitched,
        ModelCharged,
        ToolIntended,
        ToolFinished,
        CycleGave,
        CycleFailed,
        ChildStarted,
        ChildEnded,
        OutcomeDecided,
        Asked,
        Answered,
        Reserved,
        Settled,
        Noted,
        Interrupted,
        Marked,
        RunEnded,
    )
}


def entry_types() -> Mapping[str, type[Entry]]:
    """Return the class of each type of entry, by the name that stores keep."""
    return MappingProxyType(_TYPES)


@cache
def _adapter(entry_type: Any) -> TypeAdapter[Any]:  # a class, which mypy cannot hash
    return TypeAdapter(entry_type)


@cache
def _reader(entry_type: Any) -> tuple[tuple[str, ...], Callable[[Any], Any]]:
    """Return the names of a type's fields, and what reads them all at once."""
    names = tuple(each.name for each in fields(entry_type))
    return names, attrgetter(*names)


def encode(entry: Entry) -> StoredEntry:
    """Return an entry as a store keeps it.

    Raises:
        CheckpointSaveError: It holds what JSON cannot, or what `decode` would refuse.
    """
    kind: Any = type(entry)
    names, values_of = _reader(kind)
    values = dict(zip(names, values_of(entry), strict=True))
    try:
        body = to_json(values, inf_nan_mode="constants", fallback=_plain)
        if len(body) > MAX_ENTRY_BYTES:
            raise ValueError(f"more than {MAX_ENTRY_BYTES} bytes")
        if len(body) > _SURELY_READABLE:
            from_json(body)
    except (ValueError, TypeError) as error:
        raise CheckpointSaveError(
            f"entry {entry.seq} ({entry.type})",
            f"holds what JSON cannot: {error}",
            "Give metadata, notes and tool arguments JSON values only.",
        ) from error
    return StoredEntry(seq=entry.seq, type=entry.type, version=entry.version, body=body)


def _plain(value: Any) -> Any:
    if isinstance(value, Media):
        return value.to_json()
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__!r}")


def decode(stored: StoredEntry) -> Entry:
    """Return the entry that a store kept.

    Raises:
        CheckpointLoadError: Its type is unknown, its version newer than this release, its
            body damaged or too large.
    """
    subject = f"entry {stored.seq} ({stored.type[:64]!r}, version {stored.version})"
    entry_type: Any = _TYPES.get(stored.type)
    if entry_type is None:
        raise CheckpointLoadError(subject, "has an unknown type", "Update Kaizen.")
    if stored.version > entry_type.version:
        raise CheckpointLoadError(
            subject, f"is newer than version {entry_type.version}", "Update Kaizen."
        )
    if len(stored.body) > MAX_ENTRY_BYTES:
        raise CheckpointLoadError(subject, f"is larger than {MAX_ENTRY_BYTES} bytes")
    body = stored.body
    if stored.version != entry_type.version:
        body = _migrated(subject, entry_type, stored)
    try:
        entry: Entry = _adapter(entry_type).validate_json(body, strict=True, extra="forbid")
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        places = ", ".join(".".join(map(str, item["loc"]))[:100] for item in found[:5])
        raise CheckpointLoadError(
            subject, f"is damaged at {places or 'its start'}"
        ) from None
    if entry.seq != stored.seq:
        raise CheckpointLoadError(subject, f"says that it is entry {entry.seq}")
    return entry


def _migrated(subject: str, entry_type: type[Entry], stored: StoredEntry) -> bytes:
    """Return the body of an older entry as this release would have written it."""
    body = stored.body
    try:
        values = from_json(stored.body)
    except ValueError:
        raise CheckpointLoadError(subject, "is damaged: its body is not JSON") from None
    for version in range(stored.version, entry_type.version):
        migrate = entry_type.migrations.get(version)
        if migrate is None or not isinstance(values, dict):
            raise CheckpointLoadError(
                subject, f"cannot be brought from version {version} to {version + 1}"
            )
        try:
            values = migrate(values)
            body = to_json(values)
        except Exception as error:
            raise CheckpointLoadError(
                subject, f"does not fit version {version}: {type(error).__name__}"
            ) from error
    return body
