"""Leaves a model alone that fails again and again, and asks it once in a while."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from kaizen.errors import (
    ModelConnectionError,
    ModelError,
    ModelOverloadedError,
    ModelTimeoutError,
)

from kaizen_resilience._errors import CircuitOpenError, QueueFullError

if TYPE_CHECKING:
    from kaizen_resilience._settings import ResilienceSettings

__all__ = ["Breakers", "Key", "is_outage"]

Key = tuple[str, str]
"""A provider and a model."""

MOST_KNOWN = 1_000
PROBE_S = 1.0


def is_outage(error: ModelError) -> bool:
    """Whether an error says that a model is out of order, and not that it says no."""
    if isinstance(error, CircuitOpenError | QueueFullError):
        return False
    if isinstance(error, ModelOverloadedError | ModelTimeoutError | ModelConnectionError):
        return True
    return error.status is not None and error.status >= 500


class _Breaker:
    """What is known of one model that failed.

    Attributes:
        failures: How often in a row.
        open_until: When it may be asked again, by the monotonic clock; `None` while it
            is asked as usual.
        probing: Whether one call finds out if it works again.
    """

    __slots__ = ("failures", "open_until", "probing")

    def __init__(self) -> None:
        self.failures = 0
        self.open_until: float | None = None
        self.probing = False


class Breakers:
    """The circuit breakers of all models; those that work have none.

    Closed: calls go through, and failures in a row are counted. Open: none does. Half open,
    after a time: one does, and its outcome decides for the others.
    """

    def __init__(self, settings: ResilienceSettings) -> None:
        self._most = settings.circuit_failures
        self._open_s = settings.circuit_open_s
        self._known: dict[Key, _Breaker] = {}

    def check(self, key: Key) -> None:
        """Refuse a call that would not be let through now.

        Raises:
            CircuitOpenError: It says after which time it may be.
        """
        breaker = self._known.get(key)
        if breaker is None or breaker.open_until is None:
            return
        left = breaker.open_until - monotonic()
        if left > 0:
            raise _open(key, breaker.failures, left)
        if breaker.probing:
            raise _open(key, breaker.failures, PROBE_S)

    def admit(self, key: Key) -> bool:
        """Let a call through; say whether it is the one that finds out.

        Raises:
            CircuitOpenError: It must not go through.
        """
        if key not in self._known:
            return False
        self.check(key)
        breaker = self._known[key]
        breaker.probing = breaker.open_until is not None
        return breaker.probing

    def succeeded(self, key: Key, *, probe: bool) -> bool:
        """Take note of a reply, or of an error that only a working model gives.

        A call that began before the circuit opened says nothing of what it is now.

        Returns:
            Whether the circuit was open until now.
        """
        breaker = self._known.get(key)
        if breaker is None or (breaker.open_until is not None and not probe):
            return False
        del self._known[key]
        return probe

    def failed(self, key: Key, *, probe: bool) -> bool:
        """Take note of an outage; say whether the circuit is open from now on."""
        if not self._most:
            return False
        breaker = self._known.get(key)
        if breaker is None:
            if len(self._known) >= MOST_KNOWN:
                del self._known[next(iter(self._known))]
            breaker = self._known[key] = _Breaker()
        if breaker.open_until is not None and not probe:
            return False
        breaker.failures += 1
        breaker.probing = False
        if not probe and breaker.failures < self._most:
            return False
        breaker.open_until = monotonic() + self._open_s
        return True

    def dropped(self, key: Key, *, probe: bool) -> None:
        """Take note that a call ended without saying anything: the next one finds out."""
        breaker = self._known.get(key)
        if probe and breaker is not None:
            breaker.probing = False


def _open(key: Key, failures: int, left: float) -> CircuitOpenError:
    provider, model = key
    return CircuitOpenError(
        provider,
        f"is not asked for model {model or 'of its choice'!r} now: it failed {failures} "
        "times in a row",
        f"It is asked again in {left:.1f} s; meanwhile, a fallback could answer.",
        retry_after_s=left,
    )
