"""A directory for one command alone, which is removed when the command is gone."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["Private"]

_MODE = 0o700
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Private:
    """A directory for one command, with a home and a place for what is temporary in it.

    What is removed is what was made, whatever the paths lead to by then.

    Attributes:
        path: Where it is.
        home: The home of the command.
        temporary: Its directory for what is temporary.
    """

    def __init__(self, parent: str) -> None:
        """Make it.

        Args:
            parent: Where to make it; made too, if it is missing.

        Raises:
            OSError: It cannot be made.
        """
        with suppress(FileExistsError):
            os.mkdir(parent, _MODE)  # noqa: PTH102 - paths are strings here
        self._parent = parent
        self.path = f"{parent}/{os.urandom(8).hex()}"
        self.home = f"{self.path}/home"
        self.temporary = f"{self.path}/tmp"  # noqa: S108 - it was made for this
        os.mkdir(self.path, _MODE)  # noqa: PTH102
        self._opened = os.open(self.path, _DIRECTORY)
        for name in ("home", "tmp"):
            os.mkdir(name, _MODE, dir_fd=self._opened)

    def is_there(self) -> bool:
        """Say whether it is still where it was made."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._opened))

    def remove(self) -> None:
        """Remove it with all that is in it, as far as that goes."""
        with suppress(RecursionError):
            _empty(self._opened)
        with suppress(OSError):
            if self.is_there():
                os.rmdir(self.path)  # noqa: PTH106
            os.rmdir(self._parent)  # noqa: PTH106 - if there is no other in it


def _empty(directory: int) -> None:
    """Remove what is in an open directory, as far as that goes."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    _remove_directory(entry.name, directory)
                else:
                    os.unlink(entry.name, dir_fd=directory)


def _remove_directory(name: str, directory: int) -> None:
    with suppress(OSError):
        os.rmdir(name, dir_fd=directory)
        return
    # It may have taken its rights from itself; a link in its place is never followed.
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    found = os.open(name, flags, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{found}", _MODE)  # noqa: PTH101
        opened = os.open(name, _DIRECTORY, dir_fd=directory)
    finally:
        os.close(found)
    try:
        _empty(opened)
    finally:
        os.close(opened)
    os.rmdir(name, dir_fd=directory)
