"""Settings: what a user may write, and what it comes to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from kaizen import BaseAgent, Kernel, PluginError
from kaizen_permissions import (
    ExecutionContext,
    PermissionMode,
    PermissionsPlugin,
    PermissionsSettings,
)

from tests.plugins.permissions.conftest import Running
from tests.plugins.permissions.workbench import ASK, DENY, Journal


def kernel_with(environ: dict[str, str] | None = None, **settings: Any) -> Kernel:
    return Kernel(
        plugins=[PermissionsPlugin],
        discover=False,
        settings={"permissions": settings},
        config_file=False,
        environ=environ or {},
    )


@pytest.mark.parametrize("word", ["bypass", "bypassPermissions", "BYPASS"])
@pytest.mark.anyio
async def test_a_bypass_cannot_be_set(word: str, project: Path) -> None:
    with pytest.raises(PluginError, match="in code alone") as raised:
        async with kernel_with(mode=word):
            pass
    assert "ExecutionContext" in str(raised.value)

    with pytest.raises(PluginError, match="in code alone"):
        async with kernel_with({"KAIZEN_PERMISSIONS__MODE": word}):
            pass

    (project / "kaizen.toml").write_text(
        f'[plugins.permissions]\nmode = "{word}"\n', encoding="utf-8"
    )
    with pytest.raises(PluginError, match="in code alone"):
        async with Kernel(plugins=[PermissionsPlugin], discover=False, environ={}):
            pass


@pytest.mark.parametrize("word", ["careless", "", "plan;bypass", 3])
@pytest.mark.anyio
async def test_a_mode_that_there_is_not_is_refused_with_those_that_there_are(
    word: Any,
) -> None:
    with pytest.raises(PluginError, match="known: default, accept_edits, plan"):
        async with kernel_with(mode=word):
            pass


@pytest.mark.parametrize("field", ["allow", "ask", "deny"])
@pytest.mark.anyio
async def test_a_rule_that_cannot_be_used_stops_the_kernel_and_says_why(field: str) -> None:
    rules: dict[str, Any] = {field: ["git_*"]}

    with pytest.raises(PluginError, match="wildcard"):
        async with kernel_with(**rules):
            pass


@pytest.mark.anyio
async def test_unknown_settings_are_refused() -> None:
    with pytest.raises(PluginError, match=r"'allowed' .*is unknown"):
        async with kernel_with(allowed=["a"]):
            pass


def test_the_modes_of_settings_have_their_words() -> None:
    settings = PermissionsSettings.model_validate({"mode": "acceptEdits"})

    assert settings.mode is PermissionMode.ACCEPT_EDITS


def test_by_default_agents_may_look_around_in_the_roots_and_nothing_else(
    project: Path, journal: Journal
) -> None:
    policy = PermissionsPlugin(PermissionsSettings()).policy

    def decide(name: str, **arguments: Any) -> Any:
        return policy.decide(journal.call(name, **arguments)).type.value

    assert decide("read_file", path="src/app/main.py") == "allow"
    assert decide("grep", pattern="x") == "allow"
    assert decide("bash_command", command="git status && ls -la src | wc -l") == "allow"
    assert decide("read_file", path="../outside/victim.txt") == "ask"
    assert decide("grep", pattern="x", path="/etc") == "ask"
    assert decide("bash_command", command="cat /etc/passwd") == "ask"
    assert decide("bash_command", command="ls; rm a") == "ask"
    assert decide("http_get", url="https://example.com") == "ask"
    assert decide("write_file", path="src/a", content="") == "ask"


def test_what_is_allowed_by_default_can_be_changed(project: Path, journal: Journal) -> None:
    settings = PermissionsSettings.model_validate({"allow": [], "unasked": "low"})
    strict = PermissionsPlugin(PermissionsSettings.model_validate({"allow": []}))
    loose = PermissionsPlugin(settings)
    call = journal.call("read_file", path="src/app/main.py")

    assert strict.policy.decide(call).type is ASK
    assert loose.policy.decide(call)


def test_the_roots_may_be_other_folders(project: Path, journal: Journal) -> None:
    settings = PermissionsSettings.model_validate({"roots": ["../outside"]})
    policy = PermissionsPlugin(settings).policy

    assert policy.decide(journal.call("read_file", path="../outside/victim.txt"))
    assert policy.decide(journal.call("read_file", path="src/app/main.py")).type is ASK


@pytest.mark.anyio
async def test_rules_come_from_a_file_too(
    project: Path, running: Running, journal: Journal
) -> None:
    (project.parent / "policy.toml").write_text(
        '[[deny]]\nrule = "add"\nreason = "people count"\npriority = 5\n',
        encoding="utf-8",
    )
    async with running(policy=project.parent / "policy.toml", allow=["add"]) as kernel:
        agent = BaseAgent(signature="a -> b", tools=[journal.tools["add"]], kernel=kernel)

        result = await agent.execute_tool("add", {"first": 1, "second": 2})

    assert "people count" in result.error


@pytest.mark.anyio
async def test_a_file_with_rules_that_is_not_there_stops_the_kernel(project: Path) -> None:
    with pytest.raises(PluginError, match=r"policy\.toml"):
        async with kernel_with(policy="policy.toml"):
            pass


def test_no_rule_lets_a_call_change_the_files_that_rules_stand_in(
    project: Path, journal: Journal
) -> None:
    (project / "policy.toml").write_text("", encoding="utf-8")
    settings = PermissionsSettings.model_validate(
        {
            "policy": "policy.toml",
            "remember": project.parent / "always.toml",
            "mode": "acceptEdits",
            "allow": ["write_file", "bash_command(tee *)"],
            "protected": [],
        }
    )
    policy = PermissionsPlugin(settings).policy
    (project / "alias").symlink_to("policy.toml")

    always = str(project.parent / "always.toml")
    for path in ("policy.toml", "../always.toml", "alias", always, "POLICY.toml"):
        call = journal.call("write_file", path=path, content="")
        assert policy.decide(call).type is ASK, path
    for command in ("tee policy.toml < a", "echo x > ../always.toml"):
        assert policy.decide(journal.call("bash_command", command=command)).type is ASK
    assert policy.decide(journal.call("write_file", path="other.toml", content=""))


RULES = """
allow = ["re:.*"]
[[ask]]
rule = "delete_file"
priority = 1000
[[deny]]
rule = "send_mail"
"""


@pytest.mark.parametrize("how", ["policy.toml", "here", "linked", "../out.toml", "~link"])
def test_a_file_that_others_could_have_written_can_only_ask_and_refuse(
    how: str,
    project: Path,
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = project / "policy.toml"
    file.write_text(RULES, encoding="utf-8")
    (project.parent / "out.toml").write_text(RULES, encoding="utf-8")
    (project / "linked.toml").symlink_to(project.parent / "out.toml")
    (project.parent / "link.toml").symlink_to(file)
    monkeypatch.setenv("HOME", str(project.parent))
    named = {
        "here": str(file),
        "linked": str(project / "linked.toml"),
        "~link": "~/link.toml",
    }
    settings = PermissionsSettings.model_validate(
        {"policy": named.get(how, how), "deny": ["delete_file"], "allow": ["add"]}
    )

    with caplog.at_level(logging.WARNING, "kaizen.permissions"):
        policy = PermissionsPlugin(settings).policy

    assert policy.decide(journal.call("delete_file", path="a")).type is DENY
    assert policy.decide(journal.call("send_mail", to="a", body="b")).type is DENY
    assert policy.decide(journal.call("write_file", path="a", content="")).type is ASK
    assert policy.decide(journal.call("add", first=1, second=2))
    assert "1 rules of" in caplog.text


@pytest.mark.parametrize("how", ["absolute", "~/policy.toml"])
def test_a_file_of_the_user_can_allow(
    how: str, project: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.parent / "policy.toml").write_text(RULES, encoding="utf-8")
    monkeypatch.setenv("HOME", str(project.parent))
    path = str(project.parent / "policy.toml") if how == "absolute" else how
    settings = PermissionsSettings.model_validate({"policy": path, "remember": path})

    policy = PermissionsPlugin(settings).policy

    assert policy.decide(journal.call("write_file", path="a", content=""))
    assert policy.decide(journal.call("delete_file", path="a")).type is ASK


@pytest.mark.parametrize("path", ["always.toml", "../always.toml", "sub/always.toml"])
@pytest.mark.anyio
async def test_what_a_person_allows_is_kept_in_no_file_of_others(
    path: str, project: Path
) -> None:
    for each in (path, str(project / "always.toml")):
        with pytest.raises(PluginError, match="absolute path outside the roots"):
            async with kernel_with(remember=each):
                pass


@pytest.mark.anyio
async def test_rules_about_tools_that_nobody_offers_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "kaizen.permissions"):
        async with kernel_with(deny=["delete_flie", "re:delete_.*"]):
            pass

    (message,) = caplog.messages
    assert "'deny delete_flie'" in message


@pytest.mark.anyio
async def test_with_the_default_settings_nothing_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "kaizen.permissions"):
        async with kernel_with():
            pass

    assert caplog.messages == []


@pytest.mark.anyio
async def test_settings_and_contexts_hold_together(
    running: Running, journal: Journal
) -> None:
    async with running(allow=["add"], deny=["send_mail"]) as kernel:
        tools = [journal.tools[name] for name in ("add", "send_mail", "delete_file")]
        context = ExecutionContext(
            denied_tools={"delete_file"}, allowed_tools={"add", "send_mail"}
        )
        agent = BaseAgent(signature="a -> b", tools=tools, kernel=kernel, hooks=[context])

        results = [
            await agent.execute_tool("add", {"first": 1, "second": 2}),
            await agent.execute_tool("send_mail", {"to": "a", "body": "b"}),
            await agent.execute_tool("delete_file", {"path": "a"}),
        ]

    assert [each.success for each in results] == [True, False, False]


def test_the_plugin_decides_before_its_kernel_starts(journal: Journal) -> None:
    plugin = PermissionsPlugin(PermissionsSettings.model_validate({"deny": ["add"]}))

    assert plugin.policy.decide(journal.call("add", first=1, second=2)).type is DENY
    assert plugin.settings.deny == ("add",)
    assert not plugin.remembers
