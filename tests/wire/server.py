"""An HTTP server on loopback that speaks the providers' wire formats.

    with WireServer() as wire:
        wire.say("Hello", Fault("rate_limit", retry_after_s=2))
        client = openai.OpenAI(base_url=wire.base_url("openai"), api_key=wire.key)

It runs in a thread of its own, so that clients may be synchronous, on asyncio or on trio.
What a function of the script raises is raised when the server stops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import h11
from anyio import to_thread
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.wire._api import Api, Refused
from tests.wire._connection import Connection, Gone, Head
from tests.wire._delivery import Delivery, send_page
from tests.wire._routes import BASES, Routes
from tests.wire._schema import filled
from tests.wire.script import Answer, Call, Fault, FaultKind, Reply, Request, Usage

__all__ = [
    "CHAOS",
    "Answer",
    "Call",
    "Fault",
    "Gate",
    "Reply",
    "Request",
    "Usage",
    "WireServer",
]

CHAOS: Sequence[FaultKind] = (
    "rate_limit",
    "server_error",
    "bad_gateway",
    "unavailable",
    "overloaded",
    "reset",
    "cut",
    "malformed",
    "truncated",
    "wrong_schema",
    "wrong_content_type",
    "error_event",
)
"""What `chaos` chooses from: all that ends by itself and is worth another attempt."""

SENTENCE = "Hello from the other end of the wire."


def answer_to(reply: Reply, request: Request) -> Answer:
    """Return what a reply of the script means for one request."""
    if callable(reply):
        return answer_to(reply(request), request)
    if isinstance(reply, str):
        return Answer(reply)
    if isinstance(reply, Call):
        return Answer(calls=[reply])
    if isinstance(reply, Fault):
        reply = Answer(fault=reply)
    answer = reply if isinstance(reply, Answer) else Answer(data=reply)
    if answer.text or answer.chunks or answer.calls:
        return answer
    if wanted := request.must_call:
        arguments = answer.data or filled(request.tools[wanted])
        return replace(answer, calls=[Call(wanted, arguments)], data=None)
    if answer.data is not None:
        return answer
    if request.schema is not None:
        return replace(answer, data=filled(request.schema))
    return replace(answer, text=SENTENCE)


class Gate:
    """Holds answers back until a test opens it."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._event = portal.call(anyio.Event)

    def open(self) -> None:
        """Let what waits go on, and all that comes."""
        self._portal.call(self._event.set)

    async def passed(self) -> None:
        """Wait until it is open; for the server."""
        await self._event.wait()


class WireServer:
    """Answers as a test says.

    Attributes:
        key: The key that every provider accepts.
        models: What the providers say that they have.
        requests: All that came, in order.
        otherwise: What is answered when the script is at its end.
        listing: What goes wrong with requests that only ask what there is, or `None`.
    """

    def __init__(
        self,
        *replies: Reply,
        otherwise: Reply = Answer(),  # noqa: B008 - frozen
        key: str = "wire-key",
        models: Sequence[str] = ("wire-1", "wire-2"),
    ) -> None:
        self.key = key
        self.models = tuple(models)
        self.requests: list[Request] = []
        self.otherwise = otherwise
        self.listing: Fault | None = None
        self.open_connections = 0
        self._errors: list[Exception] = []
        self._script: deque[Reply] = deque(replies)
        self._routes = Routes(key, self.models)
        self._chaos: Callable[[int], Fault | None] = lambda number: None
        self._stack = ExitStack()
        self._change: anyio.Event

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            serving, self.port = self._portal.start_task(self._serve, name="wire server")
            stack.callback(serving.cancel)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._errors and error is None:
            raise self._errors[0]

    @property
    def url(self) -> str:
        """The root of the server, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def base_url(self, provider: str) -> str:
        """Return what a client of a provider has to be given as its base address."""
        return self.url + BASES[provider]

    def say(self, *replies: Reply) -> None:
        """Answer the next requests with these, one after the other."""
        self._script.extend(replies)

    def chaos(
        self, rate: float, *, seed: int = 0, kinds: Sequence[FaultKind] = CHAOS
    ) -> None:
        """From now on let some requests fail, whatever the script says.

        Args:
            rate: How many of all, from 0 to 1.
            seed: The same requests in the same order fail in the same way.
            kinds: Of what they fail.
        """

        def decide(number: int) -> Fault | None:
            random = Random(f"{seed}:{number}")  # a string, since that is stable
            if random.random() >= rate:
                return None
            kind = random.choice(kinds)
            return Fault(kind, at=random.randrange(4), inside=random.random() < 0.5)

        self._chaos = decide

    def gate(self) -> Gate:
        """Return a gate for `Answer(gate=...)`, which is closed."""
        return Gate(self._portal)

    async def arrived(self, count: int, *, within_s: float = 5) -> Sequence[Request]:
        """Wait until so many requests have come, and return them.

        Raises:
            TimeoutError: They have not.
        """
        await self._until(lambda: len(self.requests) >= count, within_s)
        return self.requests[:count]

    async def quiet(self, *, within_s: float = 5) -> None:
        """Wait until no request is being answered.

        Raises:
            TimeoutError: One still is.
        """
        await self._until(lambda: all(each.outcome for each in self.requests), within_s)

    async def closed(self, *, within_s: float = 5) -> None:
        """Wait until no client has a connection open.

        Raises:
            TimeoutError: One still has.
        """
        await self._until(lambda: not self.open_connections, within_s)

    async def _until(self, holds: Callable[[], bool], within_s: float) -> None:
        async def wait() -> None:
            with anyio.fail_after(within_s):
                while not holds():
                    await self._change.wait()

        await to_thread.run_sync(self._portal.call, wait, abandon_on_cancel=True)

    def _note(self) -> None:
        self._change.set()
        self._change = anyio.Event()

    async def _serve(self, *, task_status: TaskStatus[int]) -> None:
        self._change = anyio.Event()
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=1024)
        async with listener:
            task_status.started(listener.extra(SocketAttribute.local_port))
            await listener.serve(self._talk)

    async def _talk(self, stream: SocketStream) -> None:
        self.open_connections += 1
        connection = Connection(stream)
        try:
            async with stream:
                while (head := await connection.read()) is not None:
                    await self._answer(connection, head)
        except (Gone, h11.RemoteProtocolError):
            pass
        finally:
            self.open_connections -= 1
            self._note()

    async def _answer(self, connection: Connection, head: Head) -> None:
        target = urlsplit(head.target)
        request = Request(
            number=len(self.requests),
            method=head.method,
            path=unquote(target.path),
            query=dict(parse_qsl(target.query)),
            headers=head.headers,
            body=head.body,
        )
        self.requests.append(request)
        self._note()
        try:
            await self._respond(connection, request)
        except Gone:
            request.outcome = "gone"
            raise
        except Exception as error:  # noqa: BLE001 - the test hears of it at the end
            self._errors.append(error)
            request.outcome = "broken"
            connection.reset()
        finally:
            self._note()

    async def _respond(self, connection: Connection, request: Request) -> None:
        try:
            api = self._routes.find(request)
            api.authorise(request)
            api.understand(request)
        except Refused as refused:
            request.outcome = "refused"
            await send_page(connection, refused.page)
        else:
            answer = self._choose(api, request)
            await Delivery(connection, api, request, answer).send()

    def _choose(self, api: Api, request: Request) -> Answer:
        if api.kind == "list":
            return Answer(fault=self.listing)
        reply = self._script.popleft() if self._script else self.otherwise
        answer = answer_to(reply, request)
        if fault := self._chaos(request.number):
            return replace(answer, fault=fault)
        return answer
