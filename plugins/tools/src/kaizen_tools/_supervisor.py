"""Runs one command, and leaves nothing of it behind, in a process of its own.

What the command starts stays below this process, wherever it puts itself: an orphan comes
to the nearest subreaper above. At the end all of them are killed. The limits of the command
are not those of this process, which has to outlast it, and neither is its confinement.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from functools import partial

from kaizen_tools._calls import become_subreaper
from kaizen_tools._command import NOT_STARTED
from kaizen_tools._order import Terms, read_block
from kaizen_tools._placeholders import Placeholders
from kaizen_tools._processes import (
    HAS_PROC,
    descendants,
    end_all,
    freeze,
    opened,
    reap,
    send,
)
from kaizen_tools._starting import ENDING, Starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from kaizen_tools._order import Keep

__all__ = ["prepare", "supervise"]

_TICK_MS = 50
_ASKED = 128 + signal.SIGTERM


def prepare(terms: Terms, closed: Sequence[int]) -> Starting:
    """Do what can be done before there is an order.

    Args:
        closed: Descriptors that the command must not hold open.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        become_subreaper()
    _become_urgent()
    starting = Starting(terms, closed)
    starting.is_stale()  # What was done once is done faster when somebody waits for it.
    return starting


def supervise(
    terms: Terms,
    starting: Starting,
    control: int,
    directory: int,
    outputs: Sequence[int],
) -> None:
    """Run a command, and report how it ended.

    Args:
        control: A socket. It gives the order, and says to stop when it says anything more
            or ends: when the program that gave the order closes it, or is gone. It takes
            the report, in two lines: the process ids of this process and of the command,
            and the path of what the command has for itself, in hexadecimal; at the end the
            exit code, how many processes are left, and why it was stopped.
        directory: Where it runs.
        outputs: What it writes to.
    """
    try:
        with open(control, "rb", buffering=0, closefd=False) as orders:
            text = read_block(orders)
    except EOFError:
        starting.give_up()
        return
    if starting.is_stale():
        starting.give_up()
        starting = Starting(terms, [control, directory, *outputs])
    private = os.fsencode(starting.private.path).hex() if starting.private else ""
    _send_report(control, f"{os.getpid()} {starting.process} {private}\n")
    try:
        given = [directory, *outputs]
        _send_report(control, _ran(terms, starting, text, control, given))
    finally:
        starting.remove()  # It may be much, and nobody has to wait for it.


def _ran(
    terms: Terms, starting: Starting, text: bytes, control: int, given: Sequence[int]
) -> str:
    """Run a command; return the report of its end.

    Args:
        given: The descriptors of its directory, its output and its errors.
    """
    placeholders = _placeholders(terms)
    try:
        report = _refused(starting, text, control, given, placeholders)
        for descriptor in given:
            os.close(descriptor)
        if not report:
            status, left, stopped = _watch(terms, starting, control, placeholders)
            report = f"{_exit_code(status)} {left} {stopped}\n"
    finally:
        if placeholders is not None:
            placeholders.remove()
    return report


def _refused(
    starting: Starting,
    text: bytes,
    control: int,
    given: Sequence[int],
    placeholders: Placeholders | None,
) -> str:
    """Let a command run, if it can, and if it is still wanted.

    Returns:
        The report, if it does not run.
    """
    try:
        starting.begin(text, given[0], given[1:])
        kept = _protected(placeholders, control)
        if kept is not None:
            starting.run(kept)
            return ""
    except OSError as error:
        starting.give_up()
        os.write(given[-1], f"the command could not be started: {error}\n".encode())
        return f"{NOT_STARTED} 0 \n"
    starting.give_up()
    return f"{_ASKED} 0 asked\n"


def _placeholders(terms: Terms) -> Placeholders | None:
    wanted = terms.confinement
    is_wrapped = wanted is not None and wanted.backend == "bubblewrap"
    return Placeholders(wanted) if wanted is not None and is_wrapped else None


def _protected(
    placeholders: Placeholders | None, control: int
) -> Mapping[str, Keep] | None:
    """Return what to mount over itself, or `None` if the command is not wanted now."""

    def is_asked(timeout_ms: int) -> bool:
        poll = select.poll()
        poll.register(control, select.POLLIN)
        return bool(poll.poll(timeout_ms))

    kept = {} if placeholders is None else placeholders.make(is_asked)
    return None if is_asked(0) else kept


def _watch(
    terms: Terms, starting: Starting, control: int, placeholders: Placeholders | None
) -> tuple[int, int, str]:
    """Wait until a command ends or has to, and end all of it.

    Returns:
        Its status, how many processes are left, and why it was stopped.
    """
    child, own = starting.process, starting.own
    status: int | None = None
    try:
        is_replaced = partial(_is_replaced, starting, placeholders)
        status, stopped = _wait(child, control, terms.processes + len(own), is_replaced)
        if stopped == "asked" and terms.grace_s:
            status = _let_end(child, terms, own)
    finally:
        status, left = end_all(child, status, starting.enclosing)
    return status, left, stopped


def _send_report(control: int, line: str) -> None:
    try:
        os.write(control, line.encode())
    except OSError:  # Who gave the order is gone.
        return


def _become_urgent() -> None:
    """Run before the command does, so that it cannot keep this process from ending it.

    Root may do so. Others may not, but for them the limit on processes holds, which the
    kernel does not enforce on root.
    """
    try:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except (AttributeError, OSError):
        return


def _is_replaced(starting: Starting, placeholders: Placeholders | None) -> bool:
    """Say whether something else is where something was protected or hidden."""
    if placeholders is None:
        return False
    return placeholders.are_replaced() or starting.is_exposed()


def _wait(
    child: int, control: int, processes: int, is_replaced: Callable[[], bool]
) -> tuple[int | None, str]:
    """Wait until the command ends or has to.

    Returns:
        Its status, if it ended by itself; and why it has to be stopped, or `""`.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if (watched := opened(child)) is not None:
        poll.register(watched, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_TICK_MS)]
        status, _ = reap(child)
        if status is not None:
            return status, ""
        if control in ready:
            return None, "asked"
        if _are_over(processes):
            return None, "processes"
        if is_replaced():
            return None, "replaced"


def _let_end(child: int, terms: Terms, own: Collection[int]) -> int | None:
    """Ask everything to end, and give it time, but not to multiply.

    It is frozen while it is asked, so that nothing starts unasked meanwhile. What it
    starts afterwards may be what cleans up.

    Args:
        own: The processes of bubblewrap. If they end before the command does, they take it
            with them.

    Returns:
        The status of the command, if it ends.
    """
    deadline = time.monotonic() + terms.grace_s
    frozen = freeze()
    asked = _others(own)
    for process in asked:
        send(os.kill, process, signal.SIGTERM)
    if HAS_PROC and not asked:
        return None  # The command has ended.
    for process in frozen:
        send(os.kill, process, signal.SIGCONT)
    if not HAS_PROC:
        send(os.killpg, child, signal.SIGTERM)
    status, pause = None, 0.001
    while time.monotonic() < deadline and not _are_over(terms.processes + len(own)):
        found, is_all = reap(child)
        status = found if status is None else status
        if is_all or (HAS_PROC and not _others(own)):
            break
        time.sleep(pause)
        pause = min(pause * 2, _TICK_MS / 1000)
    return status


def _are_over(processes: int) -> bool:
    return len(descendants(processes)) > processes


def _others(own: Collection[int]) -> list[int]:
    """Return the processes below this one that are not those of bubblewrap."""
    return [process for process in descendants() if process not in own]


def _exit_code(status: int) -> int:
    """Return an exit code as shells count: 128 and the number of the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
