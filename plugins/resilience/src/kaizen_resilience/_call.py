"""One model call: as many attempts, and models, as it takes to get its reply."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anyio import current_effective_deadline, current_time
from kaizen.errors import (
    AgentInterrupted,
    KaizenError,
    ModelError,
    ModelFilterError,
    ModelRequestError,
)
from kaizen.runlog import ChildEnded, ChildStarted, ModelSwitched, ToolIntended

from kaizen_resilience._asker import Asker
from kaizen_resilience._errors import CircuitOpenError, QueueFullError
from kaizen_resilience._notes import Notes, reason_of
from kaizen_resilience._seam import rest_after
from kaizen_resilience._targets import Target, addressed, provider_of, suited, targets
from kaizen_resilience._waiting import Wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelProfile, ModelReply, ModelRequest
    from kaizen.run import Run

    from kaizen_resilience._policy import Policy
    from kaizen_resilience._traffic import Traffic

__all__ = ["Call"]


class Call:
    """One model call on its way through its attempts.

    What a reader of the stream has in front of them is known at every moment: `_kept` is
    the text that stands. The next attempt either goes on from its end, or the reader is
    told before it begins that the answer begins again.
    """

    def __init__(
        self,
        policy: Policy,
        run: Run,
        request: ModelRequest,
        call_next: ModelCall,
        traffic: Sequence[Traffic],
    ) -> None:
        self._policy = policy
        self._run = run
        self._request = request
        self._notes = Notes(run)
        self._asker = Asker(run, call_next, policy.settings, traffic, self._notes)
        self._targets = targets(run, request, policy.settings.fallbacks)
        self._target = self._targets[0]
        self._began = len(run.log.entries)
        self._retried = 0
        self._kept = ""
        self._thoughts = ""
        self._unknown = False
        self._half_written = False
        self._refuses_prefix = False
        self._announced: tuple[Target, str, str] | None = None
        self._error: ModelError | None = None

    async def answer(self) -> ModelReply:
        """Return the reply, whoever gives it.

        Raises:
            ModelError: Nobody does; it is what the first one failed of.
            AgentInterrupted: The run was asked to stop meanwhile.
        """
        request = self._request
        while True:
            asked = self._target
            try:
                reply = await self._asker.ask(request, asked)
            except ModelError as error:
                reason = reason_of(error)
                self._take_over(error)
                await self._choose_next(error, request)
            else:
                whole = self._whole(reply)
                if whole is not None:
                    return whole
                reason = "the beginning of the reply may be there twice"
                self._refuses_prefix = True
            request = self._next_request(await self._fitting(), asked, reason)

    def _take_over(self, error: ModelError) -> None:
        """Take note of what was read of an attempt that failed."""
        self._unknown = self._unknown or self._asker.unseen
        self._half_written = False
        if error.partial is not None and self._asker.streamed:
            self._kept += error.partial.text
            self._thoughts += error.partial.reasoning
            self._half_written = bool(error.partial.tool_uses)

    async def _choose_next(self, error: ModelError, request: ModelRequest) -> None:
        """Wait, or take the next target; raise if it is over.

        Raises:
            ModelError: Nobody else is left, or nobody else may be asked.
            AgentInterrupted: The run was asked to stop.
        """
        run = self._run
        if run.interrupted is not None:
            raise AgentInterrupted(run.interrupted, run.id) from error
        if self._effects_began():
            raise error
        if self._target is self._targets[0]:
            self._error = error
        went_on = len(request.prefix) > len(self._request.prefix)
        came = error.partial is not None and bool(error.partial.text)
        if went_on and not came and isinstance(error, ModelRequestError):
            self._refuses_prefix = True
            self._notes.add("prefix_refused", target=str(self._target))
        elif not await self._may_retry(error):
            self._leave_target(error, reason_of(error))

    def _effects_began(self) -> bool:
        """Whether tools were called, or runs started, while the model was asked."""
        fresh = self._run.log.entries[self._began :]
        effects = (ToolIntended, ChildStarted, ChildEnded)
        return any(isinstance(each, effects) for each in fresh)

    async def _may_retry(self, error: ModelError) -> bool:
        """Wait before another attempt with the same model, if there may be one."""
        again = error.retryable and self._retried < self._policy.retries(self._run)
        if not again or isinstance(error, QueueFullError):
            return False
        if isinstance(error, CircuitOpenError) and self._target is not self._targets[-1]:
            return False
        wait_s = self._policy.wait_s(error, self._retried)
        until = current_time() + wait_s
        if wait_s > self._policy.settings.max_wait_s:
            return False
        if until >= current_effective_deadline():
            return False
        self._retried += 1
        self._notes.add(
            "retry",
            target=str(self._target),
            retry=self._retried,
            wait_s=round(wait_s, 3),
            status=error.status,
            reason=reason_of(error),
        )
        if wait_s:
            await Wait().until(self._run, until)
        return True

    def _leave_target(self, error: ModelError, reason: str) -> None:
        """Go on to the next target.

        Raises:
            ModelError: There is none. What the first one failed of says most: the others
                only stood in for it.
        """
        first = self._error or error
        if self._target is not self._targets[0]:
            first.add_note(f"fallback {str(self._target)!r} failed as well: {reason}")
        if self._target is self._targets[-1] or isinstance(error, ModelFilterError):
            raise first
        self._target = self._targets[self._targets.index(self._target) + 1]
        self._retried = 0
        self._refuses_prefix = False

    async def _fitting(self) -> ModelProfile:
        """Return what the target can do, or else the next one that can do what is asked."""
        while True:
            target, error = self._target, self._error
            try:
                profile = (await provider_of(self._run, target)).describe(target.model)
            except KaizenError as unavailable:
                problem = reason_of(unavailable)
            else:
                problem = _misfit(self._request, profile)
                if not problem or target is self._targets[0]:
                    return profile
            assert error is not None  # else the first target would have answered
            self._notes.add("skipped", target=str(target), reason=problem)
            self._leave_target(error, problem)

    def _next_request(
        self, profile: ModelProfile, asked: Target, reason: str
    ) -> ModelRequest:
        """Return what is sent next, after the reader was told what becomes of the text."""
        goes_on = profile.continues and self._may_go_on()
        was_read = bool(self._kept or self._thoughts or self._unknown)
        stands = (self._target, self._kept, self._thoughts) if goes_on else None
        if stands is None or stands != self._announced:  # else nothing came since
            self._announced = stands
            if was_read or self._target != asked:
                self._switch(asked, reason, restarts=was_read and not goes_on)
        request = addressed(self._request, self._target, self._targets[0])
        if goes_on:
            return replace(request, prefix=request.prefix + self._kept)
        self._kept = self._thoughts = ""
        self._unknown = False
        return suited(self._run, request, profile)

    def _may_go_on(self) -> bool:
        """Whether the text that stands can be gone on from at all.

        Never from the middle of structured output or of a tool call. Nor from white space:
        some providers refuse it, others cut it off, and then say it again.
        """
        text = self._kept
        return (
            bool(text)
            and not text[-1].isspace()
            and self._request.output is None
            and not (self._unknown or self._half_written or self._refuses_prefix)
        )

    def _whole(self, reply: ModelReply) -> ModelReply | None:
        """Return a reply with what was there of it before; `None` if that is uncertain."""
        if not self._kept:
            return reply
        rest = rest_after(self._request.prefix + self._kept, reply.text)
        if rest is None:
            self._kept += reply.text
            return None
        text = self._kept + rest
        if rest != reply.text and self._asker.streamed:
            self._switch(self._target, "it began again with what was there", restarts=True)
            self._run.log.publish(text)
        return replace(
            reply,
            text=text,
            reasoning=self._thoughts + reply.reasoning,
            provider_data=reply.provider_data if reply.tool_uses else None,
        )

    def _switch(self, asked: Target, reason: str, *, restarts: bool) -> None:
        self._run.add(
            ModelSwitched,
            cycle=self._request.cycle,
            from_provider=asked.provider,
            from_model=asked.model,
            provider=self._target.provider,
            model=self._target.model,
            reason=reason,
            restarts=restarts,
            kept_chars=0 if restarts else len(self._kept),
        )


def _misfit(request: ModelRequest, profile: ModelProfile) -> str:
    """Return what a model cannot do that a request needs."""
    if request.tools and not profile.tools:
        return "it calls no tools"
    if request.prefix and not profile.continues:
        return "it does not go on from a prefix"
    return ""
