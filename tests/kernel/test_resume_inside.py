"""What a resumed run does with what is inside it: other runs, gates, retries, decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    CallNext,
    Cycle,
    CycleEvent,
    CycleRequest,
    CycleResult,
    InterruptMode,
    InterruptReason,
    Kernel,
    ModelReply,
    ModelRequest,
    Result,
    RunRequest,
    ToolCall,
    ToolRefusedError,
    ToolResult,
    current_run,
    hookimpl,
    tool,
)
from kaizen.checkpoints import fork, read_log, rewind
from kaizen.errors import (
    AgentCreationError,
    AgentInterrupted,
    ModelError,
    OutcomeUnknownError,
)
from kaizen.hookspecs import AgentLoop
from kaizen.runlog import Asked, CycleGave, Marked, Reserved, RunEnded, Steered
from kaizen.testing import Call, Line, MemoryCheckpointStore, ModelPlugin, ScriptedModel

from tests.kernel.test_interrupts import assert_valid

pytestmark = pytest.mark.anyio

NOW = InterruptReason(mode=InterruptMode.IMMEDIATE, message="now")


class Model(ScriptedModel):
    """Speaks its script as the outer agent, and answers what others are asked."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        await anyio.lowlevel.checkpoint()
        if request.agent_id in ("judge", "reader"):
            self.requests.append(request)
            return ModelReply(text=f"re {request.messages[-1].text.split()[-1]}")
        return await super().complete(request)


class World:
    """A store, a model, and what was done; each call of `agent` gives the same agent.

    Attributes:
        done: What the tools did, in order.
        crash: Whether what may stop the run stops it.
    """

    def __init__(self, *lines: Line) -> None:
        self.store = MemoryCheckpointStore()
        self.model = Model(*lines)
        self.done: list[str] = []
        self.crash = True
        self.inside: BaseAgent | None = None

    def kernel(self, *plugins: object) -> Kernel:
        return Kernel(
            plugins=[ModelPlugin(self.model), *plugins],
            discover=False,
            config_file=False,
            environ={},
            config={"default_provider": "scripted"},
        )

    def agent(self, kernel: Kernel, name: str, *tools: Any, **options: Any) -> BaseAgent:
        return BaseAgent(
            options.pop("config", None),
            options.pop("signature", "question -> answer"),
            tools=tools,
            kernel=kernel,
            name=name,
            store=self.store,
            **options,
        )

    async def stop(self) -> None:
        """Stop the outermost run at once, where it is."""
        if self.crash:
            run = current_run()
            while run.parent is not None:
                run = run.parent
            run.interrupt(NOW)
            await anyio.sleep_forever()

    async def ask(self, question: str) -> str:
        assert self.inside is not None
        return str((await self.inside.run(question=question)).answer)

    async def stopped(self, agent: BaseAgent) -> str:
        with pytest.raises(AgentInterrupted) as caught:
            await agent.run(question="?")
        self.crash = False
        return caught.value.run_id

    def pay_tool(self) -> Any:
        @tool(danger="low", writes=True)
        async def pay() -> str:
            """Pay, once."""
            self.done.append("paid")
            await self.stop()
            return "paid"

        return pay


async def test_a_decision_for_all_calls_is_about_those_of_the_run_alone() -> None:
    world = World(Call("delegate"), Call("pay"), "inner done", "done")

    @tool(danger="low", writes=True)
    async def delegate() -> str:
        """Ask another agent."""
        return await world.ask("x")

    async with world.kernel() as kernel:
        world.inside = world.agent(kernel, "inner", world.pay_tool())
        outer = world.agent(kernel, "outer", delegate)
        run_id = await world.stopped(outer)

        with pytest.raises(OutcomeUnknownError) as first:
            await outer.resume(run_id)
        with pytest.raises(OutcomeUnknownError) as second:
            await outer.resume(run_id, decision="repeat")

        (own,), (inner,) = first.value.calls, second.value.calls
        assert own.startswith(run_id)
        assert not inner.startswith(run_id)
        assert world.done == ["paid"]
        result = await outer.resume(run_id, decision={own: "repeat", inner: "done"})
    assert result.answer == "done"
    assert world.done == ["paid"]


async def test_a_gate_gets_no_verdict_that_was_about_another_call() -> None:
    world = World([Call("act", {"what": "good"}), Call("act", {"what": "evil"})], "done")

    @tool(danger="low", writes=True)
    async def act(what: str) -> str:
        """Act."""
        world.done.append(what)
        return "ok"

    class Gate:
        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            if call.arguments["what"] == "evil":
                await world.stop()
            if await world.ask(str(call.arguments["what"])) != "re good":
                raise ToolRefusedError("the call", "is refused")
            return await call_next(call)

    async with world.kernel(Gate()) as kernel:
        world.inside = world.agent(kernel, "judge")
        outer = world.agent(kernel, "outer", act)
        run_id = await world.stopped(outer)
        await outer.resume(run_id)

    assert world.done == ["good"]


async def test_runs_begun_at_once_get_their_own_answers_again() -> None:
    world = World(Call("fan"), "done")
    letters = "abcdef"

    @tool(danger="safe")
    async def fan() -> str:
        """Ask for many at once."""
        answers: dict[str, str] = {}

        async def one(letter: str) -> None:
            answers[letter] = await world.ask(letter)

        async with anyio.create_task_group() as tasks:
            for letter in letters if world.crash else letters[::-1]:
                tasks.start_soon(one, letter)
        await world.stop()
        return str(sorted(answers.items()))

    async with world.kernel() as kernel:
        world.inside = world.agent(kernel, "reader")
        outer = world.agent(kernel, "outer", fan)
        run_id = await world.stopped(outer)
        asked = len(world.model.requests)
        result = await outer.resume(run_id)

    expected = str(sorted((letter, f"re {letter}") for letter in letters))
    assert result.messages[-2].text == expected
    assert len(world.model.requests) == asked + 1


class Planning:
    """Asks another agent, marks, plans, and asks again."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def execute(self, signature: Any, inputs: Any, config: Any) -> Mapping[str, Any]:
        run = current_run()
        first = await self._world.ask("first")
        await run.checkpoint("planning")
        plan = (await run.cycle()).reply.text
        return {"answer": f"{first}, {await self._world.ask(plan)}"}


async def test_what_was_undone_is_done_anew_and_what_was_shared_is_not() -> None:
    world = World("plan-A", "plan-B", "plan-C")
    async with world.kernel() as kernel:
        world.inside = world.agent(kernel, "reader")
        outer = world.agent(kernel, "outer", strategy=Planning(world))
        result = await outer.run(question="?")
        log = await read_log(world.store, result.run_id)
        (mark,) = [each.mark_id for each in log if isinstance(each, Marked)]
        branch = await fork(world.store, mark)
        await rewind(world.store, mark)

        again = await outer.resume(result.run_id)
        other = await outer.resume(branch)

    answers = (result.answer, again.answer, other.answer)
    assert answers == (
        "re first, re plan-A",
        "re first, re plan-B",
        "re first, re plan-C",
    )
    asked = [each.messages[-1].text for each in world.model.requests]
    assert sum("first" in each for each in asked) == 1


async def test_what_was_cut_off_in_a_shared_run_inside_needs_a_decision_in_a_fork() -> None:
    world = World(Call("ask"), Call("pay"), "inner done", "done")

    @tool(danger="safe")
    async def ask() -> str:
        """Ask another agent."""
        return await world.ask("x")

    async with world.kernel() as kernel:
        world.inside = world.agent(kernel, "inner", world.pay_tool())
        outer = world.agent(kernel, "outer", ask)
        branch = await fork(world.store, await world.stopped(outer))
        with pytest.raises(OutcomeUnknownError) as caught:
            await outer.resume(branch)
        (call,) = caught.value.calls
        with pytest.raises(OutcomeUnknownError) as again:
            await outer.resume(branch)
        assert again.value.calls == (call,)
        result = await outer.resume(branch, decision={call: "done"})
    assert result.answer == "done"
    assert world.done == ["paid"]


async def test_a_run_inside_may_be_resumed_by_itself() -> None:
    world = World(Call("ask"), "inner done", "done")

    @tool(danger="low", writes=True)
    async def put() -> str:
        """Put."""
        world.done.append("put")
        return "put"

    class Putting:
        async def execute(
            self, signature: Any, inputs: Any, config: Any
        ) -> Mapping[str, Any]:
            run = current_run()
            await run.agent.execute_tool("put")
            await world.stop()
            return {"answer": (await run.cycle()).reply.text}

    @tool(danger="safe")
    async def ask() -> str:
        """Ask another agent."""
        return await world.ask("x")

    async with world.kernel() as kernel:
        world.inside = world.agent(kernel, "inner", put, strategy=Putting())
        await world.stopped(world.agent(kernel, "outer", ask))
        (inner,) = await world.store.runs(agent_id="inner")
        assert (await world.inside.resume(inner.run_id)).answer == "inner done"
    assert world.done == ["put"]


async def test_a_run_inside_that_is_followed_is_taken_up_as_well() -> None:
    world = World(Call("follow"), "done")

    @tool(danger="safe")
    async def follow() -> str:
        """Ask another agent, and follow it."""
        assert world.inside is not None
        async with world.inside.stream(question="x") as run:
            answer = str((await run.wait()).answer)
        await world.stop()
        return answer

    async with world.kernel() as kernel:
        world.inside = world.agent(kernel, "reader")
        outer = world.agent(kernel, "outer", follow)
        result = await outer.resume(await world.stopped(outer))
    assert result.messages[-2].text == "re x"
    assert sum(each.agent_id == "reader" for each in world.model.requests) == 1


async def test_what_failed_before_another_attempt_fails_again_and_does_nothing() -> None:
    world = World()

    @tool(danger="safe")
    async def ask() -> str:
        """Ask another agent."""
        return await world.ask("x")

    class Retry:
        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            if call.name != "ask":
                return await call_next(call)
            result = await call_next(call)
            if not result.success:
                result = await call_next(call)
            await world.stop()
            return result

    world.model.say(
        Call("ask"), ModelError("p", "is overloaded"), Call("pay"), "ok", "done"
    )
    pay = world.pay_tool()
    world.crash = False
    async with world.kernel(Retry()) as kernel:
        world.inside = world.agent(kernel, "inner", pay)
        outer = world.agent(kernel, "outer", ask)
        world.model.say("done")
        # What a crash leaves, just before the result of `ask` was written down.
        kept = await outer.run(question="?")
        log = world.store._logs[kept.run_id]
        at = max(n for n, each in enumerate(log) if each.type == "child_ended")
        world.store._logs[kept.run_id] = log[: at + 1]
        record = world.store._records[kept.run_id]
        world.store._records[kept.run_id] = replace(record, status="running", length=at + 1)
        result = await outer.resume(kept.run_id)
    assert world.done == ["paid"]
    assert result.messages[-2].text == "ok"


async def test_what_middleware_made_of_a_turn_it_stays() -> None:
    class Redact:
        @hookimpl
        async def wrap_cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
            result = await call_next(request)
            text = result.reply.text.replace("SECRET", "***")
            return replace(result, reply=replace(result.reply, text=text))

    class Twice:
        async def execute(
            self, signature: Any, inputs: Any, config: Any
        ) -> Mapping[str, Any]:
            run = current_run()
            first = (await run.cycle()).reply.text
            await world.stop()
            return {"answer": f"{first}, {(await run.cycle()).reply.text}"}

    for crash in (True, False):
        world = World("the SECRET", "no SECRET")
        world.crash = crash
        async with world.kernel(Redact()) as kernel:
            agent = world.agent(kernel, "outer", strategy=Twice())
            if crash:
                run_id = await world.stopped(agent)
            else:  # the last turn is on record, and the end of the run is not
                run_id = (await agent.run(question="?")).run_id
                world.store._logs[run_id].pop()
            assert (await agent.resume(run_id)).answer == "the ***, no ***"
            log = await read_log(world.store, run_id)
            gave = [each for each in log if isinstance(each, CycleGave)]
            assert {each.text for each in gave} == {"the ***", "no ***"}


async def test_a_turn_that_was_repeated_leaves_a_valid_history() -> None:
    world = World(
        Call("look", id="c1"), Call("look", id="c2"), Call("wait", id="c3"), "done"
    )
    calls: list[str] = []

    class Flaky:
        @hookimpl
        async def wrap_cycle(self, request: CycleRequest, call_next: Cycle) -> CycleResult:
            try:
                return await call_next(request)
            except ValueError:
                return await call_next(request)

        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            calls.append(call.id)
            if len(calls) == 1:
                raise ValueError("the gate is down")
            return await call_next(call)

    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        return "seen"

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        await world.stop()
        return "waited"

    async with world.kernel(Flaky()) as kernel:
        outer = world.agent(kernel, "outer", look, wait)
        result = await outer.resume(await world.stopped(outer))
    assert result.answer == "done"
    assert calls == ["c1", "c2", "c3", "c3"]
    assert_valid(result.messages)
    for request in world.model.requests:
        assert_valid(request.messages)


async def test_a_turn_that_failed_and_was_passed_over_is_passed_over_again() -> None:
    world = World(ModelError("p", "is overloaded"), Call("wait", id="c1"), "done")

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        await world.stop()
        return "waited"

    failures: list[str] = []

    class Patient:
        async def execute(
            self, signature: Any, inputs: Any, config: Any
        ) -> Mapping[str, Any]:
            run = current_run()
            while True:
                try:
                    result = await run.cycle()
                except ModelError as error:
                    failures.append(error.provider)
                    continue
                if result.done:
                    return {"answer": result.reply.text}

    async with world.kernel() as kernel:
        outer = world.agent(kernel, "outer", wait, strategy=Patient())
        result = await outer.resume(await world.stopped(outer))
    assert result.answer == "done"
    assert failures == ["p", "p"]
    assert len(world.model.requests) == 3
    assert_valid(result.messages)


async def test_the_value_of_a_call_comes_back_as_it_was() -> None:
    world = World("done")

    @tool(danger="low", writes=True)
    async def put(n: int) -> dict[str, int]:
        """Put."""
        world.done.append(str(n))
        return {"id": n}

    class Counting:
        async def execute(
            self, signature: Any, inputs: Any, config: Any
        ) -> Mapping[str, Any]:
            run = current_run()
            got = await run.agent.execute_tool("put", {"n": 1})
            await world.stop()
            return {"answer": f"{got.result['id']} {(await run.cycle()).reply.text}"}

    async with world.kernel() as kernel:
        outer = world.agent(kernel, "outer", put, strategy=Counting())
        result = await outer.resume(await world.stopped(outer))
    assert result.answer == "1 done"
    assert world.done == ["1"]


async def test_inputs_that_middleware_changed_are_not_changed_twice() -> None:
    world = World(Call("wait"), "done")

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        await world.stop()
        return str(current_run().inputs["question"])

    class Polite:
        @hookimpl
        async def wrap_agent_loop(
            self, request: RunRequest, call_next: AgentLoop
        ) -> Result:
            asked = f"please: {request.inputs['question']}"
            return await call_next(replace(request, inputs={"question": asked}))

    async with world.kernel(Polite()) as kernel:
        outer = world.agent(kernel, "outer", wait)
        result = await outer.resume(await world.stopped(outer))
    assert result.messages[-2].text == "please: ?"


async def test_a_call_that_may_be_repeated_is_left_out_if_somebody_says_so() -> None:
    world = World(Call("put", id="c1"), "done")

    @tool(danger="low", writes=True, idempotent=True)
    async def put() -> str:
        """Put."""
        world.done.append("put")
        await world.stop()
        return "put"

    async with world.kernel() as kernel:
        outer = world.agent(kernel, "outer", put)
        run_id = await world.stopped(outer)
        result = await outer.resume(run_id, decision={"c1": "skip"})
    assert result.answer == "done"
    assert world.done == ["put"]


async def test_a_run_that_was_refused_before_it_began_leaves_nothing_in_the_store() -> None:
    class Closed:
        @hookimpl
        async def wrap_agent_loop(
            self, request: RunRequest, call_next: AgentLoop
        ) -> Result:
            raise PermissionError("closed")

    world = World()
    async with world.kernel(Closed()) as kernel:
        with pytest.raises(PermissionError):
            await world.agent(kernel, "outer").run(question="?")
    assert list(await world.store.runs()) == []


async def test_a_message_that_came_after_feedback_does_not_hide_the_retry() -> None:
    class Late:
        @hookimpl
        async def pre_cycle(self, event: CycleEvent) -> None:
            run = current_run()
            if event.request.cycle == 2 and world.crash:
                run.steer("hurry")
            if event.request.cycle == 3 and world.crash:
                run.interrupt(NOW)

    world = World("bad", "bad", "bad", "bad", "bad")
    async with world.kernel(Late()) as kernel:
        outer = world.agent(
            kernel,
            "outer",
            signature="question -> n: int",
            config={"max_output_retries": 2},
        )
        run_id = await world.stopped(outer)
        with pytest.raises(Exception, match="does not fit"):
            await outer.resume(run_id)
    assert len(world.model.requests) == 3


async def test_an_answer_that_does_not_know_what_was_said_costs_no_retry() -> None:
    world = World("one", "two")

    class Late:
        @hookimpl
        async def post_cycle(self, event: CycleEvent) -> None:
            if event.request.cycle == 1:
                current_run().steer("hurry")

    async with world.kernel(Late()) as kernel:
        outer = world.agent(kernel, "outer", config={"max_output_retries": 0})
        result = await outer.run(question="?")
    assert result.answer == "two"
    log = await read_log(world.store, result.run_id)
    assert any(isinstance(each, Steered) for each in log)


async def test_a_run_that_is_resumed_inside_another_stops_with_it() -> None:
    world = World(Call("wait"), Call("take_up"))
    resumed: list[str] = []

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        await world.stop()
        current_run().parent.interrupt(NOW)  # type: ignore[union-attr]
        await anyio.sleep_forever()
        return ""

    @tool(danger="safe")
    async def take_up() -> str:
        """Go on with another run."""
        assert world.inside is not None
        await world.inside.resume(resumed[0])
        return ""

    async with world.kernel() as kernel:
        world.inside = world.agent(kernel, "inner", wait)
        resumed.append(await world.stopped(world.inside))
        with pytest.raises(AgentInterrupted), anyio.fail_after(5):
            await world.agent(kernel, "outer", take_up).run(question="?")
    log = await read_log(world.store, resumed[0])
    ends = [each.status for each in log if isinstance(each, RunEnded)]
    assert ends == ["interrupted", "interrupted"]


@pytest.mark.parametrize("what", ["pause", "interrupt"])
async def test_what_is_asked_from_outside_is_in_the_store_soon(what: str) -> None:
    world = World(Call("wait"), "done")
    seen: list[str] = []

    @tool(danger="safe")
    async def wait() -> str:
        """Wait until the store knows."""
        run = current_run()
        asked: Callable[[], object] = getattr(run, what)
        asked()
        with anyio.fail_after(5):
            while not seen:
                await anyio.lowlevel.checkpoint()
                kept = await read_log(world.store, run.id)
                seen.extend(each.type for each in kept[-1:] if each.type.startswith(what))
        run.resume()
        return "waited"

    async with world.kernel() as kernel:
        outer = world.agent(kernel, "outer", wait)
        if what == "pause":
            await outer.run(question="?")
        else:
            with pytest.raises(AgentInterrupted):
                await outer.run(question="?")
    assert seen == ["paused" if what == "pause" else "interrupted"]


def test_an_agent_has_one_store() -> None:
    class Manager:
        storage = MemoryCheckpointStore()

        @hookimpl
        async def post_cycle(self, event: CycleEvent) -> None: ...

    manager = Manager()
    BaseAgent(signature="a -> b", store=manager.storage, state_manager=manager)
    with pytest.raises(AgentCreationError, match="another one"):
        BaseAgent(signature="a -> b", store=MemoryCheckpointStore(), state_manager=manager)
    with pytest.raises(AgentCreationError, match="has no `storage`"):
        BaseAgent(signature="a -> b", state_manager=MemoryCheckpointStore())  # type: ignore[arg-type]


async def test_what_is_said_of_one_run_is_not_said_of_others() -> None:
    world = World("done", "done")
    async with world.kernel() as kernel:
        for agent in (
            world.agent(kernel, "a"),
            world.agent(kernel, "b").bind(metadata={"user_id": "ann"}),
        ):
            async with agent.stream(question="?") as run:
                metadata: Any = run.metadata
                with pytest.raises(TypeError):
                    metadata["user_id"] = "bob"


async def test_questions_and_reservations_are_still_open_after_a_resume() -> None:
    world = World(Call("wait"), "done")
    seen: dict[str, Any] = {}

    @tool(danger="safe")
    async def wait() -> str:
        """Wait."""
        run = current_run()
        if world.crash:
            log, seq = run.log, len(run.log.entries)
            log.append(Asked(seq=seq, at=0.0, request_id="q", kind="question", text="?"))
            log.append(
                Reserved(seq=seq + 1, at=0.0, reservation_id="b", amount_usd=Decimal(2))
            )
        await world.stop()
        seen.update(questions=[*run.state.questions], reserved=dict(run.state.reserved))
        return "waited"

    async with world.kernel() as kernel:
        outer = world.agent(kernel, "outer", wait)
        run_id = await world.stopped(outer)
        result = await outer.resume(run_id)
    assert result.run_id == run_id
    assert seen == {"questions": ["q"], "reserved": {"b": Decimal(2)}}
