"""Starts commands on request. A program of its own, small, so that it forks fast.

It is started as `python -I -S _spawner.py`, with a socket as its standard input. Each byte
that comes through the socket brings four descriptors: those that `supervise` takes. It ends
when the socket does; the commands then end by themselves, since theirs have ended too.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from types import ModuleType

__all__: list[str] = []


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
    from kaizen_tools._serving import serve

    asked = socket.socket(fileno=os.dup(0))
    # What runs must not keep the socket open: requests to nobody would then be waited for.
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    serve(asked)
