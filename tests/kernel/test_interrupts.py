"""Stopping runs: on request, gracefully or at once, and by cancellation anywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    CheckpointStore,
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
    Kernel,
    Message,
    Run,
    current_run,
    hookimpl,
    tool,
)
from kaizen.errors import AgentInterrupted
from kaizen.runlog import RunEnded, decode, fold
from kaizen.testing import (
    Call,
    MemoryCheckpointStore,
    ModelPlugin,
    RecordingPlugin,
    ScriptedModel,
)

pytestmark = pytest.mark.anyio

GRACEFUL = InterruptReason(source=InterruptSource.USER, message="enough")
IMMEDIATE = InterruptReason(
    source=InterruptSource.SYSTEM, mode=InterruptMode.IMMEDIATE, message="out of memory"
)


def assert_valid(messages: Sequence[Message]) -> None:
    """Every tool call has exactly one result, after the message that asks for it."""
    open_calls: dict[str, int] = {}
    for message in messages:
        for use in message.tool_uses:
            assert use.id not in open_calls
            open_calls[use.id] = 0
        if message.role == "tool":
            assert open_calls.get(message.tool_use_id) == 0
            open_calls[message.tool_use_id] = 1
    assert set(open_calls.values()) <= {1}


async def until_the_model_is_asked(run: Run) -> None:
    async for event in run:
        if type(event).__name__ == "ModelRequested":
            return


async def test_a_graceful_stop_lets_the_cycle_finish(
    kernel: Kernel, model: ScriptedModel
) -> None:
    finished = False
    runs: list[Run] = []

    @tool(danger="safe")
    async def work() -> str:
        """Work."""
        nonlocal finished
        runs.append(current_run())
        assert current_run().interrupt(GRACEFUL)
        await anyio.lowlevel.checkpoint()
        finished = True
        return "done"

    model.say(Call("work"), "never asked")
    agent = BaseAgent(signature="question -> answer", tools=[work], kernel=kernel)
    with pytest.raises(AgentInterrupted, match="interrupted by user: enough") as caught:
        await agent.run(question="?")

    (run,) = runs
    assert finished
    assert caught.value.reason is GRACEFUL
    assert caught.value.run_id == run.id
    assert run.state.status == "interrupted"
    assert run.messages[-1].text == "done"
    assert len(model.requests) == 1
    assert_valid(run.messages)


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (InterruptSource.USER, TypeError),
        (InterruptReason(mode="at once"), ValueError),  # type: ignore[arg-type]
    ],
    ids=["no reason", "no mode"],
)
async def test_what_is_no_reason_stops_nothing(
    kernel: Kernel, model: ScriptedModel, reason: Any, error: type[Exception]
) -> None:
    def reply(request: Any) -> str:
        with pytest.raises(error):
            current_run().interrupt(reason)
        return "the answer"

    model.say(reply)
    agent = BaseAgent(signature="question -> answer", kernel=kernel)
    assert (await agent.run(question="?")).answer == "the answer"


async def test_the_words_of_a_reason_will_do(kernel: Kernel, model: ScriptedModel) -> None:
    words: Any = InterruptReason(mode="immediate", source="user")  # type: ignore[arg-type]

    def reply(request: Any) -> str:
        current_run().interrupt(words)
        return "never"

    model.say(reply)
    agent = BaseAgent(signature="question -> answer", kernel=kernel)
    with pytest.raises(AgentInterrupted) as caught:
        await agent.run(question="?")
    assert caught.value.reason.mode is InterruptMode.IMMEDIATE
    assert caught.value.reason.source is InterruptSource.USER


async def test_an_answer_that_is_there_already_is_given(
    kernel: Kernel, model: ScriptedModel
) -> None:
    def reply(request: Any) -> str:
        current_run().interrupt(GRACEFUL)
        return "the answer"

    model.say(reply)
    result = await BaseAgent(signature="question -> answer", kernel=kernel).run(
        question="?"
    )
    assert result.answer == "the answer"


async def test_an_immediate_stop_cancels_what_is_under_way(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.delay_s = 60
    model.say("never")
    agent = BaseAgent(signature="question -> answer", kernel=kernel)
    with anyio.fail_after(5):
        async with agent.stream(question="?") as run:
            await until_the_model_is_asked(run)
            run.interrupt(IMMEDIATE)
            with pytest.raises(AgentInterrupted) as caught:
                await run.wait()
    assert caught.value.reason is IMMEDIATE
    assert run.state.status == "interrupted"
    assert_valid(run.messages)


async def test_an_immediate_stop_leaves_no_tool_call_without_a_result(
    kernel: Kernel, model: ScriptedModel
) -> None:
    runs: list[Run] = []

    @tool(danger="safe")
    async def hang(first: bool) -> str:
        """Hang."""
        runs.append(current_run())
        if first:
            current_run().interrupt(IMMEDIATE)
        await anyio.sleep_forever()
        return "never"

    calls = [Call("hang", {"first": False}), Call("hang", {"first": True})]
    model.say(calls, "never")
    agent = BaseAgent(signature="question -> answer", tools=[hang], kernel=kernel)
    with anyio.fail_after(5), pytest.raises(AgentInterrupted):
        await agent.run(question="?")
    assert_valid(runs[0].messages)
    assert len([each for each in runs[0].messages if each.role == "tool"]) == 2


async def test_a_tool_that_swallows_the_cancellation_cannot_save_the_run(
    kernel: Kernel, model: ScriptedModel
) -> None:
    @tool(danger="safe")
    async def stubborn() -> str:
        """Refuse to stop."""
        current_run().interrupt(IMMEDIATE)
        try:
            await anyio.sleep_forever()
        except BaseException:  # noqa: BLE001
            return "still here"
        return "never"

    model.say(Call("stubborn"), "answer")
    agent = BaseAgent(signature="question -> answer", tools=[stubborn], kernel=kernel)
    with anyio.fail_after(5), pytest.raises(AgentInterrupted):
        await agent.run(question="?")


@pytest.mark.parametrize("reason", [GRACEFUL, IMMEDIATE], ids=["graceful", "immediate"])
async def test_a_stop_reaches_every_run_inside(
    kernel: Kernel, model: ScriptedModel, reason: InterruptReason
) -> None:
    runs: dict[str, Run] = {}
    inner = BaseAgent(signature="question -> answer", tools=[], kernel=kernel, name="inner")

    @tool(danger="safe")
    async def delegate() -> str:
        """Ask somebody else."""
        runs["outer"] = current_run()
        return str((await worker.run(question="?")).answer)

    @tool(danger="safe")
    async def work() -> str:
        """Work."""
        runs["inner"] = current_run()
        runs["outer"].interrupt(reason)
        await anyio.lowlevel.checkpoint()
        return "done"

    worker = BaseAgent(signature="question -> answer", tools=[work], kernel=kernel)
    model.say(Call("delegate"), Call("work"), "never", "never")
    agent = BaseAgent(signature="question -> answer", tools=[delegate], kernel=kernel)
    with anyio.fail_after(5), pytest.raises(AgentInterrupted) as caught:
        await agent.run(question="?")

    assert inner.name == "inner"
    assert caught.value.run_id == runs["outer"].id
    assert runs["inner"].interrupted is reason
    assert runs["inner"].state.status == "interrupted"
    assert runs["outer"].state.status == "interrupted"
    assert len(model.requests) == 2
    for run in runs.values():
        assert_valid(run.messages)


async def test_a_second_stop_may_be_immediate_and_others_change_nothing(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.delay_s = 60
    model.say("never")
    agent = BaseAgent(signature="question -> answer", kernel=kernel)
    with anyio.fail_after(5):
        async with agent.stream(question="?") as run:
            await until_the_model_is_asked(run)
            assert run.interrupt(GRACEFUL)
            assert not run.interrupt(GRACEFUL)
            assert run.interrupt(IMMEDIATE)
            assert not run.interrupt(IMMEDIATE)
            with pytest.raises(AgentInterrupted):
                await run.wait()
    assert not run.interrupt(GRACEFUL), "an ended run cannot be stopped"
    assert type(run.log.entries[-1]) is RunEnded


async def test_observers_are_told_that_a_run_stops(model: ScriptedModel) -> None:
    recording = RecordingPlugin()

    @tool(danger="safe")
    async def work() -> str:
        """Work."""
        current_run().interrupt(GRACEFUL)
        return "done"

    model.say(Call("work"))
    plugins = [ModelPlugin(model), recording]
    config = {"default_provider": "scripted"}
    async with Kernel(
        plugins=plugins, discover=False, config=config, config_file=False, environ={}
    ) as kernel:
        agent = BaseAgent(signature="question -> answer", tools=[work], kernel=kernel)
        with pytest.raises(AgentInterrupted):
            await agent.run(question="?")
    stops = [(hook, event) for hook, event in recording.events if "interrupt" in hook]
    assert [hook for hook, _ in stops] == ["pre_interrupt", "post_interrupt"]
    assert stops[0][1].request is GRACEFUL  # type: ignore[attr-defined]


def test_the_words_of_a_reason_are_the_documented_ones() -> None:
    assert {each.name for each in InterruptSource} == {"USER", "SYSTEM", "PROGRAMMATIC"}
    assert {each.name for each in InterruptMode} == {"GRACEFUL", "IMMEDIATE"}
    assert {each.name for each in InterruptSignal} == {
        *("USER_REQUESTED", "RATE_LIMIT", "BUDGET_EXCEEDED"),
        *("TIMEOUT", "SHUTDOWN", "CUSTOM"),
    }


# Cancellation from outside, at every await of a run.


class Points:
    """Counts the places where a run may be cancelled, and cancels it at one of them."""

    def __init__(self, stop_at: int) -> None:
        self.passed = 0
        self.scope = anyio.CancelScope()
        self._stop_at = stop_at
        self.inside = 0

    async def pass_by(self) -> None:
        self.passed += 1
        self.inside += 1
        try:
            if self.passed == self._stop_at:
                self.scope.cancel()
            await anyio.lowlevel.checkpoint()
        finally:
            self.inside -= 1


def everywhere(points: Points) -> object:
    """A plugin that waits in every hook of a run."""

    class Everywhere:
        name = "everywhere"

    def observer() -> Callable[..., Awaitable[None]]:
        async def observe(self: object, event: Any) -> None:
            await points.pass_by()

        return observe

    def middleware(parameter: str) -> Callable[..., Awaitable[Any]]:
        if parameter == "call":

            async def wrap_call(self: object, call: Any, call_next: Any) -> Any:
                await points.pass_by()
                result = await call_next(call)
                await points.pass_by()
                return result

            return wrap_call

        async def wrap(self: object, request: Any, call_next: Any) -> Any:
            await points.pass_by()
            result = await call_next(request)
            await points.pass_by()
            return result

        return wrap

    for operation in ("agent_loop", "cycle", "model_call", "tool_call"):
        for when in ("pre", "post"):
            setattr(Everywhere, f"{when}_{operation}", hookimpl(observer()))
        parameter = "call" if operation == "tool_call" else "request"
        wrap = hookimpl(specname=f"wrap_{operation}")(middleware(parameter))
        setattr(Everywhere, f"around_{operation}", wrap)
    return Everywhere()


async def run_once(stop_at: int) -> tuple[Points, list[Run], bool]:
    """Run an agent with tools, child runs and waits everywhere; stop it at one place."""
    points = Points(stop_at)
    runs: list[Run] = []

    @tool(danger="safe")
    async def look(place: int) -> int:
        """Look."""
        runs.append(current_run())
        await points.pass_by()
        return place

    @tool(danger="low", writes=True)
    async def delegate() -> str:
        """Ask somebody else."""
        return str((await inner.run(question="?")).answer)

    async def think(request: Any) -> None:
        await points.pass_by()

    class Slow(ScriptedModel):
        async def complete(self, request: Any) -> Any:
            await think(request)
            return await super().complete(request)

    model = Slow(
        [Call("look", {"place": 1}), Call("look", {"place": 2}), Call("delegate")],
        Call("look", {"place": 3}),
        "inner answer",
        "outer answer",
    )

    class Store(MemoryCheckpointStore):
        async def append(self, run_id: str, entries: Any, **options: Any) -> None:
            await points.pass_by()
            await super().append(run_id, entries, **options)
            await points.pass_by()

    class StorePlugin:
        @hookimpl
        def contribute(self, registry: Any) -> None:
            registry.add(CheckpointStore, "store", store)

    store = Store()
    plugins = [ModelPlugin(model), everywhere(points), StorePlugin]
    config = {"default_provider": "scripted", "checkpoint_store": "store"}
    completed = False
    async with Kernel(
        plugins=plugins, discover=False, config=config, config_file=False, environ={}
    ) as kernel:
        inner = BaseAgent(signature="question -> answer", tools=[look], kernel=kernel)
        outer = BaseAgent(
            signature="question -> answer", tools=[look, delegate], kernel=kernel
        )
        with points.scope:
            await outer.run(question="?")
            await anyio.lowlevel.checkpoint()  # of the caller: the end itself is shielded
            completed = True
        assert kernel.hooks.problems == []
    for record in await store.runs():
        state = fold(decode(each) for each in await store.read(record.run_id))
        assert state.status in ("completed", "cancelled")
        assert_valid(state.messages)
        assert not state.pending
    return points, runs, completed


async def test_a_run_can_be_cancelled_at_every_await_and_leaves_nothing_behind() -> None:
    points, _, completed = await run_once(stop_at=0)
    assert completed
    total = points.passed
    assert total > 40

    for stop_at in range(1, total + 1):
        with anyio.fail_after(5):
            points, runs, completed = await run_once(stop_at)
        assert not completed, f"the cancellation at {stop_at} was swallowed"
        assert points.scope.cancelled_caught
        assert points.inside == 0, f"something still waits after {stop_at}"
        for run in {run.id: run for run in runs}.values():
            assert run.ended
            assert run.state.status in ("cancelled", "completed")
            assert_valid(run.messages)
            assert not run.state.pending


async def test_a_run_that_begins_under_a_graceful_stop_has_its_own_time(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Slow:
        async def execute(self, signature: Any, inputs: Any, config: Any) -> dict[str, Any]:
            await anyio.sleep_forever()
            return {}

    inner = BaseAgent(
        {"graceful_shutdown_timeout": 0.01},
        "question -> answer",
        strategy=Slow(),
        kernel=kernel,
        name="inner",
    )

    @tool(danger="safe")
    async def delegate() -> str:
        """Ask another agent."""
        current_run().interrupt(GRACEFUL)
        return str((await inner.run(question="?")).answer)

    model.say(Call("delegate"), "never")
    agent = BaseAgent(
        {"graceful_shutdown_timeout": 3600},
        "question -> answer",
        tools=[delegate],
        kernel=kernel,
    )
    with anyio.fail_after(10), pytest.raises(AgentInterrupted) as caught:
        await agent.run(question="?")
    assert caught.value.reason is GRACEFUL
