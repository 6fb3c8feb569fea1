"""What is raised before a provider was asked at all."""

from __future__ import annotations

from kaizen.errors import ModelOverloadedError, ModelRateLimitError

__all__ = ["CircuitOpenError", "QueueFullError"]


class CircuitOpenError(ModelOverloadedError):
    """A model is not asked for now, since it failed many times in a row."""


class QueueFullError(ModelRateLimitError):
    """As many calls wait for a provider as may."""
