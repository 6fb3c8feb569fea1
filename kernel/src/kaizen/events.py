"""What observers are told.

`pre_*` observers get an event before an operation, `post_*` observers one after it, with
`duration_ms` and either `result` or `error`. Both get the same `metadata` dictionary, so
that what the first puts there the second finds; it starts as a copy of the run's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaizen._records import quick_init
from kaizen.interrupts import InterruptReason
from kaizen.messages import ModelReply, ModelRequest
from kaizen.operations import (
    Checkpoint,
    CheckpointRequest,
    CycleRequest,
    CycleResult,
    Result,
    RunRequest,
)
from kaizen.tools import ToolCall, ToolResult

if TYPE_CHECKING:
    from kaizen.config import AgentConfig
    from kaizen.signatures import Signature

__all__ = [
    "AgentInitEvent",
    "AgentLoopEvent",
    "CheckpointEvent",
    "CycleEvent",
    "Event",
    "InterruptEvent",
    "ModelCallEvent",
    "ToolCallEvent",
]


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says.

    Attributes:
        run_id: The run, or `""` outside one.
        trace_id: The outermost run of which this one is part; 32 hexadecimal digits.
        timestamp: When it was sent, seconds since the epoch, UTC.
        metadata: Room for observers; shared by the events before and after one operation.
        duration_ms: How long the operation took, in milliseconds; after it only.
        error: What it raised, if it did; after it only.
    """

    agent_id: str
    run_id: str
    trace_id: str
    timestamp: float
    metadata: dict[str, Any]
    duration_ms: float | None = None
    error: BaseException | None = None


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInitEvent(Event):
    """An agent is used for the first time with a kernel."""

    config: AgentConfig
    signature: type[Signature]
    request: None = None
    result: None = None


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLoopEvent(Event):
    """A run begins or has ended."""

    request: RunRequest
    result: Result | None = None


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class CycleEvent(Event):
    """A turn of the loop begins or has ended."""

    request: CycleRequest
    result: CycleResult | None = None


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCallEvent(Event):
    """A model is asked or has answered."""

    request: ModelRequest
    result: ModelReply | None = None


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallEvent(Event):
    """A tool is called or has returned."""

    request: ToolCall
    result: ToolResult | None = None


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEvent(Event):
    """A snapshot is taken or has been."""

    request: CheckpointRequest
    result: Checkpoint | None = None


@quick_init
@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptEvent(Event):
    """A run is about to stop on request, or has stopped."""

    request: InterruptReason
    result: None = None
