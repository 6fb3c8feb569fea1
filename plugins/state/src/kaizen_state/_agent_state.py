"""The state of an agent at one moment, and how a log keeps states that were made by hand.

A state that somebody made is kept in a log of its own: each time as a note that says what
is different from the state before it, so that a conversation that grew by a line costs a
line. `None`, numbers, texts, lists and mappings are kept as JSON; a `Decimal` and a
`datetime` as `{"$decimal": …}` and `{"$datetime": …}`; a mapping that looks like one of
these as `{"$": …}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any, Literal, TypeGuard

from kaizen import CheckpointLoadError, CheckpointSaveError, Message
from kaizen.media import Media
from kaizen.runlog import Entry, Marked, Noted, RunEnded, RunState, fold, history
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

__all__ = [
    "HIDDEN",
    "MADE_BY_HAND",
    "SOURCE",
    "AgentState",
    "CheckpointInfo",
    "Kept",
    "Packed",
    "agent_of",
    "closed",
    "difference",
    "hidden",
    "hiding",
    "infos_of",
    "is_about_checkpoints",
    "is_by_hand",
    "is_closed",
    "is_hidden",
    "kept_in",
    "last_place",
    "packed",
    "saved",
    "state_at",
]

SOURCE = "state"
MADE_BY_HAND = "made_by_hand"
MAX_DEPTH = 64
MAX_ITEMS = 1_000_000
HIDDEN = "checkpoint_deleted"
_CLOSED = "log_closed"
_SAVED = "agent_state"

Text = Annotated[str, Field(max_length=10_000)]


class AgentState(BaseModel):
    """What an agent was at one moment.

    The contents may hold whatever JSON can, and `Decimal` and `datetime`.

    Attributes:
        agent_id: Whose state it is; any text.
        step_number: How many steps were made; for a run, the turns of its loop.
        status: How it stood, such as `running`, `paused` or `completed`.
        conversation_history: What was said; for a run, its messages.
        memory_contents: What the agent remembers, by whatever names.
        budget_spent_usd: What was spent, in US dollars.
        metadata: Whatever else is to be kept.
        checkpoint_id: The checkpoint that it was loaded from, or `""`.
        run_id: The run, or the log of states made by hand, to which that belongs.
        created_at: When it was saved, seconds since the epoch, UTC.
        description: What was said of the checkpoint.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    agent_id: str = Field(min_length=1, max_length=1_000)
    step_number: int = Field(default=0, ge=0, le=2**53)
    status: str = Field(default="running", min_length=1, max_length=100)
    conversation_history: list[Any] = Field(default_factory=list, max_length=MAX_ITEMS)
    memory_contents: dict[str, Any] = Field(default_factory=dict, max_length=MAX_ITEMS)
    budget_spent_usd: Decimal | float = Field(default=0.0, ge=0, allow_inf_nan=False)
    metadata: dict[str, Any] = Field(default_factory=dict, max_length=MAX_ITEMS)
    checkpoint_id: str = Field(default="", max_length=200)
    run_id: str = Field(default="", max_length=200)
    created_at: float = 0.0
    description: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What there is to say of a checkpoint without its state.

    Attributes:
        id: What `load_checkpoint` takes.
        created_at: Seconds since the epoch, UTC.
        step_number: How many steps had been made.
        status: How the agent stood.
    """

    id: str
    run_id: str
    agent_id: str
    created_at: float
    description: str
    metadata: Mapping[str, Any]
    step_number: int
    status: str


class _Changes(BaseModel):
    """What became of a mapping: values that are new, and names that are gone."""

    model_config = ConfigDict(extra="forbid", strict=True)

    set: dict[str, Any] = {}
    removed: list[str] = []


class _Step(BaseModel):
    """One state, as what is different from the one before it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    step_number: int
    status: str
    budget_spent_usd: Any
    kept: int = Field(ge=0)
    history: list[Any] = []
    memory: _Changes = _Changes()
    metadata: _Changes = _Changes()


@dataclass(frozen=True, slots=True)
class Kept:
    """What the last state of a log was, by the digests of its parts."""

    history: Sequence[bytes] = ()
    memory: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A state as JSON values, and the digests of its parts."""

    agent_id: str
    run_id: str
    values: Mapping[str, Any]
    history: Sequence[Any]
    memory: Mapping[str, Any]
    metadata: Mapping[str, Any]
    kept: Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """The contents of the last state of a log, still in the words of JSON."""

    step: _Step | None = None
    history: list[Any] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def after(self, note: Noted) -> _Values:
        """Return the contents after one more note.

        Raises:
            CheckpointLoadError: The note is none of ours, or does not follow.
        """
        where = f"the state in entry {note.seq}"
        try:
            step = _Step.model_validate(dict(note.data))
        except ValidationError as error:
            places = {".".join(map(str, each["loc"]))[:100] for each in error.errors()}
            raise CheckpointLoadError(
                where, f"is damaged at {', '.join(sorted(places)[:5])}"
            ) from None
        if step.kept > len(self.history):
            raise CheckpointLoadError(
                where, f"goes on from {step.kept} lines where there are {len(self.history)}"
            )
        del self.history[step.kept :]
        self.history.extend(step.history)
        for mine, change in ((self.memory, step.memory), (self.metadata, step.metadata)):
            for name in change.removed:
                mine.pop(name, None)
            mine.update(change.set)
        return _Values(
            step=step, history=self.history, memory=self.memory, metadata=self.metadata
        )


def packed(state: AgentState) -> Packed:
    """Return a state as JSON values, whatever becomes of it from now on.

    Raises:
        CheckpointSaveError: The state holds what cannot be kept.
    """
    lines = [_packed(each, "conversation_history") for each in state.conversation_history]
    memory = _packed_mapping(state.memory_contents, "memory_contents")
    metadata = _packed_mapping(state.metadata, "metadata")
    return Packed(
        agent_id=state.agent_id,
        run_id=state.run_id,
        values={
            "step_number": state.step_number,
            "status": state.status,
            "budget_spent_usd": _packed(state.budget_spent_usd, "budget_spent_usd"),
        },
        history=lines,
        memory=memory,
        metadata=metadata,
        kept=_kept(lines, memory, metadata),
    )


def difference(state: Packed, before: Kept) -> dict[str, Any]:
    """Return what a note has to say of a state that comes after another."""
    same = 0
    for old, new in zip(before.history, state.kept.history, strict=False):
        if old != new:
            break
        same += 1
    return {
        "format": 1,
        **state.values,
        "kept": same,
        "history": state.history[same:],
        "memory": _changes(state.memory, before.memory, state.kept.memory),
        "metadata": _changes(state.metadata, before.metadata, state.kept.metadata),
    }


def kept_in(entries: Sequence[Entry]) -> Kept:
    """Return what the last state of a log of states is."""
    values = _last(history(entries))
    return _kept(values.history, values.memory, values.metadata)


def saved(seq: int, at: float, data: Mapping[str, Any]) -> Noted:
    """Return the entry that keeps a state."""
    return Noted(seq=seq, at=at, source=SOURCE, kind=_SAVED, data=data)


def hidden(seq: int, at: float, mark: int) -> Noted:
    """Return the entry that says that a checkpoint was deleted."""
    return Noted(seq=seq, at=at, source=SOURCE, kind=HIDDEN, data=hiding(mark))


def closed(seq: int, at: float) -> Noted:
    """Return the entry that says that states are saved in the next log from now on."""
    return Noted(seq=seq, at=at, source=SOURCE, kind=_CLOSED, data={})


def is_closed(entries: Sequence[Entry]) -> bool:
    """Whether a log takes no more states."""
    return any(_is_note(each, _CLOSED) for each in entries)


def hiding(mark: int) -> dict[str, Any]:
    """Return what a note says that hides a checkpoint."""
    return {"seq": mark}


def is_by_hand(entries: Sequence[Entry]) -> bool:
    """Whether a log holds states that somebody made, and no run of an agent."""
    first = entries[0] if entries else None
    told = getattr(first, "metadata", {})
    return bool(getattr(first, "direct", False)) and told.get(SOURCE) == MADE_BY_HAND


def agent_of(run_id: str, entries: Sequence[Entry]) -> str:
    """Return whose log it is.

    Raises:
        CheckpointLoadError: It does not say so.
    """
    started = fold(entries).started
    if started is None:
        raise CheckpointLoadError(f"run {run_id!r}", "has a log without a start")
    return started.agent_id


def is_hidden(entries: Iterable[Entry], seq: int) -> bool:
    """Whether a checkpoint of a log was deleted."""
    return seq in _hidden(entries)


def is_about_checkpoints(entry: Entry) -> TypeGuard[Noted]:
    """Whether an entry adds nothing to the state: it hides a checkpoint or closes a log."""
    return _is_note(entry, HIDDEN) or _is_note(entry, _CLOSED)


def state_at(run_id: str, entries: Sequence[Entry], seq: int | None) -> AgentState:
    """Return the state at a checkpoint of a log, or at its end.

    Args:
        run_id: Whose log it is.
        entries: The whole log.
        seq: The position of the checkpoint, or `None` for the end.

    Raises:
        CheckpointLoadError: There is no such checkpoint, or the log is damaged.
    """
    path = history(entries if seq is None else entries[: seq + 1])
    state = fold(path)
    started = state.started
    if started is None:
        raise CheckpointLoadError(f"run {run_id!r}", "has a log without a start")
    last = next((each for each in reversed(path) if not is_about_checkpoints(each)), None)
    at_end = seq is None and (
        not isinstance(last, Marked | RunEnded) or is_hidden(entries, last.seq)
    )
    shared: dict[str, Any] = {
        "agent_id": started.agent_id,
        "run_id": run_id,
        "checkpoint_id": run_id if at_end or last is None else f"{run_id}:{last.seq}",
        "created_at": last.at if last is not None else started.at,
        "description": last.description[:10_000] if isinstance(last, Marked) else "",
    }
    try:
        if is_by_hand(entries):
            return AgentState(**shared, **_made(run_id, path))
        mark = last.metadata if isinstance(last, Marked) else {}
        return AgentState(**shared, **_lived(state, mark))
    except ValidationError as error:
        places = {".".join(map(str, each["loc"]))[:100] for each in error.errors()}
        raise CheckpointLoadError(
            f"run {run_id!r}",
            f"holds no state of an agent: {', '.join(sorted(places)[:5])}",
        ) from None


def last_place(run_id: str, entries: Sequence[Entry]) -> int | None:
    """Return the position of the last checkpoint that is left, or `None`."""
    left = infos_of(run_id, entries)
    return int(left[-1].id.rpartition(":")[2]) if left else None


def infos_of(
    run_id: str, entries: Sequence[Entry], *, start: int = 0
) -> list[CheckpointInfo]:
    """Return the checkpoints of a log, oldest first, but for those that were deleted.

    Args:
        run_id: Whose log it is.
        entries: The whole log.
        start: The first entry that is its own; what comes before is shared.
    """
    path, by_hand, gone = history(entries), is_by_hand(entries), _hidden(entries)
    places = (Marked,) if by_hand else (Marked, RunEnded)
    state, values = RunState(), _Values()
    found: list[CheckpointInfo] = []
    for entry in path:
        entry.apply(state)
        if by_hand and _is_state(entry):
            values = values.after(entry)
        if not isinstance(entry, places) or entry.seq < start or entry.seq in gone:
            continue
        step = values.step
        found.append(
            CheckpointInfo(
                id=f"{run_id}:{entry.seq}",
                run_id=run_id,
                agent_id=state.started.agent_id if state.started else "",
                created_at=entry.at,
                description=entry.description if isinstance(entry, Marked) else "",
                metadata=entry.metadata if isinstance(entry, Marked) else {},
                step_number=step.step_number if step else state.cycles,
                status=step.status if step else _status(state),
            )
        )
    return found


def _hidden(entries: Iterable[Entry]) -> set[int]:
    """Return the positions of the checkpoints that were deleted, undone or not."""
    told = (each.data.get("seq") for each in entries if _is_note(each, HIDDEN))
    return {seq for seq in told if isinstance(seq, int)}


def _is_state(entry: Entry) -> TypeGuard[Noted]:
    return _is_note(entry, _SAVED)


def _is_note(entry: Entry, kind: str) -> TypeGuard[Noted]:
    return isinstance(entry, Noted) and (entry.source, entry.kind) == (SOURCE, kind)


def _last(path: Sequence[Entry]) -> _Values:
    values = _Values()
    for entry in path:
        if _is_state(entry):
            values = values.after(entry)
    return values


def _made(run_id: str, path: Sequence[Entry]) -> dict[str, Any]:
    """Return the contents of a state that somebody made."""
    values = _last(path)
    if values.step is None:
        raise CheckpointLoadError(f"run {run_id!r}", "holds no state up to there")
    return {
        "step_number": values.step.step_number,
        "status": values.step.status,
        "budget_spent_usd": _unpacked(values.step.budget_spent_usd),
        "conversation_history": [_unpacked(each) for each in values.history],
        "memory_contents": {name: _unpacked(each) for name, each in values.memory.items()},
        "metadata": {name: _unpacked(each) for name, each in values.metadata.items()},
    }


def _lived(state: RunState, mark: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of the state of a run."""
    assert state.started is not None
    return {
        "step_number": state.cycles,
        "status": _status(state),
        "budget_spent_usd": state.cost_usd if state.cost_usd is not None else 0.0,
        "conversation_history": [_line(each) for each in state.messages],
        "metadata": {**state.started.metadata, **mark},
    }


def _status(state: RunState) -> str:
    return "paused" if state.paused and state.status == "running" else state.status


def _line(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, without what is empty."""
    line: dict[str, Any] = from_json(to_json(message, fallback=_plain))
    return {name: value for name, value in line.items() if value or name == "content"}


def _plain(value: Any) -> Any:
    if isinstance(value, Media):
        return value.to_json()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__!r}")


def _changes(
    values: Mapping[str, Any], before: Mapping[str, bytes], now: Mapping[str, bytes]
) -> dict[str, Any]:
    return {
        "set": {
            name: each for name, each in values.items() if before.get(name) != now[name]
        },
        "removed": [name for name in before if name not in now],
    }


def _kept(
    lines: Iterable[Any], memory: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Kept:
    return Kept(
        [_digest(each) for each in lines],
        {name: _digest(each) for name, each in memory.items()},
        {name: _digest(each) for name, each in metadata.items()},
    )


def _digest(value: Any) -> bytes:
    try:
        text = to_json(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        raise _cannot_keep(f"a text that is none: {error}") from None
    return blake2b(text, digest_size=16).digest()


def _packed_mapping(
    values: Mapping[str, Any], where: str, depth: int = 0
) -> dict[str, Any]:
    for name in values:
        if not isinstance(name, str):
            raise _cannot_keep(f"{name!r:.100} as a name in `{where}`, which is no text")
    return {name: _packed(each, where, depth) for name, each in values.items()}


def _packed(value: Any, where: str, depth: int = 0) -> Any:
    """Return a value as JSON, or refuse it."""
    if depth > MAX_DEPTH:
        raise _cannot_keep(f"more than {MAX_DEPTH} levels in `{where}`")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, list | tuple):
        return [_packed(each, where, depth + 1) for each in value]
    if isinstance(value, Mapping):
        packed = _packed_mapping(value, where, depth + 1)
        return {"$": packed} if _looks_tagged(value) else packed
    raise _cannot_keep(f"a value of type {type(value).__name__!r} in `{where}`")


def _unpacked(value: Any) -> Any:
    """Return what was kept as JSON.

    Raises:
        CheckpointLoadError: It is nothing that was kept so.
    """
    if isinstance(value, list):
        return [_unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    if not _looks_tagged(value):
        return {name: _unpacked(each) for name, each in value.items()}
    ((tag, inside),) = value.items()
    try:
        if tag == "$decimal" and isinstance(inside, str):
            return Decimal(inside)
        if tag == "$datetime" and isinstance(inside, str):
            return datetime.fromisoformat(inside)
        if tag == "$" and isinstance(inside, dict):
            return {name: _unpacked(each) for name, each in inside.items()}
    except (ValueError, ArithmeticError):
        pass
    raise CheckpointLoadError(f"a value marked {tag[:50]!r}", "is damaged or unknown")


def _looks_tagged(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _cannot_keep(what: str) -> CheckpointSaveError:
    return CheckpointSaveError(
        "the state of an agent",
        f"holds {what}",
        "Give it what JSON can hold, Decimal and datetime only.",
    )
