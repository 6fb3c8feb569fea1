"""Keeps a process waiting that runs the next command, so that nobody waits for a fork."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from kaizen_tools._calls import become_subreaper
from kaizen_tools._order import Terms, read_block
from kaizen_tools._processes import children_of, ended, opened, send
from kaizen_tools._supervisor import prepare, supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["serve"]

_DESCRIPTORS = 4


def serve(requests: socket.socket) -> None:
    """Keep a supervisor waiting for the next request, until the other side is gone.

    What it says first is what holds for all commands.
    """
    with open(requests.fileno(), "rb", buffering=0, closefd=False) as said:
        terms = Terms.decoded(read_block(said))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel reaps them.
    if sys.platform == "linux":
        become_subreaper()
    supervisors: dict[int, int | None] = {}
    is_over = False
    while not is_over:
        reading, writing = os.pipe()
        if supervisor := os.fork():
            os.close(writing)
            supervisors[supervisor] = opened(supervisor)
            # It ends without a word once it has become a command: time for the next one.
            is_over = _heard(reading, supervisors) != b""
            os.close(reading)
            continue
        try:
            _wait_and_supervise(terms, requests, writing)
        finally:
            os._exit(0)
    _kill_strangers(supervisors)


def _heard(reading: int, supervisors: dict[int, int | None]) -> bytes:
    """Wait for what the last one says; end what is left of one that is killed meanwhile."""
    while True:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        for watched in supervisors.values():
            if watched is not None:
                poll.register(watched, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll()]
        gone = [each for each, watched in supervisors.items() if _is_gone(each, watched)]
        for process in gone:
            if (watched := supervisors.pop(process)) is not None:
                os.close(watched)
        if gone:
            _kill_strangers(supervisors)
        if reading in ready:
            return os.read(reading, 1)


def _is_gone(process: int, watched: int | None) -> bool:
    if watched is not None:
        return ended(watched)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def _kill_strangers(supervisors: Collection[int]) -> None:
    """Kill what comes to this process because a supervisor was killed."""
    for process in children_of(os.getpid()):
        if process not in supervisors:
            send(os.kill, process, signal.SIGKILL)


def _wait_and_supervise(terms: Terms, requests: socket.socket, over: int) -> None:
    """Serve one request. If there is none any more, or this cannot work, say so."""
    received: list[int] = []
    try:
        starting = prepare(terms, [over, requests.fileno()])
        _, received, _, _ = socket.recv_fds(requests, 1, _DESCRIPTORS)
        if not received:
            starting.give_up()
    finally:
        if not received:
            os.write(over, b".")
    if received:
        os.close(over)
        requests.close()
        for descriptor in received:
            os.set_inheritable(descriptor, False)
        control, directory, *outputs = received
        supervise(terms, starting, control, directory, outputs)
