"""Where a store may lie."""

from __future__ import annotations

import re
from os import PathLike, fspath
from pathlib import Path

__all__ = ["file_at"]

_ADDRESS = re.compile(r"(file:|[A-Za-z][A-Za-z0-9+.-]+:/)")


def file_at(path: str | PathLike[str]) -> Path:
    """Return the absolute path of a file.

    Raises:
        ValueError: It is an address, or SQLite's name for no file at all.
    """
    text = fspath(path)
    if not text or text == ":memory:":
        raise ValueError(
            f"{text!r} is no file, and runs are kept in one to be there afterwards: give a "
            "path, or for tests use kaizen.testing.MemoryCheckpointStore()"
        )
    if _ADDRESS.match(text):
        raise ValueError(f"{text!r} is an address: give the path alone, such as 'runs.db'")
    return Path(text).expanduser().absolute()
