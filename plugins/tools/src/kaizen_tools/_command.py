"""The process that becomes a command, as soon as it is known which."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from functools import partial
from io import BufferedReader
from typing import TypeAlias

from kaizen_tools._bubblewrap import Enclosure
from kaizen_tools._calls import refuse_calls
from kaizen_tools._landlock import Ruleset
from kaizen_tools._order import Confinement, Keep, Order, Terms, read_block
from kaizen_tools._private import Private

__all__ = ["NOT_STARTED", "become_command"]

NOT_STARTED = 126
"""How a command ends that could not be started, as shells have it."""
Confine: TypeAlias = Callable[[Mapping[str, Keep]], None]
"""Confines this process, given what to mount over itself, and how."""
_OUTPUTS, _DESCRIPTORS = 2, 3
_USUAL = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGTERM),  # the supervisor ignores them
    *(signal.SIGPIPE, signal.SIGXFSZ),  # Python does
)


def become_command(
    terms: Terms, private: Private, channel: socket.socket, enclosure: Enclosure | None
) -> None:
    """Wait for what the supervisor says, and execute it; end if it says nothing.

    Args:
        private: What the command has for itself.
        channel: Brings the output of the command, its errors and, without an enclosure, the
            directory that it runs in, as descriptors; then the order; then what is
            protected.
        enclosure: What this process is in.
    """
    os.setsid()
    for number in _USUAL:
        signal.signal(number, signal.SIG_DFL)
    confine = _prepared(terms.confinement, private, enclosure)
    _, received, _, _ = socket.recv_fds(channel, 1, _DESCRIPTORS)
    if len(received) < _OUTPUTS:
        os._exit(0)
    for descriptor in received:
        os.set_inheritable(descriptor, False)
    output, errors, *directory = received
    if directory:
        os.fchdir(directory[0])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    try:
        _execute(terms, channel.makefile("rb"), confine, private, enclosure)
    except EOFError:  # The supervisor has said why.
        os._exit(NOT_STARTED)
    except BaseException as error:  # noqa: BLE001 - this process ends here
        os.write(2, f"the command could not be started: {error}\n".encode())
        os._exit(NOT_STARTED)


def _prepared(
    wanted: Confinement | None, private: Private, enclosure: Enclosure | None
) -> Confine:
    """Do what can be done before the order comes."""
    if enclosure is not None:
        return enclosure.confine
    if wanted is None:
        return lambda kept: None
    try:
        ruleset = Ruleset(wanted)
    except OSError as problem:
        return partial(_fail, problem)
    program = bytes.fromhex(wanted.program_filter)

    def confine(kept: Mapping[str, Keep]) -> None:
        ruleset.confine((private.home, private.temporary))
        refuse_calls(program)

    return confine


def _fail(problem: OSError, kept: Mapping[str, Keep]) -> None:
    raise problem


def _execute(
    terms: Terms,
    said: BufferedReader,
    confine: Confine,
    private: Private,
    enclosure: Enclosure | None,
) -> None:
    order = Order.decoded(read_block(said))
    if not os.access(order.command[0], os.X_OK):
        raise FileNotFoundError(2, "no such program", order.command[0])
    kept: dict[str, Keep] = json.loads(read_block(said))
    if terms.confinement is not None:
        terms.confinement.require_roots()
    confine(kept)
    temporary = private.temporary
    if enclosure is not None:
        os.chdir(order.directory)
        temporary = enclosure.temporary
    for name, value in terms.limits.items():
        _limit(getattr(resource, name), value)
    if threads := _thread_count():
        # It counts the threads of the user, of whom there are no more than of all; a
        # second line behind the supervisor's counting. The kernel does not enforce it on
        # root.
        _limit(resource.RLIMIT_NPROC, threads + terms.processes)
    given = {"HOME": private.home, "TMPDIR": temporary}
    os.execve(order.command[0], order.command, {**given, **order.environment})  # noqa: S606


def _limit(kind: int, value: int) -> None:
    """Set a limit, or keep the one that there is if it is stricter."""
    _, hard = resource.getrlimit(kind)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))


def _thread_count() -> int:
    try:
        with open("/proc/loadavg", "rb") as file:  # noqa: PTH123 - paths are strings here
            return int(file.read().split()[3].partition(b"/")[2])
    except (OSError, ValueError, IndexError):
        return 0
