"""Reading and changing single files below the roots. All of it blocks: use a thread."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from kaizen.errors import ToolError

from kaizen_tools._roots import Place, Roots, explained, require_regular

__all__ = ["Files"]

_CHUNK = 1 << 20


class Files:
    """The files below some roots.

    Args:
        roots: Where they are.
        max_bytes: Largest file that is read or written.
    """

    def __init__(self, roots: Roots, *, max_bytes: int) -> None:
        self._roots = roots
        self._max_bytes = max_bytes
        self._changing = Lock()
        self._mode = 0o666 & ~_umask()

    def read(self, path: str) -> str:
        """Return the text of a file.

        Raises:
            ToolError: It is too large, or is no UTF-8 text.
        """
        place = self._roots.locate(path)
        with self._roots.file(place) as (opened, status):
            self._require_size(status.st_size, place)
            data = read_at_most(opened, self._max_bytes + 1)
        self._require_size(len(data), place)
        return _decoded(data, place)

    def write(self, path: str, content: str) -> dict[str, str | int]:
        """Replace a file by another text, wholly or not at all."""
        place = self._roots.locate(path)
        data = _encoded(content, place)
        self._require_size(len(data), place)
        with self._changing:
            self._replace(place, data)
        return {"path": place.shown, "bytes": len(data)}

    def edit(
        self, path: str, old: str, new: str, *, count: int, replace_all: bool
    ) -> dict[str, str | int]:
        """Replace one text in a file by another.

        Raises:
            ToolError: The old text does not occur as often as it should.
        """
        place = self._roots.locate(path)
        if not old:
            raise ToolError(f"path {place.shown!r}", "is to be edited where nothing stands")
        with self._changing:
            text = self.read(path)
            found = text.count(old)
            if found == 0 or (not replace_all and found != count):
                raise _miscounted(place, text, found, 0 if replace_all else count)
            data = _encoded(text.replace(old, new), place)
            self._require_size(len(data), place)
            self._replace(place, data)
        return {"path": place.shown, "replacements": found}

    def delete(self, path: str) -> dict[str, str | bool]:
        """Delete a file, or a link but not what it leads to."""
        place = self._roots.locate(path)
        with (
            self._changing,
            self._roots.parent(place) as (directory, name),
            explaining(place),
        ):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                require_regular(status, place.shown)
            os.unlink(name, dir_fd=directory)
            os.fsync(directory)
        return {"path": place.shown, "deleted": True}

    def _replace(self, place: Place, data: bytes) -> None:
        """Write beside a file and rename, so that a reader sees the old or the new."""
        with self._roots.parent(place, create=True) as (directory, name):
            replaced = _replaced(directory, name, place)
            temporary = f".{secrets.token_hex(8)}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with explaining(place):
                opened = os.open(temporary, flags, 0o600, dir_fd=directory)
                try:
                    try:
                        _write_all(opened, data)
                        self._make_alike(opened, replaced)
                        os.fsync(opened)
                    finally:
                        os.close(opened)
                    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                except BaseException:
                    with suppress(FileNotFoundError):
                        os.unlink(temporary, dir_fd=directory)
                    raise
                os.fsync(directory)

    def _make_alike(self, opened: int, replaced: os.stat_result | None) -> None:
        """Give a file the mode of another, and its owner if this user may."""
        if replaced is None:
            os.fchmod(opened, self._mode)
            return
        status = os.fstat(opened)
        with suppress(PermissionError):
            if status.st_gid != replaced.st_gid:
                os.fchown(opened, -1, replaced.st_gid)
            if status.st_uid != replaced.st_uid:
                os.fchown(opened, replaced.st_uid, -1)
        os.fchmod(opened, stat.S_IMODE(replaced.st_mode) & 0o777)

    def _require_size(self, size: int, place: Place) -> None:
        if size > self._max_bytes:
            raise ToolError(
                f"path {place.shown!r}",
                f"has {size} bytes or more, and at most {self._max_bytes} are handled",
                "Look into it with grep, or raise `max_file_bytes`.",
            )


def _replaced(directory: int, name: str, place: Place) -> os.stat_result | None:
    """Return what is known of a file that is to be replaced, or `None` for a new one.

    Raises:
        ToolError: It may not be written, which a rename would not ask.
    """
    with explaining(place):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        require_regular(status, place.shown)
        by_effect = os.access in os.supports_effective_ids
        may = os.access(name, os.W_OK, dir_fd=directory, effective_ids=by_effect)
    if not may or not status.st_mode & 0o222:
        raise ToolError(
            f"path {place.shown!r}",
            "is read-only",
            "Write to another path, or have somebody make it writable.",
        )
    return status


@contextmanager
def explaining(place: Place) -> Iterator[None]:
    """Turn errors of the system into ones that a model can act on."""
    try:
        yield
    except OSError as error:
        raise explained(error, place.shown) from error


def read_at_most(opened: int, count: int) -> bytes:
    """Return the next bytes of a file, at most so many."""
    pieces = []
    while count > 0 and (piece := os.read(opened, min(count, _CHUNK))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _write_all(opened: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(opened, rest) :]


def _decoded(data: bytes, place: Place) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(
            f"path {place.shown!r}",
            f"is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}",
            "It is binary, or in another encoding.",
        ) from None
    if "\0" in text:
        raise ToolError(f"path {place.shown!r}", "is not text but binary: it contains NUL")
    return text


def _encoded(text: str, place: Place) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolError(
            f"path {place.shown!r}",
            f"cannot hold the text: character {error.start} is half of a surrogate pair",
            "Send valid Unicode.",
        ) from None


def _miscounted(place: Place, text: str, found: int, wanted: int) -> ToolError:
    times = "time" if found == 1 else "times"
    asked = f"exactly {wanted}" if wanted else "at least 1"
    hint = "Copy it from the file as it stands there, with more lines around it"
    if not found and "\r\n" in text:
        hint += "; its lines end with \\r\\n"
    elif found:
        hint += ", or set `count` or `replace_all`"
    return ToolError(
        f"path {place.shown!r}",
        f"was not changed: `old` occurs {found} {times}, and {asked} was expected",
        f"{hint}.",
    )


def _umask() -> int:
    """Return the mask of this process for new files, where it can be read harmlessly."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("Umask:")[2].split()[0], 8)
    except (OSError, ValueError, IndexError):
        return 0o077
