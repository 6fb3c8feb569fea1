"""The program that starts commands, as this one sees it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kaizen_tools._order import Terms

__all__ = ["Spawner"]

_END_S = 5.0


class Spawner:
    """Starts supervisors of commands, by a small program that runs from the first one on.

    A fresh Python for each command would take longer than most commands do. All methods
    block, and may be called from any thread.

    Args:
        terms: What holds for all commands.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms.encoded()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._is_closed = False

    def start(self, descriptors: Sequence[int]) -> socket.socket:
        """Start a supervisor, which waits for its order.

        Args:
            descriptors: The directory that the command runs in, its output and its errors.

        Returns:
            The socket that it takes its order from, and reports to.

        Raises:
            RuntimeError: This was closed.
            OSError: The program cannot be started, or ends at once.
        """
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                self._request([theirs.fileno(), *descriptors])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return ours

    def close(self) -> None:
        """End the program, and wait until it is gone."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _request(self, descriptors: Sequence[int]) -> None:
        if self._is_closed:
            raise RuntimeError("no more commands are started")
        if self._requests is not None:
            with suppress(OSError):  # It was killed; there is another one.
                socket.send_fds(self._requests, [b"."], descriptors)
                return
            self._end()
        try:
            socket.send_fds(self._begin(), [b"."], descriptors)
        except OSError:
            self._end()
            raise

    def _begin(self) -> socket.socket:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("_spawner.py"))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=os.sep,
                env={},
                start_new_session=True,
            )
        self._requests.sendall(self._terms)
        return self._requests

    def _end(self) -> None:
        if self._requests is not None:
            # Others may have a copy of it: what was forked from this program meanwhile.
            with suppress(OSError):
                self._requests.shutdown(socket.SHUT_RDWR)
            self._requests.close()
            self._requests = None
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
