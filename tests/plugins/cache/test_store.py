"""The store in memory: what every store does, and its bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from kaizen_cache import MemoryCacheStore
from kaizen_cache._memory import OVERHEAD
from kaizen_cache.testing import CacheStoreConformance

from .conftest import Clock

pytestmark = pytest.mark.anyio


class TestMemoryCacheStore(CacheStoreConformance):
    @pytest.fixture
    def store(self, clock: Clock) -> MemoryCacheStore:
        return MemoryCacheStore(clock=clock)

    @pytest.fixture
    def let_pass(self, clock: Clock) -> Callable[[float], Awaitable[None]]:
        return clock.let_pass


async def test_a_value_is_there_until_the_very_end_of_its_time(clock: Clock) -> None:
    store = MemoryCacheStore(clock=clock)
    await store.put("key", b"value", ttl_s=60)

    await clock.let_pass(59.999)
    before = await store.get("key")
    await clock.let_pass(0.001)

    assert before == b"value"
    assert await store.get("key") is None
    assert (len(store), store.size) == (0, 0)


async def test_reading_a_value_does_not_prolong_its_time(clock: Clock) -> None:
    store = MemoryCacheStore(clock=clock)
    await store.put("key", b"value", ttl_s=60)

    for _ in range(6):
        await clock.let_pass(10)
        last = await store.get("key")

    assert last is None


async def test_of_too_many_values_those_used_last_stay(clock: Clock) -> None:
    store = MemoryCacheStore(max_entries=3, clock=clock)
    for key in ("a", "b", "c"):
        await store.put(key, key.encode(), ttl_s=60)

    await store.get("a")
    await store.put("d", b"d", ttl_s=60)

    kept = [key for key in ("a", "b", "c", "d") if await store.get(key)]
    assert kept == ["a", "c", "d"]
    assert len(store) == 3


async def test_values_never_take_more_memory_than_they_may(clock: Clock) -> None:
    most = 20_000
    store = MemoryCacheStore(max_bytes=most, clock=clock)

    for number in range(500):
        await store.put(f"key{number % 90}", b"x" * (number * 7 % 3_000), ttl_s=60)
        assert store.size <= most

    sizes = [
        len(value) + OVERHEAD
        for number in range(90)
        if (value := await store.get(f"key{number}")) is not None
    ]
    assert sum(sizes) == store.size
    assert len(sizes) == len(store) > 1


async def test_a_value_that_is_larger_than_the_store_drives_nothing_out(
    clock: Clock,
) -> None:
    store = MemoryCacheStore(max_bytes=2_000, clock=clock)
    await store.put("small", b"small", ttl_s=60)

    await store.put("large", b"x" * 2_000, ttl_s=60)

    assert await store.get("large") is None
    assert await store.get("small") == b"small"


async def test_the_old_value_is_gone_when_the_new_one_is_too_large(clock: Clock) -> None:
    store = MemoryCacheStore(max_bytes=2_000, clock=clock)
    await store.put("key", b"old", ttl_s=60)

    await store.put("key", b"x" * 2_000, ttl_s=60)

    assert await store.get("key") is None
    assert store.size == 0


@pytest.mark.parametrize(("entries", "size"), [(0, 1), (1, 0)])
async def test_a_store_without_room_is_refused(entries: int, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MemoryCacheStore(max_entries=entries, max_bytes=size)
