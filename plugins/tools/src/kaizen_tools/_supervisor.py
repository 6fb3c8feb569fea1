"""Runs one command, and leaves nothing of it behind, in a process of its own.

What the command starts stays below this process, wherever it puts itself: an orphan comes
to the nearest subreaper above. At the end all of them are killed. The limits of the command
are not those of this process, which has to outlast it, and neither is its confinement.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time

from kaizen_tools._bubblewrap import Placeholders, arguments
from kaizen_tools._landlock import confine, refuse_calls
from kaizen_tools._order import Order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["supervise"]

_PR_SET_CHILD_SUBREAPER = 36
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_TICK_MS = 50
_KILL_S = 10.0
_FREEZES = 20
_OF_BUBBLEWRAP = 2
_NOT_STARTED = 126
_HAS_PROC = os.path.isdir("/proc/self")  # noqa: PTH112 - paths are strings here
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110


def supervise(control: int, directory: int, outputs: tuple[int, int]) -> None:
    """Run a command, and report how it ended.

    Args:
        control: A socket. It gives the order, and says to stop when it says anything more
            or ends: when the program that gave the order closes it, or is gone. It takes
            the report: the process ids of this process and of the command; then the exit
            code, how many processes are left, and why it was stopped.
        directory: Where it runs.
        outputs: What it writes to.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    order = _read_order(control)
    placeholders = _placeholders(order)
    try:
        try:
            child = _start(order, directory, outputs, placeholders)
        except OSError as error:
            os.write(outputs[1], f"the command could not be started: {error}\n".encode())
            _send_report(control, f"0 0\n{_NOT_STARTED} 0 \n")
            return
        for descriptor in (directory, *outputs):
            os.close(descriptor)
        _send_report(control, f"{os.getpid()} {child}\n")
        status, left, stopped = _watch(order, child, control)
    finally:
        if placeholders is not None:
            placeholders.remove()
    _send_report(control, f"{_exit_code(status)} {left} {stopped}\n")


def _placeholders(order: Order) -> Placeholders | None:
    wanted = order.confinement
    is_wrapped = wanted is not None and wanted.backend == "bubblewrap"
    return Placeholders(wanted) if wanted is not None and is_wrapped else None


def _watch(order: Order, child: int, control: int) -> tuple[int, int, str]:
    """Wait until a command ends or has to, and end all of it.

    Returns:
        Its status, how many processes are left, and why it was stopped.
    """
    _become_urgent()
    own = _OF_BUBBLEWRAP if _placeholders(order) is not None else 0
    status, stopped = _wait(child, control, order.processes + own)
    if stopped == "asked" and order.grace_s:
        status = _let_end(child, order, own)
    status, left = _end(child, status)
    return status, left, stopped


def _read_order(control: int) -> Order:
    length = b""
    while not length.endswith(b"\n"):
        length += _read(control, 1)
    missing = int(length)
    pieces = []
    while missing:
        pieces.append(_read(control, min(missing, 1 << 16)))
        missing -= len(pieces[-1])
    return Order.decoded(b"".join(pieces))


def _read(control: int, count: int) -> bytes:
    piece = os.read(control, count)
    if not piece:
        raise EOFError("nobody wants the command any more")
    return piece


def _send_report(control: int, line: str) -> None:
    try:
        os.write(control, line.encode())
    except OSError:  # Who gave the order is gone.
        return


def _become_subreaper() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


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


def _start(
    order: Order,
    directory: int,
    outputs: tuple[int, int],
    placeholders: Placeholders | None,
) -> int:
    """Start the command in a session of its own, with its limits."""
    if not os.access(order.command[0], os.X_OK):
        raise FileNotFoundError(2, "no such program", order.command[0])
    kept = placeholders.make() if placeholders is not None else ()
    # What the command leaves behind is to come here, and not before it is started.
    _become_subreaper()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        os.fchdir(directory)
        for number in (*_ENDING, *_IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        command = _confined(order, kept)
        for name, value in order.limits.items():
            _limit(getattr(resource, name), value)
        if _HAS_PROC:
            # It counts the threads of the user, of whom there are no more than of all; a
            # second line behind the counting here. The kernel does not enforce it on root.
            _limit(resource.RLIMIT_NPROC, _thread_count() + order.processes)
        os.execve(command[0], command, dict(order.environment))  # noqa: S606
    except BaseException as error:  # noqa: BLE001 - this process is a copy, and ends here
        os.write(2, f"the command could not be started: {error}\n".encode())
    os._exit(_NOT_STARTED)


def _confined(order: Order, kept: tuple[str, ...]) -> list[str]:
    """Confine this process if the order wants that, and return what to execute."""
    wanted = order.confinement
    if wanted is None:
        return list(order.command)
    program = bytes.fromhex(wanted.program_filter)
    wanted.require_roots()
    if wanted.backend == "landlock":
        confine(wanted)
        refuse_calls(program)
        return list(order.command)
    source, sink = os.pipe()
    os.write(sink, program)
    os.close(sink)
    os.set_inheritable(source, True)
    return [*arguments(wanted, order.directory, kept, source), *order.command]


def _limit(kind: int, value: int) -> None:
    """Set a limit, or keep the one that there is if it is stricter."""
    _, hard = resource.getrlimit(kind)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))


def _wait(child: int, control: int, processes: int) -> tuple[int | None, str]:
    """Wait until the command ends or has to.

    Returns:
        Its status, if it ended by itself; and why it has to be stopped, or `""`.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if hasattr(os, "pidfd_open"):
        poll.register(os.pidfd_open(child), select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_TICK_MS)]
        status, _ = _reap(child)
        if status is not None:
            return status, ""
        if control in ready:
            return None, "asked"
        if _are_over(processes):
            return None, "processes"


def _let_end(child: int, order: Order, own: int) -> int | None:
    """Ask everything to end, and give it time, but not to multiply.

    Args:
        own: How many processes belong to bubblewrap. They end when the command does, and
            take it with them if they end before.

    Returns:
        The status of the command, if it ends.
    """
    deadline = time.monotonic() + order.grace_s
    for process in _descendants()[own:]:
        _send(os.kill, process, signal.SIGTERM)
    if not _HAS_PROC:
        _send(os.killpg, child, signal.SIGTERM)
    status, pause = None, 0.001
    while time.monotonic() < deadline and not _are_over(order.processes + own):
        found, is_all = _reap(child)
        status = found if status is None else status
        if is_all:
            break
        time.sleep(pause)
        pause = min(pause * 2, _TICK_MS / 1000)
    return status


def _end(child: int, status: int | None) -> tuple[int, int]:
    """Kill everything below this process, until there is nothing or it takes too long.

    Returns:
        The status of the command, and how many processes are left.
    """
    deadline = time.monotonic() + _KILL_S
    if not _HAS_PROC:
        _send(os.killpg, child, signal.SIGKILL)
    pause = 0.001
    while True:
        found, is_all = _reap(child)
        status = found if status is None else status
        if is_all or time.monotonic() >= deadline:
            left = 0 if is_all else max(1, len(_descendants()))
            return 0x7F00 if status is None else status, left
        if status is None:
            # The whole group in one go, which no fork escapes.
            _send(os.killpg, child, signal.SIGKILL)
        for process in _frozen():
            _send(os.kill, process, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


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
    children = _children if _HAS_CHILDREN else _all_children().get
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting and len(found) <= enough:
        below = children(waiting.pop()) or []
        found += below
        waiting += below
    return found


def _children(process: int) -> list[int]:
    """Return the children of a process. Takes as long as it has threads."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208 - starts faster
            path = f"/proc/{process}/task/{thread}/children"
            with open(path, "rb") as file:  # noqa: PTH123 - starts faster
                found += map(int, file.read().split())
    except OSError:
        return found
    return found


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


def _thread_count() -> int:
    try:
        with open("/proc/loadavg", "rb") as file:  # noqa: PTH123 - starts faster
            return int(file.read().split()[3].partition(b"/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def _exit_code(status: int) -> int:
    """Return an exit code as shells count: 128 and the number of the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
