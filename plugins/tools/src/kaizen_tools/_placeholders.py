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
    from collections.abc import Callable, Iterator

    from kaizen_tools._order import Confinement, Keep

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
    shared lock on each root, which is exclusive while they are taken away there.
    """

    def __init__(self, wanted: Confinement) -> None:
        self._wanted = wanted
        self._roots: dict[str, int] = {}
        self._points: dict[str, tuple[int, int] | None] = {}

    def make(self, is_asked: Callable[[int], bool]) -> dict[str, Keep] | None:
        """Make what is missing.

        Args:
            is_asked: Waits so many milliseconds, and says whether to stop.

        Returns:
            What has to be mounted over itself, and how, to protect what is protected;
            `None` if it was asked to stop while others kept the place.

        Raises:
            OSError: A protected name is a link, on which nothing can be mounted; or the
                place of one cannot be held.
        """
        for root in self._wanted.roots:
            if not root.file:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                opened = self._roots[root.path] = os.open(root.path, flags)
                while not _is_shared(opened):
                    if is_asked(_TRY_AGAIN_MS):
                        return None
        kept: dict[str, Keep] = {}
        for root_path in self._roots:
            for path in self._wanted.kept:
                if is_below(path, root_path):
                    for point, keep in _points(root_path, path):
                        self._points[point] = identity(point)
                        kept[point] = min(keep, kept.get(point, keep))
        return kept

    def are_replaced(self) -> bool:
        """Say whether something else is now where a command finds something mounted."""
        return any(identity(point) != was for point, was in self._points.items())

    def remove(self) -> None:
        """Take away what was made, where no other command needs it."""
        busy = [path for path, opened in self._roots.items() if not _is_ours(opened)]
        for point in self._points:
            if not any(is_below(point, root) for root in busy):
                _remove(point)
        for opened in self._roots.values():
            os.close(opened)
        self._roots = {}


def _is_ours(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_shared(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _points(root: str, path: str) -> Iterator[tuple[str, Keep]]:
    """Give what to mount over itself to protect a path; make it if it is missing."""
    at = root.rstrip("/")
    names = path[len(at) + 1 :].split("/")
    for name in names:
        directory, at = at, f"{at}/{name}"
        try:
            status = os.lstat(at)
        except FileNotFoundError:
            keep = _made(at, "/".join(names))
            if keep is not None:
                yield at, keep
            # Nothing can be made there. But its owner could change that, and whoever may
            # rename it could put another one in its place.
            elif os.stat(directory).st_uid == os.geteuid():  # noqa: PTH116
                yield directory, "itself"
            elif directory != root:
                yield directory, "place"
            return
        if stat.S_ISLNK(status.st_mode):
            raise OSError(0, f"{at!r} is a link, which cannot be protected from a command")
        if not stat.S_ISDIR(status.st_mode):
            break
    yield at, "all"


def _made(at: str, name: str) -> Keep | None:
    """Put something at a path; return `None` if nothing can be made there."""
    content = _NEUTRAL.get(name) if at.endswith("/" + name) else None
    try:
        try:
            if content is not None:
                _write(at, content)
            else:
                os.mknod(at, stat.S_IFSOCK | 0o444)
        except PermissionError as error:
            if content is not None or error.errno != errno.EPERM:
                raise
            _write(at, b"")  # There are file systems without sockets.
    except FileExistsError:
        return "all"
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return None
        raise
    try:
        os.utime(at, (_MARK_S, _MARK_S))
    except OSError:
        os.unlink(at)  # noqa: PTH108 - paths are strings here
        raise
    return "all"


def _write(at: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    opened = os.open(at, flags, 0o444)
    try:
        os.write(opened, content)
    finally:
        os.close(opened)


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
