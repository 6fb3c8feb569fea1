"""What the command says of itself, and how little it imports for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli

COMMANDS = ["ask", "run", "chat", "runs", "plugins", "new", "trust"]
GROUPS = ["runs", "plugins", "new"]
HEAVY = {"asyncio", "anyio", "httpx", "kaizen", "pluggy", "pydantic", "rich", "tomllib"}


def imported_by(*arguments: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_help_lists_every_command_with_examples(kaizen: Cli) -> None:
    shown = kaizen("--help")

    assert shown.code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in shown.out] == []
    assert "Examples:" in shown.out
    assert shown.err == ""


def test_no_command_at_all_shows_help(kaizen: Cli) -> None:
    assert kaizen() == kaizen("--help")


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_commands_alone_shows_its_help(kaizen: Cli, group: str) -> None:
    assert kaizen(group) == kaizen(group, "--help")


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_what_a_list_of_commands_says_of_each_is_whole(
    kaizen: Cli, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    shown = kaizen(*group.split(), "--help")

    commands = shown.out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert commands
    assert "..." not in commands


def test_commands_stand_in_the_order_in_which_they_are_needed(kaizen: Cli) -> None:
    shown = kaizen("runs").out

    names = ["list", "show", "resume", "fork", "prune", "stop"]
    places = [shown.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(kaizen: Cli, command: str) -> None:
    shown = kaizen(command, "--help")

    assert shown.code == 0
    assert f"Usage: kaizen {command}" in shown.out


def test_the_version_is_shown(kaizen: Cli) -> None:
    shown = kaizen("--version")

    assert shown.code == 0
    assert shown.out.startswith("kaizen 0.")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["ask", "--help"], ["runs", "resume", "--help"]],
)
def test_help_imports_neither_the_kernel_nor_anything_heavy(arguments: list[str]) -> None:
    found = imported_by("-m", "kaizen_cli", *arguments)

    assert found & HEAVY == set()
    assert "click" in found


def test_the_kernel_loads_this_plugin_without_a_command_line() -> None:
    found = imported_by("-c", "import kaizen_cli; kaizen_cli.CliPlugin")

    assert found & {"click", "rich"} == set()
    assert "kaizen" in found


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["aks"], "ask"),
        (["runs", "lst"], "list"),
        (["plugins", "lst"], "list"),
        (["new", "pugin"], "plugin"),
    ],
)
def test_a_misspelt_command_is_answered_with_what_was_meant(
    kaizen: Cli, typed: list[str], meant: str
) -> None:
    shown = kaizen(*typed)

    assert shown.code == 2
    assert f"Did you mean {meant!r}?" in shown.err
    assert shown.out == ""


def test_an_unknown_option_is_a_usage_error(kaizen: Cli) -> None:
    shown = kaizen("ask", "Why?", "--loud")

    assert shown.code == 2
    assert "--loud" in shown.err
    assert "kaizen ask --help" in shown.err


@pytest.mark.parametrize(
    ("typed", "missing"),
    [
        ("ask", "QUESTION"),
        ("run", "TARGET"),
        ("plugins show", "NAME"),
        ("runs show", "RUN"),
        ("runs resume", "RUN"),
        ("runs rewind", "CHECKPOINT"),
        ("new plugin", "NAME"),
        ("new agent", "NAME"),
    ],
)
def test_a_command_without_its_argument_says_what_is_missing(
    kaizen: Cli, typed: str, missing: str
) -> None:
    shown = kaizen(*typed.split())

    assert shown.code == 2
    assert f"Missing argument '{missing}'." in shown.err
    assert f"Usage: kaizen {typed} [OPTIONS] {missing}" in shown.err
    assert f"See `kaizen {typed} --help`." in shown.err
    assert ".." not in shown.err.replace("...", "")


def test_a_command_whose_output_is_closed_does_what_it_should(kept: Path) -> None:
    Path("kaizen.toml").write_text("[kaizen]\n", encoding="utf-8")

    done = subprocess.run(
        ["/bin/sh", "-c", f"'{sys.executable}' -m kaizen_cli trust >&-"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.returncode == 0
    assert kept.exists()
