"""What the program that runs commands is told of each: both sides read it here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Literal, TypeAlias

__all__ = [
    "Confinement",
    "Keep",
    "Order",
    "RootPath",
    "Terms",
    "Tree",
    "block",
    "identity",
    "is_below",
    "parents_between",
    "read_block",
]

Keep: TypeAlias = Literal["all", "itself", "place"]
"""What can only be read where something is mounted over itself: all that is there; all but
what is mounted below it; or nothing, and it only stays in its place."""
Tree: TypeAlias = Mapping[str, "Tree"]
"""Names below a directory, with the names below those; a name with none below it ends a
path."""


@dataclass(frozen=True, kw_only=True)
class RootPath:
    """A directory or file that a command may change.

    Attributes:
        path: Its absolute path without links.
        file: Whether it is a file.
        device: Where it is, so that another one in its place is noticed.
        inode: Which one it is there; 0 if that does not matter.
    """

    path: str
    file: bool = False
    device: int = 0
    inode: int = 0


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What commands may see and change, beside what each has for itself.

    Attributes:
        backend: `bubblewrap` or `landlock`.
        program: The path of bubblewrap.
        holder: That of a program that echoes, and does nothing else.
        system: Paths that can be read, with all below them, and that stay what they are.
        readable: More of them, which may come and go.
        hidden: Paths below these that cannot.
        roots: What can be changed.
        kept: Paths below these that can only be read, whether they exist or not.
        network: Whether the network can be reached.
        program_filter: The filter of system calls, in hexadecimal.
    """

    backend: str
    program: str = ""
    holder: str = ""
    system: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    roots: tuple[RootPath, ...] = ()
    kept: tuple[str, ...] = ()
    network: bool = False
    program_filter: str = ""

    def require_roots(self) -> None:
        """Refuse a root that is no longer what it was when it was opened.

        Raises:
            OSError: It names the root.
        """
        for root in self.roots:
            status = os.lstat(root.path) if root.inode else None
            if status and (status.st_dev, status.st_ino) != (root.device, root.inode):
                raise OSError(0, f"{root.path!r} is not the root that it was")

    def kept_below(self, path: str) -> Tree:
        """Return the protected names below a root, in lower case."""
        return _tree(path, self.kept)

    def hidden_below(self, path: str) -> Tree:
        """Return the hidden names below a readable directory, in lower case."""
        return _tree(path, self.hidden)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for all commands. It is sent once, so that each can be prepared.

    Attributes:
        processes: Most processes of a command.
        grace_s: Time between SIGTERM and SIGKILL, in seconds.
        limits: Limits of one process, by the names that `resource` has for them.
        temporary: Where each gets a private directory.
        confinement: What they may see and change; everything, if there is none.
    """

    processes: int
    grace_s: float
    limits: Mapping[str, int]
    temporary: str
    confinement: Confinement | None = None

    def encoded(self) -> bytes:
        """Return the terms as they are sent: a block of JSON."""
        return block(json.dumps(asdict(self)).encode("ascii"))

    @classmethod
    def decoded(cls, text: bytes) -> Terms:
        """Return the terms that JSON says."""
        fields = json.loads(text)
        confinement = fields.pop("confinement")
        if confinement is not None:
            confinement["roots"] = [RootPath(**each) for each in confinement["roots"]]
            confinement = Confinement(**confinement)
        return cls(**fields, confinement=confinement)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One command to run.

    Attributes:
        command: What is executed: a path and its arguments.
        environment: What it gets, beside a home and a place for what is temporary.
        directory: The path of the directory that it runs in, which also comes as a
            descriptor.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str

    def encoded(self) -> bytes:
        """Return the order as it is sent: a block of JSON."""
        return block(json.dumps(asdict(self)).encode("ascii"))

    @classmethod
    def decoded(cls, text: bytes) -> Order:
        """Return the order that JSON says."""
        return cls(**json.loads(text))


def block(text: bytes) -> bytes:
    """Return a text as it is sent, so that it is known where it ends."""
    return b"%08x%b" % (len(text), text)


def read_block(stream: IO[bytes]) -> bytes:
    """Return the text that was sent next.

    Raises:
        EOFError: The stream ends before it does.
    """
    length = _read(stream, 8)
    return _read(stream, int(length, 16))


def _read(stream: IO[bytes], count: int) -> bytes:
    text = b""
    while len(text) < count:
        piece = stream.read(count - len(text))
        if not piece:
            raise EOFError("nobody says any more")
        text += piece
    return text


def identity(path: str) -> tuple[int, int] | None:
    """Say which file or directory is at a path, and `None` if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_below(path: str, directory: str) -> bool:
    """Say whether a path is below a directory, as far as the spelling says."""
    return path.startswith(directory.rstrip("/") + "/") and path != directory


def parents_between(path: str, directory: str) -> Iterator[str]:
    """Give the directories that lead from a directory to a path below it, but not both."""
    parts = path[len(directory.rstrip("/")) + 1 :].split("/")
    for count in range(1, len(parts)):
        yield "/".join([directory.rstrip("/"), *parts[:count]])


def _tree(directory: str, paths: tuple[str, ...]) -> Tree:
    below: dict[str, list[str]] = {}
    for path in paths:
        if is_below(path, directory):
            name = path[len(directory.rstrip("/")) + 1 :].partition("/")[0]
            below.setdefault(name, []).append(path)
    return {
        name.casefold(): _tree(f"{directory.rstrip('/')}/{name}", tuple(found))
        for name, found in below.items()
    }
