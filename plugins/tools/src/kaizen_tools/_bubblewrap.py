"""Confinement by bubblewrap: namespaces in which only what was named exists, see bwrap(1).

What is protected is mounted again, for reading. A mount cannot be removed, renamed or
replaced from inside, and neither can a directory that is one; so the directories that lead
to it are mounted too.

A mount needs something to be mounted on. Where a protected name does not exist, something
is put there for the time of the command: a socket that nobody listens to, which git and
others do not see, or a file that says nothing. It is marked by its time, so that what a
program that was killed left behind is known for what it is.

A mount holds on to what it was mounted on, and not to its name. Who replaces a protected
name from outside, as git and editors do, takes its protection away: what is mounted is
remembered, so that a command does not outlast that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from kaizen_tools._order import is_below, parents_between

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kaizen_tools._order import Confinement, Order

__all__ = ["Placeholders", "Wrapper"]

_MARK_S = 157_771_016
_NEUTRAL = {
    ".git/commondir": b".\n",  # the repository is where it would be anyway
    ".git/config": b"",
    ".git/config.worktree": b"",
}
_TEMPORARY = "/tmp"  # noqa: S108 - what is mounted there is private
_NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc")
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
        self._points = {point: _identity(point) for point in sorted(points)}
        return tuple(self._points)

    def are_replaced(self) -> bool:
        """Say whether something else is now where a command finds something mounted."""
        return any(_identity(point) != was for point, was in self._points.items())

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


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _point(root: str, path: str) -> str | None:
    """Return where to mount to protect a path; make it if it is missing.

    Returns:
        `None` if nothing can be made there by this user, and so not by the command either.
    """
    at = root.rstrip("/")
    names = path[len(at) + 1 :].split("/")
    for name in names:
        at = f"{at}/{name}"
        try:
            status = os.lstat(at)
        except FileNotFoundError:
            return _make(at, "/".join(names))
        if stat.S_ISLNK(status.st_mode):
            raise OSError(0, f"{at!r} is a link, which cannot be protected from a command")
        if not stat.S_ISDIR(status.st_mode):
            return at
    return at


def _make(at: str, name: str) -> str | None:
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
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
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
            Path(at).unlink()
    except OSError:
        return


class Wrapper:
    """What is executed before a command, as far as it is known beforehand."""

    def __init__(self, wanted: Confinement) -> None:
        self._wanted = wanted
        self._mounts = _mounts(wanted)
        source, sink = os.pipe()
        os.write(sink, bytes.fromhex(wanted.program_filter))
        os.close(sink)
        os.set_inheritable(source, True)
        self._program_filter = source

    def arguments(self, order: Order, kept: tuple[str, ...]) -> list[str]:
        """Return what to execute: bubblewrap, and by it the command.

        Args:
            kept: What is mounted for reading.
        """
        mounts = {**_hidden(self._wanted), **self._mounts}
        mounts[order.home] = ("--bind", order.home, order.home)
        mounts.setdefault(_TEMPORARY, ("--bind", order.temporary, _TEMPORARY))
        mounts.update(_pinned(self._wanted, kept, mounts))
        mounts.update({path: ("--ro-bind", path, path) for path in kept})
        ordered = sorted(mounts, key=lambda path: (path.count("/"), path))
        network = () if self._wanted.network else ("--unshare-net",)
        return [
            *(self._wanted.program, *_NAMESPACES, *network, "--die-with-parent"),
            *("--cap-drop", "ALL", "--seccomp", str(self._program_filter)),
            *(word for path in ordered for word in mounts[path]),
            *("--remount-ro", "/", "--chdir", order.directory, "--", *order.command),
        ]


def _mounts(wanted: Confinement) -> dict[str, tuple[str, ...]]:
    """Return what is mounted where, by path. What lies deeper is mounted later."""
    roots = [root.path for root in wanted.roots]
    mounts: dict[str, tuple[str, ...]] = {
        "/dev": ("--dev", "/dev"),
        # Root could change the settings of the machine in `/proc/sys`.
        "/proc": ("--proc", "/proc", "--remount-ro", "/proc"),
    }
    for path in (*wanted.system, *wanted.readable):
        if not any(path == root or is_below(path, root) for root in roots):
            mounts[path] = _read_only(path)
    mounts.update({path: ("--bind", path, path) for path in roots})
    return mounts


def _hidden(wanted: Confinement) -> dict[str, tuple[str, ...]]:
    mounts: dict[str, tuple[str, ...]] = {}
    for path in wanted.hidden:
        if os.path.isdir(path):  # noqa: PTH112 - paths are strings here
            mounts[path] = ("--tmpfs", path, "--remount-ro", path)
        elif os.path.exists(path):  # noqa: PTH110
            mounts[path] = ("--ro-bind", "/dev/null", path)
    return mounts


def _pinned(
    wanted: Confinement, kept: tuple[str, ...], mounts: Mapping[str, object]
) -> dict[str, tuple[str, ...]]:
    """Return the directories that must not be renamed, since they lead to a mount."""
    roots = [root.path for root in wanted.roots]
    return {
        parent: ("--bind", parent, parent)
        for root in roots
        for path in (*kept, *roots)
        if is_below(path, root)
        for parent in parents_between(path, root)
        if parent not in mounts
    }


def _read_only(path: str) -> tuple[str, ...]:
    if os.path.islink(path):  # noqa: PTH114 - paths are strings here
        return ("--symlink", os.readlink(path), path)  # noqa: PTH115
    return ("--ro-bind-try", path, path)
