"""The processes below this one: which there are, and how all of them end."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "HAS_PROC",
    "children_of",
    "descendants",
    "end_all",
    "ended",
    "freeze",
    "opened",
    "reap",
    "send",
]

HAS_PROC = os.path.isdir("/proc/self")  # noqa: PTH112 - paths are strings here
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110
_KILL_S = 10.0
_ENOUGH_S = 0.01
_FREEZES = 20


def end_all(child: int, status: int | None, first: Sequence[int] = ()) -> tuple[int, int]:
    """Kill everything below this process, until there is nothing or it takes too long.

    Args:
        child: The process of the command; 0 if there is none.
        status: How it ended, if it has.
        first: Processes that take all others with them, if there are such: what `opened`
            gave of them.

    Returns:
        The status of the command, and how many processes are left.
    """
    deadline = time.monotonic() + _KILL_S
    group = child if status is None else 0
    if group and not HAS_PROC:
        send(os.killpg, group, signal.SIGKILL)
    for descriptor in first:
        send(signal.pidfd_send_signal, descriptor, signal.SIGKILL)
    pause, is_enough = 0.001, bool(first)
    while True:
        found, is_all = reap(child)
        status = found if status is None else status
        if is_all or time.monotonic() >= deadline:
            left = 0 if is_all else max(1, len(descendants()))
            return 0x7F00 if status is None else status, left
        if not is_enough:
            _kill_descendants(group if status is None else 0)
        _wait_for_a_child(pause)
        is_enough = is_enough and pause < _ENOUGH_S
        pause = min(pause * 2, 0.02)


def _kill_descendants(group: int) -> None:
    if group:
        # The whole group in one go, which no fork escapes.
        send(os.killpg, group, signal.SIGKILL)
    for process in freeze():
        send(os.kill, process, signal.SIGKILL)


def _wait_for_a_child(timeout_s: float) -> None:
    """Wait until a child ends, but not longer than this."""
    poll = select.poll()
    watched = []
    try:
        for child in children_of(os.getpid()):
            if (descriptor := opened(child)) is not None:
                watched.append(descriptor)
                poll.register(descriptor, select.POLLIN)
        if watched:
            poll.poll(timeout_s * 1000)
        else:
            time.sleep(timeout_s)
    finally:
        for descriptor in watched:
            os.close(descriptor)


def opened(process: int) -> int | None:
    """Return what tells the end of a process, if the system has such a thing."""
    try:
        return os.pidfd_open(process)
    except (AttributeError, OSError):
        return None


def ended(descriptor: int) -> bool:
    """Say whether a process has ended, given what `opened` gave of it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def freeze() -> set[int]:
    """Stop everything below this process, so that nothing forks while it is killed."""
    known: set[int] = set()
    for _ in range(_FREEZES):
        found = set(descendants())
        for process in found - known:
            send(os.kill, process, signal.SIGSTOP)
        if found <= known:
            break
        known |= found
    return known


def send(how: Callable[[int, int], object], to: int, number: int) -> None:
    """Send a signal, if whom it is for is still there and may be sent it."""
    try:
        how(to, number)
    except (ProcessLookupError, PermissionError):
        return


def reap(child: int) -> tuple[int | None, bool]:
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


def descendants(enough: int = sys.maxsize) -> list[int]:
    """Return the processes below this one, at least one more than `enough` if there are.

    None where there is no `/proc`.
    """
    if not HAS_PROC:
        return []
    below = _listed if _HAS_CHILDREN else _all_children().get
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting and len(found) <= enough:
        more = below(waiting.pop()) or []
        found += more
        waiting += more
    return found


def children_of(process: int) -> list[int]:
    """Return the children of a process; none where there is no `/proc`."""
    if not HAS_PROC:
        return []
    return _listed(process) if _HAS_CHILDREN else _all_children().get(process, [])


def _listed(process: int) -> list[int]:
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
