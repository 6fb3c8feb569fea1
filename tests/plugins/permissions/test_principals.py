"""Rules about people, roles and tenants: they come from the program, never from a model."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kaizen import BaseAgent, ConfigurationError, tool
from kaizen.runlog import Noted
from kaizen.testing import Call, ScriptedModel
from kaizen_permissions import (
    ExecutionContext,
    PermissionRule,
    PermissionsPlugin,
    PermissionsSettings,
    Policy,
    Who,
)
from kaizen_permissions._policy_file import parse_policy

from tests.plugins.permissions.conftest import Running
from tests.plugins.permissions.workbench import ALLOW, ASK, DENY, Journal, allow, placed

NOBODY = Who()
ROLES = {"admin": ["ann"], "clerk": ["bob", "ann"]}


@pytest.mark.parametrize(
    ("fields", "holds_for"),
    [
        ({}, {NOBODY, Who("ann"), Who("bob"), Who("ann", "acme"), Who("", "acme")}),
        ({"principals": ("ann",)}, {Who("ann"), Who("ann", "acme")}),
        ({"roles": ("admin",)}, {Who("ann"), Who("ann", "acme")}),
        ({"roles": ("clerk",)}, {Who("ann"), Who("bob"), Who("ann", "acme")}),
        ({"roles": ("nobody",)}, set()),
        ({"tenants": ("acme",)}, {Who("ann", "acme"), Who("", "acme")}),
        ({"principals": ("ann",), "tenants": ("acme",)}, {Who("ann", "acme")}),
        ({"principals": ("bob",), "roles": ("admin",)}, set()),
        ({"principals": ("ANN",)}, set()),
    ],
)
def test_a_rule_holds_for_those_that_it_names(
    fields: dict[str, Any], holds_for: set[Who], journal: Journal
) -> None:
    everybody = (NOBODY, Who("ann"), Who("bob"), Who("ann", "acme"), Who("", "acme"))
    call = journal.call("write_file", path="a", content="")
    for kind, otherwise in ((ALLOW, ASK), (DENY, ASK)):
        policy = Policy([PermissionRule("write_file", kind, **fields)], roles=ROLES)

        decided = {who: policy.decide(call, who=who).type for who in everybody}

        assert decided == {
            who: kind if who in holds_for else otherwise for who in everybody
        }


def test_what_refuses_somebody_is_stronger_than_what_allows_everybody(
    journal: Journal,
) -> None:
    policy = Policy(
        [
            allow("write_file"),
            allow("bash_command(rm *)"),
            PermissionRule("write_file(src/**)", DENY, tenants=("acme",)),
        ]
    )

    for call in (
        journal.call("write_file", path="src/a", content=""),
        journal.call("bash_command", command="rm src/a"),
    ):
        assert policy.decide(call, who=Who("ann", "acme")).type is DENY
        assert policy.decide(call, who=Who("ann")).type is ALLOW
    assert policy.contradictions == ()


def test_people_for_whom_the_same_rules_hold_share_what_is_made_of_them(
    journal: Journal,
) -> None:
    policy = Policy([PermissionRule("tidy", ALLOW, roles=("clerk",))], roles=ROLES)
    call = journal.call("tidy")

    for number in range(3_000):
        assert not policy.decide(call, who=Who(f"visitor-{number}"))
        assert policy.decide(call, who=Who("bob"))

    assert len({id(each) for each in policy._views.values()}) <= 2
    assert len(policy._views) <= 1_024


@pytest.mark.parametrize(
    "fields",
    [
        {"principals": "ann"},
        {"roles": ("",)},
        {"tenants": (None,)},
        {"roles": 7},
        {"principals": ("a\u200b",)},
        {"folder": "relative"},
    ],
)
def test_a_rule_for_what_is_no_name_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PermissionRule("tidy", ALLOW, **fields)


def test_what_is_refused_is_refused_in_every_folder() -> None:
    with pytest.raises(ConfigurationError, match="everywhere"):
        PermissionRule("tidy", DENY, folder="/tmp/project")


@pytest.mark.parametrize("roles", [{"admin": "ann"}, {"admin": [""]}, {"": ["ann"]}])
def test_roles_that_are_not_given_to_names_are_refused(roles: Any) -> None:
    with pytest.raises(ConfigurationError):
        Policy([], roles=roles)


def test_a_file_says_for_whom_a_rule_holds() -> None:
    (rule,) = parse_policy(
        '[[allow]]\nrule = "tidy"\nprincipals = ["ann"]\nroles = ["admin"]\n'
        'tenants = ["acme"]\n',
        "here",
    )

    assert rule == PermissionRule(
        "tidy", ALLOW, principals=("ann",), roles=("admin",), tenants=("acme",)
    )


@pytest.mark.anyio
async def test_the_program_says_for_whom_a_run_is_and_runs_inside_are_for_them(
    running: Running, model: ScriptedModel, journal: Journal
) -> None:
    context = ExecutionContext(
        rules=[PermissionRule("write_file", ALLOW, roles=("admin",), tenants=("acme",))],
        roles=ROLES,
    )

    @tool(danger="safe")
    async def help_me() -> str:
        """Ask a helper."""
        helper = writer.bind(metadata={"principal": "ann"})
        return str((await helper.execute_tool("write_file", write)).success)

    write = {"path": "a", "content": ""}
    async with running() as kernel:
        writer = BaseAgent(
            signature="question -> answer",
            tools=[journal.tools["write_file"]],
            kernel=kernel,
        )
        agent = BaseAgent(
            signature="question -> answer", tools=[help_me], kernel=kernel, hooks=[context]
        )
        told = []
        for who in (
            {"principal": "ann", "tenant_id": "acme"},
            {"principal": "bob", "tenant_id": "acme"},
            {"principal": "ann", "tenant_id": "other"},
            {},
        ):
            model.say(Call("help_me", {}), {"answer": "done"})
            result = await agent.bind(metadata=who).run(question="?")
            told.append([each.text for each in result.messages if each.role == "tool"])

    assert told == [["True"], ["False"], ["False"], ["False"]]


@pytest.mark.anyio
async def test_the_roles_of_the_settings_hold_and_the_log_says_for_whom_it_was(
    running: Running, model: ScriptedModel, journal: Journal, project: Path
) -> None:
    policy = project.parent / "policy.toml"
    policy.write_text('[[allow]]\nrule = "tidy"\nroles = ["admin"]\n', encoding="utf-8")
    model.say(Call("tidy", {}), {"answer": "done"})
    async with running(policy=policy, roles=ROLES) as kernel:
        agent = BaseAgent(
            signature="question -> answer", tools=[journal.tools["tidy"]], kernel=kernel
        )
        async with agent.bind(metadata={"principal": "ann"}).stream(question="?") as run:
            await run.wait()

    notes = [
        each.data
        for each in run.log.entries
        if isinstance(each, Noted) and each.kind == "decision"
    ]
    assert len(journal.calls) == 1
    assert [(each["principal"], "tenant" in each) for each in notes] == [("ann", False)]


@pytest.mark.anyio
async def test_a_rule_about_a_role_that_nobody_has_is_warned_of(
    running: Running, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = project.parent / "policy.toml"
    policy.write_text('[[deny]]\nrule = "grep"\nroles = ["gest"]\n', encoding="utf-8")

    async with running(policy=policy, roles={"guest": ["bob"]}):
        pass

    assert "nobody has the role 'gest'" in caplog.text


def test_a_file_that_others_may_have_written_can_refuse_somebody(
    project: Path, journal: Journal
) -> None:
    (project / "policy.toml").write_text(
        '[[deny]]\nrule = "grep"\nroles = ["guest"]\n'
        '[[allow]]\nrule = "tidy"\nprincipals = ["bob"]\n',
        encoding="utf-8",
    )
    settings = {"policy": "policy.toml", "roles": {"guest": ["bob"]}}
    policy = PermissionsPlugin(PermissionsSettings.model_validate(settings)).policy

    search = journal.call("grep", pattern="x")
    assert policy.decide(search, who=Who("bob")).type is DENY
    assert policy.decide(search, who=Who("ann")).type is ALLOW
    assert policy.decide(journal.call("tidy"), who=Who("bob")).type is ASK


def test_what_is_allowed_in_a_folder_ends_where_a_link_leads_elsewhere(
    project: Path, journal: Journal
) -> None:
    for name in ("a", "b"):
        (project / name).mkdir()
    link = project / "link"
    link.symlink_to("a")
    rule = PermissionRule("bash_command(make)", ALLOW, folder=str(project / "a"))
    policy = Policy([rule])
    shell = placed(journal.tools["bash_command"], link)

    assert policy.decide("bash_command", {"command": "make"}, spec=shell)
    link.unlink()
    link.symlink_to("b")

    assert not policy.decide("bash_command", {"command": "make"}, spec=shell)


@pytest.mark.parametrize("spelt", ["a/", "link", "./b/../a", "link/."])
def test_a_folder_is_the_place_that_it_leads_to_when_the_rule_is_made(
    spelt: str, project: Path, journal: Journal
) -> None:
    for name in ("a", "b"):
        (project / name).mkdir()
    (project / "link").symlink_to("a")
    rule = PermissionRule("tidy", ALLOW, folder=f"{project}/{spelt}")
    (project / "link").unlink()
    (project / "link").symlink_to("b")

    def decided(folder: str) -> Any:
        tidy = placed(journal.tools["tidy"], project / folder)
        return Policy([rule]).decide("tidy", {}, spec=tidy)

    assert decided("a")
    assert not decided("b")
    assert not decided("link")


def test_people_are_decided_about_in_several_threads_at_once(journal: Journal) -> None:
    names = [f"user-{number}" for number in range(300)]
    rules = [PermissionRule("tidy", ALLOW, principals=(each,)) for each in names]
    policy = Policy(rules)
    call = journal.call("tidy")
    begin = threading.Barrier(8)

    def decided(first: int) -> list[bool]:
        begin.wait(timeout=10)
        every = [*names[first:], *names[:first]]
        return [bool(policy.decide(call, who=Who(each))) for each in every]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(decided, range(0, 296, 37)))
    finally:
        sys.setswitchinterval(before)

    assert all(map(all, found))


def test_what_holds_for_somebody_is_put_together_off_the_event_loop(
    journal: Journal,
) -> None:
    """It takes looking at every rule, and at a folder if one is bound to it."""
    policy = Policy([PermissionRule("tidy", ALLOW, principals=("ann",))])
    subject = policy.subject(journal.call("tidy"), who=Who("ann"))
    assert policy.looks_at_files(subject)
    assert policy._views == {}

    policy.speak(subject)

    assert not policy.looks_at_files(subject)


def test_rules_of_one_priority_are_compared_only_when_a_policy_is_made(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy([PermissionRule("tidy", ALLOW, principals=("ann",)), allow("grep")])
    monkeypatch.setattr("kaizen_permissions._policy._contradictions", None)

    assert policy.decide(journal.call("tidy"), who=Who("ann"))
    assert policy.with_rules(allow("read_file")).decide("read_file", {"path": "a"})


@pytest.mark.parametrize("given", [5, None, "ann", [""], [7]])
def test_a_role_that_is_not_given_to_names_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="role 'clerk'"):
        Policy([], roles={"clerk": given})
