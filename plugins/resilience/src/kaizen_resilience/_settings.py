"""What a user may write under `[plugins.resilience]`, and give to `Resilience`."""

from __future__ import annotations

from kaizen.config import PluginSettings
from pydantic import Field

__all__ = ["LimitSettings", "ResilienceSettings"]

MOST_TARGETS = 16
DAY_S = 86_400


class LimitSettings(PluginSettings):
    """How much may be asked of one provider. What is left out has no limit."""

    concurrency: int | None = Field(
        default=None, ge=1, le=100_000, description="Most calls at a time."
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Most calls in any 60 seconds."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="Most tokens in any 60 seconds."
    )
    queue: int = Field(
        default=1_000, ge=0, le=100_000, description="Most calls that wait for their turn."
    )


class ResilienceSettings(PluginSettings):
    """What a user may write under `[plugins.resilience]`. A time of 0 is no limit."""

    retries: int = Field(
        default=2,
        ge=0,
        le=20,
        description="How often a model is asked again, unless `retry_attempts` says it.",
    )
    backoff_s: float = Field(
        default=0.5,
        ge=0,
        le=60,
        description="Longest wait before the first retry; it doubles with each.",
    )
    max_wait_s: float = Field(
        default=30.0, ge=0, le=3_600, description="Longest wait before any retry."
    )
    timeout_s: float = Field(
        default=600.0, ge=0, le=DAY_S, description="Longest time for one request."
    )
    first_token_s: float = Field(
        default=300.0,
        ge=0,
        le=DAY_S,
        description="Longest time until a stream begins, to connect included.",
    )
    between_tokens_s: float = Field(
        default=120.0, ge=0, le=DAY_S, description="Longest silence of a stream."
    )
    fallbacks: tuple[str, ...] = Field(
        default=(),
        max_length=MOST_TARGETS,
        description="Who is asked next, in order: `provider/model`, a provider, or another "
        "model of the agent's provider.",
    )
    circuit_failures: int = Field(
        default=5,
        ge=0,
        le=1_000,
        description="Failures in a row after which a model is left alone; 0 for never.",
    )
    circuit_open_s: float = Field(
        default=30.0, gt=0, le=3_600, description="For how long it then is."
    )
    limits: dict[str, LimitSettings] = Field(
        default_factory=dict,
        max_length=100,
        description="By provider; `*` is for each of those that are not named.",
    )
