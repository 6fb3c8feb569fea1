"""Directories and files that tools may use, and nothing beside them.

A root is opened once. What lies below it is looked up from its descriptor, by `openat2`
with `RESOLVE_BENEATH` where the system has it, and otherwise component by component
without following links. After that only descriptors are used, so that nobody can swap a
name for a link between the check and the use.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kaizen.errors import ConfigurationError, ToolError

from kaizen_tools._order import RootPath

__all__ = ["Place", "Root", "Roots", "kind_of", "shown_name"]

_MAX_PATH = 4096
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_OPENAT2 = 437
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_ONLY_PATH = getattr(os, "O_PATH", os.O_RDONLY)
_QUIETLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

OpenBeneath = Callable[[int, str, int], int]
"""Open a path below a directory: its descriptor, the path, the flags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One directory or file that tools may use.

    Attributes:
        descriptor: The directory; for a file, the directory that it is in.
        file: The file's name in that directory, or `""` for a directory.
        parts: Its absolute path, as the configuration spells it.
        real_parts: Its absolute path without links.
        label: What a model calls it: relative to the working directory where that is
            possible.
    """

    descriptor: int
    file: str
    parts: tuple[str, ...]
    real_parts: tuple[str, ...]
    label: str

    @property
    def path(self) -> str:
        """Its absolute path without links."""
        return "/" + "/".join(self.real_parts)

    @property
    def identity(self) -> RootPath:
        """Its path, and which directory that has to be; a file may be replaced."""
        if self.file:
            return RootPath(path=self.path, file=True)
        status = os.fstat(self.descriptor)
        return RootPath(path=self.path, device=status.st_dev, inode=status.st_ino)

    def below(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return where an absolute path is from `descriptor`, or `None` if outside."""
        for own in (self.parts, self.real_parts):
            if self.file and parts == own:
                return (self.file,)
            if not self.file and parts[: len(own)] == own:
                return parts[len(own) :]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A path that is inside a root, as far as its spelling says.

    Attributes:
        parts: The path from the root's descriptor; none for the root itself.
        shown: What a model calls it.
    """

    root: Root
    parts: tuple[str, ...]
    shown: str

    @property
    def relative(self) -> str:
        """The path from the root's descriptor."""
        return "/".join(self.parts) or "."


class Roots:
    """The roots of one plugin, while they are open."""

    def __init__(
        self, roots: Sequence[Root], directory: Path, open_beneath: OpenBeneath
    ) -> None:
        self._roots = tuple(roots)
        self._directory = directory
        self._open_beneath = open_beneath

    @classmethod
    @contextmanager
    def opened(
        cls,
        paths: Sequence[Path],
        *,
        directory: Path | None = None,
        open_beneath: OpenBeneath | None = None,
    ) -> Iterator[Roots]:
        """Open directories and files for the time of a `with` block.

        Args:
            paths: The roots.
            directory: What they and a model's paths are relative to; by default the
                working directory.
            open_beneath: How to look paths up; by default the best that the system has.

        Raises:
            ConfigurationError: A root does not exist or may not be read.
        """
        base = Path(os.path.abspath(directory or Path.cwd()))  # noqa: PTH100 - keeps links
        with ExitStack() as stack:
            roots = []
            for path in paths:
                root = _open_root(path, base)
                stack.callback(os.close, root.descriptor)
                roots.append(root)
            yield cls(roots, base, open_beneath or find_open_beneath(roots[0].descriptor))

    def __iter__(self) -> Iterator[Root]:
        return iter(self._roots)

    @property
    def base(self) -> str:
        """The absolute path of what relative paths are relative to."""
        return str(self._directory)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The roots that are not below that; "." is all of them, too."""
        base = _parts(os.path.realpath(self._directory))
        return tuple(
            each.path for each in self._roots if each.real_parts[: len(base)] != base
        )

    @property
    def labels(self) -> str:
        """The roots as a model calls them, for messages."""
        names = [repr(root.label) for root in self._roots[:10]]
        more = len(self._roots) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")

    @property
    def first_directory(self) -> Root | None:
        """The first root that is a directory."""
        return next((root for root in self._roots if not root.file), None)

    def locate(self, path: str) -> Place:
        """Return the place that a path names, by its spelling alone.

        Raises:
            ToolError: It is outside the roots.
        """
        parts = self._absolute(path)
        found = [
            (len(root.parts), root, below)
            for root in self._roots
            if (below := root.below(parts)) is not None
        ]
        if not found:
            raise self._outside(path)
        _, root, below = max(found, key=lambda each: each[0])
        inside = () if root.file else below
        return Place(root=root, parts=below, shown=_shown(root, inside))

    def starts(self, path: str) -> list[tuple[Place, str]]:
        """Return where a search of a path begins, and what is put before what it finds.

        That is the path itself; or, for a directory below the working directory that is
        not inside a root, the roots in it; or, for the working directory, all of them. No
        root is searched twice.

        Raises:
            ToolError: The path is outside the roots, and so is all below it.
        """
        parts, base = self._absolute(path), _parts(str(self._directory))
        starts: list[tuple[Place, str]] = []
        if any(root.below(parts) is not None for root in self._roots):
            starts.append((self.locate(path), ""))
        everything = parts == base
        if starts and not everything:
            return starts
        covered = [parts] if starts else []
        for root in sorted(self._roots, key=lambda each: len(each.parts)):
            here = root.parts[: len(parts)] == parts and parts[: len(base)] == base
            if root.below(parts) is not None or not (here or everything):
                continue
            if any(root.parts[: len(each)] == each for each in covered):
                continue
            covered.append(root.parts)
            before = "/".join(root.parts[len(parts) :]) if here else root.label
            inside = (root.file,) if root.file else ()
            starts.append((Place(root=root, parts=inside, shown=root.label), before))
        if not starts:
            raise self._outside(path)
        return sorted(starts, key=lambda each: each[1])

    @contextmanager
    def directory(self, place: Place) -> Iterator[int]:
        """Open a directory for the time of a `with` block."""
        with self._opened(place.root, place.relative, _DIRECTORY, place.shown) as opened:
            yield opened

    @contextmanager
    def file(self, place: Place) -> Iterator[tuple[int, os.stat_result]]:
        """Open a regular file for reading. Other kinds are refused, not waited for."""
        flags = os.O_RDONLY | _QUIETLY
        with self._opened(place.root, place.relative, flags, place.shown) as opened:
            status = os.fstat(opened)
            require_regular(status, place.shown)
            yield opened, status

    @contextmanager
    def parent(self, place: Place, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the directory that a place is in; give its descriptor and the name there.

        Args:
            place: What is about to be written or deleted.
            create: Whether missing directories are made.
        """
        if not place.parts:
            raise ToolError(
                f"path {place.shown!r}", "is a root", "Name a file inside it instead."
            )
        *above, name = place.parts
        if create:
            self._create(place, above)
        relative = "/".join(above) or "."
        with self._opened(place.root, relative, _DIRECTORY, place.shown) as opened:
            yield opened, name

    def status(self, place: Place) -> os.stat_result | None:
        """Return what is known of a place, of a link itself; `None` if nothing is there."""
        if not place.parts:
            return os.fstat(place.root.descriptor)
        try:
            with self.parent(place) as (directory, name):
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except ToolError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    def _create(self, place: Place, above: Sequence[str]) -> None:
        """Make the missing directories above a place, one in the other."""
        for count in range(1, len(above) + 1):
            relative = "/".join(above[:count])
            flags = _DIRECTORY
            try:
                os.close(self._open_beneath(place.root.descriptor, relative, flags))
            except FileNotFoundError:
                parent = "/".join(above[: count - 1]) or "."
                with self._opened(place.root, parent, flags, place.shown) as opened:
                    _make_directory(above[count - 1], opened, place.shown)
            except OSError as error:
                raise explained(error, place.shown, self.labels) from error

    @contextmanager
    def _opened(self, root: Root, relative: str, flags: int, shown: str) -> Iterator[int]:
        try:
            descriptor = self._open_beneath(root.descriptor, relative, flags | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, shown, self.labels) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _absolute(self, path: str) -> tuple[str, ...]:
        """Return the components of a path, dots and doubled slashes taken out.

        An empty one is the working directory, as "." is.
        """
        if "\0" in path or len(path) > _MAX_PATH:
            problem = (
                "contains a NUL" if "\0" in path else f"is over {_MAX_PATH} characters"
            )
            raise ToolError(f"path {path[:100]!r}", problem, "Give the path of a file.")
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise ToolError(f"path {path!r}", "is not text", "Give a valid path.") from None
        return _parts(os.path.join(self._directory, path))  # noqa: PTH118 - may not exist

    def _outside(self, path: str) -> ToolError:
        return ToolError(
            f"path {path!r}",
            f"is outside the roots: {self.labels}",
            "Use a path inside one of them.",
        )


def kind_of(mode: int) -> str:
    """Return `file`, `directory`, `link` or `other`."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def shown_name(name: str) -> str:
    """Return a file's name as text, with escapes for bytes that are none."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def require_regular(status: os.stat_result, shown: str) -> None:
    """Refuse what is no regular file.

    Raises:
        ToolError: It is a directory, a link, a FIFO, a device or a socket.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = kind_of(status.st_mode)
        words = "is not a regular file" if kind == "other" else f"is a {kind}, not a file"
        raise ToolError(f"path {shown!r}", words, "Name a regular file.")


def explained(error: OSError, shown: str, labels: str = "") -> ToolError:
    """Return the error of the system as one that a model can act on."""
    roots = f": {labels}" if labels else ""
    known = {
        errno.EXDEV: (f"leads outside the roots{roots}", "Use a path inside one of them."),
        errno.ELOOP: ("goes through a link that is not followed", "Name its target."),
        errno.ENOENT: ("does not exist", "See with list_directory what there is."),
        errno.ENOTDIR: ("goes through something that is no directory", "Correct the path."),
        errno.EISDIR: ("is a directory", "Name a file."),
        errno.EACCES: ("may not be used: permission denied", "Use another path."),
        errno.EPERM: ("may not be used: permission denied", "Use another path."),
        errno.ENAMETOOLONG: ("is too long", "Use a shorter name."),
        errno.ENXIO: ("is not a regular file", "Name a regular file."),
        errno.ENOSPC: ("could not be written: the disk is full", ""),
        errno.EAGAIN: ("changes while it is looked up", "Try again."),
    }
    reason = error.strerror or type(error).__name__
    problem, remedy = known.get(error.errno or 0, (f"could not be used: {reason}", ""))
    return ToolError(f"path {shown!r}", problem, remedy)


def find_open_beneath(descriptor: int) -> OpenBeneath:
    """Return the best way to look up paths that this system has.

    Args:
        descriptor: A directory, to try it on.
    """
    if sys.platform != "linux":
        return walk_beneath
    openat2 = _load_openat2()
    try:
        os.close(openat2(descriptor, ".", _DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return walk_beneath
    return openat2


def walk_beneath(directory: int, path: str, flags: int) -> int:
    """Open a path below a directory, component by component; no link is followed.

    Raises:
        OSError: As `open` does; `ELOOP` or `ENOTDIR` for a link.
    """
    *above, last = [part for part in path.split("/") if part not in ("", ".")] or ["."]
    current = os.dup(directory)
    try:
        for part in above:
            if part == "..":
                raise OSError(errno.EXDEV, "leads above the root")
            step = _ONLY_PATH | _DIRECTORY | _NO_FOLLOW | os.O_CLOEXEC
            current = _replaced(current, os.open(part, step, dir_fd=current))
        if last == "..":
            raise OSError(errno.EXDEV, "leads above the root")
        return os.open(last, flags | _NO_FOLLOW | os.O_CLOEXEC, dir_fd=current)
    finally:
        os.close(current)


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new


def _load_openat2() -> OpenBeneath:
    """Return `openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)`, see openat2(2)."""
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long

    def openat2(directory: int, path: str, flags: int) -> int:
        how = (ctypes.c_uint64 * 3)(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
        for _ in range(100):
            descriptor = syscall(
                ctypes.c_long(_OPENAT2),
                ctypes.c_int(directory),
                ctypes.c_char_p(os.fsencode(path)),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
            if descriptor >= 0:
                return int(descriptor)
            code = ctypes.get_errno()
            if code not in (errno.EAGAIN, errno.EINTR):
                break
        raise OSError(code, os.strerror(code), path)

    return openat2


def _open_root(path: Path, base: Path) -> Root:
    """Open one root. Links in its own path are followed: it comes from configuration."""
    spelled = os.path.normpath(base / path)
    try:
        real = Path(spelled).resolve(strict=True)
        is_file = stat.S_ISREG(real.stat().st_mode)
        held = real.parent if is_file else real
        flags = _ONLY_PATH | _DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(held, flags)
    except OSError as error:
        raise ConfigurationError(
            f"the root {str(path)!r}",
            f"cannot be used: {error.strerror}",
            "Correct `roots` under [plugins.tools]; they are relative to the directory "
            "where the program starts.",
        ) from error
    inside = _parts(spelled)[: len(base.parts) - 1] == base.parts[1:]
    label = os.path.relpath(spelled, base) if inside else spelled
    return Root(
        descriptor=descriptor,
        file=real.name if is_file else "",
        parts=_parts(spelled),
        real_parts=_parts(str(real)),
        label=shown_name(label),
    )


def _parts(path: str) -> tuple[str, ...]:
    normal = os.path.normpath(path)
    return tuple(part for part in normal.split("/") if part)


def _shown(root: Root, below: tuple[str, ...]) -> str:
    names = [shown_name(name) for name in below]
    start = [] if root.label == "." and names else [root.label.rstrip("/")]
    return "/".join([*start, *names]) or "/"


def _make_directory(name: str, directory: int, shown: str) -> None:
    try:
        os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        return
    except OSError as error:
        raise explained(error, shown) from error
