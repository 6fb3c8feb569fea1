"""The connections to one file: one that writes, some that read, each with its thread.

A statement costs a way to the thread of its connection and back, half of what it takes to
make an entry durable. So a whole transaction goes there at once, as a function.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from kaizen.errors import StorageUnavailableError

from kaizen_sqlite._errors import closed
from kaizen_sqlite._schema import open_reader, open_writer

if TYPE_CHECKING:
    from aiosqlite import Connection

__all__ = ["Connections", "Work"]

Value = TypeVar("Value")
Work = Callable[[sqlite3.Connection], Value]
"""What is done in the thread of a connection, to its end whatever happens outside."""

READERS = 4
_WORK = "-- the work that is the parameter"


class _Outcome(sqlite3.Cursor):
    """What work returned, in the form in which `execute_fetchall` hands it on."""

    value: Any = None

    def fetchall(self) -> list[Any]:
        return [self.value]


class _Database(sqlite3.Connection):
    """A connection of which aiosqlite can ask more than one statement at a time."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql is not _WORK:
            return super().execute(sql, parameters)
        (work,) = parameters
        outcome = _Outcome(self)
        outcome.value = work(self)
        return outcome


class _Line:
    """One connection, and the thread in which it is used."""

    def __init__(self, open_file: Callable[[], sqlite3.Connection]) -> None:
        self._open_file = open_file
        self._connection: Connection | None = None
        self._thread: Thread | None = None

    async def open(self) -> None:
        """Open the connection; if that fails, nothing is left of it."""
        from aiosqlite import connect

        # Its thread takes after the one that makes it: one that does not keep the
        # interpreter alive, so that a store that nobody closed does not.
        made: list[Connection] = []
        maker = Thread(
            target=lambda: made.append(connect("", factory=self._opened)), daemon=True
        )
        maker.start()
        maker.join()
        try:
            self._connection = await made.pop()
        except BaseException:
            self._end()
            raise

    async def do(self, work: Work[Value]) -> Value:
        """Do some work in the thread of the connection.

        Who is cancelled meanwhile waits until it is done, so that nothing is under way
        when somebody looks what was written.
        """
        connection = self._connection
        assert connection is not None
        with anyio.CancelScope(shield=True):
            try:
                outcome: Any = await connection.execute_fetchall(_WORK, (work,))
            except asyncio.CancelledError:
                # By asyncio itself, which knows no shields. What is asked now comes after
                # the work; if it cannot be asked, the connection was closed after it.
                with suppress(ValueError, sqlite3.Error):
                    await _whatever_happens(connection.execute_fetchall, "SELECT 1")
                raise
        (value,) = outcome
        return value  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the connection after the work that it has; its thread ends."""
        if self._connection is not None:
            try:
                await self._connection.close()
            finally:
                self._end()

    def _opened(self, *_: Any, **__: Any) -> sqlite3.Connection:
        self._thread = current_thread()
        return self._open_file()

    def _end(self) -> None:
        """Wait for the thread, which has nothing left to do but to end."""
        if self._thread is not None:
            self._thread.join()


class Connections:
    """The connections of one store; they open when they are first needed."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._writer: _Line | None = None
        self._idle: list[_Line] = []
        self._open: list[_Line] = []
        self._places = anyio.Semaphore(READERS, fast_acquire=True)
        self._changing = anyio.Lock()
        self._closed = False

    async def write(self, work: Work[Value]) -> Value:
        """Do something with the connection that writes, in its turn."""
        await checkpoint_if_cancelled()
        return await (await self.open()).do(work)

    async def read(self, work: Work[Value]) -> Value:
        """Do something with a connection that reads, beside whatever is written."""
        await checkpoint_if_cancelled()
        await self.open()
        async with self._places:
            while not self._idle:  # another may be quicker to take what was opened
                await self._change(self._open_reader)
            if self._closed:
                raise closed(self._path)
            line = self._idle.pop()
            try:
                return await line.do(work)
            finally:
                self._idle.append(line)

    async def open(self) -> _Line:
        """Open the connection that writes, and with it the file, and return it."""
        _must_be_asyncio()
        if self._writer is None:
            await self._change(self._open_writer)
        if self._closed or self._writer is None:
            raise closed(self._path)
        return self._writer

    async def close(self) -> None:
        """Close all of them, after the work that is under way; none opens again."""
        self._closed = True
        await self._change(self._close_all)

    async def _change(self, change: Callable[[], Awaitable[None]]) -> None:
        """Open or close connections, one change at a time, each to its end."""

        async def in_turn() -> None:
            async with self._changing:
                await change()

        await _whatever_happens(in_turn)

    async def _open_writer(self) -> None:
        if self._writer is None:
            self._writer = await self._added(open_writer)

    async def _open_reader(self) -> None:
        if not self._idle:
            self._idle.append(await self._added(open_reader))

    async def _added(self, open_file: Callable[..., sqlite3.Connection]) -> _Line:
        if self._closed:
            raise closed(self._path)
        line = _Line(partial(open_file, self._path, _Database, timeout_s=self._timeout_s))
        await line.open()
        self._open.append(line)
        return line

    async def _close_all(self) -> None:
        # The writer comes last: whoever closes the last one tidies the file up.
        while self._open:
            await self._open.pop().close()


async def _whatever_happens(work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    """Do something to its end, also if asyncio itself cancels, which knows no shields."""
    failures: list[Exception] = []

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            try:
                await work(*arguments)
            except Exception as error:  # noqa: BLE001 - raised below, without a group
                failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shielded)
    for failure in failures:
        raise failure


def _must_be_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise StorageUnavailableError(
            "the checkpoint store 'sqlite'",
            "needs asyncio, and this program runs on another event loop",
            'Use `checkpoint_store = "filesystem"`, or run on asyncio.',
        ) from None
