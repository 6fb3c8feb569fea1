"""Handlers: asked before each turn and in between, and what becomes of those that fail."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import anyio
import pytest
from kaizen import (
    AgentConfig,
    AgentInterrupted,
    BaseAgent,
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
    Signature,
    current_run,
)
from kaizen.errors import GracefulTimeoutError, InterruptHandlerError
from kaizen.ports import Interrupter
from kaizen.runlog import Noted
from kaizen.testing import ScriptedModel
from kaizen.testing.conformance import InterrupterConformance
from kaizen_interrupts import (
    BaseInterruptHandler,
    BudgetInterruptHandler,
    InterruptManager,
    ResourceInterruptHandler,
    TimeoutInterruptHandler,
)

from .conftest import Running, Worker, costing, default_manager, ended

pytestmark = pytest.mark.anyio

IMMEDIATE = InterruptMode.IMMEDIATE


class Contexts(InterrupterConformance):
    """Contexts that the handlers of this plugin let pass, and that they do not."""

    @pytest.fixture
    def quiet(self) -> Mapping[str, Any]:
        return {"run_id": "1", "session_id": "s", "elapsed_s": 1.0, "cost_usd": None}

    @pytest.fixture
    def loud(self) -> Mapping[str, Any]:
        return {"run_id": "1", "session_id": "s", "elapsed_s": 99.0, "cost_usd": 99}


class TestTimeout(Contexts):
    @pytest.fixture
    def interrupter(self) -> Interrupter:
        return TimeoutInterruptHandler(10)


class TestBudget(InterrupterConformance):
    @pytest.fixture
    def interrupter(self) -> BudgetInterruptHandler:
        return BudgetInterruptHandler(10)

    @pytest.fixture
    async def quiet(
        self, interrupter: BudgetInterruptHandler, running: Running, model: ScriptedModel
    ) -> Mapping[str, Any]:
        return await run_that_costs("9", interrupter, running, model)

    @pytest.fixture
    async def loud(
        self, interrupter: BudgetInterruptHandler, running: Running, model: ScriptedModel
    ) -> Mapping[str, Any]:
        return await run_that_costs("10", interrupter, running, model)


async def run_that_costs(
    cost_usd: str, handler: BudgetInterruptHandler, running: Running, model: ScriptedModel
) -> Mapping[str, Any]:
    """Return what a handler is told of a run that it was told of."""
    costing(model, cost_usd)
    model.say("yes")
    async with running() as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        async with agent.stream(question="?") as run:
            handler.begin(run)
            await ended(run)
    return {"run": run, "run_id": run.id}


class Saying(BaseInterruptHandler):
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[Mapping[str, Any]] = []
        self.again = anyio.Event()

    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        self.asked.append(context)
        self.again.set()
        self.again = anyio.Event()
        answer = self.answer
        if isinstance(answer, Exception):
            raise answer
        if answer is Ellipsis:
            await anyio.sleep_forever()
        return answer  # type: ignore[no-any-return]


class Failing(Saying):
    """Fails; what that means is said."""

    def __init__(self, on_failure: Literal["stop", "continue"], problem: Any) -> None:
        super().__init__(problem)
        self.on_failure = on_failure
        self.timeout_s = 0.05


async def test_a_base_handler_decides_nothing_by_itself() -> None:
    handler = BaseInterruptHandler()
    assert handler.due_in({}) is None
    with pytest.raises(NotImplementedError, match="check_interrupt"):
        await handler.check_interrupt({})


async def test_handlers_are_asked_before_each_turn_and_told_of_the_run(
    running: Running, model: ScriptedModel
) -> None:
    handler = Saying()
    async with running(check_interval=3_600) as kernel:
        (await default_manager(kernel)).add_handler(handler)
        worker = Worker(model, kernel, waits=False)
        model._script[2] = "done"
        agent = worker.agent.bind(session_id="s", metadata={"user_id": 7, "color": "blue"})
        result = await agent.run(question="?")

    assert len(handler.asked) == 3
    last = dict(handler.asked[-1])
    run = last.pop("run")
    assert last.pop("elapsed_s") > 0
    assert last.pop("usage").requests == 2
    assert run.id == result.run_id
    assert last == {
        "run_id": run.id,
        "agent_id": "Question",
        "session_id": "s",
        "user": "7",
        "cycles": 2,
        "tool_calls": 2,
        "cost_usd": None,
        "metadata": {"user_id": 7, "color": "blue"},
    } | {"agent_id": run.agent_id}


async def test_a_handler_is_asked_while_a_turn_goes_on(
    running: Running, model: ScriptedModel
) -> None:
    handler = Saying()
    async with running(check_interval=0.01) as kernel:
        (await default_manager(kernel)).add_handler(handler)
        model.delay_s = 3_600
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        async with agent.stream(question="?") as run:
            with anyio.fail_after(10):
                while len(handler.asked) < 4:
                    await handler.again.wait()
            handler.answer = InterruptReason(mode=IMMEDIATE, message="enough")
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)
    assert error.reason.message == "enough"


async def test_a_turn_does_not_begin_when_a_handler_says_stop(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as kernel:
        handler = Saying(InterruptReason(message="not today"))
        (await default_manager(kernel)).add_handler(handler)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        with pytest.raises(AgentInterrupted, match="not today"):
            await agent.run(question="?")
    assert model.requests == []


@pytest.mark.parametrize(
    "problem", [ValueError("mine"), ..., "no reason"], ids=["raises", "hangs", "babbles"]
)
async def test_a_handler_that_fails_stops_the_run_and_is_reported(
    running: Running,
    model: ScriptedModel,
    problem: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model.say("never asked")
    second = Saying()
    async with running() as kernel:
        manager = await default_manager(kernel)
        manager.add_handler(Failing("stop", problem))
        manager.add_handler(second)
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        async with agent.stream(question="?") as run:
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)
    assert InterruptHandlerError.code in error.reason.message
    assert error.reason.metadata["error_code"] == InterruptHandlerError.code
    assert error.reason.source is InterruptSource.SYSTEM
    (note,) = (each for each in run.log.entries if isinstance(each, Noted))
    assert (note.source, note.kind) == ("interrupts", "handler_failed")
    assert note.data["handler"] == "Failing"
    assert model.requests == []
    assert len(second.asked) == 1
    assert InterruptHandlerError.code in caplog.text


async def test_a_handler_that_may_fail_is_reported_once_and_the_run_goes_on(
    running: Running, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(check_interval=0.01) as kernel:
        manager = await default_manager(kernel)
        handler = Failing("continue", ValueError("mine"))
        manager.add_handler(handler)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            with anyio.fail_after(10):
                while len(handler.asked) < 5:
                    await handler.again.wait()
            assert run.interrupted is None
            notes = [each for each in run.log.entries if isinstance(each, Noted)]
            assert len(notes) == 1
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1


async def test_a_handler_that_is_slow_keeps_no_other_from_being_in_time(
    running: Running, model: ScriptedModel
) -> None:
    slow = Saying()
    async with running(check_interval=0.01) as kernel:
        manager = await default_manager(kernel)
        manager.add_handler(slow)
        quick = Saying()
        manager.add_handler(quick)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            slow.answer = ...
            with anyio.fail_after(4):
                await slow.again.wait()
                await quick.again.wait()
                quick.answer = InterruptReason(mode=IMMEDIATE)
                await ended(run)


async def test_a_handler_that_comes_late_is_asked_from_the_next_turn_on(
    running: Running, model: ScriptedModel
) -> None:
    handler = Saying()
    async with running(check_interval=0.01) as kernel:
        manager = await default_manager(kernel)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            manager.add_handler(handler)
            await worker.next_turn()
            assert len(handler.asked) >= 1
            with anyio.fail_after(10):
                while len(handler.asked) < 4:
                    await handler.again.wait()

            assert manager.handlers == (handler,)
            assert manager.remove_handler(handler)
            assert not manager.remove_handler(handler)
            other = Saying()
            manager.add_handler(other)
            await worker.next_turn()
            before = len(handler.asked)
            with anyio.fail_after(10):
                for _ in range(3):
                    await other.again.wait()
            assert len(handler.asked) == before
            run.cancel()


class Impatient:
    """Gives up its first turn after a moment, and makes a second."""

    def __init__(self, manager: InterruptManager, handler: BaseInterruptHandler) -> None:
        self._manager = manager
        self._handler = handler

    async def execute(
        self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
    ) -> Mapping[str, Any]:
        run = current_run()
        self._manager.add_handler(self._handler)
        with anyio.move_on_after(0.05):
            await run.cycle()
        return run.read((await run.cycle()).reply)


async def test_after_a_turn_that_was_given_up_the_next_is_watched_as_well(
    running: Running, model: ScriptedModel
) -> None:
    handler = Saying()
    async with running(check_interval=0.01) as kernel:
        strategy = Impatient(await default_manager(kernel), handler)
        agent = BaseAgent(signature="question -> answer", kernel=kernel, strategy=strategy)
        model.delay_s = 3_600
        async with agent.stream(question="?") as run:
            with anyio.fail_after(10):
                while len(model.requests) < 2:
                    await anyio.lowlevel.checkpoint()
            handler.answer = InterruptReason(mode=IMMEDIATE, message="enough")
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)


async def test_what_cannot_be_asked_is_no_handler() -> None:
    for thing in (object(), BaseInterruptHandler, None):
        with pytest.raises(TypeError, match="check_interrupt"):
            InterruptManager().add_handler(thing)  # type: ignore[arg-type]


async def test_any_object_with_check_interrupt_is_a_handler(
    running: Running, model: ScriptedModel
) -> None:
    class Own:
        async def check_interrupt(
            self, context: Mapping[str, Any]
        ) -> InterruptReason | None:
            return InterruptReason(message="own")

    async with running() as kernel:
        (await default_manager(kernel)).add_handler(Own())
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        with pytest.raises(AgentInterrupted, match="own"):
            await agent.run(question="?")


async def test_a_timeout_stops_a_model_call_at_its_time(
    running: Running, model: ScriptedModel
) -> None:
    async with running(check_interval=3_600) as kernel:
        manager = await default_manager(kernel)
        manager.add_handler(TimeoutInterruptHandler(0.2, mode=IMMEDIATE))
        model.delay_s = 3_600
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        started = anyio.current_time()
        with pytest.raises(AgentInterrupted, match=r"longer than 0\.2 s") as caught:
            await agent.run(question="?")
        took = anyio.current_time() - started

    assert 0.19 <= took < 2
    reason = caught.value.reason
    assert (reason.signal, reason.source) == (
        InterruptSignal.TIMEOUT,
        InterruptSource.SYSTEM,
    )
    assert reason.metadata["timeout_seconds"] == 0.2
    assert reason.metadata["elapsed_s"] >= 0.2


async def test_a_graceful_timeout_lets_the_turn_end_if_that_is_soon(
    running: Running, model: ScriptedModel
) -> None:
    async with running(check_interval=3_600, timeout_seconds=0.05) as kernel:
        model.delay_s = 3_600
        agent = BaseAgent(
            {"graceful_shutdown_timeout": 0.05}, "question -> answer", kernel=kernel
        )
        with anyio.fail_after(10), pytest.raises(GracefulTimeoutError):
            await agent.run(question="?")


async def test_each_run_has_its_own_time(running: Running, model: ScriptedModel) -> None:
    async with running(timeout_seconds=60) as kernel:
        (handler,) = (await default_manager(kernel)).handlers
        assert isinstance(handler, TimeoutInterruptHandler)
        assert handler.due_in({"elapsed_s": 1.0}) == 59
        assert handler.due_in({"elapsed_s": 61.0}) == 0
        model.say("a", "b")
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        assert (await agent.run(question="?")).answer == "a"
        assert (await agent.run(question="?")).answer == "b"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
async def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout_seconds"):
        TimeoutInterruptHandler(seconds)


async def test_a_process_that_uses_too_much_memory_stops_its_runs(
    running: Running, model: ScriptedModel
) -> None:
    async with running(max_memory_mb=1) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        with pytest.raises(AgentInterrupted, match=r"MiB of memory, more than 1") as caught:
            await agent.run(question="?")
    assert caught.value.reason.metadata["resource"] == "memory"
    assert caught.value.reason.metadata["used"] > 1


async def test_a_process_that_uses_little_memory_goes_on(
    running: Running, model: ScriptedModel
) -> None:
    async with running(max_memory_mb=1_000_000) as kernel:
        model.say("yes")
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        assert (await agent.run(question="?")).answer == "yes"


async def test_a_busy_process_stops_its_runs_but_not_at_the_first_reading() -> None:
    handler = ResourceInterruptHandler(max_cpu_percent=0.001)
    assert await handler.check_interrupt({}) is None

    with anyio.fail_after(10):
        while (reason := await handler.check_interrupt({})) is None:
            sum(range(10_000))
            await anyio.lowlevel.checkpoint()

    assert "% of cpu, more than 0.001" in reason.message


async def test_a_resource_handler_needs_a_limit() -> None:
    with pytest.raises(ValueError, match="max_memory_mb"):
        ResourceInterruptHandler()
    with pytest.raises(ValueError, match="max_cpu_percent"):
        ResourceInterruptHandler(max_cpu_percent=-1)


async def test_without_handlers_a_run_has_no_task_beside_it(
    running: Running, model: ScriptedModel
) -> None:
    seen: dict[bool, int] = {}
    for limited in (False, True):
        settings = {"timeout_seconds": 60} if limited else {}
        async with running(poll_interval=0, **settings) as kernel:
            before = running_tasks()

            def count(
                request: object, limited: bool = limited, before: int = before
            ) -> str:
                seen[limited] = running_tasks() - before
                return "yes"

            model.say(count)
            agent = BaseAgent(signature="question -> answer", kernel=kernel)
            await agent.run(question="?")
            assert running_tasks() == before

    assert seen == {False: 0, True: 1}


def running_tasks() -> int:
    return len(anyio.get_running_tasks())


@pytest.mark.parametrize("mode", ["immediate", IMMEDIATE])
async def test_a_reason_may_say_its_mode_in_a_word(
    running: Running, model: ScriptedModel, mode: Any
) -> None:
    handler = Saying()
    async with running(check_interval=0.01) as kernel:
        (await default_manager(kernel)).add_handler(handler)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            handler.answer = InterruptReason(mode=mode, message="now")
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)
    assert error.reason.mode is IMMEDIATE


@pytest.mark.parametrize(
    "answer",
    [
        InterruptReason(mode="brutal"),  # type: ignore[arg-type]
        InterruptReason(message=None),  # type: ignore[arg-type]
        InterruptReason(metadata="x"),  # type: ignore[arg-type]
        True,
    ],
    ids=["mode", "message", "metadata", "bool"],
)
async def test_an_answer_that_is_no_reason_in_the_middle_of_a_turn_is_a_failure(
    running: Running, model: ScriptedModel, answer: Any
) -> None:
    handler = Saying()
    async with running(check_interval=0.01) as kernel:
        (await default_manager(kernel)).add_handler(handler)
        worker = Worker(model, kernel)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            handler.answer = answer
            with anyio.fail_after(10):
                while run.interrupted is None:
                    await handler.again.wait()
            worker.go_on.set()
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)
    assert error.reason.metadata["error_code"] == InterruptHandlerError.code


@pytest.mark.parametrize("value", ["5", True, None])
def test_a_limit_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="timeout_seconds is a number above 0"):
        TimeoutInterruptHandler(value)


@pytest.mark.parametrize("wrapped", [True, False], ids=["after all", "plain"])
async def test_a_handler_may_be_a_plain_function(
    running: Running, model: ScriptedModel, wrapped: bool
) -> None:
    answers: list[InterruptReason | None] = [None, InterruptReason(message="enough")]

    class Plain:
        """Answers at once, or with something to await."""

        def check_interrupt(self, context: Mapping[str, Any]) -> Any:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            return self._later(answer) if wrapped else answer

        async def _later(self, answer: InterruptReason | None) -> InterruptReason | None:
            return answer

    async with running(check_interval=3_600) as kernel:
        (await default_manager(kernel)).add_handler(Plain())
        worker = Worker(model, kernel, waits=False)
        with pytest.raises(AgentInterrupted) as caught:
            await worker.agent.run(question="?")

    assert caught.value.reason.message == "enough"
    assert worker.turns == 1
