"""What it costs to decide whether a call may be made."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import pytest
from kaizen import tool
from kaizen.tools import FunctionTool, ToolCall
from kaizen_permissions import PermissionRule, PermissionType, Policy

from tests.benchmarks._measure import awaited, called, interleave, ratio
from tests.benchmarks._table import Row, Table

ALLOW, ASK, DENY = PermissionType.ALLOW, PermissionType.ASK, PermissionType.DENY
FILE = "src/app/main.py"


@tool(danger="medium")
async def send(to: str) -> str:
    """Send something."""
    return to


@tool(danger="low", category="http", external=True)
async def http_get(url: str) -> str:
    """Get something."""
    return url


@tool(danger="medium", category="file")
async def write_file(path: str) -> str:
    """Write something."""
    return path


@tool(danger="high", category="system")
async def bash_command(command: str) -> str:
    """Run something."""
    return command


def call(made: FunctionTool, **arguments: Any) -> ToolCall:
    spec = made.spec
    return ToolCall(id="call", name=spec.name, arguments=arguments, spec=spec)


def rules() -> list[PermissionRule]:
    """A hundred rules of all kinds."""
    return [
        *(PermissionRule(f"tool_{number}", ALLOW) for number in range(20)),
        *(PermissionRule(f"re:group_{number}_.*", DENY) for number in range(10)),
        *(PermissionRule(f"http_get(domain:h{each}.example)", ALLOW) for each in range(20)),
        *(PermissionRule(f"write_file(src/{each}/**)", ALLOW) for each in range(18)),
        PermissionRule("write_file(src/app/**)", ALLOW),
        PermissionRule("write_file(**/*.key)", DENY),
        *(PermissionRule(f"send(to=*@h{each}.example)", ALLOW) for each in range(10)),
        *(PermissionRule(f"bash_command(program{each} *)", ALLOW) for each in range(20)),
    ]


def test_a_decision(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).touch()
    monkeypatch.chdir(tmp_path)
    policy = Policy(rules())
    assert len(policy.rules) == 100
    calls = {
        "a name that no rule is about": call(tool(bare, danger="safe"), to="ann"),
        "an argument": call(send, to="ann@h9.example"),
        "a URL": call(http_get, url="https://h9.example/a/b?c=d"),
        "a path, looked up in the file system": call(write_file, path=FILE),
        "a command, parsed": call(bash_command, command="program9 -x src | head -3"),
    }
    assert all(policy.decide(each) for each in calls.values())

    async def measure() -> dict[str, list[float]]:
        subjects = {
            name: called(partial(policy.decide, each)) for name, each in calls.items()
        }
        others = {
            "await": awaited(nothing),
            "look-up": called(partial(policy.place.read, FILE)),
        }
        return await interleave({**others, **subjects}, rounds=15)

    measured = anyio.run(measure)

    for name in calls:
        table.add(
            Row(
                what=f"permissions: a call against 100 rules: {name}",
                measured=median(measured[name]) * 1e6,
                form="{:.1f} µs",
                reach=None if "parsed" in name else 20,
            )
        )
    table.add(
        Row(
            what="of it, looking the path up",
            measured=median(measured["look-up"]) * 1e6,
            form="{:.1f} µs",
        ),
        Row(
            what="of it, an argument, to a bare await",
            measured=ratio(measured["an argument"], measured["await"]),
            form="{:.0f} ×",
        ),
    )


async def bare(to: str) -> str:
    """Do nothing."""
    return to


async def nothing() -> None: ...
