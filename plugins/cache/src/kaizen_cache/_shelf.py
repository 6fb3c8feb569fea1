"""The way to a store, which may fail or hang: then it is as if it were empty."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import anyio
from kaizen.runlog import Noted
from kaizen.timing import OutOfTimeError, bounded

from kaizen_cache._answer import DamagedError, read, written
from kaizen_cache._memory import MemoryCacheStore
from kaizen_cache._store import CacheStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup
    from kaizen.kernel import Kernel
    from kaizen.registry import Offer
    from kaizen.run import Run

    from kaizen_cache._answer import Answer
    from kaizen_cache._settings import CacheSettings

__all__ = ["Shelf", "note"]

Value = TypeVar("Value")

SOURCE = "cache"
REST_S = 5.0
"""How long a store is left alone that failed or was too slow, in seconds."""
_LOG = logging.getLogger("kaizen")


class Shelf:
    """Puts answers into the store and takes them out.

    What goes wrong there is noted in the log of the run, and told the logger `kaizen` once
    for each kind of operation until that goes well again. The store is then left alone for
    a while: no run waits for one that is away, and not each run finds out anew.
    """

    def __init__(self, settings: CacheSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._tasks: TaskGroup | None = None
        self._troubled: set[str] = set()
        self._rests_until = float("-inf")
        self._opening: _Opening | None = None
        self._offer: Offer | None = None
        self._version = -1
        self._memory: MemoryCacheStore | None = None

    def work_in(self, tasks: TaskGroup) -> None:
        """Know where a store is opened that takes longer than anybody waits.

        A kernel starts with that, and what another one had is forgotten.
        """
        self._tasks = tasks
        self._opening = self._offer = self._memory = None

    def offer(self, kernel: Kernel) -> Offer:
        """Return the offer of the store that was chosen.

        Raises:
            UnknownNameError: There is none. That is no failure, but a mistake.
        """
        name = self._settings.store or kernel.config.cache_backend
        return kernel.registry.find(CacheStore, name)

    def at_hand(self, run: Run, key: str) -> Answer | None:
        """Return what is kept under a key in memory, and was read before."""
        memory = self._memory
        if memory is None or run.plan.kernel.hooks.version != self._version:
            return None
        kept = memory.look(key)
        return None if kept is None else kept.reading

    async def clear(self, kernel: Kernel) -> None:
        """Forget everything; what goes wrong is raised."""
        store = await kernel.get(CacheStore, self.offer(kernel).name)  # type: ignore[type-abstract]
        await store.clear()

    async def take(self, run: Run, key: str) -> Answer | None:
        """Return what is kept under a key, if it is what was kept there."""
        offer = self.offer(run.kernel)
        if self._clock() < self._rests_until:
            return None
        value = await self._do(run, offer, "get", lambda store: store.get(key))
        if value is None:
            return None
        answer = self.at_hand(run, key)
        if answer is not None:
            return answer
        try:
            answer = read(key, value, max_bytes=self._settings.max_reply_bytes)
        except DamagedError as error:
            note(run, "damaged", {"key": key, "problem": str(error)})
            _LOG.warning("a cached reply is damaged, and is forgotten: %s", error)
            await self.delete(run, key)
            return None
        self._remember(key, value, answer)
        return answer

    async def put(self, run: Run, key: str, answer: Answer, ttl_s: float) -> bool:
        """Keep an answer; say whether that was tried and nothing went wrong."""
        try:
            value = written(key, answer)
        except (ValueError, RecursionError) as error:
            note(run, "not_kept", {"key": key, "reason": type(error).__name__})
            return False
        if len(value) > self._settings.max_reply_bytes:
            note(run, "not_kept", {"key": key, "reason": "it is too large"})
            return False
        if self._clock() < self._rests_until:
            return False

        async def put(store: CacheStore) -> bool:
            await store.put(key, value, ttl_s=ttl_s)
            return True

        done = bool(await self._do(run, self.offer(run.kernel), "put", put))
        if done:
            self._remember(key, value, answer)
        return done

    async def delete(self, run: Run, key: str) -> None:
        """Forget an answer; that is tried also while the store is left alone."""
        offer = self.offer(run.kernel)
        await self._do(run, offer, "delete", lambda store: store.delete(key))

    def _remember(self, key: str, value: bytes, answer: Answer) -> None:
        """Spare the next one the reading, where the store is in this memory."""
        if self._memory is not None:
            self._memory.remember(key, value, answer, answer.size)

    async def _do(
        self,
        run: Run,
        offer: Offer,
        what: str,
        act: Callable[[CacheStore], Awaitable[Value]],
    ) -> Value | None:
        """Do something with the store, and report if that fails or takes too long."""
        limit_s = self._settings.store_timeout_s
        acting = self._act(run.kernel, offer, act)
        try:
            value = await bounded(acting, limit_s, run.plan.new_scope)
        except OutOfTimeError:
            problem = f"TimeoutError: took longer than {limit_s:g} s"
        except Exception as error:  # noqa: BLE001 - a cache that fails stops no run
            problem = type(error).__name__  # what it says may tell an address or a password
        else:
            self._troubled.discard(what)
            return value
        self._rests_until = self._clock() + REST_S
        told = {"store": offer.name, "operation": what, "problem": problem}
        note(run, "store_failed", told)
        if what not in self._troubled:
            _LOG.warning("cache store %r fails: %s: %s", offer.name, what, problem)
        self._troubled.add(what)
        return None

    async def _act(
        self, kernel: Kernel, offer: Offer, act: Callable[[CacheStore], Awaitable[Value]]
    ) -> Value:
        if self._offer is not offer:
            await self._open(kernel, offer)
        store = await kernel.get(CacheStore, offer.name)  # type: ignore[type-abstract]
        self._version = kernel.hooks.version
        self._memory = store if type(store) is MemoryCacheStore else None
        return await act(store)

    async def _open(self, kernel: Kernel, offer: Offer) -> None:
        """Wait until a store is open; who stops waiting does not stop the opening."""
        assert self._tasks is not None
        opening = self._opening
        if opening is None or opening.offer is not offer:
            opening = self._opening = _Opening(kernel, offer)
            self._tasks.start_soon(self._finish, opening)
        await opening.over.wait()
        if opening.failure is not None:
            raise opening.failure

    async def _finish(self, opening: _Opening) -> None:
        """Open a store, however long that takes."""
        try:
            await opening.kernel.get(CacheStore, opening.offer.name)  # type: ignore[type-abstract]
        except Exception as error:  # noqa: BLE001 - raised again by who waits for it
            opening.failure = error
        else:
            self._offer = opening.offer
            self._rests_until = float("-inf")
        finally:
            if self._opening is opening:
                self._opening = None
            opening.over.set()


class _Opening:
    """A store on its way to be opened, whoever waits for it."""

    __slots__ = ("failure", "kernel", "offer", "over")

    def __init__(self, kernel: Kernel, offer: Offer) -> None:
        self.kernel = kernel
        self.offer = offer
        self.over = anyio.Event()
        self.failure: Exception | None = None


def note(run: Run, kind: str, data: Mapping[str, object]) -> None:
    """Put a note into the log of a run; the data are JSON values."""
    run.add(Noted, source=SOURCE, kind=kind, data=data)
