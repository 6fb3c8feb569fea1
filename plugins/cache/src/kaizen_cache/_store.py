"""The port: where replies are kept."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["CacheStore"]


@runtime_checkable
class CacheStore(Protocol):
    """Keeps values under keys for a time, or for less.

    It may forget any value at any moment, but must never give one for another key, one that
    was not put whole, or one whose time is up. It need not know what the values are.

    A plugin offers one with `registry.add(CacheStore, "mine", …)`, and users choose it with
    `store = "mine"` under `[plugins.cache]`. `kaizen_cache.testing` has a test class for
    it. One that fails or hangs stops no run: it is reported, and the model is asked.
    """

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, or `None` if there is none whose time is not up."""
        ...

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a value, in place of what was there.

        Args:
            key: At most 200 ASCII letters, digits and `:`.
            value: What to keep. One that is too large for the store is not kept, and that
                is no error; nor is then what was there before.
            ttl_s: For how long at most, in seconds; 0 is not at all.
        """
        ...

    async def delete(self, key: str) -> None:
        """Forget a value; one that is not there is no error."""
        ...

    async def clear(self) -> None:
        """Forget every value."""
        ...
