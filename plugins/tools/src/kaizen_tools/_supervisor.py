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

from kaizen_tools._calls import become_subreaper
from kaizen_tools._command import NOT_STARTED
from kaizen_tools._order import Order, Terms, read_block
from kaizen_tools._placeholders import Placeholders
from kaizen_tools._starting import ENDING, Starting, children_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = ["prepare", "supervise"]

_TICK_MS = 50
_KILL_S = 10.0
_ENOUGH_S = 0.01
_FREEZES = 20
_ASKED = 128 + signal.SIGTERM
_HAS_PROC = os.path.isdir("/proc/self")  # noqa: PTH112 - paths are strings here
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110


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
    return Starting(terms, closed)


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
            the report: the process ids of this process and of the command, and what the
            command has for itself, in hexadecimal; then the exit code, how many processes
            are left, and why it was stopped.
        directory: Where it runs.
        outputs: What it writes to.
    """
    try:
        with open(control, "rb", buffering=0, closefd=False) as orders:
            text = read_block(orders)
    except EOFError:
        starting.give_up()
        return
    if starting.problem is not None or starting.is_stale():
        starting.give_up()
        starting = Starting(terms, [control, directory, *outputs])
    order = Order.decoded(text)
    placeholders = _placeholders(terms)
    try:
        starting.begin(text, directory, outputs)
        report = _refused(starting, order, control, outputs[1], placeholders)
        if not report:
            for descriptor in (directory, *outputs):
                os.close(descriptor)
            private = os.fsencode(starting.private.path).hex() if starting.private else ""
            _send_report(control, f"{os.getpid()} {starting.process} {private}\n")
            watched = _watch(terms, starting, control, placeholders)
            status, left, stopped = watched
            report = f"{_exit_code(status)} {left} {stopped}\n"
    finally:
        if placeholders is not None:
            placeholders.remove()
        starting.remove()
    _send_report(control, report)
    starting.remove_rest()


def _refused(
    starting: Starting,
    order: Order,
    control: int,
    errors: int,
    placeholders: Placeholders | None,
) -> str:
    """Let a command run, if it can, and if it is still wanted.

    Returns:
        The report, if it does not run.
    """
    try:
        starting.require()
        _require_program(order.command[0])
        kept = _protected(placeholders, control)
        if kept is not None:
            starting.run(kept)
            return ""
    except OSError as error:
        starting.give_up()
        os.write(errors, f"the command could not be started: {error}\n".encode())
        return f"0 0 \n{NOT_STARTED} 0 \n"
    starting.give_up()
    return f"0 0 \n{_ASKED} 0 asked\n"


def _require_program(path: str) -> None:
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(2, "no such program", path)


def _placeholders(terms: Terms) -> Placeholders | None:
    wanted = terms.confinement
    is_wrapped = wanted is not None and wanted.backend == "bubblewrap"
    return Placeholders(wanted) if wanted is not None and is_wrapped else None


def _protected(placeholders: Placeholders | None, control: int) -> tuple[str, ...] | None:
    """Return what bubblewrap has to protect, or `None` if the command is not wanted now."""

    def is_asked(timeout_ms: int) -> bool:
        poll = select.poll()
        poll.register(control, select.POLLIN)
        return bool(poll.poll(timeout_ms))

    kept = () if placeholders is None else placeholders.make(is_asked)
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
        status, stopped = _wait(child, control, terms.processes + len(own), placeholders)
        if stopped == "asked" and terms.grace_s:
            status = _let_end(child, terms, own)
    finally:
        status, left = _end(child, status, starting.enclosing)
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


def _wait(
    child: int, control: int, processes: int, placeholders: Placeholders | None
) -> tuple[int | None, str]:
    """Wait until the command ends or has to.

    Returns:
        Its status, if it ended by itself; and why it has to be stopped, or `""`.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if (opened := _opened(child)) is not None:
        poll.register(opened, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_TICK_MS)]
        status, _ = _reap(child)
        if status is not None:
            return status, ""
        if control in ready:
            return None, "asked"
        if _are_over(processes):
            return None, "processes"
        if placeholders is not None and placeholders.are_replaced():
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
    frozen = _frozen()
    asked = _others(own)
    for process in asked:
        _send(os.kill, process, signal.SIGTERM)
    if _HAS_PROC and not asked:
        return None  # The command has ended.
    for process in frozen:
        _send(os.kill, process, signal.SIGCONT)
    if not _HAS_PROC:
        _send(os.killpg, child, signal.SIGTERM)
    status, pause = None, 0.001
    while time.monotonic() < deadline and not _are_over(terms.processes + len(own)):
        found, is_all = _reap(child)
        status = found if status is None else status
        if is_all or (_HAS_PROC and not _others(own)):
            break
        time.sleep(pause)
        pause = min(pause * 2, _TICK_MS / 1000)
    return status


def _end(child: int, status: int | None, first: Sequence[int] = ()) -> tuple[int, int]:
    """Kill everything below this process, until there is nothing or it takes too long.

    Args:
        first: Processes that take all others with them, if there are such.

    Returns:
        The status of the command, and how many processes are left.
    """
    deadline = time.monotonic() + _KILL_S
    if not _HAS_PROC:
        _send(os.killpg, child, signal.SIGKILL)
    for process in first:
        _send(os.kill, process, signal.SIGKILL)
    pause, is_enough = 0.001, bool(first)
    while True:
        found, is_all = _reap(child)
        status = found if status is None else status
        if is_all or time.monotonic() >= deadline:
            left = 0 if is_all else max(1, len(_descendants()))
            return 0x7F00 if status is None else status, left
        if not is_enough:
            _kill_descendants(child, has_ended=status is not None)
        _wait_for_a_child(pause)
        is_enough = is_enough and pause < _ENOUGH_S
        pause = min(pause * 2, 0.02)


def _kill_descendants(child: int, *, has_ended: bool) -> None:
    if not has_ended:
        # The whole group in one go, which no fork escapes.
        _send(os.killpg, child, signal.SIGKILL)
    for process in _frozen():
        _send(os.kill, process, signal.SIGKILL)


def _wait_for_a_child(timeout_s: float) -> None:
    """Wait until a child ends, but not longer than this."""
    poll = select.poll()
    opened = []
    try:
        for child in children_of(os.getpid()):
            if (descriptor := _opened(child)) is not None:
                opened.append(descriptor)
                poll.register(descriptor, select.POLLIN)
        if opened:
            poll.poll(timeout_s * 1000)
        else:
            time.sleep(timeout_s)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _opened(process: int) -> int | None:
    """Return what tells the end of a process, if the system has such a thing."""
    try:
        return os.pidfd_open(process)
    except (AttributeError, OSError):
        return None


def _frozen() -> set[int]:
    """Stop everything below this process, so that nothing forks while it is killed."""
    known: set[int] = set()
    for _ in range(_FREEZES):
        found = set(_descendants())
        for process in found - known:
            _send(os.kill, process, signal.SIGSTOP)
        if found <= known:
            break
        known |= found
    return known


def _send(how: Callable[[int, int], None], to: int, number: int) -> None:
    try:
        how(to, number)
    except (ProcessLookupError, PermissionError):
        return


def _reap(child: int) -> tuple[int | None, bool]:
    """Reap all that has ended.

    Returns:
        The command's status if it is among it, and whether nothing is left: what has no
        child has no descendant.
    """
    found = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found, True
        if process == 0:
            return found, False
        if process == child:
            found = status


def _are_over(processes: int) -> bool:
    return len(_descendants(processes)) > processes


def _descendants(enough: int = sys.maxsize) -> list[int]:
    """Return the processes below this one, at least one more than `enough` if there are.

    None where there is no `/proc`.
    """
    if not _HAS_PROC:
        return []
    children = children_of if _HAS_CHILDREN else _all_children().get
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting and len(found) <= enough:
        below = children(waiting.pop()) or []
        found += below
        waiting += below
    return found


def _others(own: Collection[int]) -> list[int]:
    """Return the processes below this one that are not those of bubblewrap."""
    return [process for process in _descendants() if process not in own]


def _all_children() -> dict[int, list[int]]:
    """Return the children of all processes of the machine, for kernels that list none."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - starts faster
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - starts faster
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(name))
    return children


def _exit_code(status: int) -> int:
    """Return an exit code as shells count: 128 and the number of the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
