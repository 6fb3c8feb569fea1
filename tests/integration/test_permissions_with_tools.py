"""Rules are about the files that tools really touch, wherever the tools begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kaizen import BaseAgent, Kernel, ToolResult

pytestmark = pytest.mark.anyio


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the program runs, and one in it in which the tools begin."""
    for name in ("data/secret/key", "secret/key", "data/docs/page"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def called(rules: dict[str, Any], tool: str, **arguments: Any) -> ToolResult:
    roots = ["data", "."]
    settings = {"tools": {"roots": roots}, "permissions": {"roots": roots, **rules}}
    async with Kernel(
        plugins=["offline", "tools", "permissions"],
        settings=settings,
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(
            {"llm_provider": "offline"},
            "question -> answer",
            tools=["read_file", "bash_command"],
            kernel=kernel,
        )
        return await agent.execute_tool(tool, arguments)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("read_file", {"path": "data/secret/key"}),
        ("bash_command", {"command": "cat secret/key"}),
        ("bash_command", {"command": "cat < secret/key"}),
        ("bash_command", {"command": "cd . && grep -r . secret"}),
    ],
)
async def test_what_may_not_be_read_is_not_read_under_another_name(
    project: Path, tool: str, arguments: dict[str, Any]
) -> None:
    rules = {
        "allow": ["read_file(@roots/)", "bash_command(*)"],
        "deny": ["read_file(data/secret/**)"],
    }

    result = await called(rules, tool, **arguments)

    assert not result.success
    assert "read_file(data/secret/**)" in result.error, result.error
    assert "data/secret/key" not in result.content


async def test_what_may_not_be_deleted_is_not_deleted_under_another_name(
    project: Path,
) -> None:
    rules = {
        "allow": ["bash_command(rm *)"],
        "deny": ["delete_file(data/docs/**)"],
    }

    result = await called(rules, "bash_command", command="rm docs/page")

    assert not result.success
    assert "delete_file(data/docs/**)" in result.error, result.error
    assert (project / "data/docs/page").exists()


async def test_an_ordinary_read_where_tools_begin_needs_no_question(project: Path) -> None:
    result = await called(
        {"allow": ["bash_command(@reads)"]}, "bash_command", command="cat docs/page"
    )

    if "critical" in result.error:
        pytest.skip("nothing confines commands here, so that each is asked about")
    assert result.success, result.error
    assert result.result["stdout"] == "data/docs/page"
