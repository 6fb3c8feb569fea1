"""Runs one command, and leaves nothing of it behind. A program of its own.

It is started as `python -I -S _supervisor.py`, with an order and a command: the order is
`name=value` pairs, as `Order` reads them. It stops the command when its own standard input
says something or ends: when the program that started it closes it, or is gone.

What the command starts stays below this process, wherever it puts itself: an orphan comes
to the nearest subreaper above. At the end all of them are killed. The limits of the command
are not those of this process, which has to outlast it.

Every module that is imported here delays every command: `json`, `typing` and `signal` take
longer than the rest together.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL, _SIGTERM = 9, 15
_SIGSTOP = 17 if sys.platform == "darwin" else 19
_SIG_DFL, _SIG_IGN = 0, 1
_ENDING = (1, 2, 15)  # SIGHUP, SIGINT, SIGTERM
_IGNORED_BY_PYTHON = (13, 25)  # SIGPIPE, SIGXFSZ
_TICK_MS = 50
_KILL_S = 10.0
_FREEZES = 20
_HAS_PROC = os.path.isdir("/proc/self")  # noqa: PTH112 - starts faster
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110


class Order:
    """What the program that starts this one asks for.

    Attributes:
        directory: Descriptor of the directory that the command runs in.
        report: Descriptor to write to, first the command's process id, then its exit code,
            how many processes are left, and why it was stopped.
        processes: Most processes of the command.
        grace_s: Time between SIGTERM and SIGKILL, in seconds.
        limits: Limits of one process, by the names that `resource` has for them.
    """

    def __init__(self, text: str) -> None:
        pairs = dict(pair.split("=") for pair in text.split())
        self.directory = int(pairs.pop("directory"))
        self.report = int(pairs.pop("report"))
        self.processes = int(pairs.pop("processes"))
        self.grace_s = float(pairs.pop("grace_s"))
        self.limits = {name: int(value) for name, value in pairs.items()}


def main() -> None:
    """Run the command in the arguments, and report how it ended."""
    order = Order(sys.argv[1])
    os.set_inheritable(order.directory, False)
    os.set_inheritable(order.report, False)
    _become_subreaper()
    _become_urgent()
    _handle(_ENDING, _SIG_IGN)
    child = _start(order, sys.argv[2:])
    os.write(order.report, f"{child}\n".encode())
    _close_outputs()
    status, stopped = _wait(child, order.processes)
    if stopped == "asked" and order.grace_s:
        status = _let_end(child, order)
    status, left = _end(child, status)
    os.write(order.report, f"{_exit_code(status)} {left} {stopped}\n".encode())


def _become_subreaper() -> None:
    if sys.platform == "linux":
        import ctypes

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


def _handle(numbers: tuple[int, ...], how: int) -> None:
    """Set what signals do. The module `signal` can do it too, but takes long to import."""
    import ctypes

    signal = ctypes.CDLL(None).signal
    signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    signal.restype = ctypes.c_void_p
    for number in numbers:
        signal(number, how)


def _start(order: Order, command: list[str]) -> int:
    """Start the command in a session of its own, with its limits."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        os.fchdir(order.directory)
        _handle((*_ENDING, *_IGNORED_BY_PYTHON), _SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name, value in order.limits.items():
            _limit(getattr(resource, name), value)
        if _HAS_PROC:
            # It counts the threads of the user, of whom there are no more than of all; a
            # second line behind the counting here. The kernel does not enforce it on root.
            _limit(resource.RLIMIT_NPROC, _thread_count() + order.processes)
        os.execve(command[0], command, dict(os.environ))  # noqa: S606
    except BaseException as error:  # noqa: BLE001 - this process is a copy, and ends here
        os.write(2, f"the command could not be started: {error}\n".encode())
    os._exit(126)


def _limit(kind: int, value: int) -> None:
    """Set a limit, or keep the one that there is if it is stricter."""
    _, hard = resource.getrlimit(kind)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))


def _close_outputs() -> None:
    """Let nobody but the command hold its outputs open."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)


def _wait(child: int, processes: int) -> tuple[int | None, str]:
    """Wait until the command ends or has to.

    Returns:
        Its status, if it ended by itself; and why it has to be stopped, or `""`.
    """
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if hasattr(os, "pidfd_open"):
        poll.register(os.pidfd_open(child), select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_TICK_MS)]
        status, _ = _reap(child)
        if status is not None:
            return status, ""
        if 0 in ready:
            return None, "asked"
        if _are_over(processes):
            return None, "processes"


def _let_end(child: int, order: Order) -> int | None:
    """Ask everything to end, and give it time, but not to multiply.

    Returns:
        The status of the command, if it ends.
    """
    deadline = time.monotonic() + order.grace_s
    for process in _descendants():
        _send(os.kill, process, _SIGTERM)
    if not _HAS_PROC:
        _send(os.killpg, child, _SIGTERM)
    status, pause = None, 0.001
    while time.monotonic() < deadline and not _are_over(order.processes):
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
        _send(os.killpg, child, _SIGKILL)
    pause = 0.001
    while True:
        found, is_all = _reap(child)
        status = found if status is None else status
        if is_all or time.monotonic() >= deadline:
            left = 0 if is_all else max(1, len(_descendants()))
            return 0x7F00 if status is None else status, left
        if status is None:
            # The whole group in one go, which no fork escapes.
            _send(os.killpg, child, _SIGKILL)
        for process in _frozen():
            _send(os.kill, process, _SIGKILL)
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _frozen() -> set[int]:
    """Stop everything below this process, so that nothing forks while it is killed."""
    known: set[int] = set()
    for _ in range(_FREEZES):
        found = set(_descendants())
        for process in found - known:
            _send(os.kill, process, _SIGSTOP)
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


if __name__ == "__main__":
    main()
    os._exit(0)
