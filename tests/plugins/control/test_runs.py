"""Runs that ask: from any depth, by one channel, and also when the answer comes later."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from kaizen import (
    AgentInterrupted,
    Answer,
    AnswerRefusedError,
    BaseAgent,
    CallNext,
    Kernel,
    NotAnsweredError,
    PendingRequest,
    ToolCall,
    ToolRefusedError,
    ToolResult,
    action_digest,
    current_run,
    hookimpl,
    tool,
)
from kaizen.checkpoints import answer, pending_requests
from kaizen.testing import Call, MemoryCheckpointStore, ModelPlugin, ScriptedModel
from kaizen_control import ControlProtocol, MemoryTransport

pytestmark = pytest.mark.anyio


class Gate:
    """Has a person approve each payment."""

    name = "gate"

    @hookimpl
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        if call.name != "pay":
            return await call_next(call)
        run = current_run()
        given = await run.ask(
            "May the tool pay run?",
            kind="approval",
            details={"tool": call.name, "arguments": dict(call.arguments)},
            action_digest=action_digest(call, run.principal),
        )
        if not given.approved:
            raise ToolRefusedError("tool 'pay'", f"was refused: {given.text}")
        return await call_next(call.granted("gate", approval=given.request_id))


class Firm:
    """An agent that has another one, which has a third one that pays.

    Attributes:
        paid: The amounts that were paid.
        model: What all of them say.
    """

    def __init__(
        self,
        kernel: Kernel,
        model: ScriptedModel,
        channel: ControlProtocol,
        store: MemoryCheckpointStore | None = None,
    ) -> None:
        self.kernel = kernel
        self.model = model
        self.paid: list[int] = []

        @tool(danger="high")
        async def pay(amount: int) -> str:
            """Pay somebody."""
            self.paid.append(amount)
            return "paid"

        common: dict[str, Any] = {"signature": "task -> answer", "kernel": kernel}
        common["store"] = store
        clerk = BaseAgent(tools=[pay], agent_id="clerk", **common)

        @tool(danger="safe")
        async def have_paid(task: str) -> str:
            """Have somebody paid."""
            return str((await clerk.run(task=task)).answer)

        office = BaseAgent(tools=[have_paid], agent_id="office", **common)

        @tool(danger="safe")
        async def settle(task: str) -> str:
            """Settle something."""
            return str((await office.run(task=task)).answer)

        self.head = BaseAgent(
            tools=[settle], agent_id="head", control_protocol=channel, **common
        )

    def script(self, amount: int) -> None:
        """Let the three pay once."""
        self.model.say(
            Call("settle", {"task": "pay"}),
            Call("have_paid", {"task": "pay"}),
            Call("pay", {"amount": amount}),
            "paid",
            "settled",
            "done",
        )


@asynccontextmanager
async def running(model: ScriptedModel, **config: Any) -> AsyncGenerator[Kernel]:
    async with Kernel(
        plugins=[ModelPlugin(model), Gate],
        discover=False,
        config={"default_provider": "scripted", **config},
        config_file=False,
        environ={},
    ) as kernel:
        yield kernel


async def until_asked(transport: MemoryTransport) -> PendingRequest:
    with anyio.fail_after(10):
        return await anext(transport)


async def test_a_request_of_a_grandchild_reaches_the_one_outer_channel() -> None:
    transport, model = MemoryTransport(), ScriptedModel()
    async with running(model) as kernel, ControlProtocol(transport) as protocol:
        firm = Firm(kernel, model, protocol)
        firm.script(5)
        async with firm.head.bind(metadata={"principal": "alice"}).stream(task="go") as run:
            request = await until_asked(transport)
            assert firm.paid == []

            await transport.answer(request, approved=True)
            result = await run.wait()

        assert result.answer == "done"
        assert firm.paid == [5]
        assert request.agent_path == ("head", "office", "clerk")
        assert request.run_path[0] == run.id
        assert len(set(request.run_path)) == 3
        assert request.principal == "alice"
        assert request.details["arguments"] == {"amount": 5}
        assert request.action_digest.startswith("sha256:")


async def test_a_person_who_refuses_is_heard_at_any_depth() -> None:
    transport, model = MemoryTransport(), ScriptedModel()
    async with running(model) as kernel, ControlProtocol(transport) as protocol:
        firm = Firm(kernel, model, protocol)
        firm.script(5)
        async with firm.head.stream(task="go") as run:
            request = await until_asked(transport)
            await transport.answer(request, approved=False, text="ask Bob first")
            await run.wait()

        assert firm.paid == []
        told = [str(each.content) for each in model.requests[3].messages]
        assert any("ask Bob first" in each for each in told)


async def test_runs_that_ask_at_once_get_each_its_own_answer() -> None:
    transport, model = MemoryTransport(), ScriptedModel()
    async with running(model) as kernel, ControlProtocol(transport) as protocol:
        agents = [
            BaseAgent(signature="n -> answer", kernel=kernel, control_protocol=protocol)
            for _ in range(20)
        ]
        answers: dict[int, str] = {}

        async def ask(number: int) -> None:
            question = f"Question {number}?"
            answers[number] = await agents[number].ask_user_question(question)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number)
            with anyio.fail_after(10):
                while len(transport.open) < 20:
                    await transport.changed()
            for request in reversed(tuple(transport.open.values())):
                await transport.answer(request, text=f"to {request.text}")

        assert answers == {number: f"to Question {number}?" for number in range(20)}


@pytest.mark.parametrize("how", ["gone", "declined", "refused"])
async def test_without_an_answer_nothing_happens(how: str) -> None:
    transport, model = MemoryTransport(), ScriptedModel()
    async with running(model) as kernel, ControlProtocol(transport) as protocol:
        firm = Firm(kernel, model, protocol)
        firm.script(5)
        async with firm.head.stream(task="go") as run:
            request = await until_asked(transport)
            if how == "gone":
                transport.hang_up()
            elif how == "declined":
                await transport.answer(request, declined=True)
            else:
                await transport.answer(request, approved=False)
            await run.wait()

        assert firm.paid == []


async def test_a_run_that_is_cancelled_withdraws_its_request() -> None:
    transport, model = MemoryTransport(), ScriptedModel()
    async with running(model) as kernel, ControlProtocol(transport) as protocol:
        firm = Firm(kernel, model, protocol)
        firm.script(5)
        async with firm.head.stream(task="go") as run:
            await until_asked(transport)
            run.cancel()
            with pytest.raises(AgentInterrupted):
                await run.wait()

        assert transport.open == {}
        assert firm.paid == []


async def test_a_typed_answer_that_does_not_fit_stays_with_the_person() -> None:
    transport, model = MemoryTransport(), ScriptedModel()
    async with running(model) as kernel, ControlProtocol(transport) as protocol:
        agent = BaseAgent(signature="n -> answer", kernel=kernel, control_protocol=protocol)
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await agent.ask_user_question("How many?", answer_type=int))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            request = await until_asked(transport)
            with pytest.raises(Exception, match="does not fit"):
                await transport.answer(request, text="many")
            await transport.answer(request, text="12")

        assert answers == [12]


async def test_progress_of_a_tool_reaches_the_other_side() -> None:
    transport, model = MemoryTransport(), ScriptedModel(Call("work"), "done")

    @tool(danger="safe")
    async def work() -> str:
        """Work."""
        await current_run().report_progress("half way", percentage=50)
        return "worked"

    async with running(model) as kernel, ControlProtocol(transport) as protocol:
        agent = BaseAgent(
            signature="n -> answer", tools=[work], kernel=kernel, control_protocol=protocol
        )
        result = await agent.run(n="1")
        with anyio.fail_after(5):
            while not transport.progressed:
                await transport.changed()

    (told,) = transport.progressed
    assert (told.message, told.percentage) == ("half way", 50)
    assert told.run_path == (result.run_id,)


class Detached(MemoryTransport):
    """Lets runs go on without waiting."""

    detached = True


async def test_where_answers_come_later_a_run_stops_and_goes_on_when_it_is_resumed() -> (
    None
):
    store, transport = MemoryCheckpointStore(), Detached()
    model = ScriptedModel()
    async with (
        running(model) as kernel,
        ControlProtocol(transport, store=store) as protocol,
    ):
        firm = Firm(kernel, model, protocol, store)
        firm.script(5)
        with pytest.raises(AgentInterrupted) as caught:
            await firm.head.run(task="go")
        (request,) = transport.open.values()
        assert caught.value.reason.metadata["pending_requests"] == [request.id]
        assert [each.id for each in await pending_requests(store)] == [request.id]

        await transport.answer(request, approved=True, principal="alice")

        assert transport.open == {}
        assert await pending_requests(store) == []
        result = await firm.head.resume(caught.value.run_id)

    assert result.answer == "done"
    assert firm.paid == [5]


async def test_an_answer_that_goes_to_the_store_is_checked_and_taken_once() -> None:
    store, transport, model = MemoryCheckpointStore(), Detached(), ScriptedModel()
    async with (
        running(model) as kernel,
        ControlProtocol(transport, store=store) as protocol,
    ):
        firm = Firm(kernel, model, protocol, store)
        firm.script(5)
        with pytest.raises(AgentInterrupted):
            await firm.head.run(task="go")
        (request,) = transport.open.values()

        for wrong in (
            {"approved": True, "action_digest": "sha256:other"},
            {"text": "yes"},
            {"approved": True, "always": True},
        ):
            with pytest.raises(Exception, match="answer to"):
                await transport.answer(request, **wrong)
        assert len(await pending_requests(store)) == 1
        await transport.answer(request, approved=False)
        with pytest.raises(Exception, match="answered already"):
            await transport.answer(request, approved=True)

    assert await pending_requests(store) == []
    assert firm.paid == []


async def test_what_waits_in_the_store_is_put_again_when_the_channel_is_opened() -> None:
    store, model = MemoryCheckpointStore(), ScriptedModel()
    async with running(model) as kernel:
        first = Detached()
        async with ControlProtocol(first, store=store) as protocol:
            firm = Firm(kernel, model, protocol, store)
            firm.script(5)
            with pytest.raises(AgentInterrupted) as caught:
                await firm.head.run(task="go")

        second = Detached()
        async with ControlProtocol(second, store=store):
            request = await until_asked(second)
            await second.answer(request, approved=True)

        assert (await firm.head.resume(caught.value.run_id)).answer == "done"
    assert firm.paid == [5]


async def test_an_answer_that_another_process_gave_first_is_told() -> None:
    store, transport, model = MemoryCheckpointStore(), Detached(), ScriptedModel()
    async with (
        running(model) as kernel,
        ControlProtocol(transport, store=store) as protocol,
    ):
        firm = Firm(kernel, model, protocol, store)
        firm.script(5)
        with pytest.raises(AgentInterrupted):
            await firm.head.run(task="go")
        (request,) = transport.open.values()
        await answer(store, request.id, Answer(approved=False))

        with pytest.raises(Exception, match="not open"):
            await transport.answer(request, approved=True)

    assert transport.open == {}


async def test_what_has_expired_in_the_store_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaizen_control._protocol.EXPIRY_PAUSE_S", 0.01)
    store, transport, model = MemoryCheckpointStore(), Detached(), ScriptedModel()
    async with (
        running(model, answer_timeout=1.5) as kernel,
        ControlProtocol(transport, store=store) as protocol,
    ):
        firm = Firm(kernel, model, protocol, store)
        firm.script(5)
        with pytest.raises(AgentInterrupted):
            await firm.head.run(task="go")
        (request,) = transport.open.values()

        with anyio.fail_after(10):
            while transport.open:
                await transport.changed()

        with pytest.raises(Exception, match="it has expired"):
            await transport.answer(request, approved=True)


async def test_a_request_whose_run_the_store_does_not_know_is_closed_by_an_answer() -> None:
    store, elsewhere = MemoryCheckpointStore(), MemoryCheckpointStore()
    transport, model = Detached(), ScriptedModel()
    async with (
        running(model) as kernel,
        ControlProtocol(transport, store=store) as protocol,
    ):
        firm = Firm(kernel, model, protocol, elsewhere)
        firm.script(5)
        with pytest.raises(AgentInterrupted):
            await firm.head.run(task="go")
        (request,) = transport.open.values()

        for reason in ("its run is unknown to the store", "nobody waits"):
            with pytest.raises(AnswerRefusedError, match=reason):
                await transport.answer(request, approved=True)

        assert transport.open == {}
        assert protocol.open_requests == ()


async def test_what_is_asked_outside_a_run_is_not_put_where_answers_come_later() -> None:
    transport = Detached()
    async with ControlProtocol(transport, store=MemoryCheckpointStore()) as protocol:
        with pytest.raises(NotAnsweredError, match="no run waits for it"):
            await protocol.ask(PendingRequest(id="ask_1", kind="question", text="Which?"))

        assert transport.open == {}


async def test_outside_a_run_a_detached_channel_answers_nothing() -> None:
    store, transport, model = MemoryCheckpointStore(), Detached(), ScriptedModel()
    async with (
        running(model) as kernel,
        ControlProtocol(transport, store=store) as protocol,
    ):
        agent = BaseAgent(signature="n -> answer", kernel=kernel, control_protocol=protocol)

        assert not await agent.request_approval("Go on?")
        with pytest.raises(NotAnsweredError):
            await agent.ask_user_question("Which?")
