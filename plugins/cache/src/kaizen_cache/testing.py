"""What every cache store has to do, as a test class to derive from.

    @pytest.mark.anyio
    class TestMyCacheStore(CacheStoreConformance):
        @pytest.fixture
        def store(self) -> CacheStore:
            return MyCacheStore()

A test that fails says which promise is broken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from kaizen_cache._store import CacheStore

__all__ = ["CacheStoreConformance"]

LONG_S = 3_600.0
KEY = "5f" * 32
OTHER = "a0" * 32


class CacheStoreConformance:
    """For `CacheStore`; fixture `store`, which is empty.

    `let_pass` is to make time pass for the store: override it where the store has a clock
    that a test can set, or it sleeps. `short_s` is the shortest time that the store knows.
    """

    short_s = 0.05

    @pytest.fixture
    def let_pass(self) -> Callable[[float], Awaitable[None]]:
        """Return what makes some seconds pass for the store."""
        return anyio.sleep

    async def test_it_is_a_store(self, store: CacheStore) -> None:
        assert isinstance(store, CacheStore)

    async def test_it_gives_what_was_put(self, store: CacheStore) -> None:
        value = bytes(range(256)) * 16
        await store.put(KEY, value, ttl_s=LONG_S)
        assert await store.get(KEY) == value
        assert await store.get(KEY) == value

    async def test_it_gives_nothing_for_another_key(self, store: CacheStore) -> None:
        await store.put(KEY, b"one", ttl_s=LONG_S)
        for key in (OTHER, KEY[:-1], KEY + "0", f"{KEY}:1", KEY.upper()):
            assert await store.get(key) is None

    async def test_it_keeps_an_empty_value(self, store: CacheStore) -> None:
        await store.put(KEY, b"", ttl_s=LONG_S)
        assert await store.get(KEY) == b""

    async def test_a_new_value_takes_the_place_of_the_old_one(
        self, store: CacheStore
    ) -> None:
        await store.put(KEY, b"old and longer", ttl_s=LONG_S)
        await store.put(KEY, b"new", ttl_s=LONG_S)
        assert await store.get(KEY) == b"new"

    async def test_what_is_deleted_is_gone_and_nothing_else(
        self, store: CacheStore
    ) -> None:
        await store.put(KEY, b"one", ttl_s=LONG_S)
        await store.put(OTHER, b"other", ttl_s=LONG_S)
        await store.delete(KEY)
        await store.delete(KEY)
        assert await store.get(KEY) is None
        assert await store.get(OTHER) == b"other"

    async def test_all_of_it_can_be_cleared(self, store: CacheStore) -> None:
        await store.put(KEY, b"one", ttl_s=LONG_S)
        await store.put(OTHER, b"other", ttl_s=LONG_S)
        await store.clear()
        await store.clear()
        assert await store.get(KEY) is None
        assert await store.get(OTHER) is None
        await store.put(KEY, b"again", ttl_s=LONG_S)
        assert await store.get(KEY) == b"again"

    async def test_a_value_whose_time_is_up_is_gone(
        self, store: CacheStore, let_pass: Callable[[float], Awaitable[None]]
    ) -> None:
        await store.put(KEY, b"short", ttl_s=self.short_s)
        await store.put(OTHER, b"long", ttl_s=LONG_S)
        await let_pass(self.short_s * 2)
        assert await store.get(KEY) is None
        assert await store.get(OTHER) == b"long"

    async def test_a_new_value_has_a_time_of_its_own(
        self, store: CacheStore, let_pass: Callable[[float], Awaitable[None]]
    ) -> None:
        await store.put(KEY, b"short", ttl_s=self.short_s)
        await store.put(KEY, b"long", ttl_s=LONG_S)
        await let_pass(self.short_s * 2)
        assert await store.get(KEY) == b"long"

    async def test_a_value_without_time_is_not_kept(self, store: CacheStore) -> None:
        await store.put(KEY, b"none", ttl_s=0)
        assert await store.get(KEY) is None
        await store.put(KEY, b"one", ttl_s=LONG_S)
        await store.put(KEY, b"none", ttl_s=0)
        assert await store.get(KEY) is None

    async def test_a_value_is_there_whole_or_not_at_all(self, store: CacheStore) -> None:
        values = [bytes([number]) * (1_000 + number) for number in range(8)]
        seen: list[bytes | None] = []

        async def put(value: bytes) -> None:
            await store.put(KEY, value, ttl_s=LONG_S)
            seen.append(await store.get(KEY))

        async with anyio.create_task_group() as tasks:
            for value in values:
                tasks.start_soon(put, value)
        assert all(each in values for each in seen if each is not None)
        assert await store.get(KEY) in values

    async def test_a_large_value_is_kept_or_not_but_never_cut(
        self, store: CacheStore
    ) -> None:
        value = b"x" * (1024 * 1024)
        await store.put(KEY, value, ttl_s=LONG_S)
        assert await store.get(KEY) in (None, value)
