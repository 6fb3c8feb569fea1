"""A checkpoint store in memory: the smallest that keeps every promise of the port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import time

from kaizen.claims import Claim, held_by_another, is_run_id
from kaizen.errors import CheckpointLoadError, CheckpointSaveError, UnknownRunError
from kaizen.ports import RunRecord, StoredEntry
from kaizen.runlog import described

__all__ = ["MemoryCheckpointStore"]

MAX_MESSAGES = 1_000
MAX_MESSAGE_BYTES = 1024 * 1024


class MemoryCheckpointStore:
    """Keeps run logs for as long as it lives. For tests, and as an example of the port."""

    def __init__(self) -> None:
        self._logs: dict[str, list[StoredEntry]] = {}
        self._records: dict[str, RunRecord] = {}
        self._claims: dict[str, Claim] = {}
        self._messages: dict[str, list[bytes]] = {}

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        """Add entries at the end of a log."""
        _check_id(run_id, CheckpointSaveError)
        log = self._logs.get(run_id, [])
        Claim.check(self._claims.get(run_id), run_id, token)
        for place, entry in enumerate(entries, start=len(log)):
            if entry.seq != place:
                raise CheckpointSaveError(
                    f"entry {entry.seq} of run {run_id!r}",
                    f"does not follow entry {place - 1}",
                )
        self._logs[run_id] = [*log, *entries]
        record = self._records.pop(run_id, None) or RunRecord(
            run_id=run_id, agent_id="", status="running", length=0, updated_at=0.0
        )
        for entry in entries:
            record = described(record, entry)
        self._records[run_id] = replace(record, updated_at=time())

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        """Return entries in order."""
        log = self._log(run_id)
        end = len(log) if limit is None else start + max(0, limit)
        return tuple(log[max(0, start) : end])

    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        """Return the runs, last updated first."""
        records = reversed(self._records.values())  # in the order of their updates
        return [
            replace(each, owner=self._owner(each.run_id))
            for each in records
            if agent_id in (None, each.agent_id) and status in (None, each.status)
        ][: max(0, limit)]

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        """Begin a new log with the first entries of another."""
        _check_id(new_run_id, CheckpointSaveError)
        log = self._log(run_id)
        if new_run_id in self._logs or not 0 <= length <= len(log):
            raise CheckpointSaveError(
                f"run {run_id!r}",
                f"cannot be forked after {length} entries as {new_run_id!r}",
            )
        await self.append(new_run_id, log[:length])
        self._records[new_run_id] = replace(
            self._records[new_run_id], forked_from=(run_id, length)
        )

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        """Become the only writer of a run."""
        _check_id(run_id, CheckpointSaveError)
        claim = Claim.next(self._claims.get(run_id), run_id, owner=owner, lease_s=lease_s)
        self._claims[run_id] = claim
        return claim.token

    async def delete(self, run_id: str) -> None:
        """Forget a run."""
        _check_id(run_id, CheckpointSaveError)
        claim = self._claims.get(run_id)
        if claim is not None and claim.held():
            raise held_by_another(run_id, claim)
        for place in (self._logs, self._records, self._claims, self._messages):
            place.pop(run_id, None)

    async def send(self, run_id: str, message: bytes) -> None:
        """Leave a message for whoever carries out a run."""
        _check_id(run_id, CheckpointSaveError)
        waiting = self._messages.setdefault(run_id, [])
        if len(message) > MAX_MESSAGE_BYTES or len(waiting) >= MAX_MESSAGES:
            raise CheckpointSaveError(
                f"a message for run {run_id!r}", "is too large, or one too many"
            )
        waiting.append(message)

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        """Take the messages that were left for some runs."""
        return [
            (run_id, message)
            for run_id in run_ids
            for message in self._messages.pop(run_id, ())
        ]

    def _owner(self, run_id: str) -> str:
        claim = self._claims.get(run_id)
        return claim.owner if claim is not None and claim.held() else ""

    def _log(self, run_id: str) -> list[StoredEntry]:
        _check_id(run_id, CheckpointLoadError)
        try:
            return self._logs[run_id]
        except KeyError:
            raise UnknownRunError(f"run {run_id!r}", "is unknown to the store") from None


def _check_id(run_id: str, error: type[CheckpointLoadError | CheckpointSaveError]) -> None:
    if not is_run_id(run_id):
        raise error(f"run {run_id[:200]!r}", "has an id that no run has")
