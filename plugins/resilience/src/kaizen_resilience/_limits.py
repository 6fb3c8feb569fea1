"""Limits of what is asked of one provider, and the queue of those who wait for it."""

from __future__ import annotations

from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from anyio import current_time

from kaizen_resilience._errors import QueueFullError
from kaizen_resilience._waiting import Wait

if TYPE_CHECKING:
    from kaizen.run import Run

    from kaizen_resilience._settings import LimitSettings

__all__ = ["Gate", "Ticket"]

MINUTE_S = 60.0


class Ticket:
    """What one call takes of the limits: from when on, and how many tokens."""

    __slots__ = ("at", "tokens")

    def __init__(self, at: float, tokens: int) -> None:
        self.at = at
        self.tokens = tokens


class _Waiter(Wait):
    """A call that waits for its turn.

    Attributes:
        ready_at: When it looks whether it is its turn, if nobody wakes it before.
        ticket: What it may go with, once it may.
    """

    __slots__ = ("ready_at", "ticket", "tokens", "who")

    def __init__(self, who: str, tokens: int) -> None:
        super().__init__()
        self.who = who
        self.tokens = tokens
        self.ready_at = inf
        self.ticket: Ticket | None = None


class Gate:
    """Lets calls to one provider through, never more than its limits allow.

    Whoever waits stands in a line with those of the same tenant, or agent; the lines take
    turns, so that one who asks a thousand times does not keep the others waiting. The one
    whose turn comes next minds the time for all, and nobody passes those who wait.

    Args:
        provider: The provider's name, for messages.
        limits: What is allowed.
        minute_s: The span of time that the rates are about, in seconds.
    """

    def __init__(
        self, provider: str, limits: LimitSettings, *, minute_s: float = MINUTE_S
    ) -> None:
        self._provider = provider
        self._limits = limits
        self._minute_s = minute_s
        self._active = 0
        self._recent: deque[Ticket] = deque()
        self._recent_tokens = 0
        self._lines: dict[str, deque[_Waiter]] = {}
        self.waiting = 0

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many tokens a call takes."""
        return self._limits.tokens_per_minute is not None

    async def enter(self, run: Run, who: str, tokens: int = 0) -> Ticket:
        """Wait until a call may be made.

        Args:
            run: The run that waits, and that may be interrupted while it does.
            who: Whose line it stands in.
            tokens: How many the call will take, about.

        Raises:
            QueueFullError: Too many wait already.
            AgentInterrupted: The run was asked to stop.
        """
        most = self._limits.tokens_per_minute
        tokens = tokens if most is None else min(tokens, most)
        if not self.waiting:
            now = monotonic()
            if self._ready_at(now, tokens) <= now:
                return self._let_in(now, tokens)
        if self.waiting >= self._limits.queue:
            raise self._full()
        waiter = _Waiter(who, tokens)
        self._lines.setdefault(who, deque()).append(waiter)
        self.waiting += 1
        try:
            self._go_on()
            while waiter.ticket is None:
                left_s = waiter.ready_at - monotonic()
                await waiter.until(run, current_time() + left_s)
                self._go_on()
        except BaseException:
            self._withdraw(waiter)
            raise
        return waiter.ticket

    def leave(self, ticket: Ticket, tokens: int = 0) -> None:
        """Take note that a call has ended.

        Args:
            ticket: What it went with.
            tokens: How many it took, or 0 if that is not known.
        """
        self._active -= 1
        if tokens and self._recent and ticket.at >= self._recent[0].at:
            self._recent_tokens += tokens - ticket.tokens
            ticket.tokens = tokens
        if self.waiting:
            self._go_on()

    def _go_on(self) -> None:
        """Let those in whose turn it is, and have the next one mind the time."""
        now = monotonic()
        while self._lines:
            line = next(iter(self._lines.values()))
            waiter = line[0]
            ready_at = self._ready_at(now, waiter.tokens)
            if ready_at > now:
                if waiter.ready_at != ready_at:
                    waiter.ready_at = ready_at
                    waiter.wake()
                return
            self._take_out(waiter)
            waiter.ticket = self._let_in(now, waiter.tokens)
            waiter.wake()

    def _ready_at(self, now: float, tokens: int) -> float:
        """Return when a call may go; `inf` is when another one has ended."""
        limits = self._limits
        if limits.concurrency is not None and self._active >= limits.concurrency:
            return inf
        recent = self._recent
        while recent and recent[0].at + self._minute_s <= now:
            self._recent_tokens -= recent.popleft().tokens
        ready_at = now
        if limits.requests_per_minute is not None:
            surplus = len(recent) - limits.requests_per_minute
            if surplus >= 0:
                ready_at = recent[surplus].at + self._minute_s
        if limits.tokens_per_minute is not None:
            surplus = self._recent_tokens + tokens - limits.tokens_per_minute
            for ticket in recent:
                if surplus <= 0:
                    break
                surplus -= ticket.tokens
                ready_at = max(ready_at, ticket.at + self._minute_s)
        return ready_at

    def _let_in(self, now: float, tokens: int) -> Ticket:
        ticket = Ticket(now, tokens)
        self._active += 1
        limits = self._limits
        if limits.requests_per_minute is not None or limits.tokens_per_minute is not None:
            self._recent.append(ticket)
            self._recent_tokens += tokens
        return ticket

    def _take_out(self, waiter: _Waiter) -> None:
        """Take somebody out of a line; that line's next turn is after all others."""
        line = self._lines.pop(waiter.who)
        line.remove(waiter)
        if line:
            self._lines[waiter.who] = line
        self.waiting -= 1

    def _withdraw(self, waiter: _Waiter) -> None:
        """Let somebody go who will not make the call."""
        ticket = waiter.ticket
        if ticket is not None:
            if ticket in self._recent:
                self._recent.remove(ticket)
                self._recent_tokens -= ticket.tokens
            self.leave(ticket)
            return
        line = self._lines[waiter.who]
        line.remove(waiter)
        if not line:
            del self._lines[waiter.who]
        self.waiting -= 1
        self._go_on()

    def _full(self) -> QueueFullError:
        return QueueFullError(
            self._provider,
            f"has {self.waiting} calls waiting for their turn, which is as many as may",
            f"Raise `queue` in [plugins.resilience.limits.{self._provider}], or ask less "
            "at a time.",
        )
