"""A store in memory: bounded, and forgotten with its process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

__all__ = ["MemoryCacheStore"]

OVERHEAD = 400
"""About what an entry takes beside its value, in bytes: its key, its time, its place."""


class _Kept(NamedTuple):
    value: bytes
    until: float


class MemoryCacheStore:
    """Keeps values in memory, and of too many those that were used last.

    Time is that of a clock that nobody can set.

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
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, which has been used last by that."""
        return self.look(key)

    def look(self, key: str) -> bytes | None:
        """Do the same without being awaited."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if self._clock() >= kept.until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.value

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a value; for want of room, forget those that were not used for longest."""
        self._drop(key)
        size = len(value) + OVERHEAD
        if not ttl_s > 0 or size > self._max_bytes:
            return
        self._kept[key] = _Kept(value, self._clock() + ttl_s)
        self.size += size
        while self._is_full():
            self._drop(next(iter(self._kept)))

    async def delete(self, key: str) -> None:
        """Forget a value."""
        self._drop(key)

    async def clear(self) -> None:
        """Forget every value."""
        self._kept.clear()
        self.size = 0

    def _is_full(self) -> bool:
        return len(self._kept) > self._max_entries or self.size > self._max_bytes

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.size -= len(kept.value) + OVERHEAD
