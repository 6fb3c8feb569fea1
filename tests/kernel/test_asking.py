"""What a run asks whoever is outside, and what an approval is good for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from kaizen import (
    AgentInterrupted,
    Answer,
    AnswerLater,
    AnswerRefusedError,
    BaseAgent,
    CallNext,
    Channel,
    InterruptMode,
    InterruptReason,
    Kernel,
    NobodyToAskError,
    NotAnsweredError,
    PendingRequest,
    Registry,
    RunError,
    ToolCall,
    ToolResult,
    action_digest,
    current_run,
    hookimpl,
    tool,
)
from kaizen.checkpoints import answer, fork, pending_requests, read_log, rewind
from kaizen.errors import (
    CheckpointLoadError,
    CheckpointSaveError,
    OutcomeUnknownError,
)
from kaizen.ports import StoredEntry
from kaizen.runlog import Answered, Asked, Marked, Noted, ToolIntended
from kaizen.testing import (
    Call,
    Line,
    MemoryCheckpointStore,
    ModelPlugin,
    Said,
    ScriptedChannel,
    ScriptedModel,
)
from kaizen.tools import FunctionTool

pytestmark = pytest.mark.anyio

PAY = Call("pay", {"amount": 5}, id="p1")
YES = Answer(approved=True, principal="alice")


class Gate:
    """Has a person approve every payment.

    Attributes:
        change: What it does with a call after that.
        seen: The calls that were approved.
    """

    name = "gate"

    def __init__(self, expires_s: float | None = None) -> None:
        self.change: Callable[[ToolCall], ToolCall] = lambda call: call
        self.seen: list[ToolCall] = []
        self._expires_s = expires_s

    @hookimpl
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        if call.name != "pay":
            return await call_next(call)
        run = current_run()
        given = await run.ask(
            f"Pay {call.arguments['amount']}?",
            kind="approval",
            details={"tool": call.name, "arguments": dict(call.arguments)},
            action_digest=action_digest(call, run.principal),
            expires_s=self._expires_s,
        )
        assert given.approved
        self.seen.append(call.granted("gate", approval=given.request_id))
        return await call_next(self.change(self.seen[-1]))


class Office:
    """A store, a till and a person; and agents that pay, one process after another.

    Attributes:
        paid: The amounts that were paid.
    """

    def __init__(self, *said: Said, lines: tuple[Line, ...] = (PAY, "done")) -> None:
        self.store = MemoryCheckpointStore()
        self.channel = ScriptedChannel(*said)
        self.gate = Gate()
        self.plugins: list[object] = []
        self.gated = True
        self.idempotent = False
        self.paid: list[int] = []
        self.fails: BaseException | None = None
        self._lines = lines

    @property
    def tools(self) -> list[FunctionTool]:
        @tool(danger="high", idempotent=self.idempotent)
        def pay(amount: int) -> str:
            """Pay somebody."""
            self.paid.append(amount)
            if self.fails is not None:
                raise self.fails
            return "paid"

        @tool(danger="low")
        async def ask_for(question: str) -> Any:
            """Ask the user."""
            return await current_run().agent.ask_user_question(question, ["tea", "coffee"])

        return [pay, ask_for]

    def kernel(self, *lines: Line, **config: Any) -> Kernel:
        model = ScriptedModel(*(lines or self._lines))
        return Kernel(
            plugins=[ModelPlugin(model), *([self.gate] * self.gated), *self.plugins],
            discover=False,
            config={"default_provider": "scripted", **config},
            config_file=False,
        )

    def agent(self, kernel: Kernel, **given: Any) -> BaseAgent:
        known: dict[str, Any] = {
            "tools": self.tools,
            "store": self.store,
            "control_protocol": self.channel,
            "agent_id": "teller",
        }
        return BaseAgent(signature="question -> answer", kernel=kernel, **(known | given))

    async def stopped(self, *lines: Line) -> str:
        """Run until the run stops, and return its id."""
        async with self.kernel(*lines) as kernel:
            with pytest.raises(AgentInterrupted) as caught:
                await self.agent(kernel).run(question="?")
        return caught.value.run_id


async def log_of(office: Office) -> list[Any]:
    (record,) = await office.store.runs()
    return list(await read_log(office.store, record.run_id))


# Questions.


async def test_the_answer_to_a_question_comes_back_and_is_in_the_log() -> None:
    office = Office("tea", lines=(Call("ask_for", {"question": "Which?"}), "done"))

    async with office.kernel() as kernel:
        result = await office.agent(kernel).run(question="?")

    assert result.messages[-2].text == "tea"
    entries = await log_of(office)
    asked = next(each for each in entries if isinstance(each, Asked))
    given = next(each for each in entries if isinstance(each, Answered))
    assert (asked.text, asked.options, asked.schema) == (
        "Which?",
        ("tea", "coffee"),
        {"enum": ["tea", "coffee"]},
    )
    assert (given.request_id, given.text) == (asked.request_id, "tea")
    assert given.principal == "scripted"
    assert asked.request_id.startswith(f"{result.run_id}:")


async def test_a_typed_answer_is_validated_and_asked_for_again_if_it_does_not_fit() -> None:
    office = Office("many", Answer(value=[1, "x"]), Answer(value=[1, 2]))

    given = await asked_inside(office, "How many?", answer_type=list[int])

    assert given.value == [1, 2]
    first, second, third = office.channel.requests
    assert first.schema == {"type": "array", "items": {"type": "integer"}}
    assert "does not fit" in second.details["problem"]
    assert len({first.id, second.id, third.id}) == 3


async def test_three_answers_that_do_not_fit_are_no_answer() -> None:
    office = Office("many")

    with pytest.raises(NotAnsweredError, match="answered 3 times"):
        await asked_inside(office, "How many?", answer_type=int)


async def test_a_channel_that_fails_or_gives_no_answer_at_all_has_refused() -> None:
    async def odd(_: PendingRequest) -> Any:
        return {"approved": True}

    too_long = Answer(text="x" * 1_000_001)
    for said in (ValueError("broken"), Answer(value=object()), too_long):
        office = Office(said)
        with pytest.raises(NotAnsweredError):
            await asked_inside(office, "Pay?", kind="approval")
    office = Office()
    office.channel.ask = odd  # type: ignore[method-assign,assignment]
    with pytest.raises(NotAnsweredError):
        await asked_inside(office, "Pay?", kind="approval")


async def test_what_only_looks_like_a_yes_is_a_no() -> None:
    yes: Any = "yes"
    office = Office(Answer(approved=yes, always=yes))

    given = await asked_inside(office, "Pay?", kind="approval")

    assert (given.approved, given.always) == (False, False)


async def test_a_question_that_expires_is_withdrawn_and_counts_as_not_answered() -> None:
    office = Office(None)

    with pytest.raises(NotAnsweredError, match="in time"):
        await asked_inside(office, "Now?", expires_s=0.01)

    (request,) = office.channel.requests
    assert office.channel.withdrawn == [request.id]
    given = [each for each in await log_of(office) if isinstance(each, Answered)]
    assert [(each.approved, bool(each.problem)) for each in given] == [(False, True)]


async def test_with_nobody_to_ask_a_question_fails_and_an_approval_is_refused() -> None:
    office = Office()

    async with office.kernel() as kernel:
        agent = office.agent(kernel, control_protocol=None)
        with pytest.raises(NobodyToAskError):
            await agent.ask_user_question("Who?")
        assert not await agent.request_approval("Pay?")
        await agent.report_progress("all alone", 50)


async def test_an_agent_asks_also_outside_a_run() -> None:
    office = Office("tea", Answer(value=3), YES)

    async with office.kernel() as kernel:
        agent = office.agent(kernel)
        assert await agent.ask_user_question("Which?", ["tea", "coffee"]) == "tea"
        assert await agent.ask_user_question("How many?", answer_type=int) == 3
        assert await agent.request_approval("Pay?", {"amount": 5})
        await agent.report_progress("done", percentage=100)
        with pytest.raises(ValueError, match="percentage"):
            await agent.report_progress("done", percentage=-1)

    assert office.channel.told == [("done", 100)]
    assert office.channel.requests[2].details == {"amount": 5}


async def test_answers_outside_a_run_have_to_fit_as_well() -> None:
    office = Office("water")

    async with office.kernel() as kernel:
        agent = office.agent(kernel)
        with pytest.raises(NotAnsweredError, match="none of"):
            await agent.ask_user_question("Which?", ["tea", "coffee"])
        with pytest.raises(NotAnsweredError):
            await agent.ask_user_question("How many?", answer_type=int)
        office.channel.ask = later  # type: ignore[method-assign]
        with pytest.raises(NotAnsweredError, match="later"):
            await agent.ask_user_question("Which?")


async def later(request: PendingRequest) -> Answer:
    raise AnswerLater


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": ""},
        {"text": "x" * 100_001},
        {"text": "Which?", "expires_s": 0},
        {"text": "Which?", "expires_s": float("nan")},
        {"text": "Which?", "expires_s": 1e12},
    ],
)
async def test_a_question_that_cannot_be_put_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"characters|expires_s"):
        await asked_inside(Office("x"), **wrong)


async def test_options_and_details_of_the_wrong_kind_are_an_error() -> None:
    wrong: Any = "tea"
    with pytest.raises(TypeError, match="one text"):
        await asked_inside(Office("x"), "Which?", options=wrong)
    with pytest.raises(TypeError, match="JSON"):
        await asked_inside(Office("x"), "Which?", details={"it": object()})


async def test_a_run_that_has_ended_asks_nothing() -> None:
    office = Office("tea", lines=("done",))
    async with office.kernel() as kernel:
        async with office.agent(kernel).stream(question="?") as run:
            await run.wait()
        with pytest.raises(RunError, match="ended"):
            await run.ask("Which?")


async def test_many_questions_may_be_open_at_once() -> None:
    office = Office(lambda request: request.text.upper())

    async def ask_many() -> list[Any]:
        answers: list[Any] = [None] * 50

        async def one(place: int) -> None:
            answers[place] = (await current_run().ask(f"q{place}")).value

        async with anyio.create_task_group() as tasks:
            for place in range(50):
                tasks.start_soon(one, place)
        return answers

    answers = await inside(office, ask_many)

    assert answers == [f"Q{place}" for place in range(50)]
    assert len({each.id for each in office.channel.requests}) == 50


async def test_progress_reaches_the_channel_and_the_log() -> None:
    office = Office()

    async def report() -> None:
        await current_run().agent.report_progress("half", 50)
        await current_run().report_progress("on")

    await inside(office, report)

    assert office.channel.told == [("half", 50), ("on", None)]
    notes = [each for each in await log_of(office) if isinstance(each, Noted)]
    assert [each.data for each in notes] == [
        {"message": "half", "percentage": 50},
        {"message": "on"},
    ]


async def test_progress_out_of_bounds_is_an_error_and_a_broken_channel_is_none() -> None:
    async def report() -> None:
        with pytest.raises(ValueError, match="percentage"):
            await current_run().report_progress("x", percentage=101)
        with pytest.raises(ValueError, match="characters"):
            await current_run().report_progress("x" * 1_000_001)
        await current_run().report_progress("x")

    office = Office()

    async def broken(*_: Any, **__: Any) -> None:
        raise OSError("gone")

    office.channel.progress = broken  # type: ignore[method-assign]
    await inside(office, report)


async def asked_inside(office: Office, text: str, **question: Any) -> Answer:
    """Ask inside a run, and return or raise what comes of it."""
    given: Answer = await inside(office, lambda: current_run().ask(text, **question))
    return given


async def inside(office: Office, work: Callable[[], Any]) -> Any:
    """Do something in a tool of a run, and return or raise what comes of it."""
    came: list[Any] = []

    @tool(danger="low")
    async def do() -> str:
        """Do it."""
        try:
            came.append(await work())
        except Exception as error:  # noqa: BLE001 - raised below
            came.append(error)
        return "done"

    async with office.kernel(Call("do"), "done") as kernel:
        await office.agent(kernel, tools=[do]).run(question="?")
    (result,) = came
    if isinstance(result, Exception):
        raise result
    return result


@pytest.mark.parametrize("mode", list(InterruptMode))
async def test_a_run_that_waits_for_a_person_stops_at_once_and_keeps_the_question(
    mode: InterruptMode,
) -> None:
    office = Office(None, YES)

    async with office.kernel() as kernel:
        agent = office.agent(kernel).bind(graceful_shutdown_timeout=3_600)
        async with agent.stream(question="?") as run:
            while not office.channel.requests:
                await anyio.lowlevel.checkpoint()
            run.interrupt(InterruptReason(mode=mode))
            with anyio.fail_after(5), pytest.raises(AgentInterrupted):
                await run.wait()

    (request,) = office.channel.requests
    assert office.channel.withdrawn == [request.id]
    assert await pending_requests(office.store) == [request]
    await resumed(office, run.id)
    assert office.paid == [5]


# Channels.


async def test_runs_inside_runs_ask_by_the_channel_of_the_outermost() -> None:
    office = Office("tea")
    unused = ScriptedChannel("coffee")

    async with office.kernel(
        Call("delegate"),  # the outermost
        Call("delegate"),
        Call("ask_for", {"question": "Which?"}),
        "innermost",
        "middle",
        "outermost",
    ) as kernel:
        innermost = office.agent(
            kernel, agent_id="c", control_protocol=unused, tools=[office.tools[1]]
        )
        middle = office.agent(
            kernel, agent_id="b", control_protocol=None, tools=[delegate(innermost)]
        )
        outermost = office.agent(kernel, agent_id="a", tools=[delegate(middle)])
        await outermost.bind(metadata={"principal": "alice"}).run(question="?")

    (request,) = office.channel.requests
    assert request.agent_path == ("a", "b", "c")
    assert len(set(request.run_path)) == 3
    assert request.principal == "alice"
    assert request.id.startswith(request.run_path[-1])
    assert not unused.requests


def delegate(agent: BaseAgent) -> FunctionTool:
    @tool(danger="low", name="delegate")
    async def hand_on() -> str:
        """Let another agent do it."""
        return str((await agent.run(question="?")).answer)

    return hand_on


async def test_a_channel_may_be_named() -> None:
    office = Office("tea", lines=(Call("ask_for", {"question": "Which?"}), "done"))

    class Desk:
        name = "desk"

        @hookimpl
        def contribute(self, registry: Registry) -> None:
            registry.add(Channel, "desk", office.channel)

    office.plugins.append(Desk())
    for config, own in (({"channel": "desk"}, None), ({}, "desk")):
        async with office.kernel(**config) as kernel:
            await office.agent(kernel, control_protocol=own).run(question="?")

    assert len(office.channel.requests) == 2


# Approvals.


async def test_what_was_approved_is_done_once_and_the_log_says_by_whom() -> None:
    office = Office(YES)

    async with office.kernel() as kernel:
        await office.agent(kernel).run(question="?")

    assert office.paid == [5]
    entries = await log_of(office)
    intended = next(each for each in entries if isinstance(each, ToolIntended))
    given = next(each for each in entries if isinstance(each, Answered))
    assert intended.approval == given.request_id
    assert (intended.grant, given.principal) == ("gate", "alice")
    assert given.seq < intended.seq


async def test_a_call_that_was_changed_after_the_approval_is_refused() -> None:
    office = Office(YES)
    office.gate.change = lambda call: replace(call, arguments={"amount": 500})

    assert await told(office) == "is not what was approved"
    assert office.paid == []


async def test_an_approval_of_one_call_does_not_let_another_pass() -> None:
    office = Office(YES, lines=(PAY, Call("pay", {"amount": 5}, id="p2"), "done"))
    office.gate.change = lambda _: office.gate.seen[0]

    async with office.kernel() as kernel:
        result = await office.agent(kernel).run(question="?")

    assert office.paid == [5]
    assert "approved once" in result.messages[-2].text


@pytest.mark.parametrize("approval", ["", "nonsense", "run:ask_1"])
async def test_a_grant_that_names_an_approval_that_there_is_not_is_refused(
    approval: str,
) -> None:
    office = Office(YES)
    office.gate.change = lambda call: call.granted("gate", approval=approval or "x")

    assert await told(office) == "was not approved"
    assert office.paid == []


async def test_an_approved_call_is_not_made_twice_by_who_retries_it() -> None:
    office = Office(YES)

    class Retry:
        name = "retry"

        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            await call_next(call)
            return await call_next(call)

    async with office.kernel() as kernel:
        result = await office.agent(kernel, hooks=[Retry()]).run(question="?")

    assert office.paid == [5]
    assert "approved once" in result.messages[-2].text


async def test_an_approval_that_has_expired_when_the_call_is_made_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office(YES)

    def dawdle(call: ToolCall) -> ToolCall:
        now = time() + 400_000
        monkeypatch.setattr("kaizen._asking.time", lambda: now)
        return call

    office.gate.change = dawdle

    assert "too long ago" in await told(office)
    assert office.paid == []


async def told(office: Office) -> str:
    """Run, and return what the model read last of why a call was refused."""
    async with office.kernel() as kernel:
        result = await office.agent(kernel).run(question="?")
    text = result.messages[-2].text
    return text.partition("'pay' ")[2].partition(". It")[0]


async def test_the_digest_changes_with_all_that_an_approval_is_about() -> None:
    office = Office()
    pay, other = office.tools
    call = ToolCall(
        id="c", name="pay", arguments={"a": 1, "b": [2]}, spec=pay.spec, run_id="r"
    )
    spec = pay.spec
    changed = [
        replace(call, id="d"),
        replace(call, name="pay2"),
        replace(call, arguments={"a": 1, "b": [3]}),
        replace(call, arguments={"a": "1", "b": [2]}),
        replace(call, spec=other.spec),
        replace(call, spec=replace(spec, description="Pay them.")),
        replace(call, spec=replace(spec, parameters={})),
        replace(call, spec=replace(spec, effect=replace(spec.effect, external=True))),
        replace(call, run_id="s"),
    ]

    digests = {action_digest(each) for each in (call, *changed)} | {
        action_digest(call, "x")
    }

    assert len(digests) == len(changed) + 2
    assert action_digest(replace(call, arguments={"b": [2], "a": 1})) in digests
    assert all(each.startswith("sha256:") and len(each) == 71 for each in digests)


# Answers after the process has ended.


async def test_an_open_question_survives_and_the_tool_runs_once_after_the_answer() -> None:
    office = Office(AnswerLater())
    run_id = await office.stopped()
    (request,) = await pending_requests(office.store)
    assert (request.kind, request.details["arguments"]) == ("approval", {"amount": 5})
    assert office.paid == []

    await answer(office.store, request.id, Answer(approved=True, principal="bob"))
    async with office.kernel("done") as kernel:
        result = await office.agent(kernel).resume(run_id)

    assert (result.answer, office.paid) == ("done", [5])
    assert len(office.channel.requests) == 1
    assert await pending_requests(office.store) == []
    async with office.kernel("done") as kernel:
        await office.agent(kernel).resume(run_id)
    assert office.paid == [5]


async def test_the_reason_of_the_stop_names_the_question_that_waits() -> None:
    office = Office(AnswerLater())

    async with office.kernel() as kernel:
        with pytest.raises(AgentInterrupted) as caught:
            await office.agent(kernel).run(question="?")

    (request,) = await pending_requests(office.store)
    assert caught.value.reason.metadata["pending_requests"] == [request.id]


async def test_a_question_without_an_answer_is_asked_again_by_the_same_id() -> None:
    office = Office(AnswerLater(), YES)
    run_id = await office.stopped()

    async with office.kernel("done") as kernel:
        await office.agent(kernel).resume(run_id)

    first, second = office.channel.requests
    assert (first.id, first.expires_at) == (second.id, second.expires_at)
    assert office.paid == [5]


async def test_a_question_of_a_run_inside_a_run_survives_as_well() -> None:
    office = Office(AnswerLater())

    async def go(*lines: Line, run_id: str = "") -> Any:
        async with office.kernel(*lines) as kernel:
            inner = office.agent(kernel, agent_id="inner")
            outer = office.agent(kernel, agent_id="outer", tools=[delegate(inner)])
            return await (outer.resume(run_id) if run_id else outer.run(question="?"))

    with pytest.raises(AgentInterrupted) as caught:
        await go(Call("delegate"), PAY)
    (request,) = await pending_requests(office.store)
    assert request.run_path[0] == caught.value.run_id
    await answer(office.store, request.id, YES)

    result = await go("inner done", "done", run_id=request.run_path[0])

    assert (result.answer, office.paid) == ("done", [5])


async def test_a_refusal_that_came_later_is_a_refusal() -> None:
    office = Office(AnswerLater())
    run_id = await office.stopped()
    (request,) = await pending_requests(office.store)
    await answer(office.store, request.id, Answer(text="too dear"))

    async with office.kernel("done") as kernel:
        with pytest.raises(AssertionError):  # what this gate does then
            await office.agent(kernel).resume(run_id)

    assert office.paid == []


async def test_an_answer_that_was_given_too_long_ago_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office(AnswerLater(), YES)
    run_id = await office.stopped()
    (request,) = await pending_requests(office.store)
    await answer(office.store, request.id, YES)
    later_on = time() + 300_000
    monkeypatch.setattr("kaizen._asking.time", lambda: later_on)

    async with office.kernel("done") as kernel:
        await office.agent(kernel).resume(run_id)

    first, second = office.channel.requests
    assert first.id != second.id


async def test_an_approval_is_not_good_for_a_fork_nor_again_after_going_back() -> None:
    office = Office(YES)
    run_id = await run_with_mark(office)
    mark = next(
        each.mark_id
        for each in await read_log(office.store, run_id)
        if isinstance(each, Marked)
    )
    assert office.paid == [5]

    other = await fork(office.store, mark)
    await resumed(office, other)
    assert (office.paid, len(office.channel.requests)) == ([5, 5], 2)

    await rewind(office.store, mark)
    await resumed(office, run_id)
    assert (office.paid, len(office.channel.requests)) == ([5, 5, 5], 3)


async def run_with_mark(office: Office) -> str:
    """Make a mark between the approval of a payment and the payment."""
    gate = office.gate

    class Marking:
        name = "marking"

        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            if call.grant is not None:
                await current_run().checkpoint()
            return await call_next(call)

    async with office.kernel() as kernel:
        agent = office.agent(kernel, hooks=[Marking()])
        result = await agent.run(question="?")
    assert gate.seen
    return result.run_id


async def resumed(office: Office, run_id: str) -> None:
    async with office.kernel("done") as kernel:
        await office.agent(kernel).resume(run_id)


async def test_a_call_that_was_cut_off_may_be_repeated_with_the_same_approval() -> None:
    class Gone(BaseException):
        pass

    office = Office(YES)
    office.fails = Gone()
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with office.kernel() as kernel:
            await office.agent(kernel).run(question="?")
    assert isinstance(caught.value, Gone) or caught.group_contains(Gone)
    office.fails = None
    (record,) = await office.store.runs()
    async with office.kernel("done") as kernel:
        with pytest.raises(OutcomeUnknownError):
            await office.agent(kernel).resume(record.run_id)

    async with office.kernel("done") as kernel:
        await office.agent(kernel).resume(record.run_id, decision="repeat")

    assert office.paid == [5, 5]
    assert len(office.channel.requests) == 1


async def test_an_answer_to_nothing_twice_or_too_late_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office(AnswerLater(), lines=(PAY,))
    run_id = await office.stopped()
    (request,) = await pending_requests(office.store)

    with pytest.raises(AnswerRefusedError, match="not open"):
        await answer(office.store, f"{run_id}:ask_77", YES)
    with monkeypatch.context() as patch:
        patch.setattr("kaizen.checkpoints.time", lambda: time() + 400_000)
        with pytest.raises(AnswerRefusedError, match="expired"):
            await answer(office.store, request.id, YES)
    await answer(office.store, request.id, YES)
    with pytest.raises(AnswerRefusedError, match="not open"):
        await answer(office.store, request.id, YES)


async def test_a_run_that_is_carried_out_is_answered_where_that_is() -> None:
    office = Office(None)

    async with office.kernel() as kernel, office.agent(kernel).stream(question="?") as run:
        while not office.channel.requests:
            await anyio.lowlevel.checkpoint()
        (request,) = office.channel.requests
        with pytest.raises(CheckpointSaveError):
            await answer(office.store, request.id, YES)
        (waiting,) = await pending_requests(office.store, run_id=run.id)
        assert waiting == request


# What an answer is not an answer to.


@pytest.mark.parametrize(
    "changed",
    [
        {"text": "Delete everything?"},
        {"details": {"path": "/everything"}},
        {"options": ["yes", "no"], "kind": "question"},
        {"answer_type": int, "kind": "question"},
    ],
)
async def test_an_answer_is_never_taken_for_another_question(
    changed: dict[str, Any],
) -> None:
    first = {"text": "Read it?", "kind": "approval", "details": {"path": "notes.txt"}}
    office = Office(AnswerLater())
    with pytest.raises(AgentInterrupted) as stopped:
        await asking_run(office, first)
    (request,) = await pending_requests(office.store)
    await answer(office.store, request.id, Answer(approved=True, text="1"))
    office.channel = ScriptedChannel(Answer(text="no"))

    given = await asking_run(office, first | changed, run_id=stopped.value.run_id)

    asked = office.channel.requests[0]
    assert asked.id != request.id
    assert not getattr(given, "approved", False)


async def asking_run(
    office: Office, question: dict[str, Any], *, run_id: str = ""
) -> Answer | Exception:
    """Ask in a tool of a run, or of one that goes on; return what comes of it."""
    came: list[Any] = []

    @tool(danger="low")
    async def do() -> str:
        """Do it."""
        try:
            came.append(await current_run().ask(**question))
        except NotAnsweredError as error:
            came.append(error)
        return "done"

    async with office.kernel(*(["done"] if run_id else [Call("do"), "done"])) as kernel:
        agent = office.agent(kernel, tools=[do])
        await (agent.resume(run_id) if run_id else agent.run(question="?"))
    (result,) = came
    return result  # type: ignore[no-any-return]


async def test_a_refusal_never_becomes_a_yes_that_was_given_to_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask_both() -> list[bool]:
        agent = current_run().agent
        return [
            await agent.request_approval("Delete all?", expires_s=1_000),
            await agent.request_approval("Read?"),
        ]

    office = Office(False, True, AnswerLater())
    seen: list[list[bool]] = []

    @tool(danger="low", idempotent=True)
    async def do() -> str:
        """Do it."""
        seen.append(await ask_both())
        await current_run().ask("Wait.")
        return "done"

    async with office.kernel(Call("do"), "done") as kernel:
        with pytest.raises(AgentInterrupted) as stopped:
            await office.agent(kernel, tools=[do]).run(question="?")
    later_on = time() + 2_000
    monkeypatch.setattr("kaizen._asking.time", lambda: later_on)
    office.channel = ScriptedChannel(False, "waited")
    async with office.kernel("done") as kernel:
        await office.agent(kernel, tools=[do]).resume(stopped.value.run_id)

    assert seen == [[False, True], [False, True]]
    assert [each.text for each in office.channel.requests] == ["Delete all?", "Wait."]


async def test_an_answer_from_the_future_is_not_acted_upon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office(AnswerLater(), YES)
    run_id = await office.stopped()
    (request,) = await pending_requests(office.store)
    await answer(office.store, request.id, YES)
    before = time() - 30 * 86_400
    monkeypatch.setattr("kaizen._asking.time", lambda: before)

    await resumed(office, run_id)

    assert len(office.channel.requests) == 2


async def test_a_call_that_had_ended_before_going_back_needs_a_new_approval() -> None:
    class MarkingStore:
        name = "marking"

        @hookimpl
        async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
            result = await call_next(call)
            await current_run().checkpoint()  # between `tool_intended` and its end
            return result

    office = Office(YES)
    office.idempotent = True
    async with office.kernel() as kernel:
        agent = office.agent(kernel, hooks=[MarkingStore()])
        run_id = (await agent.run(question="?")).run_id
    mark = next(
        each.mark_id
        for each in await read_log(office.store, run_id)
        if isinstance(each, Marked)
    )
    await rewind(office.store, mark)

    await resumed(office, run_id)

    assert (office.paid, len(office.channel.requests)) == ([5, 5], 2)
    assert len({each.id for each in office.channel.requests}) == 2


async def test_what_is_asked_after_going_back_has_an_id_of_its_own() -> None:
    office = Office(AnswerLater(), YES, YES)
    run_id = await office.stopped()
    (request,) = await pending_requests(office.store)
    await answer(office.store, request.id, YES)
    await resumed(office, run_id)
    assert office.paid == [5]
    ends = [
        f"{run_id}:{each.seq}"
        for each in await read_log(office.store, run_id)
        if each.type == "run_ended"
    ]
    await rewind(office.store, ends[0])  # there, the question was open
    assert await pending_requests(office.store) == []

    await resumed(office, run_id)

    assert office.paid == [5, 5]
    assert len({each.id for each in office.channel.requests}) == 2


# What is listed as open.


async def test_a_question_is_found_behind_any_number_of_other_runs() -> None:
    office = Office(AnswerLater())
    await office.stopped()
    async with office.kernel(*["done"] * 5) as kernel:
        for _ in range(5):
            await office.agent(kernel).run(question="?")

    assert len(await pending_requests(office.store, limit=2)) == 1


async def test_a_log_that_cannot_be_read_hides_no_other_question(
    caplog: pytest.LogCaptureFixture,
) -> None:
    office = Office(AnswerLater())
    await office.stopped()
    odd = StoredEntry(seq=0, type="unknown", version=1, body=b'{"seq":0}')
    await office.store.append("odd", [odd])

    assert len(await pending_requests(office.store)) == 1
    assert "odd" in caplog.text
    with pytest.raises(CheckpointLoadError):
        await pending_requests(office.store, run_id="odd")


async def test_the_question_of_a_run_is_not_that_of_its_fork() -> None:
    office = Office(AnswerLater())
    run_id = await office.stopped()

    await fork(office.store, run_id)

    (request,) = await pending_requests(office.store)
    assert request.id.startswith(run_id)


async def test_what_a_call_asked_that_ran_out_of_time_is_no_longer_open() -> None:
    office = Office(None)

    @tool(danger="low", timeout_s=0.05)
    async def pay(amount: int) -> str:
        """Ask for ever."""
        await current_run().ask("Now?")
        return "paid"

    office.gated = False
    async with (
        office.kernel(PAY, "done") as kernel,
        office.agent(kernel, tools=[pay]).stream(question="?") as run,
    ):
        await run.wait()

    assert not run.state.questions
    with pytest.raises(AnswerRefusedError, match="not open"):
        await answer(office.store, office.channel.requests[0].id, YES)


async def test_who_answers_later_cannot_answer_a_run_that_is_not_kept() -> None:
    office = Office(AnswerLater())

    async with office.kernel() as kernel:
        agent = office.agent(kernel, store=None, tools=[office.tools[1]])
        result = await agent.execute_tool("ask_for", {"question": "Which?"})
        kept = office.agent(kernel, tools=[office.tools[1]])
        direct = await kept.execute_tool("ask_for", {"question": "Which?"})

    assert "is answered later" in result.content
    assert "is answered later" in direct.content
    assert await pending_requests(office.store) == []


# Answers of odd kinds.


async def test_nothing_is_an_answer_where_the_type_says_so() -> None:
    given = await asked_inside(Office(Answer()), "How many?", answer_type=int | None)

    assert given.value is None


async def test_an_answer_among_options_may_have_a_type() -> None:
    office = Office(Answer(value=2), "2", "3", "3", "3")
    question: Any = {"text": "How many?", "options": ["1", "2"], "answer_type": int}

    assert (await asked_inside(office, **question)).value == 2
    assert (await asked_inside(office, **question)).value == 2
    with pytest.raises(NotAnsweredError, match="none of"):
        await asked_inside(office, **question)
    assert office.channel.requests[0].schema == {"enum": ["1", "2"]}


async def test_an_option_that_is_no_answer_is_an_error() -> None:
    office = Office("a")

    with pytest.raises(ValueError, match="option 'a'"):
        await asked_inside(office, "Which?", options=["1", "a"], answer_type=int)

    assert office.channel.requests == []


async def test_an_answer_whose_parts_are_no_texts_is_none() -> None:
    odd: Any = None
    for given in (Answer(text=odd), Answer(principal=odd)):
        with pytest.raises(NotAnsweredError, match="texts"):
            await asked_inside(Office(given), "Which?")


async def test_an_answer_that_no_log_can_hold_is_refused() -> None:
    office = Office(AnswerLater())
    await office.stopped()
    (request,) = await pending_requests(office.store)

    for given in (Answer(text="x" * 1_000_001), Answer(value=object())):
        with pytest.raises(AnswerRefusedError, match="cannot be used"):
            await answer(office.store, request.id, given)
    await answer(office.store, request.id, YES)


async def test_progress_is_no_failure_where_the_channel_cannot_be_opened() -> None:
    office = Office()

    async with office.kernel() as kernel:
        agent = office.agent(kernel, control_protocol="nosuch")
        await agent.report_progress("half", 50)
