"""The way to a store, which may fail or hang: then it is as if it were empty."""

from __future__ import annotations

import logging
import types
from collections import OrderedDict
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import current_time
from kaizen.runlog import Noted

from kaizen_cache._answer import DamagedError, read, written
from kaizen_cache._memory import MemoryCacheStore
from kaizen_cache._store import CacheStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio import CancelScope
    from kaizen.kernel import Kernel
    from kaizen.registry import Offer
    from kaizen.run import Run

    from kaizen_cache._answer import Answer
    from kaizen_cache._settings import CacheSettings

__all__ = ["Shelf", "note"]

Value = TypeVar("Value")

SOURCE = "cache"
MOST_READ = 512
WORTH_READ_BYTES = 16_384
_LOG = logging.getLogger("kaizen")


class Shelf:
    """Puts answers into the store and takes them out.

    What goes wrong there is noted in the log of the run, and told the logger `kaizen` the
    first time.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._troubled = False
        self._read: OrderedDict[str, tuple[bytes, Answer]] = OrderedDict()
        self._offer: Offer | None = None
        self._memory: MemoryCacheStore | None = None

    def offer(self, kernel: Kernel) -> Offer:
        """Return the offer of the store that was chosen.

        Raises:
            UnknownNameError: There is none. That is no failure, but a mistake.
        """
        name = self._settings.store or kernel.config.cache_backend
        return kernel.registry.find(CacheStore, name)

    def at_hand(self, run: Run, key: str) -> Answer | None:
        """Return what is kept under a key in memory, and was read before."""
        if self.offer(run.kernel) is not self._offer or self._memory is None:
            return None
        value = self._memory.look(key)
        known = self._read.get(key)
        return known[1] if known is not None and known[0] is value else None

    async def clear(self, kernel: Kernel) -> None:
        """Forget everything; what goes wrong is raised."""
        self._read.clear()
        store = await kernel.get(CacheStore, self.offer(kernel).name)  # type: ignore[type-abstract]
        await store.clear()

    async def take(self, run: Run, key: str) -> Answer | None:
        """Return what is kept under a key, if it is what was kept there."""
        value = await self._do(run, "get", lambda store: store.get(key))
        if value is None:
            return None
        known = self._read.get(key)
        if known is not None and known[0] is value:
            return known[1]
        try:
            answer = read(key, value, max_bytes=self._settings.max_reply_bytes)
        except DamagedError as error:
            note(run, "damaged", {"key": key, "problem": str(error)})
            _LOG.warning("a cached reply is damaged, and is forgotten: %s", error)
            await self._do(run, "delete", lambda store: store.delete(key))
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

        async def put(store: CacheStore) -> bool:
            await store.put(key, value, ttl_s=ttl_s)
            return True

        return bool(await self._do(run, "put", put))

    async def _do(
        self, run: Run, what: str, act: Callable[[CacheStore], Awaitable[Value]]
    ) -> Value | None:
        """Do something with the store, and report if that fails or takes too long."""
        limit_s = self._settings.store_timeout_s
        problem = f"TimeoutError: took longer than {limit_s:g} s"
        offer = self.offer(run.kernel)
        try:
            with run.plan.new_scope() as scope:
                acting = self._act(run.kernel, offer, act)
                value = await _stepped(acting, scope, limit_s)
                self._troubled = False
                return value
        except Exception as error:  # noqa: BLE001 - a cache that fails stops no run
            problem = type(error).__name__  # what it says may tell an address or a password
        told = {"store": offer.name, "operation": what, "problem": problem}
        note(run, "store_failed", told)
        if not self._troubled:
            _LOG.warning("cache store %r fails: %s: %s", offer.name, what, problem)
        self._troubled = True
        return None

    async def _act(
        self, kernel: Kernel, offer: Offer, act: Callable[[CacheStore], Awaitable[Value]]
    ) -> Value:
        store = await kernel.get(CacheStore, offer.name)  # type: ignore[type-abstract]
        self._offer = offer
        self._memory = store if type(store) is MemoryCacheStore else None
        return await act(store)

    def _remember(self, key: str, value: bytes, answer: Answer) -> None:
        """Spare the next one the reading, where the store gives the same bytes again."""
        if len(value) > WORTH_READ_BYTES or not answer.is_frozen:
            return
        self._read[key] = (value, answer)
        if len(self._read) > MOST_READ:
            self._read.popitem(last=False)


@types.coroutine
def _stepped(
    coroutine: Coroutine[Any, Any, Value], scope: CancelScope, limit_s: float
) -> Generator[Any, Any, Value]:
    """Await a coroutine, and start its time when it waits.

    A store in memory never does, and to set a timer takes longer than to ask it.
    """
    try:
        yielded = coroutine.send(None)
        scope.deadline = current_time() + limit_s
        while True:
            try:
                sent = yield yielded
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                yielded = coroutine.throw(error)
            else:
                yielded = coroutine.send(sent)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def note(run: Run, kind: str, data: Mapping[str, object]) -> None:
    """Put a note into the log of a run; the data are JSON values."""
    run.add(Noted, source=SOURCE, kind=kind, data=data)
