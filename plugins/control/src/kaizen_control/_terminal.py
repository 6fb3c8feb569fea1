"""A terminal that is read without blocking anything, and left as it was.

Lines are edited by the terminal itself. Ctrl+C ends a line while one is asked for, so that
it refuses a question rather than the whole program. What was typed before a question was
shown does not answer it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

from kaizen_control._descriptors import read_some, write_all
from kaizen_control._transport import TransportClosedError

__all__ = ["MAX_LINE_BYTES", "Terminal"]

MAX_LINE_BYTES = 4_000  # a terminal drops what is typed beyond 4,095
_REMEDY = (
    "answer by another channel, such as channel = 'http' under [kaizen], or later with "
    "`kaizen requests answer`"
)
_CTRL_C = b"\x03"


class Terminal:
    """A terminal to ask somebody at.

    Args:
        source: Where keys come from.
        sink: Where text goes to.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink

    @classmethod
    def find(cls, source: int | None = None, sink: int | None = None) -> Terminal:
        """Return the terminal of this process, or that of some descriptors.

        Raises:
            TransportClosedError: There is none, or somebody else has it now.
        """
        if os.name != "posix":
            raise TransportClosedError(f"terminals of this system are not known; {_REMEDY}")
        source = _number(sys.stdin) if source is None else source
        if source is None or not os.isatty(source):
            raise TransportClosedError(f"there is no terminal to read from; {_REMEDY}")
        sinks = (sink,) if sink is not None else map(_number, (sys.stderr, sys.stdout))
        for each in sinks:
            if each is not None and os.isatty(each):
                break
        else:
            raise TransportClosedError(f"there is no terminal to write to; {_REMEDY}")
        with suppress(OSError):  # it does not control this process, and stops nobody
            if os.tcgetpgrp(source) != os.getpgrp():
                raise TransportClosedError(f"the program is in the background; {_REMEDY}")
        return cls(source, each)

    def size(self) -> tuple[int, int]:
        """Return width and height, in characters; 0 if nobody knows."""
        try:
            return os.get_terminal_size(self._sink)
        except OSError:
            return 0, 0

    async def write(self, text: str) -> None:
        """Write some text."""
        try:
            await write_all(self._sink, text.encode("utf-8", "replace"))
        except OSError as error:
            raise TransportClosedError("the terminal is gone") from error

    async def ask(self, prompt: str) -> str | None:
        """Return the line that is typed after a prompt; `None` for Ctrl+C and Ctrl+D.

        Raises:
            TransportClosedError: The terminal is gone.
        """
        with self._asking():
            await self.write(prompt)
            line = b""
            while not line.endswith((b"\n", _CTRL_C)):
                try:
                    more = await read_some(self._source)
                except OSError as error:
                    raise TransportClosedError("the terminal is gone") from error
                if not more:
                    break
                line += more
        if not line.endswith(b"\n"):
            await self.write("\n")
            return None
        return line.decode("utf-8", "replace").strip()

    @contextmanager
    def _asking(self) -> Generator[None]:
        """Let Ctrl+C be a key, and forget what was typed so far."""
        import termios

        try:
            before = termios.tcgetattr(self._source)
        except termios.error as error:
            raise TransportClosedError("the terminal is gone") from error
        after = [*before[:6], list(before[6])]
        after[0] |= termios.ICRNL
        after[3] = (after[3] | termios.ICANON | termios.ECHO) & ~termios.ISIG
        after[6][termios.VEOL] = _CTRL_C
        try:
            termios.tcsetattr(self._source, termios.TCSAFLUSH, after)
            yield
        finally:
            with suppress(termios.error):
                termios.tcsetattr(self._source, termios.TCSANOW, before)


def _number(stream: object) -> int | None:
    try:
        return int(stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None
