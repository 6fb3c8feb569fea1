"""Relative paths are judged in the folder in which the tool begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kaizen_permissions import Policy

from tests.plugins.permissions.workbench import (
    ALLOW,
    ASK,
    DENY,
    Journal,
    allow,
    deny,
    placed,
)


@pytest.fixture
def data(project: Path) -> Path:
    """Make a folder of data in the project, with things that rules are about."""
    for name in ("data/secret/k", "data/docs/x", "secret/k"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("text", encoding="utf-8")
    return project / "data"


def test_a_command_is_judged_in_the_folder_in_which_the_tool_starts_it(
    data: Path, journal: Journal
) -> None:
    shell = placed(journal.tools["bash_command"], data)
    policy = Policy(
        [
            allow("bash_command(@reads)"),
            allow("bash_command(rm *)"),
            deny("read_file(data/secret/**)"),
            deny("write_file(data/docs/**)"),
        ],
        roots=["data", "."],
    )

    def decided(command: str) -> Any:
        return policy.decide("bash_command", {"command": command}, spec=shell).type

    assert decided("cat secret/k") is DENY
    assert decided("cat < secret/k") is DENY
    assert decided("rm docs/x") is DENY
    assert decided("cd .. && cat data/secret/k") is DENY
    assert decided("cat ../secret/k") is ALLOW
    assert decided("cat docs/x") is ALLOW


def test_what_a_shell_writes_is_judged_in_the_folder_in_which_it_starts(
    data: Path, journal: Journal
) -> None:
    shell = placed(journal.tools["bash_command"], data)
    policy = Policy(
        [allow("bash_command(@reads)"), allow("write_file(docs/**)")], roots=["."]
    )

    def decided(command: str) -> Any:
        return policy.decide("bash_command", {"command": command}, spec=shell).type

    assert decided("ls > docs/y") is ASK
    assert decided("ls > ../docs/y") is ALLOW
    assert decided("ls > ../.git/config") is ASK


def test_the_roots_are_those_of_the_settings_wherever_a_tool_starts(
    data: Path, journal: Journal
) -> None:
    shell = placed(journal.tools["bash_command"], data)
    inner = Policy([allow("bash_command(@reads)")], roots=["data"])
    other = Policy([allow("bash_command(@reads)")], roots=["docs"])

    assert inner.decide("bash_command", {"command": "cat docs/x"}, spec=shell)
    assert inner.decide("bash_command", {"command": "ls docs"}, spec=shell)
    assert not other.decide("bash_command", {"command": "cat docs/x"}, spec=shell)


def test_paths_are_judged_in_the_folder_in_which_the_tool_resolves_them(
    data: Path, journal: Journal
) -> None:
    reader = placed(journal.tools["read_file"], data)
    policy = Policy([deny("read_file(data/secret/**)"), allow("read_file(@roots/)")])

    assert policy.decide("read_file", {"path": "secret/k"}, spec=reader).type is DENY
    assert policy.decide("read_file", {"path": "../secret/k"}, spec=reader)


def test_a_search_of_everything_looks_at_all_that_the_tool_may_read(
    data: Path, journal: Journal, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    searcher = placed(journal.tools["grep"], Path.cwd(), str(outside))
    policy = Policy([deny(f"read_file({outside}/**)"), allow("grep(@roots/)")])

    def decided(**arguments: str) -> Any:
        given = {"pattern": "x", **arguments}
        return policy.decide("grep", given, spec=searcher).type

    assert decided(path=".") is ASK
    assert decided(path="") is ASK
    assert decided(path=str(Path.cwd())) is ASK
    assert decided(path="docs") is ALLOW


@pytest.mark.parametrize("path", ["", [""], ["docs", ""], {"": ""}])
@pytest.mark.parametrize("name", ["path", "folders"])
def test_an_empty_path_is_the_folder_in_which_the_tool_begins(
    path: Any, name: str, data: Path, journal: Journal
) -> None:
    policy = Policy([deny("read_file(secret/**)"), allow("grep")])

    def decided(given: Any) -> Any:
        return policy.decide("grep", {"pattern": "x", name: given}).type

    assert decided("docs") is ALLOW
    assert decided(path) is decided(".") is ASK


def test_an_empty_path_is_inside_the_roots(data: Path) -> None:
    policy = Policy([allow("grep(@roots/)")])

    assert policy.decide("grep", {"path": ""})
    assert not policy.decide("grep", {"path": ["", "/etc"]})


def test_a_command_that_somebody_else_would_start_may_start_anywhere(
    data: Path, journal: Journal
) -> None:
    spec = journal.tools["bash_command"].spec
    remote = replace(spec, category="mcp")
    policy = Policy([allow("bash_command(@reads)")])

    assert policy.decide("bash_command", {"command": "ls"}, spec=spec)
    decided = policy.decide("bash_command", {"command": "ls"}, spec=remote)

    assert decided.type is ASK
    assert "in which folder" in decided.reason


@pytest.mark.parametrize("said", ["data", "", "."])
def test_a_folder_that_is_no_absolute_path_says_nothing(
    said: str, data: Path, journal: Journal
) -> None:
    spec = replace(placed(journal.tools["bash_command"], data), directory=said)
    policy = Policy(
        [allow("bash_command(@reads)"), deny("read_file(data/secret/**)")], roots=["."]
    )

    command = {"command": "cat data/secret/k"}
    assert policy.decide("bash_command", command, spec=spec).type is DENY
