"""Contexts: what one agent may do, and what its tools may cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from kaizen import BaseAgent, ConfigurationError, Kernel, ToolError, tool
from kaizen.testing import Call, ScriptedModel
from kaizen_permissions import ExecutionContext, PermissionMode, ToolUsage

from tests.plugins.permissions.conftest import Running
from tests.plugins.permissions.workbench import (
    ASK,
    DENY,
    Journal,
    Person,
    allow,
    ask,
    deny,
    yes,
)


def test_a_tool_may_be_asked_about_by_name_and_with_arguments(journal: Journal) -> None:
    context = ExecutionContext(
        mode="default",
        budget_limit=50.0,
        allowed_tools={"read_file", "http_get", "write_file"},
        denied_tools={"delete_file"},
        rules=[ask("write_.*", 50)],
    )

    allowed, reason = context.can_use_tool("read_file")

    assert allowed
    assert "allowed_tools" in reason
    assert context.can_use_tool("http_get", {"url": "https://example.com"})
    assert context.can_use_tool("delete_file").type is DENY
    assert context.can_use_tool("bash_command").type is DENY
    assert context.can_use_tool("write_file").type is ASK
    assert not context.can_use_tool("write_file")


def test_the_rules_of_the_documents_mean_what_they_say() -> None:
    context = ExecutionContext(
        rules=[
            deny("(delete|drop|truncate)_.*", 100),
            ask("(write|create|update)_.*", 50),
            allow("(read|get|list)_.*", 10),
        ]
    )

    assert context.can_use_tool("read_file")
    assert context.can_use_tool("write_file").type is ASK
    assert context.can_use_tool("drop_table").type is DENY
    assert context.can_use_tool("undelete_file").type is ASK


def test_a_tool_of_which_something_is_known_is_judged_by_it(journal: Journal) -> None:
    context = ExecutionContext()

    assert not context.can_use_tool("add")
    assert context.can_use_tool("add", spec=journal.tools["add"].spec)


def test_costs_are_exact_and_counted_by_tool() -> None:
    context = ExecutionContext(budget_limit="0.3")

    for _ in range(3):
        assert context.has_budget("0.1")
        context.record_tool_usage("search", 0.1)

    assert context.budget_used == Decimal("0.3")
    assert context.usage == {"search": ToolUsage(3, Decimal("0.3"))}
    assert not context.has_budget()
    assert not context.has_budget("0.0000001")


def test_without_a_limit_there_is_always_something_left() -> None:
    context = ExecutionContext()

    context.record_tool_usage("search", 1_000_000)

    assert context.has_budget(10**9)


@pytest.mark.parametrize(
    "amount", ["NaN", "-1", -0.01, float("inf"), "x", None, True, 1e13]
)
def test_an_amount_that_nobody_can_spend_is_refused(amount: Any) -> None:
    context = ExecutionContext(budget_limit=1)

    with pytest.raises(ConfigurationError):
        context.record_tool_usage("search", amount)
    with pytest.raises(ConfigurationError):
        context.has_budget(amount)
    if amount is not None:
        with pytest.raises(ConfigurationError):
            ExecutionContext(budget_limit=amount)
    assert context.budget_used == 0


def test_usage_is_counted_from_many_threads_at_once() -> None:
    context = ExecutionContext()

    with ThreadPoolExecutor(8) as pool:
        for _ in range(1_000):
            pool.submit(context.record_tool_usage, "search", "0.001")

    assert context.usage["search"] == ToolUsage(1_000, Decimal("1.000"))


def test_a_limit_of_nothing_lets_nothing_run() -> None:
    assert not ExecutionContext(budget_limit=0).has_budget()


@pytest.mark.anyio
async def test_each_agent_has_its_own_context(running: Running, journal: Journal) -> None:
    async with running() as kernel:
        tools = [journal.tools["add"], journal.tools["write_file"]]
        first = ExecutionContext(denied_tools={"add"})
        second = ExecutionContext(allowed_tools={"add"})
        one, two, three = (
            BaseAgent(
                signature="a -> b", tools=tools, kernel=kernel, hooks=hooks, name=name
            )
            for name, hooks in (("one", [first]), ("two", [second]), ("three", []))
        )

        results = [
            (await each.execute_tool("add", {"first": 1, "second": 2})).success
            for each in (one, two, three)
        ]

        assert results == [False, True, True]
        assert (first.usage, second.usage["add"].calls) == ({}, 1)


@pytest.mark.anyio
async def test_a_context_works_where_the_plugin_is_not_enabled(
    kernel: Any, journal: Journal
) -> None:
    context = ExecutionContext(rules=[allow("write_file(src/**)")])
    agent = BaseAgent(
        signature="a -> b",
        tools=[journal.tools["write_file"]],
        kernel=kernel,
        hooks=[context],
    )

    good = await agent.execute_tool("write_file", {"path": "src/a", "content": ""})
    bad = await agent.execute_tool("write_file", {"path": "a", "content": ""})

    assert (good.success, bad.success) == (True, False)
    assert "nobody to ask" in bad.error


@pytest.mark.anyio
@pytest.mark.parametrize(
    "context",
    [
        ExecutionContext(mode="plan"),
        ExecutionContext(denied_tools={"write_file"}),
        ExecutionContext(allowed_tools={"help_me"}),
    ],
    ids=repr,
)
async def test_a_run_inside_is_held_to_it_where_the_plugin_is_not_enabled(
    context: ExecutionContext, kernel: Kernel, model: ScriptedModel, journal: Journal
) -> None:
    model.say(
        Call("help_me", {}),
        Call("write_file", {"path": "a", "content": ""}),
        "tried",
        "done",
    )

    @tool(danger="safe")
    async def help_me() -> str:
        """Ask a helper."""
        return str((await writer.run(question="?")).answer)

    writer = BaseAgent(
        signature="question -> answer",
        tools=[journal.tools["write_file"]],
        kernel=kernel,
        grants=["write_file"],
    )
    agent = BaseAgent(
        signature="question -> answer", tools=[help_me], kernel=kernel, hooks=[context]
    )

    await agent.run(question="?")
    alone = await writer.execute_tool("write_file", {"path": "b", "content": ""})

    assert [arguments["path"] for _, arguments in journal.calls] == ["b"]
    assert alone.success


@pytest.mark.anyio
async def test_a_run_inside_asks_once_and_spends_once_where_the_plugin_is_not_enabled(
    kernel: Kernel, journal: Journal
) -> None:
    outer = ExecutionContext(budget_limit=5, tool_costs={"write_file": 1})
    inner = ExecutionContext(budget_limit=5, tool_costs={"write_file": 1})
    person = Person(yes)
    write = {"path": "a", "content": ""}

    @tool(danger="safe")
    async def help_me() -> str:
        """Ask a helper."""
        return (await writer.execute_tool("write_file", write)).content

    writer, agent = (
        BaseAgent(
            signature="question -> answer",
            tools=tools,
            kernel=kernel,
            hooks=[context],
            control_protocol=person,
        )
        for tools, context in (([journal.tools["write_file"]], inner), ([help_me], outer))
    )

    for _ in range(2):
        await agent.execute_tool("help_me")

    assert len(person.asked) == len(journal.calls) == 2
    assert (
        outer.usage["write_file"] == inner.usage["write_file"] == ToolUsage(2, Decimal(2))
    )
    assert len([each for each in kernel.hooks.names() if "permissions" in each]) == 1


@pytest.mark.anyio
async def test_a_call_is_refused_when_the_budget_does_not_hold_it(
    running: Running, journal: Journal
) -> None:
    async with running() as kernel:
        context = ExecutionContext(
            budget_limit=0.0001, tool_costs={"add": "0.0001"}, allowed_tools={"add"}
        )
        agent = BaseAgent(
            signature="a -> b", tools=[journal.tools["add"]], kernel=kernel, hooks=[context]
        )

        first = await agent.execute_tool("add", {"first": 1, "second": 2})
        second = await agent.execute_tool("add", {"first": 1, "second": 2})

        assert (first.success, second.success) == (True, False)
        assert "budget" in second.error
        assert context.usage == {"add": ToolUsage(1, Decimal("0.0001"))}
        assert context.budget_used == Decimal("0.0001")
        assert len(journal.calls) == 1


@pytest.mark.anyio
async def test_calls_that_are_made_at_once_do_not_spend_the_same_money(
    running: Running, journal: Journal
) -> None:
    done: list[bool] = []

    @tool(danger="safe")
    async def think() -> str:
        """Think."""
        await anyio.lowlevel.checkpoint()
        return "thought"

    async with running() as kernel:
        context = ExecutionContext(budget_limit=5, tool_costs={"think": 1})
        agent = BaseAgent(signature="a -> b", tools=[think], kernel=kernel, hooks=[context])

        async def call() -> None:
            done.append((await agent.execute_tool("think")).success)

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(call)

        assert sum(done) == 5
        assert context.budget_used == 5


@pytest.mark.anyio
async def test_a_call_that_fails_is_counted_and_one_that_is_not_made_is_not(
    running: Running,
) -> None:
    @tool(danger="safe")
    async def fail(number: int) -> str:
        """Fail."""
        raise ToolError("it", "failed")

    async with running() as kernel:
        context = ExecutionContext(budget_limit=5, tool_costs={"fail": 1})
        agent = BaseAgent(signature="a -> b", tools=[fail], kernel=kernel, hooks=[context])

        await agent.execute_tool("fail", {"number": 1})
        await agent.execute_tool("fail", {"number": "no"})

        assert context.usage["fail"] == ToolUsage(1, Decimal(1))
        assert context.has_budget(4)


@pytest.mark.anyio
async def test_inside_a_run_a_tool_is_known_to_its_context(
    running: Running, journal: Journal
) -> None:
    context = ExecutionContext()
    seen: list[bool] = []

    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        seen.append(bool(context.can_use_tool("add")))
        return ""

    async with running() as kernel:
        tools = [look, journal.tools["add"]]
        agent = BaseAgent(signature="a -> b", tools=tools, kernel=kernel, hooks=[context])
        await agent.execute_tool("look")

    assert seen == [True]
    assert not context.can_use_tool("add")


def test_rules_can_be_added_and_seen() -> None:
    context = ExecutionContext(PermissionMode.DEFAULT)

    context.add_rules(allow("write_file"))

    assert context.rules == (allow("write_file"),)
    assert context.can_use_tool("write_file")
    assert repr(context) == "<ExecutionContext default, 1 rules>"
