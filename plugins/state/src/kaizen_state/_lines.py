"""How entries of a run log are written as lines, and read again.

Each entry is one line, one JSON object, whose keys stand in this order:

    {"crc":"1a2b3c4d","size":"000000b2","v":1,"seq":12,"first":12,"more":0,
     "status":"running","type":"tool_intended","version":1,"body":{…}}

| key | what it says |
|---|---|
| `crc` | CRC-32 of everything from `"size"` to the last brace, as 8 hexadecimal digits |
| `size` | bytes of the line, its end included, as 8 hexadecimal digits |
| `v` | version of this format |
| `seq` | position of the entry in its log |
| `first`, `more` | its append: the first entry of it, and how many entries follow |
| `status` | the status of the run after it |
| `type`, `version`, `body` | the entry, as `StoredEntry` has it |

The two numbers of fixed length come first, so that a line is checked by slicing. A line
says to which append it belongs, so that an append counts whole or not at all.

What a crash leaves is the last append, too short, or with zeros where a part of it never
reached the disk. Anything else is damage: an append that is all there and yet wrong may
have been acknowledged, and what it says was done must not be done again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from kaizen.errors import CheckpointLoadError, CheckpointSaveError
from kaizen.ports import StoredEntry

__all__ = [
    "MAX_APPEND_BYTES",
    "MAX_BODY_BYTES",
    "Lines",
    "line_at",
    "lines_of",
    "read_lines",
]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_APPEND_BYTES = 256 * 1024 * 1024
VERSION = 1

_COVERED = len('{"crc":"01234567",')
_PREFIX = len('{"crc":"01234567","size":"01234567",')
_START = b'\n{"crc":"'
_NUMBER = rb"(0|[1-9][0-9]{0,15})"
_WORD = rb"[ !#-\[\]-~]"
_ANY_VERSION = re.compile(
    rb'\{"crc":"([0-9a-f]{8})","size":"([0-9a-f]{8})","v":' + _NUMBER + rb","
)
_LINE = re.compile(
    rb'\{"crc":"([0-9a-f]{8})","size":"([0-9a-f]{8})","v":1,"seq":'
    + _NUMBER
    + rb',"first":'
    + _NUMBER
    + rb',"more":'
    + _NUMBER
    + rb',"status":"('
    + _WORD
    + rb'{0,64})","type":"('
    + _WORD
    + rb'{1,100})","version":'
    + _NUMBER
    + rb',"body":'
)
# A part that never reached the disk ends where a sector ends: it is one zero alone only at
# the start of an append, or at the end of a file. Elsewhere, that was a space once.
_UNWRITTEN = re.compile(rb"\A\0|\0\0")
_IS_TYPE = re.compile(r"[ !#-\[\]-~]{1,100}")
_IS_STATUS = re.compile(r"[ !#-\[\]-~]{0,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One entry, and what its line says besides.

    Attributes:
        end: Where the line ends.
    """

    entry: StoredEntry
    first: int
    more: int
    status: str
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What a piece of a log holds.

    Attributes:
        entries: Those of whole appends.
        end: Where the last whole append ends; what follows was torn by a crash.
        status: The status after it, or `""` if there is none.
    """

    entries: list[StoredEntry]
    end: int
    status: str


def lines_of(entries: Sequence[StoredEntry], statuses: Sequence[str]) -> bytes:
    """Return the lines of one append.

    Args:
        entries: Consecutive entries.
        statuses: The status of the run after each of them.

    Raises:
        CheckpointSaveError: An entry cannot be written so that it comes back as it is.
    """
    parts: list[bytes] = []
    first, last = entries[0].seq, entries[-1].seq
    for entry, status in zip(entries, statuses, strict=True):
        body = entry.body
        _require_writable(entry, status)
        rest = (
            f'"v":{VERSION},"seq":{entry.seq},"first":{first},"more":{last - entry.seq},'
            f'"status":"{status}","type":"{entry.type}","version":{entry.version},"body":'
        ).encode("ascii")
        head = b'"size":"%08x",%b' % (_PREFIX + len(rest) + len(body) + 2, rest)
        crc = crc32(b"}", crc32(body, crc32(head)))
        parts += (b'{"crc":"%08x",' % crc, head, body, b"}\n")
    joined = b"".join(parts)
    if len(joined) > MAX_APPEND_BYTES:
        raise CheckpointSaveError(
            f"an append of {len(entries)} entries",
            f"has more than {MAX_APPEND_BYTES} bytes",
        )
    return joined


def _require_writable(entry: StoredEntry, status: str) -> None:
    subject = f"entry {entry.seq} ({entry.type!r:.120})"
    if b"\n" in entry.body:
        raise CheckpointSaveError(
            subject, "has more than one line", "Write its JSON without line breaks."
        )
    if len(entry.body) > MAX_BODY_BYTES:
        raise CheckpointSaveError(subject, f"has more than {MAX_BODY_BYTES} bytes")
    if not _IS_TYPE.fullmatch(entry.type) or not 0 <= entry.version < 10**9:
        raise CheckpointSaveError(subject, "has a type or a version that cannot be kept")
    if not _IS_STATUS.fullmatch(status):
        raise CheckpointSaveError(subject, "gives its run a status that cannot be kept")


def line_at(data: bytes, at: int = 0) -> Line | None:
    """Return the whole and undamaged line that begins at a place, if there is one."""
    found = _LINE.match(data, at)
    if found is None:
        return None
    crc, size, seq, first, more, status, kind, version = found.groups()
    end = at + int(size, 16)
    if not found.end() < end <= len(data):
        return None
    if data[end - 2 : end] != b"}\n" or crc32(data[at + _COVERED : end - 1]) != int(
        crc, 16
    ):
        return None
    return Line(
        entry=StoredEntry(
            seq=int(seq),
            type=kind.decode("ascii"),
            version=int(version),
            body=data[found.end() : end - 2],
        ),
        first=int(first),
        more=int(more),
        status=status.decode("ascii"),
        end=end,
    )


def read_lines(data: bytes, seq: int, *, where: str, may_be_torn: bool) -> Lines:
    """Read the lines of one segment and check every one of them.

    Args:
        data: The segment.
        seq: Position of its first entry.
        where: What the segment is called in errors.
        may_be_torn: Whether a crash can have left its last append incomplete.

    Raises:
        CheckpointLoadError: Something is damaged, or out of order.
    """
    entries: list[StoredEntry] = []
    at = end = whole = 0
    first, more, status, whole_status = seq, b"0", b"", b""
    size = len(data)
    match, covered = _LINE.match, _COVERED
    while at < size:
        found = match(data, at)
        if found is None:
            break
        crc, length, at_seq, at_first, at_more, status, kind, version = found.groups()
        stop = at + int(length, 16)
        if stop > size or crc32(data[at + covered : stop - 1]) != int(crc, 16):
            break
        if more == b"0":
            first = seq
            consistent = True
        else:
            consistent = int(at_more) == int(more) - 1
        if int(at_seq) != seq or int(at_first) != first or not consistent:
            raise _damaged(where, seq, f"is out of order: entry {int(at_seq)} stands there")
        if data[stop - 2 : stop] != b"}\n":
            if data[stop - 1]:
                raise _damaged(where, seq, "is damaged at its end")
            break
        entries.append(
            StoredEntry(
                seq=seq,
                type=kind.decode("ascii"),
                version=int(version),
                body=data[found.end() : stop - 2],
            )
        )
        seq += 1
        at, more = stop, at_more
        if more == b"0":
            end, whole, whole_status = at, len(entries), status
    if end < size:
        torn_from = seq - len(entries) + whole
        _require_torn(data, at, torn_from, seq, where, may_be_torn=may_be_torn)
    del entries[whole:]
    return Lines(entries=entries, end=end, status=whole_status.decode("ascii"))


def _require_torn(
    data: bytes, at: int, torn_from: int, seq: int, where: str, *, may_be_torn: bool
) -> None:
    """Raise unless what is wrong from `at` on is the append that began at an entry."""
    newer = _newer_version(data, at)
    if newer:
        raise _damaged(
            where,
            seq,
            f"has version {newer} of the format, newer than {VERSION}",
            "Update Kaizen.",
        )
    if not may_be_torn:
        raise _damaged(where, seq, "is damaged or incomplete")
    line = data[at : data.find(b"\n", at) + 1]
    if line and not _UNWRITTEN.search(line):
        raise _damaged(where, seq, "is damaged, and was not left so by a crash")
    while (start := data.find(_START, at)) >= 0:
        at = start + 1
        later = line_at(data, at)
        if later is not None and later.first != torn_from:
            raise _damaged(where, seq, f"is damaged, before entry {later.entry.seq}")


def _newer_version(data: bytes, at: int) -> int:
    found = _ANY_VERSION.match(data, at)
    if found is None or int(found[3]) <= VERSION:
        return 0
    end = at + int(found[2], 16)
    whole = end <= len(data) and crc32(data[at + _COVERED : end - 1]) == int(found[1], 16)
    return int(found[3]) if whole else 0


def _damaged(where: str, seq: int, problem: str, remedy: str = "") -> CheckpointLoadError:
    return CheckpointLoadError(
        f"entry {seq} in {where}", problem, remedy or "Restore the file from a backup."
    )
