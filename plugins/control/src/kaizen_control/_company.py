"""Tasks beside a block of code, that end with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__all__ = ["company"]


@asynccontextmanager
async def company() -> AsyncGenerator[TaskGroup]:
    """Give a task group whose tasks are cancelled when the `async with` block is left.

    What the block raises leaves it as it is, and not as part of a group; only cancellation
    passes through the task group, which has to see it. If a task fails as well, a
    note of the error says so.
    """
    error: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as raised:  # noqa: BLE001 - raised again below
                error = raised
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        if error is None:
            raise
        error.add_note(f"a task beside it failed too: {group.exceptions!r}")
    if error is not None:
        try:
            raise error
        finally:
            del error
