"""A directory for one command alone, which is removed when the command is gone."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

__all__ = ["Private", "remove_tree"]

_MODE = 0o700
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
            OSError: It cannot be made, or others could change it.
        """
        with suppress(FileExistsError):
            os.mkdir(parent, _MODE)  # noqa: PTH102 - paths are strings here
        status = os.lstat(parent)
        is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if not is_own or status.st_mode & _OTHERS:
            raise OSError(0, f"{parent!r} is there, and not a directory of one's own")
        self._parent = parent
        self.path = f"{parent}/{os.urandom(8).hex()}"
        self.home = f"{self.path}/home"
        self.temporary = f"{self.path}/tmp"  # noqa: S108 - it was made for this
        os.mkdir(self.path, _MODE)  # noqa: PTH102
        self._opened = os.open(self.path, os.O_RDONLY | _FLAGS)
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
        _empty(self._opened)
        with suppress(OSError):
            if self.is_there():
                os.rmdir(self.path)  # noqa: PTH106
            os.rmdir(self._parent)  # noqa: PTH106 - if there is no other in it


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it, as far as that goes. Follows no link."""
    with suppress(OSError):
        opened = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            _empty(opened)
        finally:
            os.close(opened)
        os.rmdir(path)  # noqa: PTH106


def _empty(directory: int) -> None:
    """Remove what is in an open directory, as far as that goes.

    What is deep in it is moved up, since neither descriptors nor calls go down as far as
    directories do.
    """
    is_going_on = True
    while is_going_on:
        is_going_on = False
        for name in os.listdir(directory):
            with suppress(OSError):
                if not _is_removed(name, directory):
                    _clear(name, directory)
                    os.rmdir(name, dir_fd=directory)
                    is_going_on = True


def _is_removed(name: str, directory: int) -> bool:
    """Remove a name; say whether that was possible, so that nothing was in it."""
    with suppress(IsADirectoryError, PermissionError):  # which systems say of directories
        os.unlink(name, dir_fd=directory)
        return True
    with suppress(OSError):
        os.rmdir(name, dir_fd=directory)
        return True
    return False


def _clear(name: str, directory: int) -> None:
    """Remove what is in a directory within an open one, or move it up to that one."""
    _permit(name, directory)
    opened = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=directory)
    try:
        for inner in os.listdir(opened):  # noqa: PTH208
            if not _is_removed(inner, opened):
                _permit(inner, opened)  # or it could not be moved
                new = os.urandom(8).hex()
                os.rename(inner, new, src_dir_fd=opened, dst_dir_fd=directory)
    finally:
        os.close(opened)


def _permit(name: str, directory: int) -> None:
    """Give this user all rights to a directory within an open one."""
    found = os.open(name, os.O_PATH | _FLAGS, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{found}", _MODE)  # noqa: PTH101
    finally:
        os.close(found)
