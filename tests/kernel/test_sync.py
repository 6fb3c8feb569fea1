"""The way from code that is not async, and the kernel that starts by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest
from kaizen import BaseAgent, Kernel, run_sync
from kaizen.errors import InitializationError
from kaizen.testing import ModelPlugin, ScriptedModel

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


def alone(model: ScriptedModel) -> Kernel:
    return Kernel(
        plugins=[ModelPlugin(model)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    )


async def colour() -> str:
    await anyio.lowlevel.checkpoint()
    return COLOUR.get()


def test_a_coroutine_is_run_to_its_end() -> None:
    COLOUR.set("red")
    assert run_sync(colour()) == "red"


@pytest.mark.anyio
async def test_a_coroutine_is_run_inside_a_running_loop_with_its_context() -> None:
    COLOUR.set("blue")
    assert run_sync(colour()) == "blue"


@pytest.mark.anyio
async def test_an_error_inside_a_running_loop_reaches_the_caller() -> None:
    async def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        run_sync(fail())


def test_an_agent_runs_from_a_script_on_a_kernel_that_is_started_for_it() -> None:
    model = ScriptedModel("one", "two")
    kernel = alone(model)
    agent = BaseAgent(signature="question -> answer", kernel=kernel)
    assert agent.run_sync(question="?").answer == "one"
    assert not kernel.running
    assert agent.run_sync(question="?").answer == "two"


@pytest.mark.anyio
async def test_an_agent_runs_in_a_notebook_where_a_loop_is_running() -> None:
    agent = BaseAgent(signature="question -> answer", kernel=alone(ScriptedModel("one")))
    assert agent.run_sync(question="?").answer == "one"


@pytest.mark.anyio
async def test_blocking_the_loop_in_which_the_kernel_runs_is_refused() -> None:
    async with alone(ScriptedModel("one")) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        with pytest.raises(InitializationError, match=r"await agent\.run"):
            agent.run_sync(question="?")


@pytest.mark.anyio
async def test_a_thread_may_use_a_kernel_that_runs_in_another() -> None:
    async with alone(ScriptedModel("one")) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        result = await anyio.to_thread.run_sync(lambda: agent.run_sync(question="?"))
    assert result.answer == "one"


PLUGIN = """
from contextlib import asynccontextmanager
import anyio
from kaizen import hookimpl, Provider
from kaizen.testing import ScriptedModel

class ThePlugin:
    def __init__(self):
        self.model = ScriptedModel(*["hello"] * 5)

    @asynccontextmanager
    async def lifespan(self, kernel):
        print("starts")
        async with anyio.create_task_group() as tasks:
            yield
            tasks.cancel_scope.cancel()
        print("stops")

    @hookimpl
    def contribute(self, registry):
        registry.add(Provider, "installed", self.model)
"""

BUSY_PLUGIN = f"""{PLUGIN}
    @asynccontextmanager
    async def lifespan(self, kernel):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.listen)
            yield
            tasks.cancel_scope.cancel()
            await anyio.sleep(0)

    async def listen(self):
        try:
            await anyio.sleep_forever()
        finally:
            print("stops")
"""

SCRIPT = """
import anyio
from kaizen import BaseAgent

agent = BaseAgent({"llm_provider": "installed"}, "question -> answer")

async def main():
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)

async def ask():
    print((await agent.run(question="?")).answer)
"""


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """An environment in which one plugin is installed."""
    info = tmp_path / "kaizen_installed-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kaizen-installed\nVersion: 1\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[kaizen.plugins]\ninstalled = installed_plugin:ThePlugin\n", encoding="utf-8"
    )
    (tmp_path / "installed_plugin.py").write_text(PLUGIN, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "KAIZEN_PLUGINS": "installed"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_agents_without_a_kernel_share_one_that_stops_with_the_loop(
    site: dict[str, str], tmp_path: Path, backend: str
) -> None:
    program = f"{SCRIPT}\nanyio.run(main, backend={backend!r})\nprint('ended')\n"
    done = run_program(program, site, tmp_path)
    assert done.stdout.split() == ["starts", "hello", "hello", "hello", "stops", "ended"]
    assert done.stderr == ""


@pytest.mark.parametrize("how", ["asyncio", "trio", "run_sync"])
def test_a_plugin_that_cancels_its_own_tasks_ends_without_a_word(
    site: dict[str, str], tmp_path: Path, how: str
) -> None:
    (tmp_path / "installed_plugin.py").write_text(BUSY_PLUGIN, encoding="utf-8")
    run = f"anyio.run(main, backend={how!r})"
    if how == "run_sync":
        run = "\n".join(["print(agent.run_sync(question='?').answer)"] * 3)
    done = run_program(f"{SCRIPT}\n{run}\nprint('ended')\n", site, tmp_path)
    assert done.stdout.split().count("hello") == 3
    assert done.stdout.split().count("stops") == (3 if how == "run_sync" else 1)
    assert done.stdout.split()[-1] == "ended"
    assert done.stderr == ""


def test_a_script_needs_neither_loop_nor_kernel(
    site: dict[str, str], tmp_path: Path
) -> None:
    program = f"{SCRIPT}\nprint(agent.run_sync(question='?').answer)\n"
    done = run_program(program, site, tmp_path)
    assert done.stdout.split() == ["starts", "stops", "hello"]


def test_a_default_kernel_that_cannot_start_says_why(
    site: dict[str, str], tmp_path: Path
) -> None:
    site["KAIZEN_PLUGINS"] = "nosuch"
    program = textwrap.dedent("""
        from kaizen import BaseAgent, KaizenError
        try:
            BaseAgent(signature="question -> answer").run_sync(question="?")
        except KaizenError as error:
            print(error)
    """)
    done = run_program(program, site, tmp_path)
    assert "[KAIZEN_003] plugin 'nosuch' is not installed" in done.stdout


INTERRUPTED = """
import asyncio, signal, threading
import anyio
from kaizen import run_sync

# It is ignored in what a shell started in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def work():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    try:
        await anyio.sleep_forever()
    finally:
        print("the work has stopped")

async def notebook():
    try:
        run_sync(work())
    except KeyboardInterrupt:
        print("interrupted")

loop = asyncio.new_event_loop()
loop.run_until_complete(notebook())
loop.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals go to threads on Unix alone")
def test_an_interrupt_in_a_notebook_stops_the_work_in_the_other_thread(
    tmp_path: Path,
) -> None:
    done = run_program(INTERRUPTED, dict(os.environ), tmp_path)
    assert done.stdout.splitlines() == ["the work has stopped", "interrupted"]
    assert done.stderr == ""


def run_program(
    program: str, environ: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environ,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
