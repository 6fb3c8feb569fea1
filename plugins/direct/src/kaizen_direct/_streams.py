"""Cuts the bytes of a stream into the JSON texts in it.

By hand and on bytes, since a decoder of text that looks at each line costs more than all
the rest of reading a stream.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["DONE", "Events", "Lines", "Splitter", "TooLong"]

DONE = b"[DONE]"


class TooLong(Exception):
    """One piece of a stream is longer than it may be."""


class Splitter(Protocol):
    """Takes bytes as they come and gives whole pieces."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces that are whole now.

        Raises:
            TooLong: The piece that is not whole yet is too long.
        """
        ...

    def rest(self) -> list[bytes]:
        """Return what is whole although nothing follows it."""
        ...


class _Held:
    """The beginning of a piece; its parts are joined once, however many there are."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._limit:
            raise TooLong

    def ends_line(self) -> bool:
        """Whether what is held ends with the end of a line."""
        return bool(self._parts) and self._parts[-1].endswith(b"\n")

    def take(self, data: bytes = b"") -> bytes:
        """Return what is held and what follows it."""
        if not self._parts:
            return data
        whole = b"".join((*self._parts, data))
        self._parts.clear()
        self._size = 0
        return whole


class Events:
    """Server-sent events; gives what stands in their `data`."""

    def __init__(self, limit: int) -> None:
        self._held = _Held(limit)
        self._half = b""

    def feed(self, data: bytes) -> list[bytes]:
        data, self._half = self._half + data, b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # which may be the first half of a line's end
                data, self._half = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n")
        if b"\n\n" not in data and not (data[:1] == b"\n" and self._held.ends_line()):
            if data:
                self._held.add(data)  # and not looked at again, however many lines it has
            return []
        *events, rest = self._held.take(data).split(b"\n\n")
        if rest:
            self._held.add(rest)
        return [found for event in events if (found := _data(event))]

    def rest(self) -> list[bytes]:
        """Return the mark of the end if it stands there without an empty line behind it."""
        found = _data(self._held.take().rstrip())
        return [found] if found == DONE else []


class Lines:
    """Newline-delimited JSON."""

    def __init__(self, limit: int) -> None:
        self._held = _Held(limit)

    def feed(self, data: bytes) -> list[bytes]:
        if b"\n" not in data:
            self._held.add(data)
            return []
        *lines, rest = self._held.take(data).split(b"\n")
        if rest:
            self._held.add(rest)
        return [line for line in lines if line and not line.isspace()]

    def rest(self) -> list[bytes]:
        """Return the last line if it is a whole object without an end of line behind it."""
        rest = self._held.take().strip()
        return [rest] if rest.startswith(b"{") and rest.endswith(b"}") else []


def _data(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [
        line[5:].removeprefix(b" ")
        for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines)
