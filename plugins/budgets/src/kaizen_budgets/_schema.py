"""The tables of the ledger in a file, and the opening of one.

A file says whose it is by `PRAGMA application_id` and how old it is by `PRAGMA
user_version`. Both are looked at before anything is written, so that a file that is not
ours, or of another version, stays as it was.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from random import uniform
from time import monotonic, sleep

from kaizen_budgets._errors import LedgerError

__all__ = ["APPLICATION_ID", "begin", "is_busy", "open_ledger"]

APPLICATION_ID = 0x4B614275
"""`KaBu`, at byte 68 of each file of ours."""

VERSION = 2
OLDEST_SQLITE = (3, 37, 0)
"""Has STRICT tables."""

TABLES = """
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    starts INTEGER NOT NULL,
    ends INTEGER,
    label TEXT NOT NULL,
    budget TEXT NOT NULL,
    spent TEXT NOT NULL,
    reserved TEXT NOT NULL,
    raised TEXT NOT NULL,
    warned TEXT NOT NULL,
    used_at REAL NOT NULL
) STRICT;
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    boot TEXT NOT NULL,
    until REAL NOT NULL,
    units TEXT NOT NULL,
    accounts TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE closed (
    id TEXT PRIMARY KEY,
    outcome TEXT NOT NULL,
    units TEXT NOT NULL,
    accounts TEXT NOT NULL,
    closed_at REAL NOT NULL
) STRICT, WITHOUT ROWID
"""
"""The tables of version 2.

- `account` has a row for each window of each account. The one that began last has the key
  of the account; those before it got another one, so that none is ever found again.
  Amounts are five whole numbers, one a dimension, since money has no bound that fits an
  INTEGER of SQLite; so are soft limits that were raised, and warnings that were given.
- `reservation` has those that are open, so that it stays small. `until` is by the monotonic
  clock of that start of the machine.
- `closed` says for some time what became of the others, and what is counted for them.
"""


def open_ledger(path: Path, *, timeout_s: float) -> sqlite3.Connection:
    """Open a file; make it if it is not there.

    Raises:
        LedgerError: It is not ours, of another version, or cannot be shared.
        sqlite3.Error: It cannot be opened.
        OSError: The folder cannot be made.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise LedgerError(
            f"SQLite {sqlite3.sqlite_version}",
            "is too old: 3.37 is needed",
            'Use a Python with a newer one, or `ledger = "memory"`.',
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):  # it is nobody else's to read
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        _make_tables(connection, path, timeout_s)
        _share(connection, path, timeout_s)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
        # Others are waited for by `begin`, which sleeps less than SQLite does.
        connection.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def begin(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Begin to write, as soon as nobody else does.

    Raises:
        sqlite3.OperationalError: Others wrote all the time.
    """
    until = monotonic() + timeout_s
    pause = 0.0002
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or monotonic() > until:
                raise
            sleep(uniform(pause / 2, pause))
            pause = min(pause * 2, 0.003)
        else:
            return


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else has what was asked for, so that it is worth another try."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _make_tables(connection: sqlite3.Connection, path: Path, timeout_s: float) -> None:
    if _seen_version(connection, path) == VERSION:
        return
    begin(connection, timeout_s)
    try:
        if _look(connection, path) == 0:
            for statement in TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _seen_version(connection: sqlite3.Connection, path: Path) -> int:
    connection.execute("BEGIN")  # to see one state, while another process makes the file
    try:
        return _look(connection, path)
    finally:
        connection.execute("ROLLBACK")


def _look(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a file that is ours, or 0 if it may become it."""
    application = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    tables = _number(connection, "SELECT count(*) FROM sqlite_schema")
    if application != APPLICATION_ID and (application or version or tables):
        raise LedgerError(
            f"ledger {str(path)!r}",
            "is the database of another program",
            "Choose another `path`.",
        )
    if application == APPLICATION_ID and version != VERSION:
        raise LedgerError(
            f"ledger {str(path)!r}",
            f"has version {version}, and this release knows {VERSION}",
            "Update Kaizen." if version > VERSION else "Choose another `path`.",
        )
    return version


def _number(connection: sqlite3.Connection, question: str) -> int:
    (value,) = connection.execute(question).fetchone()
    return int(value)


def _share(connection: sqlite3.Connection, path: Path, timeout_s: float) -> None:
    """Let processes share the file; SQLite does not wait for those who open it just now."""
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
        raise LedgerError(
            f"ledger {str(path)!r}",
            "lies where SQLite cannot share it, such as on a network drive",
            "Choose a `path` on a local disk.",
        )
