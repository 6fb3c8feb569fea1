"""A task beside a block of code, that ends with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio

__all__ = ["accompanied"]


@asynccontextmanager
async def accompanied(
    work: Callable[[], Coroutine[Any, Any, None]],
) -> AsyncGenerator[None]:
    """Do some work in a task, until the `async with` block is left.

    What the block raises leaves it as it is, and not as part of a group; only cancellation
    passes through the task group, which has to see it.
    """
    error: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        try:
            yield
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as raised:  # noqa: BLE001 - raised again below
            error = raised
        tasks.cancel_scope.cancel()
    if error is not None:
        try:
            raise error
        finally:
            del error
