"""Confinement by Landlock, for systems without namespaces: see landlock(7).

Landlock grants rights below directories and takes none back. So what is protected in a
directory can only be kept by not granting the directory itself anything: each entry that
there is gets its rights, and new names cannot be made beside it, nor old ones removed.
Directories below keep all rights, unless they hold something protected too.

What Landlock lets pass is refused by the filter of system calls that comes with it.
"""

from __future__ import annotations

import os
import stat
import struct

from kaizen_tools._calls import call, drop_privileges, forgo_privileges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kaizen_tools._order import Confinement, Tree

__all__ = ["Ruleset"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1
_BENEATH = 1
_LEAST_ABI = 6
"""The first that keeps signals and abstract sockets inside; 3 was the first to keep a file
outside from being emptied."""

_EXECUTE, _WRITE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHARACTER, _MAKE_BLOCK, _TRUNCATE, _DEVICE = 1 << 6, 1 << 11, 1 << 14, 1 << 15
_ALL = (1 << 16) - 1
_READ = _EXECUTE | _READ_FILE | _READ_DIRECTORY
_CHANGE = _ALL & ~(_MAKE_CHARACTER | _MAKE_BLOCK | _DEVICE)
_OF_FILES = _EXECUTE | _WRITE | _READ_FILE | _TRUNCATE | _DEVICE
_BIND_AND_CONNECT = 0b11
_SCOPED = 0b11

_DEVICES = ("null", "zero", "full", "random", "urandom")
_FACTS = (
    *("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "swaps", "uptime", "version"),
    *("sys/kernel", "sys/vm", "sys/fs"),
)
"""What `/proc` says of the machine. What it says of processes is not granted."""


class Ruleset:
    """The rules for one command, as far as they are known beforehand.

    Raises:
        OSError: The system cannot do it.
    """

    def __init__(self, wanted: Confinement) -> None:
        abi = call(_CREATE, None, 0, _VERSION)
        if abi < _LEAST_ABI:
            raise OSError(0, f"the kernel has Landlock {abi}, and {_LEAST_ABI} is needed")
        self._wanted = wanted
        network = 0 if wanted.network else _BIND_AND_CONNECT
        handled = struct.pack("=QQQ", _ALL, network, _SCOPED)
        self._ruleset = call(_CREATE, handled, len(handled), 0)
        self._grant_reading(wanted.system)
        for name in _DEVICES:
            _grant(self._ruleset, f"/dev/{name}", _READ | _WRITE | _DEVICE)
        for name in _FACTS:
            _grant(self._ruleset, f"/proc/{name}", _READ_FILE | _READ_DIRECTORY)

    def confine(self, private: tuple[str, ...]) -> None:
        """Confine this process and what it starts, for good.

        Args:
            private: More directories that it may change.
        """
        self._grant_reading(self._wanted.readable)
        for path in private:
            _grant(self._ruleset, path, _CHANGE)
        for root in self._wanted.roots:
            kept = self._wanted.kept_below(root.path)
            _grant(self._ruleset, root.path, _CHANGE, kept)
        forgo_privileges()
        drop_privileges()
        call(_RESTRICT, self._ruleset, 0)
        os.close(self._ruleset)

    def _grant_reading(self, paths: tuple[str, ...]) -> None:
        for path in paths:
            _grant(self._ruleset, path, _READ, self._wanted.hidden_below(path))


def _grant(ruleset: int, path: str, rights: int, kept: Tree | None = None) -> None:
    """Grant rights on what is at a path, and below it; nothing if nothing is there."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _grant_opened(ruleset, opened, rights, kept or {})
    finally:
        os.close(opened)


def _grant_opened(ruleset: int, opened: int, rights: int, kept: Tree) -> None:
    """Grant rights on a directory and all below it, except for what is kept.

    Args:
        kept: What keeps the right to be read, if others may be changed, and what has no
            right at all, if others may be read. The names are in lower case, since there
            are file systems that do not tell them apart.
    """
    mode = os.fstat(opened).st_mode
    is_device = stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
    if stat.S_ISLNK(mode) or (is_device and rights == _CHANGE):
        return
    if not stat.S_ISDIR(mode):
        _add(ruleset, opened, rights & _OF_FILES)
        return
    if not kept:
        _add(ruleset, opened, rights)
        return
    _add(ruleset, opened, _READ_DIRECTORY if rights == _READ else _READ)
    readable = os.open(f"/proc/self/fd/{opened}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(readable):  # noqa: PTH208 - a descriptor has no path
            _grant_entry(ruleset, opened, name, rights, kept)
    finally:
        os.close(readable)


def _grant_entry(ruleset: int, directory: int, name: str, rights: int, kept: Tree) -> None:
    below = kept.get(name.casefold())
    if below is not None and not below:
        return
    try:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        entry = os.open(name, flags, dir_fd=directory)
    except OSError:
        return
    try:
        if below is None or stat.S_ISDIR(os.fstat(entry).st_mode):
            _grant_opened(ruleset, entry, rights, below or {})
    finally:
        os.close(entry)


def _add(ruleset: int, opened: int, rights: int) -> None:
    rule = struct.pack("=Qi", rights, opened)
    call(_ADD, ruleset, _BENEATH, rule, 0)
