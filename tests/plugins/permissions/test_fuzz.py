"""Whatever a call holds, it is decided; nothing raises, and nothing is let through."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from kaizen import ConfigurationError
from kaizen_permissions import PermissionType, Policy

from tests.plugins.permissions.workbench import Journal, allow, ask, deny

PIECES = (
    *(
        "..",
        "/",
        "~",
        ".",
        "\\",
        "src",
        "secret.key",
        "\0",
        "\n",
        " ",
        "\ud800",
        "*",
        "**",
        "?",
    ),
    *(
        "http",
        "https",
        "://",
        "@",
        ":",
        "[",
        "]",
        "%2e",
        "%",
        "#",
        "example.com",
        "127.1",
        "é",
    ),
    *(
        "rm",
        "ls",
        ";",
        "$(",
        ")",
        "`",
        "'",
        '"',
        "<<",
        "|",
        "&&",
        "\u202e",
        "\u200b",
        "{",
        "}",
    ),
    *("@roots", "@reads", "re:", "(", "=", "|", "file:", "/proc/self/", "x" * 300),
)
RULES = [
    allow("write_file(src/**)"),
    deny("write_file(secret.key)"),
    deny("re:.*_disk"),
    allow("http_get(https://*.example.com/*)"),
    ask("http_get(domain:127.0.0.1)"),
    allow("bash_command(@reads)"),
    deny("bash_command(rm *)"),
    allow("send_mail(to=*@example.com)"),
    deny("send_mail(body=*secret*)", 5),
    allow("edit_many(src/**)"),
]


def text(random: Random) -> str:
    return "".join(random.choices(PIECES, k=random.randrange(1, 8)))


def value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(9 if depth < 6 else 6)
    if kind < 4:
        return text(random)
    if kind < 6:
        return random.choice([None, True, 0, -1, 1e308, 10**30, ""])
    if kind == 6:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    names = ("path", "url", "command", "to", "paths", text(random))
    return {
        random.choice(names): value(random, depth + 1) for _ in range(random.randrange(4))
    }


def test_every_call_is_decided(project: Path, journal: Journal) -> None:
    random = Random(20)
    policies = [Policy(RULES, mode=mode) for mode in ("default", "acceptEdits", "plan")]
    tools = list(journal.tools)
    names = ("path", "url", "command", "to", "body", "edits", "source", "destination")
    kinds: set[PermissionType] = set()

    for _ in range(3_000):
        name = random.choice([*tools, text(random)])
        spec = journal.tools[name].spec if name in tools and random.random() < 0.8 else None
        arguments = {random.choice(names): value(random) for _ in range(3)}
        for policy in policies:
            decided = policy.decide(name, arguments, spec=spec)
            kinds.add(decided.type)
            assert decided.reason
            assert not (decided and name in ("format_disk", "delete_file"))

    assert kinds == set(PermissionType)


def test_every_pattern_is_a_rule_or_refused(project: Path) -> None:
    random = Random(21)
    made = 0

    for _ in range(3_000):
        pattern = random.choice(["", "write_file(", "http_get(", "bash_command("])
        pattern += text(random) + (")" if pattern else "")
        try:
            policy = Policy([deny(pattern), allow("write_file"), allow("http_get")])
        except ConfigurationError:
            continue
        made += 1
        for name, argument in (("write_file", "path"), ("http_get", "url")):
            policy.decide(name, {argument: text(random)})

    assert made > 100
