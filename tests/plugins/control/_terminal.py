"""A terminal at which a test sits: what is shown on it, and the keys of a person."""

from __future__ import annotations

import os
import termios
from collections.abc import Generator
from contextlib import contextmanager

import anyio

DEADLINE_S = 10.0


class Seat:
    """The other end of a terminal.

    Attributes:
        slave: The terminal, as the program knows it.
        seen: What was shown so far.
    """

    def __init__(self, height: int = 40, width: int = 100) -> None:
        self._master, self.slave = os.openpty()
        termios.tcsetwinsize(self.slave, (height, width))
        self.seen = ""
        self._position = 0

    def close(self) -> None:
        for each in (self._master, self.slave):
            if each >= 0:
                os.close(each)
        self._master = self.slave = -1

    def hang_up(self) -> None:
        os.close(self._master)
        self._master = -1

    async def sees(self, text: str) -> str:
        """Wait until a text is shown, after what was waited for before.

        Returns:
            What was shown until then.
        """
        with anyio.fail_after(DEADLINE_S):
            while (found := self.seen.find(text, self._position)) < 0:
                await anyio.wait_readable(self._master)
                shown = os.read(self._master, 65_536).decode("utf-8", "replace")
                self.seen += shown.replace("\r\n", "\n")
        start, self._position = self._position, found + len(text)
        return self.seen[start : self._position]

    async def types(self, keys: str) -> None:
        """Press keys."""
        await anyio.wait_writable(self._master)
        os.write(self._master, keys.encode())


@contextmanager
def seat(height: int = 40, width: int = 100) -> Generator[Seat]:
    made = Seat(height, width)
    try:
        yield made
    finally:
        made.close()
