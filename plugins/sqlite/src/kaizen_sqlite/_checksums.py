"""What shows that a row is not as it was written: SQLite itself does not look."""

from __future__ import annotations

from zlib import crc32

from kaizen.ports import StoredEntry

__all__ = ["of_entry", "of_row"]


def of_entry(entry: StoredEntry) -> int:
    """Return a CRC-32 of all that a store keeps of an entry."""
    return crc32(entry.body, crc32(f"{entry.seq} {entry.version} {entry.type}".encode()))


def of_row(*values: str | float | None) -> int:
    """Return a CRC-32 of what a row says.

    Of the values as they are written in ASCII, which is the same in every Python.
    """
    return crc32(ascii(values).encode("ascii"))
