"""Reading and writing file descriptors that belong to others too, such as a terminal's.

They are not made non-blocking, since that would hold for every program that shares them.
They are waited for, and then read and written in pieces that do not block.
"""

from __future__ import annotations

import os
import stat

import anyio

__all__ = ["can_wait", "read_some", "write_all"]

READ_BYTES = 64 * 1024
PIECE_BYTES = 512  # POSIX promises a pipe that is writable room for as much


def can_wait(fd: int) -> bool:
    """Whether there is anything to wait for: files on a disk are always ready."""
    mode = os.fstat(fd).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


async def read_some(fd: int, *, wait: bool = True) -> bytes:
    """Return what can be read, or nothing at the end."""
    await (anyio.wait_readable(fd) if wait else anyio.lowlevel.checkpoint())
    return os.read(fd, READ_BYTES)


async def write_all(fd: int, data: bytes, *, wait: bool = True) -> None:
    """Write everything."""
    rest = memoryview(data)
    while rest:
        await (anyio.wait_writable(fd) if wait else anyio.lowlevel.checkpoint())
        rest = rest[os.write(fd, rest[:PIECE_BYTES]) :]
