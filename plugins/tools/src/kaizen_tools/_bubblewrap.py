"""Confinement by bubblewrap: namespaces in which only what was named exists, see bwrap(1).

Bubblewrap makes them ahead, while nobody waits, and a small program holds them. The process
that is to become the command enters them, as `nsenter` would, and waits for its order
there. What is protected is then mounted again, for reading, by that process: which names
exist is known no earlier. At last it drops every right, as bubblewrap does for what it
starts.

A mount cannot be removed, renamed or replaced from inside, and neither can a directory that
is one; so the directories that lead to what is protected are mounted too.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time

from kaizen_tools._calls import (
    drop_privileges,
    enter_namespace,
    forgo_privileges,
    keep_mounts,
    mount_over,
    refuse_calls,
)
from kaizen_tools._order import identity, is_below, parents_between
from kaizen_tools._processes import ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from kaizen_tools._order import Confinement, Keep
    from kaizen_tools._private import Private

    Mounts: TypeAlias = dict[str, tuple[str, ...]]
    """What bubblewrap is told to mount, by the path to mount it at."""

__all__ = ["Enclosure"]

_TEMPORARY = "/tmp"  # noqa: S108 - what is mounted there is private
_UNSHARE = ("--unshare-user", "--unshare-pid", "--unshare-ipc")
_USER, _PROCESSES = 0x10000000, 0x20000000
_OTHERS = {"mnt": 0x20000, "net": 0x40000000, "ipc": 0x08000000}
_GET_OWNER = 0xB701
_READY = b"ready\n"
_READY_S = 10.0
_MAX_TEXT = 10_000
_NONE = "bubblewrap made no namespaces"


class Enclosure:
    """The namespaces of one command, and how to get into them.

    Attributes:
        processes: Bubblewrap, and the first process in the namespaces, which cannot be
            killed from inside. All in them ends with that one.
        watched: What tells their ends, by which they can be killed.
        temporary: The path that the command knows its temporary directory by.
    """

    def __init__(self, wanted: Confinement, private: Private) -> None:
        """Let bubblewrap make them, which takes some milliseconds.

        Raises:
            OSError: It could not, and says why. What it has started may still run.
        """
        self._wanted = wanted
        self._seen = _seen(wanted)
        self._hidden = _hidden_now(wanted)
        self.temporary = _temporary(wanted, private)
        self._mounts = _mounts(wanted, private, self.temporary)
        building = _Building(wanted, self._mounts)
        self.processes = building.processes
        self.watched = building.watched
        self._held = building.wait()
        self._opened = _opened(self.processes[1], network=wanted.network)

    def is_stale(self) -> bool:
        """Say whether a command would not find there what it finds on the machine."""
        has_ended = any(ended(each) for each in self.watched)
        return has_ended or self.is_exposed() or _seen(self._wanted) != self._seen

    def is_exposed(self) -> bool:
        """Say whether something else is now where something was hidden."""
        return _hidden_now(self._wanted) != self._hidden

    def fork(self) -> int:
        """Fork this process, which is a subreaper. The child is in the namespaces.

        Returns:
            The process id of the child, as it is outside; 0 in the child.

        Raises:
            OSError: The namespaces cannot be entered.
        """
        reading, writing = os.pipe()
        between = os.fork()
        if between:
            os.close(writing)
            with open(reading, "rb") as said:  # noqa: PTH123 - it has no path
                lines = said.read(_MAX_TEXT).decode().splitlines()
            os.waitpid(between, 0)
            for line in lines:
                if not line.isdigit():
                    raise OSError(0, line)
            if not lines:
                raise OSError(0, "the namespaces could not be entered")
            return int(lines[0])
        try:
            self._enter_by_fork(writing)
        except BaseException as error:  # noqa: BLE001 - this process ends here
            os.write(writing, f"{error}\n".encode())
            os._exit(1)
        os.close(writing)
        return 0

    def _enter_by_fork(self, writing: int) -> None:
        """Enter them. This process ends, and its child goes on."""
        enter_namespace(self._opened["owner"], _USER)
        enter_namespace(self._opened["pid"], _PROCESSES)
        if inside := os.fork():
            os.write(writing, b"%d\n" % inside)
            os._exit(0)
        for name, kind in _OTHERS.items():
            if name in self._opened:
                enter_namespace(self._opened[name], kind)
        # What is mounted outside from now on would else appear inside, to be written to.
        keep_mounts()
        forgo_privileges()

    def confine(self, kept: Mapping[str, Keep]) -> None:
        """Confine this process, which is in the namespaces, for good.

        Args:
            kept: What to mount over itself, and how. All of it exists.
        """
        pinned = _pinned(self._wanted, kept, self._mounts)
        points: dict[str, Keep] = {**dict.fromkeys(pinned, "place"), **kept}
        for path in sorted(points, key=_depth):
            mount_over(path, points[path])
        if "user" in self._opened:
            enter_namespace(self._opened["user"], _USER)
            forgo_privileges()
        drop_privileges()
        refuse_calls(bytes.fromhex(self._wanted.program_filter))


class _Building:
    """Bubblewrap while it makes namespaces.

    A small program holds them, which can be that long in the place of the first process:
    it echoes when all is ready, and ends when its input does.

    Attributes:
        processes: Bubblewrap, and the first process in the namespaces.
        watched: What tells their ends.

    Raises:
        OSError: It cannot be started, or does not begin.
    """

    def __init__(self, wanted: Confinement, mounts: Mounts) -> None:
        self._deadline = time.monotonic() + _READY_S
        input_, self._held = os.pipe()
        self._heard, said = os.pipe()
        told, info = os.pipe()
        program = os.memfd_create("filter")
        try:
            os.write(self._held, _READY)
            os.write(program, bytes.fromhex(wanted.program_filter))
            os.lseek(program, 0, os.SEEK_SET)
            for descriptor in (info, program):
                os.set_inheritable(descriptor, True)
            words = _words(wanted, mounts, info=info, program=program)
            process = _spawned(words, (input_, said, said))
        finally:
            for descriptor in (input_, said, info, program):
                os.close(descriptor)
        try:
            self.watched: tuple[int, ...] = (os.pidfd_open(process),)
            self.processes = process, self._first_process(told)
            self.watched += (os.pidfd_open(self.processes[1]),)
        finally:
            os.close(told)

    def wait(self) -> tuple[int, int]:
        """Wait until all is ready.

        Returns:
            What has to stay open as long as the namespaces are needed.

        Raises:
            OSError: It failed, and says why, or takes too long.
        """
        text = b""
        while not text.endswith(_READY):
            piece = self._read(self._heard)
            if not piece:
                raise self._failure(text)
            text += piece
        return self._held, self._heard

    def _first_process(self, told: int) -> int:
        text = b""
        while not text.rstrip().endswith(b"}"):
            piece = self._read(told)
            if not piece:
                raise self._failure(self._read(self._heard))
            text += piece
        try:
            return int(json.loads(text)["child-pid"])
        except (ValueError, KeyError, TypeError):
            raise OSError(0, _NONE) from None

    def _failure(self, text: bytes) -> OSError:
        lines = text.replace(_READY, b"").decode(errors="replace").split("\n")
        return OSError(0, next(filter(None, reversed(lines)), _NONE))

    def _read(self, opened: int) -> bytes:
        """Return what it says next there; nothing if it has ended, or is out of time.

        Nor if it says something else meanwhile, which is an error then.
        """
        poll = select.poll()
        for descriptor in {opened, self._heard, *self.watched}:
            poll.register(descriptor, select.POLLIN)
        left_ms = max(0.0, (self._deadline - time.monotonic()) * 1000)
        ready = [descriptor for descriptor, _ in poll.poll(left_ms)]
        return os.read(opened, _MAX_TEXT) if opened in ready else b""


def _spawned(words: list[str], places: tuple[int, ...]) -> int:
    """Start a program with these as its standard input and outputs.

    It and what it becomes are not told of the ends of their children, which are then
    reaped by the system: those of the first process in the namespaces are many.
    """
    actions = [(os.POSIX_SPAWN_DUP2, given, number) for number, given in enumerate(places)]
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        return os.posix_spawn(words[0], words, {}, file_actions=actions)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _seen(wanted: Confinement) -> list[object]:
    """Return what is where a command finds something of the machine."""
    roots = [root.path for root in wanted.roots]
    paths = (*wanted.system, *wanted.readable, *roots)
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - starts faster
        return [file.read(), *map(identity, paths)]


def _hidden_now(wanted: Confinement) -> list[object]:
    return [identity(path) for path in wanted.hidden]


def _opened(process: int, *, network: bool) -> dict[str, int]:
    """Open the namespaces of a process, which are not those of this one.

    Bubblewrap may put the others into one namespace of users, their `owner`, and what it
    starts into another below it: then that of the user comes too.

    Args:
        network: Whether it has the network of this process.

    Raises:
        OSError: It is not confined.
    """
    opened = {}
    for name in ("user", "pid", *_OTHERS):
        if name == "net" and network:
            continue
        path = f"/proc/{process}/ns/{name}"
        if os.path.samefile(path, f"/proc/self/ns/{name}"):  # noqa: PTH121
            raise OSError(0, _NONE)
        opened[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened["owner"] = fcntl.ioctl(opened["mnt"], _GET_OWNER)
    os.set_inheritable(opened["owner"], False)
    if os.path.sameopenfile(opened["owner"], opened["user"]):
        os.close(opened.pop("user"))
    return opened


def _words(wanted: Confinement, mounts: Mounts, *, info: int, program: int) -> list[str]:
    """Return how bubblewrap is called.

    Args:
        info: The descriptor that it writes to what it has started.
        program: The one that it reads the filter of system calls from.
    """
    return [
        *(wanted.program, *_UNSHARE, *(() if wanted.network else ("--unshare-net",))),
        *("--as-pid-1", "--die-with-parent", "--info-fd", str(info)),
        *("--cap-drop", "ALL", "--seccomp", str(program)),
        *(word for path in sorted(mounts, key=_depth) for word in mounts[path]),
        *("--remount-ro", "/", "--chdir", "/", "--", wanted.holder),
    ]


def _depth(path: str) -> tuple[int, str]:
    """Sort paths so that what lies deeper is mounted later."""
    return path.count("/"), path


def _temporary(wanted: Confinement, private: Private) -> str:
    """Return where a command finds its own: where programs look for it, if that is free."""
    shown = (*(root.path for root in wanted.roots), *wanted.readable, *wanted.system)
    return private.temporary if _TEMPORARY in shown else _TEMPORARY


def _mounts(wanted: Confinement, private: Private, temporary: str) -> Mounts:
    roots = [root.path for root in wanted.roots]
    mounts = _hidden(wanted)
    mounts["/dev"] = ("--dev", "/dev")
    # Root could change the settings of the machine in `/proc/sys`.
    mounts["/proc"] = ("--proc", "/proc", "--remount-ro", "/proc")
    for path in (*wanted.system, *wanted.readable):
        if not any(path == root or is_below(path, root) for root in roots):
            mounts[path] = _read_only(path)
    for path in (*roots, private.home):
        mounts[path] = ("--bind", path, path)
    mounts[temporary] = ("--bind", private.temporary, temporary)
    for path in _pinned(wanted, (), mounts):
        mounts[path] = ("--bind", path, path)
    return mounts


def _hidden(wanted: Confinement) -> Mounts:
    mounts: Mounts = {}
    for path in wanted.hidden:
        if os.path.isdir(path):  # noqa: PTH112 - paths are strings here
            mounts[path] = ("--tmpfs", path, "--remount-ro", path)
        elif os.path.exists(path):  # noqa: PTH110
            mounts[path] = ("--ro-bind", "/dev/null", path)
    return mounts


def _pinned(
    wanted: Confinement, kept: Iterable[str], mounts: Mapping[str, object]
) -> set[str]:
    """Return the directories that must not be renamed, since they lead to a mount."""
    roots = [root.path for root in wanted.roots]
    return {
        parent
        for root in roots
        for path in (*kept, *roots)
        if is_below(path, root)
        for parent in parents_between(path, root)
        if parent not in mounts
    }


def _read_only(path: str) -> tuple[str, ...]:
    if os.path.islink(path):  # noqa: PTH114 - paths are strings here
        return ("--symlink", os.readlink(path), path)  # noqa: PTH115
    return ("--ro-bind-try", path, path)
