"""The gate: what becomes of real calls in real runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio import from_thread
from kaizen import (
    Answer,
    BaseAgent,
    CallNext,
    FunctionTool,
    Kernel,
    NotAnsweredError,
    PendingRequest,
    Priority,
    Result,
    ToolCall,
    ToolResult,
    current_run,
    hookimpl,
    tool,
)
from kaizen.runlog import Noted, ToolIntended
from kaizen.testing import Call, ModelPlugin, ScriptedModel
from kaizen.tools import action_digest
from kaizen_permissions import ExecutionContext, PermissionsPlugin, PermissionType

from tests.plugins.permissions.conftest import Running
from tests.plugins.permissions.workbench import Journal, Person, allow, ask, deny, yes

pytestmark = pytest.mark.anyio


def agent_of(
    kernel: Kernel, *tools: FunctionTool, person: Person | None = None, **options: Any
) -> BaseAgent:
    return BaseAgent(
        signature="question -> answer",
        tools=tools,
        kernel=kernel,
        control_protocol=person,
        **options,
    )


def told(result: Result) -> list[str]:
    """Return what the model read of its calls."""
    return [each.text for each in result.messages if each.role == "tool"]


async def decisions(agent: BaseAgent, **inputs: Any) -> list[Mapping[str, Any]]:
    """Run an agent and return what the log says of its decisions."""
    async with agent.stream(**inputs) as run:
        await run.wait()
    return [
        each.data
        for each in run.log.entries
        if isinstance(each, Noted) and each.kind == "decision"
    ]


async def test_a_call_that_needs_a_person_is_made_after_they_said_yes(
    running: Running, model: ScriptedModel, journal: Journal
) -> None:
    person = Person(yes)
    model.say(Call("write_file", {"path": "a", "content": "b"}), {"answer": "done"})
    async with running() as kernel:
        agent = agent_of(kernel, journal.tools["write_file"], person=person)

        result = await agent.run(question="?")

    assert told(result) == ["done"]
    assert journal.calls == [("write_file", {"path": "a", "content": "b"})]
    (asked,) = person.asked
    assert asked.kind == "approval"
    assert asked.action_digest.startswith("sha256:")
    assert asked.details["arguments"] == {"path": "a", "content": "b"}
    assert asked.details["danger"] == "medium"
    assert asked.details["effect"]["writes"] is True
    assert "MEDIUM" in asked.details["reason"]
    assert asked.details["rule"] == "allow write_file(a)"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(approved=False), "the user refused"),
        (Answer(text="use docs/ instead"), "use docs/ instead"),
        (NotAnsweredError("it", "hung up"), "nobody answered: hung up"),
        (RuntimeError("broken"), "nobody answered"),
        (Answer(approved="yes"), "refused"),  # type: ignore[arg-type]
    ],
)
async def test_without_a_yes_it_is_not_made_and_the_model_learns_why(
    answer: Any, words: str, running: Running, model: ScriptedModel, journal: Journal
) -> None:
    model.say(Call("write_file", {"path": "a", "content": "b"}), {"answer": "done"})
    async with running() as kernel:
        agent = agent_of(kernel, journal.tools["write_file"], person=Person(answer))

        (read,) = told(await agent.run(question="?"))

    assert journal.calls == []
    assert "[PERMISSION_001]" in read
    assert words in read


async def test_with_nobody_to_ask_it_is_refused(running: Running, journal: Journal) -> None:
    async with running() as kernel:
        agent = agent_of(kernel, journal.tools["delete_file"])

        result = await agent.execute_tool("delete_file", {"path": "a"})

    assert (result.success, result.approved, result.error_code) == (
        False,
        False,
        "PERMISSION_001",
    )
    assert "there is nobody to ask" in result.error


async def test_a_question_that_is_not_answered_in_time_is_a_no(
    running: Running, journal: Journal
) -> None:
    class Silent(Person):
        async def ask(self, request: PendingRequest) -> Answer:
            self.asked.append(request)
            await anyio.sleep_forever()
            raise AssertionError

    person = Silent(Answer())
    async with running(expires_s=0.05) as kernel:
        agent = agent_of(kernel, journal.tools["delete_file"], person=person)

        result = await agent.execute_tool("delete_file", {"path": "a"})

    assert len(person.asked) == 1
    assert "not answered in time" in result.error
    assert journal.calls == []


async def test_a_denied_call_is_refused_without_a_question(
    running: Running, journal: Journal
) -> None:
    person = Person(yes)
    async with running(deny=["delete_file"]) as kernel:
        agent = agent_of(kernel, journal.tools["delete_file"], person=person)

        result = await agent.execute_tool("delete_file", {"path": "a"})

    assert person.asked == []
    assert "the rule 'delete_file' refuses it" in result.error


async def test_an_allowed_call_is_made_without_a_question_and_its_grant_is_logged(
    running: Running, model: ScriptedModel, journal: Journal
) -> None:
    model.say(Call("delete_file", {"path": "a"}), {"answer": "done"})
    async with running(allow=["delete_file"]) as kernel:
        agent = agent_of(kernel, journal.tools["delete_file"])

        async with agent.stream(question="?") as run:
            await run.wait()

    (intended,) = (each for each in run.log.entries if isinstance(each, ToolIntended))
    assert (intended.grant, intended.approval) == ("permissions", "")


async def test_every_decision_is_in_the_log_with_its_rule_and_digest(
    running: Running, model: ScriptedModel, journal: Journal
) -> None:
    calls = [
        Call("add", {"first": 1, "second": 2}),
        Call("delete_file", {"path": "a"}),
        Call("write_file", {"path": "a", "content": "x" * 10_000}),
    ]
    model.say(calls, {"answer": "done"})
    async with running(deny=["delete_.*"]) as kernel:
        tools = [journal.tools[each.name] for each in calls]
        noted = await decisions(agent_of(kernel, *tools), question="?")

    assert [(each["tool"], each["decision"]) for each in noted] == [
        ("add", "allow"),
        ("delete_file", "deny"),
        ("write_file", "ask"),
    ]
    assert noted[1]["rule"] == "deny delete_.*"
    assert noted[1]["arguments"] == {"path": "a"}
    assert "arguments" not in noted[2]
    assert all(each["mode"] == "default" for each in noted)
    assert len({each["digest"] for each in noted}) == 3


async def test_always_becomes_a_rule_that_is_seen_and_noted(
    running: Running, model: ScriptedModel, journal: Journal
) -> None:
    person = Person(Answer(approved=True, always=True, principal="ann"))
    model.say(
        Call("write_file", {"path": "a", "content": "1"}),
        Call("write_file", {"path": "a", "content": "2"}),
        Call("write_file", {"path": "b", "content": "3"}),
        {"answer": "done"},
    )
    async with running() as kernel:
        plugin = await kernel.get(PermissionsPlugin, "default")
        agent = agent_of(kernel, journal.tools["write_file"], person=person)
        async with agent.stream(question="?") as run:
            await run.wait()
        rules = [each for each in plugin.rules if "always" in each.reason]

    assert [each.details["arguments"]["path"] for each in person.asked] == ["a", "b"]
    assert [each.pattern for each in rules] == ["write_file(a)", "write_file(b)"]
    assert "ann said always" in rules[0].reason
    added = [
        each.data
        for each in run.log.entries
        if isinstance(each, Noted) and each.kind == "rule_added"
    ]
    assert [each["rule"] for each in added] == [
        "allow write_file(a)",
        "allow write_file(b)",
    ]


async def test_always_belongs_to_the_context_of_the_agent(
    running: Running, journal: Journal
) -> None:
    person = Person(Answer(approved=True, always=True))
    context = ExecutionContext()
    async with running() as kernel:
        write = journal.tools["write_file"]
        one = agent_of(kernel, write, person=person, hooks=[context], name="one")
        two = agent_of(kernel, write, person=person, name="two")

        for agent in (one, one, two):
            await agent.execute_tool("write_file", {"path": "a", "content": ""})

    assert len(person.asked) == 2
    assert [each.pattern for each in context.rules] == ["write_file(a)"]


@pytest.mark.parametrize(
    ("name", "arguments", "rule"),
    [
        ("write_file", {"path": "src/a b.py", "content": ""}, "write_file(src/a b.py)"),
        ("http_post", {"url": "https://A.example/x?y"}, "http_post(https://a.example/*)"),
        (
            "http_post",
            {"url": "https://a.example:8443/"},
            "http_post(https://a.example:8443/*)",
        ),
        ("bash_command", {"command": "make test"}, "bash_command(make test)"),
        ("bash_command", {"command": "make 'a b' | head"}, "bash_command(make 'a b')"),
        ("send_mail", {"to": "a", "body": "b"}, None),
        ("note", {"line": "a b"}, "note(line=a b)"),
        ("note", {"line": "a*"}, None),
        ("tidy", {}, "tidy"),
        ("download", {"url": "https://a.example/x", "path": "a"}, None),
        ("write_file", {"path": "content=evil", "content": ""}, None),
        ("write_file", {"path": "/", "content": ""}, None),
        ("bash_command", {"command": "cd src && make"}, None),
        ("bash_command", {"command": "nice make"}, None),
        ("http_post", {"url": "https://a@b/"}, None),
        ("write_file", {"path": "a*", "content": ""}, None),
        ("move_file", {"source": "a", "destination": "b"}, None),
        ("bash_command", {"command": "make; $X"}, None),
        ("bash_command", {"command": "make && npm test"}, None),
        ("write_file", {"path": ".env", "content": ""}, None),
        ("format_disk", {"path": "a"}, None),
    ],
)
async def test_a_rule_is_offered_if_it_is_narrow_and_would_spare_the_question(
    name: str,
    arguments: dict[str, Any],
    rule: str | None,
    running: Running,
    journal: Journal,
    project: Any,
) -> None:
    person = Person(Answer())
    async with running() as kernel:
        agent = agent_of(kernel, journal.tools[name], person=person)
        await agent.execute_tool(name, arguments)

    (asked,) = person.asked
    assert asked.details.get("rule") == (None if rule is None else f"allow {rule}")


async def test_no_rule_is_offered_against_one_that_asks(
    running: Running, journal: Journal
) -> None:
    person = Person(Answer(approved=True, always=True))
    async with running(ask=["write_file"]) as kernel:
        plugin = await kernel.get(PermissionsPlugin, "default")
        before = plugin.rules
        agent = agent_of(kernel, journal.tools["write_file"], person=person)
        for _ in range(2):
            await agent.execute_tool("write_file", {"path": "a", "content": ""})

        assert plugin.rules == before
    assert len(person.asked) == 2
    assert "rule" not in person.asked[0].details


class TestInside:
    """Runs inside runs."""

    @staticmethod
    def boss_of(
        kernel: Kernel,
        worker: BaseAgent,
        name: str,
        arguments: dict[str, Any],
        **options: Any,
    ) -> BaseAgent:
        """An agent whose tool has another agent call a tool."""

        @tool(danger="safe")
        async def delegate() -> str:
            """Delegate."""
            result = await worker.execute_tool(name, arguments)
            return result.error or str(result.result)

        return agent_of(kernel, delegate, name="boss", **options)

    @pytest.mark.parametrize(
        ("outer", "inner", "made"),
        [
            ({"mode": "plan"}, {"mode": "bypass"}, False),
            ({}, {"mode": "bypass"}, False),
            ({}, {"allowed_tools": {"write_file"}}, False),
            ({"denied_tools": {"write_file"}}, {"rules": [allow("write_file", 99)]}, False),
            ({"allowed_tools": {"delegate"}}, {"mode": "bypass"}, False),
            ({"mode": "bypass"}, {"mode": "plan"}, False),
            ({"rules": [allow("write_file")]}, {"rules": [ask("write_file")]}, False),
            ({"rules": [allow("write_file")]}, {"rules": [deny("write_file(a)")]}, False),
            ({"rules": [allow("write_file")]}, {"rules": [allow("write_file")]}, True),
            ({"mode": "bypass"}, {"mode": "bypass"}, True),
            ({"mode": "bypass"}, {"rules": [allow("write_file")]}, True),
        ],
    )
    async def test_a_child_can_do_no_more_than_its_parent(
        self,
        outer: dict[str, Any],
        inner: dict[str, Any],
        made: bool,
        running: Running,
        journal: Journal,
    ) -> None:
        async with running() as kernel:
            worker = agent_of(
                kernel, journal.tools["write_file"], hooks=[ExecutionContext(**inner)]
            )
            arguments = {"path": "a", "content": ""}
            boss = self.boss_of(
                kernel, worker, "write_file", arguments, hooks=[ExecutionContext(**outer)]
            )

            await boss.execute_tool("delegate")

        assert bool(journal.calls) is made

    async def test_a_person_is_asked_once_however_many_contexts_there_are(
        self, running: Running, model: ScriptedModel, journal: Journal
    ) -> None:
        person = Person(yes)
        model.say(
            Call("delegate"),
            {"answer": "done"},
        )
        async with running() as kernel:
            worker = agent_of(
                kernel,
                journal.tools["write_file"],
                hooks=[ExecutionContext(), ExecutionContext()],
            )
            arguments = {"path": "a", "content": ""}
            boss = self.boss_of(
                kernel,
                worker,
                "write_file",
                arguments,
                person=person,
                hooks=[ExecutionContext(), ExecutionContext()],
            )

            await boss.run(question="?")

        assert len(person.asked) == 1
        assert len(person.asked[0].run_path) == 2
        assert len(journal.calls) == 1

    async def test_always_spares_the_question_at_every_level(
        self, running: Running, journal: Journal
    ) -> None:
        person = Person(Answer(approved=True, always=True))
        async with running() as kernel:
            worker = agent_of(
                kernel, journal.tools["write_file"], hooks=[ExecutionContext()]
            )
            arguments = {"path": "a", "content": ""}
            boss = self.boss_of(
                kernel,
                worker,
                "write_file",
                arguments,
                person=person,
                hooks=[ExecutionContext()],
            )

            await boss.execute_tool("delegate")
            await boss.execute_tool("delegate")

        assert len(person.asked) == 1
        assert len(journal.calls) == 2

    async def test_what_a_child_spends_its_parent_has_spent(
        self, running: Running, journal: Journal
    ) -> None:
        outer = ExecutionContext(budget_limit=2, tool_costs={"add": 1})
        inner = ExecutionContext(budget_limit=9, tool_costs={"add": 1})
        async with running() as kernel:
            worker = agent_of(kernel, journal.tools["add"], hooks=[inner])
            arguments = {"first": 1, "second": 2}
            boss = self.boss_of(kernel, worker, "add", arguments, hooks=[outer])

            for _ in range(4):
                await boss.execute_tool("delegate")

        assert len(journal.calls) == 2
        assert outer.budget_used == inner.budget_used == 2

    async def test_a_context_holds_no_longer_than_its_run(
        self, running: Running, journal: Journal
    ) -> None:
        async with running() as kernel:
            context = ExecutionContext(mode="plan")
            planner = agent_of(
                kernel, journal.tools["add"], hooks=[context], name="planner"
            )
            other = agent_of(
                kernel,
                journal.tools["write_file"],
                hooks=[ExecutionContext(rules=[allow("write_file")])],
                name="other",
            )

            await planner.execute_tool("add", {"first": 1, "second": 2})
            result = await other.execute_tool("write_file", {"path": "a", "content": ""})

        assert result.success

    async def test_agents_that_run_at_once_do_not_mix_their_contexts(
        self, running: Running, journal: Journal
    ) -> None:
        outcomes: dict[str, list[bool]] = {"plan": [], "free": []}
        async with running() as kernel:

            async def work(name: str, context: ExecutionContext) -> None:
                agent = agent_of(
                    kernel, journal.tools["write_file"], hooks=[context], name=name
                )
                for _ in range(10):
                    result = await agent.execute_tool(
                        "write_file", {"path": "a", "content": ""}
                    )
                    outcomes[name].append(result.success)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work, "plan", ExecutionContext(mode="plan"))
                free = ExecutionContext(rules=[allow("write_file")])
                tasks.start_soon(work, "free", free)

        assert outcomes == {"plan": [False] * 10, "free": [True] * 10}


class Changing:
    """Middleware that changes the arguments of every call."""

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

    async def _changed(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        arguments = {**call.arguments, **self._arguments}
        return await call_next(replace(call, arguments=arguments))


class ChangingBefore(Changing):
    """Comes before the gate."""

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        return await self._changed(call, call_next)


class ChangingAfter(Changing):
    """Comes after the gate, being an agent's own and of the lowest priority."""

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        return await self._changed(call, call_next)


async def test_what_is_decided_is_what_other_middleware_has_made_of_the_call(
    running: Running, journal: Journal
) -> None:
    changing = ChangingBefore(path="b")
    async with running(changing, deny=["write_file(b)"]) as kernel:
        agent = agent_of(kernel, journal.tools["write_file"], person=Person(yes))

        result = await agent.execute_tool("write_file", {"path": "a", "content": ""})

    assert "refuses it" in result.error


async def test_arguments_that_change_after_the_approval_are_refused(
    running: Running, journal: Journal
) -> None:
    async with running() as kernel:
        agent = agent_of(
            kernel,
            journal.tools["write_file"],
            person=Person(yes),
            hooks=[ChangingAfter(path="b")],
        )

        result = await agent.execute_tool("write_file", {"path": "a", "content": ""})

    assert "not what was approved" in result.error
    assert journal.calls == []


async def test_arguments_that_change_between_two_gates_are_decided_anew(
    running: Running, journal: Journal
) -> None:
    context = ExecutionContext(rules=[deny("write_file(b)"), allow("write_file(a)")])
    async with running() as kernel:
        agent = agent_of(
            kernel, journal.tools["write_file"], hooks=[ChangingAfter(path="b"), context]
        )

        result = await agent.execute_tool("write_file", {"path": "a", "content": ""})

    assert "refuses it" in result.error


class Reviewer:
    """A plugin that has a say."""

    def __init__(self, said: Any) -> None:
        self._said = said

    @hookimpl(optionalhook=True)
    async def permissions_decide(self, call: ToolCall) -> PermissionType | None:
        if isinstance(self._said, Exception):
            raise self._said
        said: PermissionType | None = self._said
        return said


@pytest.mark.parametrize(
    ("said", "made", "asked"),
    [
        (None, True, 0),
        (PermissionType.ALLOW, True, 0),
        (PermissionType.ASK, True, 1),
        (PermissionType.DENY, False, 0),
    ],
)
async def test_another_plugin_can_have_a_say_that_is_stricter(
    said: PermissionType | None,
    made: bool,
    asked: int,
    running: Running,
    journal: Journal,
) -> None:
    person = Person(yes)
    async with running(Reviewer(said)) as kernel:
        agent = agent_of(kernel, journal.tools["add"], person=person)

        result = await agent.execute_tool("add", {"first": 1, "second": 2})

    assert result.success is made
    assert len(person.asked) == asked


async def test_another_plugin_can_allow_nothing(running: Running, journal: Journal) -> None:
    async with running(Reviewer(PermissionType.ALLOW), deny=["add"]) as kernel:
        agent = agent_of(kernel, journal.tools["add"])

        result = await agent.execute_tool("add", {"first": 1, "second": 2})

    assert not result.success


@pytest.mark.parametrize("said", ["deny", 1, ValueError("broken")])
async def test_a_plugin_that_fails_to_say_something_stops_the_call(
    said: Any, running: Running, journal: Journal
) -> None:
    async with running(Reviewer(said)) as kernel:
        agent = agent_of(kernel, journal.tools["add"])

        with pytest.raises(Exception, match=r"permissions_decide|broken"):
            await agent.execute_tool("add", {"first": 1, "second": 2})

    assert journal.calls == []


async def test_what_code_grants_an_agent_needs_no_question_but_may_be_denied(
    running: Running, journal: Journal
) -> None:
    async with running(deny=["delete_file(b)"]) as kernel:
        agent = agent_of(kernel, journal.tools["delete_file"], grants=["delete_file"])

        good = await agent.execute_tool("delete_file", {"path": "a"})
        bad = await agent.execute_tool("delete_file", {"path": "b"})

    assert (good.success, bad.success) == (True, False)


async def test_a_tool_that_only_reads_is_decided_too(
    running: Running, journal: Journal
) -> None:
    async with running(deny=["list_directory", "read_file"]) as kernel:
        agent = agent_of(
            kernel, journal.tools["list_directory"], journal.tools["read_file"]
        )

        listed = await agent.execute_tool("list_directory", {"path": "."})
        read = await agent.execute_tool("read_file", {"path": "a"})

    assert (listed.success, read.success) == (False, False)


async def test_a_bypass_is_noted_with_every_call(
    running: Running, model: ScriptedModel, journal: Journal
) -> None:
    model.say(Call("format_disk", {"path": "a"}), {"answer": "done"})
    async with running() as kernel:
        context = ExecutionContext(mode="bypassPermissions")
        agent = agent_of(kernel, journal.tools["format_disk"], hooks=[context])
        (noted,) = await decisions(agent, question="?")

    assert noted["decision"] == "allow"
    assert "bypass" in noted["mode"]
    assert noted["reason"] == "permissions are bypassed"
    assert len(journal.calls) == 1


async def test_a_call_for_which_too_little_is_left_is_noted(
    running: Running, model: ScriptedModel, journal: Journal
) -> None:
    model.say(Call("add", {"first": 1, "second": 2}), {"answer": "done"})
    async with running() as kernel:
        context = ExecutionContext(budget_limit=1, tool_costs={"add": 2})
        agent = agent_of(kernel, journal.tools["add"], hooks=[context])
        async with agent.stream(question="?") as run:
            await run.wait()

    (noted,) = (
        each.data
        for each in run.log.entries
        if isinstance(each, Noted) and each.kind == "over_budget"
    )
    assert noted["tool"] == "add"
    assert "budget of 1 USD" in noted["reason"]
    assert journal.calls == []


async def test_what_was_started_in_a_run_is_bound_by_it_also_when_that_has_ended(
    running: Running, journal: Journal
) -> None:
    over, done = anyio.Event(), anyio.Event()
    errors: list[str] = []
    async with running() as kernel, anyio.create_task_group() as tasks:
        worker = agent_of(
            kernel,
            journal.tools["write_file"],
            hooks=[ExecutionContext(rules=[allow("write_file")])],
            name="worker",
        )

        async def later() -> None:
            await over.wait()
            arguments = {"path": "a", "content": ""}
            errors.append((await worker.execute_tool("write_file", arguments)).error)
            done.set()

        @tool(danger="safe")
        async def begin() -> str:
            """Begin."""
            tasks.start_soon(later)
            return ""

        boss = agent_of(kernel, begin, hooks=[ExecutionContext(mode="plan")], name="boss")
        await boss.execute_tool("begin")
        over.set()
        with anyio.fail_after(5):
            await done.wait()

    assert journal.calls == []
    assert "plan mode" in errors[0] or "ended" in errors[0]


async def test_a_call_that_is_made_again_by_middleware_needs_its_own_approval(
    running: Running, journal: Journal
) -> None:
    class Twice:
        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            await call_next(call)
            return await call_next(call)

    person = Person(yes)
    async with running(Twice()) as kernel:
        agent = agent_of(kernel, journal.tools["send_mail"], person=person)
        await agent.execute_tool("send_mail", {"to": "a", "body": "b"})

    assert len(person.asked) == 2
    assert len(journal.calls) == 2


async def test_a_rule_that_is_not_kept_is_gone_when_the_kernel_starts_again(
    model: ScriptedModel, journal: Journal
) -> None:
    person = Person(Answer(approved=True, always=True))
    kernel = Kernel(
        plugins=[ModelPlugin(model), PermissionsPlugin],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    )
    for _ in range(2):
        async with kernel:
            agent = agent_of(kernel, journal.tools["write_file"], person=person)
            await agent.execute_tool("write_file", {"path": "a", "content": ""})

    assert len(person.asked) == 2


async def test_a_tool_may_start_threads_that_know_their_contexts(
    running: Running, journal: Journal
) -> None:
    async with running() as kernel:
        worker = agent_of(
            kernel,
            journal.tools["write_file"],
            hooks=[ExecutionContext(rules=[allow("write_file")])],
            name="worker",
        )

        @tool(danger="safe")
        async def delegate() -> str:
            """Delegate."""
            assert current_run().agent_id == "boss"

            def work() -> str:
                result = from_thread.run(
                    worker.execute_tool, "write_file", {"path": "a", "content": ""}
                )
                return result.error

            return await anyio.to_thread.run_sync(work)

        boss = agent_of(
            kernel, delegate, hooks=[ExecutionContext(mode="plan")], name="boss"
        )
        result = await boss.execute_tool("delegate")

    assert "plan mode" in result.content
    assert journal.calls == []


@pytest.mark.parametrize("first", [True, False])
async def test_a_context_of_the_whole_kernel_and_the_settings_hold_in_either_order(
    first: bool, model: ScriptedModel, journal: Journal
) -> None:
    context = ExecutionContext(
        allowed_tools={"add", "write_file", "send_mail"}, tool_costs={"add": 1}
    )
    person = Person(yes)
    gates = [context, PermissionsPlugin] if first else [PermissionsPlugin, context]
    async with Kernel(
        plugins=[ModelPlugin(model), *gates],
        discover=False,
        settings={"permissions": {"deny": ["write_file"], "ask": ["send_mail"]}},
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        tools = [journal.tools[name] for name in ("add", "write_file", "send_mail")]
        agent = agent_of(kernel, *tools, person=person)

        added = await agent.execute_tool("add", {"first": 1, "second": 2})
        written = await agent.execute_tool("write_file", {"path": "a", "content": ""})
        sent = await agent.execute_tool("send_mail", {"to": "a", "body": "b"})

    assert (added.success, written.success, sent.success) == (True, False, True)
    assert len(person.asked) == 1
    assert context.usage["add"].calls == 1


async def test_an_approval_that_another_gate_has_obtained_stays_bound_to_the_call(
    running: Running, journal: Journal
) -> None:
    class Asking:
        @hookimpl(priority=Priority.HIGH)
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            run = current_run()
            answer = await run.ask(
                "May it?", kind="approval", action_digest=action_digest(call, run.principal)
            )
            return await call_next(call.granted(by="other", approval=answer.request_id))

    person = Person(yes)
    async with running(Asking(), allow=["add"]) as kernel:
        agents = [
            agent_of(
                kernel,
                journal.tools["add"],
                journal.tools["send_mail"],
                person=person,
                hooks=hooks,
                name=f"agent{len(hooks)}",
            )
            for hooks in ([], [ChangingAfter(first=9)])
        ]
        sent = await agents[0].execute_tool("send_mail", {"to": "a", "body": "b"})
        changed = await agents[1].execute_tool("add", {"first": 1, "second": 2})

    assert sent.success
    assert not changed.success
    assert len(person.asked) == 2
