"""`kaizen plugins` says what is installed, what it does, and whether it works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli

BROKEN = ("--plugin", "sample_plugins:Broken")


def test_the_list_names_plugins_with_what_they_offer(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    shown = kaizen("plugins", "list", *sample, *BROKEN)

    lines = {line.split()[0]: line for line in shown.out.splitlines()}
    assert shown.code == 0
    assert lines["Name"].split() == ["Name", "Version", "Distribution", "Status", "Offers"]
    assert "kaizen-cli" in lines["cli"]
    assert "Tool: list_directory, search_files, grep, read_file" in lines["tools"]
    assert "failed" in lines["broken"]
    assert "Failed: broken." in shown.err


def test_the_list_as_json(kaizen: Cli, sample: tuple[str, ...]) -> None:
    shown = kaizen("plugins", "list", *sample, "--json")

    found = {each["name"]: each for each in shown.json}
    assert found["cli"]["distribution"] == "kaizen-cli"
    assert found["sample-model"]["offers"] == [
        {"port": "Provider", "name": "sample", "description": "Does as it is told."}
    ]
    assert found["tools"]["hooks"] == ["contribute", "pre_tool_call"]


def settings(shown: Any) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in shown.json["settings"]}


def test_settings_are_shown_with_type_default_value_and_source(
    kaizen: Cli, sample: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIZEN_TOOLS__MODE", "fast")
    config = Path("mine.toml")
    config.write_text("[plugins.tools]\nroots = ['here']\n", encoding="utf-8")

    shown = kaizen("plugins", "show", "tools", *sample, "--config", config, "--json")

    found = settings(shown)
    assert found["mode"] == {
        "name": "mode",
        "type": "'fast' | 'safe'",
        "value": "fast",
        "default": "safe",
        "source": "environment (KAIZEN_TOOLS__MODE)",
        "description": "How it works.",
    }
    assert (found["roots"]["value"], found["roots"]["source"]) == ('["here"]', "mine.toml")
    assert found["endpoint"]["source"] == "default"


def test_secrets_are_never_shown(
    kaizen: Cli, sample: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIZEN_TOOLS__TOKEN", "open sesame")
    monkeypatch.setenv("THE_ENDPOINT", "https://ali:baba@example.org/")
    config = Path("mine.toml")
    config.write_text(
        "[plugins.tools]\nendpoint = {env = 'THE_ENDPOINT'}\n", encoding="utf-8"
    )

    as_text = kaizen("plugins", "show", "tools", *sample, "--config", config)
    as_json = kaizen("plugins", "show", "tools", *sample, "--config", config, "--json")

    for secret in ("open sesame", "hidden", "baba", "pw@", "swordfish"):
        assert secret not in as_text.out + as_json.out
    assert settings(as_json)["token"]["value"] == "********"
    assert settings(as_json)["max_tokens"]["value"] == "7"
    assert settings(as_json)["endpoint"]["value"] == "https://ali:********@example.org/"
    assert "THE_ENDPOINT" in settings(as_json)["endpoint"]["source"]


def test_a_plugin_is_shown_with_hooks_and_offers(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    shown = kaizen("plugins", "show", "tools", *sample)

    assert shown.out.startswith("tools  enabled\n")
    assert "File tools that read what lies under their roots." in shown.out
    assert "pre_tool_call" in shown.out
    assert "Tool grep  Find lines." in shown.out
    assert "[plugins.tools]" in shown.out


def test_commands_that_a_plugin_adds_are_shown(kaizen: Cli) -> None:
    shown = kaizen(
        "plugins", "show", "commander", "--plugin", "sample_plugins:WithCommands", "--json"
    )

    assert shown.json["commands"] == [
        {"name": "echo", "help": "Say it again."},
        {"name": "later", "help": "Say it later."},
    ]


def test_an_unknown_plugin_is_an_error_that_lists_the_known_ones(kaizen: Cli) -> None:
    shown = kaizen("plugins", "show", "clu")

    assert shown.code == 1
    assert "Did you mean 'cli'?" in shown.err


def test_the_doctor_is_content_where_all_is_well(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    shown = kaizen("plugins", "doctor", *sample)

    assert shown.code == 0
    assert "All 3 enabled plugins work." in shown.out
    assert shown.err == ""


def test_the_doctor_names_what_failed_with_the_remedy_and_exits_with_1(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    shown = kaizen("plugins", "doctor", *sample, *BROKEN)

    assert shown.code == 1
    assert "failed  broken" in shown.out
    assert "could not start: OSError: the \\x1b[31mcable" in shown.out
    assert "Correct its settings, or leave it out of `plugins`." in shown.out
    assert "1 of 4 enabled plugins failed: broken." in shown.out
    assert "\x1b" not in shown.out


def test_the_doctor_speaks_json(kaizen: Cli, sample: tuple[str, ...]) -> None:
    shown = kaizen("plugins", "doctor", *sample, *BROKEN, "--json")

    assert shown.code == 1
    assert shown.json["ok"] is False
    assert shown.json["failed"] == ["broken"]
    (broken,) = (each for each in shown.json["plugins"] if each["name"] == "broken")
    assert broken["remedy"] == "Correct its settings, or leave it out of `plugins`."


def test_settings_that_do_not_fit_are_found_by_the_doctor(
    kaizen: Cli, sample: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIZEN_TOOLS__MODE", "reckless")

    shown = kaizen("plugins", "doctor", *sample)

    assert shown.code == 1
    assert "1 of 3 enabled plugins failed: tools." in shown.out
    assert "mode" in shown.out
