"""What a store does, as SQL: each function is one transaction, or reads one state.

All of them block, and are called in the thread of their connection.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from json import dumps
from time import time
from typing import Any, NamedTuple

from kaizen.claims import Claim, held_by_another
from kaizen.errors import CheckpointLoadError, CheckpointSaveError, UnknownRunError
from kaizen.ports import RunRecord, StoredEntry
from kaizen.runlog import described

from kaizen_sqlite._checksums import of_entry, of_row
from kaizen_sqlite._schema import require_version

__all__ = [
    "append",
    "claim",
    "delete",
    "fork",
    "has_messages",
    "read",
    "receive",
    "runs",
    "send",
]

MAX_MESSAGES = 1_000
DAMAGED = "damaged"
_LOG = logging.getLogger("kaizen")

INSERT_ENTRY = """
INSERT INTO entry (log, seq, type, version, checksum, body) VALUES (?, ?, ?, ?, ?, ?)"""

SELECT_ENTRIES = """
SELECT seq, type, version, body, checksum FROM entry
WHERE log = ? AND seq >= ? AND seq < ? ORDER BY seq"""

INSERT_DESCRIBED = """
INSERT INTO described (log, seq, agent_id, parent_id, status, checksum)
VALUES (?, ?, ?, ?, ?, ?)"""

SELECT_DESCRIBED = """
SELECT seq, agent_id, parent_id, status, checksum FROM described
WHERE log = ? AND seq < ? ORDER BY seq DESC LIMIT 1"""

INSERT_LOG = "INSERT INTO log (parent, first, checksum) VALUES (?, ?, ?)"

INSERT_RUN = """
INSERT INTO record (log, run_id, agent_id, parent_id, status, length, updated_at,
    forked_from, forked_length, checksum, updated)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, coalesce(max(updated), 0) + 1 FROM record"""

SELECT_RUN = """
SELECT run_id, agent_id, parent_id, status, length, updated_at, forked_from,
    forked_length, record.log, checksum, owner, token, until, until_monotonic, boot,
    updated = (SELECT max(updated) FROM record),
    (SELECT max(seq) FROM entry WHERE entry.log = record.log)
FROM (SELECT ? AS run_id)
    LEFT JOIN record USING (run_id) LEFT JOIN claim USING (run_id)"""

SELECT_RUNS = """
SELECT run_id, agent_id, parent_id, status, length, updated_at, forked_from,
    forked_length, log, checksum, owner, token, until, until_monotonic, boot
FROM record LEFT JOIN claim USING (run_id)
WHERE (:agent_id IS NULL OR agent_id = :agent_id)
    AND (:status IS NULL OR status = :status)
ORDER BY updated DESC"""

UPDATE_ORDER = """
UPDATE record SET updated = (SELECT max(updated) + 1 FROM record) WHERE log = ?"""

UPDATE_RUN = """
UPDATE record SET agent_id = ?, parent_id = ?, status = ?, length = ?, updated_at = ?,
    checksum = ?
WHERE log = ?"""

INSERT_CLAIM = """
INSERT OR REPLACE INTO claim (run_id, owner, token, until, until_monotonic, boot)
VALUES (?, ?, ?, ?, ?, ?)"""

SELECT_MESSAGE = """
SELECT 1 FROM mail WHERE run_id IN (SELECT value FROM json_each(?)) LIMIT 1"""

DELETE_MESSAGES = """
DELETE FROM mail WHERE run_id IN (SELECT value FROM json_each(?))
RETURNING id, run_id, body"""


def append(
    db: sqlite3.Connection,
    run_id: str,
    entries: Sequence[StoredEntry],
    token: int | None,
) -> None:
    """Add entries at the end of a log, and what they say of the run to its record."""
    with _writing(db):
        run = _sound(db, run_id)
        Claim.check(run.claim, run_id, token)
        _require_end(db, run)
        if run.log is None:
            log = _new_run(db, run.record)
        else:
            log = run.log
            if not run.is_last:
                db.execute(UPDATE_ORDER, (log,))
        record = run.record
        for entry in entries:
            if entry.seq != record.length:
                raise CheckpointSaveError(
                    f"entry {entry.seq} of run {run_id!r}",
                    f"does not follow entry {record.length - 1}",
                    "Read the log again: somebody else may have written it.",
                )
            before, record = record, described(record, entry)
            if _said(record) != _said(before):
                _describe(db, log, entry.seq, record)
            db.execute(
                INSERT_ENTRY,
                (log, entry.seq, entry.type, entry.version, of_entry(entry), entry.body),
            )
        record = replace(record, updated_at=time())
        checksum = _checksum(log, record)
        db.execute(
            UPDATE_RUN, (*_said(record), record.length, record.updated_at, checksum, log)
        )


def read(
    db: sqlite3.Connection, run_id: str, start: int, limit: int | None
) -> tuple[StoredEntry, ...]:
    """Return entries of a run and of those whose past it shares."""
    with _reading(db):
        log, record = _known(db, run_id)
        start = max(0, start)
        end = record.length if limit is None else min(record.length, start + limit)
        found: list[StoredEntry] = []
        for part, first, last in _parts(db, run_id, log, start, end):
            rows = db.execute(SELECT_ENTRIES, (part, first, last))
            for seq, (stored, kind, version, body, checksum) in enumerate(rows, first):
                if stored != seq:
                    break
                entry = StoredEntry(seq=seq, type=kind, version=version, body=body)
                if of_entry(entry) != checksum:
                    raise _damaged(run_id, seq, "is damaged: its checksum is another")
                found.append(entry)
            if start + len(found) != last:
                raise _damaged(run_id, start + len(found), "is missing")
    return tuple(found)


def runs(
    db: sqlite3.Connection, agent_id: str | None, status: str | None, limit: int
) -> list[RunRecord]:
    """Return the records of runs, last updated first."""
    asked = {"agent_id": agent_id, "status": None if status == DAMAGED else status}
    found: list[RunRecord] = []
    with _reading(db), closing(db.execute(SELECT_RUNS, asked)) as rows:
        for row in rows:
            if len(found) >= limit:
                break
            record = _listed(row)
            if agent_id in (None, record.agent_id) and status in (None, record.status):
                found.append(record)
    return found


def fork(db: sqlite3.Connection, run_id: str, length: int, new_run_id: str) -> None:
    """Begin a log whose first entries are those of another."""
    with _writing(db):
        log, record = _known(db, run_id)
        new = _find(db, new_run_id)
        if new.log is not None or not 0 <= length <= record.length:
            raise CheckpointSaveError(
                f"run {run_id!r}",
                f"cannot be forked after {length} entries as {new_run_id!r}",
                "Choose a new id, and no more entries than there are.",
            )
        Claim.check(new.claim, new_run_id, None)
        parent = _holding(db, run_id, log, length)
        agent_id, parent_id, status = _said_before(db, run_id, parent, length)
        fresh = replace(
            new.record,
            agent_id=agent_id,
            parent_id=parent_id,
            status=status,
            length=length,
            forked_from=(run_id, length),
        )
        new_log = _new_run(db, fresh, parent=parent)
        _describe(db, new_log, length - 1, fresh)


def claim(db: sqlite3.Connection, run_id: str, owner: str, lease_s: float) -> int:
    """Give a run to an owner, if that may have it."""
    with _writing(db, durable=False):
        run = _sound(db, run_id) if lease_s > 0 else _find(db, run_id)
        if lease_s > 0:
            _require_end(db, run)
        before = run.claim
        after = Claim.next(before, run_id, owner=owner, lease_s=lease_s)
        if before is None:
            (token,) = db.execute("SELECT token + 1 FROM forgotten").fetchone()
            after = replace(after, token=token)
        db.execute(
            INSERT_CLAIM,
            (
                run_id,
                after.owner,
                after.token,
                after.until,
                after.until_monotonic,
                after.boot,
            ),
        )
    return after.token


def delete(db: sqlite3.Connection, run_id: str) -> None:
    """Forget a run, and of its entries what nobody shares."""
    with _writing(db):
        run = _find(db, run_id)
        if run.claim is not None:
            if run.claim.held():
                raise held_by_another(run_id, run.claim)
            db.execute("UPDATE forgotten SET token = max(token, ?)", (run.claim.token,))
        db.execute("DELETE FROM record WHERE run_id = ?", (run_id,))
        db.execute("DELETE FROM claim WHERE run_id = ?", (run_id,))
        db.execute("DELETE FROM mail WHERE run_id = ?", (run_id,))
        _release(db, run.log)


def send(db: sqlite3.Connection, run_id: str, message: bytes) -> None:
    """Leave a message."""
    with _writing(db):
        (waiting,) = db.execute(
            "SELECT count(*) FROM mail WHERE run_id = ?", (run_id,)
        ).fetchone()
        if waiting >= MAX_MESSAGES:
            raise CheckpointSaveError(
                f"a message for run {run_id!r}",
                f"is one too many: {waiting} wait",
                "Wait until somebody carries out the run, or delete it.",
            )
        db.execute("INSERT INTO mail (run_id, body) VALUES (?, ?)", (run_id, message))


def has_messages(db: sqlite3.Connection, run_ids: Sequence[str]) -> bool:
    """Whether messages wait, found out without keeping anybody from writing."""
    found = db.execute(SELECT_MESSAGE, (dumps(run_ids),))
    return found.fetchone() is not None


def receive(db: sqlite3.Connection, run_ids: Sequence[str]) -> list[tuple[str, bytes]]:
    """Take the messages that wait, oldest first.

    What comes of a message is in the log of its run, and as durable as that.
    """
    with _writing(db, durable=False):
        taken = db.execute(
            DELETE_MESSAGES,
            (dumps(run_ids),),
        ).fetchall()
    return [(run_id, body) for _, run_id, body in sorted(taken)]


@contextmanager
def _writing(db: sqlite3.Connection, *, durable: bool = True) -> Iterator[None]:
    """Write all of it or nothing.

    What need not be durable is so with whatever is written next: it stands in the same
    file, before it.
    """
    if not durable:
        db.execute("PRAGMA synchronous = NORMAL")
    try:
        db.execute("BEGIN IMMEDIATE")
        require_version(db)
        yield
        db.execute("COMMIT")
    finally:
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        finally:
            if not durable:
                db.execute("PRAGMA synchronous = FULL")


@contextmanager
def _reading(db: sqlite3.Connection) -> Iterator[None]:
    """See one state of the file, whatever is written meanwhile."""
    db.execute("BEGIN")
    try:
        require_version(db)
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


class _Run(NamedTuple):
    """What is known of a run, which need not have a log or a claim.

    Attributes:
        checksum: What its row says that it adds up to.
        is_last: Whether it is the one that was written last, so that it stays first in
            lists whatever is added to it. That spares a page.
        last: The last entry of its own that there is.
    """

    log: int | None
    record: RunRecord
    claim: Claim | None
    checksum: int
    is_last: bool
    last: int | None


def _find(db: sqlite3.Connection, run_id: str) -> _Run:
    row = db.execute(SELECT_RUN, (run_id,)).fetchone()
    log, checksum = row[8:10]
    is_last, last = row[15:]
    record = RunRecord(run_id=run_id, agent_id="", status="running", length=0, updated_at=0)
    if log is not None:
        record = _as_record(row[:8])
    return _Run(log, record, _as_claim(row[10:15]), checksum, bool(is_last), last)


def _sound(db: sqlite3.Connection, run_id: str) -> _Run:
    """Find a run whose row may be trusted, if it has one.

    A length that is too small would hide entries, and let others be written beside them.
    """
    run = _find(db, run_id)
    if run.log is None:
        return run
    if run.checksum != _checksum(run.log, run.record):
        raise _damaged_run(run_id, "its row has another checksum")
    if run.last is not None and run.last >= run.record.length:
        raise _damaged_run(run_id, f"entry {run.last} stands behind its end")
    return run


def _require_end(db: sqlite3.Connection, run: _Run) -> None:
    """Let nobody go on from a log that lacks its end."""
    if run.log is None:
        return
    run_id = run.record.run_id
    there = _line(db, run_id, run.log)[1] if run.last is None else run.last + 1
    if there != run.record.length:
        raise _damaged(run_id, there, "is missing")


def _known(db: sqlite3.Connection, run_id: str) -> tuple[int, RunRecord]:
    """Return the log and the record of a run that must have one."""
    run = _sound(db, run_id)
    if run.log is None:
        raise UnknownRunError(
            f"run {run_id!r}", "is unknown to the store", "`kaizen runs list` shows them."
        )
    return run.log, run.record


def _describe(db: sqlite3.Connection, log: int, seq: int, record: RunRecord) -> None:
    """Keep what an entry made of the record of its run."""
    said = _said(record)
    db.execute(INSERT_DESCRIBED, (log, seq, *said, of_row(seq, *said)))


def _said_before(
    db: sqlite3.Connection, run_id: str, log: int | None, length: int
) -> tuple[str, str, str]:
    """Return what the first entries of a log, or none at all, say of their run."""
    row = db.execute(SELECT_DESCRIBED, (log, length)).fetchone()
    if row is None:
        return "", "", "running"
    *said, checksum = row
    if of_row(*said) != checksum:
        raise _damaged_run(run_id, f"what it was at entry {said[0]} has another checksum")
    return said[1], said[2], said[3]


def _new_run(
    db: sqlite3.Connection, record: RunRecord, *, parent: int | None = None
) -> int:
    """Add a run, and a log for what it writes; return the log."""
    first = record.length
    log = db.execute(INSERT_LOG, (parent, first, of_row(parent, first))).lastrowid
    assert log is not None
    record = replace(record, updated_at=time())
    shared_run, shared_length = record.forked_from or (None, None)
    db.execute(
        INSERT_RUN,
        (
            log,
            record.run_id,
            *_said(record),
            record.length,
            record.updated_at,
            shared_run,
            shared_length,
            _checksum(log, record),
        ),
    )
    return log


def _parts(
    db: sqlite3.Connection, run_id: str, log: int, start: int, end: int
) -> list[tuple[int, int, int]]:
    """Return which entries to read from which log, in order, for those of one run."""
    parts: list[tuple[int, int, int]] = []
    part: int | None = log
    while part is not None and start < end:
        part_of, (part, first) = part, _line(db, run_id, part)
        if first < end:
            parts.append((part_of, max(start, first), end))
            end = first
    return parts[::-1]


def _holding(db: sqlite3.Connection, run_id: str, log: int, length: int) -> int | None:
    """Return the log that has the last of the first `length` entries, if there is one."""
    part: int | None = log if length else None
    while part is not None:
        parent, first = _line(db, run_id, part)
        if first < length:
            break
        part = parent
    return part


def _line(db: sqlite3.Connection, run_id: str, log: int) -> tuple[int | None, int]:
    """Return the parent of a log that a run needs, and the first entry that is its own."""
    row = db.execute(
        "SELECT parent, first, checksum FROM log WHERE id = ?", (log,)
    ).fetchone()
    if row is None or of_row(*row[:2]) != row[2]:
        raise _damaged_run(run_id, "where its past is has another checksum")
    parent, first, _ = row
    return parent, first


def _release(db: sqlite3.Connection, log: int | None) -> None:
    """Forget what a log has that nobody shares, and so on from parent to parent."""
    while log is not None:
        if db.execute("SELECT 1 FROM record WHERE log = ?", (log,)).fetchone():
            return
        (shared,) = db.execute(
            "SELECT max(first) FROM log WHERE parent = ?", (log,)
        ).fetchone()
        own = (log, shared or 0)
        db.execute("DELETE FROM entry WHERE log = ? AND seq >= ?", own)
        db.execute("DELETE FROM described WHERE log = ? AND seq >= ?", own)
        if shared is not None:
            return
        row = db.execute("SELECT parent FROM log WHERE id = ?", (log,)).fetchone()
        db.execute("DELETE FROM log WHERE id = ?", (log,))
        log = row and row[0]


def _as_claim(row: tuple[Any, ...]) -> Claim | None:
    owner, token, until, until_monotonic, boot = row
    if owner is None:
        return None
    return Claim(
        owner=owner, token=token, until=until, until_monotonic=until_monotonic, boot=boot
    )


def _as_record(row: tuple[Any, ...], claim: Claim | None = None) -> RunRecord:
    run_id, agent_id, parent_id, status, length, updated_at, shared_run, shared = row
    return RunRecord(
        run_id=run_id,
        agent_id=agent_id,
        status=status,
        length=length,
        updated_at=updated_at,
        forked_from=None if shared_run is None else (shared_run, shared),
        parent_id=parent_id,
        owner=claim.owner if claim is not None and claim.held() else "",
    )


def _said(record: RunRecord) -> tuple[str, str, str]:
    """Return what entries say of a run."""
    return record.agent_id, record.parent_id, record.status


def _checksum(log: int, record: RunRecord) -> int:
    """Return what the row of a run adds up to; all of it but its place in lists."""
    return of_row(
        log,
        record.run_id,
        *_said(record),
        record.length,
        record.updated_at,
        *(record.forked_from or (None, None)),
    )


def _listed(row: tuple[Any, ...]) -> RunRecord:
    """Return the record of a run for a list, in which one that is damaged is shown so."""
    record = _as_record(row[:8], _as_claim(row[10:]))
    if row[9] == _checksum(row[8], record):
        return record
    run_id: Any = record.run_id
    if isinstance(run_id, bytes):
        run_id = run_id.decode(errors="replace")
    _LOG.warning("run %r is listed as damaged: its row has another checksum", run_id)
    return RunRecord(
        run_id=str(run_id),
        agent_id="",
        status=DAMAGED,
        length=0,
        updated_at=time(),  # nobody can tell that it is old
        owner=record.owner,
    )


def _damaged(run_id: str, seq: int, problem: str) -> CheckpointLoadError:
    return CheckpointLoadError(
        f"entry {seq} of run {run_id!r}",
        problem,
        "Restore the file from a backup, or fork the run before that entry.",
    )


def _damaged_run(run_id: str, problem: str) -> CheckpointLoadError:
    return CheckpointLoadError(
        f"run {run_id!r}", f"is damaged: {problem}", "Restore the file from a backup."
    )
