"""Whole decisions about shell commands: what destroys something, and what a day needs.

The settings are the default ones, with the few rules of an ordinary developer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kaizen_permissions import PermissionsPlugin, PermissionsSettings, Policy

from tests.plugins.permissions import destructive_forms, ordinary_commands
from tests.plugins.permissions.workbench import Journal, allow
from tests.plugins.tools import destructive


def everyday(mode: str = "default") -> Policy:
    settings = PermissionsSettings.model_validate({"mode": mode})
    rules = [allow(f"bash_command({each})") for each in ordinary_commands.POLICY]
    return PermissionsPlugin(settings).policy.with_rules(*rules)


def allowed(policy: Policy, commands: list[str]) -> list[str]:
    spec = Journal().tools["bash_command"].spec
    return [
        each
        for each in commands
        if policy.decide("bash_command", {"command": each}, spec=spec)
    ]


def test_no_form_that_destroys_something_is_allowed(project: Path) -> None:
    forms = list(destructive_forms.forms())

    assert len(forms) >= 1_000
    assert allowed(everyday(), forms) == []


@pytest.mark.parametrize("mode", ["default", "plan"])
def test_no_form_that_was_seen_to_destroy_something_is_allowed(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = destructive.Scene(tmp_path)
    monkeypatch.chdir(scene.root)
    forms = list(destructive.forms(root=str(scene.root), victim=str(scene.victim)))

    assert len(forms) >= 1_000
    assert allowed(everyday(mode), forms) == []


def test_ordinary_commands_need_no_question(project: Path) -> None:
    commands = list(ordinary_commands.COMMANDS)

    needless = len(allowed(everyday(), commands))

    assert len(commands) >= 200
    assert needless / len(commands) >= 0.95
