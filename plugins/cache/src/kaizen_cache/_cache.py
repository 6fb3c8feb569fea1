"""The cache itself: which replies are given again, to whom, and what is not kept."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from decimal import Decimal
from time import time
from typing import TYPE_CHECKING

from kaizen.errors import OutputError
from kaizen.hooks import Priority, hookimpl
from kaizen.run import current_run
from kaizen.runlog import ModelSwitched

from kaizen_cache._answer import Answer
from kaizen_cache._flight import Flight
from kaizen_cache._keys import Keys, NoKeyError
from kaizen_cache._reader import Reader
from kaizen_cache._shelf import Shelf, note

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaizen.hookspecs import ModelCall
    from kaizen.kernel import Kernel
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run

    from kaizen_cache._flight import Ending
    from kaizen_cache._keys import Key
    from kaizen_cache._settings import CacheSettings

__all__ = ["CacheFigures", "ModelCache"]

MOST_FAILURES = 3
"""How many calls of others may fail before one who waits makes its own: a model that is
down is not asked by everybody in a row."""

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


class _Asking:
    """A call that the cache passed on.

    Attributes:
        unchanged: Whether it came through an agent's own hooks as it was; `None` until it
            did.
    """

    __slots__ = ("request", "run", "unchanged")

    def __init__(self, run: Run, request: ModelRequest) -> None:
        self.run = run
        self.request = request
        self.unchanged: bool | None = None


_ASKING: ContextVar[_Asking | None] = ContextVar("kaizen_cache", default=None)
"""The innermost call inside which this code runs and which a cache passed on."""


class ModelCache:
    """Answers model calls of one kernel whose like was made before.

    `await kernel.get(ModelCache, "default")` gives it.

    Attributes:
        figures: What it did until now.
    """

    def __init__(self, settings: CacheSettings, *, now: Callable[[], float] = time) -> None:
        self.figures = CacheFigures()
        self._settings = settings
        self._now = now
        self._keys = Keys(settings)
        self._shelf = Shelf(settings)
        self._flights: dict[str, Flight] = {}
        self._kernel: Kernel | None = None
        self._cleared = 0

    def bind(self, kernel: Kernel) -> None:
        """Know the kernel, which opens the store when it is first needed."""
        self._kernel = kernel

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
        try:
            key = await self._keys.of(run, request)
        except NoKeyError as error:
            note(run, "no_key", {"reason": str(error)})
            return await call_next(request)
        answer = self._fresh(run, self._shelf.at_hand(run, key.text))
        if answer is None:
            return await self._with_others(run, request, call_next, key)
        if run.log.watched:
            await Reader(run, request).complete(answer)
        return self._give(run, key, answer)

    async def _with_others(
        self, run: Run, request: ModelRequest, call_next: ModelCall, key: Key
    ) -> ModelReply:
        """Answer a call that may be another's as well."""
        reader = Reader(run, request)
        failures = 0
        while failures < MOST_FAILURES:
            flight = self._flights.get(key.text)
            if flight is None:
                return await self._lead(run, request, call_next, key, reader)
            if _ASKING.get() is not None:  # it may be inside the call it would wait for
                break
            self.figures.waiting += 1
            try:
                answer = await flight.follow(reader)
            finally:
                self.figures.waiting -= 1
            if answer is not None:
                await reader.complete(answer)
                return self._give(run, key, answer, shared=True)
            reader.restart("the call that it shared brought no answer")
            if flight.ending == "private":
                break
            failures += flight.ending == "failed"
        self.figures.misses += 1
        return await call_next(request)

    def arrived(self, request: ModelRequest) -> None:
        """Take note of what became of a call in the hooks of its agent."""
        asking = _ASKING.get()
        if asking is not None and asking.run is current_run():
            asking.unchanged = _asks_the_same(asking.request, request)

    async def _lead(
        self,
        run: Run,
        request: ModelRequest,
        call_next: ModelCall,
        key: Key,
        reader: Reader,
    ) -> ModelReply:
        """Answer a call for all who ask the same meanwhile."""
        flight = self._flights[key.text] = Flight()
        ending: Ending = "cancelled"
        try:
            ttl_s = run.plan.config.cache_ttl
            kept = await self._shelf.take(run, key.text) if ttl_s else None
            answer = self._fresh(run, kept)
            if answer is not None:
                flight.land(answer)
                await reader.complete(answer)
                return self._give(run, key, answer)
            self.figures.misses += 1
            cleared = self._cleared
            reply, is_common = await self._ask(flight, run, request, call_next, key)
            if is_common:
                answer = Answer(reply, flight.streamed, self._now())
                flight.land(answer)
                if cleared == self._cleared:
                    await self._keep(run, key, answer)
            elif run.interrupted is None:
                ending = "private"
        except Exception:
            if run.interrupted is None:
                ending = "failed"
            raise
        finally:
            if self._flights.get(key.text) is flight:
                del self._flights[key.text]
            flight.end(ending)
        return reply

    def _fresh(self, run: Run, answer: Answer | None) -> Answer | None:
        """Return what a store has, if it may be given again to this one now."""
        if answer is None or self._now() - answer.at >= run.plan.config.cache_ttl:
            return None
        return answer if self._is_complete(answer.reply) else None

    async def _keep(self, run: Run, key: Key, answer: Answer) -> None:
        ttl_s = run.plan.config.cache_ttl
        if ttl_s:
            self.figures.kept += await self._shelf.put(run, key.text, answer, ttl_s)

    async def _ask(
        self,
        flight: Flight,
        run: Run,
        request: ModelRequest,
        call_next: ModelCall,
        key: Key,
    ) -> tuple[ModelReply, bool]:
        """Make a call; return the reply, and whether it is an answer for others too."""
        asking = _Asking(run, request)
        began = len(run.log.entries)
        token = _ASKING.set(asking)
        try:
            if run.plan.config.stream or run.log.watched:
                reply = await flight.carry(run, request, call_next)
            else:
                reply = await call_next(request)
        finally:
            _ASKING.reset(token)
        is_common = (
            bool(asking.unchanged)
            and run.interrupted is None
            and not reply.cached
            and self._is_complete(reply)
            and not _is_of_another_model(run, request, began)
            and _fits(run, request, reply)
        )
        if is_common and key.has_files:
            is_common = await self._keys.of(run, request) == key
        return reply, is_common

    def _is_complete(self, reply: ModelReply) -> bool:
        """Whether a reply is whole, and one that may be repeated."""
        if reply.tool_uses or reply.finish_reason == "tool_calls":
            return self._settings.cache_tool_calls and reply.finish_reason in (
                "stop",
                "tool_calls",
            )
        return reply.finish_reason == "stop"

    def _give(
        self, run: Run, key: Key, answer: Answer, *, shared: bool = False
    ) -> ModelReply:
        """Return a reply that is given again, after taking note of what that saves."""
        usage, cost_usd = answer.reply.usage, answer.reply.cost_usd
        figures = self.figures
        if shared:
            figures.shared += 1
        else:
            figures.hits += 1
        figures.saved_tokens += usage.input_tokens + usage.output_tokens
        if cost_usd is not None:
            figures.saved_usd += cost_usd
        note(
            run,
            "hit",
            {
                "key": key.text,
                "shared": shared,
                "age_s": round(max(0.0, self._now() - answer.at), 3),
                "saved_input_tokens": usage.input_tokens,
                "saved_output_tokens": usage.output_tokens,
                "saved_usd": None if cost_usd is None else str(cost_usd),
            },
        )
        return answer.again()


def _is_wanted(run: Run, request: ModelRequest) -> bool:
    """Whether one answer may do for all: not where chance is asked for.

    An agent that asks for chance, and for a cache in the same breath, means it.
    """
    settings = request.settings
    chance = settings.temperature or settings.extra.get("temperature")
    return not chance or "cache_enabled" in run.agent.config.model_fields_set


def _asks_the_same(one: ModelRequest, other: ModelRequest) -> bool:
    """Whether two requests are the same but for what a retry may change."""
    return one is other or one == replace(
        other,
        prefix=one.prefix,
        settings=replace(other.settings, timeout_s=one.settings.timeout_s),
    )


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
    if request.output is None or request.output is not run.plan.output or reply.tool_uses:
        return bool(reply.text or reply.tool_uses)
    try:
        run.read(reply)
    except OutputError:
        return False
    return True
