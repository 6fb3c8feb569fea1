"""The tools in a kernel: what they say of themselves, and what the kernel lets them do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from kaizen.agent import BaseAgent
from kaizen.errors import ConfigurationError, PluginError
from kaizen.hooks import hookimpl
from kaizen.kernel import Kernel
from kaizen.testing import ModelPlugin, ScriptedModel
from kaizen.tools import DangerLevel, Tool, ToolCall, ToolResult, ToolSpec
from kaizen_tools import ToolsPlugin, ToolsSettings

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
SCRIPTED = {"llm_provider": "scripted"}
README = Path(__file__).parents[3] / "plugins/tools/README.md"


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


STATED = {
    "list_directory": ("file", "SAFE", "reads idempotent"),
    "file_exists": ("file", "SAFE", "reads idempotent"),
    "search_files": ("file", "LOW", "reads idempotent"),
    "grep": ("file", "LOW", "reads idempotent"),
    "read_file": ("file", "LOW", "reads idempotent"),
    "write_file": ("file", "MEDIUM", "writes idempotent"),
    "edit_file": ("file", "MEDIUM", "reads writes"),
    "delete_file": ("file", "HIGH", "writes idempotent"),
    "http_get": ("http", "LOW", "reads external idempotent"),
    "http_post": ("http", "MEDIUM", "reads writes external"),
    "http_put": ("http", "MEDIUM", "reads writes external idempotent"),
    "http_delete": ("http", "HIGH", "reads writes external idempotent"),
    "fetch_url": ("web", "LOW", "reads external idempotent"),
    "extract_links": ("web", "LOW", "reads external idempotent"),
    "bash_command": ("system", "HIGH", "reads writes"),
}
UNCONFINED = {"bash_command": ("system", "CRITICAL", "reads writes external")}


def stated(spec: ToolSpec) -> tuple[str, str, str]:
    words = ("reads", "writes", "external", "idempotent")
    said = " ".join(word for word in words if getattr(spec.effect, word))
    return (spec.category, spec.effect.danger.name, said)


async def test_every_tool_says_what_it_does_to_the_world(toolbox: Toolbox) -> None:
    async with toolbox(bash={"sandbox": "none"}) as call:
        names = call.kernel.registry.names(Tool)
        specs = {name: (await call.kernel.get(Tool, name)).spec for name in names}

    said = {name: stated(spec) for name, spec in specs.items()}
    assert said == {**STATED, **UNCONFINED}


@pytest.mark.parametrize("sandbox", ["bubblewrap", "landlock"])
async def test_a_command_is_less_of_a_danger_in_a_sandbox(
    toolbox: Toolbox, confined: Callable[[str], dict[str, Any]], sandbox: str
) -> None:
    bash = confined(sandbox)

    async with toolbox(bash=bash) as call:
        alone = (await call.kernel.get(Tool, "bash_command")).spec
    async with toolbox(bash={**bash, "network": True}) as call:
        connected = (await call.kernel.get(Tool, "bash_command")).spec

    assert stated(alone) == STATED["bash_command"]
    assert stated(connected) == ("system", "HIGH", "reads writes external")
    assert "It is confined" in alone.description
    assert "cannot reach the network" in alone.description
    assert "can reach the network" in connected.description


async def test_a_command_that_nothing_confines_says_so_everywhere(
    toolbox: Toolbox, caplog: pytest.LogCaptureFixture
) -> None:
    bash = {"bubblewrap": "/no/bwrap", "shell": "/bin/bash"}

    # A root of everything leaves nothing that could be confined.
    async with toolbox(bash=bash, roots=["/"]) as call:
        spec = (await call.kernel.get(Tool, "bash_command")).spec
        result = await call("bash_command", command="true")
        (plugin,) = [each.plugin for each in call.kernel.plugins if each.name == "tools"]
        report = plugin.sandbox

    assert spec.effect.danger is DangerLevel.CRITICAL
    assert "It is not confined" in spec.description
    assert result["sandbox"] == "none"
    assert report.startswith("none: bubblewrap: `/` is a root")
    assert "bash_command is not confined: bubblewrap: `/` is a root" in caplog.text


@pytest.mark.parametrize(
    ("bash", "problem"),
    [
        ({"sandbox": "bubblewrap", "bubblewrap": "/no/bwrap"}, "/no/bwrap"),
        ({"sandbox": "bubblewrap", "bubblewrap": "/bin/true"}, "made no namespaces"),
        ({"sandbox": "bubblewrap", "bubblewrap": "pretender"}, "made no namespaces"),
        ({"sandbox": "bubblewrap", "bubblewrap": "liar"}, "made no namespaces"),
    ],
)
async def test_a_sandbox_that_is_demanded_and_does_not_work_is_an_error(
    toolbox: Toolbox, tmp_path: Path, bash: dict[str, Any], problem: str
) -> None:
    pretender = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    liar = (
        "while [ $1 != --info-fd ]; do shift; done; "
        """printf '{"child-pid": %s}' $$ >/proc/self/fd/$2; exec cat"""
    )
    for name, script in (("pretender", pretender), ("liar", liar)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)

    async with toolbox(bash=bash) as call:
        with pytest.raises(ConfigurationError, match=problem):
            await call("bash_command", command="true")


async def test_every_parameter_is_described_to_the_model(toolbox: Toolbox) -> None:
    async with toolbox() as call:
        for offer in call.kernel.registry.offers(Tool):
            spec = (await call.kernel.get(Tool, offer.name)).spec

            assert spec.description.startswith(offer.description[:12])
            assert spec.timeout_s < 700
            for name, parameter in spec.parameters["properties"].items():
                assert parameter.get("description"), f"{offer.name}.{name}"


async def test_an_agent_reads_and_is_refused_to_write(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("hello\n", encoding="utf-8")

    async with toolbox() as call:
        tools = ["read_file", "write_file", "bash_command"]
        agent = BaseAgent(SCRIPTED, "question -> answer", tools=tools, kernel=call.kernel)
        read = await agent.execute_tool("read_file", {"path": "a.txt"})
        outside = await agent.execute_tool("read_file", {"path": "/etc/passwd"})
        written = await agent.execute_tool("write_file", {"path": "a.txt", "content": "x"})
        command = await agent.execute_tool("bash_command", {"command": "touch b.txt"})

    assert (read.success, read.content) == (True, "hello\n")
    assert (outside.success, outside.error_code) == (False, "TOOL_001")
    assert (written.approved, written.error_code) == (False, "PERMISSION_001")
    assert (command.approved, command.error_code) == (False, "PERMISSION_001")
    assert names_in(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "hello\n"


class Granting:
    """Grants every call."""

    @hookimpl
    async def wrap_tool_call(self, call: ToolCall, call_next: Any) -> ToolResult:
        result: ToolResult = await call_next(call.granted("a test"))
        return result


async def test_a_granted_command_runs_in_an_agent_and_ends_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"tools": {"bash": {"grace_s": 0.2, "sandbox": "none"}}}

    async with Kernel(
        discover=False,
        plugins=[ToolsPlugin, ModelPlugin(ScriptedModel()), Granting],
        settings=settings,
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(SCRIPTED, "a -> b", tools=["bash_command"], kernel=kernel)
        done = await agent.execute_tool("bash_command", {"command": "echo done >a.txt"})
        with anyio.fail_after(10), anyio.move_on_after(0.5) as scope:
            command = "trap '' TERM; echo $$ >pid; sleep 60"
            await agent.execute_tool("bash_command", {"command": command})

    assert done.success
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "done\n"
    assert scope.cancelled_caught
    pid = (tmp_path / "pid").read_text(encoding="utf-8").strip()
    assert pid not in names_in(Path("/proc"))


async def test_nothing_above_low_runs_without_a_grant(toolbox: Toolbox) -> None:
    async with toolbox() as call:
        names = list(call.kernel.registry.names(Tool))
        agent = BaseAgent(SCRIPTED, "a -> b", tools=names, kernel=call.kernel)
        free = await agent.discover_tools(safe_only=True)
        risky = [name for name in names if DangerLevel[STATED[name][1]] > DangerLevel.LOW]
        for name in risky:
            result = await agent.execute_tool(name, {})
            assert not result.success

    assert {tool.name for tool in free} == set(names) - set(risky)


@pytest.mark.parametrize(
    "settings",
    [
        {"roots": []},
        {"max_output_chars": 0},
        {"max_file_bytes": -1},
        {"search_timeout_s": float("inf")},
        {"unknown": 1},
        {"http": {"timeout_s": 0}},
        {"http": {"private_hosts": ["127.0.0.1"]}},
        {"http": {"allowed_hosts": ["http://example.com"]}},
        {"http": {"user_agent": "a\r\nHost: b"}},
        {"bash": {"env": ["A=B"]}},
        {"bash": {"processes": 0}},
        {"bash": {"sandbox": "docker"}},
        *({"bash": {"protected": [name]}} for name in ("", "/a", "a/", "../a", "a/../b")),
        *({"bash": {"protected": [name]}} for name in (".", "..", "a//b", "a/.", "a\0b")),
    ],
)
async def test_settings_that_make_no_sense_are_refused(
    toolbox: Toolbox, settings: dict[str, Any]
) -> None:
    with pytest.raises(PluginError, match="has settings that do not fit"):
        async with toolbox(**settings):
            pass


async def test_two_kernels_have_roots_of_their_own(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name, encoding="utf-8")

    async with toolbox(roots=["one"]) as first, toolbox(roots=["two"]) as second:
        texts = [
            await first("read_file", path="one/a.txt"),
            await second("read_file", path="two/a.txt"),
        ]
        found = [await each("search_files") for each in (first, second)]

    assert texts == ["one", "two"]
    assert [each["matches"] for each in found] == [["one/a.txt"], ["two/a.txt"]]


async def test_importing_and_starting_loads_nothing_heavy() -> None:
    program = """
import sys, anyio
from kaizen.kernel import Kernel
before = set(sys.modules)
import kaizen_tools

async def main():
    options = {"discover": False, "config_file": False, "environ": {}}
    async with Kernel(plugins=[kaizen_tools.ToolsPlugin], **options):
        pass

anyio.run(main)
heavy = ("lxml", "re2", "httpcore", "h11", "certifi", "idna", "ctypes", "httpx")
print([name for name in heavy if name in sys.modules and name not in before])
print(sorted(name for name in sys.modules if name.startswith("kaizen_tools.")))
"""
    done = await anyio.run_process([sys.executable, "-c", program])

    heavy, ours = done.stdout.decode().splitlines()
    assert heavy == "[]"
    assert ours == "['kaizen_tools._plugin', 'kaizen_tools._settings']"


async def test_the_readme_names_each_tool_with_its_danger() -> None:
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]

    named = {
        name.strip(" `"): danger for danger, names, *_ in rows for name in names.split(",")
    }

    assert named == {name: danger for name, (_, danger, _) in STATED.items()}


async def test_every_setting_says_what_it_is() -> None:
    schema = ToolsSettings.model_json_schema()
    models = [schema, *schema["$defs"].values()]

    undescribed = [
        name
        for model in models
        for name, field in model["properties"].items()
        if not field.get("description") and name not in ("http", "bash")
    ]

    assert undescribed == []


async def test_tools_of_this_machine_say_where_they_begin(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.md").write_text("text", encoding="utf-8")

    async with toolbox(roots=["data", "."]) as tools:
        said = {
            name: (await tools.kernel.get(Tool, name)).spec.directory
            for name in ("read_file", "write_file", "grep", "bash_command", "http_get")
        }
        done = await tools("bash_command", command="pwd")
        read = await tools("read_file", path="data/a.md")

    assert said == {
        "read_file": str(tmp_path),
        "write_file": str(tmp_path),
        "grep": str(tmp_path),
        "bash_command": str(tmp_path / "data"),
        "http_get": "",
    }
    assert done["stdout"].strip() == said["bash_command"]
    assert read


async def test_a_shell_without_a_folder_to_run_in_names_none(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "only.md").write_text("text", encoding="utf-8")

    async with toolbox(roots=["only.md"]) as tools:
        shell = await tools.kernel.get(Tool, "bash_command")

    assert shell.spec.directory == ""
