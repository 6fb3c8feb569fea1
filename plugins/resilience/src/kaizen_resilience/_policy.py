"""How often, and after which time, a model is asked again."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen.errors import ModelError
    from kaizen.messages import ModelSettings
    from kaizen.run import Run

    from kaizen_resilience._settings import ResilienceSettings

__all__ = ["Policy"]

MOST_RETRIES = 100


class Policy:
    """Settings, and whose they are.

    Args:
        settings: The settings.
        owned: Whether they were made for the agents that they are used for, and say more
            than what these have in their config.
        random: Where chance comes from.

    Attributes:
        settings: The settings.
    """

    def __init__(
        self,
        settings: ResilienceSettings,
        *,
        owned: bool = False,
        random: Random | None = None,
    ) -> None:
        self.settings = settings
        self._decides = owned and "retries" in settings.model_fields_set
        self._random = random or Random()
        self._told: tuple[ModelSettings | None, ModelSettings | None] = (None, None)

    def in_time(self, settings: ModelSettings) -> ModelSettings:
        """Return settings that tell the provider how long a request may take."""
        timeout_s, known_s = self.settings.timeout_s, settings.timeout_s
        if not timeout_s or (known_s is not None and known_s <= timeout_s):
            return settings
        given, told = self._told  # an agent's are the same each time
        if given is not settings or told is None:
            told = replace(settings, timeout_s=timeout_s)
            self._told = (settings, told)
        return told

    def retries(self, run: Run) -> int:
        """Return how often each model may be asked again for one call."""
        config = run.plan.config
        if self._decides or "retry_attempts" not in config.model_fields_set:
            return self.settings.retries
        return min(config.retry_attempts, MOST_RETRIES)

    def wait_s(self, error: ModelError, retried: int) -> float:
        """Return how long to wait before the next attempt, in seconds.

        As long as the provider says, and a bit, so that not all who were told so come back
        at once; else any time up to one that doubles with each retry ("full jitter").
        """
        settings = self.settings
        most_s = min(settings.max_wait_s, settings.backoff_s * 2.0**retried)
        told_s = error.retry_after_s or 0.0
        if told_s > settings.max_wait_s:
            return told_s
        if told_s > 0:
            jittered_s = told_s + self._random.uniform(0, settings.backoff_s)
            return min(jittered_s, settings.max_wait_s)
        return self._random.uniform(0, most_s)
