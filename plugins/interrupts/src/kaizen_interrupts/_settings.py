"""What a user may set."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from kaizen.config import PluginSettings
from pydantic import Field

__all__ = ["InterruptsSettings"]


class InterruptsSettings(PluginSettings):
    """What a user may write under `[plugins.interrupts]`."""

    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Longest time of a run before it is stopped gracefully, in seconds.",
    )
    max_budget_usd: Decimal | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="What runs may spend, in US dollars, before they are stopped.",
    )
    track_by: Literal["session", "agent", "user"] = Field(
        default="session", description="Whose runs share one budget."
    )
    alert_threshold: float = Field(
        default=0.8, gt=0, le=1, description="Share of the budget at which to warn."
    )
    max_memory_mb: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Resident memory of this process at which runs stop, in MiB.",
    )
    max_cpu_percent: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="CPU use of this process at which runs stop; 100 is one core.",
    )
    check_interval: float = Field(
        default=0.5,
        ge=0.01,
        le=3_600,
        description="How often handlers are asked while a run goes on, in seconds.",
    )
    poll_interval: float = Field(
        default=0.25,
        ge=0,
        le=3_600,
        description="How often to look for commands of other processes, in seconds; "
        "0 for never.",
    )
    handle_signals: bool = Field(
        default=False, description="Stop runs on SIGINT and SIGTERM, gracefully first."
    )
