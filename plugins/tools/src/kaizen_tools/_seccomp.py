"""A filter of system calls, in the form that the kernel takes: see seccomp(2).

Everything is allowed but what is listed here. What is listed looks into other processes,
changes the machine or its mounts, makes namespaces in which rights come back, opens
sockets, or is so new or so rarely used that it has more bugs than users. The architectures
are x86-64 and AArch64; elsewhere there is no filter, and so no sandbox.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["ARCHITECTURES", "filter_program", "numbered"]


class Test(NamedTuple):
    """A condition on the lower half of one argument.

    Attributes:
        argument: Its number, from 0.
        values: What it is compared with.
        equal: Whether it has to be one of the values, or none of them.
        mask: The bits that count.
    """

    argument: int
    values: tuple[int, ...]
    equal: bool = True
    mask: int = 0xFFFFFFFF


class Rule(NamedTuple):
    """When a system call fails, and with which error.

    Attributes:
        clauses: It fails if all tests of one of these hold; without any, always.
    """

    clauses: tuple[tuple[Test, ...], ...] = ()
    error: int = errno.EPERM


_LAST = 469
"""The last system call that was known when the list was made; what is newer is refused."""
_NEW_NAMESPACES = 0x7E020000
_SET_IDS = 0o6000
_O_CREAT, _O_TMPFILE = 0o100, 0o20000000
_AF_INET, _AF_INET6, _AF_NETLINK = 2, 10, 16
_NETLINK_ROUTE = 0
_SOCK_STREAM, _SOCK_SEQPACKET = 1, 5
_IOCTLS = (
    *(0x5412, 0x541C),  # type into a terminal: TIOCSTI, TIOCLINUX
    *(0x40086602, 0x40046602, 0x401C5820),  # change flags of files: FS_IOC_(FS)SET…
    *(0x40087602, 0x40047602),  # FS_IOC_SETVERSION
)

_SAME = """
pidfd_getfd 438  process_madvise 440  process_mrelease 448  open_tree 428
move_mount 429  fsopen 430  fsconfig 431  fsmount 432  fspick 433  mount_setattr 442
open_tree_attr 467  clone3 435  io_uring_setup 425  io_uring_enter 426
io_uring_register 427  quotactl_fd 443  openat2 437  fchmodat2 452  setxattrat 463
removexattrat 466  file_setattr 469
"""
_X86_64 = """
ptrace 101  process_vm_readv 310  process_vm_writev 311  kcmp 312  mount 165
umount2 166  pivot_root 155  chroot 161  swapon 167  swapoff 168  unshare 272
setns 308  clone 56  add_key 248  request_key 249  keyctl 250  bpf 321
perf_event_open 298  userfaultfd 323  lookup_dcookie 212  init_module 175
delete_module 176  finit_module 313  kexec_load 246  kexec_file_load 320  reboot 169
syslog 103  acct 163  quotactl 179  settimeofday 164  clock_settime 227
sethostname 170  setdomainname 171  iopl 172  ioperm 173  open_by_handle_at 304
fanotify_init 300  vhangup 153  move_pages 279  migrate_pages 256  prlimit64 302
sched_setaffinity 203  sched_setparam 142  sched_setscheduler 144  sched_setattr 314
setpriority 141  ioprio_set 251  chmod 90  fchmod 91  fchmodat 268  open 2  creat 85
openat 257  mknod 133  mknodat 259  ioctl 16  chown 92  fchown 93  lchown 94
fchownat 260  utime 132  utimes 235  futimesat 261  utimensat 280  setxattr 188
lsetxattr 189  fsetxattr 190  removexattr 197  lremovexattr 198  fremovexattr 199
shmget 29  shmat 30  shmctl 31  semget 64  semop 65  semctl 66  semtimedop 220
msgget 68  msgsnd 69  msgrcv 70  msgctl 71  mq_open 240  mq_unlink 241  socket 41
socketpair 53
"""
_AARCH64 = """
ptrace 117  process_vm_readv 270  process_vm_writev 271  kcmp 272  mount 40
umount2 39  pivot_root 41  chroot 51  swapon 224  swapoff 225  unshare 97  setns 268
clone 220  add_key 217  request_key 218  keyctl 219  bpf 280  perf_event_open 241
userfaultfd 282  lookup_dcookie 18  init_module 105  delete_module 106
finit_module 273  kexec_load 104  kexec_file_load 294  reboot 142  syslog 116  acct 89
quotactl 60  settimeofday 170  clock_settime 112  sethostname 161  setdomainname 162
open_by_handle_at 265  fanotify_init 262  vhangup 58  move_pages 239
migrate_pages 238  prlimit64 261  sched_setaffinity 122  sched_setparam 118
sched_setscheduler 119  sched_setattr 274  setpriority 140  ioprio_set 30  fchmod 52
fchmodat 53  openat 56  mknodat 33  ioctl 29  fchown 55  fchownat 54  utimensat 88
setxattr 5  lsetxattr 6  fsetxattr 7  removexattr 14  lremovexattr 15  fremovexattr 16
shmget 194  shmat 196  shmctl 195  semget 190  semop 193  semctl 191  semtimedop 192
msgget 186  msgsnd 189  msgrcv 188  msgctl 187  mq_open 180  mq_unlink 181  socket 198
socketpair 199
"""
ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
"""The number that the kernel has for a machine, and its system calls, by what
`os.uname().machine` calls it."""

_NEVER = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"),
    *("process_madvise", "process_mrelease", "move_pages", "migrate_pages"),
    *("mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen"),
    *("fsconfig", "fsmount", "fspick", "mount_setattr", "open_tree_attr"),
    *("swapon", "swapoff", "unshare", "setns", "add_key", "request_key", "keyctl"),
    *("bpf", "perf_event_open", "userfaultfd", "lookup_dcookie", "init_module"),
    *("delete_module", "finit_module", "kexec_load", "kexec_file_load", "reboot"),
    *("syslog", "acct", "quotactl", "quotactl_fd", "settimeofday", "clock_settime"),
    *("sethostname", "setdomainname", "iopl", "ioperm", "open_by_handle_at"),
    *("fanotify_init", "vhangup", "file_setattr"),
)
_UNKNOWN = ("clone3", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""What takes its flags in memory, where no filter can look. There is always an older call
that programs use when they are told that this one does not exist."""
_OF_PROCESSES = (
    *("prlimit64", "sched_setaffinity", "sched_setparam", "sched_setscheduler"),
    "sched_setattr",
)
"""What a process may do to itself, as number 0, and to no other."""
_OF_PATHS = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr"),
    *("removexattr", "lremovexattr", "fremovexattr", "setxattrat", "removexattrat"),
)
"""What changes rights, owners, times and attributes of files, which Landlock lets pass."""
_SHARED = (
    *("shmget", "shmat", "shmctl", "semget", "semop", "semctl", "semtimedop"),
    *("msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink"),
)
"""What all processes of the machine share, where there is no namespace for it."""


def filter_program(machine: str, *, namespaces: bool, network: bool) -> bytes:
    """Return the filter for one machine.

    Args:
        machine: As `os.uname().machine` calls it; one of `ARCHITECTURES`.
        namespaces: Whether the command has a view of files, processes and the network of
            its own. Where it has none, the filter refuses more.
        network: Whether it may reach the network.
    """
    audit, calls = ARCHITECTURES[machine]
    numbers = numbered(_SAME) | numbered(calls)
    rules = {
        numbers[name]: rule
        for name, rule in _rules(namespaces=namespaces, network=network).items()
        if name in numbers
    }
    return b"".join(_program(audit, rules))


def numbered(calls: str) -> dict[str, int]:
    """Return the numbers of system calls that stand in a text."""
    words = calls.split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}


def _rules(*, namespaces: bool, network: bool) -> dict[str, Rule]:
    rules = {name: Rule() for name in _NEVER}
    rules |= {name: Rule(error=errno.ENOSYS) for name in _UNKNOWN}
    # The number is that of the argument that has the mode.
    makes = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1}
    makes |= {"mknod": 1, "mknodat": 2}
    rules |= {name: Rule(((_has(at, _SET_IDS),),)) for name, at in makes.items()}
    for name, flags, mode in (("open", 1, 2), ("openat", 2, 3)):
        creates = _has(flags, _O_CREAT | _O_TMPFILE)
        rules[name] = Rule(((creates, _has(mode, _SET_IDS)),))
    rules["clone"] = Rule(((_has(0, _NEW_NAMESPACES),),))
    rules["ioctl"] = Rule(((Test(1, _IOCTLS),),))
    for name in _OF_PROCESSES:
        rules[name] = Rule(((_is_not(0, 0),),))
    rules["setpriority"] = Rule(((_is_not(0, 0),), (_is_not(1, 0),)))
    rules["ioprio_set"] = Rule(((_is_not(0, 1),), (_is_not(1, 0),)))
    rules |= _of_sockets(namespaces=namespaces, network=network)
    if not namespaces:
        rules |= {name: Rule() for name in (*_OF_PATHS, *_SHARED)}
    return rules


def _of_sockets(*, namespaces: bool, network: bool) -> dict[str, Rule]:
    """Return what sockets there are not.

    One of this machine, bound to a path or a name, reaches programs outside, which do what
    they are asked to; and paths in a root are seen by everybody. So none is made, and no
    pair for datagrams either, whose ends can be turned to others.
    """
    families: list[int] = []
    if namespaces or network:
        families += [_AF_INET, _AF_INET6, _AF_NETLINK]
    other = (_is_not(0, *families),) if families else ()
    netlink = (Test(0, (_AF_NETLINK,)), _is_not(2, _NETLINK_ROUTE))
    kind = Test(1, (_SOCK_STREAM, _SOCK_SEQPACKET), equal=False, mask=0xF)
    return {
        "socket": Rule((other, netlink) if families else ()),
        "socketpair": Rule(((kind,),)),
    }


def _has(argument: int, bits: int) -> Test:
    """Return the test whether an argument has one of some bits."""
    return Test(argument, (0,), equal=False, mask=bits)


def _is_not(argument: int, *values: int) -> Test:
    """Return the test whether an argument is something else."""
    return Test(argument, values, equal=False)


def _program(audit: int, rules: Mapping[int, Rule]) -> list[bytes]:
    """Return the instructions. What matches no rule is allowed."""
    program = [
        _load(_ARCHITECTURE),
        _instruction(_EQUAL, audit, 1, 0),
        _fail(errno.ENOSYS),
        _load(_NUMBER),
        _instruction(_GREATER, _LAST, 0, 1),
        _fail(errno.ENOSYS),
    ]
    for number, rule in sorted(rules.items()):
        block = _block(rule)
        program += [_instruction(_EQUAL, number, 0, len(block)), *block]
    return [*program, _instruction(_RETURN, _ALLOW)]


def _block(rule: Rule) -> list[bytes]:
    """Return what decides on one system call, one way or the other."""
    if not rule.clauses:
        return [_fail(rule.error)]
    clauses = [each for clause in rule.clauses for each in _clause(clause, rule.error)]
    return [*clauses, _instruction(_RETURN, _ALLOW)]


def _clause(tests: Sequence[Test], error: int) -> list[bytes]:
    """Return the instructions that fail if all tests hold, and else end behind the last.

    They are made from the last to the first, since each has to know how far it jumps.
    """
    rest = [_fail(error)]
    for test in reversed(tests):
        load = [_load(_ARGUMENTS + 8 * test.argument), _instruction(_AND, test.mask)]
        rest = [*load, *_comparisons(test, len(rest)), *rest]
    return rest


def _comparisons(test: Test, over: int) -> list[bytes]:
    """Return the instructions that go on if a test holds, and else jump that far over."""
    last = len(test.values) - 1
    if test.equal:
        return [
            _instruction(_EQUAL, value, last - at, over if at == last else 0)
            for at, value in enumerate(test.values)
        ]
    return [
        _instruction(_EQUAL, value, last - at + over, 0)
        for at, value in enumerate(test.values)
    ]


_ARCHITECTURE, _NUMBER, _ARGUMENTS = 4, 0, 16  # offsets in `struct seccomp_data`
_LOAD, _EQUAL, _GREATER, _AND, _RETURN = 0x20, 0x15, 0x25, 0x54, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, offset)


def _fail(error: int) -> bytes:
    return _instruction(_RETURN, _ERROR | error)
