"""The run log: everything a run does, as one ordered list of typed entries.

**The state of a run is the fold of its log**: `fold(entries)` and the `RunState` of a
living run come from the same `apply` of each entry, in order. An entry that announces an
effect is written before the effect.

Entries hold what is new, not the history again. Each type has a name and a version;
`encode` and `decode` turn an entry into JSON and back, checked by pydantic. An unknown
type, or a version that this release does not know, is refused and never guessed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import field, fields
from decimal import Decimal
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from kaizen._records import record
from kaizen.errors import CheckpointLoadError, CheckpointSaveError
from kaizen.media import Media
from kaizen.messages import Message, Usage
from kaizen.ports import CheckpointStore, StoredEntry
from kaizen.tools import Outcome

__all__ = [
    "Answered",
    "Asked",
    "ChildEnded",
    "Entry",
    "Gap",
    "Interrupted",
    "Marked",
    "MessageAdded",
    "ModelCharged",
    "ModelReplied",
    "ModelRequested",
    "Noted",
    "Reserved",
    "RunEnded",
    "RunLog",
    "RunStarted",
    "RunState",
    "Settled",
    "StreamEvent",
    "Subscription",
    "TextDelta",
    "ToolFinished",
    "ToolIntended",
    "decode",
    "encode",
    "fold",
]

MAX_ENTRY_BYTES = 64 * 1024 * 1024
_SURELY_READABLE = 400
"""Bytes that suffice neither for a depth nor for a number that JSON parsers refuse."""
DEFAULT_BUFFER = 1_024

RunStatus: TypeAlias = Literal["running", "completed", "failed", "interrupted", "cancelled"]


class RunState:
    """What the entries of a run come to.

    Attributes:
        messages: The conversation so far, valid for a provider once the run has ended.
        call_ids: The ids of every tool call that a model asked for.
        pending: Tool calls that were intended and have no result, by call id.
        unknown: Calls that may not be repeated and of which nobody knows what they did.
        questions: Questions without an answer, by request id.
        reserved: What is reserved and not settled, by reservation id, in US dollars.
        cost_usd: Known costs; `None` until a provider named one.
    """

    __slots__ = (
        "_charges",
        "call_ids",
        "cost_usd",
        "cycles",
        "error",
        "marks",
        "messages",
        "outputs",
        "pending",
        "questions",
        "reserved",
        "started",
        "status",
        "tool_calls",
        "unknown",
    )

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.status: RunStatus = "running"
        self.messages: list[Message] = []
        self.call_ids: set[str] = _NO_IDS
        self.pending: dict[str, ToolIntended] = {}
        self.questions: dict[str, Asked] = {}
        self.reserved: dict[str, Decimal] = {}
        self.unknown: tuple[ToolIntended, ...] = ()
        self.marks: tuple[Marked, ...] = ()
        self._charges: list[Usage] | None = None
        self.cost_usd: Decimal | None = None
        self.cycles = 0
        self.tool_calls = 0
        self.outputs: Mapping[str, Any] | None = None
        self.error = ""

    @property
    def usage(self) -> Usage:
        """What was consumed."""
        charges = self._charges or []
        if len(charges) > 1:
            charges[:] = [Usage.total(charges)]
        return charges[0] if charges else _NOTHING

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
            self.cost_usd = cost_usd if self.cost_usd is None else self.cost_usd + cost_usd


_NOTHING = Usage()
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

    seq: int
    at: float

    @property
    def position(self) -> tuple[int, int]:
        """Place in the stream of the run: entries stand at `(seq, 0)`."""
        return (self.seq, 0)

    def apply(self, state: RunState) -> None:
        """Change a state by what this entry says."""


@record
class RunStarted(Entry):
    """A run began.

    Attributes:
        parent_id: The run inside which it was started, or `""`.
        inputs: The inputs as JSON values.
        messages: The conversation that it begins with.
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

    def apply(self, state: RunState) -> None:
        state.started = self
        state.messages.extend(self.messages)


@record
class MessageAdded(Entry):
    """A message joined the conversation: feedback on a reply, or what steers the run."""

    type: ClassVar[str] = "message_added"

    message: Message

    def apply(self, state: RunState) -> None:
        state.messages.append(self.message)


@record
class ModelRequested(Entry):
    """A model is about to be asked."""

    type: ClassVar[str] = "model_requested"

    cycle: int
    provider: str
    model: str

    def apply(self, state: RunState) -> None:
        state.cycles += 1


@record
class ModelReplied(Entry):
    """A model answered."""

    type: ClassVar[str] = "model_replied"

    cycle: int
    message: Message
    usage: Usage
    cost_usd: Decimal | None
    finish_reason: str
    model: str

    def apply(self, state: RunState) -> None:
        state.messages.append(self.message)
        for use in self.message.tool_uses:
            state.know(use.id)
        state.charge(self.usage, self.cost_usd)


@record
class ModelCharged(Entry):
    """A reply was paid for that did not join the conversation, such as a failed attempt."""

    type: ClassVar[str] = "model_charged"

    usage: Usage
    cost_usd: Decimal | None

    def apply(self, state: RunState) -> None:
        state.charge(self.usage, self.cost_usd)


@record
class ToolIntended(Entry):
    """A tool is about to be called. Written before the effect.

    Attributes:
        idempotency_key: `<run id>:<call id>`; the same when the call is repeated.
        idempotent: Whether the tool declared that a repeat is harmless.
        grant: Who allowed it, where it needed that.
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

    def apply(self, state: RunState) -> None:
        state.pending[self.call_id] = self
        if not self.in_history:
            state.know(self.call_id)


@record
class ToolFinished(Entry):
    """A tool call has a result, be it that it was refused or cancelled.

    Attributes:
        outcome: Whether it is known what the call did; see `ToolResult`.
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

    def apply(self, state: RunState) -> None:
        begun = state.pending.pop(self.call_id, None)
        if begun is not None and self.outcome == "unknown" and not begun.idempotent:
            state.unknown += (begun,)
        state.tool_calls += 1
        if self.in_history:
            state.messages.append(
                Message(
                    role="tool",
                    content=self.content,
                    tool_use_id=self.call_id,
                    name=self.name,
                    origin=f"tool:{self.name}",
                )
            )


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
        state.charge(self.usage, self.cost_usd)


@record
class Asked(Entry):
    """Somebody outside is asked, and the run waits."""

    type: ClassVar[str] = "asked"

    request_id: str
    kind: Literal["question", "approval"]
    text: str
    options: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    expires_at: float | None = None

    def apply(self, state: RunState) -> None:
        state.questions[self.request_id] = self


@record
class Answered(Entry):
    """An answer came, or the time for it ran out."""

    type: ClassVar[str] = "answered"

    request_id: str
    approved: bool
    text: str = ""
    principal: str = ""

    def apply(self, state: RunState) -> None:
        state.questions.pop(self.request_id, None)


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
class Gap:
    """A slow reader missed some deltas. Entries are never missed.

    Attributes:
        position: The place of the first one missed.
        missed: How many are missing.
    """

    position: tuple[int, int]
    missed: int


StreamEvent: TypeAlias = Entry | TextDelta | Gap


def fold(entries: Iterable[Entry]) -> RunState:
    """Return the state that entries come to."""
    state = RunState()
    for entry in entries:
        entry.apply(state)
    return state


class RunLog:
    """The log of one run, in memory and, if it has a store, there as well.

    Attributes:
        state: The fold of the entries, kept up to date.
    """

    __slots__ = (
        "_closed",
        "_delta_seq",
        "_deltas",
        "_run_id",
        "_store",
        "_stored",
        "_subscriptions",
        "_unsure",
        "_writing",
        "entries",
        "state",
    )

    def __init__(self, run_id: str, store: CheckpointStore | None = None) -> None:
        self.entries: list[Entry] = []
        self.state = RunState()
        self._run_id = run_id
        self._store = store
        self._stored = 0
        self._deltas = 0
        self._delta_seq = 0
        self._closed = False
        self._unsure = False
        if store is not None:
            self._writing = anyio.Lock(fast_acquire=True)
        self._subscriptions: tuple[Subscription, ...] = ()

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

    async def commit(self) -> None:
        """Make every entry durable before going on; without a store, at once.

        Raises:
            CheckpointSaveError: The store did not take them.
        """
        store = self._store
        if store is None or self._stored == len(self.entries):
            return
        async with self._writing:
            if self._unsure:
                await self._look_up(store)
            fresh = [encode(entry) for entry in self.entries[self._stored :]]
            if fresh:
                self._unsure = True
                await store.append(self._run_id, fresh)
                self._stored += len(fresh)
            self._unsure = False

    async def _look_up(self, store: CheckpointStore) -> None:
        """Find out what the store kept of a write that was cancelled or failed."""
        try:
            kept = await store.read(self._run_id, start=self._stored)
        except CheckpointLoadError:
            return
        end = self._stored + len(kept)
        if [encode(entry) for entry in self.entries[self._stored : end]] != list(kept):
            raise CheckpointSaveError(
                f"run {self._run_id!r}",
                f"was written by somebody else from entry {self._stored} on",
                "Claim a run before writing it.",
            )
        self._stored = end

    @property
    def durable(self) -> bool:
        """Whether the log has a store."""
        return self._store is not None

    def publish(self, text: str) -> None:
        """Send a piece of a reply to those who listen."""
        seq = len(self.entries) - 1
        self._deltas = self._deltas + 1 if seq == self._delta_seq else 1
        self._delta_seq = seq
        if self._subscriptions:
            delta = TextDelta(seq=seq, index=self._deltas, text=text)
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
        self._deltas: deque[TextDelta] = deque()
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

    def _push(self, delta: TextDelta) -> None:
        if len(self._deltas) == self._buffer:
            dropped = self._deltas.popleft()
            first = self._gap.position if self._gap else dropped.position
            self._gap = Gap(position=first, missed=self._gap.missed + 1 if self._gap else 1)
        self._deltas.append(delta)
        self._signal.set()

    def _wake(self) -> None:
        self._signal.set()


_TYPES: dict[str, type[Entry]] = {
    each.type: each
    for each in (
        RunStarted,
        MessageAdded,
        ModelRequested,
        ModelReplied,
        ModelCharged,
        ToolIntended,
        ToolFinished,
        ChildEnded,
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


@cache
def _adapter(entry_type: str) -> TypeAdapter[Any]:
    return TypeAdapter(_TYPES[entry_type])


def encode(entry: Entry) -> StoredEntry:
    """Return an entry as a store keeps it.

    Raises:
        CheckpointSaveError: It holds what JSON cannot, or what `decode` would refuse.
    """
    values = {each.name: getattr(entry, each.name) for each in fields(entry)}
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
    subject = f"entry {stored.seq} ({stored.type!r}, version {stored.version})"
    entry_type = _TYPES.get(stored.type)
    if entry_type is None:
        raise CheckpointLoadError(subject, "has an unknown type", "Update Kaizen.")
    if stored.version != entry_type.version:
        raise CheckpointLoadError(
            subject, f"is not of version {entry_type.version}", "Update Kaizen."
        )
    if len(stored.body) > MAX_ENTRY_BYTES:
        raise CheckpointLoadError(subject, f"is larger than {MAX_ENTRY_BYTES} bytes")
    try:
        entry: Entry = _adapter(stored.type).validate_json(
            stored.body, strict=True, extra="forbid"
        )
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        places = ", ".join(".".join(map(str, item["loc"]))[:100] for item in found[:5])
        raise CheckpointLoadError(
            subject, f"is damaged at {places or 'its start'}"
        ) from None
    if entry.seq != stored.seq:
        raise CheckpointLoadError(subject, f"says that it is entry {entry.seq}")
    return entry
