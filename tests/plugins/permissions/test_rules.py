"""Rules: what their patterns mean, and which of them are refused."""

from __future__ import annotations

import re
from time import process_time
from typing import Any

import pytest
from kaizen import ConfigurationError
from kaizen_permissions import PermissionMode, PermissionRule, PermissionType

from tests.plugins.permissions.workbench import ALLOW, DENY


def test_a_name_is_the_whole_name_and_never_a_prefix() -> None:
    rule = PermissionRule("read", ALLOW)

    assert rule.names("read")
    assert not any(map(rule.names, ("read_file", "reads", "rea", "xread", "read ")))


@pytest.mark.parametrize(
    ("pattern", "named", "others"),
    [
        ("read_.*", ["read_file", "read_"], ["xread_file", "read"]),
        ("(delete|drop)_.*", ["delete_file", "drop_table"], ["undelete_file"]),
        ("read_file|http_get", ["read_file", "http_get"], ["read_file2", "xhttp_get"]),
        ("re:read", ["read"], ["read_file", "bread"]),
        (r"re:[a-z]+_\d+", ["tool_12"], ["tool_x", "tool_12x"]),
        ("re:^read$|^write$", ["read", "write"], ["reads"]),
    ],
)
def test_a_regular_expression_fits_the_whole_name(
    pattern: str, named: list[str], others: list[str]
) -> None:
    rule = PermissionRule(pattern, ALLOW)

    assert all(map(rule.names, named))
    assert not any(map(rule.names, others))


def test_an_expression_can_be_said_to_be_one() -> None:
    rule = PermissionRule.regex("read(_file)", DENY, "no", 3)

    assert rule.names("read_file")
    assert (rule.permission_type, rule.reason, rule.priority) == (DENY, "no", 3)
    assert str(rule) == "deny re:read(_file)"


@pytest.mark.parametrize(
    "pattern",
    [
        r"re:a)|(?:b",
        r"re:(a)\1",
        r"re:(?=a).*",
        r"re:(?<!a)b",
        r"re:\w{1000}{1000}",
        "re:" + "a" * 1_001,
        "re:(",
        "re:[",
        "re:*",
        "re:\ud800",
    ],
)
def test_an_expression_that_cannot_be_had_in_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        PermissionRule(pattern, ALLOW)


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a|a)*b", "(a|aa)+", "([a-z]+)*_", "(.*)*x", "(a?){64}a{64}"]
)
def test_a_pattern_that_would_take_for_ever_elsewhere_takes_no_time(pattern: str) -> None:
    rule = PermissionRule(f"re:{pattern}", DENY)
    started = process_time()

    for _ in range(100):
        rule.names("a" * 63 + "_")

    assert process_time() - started < 1


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("*", "re:"),
        ("git_*", "re:"),
        ("mcp__server__*", "re:"),
        ("file?", "re:"),
        ("read_(file|url)", "regular expression"),
        ("read(_file|_url)", "regular expression"),
        ("read_(file)", "regular expression"),
        ("read_file()", "regular expression"),
        ("(read|write)_file(docs/)", "write_file\\(docs/\\)"),
        ("write_.*(docs/)", "write_file\\(docs/\\)"),
        ("write_.*(docs)", "specifier"),
        ("re:write_file(docs/)", "write_file\\(docs/\\)"),
        ("read_file[docs/]", "write_file\\(docs/\\)"),
        ("re:mcp-server_.*", "a-z"),
        (r"re:read\.file", "a-z"),
        ("Read_.*", "a-z"),
        ("Read", "a-z"),
        ("read-file", "a-z"),
        ("", "a-z"),
        (" read_file", "a-z"),
        ("read_file ", "a-z"),
        ("read_file .*", "a-z"),
        ("Bash(git log)", "a-z"),
        ("rеad_file", "a-z"),  # the second letter is Cyrillic
        ("read_file\u200b", "nobody sees"),
        ("write_file(src/\u202e**)", "nobody sees"),
        ("write_file(src/**\n)", "nobody sees"),
        ("write_file(src/\u00ad**)", "nobody sees"),
        ("write_file(src/\ufeff**)", "nobody sees"),
        ("write_file(src/\ud800)", "nobody sees"),
        ("bash_command(" + "x" * 5_000 + ")", "too long"),
        (7, "no text"),
    ],
)
def test_a_pattern_that_does_not_say_what_it_seems_to_is_refused(
    pattern: Any, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        PermissionRule(pattern, DENY)


@pytest.mark.parametrize("priority", [1.5, True, "1", None, 1_000_001, -1_000_001])
def test_a_priority_is_a_number_of_bounded_size(priority: Any) -> None:
    with pytest.raises(ConfigurationError):
        PermissionRule("read_file", ALLOW, "", priority)


def test_a_reason_is_a_text_of_bounded_size() -> None:
    with pytest.raises(ConfigurationError):
        PermissionRule("read_file", ALLOW, "x" * 501)


@pytest.mark.parametrize("word", ["allow", "ALLOW", "Allow", PermissionType.ALLOW])
def test_a_type_may_be_given_as_a_word(word: Any) -> None:
    assert PermissionRule("read_file", word).permission_type is ALLOW


@pytest.mark.parametrize("word", ["allowed", "", "permit", None, True, 1])
def test_another_word_is_no_type(word: Any) -> None:
    with pytest.raises(ConfigurationError, match="allow, ask and deny"):
        PermissionRule("read_file", word)


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        ("default", PermissionMode.DEFAULT),
        ("acceptEdits", PermissionMode.ACCEPT_EDITS),
        ("ACCEPT_EDITS", PermissionMode.ACCEPT_EDITS),
        ("accept-edits", PermissionMode.ACCEPT_EDITS),
        ("Plan", PermissionMode.PLAN),
        ("bypassPermissions", PermissionMode.BYPASS),
        ("bypass", PermissionMode.BYPASS),
    ],
)
def test_modes_have_the_words_that_people_know(word: str, mode: PermissionMode) -> None:
    assert PermissionMode(word) is mode


@pytest.mark.parametrize("word", ["plann", "auto", "", "ｐｌａｎ", None, 1])
def test_another_word_is_no_mode(word: Any) -> None:
    with pytest.raises(ValueError, match="PermissionMode"):
        PermissionMode(word)


def test_rules_are_values() -> None:
    one, other = PermissionRule("read_.*", ALLOW), PermissionRule("read_.*", ALLOW)

    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(AttributeError):
        one.priority = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("read_file(@root/)", "@roots/"),
        ("read_file(@root)", "@roots/"),
        ("read_file(@roots)", "@roots/"),
        ("read_file(@ROOTS/)", "@roots/"),
        ("read_file(@/a)", "@roots/"),
        ("bash_command(@read)", "@reads"),
        ("bash_command(@reads/)", "@reads"),
        ("()", "re:"),
        ("re:()", "no tool"),
    ],
)
def test_what_is_plainly_a_slip_is_refused_with_what_was_meant(
    pattern: str, meant: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(meant)):
        PermissionRule(pattern, DENY)


@pytest.mark.parametrize(
    "pattern",
    [
        "read_file(@roots/)",
        "read_file(@roots/a/*)",
        "bash_command(@reads)",
        "a(./@types/**)",
    ],
)
def test_the_words_that_rules_know_are_taken(pattern: str) -> None:
    assert PermissionRule(pattern, DENY).specifier
