"""System calls of Linux that Python has no functions for, see syscalls(2)."""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kaizen_tools._order import Keep

__all__ = [
    "become_subreaper",
    "call",
    "drop_privileges",
    "enter_namespace",
    "forgo_privileges",
    "keep_mounts",
    "mount_over",
    "refuse_calls",
]

_SUBREAPER = 36
_OPEN_TREE, _MOVE_MOUNT, _OPEN, _MOUNT_SETATTR = 428, 429, 437, 442
_HERE = -100
_NO_LINKS = 0x04
_CLONE = 1
_EMPTY_PATH, _RECURSIVE = 0x1000, 0x8000
_FROM_EMPTY_PATH, _TO_EMPTY_PATH = 0x4, 0x40
_READ_ONLY, _PRIVATE = 0x1, 1 << 18
_NO_NEW_PRIVILEGES, _DROP_CAPABILITY, _SECCOMP, _FILTER = 38, 24, 22, 2
_CAPABILITY_VERSION = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}


def become_subreaper() -> None:
    """Become the parent of orphans among the descendants of this process."""
    _prctl(_SUBREAPER, 1)


def enter_namespace(opened: int, kind: int) -> None:
    """Enter a namespace, given by a descriptor; see setns(2).

    That of processes is entered by the children that this process has from now on.
    """
    if _LIBC.setns(opened, kind):
        code = ctypes.get_errno()
        raise OSError(code, f"a namespace cannot be entered: {os.strerror(code)}")


def keep_mounts() -> None:
    """Have no mount of this namespace follow another one, and none follow them."""
    wanted = struct.pack("=4Q", 0, 0, _PRIVATE, 0)
    call(_MOUNT_SETATTR, _HERE, b"/", _RECURSIVE, wanted, len(wanted))


def mount_over(path: str, keep: Keep) -> None:
    """Mount what is at a path over itself, with all that is mounted below it.

    It is found once, and never through a link. Needs Linux 5.12.

    Args:
        keep: What can only be read there from then on.
    """
    how = struct.pack("=3Q", os.O_PATH | os.O_CLOEXEC, 0, _NO_LINKS)
    at = call(_OPEN, _HERE, os.fsencode(path), how, len(how))
    try:
        flags = _EMPTY_PATH | _RECURSIVE
        tree = call(_OPEN_TREE, at, b"", _CLONE | os.O_CLOEXEC | flags)
        try:
            if keep != "place":
                wanted = struct.pack("=4Q", _READ_ONLY, 0, 0, 0)
                which = flags if keep == "all" else _EMPTY_PATH
                call(_MOUNT_SETATTR, tree, b"", which, wanted, len(wanted))
            call(_MOVE_MOUNT, tree, b"", at, b"", _FROM_EMPTY_PATH | _TO_EMPTY_PATH)
        finally:
            os.close(tree)
    finally:
        os.close(at)


def refuse_calls(program: bytes) -> None:
    """Let a filter judge the system calls of this process and of what it starts."""
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    _prctl(_SECCOMP, _FILTER, ctypes.c_char_p(filter_))


def forgo_privileges() -> None:
    """Have no program that is executed gain any right; this process keeps its own.

    That is lost in a namespace of users that is entered later.
    """
    for capability in range(64):
        try:
            _prctl(_DROP_CAPABILITY, capability)
        except OSError:
            break
    _prctl(_NO_NEW_PRIVILEGES, 1)


def drop_privileges() -> None:
    """Give up every right of this process beyond those to its user's files."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    call(_CAPSET[os.uname().machine], header, struct.pack("=6I", *[0] * 6))


def _prctl(option: int, *arguments: int | ctypes.c_char_p) -> None:
    words = [
        each if isinstance(each, ctypes.c_char_p) else ctypes.c_ulong(each)
        for each in arguments
    ]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    if _LIBC.prctl(option, *words):
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call, and return its result.

    Raises:
        OSError: It failed.
    """
    words = [
        ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each)
        for each in arguments
    ]
    result = int(_LIBC.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number} failed: {os.strerror(code)}")
    return result


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
