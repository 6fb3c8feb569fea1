"""No unfinished run is forgotten, and of all who want to go on with one, one does.

Processes of this file race for runs whose process was killed. `KAIZEN_RACE_RUNS` says for
how many; by default for 100.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no fork and no SIGKILL", allow_module_level=True)

from kaizen import BaseAgent, CheckpointStore, Kernel, tool
from kaizen.claims import new_owner
from kaizen.errors import CheckpointSaveError
from kaizen.testing import Call, ModelPlugin, ScriptedModel
from kaizen_sqlite import SqliteStorage
from kaizen_state import FilesystemStorage

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.parametrize("kind", ["filesystem", "sqlite"]),
]

RUNS = int(os.environ.get("KAIZEN_RACE_RUNS", "100"))
RACERS = 20
HEATS = 20
"""The runs are raced for in so many groups, since a process that is first takes many."""
MEMORY = Path("/dev/shm")
QUESTION = "question -> answer"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the runs are; in memory where that can be, since no power is lost here."""
    base = MEMORY if MEMORY.is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="kaizen-race-", dir=base))
    yield path
    shutil.rmtree(path)


def opened(kind: str, folder: Path) -> SqliteStorage | FilesystemStorage:
    if kind == "sqlite":
        return SqliteStorage(folder / "runs.db", timeout_s=60)
    return FilesystemStorage(folder / "runs")


def kernel_with(model: ScriptedModel) -> Kernel:
    return Kernel(
        plugins=[ModelPlugin(model)], discover=False, config_file=False, environ={}
    )


def agent_on(kernel: Kernel, store: CheckpointStore, *tools: Any) -> BaseAgent:
    return BaseAgent(
        {"llm_provider": "scripted"},
        QUESTION,
        tools=tools,
        kernel=kernel,
        store=store,
        agent_id="racer",
    )


async def leave_unfinished(kind: str, folder: Path, count: int) -> None:
    """Begin runs, each as far as another, and die in the middle of all of them."""
    waiting = 0
    all_wait = anyio.Event()

    @tool(danger="safe")
    async def wait() -> str:
        """Wait until everybody waits, and then for ever."""
        nonlocal waiting
        waiting += 1
        if waiting == count:
            all_wait.set()
        await anyio.sleep_forever()
        return "never"

    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        return "seen"

    async def one(agent: BaseAgent) -> None:
        await agent.run(question="?")

    model = ScriptedModel(*[_next_line] * (3 * count))
    async with (
        opened(kind, folder) as store,
        kernel_with(model) as kernel,
        anyio.create_task_group() as tasks,
    ):
        agent = agent_on(kernel, store, look, wait)
        for _ in range(count):
            tasks.start_soon(one, agent)
        await all_wait.wait()
        sys.stdout.write("all wait\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


def _next_line(request: Any) -> Any:
    """Wait in the first turn of every third run, and in the second of the others."""
    last = request.messages[-1]
    if last.role == "tool" and last.name == "wait":
        return "done"
    return Call("look" if last.role == "user" and int(request.run_id, 16) % 3 else "wait")


async def race(kind: str, folder: Path, told: int, tell: int) -> dict[str, Any]:
    """Try to go on with every run there is, at the same time as the others.

    Args:
        told: Where a byte comes when a heat begins, and one when all have tried.
        tell: Where to write a byte as soon as we are ready for that.
    """
    won: list[str] = []
    refused: list[str] = []
    holding = 0
    one_more, all_tried = anyio.Event(), anyio.Event()

    def count() -> None:
        nonlocal one_more
        one_more.set()
        one_more = anyio.Event()

    @tool(danger="safe")
    async def wait() -> str:
        """Hold the run until everybody had a try."""
        nonlocal holding
        holding += 1
        count()
        await all_tried.wait()
        return "waited"

    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        return "seen"

    async def one(agent: BaseAgent, run_id: str) -> None:
        try:
            result = await agent.resume(run_id)
        except CheckpointSaveError as error:
            refused.append(str(error))
            count()
        else:
            assert result.answer == "done"
            won.append(run_id)

    model = ScriptedModel(*[_next_line] * (3 * RUNS))
    async with opened(kind, folder) as store, kernel_with(model) as kernel:
        agent = agent_on(kernel, store, look, wait)
        listed = [each.run_id for each in await store.runs(status="running", limit=RUNS)]
        await agent.discover_tools()
        async with anyio.create_task_group() as tasks:
            for heat in range(HEATS):
                os.write(tell, b"r")
                await anyio.to_thread.run_sync(os.read, told, 1)
                for run_id in listed[heat::HEATS]:
                    tasks.start_soon(one, agent, run_id)
                while len(refused) + holding < sum(
                    len(listed[each::HEATS]) for each in range(heat + 1)
                ):
                    await one_more.wait()
            os.write(tell, b"r")
            await anyio.to_thread.run_sync(os.read, told, 1)
            all_tried.set()
    return {"listed": len(listed), "won": won, "refused": refused}


def hold_race(kind: str, folder: Path) -> list[dict[str, Any]]:
    """Let forks of this process race, which has imported all; return their reports."""
    racers: list[tuple[int, int, int]] = []
    for _ in range(RACERS):
        told, to_tell = os.pipe()
        hear, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                report = anyio.run(race, kind, folder, told, tell)
                with os.fdopen(tell, "wb") as pipe:
                    pipe.write(json.dumps(report).encode())
            except BaseException:  # noqa: BLE001 - of this process it is the end
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(told)
        os.close(tell)
        racers.append((pid, to_tell, hear))
    chance = random.Random(1)
    for _ in range(HEATS + 1):
        assert {os.read(hear, 1) for _, _, hear in racers} == {b"r"}
        for _, to_tell, _ in chance.sample(racers, RACERS):
            os.write(to_tell, b"!")
    reports = []
    for pid, _, hear in racers:
        with os.fdopen(hear, "rb") as pipe:
            reports.append(json.load(pipe))
        os.waitpid(pid, 0)
    return reports


def begun(kind: str, folder: Path, count: int) -> None:
    """Let a process begin runs, and kill it."""
    command = [sys.executable, __file__, "leave", kind, str(folder), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "all wait\n"
    process.kill()
    process.communicate()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_run_of_a_killed_process_is_listed_and_free(
    kind: str, folder: Path
) -> None:
    command = [sys.executable, __file__, "leave", kind, str(folder), "10"]
    async with opened(kind, folder) as store:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        assert process.stdout is not None
        assert process.stdout.readline() == "all wait\n"
        alive = await store.runs(status="running")
        process.kill()
        process.communicate()
        dead = await store.runs(status="running")

        assert len(alive) == len(dead) == 10
        assert all(each.owner.startswith(f"pid {process.pid} on ") for each in alive)
        assert all(each.owner == "" for each in dead)
        assert {each.run_id for each in alive} == {each.run_id for each in dead}
        assert {each.agent_id for each in dead} == {"racer"}
        for each in dead:
            assert await store.claim(each.run_id, owner=new_owner(), lease_s=9) > 1


def test_of_twenty_processes_exactly_one_goes_on_with_each_run(
    kind: str, folder: Path
) -> None:
    begun(kind, folder, RUNS)
    command = [sys.executable, __file__, "race", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)

    assert [each["listed"] for each in reports] == [RUNS] * RACERS
    winners = Counter(run_id for each in reports for run_id in each["won"])
    refused = [text for each in reports for text in each["refused"]]
    sys.stdout.write(
        f"\n{kind}: {RACERS} processes raced for {RUNS} runs: {len(winners)} were won, "
        f"{sum(count > 1 for count in winners.values())} of them more than once, by "
        f"{sum(bool(each['won']) for each in reports)} processes; "
        f"{len(refused)} tries were refused\n"
    )
    assert len(winners) == RUNS
    assert set(winners.values()) == {1}
    assert len(refused) == RUNS * (RACERS - 1)
    assert all("is carried out by pid " in text for text in refused), {*refused}
    assert sum(bool(each["won"]) for each in reports) > 1, "it was no race"
    anyio.run(all_completed, kind, folder)


async def all_completed(kind: str, folder: Path) -> None:
    async with opened(kind, folder) as store:
        assert await store.runs(status="running") == []
        records = await store.runs(limit=RUNS + 1)
        assert [each.status for each in records] == ["completed"] * RUNS
        assert {each.owner for each in records} == {""}


if __name__ == "__main__":
    if sys.argv[1] == "leave":
        anyio.run(leave_unfinished, sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.stdout.write(json.dumps(hold_race(sys.argv[2], Path(sys.argv[3]))))
