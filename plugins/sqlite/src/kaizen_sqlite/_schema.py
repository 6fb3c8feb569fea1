"""The tables, and the opening of a file that has them, or gets them.

A file says whose it is by `PRAGMA application_id` and how old it is by `PRAGMA
user_version`. Both are looked at before anything is written, so that a file that is not
ours, or newer than we are, stays as it was. A newer release may bring up to date what we
have open, so the age is looked at again in each transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

from kaizen.errors import StorageUnavailableError

from kaizen_sqlite import _checksums
from kaizen_sqlite._errors import is_busy

__all__ = [
    "APPLICATION_ID",
    "SCRIPTS",
    "open_reader",
    "open_writer",
    "require_version",
]

Opened = TypeVar("Opened", bound=sqlite3.Connection)

APPLICATION_ID = 0x4B61697A
"""`Kaiz`, at byte 68 of each file of ours."""

OLDEST_SQLITE = (3, 38, 0)
"""Has STRICT tables (3.37), RETURNING (3.35) and the JSON functions built in."""

FIRST = """
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    parent INTEGER REFERENCES log (id),
    first INTEGER NOT NULL CHECK (first >= 0)
) STRICT;
CREATE INDEX log_parent ON log (parent, first);

CREATE TABLE entry (
    log INTEGER NOT NULL REFERENCES log (id),
    seq INTEGER NOT NULL CHECK (seq >= 0),
    type TEXT NOT NULL,
    version INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (log, seq)
) STRICT;

CREATE TABLE described (
    log INTEGER NOT NULL REFERENCES log (id),
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (log, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE run (
    log INTEGER PRIMARY KEY REFERENCES log (id),
    run_id TEXT NOT NULL UNIQUE,
    agent_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    status TEXT NOT NULL,
    length INTEGER NOT NULL CHECK (length >= 0),
    updated INTEGER NOT NULL UNIQUE,
    updated_at REAL NOT NULL,
    forked_from TEXT,
    forked_length INTEGER
) STRICT;

CREATE TABLE claim (
    run_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    token INTEGER NOT NULL CHECK (token > 0),
    until REAL NOT NULL,
    until_monotonic REAL NOT NULL,
    boot TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE forgotten (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    token INTEGER NOT NULL
) STRICT;
INSERT INTO forgotten VALUES (1, 0);

CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX message_run ON message (run_id, id);
"""
"""The tables of version 1.

- `log` holds entries from `first` on; those before are its parent's. Forks share by it.
- `described` says what an entry made of the record of its run, where it changed that.
- `run` is what lists show. `updated` puts them in order, since clocks jump.
- `forgotten` has the highest token of the runs that were deleted: none comes again.
"""

SECOND = """
ALTER TABLE log ADD COLUMN checksum INTEGER NOT NULL DEFAULT -1;
UPDATE log SET checksum = of_row(parent, first);

ALTER TABLE described ADD COLUMN checksum INTEGER NOT NULL DEFAULT -1;
UPDATE described SET checksum = of_row(seq, agent_id, parent_id, status);

ALTER TABLE run ADD COLUMN checksum INTEGER NOT NULL DEFAULT -1;
UPDATE run SET checksum = of_row(
    log, run_id, agent_id, parent_id, status, length, updated_at, forked_from,
    forked_length
);
"""
"""What version 2 adds: a checksum in each row that says where entries are, and whose.

No checksum is -1, so that a row which nobody gave one is not taken for a sound one.
"""

THIRD = """
ALTER TABLE run RENAME TO record;

ALTER TABLE message RENAME TO mail;
"""
"""What version 3 changes: names, so that older releases find no tables to write to.

Those that had the file open while it was brought up to date would go on, change rows
without their checksums, and take messages with which they can do nothing.
"""

SCRIPTS: Sequence[str] = (FIRST, SECOND, THIRD)
"""What makes a file of each version one of the next; a new file is of version 0."""


def open_writer(
    path: Path,
    make: Callable[..., Opened],
    *,
    timeout_s: float,
    scripts: Sequence[str] = SCRIPTS,
) -> Opened:
    """Open a file to write; make it if it is not there, and bring it up to date.

    Args:
        path: The file, absolute.
        make: Makes the connection, such as `sqlite3.Connection`.
        timeout_s: How long to wait for others, in seconds.
        scripts: What makes a file of each version one of the next.

    Raises:
        StorageUnavailableError: The file is not ours, or newer than this release.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageUnavailableError(
            f"SQLite {sqlite3.sqlite_version}",
            "is too old: 3.38 is needed",
            'Use a Python with a newer one, or `checkpoint_store = "filesystem"`.',
        )
    if not _created(path):
        _look(path, len(scripts))
    connection = make(
        str(path), timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        _settle(connection)
        _migrate(connection, path, scripts)
        _share(connection, path, timeout_s)
        connection.execute("PRAGMA synchronous = FULL")
        # To write over the write-ahead log takes half as long as to make it longer, so it
        # is begun again after 1 MB.
        connection.execute("PRAGMA wal_autocheckpoint = 250")
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path, make: Callable[..., Opened], *, timeout_s: float) -> Opened:
    """Open a file that `open_writer` has opened, for reading alone."""
    connection = make(
        str(path), timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        _settle(connection)
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def require_version(connection: sqlite3.Connection) -> None:
    """Refuse a file that another release has changed since it was opened.

    In a transaction, in which nobody else can change it any more.

    Raises:
        StorageUnavailableError: The file has another version.
    """
    version = _pragma(connection, "user_version")
    if version != len(SCRIPTS):
        (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
        raise StorageUnavailableError(
            f"store {path!r}",
            f"has version {version} by now, and this process knows {len(SCRIPTS)}",
            "End this process, and start it with the release that changed the file.",
        )


def _created(path: Path) -> bool:
    """Make an empty file that is nobody else's to read, unless there is one.

    The folder is synchronised by SQLite, with its first journal.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return False
    return True


def _look(path: Path, newest: int) -> None:
    """Refuse a file that is not ours, without a change to it or to what lies beside it.

    SQLite does it, since to open and close the file ourselves would end the locks that
    other connections of this process have on it. It looks without a lock: of a file that
    is written just now it may see a part, which the opening will see whole.
    """
    if not path.is_file():
        raise StorageUnavailableError(
            f"store {str(path)!r}", "is not a file", "Choose another `path`."
        )
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        _check(connection, path, newest)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT:
            raise
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """Return the version of a file that is ours, or may become it."""
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise StorageUnavailableError(
            f"store {str(path)!r}",
            "is the database of another program",
            "Choose another `path`.",
        )
    if version > newest:
        raise StorageUnavailableError(
            f"store {str(path)!r}",
            f"has version {version}, and this release knows {newest}",
            "Update Kaizen.",
        )
    return version


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _settle(connection: sqlite3.Connection) -> None:
    """Set what every connection needs; nothing of it is written.

    A text that is damaged comes out as another text, so that a checksum tells whose it is.
    """
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def _migrate(connection: sqlite3.Connection, path: Path, scripts: Sequence[str]) -> None:
    """Bring the tables up to date in one transaction.

    A new file gets its first tables before it becomes one with a write-ahead log: whose it
    is stands in its header from then on, for everybody to see.
    """
    connection.execute("BEGIN")  # to see one state, while another process makes the file
    try:
        if _check(connection, path, len(scripts)) == len(scripts):
            _compare(connection, path, scripts)
            return
    finally:
        connection.execute("ROLLBACK")
    _know_checksums(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in scripts[_check(connection, path, len(scripts)) :]:
            for statement in script.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(scripts)}")
        _compare(connection, path, scripts)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _compare(connection: sqlite3.Connection, path: Path, scripts: Sequence[str]) -> None:
    """Refuse a file whose tables are not as ours, or that would do something by itself."""
    model = sqlite3.connect(":memory:", isolation_level=None)
    _know_checksums(model)
    try:
        for script in scripts:
            model.executescript(script)
        expected = _tables(model)
    finally:
        model.close()
    found = _tables(connection)
    acting = {kind for kind, _, _ in found} & {"trigger", "view"}
    if acting or not expected <= found:
        raise StorageUnavailableError(
            f"store {str(path)!r}",
            "has other tables than this release made",
            "Choose another `path`, or restore the file from a backup.",
        )


def _know_checksums(connection: sqlite3.Connection) -> None:
    """Let the scripts write the checksums of rows that are there."""
    connection.create_function("of_row", -1, _checksums.of_row, deterministic=True)


def _tables(connection: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    return {(kind, name, sql) for kind, name, sql in rows}


def _share(connection: sqlite3.Connection, path: Path, timeout_s: float) -> None:
    """Let others read while one writes; stays with the file.

    SQLite does not wait for those who open the new file at the same moment.
    """
    until = monotonic() + timeout_s
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or monotonic() > until:
                raise
            sleep(0.005)
        else:
            break
    if mode != "wal":
        raise StorageUnavailableError(
            f"store {str(path)!r}",
            "lies where SQLite cannot share it, such as on a network drive",
            "Choose a `path` on a local disk.",
        )
