"""What SQLite says of a file, in words that tell what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from kaizen.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointSaveError,
    StorageUnavailableError,
)

__all__ = ["FAILURES", "closed", "is_busy", "translated"]

FAILURES = (sqlite3.Error, OSError, OverflowError, UnicodeError, TypeError)
"""What may come out of SQLite and of the file system, and of values that neither takes.

A `TypeError` comes out of a file that is damaged, where there is nothing in place of a
number. What callers get wrong is looked at before, so that it is not taken for that.
"""

_LOCKED = (
    "was locked by another process for too long",
    "Try again, find what writes to it, or raise `timeout_s` in `[plugins.sqlite]`.",
)
_READ_ONLY = (
    "cannot be written",
    "Check who owns the file and its folder, or choose another `path`.",
)
_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PROTOCOL: _LOCKED,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_FULL: ("has no room left", "Make room on the disk and try again."),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened",
        "Check that it is a file and that its folder may be written.",
    ),
    sqlite3.SQLITE_IOERR: (
        "cannot be read or written as it should",
        "Check the disk and its quota, then try again.",
    ),
    sqlite3.SQLITE_NOTADB: (
        "is not an SQLite database",
        "Choose another `path`, or restore the file from a backup.",
    ),
}


def translated(
    error: BaseException, path: Path, run_id: str = "", *, saving: bool = False
) -> CheckpointError:
    """Return the error that a user of the store gets for one of SQLite or the system.

    Args:
        error: What was raised.
        path: The file.
        run_id: The run that was asked for, if it was one.
        saving: Whether something was to be written.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    store = f"store {str(path)!r}"
    if code == sqlite3.SQLITE_CANTOPEN or isinstance(error, OSError):
        above = next(filter(_is_file, path.parents), None)
        if above is not None:
            return StorageUnavailableError(
                store,
                f"cannot be there: {str(above)!r} is a file, not a folder",
                "Choose another `path`.",
            )
    if code in _UNAVAILABLE:
        return StorageUnavailableError(store, *_UNAVAILABLE[code])
    if isinstance(error, OSError):
        return StorageUnavailableError(
            store,
            f"cannot be reached: {error.strerror or error}",
            "Check the path and who may write there.",
        )
    subject = f"run {run_id!r} in {store}" if run_id else store
    if code == sqlite3.SQLITE_CORRUPT:
        return CheckpointLoadError(
            subject,
            f"is damaged: {error}",
            "Restore the file from a backup, or save the rest with `sqlite3`, `.recover`.",
        )
    if saving:
        return CheckpointSaveError(subject, f"could not be written: {error}")
    return CheckpointLoadError(subject, f"could not be read: {error}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # it may not be looked at
        return False


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else has what was asked for, so that it is worth another try."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def closed(path: Path) -> StorageUnavailableError:
    """Return the error of somebody who uses a store after its end."""
    return StorageUnavailableError(
        f"store {str(path)!r}", "is closed", "Open a new `SqliteStorage`."
    )
