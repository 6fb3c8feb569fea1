"""Plugins add commands, by a hook or by an entry point."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kaizen import ConfigurationError
from kaizen_cli import Commands

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli

COMMANDER = ("--plugin", "sample_plugins:WithCommands")
METADATA = "Metadata-Version: 2.1\nName: kaizen-birds\nVersion: 1.2\nSummary: Sings.\n"
MODULE = """
import sys

class BirdsPlugin:
    '''Sings.'''

async def sing(kernel, arguments):
    sys.stdout.write(f"tweet {list(arguments)} {kernel.running}\\n")
    return 3
"""


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution that brings a plugin and a command."""
    site = tmp_path / "site"
    information = site / "kaizen_birds-1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(METADATA, encoding="utf-8")
    (information / "entry_points.txt").write_text(
        "[kaizen.plugins]\nbirds = kaizen_birds:BirdsPlugin\n"
        "[kaizen.commands]\nsing = kaizen_birds:sing\n",
        encoding="utf-8",
    )
    (site / "kaizen_birds.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    return site


def test_a_command_that_a_plugin_registers_gets_its_arguments_as_they_stand(
    kaizen: Cli,
) -> None:
    shown = kaizen(*COMMANDER, "echo", "a", "--help", "--", "-x")

    assert shown.code == 0
    assert shown.out.startswith("echo a --help -- -x on ")


def test_its_exit_code_is_that_of_the_command(kaizen: Cli) -> None:
    assert kaizen(*COMMANDER, "echo", "--seven").code == 7


def test_a_command_may_be_named_by_the_place_where_it_stands(kaizen: Cli) -> None:
    assert kaizen(*COMMANDER, "later", "b").out == "later ['b']\n"


def test_a_command_of_an_entry_point_is_listed_without_being_imported(
    kaizen: Cli, birds: Path
) -> None:
    shown = kaizen("--help")

    _, plugins = shown.out.split("\nCommands of plugins:\n")
    assert re.search(r"^  sing +Sings\. \(kaizen-birds\)$", plugins, re.MULTILINE)
    assert "kaizen_birds" not in sys.modules


def test_a_command_of_an_entry_point_is_run_with_the_kernel(
    kaizen: Cli, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIZEN_PLUGINS", "cli,birds")

    shown = kaizen("sing", "--loud")

    assert shown.code == 3
    assert shown.out == "tweet ['--loud'] True\n"


def test_a_command_of_a_disabled_plugin_is_never_imported(kaizen: Cli, birds: Path) -> None:
    shown = kaizen("sing")

    assert shown.code == 1
    assert "is disabled, so its command 'sing' is too" in shown.err
    assert "kaizen_birds" not in sys.modules


def test_a_misspelt_command_of_a_plugin_is_recognised(kaizen: Cli, birds: Path) -> None:
    assert "Did you mean 'sing'?" in kaizen("snig").err


def test_no_plugin_takes_the_place_of_our_own_commands(kaizen: Cli, birds: Path) -> None:
    points = birds / "kaizen_birds-1.2.dist-info" / "entry_points.txt"
    points.write_text("[kaizen.commands]\ntrust = kaizen_birds:sing\n", encoding="utf-8")

    shown = kaizen("trust", "--help")

    assert "Usage: kaizen trust" in shown.out
    assert "kaizen-birds" not in kaizen("--help").out


@pytest.mark.parametrize("name", ["", "Echo", "a b", "--echo", "a_b"])
def test_a_command_needs_a_name_that_can_be_typed(name: str) -> None:
    with pytest.raises(ConfigurationError, match="hard to type"):
        Commands().add(name, "module:function")


def test_a_command_is_added_once_and_leads_somewhere() -> None:
    commands = Commands()
    commands.add("echo", "module:function")

    with pytest.raises(ConfigurationError, match="added twice"):
        commands.add("echo", "module:other")
    with pytest.raises(ConfigurationError, match="module:function"):
        commands.add("other", "module.function")
