"""Starts commands on request. A program of its own, small, so that it forks fast.

It is started as `python -I -S _spawner.py`, with a socket as its standard input. Each byte
that comes through the socket brings four descriptors: those that `supervise` takes. It ends
when the socket does; the commands then end by themselves, since theirs have ended too.

There is always one process that waits for the next request, so that nobody waits for a
fork.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kaizen_tools._order import Terms

__all__ = ["serve"]

_DESCRIPTORS = 4


def serve(requests: socket.socket) -> None:
    """Keep a supervisor waiting for the next request, until the other side is gone.

    What it says first is what holds for all commands.
    """
    from kaizen_tools._calls import become_subreaper
    from kaizen_tools._order import Terms, read_block

    with open(requests.fileno(), "rb", buffering=0, closefd=False) as said:
        terms = Terms.decoded(read_block(said))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel reaps them.
    if sys.platform == "linux":
        become_subreaper()
    supervisors: set[int] = set()
    is_over = False
    while not is_over:
        reading, writing = os.pipe()
        if supervisor := os.fork():
            os.close(writing)
            supervisors = _without_strangers({*supervisors, supervisor})
            # It ends without a word once it has become a command: time for the next one.
            is_over = os.read(reading, 1) != b""
            os.close(reading)
            continue
        try:
            _wait_and_supervise(terms, requests, writing)
        finally:
            os._exit(0)
    _without_strangers(supervisors)


def _without_strangers(supervisors: set[int]) -> set[int]:
    """Kill what a supervisor that was killed has left, which comes to this process.

    Returns:
        The supervisors that there still are.
    """
    from kaizen_tools._processes import children_of, send

    found = set(children_of(os.getpid()))
    for process in found - supervisors:
        send(os.kill, process, signal.SIGKILL)
    return found & supervisors


def _wait_and_supervise(terms: Terms, requests: socket.socket, over: int) -> None:
    """Serve one request. If there is none any more, or this cannot work, say so."""
    from kaizen_tools._supervisor import prepare, supervise

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


def _find_siblings() -> None:
    """Make the modules beside this one importable, without what the package imports.

    That would be the kernel, which takes longer to load than a command to run.
    """
    package = ModuleType("kaizen_tools")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120
    sys.modules["kaizen_tools"] = package


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # It would touch, and so copy, all memory that a fork shares.
    _find_siblings()
    from kaizen_tools import _supervisor  # noqa: F401 - once, and not after each fork

    asked = socket.socket(fileno=os.dup(0))
    # What runs must not keep the socket open: requests to nobody would then be waited for.
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    serve(asked)
