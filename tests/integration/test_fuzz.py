"""Whatever is asked of runs, and whenever: they stop soon, and leave nothing behind.

Each run draws its script, its tools and what is asked of it from a random generator with a
seed of its own, which a failure names. `KAIZEN_FUZZ_RUNS` says how many runs there are, by
default 10,000: one half on asyncio, the other on trio.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic, perf_counter, sleep
from typing import Any, Literal

import anyio
import pytest
from anyio import to_thread
from kaizen import (
    BaseAgent,
    BaseProvider,
    InterruptMode,
    InterruptReason,
    Kernel,
    ModelReply,
    ModelRequest,
    Result,
    Run,
    SignatureParser,
    ToolUse,
    Usage,
    current_run,
    tool,
)
from kaizen.errors import AgentInterrupted, OutcomeUnknownError
from kaizen.runlog import RunState, decode, fold
from kaizen.testing import MemoryCheckpointStore, ModelPlugin
from kaizen.tools import FunctionTool

from tests.integration._conversations import problem_of

RUNS = int(os.environ.get("KAIZEN_FUZZ_RUNS", "10000"))
BATCH = 500
AT_ONCE = 10
LIMIT_S = 0.1
TOOLS = ("nap", "note", "fail", "late", "ask", "nap", "note", "nap")
COMMANDS = ("graceful", "immediate", "cancel", "pause", "steer", "drop", "nothing")
KEPT = ("", "", "", "sync", "async", "exit")
"""Without a store, or when what is logged is kept."""
OPEN_FILES = Path("/proc/self/fd")


@dataclass
class Trial:
    """One run and what is asked of it.

    Attributes:
        inside: How many of its tools and model calls are under way.
        stop_asked: When it was asked to stop, or 0.
        ended: When it had ended.
        notes: How often its tools had an effect.
    """

    seed: int
    chance: Random
    script: list[list[str]]
    begun: anyio.Event
    scope: anyio.CancelScope
    run: Run | None = None
    inside: int = 0
    stop_asked: float = 0.0
    ended: float = 0.0
    notes: int = 0
    seen: dict[str, Run] = field(default_factory=dict)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Be under way for a while."""
        run = current_run()
        self.seen[run.id] = run
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def nap(self) -> None:
        """Take some time, mostly a little and sometimes none."""
        length = self.chance.choice((0.0, 0.0, 0.001, 0.003))
        await (anyio.sleep(length) if length else anyio.lowlevel.checkpoint())


class Batch:
    """Runs that share a kernel and a store.

    Attributes:
        ends: How many runs ended how.
        asked: How often each command was given.
        delays: Seconds from the command to stop until the run had ended.
        results: What runs gave that were stopped and then resumed.
    """

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.delays: list[float] = []
        self.results: list[Result] = []
        self.store = MemoryCheckpointStore()
        self.trials: dict[int, Trial] = {}
        self._signature = SignatureParser().parse("question -> answer")
        self._tools = self._make_tools()

    def trial(self) -> Trial:
        """Return whose run this code is called in."""
        seed: int = outermost(current_run()).metadata["seed"]
        return self.trials[seed]

    def _make_tools(self) -> list[FunctionTool]:
        @tool(danger="safe")
        async def nap() -> str:
            """Sleep a little."""
            with self.trial().at_work():
                await self.trial().nap()
            return "slept"

        @tool(danger="low", writes=True)
        async def note() -> str:
            """Change something."""
            with self.trial().at_work():
                await self.trial().nap()
                self.trial().notes += 1
                await self.trial().nap()
            return "noted"

        @tool(danger="safe")
        async def fail() -> str:
            """Fail."""
            with self.trial().at_work():
                await self.trial().nap()
                raise ValueError("no luck")

        @tool(danger="safe", timeout_s=0.002)
        async def late() -> str:
            """Take longer than it may."""
            with self.trial().at_work():
                await anyio.sleep(60)
            return "never"

        @tool(danger="safe", timeout_s=0.05)
        async def spawn() -> str:
            """Start a process that ends soon, or that has to be ended."""
            with self.trial().at_work():
                length = self.trial().chance.choice(("0.01", "60"))
                await anyio.run_process(["sleep", length])
            return "spawned"

        @tool(danger="safe")
        async def ask() -> str:
            """Ask another agent."""
            with self.trial().at_work():
                outer = current_run()
                keeping = outer.plan.keeping
                kept = keeping.durability if keeping is not None else ""
                inner = self.agent(outer.kernel, "inner", kept)
                return str((await inner.run(question="?")).answer)

        return [nap, note, fail, late, spawn, ask]

    def agent(self, kernel: Kernel, name: str, kept: str) -> BaseAgent:
        """Return the outer or inner agent, without a store or with some durability."""
        key = (name, kept)
        if key not in self._agents:
            self._agents[key] = BaseAgent(
                {"llm_provider": "random", "durability": kept or "sync"},
                self._signature,
                tools=self._tools,
                kernel=kernel,
                store=self.store if kept else None,
                agent_id=f"{name}-{kept}",
            )
        return self._agents[key]

    async def carry_out(self, seeds: range) -> None:
        """Carry out one run for each seed, some of them at a time."""
        self._agents: dict[tuple[str, str], BaseAgent] = {}
        left = iter(seeds)
        before = len(anyio.get_running_tasks())
        plugins = [ModelPlugin(RandomModel(self), "random")]
        async with Kernel(
            plugins=plugins, discover=False, config_file=False, environ={}
        ) as kernel:

            async def work() -> None:
                for seed in left:
                    try:
                        await self._one(kernel, seed)
                    except BaseException as error:
                        error.add_note(f"in the run with seed {seed}")
                        raise

            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(work)
            assert kernel.hooks.problems == []
        await self._check_kept()
        assert len(anyio.get_running_tasks()) == before, anyio.get_running_tasks()

    async def _check_kept(self) -> None:
        """Check what is in the store, now that the kernel has written everything."""
        for result in self.results:
            state = fold(decode(each) for each in await self.store.read(result.run_id))
            assert (state.status, state.pending) == ("completed", {})
            assert state.messages == [*result.messages]
        assert all(each.owner == "" for each in await self.store.runs(limit=10 * BATCH))
        assert await self.store.runs(status="running") == []

    async def _one(self, kernel: Kernel, seed: int) -> None:
        chance = Random(seed)
        names = ("spawn",) if chance.random() < 0.01 else TOOLS
        script = [
            chance.choices(names, k=chance.randint(1, 3))
            for _ in range(chance.randint(0, 3))
        ]
        trial = Trial(seed, chance, script, anyio.Event(), anyio.CancelScope())
        self.trials[seed] = trial
        kept = chance.choice(KEPT)
        agent = self.agent(kernel, "outer", kept).bind(metadata={"seed": seed})
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._command, trial)
                with trial.scope:
                    await self._until_end(trial, agent.run(question="?"))
                trial.ended = perf_counter()
                trial.begun.set()
            self._check(trial)
            if kept and trial.run is not None and trial.run.state.status != "completed":
                await self._go_on(trial, agent)
        del self.trials[seed]

    async def _until_end(self, trial: Trial, work: Any) -> None:
        try:
            await work
        except AgentInterrupted as error:
            run_id = error.run_id
        else:
            return
        assert trial.run is not None
        assert run_id == trial.run.id

    async def _go_on(self, trial: Trial, agent: BaseAgent) -> None:
        """Resume a run that was stopped until it comes to its end."""
        assert trial.run is not None
        run_id = trial.run.id
        decision: dict[str, Any] = {}
        result: Result | None = None
        notes = trial.notes
        for _ in range(20):
            try:
                result = await agent.resume(run_id, decision=decision)
                break
            except OutcomeUnknownError as error:
                calls = error.calls
            assert calls
            decision |= {
                call: trial.chance.choice(("repeat", "done", "skip")) for call in calls
            }
        assert result is not None, "no decision settles it"
        assert result.answer == "done"
        assert problem_of(result.messages) == ""
        assert trial.notes >= notes
        self.results.append(result)
        self._check(trial)

    def _check(self, trial: Trial) -> None:
        """Check what must be so once a run has ended."""
        assert trial.inside == 0, "something is under way after the end"
        if trial.run is None:
            self.ends["never began"] += 1
            return
        self.ends[trial.run.state.status] += 1
        for run in {trial.run.id: trial.run, **trial.seen}.values():
            assert run.ended
            assert run.children == ()
            assert problem_of(run.messages) == ""
            assert run.state.status in ("completed", "interrupted", "cancelled")
            assert run.state.pending == {}
            assert contents(fold(run.log.entries)) == contents(run.state)
        if trial.stop_asked:
            self.delays.append(trial.ended - trial.stop_asked)
            trial.stop_asked = 0.0

    async def _command(self, trial: Trial) -> None:
        """Ask something of a run, at random moments."""
        await trial.begun.wait()
        run, chance = trial.run, trial.chance
        if run is None:
            return
        for command in chance.sample(COMMANDS, chance.randint(1, 3)):
            for _ in range(chance.randint(0, 3)):
                await anyio.sleep(chance.choice((0.0, 0.0005, 0.001, 0.003)))
            if trial.ended:
                break
            self.asked[command] += 1
            await self._ask(trial, run, command)
        if run.state.paused and not trial.ended:
            run.resume()

    async def _ask(self, trial: Trial, run: Run, command: str) -> None:
        mode = InterruptMode.GRACEFUL if command == "graceful" else InterruptMode.IMMEDIATE
        asks: dict[str, Callable[[], object]] = {
            "graceful": partial(run.interrupt, InterruptReason(mode=mode)),
            "immediate": partial(run.interrupt, InterruptReason(mode=mode)),
            "cancel": run.cancel,
            "pause": run.pause,
            "steer": partial(run.steer, "look again"),
            "drop": trial.scope.cancel,
        }
        ask = asks.get(command)
        if ask is None:
            return
        if command in ("graceful", "immediate", "cancel", "drop") and not trial.stop_asked:
            trial.stop_asked = perf_counter()
        if command != "drop" and trial.chance.random() < 0.1:
            await to_thread.run_sync(ask)
        else:
            ask()


class RandomModel(BaseProvider):
    """Follows the script of the run that asks it."""

    name = "random"

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    async def complete(self, request: ModelRequest) -> ModelReply:
        run = current_run()
        trial = self._batch.trial()
        with trial.at_work():
            if run.parent is None:
                trial.run = run
                trial.begun.set()
            await trial.nap()
            said = sum(each.role == "assistant" for each in request.messages)
            names: list[str] = []
            if run.depth == 0 and said < len(trial.script):
                names = trial.script[said]
            elif run.depth == 1 and said == 0:
                names = ["nap", "note"]
            uses = tuple(
                ToolUse(id=f"use_{said}_{place}", name=name, arguments={})
                for place, name in enumerate(names)
            )
            return ModelReply(
                text="" if uses else "done",
                tool_uses=uses,
                usage=Usage(requests=1),
                finish_reason="tool_calls" if uses else "stop",
            )


def outermost(run: Run) -> Run:
    while run.parent is not None:
        run = run.parent
    return run


def contents(state: RunState) -> dict[str, Any]:
    """Everything that a state says."""
    names = [each for each in RunState.__slots__ if not each.startswith("_")]
    return {name: getattr(state, name) for name in (*names, "usage", "cost_usd")}


def open_files() -> int:
    """How many files this process has open, where the system says so."""
    return len([*OPEN_FILES.iterdir()]) if OPEN_FILES.is_dir() else 0


def has_processes() -> bool:
    """Whether a process of ours still runs, or nobody noticed its end."""
    if sys.platform == "win32":
        return False
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_runs_stop_soon_and_leave_nothing_behind(
    backend: Literal["asyncio", "trio"],
) -> None:
    batch = Batch()
    threads_before = threading.active_count()
    anyio.run(batch.carry_out, range(-20, 0), backend=backend)  # some things open once
    assert not has_processes()
    files_before = open_files()
    first = 0 if backend == "asyncio" else RUNS // 2
    ends: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    delays: list[float] = []
    resumed = 0
    for start in range(first, first + RUNS // 2, BATCH):
        batch = Batch()
        seeds = range(start, min(start + BATCH, first + RUNS // 2))
        anyio.run(batch.carry_out, seeds, backend=backend)
        ends += batch.ends
        asked += batch.asked
        delays += batch.delays
        resumed += len(batch.results)
        assert not has_processes()
        assert open_files() <= files_before
    deadline = monotonic() + 30  # trio keeps an idle thread for ten seconds
    while threading.active_count() > threads_before and monotonic() < deadline:
        sleep(0.01)
    assert threading.active_count() <= threads_before, threading.enumerate()

    delays.sort()
    at_95 = delays[int(len(delays) * 0.95)]
    sys.stdout.write(
        f"\n{backend}: {RUNS // 2} runs, {dict(ends)}, {resumed} of them after a resume; "
        f"asked {dict(asked)}; {len(delays)} stops, at the median in "
        f"{delays[len(delays) // 2]:.4f} s, at the 95th percentile in {at_95:.4f} s, at "
        f"most in {delays[-1]:.4f} s\n"
    )
    assert sum(ends.values()) == RUNS // 2 + resumed
    assert at_95 <= LIMIT_S
    assert {*asked} == {*COMMANDS}
    assert {"completed", "interrupted", "cancelled"} <= {*ends}
