"""Who stops a run, how, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import Any

from kaizen._records import record

__all__ = ["InterruptMode", "InterruptReason", "InterruptSignal", "InterruptSource"]


class InterruptSource(Enum):
    """Who asks for the stop."""

    USER = "user"
    SYSTEM = "system"
    PROGRAMMATIC = "programmatic"


class InterruptMode(Enum):
    """How the run stops."""

    GRACEFUL = "graceful"
    """Finish the current cycle, then stop."""
    IMMEDIATE = "immediate"
    """Cancel what is under way, then stop."""


class InterruptSignal(Enum):
    """Why the run stops."""

    USER_REQUESTED = "user_requested"
    RATE_LIMIT = "rate_limit"
    BUDGET_EXCEEDED = "budget_exceeded"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    CUSTOM = "custom"


@record
class InterruptReason:
    """One request to stop a run.

    Attributes:
        message: The reason for a person to read.
        metadata: What a handler wants to add, such as `checkpoint_id` or
            `budget_spent_usd`.
    """

    source: InterruptSource = InterruptSource.PROGRAMMATIC
    mode: InterruptMode = InterruptMode.GRACEFUL
    message: str = "stopped on request"
    signal: InterruptSignal = InterruptSignal.CUSTOM
    metadata: Mapping[str, Any] = field(default_factory=dict)
