"""Every transport keeps what all promise; what breaks a promise fails its test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from kaizen import Channel, PendingRequest
from kaizen.testing.conformance import ChannelConformance
from kaizen_control import (
    AnswerMessage,
    CLITransport,
    ClosedMessage,
    ControlProtocol,
    HTTPTransport,
    MemoryTransport,
    Outgoing,
    ProgressMessage,
    Received,
    RefusedMessage,
    RequestMessage,
    StdioTransport,
    Transport,
)
from kaizen_control.testing import OtherSide, TransportConformance

from tests.plugins.control._others import CLISide, HTTPSide, MemorySide, StdioSide
from tests.plugins.control._pipe import Pipe
from tests.plugins.control._terminal import Seat, seat

pytestmark = pytest.mark.anyio


class TestMemory(TransportConformance):
    can_send_nonsense = False

    @pytest.fixture
    def transport(self) -> MemoryTransport:
        return MemoryTransport()

    @pytest.fixture
    def other(self, transport: MemoryTransport) -> OtherSide:
        return MemorySide(transport)


class TestStdio(TransportConformance):
    @pytest.fixture
    def pipes(self) -> Iterator[tuple[Pipe, Pipe]]:
        to_us, from_us = Pipe(), Pipe()
        yield to_us, from_us
        to_us.close()
        from_us.close()

    @pytest.fixture
    def transport(self, pipes: tuple[Pipe, Pipe]) -> StdioTransport:
        return StdioTransport(*pipes)  # type: ignore[arg-type]

    @pytest.fixture
    def other(self, pipes: tuple[Pipe, Pipe]) -> OtherSide:
        return StdioSide(*pipes)


class TestCLI(TransportConformance):
    asks_one_at_a_time = True
    can_send_nonsense = False

    @pytest.fixture
    def terminal(self) -> Iterator[Seat]:
        with seat() as made:
            yield made

    @pytest.fixture
    def transport(self, terminal: Seat) -> CLITransport:
        return CLITransport(terminal.slave, terminal.slave)

    @pytest.fixture
    def other(self, terminal: Seat) -> OtherSide:
        return CLISide(terminal)


class TestHTTP(TransportConformance):
    can_hang_up = False

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The server runs on asyncio alone."""
        return "asyncio"

    @pytest.fixture
    def transport(self) -> HTTPTransport:
        return HTTPTransport(token="t" * 40)

    @pytest.fixture
    def other(self, transport: HTTPTransport) -> OtherSide:
        return HTTPSide(transport)


class TestChannel(ChannelConformance):
    """`ControlProtocol` is a channel, as the kernel wants one."""

    @pytest.fixture
    async def channel(self, anyio_backend: str) -> AsyncGenerator[Channel]:
        transport = MemoryTransport()

        async def agree() -> None:
            async for request in transport:
                approved = True if request.kind == "approval" else None
                text = request.options[0] if request.options else ""
                await transport.answer(request, approved=approved, text=text)

        async with (
            ControlProtocol(transport) as protocol,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(agree)
            yield protocol
            tasks.cancel_scope.cancel()


# Transports that break one promise each.


class Shortening(MemoryTransport):
    """Shows a part of what an approval is about."""

    async def send(self, message: Outgoing) -> None:
        if isinstance(message, RequestMessage):
            message = message.model_copy(update={"details": {}})
        await super().send(message)


class Changing(MemoryTransport):
    """Changes what was answered."""

    def change(self, answer: AnswerMessage) -> dict[str, Any]:
        return {"text": answer.text.upper()}

    async def receive(self) -> Received:
        received = await super().receive()
        answer = received.answer
        return replace(received, answer=answer.model_copy(update=self.change(answer)))


class Anonymous(MemoryTransport):
    """Does not know who answers."""

    async def receive(self) -> Received:
        return replace(await super().receive(), principal="")


class Dropping(MemoryTransport):
    """Drops one kind of messages."""

    dropped: type[Any] = RefusedMessage

    async def send(self, message: Outgoing) -> None:
        if not isinstance(message, self.dropped):
            await super().send(message)


class NeverClosing(Dropping):
    dropped = ClosedMessage


class Discreet(Dropping):
    dropped = ProgressMessage


class Mistaking(Changing):
    """Takes each answer for one to the newest request."""

    newest = ""

    async def send(self, message: Outgoing) -> None:
        if isinstance(message, RequestMessage):
            self.newest = message.id
        await super().send(message)

    def change(self, answer: AnswerMessage) -> dict[str, Any]:
        return {"id": self.newest}


class Waiting(MemoryTransport):
    """Waits until somebody has read what it sends."""

    async def send(self, message: Outgoing) -> None:
        await super().send(message)
        if isinstance(message, RequestMessage):
            await anyio.sleep_forever()


class Forgetful(MemoryTransport):
    """Who gives up waiting once gets no answer any more."""

    async def receive(self) -> Received:
        try:
            return await super().receive()
        except anyio.get_cancelled_exc_class():
            self.hang_up()
            raise


class Silent(MemoryTransport):
    """Says nothing when the other side is gone."""

    async def receive(self) -> Received:
        while not self._answers:
            await anyio.lowlevel.checkpoint()
        return self._answers.popleft()


class Agreeing(MemoryTransport):
    """Answers in the place of whoever does not."""

    async def send(self, message: Outgoing) -> None:
        await super().send(message)
        if isinstance(message, RequestMessage):
            answer = AnswerMessage(id=message.id, text="left")
            self._put(Received(answer=answer, principal="nobody"))


class Once(MemoryTransport):
    """Can be opened once."""

    used = False

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        assert not self.used
        self.used = True
        async with super().opened():
            yield


class Fragile(StdioTransport):
    """Breaks at a line that is no answer."""

    async def _refuse(self, reason: str) -> None:
        raise ValueError(reason)


BROKEN: list[tuple[str, type[Any]]] = [
    ("test_a_request_arrives_with_everything_in_it", Shortening),
    ("test_an_answer_comes_back_as_it_was_given", Changing),
    ("test_who_answers_is_said_by_the_transport", Anonymous),
    ("test_an_answer_that_is_refused_can_be_given_again", Dropping),
    ("test_a_request_that_is_closed_goes", NeverClosing),
    ("test_of_many_requests_each_gets_its_own_answer", Mistaking),
    ("test_progress_is_told", Discreet),
    ("test_sending_waits_for_nobody_to_read", Waiting),
    ("test_waiting_for_an_answer_can_be_given_up_and_loses_none", Forgetful),
    ("test_what_is_no_answer_is_refused_and_disturbs_nothing", Fragile),
    ("test_when_the_other_side_is_gone_it_says_so", Silent),
    ("test_a_question_is_asked_and_answered_through_a_channel", Changing),
    ("test_when_it_is_closed_nobody_waits_any_more", Agreeing),
    ("test_it_can_be_opened_again", Once),
]


class Hasty(TransportConformance):
    """The same tests, for transports of which they wait in vain."""

    deadline_s = 0.3


@pytest.mark.parametrize(("promise", "kind"), BROKEN)
async def test_a_broken_promise_fails_its_test(promise: str, kind: type[Any]) -> None:
    assert await failed(promise, kind)


@pytest.mark.parametrize("promise", [promise for promise, _ in BROKEN])
async def test_in_the_same_place_what_is_not_broken_passes(promise: str) -> None:
    kind = StdioTransport if "no_answer_is_refused" in promise else MemoryTransport

    assert not await failed(promise, kind)


async def failed(promise: str, kind: type[Any]) -> bool:
    """Say whether a test fails with a transport."""
    to_us, from_us = Pipe(), Pipe()
    transport: Transport
    other: OtherSide
    if issubclass(kind, StdioTransport):
        transport = kind(to_us, from_us)  # type: ignore[arg-type]
        other = StdioSide(to_us, from_us)
    else:
        transport = kind()
        assert isinstance(transport, MemoryTransport)
        other = MemorySide(transport)
    try:
        await getattr(Hasty(), promise)(transport, other)
    except Exception:  # noqa: BLE001 - however it fails
        return True
    finally:
        to_us.close()
        from_us.close()
    return False


def test_every_promise_has_a_transport_that_breaks_it() -> None:
    promises = [name for name in vars(TransportConformance) if name.startswith("test_")]

    assert sorted(promise for promise, _ in BROKEN) == sorted(promises)


def test_a_pending_request_is_shown_with_all_of_its_fields() -> None:
    names = {field.alias or name for name, field in RequestMessage.model_fields.items()}

    assert names == {each.name for each in fields(PendingRequest)} | {"type"}
