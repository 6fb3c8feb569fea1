"""One attempt: past the circuit breaker, through the gates, and in time."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from kaizen.errors import ModelError, ModelTimeoutError
from kaizen.runlog import ModelCharged, ModelRequested

from kaizen_resilience._amounts import cost_of, expected_tokens, usage_of
from kaizen_resilience._breaker import is_outage
from kaizen_resilience._errors import CircuitOpenError
from kaizen_resilience._targets import provider_of
from kaizen_resilience._timing import Late, answered_in_time, streamed_in_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run

    from kaizen_resilience._breaker import Breakers
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
            it: it was to be, or pieces of it came, since middleware may begin to listen.
        unseen: Whether something of it was read, and nobody knows what.
    """

    __slots__ = (
        "_breakers",
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
        last = traffic[-1]
        self._breakers = [
            each.breakers for each in traffic if each is last or each.has_own_circuit
        ]
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
        for breakers in self._breakers:
            breakers.check(target)
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
        """Ask a model, and let its circuit breakers know what came of it."""
        admitted: list[tuple[Breakers, bool]] = []
        try:
            for breakers in self._breakers:
                probe = breakers.admit(target)
                admitted.append((breakers, probe))  # kept also if the next one refuses
            reply = await self._timed(request, target)
        except CircuitOpenError:  # of the next breaker: it says nothing of this one
            _drop(admitted, target)
            raise
        except ModelError as error:
            if not is_outage(error):
                _note_success(admitted, target)
            elif True in [each.failed(target, probe=probe) for each, probe in admitted]:
                self._tell("circuit_opened", target)
            raise
        except BaseException:
            _drop(admitted, target)
            raise
        if _note_success(admitted, target):
            self._tell("circuit_closed", target)
        return reply

    async def _timed(self, request: ModelRequest, target: Target) -> ModelReply:
        """Ask a model, and raise if it takes too long."""
        run, settings = self._run, self._settings
        first, pulse = len(run.log.entries), run.log.pulse
        timeout_s = request.settings.timeout_s or 0.0
        self.streamed = run.plan.config.stream or run.log.watched
        ask = partial(self._call_next, request)
        limited = timeout_s or settings.first_token_s or settings.between_tokens_s
        try:
            if self.streamed and limited:
                reply = await streamed_in_time(run, ask, settings, timeout_s)
            else:
                reply = await answered_in_time(run, ask, timeout_s)
            self._look_back(reply, pulse)
            return reply
        except Late as late:
            error = late
        except ModelError as failure:
            self._look_back(failure.partial, pulse)
            raise
        self._look_back(error.partial, pulse)
        self.unseen = self.unseen or (self.streamed and error.partial is None)
        raise await self._too_late(request, target, error, first)

    def _look_back(self, partial: ModelReply | None, pulse: int) -> None:
        """Take note that pieces came after all, and perhaps that nobody says which."""
        if self._run.log.pulse != pulse:
            self.streamed = True
            self.unseen = partial is None

    async def _too_late(
        self, request: ModelRequest, target: Target, late: Late, first: int
    ) -> ModelTimeoutError:
        """Charge what was begun and cut off, as well as that is known, and say what it was.

        Nobody else does, unless the provider has come to an end of its own meanwhile.
        """
        if not self._is_charged(first):
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

    def _is_charged(self, first: int) -> bool:
        """Whether the kernel has charged the last request since an entry of the log."""
        for entry in reversed(self._run.log.entries[first:]):
            if isinstance(entry, ModelCharged | ModelRequested):
                return isinstance(entry, ModelCharged)
        return False

    def _tell(self, kind: str, target: Target) -> None:
        self._notes.add(kind, provider=target.provider, model=target.model)


def _note_success(admitted: Sequence[tuple[Breakers, bool]], target: Target) -> bool:
    """Tell all breakers of it; say whether one of them was open until now."""
    return True in [each.succeeded(target, probe=probe) for each, probe in admitted]


def _drop(admitted: Sequence[tuple[Breakers, bool]], target: Target) -> None:
    for breakers, probe in admitted:
        breakers.dropped(target, probe=probe)


def _line(run: Run) -> str:
    """Return with whom a run stands in line: those of its tenant, or else of its agent."""
    first = run.path[0]
    told = first.metadata.get("tenant") or first.metadata.get("principal")
    return str(told or first.agent_id)[:MOST_LINE_CHARS]
