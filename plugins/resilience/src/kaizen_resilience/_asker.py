"""One attempt: past the circuit breaker, through the gates, and in time."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from kaizen.errors import ModelError, ModelTimeoutError
from kaizen.runlog import ModelCharged

from kaizen_resilience._amounts import cost_of, expected_tokens, usage_of
from kaizen_resilience._breaker import is_outage
from kaizen_resilience._targets import provider_of
from kaizen_resilience._timing import Late, answered_in_time, streamed_in_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run

    from kaizen_resilience._limits import Gate
    from kaizen_resilience._notes import Notes
    from kaizen_resilience._settings import ResilienceSettings
    from kaizen_resilience._targets import Target
    from kaizen_resilience._traffic import Traffic

__all__ = ["Asker"]

MOST_LINE_CHARS = 200


class Asker:
    """Asks models for one call of a run.

    Attributes:
        streamed: Whether the last attempt was streamed, so that somebody may have read of
            it.
        unseen: Whether something of it was read, and nobody knows what.
    """

    __slots__ = (
        "_call_next",
        "_notes",
        "_run",
        "_settings",
        "_traffic",
        "streamed",
        "unseen",
    )

    def __init__(
        self,
        run: Run,
        call_next: ModelCall,
        settings: ResilienceSettings,
        traffic: Sequence[Traffic],
        notes: Notes,
    ) -> None:
        self._run = run
        self._call_next = call_next
        self._settings = settings
        self._traffic = traffic
        self._notes = notes
        self.streamed = False
        self.unseen = False

    async def ask(self, request: ModelRequest, target: Target) -> ModelReply:
        """Ask a model once, as soon as it may be asked.

        Raises:
            CircuitOpenError: It is left alone for now.
            QueueFullError: Too many wait for it.
            ModelTimeoutError: It took too long.
            AgentInterrupted: The run was asked to stop while it waited.
        """
        self.streamed = self.unseen = False
        gates = [
            gate
            for traffic in self._traffic
            if (gate := traffic.gate(target.provider)) is not None
        ]
        if not gates:
            return await self._guarded(request, target)
        self._traffic[-1].breakers.check(target)
        return await self._through(gates, request, target)

    async def _through(
        self, gates: Sequence[Gate], request: ModelRequest, target: Target
    ) -> ModelReply:
        """Wait at each gate for a turn, and tell it afterwards what was taken."""
        if not gates:
            return await self._guarded(request, target)
        gate, *others = gates
        began = monotonic()
        tokens = expected_tokens(request) if gate.counts_tokens else 0
        ticket = await gate.enter(self._run, _line(self._run), tokens)
        taken = 0
        try:
            if ticket.at > began:
                waited = round(ticket.at - began, 3)
                self._notes.add("waited", provider=target.provider, seconds=waited)
            reply = await self._through(others, request, target)
            taken = reply.usage.total_tokens
        except ModelError as error:
            taken = error.partial.usage.total_tokens if error.partial is not None else 0
            raise
        finally:
            gate.leave(ticket, taken)
        return reply

    async def _guarded(self, request: ModelRequest, target: Target) -> ModelReply:
        """Ask a model, and let its circuit breaker know what came of it."""
        breakers = self._traffic[-1].breakers
        probe = breakers.admit(target)
        try:
            reply = await self._timed(request, target)
        except ModelError as error:
            if not is_outage(error):
                breakers.succeeded(target, probe=probe)
            elif breakers.failed(target, probe=probe):
                self._tell("circuit_opened", target)
            raise
        except BaseException:
            breakers.dropped(target, probe=probe)
            raise
        if breakers.succeeded(target, probe=probe):
            self._tell("circuit_closed", target)
        return reply

    async def _timed(self, request: ModelRequest, target: Target) -> ModelReply:
        """Ask a model, and raise if it takes too long."""
        run, settings = self._run, self._settings
        timeout_s = request.settings.timeout_s or 0.0
        self.streamed = run.plan.config.stream or run.log.watched
        ask = partial(self._call_next, request)
        limited = timeout_s or settings.first_token_s or settings.between_tokens_s
        try:
            if self.streamed and limited:
                return await streamed_in_time(run, ask, settings, timeout_s)
            return await answered_in_time(run, ask, timeout_s)
        except Late as late:
            error = late
        raise await self._too_late(request, target, error)

    async def _too_late(
        self, request: ModelRequest, target: Target, late: Late
    ) -> ModelTimeoutError:
        """Charge what was begun and cut off, as well as that is known, and say what it was.

        Nobody else does, since the provider has not come to an end of its own.
        """
        self.unseen = self.streamed and late.partial is None
        usage = usage_of(request, late.partial)
        provider = await provider_of(self._run, target)
        self._run.add(
            ModelCharged,
            usage=usage,
            cost_usd=cost_of(usage, provider.describe(target.model)),
        )
        error = ModelTimeoutError(
            target.provider,
            late.what,
            "Ask again, or raise the time limit under [plugins.resilience].",
        )
        error.partial = late.partial
        return error

    def _tell(self, kind: str, target: Target) -> None:
        self._notes.add(kind, provider=target.provider, model=target.model)


def _line(run: Run) -> str:
    """Return with whom a run stands in line: those of its tenant, or else of its agent."""
    first = run.path[0]
    told = first.metadata.get("tenant") or first.metadata.get("principal")
    return str(told or first.agent_id)[:MOST_LINE_CHARS]
