"""The cache itself: which replies are given again, to whom, and what is not kept."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from time import monotonic, time
from typing import TYPE_CHECKING
from weakref import ref

import anyio
from kaizen.hooks import Priority, hookimpl
from kaizen.run import current_run
from kaizen.runlog import ModelSwitched, Noted

from kaizen_cache._answer import Answer
from kaizen_cache._asking import ASKING, Asking
from kaizen_cache._flight import Flight
from kaizen_cache._keys import Key, Keys, NoKeyError
from kaizen_cache._reader import Reader
from kaizen_cache._shelf import SOURCE, Shelf, note

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup
    from kaizen.hookspecs import ModelCall
    from kaizen.kernel import Kernel
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run

    from kaizen_cache._settings import CacheSettings

__all__ = ["CacheFigures", "ModelCache"]

MOST_FAILURES = 3
"""How many calls of others may bring nothing to one who waits before it makes its own, so
that nobody waits for a long row of calls to a model that is down."""

SKEW_S = 1.0
"""How far ahead the clock of another process may be that kept an answer, in seconds."""

_NOTHING = Decimal(0)


@dataclass(slots=True)
class CacheFigures:
    """What the cache of a kernel did until now.

    Attributes:
        hits: Calls that were answered from the store.
        shared: Calls that got the reply of a like one made at the same time.
        waiting: Calls that wait for the reply of a like one right now.
        misses: Calls for which a model was asked.
        kept: Replies that were put into the store.
        saved_tokens: Tokens that were not used because of hits and shared replies.
        saved_usd: What these would have cost, as far as it is known.
    """

    hits: int = 0
    shared: int = 0
    waiting: int = 0
    misses: int = 0
    kept: int = 0
    saved_tokens: int = 0
    saved_usd: Decimal = _NOTHING


class ModelCache:
    """Answers model calls of one kernel whose like was made before.

    `await kernel.get(ModelCache, "default")` gives it.

    Attributes:
        figures: What it did until now.
    """

    def __init__(
        self,
        settings: CacheSettings,
        *,
        now: Callable[[], float] = time,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.figures = CacheFigures()
        self._settings = settings
        self._now = now
        self._keys = Keys(settings)
        self._shelf = Shelf(settings, clock)
        self._flights: dict[str, Flight] = {}
        self._kernel: Kernel | None = None
        self._cleared = 0
        self._mark = object()  # stands for it where it must not be kept alive

    def bind(self, kernel: Kernel, tasks: TaskGroup) -> None:
        """Know the kernel, and the tasks in which the store is opened when it is needed."""
        self._kernel = kernel
        self._shelf.work_in(tasks)

    async def clear(self) -> None:
        """Forget every reply, also those that are being made."""
        assert self._kernel is not None
        self._cleared += 1
        self._flights.clear()
        self._keys.forget()
        await self._shelf.clear(self._kernel)

    @hookimpl(priority=Priority.NORMAL)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Answer a model call from the store, from a like call, or by making it.

        Raises:
            UnknownNameError: Nobody offers the store that was chosen.
        """
        run = current_run()
        if not run.plan.config.cache_enabled or not _is_wanted(run, request):
            return await call_next(request)
        key, has_files = self._keys.plain(run, request), False
        if key is None:
            try:
                key, has_files = await self._keys.of(run, request)
            except NoKeyError as error:
                note(run, "no_key", {"reason": str(error)})
                return await call_next(request)
        answer, now = self._shelf.at_hand(run, key), self._now()
        if answer is None or not self._is_fresh(run, request, answer, now):
            return await self._with_others(run, request, call_next, Key(key, has_files))
        if run.log.watched:
            await Reader(run, request).complete(answer)
        return self._give(run, key, answer, now)

    async def _with_others(
        self, run: Run, request: ModelRequest, call_next: ModelCall, key: Key
    ) -> ModelReply:
        """Answer a call that may be another's as well."""
        asking, reader = Asking(run, request), Reader(run, request)
        failures = 0
        while failures < MOST_FAILURES:
            flight = self._flights.get(key.text)
            if flight is None:
                return await self._lead(asking, call_next, key, reader)
            if ASKING.get() is not None:  # perhaps inside the call that it would wait for
                break
            answer = await self._follow(flight, request, reader)
            if answer is not None and self._may_share(run, request, flight, answer):
                await reader.complete(answer)
                return self._give(run, key.text, answer, self._now(), shared=True)
            reader.restart("the call that it shared brought nothing for others, or not yet")
            if answer is not None:  # and it is not for this one: wait for another, if any
                self._leave(key, flight)
                failures += not flight.was_kept
            elif flight.ending in (None, "private"):
                break
            else:
                failures += flight.ending != "cancelled"
        self.figures.misses += 1
        return await call_next(request)

    async def _follow(
        self, flight: Flight, request: ModelRequest, reader: Reader
    ) -> Answer | None:
        """Wait for the call of another, but no longer than this one may take."""
        timeout_s = request.settings.timeout_s
        self.figures.waiting += 1
        try:
            if timeout_s is None:
                return await flight.follow(reader)
            with anyio.move_on_after(timeout_s):
                return await flight.follow(reader)
        finally:
            self.figures.waiting -= 1
        return None

    def _leave(self, key: Key, flight: Flight) -> None:
        """Let nobody else wait for a flight."""
        if self._flights.get(key.text) is flight:
            del self._flights[key.text]

    async def _lead(
        self, asking: Asking, call_next: ModelCall, key: Key, reader: Reader
    ) -> ModelReply:
        """Answer a call for all who ask the same meanwhile."""
        run, request = asking.run, asking.request
        flight = self._flights[key.text] = Flight()
        try:
            answer = await self._kept(run, request, key)
            if answer is None:
                return await self._make(flight, asking, call_next, key)
            flight.land(answer, was_kept=True)
            await reader.complete(answer)
            return self._give(run, key.text, answer, self._now())
        except Exception:
            if run.interrupted is None:
                flight.end("failed")
            raise
        finally:
            self._leave(key, flight)
            flight.end("cancelled")

    async def _kept(self, run: Run, request: ModelRequest, key: Key) -> Answer | None:
        """Return what the store has, if it may be given again to this one now."""
        if not run.plan.config.cache_ttl:
            return None
        cleared = self._cleared
        answer = await self._shelf.take(run, key.text)
        if answer is None or cleared != self._cleared:
            return None
        fresh = self._is_fresh(run, request, answer, self._now())
        return answer if fresh else None

    async def _make(
        self, flight: Flight, asking: Asking, call_next: ModelCall, key: Key
    ) -> ModelReply:
        """Make a call; give what it brings to all who wait, and keep it."""
        run, request = asking.run, asking.request
        self.figures.misses += 1
        cleared, began = self._cleared, len(run.log.entries)
        token = ASKING.set(asking)
        try:
            if run.plan.config.stream or run.log.watched:
                reply = await flight.carry(run, request, call_next)
            else:
                reply = await call_next(request)
        finally:
            ASKING.reset(token)
        answer = None
        common = self._is_common(asking, reply, began)
        if common and await self._is_still(run, request, key):
            answer = self._answer(flight, run, key, reply)
        if answer is not None:
            flight.land(answer)
            await self._keep(run, key, answer, cleared)
        elif run.interrupted is None:
            flight.end("private")
        return reply

    def _is_common(self, asking: Asking, reply: ModelReply, began: int) -> bool:
        """Whether a reply is an answer for others too."""
        run, request = asking.run, asking.request
        return (
            asking.is_answered_by(reply)
            and run.interrupted is None
            and not reply.cached
            and self._is_complete(reply)
            and not _is_of_another_model(run, request, began)
            and _fits(run, request, reply)
        )

    async def _is_still(self, run: Run, request: ModelRequest, key: Key) -> bool:
        """Whether the files in a request are still those that the key was made of."""
        if not key.has_files:
            return True
        try:
            return await self._keys.of(run, request) == key
        except NoKeyError:
            return False

    def _answer(
        self, flight: Flight, run: Run, key: Key, reply: ModelReply
    ) -> Answer | None:
        """Return a copy of a reply that nobody can change any more, if there can be one."""
        flight.check(reply)
        try:
            return Answer(reply, flight.lengths, self._now())
        except (ValueError, TypeError, RecursionError) as error:
            note(run, "not_kept", {"key": key.text, "reason": type(error).__name__})
            return None

    async def _keep(self, run: Run, key: Key, answer: Answer, cleared: int) -> None:
        """Keep an answer, unless the cache is cleared before that is done."""
        ttl_s = run.plan.config.cache_ttl
        if not ttl_s or cleared != self._cleared:
            return
        try:
            done = await self._shelf.put(run, key.text, answer, ttl_s)
            self.figures.kept += done  # read only now: others count meanwhile
        finally:
            if cleared != self._cleared:
                with anyio.CancelScope(shield=True):  # the shelf has a limit of its own
                    await self._shelf.delete(run, key.text)

    def _is_fresh(
        self, run: Run, request: ModelRequest, answer: Answer, now: float
    ) -> bool:
        """Whether an answer that was kept may be given again to this one now."""
        plan = run.plan
        if not -SKEW_S <= now - answer.at < plan.config.cache_ttl:
            return False
        good_for = answer.good_for
        if good_for is not None and request.output is plan.output:  # most often
            mark, signature = good_for
            if mark is self._mark and signature() is plan.signature:
                return True
        return self._is_good(run, request, answer)

    def _may_share(
        self, run: Run, request: ModelRequest, flight: Flight, answer: Answer
    ) -> bool:
        """Whether an answer that another one got is one for this call too."""
        if flight.was_kept:
            return self._is_fresh(run, request, answer, self._now())
        return self._is_good(run, request, answer)

    def _is_good(self, run: Run, request: ModelRequest, answer: Answer) -> bool:
        """Whether an answer is whole and fits; for one signature in a row that is kept."""
        reply = answer.reply
        good = self._is_complete(reply) and _fits(run, request, reply)
        if good and request.output is run.plan.output:
            answer.good_for = (self._mark, ref(run.plan.signature))
        return good

    def _is_complete(self, reply: ModelReply) -> bool:
        """Whether a reply is whole, and one that may be repeated."""
        if reply.tool_uses or reply.finish_reason == "tool_calls":
            return self._settings.cache_tool_calls and reply.finish_reason in (
                "stop",
                "tool_calls",
            )
        return reply.finish_reason == "stop"

    def _give(
        self, run: Run, key: str, answer: Answer, now: float, *, shared: bool = False
    ) -> ModelReply:
        """Return a reply that is given again, after taking note of what that saves."""
        figures, cost_usd = self.figures, answer.reply.cost_usd
        if shared:
            figures.shared += 1
        else:
            figures.hits += 1
        figures.saved_tokens += answer.saved_tokens
        if cost_usd is not None:
            figures.saved_usd += cost_usd
        age = now - answer.at
        told = {
            "key": key,
            "shared": shared,
            "age_s": round(age, 3) if age > 0 else 0.0,
            **answer.saved,
        }
        log = run.log
        log.append(
            Noted(seq=len(log.entries), at=now, source=SOURCE, kind="hit", data=told)
        )
        return answer.again()


def _is_wanted(run: Run, request: ModelRequest) -> bool:
    """Whether one answer may do for all: not where chance is asked for.

    An agent that asks for chance, and for a cache in the same breath, means it.
    """
    settings = request.settings
    chance = settings.temperature or (settings.extra and settings.extra.get("temperature"))
    return not chance or "cache_enabled" in run.agent.config.model_fields_set


def _is_of_another_model(run: Run, request: ModelRequest, began: int) -> bool:
    """Whether a call ended with another model than it was for, since that one failed."""
    asked = (request.provider or run.plan.provider_name, request.model)
    answered = asked
    for entry in run.log.entries[began:]:
        if isinstance(entry, ModelSwitched):
            answered = (entry.provider, entry.model)
    return answered != asked


def _fits(run: Run, request: ModelRequest, reply: ModelReply) -> bool:
    """Whether a reply is what was asked for: a bad one is not to be had again and again."""
    if reply.tool_uses:
        return True
    if not reply.text or request.output is not run.plan.output:
        return bool(reply.text)
    try:
        run.read(reply)
    except Exception:  # noqa: BLE001 - it is raised again where the run reads the reply
        return False
    return True
