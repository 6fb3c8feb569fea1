"""Directories and files, such that a crash loses nothing and a link leads nowhere.

A directory is held open by a descriptor where the system can do that, and its files are
opened relative to it: whoever replaces a part of the path in the meantime has no effect.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from typing import Self

from kaizen.errors import CheckpointLoadError, StorageUnavailableError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Folder", "lock", "sync", "try_lock", "unavailable", "unlock", "write_all"]

LOCK_TIMEOUT_S = 10.0
TEMPORARY = ".new-"
_FLAGS = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
_HAS_DIRECTORY_DESCRIPTORS = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")
_REMEDIES = {
    errno.ENOSPC: "Free some space there, or choose another folder.",
    errno.EDQUOT: "Free some space there, or choose another folder.",
    errno.EFBIG: "Raise the limit on the size of files.",
    errno.EROFS: "Make it writable, or choose another folder.",
    errno.EACCES: "Make it readable and writable for this user, or choose another folder.",
    errno.EPERM: "Make it readable and writable for this user, or choose another folder.",
    errno.ENOTDIR: "Move what is in its place, or choose another folder.",
    errno.EEXIST: "Move what is in its place, or choose another folder.",
    errno.ELOOP: "Replace the symbolic link by what it leads to, or choose another folder.",
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`).",
    errno.ENFILE: "Raise the limit on open files.",
    errno.EIO: "Check the disk; what was written before is still there.",
}


def unavailable(error: OSError, base: Path) -> StorageUnavailableError:
    """Return an error of the system as one that says what, where, and what to do."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        for path in (base, *base.parents):
            if path.is_file():
                return StorageUnavailableError(
                    f"the folder of runs {str(base)!r}",
                    f"cannot be there: {str(path)!r} is a file, not a folder",
                    _REMEDIES[errno.ENOTDIR],
                )
    name = error.filename
    file = f" ({os.fsdecode(name)})" if isinstance(name, str | bytes) else ""
    reason = error.strerror or type(error).__name__
    return StorageUnavailableError(
        f"the folder of runs {str(base)!r}",
        f"cannot be used: {reason}{file}",
        _REMEDIES.get(error.errno or 0, "Check the folder, or choose another one."),
    )


class Folder:
    """A directory, open until it is closed."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path, fd: int | None) -> None:
        self.path = path
        self._fd = fd

    @staticmethod
    def open(path: Path) -> Folder:
        """Open a directory; a link to one is followed.

        Raises:
            OSError: There is none.
        """
        if not _HAS_DIRECTORY_DESCRIPTORS:
            if not path.is_dir():
                os.listdir(path)  # noqa: PTH208 - for the error that the system gives
            return Folder(path, None)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return Folder(path, os.open(path, flags))

    def folder(self, name: str) -> Folder:
        """Open a directory in this one; a link is refused.

        Raises:
            OSError: There is none, or something else is in its place.
        """
        path = self.path / name
        if self._fd is None:
            if stat.S_ISLNK(path.lstat().st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            return Folder.open(path)
        flags = os.O_RDONLY | os.O_DIRECTORY | _FLAGS
        with _named(path):
            return Folder(path, os.open(name, flags, dir_fd=self._fd))

    def make(self, name: str) -> bool:
        """Make a directory for this user alone; say whether it was not there before."""
        with _named(self.path / name):
            try:
                os.mkdir(self._at(name), 0o700, dir_fd=self._fd)
            except FileExistsError:
                return False
        return True

    def names(self) -> list[str]:
        """Return what is in it."""
        with _named(self.path):
            return os.listdir(self.path if self._fd is None else self._fd)  # noqa: PTH208

    def open_file(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a regular file and return its descriptor.

        Raises:
            OSError: There is none, or something else is in its place.
            CheckpointLoadError: It is a link, a pipe or the like.
        """
        path = self.path / name
        with _named(path):
            try:
                # Without O_NONBLOCK, a pipe in its place would block for ever.
                flags |= _FLAGS | getattr(os, "O_NONBLOCK", 0)
                fd = os.open(self._at(name), flags, 0o600, dir_fd=self._fd)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise _not_a_file(path) from None
                raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _not_a_file(path)
        return fd

    def read(self, name: str, *, limit: int) -> bytes:
        """Return what is in a file.

        Raises:
            CheckpointLoadError: It is no regular file, or larger than the limit.
        """
        fd = self.open_file(name)
        try:
            with _named(self.path / name):
                return read_all(fd, limit=limit, where=str(self.path / name))
        finally:
            os.close(fd)

    def status(self, name: str) -> os.stat_result:
        """Return what the system knows of a file, without following a link."""
        with _named(self.path / name):
            return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)

    def put(self, name: str, data: bytes, *, time_ns: int | None = None) -> None:
        """Write a file so that, whatever happens, the old or the new one is there."""
        temporary = f"{TEMPORARY}{token_hex(8)}"
        fd = self.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                with _named(self.path / name):
                    write_all(fd, data)
                    if time_ns is not None:
                        os.utime(fd, ns=(time_ns, time_ns))
                    sync(fd)
            finally:
                os.close(fd)
            self.move(temporary, name)
        except OSError:
            with suppress(OSError):
                self.remove(temporary)
            raise
        self.sync()

    def move(self, name: str, to: str, *, folder: Folder | None = None) -> None:
        """Give something another name, also in another directory of the same disk."""
        target = folder or self
        with _named(self.path / name):
            os.replace(
                self._at(name), target._at(to), src_dir_fd=self._fd, dst_dir_fd=target._fd
            )

    def remove(self, name: str) -> None:
        """Remove a file; none is no error."""
        with _named(self.path / name), suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._fd)

    def remove_folder(self, name: str) -> None:
        """Remove an empty directory; none is no error."""
        with _named(self.path / name), suppress(FileNotFoundError):
            os.rmdir(self._at(name), dir_fd=self._fd)

    def sync(self) -> None:
        """Make durable which files are in it."""
        if self._fd is not None:
            with _named(self.path):
                os.fsync(self._fd)

    def close(self) -> None:
        """Let it go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _at(self, name: str) -> str:
        return name if self._fd is not None else str(self.path / name)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let errors say the whole path."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _not_a_file(path: Path) -> CheckpointLoadError:
    return CheckpointLoadError(
        f"the file {str(path)!r}", "is not a regular file", "Remove what was put there."
    )


def read_all(fd: int, *, limit: int, where: str) -> bytes:
    """Return what is in an open file from its start on.

    Raises:
        CheckpointLoadError: It is larger than the limit.
    """
    size = os.fstat(fd).st_size
    if size > limit:
        raise CheckpointLoadError(f"the file {where!r}", f"is larger than {limit} bytes")
    parts: list[bytes] = []
    at = 0
    while at < size:
        part = os.pread(fd, size - at, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write everything at the place where the file stands, or raise."""
    written = os.write(fd, data)
    while written < len(data):
        more = os.write(fd, memoryview(data)[written:])
        if not more:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += more


def sync(fd: int) -> None:
    """Make what was written to a file durable, with the size of the file."""
    if sys.platform == "darwin":
        # There, fsync leaves it in the memory of the disk.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif sys.platform == "win32":
        os.fsync(fd)
    else:
        os.fdatasync(fd)


def lock(fd: int, where: Path) -> None:
    """Wait until no other process has a file locked, and lock it.

    Raises:
        StorageUnavailableError: Another process does not let go of it.
    """
    if try_lock(fd):
        return
    deadline, pause = monotonic() + LOCK_TIMEOUT_S, 0.0002
    while not try_lock(fd):
        if monotonic() > deadline:
            raise StorageUnavailableError(
                f"the file {str(where)!r}",
                f"has been locked by another process for {LOCK_TIMEOUT_S:.0f} seconds",
                "Look whether a process of Kaizen was stopped and can go on or be ended.",
            )
        sleep(pause)
        pause = min(pause * 2, 0.02)


if sys.platform == "win32":

    def try_lock(fd: int) -> bool:
        """Lock a file, unless it is locked; say whether it was done."""
        os.lseek(fd, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Let others lock a file."""
        os.lseek(fd, 2**30, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:

    def try_lock(fd: int) -> bool:
        """Lock a file, unless it is locked; say whether it was done."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Let others lock a file."""
        fcntl.flock(fd, fcntl.LOCK_UN)
