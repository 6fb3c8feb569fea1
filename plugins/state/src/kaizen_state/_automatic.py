"""Marks runs by itself: after so many turns, after so much time, and when they are stopped.

What was counted for a run under way stands in a context variable, so that nothing has to be
cleaned up after it; where it is missing, it is counted in the log. Of several that would
mark the same run the outermost is in charge: an agent's own manager rather than the plugin
of the kernel.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from itertools import takewhile
from time import monotonic, time
from typing import TYPE_CHECKING

import anyio
from kaizen.errors import AgentInterrupted, CheckpointError, OutcomeUnknownError
from kaizen.events import InterruptEvent
from kaizen.hookspecs import AgentLoop, Cycle
from kaizen.operations import CycleRequest, CycleResult, Result, RunRequest
from kaizen.run import Run, current_run
from kaizen.runlog import (
    Continued,
    Forked,
    Interrupted,
    Marked,
    ModelReplied,
    Noted,
    Paused,
    Resumed,
    Rewound,
    RunEnded,
    history,
)

if TYPE_CHECKING:
    from kaizen_state._retention import Retention

__all__ = ["Automatic"]

RETENTION_S = 5.0
_IDLE = (Continued, Forked, Interrupted, Marked, Noted, Paused, Resumed, Rewound, RunEnded)
_LOG = logging.getLogger("kaizen")


class _Count:
    """What there was since the newest checkpoint of a run under way.

    Attributes:
        run: Tells the run from others, and from what it was before it was resumed.
        by: Who is in charge of the run.
        mark: The position of that checkpoint, or -1 if there is none yet.
        turns: Turns since then.
        since: When it was, by the monotonic clock.
    """

    __slots__ = ("by", "mark", "run", "since", "turns")

    def __init__(self, run: Run, by: Automatic) -> None:
        self.run = (run.id, run.started)
        self.by = by
        self.begin_again(run)

    def begin_again(self, run: Run) -> None:
        """Count from the newest checkpoint on, as if that were made just now."""
        self.mark = _newest(run)
        self.turns = 0
        self.since = monotonic()


_COUNT: ContextVar[_Count | None] = ContextVar("kaizen_state_count", default=None)
_LOOP: ContextVar[str] = ContextVar("kaizen_state_loop", default="")
_STOPPED: ContextVar[tuple[str, float]] = ContextVar("kaizen_state_stopped")


class Automatic:
    """Marks the runs of an agent or a kernel, and lets old ones go.

    Attributes:
        running: The runs under way that it is in charge of, by id.
    """

    def __init__(
        self,
        retention: Retention | None,
        *,
        frequency: int | None,
        interval_s: float | None,
        on_interrupt: bool,
    ) -> None:
        self.running: dict[str, Run] = {}
        self._retention = retention
        self._frequency = frequency
        self._interval_s = interval_s
        self._on_interrupt = on_interrupt

    async def agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        """Know a run for as long as it lasts, if it is kept.

        When it is over, whatever came of it, old runs of the agent are let go.
        """
        run = current_run()
        if not run.log.durable or _LOOP.get() == run.id:
            return await call_next(request)
        before = _LOOP.set(run.id)
        self.running[run.id] = run
        ended = True
        try:
            return await call_next(request)
        except BaseException as error:
            ended = not _may_go_on(run, error)
            raise
        finally:
            _LOOP.reset(before)
            del self.running[run.id]
            if run.parent is None and self._retention is not None:
                await self._let_old_ones_go(self._retention, run, ended=ended)

    async def cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
        """Mark the run after a turn, if it is kept, nobody else does, and it is time."""
        run = current_run()
        if not run.log.durable:
            return await call_next(request)
        count = _COUNT.get()
        if count is None or count.run != (run.id, run.started):
            count = _counted(run, self)
            _COUNT.set(count)
        if count.by is not self:
            return await call_next(request)
        result = await call_next(request)
        if self._is_due(count, run) and _is_new(run):
            await _mark(run, f"after turn {request.cycle}", {"turn": request.cycle})
            count.begin_again(run)
        return result

    async def interrupt(self, event: InterruptEvent) -> None:
        """Mark a run that is about to stop on request, unless that changed nothing."""
        run = current_run()
        before, this = _STOPPED.get(None), (run.id, run.started)
        _STOPPED.set(this)
        if before == this or not self._on_interrupt:
            return
        started = run.state.started
        if not run.log.durable or started is None or started.direct:
            return
        if _is_new(run):
            signal = event.request.signal.value
            await _mark(run, f"stopped: {event.request.message}"[:500], {"signal": signal})

    def _is_due(self, count: _Count, run: Run) -> bool:
        if _newest(run) != count.mark:  # somebody else marked it
            count.begin_again(run)
            return False
        count.turns += 1
        if self._frequency is not None and count.turns >= self._frequency:
            return True
        spent = monotonic() - count.since
        return self._interval_s is not None and spent >= self._interval_s

    async def _let_old_ones_go(
        self, retention: Retention, run: Run, *, ended: bool
    ) -> None:
        """Apply the retention; what goes wrong there is no failure of the run."""
        keeping = run.plan.keeping
        assert keeping is not None
        with anyio.move_on_after(RETENTION_S, shield=True):
            try:
                store = keeping.store
                await retention.after(store, run.agent_id, run.id, ended=ended)
            except CheckpointError as error:
                _LOG.warning("old runs of %s are still there: %s", run.agent_id, error)
            except Exception:  # noqa: BLE001 - a store of a stranger
                _LOG.exception("old runs of %s are still there", run.agent_id)


def _may_go_on(run: Run, error: BaseException) -> bool:
    """Whether a run was interrupted, or somebody has to decide about a call of it."""
    if isinstance(error, OutcomeUnknownError):
        return True
    stopped = isinstance(error, AgentInterrupted) or not isinstance(error, Exception)
    return stopped and run.interrupted is not None and not run.cancelled


async def _mark(run: Run, description: str, metadata: dict[str, object]) -> None:
    """Mark a run; whether it goes on without is as it is for every write of its log."""
    try:
        await run.checkpoint(description, {"by": "state", **metadata})
    except CheckpointError as error:
        keeping = run.plan.keeping
        if keeping is None or not keeping.go_on:
            raise
        _LOG.warning("run %s goes on without a checkpoint: %s", run.id, error)


def _counted(run: Run, by: Automatic) -> _Count:
    """Return what there was since the newest checkpoint of a run, as its log has it."""
    count = _Count(run, by)
    past = history(run.log.entries)
    for entry in past:
        if entry.seq <= count.mark or not isinstance(entry, ModelReplied):
            continue
        if run.past is None or entry.cycle < run.past.last:  # the last one comes again
            count.turns += 1
    marks = run.state.marks
    if run.past is not None:
        start = marks[-1].at if marks else past[0].at
        count.since -= max(0.0, time() - start)
    return count


def _newest(run: Run) -> int:
    """Return where the newest checkpoint of a run stands, or -1."""
    marks = run.state.marks
    return marks[-1].seq if marks else -1


def _is_new(run: Run) -> bool:
    """Whether a run did anything since it was marked."""
    mark = _newest(run)
    entries = run.log.entries if run.past is None else history(run.log.entries)
    since = takewhile(lambda each: each.seq > mark, reversed(entries))
    return mark < 0 or not all(isinstance(each, _IDLE) for each in since)
