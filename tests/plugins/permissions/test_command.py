"""`kaizen policy`: which rule decides, and which past decisions would flip."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kaizen import BaseAgent, Kernel, Tool, hookimpl
from kaizen.ports import CheckpointStore
from kaizen.testing import Call, MemoryCheckpointStore, ScriptedModel
from kaizen.tools import FunctionTool, ToolSpec
from kaizen_permissions import ExecutionContext
from kaizen_permissions._command import policy

from tests.plugins.permissions.conftest import Running
from tests.plugins.permissions.workbench import Journal, placed

pytestmark = pytest.mark.anyio


class Offering:
    """Offers the tools and one store."""

    name = "offering"

    def __init__(
        self, journal: Journal, store: MemoryCheckpointStore, name: str = "memory"
    ) -> None:
        self._journal = journal
        self._store = store
        self._name = name

    @hookimpl
    def contribute(self, registry: Any) -> None:
        registry.add(CheckpointStore, self._name, self._store)
        for name, each in self._journal.tools.items():
            registry.add(Tool, name, each)


class Elsewhere(FunctionTool):
    """A tool that begins in a folder of its own, and says so."""

    def __init__(self, made: FunctionTool, directory: Path) -> None:
        super().__init__(made._function, **made._options)
        self._where = placed(made, directory)

    @property
    def spec(self) -> ToolSpec:
        return self._where


@pytest.fixture
def store() -> MemoryCheckpointStore:
    return MemoryCheckpointStore()


Command = Callable[..., Awaitable[int]]


@pytest.fixture
def kaizen_policy(
    running: Running, journal: Journal, store: MemoryCheckpointStore, project: Path
) -> Command:
    """Run the command as `kaizen policy` would."""

    async def run(*arguments: str, **settings: Any) -> int:
        config = {"checkpoint_store": "memory"}
        async with running(Offering(journal, store), config=config, **settings) as kernel:
            return await policy(kernel, arguments)

    return run


@pytest.fixture
def work(
    running: Running,
    journal: Journal,
    store: MemoryCheckpointStore,
    model: ScriptedModel,
    project: Path,
) -> Callable[..., Awaitable[str]]:
    """Let an agent make some calls, and return its run."""

    async def run(*calls: Call, **settings: Any) -> str:
        model.say(*calls, "done")
        config = {"checkpoint_store": "memory"}
        async with running(Offering(journal, store), config=config, **settings) as kernel:
            agent = BaseAgent(signature="question -> answer", tools="all", kernel=kernel)
            return (await agent.run(question="?")).run_id

    return run


@pytest.mark.parametrize(
    ("tool", "arguments", "lines"),
    [
        ("write_file", '{"path": "src/a", "content": ""}', ["ask", "none", "medium"]),
        ("delete_file", '{"path": "a"}', ["deny", "deny delete_.*", "high"]),
        ("grep", '{"pattern": "x"}', ["allow", "allow grep(@roots/)", "low"]),
        (
            "bash_command",
            '{"command": "git log"}',
            ["allow", "bash_command(@reads)", "high"],
        ),
        ("bash_command", '{"command": "rm a"}', ["ask", "none", "high"]),
        ("unheard_of", '{"a": 1}', ["ask", "nothing is known", "unknown"]),
        ("format_disk", None, ["ask", "critical"]),
    ],
)
async def test_explain_says_what_is_decided_and_by_which_rule(
    tool: str,
    arguments: str | None,
    lines: list[str],
    kaizen_policy: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [tool] if arguments is None else [tool, arguments]

    code = await kaizen_policy("explain", *given, deny=["delete_.*"])

    out = capsys.readouterr().out
    assert code == 0
    assert [each for each in lines if each not in out] == []


@pytest.mark.parametrize("arguments", ["{", "[]", "3", '{"path": 3, "content": ""}'])
async def test_explain_refuses_arguments_that_are_none(
    arguments: str, kaizen_policy: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await kaizen_policy("explain", "write_file", arguments)

    captured = capsys.readouterr()
    assert code == 2
    assert captured.err
    assert captured.out == ""


async def test_what_it_writes_cannot_make_a_terminal_do_anything(
    kaizen_policy: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    await kaizen_policy("explain", "bash_command", json.dumps({"command": "\x1b[2J\u202e"}))

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out


async def test_show_lists_the_rules_and_those_that_contradict(
    kaizen_policy: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await kaizen_policy("show", allow=["add", "grep"], deny=["add"], mode="plan")

    out = capsys.readouterr().out
    assert code == 0
    assert "deny   add" in out
    assert "mode: plan" in out
    assert "allow add never has an effect beside deny add" in out


async def test_diff_lists_each_decision_that_would_flip(
    work: Callable[..., Awaitable[str]],
    kaizen_policy: Command,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = await work(
        Call("read_file", {"path": "src/app/main.py"}, id="one"),
        Call("read_file", {"path": "docs/index.md"}, id="two"),
        Call("delete_file", {"path": "a"}, id="three"),
        Call("add", {"first": 1, "second": 2}, id="four"),
    )
    (project / "new.toml").write_text(
        'deny = ["read_file(docs/)"]\nallow = ["delete_file"]\n', encoding="utf-8"
    )

    code = await kaizen_policy("diff", "new.toml")
    table = capsys.readouterr().out
    json_code = await kaizen_policy("diff", "new.toml", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert (code, json_code) == (1, 1)
    assert "2 of 4 decisions would flip." in table
    assert [(each["call_id"], each["was"], each["would_be"]) for each in lines] == [
        ("two", "allow", "deny"),
        ("three", "ask", "allow"),
    ]
    assert lines[0]["run_id"] == run_id
    assert lines[0]["arguments"] == {"path": "docs/index.md"}
    assert lines[0]["rule"] == "deny read_file(docs/)"
    assert f"{run_id}:two" in table


async def test_diff_against_the_same_rules_finds_nothing(
    work: Callable[..., Awaitable[str]],
    kaizen_policy: Command,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await work(
        Call("read_file", {"path": "src/app/main.py"}),
        Call("bash_command", {"command": "git log | head"}),
        Call("bash_command", {"command": "rm -rf src"}),
        Call("write_file", {"path": ".env", "content": ""}),
        Call("http_get", {"url": "https://example.com"}),
    )
    (project / "new.toml").write_text("", encoding="utf-8")

    code = await kaizen_policy("diff", "new.toml")

    assert code == 0
    assert "0 of 5 decisions would flip." in capsys.readouterr().out


async def test_diff_takes_a_whole_configuration_too(
    work: Callable[..., Awaitable[str]],
    kaizen_policy: Command,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await work(Call("read_file", {"path": "src/app/main.py"}))
    (project / "new.toml").write_text(
        '[plugins.permissions]\nmode = "plan"\nallow = []\nask = ["read_file"]\n',
        encoding="utf-8",
    )

    assert await kaizen_policy("diff", "new.toml") == 1
    assert "the rule 'read_file' asks about it" in capsys.readouterr().out


async def test_diff_also_decides_calls_of_runs_from_before_the_plugin(
    kernel: Kernel,
    journal: Journal,
    store: MemoryCheckpointStore,
    kaizen_policy: Command,
    project: Path,
    model: ScriptedModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model.say(Call("add", {"first": 1, "second": 2}), "done")
    agent = BaseAgent(
        signature="question -> answer",
        tools=[journal.tools["add"]],
        kernel=kernel,
        store=store,
    )
    await agent.run(question="?")
    (project / "new.toml").write_text('deny = ["add"]', encoding="utf-8")

    assert await kaizen_policy("diff", "new.toml") == 1
    assert "1 of 1 decisions would flip." in capsys.readouterr().out

    (project / "new.toml").write_text('deny = ["grep"]', encoding="utf-8")

    assert await kaizen_policy("diff", "new.toml") == 0
    assert "0 of 0 decisions would flip; 1 others" in capsys.readouterr().out


async def test_diff_leaves_out_what_contexts_alone_have_decided(
    kernel: Kernel,
    journal: Journal,
    store: MemoryCheckpointStore,
    kaizen_policy: Command,
    project: Path,
    model: ScriptedModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model.say(Call("delete_file", {"path": "a"}), "done")
    agent = BaseAgent(
        signature="question -> answer",
        tools=[journal.tools["delete_file"]],
        kernel=kernel,
        store=store,
        hooks=[ExecutionContext(denied_tools={"delete_file"})],
    )
    await agent.run(question="?")
    (project / "new.toml").write_text("", encoding="utf-8")

    assert await kaizen_policy("diff", "new.toml") == 0
    assert "0 of 0 decisions would flip; 1 others" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["allow = [", 'allow = ["git_*"]', '[plugins.permissions]\nmode = "bypass"']
)
async def test_diff_refuses_rules_that_cannot_be_used(
    text: str, kaizen_policy: Command, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "new.toml").write_text(text, encoding="utf-8")

    assert await kaizen_policy("diff", "new.toml") == 2
    assert capsys.readouterr().err


async def test_diff_needs_a_file_and_a_store(
    running: Running,
    kaizen_policy: Command,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await kaizen_policy("diff", "missing.toml") == 2
    assert "missing.toml" in capsys.readouterr().err

    (project / "new.toml").write_text("", encoding="utf-8")
    async with running() as kernel:
        assert await policy(kernel, ["diff", "new.toml"]) == 2
    assert "checkpoint_store" in capsys.readouterr().err


async def test_without_the_plugin_there_is_nothing_to_explain(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await policy(kernel, ["explain", "add"]) == 2
    assert "is not enabled" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["explain"], ["what"], ["diff"]])
async def test_a_command_that_is_none_is_told_how_it_is_used(
    arguments: list[str], kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await policy(kernel, arguments) == 2
    assert "usage: kaizen policy" in capsys.readouterr().err


async def test_diff_takes_the_store_in_which_the_command_line_keeps_runs(
    work: Callable[..., Awaitable[str]],
    running: Running,
    journal: Journal,
    store: MemoryCheckpointStore,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await work(Call("grep", {"pattern": "x"}))
    (project / "new.toml").write_text("", encoding="utf-8")

    async with running(Offering(journal, store, "sqlite")) as kernel:
        by_default = await policy(kernel, ["diff", "new.toml"])
    async with running(Offering(journal, store, "other")) as kernel:
        named = await policy(kernel, ["diff", "new.toml", "--store", "other"])
    async with running(
        Offering(journal, store, "sqlite"), config={"checkpoint_store": ""}
    ) as kernel:
        refused = await policy(kernel, ["diff", "new.toml"])

    captured = capsys.readouterr()
    assert (by_default, named, refused) == (0, 0, 2)
    assert captured.out.count("0 of 1 decisions would flip.") == 2
    assert "--store" in captured.err


@pytest.mark.parametrize("limit", ["-5", "0", "x", "1.5"])
async def test_diff_refuses_a_limit_that_is_none(
    limit: str, kaizen_policy: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await kaizen_policy("diff", "new.toml", f"--limit={limit}") == 2
    assert "is no number of runs" in capsys.readouterr().err


async def test_explain_and_diff_know_for_whom_a_call_is_made(
    running: Running,
    journal: Journal,
    store: MemoryCheckpointStore,
    model: ScriptedModel,
    kaizen_policy: Command,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rules = '[[deny]]\nrule = "grep"\nroles = ["guest"]\ntenants = ["acme"]\n'
    (project / "new.toml").write_text(rules, encoding="utf-8")
    roles = {"guest": ["bob"]}
    settings: dict[str, Any] = {"policy": project / "new.toml", "roles": roles}

    said = []
    for options in ([], ["--as", "bob"], ["--as", "bob", "--tenant", "acme"]):
        await kaizen_policy("explain", "grep", '{"pattern": "x"}', *options, **settings)
        said.append(capsys.readouterr().out.split()[1])

    model.say(
        Call("grep", {"pattern": "x"}), "done", Call("grep", {"pattern": "x"}), "done"
    )
    config = {"checkpoint_store": "memory"}
    async with running(Offering(journal, store), config=config) as kernel:
        agent = BaseAgent(signature="question -> answer", tools="all", kernel=kernel)
        for principal in ("ann", "bob"):
            metadata = {"principal": principal, "tenant_id": "acme"}
            await agent.bind(metadata=metadata).run(question="?")
    code = await kaizen_policy("diff", "new.toml", roles=roles)

    assert said == ["allow", "allow", "deny"]
    assert code == 1
    assert "1 of 2 decisions would flip." in capsys.readouterr().out


async def test_diff_decides_in_the_folder_in_which_the_tool_began(
    running: Running,
    journal: Journal,
    store: MemoryCheckpointStore,
    model: ScriptedModel,
    kaizen_policy: Command,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (project / "new.toml").write_text('deny = ["read_file(docs/)"]', encoding="utf-8")
    journal.tools["bash_command"] = Elsewhere(
        journal.tools["bash_command"], project / "docs"
    )
    model.say(Call("bash_command", {"command": "cat index.md"}), "done")
    config = {"checkpoint_store": "memory"}
    async with running(Offering(journal, store), config=config) as kernel:
        agent = BaseAgent(signature="question -> answer", tools="all", kernel=kernel)
        await agent.run(question="?")

    assert await kaizen_policy("diff", "new.toml") == 1
    assert "1 of 1 decisions would flip." in capsys.readouterr().out
