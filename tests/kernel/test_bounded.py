"""Time limits that cost nothing until the work has to wait."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from kaizen.timing import OutOfTimeError, bounded

pytestmark = pytest.mark.anyio


async def test_work_that_does_not_wait_returns_its_value() -> None:
    async def work() -> int:
        return 42

    assert await bounded(work(), 1) == 42


async def test_work_that_waits_returns_its_value() -> None:
    async def work() -> int:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return 42

    assert await bounded(work(), 5) == 42


async def test_an_error_keeps_its_type() -> None:
    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        await bounded(work(), 5)


async def test_work_that_takes_too_long_is_cancelled_and_cleans_up() -> None:
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            cleaned = True

    with pytest.raises(OutOfTimeError):
        await bounded(work(), 0.01)
    assert cleaned


async def test_work_that_swallows_its_cancellation_is_out_of_time_all_the_same() -> None:
    async def work() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        return "nothing happened"

    with pytest.raises(TimeoutError):
        await bounded(work(), 0.01)


async def test_scopes_that_the_work_opens_keep_working() -> None:
    async def work() -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.lowlevel.checkpoint)
        with anyio.fail_after(5):
            await anyio.lowlevel.checkpoint()
        return "done"

    assert await bounded(work(), 5) == "done"


async def test_tasks_that_the_work_started_end_with_it() -> None:
    ended = anyio.Event()

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)

    with pytest.raises(TimeoutError):
        await bounded(work(), 0.02)
    assert ended.is_set()


async def test_a_cancellation_from_outside_passes_through() -> None:
    seen = False

    async def work() -> None:
        nonlocal seen
        try:
            await anyio.sleep_forever()
        except BaseException:
            seen = True
            raise

    with anyio.move_on_after(0.01) as scope:
        await bounded(work(), 5)
    assert scope.cancelled_caught
    assert seen


async def test_the_caller_can_go_on_after_a_timeout() -> None:
    async def work() -> None:
        await anyio.sleep_forever()

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await bounded(work(), 0.005)
    with anyio.fail_after(5):
        await anyio.lowlevel.checkpoint()
