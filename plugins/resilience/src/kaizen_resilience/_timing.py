"""Gives a request no more time than it may take, whatever its provider does."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio import CancelScope, current_time
from kaizen.errors import ModelError
from kaizen.messages import ModelReply
from kaizen.runlog import Gap, ModelRequested, ReasoningDelta, TextDelta

if TYPE_CHECKING:
    from kaizen.run import Run
    from kaizen.runlog import StreamEvent

    from kaizen_resilience._settings import ResilienceSettings

__all__ = ["Late", "answered_in_time", "streamed_in_time"]

Ask: TypeAlias = Callable[[], Awaitable[ModelReply]]

MOST_UNREAD = 65_536
MOST_GRACE_S = 1.0


class Late(Exception):
    """A request took too long.

    Attributes:
        what: What there was too little time for, as the end of a sentence.
        partial: What had come, or `None` if that is not known.
    """

    def __init__(self, what: str, partial: ModelReply | None) -> None:
        super().__init__(what)
        self.what = what
        self.partial = partial


async def answered_in_time(run: Run, ask: Ask, timeout_s: float) -> ModelReply:
    """Await a whole reply.

    The time begins when the provider is asked: other middleware may have asked a person
    before.

    Raises:
        Late: It took too long.
    """
    if not timeout_s:
        return await ask()
    asked = ask()
    coroutine = asked if isinstance(asked, Coroutine) else _awaiting(asked)
    first = len(run.log.entries)
    with run.plan.new_scope() as scope:
        try:
            return await _stepped(
                coroutine, lambda: _is_asked(run, first), scope, timeout_s
            )
        except ModelError as error:
            if not scope.cancel_called:
                raise
            raise Late(_within(timeout_s), error.partial) from None
    raise Late(_within(timeout_s), None)


@types.coroutine
def _stepped(
    coroutine: Coroutine[Any, Any, ModelReply],
    is_asked: Callable[[], bool],
    scope: CancelScope,
    timeout_s: float,
) -> Generator[Any, Any, ModelReply]:
    """Await a coroutine, and start the time when it waits for the provider.

    No task watches it: it is looked at whenever it waits, which costs next to nothing.
    """
    try:
        yielded = coroutine.send(None)
        while True:
            if scope.deadline == inf and is_asked():
                scope.deadline = current_time() + _with_grace(timeout_s)
            try:
                sent = yield yielded
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                yielded = coroutine.throw(error)
            else:
                yielded = coroutine.send(sent)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def _awaiting(asked: Awaitable[ModelReply]) -> ModelReply:
    return await asked


def _is_asked(run: Run, first: int) -> bool:
    entries = run.log.entries
    return any(type(entries[at]) is ModelRequested for at in range(first, len(entries)))


async def streamed_in_time(
    run: Run, ask: Ask, settings: ResilienceSettings, timeout_s: float
) -> ModelReply:
    """Await a reply that is streamed: its first token, each next one, and the whole.

    Raises:
        Late: One of them took too long.
    """
    watch = _Watch(run, settings, timeout_s)
    failure: Exception | None = None
    reply: ModelReply | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.follow)
        try:
            with watch.scope:
                reply = await ask()
        except Exception as error:  # noqa: BLE001 - raised again below, without a group
            failure = error
        finally:
            watch.end()
    if reply is not None:
        return reply
    seen = watch.partial()
    if isinstance(failure, ModelError):
        _complete(failure, seen)
        seen = failure.partial
    if watch.scope.cancel_called and (failure is None or isinstance(failure, ModelError)):
        raise Late(watch.what, seen)
    assert failure is not None
    raise failure


def _complete(error: ModelError, seen: ModelReply | None) -> None:
    """Let an error say what was read, whoever raised it and whatever they know of that."""
    if seen is not None and (seen.text or seen.reasoning):
        partial = error.partial or ModelReply()
        reasoning = seen.reasoning or partial.reasoning
        error.partial = replace(partial, text=seen.text, reasoning=reasoning)


class _Watch:
    """Follows one request in the log of its run, and cancels it when it is too slow.

    Pieces that show nothing make no event, but let the log's pulse grow. That is looked at
    only when the time is up, so that a stream which is in time pays nothing for it.

    Attributes:
        scope: That of the request.
    """

    def __init__(self, run: Run, settings: ResilienceSettings, timeout_s: float) -> None:
        self.scope: CancelScope = run.plan.new_scope()
        self._clock: CancelScope = run.plan.new_scope()
        self._new_scope = run.plan.new_scope
        self._log = run.log
        self._pulse = self._first_pulse = run.log.pulse
        self._first_s = settings.first_token_s or inf
        self._between_s = settings.between_tokens_s or inf
        self._timeout_s = timeout_s
        self._whole_s = _with_grace(timeout_s) if timeout_s else inf
        self._latest = inf
        self._silence_s = inf
        self._is_silence = False
        self._events = run.log.subscribe(start=len(run.log.entries), buffer=MOST_UNREAD)
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._missed = False

    async def follow(self) -> None:
        """Move the deadline with each event, and look at the clock, until `end`."""
        while True:
            with self._clock:
                async for event in self._events:
                    self._see(event)
                return
            self._clock = self._new_scope()
            if self._is_silence and self._log.pulse != self._pulse:
                self._allow(self._between_s)
            else:
                self.scope.cancel()

    def _see(self, event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            self._texts.append(event.text)
            self._allow(self._between_s)
        elif isinstance(event, ReasoningDelta):
            self._thoughts.append(event.text)
            self._allow(self._between_s)
        elif isinstance(event, ModelRequested):
            self._latest = current_time() + self._whole_s
            self._allow(self._first_s)
        elif isinstance(event, Gap):
            self._missed = True

    def end(self) -> None:
        """Follow what there is, and no more."""
        self._events.cancel()

    @property
    def what(self) -> str:
        """What there was too little time for, if it was cancelled."""
        if not self._is_silence:
            return _within(self._timeout_s)
        came = self._texts or self._thoughts or self._pulse != self._first_pulse
        more = " more" if came or self._missed else ""
        return f"sent nothing{more} for {self._silence_s:g} s"

    def partial(self) -> ModelReply | None:
        """Return what came; `None` if not all of it was seen."""
        if self._missed:
            return None
        return ModelReply(text="".join(self._texts), reasoning="".join(self._thoughts))

    def _allow(self, seconds: float) -> None:
        """Give the next piece its time, and up to an eighth more.

        So the timer need not be set anew for each piece of a stream that is in time.
        """
        if self.scope.cancel_called:
            return
        earliest = current_time() + seconds
        self._pulse = self._log.pulse
        self._silence_s = seconds
        self._is_silence = earliest <= self._latest
        if not self._is_silence:
            earliest = latest = self._latest
        else:
            latest = min(earliest + seconds / 8, self._latest)
        if not earliest <= self._clock.deadline <= latest:
            self._clock.deadline = latest


def _with_grace(timeout_s: float) -> float:
    """Return a bit more than the provider was told, for it knows best what had come."""
    return timeout_s + min(MOST_GRACE_S, timeout_s / 20)


def _within(seconds: float) -> str:
    return f"did not answer within {seconds:g} s"
