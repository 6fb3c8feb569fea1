"""What every transport has to do, as a test class to derive from.

    @pytest.mark.anyio
    class TestMyTransport(TransportConformance):
        @pytest.fixture
        def transport(self) -> Transport:
            return MyTransport()

        @pytest.fixture
        def other(self, transport: MyTransport) -> OtherSide:
            return MyOtherSide(transport)

A test that fails says which promise is broken. What the other side of yours cannot do, such
as to name a request of its choice, is switched off by an attribute of the class.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import anyio
import pytest
from kaizen.errors import NotAnsweredError
from kaizen.ports import Answer, PendingRequest

from kaizen_control._messages import (
    ClosedMessage,
    ProgressMessage,
    Received,
    RefusedMessage,
    RequestMessage,
)
from kaizen_control._protocol import ControlProtocol
from kaizen_control._transport import Transport, TransportClosedError

__all__ = ["OtherSide", "TransportConformance"]

_DIGEST = "sha256:" + "5f" * 32
_APPROVAL = PendingRequest(
    id="run:cycle.1.ask_1",
    kind="approval",
    text="May the tool pay run?",
    details={"tool": "pay", "arguments": {"amount": 5, "to": "Zoë"}},
    action_digest=_DIGEST,
    principal="alice",
    agent_path=("outer", "inner"),
)
_QUESTION = PendingRequest(id="run:ask_1", kind="question", text="Which way?")


class OtherSide(Protocol):
    """Whoever is at the other end, as far as a test needs them.

    What waits does so until it comes; the tests have a deadline.
    """

    def opened(self) -> Any:
        """Return an async context manager in which it listens; the transport is open."""
        ...

    async def sees(self, request: PendingRequest) -> None:
        """Wait until a request is there, and check that all of it is."""
        ...

    async def answers(self, request: PendingRequest, **fields: Any) -> None:
        """Give an answer, as a message has it; do not wait for what becomes of it."""
        ...

    async def refused(self) -> str:
        """Wait until an answer was refused, and return the reason."""
        ...

    async def closed(self, request: PendingRequest) -> None:
        """Wait until a request is open no more."""
        ...

    async def progress(self, message: str) -> None:
        """Wait until some progress was told."""
        ...

    async def sends_nonsense(self) -> None:
        """Send what is no answer."""
        ...

    async def hangs_up(self) -> None:
        """Be gone."""
        ...


class TransportConformance:
    """For `Transport`; fixtures `transport` and `other`, its `OtherSide`."""

    deadline_s = 15.0
    """How long each test may take, in seconds."""
    asks_one_at_a_time = False
    """Whether the other side sees a request only when the one before is closed."""
    can_send_nonsense = True
    """Whether the other side can send what is no answer."""
    can_hang_up = True
    """Whether the other side can be gone for good."""

    @asynccontextmanager
    async def _open(
        self, transport: Transport, other: OtherSide
    ) -> AsyncGenerator[anyio.abc.TaskGroup]:
        with anyio.fail_after(self.deadline_s):
            async with (
                transport.opened(),
                other.opened(),
                anyio.create_task_group() as tasks,
            ):
                yield tasks
                tasks.cancel_scope.cancel()

    async def test_a_request_arrives_with_everything_in_it(
        self, transport: Transport, other: OtherSide
    ) -> None:
        async with self._open(transport, other):
            await transport.send(RequestMessage.of(_APPROVAL))
            await other.sees(_APPROVAL)

    async def test_an_answer_comes_back_as_it_was_given(
        self, transport: Transport, other: OtherSide
    ) -> None:
        async with self._open(transport, other):
            await transport.send(RequestMessage.of(_APPROVAL))
            await other.sees(_APPROVAL)
            await other.answers(_APPROVAL, approved=True, text="go on, Zoë")
            given = (await transport.receive()).answer
            assert (given.id, given.approved, given.text, given.action_digest) == (
                _APPROVAL.id,
                True,
                "go on, Zoë",
                _DIGEST,
            )
            assert not given.always
            assert not given.declined

    async def test_who_answers_is_said_by_the_transport(
        self, transport: Transport, other: OtherSide
    ) -> None:
        async with self._open(transport, other):
            await transport.send(RequestMessage.of(_QUESTION))
            await other.sees(_QUESTION)
            await other.answers(_QUESTION, text="left")
            received = await transport.receive()
            assert isinstance(received, Received)
            assert received.principal
            assert received.scope is None

    async def test_an_answer_that_is_refused_can_be_given_again(
        self, transport: Transport, other: OtherSide
    ) -> None:
        async with self._open(transport, other):
            await transport.send(RequestMessage.of(_QUESTION))
            await other.sees(_QUESTION)
            await other.answers(_QUESTION, text="up")
            given = (await transport.receive()).answer
            await transport.send(
                RefusedMessage(
                    id=given.id, problem="misfit", reason="there is no up", ref=given.ref
                )
            )
            assert "there is no up" in await other.refused()
            await other.answers(_QUESTION, text="left")
            assert (await transport.receive()).answer.text == "left"

    async def test_a_request_that_is_closed_goes(
        self, transport: Transport, other: OtherSide
    ) -> None:
        async with self._open(transport, other):
            await transport.send(RequestMessage.of(_QUESTION))
            await other.sees(_QUESTION)
            await transport.send(ClosedMessage(id=_QUESTION.id, why="withdrawn"))
            await other.closed(_QUESTION)

    async def test_of_many_requests_each_gets_its_own_answer(
        self, transport: Transport, other: OtherSide
    ) -> None:
        many = [
            replace(_QUESTION, id=f"run:ask_{number}", text=f"Which way, {number}?")
            for number in range(1, 6)
        ]
        async with self._open(transport, other):
            for request in many:
                await transport.send(RequestMessage.of(request))
            for request in many if self.asks_one_at_a_time else reversed(many):
                await other.sees(request)
                await other.answers(request, text=f"for {request.id}")
                given = (await transport.receive()).answer
                assert (given.id, given.text) == (request.id, f"for {request.id}")
                closed = ClosedMessage(id=given.id, why="answered", ref=given.ref)
                await transport.send(closed)

    async def test_progress_is_told(self, transport: Transport, other: OtherSide) -> None:
        async with self._open(transport, other):
            await transport.send(ProgressMessage(message="half way", percentage=50.0))
            await other.progress("half way")

    async def test_sending_waits_for_nobody_to_read(
        self, transport: Transport, other: OtherSide
    ) -> None:
        async with self._open(transport, other):
            for number in range(50):
                request = replace(_QUESTION, id=f"run:ask_{number}")
                with anyio.fail_after(1):
                    await transport.send(RequestMessage.of(request))

    async def test_waiting_for_an_answer_can_be_given_up_and_loses_none(
        self, transport: Transport, other: OtherSide
    ) -> None:
        async with self._open(transport, other):
            with anyio.move_on_after(0) as scope:
                await transport.receive()
            assert scope.cancelled_caught
            await transport.send(RequestMessage.of(_QUESTION))
            await other.sees(_QUESTION)
            await other.answers(_QUESTION, text="left")
            assert (await transport.receive()).answer.text == "left"

    async def test_what_is_no_answer_is_refused_and_disturbs_nothing(
        self, transport: Transport, other: OtherSide
    ) -> None:
        if not self.can_send_nonsense:
            pytest.skip("the other side cannot send nonsense")
        received: list[Received] = []
        async with self._open(transport, other) as tasks:

            async def receive() -> None:
                received.append(await transport.receive())
                done.set()

            done = anyio.Event()
            tasks.start_soon(receive)
            await transport.send(RequestMessage.of(_QUESTION))
            await other.sees(_QUESTION)
            await other.sends_nonsense()
            assert await other.refused()
            await other.answers(_QUESTION, text="left")
            await done.wait()
        assert [each.answer.text for each in received] == ["left"]

    async def test_when_the_other_side_is_gone_it_says_so(
        self, transport: Transport, other: OtherSide
    ) -> None:
        if not self.can_hang_up:
            pytest.skip("the other side is never gone for good")
        async with self._open(transport, other):
            await transport.send(RequestMessage.of(_QUESTION))
            await other.sees(_QUESTION)
            await other.hangs_up()
            with pytest.raises(TransportClosedError) as caught:
                await transport.receive()
            assert str(caught.value)

    async def test_a_question_is_asked_and_answered_through_a_channel(
        self, transport: Transport, other: OtherSide
    ) -> None:
        answers: list[Answer] = []
        choice = replace(_QUESTION, options=("left", "right"))

        async def ask(channel: ControlProtocol) -> None:
            answers.append(await channel.ask(choice))

        with anyio.fail_after(self.deadline_s):
            async with (
                ControlProtocol(transport) as channel,
                other.opened(),
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(ask, channel)
                await other.sees(choice)
                await other.answers(choice, text="up")
                assert "none of" in await other.refused()
                await other.answers(choice, text="right")
        assert [each.text for each in answers] == ["right"]

    async def test_when_it_is_closed_nobody_waits_any_more(
        self, transport: Transport, other: OtherSide
    ) -> None:
        problems: list[str] = []

        async def ask(channel: ControlProtocol) -> None:
            try:
                problems.append(f"was answered with {await channel.ask(_QUESTION)}")
            except NotAnsweredError as error:
                problems.append(error.problem)

        with anyio.fail_after(self.deadline_s):
            async with (
                anyio.create_task_group() as tasks,
                ControlProtocol(transport) as channel,
                other.opened(),
            ):
                tasks.start_soon(ask, channel)
                await other.sees(_QUESTION)
        assert problems == ["was not answered: the channel was closed"]

    async def test_it_can_be_opened_again(
        self, transport: Transport, other: OtherSide
    ) -> None:
        for _ in range(2):
            async with self._open(transport, other):
                await transport.send(RequestMessage.of(_QUESTION))
                await other.sees(_QUESTION)
                await other.answers(_QUESTION, text="left")
                assert (await transport.receive()).answer.text == "left"
