"""How runs end when something goes wrong: nothing is lost, and nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    CheckpointStore,
    InterruptMode,
    InterruptReason,
    Kernel,
    Provider,
    Run,
    ToolContext,
    ToolResult,
    current_run,
    hookimpl,
    run_sync,
    tool,
)
from kaizen.errors import (
    AgentInterrupted,
    AgentTimeoutError,
    CheckpointSaveError,
    InitializationError,
    ModelError,
    RunError,
    ToolRefusedError,
)
from kaizen.runlog import ToolFinished, decode, fold
from kaizen.testing import Call, MemoryCheckpointStore, ModelPlugin, ScriptedModel

pytestmark = pytest.mark.anyio

IMMEDIATE = InterruptReason(mode=InterruptMode.IMMEDIATE, message="now")
QUESTION = "question -> answer"


class SlowStore(MemoryCheckpointStore):
    """Takes its time, and may fail at the end of a run."""

    def __init__(self, *, fail: bool = False) -> None:
        super().__init__()
        self.fail = fail

    async def append(self, run_id: str, entries: Any, *, token: int | None = None) -> None:
        await anyio.sleep(0.01)
        if self.fail and any(entry.type == "run_ended" for entry in entries):
            raise CheckpointSaveError("the disk", "is full")
        await super().append(run_id, entries, token=token)


class StorePlugin:
    name = "store"

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    @hookimpl
    def contribute(self, registry: Any) -> None:
        registry.add(CheckpointStore, "it", self._store)


def with_store(model: ScriptedModel, store: CheckpointStore) -> Kernel:
    return Kernel(
        plugins=[ModelPlugin(model), StorePlugin(store)],
        discover=False,
        config={"default_provider": "scripted", "checkpoint_store": "it"},
        config_file=False,
        environ={},
    )


async def stored(store: CheckpointStore, run: Run) -> Any:
    return fold(decode(each) for each in await store.read(run.id))


async def test_a_streamed_run_is_kept_to_its_end_before_anybody_hears_of_it(
    model: ScriptedModel,
) -> None:
    store = SlowStore()
    model.say("hello")
    async with with_store(model, store) as kernel:
        async with BaseAgent(signature=QUESTION, kernel=kernel).stream(question="?") as run:
            async for _ in run:
                pass
            await run.wait()
        assert (await stored(store, run)).status == "completed"


async def test_an_end_that_cannot_be_kept_is_no_success(model: ScriptedModel) -> None:
    model.say("hello")
    async with with_store(model, SlowStore(fail=True)) as kernel:
        async with BaseAgent(signature=QUESTION, kernel=kernel).stream(question="?") as run:
            with pytest.raises(CheckpointSaveError, match="is full"):
                await run.wait()
        assert run.result is None


async def test_the_end_of_a_cancelled_run_is_kept(model: ScriptedModel) -> None:
    store = SlowStore()
    model.delay_s = 60
    model.say("never")
    runs: list[Run] = []

    class Watch:
        @hookimpl
        def pre_model_call(self) -> None:
            runs.append(current_run())

    async with with_store(model, store) as kernel:
        agent = BaseAgent(signature=QUESTION, hooks=[Watch()], kernel=kernel)
        with anyio.move_on_after(0.1):
            await agent.run(question="?")
        assert (await stored(store, runs[0])).status == "cancelled"


async def test_an_end_that_cannot_be_kept_adds_to_the_error(model: ScriptedModel) -> None:
    model.say(ModelError("scripted", "is overloaded"))
    async with with_store(model, SlowStore(fail=True)) as kernel:
        with pytest.raises(ModelError) as caught:
            await BaseAgent(signature=QUESTION, kernel=kernel).run(question="?")
    assert "could not be kept" in caught.value.__notes__[0]


async def test_an_observer_that_hangs_does_not_keep_a_run_from_ending(
    kernel: Kernel, model: ScriptedModel
) -> None:
    kernel.hooks.timeout_s = 0.02
    told: list[str] = []

    class Hang:
        @hookimpl
        async def pre_interrupt(self) -> None:
            await anyio.sleep_forever()

        @hookimpl
        async def post_agent_loop(self) -> None:
            await anyio.sleep_forever()

    class After:
        @hookimpl
        async def post_agent_loop(self) -> None:
            told.append("after")

    kernel.hooks.add(Hang(), name="hang", rank=0)
    kernel.hooks.add(After(), name="after", rank=1)

    @tool(danger="safe")
    async def stop() -> str:
        """Stop."""
        runs.append(current_run())
        current_run().interrupt(IMMEDIATE)
        await anyio.sleep_forever()
        return "never"

    runs: list[Run] = []
    model.say(Call("stop"))
    agent = BaseAgent(signature=QUESTION, tools=[stop], kernel=kernel)
    with anyio.fail_after(10), pytest.raises(AgentInterrupted):
        await agent.run(question="?")
    assert runs[0].ended
    assert told == ["after"]
    assert [each.code for each in kernel.hooks.problems] == ["HOOK_002", "HOOK_002"]


class Converting(ScriptedModel):
    """Turns a cancellation into an error of its own, as HTTP clients do."""

    async def complete(self, request: Any) -> Any:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise ModelError("scripted", "lost its connection") from error


async def test_an_error_made_of_a_cancellation_hides_no_timeout() -> None:
    async with Kernel(
        plugins=[ModelPlugin(Converting())], discover=False, config_file=False, environ={}
    ) as kernel:
        config = {"llm_provider": "scripted", "timeout": 0.02}
        with pytest.raises(AgentTimeoutError):
            await BaseAgent(config, QUESTION, kernel=kernel).run(question="?")
        agent = BaseAgent({"llm_provider": "scripted"}, QUESTION, kernel=kernel)
        async with agent.stream(question="?") as run:
            await anyio.wait_all_tasks_blocked()
            run.interrupt(IMMEDIATE)
            with pytest.raises(AgentInterrupted):
                await run.wait()


async def test_a_stop_that_comes_before_the_run_begins_is_not_lost(kernel: Kernel) -> None:
    class Straight:
        async def execute(self, signature: Any, inputs: Any, config: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            return {"answer": "too late"}

    agent = BaseAgent(signature=QUESTION, strategy=Straight(), kernel=kernel)
    async with agent.stream(question="?") as run:
        run.interrupt(IMMEDIATE)
        with pytest.raises(AgentInterrupted):
            await run.wait()


async def test_a_run_can_be_marked_from_outside_until_it_ends(
    kernel: Kernel, model: ScriptedModel
) -> None:
    model.delay_s = 60
    model.say("never")
    agent = BaseAgent(signature=QUESTION, kernel=kernel)
    async with agent.stream(question="?") as run:
        await anyio.wait_all_tasks_blocked()
        mark = await run.checkpoint("from outside")
        assert mark.run_id == run.id
        with pytest.raises(RunError, match="its own strategy"):
            await run.cycle()
    for late in (run.checkpoint(), _later(run)):
        with pytest.raises(RunError, match="has ended"):
            await late


async def _later(run: Run) -> None:
    run.note("test", "late", {})


async def test_direct_calls_have_keys_of_their_own(kernel: Kernel) -> None:
    keys: list[str] = []
    holder: list[BaseAgent] = []

    @tool(danger="safe")
    async def pay(again: bool, context: ToolContext) -> str:
        """Pay."""
        keys.append(context.idempotency_key)
        if again:
            await holder[0].execute_tool("pay", {"again": False})
        return "paid"

    class Both:
        async def execute(self, signature: Any, inputs: Any, config: Any) -> Any:
            await holder[0].execute_tool("pay", {"again": True})
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(holder[0].execute_tool, "pay", {"again": False})
            return {"answer": "done"}

    holder.append(
        BaseAgent(signature=QUESTION, tools=[pay], strategy=Both(), kernel=kernel)
    )
    await holder[0].run(question="?")
    assert len(set(keys)) == len(keys) == 4


async def test_a_result_of_another_call_answers_the_call_that_was_made(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Cache:
        def __init__(self) -> None:
            self._kept: ToolResult | None = None

        @hookimpl
        async def wrap_tool_call(self, call: Any, call_next: Any) -> ToolResult:
            self._kept = self._kept or await call_next(call)
            return self._kept

    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        return "seen"

    model.say(Call("look", id="a"), Call("look", id="b"), "done")
    agent = BaseAgent(signature=QUESTION, tools=[look], hooks=[Cache()], kernel=kernel)
    result = await agent.run(question="?")
    ids = [message.tool_use_id for message in result.messages if message.role == "tool"]
    assert ids == ["a", "b"]


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_call_that_was_stopped_while_it_ran_is_of_unknown_outcome(
    kernel: Kernel, model: ScriptedModel, idempotent: bool
) -> None:
    runs: list[Run] = []

    @tool(danger="low", writes=True, idempotent=idempotent)
    async def pay() -> str:
        """Pay."""
        runs.append(current_run())
        current_run().interrupt(IMMEDIATE)
        await anyio.sleep_forever()
        return "never"

    model.say([Call("pay", id="first"), Call("pay", id="second")])
    agent = BaseAgent(signature=QUESTION, tools=[pay], kernel=kernel)
    with pytest.raises(AgentInterrupted):
        await agent.run(question="?")

    state = runs[0].state
    ended = [each for each in runs[0].log.entries if isinstance(each, ToolFinished)]
    assert [(each.call_id, each.outcome) for each in ended] == [
        ("first", "unknown"),
        ("second", "not_made"),
    ]
    assert ended[0].error_code == "TOOL_004"
    assert [each.call_id for each in state.unknown] == ([] if idempotent else ["first"])


async def test_what_a_tool_did_is_kept_when_a_gate_breaks_afterwards(
    kernel: Kernel, model: ScriptedModel
) -> None:
    runs: list[Run] = []

    class Broken:
        @hookimpl
        async def wrap_tool_call(self, call: Any, call_next: Any) -> ToolResult:
            result = await call_next(call)
            runs.append(current_run())
            raise OSError(f"cannot write the audit of {result.name}")

    @tool(danger="low", writes=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    model.say(Call("pay"))
    agent = BaseAgent(signature=QUESTION, tools=[pay], hooks=[Broken()], kernel=kernel)
    with pytest.raises(OSError, match="audit of pay"):
        await agent.run(question="?")
    (ended,) = (each for each in runs[0].log.entries if isinstance(each, ToolFinished))
    assert ended.outcome == "known"
    assert "paid" not in ended.content
    assert "ran, but a hook failed" in ended.content


async def test_a_gate_may_refuse_the_output_of_a_tool(
    kernel: Kernel, model: ScriptedModel
) -> None:
    class Redact:
        @hookimpl
        async def wrap_tool_call(self, call: Any, call_next: Any) -> ToolResult:
            await call_next(call)
            raise ToolRefusedError("the result", "holds a secret")

    @tool(danger="low")
    async def look() -> str:
        """Look."""
        return "s3cret"

    model.say(Call("look"), "done")
    agent = BaseAgent(signature=QUESTION, tools=[look], hooks=[Redact()], kernel=kernel)
    result = await agent.run(question="?")
    assert "holds a secret" in result.messages[-2].text
    assert "s3cret" not in str(result.messages)


async def test_a_timeout_leaves_the_outcome_unknown(
    kernel: Kernel, model: ScriptedModel
) -> None:
    @tool(danger="low", writes=True, timeout_s=0.01)
    async def pay() -> str:
        """Pay."""
        await anyio.sleep_forever()
        return "never"

    agent = BaseAgent(signature=QUESTION, tools=[pay], kernel=kernel)
    result = await agent.execute_tool("pay")
    assert (result.success, result.outcome, result.error_code) == (
        False,
        "unknown",
        "TOOL_003",
    )


async def test_an_agent_uses_the_default_kernel_of_the_loop_that_it_runs_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from kaizen import _default

    opened: list[ScriptedModel] = []

    class OwnPlugin:
        @hookimpl
        def contribute(self, registry: Any) -> None:
            registry.add(Provider, "own", self._open)

        def _open(self) -> ScriptedModel:
            opened.append(ScriptedModel(*[f"loop {len(opened)}"] * 3))
            return opened[-1]

    def kernel() -> Kernel:
        return Kernel(plugins=[OwnPlugin], discover=False, config_file=False, environ={})

    monkeypatch.setattr(_default, "Kernel", kernel)
    agent = BaseAgent({"llm_provider": "own"}, QUESTION)
    assert (await agent.run(question="?")).answer == "loop 0"
    assert agent.run_sync(question="?").answer == "loop 1"
    assert (await agent.run(question="?")).answer in ("loop 0", "loop 2")


async def test_a_kernel_of_another_thread_is_refused(kernel: Kernel) -> None:
    agent = BaseAgent(signature=QUESTION, kernel=kernel)

    def elsewhere() -> None:
        run_sync(agent.run(question="?"))

    with pytest.raises(InitializationError, match="event loop of another thread"):
        await anyio.to_thread.run_sync(elsewhere)


async def test_a_run_in_another_loop_is_no_child(
    kernel: Kernel, model: ScriptedModel
) -> None:
    other = BaseAgent(
        {"llm_provider": "scripted"},
        QUESTION,
        kernel=Kernel(
            plugins=[ModelPlugin(ScriptedModel("elsewhere"))],
            discover=False,
            config_file=False,
            environ={},
        ),
    )

    @tool(danger="safe")
    def ask() -> str:
        """Ask in another loop."""
        return str(other.run_sync(question="?").answer)

    model.say(Call("ask"), "done")
    agent = BaseAgent(signature=QUESTION, tools=[ask], kernel=kernel)
    async with agent.stream(question="?") as run:
        result = await run.wait()
    assert result.messages[-2].text == "elsewhere"
    assert "child_ended" not in [each.type for each in run.log.entries]
    assert replace(result.usage, requests=2) == result.usage
