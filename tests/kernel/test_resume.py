"""Going on with a run: whatever stopped it, it ends the same, and repeats nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import anyio
import pytest
from kaizen import (
    BaseAgent,
    BaseProvider,
    Decision,
    InterruptMode,
    InterruptReason,
    Kernel,
    Message,
    ModelReply,
    ModelRequest,
    Result,
    Run,
    Signature,
    SignatureParser,
    ToolContext,
    ToolUse,
    Usage,
    current_run,
    tool,
)
from kaizen.checkpoints import fork, read_log, rewind
from kaizen.errors import (
    AgentInterrupted,
    CheckpointLoadError,
    CheckpointSaveError,
    ConfigurationError,
    KaizenError,
    ModelError,
    OutcomeUnknownError,
    RunError,
    StorageUnavailableError,
)
from kaizen.ports import StoredEntry
from kaizen.runlog import ChildEnded, RunState, ToolFinished, fold
from kaizen.testing import MemoryCheckpointStore, ModelPlugin, RecordingPlugin
from kaizen.tools import FunctionTool

pytestmark = pytest.mark.anyio

QUESTION = SignatureParser().parse("question -> answer")
GRACEFUL = InterruptReason(message="enough")
IMMEDIATE = InterruptReason(mode=InterruptMode.IMMEDIATE, message="now")
COST = Decimal("0.01")

Turn = str | tuple[str, ...] | ModelReply | Exception
Shape = list[tuple[Any, ...]]

OUTER: tuple[Turn, ...] = (
    ("put",),
    ("look", "look", "write"),
    ("ask",),
    ("bundle",),
    "the answer",
)
INNER: tuple[Turn, ...] = (("write",), "the inner answer")


class Script(BaseProvider):
    """Says what comes next in a conversation, whatever kernel it is asked from."""

    name = "script"

    def __init__(self, world: World) -> None:
        self._world = world

    async def complete(self, request: ModelRequest) -> ModelReply:
        world = self._world
        await world.pass_by()
        world.requests.append(request)
        said = sum(each.role == "assistant" for each in request.messages)
        turn = world.turns[request.agent_id][said]
        if isinstance(turn, Exception):
            raise turn
        if isinstance(turn, ModelReply):
            return turn
        await world.pass_by()
        uses: tuple[ToolUse, ...] = ()
        if not isinstance(turn, str):
            uses = tuple(
                ToolUse(id=f"use_{said}_{place}", name=name, arguments={})
                for place, name in enumerate(turn)
            )
        return ModelReply(
            text="" if uses else str(turn),
            tool_uses=uses,
            usage=Usage(requests=1, input_tokens=10, output_tokens=5),
            finish_reason="tool_calls" if uses else "stop",
            cost_usd=COST,
        )


class World:
    """What outlives a kernel: the store, the effects of the tools, and what models say.

    Attributes:
        effects: How often each call had its effect, by its idempotency key.
        passed: How many places were passed where something may happen.
        stop_at: The place at which `stop` is called, or 0.
    """

    def __init__(
        self,
        store: MemoryCheckpointStore | None = None,
        *turns: Turn,
        strategy: Any = None,
        signature: str | type[Signature] = QUESTION,
        **config: Any,
    ) -> None:
        self.store = store or MemoryCheckpointStore()
        self.turns: dict[str, Sequence[Turn]] = {"outer": turns or OUTER, "inner": INNER}
        self.requests: list[ModelRequest] = []
        self.effects: Counter[str] = Counter()
        self.recording = RecordingPlugin()
        self.passed = 0
        self.stop_at = 0
        self.stop: Callable[[], object] = lambda: None
        self._config = {"llm_provider": "script", **config}
        self._strategy = strategy
        self._signature = SignatureParser().parse(signature)
        self._own_tools = self._tools()

    async def pass_by(self) -> None:
        self.passed += 1
        if self.passed == self.stop_at:
            self.stop()
        await anyio.lowlevel.checkpoint()

    def kernel(self, *plugins: object) -> Kernel:
        return Kernel(
            plugins=[ModelPlugin(Script(self), "script"), self.recording, *plugins],
            discover=False,
            config_file=False,
            environ={},
        )

    def _tools(self) -> list[FunctionTool]:
        async def act(context: ToolContext) -> str:
            await self.pass_by()
            self.effects[context.idempotency_key] += 1
            await self.pass_by()
            return "acted"

        @tool(danger="safe")
        async def look() -> str:
            """Look."""
            await self.pass_by()
            return "seen"

        @tool(danger="low", writes=True)
        async def write(context: ToolContext) -> str:
            """Write; a repeat is not harmless."""
            return await act(context)

        @tool(danger="low", writes=True, idempotent=True)
        async def put(context: ToolContext) -> str:
            """Write; a repeat is harmless."""
            if context.idempotency_key in self.effects:
                return "acted"
            return await act(context)

        @tool(danger="low", writes=True, idempotent=True)
        async def ask() -> str:
            """Ask another agent."""
            inner = self.agent(current_run().kernel, "inner")
            return str((await inner.run(question="inside?")).answer)

        @tool(danger="low", writes=True, idempotent=True)
        async def bundle() -> str:
            """Make calls that no model asked for."""
            agent = current_run().agent
            first = await agent.execute_tool("write")
            second = await agent.execute_tool("put")
            return f"{first.content}, {second.content}"

        return [look, write, put, ask, bundle]

    def agent(self, kernel: Kernel, agent_id: str = "outer") -> BaseAgent:
        return BaseAgent(
            self._config,
            self._signature if agent_id == "outer" else QUESTION,
            tools=self._own_tools,
            strategy=self._strategy if agent_id == "outer" else None,
            kernel=kernel,
            store=self.store,
            agent_id=agent_id,
        )

    async def run(self) -> Result:
        async with self.kernel() as kernel:
            return await self.agent(kernel).run(question="?")

    async def resume(self, run_id: str, **options: Any) -> Result:
        async with self.kernel() as kernel:
            return await self.agent(kernel).resume(run_id, **options)

    async def stopped(self) -> str:
        """Run until something stops the run; return its id."""
        with pytest.raises(AgentInterrupted):
            await self.run()
        return await self.run_id()

    async def run_id(self) -> str:
        """The outermost run in the store, or `""`."""
        runs = [each.run_id for each in await self.store.runs() if not each.parent_id]
        assert len(runs) <= 1
        return runs[0] if runs else ""

    async def finished(self, run_id: str) -> Result:
        """Resume a run until it ends, and find out for it what it cannot know."""
        decision: Any = None
        for _ in range(4):
            try:
                return await self.resume(run_id, decision=decision)
            except OutcomeUnknownError as error:
                calls = error.calls
            assert calls
            decision = {each: self.found_out(each) for each in calls}
        raise AssertionError("no decision settles it")

    def found_out(self, call: str) -> Decision:
        """What a person would find out about a call that was cut off."""
        if call in self.effects:
            return Decision(action="done", content="acted", by="a person")
        return Decision(action="repeat", by="a person")

    async def state(self, run_id: str) -> RunState:
        return fold(await read_log(self.store, run_id))


async def cut_off_and_changed(*, then: bool, now: bool | None) -> list[str]:
    """Cut a call off, change or remove its tool, resume; return the call's effects."""
    world = World(None, ("act",), "the answer")
    effects: list[str] = []

    def act(idempotent: bool) -> FunctionTool:
        @tool(danger="low", writes=True, idempotent=idempotent)
        async def act() -> str:
            """Act."""
            effects.append("acted")
            if len(effects) == 1:
                current_run().interrupt(IMMEDIATE)
                await anyio.sleep_forever()
            return "done"

        return act

    world._own_tools = [act(then)]
    run_id = await world.stopped()
    world._own_tools = [] if now is None else [act(now)]
    await world.resume(run_id)
    return effects


async def test_a_call_is_repeated_if_its_tool_says_then_and_now_that_this_is_harmless() -> (
    None
):
    assert await cut_off_and_changed(then=True, now=True) == ["acted", "acted"]
    with pytest.raises(OutcomeUnknownError, match="which has changed since"):
        await cut_off_and_changed(then=True, now=False)
    with pytest.raises(OutcomeUnknownError, match="which has changed since"):
        await cut_off_and_changed(then=False, now=True)
    with pytest.raises(OutcomeUnknownError) as caught:
        await cut_off_and_changed(then=False, now=False)
    assert "changed" not in str(caught.value)
    with pytest.raises(OutcomeUnknownError, match="which is a tool no more"):
        await cut_off_and_changed(then=True, now=None)


def shape(messages: Sequence[Message]) -> Shape:
    """A conversation, but for the order of the results of one turn. Checks it, too."""
    shapes: Shape = []
    due: set[str] = set()
    for message in messages:
        if message.role == "tool":
            assert message.tool_use_id in due, "a result nobody waits for"
            due.remove(message.tool_use_id)
        else:
            assert not due, f"{message.role} comes before the results of {due}"
        due |= {use.id for use in message.tool_uses}
        uses = tuple(use.id for use in message.tool_uses)
        shapes.append((message.role, message.text, uses, message.tool_use_id))
    assert not due
    turn = 0
    placed = []
    for place, each in enumerate(shapes):
        turn = turn if each[0] == "tool" else place
        placed.append((turn, each[3], each))
    return [each for _, _, each in sorted(placed, key=lambda item: item[:2])]


async def clean(world: World) -> tuple[Result, World]:
    """What comes of a run that nothing stops."""
    result = await world.run()
    assert set(world.effects.values()) == {1}
    return result, world


def assert_same(world: World, result: Result, expected: Result, other: World) -> None:
    """Two runs came to the same: the answer, the conversation, the account, the effects."""
    assert result.outputs == expected.outputs
    assert shape(result.messages) == shape(expected.messages)
    assert set(world.effects.values()) == {1}, world.effects
    assert len(world.effects) == len(other.effects)
    assert result.tool_calls == expected.tool_calls


# Whatever stops it.

How = Literal["refuses", "writes and fails", "hangs", "is cancelled"]


class Failing(MemoryCheckpointStore):
    """Fails at one of its writes, and from then on until it is mended."""

    def __init__(self, at: int = 0, how: How = "refuses") -> None:
        super().__init__()
        self.writes = 0
        self.broken = False
        self.scope = anyio.CancelScope()
        self._at = at
        self._how = how

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        self.writes += 1
        if self.broken:
            raise StorageUnavailableError("the disk", "is gone")
        if self.writes == self._at:
            self.broken = True
            if self._how == "refuses":
                raise StorageUnavailableError("the disk", "is gone")
            if self._how == "is cancelled":
                self.scope.cancel()
                await anyio.lowlevel.checkpoint()
            if self._how == "hangs":
                self.scope.cancel()
                await super().append(run_id, entries, token=token)
                await anyio.sleep_forever()
            await super().append(run_id, entries, token=token)
            raise StorageUnavailableError("the disk", "went after the write")
        await super().append(run_id, entries, token=token)


@pytest.mark.parametrize("how", ["refuses", "writes and fails", "hangs", "is cancelled"])
async def test_a_run_survives_its_store_at_every_write(
    how: How, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaizen._keeping.STORE_TIMEOUT_S", 0.05)
    store = Failing()
    expected, other = await clean(World(store))
    assert store.writes > 30

    for at in range(1, store.writes + 1):
        store = Failing(at, how)
        world = World(store)
        with anyio.fail_after(10), store.scope:
            with pytest.raises(KaizenError) as caught:
                await world.run()
            assert caught.value.code.startswith("CHECKPOINT_")
        store.broken = False
        run_id = await world.run_id()
        result = await world.finished(run_id) if run_id else await world.run()

        assert_same(world, result, expected, other)
        assert (await world.state(result.run_id)).status == "completed"
        # A reply that nobody kept has to be asked for again, and that costs.
        assert 0 <= result.usage.requests - expected.usage.requests <= 1


@pytest.mark.parametrize("how", ["graceful", "immediate", "cancelled", "failing"])
async def test_a_run_that_was_stopped_anywhere_comes_to_the_same_end(how: str) -> None:
    expected, other = await clean(World())

    for at in range(1, other.passed + 1):
        world = World()
        world.stop_at = at
        scope = anyio.CancelScope()

        def stop(scope: anyio.CancelScope = scope) -> None:
            if how == "cancelled":
                scope.cancel()
            elif how == "failing":
                raise ModelError("script", "is overloaded")
            else:
                outermost(current_run()).interrupt(
                    GRACEFUL if how == "graceful" else IMMEDIATE
                )

        world.stop = stop
        stopped = True
        with anyio.fail_after(10), scope:
            try:
                result = await world.run()
                stopped = False
            except (AgentInterrupted, ModelError):
                pass
        run_id = await world.run_id()
        assert shape((await world.state(run_id)).messages)
        if stopped:
            assert (await world.state(run_id)).status in (
                *("interrupted", "cancelled", "failed"),
            )
            result = await world.finished(run_id)

        assert result.run_id == run_id
        if how == "failing":  # where a tool raises, the model is told, and that is that
            shape(result.messages)
            assert set(world.effects.values()) == {1}
            continue
        assert_same(world, result, expected, other)
        lost = result.usage.requests - expected.usage.requests
        assert lost == 0
        assert result.cost_usd == expected.cost_usd
        assert result.cycles - expected.cycles in (0, 1)  # a turn that was begun, and again


def outermost(run: Run) -> Run:
    while run.parent is not None:
        run = run.parent
    return run


async def test_what_was_done_before_is_not_done_again() -> None:
    world = World()
    world.stop_at, world.stop = 9, lambda: current_run().interrupt(GRACEFUL)
    run_id = await world.stopped()
    asked = len(world.requests)
    told = len(world.recording.events)
    finished = [
        each.call_id
        for each in await read_log(world.store, run_id)
        if isinstance(each, ToolFinished)
    ]
    assert (asked, len(finished)) == (2, 4)

    result = await world.resume(run_id)

    again = world.recording.events[told:]
    calls = [
        event
        for hook, event in again
        if hook == "pre_tool_call" and event.agent_id == "outer"
    ]
    assert len(calls) == 4
    assert not {each.request.id for each in calls} & {*finished}  # type: ignore[attr-defined]
    outer = [each for each in world.requests[asked:] if each.agent_id == "outer"]
    assert len(outer) == 3
    # The turn that was last is not known to have ended; its hooks are asked again.
    assert [hook for hook, event in again if event.agent_id == "outer"].count(
        "pre_cycle"
    ) == 4
    assert result.usage.requests == len(world.requests)


@pytest.mark.parametrize("reason", [GRACEFUL, IMMEDIATE], ids=["graceful", "immediate"])
async def test_a_run_inside_is_taken_up_and_not_begun_anew(reason: InterruptReason) -> None:
    world = World(None, ("ask",), "done")
    # The inner run has had its effect, and is asked to stop before its answer.
    world.stop_at = 6
    world.stop = lambda: outermost(current_run()).interrupt(reason)
    run_id = await world.stopped()
    (inner,) = [each.run_id for each in await world.store.runs(agent_id="inner")]
    before = await world.state(run_id)

    result = await world.finished(run_id)

    assert [each.run_id for each in await world.store.runs(agent_id="inner")] == [inner]
    ended = [
        each.run_id
        for each in await read_log(world.store, run_id)
        if isinstance(each, ChildEnded)
    ]
    assert {*ended} == {inner}
    assert len(ended) >= 2
    assert before.usage.requests == 2
    assert result.usage.requests == 4
    assert result.cost_usd == 4 * COST
    assert sum(world.effects.values()) == 1


async def test_feedback_on_a_reply_joins_the_conversation_once() -> None:
    world = World(
        None, "no JSON", ("look",), '{"answer": "yes"}', '{"answer": "yes", "score": 2}',
        signature="question -> answer, score: int",
    )  # fmt: skip
    world.stop_at, world.stop = 3, lambda: current_run().interrupt(GRACEFUL)
    run_id = await world.stopped()

    result = await world.resume(run_id)

    assert result.score == 2
    said = [each.role for each in result.messages]
    assert said == [
        *("system", "user", "assistant", "user", "assistant", "tool"),
        *("assistant", "user", "assistant"),
    ]


async def test_a_doubtful_answer_is_doubted_once() -> None:
    world = World(
        None,
        '{"answer": "perhaps", "confidence": 0.1}',
        ("look",),
        '{"answer": "yes", "confidence": 0.9}',
        signature="question -> answer, confidence: float",
        min_confidence_threshold=0.5,
    )
    world.stop_at, world.stop = 5, lambda: current_run().interrupt(GRACEFUL)
    run_id = await world.stopped()

    result = await world.resume(run_id)

    assert result.answer == "yes"
    assert [each.role for each in result.messages].count("user") == 2


class Plan:
    """A strategy of its own: calls of its own between the turns."""

    async def execute(self, signature: Any, inputs: Any, config: Any) -> Mapping[str, Any]:
        run = current_run()
        first = await run.agent.execute_tool("write")
        result = await run.cycle()
        second = await run.agent.execute_tool("write")
        message = Message(role="user", content="go on", origin="plan")
        result = await run.cycle([message])
        return {"answer": f"{first.content}, {second.content}: {result.reply.text}"}


async def test_any_strategy_can_be_resumed_at_every_place() -> None:
    turns: tuple[Turn, ...] = (("look", "write"), "the end")
    expected, other = await clean(World(None, *turns, strategy=Plan()))
    assert expected.answer == "acted, acted: the end"

    for at in range(1, other.passed + 1):
        world = World(None, *turns, strategy=Plan())
        world.stop_at, world.stop = at, lambda: current_run().interrupt(IMMEDIATE)
        result = await world.finished(await world.stopped())
        assert_same(world, result, expected, other)


class Swapping:
    """A strategy that does not do again what it did before."""

    def __init__(self) -> None:
        self.name = "put"

    async def execute(self, signature: Any, inputs: Any, config: Any) -> Mapping[str, Any]:
        run = current_run()
        await run.agent.execute_tool(self.name)
        return {"answer": (await run.cycle()).reply.text}


async def test_a_strategy_that_calls_something_else_than_before_is_told_so() -> None:
    strategy = Swapping()
    world = World(None, "the end", strategy=strategy)
    world.stop_at, world.stop = 3, lambda: current_run().interrupt(IMMEDIATE)
    run_id = await world.stopped()
    strategy.name = "write"

    with pytest.raises(RunError, match="was another one before the run was resumed"):
        await world.resume(run_id)
    assert sum(world.effects.values()) == 1


async def test_what_steered_the_run_is_heard_once_it_goes_on() -> None:
    world = World(None, ("look",), "first", "second", "third")

    def stop() -> None:
        current_run().steer("be brief")
        current_run().interrupt(GRACEFUL)

    world.stop_at, world.stop = 3, stop
    run_id = await world.stopped()

    result = await world.resume(run_id)

    heard = [each.text for each in result.messages if each.role == "user"]
    assert [each for each in heard if each == "be brief"] == ["be brief"]
    assert result.messages[-2].text == "be brief"
    assert result.answer == "first"


async def test_an_answer_that_a_message_overtook_stays_no_last_word() -> None:
    # It steered the run while the model wrote its answer; then the next turn was stopped.
    world = World(None, "too early", "heard it")

    def steer() -> None:
        current_run().steer("wait")
        world.stop_at, world.stop = 3, lambda: current_run().interrupt(IMMEDIATE)

    world.stop_at, world.stop = 2, steer
    run_id = await world.stopped()

    result = await world.resume(run_id)

    assert result.answer == "heard it"
    assert [each.text for each in result.messages][-3:] == ["too early", "wait", "heard it"]


async def test_a_run_that_was_paused_when_it_stopped_goes_on() -> None:
    world = World(None, ("look",), "done")

    def stop() -> None:
        run = current_run()
        assert run.pause("somebody")
        assert run.interrupt(IMMEDIATE)

    world.stop_at, world.stop = 3, stop
    run_id = await world.stopped()

    with anyio.fail_after(5):
        result = await world.resume(run_id)

    assert result.answer == "done"
    assert not (await world.state(run_id)).paused


async def test_a_run_that_was_completed_gives_its_result_again() -> None:
    world = World()
    result = await world.run()
    asked, told = len(world.requests), len(world.recording.events)
    length = len(await read_log(world.store, result.run_id))

    again = await world.resume(result.run_id)

    assert again.outputs == result.outputs
    assert again.messages == result.messages
    assert (again.usage, again.cost_usd) == (result.usage, result.cost_usd)
    assert (again.cycles, again.tool_calls) == (result.cycles, result.tool_calls)
    assert len(world.requests) == asked
    assert [hook for hook, _ in world.recording.events[told:]] == [
        "pre_agent_init",
        "post_agent_init",
    ]
    assert len(await read_log(world.store, result.run_id)) == length


async def test_a_run_can_be_stopped_and_resumed_many_times() -> None:
    expected, other = await clean(World())
    world = World()
    world.stop = lambda: outermost(current_run()).interrupt(IMMEDIATE)
    world.stop_at = 2
    run_id = await world.stopped()
    times = 0
    while True:
        world.stop_at = world.passed + 3
        try:
            result = await world.finished(run_id)
            break
        except AgentInterrupted:
            times += 1

    assert times > 5
    assert shape(result.messages) == shape(expected.messages)
    assert set(world.effects.values()) == {1}
    assert result.cost_usd == expected.cost_usd == other_cost(other)


def other_cost(world: World) -> Decimal:
    return len(world.requests) * COST


async def test_a_resumed_run_can_be_followed() -> None:
    world = World()
    world.stop_at, world.stop = 9, lambda: current_run().interrupt(GRACEFUL)
    run_id = await world.stopped()

    seen: list[str] = []
    async with (
        world.kernel() as kernel,
        world.agent(kernel).resume_stream(run_id) as run,
    ):
        async for event in run:
            seen += [type(event).__name__]
        result = await run.wait()

    assert result.run_id == run_id
    assert seen[0] == "Resumed"
    assert seen.count("RunEnded") == 1
    assert seen[-1] == "RunEnded"


# What somebody has to decide.


async def cut_off(turns: Sequence[Turn] = (("write",), "done"), at: int = 4) -> World:
    """A run whose call was stopped in the middle: after its effect."""
    world = World(None, *turns)
    world.stop_at, world.stop = at, lambda: current_run().interrupt(IMMEDIATE)
    await world.stopped()
    return world


async def test_a_call_that_was_cut_off_is_named_and_nothing_is_done() -> None:
    world = await cut_off()
    run_id = await world.run_id()
    before = len(await read_log(world.store, run_id))
    for decision in (None, {}, {"another": "done"}):
        with pytest.raises(OutcomeUnknownError, match="resume with a decision") as caught:
            await world.resume(run_id, decision=decision)
        assert caught.value.calls == (f"{run_id}:use_0_0",)
    assert len(await read_log(world.store, run_id)) == before
    assert sum(world.effects.values()) == 1
    (record,) = await world.store.runs()
    assert record.owner == ""


@pytest.mark.parametrize(
    ("decision", "content", "effects"),
    [
        ("repeat", "acted", 2),
        ("done", "Done.", 1),
        (Decision(action="done", content="it was acted", by="me"), "it was acted", 1),
        ("skip", "Error: it was not done.", 1),
        (Decision(action="skip", content="never mind"), "never mind", 1),
    ],
)
@pytest.mark.parametrize("by_id", ["for all", "by id", "by call"])
async def test_a_decision_settles_what_was_cut_off(
    decision: Any, content: str, effects: int, by_id: str
) -> None:
    world = await cut_off()
    run_id = await world.run_id()
    if by_id != "for all":
        decision = {("use_0_0" if by_id == "by id" else f"{run_id}:use_0_0"): decision}

    result = await world.resume(run_id, decision=decision)

    assert result.answer == "done"
    assert result.messages[-2].text == content
    assert sum(world.effects.values()) == effects
    state = await world.state(run_id)
    assert (state.pending, state.unknown) == ({}, ())
    shape(result.messages)


@pytest.mark.parametrize("wrong", ["again", "", 3, {"use_0_0": "maybe"}])
async def test_a_word_that_is_no_decision_is_refused(wrong: Any) -> None:
    world = await cut_off()
    run_id = await world.run_id()
    with pytest.raises(ValueError, match="a decision is 'repeat', 'done' or 'skip'"):
        await world.resume(run_id, decision=wrong)


async def test_a_decision_is_asked_for_again_if_the_repeat_is_cut_off_as_well() -> None:
    world = await cut_off()
    run_id = await world.run_id()
    world.stop_at = world.passed + 2
    with pytest.raises(AgentInterrupted):
        await world.resume(run_id, decision="repeat")
    with pytest.raises(OutcomeUnknownError):
        await world.resume(run_id)
    result = await world.resume(run_id, decision="done")
    assert result.answer == "done"
    assert sum(world.effects.values()) == 2


async def test_a_decision_reaches_a_call_of_a_run_inside() -> None:
    world = World(None, ("ask",), "done")
    world.stop_at = 6
    world.stop = lambda: outermost(current_run()).interrupt(IMMEDIATE)
    run_id = await world.stopped()
    (inner,) = [each.run_id for each in await world.store.runs(agent_id="inner")]

    with pytest.raises(OutcomeUnknownError) as caught:
        await world.resume(run_id)
    assert caught.value.calls == (f"{inner}:use_0_0",)
    result = await world.resume(run_id, decision={caught.value.calls[0]: "done"})

    assert result.answer == "done"
    assert sum(world.effects.values()) == 1


# What cannot be resumed.


async def test_what_cannot_be_resumed_is_refused_with_the_reason() -> None:
    world = World(None, ("look",), "done")
    world.stop_at, world.stop = 3, lambda: current_run().interrupt(GRACEFUL)
    run_id = await world.stopped()
    async with world.kernel() as kernel:
        agent = world.agent(kernel)
        with pytest.raises(CheckpointLoadError, match="unknown to the store"):
            await agent.resume("0" * 32)
        for odd in ("../x", "", f"{run_id}:x", f"{run_id}:-1"):
            with pytest.raises(CheckpointLoadError, match="none that there can be"):
                await agent.resume(odd)
        for seq in (0, 99):
            with pytest.raises(
                CheckpointLoadError, match=f"no checkpoint at position {seq}"
            ):
                await agent.resume(f"{run_id}:{seq}")
        with pytest.raises(RunError, match="belongs to agent 'outer', not to 'inner'"):
            await world.agent(kernel, "inner").resume(run_id)
        stranger = BaseAgent({"llm_provider": "script"}, QUESTION, kernel=kernel)
        with pytest.raises(ConfigurationError, match="keeps no runs"):
            await stranger.resume(run_id)
        await agent.execute_tool("look")
        (direct,) = [
            each.run_id for each in await world.store.runs() if each.run_id != run_id
        ]
        with pytest.raises(RunError, match="a call of tools alone"):
            await agent.resume(direct)
    assert [each.owner for each in await world.store.runs()] == ["", ""]
    assert (await world.resume(run_id)).answer == "done"


async def test_a_run_that_is_carried_out_is_resumed_by_nobody_else() -> None:
    world = World(None, ("look",), "done")
    caught: list[BaseException] = []
    async with world.kernel() as kernel, world.kernel() as other:
        agent, elsewhere = world.agent(kernel), world.agent(other)

        async with agent.stream(question="?") as run:
            async for event in run:
                if type(event).__name__ == "ToolIntended":
                    run.pause()
                    for each in (agent, elsewhere):
                        with pytest.raises(KaizenError) as refused:
                            await each.resume(run.id)
                        caught.append(refused.value)
                    run.resume()
            assert (await run.wait()).answer == "done"

    here, there = caught
    assert isinstance(here, RunError)
    assert "right now, in this process" in str(here)
    assert isinstance(there, CheckpointSaveError)
    assert "is carried out by pid" in str(there)


# Going back.


async def marked() -> tuple[World, str, str]:
    """A run that was stopped, and a checkpoint that it has."""
    world = World(None, ("look",), ("write",), "done")
    marks: list[str] = []

    class Mark:
        async def execute(self, *_: Any) -> Mapping[str, Any]:
            run = current_run()
            await run.cycle()
            marks.append((await run.checkpoint("after a look")).id)
            await run.cycle()
            return {"answer": (await run.cycle()).reply.text}

    world._strategy = Mark()
    world.stop_at, world.stop = 7, lambda: current_run().interrupt(IMMEDIATE)
    run_id = await world.stopped()
    return world, run_id, marks[0]


async def test_a_rewound_run_goes_on_from_there_and_keeps_its_account() -> None:
    world, run_id, mark = await marked()
    spent = (await world.state(run_id)).usage
    assert sum(world.effects.values()) == 1

    await rewind(world.store, mark)
    assert len((await world.state(run_id)).messages) == 4
    assert (await world.state(run_id)).usage == spent
    result = await world.resume(run_id)

    assert result.answer == "done"
    assert result.run_id == run_id
    assert sum(world.effects.values()) == 2, "going back undoes no effect"
    assert result.usage.requests == len(world.requests)
    shape(result.messages)
    ids = [use.id for each in result.messages for use in each.tool_uses]
    assert len(set(ids)) == len(ids)


async def test_a_fork_goes_on_by_itself() -> None:
    world, run_id, mark = await marked()
    before = await read_log(world.store, run_id)

    forked = await fork(world.store, mark)
    result = await world.resume(forked)

    assert result.answer == "done"
    assert result.run_id == forked != run_id
    assert result.usage.requests == 3
    assert sum(world.effects.values()) == 2
    assert {key.partition(":")[0] for key in world.effects} == {run_id, forked}
    assert await read_log(world.store, run_id) == before
    shape(result.messages)
    assert (await world.finished(run_id)).answer == "done"


async def test_a_fork_may_belong_to_another_agent() -> None:
    world, _run_id, mark = await marked()
    forked = await fork(world.store, mark, agent_id="inner")
    world.turns["inner"] = world.turns["outer"]
    async with world.kernel() as kernel:
        with pytest.raises(RunError, match="belongs to agent 'inner'"):
            await world.agent(kernel).resume(forked)
        result = await world.agent(kernel, "inner").resume(forked)
    assert result.answer == "done"


async def test_a_checkpoint_stands_for_its_run() -> None:
    world, run_id, mark = await marked()
    with pytest.raises(OutcomeUnknownError):
        await world.resume(mark)
    result = await world.resume(mark, decision="done")
    assert result.run_id == run_id
    assert sum(world.effects.values()) == 1


# When the log is on disk.


async def test_with_durability_exit_nothing_is_kept_before_the_end() -> None:
    world = World(None, ("write",), "done", durability="exit")
    kept: list[int] = []
    world.stop_at = 4
    world.stop = lambda: kept.append(len(world.store._logs))
    result = await world.run()
    assert kept == [0]
    assert (await world.state(result.run_id)).status == "completed"


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_a_stopped_run_is_kept_whatever_its_durability(durability: str) -> None:
    expected, other = await clean(World())
    world = World(durability=durability)
    world.stop_at, world.stop = 11, lambda: outermost(current_run()).interrupt(GRACEFUL)
    run_id = await world.stopped()
    result = await world.finished(run_id)
    assert_same(world, result, expected, other)
    assert result.cost_usd == expected.cost_usd


class Slow(MemoryCheckpointStore):
    """Writes what is new in a run only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = anyio.Event()

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        if run_id in self._logs:  # the first write shows that it works
            await self.let.wait()
        await super().append(run_id, entries, token=token)


async def test_with_durability_async_the_kernel_writes_everything_before_it_stops() -> None:
    store = Slow()
    world = World(store, ("write",), "done", durability="async")
    with anyio.fail_after(5):
        async with world.kernel() as kernel:
            result = await world.agent(kernel).run(question="?")
            assert kernel.keeper.carries(result.run_id), "the run waited for its store"
            store.let.set()
    assert (await world.state(result.run_id)).status == "completed"
    (record,) = await store.runs()
    assert (record.status, record.owner) == ("completed", "")


async def test_with_durability_async_a_failure_of_the_store_stops_the_run_soon() -> None:
    store = Failing(at=2)
    world = World(store, *[("look",)] * 15, "done", durability="async")
    with pytest.raises(StorageUnavailableError, match="is gone"):
        await world.run()
    assert len(world.requests) < 15
    store.broken = False
    assert (await world.finished(await world.run_id())).answer == "done"


class OutFor(MemoryCheckpointStore):
    """Fails at some of its writes."""

    def __init__(self, *out: int) -> None:
        super().__init__()
        self.writes = 0
        self._out = out

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        self.writes += 1
        if self.writes in self._out:
            raise StorageUnavailableError("the disk", "is full", "Free some space.")
        await super().append(run_id, entries, token=token)


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_run_may_go_on_while_its_store_is_away_and_is_kept_afterwards(
    durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected, other = await clean(World())
    world = World(OutFor(*range(2, 9)), durability=durability, on_save_error="continue")
    with caplog.at_level(logging.WARNING, "kaizen"):
        result = await world.run()

    assert_same(world, result, expected, other)
    assert "the disk is full" in caplog.text
    assert "kept" in caplog.text
    entries = await read_log(world.store, result.run_id)
    assert [each.seq for each in entries] == [*range(len(entries))]
    assert shape(fold(entries).messages) == shape(result.messages)
    assert (await world.state(result.run_id)).status == "completed"


async def test_without_that_the_run_stops_and_says_why() -> None:
    world = World(OutFor(5))
    with pytest.raises(StorageUnavailableError, match=r"the disk is full\. Free some"):
        await world.run()
    state = await world.state(await world.run_id())
    assert state.status == "failed"
    assert "the disk" in state.error
    shape(state.messages)
