"""Which sandbox commands run in, and what it lets them see and change."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from anyio.to_thread import run_sync
from kaizen.errors import ConfigurationError

from kaizen_tools._order import Confinement, is_below
from kaizen_tools._python import python_paths
from kaizen_tools._roots import Roots
from kaizen_tools._seccomp import ARCHITECTURES, filter_program
from kaizen_tools._settings import BashSettings

__all__ = ["Sandbox", "Trial", "find_sandbox"]

Backend: TypeAlias = Literal["bubblewrap", "landlock", "none"]

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt"),
    *("/nix", "/gnu/store", "/run/current-system", "/sys/devices/system/cpu"),
)
"""What programs are made of. Nobody keeps anything private there."""
HOLDERS = ("/bin", "/usr/bin", "/run/current-system/sw/bin")
RESOLVER = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
OF_ROOT = (
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers"),
    *("/etc/sudoers.d", "/etc/ssh", "/etc/ssl/private", "/etc/krb5.keytab"),
)
"""What root alone can read, and so is hidden from commands that root runs."""
PRIVATE_IN = ("/etc", "/opt")
"""Where more of that may be: what others cannot read there is hidden too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What commands run in.

    Attributes:
        backend: Who confines them; `none` if nobody does.
        problem: Why nobody does, or why nobody better does.
        network: Whether they may reach the network.
        confinement: What they may see and change.
        python: Directories below the roots that they cannot change, since this program runs
            what is there.
        exposed: Those that they can change all the same.
    """

    backend: Backend
    problem: str = ""
    network: bool = True
    confinement: Confinement | None = None
    python: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()


Trial: TypeAlias = Callable[[Sandbox], Awaitable[str]]
"""Runs a command in a sandbox. Returns what is wrong with the sandbox, or `""`."""


async def find_sandbox(
    settings: BashSettings, roots: Roots, directory: Path, trial: Trial
) -> Sandbox:
    """Return the best sandbox that works here and that the settings allow.

    Args:
        directory: What relative paths of the settings are relative to.
        trial: Tries a sandbox. That it is installed does not say that it works: a system
            may forbid namespaces.

    Raises:
        ConfigurationError: The settings name a sandbox that does not work.
    """
    wanted = settings.sandbox
    if wanted == "none":
        return Sandbox(backend="none", problem="the settings say so")
    problems = []
    backends: tuple[Backend, ...] = ("bubblewrap", "landlock")
    for backend in backends:
        if wanted not in ("auto", backend):
            continue
        describe = partial(_described, backend, settings, roots, directory)
        sandbox, problem = await run_sync(describe)
        problem = problem or await trial(sandbox)
        if not problem:
            return sandbox
        problems.append(f"{backend}: {problem}")
    if wanted != "auto":
        raise ConfigurationError(
            f"the sandbox {wanted!r}",
            f"does not work here: {problems[0].partition(': ')[2]}",
            "Mend it, or change `sandbox` under [plugins.tools.bash].",
        )
    return Sandbox(backend="none", problem="; ".join(problems))


def _described(
    backend: Backend, settings: BashSettings, roots: Roots, directory: Path
) -> tuple[Sandbox, str]:
    """Return a sandbox, and why it cannot work."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        return Sandbox(backend="none"), "it needs Linux on x86-64 or AArch64"
    if any(root.path == "/" for root in roots):
        return Sandbox(backend="none"), "`/` is a root, and there is nothing beside it"
    program = holder = ""
    if backend == "bubblewrap":
        program = _bubblewrap(settings.bubblewrap, directory, roots)
        if not program:
            return Sandbox(backend="none"), "the program `bwrap` is not installed"
        holder = shutil.which("cat", path=":".join(HOLDERS)) or ""
        if not holder:
            return Sandbox(backend="none"), "the program `cat` is not where systems have it"
    folders = [root.path for root in roots if not root.file]
    python = python_paths(folders, is_path_writable=settings.writable_python_path)
    kept = _kept(folders, settings.protected, python.kept)
    confinement = _confinement(settings, roots, directory, kept, program)
    sandbox = Sandbox(
        backend=backend,
        network=settings.network,
        confinement=replace(confinement, backend=backend, holder=holder),
        python=python.kept,
        exposed=python.exposed,
    )
    return sandbox, ""


def _confinement(
    settings: BashSettings,
    roots: Roots,
    directory: Path,
    kept: tuple[str, ...],
    program: str,
) -> Confinement:
    """Return what commands may see and change, but for what is special of a backend."""
    readable = tuple(_readable(settings, directory))
    shown = [*_named(settings, directory), *readable, *(root.path for root in roots)]
    calls = filter_program(
        os.uname().machine, namespaces=bool(program), network=settings.network
    )
    return Confinement(
        backend="",
        program=program,
        system=tuple(_existing(SYSTEM)),
        readable=readable,
        hidden=_hidden([*shown, *_programs(), program]) if os.geteuid() == 0 else (),
        roots=tuple(
            root.identity
            for root in roots
            if not any(root.path == path or is_below(root.path, path) for path in kept)
        ),
        kept=kept,
        network=settings.network,
        program_filter=calls.hex(),
    )


def _kept(
    folders: Sequence[str], names: Sequence[str], more: Sequence[str]
) -> tuple[str, ...]:
    """Return the protected paths below roots, none below another."""
    paths = {*more, *(f"{folder}/{name}" for folder in folders for name in names)}
    return tuple(
        path for path in sorted(paths) if not any(is_below(path, each) for each in paths)
    )


def _bubblewrap(named: Path | None, directory: Path, roots: Roots) -> str:
    """Return the path of bubblewrap, and never of one that a command may have written."""
    if named is not None:
        return str(Path(directory, named.expanduser()))
    found = shutil.which("bwrap")
    if found is None or not Path(found).is_absolute():
        return ""
    real = os.path.realpath(found)
    return "" if any(is_below(real, root.path) for root in roots) else found


def _readable(settings: BashSettings, directory: Path) -> Iterator[str]:
    """Give what is shown beside the system, none of it twice."""
    home = str(Path.home())
    # A program may be in a home, but the home is not shown for it.
    shown = [path for path in _programs() if path != home and not is_below(home, path)]
    resolver = RESOLVER if settings.network else ()
    given = list(_existing(SYSTEM))
    for path in _existing((*resolver, *_named(settings, directory), *shown)):
        if not any(path == each or is_below(path, each) for each in given):
            given.append(path)
            yield path


def _named(settings: BashSettings, directory: Path) -> list[str]:
    """Return what the settings want to be shown."""
    return [
        os.path.realpath(Path(directory, path.expanduser())) for path in settings.readable
    ]


def _programs() -> list[str]:
    """Return where this Python and other programs are."""
    programs = os.environ.get("PATH", os.defpath).split(os.pathsep)
    known = (sys.prefix, sys.base_prefix, *programs)
    return [os.path.realpath(path) for path in known if path[:1] == "/"]


def _hidden(shown: Sequence[str]) -> tuple[str, ...]:
    """Return what only root can read, except for what is shown; none below another."""
    found = [path for top in PRIVATE_IN for path in _private(top, shown, closed=False)]
    return (*OF_ROOT, *found)


def _private(directory: str, shown: Sequence[str], *, closed: bool) -> Iterator[str]:
    """Give what is below a directory and not for others.

    Args:
        closed: Whether the directory is not for others itself.
    """
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        path = entry.path
        if entry.is_symlink() or path in OF_ROOT or path in shown:
            continue
        is_directory = entry.is_dir(follow_symlinks=False)
        needed = stat.S_IXOTH if is_directory else stat.S_IROTH
        with suppress(OSError):  # It may be gone.
            is_closed = closed or not entry.stat(follow_symlinks=False).st_mode & needed
            if is_closed and not any(is_below(each, path) for each in shown):
                yield path
            elif is_directory:
                yield from _private(path, shown, closed=is_closed)


def _existing(paths: Sequence[str]) -> Iterator[str]:
    return (path for path in paths if Path(path).exists())
