"""Runs one command, and leaves nothing of it behind. A program of its own.

It is started as `python -I -S _supervisor.py`, with an order and a command: the order is
`name=value` pairs, as `Order` reads them. It stops the command when its own standard input
says something or ends: when the program that started it closes it, or is gone.

What the command starts stays below this process, wherever it puts itself: an orphan comes
to the nearest subreaper above. At the end all of them are killed.

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
_IGNORED_BY_PYTHON = (13, 25)  # SIGPIPE, SIGXFSZ
_TICK_MS = 50
_KILL_S = 5.0
_HAS_PROC = os.path.isdir("/proc/self")  # noqa: PTH112 - starts faster


class Order:
    """What the program that starts this one asks for.

    Attributes:
        directory: Descriptor of the directory that the command runs in.
        report: Descriptor to write to, first the command's process id, then its exit code
            and why it was stopped.
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
    try:
        child = _start(order, sys.argv[2:])
    except OSError as error:
        os.write(2, f"the command could not be started: {error}\n".encode())
        os.write(order.report, b"0\n126 \n")
        return
    os.write(order.report, f"{child}\n".encode())
    _close_outputs()
    status, stopped = _wait(child, order.processes)
    status = _clean_up(child, status, order.grace_s if stopped == "asked" else 0.0)
    os.write(order.report, f"{_exit_code(status)} {stopped}\n".encode())


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


def _start(order: Order, command: list[str]) -> int:
    """Start the command in a session of its own. It inherits the limits from here."""
    os.fchdir(order.directory)
    for name, value in order.limits.items():
        _limit(getattr(resource, name), value)
    if _HAS_PROC:
        # It counts the threads of the user, of whom there are no more than of all.
        _limit(resource.RLIMIT_NPROC, _thread_count() + order.processes)
    return os.posix_spawn(
        command[0],
        command,
        dict(os.environ),
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsid=True,
        setsigdef=_IGNORED_BY_PYTHON,
    )


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
    threads = _thread_count()
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if hasattr(os, "pidfd_open"):
        poll.register(os.pidfd_open(child), select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_TICK_MS)]
        status = _reaped(child)
        if status is not None:
            return status, ""
        if 0 in ready:
            return None, "asked"
        # Counting all threads of the machine is cheap; it says whether to look closer.
        if _thread_count() > threads + processes and len(_descendants()) > processes:
            return None, "processes"


def _clean_up(child: int, status: int | None, grace_s: float) -> int:
    """End everything below this process; return the status of the command."""
    if grace_s:
        _signal_all(_SIGTERM)
        if not _HAS_PROC:
            _send(os.killpg, child, _SIGTERM)
        status = _reap_until(child, status, time.monotonic() + grace_s)
    deadline = time.monotonic() + _KILL_S
    if not _HAS_PROC:
        _send(os.killpg, child, _SIGKILL)
    while (_descendants() or status is None) and time.monotonic() < deadline:
        if status is None:
            # The whole group in one go, which no fork escapes.
            _send(os.killpg, child, _SIGKILL)
        _signal_all(_SIGKILL)
        status = _reap_until(child, status, time.monotonic() + 0.02)
    return 0x7F00 if status is None else status


def _reap_until(child: int, status: int | None, deadline: float) -> int | None:
    """Reap until nothing is left below this process, at most until a deadline."""
    pause = 0.001
    while True:
        found = _reaped(child)
        status = found if status is None else status
        if (status is not None and not _descendants()) or time.monotonic() >= deadline:
            return status
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _signal_all(number: int) -> None:
    for process in _descendants():
        _send(os.kill, process, number)


def _send(how: Callable[[int, int], None], to: int, number: int) -> None:
    try:
        how(to, number)
    except (ProcessLookupError, PermissionError):
        return


def _reaped(child: int) -> int | None:
    """Reap all that has ended; return the command's status if it is among it."""
    found = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if process == 0:
            return found
        if process == child:
            found = status


def _descendants() -> list[int]:
    """Return all processes below this one. None where there is no `/proc`."""
    children: dict[int, list[int]] = {}
    names = os.listdir("/proc") if _HAS_PROC else []  # noqa: PTH208 - starts faster
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - starts faster
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


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
