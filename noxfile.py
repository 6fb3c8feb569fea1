"""Everything that CI does.

`nox` runs all of it, `nox -s lint types` a part, and `nox --list` says what there is.
What follows `--` goes to the tool: `nox -s tests-3.11 -- -k memory`.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13"]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
SIDE_BY_SIDE = ["--numprocesses=auto", "--dist=worksteal"]
FEWER = {"KAIZEN_TRIALS": "100", "KAIZEN_FUZZ_RUNS": "2000", "KAIZEN_CHAOS_CALLS": "500"}
"""What is proved by thousands of trials on one Python is tried less often on the others."""
SOURCES = ["kernel/src", *(f"plugins/{name}/src" for name in PLUGINS)]

nox.options.sessions = ["lint", "types", "imports", "docs", "alone", "tests"]
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"


def show_pyenv_versions() -> None:
    """Let pyenv's commands find every version of Python that pyenv has installed.

    They answer for the chosen versions only: `python3.12` fails where 3.11 is chosen.
    """
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = [
        path.name
        for python in PYTHONS
        for path in sorted(root.glob(f"versions/{python}.*"), reverse=True)
    ]
    if installed:
        chosen = os.environ.get("PYENV_VERSION", "").split(":")
        os.environ["PYENV_VERSION"] = ":".join(
            dict.fromkeys(filter(None, chosen + installed))
        )


show_pyenv_versions()


@nox.session
def lint(session: nox.Session) -> None:
    """Look for mistakes and for another layout than ours."""
    sync(session, "--only-group=lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check every type, those of the tests and examples as well."""
    sync(session, "--all-packages", "--all-extras", "--group=types")
    session.run("mypy", *SOURCES)
    # No folder of tests is a package, so that names like `conftest` occur many times and
    # need their folders. A folder whose name is no identifier is checked by itself.
    mypy = ["mypy", "--explicit-package-bases"]
    examples = [str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*.py")]
    exclude = "--exclude=^tests/plugins/[^/]*-"
    session.run(*mypy, exclude, "tests", "noxfile.py", *examples)
    for name in PLUGINS:
        if "-" in name:
            session.run(*mypy, f"tests/plugins/{name}")


@nox.session
def imports(session: nox.Session) -> None:
    """Check who imports whom: the kernel no plugin, a plugin the kernel alone."""
    sync(session, "--all-packages", "--all-extras", "--group=imports")
    session.run("lint-imports", "--no-cache", "pyproject.toml")
    contracts = Path(session.create_tmp(), "plugins.toml").resolve()
    contracts.write_text(plugin_contracts(), encoding="utf-8")
    session.run("lint-imports", "--no-cache", str(contracts))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into build/site; a link that leads nowhere is an error."""
    sync(session, "--only-group=docs")
    session.run("zensical", "build", "--clean", "--strict", *session.posargs)


@nox.session
def alone(session: nox.Session) -> None:
    """Test every distribution in an environment of its own, from its wheel."""
    folder = Path(session.create_tmp()).resolve()
    wheels = build_wheels(session, folder / "wheels")
    kernel = wheels["kaizen-kernel"]

    programs = install(session, folder / "kernel", [kernel])
    pytest = str(programs / "pytest")
    session.run(pytest, *SIDE_BY_SIDE, "tests/kernel", external=True)
    for name in PLUGINS:
        programs = install(session, folder / name, [kernel, wheels[f"kaizen-{name}"]])
        pytest = str(programs / "pytest")
        tests = f"tests/plugins/{name}"
        session.run(pytest, *SIDE_BY_SIDE, tests, external=True, env=FEWER)

    # As users install it, and with every extra: the command is there and answers.
    brought = [wheels[name] for name in ("kaizen", *default_distributions())]
    programs = install(session, folder / "kaizen", brought, extras=False)
    session.run(programs / "kaizen", "--help", external=True)
    programs = install(session, folder / "all", list(wheels.values()))
    session.run(programs / "kaizen", "--help", external=True)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on every Python that we promise.

    One that is not installed is reported as skipped at the end; where `CI` is set, as a
    failure.
    """
    groups = ["--group=test", "--group=clients", "--group=inference"]
    if shutil.which("chromium"):
        groups.append("--group=browser")
    sync(session, "--all-packages", "--all-extras", *groups)
    env: dict[str, str] = {} if session.python == PYTHONS[0] else FEWER
    session.run("pytest", *SIDE_BY_SIDE, *session.posargs, env=env)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, and print the tables; not a part of the default, since machines differ."""
    sync(session, "--all-packages", "--all-extras", "--group=test")
    arguments = session.posargs or ["tests/benchmarks"]
    session.run("pytest", "--capture=no", "-p", "no:randomly", "--timeout=600", *arguments)


def sync(session: nox.Session, *arguments: str) -> None:
    """Make the session's environment what the workspace and the arguments say."""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--no-default-groups",
        f"--python={session.virtualenv.location}",
        *arguments,
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )


def build_wheels(session: nox.Session, folder: Path) -> dict[str, Path]:
    """Build a wheel of everything in the workspace; return them by distribution."""
    build = ["uv", "build", "--quiet", "--all-packages", "--wheel", "--clear"]
    session.run(*build, f"--out-dir={folder}")
    return {distribution(wheel): wheel for wheel in folder.glob("*.whl")}


def install(
    session: nox.Session, environment: Path, wheels: list[Path], *, extras: bool = True
) -> Path:
    """Install these wheels, and what tests need, where nothing else of ours is.

    Ours are named by file, so that no index is asked for a distribution of that name: with
    their extras, those have to be among them that the extras name.

    Returns:
        The folder of the programs.
    """
    session.run("uv", "venv", "--quiet", "--clear", str(environment))
    session.run(
        *("uv", "pip", "install", "--quiet", f"--python={environment}"),
        f"--group={ROOT / 'pyproject.toml'}:test",
        *(requirement(wheel, extras=extras) for wheel in wheels),
    )
    return environment / ("Scripts" if os.name == "nt" else "bin")


def distribution(wheel: Path) -> str:
    """Return the name of the distribution that a wheel holds."""
    return wheel.name.split("-")[0].replace("_", "-")


def requirement(wheel: Path, *, extras: bool) -> str:
    """Name a wheel of ours, together with all its extras or none."""
    name = distribution(wheel)
    if not extras:
        return f"{name} @ {wheel.as_uri()}"
    short = name.removeprefix("kaizen-")
    folder = ROOT / {"kaizen": "", "kernel": "kernel"}.get(short, f"plugins/{short}")
    named = ",".join(project(folder).get("optional-dependencies", {}))
    return f"{name}[{named}] @ {wheel.as_uri()}"


def project(folder: Path) -> dict[str, Any]:
    """Return the table `[project]` of the distribution in a folder."""
    text = Path(folder, "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def default_distributions() -> list[str]:
    """Return the names of ours that the distribution `kaizen` brings along."""
    return [re.split(r"[^\w-]", text)[0] for text in project(ROOT)["dependencies"]]


def plugin_contracts() -> str:
    """Write import-linter's configuration for the plugins that there are."""
    packages = ["kaizen_" + name.replace("-", "_") for name in PLUGINS]
    # A list of strings is written the same way in Python and in TOML.
    return f"""
[tool.importlinter]
root_packages = {["kaizen", *packages]}

[[tool.importlinter.contracts]]
name = "a plugin imports no other plugin"
type = "independence"
modules = {packages}

[[tool.importlinter.contracts]]
name = "the kernel imports no plugin"
type = "forbidden"
source_modules = ["kaizen"]
forbidden_modules = {packages}
"""
