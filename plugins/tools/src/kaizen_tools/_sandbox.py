"""Which sandbox commands run in, and what it lets them see and change."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from kaizen.errors import ConfigurationError

from kaizen_tools._order import Confinement, is_below
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
RESOLVER = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
OF_ROOT = (
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers"),
    *("/etc/sudoers.d", "/etc/ssh", "/etc/ssl/private", "/etc/krb5.keytab"),
)
"""What root alone can read, and so is hidden from commands that root runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What commands run in.

    Attributes:
        backend: Who confines them; `none` if nobody does.
        problem: Why nobody does, or why nobody better does.
        network: Whether they may reach the network.
        confinement: What they may see and change.
    """

    backend: Backend
    problem: str = ""
    network: bool = True
    confinement: Confinement | None = None

    def temporary(self, private: str) -> str:
        """Return the path that a command knows its temporary directory by."""
        return "/tmp" if self.backend == "bubblewrap" else f"{private}/tmp"  # noqa: S108


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
        sandbox, problem = _described(backend, settings, roots, directory)
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
    isolated = backend == "bubblewrap"
    program = ""
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        return Sandbox(backend="none"), "it needs Linux on x86-64 or AArch64"
    if any(root.path == "/" for root in roots):
        return Sandbox(backend="none"), "`/` is a root, and there is nothing beside it"
    if isolated and not (program := _bubblewrap(settings.bubblewrap, directory, roots)):
        return Sandbox(backend="none"), "the program `bwrap` is not installed"
    network = settings.network
    calls = filter_program(machine, namespaces=isolated, network=network)
    kept = _kept(roots, settings.protected)
    confinement = Confinement(
        backend=backend,
        program=program,
        system=tuple(_existing(SYSTEM)),
        readable=tuple(_readable(settings, directory)),
        hidden=OF_ROOT if os.geteuid() == 0 else (),
        roots=tuple(
            root.identity
            for root in roots
            if not any(root.path == path or is_below(root.path, path) for path in kept)
        ),
        kept=kept,
        network=network,
        program_filter=calls.hex(),
    )
    return Sandbox(backend=backend, network=network, confinement=confinement), ""


def _kept(roots: Roots, names: Sequence[str]) -> tuple[str, ...]:
    """Return the protected paths below directories among the roots, none below another."""
    paths = {f"{root.path}/{name}" for root in roots if not root.file for name in names}
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
    programs = os.environ.get("PATH", os.defpath).split(os.pathsep)
    known = [path for path in (sys.prefix, sys.base_prefix, *programs) if path[:1] == "/"]
    # A program may be in a home, but the home is not shown for it.
    real = [os.path.realpath(path) for path in known]
    shown = [path for path in real if path != home and not is_below(home, path)]
    named = [
        os.path.realpath(Path(directory, path.expanduser())) for path in settings.readable
    ]
    resolver = RESOLVER if settings.network else ()
    given = list(_existing(SYSTEM))
    for path in _existing((*resolver, *named, *shown)):
        if not any(path == each or is_below(path, each) for each in given):
            given.append(path)
            yield path


def _existing(paths: Sequence[str]) -> Iterator[str]:
    return (path for path in paths if Path(path).exists())
