"""Policies: which rule decides, and what happens where none speaks."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from kaizen import ConfigurationError
from kaizen.tools import ToolCall
from kaizen_permissions import PermissionMode, PermissionRule, PermissionType, Policy
from kaizen_permissions._policy import judge

from tests.plugins.permissions.workbench import (
    ALLOW,
    ASK,
    DENY,
    Journal,
    allow,
    ask,
    deny,
)


@pytest.mark.parametrize("order", list(permutations(PermissionType)))
def test_deny_is_stronger_than_ask_and_ask_than_allow_in_whatever_order(
    order: tuple[PermissionType, ...], journal: Journal
) -> None:
    rules = [PermissionRule("add", kind) for kind in order]
    call = journal.call("add", first=1, second=2)

    assert Policy(rules).decide(call).type is DENY
    assert (
        Policy([each for each in rules if each.permission_type is not DENY])
        .decide(call)
        .type
        is ASK
    )


def test_the_highest_priority_decides(journal: Journal) -> None:
    call = journal.call("delete_file", path="a")
    policy = Policy([deny("delete_.*", 10), ask("delete_file", 20), allow("re:.*", 30)])

    decided = policy.decide(call)

    assert decided.type is ALLOW
    assert decided.rule is not None
    assert decided.rule.pattern == "re:.*"


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("add", {"first": 1, "second": 2}, ALLOW),
        ("list_directory", {}, ALLOW),
        ("read_file", {"path": "a"}, ASK),
        ("write_file", {"path": "a", "content": ""}, ASK),
        ("delete_file", {"path": "a"}, ASK),
        ("http_get", {"url": "https://example.com"}, ASK),
        ("format_disk", {"path": "a"}, ASK),
    ],
)
def test_where_no_rule_speaks_harmless_tools_run_and_the_rest_asks(
    name: str, arguments: dict[str, str], kind: PermissionType, journal: Journal
) -> None:
    assert Policy().decide(journal.call(name, **arguments)).type is kind


def test_low_danger_may_run_unasked_if_that_is_wanted(journal: Journal) -> None:
    policy = Policy(unasked="low")

    assert policy.decide(journal.call("read_file", path="a"))
    assert not policy.decide(journal.call("write_file", path="a", content=""))


def test_what_is_not_known_of_a_tool_is_never_taken_for_harmless() -> None:
    assert Policy().decide("add", {"first": 1}).type is ASK
    assert Policy(mode="plan").decide("add", {"first": 1}).type is DENY
    assert Policy(mode="acceptEdits").decide("write_file", {"path": "a"}).type is ASK


def test_a_critical_call_asks_whatever_rules_allow(journal: Journal) -> None:
    call = journal.call("format_disk", path="a")

    assert Policy([allow("format_disk", 100)]).decide(call).type is ASK
    assert Policy(allowed_tools=["format_disk"]).decide(call).type is ASK
    assert Policy([deny("format_disk")]).decide(call).type is DENY


def test_denied_tools_are_denied_whatever_rules_say(journal: Journal) -> None:
    policy = Policy([allow("re:.*", 1_000_000)], denied_tools={"add"})

    assert policy.decide(journal.call("add", first=1, second=2)).type is DENY


def test_no_list_is_no_restriction_and_an_empty_one_is_nothing(journal: Journal) -> None:
    call = journal.call("add", first=1, second=2)

    assert Policy(allowed_tools=None).decide(call)
    assert Policy(allowed_tools=()).decide(call).type is DENY
    assert Policy([allow("re:.*", 1_000)], allowed_tools=set()).decide(call).type is DENY


def test_a_list_of_allowed_tools_allows_them_and_nothing_else(journal: Journal) -> None:
    policy = Policy(allowed_tools={"write_file"})

    assert policy.decide(journal.call("write_file", path="a", content=""))
    assert policy.decide(journal.call("add", first=1, second=2)).type is DENY
    assert policy.decide(journal.call("edit_file", path="a", old="", new="")).type is DENY


def test_a_rule_still_asks_about_an_allowed_tool(journal: Journal) -> None:
    policy = Policy([ask("write_.*", 50)], allowed_tools={"write_file"})

    assert policy.decide(journal.call("write_file", path="a", content="")).type is ASK


def test_an_allowed_tool_may_have_a_specifier(journal: Journal) -> None:
    policy = Policy(allowed_tools=["write_file(src/**)"])

    assert policy.decide(journal.call("write_file", path="src/a", content=""))
    assert policy.decide(journal.call("write_file", path="b", content="")).type is DENY
    assert policy.decide("write_file").type is ASK


def test_one_word_is_no_list_of_tools() -> None:
    with pytest.raises(ConfigurationError, match="one word"):
        Policy(allowed_tools="add")


class TestPlan:
    """What a policy in plan mode lets happen."""

    @pytest.mark.parametrize("name", ["list_directory", "read_file", "grep"])
    def test_reading_is_allowed(self, name: str, journal: Journal) -> None:
        arguments = {"pattern": "x"} if name == "grep" else {}
        call = journal.call(name, path="src", **arguments)

        assert Policy(mode="plan").decide(call)

    @pytest.mark.parametrize("name", ["write_file", "delete_file", "send_mail"])
    def test_a_change_is_refused_with_what_to_do_instead_whatever_rules_allow(
        self, name: str, journal: Journal
    ) -> None:
        spec = journal.tools[name].spec
        policy = Policy([allow("re:.*", 100)], mode=PermissionMode.PLAN)

        decided = policy.decide(name, {"path": "a"}, spec=spec)

        assert decided.type is DENY
        assert "describe the change" in decided.remedy

    def test_a_read_that_reaches_outside_asks(self, journal: Journal) -> None:
        call = journal.call("http_get", url="https://example.com/")

        assert Policy(mode="plan").decide(call).type is ASK
        assert Policy([allow("http_get")], mode="plan").decide(call)

    def test_rules_refuse_reads_too(self, journal: Journal) -> None:
        policy = Policy([deny("read_file")], mode="plan")

        assert policy.decide(journal.call("read_file", path="a")).type is DENY


class TestAcceptEdits:
    """What a policy that accepts edits lets happen."""

    def test_files_in_the_roots_are_edited(self, project: Path, journal: Journal) -> None:
        policy = Policy(mode="acceptEdits")

        assert policy.decide(journal.call("write_file", path="src/new.py", content=""))
        assert policy.decide(journal.call("edit_file", path="docs/a", old="", new=""))
        assert policy.decide(journal.call("move_file", source="a", destination="b"))

    @pytest.mark.parametrize(
        "path",
        ["../outside/a", "/etc/passwd", "~/a", "src/../../a", "", "a\0b", "/proc/1/a"],
    )
    def test_others_ask(self, path: str, project: Path, journal: Journal) -> None:
        policy = Policy(mode="acceptEdits")

        call = journal.call("write_file", path=path, content="")
        moved = journal.call("move_file", source="a", destination=path)

        assert policy.decide(call).type is ASK
        assert path == "" or policy.decide(moved).type is ASK

    @pytest.mark.parametrize(
        "path", [".git/config", ".git/hooks/pre-commit", ".env", "kaizen.toml", "a/.bashrc"]
    )
    def test_protected_files_ask(self, path: str, project: Path, journal: Journal) -> None:
        call = journal.call("write_file", path=path, content="")

        assert Policy(mode="acceptEdits").decide(call).type is ASK
        assert Policy([allow("write_file", 9)]).decide(call).type is ASK
        assert Policy([allow("write_file")], protected=()).decide(call)

    @pytest.mark.parametrize(
        "path", [".GIT/x", "src/.Env", "Kaizen.TOML", ".SSH/config", "a/.BashRC"]
    )
    def test_protected_files_ask_in_capitals_too(
        self, path: str, project: Path, journal: Journal
    ) -> None:
        call = journal.call("write_file", path=path, content="")

        assert Policy(mode="acceptEdits").decide(call).type is ASK

    @pytest.mark.parametrize(
        "path",
        [
            *(".mcp.json", ".husky/pre-commit", ".gitmodules", ".hg/hgrc", ".ssh/config"),
            *(
                "sub/.git",
                ".svn/x",
                ".zshenv",
                ".gitconfig",
                ".kaizen-x/y",
                "~/.ssh/config",
            ),
        ],
    )
    def test_what_makes_programs_do_something_is_protected(
        self, path: str, project: Path, journal: Journal
    ) -> None:
        call = journal.call("write_file", path=path, content="")

        assert Policy([allow("write_file")]).decide(call).type is ASK

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("write_files", {"files": {"/srv/u/.bashrc": "x"}}),
            ("write_files", {"files": {".git/hooks/pre-commit": "x"}}),
            ("copy_file", {"path": "a.txt", "destinationPath": "/etc/cron.d/x"}),
            ("save", {"path": "a.txt", "name": "/etc/cron.d/x"}),
            ("save", {"path": "a.txt", "changes": {"/etc/cron.d/x": "y"}}),
            ("save", {"path": "a.txt", "more": [["/etc/x"]]}),
            ("save", {"path": "a.txt", "url": "https://example.com/"}),
            ("save", {"path": "a.txt", "outputFile": "/etc/x"}),
        ],
    )
    def test_a_place_outside_the_roots_is_seen_wherever_it_stands(
        self, name: str, arguments: dict[str, Any], project: Path, journal: Journal
    ) -> None:
        known = journal.tools.get(name, journal.tools["write_file"]).spec
        policy = Policy(mode="acceptEdits")

        assert policy.decide(name, arguments, spec=known).type is ASK

    def test_several_files_in_the_roots_are_edited(
        self, project: Path, journal: Journal
    ) -> None:
        policy = Policy(mode="acceptEdits")

        assert policy.decide(journal.call("write_files", files={"a": "b", "c/d": "e"}))
        assert policy.decide(journal.call("copy_file", path="a", destinationPath="b"))
        assert policy.decide(journal.call("edit_many", edits=[{"path": "a", "text": "/"}]))

    @pytest.mark.parametrize("name", ["delete_file", "bash_command", "send_mail"])
    def test_what_is_no_edit_asks(self, name: str, journal: Journal) -> None:
        spec = journal.tools[name].spec
        arguments = {"path": "a", "command": "make", "to": "a", "body": "b"}

        assert Policy(mode="accept_edits").decide(name, arguments, spec=spec).type is ASK


class TestBypass:
    """What a policy that bypasses permissions lets happen."""

    def test_all_runs_but_what_is_denied(self, journal: Journal) -> None:
        policy = Policy(
            [deny("delete_.*"), ask("send_mail")],
            mode=PermissionMode.BYPASS,
            denied_tools={"http_post"},
        )

        assert policy.decide(journal.call("format_disk", path="a"))
        assert policy.decide(journal.call("send_mail", to="a", body="b"))
        assert policy.decide(journal.call("delete_file", path="a")).type is DENY
        assert policy.decide(journal.call("http_post", url="https://a.b")).type is DENY

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("read_file", {"path": "/proc/self/cwd/secret.key"}),
            ("bash_command", {"command": "$(printf 'r%s' m) b.txt"}),
            ("http_get", {"url": "http://u@evil.com/"}),
            ("read_file", {"path": "a\0"}),
            ("grep", {"pattern": "x", "path": "."}),
        ],
    )
    def test_what_may_be_denied_asks(
        self, name: str, arguments: dict[str, Any], project: Path, journal: Journal
    ) -> None:
        rules = [
            deny("read_file(secret.key)"),
            deny("bash_command(rm *)"),
            deny("http_get(domain:evil.com)"),
            ask("re:.*"),
        ]
        spec = journal.tools[name].spec

        bypass = Policy(rules, mode="bypass").decide(name, arguments, spec=spec)
        both = judge(
            [Policy(rules), Policy(mode="bypass")],
            Policy().subject(name, arguments, spec=spec),
        )

        assert (bypass.type, both.type) == (ASK, ASK)
        assert "cannot be said" in bypass.reason


class TestOtherReaders:
    """Rules about reading files, and tools that read them in another way."""

    @pytest.mark.parametrize(
        ("name", "arguments", "kind"),
        [
            ("grep", {"pattern": "x", "path": "secret.key"}, DENY),
            ("grep", {"pattern": "x", "path": "SECRET.KEY"}, DENY),
            ("grep", {"pattern": "x", "path": "."}, ASK),
            ("grep", {"pattern": "x", "path": "secret.*"}, ASK),
            ("grep", {"pattern": "x", "path": "src"}, ALLOW),
            ("search_files", {"pattern": "*", "path": "."}, ASK),
            ("move_file", {"source": "secret.key", "destination": "a"}, DENY),
            ("move_file", {"source": "src", "destination": "a"}, ALLOW),
            ("list_directory", {"path": "."}, ALLOW),
            ("read_file", {"path": "."}, ALLOW),
            ("render", {"path": "secret.key"}, ASK),
        ],
    )
    def test_a_file_that_may_not_be_read_is_not_read_by_them(
        self,
        name: str,
        arguments: dict[str, Any],
        kind: PermissionType,
        project: Path,
        journal: Journal,
    ) -> None:
        spec = journal.tools["grep"].spec if name not in journal.tools else None
        spec = spec or journal.tools[name].spec
        if name == "render":
            spec = replace(spec, category="function")
        policy = Policy([deny("read_file(**/*.key)"), allow("re:.*")])

        assert policy.decide(name, arguments, spec=spec).type is kind

    def test_a_file_that_is_reached_by_a_link_is_seen_in_its_folder(
        self, project: Path, journal: Journal
    ) -> None:
        policy = Policy([deny("read_file(secret.key)"), allow("grep")])
        call = journal.call("grep", pattern="x", path="src")
        assert policy.decide(call)

        (project / "src/link").symlink_to(project / "secret.key")

        assert policy.decide(call).type is ASK

    def test_a_folder_with_too_much_in_it_may_hold_anything(
        self, project: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kaizen_permissions._paths.MAX_ENTRIES", 1)
        policy = Policy([deny("read_file(secret.key)"), allow("grep")])

        call = journal.call("grep", pattern="x", path="src")

        assert policy.decide(call).type is ASK


def test_rules_of_others_can_only_ask_and_refuse_more(journal: Journal) -> None:
    policy = Policy(
        [deny("delete_file"), allow("add"), allow("send_mail")],
        stricter=[allow("re:.*", 9), ask("delete_file", 9), ask("add", -5), deny("grep")],
    )

    assert policy.decide(journal.call("delete_file", path="a")).type is DENY
    assert policy.decide(journal.call("add", first=1, second=2)).type is ASK
    assert policy.decide(journal.call("grep", pattern="x")).type is DENY
    assert policy.decide(journal.call("write_file", path="a", content="")).type is ASK
    assert policy.decide(journal.call("send_mail", to="a", body="b"))
    assert deny("grep") in policy.rules
    assert policy.with_rules(allow("grep", 99)).decide("grep", {"path": "a"}).type is DENY


def test_rules_that_contradict_are_reported_and_the_stronger_one_holds(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    rules = [allow("add"), deny("add"), allow("read_file"), ask("read_.*"), ask("grep", 5)]

    with caplog.at_level(logging.WARNING, "kaizen.permissions"):
        policy = Policy(rules)

    assert policy.contradictions == (
        (deny("add"), allow("add")),
        (ask("read_.*"), allow("read_file")),
    )
    assert len(caplog.messages) == 2
    assert "'allow add' never has an effect" in caplog.messages[0]
    assert policy.decide(journal.call("add", first=1, second=2)).type is DENY


def test_a_decision_says_which_rule_and_why_and_can_be_taken_apart(
    journal: Journal,
) -> None:
    rule = PermissionRule("add", DENY, "counting is for people")

    decided = Policy([rule]).decide(journal.call("add", first=1, second=2))
    allowed, reason = decided

    assert decided.rule == rule
    assert not decided
    assert (allowed, reason) == (False, decided.reason)
    assert "counting is for people" in reason


def test_more_rules_make_another_policy(journal: Journal) -> None:
    policy = Policy()
    call = journal.call("read_file", path="a")

    other = policy.with_rules(allow("read_file"))

    assert other.decide(call)
    assert not policy.decide(call)
    assert other.rules == (allow("read_file"),)


def test_a_policy_notices_another_tool_of_the_same_name(journal: Journal) -> None:
    policy = Policy()
    spec = journal.tools["write_file"].spec
    harmless = journal.tools["add"].spec

    first = policy.decide(ToolCall(id="1", name="add", arguments={}, spec=harmless))
    second = policy.decide(ToolCall(id="1", name="add", arguments={}, spec=spec))

    assert first
    assert not second


def test_what_is_no_rule_or_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="PermissionRule"):
        Policy(["read_file"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="accept_edits"):
        Policy(mode="careless")
    with pytest.raises(ConfigurationError, match="too large"):
        Policy([allow("add")] * 10_001)
