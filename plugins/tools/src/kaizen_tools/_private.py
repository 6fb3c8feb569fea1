"""A directory for one command alone, which is removed when the command is gone."""

from __future__ import annotations

import os
import time
from contextlib import suppress

__all__ = ["Private"]

_MODE = 0o700
_REMOVE_S = 3.0


class Private:
    """A directory for one command, with a home and a place for what is temporary in it.

    Attributes:
        path: Where it is.
        home: The home of the command.
        temporary: Its directory for what is temporary.
    """

    def __init__(self, parent: str) -> None:
        """Make it.

        Args:
            parent: Where to make it.

        Raises:
            OSError: It cannot be made.
        """
        self.path = f"{parent}/kaizen-{os.urandom(8).hex()}"
        self.home = f"{self.path}/home"
        self.temporary = f"{self.path}/tmp"  # noqa: S108 - it was made for this
        for path in (self.path, self.home, self.temporary):
            os.mkdir(path, _MODE)  # noqa: PTH102 - starts faster

    def remove(self) -> None:
        """Remove it with all that is in it; what is very much, only in part."""
        _remove(self.path, time.monotonic() + _REMOVE_S)

    def remove_rest(self) -> None:
        """Remove what is left, however long it takes."""
        _remove(self.path, float("inf"))


def _remove(path: str, deadline: float) -> None:
    """Remove a directory with all that is in it, as far as that goes until a deadline.

    Nobody changes it meanwhile: all that could is gone.
    """
    with suppress(OSError):
        os.rmdir(path)  # noqa: PTH106 - paths are strings here
        return
    try:
        os.chmod(path, _MODE)  # noqa: PTH101 - paths are strings here
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _remove(entry.path, deadline)
                elif time.monotonic() < deadline:
                    os.unlink(entry.path)  # noqa: PTH108
        os.rmdir(path)  # noqa: PTH106
    except (OSError, RecursionError):
        return
