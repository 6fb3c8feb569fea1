"""What holds the place of protected names that do not exist, so that nothing else takes it.

What is protected is mounted again, for reading, and a mount needs something to be mounted
on. Where a protected name does not exist, something is put there for the time of the
command: a socket that nobody listens to, which git and others do not see, or a file that
says nothing. It is marked by its time, so that what a program that was killed left behind
is known for what it is.

A mount holds on to what it was mounted on, and not to its name. Who replaces a protected
name from outside, as git and editors do, takes its protection away: what is mounted is
remembered, so that a command does not outlast that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from kaizen_tools._order import identity, is_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kaizen_tools._order import Confinement

__all__ = ["Placeholders"]

_MARK_S = 157_771_016
_NEUTRAL = {
    ".git/commondir": b".\n",  # the repository is where it would be anyway
    ".git/config": b"",
    ".git/config.worktree": b"",
}
_TRY_AGAIN_MS = 10


class Placeholders:
    """Holds the place of protected names that do not exist.

    Commands that run side by side share them; the last one takes them away. All hold a
    shared lock on the root, which is exclusive while they are taken away.
    """

    def __init__(self, wanted: Confinement) -> None:
        self._wanted = wanted
        self._roots: list[int] = []
        self._points: dict[str, tuple[int, int] | None] = {}

    def make(self, is_asked: Callable[[int], bool]) -> tuple[str, ...] | None:
        """Make what is missing.

        Args:
            is_asked: Waits so many milliseconds, and says whether to stop.

        Returns:
            What has to be mounted for reading to protect what is protected; `None` if it
            was asked to stop while others kept the place.

        Raises:
            OSError: A protected name is a link, on which nothing can be mounted; or the
                place of one cannot be held.
        """
        roots = [root.path for root in self._wanted.roots if not root.file]
        for path in roots:
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._roots.append(opened)
            while not _is_shared(opened):
                if is_asked(_TRY_AGAIN_MS):
                    return None
        points = {
            point
            for root in roots
            for path in self._wanted.kept
            if is_below(path, root) and (point := _point(root, path)) is not None
        }
        self._points = {point: identity(point) for point in sorted(points)}
        return tuple(self._points)

    def are_replaced(self) -> bool:
        """Say whether something else is now where a command finds something mounted."""
        return any(identity(point) != was for point, was in self._points.items())

    def remove(self) -> None:
        """Take away what was made, if no other command needs it."""
        try:
            for opened in self._roots:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            for point in self._points:
                _remove(point)
        finally:
            for opened in self._roots:
                os.close(opened)
            self._roots = []


def _is_shared(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _point(root: str, path: str) -> str | None:
    """Return where to mount to protect a path; make it if it is missing.

    Returns:
        `None` if nothing can be made there, and so not by the command either. Where only
        the mode forbids it, which the command could change, it is the directory.
    """
    at = root.rstrip("/")
    names = path[len(at) + 1 :].split("/")
    for name in names:
        directory, at = at, f"{at}/{name}"
        try:
            status = os.lstat(at)
        except FileNotFoundError:
            return _make(directory, at, "/".join(names))
        if stat.S_ISLNK(status.st_mode):
            raise OSError(0, f"{at!r} is a link, which cannot be protected from a command")
        if not stat.S_ISDIR(status.st_mode):
            return at
    return at


def _make(directory: str, at: str, name: str) -> str | None:
    content = _NEUTRAL.get(name) if at.endswith("/" + name) else None
    try:
        if content is None:
            os.mknod(at, stat.S_IFSOCK | 0o444)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            opened = os.open(at, flags, 0o444)
            os.write(opened, content)
            os.close(opened)
        os.utime(at, (_MARK_S, _MARK_S))
    except FileExistsError:
        return at
    except PermissionError:
        return directory if os.stat(directory).st_uid == os.geteuid() else None  # noqa: PTH116
    except OSError as error:
        if error.errno == errno.EROFS:
            return None
        raise
    return at


def _remove(at: str) -> None:
    """Remove a placeholder, and nothing else."""
    try:
        status = os.lstat(at)
        if status.st_mtime != _MARK_S:
            return
        if stat.S_ISSOCK(status.st_mode) or stat.S_ISREG(status.st_mode):
            os.unlink(at)  # noqa: PTH108 - paths are strings here
    except OSError:
        return
