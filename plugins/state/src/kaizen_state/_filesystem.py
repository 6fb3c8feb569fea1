"""Run logs as files: one folder a run, in it lines of JSON.

    <path>/
      <run>/              one run, see `_log`
        00000000.jsonl.gz   its entries, see `_lines`; closed segments are packed
        00000214.jsonl      the last segment, at the end of which it grows
        head.json           what it goes on from, if it is a fork
        cut-214-1           what a crash had left at its end
        claim               who may write it
      .mail/              messages for those who carry out runs, see `_mail`
      .trash/             what is being deleted
      .clock              its time is the latest of any entry, should a clock go backwards

An append is one write and one sync of one file. If it fails, it is taken back. What a crash
leaves of it at the end of a log is passed over by readers, and cut off, kept beside it and
reported by the next writer. Anything else that is wrong is a `CheckpointLoadError`: nothing
is guessed and nothing skipped. What is stored is data: it is compared, counted and handed
on, and nothing in it is ever looked up, imported or called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from kaizen.errors import StorageUnavailableError
from kaizen.ports import RunRecord, StoredEntry

from kaizen_state._files import unavailable
from kaizen_state._runs import Runs
from kaizen_state._work import Work

__all__ = ["FilesystemStorage"]

Value = TypeVar("Value")


class FilesystemStorage:
    """Keeps run logs in files. A `CheckpointStore`.

    It needs no opening: the folder is made when something is kept. The files of a run are
    open from when it is claimed until it is given up; `aclose`, or leaving `async with`,
    closes them too. Afterwards it may be used again.

    Several processes may use one folder at once, as long as its file system can lock files.
    """

    def __init__(self, base_dir: str | PathLike[str], compress: bool = True) -> None:
        """Name the folder.

        Args:
            base_dir: Where the runs are kept; `~` is the home of the user.
            compress: Whether to pack what is no longer written, with gzip. What is packed
                can be read either way.
        """
        self._runs = Runs(Path(base_dir).expanduser().absolute(), compress=compress)
        self._work = Work()

    @property
    def base_dir(self) -> Path:
        """Where the runs are kept."""
        return self._runs.base

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        """Add entries at the end of a log; they are on disk when this returns."""
        if not entries:
            return
        try:
            await self._work.do_shortly(self._runs.append, run_id, entries, token)
        except OSError as error:
            raise self._told(error) from error

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        """Return entries in order."""
        return await self._do(self._runs.read, run_id, start, limit)

    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        """Return the runs, last updated first.

        A run that is damaged has the status `damaged`; it is reported too.
        """
        return await self._do(self._runs.runs, agent_id, status, limit)

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        """Begin a new log that shares the first entries of another."""
        await self._do(self._runs.fork, run_id, length, new_run_id)

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        """Become the only writer of a run, or with a lease of 0 give it up.

        Giving up a run that has ended packs its log.
        """
        return await self._do(self._runs.claim, run_id, owner, lease_s)

    async def delete(self, run_id: str) -> None:
        """Forget a run. Its id is free again once no fork shares its entries."""
        await self._do(self._runs.delete, run_id)

    async def send(self, run_id: str, message: bytes) -> None:
        """Leave a message for whoever carries out a run."""
        await self._do(self._runs.send, run_id, message)

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        """Take the messages that were left for some runs."""
        return await self._do(self._runs.receive, run_ids)

    async def aclose(self) -> None:
        """Close every file, and end the thread."""
        with anyio.CancelScope(shield=True):
            await self._work.do(self._runs.close)
            await self._work.do(self._work.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _do(self, work: Callable[..., Value], *given: Any) -> Value:
        try:
            return await self._work.do(work, *given)
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> StorageUnavailableError:
        return unavailable(error, self._runs.base)
