"""The store: who may ask what, in the order of the port."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import index
from os import PathLike
from types import TracebackType
from typing import Self, TypeVar

from kaizen.claims import is_run_id
from kaizen.errors import CheckpointError, CheckpointLoadError, CheckpointSaveError
from kaizen.ports import RunRecord, StoredEntry

from kaizen_sqlite import _runs
from kaizen_sqlite._connections import Connections, Work
from kaizen_sqlite._errors import FAILURES, translated
from kaizen_sqlite._path import file_at

__all__ = ["SqliteStorage"]

Value = TypeVar("Value")

MAX_MESSAGE_BYTES = 1024 * 1024


class SqliteStorage:
    """Keeps runs in one SQLite file, which many processes may use at once.

    The file opens at the first call, and is made if it is not there. Close the store with
    `async with` or `aclose`. It needs asyncio, and is for one event loop at a time.

    Args:
        path: The file. Beside it SQLite keeps two more while it is open.
        timeout_s: How long to wait for other processes that write, in seconds.

    Raises:
        ValueError: The path is none of a file, such as `:memory:` or `sqlite:///runs.db`.
    """

    def __init__(self, path: str | PathLike[str], *, timeout_s: float = 10.0) -> None:
        self._path = file_at(path)
        self._connections = Connections(self._path, timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r})"

    async def __aenter__(self) -> Self:
        try:
            await self._connections.open()
        except FAILURES as error:
            raise translated(error, self._path) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file, after the work that is under way."""
        await self._connections.close()

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        """Add entries at the end of a log."""
        _check_id(run_id, CheckpointSaveError)
        work = partial(_runs.append, run_id=run_id, entries=tuple(entries), token=token)
        await self._write(work, run_id)

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        """Return entries in order."""
        _check_id(run_id, CheckpointLoadError)
        end = None if limit is None else index(limit)
        work = partial(_runs.read, run_id=run_id, start=index(start), limit=end)
        return await self._read(work, run_id)

    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        """Return the runs, last updated first."""
        most = index(limit)
        work = partial(_runs.runs, agent_id=agent_id, status=status, limit=most)
        return await self._read(work)

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        """Begin a new log with the first entries of another."""
        _check_id(run_id, CheckpointLoadError)
        _check_id(new_run_id, CheckpointSaveError)
        shared = index(length)
        work = partial(_runs.fork, run_id=run_id, length=shared, new_run_id=new_run_id)
        await self._write(work, run_id)

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        """Become the only writer of a run."""
        _check_id(run_id, CheckpointSaveError)
        seconds = float(lease_s)
        work = partial(_runs.claim, run_id=run_id, owner=owner, lease_s=seconds)
        return await self._write(work, run_id)

    async def delete(self, run_id: str) -> None:
        """Forget a run."""
        _check_id(run_id, CheckpointSaveError)
        await self._write(partial(_runs.delete, run_id=run_id), run_id)

    async def send(self, run_id: str, message: bytes) -> None:
        """Leave a message for whoever carries out a run."""
        _check_id(run_id, CheckpointSaveError)
        if len(message) > MAX_MESSAGE_BYTES:
            raise CheckpointSaveError(
                f"a message for run {run_id!r}",
                f"has {len(message)} bytes, more than {MAX_MESSAGE_BYTES}",
            )
        await self._write(partial(_runs.send, run_id=run_id, message=message), run_id)

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        """Take the messages that were left for some runs."""
        wanted = list(run_ids)
        if not await self._read(partial(_runs.has_messages, run_ids=wanted)):
            return []
        return await self._write(partial(_runs.receive, run_ids=wanted))

    async def _write(self, work: Work[Value], run_id: str = "") -> Value:
        try:
            return await self._connections.write(work)
        except CheckpointError:
            raise
        except FAILURES as error:
            raise translated(error, self._path, run_id, saving=True) from error

    async def _read(self, work: Work[Value], run_id: str = "") -> Value:
        try:
            return await self._connections.read(work)
        except CheckpointError:
            raise
        except FAILURES as error:
            raise translated(error, self._path, run_id) from error


def _check_id(run_id: str, error: type[CheckpointLoadError | CheckpointSaveError]) -> None:
    if not is_run_id(run_id):
        raise error(f"run {run_id[:200]!r}", "has an id that no run has")
