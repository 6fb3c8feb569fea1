"""The manager: requests that stop what goes on and what begins, from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import to_thread
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
    Kernel,
    Run,
    current_run,
    tool,
)
from kaizen.runlog import Continued, Interrupted, Paused
from kaizen.testing import Call, MemoryCheckpointStore, RecordingPlugin, ScriptedModel
from kaizen_interrupts import InterruptManager, InterruptsPlugin

from .conftest import Running, Worker, default_manager, ended

pytestmark = pytest.mark.anyio

GRACEFUL, IMMEDIATE = InterruptMode.GRACEFUL, InterruptMode.IMMEDIATE


async def test_a_request_stops_a_run_after_its_turn(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            assert list(manager.runs) == [run]

            assert manager.request_interrupt(
                signal=InterruptSignal.USER_REQUESTED, reason="Awaiting approval"
            )
            worker.go_on.set()
            error = await ended(run)

        assert isinstance(error, AgentInterrupted)
        assert error.reason.source is InterruptSource.USER
        assert error.reason.signal is InterruptSignal.USER_REQUESTED
        assert error.reason.message == "Awaiting approval"
        assert run.messages[-1].text == "worked"
        assert not manager.runs


async def test_an_immediate_request_stops_a_run_in_its_turn(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            manager.request_interrupt("now", mode=IMMEDIATE)
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)
    assert run.state.status == "interrupted"


async def test_a_second_request_sharpens_the_first_and_never_blunts_it(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()

            assert manager.request_interrupt("please")
            assert not manager.request_interrupt("please")
            assert not run.ended
            assert manager.request_interrupt("now", mode=IMMEDIATE)
            assert not manager.request_interrupt("please")
            await ended(run)

        reason = manager.get_reason()
        assert reason is not None
        assert reason.message == "now"
        modes = [each.mode for each in run.log.entries if isinstance(each, Interrupted)]
        assert modes == ["graceful", "immediate"]


@pytest.mark.parametrize("mode", InterruptMode)
async def test_a_run_that_begins_under_a_request_asks_no_model(
    running: Running, model: ScriptedModel, mode: InterruptMode
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        manager.request_interrupt("closed", mode=mode)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)

        with pytest.raises(AgentInterrupted, match="closed"):
            await agent.run(question="?")

    assert model.requests == []


@pytest.mark.parametrize("mode", InterruptMode)
async def test_a_run_that_was_stopped_before_its_first_turn_can_be_resumed(
    running: Running, model: ScriptedModel, mode: InterruptMode
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        manager.request_interrupt("closed", mode=mode)
        agent = BaseAgent(
            signature="question -> answer", kernel=kernel, store=MemoryCheckpointStore()
        )
        with pytest.raises(AgentInterrupted) as caught:
            await agent.run(question="?")
        manager.clear_interrupt()
        model.say("yes")

        assert (await agent.resume(caught.value.run_id)).answer == "yes"


async def test_after_it_is_cleared_runs_go_on_as_ever(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        manager.request_interrupt()
        assert manager.is_interrupted()
        with pytest.raises(AgentInterrupted):
            await agent.run(question="?")

        assert manager.clear_interrupt()

        assert not manager.is_interrupted()
        assert manager.get_reason() is None
        assert not manager.clear_interrupt()
        model.say("yes")
        assert (await agent.run(question="?")).answer == "yes"


@pytest.mark.parametrize(
    ("parts", "source", "signal"),
    [
        ({}, InterruptSource.PROGRAMMATIC, InterruptSignal.CUSTOM),
        (
            {"source": InterruptSource.USER},
            InterruptSource.USER,
            InterruptSignal.USER_REQUESTED,
        ),
        (
            {"source": InterruptSource.SYSTEM},
            InterruptSource.SYSTEM,
            InterruptSignal.CUSTOM,
        ),
        (
            {"signal": InterruptSignal.RATE_LIMIT},
            InterruptSource.SYSTEM,
            InterruptSignal.RATE_LIMIT,
        ),
        (
            {"signal": InterruptSignal.CUSTOM},
            InterruptSource.PROGRAMMATIC,
            InterruptSignal.CUSTOM,
        ),
        (
            {"signal": InterruptSignal.SHUTDOWN, "source": InterruptSource.USER},
            InterruptSource.USER,
            InterruptSignal.SHUTDOWN,
        ),
    ],
)
async def test_who_asks_and_why_follow_from_each_other(
    parts: dict[str, Any], source: InterruptSource, signal: InterruptSignal
) -> None:
    manager = InterruptManager()
    manager.request_interrupt("so", metadata={"ticket": 7}, **parts)

    assert manager.get_reason() == InterruptReason(
        source=source, signal=signal, message="so", metadata={"ticket": 7}
    )


async def test_a_whole_reason_is_taken_as_it_is_and_not_together_with_parts() -> None:
    manager = InterruptManager()
    reason = InterruptReason(message="so")

    with pytest.raises(TypeError, match="not both"):
        manager.request_interrupt(reason, mode=IMMEDIATE)
    assert manager.request_interrupt(reason)
    assert manager.get_reason() is reason


async def test_a_request_from_another_thread_stops_runs(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            changed = await to_thread.run_sync(
                partial(manager.request_interrupt, mode=IMMEDIATE)
            )
            error = await ended(run)

    assert changed
    assert isinstance(error, AgentInterrupted)


async def test_a_request_reaches_runs_inside_runs_and_observers_hear_of_each(
    running: Running, model: ScriptedModel
) -> None:
    recording = RecordingPlugin()
    async with running(recording) as kernel:
        manager = await default_manager(kernel)
        inner = Worker(model, kernel, name="inner")

        @tool(danger="safe")
        async def delegate() -> str:
            """Delegate."""
            return str((await inner.agent.run(question="?")).answer)

        model._script.insert(0, Call("delegate"))
        outer = BaseAgent(
            signature="question -> answer", tools=[delegate], kernel=kernel, name="outer"
        )
        async with outer.stream(question="?") as run:
            await inner.turn.wait()
            manager.request_interrupt("all of you", mode=IMMEDIATE)
            await ended(run)

    for hook in ("pre_interrupt", "post_interrupt"):
        told = recording.of(hook)
        assert [each.agent_id for each in told] == ["inner", "outer"]
    assert run.state.status == "interrupted"


async def test_an_interrupt_of_the_parent_reaches_the_managers_below_it() -> None:
    parent, child, grandchild = (InterruptManager() for _ in range(3))
    parent.add_child(child)
    parent.request_interrupt("all")
    child.add_child(grandchild)

    assert child.get_reason() is parent.get_reason() is grandchild.get_reason()
    parent.clear_interrupt()
    assert not child.is_interrupted()
    assert not grandchild.is_interrupted()

    child.request_interrupt("below")
    assert not parent.is_interrupted()
    assert grandchild.is_interrupted()
    parent.request_interrupt("all")
    parent.clear_interrupt()
    assert child.is_interrupted()

    assert parent.remove_child(child)
    assert not parent.remove_child(child)


async def test_a_manager_is_never_above_itself() -> None:
    parent, child = InterruptManager(), InterruptManager()
    parent.add_child(child)
    for below in (parent, child):
        with pytest.raises(ValueError, match="its own child"):
            below.add_child(parent)


async def test_a_manager_that_an_agent_is_given_serves_that_agent_alone(
    kernel: Kernel, model: ScriptedModel
) -> None:
    manager = InterruptManager()
    mine = BaseAgent(signature="question -> answer", kernel=kernel, hooks=[manager])
    other = BaseAgent(signature="question -> answer", kernel=kernel)
    manager.request_interrupt("mine")

    with pytest.raises(AgentInterrupted, match="mine"):
        await mine.run(question="?")
    model.say("yes")
    assert (await other.run(question="?")).answer == "yes"


async def test_the_kernels_manager_may_be_given_to_an_agent_as_well(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        agent = BaseAgent(signature="question -> answer", kernel=kernel, hooks=[manager])
        model.say("yes")

        assert (await agent.run(question="?")).answer == "yes"
        assert not manager.runs


async def test_the_plugin_and_the_registry_give_the_same_manager(running: Running) -> None:
    async with running() as kernel:
        (plugin,) = (
            each.plugin
            for each in kernel.plugins
            if isinstance(each.plugin, InterruptsPlugin)
        )
        assert plugin.manager is await default_manager(kernel)


Where = Callable[..., Any]


async def here(call: Callable[[], bool]) -> bool:
    return call()


async def in_another_thread(call: Callable[[], bool]) -> bool:
    return await to_thread.run_sync(call)


@pytest.mark.parametrize("where", [here, in_another_thread])
@pytest.mark.parametrize("named", [True, False])
async def test_runs_are_paused_steered_and_resumed_from_anywhere(
    running: Running, model: ScriptedModel, where: Where, *, named: bool
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            run_id = run.id if named else None

            assert await where(partial(manager.pause, run_id, by="me"))
            assert not await where(partial(manager.pause, run_id))
            assert run.state.paused
            assert await where(partial(manager.steer, "be quick", run_id, by="me"))
            assert await where(partial(manager.resume, run_id, by="me"))
            assert not await where(partial(manager.resume, run_id))
            await worker.next_turn()
            assert "be quick" in [each.text for each in run.messages]
            assert await where(partial(manager.cancel, run_id, message="enough"))
            await ended(run)

        assert run.state.status == "cancelled"
        by = [each.by for each in run.log.entries if isinstance(each, Paused | Continued)]
        assert by == ["me", "me"]


async def test_what_is_asked_of_a_run_that_is_not_there_changes_nothing(
    running: Running,
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)

        assert not manager.pause("nobody")
        assert not manager.resume()
        assert not manager.steer("hello", "nobody")
        assert not manager.cancel("nobody")


async def test_what_is_asked_of_all_reaches_each_run_once(
    running: Running, model: ScriptedModel
) -> None:
    runs: list[Run] = []
    async with running() as kernel:
        manager = await default_manager(kernel)
        inner = Worker(model, kernel, name="inner")

        @tool(danger="safe")
        async def delegate() -> str:
            """Delegate."""
            runs.append(current_run())
            return str((await inner.agent.run(question="?")).answer)

        model._script.insert(0, Call("delegate"))
        outer = BaseAgent(signature="question -> answer", tools=[delegate], kernel=kernel)
        async with outer.stream(question="?") as run:
            await inner.turn.wait()
            (child,) = run.children
            assert manager.runs == (run, child)
            manager.pause()
            manager.steer("be quick")

            assert [len(each.state.steered) for each in (run, child)] == [1, 0]
            for each in (run, child):
                pauses = [entry for entry in each.log.entries if isinstance(entry, Paused)]
                assert len(pauses) == 1
            manager.cancel()


async def test_a_hundred_runs_stop_at_one_request(
    running: Running, model: ScriptedModel
) -> None:
    model.delay_s = 3_600
    stopped: list[str] = []
    async with running() as kernel:
        manager = await default_manager(kernel)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)

        async def run_one() -> None:
            try:
                await agent.run(question="?")
            except AgentInterrupted as error:
                stopped.append(error.run_id)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(run_one)
                while len(model.requests) < 100:
                    await anyio.lowlevel.checkpoint()
                manager.request_interrupt(mode=IMMEDIATE)

        assert len(set(stopped)) == 100
        assert not manager.runs


async def test_what_a_run_raises_is_raised_as_it_is(
    running: Running, model: ScriptedModel
) -> None:
    problem = ValueError("mine")
    async with running(timeout_seconds=60) as kernel:
        model.say(problem)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        with pytest.raises(ValueError, match="mine") as caught:
            await agent.run(question="?")
    assert caught.value is problem


async def test_what_is_raised_while_a_kernel_runs_is_raised_as_it_is(
    running: Running,
) -> None:
    problem = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with running():
            raise problem
    assert caught.value is problem


@pytest.mark.parametrize(
    ("wrong", "error", "help_"),
    [
        ({"reason": InterruptSignal.SHUTDOWN}, TypeError, "signal=…"),
        ({"reason": InterruptSource.USER}, TypeError, "source=…"),
        ({"reason": InterruptMode.IMMEDIATE}, TypeError, "mode=…"),
        ({"reason": None}, TypeError, "is no InterruptReason"),
        ({"reason": InterruptReason(message=None)}, TypeError, "a text as message"),  # type: ignore[arg-type]
        ({"metadata": "x"}, TypeError, "a mapping as metadata"),
        ({"mode": "brutal"}, ValueError, "brutal"),
        ({"signal": "bored"}, ValueError, "bored"),
        ({"source": "nobody"}, ValueError, "nobody"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_and_stops_nothing(
    running: Running,
    model: ScriptedModel,
    wrong: dict[str, Any],
    error: type[Exception],
    help_: str,
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        with pytest.raises(error, match=help_):
            manager.request_interrupt(**wrong)
        assert not manager.is_interrupted()
        model.say("yes")
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        assert (await agent.run(question="?")).answer == "yes"


def test_a_request_may_be_made_in_words() -> None:
    manager = InterruptManager()
    words: dict[str, Any] = {"mode": "immediate", "signal": "timeout", "source": "user"}

    assert manager.request_interrupt("enough", **words)

    assert manager.get_reason() == InterruptReason(
        source=InterruptSource.USER,
        mode=InterruptMode.IMMEDIATE,
        signal=InterruptSignal.TIMEOUT,
        message="enough",
    )


async def test_a_run_that_cannot_be_asked_keeps_no_other_from_it(
    running: Running,
    model: ScriptedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        one, two = (Worker(model, kernel) for _ in range(2))
        async with (
            one.agent.stream(question="?") as first,
            two.agent.stream(question="?") as second,
        ):
            await one.turn.wait()
            await two.turn.wait()
            real = Run.interrupt

            def interrupt(run: Run, reason: InterruptReason | None = None) -> bool:
                if run is first:
                    raise LookupError("lost")
                return real(run, reason)

            monkeypatch.setattr(Run, "interrupt", interrupt)
            assert manager.request_interrupt("stop", mode=InterruptMode.IMMEDIATE)
            assert isinstance(await ended(second), AgentInterrupted)
            monkeypatch.undo()
            first.cancel()

    assert f"run {first.id} could not be reached: lost" in caplog.text


@pytest.mark.parametrize("text", ["", "x" * 100_001])
def test_a_text_that_no_model_would_read_is_refused_also_without_runs(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 100000 characters"):
        InterruptManager().steer(text)
