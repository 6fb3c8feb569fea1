"""What another product got wrong, and this one must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kaizen import (
    BaseAgent,
    CallNext,
    Tool,
    ToolCall,
    ToolRefusedError,
    ToolResult,
    ToolSource,
    hookimpl,
)
from kaizen_permissions import ExecutionContext, Policy

from tests.plugins.permissions.conftest import Running
from tests.plugins.permissions.workbench import DENY, Journal, Person, yes

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("bash_command", {"command": "touch made"}),
        ("delete_file", {"path": "a"}),
        ("write_file", {"path": "a", "content": ""}),
        ("http_post", {"url": "https://example.com/"}),
        ("format_disk", {"path": "a"}),
        ("send_mail", {"to": "a", "body": "b"}),
    ],
)
async def test_in_default_mode_nothing_dangerous_runs_without_a_person(
    name: str, arguments: dict[str, Any], running: Running, journal: Journal
) -> None:
    async with running() as kernel:
        agent = BaseAgent(signature="a -> b", tools=[journal.tools[name]], kernel=kernel)

        result = await agent.execute_tool(name, arguments)

    assert (result.success, result.approved) == (False, False)
    assert journal.calls == []


async def test_accepting_edits_does_not_accept_commands(
    running: Running, journal: Journal
) -> None:
    async with running(mode="acceptEdits") as kernel:
        tools = [journal.tools["bash_command"], journal.tools["write_file"]]
        agent = BaseAgent(signature="a -> b", tools=tools, kernel=kernel)

        command = await agent.execute_tool("bash_command", {"command": "touch made"})
        edit = await agent.execute_tool("write_file", {"path": "a", "content": ""})

    assert (command.success, edit.success) == (False, True)


async def test_plan_mode_allows_what_it_is_meant_to_allow(
    running: Running, journal: Journal
) -> None:
    async with running(mode="plan") as kernel:
        tools = [
            journal.tools[name]
            for name in ("read_file", "list_directory", "bash_command", "delete_file")
        ]
        agent = BaseAgent(signature="a -> b", tools=tools, kernel=kernel)

        results = [
            await agent.execute_tool("read_file", {"path": "a"}),
            await agent.execute_tool("list_directory"),
            await agent.execute_tool("bash_command", {"command": "git log -3 | cat"}),
            await agent.execute_tool("bash_command", {"command": "git log > a"}),
            await agent.execute_tool("delete_file", {"path": "a"}),
        ]

    assert [each.success for each in results] == [True, True, True, False, False]
    assert all("describe the change" in each.error for each in results[3:])


@pytest.mark.parametrize("name", ["list_directory", "read_file", "add"])
async def test_denied_tools_are_denied_however_harmless_they_are(
    name: str, running: Running, journal: Journal
) -> None:
    async with running() as kernel:
        context = ExecutionContext(denied_tools={name})
        agent = BaseAgent(
            signature="a -> b", tools=[journal.tools[name]], kernel=kernel, hooks=[context]
        )
        arguments: dict[str, dict[str, Any]] = {
            "list_directory": {},
            "read_file": {"path": "a"},
            "add": {"first": 1, "second": 2},
        }

        result = await agent.execute_tool(name, arguments[name])

    assert not result.success
    assert "in denied_tools" in result.error


async def test_tools_of_every_source_are_checked(
    running: Running, journal: Journal
) -> None:
    class Server:
        async def tools(self) -> Sequence[Tool]:
            return [journal.tools["delete_file"], journal.tools["add"]]

    class ServerPlugin:
        name = "server"

        @hookimpl
        def contribute(self, registry: Any) -> None:
            registry.add(ToolSource, "server", Server())

    async with running(ServerPlugin(), deny=["add"]) as kernel:
        agent = BaseAgent(signature="a -> b", tools="all", kernel=kernel)

        deleted = await agent.execute_tool("delete_file", {"path": "a"})
        added = await agent.execute_tool("add", {"first": 1, "second": 2})

    assert (deleted.success, added.success) == (False, False)
    assert journal.calls == []


async def test_a_tool_that_costs_something_uses_the_budget_up(
    running: Running, journal: Journal
) -> None:
    async with running() as kernel:
        context = ExecutionContext(budget_limit=0.0001, tool_costs={"add": 0.0001})
        agent = BaseAgent(
            signature="a -> b", tools=[journal.tools["add"]], kernel=kernel, hooks=[context]
        )

        results = [
            await agent.execute_tool("add", {"first": 1, "second": 2}) for _ in range(2)
        ]

    assert [each.success for each in results] == [True, False]
    assert context.usage["add"].calls == 1


async def test_a_hook_that_refuses_is_obeyed(running: Running, journal: Journal) -> None:
    class Veto:
        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            raise ToolRefusedError("it", "is refused")

    async with running(Veto(), allow=["add"]) as kernel:
        agent = BaseAgent(signature="a -> b", tools=[journal.tools["add"]], kernel=kernel)

        result = await agent.execute_tool("add", {"first": 1, "second": 2})

    assert not result.approved
    assert journal.calls == []


async def test_an_approval_is_of_a_call_and_not_of_a_name(
    running: Running, journal: Journal
) -> None:
    person = Person(yes)
    async with running() as kernel:
        agent = BaseAgent(
            signature="a -> b",
            tools=[journal.tools["delete_file"]],
            kernel=kernel,
            control_protocol=person,
        )
        for path in ("a", "a", "b"):
            await agent.execute_tool("delete_file", {"path": path})

    assert len({each.action_digest for each in person.asked}) == 3


def test_the_tools_that_rules_name_are_those_that_there_are(journal: Journal) -> None:
    for name in ("Write", "Edit", "Bash", "PythonCode", "DeleteFileNode"):
        assert Policy().decide(name, {}).type is DENY
