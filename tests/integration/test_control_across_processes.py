"""A run in one process, what controls it in another, and a store between them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from kaizen import CheckpointStore, InterruptMode, Kernel
from kaizen.checkpoints import read_log
from kaizen_interrupts import RunControl

pytestmark = pytest.mark.anyio

WORKER = """
    import sys
    import anyio
    from kaizen import AgentInterrupted, BaseAgent, Kernel, current_run, tool
    from kaizen.testing import Call, ModelPlugin, ScriptedModel

    @tool(danger="safe", idempotent=True)
    async def work() -> str:
        '''Work until there is something to tell.'''
        run = current_run()
        print("turn", run.id, flush=True)
        async for event in run.log.subscribe(start=len(run.log.entries)):
            if event.type in ("paused", "steered", "continued", "interrupted"):
                print(event.type, flush=True)
            if event.type == "continued":
                return "worked"
        return "never"

    async def main() -> None:
        model = ScriptedModel(*[Call("work")] * 3)
        store, backend = sys.argv[1:3]
        async with Kernel(
            plugins=["interrupts", "sqlite", "state", ModelPlugin(model)],
            config={"default_provider": "scripted", "checkpoint_store": store},
            config_file="kaizen.toml",
            environ={},
        ) as kernel:
            agent = BaseAgent(signature="question -> answer", tools=[work], kernel=kernel)
            try:
                await agent.run(question="?")
            except AgentInterrupted as error:
                said = [each.content for each in model.requests[-1].messages]
                print("stopped", error.reason.message, "be quick" in said, flush=True)

    anyio.run(main, backend=sys.argv[2])
"""
SETTINGS = """
    [plugins.sqlite]
    path = "runs.db"

    [plugins.state]
    path = "runs"

    [plugins.interrupts]
    poll_interval = 0.02
"""


@pytest.fixture(
    params=[("asyncio", "sqlite"), ("asyncio", "filesystem"), ("trio", "filesystem")],
    ids="-".join,
)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name an event loop, and a store that runs on it."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def anyio_backend(place: tuple[str, str]) -> str:
    return place[0]


@pytest.fixture
def store_name(place: tuple[str, str]) -> str:
    return place[1]


@pytest.fixture
def worker(
    store_name: str, anyio_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """Let another process carry out a run that is kept in a store of this folder."""
    monkeypatch.chdir(tmp_path)
    Path("worker.py").write_text(textwrap.dedent(WORKER), encoding="utf-8")
    Path("kaizen.toml").write_text(textwrap.dedent(SETTINGS), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "worker.py", store_name, anyio_backend],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with anyio.fail_after(30):
        return (await to_thread.run_sync(process.stdout.readline)).strip()


async def test_another_process_pauses_steers_continues_and_stops_a_run(
    worker: subprocess.Popen[str], store_name: str
) -> None:
    async with Kernel(plugins=["sqlite", "state"], environ={}) as kernel:
        store = await kernel.get(CheckpointStore, store_name)  # type: ignore[type-abstract]
        control = RunControl(store, by="another process")
        word, run_id = (await read_line(worker)).split()
        assert word == "turn"

        await control.pause(run_id)
        assert await read_line(worker) == "paused"
        await control.steer(run_id, "be quick")
        assert await read_line(worker) == "steered"
        await control.resume(run_id)
        assert await read_line(worker) == "continued"
        assert await read_line(worker) == f"turn {run_id}"
        await control.interrupt(
            run_id, mode=InterruptMode.IMMEDIATE, message="that will do"
        )
        assert await read_line(worker) == "interrupted"
        assert await read_line(worker) == "stopped that will do True"
        _, errors = await to_thread.run_sync(worker.communicate)

        assert (worker.returncode, errors) == (0, "")
        (record,) = await store.runs()
        assert (record.run_id, record.status) == (run_id, "interrupted")
        types = [each.type for each in await read_log(store, run_id)]
        controls = ("paused", "steered", "continued", "interrupted")
        assert [each for each in types if each in controls] == list(controls)
