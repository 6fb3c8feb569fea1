"""Questions over a transport: which answers are taken, and what becomes of the others."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from time import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from kaizen import Answer, AnswerRefusedError, NotAnsweredError, PendingRequest
from kaizen_control import (
    ControlProtocol,
    MemoryTransport,
    Outgoing,
    Received,
    _protocol,
)
from kaizen_control._company import company

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "ab" * 32
QUESTION = PendingRequest(id="run:ask_1", kind="question", text="Which way?")
CHOICE = replace(QUESTION, options=("left", "right"), schema={"enum": ["left", "right"]})
NUMBER = replace(QUESTION, schema={"type": "integer", "minimum": 1})
APPROVAL = PendingRequest(
    id="run:ask_1",
    kind="approval",
    text="Pay?",
    details={"tool": "pay", "arguments": {"amount": 5}},
    action_digest=DIGEST,
)
RULED = replace(APPROVAL, details={**APPROVAL.details, "rule": "pay(amount=5)"})


class Asking:
    """A question that is being asked, and what came of it."""

    def __init__(self, request: PendingRequest) -> None:
        self.request = request
        self.outcome: Answer | NotAnsweredError | None = None
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()

    async def ask(self, protocol: ControlProtocol) -> None:
        try:
            with self.scope:
                self.outcome = await protocol.ask(self.request)
        except NotAnsweredError as error:
            self.outcome = error
        finally:
            self.over.set()

    @property
    def answer(self) -> Answer:
        assert isinstance(self.outcome, Answer), self.outcome
        return self.outcome

    @property
    def problem(self) -> str:
        assert isinstance(self.outcome, NotAnsweredError), self.outcome
        return self.outcome.problem


class Line:
    """A channel over a memory transport, and questions that are put to it."""

    def __init__(self, protocol: ControlProtocol, transport: MemoryTransport) -> None:
        self.protocol = protocol
        self.transport = transport
        self.tasks = anyio.create_task_group()

    async def ask(self, request: PendingRequest) -> Asking:
        """Ask, and return when the other side knows."""
        asking = Asking(request)
        self.tasks.start_soon(asking.ask, self.protocol)
        with anyio.fail_after(5):
            while request.id not in self.transport.open:
                await self.transport.changed()
        return asking

    async def unasked(self, request: PendingRequest) -> str:
        """Ask what cannot be asked, and return why."""
        with anyio.fail_after(5), pytest.raises(NotAnsweredError) as caught:
            await self.protocol.ask(request)
        return caught.value.problem

    async def refused(self, request: PendingRequest | str, **answer: Any) -> str:
        with anyio.fail_after(5), pytest.raises(AnswerRefusedError) as caught:
            await self.transport.answer(request, **answer)
        return caught.value.problem


async def until(asking: Asking) -> Asking:
    with anyio.fail_after(5):
        await asking.over.wait()
    return asking


@asynccontextmanager
async def line(**options: Any) -> AsyncGenerator[Line]:
    transport = MemoryTransport()
    async with ControlProtocol(transport, **options) as protocol:
        made = Line(protocol, transport)
        async with made.tasks:
            yield made
            made.tasks.cancel_scope.cancel()


async def test_an_answer_comes_back_to_who_asked() -> None:
    async with line() as control:
        asking = await control.ask(QUESTION)

        await control.transport.answer(QUESTION, text="left", principal="alice")

        await until(asking)
        assert asking.answer == Answer(text="left", principal="alice")
        assert control.protocol.open_requests == ()
        assert control.transport.open == {}


async def test_the_other_side_sees_all_of_a_request() -> None:
    request = replace(
        RULED,
        principal="alice",
        run_path=("a", "b"),
        agent_path=("outer", "inner"),
        expires_at=time() + 60,
    )
    async with line() as control:
        await control.ask(request)

        (seen,) = control.transport.open.values()

        assert seen == request


async def test_of_many_open_requests_each_gets_its_own_answer() -> None:
    async with line() as control:
        asked = [
            await control.ask(replace(QUESTION, id=f"run:ask_{number}"))
            for number in range(100)
        ]

        for each in reversed(asked):
            await control.transport.answer(each.request, text=f"for {each.request.id}")

        for each in asked:
            await until(each)
            assert each.answer.text == f"for {each.request.id}"


async def test_requests_are_given_once_and_in_order() -> None:
    async with line() as control:
        for number in range(5):
            await control.ask(replace(QUESTION, id=f"run:ask_{number}"))

        seen = []
        async for request in control.transport:
            seen.append(request.id)
            await control.transport.answer(request, text="left")
            if len(seen) == 5:
                break

        assert seen == [f"run:ask_{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("request_", "answer", "taken"),
    [
        (APPROVAL, {"approved": True}, Answer(approved=True)),
        (APPROVAL, {"approved": False, "text": "no!"}, Answer(text="no!")),
        (APPROVAL, {"declined": True}, Answer()),
        (APPROVAL, {"approved": True, "declined": True}, Answer()),
        (RULED, {"approved": True, "always": True}, Answer(approved=True, always=True)),
        (QUESTION, {"value": "left"}, Answer(text="left")),
        (CHOICE, {"text": "left"}, Answer(text="left", value="left")),
        (CHOICE, {"value": "right"}, Answer(text="right", value="right")),
        (NUMBER, {"text": "42"}, Answer(text="42", value=42)),
        (NUMBER, {"value": 42}, Answer(value=42)),
        (NUMBER, {"value": 42, "text": "why not"}, Answer(text="why not", value=42)),
        (
            replace(QUESTION, schema={"type": "string"}),
            {"text": "42"},
            Answer(text="42", value="42"),
        ),
        (
            replace(QUESTION, schema={"type": ["null", "integer"]}),
            {"value": None},
            Answer(value=None),
        ),
        (
            replace(QUESTION, schema={"type": "object", "required": ["a"]}),
            {"text": '{"a": [1]}'},
            Answer(text='{"a": [1]}', value={"a": [1]}),
        ),
        (
            replace(QUESTION, schema={"type": "string", "pattern": "^[a-z]+$"}),
            {"text": "abc"},
            Answer(text="abc", value="abc"),
        ),
    ],
)
async def test_an_answer_that_fits_is_taken(
    request_: PendingRequest, answer: Mapping[str, Any], taken: Answer
) -> None:
    async with line() as control:
        asking = await control.ask(request_)

        await control.transport.answer(request_, **answer)

        await until(asking)
        assert asking.answer == taken


DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("request_", "answer", "reason"),
    [
        (APPROVAL, {"text": "yes"}, "set `approved`"),
        (APPROVAL, {"approved": True, "value": True}, "has no value"),
        (APPROVAL, {"approved": True, "action_digest": ""}, "not that of what was asked"),
        (APPROVAL, {"approved": True, "action_digest": DIGEST[:-1]}, "not that of what"),
        (APPROVAL, {"approved": True, "action_digest": DIGEST.upper()}, "not that of what"),
        (APPROVAL, {"approved": False, "action_digest": "x"}, "not that of what was asked"),
        (APPROVAL, {"approved": True, "always": True}, "no rule was shown"),
        (RULED, {"approved": False, "always": True}, "goes with a yes"),
        (QUESTION, {"text": ""}, "empty"),
        (QUESTION, {"approved": True}, "not approved"),
        (QUESTION, {"text": "left", "always": True}, "not approved"),
        (QUESTION, {"value": 5}, "has to be a text"),
        (replace(QUESTION, options=("a", "b")), {"text": "c"}, "none of 'a', 'b'"),
        (CHOICE, {"text": "up"}, "does not fit"),
        (CHOICE, {"value": ["left"]}, "does not fit"),
        (NUMBER, {"text": "many"}, "does not fit"),
        (NUMBER, {"text": "0"}, "less than the minimum"),
        (NUMBER, {"text": "NaN"}, "does not fit"),
        (NUMBER, {"value": True}, "does not fit"),
        (NUMBER, {"value": 1.5}, "does not fit"),
        (NUMBER, {"value": None}, "does not fit"),
        (NUMBER, {}, "empty"),
        (replace(QUESTION, schema={"type": "array"}), {"value": DEEP}, "deeper than"),
        (replace(QUESTION, schema={"type": "array"}), {"text": "[" * 99}, "does not fit"),
        (
            replace(QUESTION, schema={"type": "array"}),
            {"value": list(range(9_999))},
            "more than 5000 parts",
        ),
        (
            replace(QUESTION, schema={"type": "string", "pattern": "^(a+)+$"}),
            {"text": "a" * 60 + "!"},
            "does not match",
        ),
        (
            replace(QUESTION, schema={"$ref": "http://127.0.0.1:1/schema.json"}),
            {"text": "x"},
            "nobody can tell",
        ),
        (replace(QUESTION, schema={"type": "no such"}), {"text": "x"}, "nobody can tell"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays_open(
    request_: PendingRequest, answer: Mapping[str, Any], reason: str
) -> None:
    async with line() as control:
        asking = await control.ask(request_)

        problem = await control.refused(request_, **answer)

        assert reason in problem
        assert not asking.over.is_set()
        assert [each.id for each in control.protocol.open_requests] == [request_.id]
        assert request_.id in control.transport.open


async def test_after_an_answer_that_was_refused_another_one_is_taken() -> None:
    async with line() as control:
        asking = await control.ask(NUMBER)
        await control.refused(NUMBER, text="many")

        await control.transport.answer(NUMBER, text="7")

        assert (await until(asking)).answer.value == 7


async def test_a_second_answer_is_refused_and_changes_nothing() -> None:
    async with line() as control:
        asking = await control.ask(APPROVAL)
        await control.transport.answer(APPROVAL, approved=False)

        problem = await control.refused(APPROVAL, approved=True)

        assert problem == "it was answered already"
        assert not (await until(asking)).answer.approved


async def test_of_many_answers_at_once_one_is_taken() -> None:
    taken: list[int] = []
    async with line() as control:
        asking = await control.ask(QUESTION)

        async def answer(number: int) -> None:
            with suppress(AnswerRefusedError):
                await control.transport.answer(QUESTION, text=str(number))
                taken.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(answer, number)

        assert [(await until(asking)).answer.text] == [str(each) for each in taken]


async def test_an_answer_to_no_request_is_refused() -> None:
    async with line() as control:
        asking = await control.ask(QUESTION)

        problem = await control.refused("run:ask_2", text="left")

        assert problem == "there is no such request"
        assert not asking.over.is_set()


async def test_an_answer_meant_for_another_request_does_not_approve_this_one() -> None:
    async with line() as control:
        other = replace(APPROVAL, id="run:ask_2", action_digest="sha256:" + "cd" * 32)
        asking, other_asking = await control.ask(APPROVAL), await control.ask(other)

        problem = await control.refused(
            APPROVAL.id, approved=True, action_digest=other.action_digest
        )

        assert "not that of what was asked" in problem
        assert not asking.over.is_set()
        assert not other_asking.over.is_set()


async def test_a_request_expires_and_an_answer_after_that_is_too_late() -> None:
    async with line() as control:
        brief = replace(QUESTION, expires_at=time() + 0.05)
        asking = await until(await control.ask(brief))

        problem = await control.refused(brief, text="left")

        assert asking.problem == "has expired"
        assert problem == "it has expired"
        assert control.transport.open == {}


async def test_a_clock_that_is_set_back_does_not_make_a_request_last_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with line() as control:
        brief = replace(QUESTION, expires_at=time() + 0.05)
        now = time()
        asking = await control.ask(brief)
        monkeypatch.setattr(_protocol, "time", lambda: now - 86_400)

        assert (await until(asking)).problem == "has expired"


async def test_a_clock_that_is_set_forward_ends_what_has_expired_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with line() as control:
        late = replace(QUESTION, expires_at=time() + 60)
        await control.ask(late)
        monkeypatch.setattr(_protocol, "time", lambda: late.expires_at or 0)

        assert await control.refused(late, text="left") == "it has expired"


async def test_what_has_expired_already_is_not_put() -> None:
    async with line() as control:
        problem = await control.unasked(replace(QUESTION, expires_at=time() - 1))

        assert problem == "has expired"
        assert control.transport.open == {}


async def test_a_request_that_is_not_wanted_any_more_is_withdrawn_on_both_sides() -> None:
    async with line() as control:
        asking = await control.ask(QUESTION)

        asking.scope.cancel()
        await until(asking)

        assert asking.outcome is None
        assert control.transport.open == {}
        assert "nobody waits" in await control.refused(QUESTION, text="left")


async def test_a_question_that_is_declined_is_not_answered() -> None:
    async with line() as control:
        asking = await control.ask(QUESTION)

        await control.transport.answer(QUESTION, declined=True)

        assert (await until(asking)).problem == "was declined"


async def test_when_the_other_side_goes_all_open_requests_end_unanswered() -> None:
    async with line() as control:
        asked = [
            await control.ask(replace(QUESTION, id=f"run:ask_{number}"))
            for number in range(3)
        ]

        control.transport.hang_up()

        for each in asked:
            assert (await until(each)).problem == "was not answered: the other side is gone"


async def test_a_side_that_is_gone_is_asked_nothing() -> None:
    async with line() as control:
        control.transport.hang_up()

        problem = await control.unasked(QUESTION)

        assert problem == "cannot be put: the other side is gone"
        await control.protocol.progress("half way")


async def test_when_the_channel_is_closed_open_requests_end_unanswered() -> None:
    transport = MemoryTransport()
    asking = Asking(QUESTION)
    async with anyio.create_task_group() as tasks:
        async with ControlProtocol(transport) as protocol:
            tasks.start_soon(asking.ask, protocol)
            while not transport.open:
                await transport.changed()

        assert (await until(asking)).problem == "was not answered: the channel was closed"


async def test_a_channel_that_is_not_open_refuses_with_a_remedy() -> None:
    protocol = ControlProtocol(MemoryTransport())

    with pytest.raises(NotAnsweredError, match="async with protocol"):
        await protocol.ask(QUESTION)
    with pytest.raises(NotAnsweredError, match="async with protocol"):
        await protocol.progress("half way")


async def test_a_channel_lives_in_a_task_group_and_ends_with_it() -> None:
    transport = MemoryTransport()
    protocol = ControlProtocol(transport)
    asking = Asking(QUESTION)
    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as tasks:
            await protocol.start(tasks)
            outer.start_soon(asking.ask, protocol)
            while not transport.open:
                await transport.changed()
            await transport.answer(QUESTION, text="left")
            tasks.cancel_scope.cancel()

        assert (await until(asking)).answer.text == "left"
        with pytest.raises(NotAnsweredError):
            await protocol.ask(QUESTION)


async def test_a_channel_can_be_opened_again() -> None:
    protocol = ControlProtocol(MemoryTransport())
    for _ in range(2):
        async with protocol, anyio.create_task_group() as tasks:
            transport = protocol.transport
            assert isinstance(transport, MemoryTransport)
            asking = Asking(QUESTION)
            tasks.start_soon(asking.ask, protocol)
            async for request in transport:
                await transport.answer(request, text="left")
                break
            assert (await until(asking)).answer.text == "left"


async def test_what_the_block_raises_leaves_the_channel_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with ControlProtocol(MemoryTransport()):
            raise KeyError("mine")


async def test_the_same_request_cannot_be_open_twice() -> None:
    async with line() as control:
        first = await control.ask(QUESTION)

        problem = await control.unasked(QUESTION)

        assert problem == "is open already"
        assert not first.over.is_set()


async def test_a_request_can_be_asked_again_once_it_was_answered() -> None:
    async with line() as control:
        for text in ("left", "right"):
            asking = await control.ask(QUESTION)
            await control.transport.answer(QUESTION, text=text)
            assert (await until(asking)).answer.text == text


async def test_what_is_too_large_to_be_shown_is_not_asked() -> None:
    async with line() as control:
        large = replace(APPROVAL, details={"content": "x" * 2_000_000})

        problem = await control.unasked(large)

        assert problem == "is too large to be shown in full"
        assert control.transport.open == {}


class Deaf(MemoryTransport):
    """Takes nothing."""

    async def send(self, message: Outgoing) -> None:
        await anyio.sleep_forever()


async def test_a_side_that_takes_no_messages_does_not_hold_up_a_run() -> None:
    async with ControlProtocol(Deaf(), send_timeout_s=0.01) as protocol:
        with anyio.fail_after(5):
            await protocol.progress("half way")
            with pytest.raises(NotAnsweredError, match="takes no messages"):
                await protocol.ask(QUESTION)
        assert protocol.open_requests == ()


async def test_asking_can_be_cancelled_at_every_await() -> None:
    transport = MemoryTransport()
    async with ControlProtocol(transport) as protocol:
        for waits in itertools.count(1):
            ended = await cut_off(lambda: protocol.ask(QUESTION), waits)
            assert protocol.open_requests == ()
            assert transport.open == {}
            if ended or waits > 20:
                break


async def cut_off(ask: Callable[[], Any], waits: int) -> bool:
    """Cancel a question after some rounds of the event loop."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def strike() -> None:
                for _ in range(waits):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

            tasks.start_soon(strike)
            await ask()
    return not scope.cancelled_caught


async def test_progress_reaches_the_other_side() -> None:
    async with line() as control:
        await control.protocol.progress("half way", percentage=50, run_path=("a", "b"))

        with anyio.fail_after(5):
            while not control.transport.progressed:
                await control.transport.changed()
        (told,) = control.transport.progressed
        assert (told.message, told.percentage, told.run_path) == (
            "half way",
            50.0,
            ("a", "b"),
        )


async def test_progress_is_told_no_faster_than_it_may_be_and_the_last_always() -> None:
    async with line(progress_interval_s=0.05) as control:
        for number in range(10_000):
            await control.protocol.progress(f"step {number}")

        with anyio.fail_after(5):
            while not told(control, "step 9999"):
                await control.transport.changed()
        assert len(control.transport.progressed) <= 2


async def test_the_progress_of_many_runs_is_bounded() -> None:
    async with line() as control:
        for number in range(5_000):
            await control.protocol.progress("x" * 5_000, run_path=(f"run {number}",))

        with anyio.fail_after(5):
            while not control.transport.progressed:
                await control.transport.changed()
        assert len(control.transport.progressed) <= 1_000
        assert len(control.transport.progressed[0].message) < 2_100


async def test_progress_comes_before_the_question_that_follows_it() -> None:
    seen: list[str] = []

    class Ordered(MemoryTransport):
        async def send(self, message: Outgoing) -> None:
            seen.append(message.type)
            await super().send(message)

    transport = Ordered()
    async with (
        ControlProtocol(transport, progress_interval_s=60) as protocol,
        anyio.create_task_group() as tasks,
    ):
        await protocol.progress("one", run_path=("run",))
        await protocol.progress("two", run_path=("run",))
        asking = Asking(replace(QUESTION, run_path=("run",)))
        tasks.start_soon(asking.ask, protocol)
        async for request in transport:
            await transport.answer(request, text="left")
            break

    assert [each.message for each in transport.progressed] == ["two"]
    assert seen == ["progress", "request", "closed"]


def told(control: Line, message: str) -> bool:
    return any(each.message == message for each in control.transport.progressed)


async def test_a_detached_transport_needs_a_store() -> None:
    transport = MemoryTransport()
    transport.detached = True

    with pytest.raises(ValueError, match="store"):
        ControlProtocol(transport)


async def test_an_answer_that_cannot_be_looked_at_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> Answer:
        raise ZeroDivisionError

    async with line() as control:
        asking = await control.ask(QUESTION)
        with monkeypatch.context() as patched:
            patched.setattr(_protocol, "fitting", broken)
            problem = await control.refused(QUESTION, text="left")
        await control.transport.answer(QUESTION, text="right")

        assert problem == "it could not be looked at"
        assert (await until(asking)).answer.text == "right"
    assert "ZeroDivisionError" in caplog.text


CATASTROPHE = "^(a+)+$"
VICTIM = "a" * 60 + "!"


@pytest.mark.parametrize(
    "schema",
    [
        {"patternProperties": {CATASTROPHE: {"type": "integer"}}},
        {
            "patternProperties": {CATASTROPHE: {"type": "integer"}},
            "additionalProperties": True,
        },
        {
            "patternProperties": {CATASTROPHE: {"type": "integer"}},
            "additionalProperties": {"type": "integer"},
        },
        {
            "allOf": [{"patternProperties": {CATASTROPHE: {"type": "integer"}}}],
            "unevaluatedProperties": {"type": "integer"},
        },
        {"propertyNames": {"not": {"pattern": CATASTROPHE}}},
        {
            "propertyNames": {
                "not": {
                    "$schema": "http://json-schema.org/draft-07/schema#",
                    "pattern": CATASTROPHE,
                }
            }
        },
        {
            "allOf": [
                {
                    "$schema": "http://json-schema.org/draft-07/schema#",
                    "patternProperties": {CATASTROPHE: {}},
                }
            ]
        },
    ],
)
async def test_a_pattern_that_takes_for_ever_holds_up_nothing(
    schema: dict[str, Any],
) -> None:
    async with line() as control:
        asked = replace(QUESTION, schema={"type": "object", **schema})
        asking = await control.ask(asked)

        with anyio.fail_after(3):
            await control.transport.answer(asked, value={VICTIM: 1})

        assert (await until(asking)).answer.value == {VICTIM: 1}


async def test_other_properties_are_still_checked() -> None:
    async with line() as control:
        asked = replace(
            QUESTION,
            schema={"properties": {"a": {}}, "additionalProperties": False},
        )
        await control.ask(asked)

        assert "does not fit" in await control.refused(asked, value={"b": 1})


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ([{"n": each} for each in range(2_400)], True),
        ([{"n": each % 2_399} for each in range(2_400)], False),
        ([1, 1.0], False),
        ([1, True], True),
        ([0, False], True),
        ([[1], [True]], True),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False),
        (["1", 1, None, [], {}], True),
    ],
)
async def test_equal_items_are_found_in_a_moment(value: list[Any], fits: bool) -> None:
    async with line() as control:
        asked = replace(QUESTION, schema={"type": "array", "uniqueItems": True})
        await control.ask(asked)

        with anyio.fail_after(3):
            if fits:
                await control.transport.answer(asked, value=value)
            else:
                assert "same item twice" in await control.refused(asked, value=value)


async def test_a_schema_that_takes_for_ever_is_given_up() -> None:
    levels = {
        f"l{level}": {"allOf": [{"$ref": f"#/$defs/l{level + 1}"}] * 2}
        for level in range(40)
    }
    schema = {"$defs": {**levels, "l40": {}}, "$ref": "#/$defs/l0"}
    async with line() as control:
        asked = replace(QUESTION, schema=schema)
        await control.ask(asked)

        with anyio.fail_after(9), pytest.raises(AnswerRefusedError, match="nobody can"):
            await control.transport.answer(asked, text="left")


async def test_an_answer_that_takes_long_to_look_at_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = replace(QUESTION, id="run:ask_2")
    may_go_on = anyio.Event()

    async def fitting(request: PendingRequest, *_: object, **__: object) -> Answer:
        if request.id == slow.id:
            await may_go_on.wait()
        return Answer(text="left")

    monkeypatch.setattr(_protocol, "fitting", fitting)
    async with line() as control:
        asking, slowly = await control.ask(QUESTION), await control.ask(slow)
        control.tasks.start_soon(partial(control.transport.answer, slow, text="left"))
        await anyio.wait_all_tasks_blocked()

        with anyio.fail_after(5):
            await control.transport.answer(QUESTION, text="left")

        assert (await until(asking)).answer.text == "left"
        assert not slowly.over.is_set()
        may_go_on.set()
        assert (await until(slowly)).answer.text == "left"


async def test_answers_to_one_request_do_not_heap_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fitting(*_: object, **__: object) -> Answer:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(_protocol, "fitting", fitting)
    async with line() as control:
        await control.ask(QUESTION)
        for _ in range(20):
            answer = partial(control.transport.answer, QUESTION, text="left")
            control.tasks.start_soon(suppressed, answer)
            await anyio.wait_all_tasks_blocked()

        assert "many have answered" in await control.refused(QUESTION, text="left")


async def suppressed(answer: Callable[[], Awaitable[None]]) -> None:
    with suppress(AnswerRefusedError):
        await answer()


async def test_an_answer_that_has_come_counts_also_when_the_other_side_goes_at_once() -> (
    None
):
    class Hasty(MemoryTransport):
        async def receive(self) -> Received:
            received = await super().receive()
            self.hang_up()
            return received

    transport = Hasty()
    async with (
        ControlProtocol(transport) as protocol,
        anyio.create_task_group() as tasks,
    ):
        asking = Asking(NUMBER)
        tasks.start_soon(asking.ask, protocol)
        await anext(transport)
        with suppress(AnswerRefusedError):
            await transport.answer(NUMBER, value=7)
        assert (await until(asking)).answer.value == 7


async def test_a_channel_that_is_closed_with_an_answer_unseen_lets_nobody_wait() -> None:
    for rounds in range(8):
        transport = MemoryTransport()
        asking = Asking(NUMBER)
        async with anyio.create_task_group() as outer:
            async with ControlProtocol(transport) as protocol:
                outer.start_soon(asking.ask, protocol)
                await anext(transport)
                outer.start_soon(suppressed, partial(transport.answer, NUMBER, value=7))
                for _ in range(rounds):
                    await anyio.lowlevel.checkpoint()

            await until(asking)


async def test_progress_says_on_whose_behalf_its_run_acts_once_that_is_known() -> None:
    async with line(progress_interval_s=0) as control:
        await control.protocol.progress("early", run_path=("a", "b"))
        await untold(control, "early")
        mine = replace(QUESTION, principal="alice", run_path=("a", "c"))
        await control.ask(mine)
        await control.transport.answer(mine, text="left")
        for number, path in enumerate([("a", "b"), ("a",), ("x", "a"), ("b",), ()]):
            await control.protocol.progress(f"step {number}", run_path=path)
            await untold(control, f"step {number}")

        assert [each.principal for each in control.transport.progressed] == [
            *("", "alice", "alice", "", "", "")
        ]


async def untold(control: Line, message: str) -> None:
    with anyio.fail_after(5):
        while not told(control, message):
            await control.transport.changed()


async def test_a_memory_transport_that_is_opened_again_waits_for_answers() -> None:
    transport = MemoryTransport()
    for _ in range(2):
        async with transport.opened(), anyio.create_task_group() as tasks:
            tasks.start_soon(transport.receive)

            with anyio.fail_after(3):  # a task that only looks busy never blocks
                await anyio.wait_all_tasks_blocked()

            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("failing", [True, False])
async def test_what_the_block_raises_comes_out_also_when_a_task_fails_as_well(
    failing: bool,
) -> None:
    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if failing:
                raise ZeroDivisionError

    async def block() -> None:
        async with company() as tasks:
            tasks.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        await block()

    notes = getattr(caught.value, "__notes__", [])
    assert ["ZeroDivisionError" in each for each in notes] == [True] * failing


async def test_what_a_task_raises_comes_out_where_the_block_raises_nothing() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def block() -> None:
        async with company() as tasks:
            tasks.start_soon(fail)
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup):
        await block()
