"""The process that is to become a command, and what was made for it before it is known."""

from __future__ import annotations

import json
import os
import signal
import socket

from kaizen_tools._bubblewrap import Enclosure
from kaizen_tools._command import NOT_STARTED, become_command
from kaizen_tools._order import block
from kaizen_tools._private import Private
from kaizen_tools._processes import end_all, ended, opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from kaizen_tools._order import Keep, Terms

__all__ = ["ENDING", "Starting"]

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""Signals that ask a command to end, and that its supervisor ignores."""


class Starting:
    """A process that is to become a command, in a session of its own.

    Attributes:
        process: Its process id; 0 if there is none.
        problem: Why there is none.
        private: What the command has for itself.
        own: The processes that are there for the command and not by it.
    """

    def __init__(self, terms: Terms, closed: Sequence[int]) -> None:
        """Do what can be done before there is an order. What fails is a `problem`.

        Args:
            closed: Descriptors that the command must not hold open.
        """
        self._terms = terms
        self.process = 0
        self.problem: OSError | None = None
        self.private: Private | None = None
        self.own: frozenset[int] = frozenset()
        self._enclosure: Enclosure | None = None
        self._watched: int | None = None
        self._listed = _listed(terms)
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                self._start(theirs, closed)
            except OSError as problem:
                self.problem = problem

    def _start(self, theirs: socket.socket, closed: Sequence[int]) -> None:
        self.private = Private(self._terms.temporary)
        wanted = self._terms.confinement
        if wanted is not None and wanted.backend == "bubblewrap":
            self._enclosure = Enclosure(wanted, self.private)
            self.own = frozenset(self._enclosure.processes)
        # The command is never deaf to them, however early they come.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        try:
            self.process = self._enclosure.fork() if self._enclosure else os.fork()
            if not self.process:
                self._become(theirs, closed)
            self._watched = opened(self.process)
        finally:
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def _become(self, theirs: socket.socket, closed: Sequence[int]) -> NoReturn:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            self._channel.close()
            for descriptor in closed:
                os.close(descriptor)
            if self.private is not None:
                become_command(self._terms, self.private, theirs, self._enclosure)
        finally:
            os._exit(NOT_STARTED)

    @property
    def enclosing(self) -> tuple[int, ...]:
        """What tells the ends of those of its own that take all others with them."""
        return self._enclosure.watched if self._enclosure is not None else ()

    def is_stale(self) -> bool:
        """Say whether what was made is not, or no longer, what a command needs."""
        if self.problem is not None or self.private is None or not self.private.is_there():
            return True
        if self._watched is not None and ended(self._watched):
            return True
        if self._listed != _listed(self._terms):
            return True
        return self._enclosure is not None and self._enclosure.is_stale()

    def is_exposed(self) -> bool:
        """Say whether the command may see now what was hidden from it."""
        return self._enclosure is not None and self._enclosure.is_exposed()

    def begin(self, text: bytes, directory: int, outputs: Sequence[int]) -> None:
        """Tell it the order, and what it writes to; it waits for what is protected.

        Raises:
            OSError: It cannot work, and says why.
        """
        if self.problem is not None:
            raise self.problem
        if self._terms.confinement is not None:
            self._terms.confinement.require_roots()
        # From a directory that was opened outside one could leave the namespaces.
        more = [] if self._enclosure else [directory]
        socket.send_fds(self._channel, [b"."], [*outputs, *more])
        self._channel.sendall(block(text))

    def run(self, kept: Mapping[str, Keep]) -> None:
        """Let it become the command."""
        self._channel.sendall(block(json.dumps(kept).encode("ascii")))
        self._channel.close()

    def give_up(self) -> None:
        """End it, if it is not the command yet, and all else that is below this process."""
        self._channel.close()
        end_all(self.process, None, self.enclosing)
        self.remove()

    def remove(self) -> None:
        """Remove what the command had for itself."""
        if self.private is not None:
            self.private.remove()


def _listed(terms: Terms) -> list[int]:
    """Return when the directories changed whose entries Landlock was given one by one.

    That is where something is hidden. Bubblewrap mounts over what is hidden instead.
    """
    wanted = terms.confinement
    if wanted is None or wanted.backend != "landlock":
        return []
    above = {path[:end] for path in wanted.hidden for end in _ends(path)}
    return [_changed(path) for path in sorted(above)]


def _ends(path: str) -> list[int]:
    return [place for place, sign in enumerate(path) if sign == "/" and place]


def _changed(path: str) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return 0
