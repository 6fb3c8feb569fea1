"""Runs that are killed and taken up again, each time in a process of its own.

A *case* says where a process is to be killed, and where the next one, which takes the run
up again, and so on; the last one is left to live. The server, this module as a program, has
imported everything and has no thread and no event loop; it forks a process for each step of
each case. The points are counted, not timed, so that the same case dies at the same place.

| kind of point | where |
|---|---|
| `append` | before the store writes to a log, and after it did, before the run knows |
| `await` | where a task of the process waits |
| `syscall` | before the store changes a file, and in the middle of what it writes |
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import kaizen_state._work
import trio
from anyio.lowlevel import checkpoint
from kaizen import (
    BaseAgent,
    BaseProvider,
    CheckpointStore,
    Kernel,
    ModelReply,
    ModelRequest,
    SignatureParser,
    ToolContext,
    ToolUse,
    Usage,
    tool,
)
from kaizen._bounded import stepped
from kaizen.checkpoints import read_log
from kaizen.errors import OutcomeUnknownError
from kaizen.ports import StoredEntry
from kaizen.runlog import fold
from kaizen.testing import MemoryCheckpointStore, ModelPlugin
from kaizen.tools import FunctionTool
from kaizen_sqlite import SqliteStorage
from kaizen_state import FilesystemStorage

from tests.integration._conversations import problem_of

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "tests.integration._crashing")
Kind = Literal["append", "await", "syscall"]

TOOLS = tuple(f"{kind}_{number}" for kind in ("keyed", "once") for number in range(1, 6))
SIGNATURES = {
    "outer": "question -> answer: str, score: int",
    "inner": "question -> answer",
}
ANSWER = "all is written down"
CHANGING_CALLS = (
    *("open", "write", "pwrite", "writev", "pwritev", "fsync", "fdatasync", "replace"),
    *("rename", "link", "symlink", "unlink", "mkdir", "rmdir", "truncate", "ftruncate"),
    *("utime", "chmod", "fchmod"),
)
_open, _write, _close = os.open, os.write, os.close


@dataclass(frozen=True)
class Case:
    """One run, and where the processes that carry it out are killed.

    Attributes:
        kills: For each process in turn, the kind of point and its number; the process
            after these is not killed.
        durability: How the log is kept.
    """

    store: str
    kills: tuple[tuple[Kind, int], ...] = ()
    backend: str = "asyncio"
    durability: str = "sync"


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        killed: How many processes were killed; the others ended before their point came.
        effects: How often each tool had its effect.
        unknown: For each time that the run stopped to ask, the calls that it named.
        points: How many points of each kind the last process passed.
        problem: What should not have been, or `""`.
    """

    case: Case
    killed: int = 0
    effects: dict[str, int] = field(default_factory=dict)
    unknown: list[list[str]] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def lost(self) -> list[str]:
        """The tools that never had their effect."""
        return [name for name in TOOLS if not self.effects.get(name)]

    @property
    def doubled(self) -> list[str]:
        """The tools that had their effect more than once."""
        return [name for name in TOOLS if self.effects.get(name, 0) > 1]


class Servers:
    """Processes that carry out cases.

    Args:
        folder: Where the runs may be kept for the time being.
        count: How many at once.
        fresh: Whether each step is done by an interpreter of its own instead of a fork.
    """

    def __init__(self, folder: Path, *, count: int = 2, fresh: bool = False) -> None:
        self._log = folder / "log"
        command = [*PROGRAM, "serve", str(folder), "fresh" if fresh else ""]
        pipe = subprocess.PIPE
        with self._log.open("ab") as log:  # stores report what they find, as they should
            self._processes = [
                subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=ROOT
                )
                for _ in range(count)
            ]

    def carry_out(self, cases: Sequence[Case]) -> list[Outcome]:
        """Carry out cases and say what became of each."""
        outcomes: dict[int, Outcome] = {}
        left = iter(enumerate(cases))
        taking = threading.Lock()

        def work(process: subprocess.Popen[str]) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            while True:
                with taking:
                    place, case = next(left, (-1, None))
                if case is None:
                    return
                process.stdin.write(json.dumps(asdict(case)) + "\n")
                process.stdin.flush()
                outcomes[place] = Outcome(case, **json.loads(process.stdout.readline()))

        with ThreadPoolExecutor(len(self._processes)) as threads:
            for worker in [threads.submit(work, each) for each in self._processes]:
                error = worker.exception()
                if error is not None:
                    raise AssertionError(self._log.read_text("utf-8")) from error
        return [outcomes[place] for place in range(len(cases))]

    def close(self) -> None:
        """Let the processes end."""
        for process in self._processes:
            process.communicate()
            assert process.returncode == 0, self._log.read_text("utf-8")


class Reaper:
    """Counts the points that a process passes, and kills it at one of them."""

    def __init__(self, kind: str = "", at: int = 0) -> None:
        self.passed: Counter[str] = Counter()
        self._kind = kind
        self._at = at

    def point(self, kind: Kind) -> None:
        """Pass a point."""
        self.passed[kind] += 1
        if kind == self._kind and self.passed[kind] == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_tasks(self) -> None:
        """Count wherever a task waits that begins from here on."""

        async def watched(coroutine: Any) -> Any:
            return await stepped(coroutine, partial(self.point, "await"))

        def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
            return asyncio.Task(watched(coroutine), loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(factory)

    def watch_files(self) -> None:
        """Count wherever a file is changed from here on."""
        for name in CHANGING_CALLS:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        writes = call.__name__ in ("write", "pwrite")

        def counted(*arguments: Any, **options: Any) -> Any:
            self.point("syscall")
            if writes and self._kind == "syscall":
                self.passed["syscall"] += 1
                if self.passed["syscall"] == self._at:
                    fd, data, *rest = arguments
                    call(fd, bytes(data)[: len(data) // 2], *rest)
                    os.kill(os.getpid(), signal.SIGKILL)
            elif writes:
                self.passed["syscall"] += 1
            return call(*arguments, **options)

        return counted


class Steps(trio.abc.Instrument):
    """Counts wherever a task of trio waits."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._reaper.point("await")


class Deadly:
    """A store in whose writes a process may die."""

    def __init__(self, store: CheckpointStore, reaper: Reaper) -> None:
        self._store = store
        self._reaper = reaper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        """Write, with a point before and one after."""
        self._reaper.point("append")
        await self._store.append(run_id, entries, token=token)
        self._reaper.point("append")


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[CheckpointStore]:
    """Open the store of a case."""
    if kind == "memory":
        yield MemoryCheckpointStore()
    elif kind == "sqlite":
        async with SqliteStorage(folder / "runs.db") as sqlite:
            yield sqlite
    else:
        async with FilesystemStorage(folder / "runs") as files:
            yield files


# What the agents do.

OUTER: tuple[tuple[str, ...] | str, ...] = (
    ("keyed_1", "once_1"),
    ("look", "look", "once_2"),
    ("bundle",),
    ("delegate",),
    ("keyed_4", "once_5", "keyed_5"),
    "no JSON, so that it is sent back",
    json.dumps({"answer": ANSWER, "score": 1}),
)
INNER: tuple[tuple[str, ...] | str, ...] = (
    ("once_4",),
    ("keyed_3", "look"),
    "the inner answer",
)


class Script(BaseProvider):
    """Says what comes next in a conversation, whatever process it is asked in."""

    name = "script"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer one request."""
        await checkpoint()
        said = sum(each.role == "assistant" for each in request.messages)
        line = (INNER if request.agent_id == "inner" else OUTER)[said]
        await checkpoint()
        usage = Usage(requests=1, input_tokens=10, output_tokens=5)
        if isinstance(line, str):
            return ModelReply(text=line, usage=usage, finish_reason="stop")
        uses = tuple(
            ToolUse(id=f"use_{said}_{place}", name=name, arguments={})
            for place, name in enumerate(line)
        )
        return ModelReply(text="", tool_uses=uses, usage=usage, finish_reason="tool_calls")


def written(folder: Path) -> list[tuple[str, str]]:
    """Return the effects that were had: the tool and the key of each call."""
    try:
        lines = (folder / "effects").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
    pairs = [line.split(" ") for line in lines]
    return [(name, key) for name, key in pairs]


def write_down(folder: Path, name: str, key: str) -> None:
    """Have an effect, whole or not at all."""
    fd = _open(folder / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _write(fd, f"{name} {key}\n".encode("ascii"))
    _close(fd)


class Scene:
    """The agents of every case and their tools, made once; where they write is set later.

    There are ten tools whose effects can be counted: five that look whether this very call
    was made before, and declare so, and five that do not.
    """

    def __init__(self) -> None:
        self.folder = Path()

        @tool(danger="safe")
        async def look() -> str:
            """Look at something."""
            await checkpoint()
            await checkpoint()
            return "seen"

        @tool(danger="low", writes=True, idempotent=True)
        async def bundle(context: ToolContext) -> str:
            """Make two calls that no model asked for."""
            agent = context.run.agent
            results = [await agent.execute_tool(name) for name in ("once_3", "keyed_2")]
            assert all(each.success for each in results)
            return ", ".join(each.content for each in results)

        @tool(danger="low", writes=True, idempotent=True)
        async def delegate(context: ToolContext) -> str:
            """Ask another agent."""
            run = context.run
            inner = self.agent("inner", run.kernel, self.store, run.plan.config.durability)
            return str((await inner.run(question="inside?")).answer)

        self.signatures = {
            name: SignatureParser().parse(text) for name, text in SIGNATURES.items()
        }
        self.tools = [look, bundle, delegate, *map(self._writer, TOOLS)]
        self.store: Any = None

    def _writer(self, tool_name: str) -> FunctionTool:
        keyed = tool_name.startswith("keyed")

        @tool(name=tool_name, danger="low", writes=True, idempotent=keyed)
        async def write(context: ToolContext) -> str:
            """Write a line."""
            await checkpoint()
            key = context.idempotency_key
            if not keyed or (tool_name, key) not in written(self.folder):
                write_down(self.folder, tool_name, key)
            await checkpoint()
            return f"{tool_name} is done"

        return write

    def agent(self, name: str, kernel: Kernel, store: Any, durability: str) -> BaseAgent:
        """Make one of the two agents."""
        self.store = store
        return BaseAgent(
            {"llm_provider": "script", "durability": durability},
            self.signatures[name],
            tools=self.tools,
            kernel=kernel,
            store=store,
            agent_id=name,
        )


def looked_up(folder: Path, calls: Sequence[str]) -> dict[str, Literal["done", "repeat"]]:
    """Find out what became of calls, as a person would."""
    keys = {key for _, key in written(folder)}
    return {call: "done" if call in keys else "repeat" for call in calls}


async def go_on(scene: Scene, case: Case, reaper: Reaper) -> dict[str, Any]:
    """Begin the run of a case, or take it up again, and bring it to its end."""
    folder = scene.folder
    unknown: list[list[str]] = []
    async with opened(case.store, folder) as plain, _kernel() as kernel:
        store: Any = Deadly(plain, reaper)
        before = await plain.runs()
        running = await plain.runs(status="running")
        assert all(each.owner == "" for each in before), "a dead process holds a run"
        assert all(each.status in ("running", "completed", "failed") for each in before)
        for each in before:
            last = (await read_log(plain, each.run_id))[-1]
            listed = each.run_id in {found.run_id for found in running}
            assert listed or last.type == "run_ended", "a run is forgotten"
        ours = [each.run_id for each in before if not each.parent_id]
        agent = scene.agent("outer", kernel, store, case.durability)
        decision: Any = None
        while True:
            try:
                if ours:
                    result = await agent.resume(ours[0], decision=decision)
                else:
                    result = await agent.run(question="?")
            except OutcomeUnknownError as error:
                calls = error.calls
            else:
                break
            assert len(calls) == 1, f"calls {calls} of one run were in flight"
            unknown.append([*calls])
            assert len(unknown) < 5, "a decision does not settle it"
            decision = looked_up(folder, calls)
        assert result.answer == ANSWER
        passed = dict(reaper.passed)
        if case.store != "memory":
            assert await plain.runs(status="running") == [], "a run looks unfinished"
        entries = await read_log(plain, result.run_id)
        state = fold(entries)
        assert (state.status, state.pending, state.unknown) == ("completed", {}, ())
        assert problem_of(state.messages) == ""
        assert problem_of(result.messages) == ""
        assert state.cycles >= len(OUTER)
        assert result.usage == state.usage
    return {"unknown": unknown, "points": passed}


def _kernel() -> Kernel:
    return Kernel(
        plugins=[ModelPlugin(Script(), "script")],
        discover=False,
        config_file=False,
        environ={},
    )


def step(scene: Scene, case: Case, kind: str, at: int) -> dict[str, Any]:
    """Do what one process does for a case."""
    reaper = Reaper(kind, at)
    if kind == "syscall" or not kind:
        reaper.watch_files()
    if kind == "await":  # the store might be done before anybody has to wait for it
        kaizen_state._work.PATIENCE_S = 0
    options: dict[str, Any] = {}
    if case.backend == "trio":
        options = {"instruments": [Steps(reaper)]}

    async def main() -> dict[str, Any]:
        if case.backend == "asyncio":
            reaper.watch_tasks()
        found: list[dict[str, Any]] = []

        async def work() -> None:
            found.append(await go_on(scene, case, reaper))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
        return found[0]

    return anyio.run(main, backend=case.backend, backend_options=options)


def _forked(scene: Scene, case: Case, kind: str, at: int) -> tuple[bool, dict[str, Any]]:
    """Do a step in a fork of this process; say whether it was killed, and its report."""
    assert threading.active_count() == 1
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            gc.disable()
            report = _reported(scene, case, kind, at)
            _write(writing, json.dumps(report).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL, {}
    return False, json.loads(said or '{"problem": "a process ended without a word"}')


def _reported(scene: Scene, case: Case, kind: str, at: int) -> dict[str, Any]:
    try:
        return step(scene, case, kind, at)
    except BaseException:  # noqa: BLE001 - the test that started it all shows it
        return {"problem": traceback.format_exc()}


class Survivor:
    """A process that is never killed, and takes up what others have left."""

    def __init__(self) -> None:
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)
            try:
                self._serve(asked, tell)
            finally:
                os._exit(0)
        os.close(asked)
        os.close(tell)
        self._answers = os.fdopen(self._told, "rb")

    def step(self, scene: Scene, case: Case) -> dict[str, Any]:
        """Do the last step of a case; return its report."""
        line = json.dumps([str(scene.folder), asdict(case)])
        _write(self._ask, line.encode() + b"\n")
        report: dict[str, Any] = json.loads(self._answers.readline())
        return report

    def close(self) -> None:
        """Let it end, and wait for that."""
        os.close(self._ask)
        self._answers.close()
        os.wait()

    @staticmethod
    def _serve(asked: int, tell: int) -> None:
        scene = Scene()
        with os.fdopen(asked, "rb") as lines:
            for line in lines:
                folder, case = json.loads(line)
                scene.folder = Path(folder)
                report = _reported(scene, _decoded(case), "none", 0)
                _write(tell, json.dumps(report).encode() + b"\n")


def _spawned(scene: Scene, case: Case, kind: str, at: int) -> tuple[bool, dict[str, Any]]:
    """Do a step in an interpreter of its own."""
    arguments = [str(scene.folder), json.dumps(asdict(case)), kind, str(at)]
    done = subprocess.run(
        [*PROGRAM, "step", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    if done.returncode:
        return done.returncode == -signal.SIGKILL, {}
    return False, json.loads(done.stdout)


def outcome_of(case: Case, scene: Scene, do_step: Any) -> dict[str, Any]:
    """Carry out a case. What its first processes leave is kept for others like it."""
    folder = scene.folder
    kept = folder.parent / f"{os.getpid()}-{case.store}-{case.backend}-{case.kills[:-1]}"
    steps: list[tuple[str, int]] = [*case.kills, ("", 0)]
    killed = 0
    if kept.exists():
        shutil.copytree(kept, folder)
        killed = len(case.kills) - 1
        steps = steps[-2:]
    else:
        folder.mkdir()
    unknown: list[list[str]] = []
    report: dict[str, Any] = {}
    for kind, at in steps:
        if len(case.kills) > 1 and killed == len(case.kills) - 1 and not kept.exists():
            shutil.copytree(folder, kept)
        died, report = do_step(scene, case, kind, at)
        killed += died
        unknown += report.get("unknown", [])
        if "problem" in report:
            break
    effects = Counter(name for name, _ in written(folder))
    shutil.rmtree(folder)
    return {
        "killed": killed,
        "effects": effects,
        "unknown": unknown,
        "points": report.get("points", {}),
        "problem": report.get("problem", ""),
    }


def _decoded(values: Mapping[str, Any]) -> Case:
    kills = tuple((kind, at) for kind, at in values["kills"])
    return Case(**{**values, "kills": kills})


def _serve(folder: Path, *, fresh: bool) -> None:
    scene = Scene()
    for backend in () if fresh else ("asyncio", "trio") * 4:
        # Whatever is worked out once has been, when the first process is forked.
        scene.folder = folder / f"warm-{os.getpid()}"
        scene.folder.mkdir()
        case = Case("memory", backend=backend)
        anyio.run(go_on, scene, case, Reaper(), backend=backend)
        shutil.rmtree(scene.folder)
    gc.collect()
    gc.freeze()
    survivor = Survivor()

    def do_step(scene: Scene, case: Case, kind: str, at: int) -> tuple[bool, Any]:
        if fresh:
            return _spawned(scene, case, kind, at)
        if kind or not case.kills:
            return _forked(scene, case, kind, at)
        return False, survivor.step(scene, case)

    for place, line in enumerate(sys.stdin):
        scene.folder = folder / f"{os.getpid()}-{place}"
        outcome = outcome_of(_decoded(json.loads(line)), scene, do_step)
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
    survivor.close()


def _step_alone(folder: str, case: str, kind: str, at: str) -> None:
    scene = Scene()
    scene.folder = Path(folder)
    report = _reported(scene, _decoded(json.loads(case)), kind, int(at))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(Path(sys.argv[2]), fresh=sys.argv[3] == "fresh")
    else:
        _step_alone(*sys.argv[2:])
