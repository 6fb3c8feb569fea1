"""A checkpoint store in memory: the smallest that keeps every promise of the port."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, time

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
                    f"entry {entry.seq} of run {run_id!r}", f"does not follow entry {place - 1}"
                )
        self._logs[run_id] = [*log, *entries]
        known = self._records.get(run_id)
        self._records[run_id] = RunRecord(
            run_id=run_id,
            agent_id=known.agent_id if known else "",
            status="running",
            length=len(self._logs[run_id]),
            updated_at=time(),
            forked_from=known.forked_from if known else None,
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
        records = sorted(self._records.values(), key=lambda each: -each.updated_at)
        return [each for each in records if agent_id in (None, each.agent_id)][:limit]

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        """Begin a new log with the first entries of another."""
        log = self._log(run_id)
        if new_run_id in self._logs or not 0 <= length <= len(log):
            raise CheckpointSaveError(
                f"run {run_id!r}", f"cannot be forked after {length} entries as {new_run_id!r}"
            )
        await self.append(new_run_id, log[:length])
        known = self._records[new_run_id]
        self._records[new_run_id] = RunRecord(
            run_id=new_run_id,
            agent_id=known.agent_id,
            status="running",
            length=length,
            updated_at=known.updated_at,
            forked_from=(run_id, length),
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
            raise CheckpointLoadError(f"run {run_id!r}", "is unknown to the store") from None
