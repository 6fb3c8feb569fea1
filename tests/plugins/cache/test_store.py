"""The store in memory: what every store does, and its bounds."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from types import FunctionType, ModuleType
from weakref import ref

import pytest
from anyio.lowlevel import checkpoint
from kaizen.messages import ModelReply, ToolUse
from kaizen_cache import MemoryCacheStore
from kaizen_cache._answer import Answer, read, written
from kaizen_cache._memory import OVERHEAD
from kaizen_cache.testing import CacheStoreConformance

from .conftest import Clock, Staging, Teller, tell

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


async def test_what_is_too_old_goes_before_what_was_not_used_for_longest(
    clock: Clock,
) -> None:
    store = MemoryCacheStore(max_entries=3, clock=clock)
    await store.put("long", b"long", ttl_s=1_000)
    for key in ("short", "shorter"):
        await store.put(key, b"short", ttl_s=1)

    await clock.let_pass(10)
    await store.put("new", b"new", ttl_s=1_000)

    assert sorted(store._kept) == ["long", "new"]
    assert store.size == len(b"longnew") + 2 * OVERHEAD


async def test_the_ends_of_what_is_gone_take_no_memory_for_long(clock: Clock) -> None:
    store = MemoryCacheStore(max_entries=3, clock=clock)
    for number in range(5_000):
        await store.put(f"key{number % 5}", b"value", ttl_s=60 + number)

    assert len(store._ends) <= 100
    await clock.let_pass(10_000)
    await store.put("last", b"value", ttl_s=60)
    assert list(store._kept) == ["last"]


async def test_what_a_value_says_is_kept_within_the_bounds_and_gone_with_it(
    clock: Clock,
) -> None:
    store = MemoryCacheStore(max_bytes=4 * OVERHEAD, clock=clock)
    values = {key: key.encode() for key in ("a", "b", "c")}
    for key, value in values.items():
        await store.put(key, value, ttl_s=60)

    store.remember("b", values["b"], "of b", OVERHEAD)
    store.remember("c", b"another", "of another", 1)
    store.remember("a", values["a"], "too much", 4 * OVERHEAD)

    assert sorted(store._kept) == ["b", "c"]  # for want of room `a` is forgotten
    found = [store.look("b"), store.look("c")]
    assert [each and each.reading for each in found] == ["of b", None]
    assert store.size == 3 * OVERHEAD + 2
    await store.put("b", b"new", ttl_s=60)
    kept = store.look("b")
    assert kept is not None
    assert kept.reading is None
    await store.clear()
    assert (store.size, len(store)) == (0, 0)


def texts_in(*roots: object) -> set[str]:
    """Return every text, and every bytes as text, that can be reached from objects."""
    found: set[str] = set()
    seen: set[int] = set()
    left = list(roots)
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        if isinstance(each, str):
            found.add(each)
        elif isinstance(each, bytes):
            found.add(each.decode(errors="replace"))
        left += gc.get_referents(each)
    return found


async def test_what_was_said_is_nowhere_in_a_cache_when_its_time_is_up(
    staging: Staging, clock: Clock
) -> None:
    async with staging(Teller("the answer is swordfish", "another")) as staged:
        agent = staged.agent({"cache_ttl": 60})
        for _ in range(3):
            await tell(agent, "is the password hunter2")
        parts = (staged.cache._keys, staged.cache._shelf._memory, staged.cache._flights)
        during = texts_in(*parts)
        await clock.let_pass(61)
        await tell(agent, "something else")
        gc.collect()
        after = texts_in(*parts)

    assert [each for each in during if "swordfish" in each]
    assert not [each for each in during | after if "hunter2" in each]
    assert not [each for each in after if "swordfish" in each]


async def test_replies_and_what_is_worked_out_of_them_stay_within_the_bounds(
    staging: Staging,
) -> None:
    said = [f"{n:05}" * 1_000 for n in range(60)]
    async with staging(Teller(*said), max_bytes=50_000) as staged:
        agent = staged.agent()
        for number in range(60):
            for _ in range(2):
                await tell(agent, f"{number}")
        memory = staged.cache._shelf._memory
        assert memory is not None
        kept = list(memory._kept.values())
        answers = [each.reading for each in kept if each.reading is not None]
        texts = sum(len(each) for each in texts_in(memory, staged.cache._keys))

    assert memory.size <= 50_000
    assert 1 <= len(answers) == len(kept) <= 4
    assert texts <= 50_000


REPLIES: Mapping[str, ModelReply] = {
    "lists": ModelReply(text="x", provider_data={"a": [[] for _ in range(20_000)]}),
    "mappings": ModelReply(
        text="x", provider_data={"a": [{"b": 1.5, "c": n * 1.1} for n in range(3_000)]}
    ),
    "arguments": ModelReply(
        tool_uses=(ToolUse(id="1", name="add", arguments={"a": [[]] * 20_000}),)
    ),
    "text of arguments": ModelReply(
        tool_uses=(ToolUse(id="1", name="add", arguments="{}" * 50_000),)
    ),
    "many calls": ModelReply(
        tool_uses=tuple(
            ToolUse(id=f"call {n} " * 12, name=f"name {n} " * 12, arguments="{}")
            for n in range(2_000)
        )
    ),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_an_answer_takes_no_more_memory_than_it_says(reply: ModelReply) -> None:
    value = written("key", Answer(reply, None, 0.0))
    read("key", value, max_bytes=len(value))  # so that what is imported is
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        answer = read("key", value, max_bytes=len(value))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert 20_000 < taken < answer.size * 1.1
    assert answer.size < 2 * taken
    assert (answer.whole(), answer.again().tool_uses) == (reply, reply.tool_uses)


@pytest.mark.parametrize("asked", ["long", "none"])
async def test_what_is_too_old_goes_also_where_only_others_are_asked_for(
    clock: Clock, asked: str
) -> None:
    store = MemoryCacheStore(clock=clock)
    await store.put("short", b"secret", ttl_s=1)
    await store.put("long", b"long", ttl_s=1_000)

    await clock.let_pass(2)
    await store.get(asked)

    assert list(store._kept) == ["long"]
    assert not [each for each in texts_in(store) if "secret" in each]


async def test_what_is_kept_keeps_no_agent_alive(staging: Staging) -> None:
    async def ask() -> ref[object]:
        agent = staged.agent()
        await tell(agent)
        assert agent._plan is not None
        return ref(agent._plan.signature)

    model = Teller()
    async with staging(model) as staged:
        await ask()
        signatures = [await ask() for _ in range(3)]
        await checkpoint()  # the event loop has to let go of the run
        gc.collect()
        memory = staged.cache._shelf._memory
        assert memory is not None
        readings = [each.reading for each in memory._kept.values()]

    assert len(model.requests) == 1
    assert [each.good_for is not None for each in readings] == [True]
    assert [each() for each in signatures] == [None] * 3
