"""A manager marks runs while they go on, finds them again, and lets old ones go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    CheckpointLoadError,
    CheckpointSaveError,
    CheckpointStore,
    InterruptEvent,
    InterruptMode,
    InterruptReason,
    Kernel,
    StoredEntry,
    current_run,
    hookimpl,
    tool,
)
from kaizen.checkpoints import fork, read_log
from kaizen.run import Run
from kaizen.runlog import Marked, Resumed, RunEnded, RunStatus, encode
from kaizen.testing import (
    Call,
    Line,
    MemoryCheckpointStore,
    ModelPlugin,
    RecordingPlugin,
    ScriptedModel,
)
from kaizen_state import AgentState, FilesystemStorage, StateManager, StatePlugin

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "files"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[CheckpointStore]:
    if request.param == "memory":
        yield MemoryCheckpointStore()
        return
    async with FilesystemStorage(tmp_path / "runs") as files:
        yield files


@tool(danger="safe")
async def step(number: int) -> str:
    """Go one step."""
    return f"step {number}"


@tool(danger="safe")
async def stop(mode: str = "graceful") -> str:
    """Stop the run."""
    current_run().interrupt(InterruptReason(mode=InterruptMode(mode), message="enough"))
    return "stopping"


def steps(count: int, first: int = 0) -> list[Line]:
    return [Call("step", {"number": first + number}) for number in range(count)]


@asynccontextmanager
async def running_kernel(
    script: Sequence[Line], *plugins: Any, cost: str | None = None
) -> AsyncIterator[Kernel]:
    model = ScriptedModel(*script, cost_usd=Decimal(cost) if cost else None)
    async with Kernel(
        plugins=[ModelPlugin(model), *plugins],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        yield kernel


def walker(kernel: Kernel, name: str = "walker", **options: Any) -> BaseAgent:
    return BaseAgent(
        {"max_cycles": 100},
        "task -> report",
        tools=[step, stop],
        kernel=kernel,
        name=name,
        **options,
    )


async def marks(store: CheckpointStore, run_id: str) -> list[Marked]:
    return [each for each in await read_log(store, run_id) if isinstance(each, Marked)]


def state_plugin(**settings: Any) -> StatePlugin:
    return StatePlugin(StatePlugin.Settings(**settings))


async def test_a_run_is_marked_after_so_many_turns(store: CheckpointStore) -> None:
    manager = StateManager(store, checkpoint_frequency=3)
    async with running_kernel([*steps(7), "done"]) as kernel:
        result = await walker(kernel, state_manager=manager).run(task="Walk.")

    found = await marks(store, result.run_id)

    assert [each.description for each in found] == ["after turn 3", "after turn 6"]
    assert [dict(each.metadata) for each in found] == [
        {"by": "state", "turn": 3},
        {"by": "state", "turn": 6},
    ]
    state = await manager.load_checkpoint(found[0].mark_id)
    assert (state.step_number, state.status) == (3, "running")
    assert state.conversation_history[-1]["content"] == "step 2"
    assert state.metadata == {"by": "state", "turn": 3}


async def test_a_run_is_marked_after_so_much_time(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("kaizen_state._automatic.monotonic", lambda: now)

    @tool(danger="safe")
    async def work(seconds: float) -> None:
        """Let time pass."""
        nonlocal now
        now += seconds

    manager = StateManager(store, checkpoint_frequency=None, checkpoint_interval=60.0)
    script = [Call("work", {"seconds": each}) for each in (50, 9, 2, 59, 1, 1)]
    async with running_kernel([*script, "done"]) as kernel:
        agent = BaseAgent(
            signature="task -> report", tools=[work], kernel=kernel, state_manager=manager
        )
        result = await agent.run(task="Work.")

    found = await marks(store, result.run_id)

    assert [each.metadata["turn"] for each in found] == [3, 5]


async def test_nothing_is_marked_where_nothing_is_asked_for(store: CheckpointStore) -> None:
    manager = StateManager(
        store,
        checkpoint_frequency=None,
        checkpoint_interval=None,
        checkpoint_on_interrupt=False,
    )
    async with running_kernel([*steps(20), Call("stop"), "done"]) as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await walker(kernel, state_manager=manager).run(task="Walk.")

    assert await marks(store, stopped.value.run_id) == []


async def test_a_checkpoint_that_somebody_else_makes_counts(store: CheckpointStore) -> None:
    @tool(danger="safe")
    async def mark() -> None:
        """Mark the run."""
        await current_run().checkpoint("by the tool")

    manager = StateManager(store, checkpoint_frequency=3)
    script: list[Line] = [*steps(2), Call("mark"), *steps(3), "done"]
    async with running_kernel(script) as kernel:
        agent = BaseAgent(
            signature="task -> report",
            tools=[step, mark],
            kernel=kernel,
            state_manager=manager,
        )
        result = await agent.run(task="Walk.")

    found = await marks(store, result.run_id)

    assert [each.description for each in found] == ["by the tool", "after turn 6"]


async def test_counting_goes_on_after_a_resume(store: CheckpointStore) -> None:
    manager = StateManager(store, checkpoint_frequency=4, checkpoint_on_interrupt=False)
    script: list[Line] = [*steps(5), Call("stop")]
    async with running_kernel(script) as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await walker(kernel, state_manager=manager).run(task="Walk.")
    run_id = stopped.value.run_id
    assert len(await marks(store, run_id)) == 1

    again = StateManager(store, checkpoint_frequency=4)
    async with running_kernel([*steps(2), "done"]) as kernel:
        await walker(kernel, state_manager=again).resume(run_id)

    assert [each.metadata["turn"] for each in await marks(store, run_id)] == [4, 8]


async def test_the_time_before_a_resume_counts(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = StateManager(store, checkpoint_frequency=None, checkpoint_interval=3_600.0)
    async with running_kernel([*steps(1), Call("stop")]) as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await walker(kernel, state_manager=manager).run(task="Walk.")
    run_id = stopped.value.run_id
    (before,) = await marks(store, run_id)
    monkeypatch.setattr("kaizen_state._automatic.time", lambda: before.at + 3_601)

    async with running_kernel([*steps(3), "done"]) as kernel:
        await walker(kernel, state_manager=manager).resume(run_id)

    assert [each.description for each in await marks(store, run_id)] == [
        "stopped: enough",
        "after turn 3",
    ]


@pytest.mark.parametrize("mode", ["graceful", "immediate"])
async def test_a_run_that_stops_on_request_is_marked_and_goes_on_from_there(
    store: CheckpointStore, mode: str
) -> None:
    manager = StateManager(store)
    script: list[Line] = [*steps(1), Call("stop", {"mode": mode})]
    async with running_kernel(script, cost="0.5") as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await walker(kernel, state_manager=manager).run(task="Walk.")

    (mark,) = await marks(store, stopped.value.run_id)
    assert mark.description == "stopped: enough"
    assert stopped.value.reason.metadata["checkpoint_id"] == mark.mark_id
    latest = await manager.resume_from_latest("walker")
    assert latest is not None
    assert latest.status == "interrupted"
    assert latest.budget_spent_usd == Decimal(1)
    async with running_kernel(["done"]) as kernel:
        agent = walker(kernel, state_manager=manager)
        result = await agent.resume(mark.mark_id, decision="done")
    assert result.report == "done"
    finished = await manager.resume_from_latest("walker")
    assert finished is not None
    assert finished.status == "completed"


async def test_a_run_that_was_marked_just_before_it_stopped_is_not_marked_again(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, checkpoint_frequency=1)
    async with running_kernel([Call("stop"), "done"]) as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await walker(kernel, state_manager=manager).run(task="Walk.")

    assert len(await marks(store, stopped.value.run_id)) == 1


async def test_the_hooks_of_checkpoints_see_those_that_are_made_by_itself(
    store: CheckpointStore,
) -> None:
    recording = RecordingPlugin()
    manager = StateManager(store, checkpoint_frequency=1)
    async with running_kernel([*steps(1), "done"], recording) as kernel:
        await walker(kernel, state_manager=manager).run(task="Walk.")

    assert len(recording.of("pre_checkpoint_save")) == 2
    assert len(recording.of("post_checkpoint_save")) == 2
    assert recording.wrapped.count("checkpoint_save") == 2


async def test_the_plugin_marks_every_run_that_is_kept(store: CheckpointStore) -> None:
    plugin = state_plugin(checkpoint_frequency=2)
    async with running_kernel([*steps(4), "done"], plugin) as kernel:
        result = await walker(kernel, store=store).run(task="Walk.")

    assert [each.metadata["turn"] for each in await marks(store, result.run_id)] == [2, 4]


async def test_the_plugin_leaves_a_run_alone_that_is_not_kept() -> None:
    recording = RecordingPlugin()
    plugin = state_plugin(checkpoint_frequency=1, retention_count=1)
    async with running_kernel([*steps(2), Call("stop")], plugin, recording) as kernel:
        with pytest.raises(AgentInterrupted):
            await walker(kernel).run(task="Walk.")

    assert recording.of("pre_checkpoint_save") == []


@pytest.mark.parametrize("frequency", [1, 3, None])
async def test_an_agent_with_a_manager_of_its_own_is_marked_by_that_alone(
    store: CheckpointStore, frequency: int | None
) -> None:
    manager = StateManager(store, frequency, None, checkpoint_on_interrupt=False)
    plugin = state_plugin(checkpoint_frequency=2)
    async with running_kernel([*steps(5), Call("stop")], plugin) as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await walker(kernel, state_manager=manager).run(task="Walk.")

    found = [each.metadata["turn"] for each in await marks(store, stopped.value.run_id)]

    assert found == {1: [1, 2, 3, 4, 5, 6], 3: [3, 6], None: []}[frequency]


async def test_a_run_inside_another_is_counted_by_itself(store: CheckpointStore) -> None:
    plugin = state_plugin(checkpoint_frequency=2)
    script: list[Line] = [
        *steps(1),
        Call("ask", {}),
        *steps(3),
        "inner done",
        *steps(1),
        "done",
    ]
    async with running_kernel(script, plugin) as kernel:
        inner = walker(kernel, "inner", store=store)

        @tool(danger="safe")
        async def ask() -> str:
            """Ask another agent."""
            return str((await inner.run(task="Help.")).report)

        outer = BaseAgent(
            signature="task -> report",
            tools=[step, ask],
            kernel=kernel,
            store=store,
            name="outer",
        )
        result = await outer.run(task="Walk.")
        (child,) = await store.runs(agent_id="inner")

    assert [each.metadata["turn"] for each in await marks(store, result.run_id)] == [2, 4]
    assert [each.metadata["turn"] for each in await marks(store, child.run_id)] == [2, 4]


class FailingStore(MemoryCheckpointStore):
    """Takes no marks."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        if any(each.type == Marked.type for each in entries):
            raise CheckpointSaveError("a mark", "is too much")
        await super().append(run_id, entries, token=token)


async def test_a_checkpoint_that_cannot_be_kept_fails_the_run() -> None:
    manager = StateManager(FailingStore(), checkpoint_frequency=1)
    async with running_kernel([*steps(1), "done"]) as kernel:
        agent = walker(kernel, state_manager=manager)
        with pytest.raises(CheckpointSaveError, match="is too much"):
            await agent.run(task="Walk.")


async def test_a_run_that_may_do_without_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    manager = StateManager(FailingStore(), checkpoint_frequency=1)
    async with running_kernel([*steps(1), "done"]) as kernel:
        agent = walker(kernel, state_manager=manager).bind(on_save_error="continue")
        result = await agent.run(task="Walk.")

    assert result.report == "done"
    assert "goes on without a checkpoint" in caplog.text


async def test_a_run_that_is_under_way_is_marked_by_hand(store: CheckpointStore) -> None:
    manager = StateManager(store)
    made: list[str] = []

    @tool(danger="safe")
    async def mark() -> None:
        """Mark the run in every way."""
        run = current_run()
        made.append(await manager.save_checkpoint(run, "the run", {"a": 1}))
        made.append(await manager.save_checkpoint(run.state, "its state"))
        made.append(await manager.create_checkpoint("marked", "its agent"))

    async with running_kernel([Call("mark"), "done"]) as kernel:
        agent = BaseAgent(
            signature="task -> report",
            tools=[mark],
            kernel=kernel,
            name="marked",
            state_manager=manager,
        )
        result = await agent.run(task="Mark.")

    found = await marks(store, result.run_id)
    assert [each.mark_id for each in found] == made
    assert [each.description for each in found] == ["the run", "its state", "its agent"]
    assert [each.id for each in await manager.list("marked")][1:] == made[::-1]


async def test_a_run_of_an_agent_is_marked_from_outside(store: CheckpointStore) -> None:
    manager = StateManager(store)
    begun, go_on = anyio.Event(), anyio.Event()

    @tool(danger="safe")
    async def wait() -> None:
        """Wait."""
        begun.set()
        await go_on.wait()

    async with running_kernel([Call("wait"), "done"]) as kernel:
        agent = BaseAgent(
            signature="task -> report",
            tools=[wait],
            kernel=kernel,
            name="waiting",
            state_manager=manager,
        )
        async with agent.stream(task="Wait.") as run:
            with anyio.fail_after(10):
                await begun.wait()
            marked = await manager.create_checkpoint("waiting", "from outside")
            of_state = await manager.save_checkpoint(run.state, "of its state")
            await manager.delete(of_state)
            go_on.set()
            await run.wait()

    assert [each.mark_id for each in await marks(store, run.id)] == [marked, of_state]
    assert of_state not in [each.id for each in await manager.list("waiting")]
    with pytest.raises(CheckpointSaveError, match="none that is under way"):
        await manager.save_checkpoint(run.state)


async def test_a_run_that_is_kept_elsewhere_is_not_marked(store: CheckpointStore) -> None:
    manager = StateManager(store)
    runs: list[Run] = []

    @tool(danger="safe")
    async def mark() -> None:
        """Mark the run, in vain."""
        runs.append(current_run())
        with pytest.raises(CheckpointSaveError, match="in no storage of this manager"):
            await manager.save_checkpoint(current_run())

    async with running_kernel([Call("mark"), "done"]) as kernel:
        agent = BaseAgent(signature="task -> report", tools=[mark], kernel=kernel)
        await agent.run(task="Mark.")

    assert runs[0].state.marks == ()


async def test_a_forked_run_goes_on_as_another_agent(store: CheckpointStore) -> None:
    manager = StateManager(store, checkpoint_frequency=1)
    async with running_kernel([*steps(2), "done"]) as kernel:
        result = await walker(kernel, state_manager=manager).run(task="Walk.")
    first, *_ = await marks(store, result.run_id)

    forked = await manager.fork_from_checkpoint(first.mark_id, "runner")
    async with running_kernel(["another end"]) as kernel:
        agent = walker(kernel, agent_id="runner", state_manager=manager)
        other = await agent.resume(forked.checkpoint_id)

    assert forked.agent_id == "runner"
    assert forked.step_number == 1
    assert other.report == "another end"
    assert (await manager.load_checkpoint(result.run_id)).status == "completed"
    own = await manager.list("runner")
    assert {each.run_id for each in own} == {forked.run_id}
    assert [each.status for each in own] == ["completed", "running"]


async def test_a_run_goes_back_to_a_checkpoint(store: CheckpointStore) -> None:
    manager = StateManager(store, checkpoint_frequency=1)
    async with running_kernel([*steps(2), "one end"], cost="1") as kernel:
        result = await walker(kernel, state_manager=manager).run(task="Walk.")
    first, *_ = await marks(store, result.run_id)

    back = await manager.rewind(first.mark_id)
    async with running_kernel(["another end"]) as kernel:
        again = await walker(kernel, state_manager=manager).resume(result.run_id)

    assert (back.step_number, back.status) == (1, "running")
    assert again.report == "another end"
    assert again.cost_usd == 3


async def test_old_runs_go_by_themselves(store: CheckpointStore) -> None:
    manager = StateManager(store, retention_count=2)
    async with running_kernel(["done"] * 5) as kernel:
        agent = walker(kernel, state_manager=manager)
        runs = [(await agent.run(task="Walk.")).run_id for _ in range(5)]

    kept = [each.run_id for each in await store.runs(agent_id="walker")]

    assert kept == runs[:-3:-1]


async def test_runs_of_before_count_too(store: CheckpointStore) -> None:
    runs: list[str] = []
    for _ in range(3):
        manager = StateManager(store, retention_count=2)
        async with running_kernel(["done"] * 2) as kernel:
            agent = walker(kernel, state_manager=manager)
            runs += [(await agent.run(task="Walk.")).run_id for _ in range(2)]

    assert [each.run_id for each in await store.runs()] == runs[:-3:-1]


async def test_only_one_agent_is_asked_to_let_go(store: CheckpointStore) -> None:
    few, all_of_them = StateManager(store, retention_count=1), StateManager(store)
    async with running_kernel(["done"] * 6) as kernel:
        one = walker(kernel, "one", state_manager=few)
        two = walker(kernel, "two", state_manager=all_of_them)
        for _ in range(3):
            await one.run(task="Walk.")
            await two.run(task="Walk.")

    assert len(await store.runs(agent_id="one")) == 1
    assert len(await store.runs(agent_id="two")) == 3


async def test_what_is_too_old_goes(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = StateManager(store, retention_count=None, ttl_seconds=60)
    async with running_kernel(["done"] * 3) as kernel:
        agent = walker(kernel, state_manager=manager)
        first = (await agent.run(task="Walk.")).run_id
        second = (await agent.run(task="Walk.")).run_id
        assert len(await store.runs()) == 2
        later = (await store.runs())[0].updated_at
        monkeypatch.setattr("kaizen_state._retention.time", lambda: later + 61)
        third = (await agent.run(task="Walk.")).run_id

    assert [each.run_id for each in await store.runs()] == [third]
    assert first != second


async def test_the_store_is_not_read_again_for_each_run() -> None:
    asked: list[str] = []

    class Counting(MemoryCheckpointStore):
        async def runs(self, **options: Any) -> Any:
            asked.append("runs")
            return await super().runs(**options)

        async def read(self, run_id: str, **options: Any) -> Any:
            asked.append("read")
            return await super().read(run_id, **options)

    store = Counting()
    manager = StateManager(store, retention_count=5)
    async with running_kernel(["done"] * 50) as kernel:
        agent = walker(kernel, state_manager=manager)
        for _ in range(50):
            await agent.run(task="Walk.")

    assert asked.count("runs") == 1
    assert asked.count("read") == 45


async def interrupted_run(
    store: CheckpointStore, manager: StateManager, name: str = "walker"
) -> str:
    async with running_kernel([Call("stop")]) as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await walker(kernel, name, state_manager=manager).run(task="Walk.")
    return stopped.value.run_id


async def unfinished_run(store: CheckpointStore, manager: StateManager) -> str:
    """Leave a run behind as a process that crashed would."""
    run_id = await interrupted_run(store, manager)
    (mark,) = await marks(store, run_id)
    return await fork(store, mark.mark_id, agent_id="walker")


async def test_a_run_that_has_not_ended_stays_unless_that_was_asked_for(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=1)
    crashed = [await unfinished_run(store, manager) for _ in range(2)]
    await interrupted_run(store, manager)

    dropped = await manager.prune("walker")
    left = {each.run_id for each in await store.runs()}
    more = await manager.prune("walker", unfinished=True)

    assert not set(crashed) & set(dropped)
    assert set(crashed) <= left
    assert set(crashed) <= set(more)
    assert len(await store.runs()) == 1


async def test_a_run_that_was_interrupted_stays_and_leaves_the_others_their_places(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=1)
    async with running_kernel(["done", Call("stop"), "done"]) as kernel:
        agent = walker(kernel, state_manager=manager)
        first = (await agent.run(task="Walk.")).run_id
        with pytest.raises(AgentInterrupted) as stopped:
            await agent.run(task="Walk.")
        assert (await manager.load_checkpoint(first)).status == "completed"
        last = (await agent.run(task="Walk.")).run_id

    left = {stopped.value.run_id, last}
    assert {each.run_id for each in await store.runs()} == left
    assert await StateManager(store, retention_count=1).prune() == []
    async with running_kernel(["done"]) as kernel:
        again = walker(kernel, state_manager=StateManager(store, retention_count=1))
        await again.run(task="Walk.")
    assert stopped.value.run_id in {each.run_id for each in await store.runs()}


@pytest.mark.parametrize(
    ("status", "code", "goes"),
    [
        ("completed", "", True),
        ("failed", "EXEC_001", True),
        ("cancelled", "", True),
        ("failed", "TOOL_004", False),
        ("interrupted", "INTERRUPT_003", False),
    ],
)
async def test_what_has_ended_for_good_goes_and_what_waits_for_a_decision_stays(
    store: CheckpointStore, status: RunStatus, code: str, goes: bool
) -> None:
    manager = StateManager(store, ttl_seconds=1e-9)
    async with running_kernel(["done"]) as kernel:
        agent = walker(kernel, agent_id="walker", store=store)
        run_id = (await agent.run(task="Walk.")).run_id
    length = len(await store.read(run_id))
    end = RunEnded(seq=length + 1, at=1.0, status=status, error_code=code)
    await store.append(run_id, [await reopened(store, run_id), encode(end)])

    dropped = await manager.prune()

    assert dropped == ([run_id] if goes else [])
    assert await manager.prune(unfinished=True) == ([] if goes else [run_id])


async def test_states_in_a_fork_are_no_runs_that_are_let_go(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=2)
    base = await manager.save_checkpoint(AgentState(agent_id="walker"))
    forked = await manager.fork_from_checkpoint(base, "other")
    mine = await manager.save_checkpoint(forked, "mine")
    async with running_kernel(["done"] * 4) as kernel:
        agent = walker(kernel, agent_id="other", state_manager=manager)
        for _ in range(4):
            await agent.run(task="Walk.")

    assert (await manager.load_checkpoint(mine)).description == "mine"
    assert len(await store.runs(agent_id="other")) == 3


async def test_nothing_of_the_plugins_is_left_in_what_observers_see(
    store: CheckpointStore,
) -> None:
    class Watcher:
        seen: ClassVar[list[dict[str, Any]]] = []

        @hookimpl
        async def post_interrupt(self, event: InterruptEvent) -> None:
            self.seen.append(dict(event.metadata))

    async with running_kernel(
        [*steps(1), Call("stop")], state_plugin(), Watcher()
    ) as kernel:
        agent = walker(kernel, state_manager=StateManager(store))
        with pytest.raises(AgentInterrupted) as stopped:
            await agent.run(task="Walk.")

    assert len(await marks(store, stopped.value.run_id)) == 1
    assert not [name for each in Watcher.seen for name in each if "kaizen_state" in name]


async def test_a_run_that_is_carried_out_stays_whatever_is_asked(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=1, ttl_seconds=0.000_001)
    gone: list[Sequence[str]] = []

    @tool(danger="safe")
    async def prune() -> None:
        """Let everything go."""
        gone.append(await manager.prune(unfinished=True))

    async with running_kernel([Call("prune"), "done"]) as kernel:
        agent = BaseAgent(
            signature="task -> report", tools=[prune], kernel=kernel, store=store
        )
        result = await agent.run(task="Prune.")

    assert gone == [[]]
    assert (await manager.load_checkpoint(result.run_id)).status == "completed"
    assert await manager.prune() == [result.run_id]


async def test_one_that_was_resumed_since_is_no_old_run(store: CheckpointStore) -> None:
    manager = StateManager(store, retention_count=1)
    old = await interrupted_run(store, manager)
    async with running_kernel(["done"] * 2) as kernel:
        agent = walker(kernel, state_manager=manager)
        async with running_kernel([*steps(1), Call("stop")]) as other:
            with pytest.raises(AgentInterrupted):
                await walker(other, state_manager=StateManager(store)).resume(old)
        await store.append(old, [await reopened(store, old)])
        await agent.run(task="Walk.")
        await agent.run(task="Walk.")

    assert old in [each.run_id for each in await store.runs(status="running")]


async def reopened(store: CheckpointStore, run_id: str) -> StoredEntry:
    length = len(await store.read(run_id))
    return encode(Resumed(seq=length, at=1.0, owner="somebody"))


async def test_a_run_inside_another_goes_with_it_and_not_before(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=1)
    script: list[Line] = []
    for _ in range(3):
        script += [Call("ask", {}), "one", Call("ask", {}), "two", "done"]
    async with running_kernel(script) as kernel:
        inner = walker(kernel, "inner", state_manager=manager)

        @tool(danger="safe")
        async def ask() -> str:
            """Ask another agent."""
            return str((await inner.run(task="Help.")).report)

        outer = BaseAgent(
            signature="task -> report",
            tools=[ask],
            kernel=kernel,
            name="outer",
            state_manager=manager,
        )
        for _ in range(3):
            last = (await outer.run(task="Ask.")).run_id

    assert [each.run_id for each in await store.runs(agent_id="outer")] == [last]
    children = await store.runs(agent_id="inner")
    assert [each.parent_id for each in children] == [last, last]
    assert await manager.prune() == []
    await manager.delete(last)
    assert await store.runs() == []


async def test_forks_of_a_run_that_goes_keep_what_they_share(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, checkpoint_frequency=1, retention_count=1)
    async with running_kernel([*steps(1), "done", "done"]) as kernel:
        agent = walker(kernel, state_manager=manager)
        first = (await agent.run(task="Walk.")).run_id
        mark, *_ = await marks(store, first)
        forked = await manager.fork_from_checkpoint(mark.mark_id, "other")
        await agent.run(task="Walk.")

    with pytest.raises(CheckpointLoadError):
        await manager.load_checkpoint(first)
    state = await manager.load_checkpoint(forked.run_id)
    assert state.conversation_history[-1]["content"] == "step 0"


async def test_a_store_that_cannot_let_go_fails_no_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(MemoryCheckpointStore):
        async def runs(self, **options: Any) -> Any:
            raise OSError("stuck")

    manager = StateManager(Stuck(), retention_count=1)
    async with running_kernel(["done"]) as kernel:
        result = await walker(kernel, state_manager=manager).run(task="Walk.")

    assert result.report == "done"
    assert "are still there" in caplog.text


async def test_the_plugin_lets_old_runs_go_if_told_to(store: CheckpointStore) -> None:
    async with running_kernel(["done"] * 3, state_plugin()) as kernel:
        for _ in range(3):
            await walker(kernel, "keeps", store=store).run(task="Walk.")
    async with running_kernel(["done"] * 3, state_plugin(retention_count=1)) as kernel:
        for _ in range(3):
            await walker(kernel, "drops", agent_id="drops", store=store).run(task="Walk.")

    assert len(await store.runs(agent_id="drops")) == 1
    assert len(await store.runs()) == 4


async def test_an_old_run_that_is_deleted_at_a_mark_is_not_taken_for_the_latest(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, checkpoint_frequency=1)
    async with running_kernel([*steps(1), "old", "new"]) as kernel:
        agent = walker(kernel, state_manager=manager)
        old = (await agent.run(task="Walk.")).run_id
        new = (await agent.run(task="Walk.")).run_id
    await manager.delete((await marks(store, old))[0].mark_id)

    latest = await manager.resume_from_latest("walker")

    assert latest is not None
    assert latest.run_id == new


async def test_a_run_damaged_at_its_start_is_told_of_when_the_latest_is_sought(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FilesystemStorage(tmp_path, compress=False)
    manager = StateManager(store)
    async with running_kernel(["old", "new"]) as kernel:
        agent = walker(kernel, state_manager=manager)
        old = (await agent.run(task="Walk.")).run_id
        new = (await agent.run(task="Walk.")).run_id
    (segment,) = (tmp_path / new).glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b"Walk.", b"Talk.", 1))

    latest = await StateManager(FilesystemStorage(tmp_path)).resume_from_latest("walker")

    assert latest is not None
    assert latest.run_id == old
    assert f"run {new} is damaged, so that nobody can tell" in caplog.text
