"""Policies in files, and rules that are added to them."""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kaizen import Answer, BaseAgent, ConfigurationError
from kaizen_permissions import PermissionRule
from kaizen_permissions._policy_file import append_rule, parse_policy, read_policy

from tests.plugins.permissions.conftest import Running
from tests.plugins.permissions.workbench import ALLOW, DENY, Journal, Person, allow


def test_a_file_has_tables_or_lists_of_rules() -> None:
    text = """
        ask = ["http_get"]
        deny = [{ rule = "re:drop_.*", priority = 9 }]
        [[allow]]
        rule = "bash_command(pytest *)"
        reason = "tests are harmless"
        priority = -3
    """

    rules = parse_policy(text, "here")

    assert [str(each) for each in rules] == [
        "allow bash_command(pytest *)",
        "ask http_get",
        "deny re:drop_.*",
    ]
    assert [each.priority for each in rules] == [-3, 0, 9]
    assert rules[0].reason == "tests are harmless"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("allow = [", "TOML"),
        ('alow = ["a"]', "'alow' is unknown"),
        ("allow = [3]", "allow.0"),
        ('allow = [{ rule = "a", prio = 1 }]', "prio"),
        ('allow = [{ rule = "a", priority = 1.5 }]', "priority"),
        ('allow = ["git_*"]', "wildcard"),
        ("allow = 'a'", "allow"),
        ("a=" + "[" * 5_000, "TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_whole(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        parse_policy(text, "here")


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"

    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_policy(path)
    path.write_bytes(b"#" * (1_024 * 1_024 + 1))
    with pytest.raises(ConfigurationError, match="larger"):
        read_policy(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_policy(tmp_path)


def test_a_rule_is_added_at_the_end_and_the_rest_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('# ours\n[[deny]]\nrule = "a"\n', encoding="utf-8")
    rule = PermissionRule('write_file(a"\\b ü.md)', ALLOW, 'said "always"', 7)

    append_rule(path, rule)

    assert path.read_text(encoding="utf-8").startswith('# ours\n[[deny]]\nrule = "a"\n\n')
    assert read_policy(path) == [rule, PermissionRule("a", DENY)]
    assert [each.name for each in tmp_path.iterdir()] == ["policy.toml"]


def test_a_file_that_is_made_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "always.toml"

    append_rule(path, allow("add"))

    assert read_policy(path) == [allow("add")]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_rule_that_would_break_the_file_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('"allow" = ["a"]\n', encoding="utf-8")

    with pytest.raises(ConfigurationError, match="TOML"):
        append_rule(path, allow("b"))

    assert path.read_text(encoding="utf-8") == '"allow" = ["a"]\n'


@pytest.mark.parametrize(
    "text",
    [
        'allow = ["a"]',
        "allow = []",
        'deny = ["x"]\nallow=[\n  "a", # ours\n]\n',
        'allow = [{ rule = "a", priority = 3 }]\n[[deny]]\nrule = "x"\n',
        'ask = ["x"] # allow = [\n[[deny]]\nrule = "x"\n',
    ],
)
def test_a_rule_is_added_to_a_list_too(text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    before = read_policy(path)
    rules = [PermissionRule('write_file(a"b)', ALLOW, "said", 7), allow("c")]

    for rule in rules:
        append_rule(path, rule)

    found = read_policy(path)
    assert len(found) == len(before) + 2
    assert [each for each in found if each in rules] in (rules, rules[::-1])


def test_rules_that_are_added_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_rule(path, allow(f"a{number}")), range(40)))

    assert len(tomllib.loads(path.read_text(encoding="utf-8"))["allow"]) == 40


@pytest.mark.anyio
async def test_always_is_kept_in_the_file_and_holds_in_the_next_program(
    project: Path, running: Running, journal: Journal
) -> None:
    person = Person(Answer(approved=True, always=True, principal="ann"))
    always = project.parent / "always.toml"

    for _ in range(2):
        async with running(remember=always) as kernel:
            agent = BaseAgent(
                signature="a -> b",
                tools=[journal.tools["write_file"]],
                kernel=kernel,
                control_protocol=person,
            )
            await agent.execute_tool("write_file", {"path": "src/a", "content": ""})

    assert len(person.asked) == 1
    assert len(journal.calls) == 2
    (rule,) = read_policy(always)
    assert str(rule) == f"allow write_file({project}/src/a)"
    assert person.asked[0].details["rule"] == str(rule)
    assert rule.reason.startswith("ann said always on ")


@pytest.mark.anyio
async def test_a_rule_that_cannot_be_kept_is_noted_and_the_call_is_made_once(
    project: Path, running: Running, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    person = Person(Answer(approved=True, always=True))

    always = project.parent / "always.toml"
    async with running(remember=always) as kernel:
        always.write_text("allow = []\n[[[", encoding="utf-8")
        agent = BaseAgent(
            signature="a -> b",
            tools=[journal.tools["write_file"]],
            kernel=kernel,
            control_protocol=person,
        )
        first = await agent.execute_tool("write_file", {"path": "src/a", "content": ""})
        await agent.execute_tool("write_file", {"path": "src/a", "content": ""})

    assert first.success
    assert len(person.asked) == 2
    assert "could not be kept" in caplog.text


@pytest.mark.anyio
async def test_always_in_one_project_allows_nothing_in_another(
    project: Path, running: Running, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person(Answer(approved=True, always=True, principal="ann"))
    always = project.parent / "always.toml"
    calls: list[tuple[str, dict[str, str]]] = [
        ("write_file", {"path": "config.py", "content": ""}),
        ("bash_command", {"command": "./build.sh"}),
        ("note", {"line": "x"}),
        ("tidy", {}),
        ("http_get", {"url": "https://example.com/a"}),
    ]

    async def asked_about(folder: Path) -> list[str]:
        monkeypatch.chdir(folder)
        before = len(person.asked)
        async with running(remember=always) as kernel:
            agent = BaseAgent(
                signature="a -> b",
                tools=[journal.tools[name] for name, _ in calls],
                kernel=kernel,
                control_protocol=person,
            )
            for name, arguments in calls:
                await agent.execute_tool(name, arguments)
        return [each.details["tool"] for each in person.asked[before:]]

    first = await asked_about(project)
    again = await asked_about(project)
    elsewhere = await asked_about(project.parent / "outside")

    names = [name for name, _ in calls]
    assert (first, again, elsewhere) == (names, [], names[:-1])
    kept = read_policy(always)
    assert [each.details["rule"] for each in person.asked] == list(map(str, kept))
    assert str(kept[1]) == f"allow bash_command(./build.sh) in {str(project)!r}"
    assert kept[1].folder == str(project)


@pytest.mark.anyio
async def test_always_holds_for_those_on_whose_behalf_it_was_said(
    project: Path, running: Running, journal: Journal
) -> None:
    person = Person(Answer(approved=True, always=True))
    async with running() as kernel:
        agent = BaseAgent(
            signature="a -> b",
            tools=[journal.tools["tidy"]],
            kernel=kernel,
            control_protocol=person,
        )
        for tenant in ("acme", "acme", "other"):
            bound = agent.bind(metadata={"principal": "ann", "tenant_id": tenant})
            await bound.execute_tool("tidy")

    assert [each.details["rule"] for each in person.asked] == [
        "allow tidy for principals 'ann' for tenants 'acme'",
        "allow tidy for principals 'ann' for tenants 'other'",
    ]


def test_a_rule_keeps_for_whom_and_where_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "always.toml"
    rules = [
        PermissionRule("tidy", ALLOW, principals=("ann", 'b"ob'), folder="/a b"),
        PermissionRule("add", ALLOW, roles=("admin",), tenants=("acme",)),
    ]

    for each in rules:
        append_rule(path, each)

    assert read_policy(path) == rules
