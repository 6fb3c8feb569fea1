"""What observers are told.

`pre_*` observers get an event before an operation, `post_*` observers one after it, with
`duration_ms` and either `result` or `error`. Both get the same `metadata` dictionary, so
that what the first puts there the second finds; it starts as a copy of the run's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaizen._records import record
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


@record
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


@record
class AgentInitEvent(Event):
    """An agent is used for the first time with a kernel."""

    config: AgentConfig
    signature: type[Signature]
    request: None = None
    result: None = None


@record
class AgentLoopEvent(Event):
    """A run begins or has ended."""

    request: RunRequest
    result: Result | None = None


@record
class CycleEvent(Event):
    """A turn of the loop begins or has ended."""

    request: CycleRequest
    result: CycleResult | None = None


@record
class ModelCallEvent(Event):
    """A model is asked or has answered."""

    request: ModelRequest
    result: ModelReply | None = None


@record
class ToolCallEvent(Event):
    """A tool is called or has returned."""

    request: ToolCall
    result: ToolResult | None = None


@record
class CheckpointEvent(Event):
    """A snapshot is taken or has been."""

    request: CheckpointRequest
    result: Checkpoint | None = None


@record
class InterruptEvent(Event):
    """A run is about to stop on request, or has stopped."""

    request: InterruptReason
    result: None = None
