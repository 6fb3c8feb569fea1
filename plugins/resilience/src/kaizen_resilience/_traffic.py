"""What all calls of a kernel share: limits and circuit breakers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaizen_resilience._breaker import Breakers

if TYPE_CHECKING:
    from kaizen_resilience._limits import Gate
    from kaizen_resilience._settings import ResilienceSettings

__all__ = ["Traffic"]

ANY = "*"
MOST_GATES = 1_000


class Traffic:
    """The gates of providers, and the circuit breakers of models.

    The plugin offers its own as the port `Traffic`, so that every `Resilience` of a kernel
    keeps to the same limits and knows the same outages. It serves one event loop.

    Attributes:
        breakers: The circuit breakers.
        has_own_circuit: Whether the settings say when they open, or for how long.
    """

    def __init__(self, settings: ResilienceSettings) -> None:
        self._limits = settings.limits
        self._gates: dict[str, Gate] = {}
        self.breakers = Breakers(settings)
        said = {"circuit_failures", "circuit_open_s"} & settings.model_fields_set
        self.has_own_circuit = bool(said)

    def gate(self, provider: str) -> Gate | None:
        """Return what calls to a provider have to pass, if there is anything."""
        if not self._limits:
            return None
        gate = self._gates.get(provider)
        if gate is None:
            limits = self._limits.get(provider) or self._limits.get(ANY)
            if limits is None or len(self._gates) >= MOST_GATES:
                return None
            from kaizen_resilience._limits import Gate

            gate = self._gates[provider] = Gate(provider, limits)
        return gate
