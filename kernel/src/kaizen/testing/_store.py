"""A checkpoint store in memory: the smallest that keeps every promise of the port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic, time

from pydantic_core import from_json

from kaizen.errors import CheckpointLoadError, CheckpointSaveError
from kaizen.ports import RunRecord, StoredEntry

__all__ = ["MemoryCheckpointStore"]


class MemoryCheckpointStore:
    """Keeps run logs for as long as it lives. For tests, and as an example of the port."""

    def __init__(self) -> None:
        self._logs: dict[str, list[StoredEntry]] = {}
        self._records: dict[str, RunRecord] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._tokens: dict[str, int] = {}

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        """Add entries at the end of a log."""
        log = self._logs.get(run_id, [])
        if token is not None and token != self._tokens.get(run_id):
            raise CheckpointSaveError(
                f"run {run_id!r}", "is written by another process", "Claim it again."
            )
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
            record = _described(record, entry)
        self._records[run_id] = replace(
            record, length=len(log) + len(entries), updated_at=time()
        )

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        """Return entries in order."""
        log = self._log(run_id)
        return tuple(log[start : None if limit is None else start + limit])

    async def runs(
        self, *, agent_id: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        """Return the runs, last updated first."""
        records = reversed(self._records.values())  # in the order of their updates
        return [each for each in records if agent_id in (None, each.agent_id)][:limit]

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        """Begin a new log with the first entries of another."""
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
        holder, until = self._claims.get(run_id, ("", 0.0))
        if holder != owner and until > monotonic():
            raise CheckpointSaveError(f"run {run_id!r}", f"is held by {holder!r}")
        self._claims[run_id] = (owner, monotonic() + lease_s)
        self._tokens[run_id] = self._tokens.get(run_id, 0) + 1
        return self._tokens[run_id]

    async def delete(self, run_id: str) -> None:
        """Forget a run."""
        for place in (self._logs, self._records, self._claims, self._tokens):
            place.pop(run_id, None)

    def _log(self, run_id: str) -> list[StoredEntry]:
        try:
            return self._logs[run_id]
        except KeyError:
            raise CheckpointLoadError(
                f"run {run_id!r}", "is unknown to the store"
            ) from None


def _described(record: RunRecord, entry: StoredEntry) -> RunRecord:
    """Return what an entry adds to what is known of its run."""
    if entry.type == "run_started":
        return replace(record, agent_id=from_json(entry.body)["agent_id"])
    if entry.type == "run_ended":
        return replace(record, status=from_json(entry.body)["status"])
    return record
