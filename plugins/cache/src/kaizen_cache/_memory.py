"""A store in memory: bounded, and forgotten with its process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import Any

__all__ = ["MemoryCacheStore"]

OVERHEAD = 400
"""About what an entry takes beside its value, in bytes: its key, its time, its place."""


class Kept:
    """A value in memory.

    Attributes:
        value: What was put.
        until: When its time is up.
        reading: What it says, if somebody read it and kept that here.
        size: How much memory all of it takes, in bytes.
    """

    __slots__ = ("reading", "size", "until", "value")

    def __init__(self, value: bytes, until: float) -> None:
        self.value = value
        self.until = until
        self.reading: Any = None
        self.size = len(value) + OVERHEAD


class MemoryCacheStore:
    """Keeps values in memory, and of too many those that were used last.

    Time is that of a clock that nobody can set. What is too old goes first: whenever
    anything is asked for or put, all of it.

    Args:
        max_entries: Most values.
        max_bytes: Most memory for all of them.
        clock: What tells the time, in seconds.

    Attributes:
        size: How much memory is taken, in bytes.
    """

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if max_entries < 1 or max_bytes < 1:
            raise ValueError("max_entries and max_bytes must be at least 1")
        self.size = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._ends: list[tuple[float, str]] = []  # a heap; of what is gone there are some

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, which has been used last by that."""
        kept = self.look(key)
        return None if kept is None else kept.value

    def look(self, key: str) -> Kept | None:
        """Return what is kept under a key, which has been used last by that."""
        if self._ends and self._ends[0][0] <= self._clock():
            self._drop_old()
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a value; for want of room, forget those that were not used for longest."""
        self._drop(key)
        self._drop_old()
        if not ttl_s > 0 or len(value) + OVERHEAD > self._max_bytes:
            return
        kept = self._kept[key] = Kept(value, self._clock() + ttl_s)
        heappush(self._ends, (kept.until, key))
        self.size += kept.size
        self._make_room()

    def remember(self, key: str, value: bytes, reading: object, size: int) -> None:
        """Keep what a value says beside it, to be forgotten with it, if there is room.

        Args:
            size: How much memory that takes, in bytes.
        """
        kept = self._kept.get(key)
        if kept is None or kept.value is not value or kept.reading is not None:
            return
        if kept.size + size > self._max_bytes:
            return
        kept.reading = reading
        kept.size += size
        self.size += size
        self._kept.move_to_end(key)
        self._make_room()

    async def delete(self, key: str) -> None:
        """Forget a value."""
        self._drop(key)

    async def clear(self) -> None:
        """Forget every value."""
        self._kept.clear()
        self._ends.clear()
        self.size = 0

    def _make_room(self) -> None:
        while len(self._kept) > self._max_entries or self.size > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop_old(self) -> None:
        """Forget the values whose time is up, and the ends of those that are gone."""
        ends, now = self._ends, self._clock()
        while ends and ends[0][0] <= now:
            _, key = heappop(ends)
            kept = self._kept.get(key)
            if kept is not None and kept.until <= now:
                self._drop(key)
        if len(ends) > 2 * len(self._kept) + 64:
            ends[:] = [(kept.until, key) for key, kept in self._kept.items()]
            heapify(ends)

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.size -= kept.size
