"""Closed segments: gzip, with a comment in the header that tells the end of what is inside.

    {"crc":"1a2b3c4d","v":1,"entries":123,"bytes":45678,"status":"completed"}

So a run that ended is listed without unpacking its log, and `zcat` reads the file all the
same. The comment also bounds what is unpacked.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from kaizen.errors import CheckpointLoadError

__all__ = ["HEADER_BYTES", "Contents", "contents", "pack", "unpack", "unpack_start"]

HEADER_BYTES = 512
_MAGIC = (
    b"\x1f\x8b\x08\x10" + bytes(4) + b"\x02\xff"
)  # deflate, with a comment; see RFC 1952
_GZIP = 31
_RAW = -15


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an archive says of what is inside.

    Attributes:
        entries: How many.
        size: Bytes of the lines.
        status: The status of the run after the last entry.
    """

    entries: int
    size: int
    status: str


def pack(data: bytes, *, entries: int, status: str) -> bytes:
    """Return the archive of a whole segment."""
    values = {"v": 1, "entries": entries, "bytes": len(data), "status": status}
    rest = json.dumps(values, separators=(",", ":")).encode("ascii").removeprefix(b"{")
    comment = b'{"crc":"%08x",' % zlib.crc32(rest) + rest
    packer = zlib.compressobj(6, zlib.DEFLATED, _RAW)
    trailer = zlib.crc32(data).to_bytes(4, "little")
    trailer += (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return b"".join(
        (_MAGIC, comment, b"\0", packer.compress(data), packer.flush(), trailer)
    )


def contents(header: bytes, *, where: str) -> Contents:
    """Read the comment at the start of an archive.

    Raises:
        CheckpointLoadError: It is damaged, or not ours.
    """
    comment, end, _ = header[len(_MAGIC) : HEADER_BYTES].partition(b"\0")
    head, rest = comment[:18], comment[18:]
    if header[:4] != _MAGIC[:4] or not end or head != b'{"crc":"%08x",' % zlib.crc32(rest):
        raise _damaged(where, "is damaged at its start")
    try:
        values: Any = json.loads(b"{" + rest)
        version, entries, size, status = (
            values[name] for name in ("v", "entries", "bytes", "status")
        )
    except (ValueError, KeyError, RecursionError):
        raise _damaged(where, "is damaged at its start") from None
    if type(version) is int and version > 1:
        raise CheckpointLoadError(
            f"the file {where!r}", f"has version {version} of its format", "Update Kaizen."
        )
    if type(entries) is not int or type(size) is not int or type(status) is not str:
        raise _damaged(where, "is damaged at its start")
    return Contents(entries=entries, size=size, status=status)


def unpack(data: bytes, *, limit: int, where: str) -> bytes:
    """Return what is inside.

    Raises:
        CheckpointLoadError: It is damaged, or larger than the limit or than it says.
    """
    said = contents(data, where=where)
    if said.size > limit:
        raise _damaged(where, f"holds more than {limit} bytes")
    unpacker = zlib.decompressobj(_GZIP)
    try:
        inside = unpacker.decompress(data, said.size + 1)
    except zlib.error:
        raise _damaged(where, "is damaged") from None
    if len(inside) != said.size or not unpacker.eof or unpacker.unused_data:
        raise _damaged(where, "is damaged or incomplete")
    return inside


def unpack_start(data: bytes, *, limit: int, where: str) -> bytes:
    """Return what the beginning of an archive gives, unchecked.

    Raises:
        CheckpointLoadError: It is damaged.
    """
    contents(data, where=where)
    try:
        return zlib.decompressobj(_GZIP).decompress(data, limit)
    except zlib.error:
        raise _damaged(where, "is damaged") from None


def _damaged(where: str, problem: str) -> CheckpointLoadError:
    return CheckpointLoadError(f"the file {where!r}", problem, "Restore it from a backup.")
