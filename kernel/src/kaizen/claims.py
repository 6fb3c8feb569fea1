"""Who may write the log of a run: one process at a time, for as long as it lives.

A store keeps one `Claim` for each run and decides by it: `Claim.next` says who gets the
run, `Claim.held` whether somebody has it. A claim ends when its lease runs out, when its
owner gives it up, or as soon as it is certain that the owner's process has ended, so that a
run can go on right after a crash.

Each change of owner raises the `token`. A store refuses a write that bears an older one:
a process that was asleep for longer than its lease can do no harm when it wakes up.
"""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from pathlib import Path
from secrets import token_hex
from time import monotonic, time

from kaizen._records import record
from kaizen.errors import ClaimLostError

__all__ = ["Claim", "held_by_another", "is_gone", "is_run_id", "new_owner", "taken_over"]

MAX_LEASE_S = 7 * 86_400.0
_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PID = re.compile(r"[1-9][0-9]{0,6}")  # Linux has none above 4,194,304
_ENDED = "ended"


@record
class Claim:
    """That somebody may write a run, and until when.

    Within one start of the machine, time is that of its monotonic clock, which does not
    jump; between machines it is the time of day.

    Attributes:
        owner: Who holds it, from `new_owner`.
        token: Grows with each change of owner; from 1.
        until: When the lease ends, in seconds since the epoch, UTC.
        until_monotonic: The same, by the monotonic clock of that start of the machine.
        boot: Which start of which machine that is, or `""` where nobody can tell.
    """

    owner: str
    token: int
    until: float
    until_monotonic: float
    boot: str

    @staticmethod
    def next(before: Claim | None, run_id: str, *, owner: str, lease_s: float) -> Claim:
        """Return the claim that follows, if the owner may have it.

        Who holds a run already extends the lease and keeps the token; a lease of 0 seconds
        gives the run up.

        Raises:
            ClaimLostError: Somebody else holds the run.
        """
        token = 1
        if before is not None:
            if before.owner != owner and before.held():
                raise held_by_another(run_id, before)
            token = before.token + (before.owner != owner)
        lease_s = min(max(0.0, lease_s), MAX_LEASE_S)  # what is no number gives up
        return Claim(
            owner=owner,
            token=token,
            until=time() + lease_s,
            until_monotonic=monotonic() + lease_s,
            boot=_boot(),
        )

    def held(self) -> bool:
        """Whether the owner still has the run."""
        if self.boot and self.boot == _boot():
            left = self.until_monotonic - monotonic()
        else:
            left = self.until - time()
        return 0 < left <= MAX_LEASE_S and not is_gone(self.owner)

    @staticmethod
    def check(current: Claim | None, run_id: str, token: int | None) -> None:
        """Let a write pass, or refuse it.

        Args:
            current: The claim of the run, if there ever was one.
            run_id: The run.
            token: The token that the writer bears; without one it may write only what
                nobody holds.

        Raises:
            ClaimLostError: The writer's claim was taken over, or somebody holds it.
        """
        if token is None:
            if current is not None and current.held():
                raise held_by_another(run_id, current)
        elif current is None or current.token != token:
            raise taken_over(run_id)


def is_run_id(text: str) -> bool:
    """Whether a run may have this id: 1 to 128 ASCII letters, digits, `_`, `-` and `.`.

    It begins with none of the last two, so that it is the name of a file and nothing else.
    """
    return _RUN_ID.fullmatch(text) is not None


def taken_over(run_id: str) -> ClaimLostError:
    """Return the error of somebody who had a run that somebody else has had since."""
    return ClaimLostError(
        f"run {run_id!r}",
        "was taken over by another process",
        "Look at it with `kaizen runs show`; this process must not go on with it.",
    )


def held_by_another(run_id: str, claim: Claim) -> ClaimLostError:
    """Return the error of somebody who wants a run that somebody else has."""
    return ClaimLostError(
        f"run {run_id!r}",
        f"is carried out by {claim.owner.partition(':')[0]}",
        "Wait for it, or stop it there; a crashed process lets go by itself.",
    )


def new_owner() -> str:
    """Return a name for a new owner in this process, such as a kernel.

    It begins with what a person can read, `pid 123 on myhost`, and goes on with what tells
    whether that process is still there.
    """
    pid = os.getpid()
    host = socket.gethostname().replace(":", "-")[:64]
    return f"pid {pid} on {host}:{_space()}:{pid}:{_started(pid)}:{token_hex(8)}"


def is_gone(owner: str) -> bool:
    """Whether it is certain that the process of an owner has ended.

    It is not where the name is of another machine, or where the system does not tell.
    """
    parts = owner.split(":")
    if len(parts) != 5:
        return False
    _, space, pid, started, _ = parts
    if not (space and started and _PID.fullmatch(pid)) or space != _space():
        return False
    now = _started(int(pid))
    return now != started if now else not _is_there(int(pid))


def _started(pid: int) -> str:
    """Return when a process of this machine started, or `""` if that cannot be read.

    The field `starttime` of `/proc/<pid>/stat`, see proc(5): a number of a process that
    ended may be given to another one, which then has another time. A process that only
    waits for its parent to notice its end (`Z`) has ended.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return _ENDED if fields[0] in "ZX" else fields[19]


def _is_there(pid: int) -> bool:
    """Whether a process has this number, where `/proc` does not show it.

    It shows nobody else's processes if it is mounted with `hidepid`, and nothing at all to
    a process that has no file descriptor left.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@cache
def _boot() -> str:
    """Return which start of which machine this is, where the system says so."""
    try:
        path = Path("/proc/sys/kernel/random/boot_id")
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _space() -> str:
    """Return the name of the space in which process numbers are unique, or `""`.

    The first space of each machine has the same number, so that only the start of the
    machine tells them apart.
    """
    try:
        space = Path("/proc/self/ns/pid").readlink().name[5:-1]
    except OSError:
        return ""
    return f"{_boot()[:13]}/{space}" if _boot() else ""
