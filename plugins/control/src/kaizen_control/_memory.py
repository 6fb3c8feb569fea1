"""A transport to code of the same process: for tests, and to embed Kaizen."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Self

import anyio
from kaizen.errors import AnswerRefusedError
from kaizen.ports import PendingRequest

from kaizen_control._messages import (
    AnswerMessage,
    ClosedMessage,
    Outgoing,
    ProgressMessage,
    Received,
    RefusedMessage,
    RequestMessage,
)
from kaizen_control._transport import TransportClosedError

__all__ = ["MemoryTransport"]

MAX_KEPT = 1_000
_LEFT_OUT: Any = object()


class MemoryTransport:
    """Hands requests to code of the same process, and takes answers from it.

    `async for request in transport` gives each request once, as long as it is open. Use it
    in the event loop in which the channel is open.

    Attributes:
        open: The requests that are open, by id, oldest first.
        progressed: What progress was reported last.
    """

    detached = False

    def __init__(self) -> None:
        self.open: dict[str, PendingRequest] = {}
        self.progressed: deque[ProgressMessage] = deque(maxlen=MAX_KEPT)
        self._unseen: dict[str, PendingRequest] = {}
        self._answers: deque[Received] = deque()
        self._verdicts: dict[str, _Verdict] = {}
        self._numbers = count(1)
        self._news = anyio.Event()
        self._answered = anyio.Event()
        self._hung_up = True

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Be open."""
        self._hung_up, self._answered = False, anyio.Event()
        try:
            yield
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Be gone, as the other side: what is open is not answered."""
        self._hung_up = True
        self.open.clear()
        self._unseen.clear()
        self._answers.clear()
        self._tell()
        for verdict in self._verdicts.values():
            verdict.done.set()

    async def send(self, message: Outgoing) -> None:
        """Take a message."""
        if self._hung_up:
            raise TransportClosedError("the other side is gone")
        if isinstance(message, RequestMessage):
            self.open[message.id] = self._unseen[message.id] = message.request
        elif isinstance(message, ProgressMessage):
            self.progressed.append(message)
        elif isinstance(message, ClosedMessage):
            self.open.pop(message.id, None)
            self._unseen.pop(message.id, None)
            self._decide(message.ref, None)
        else:
            self._decide(message.ref, message)
        self._tell()

    async def receive(self) -> Received:
        """Wait for an answer."""
        while not self._answers:
            if self._hung_up:
                raise TransportClosedError("the other side is gone")
            await self._answered.wait()
        received = self._answers.popleft()
        if not self._answers:
            self._answered = anyio.Event()
        return received

    async def answer(
        self,
        request: PendingRequest | str,
        *,
        approved: bool | None = None,
        text: str = "",
        value: Any = _LEFT_OUT,
        always: bool = False,
        declined: bool = False,
        action_digest: str | None = None,
        principal: str = "",
    ) -> None:
        """Answer a request, and return when the answer was taken.

        Args:
            request: The request, or its id.
            approved: For an approval, yes or no.
            text: For a question, the answer; for an approval, a comment.
            value: For a question with a schema, the answer as JSON values.
            always: With a yes, that the rule which was shown holds from now on.
            declined: That nobody will answer.
            action_digest: What is approved; by default what `request` says. An id alone
                says nothing.
            principal: Who answers.

        Raises:
            AnswerRefusedError: It was not taken; the error says why.
        """
        request_id = request if isinstance(request, str) else request.id
        if action_digest is None:
            action_digest = "" if isinstance(request, str) else request.action_digest
        ref = str(next(self._numbers))
        given = AnswerMessage(
            id=request_id,
            approved=approved,
            text=text,
            always=always,
            declined=declined,
            action_digest=action_digest,
            ref=ref,
            **({} if value is _LEFT_OUT else {"value": value}),
        )
        verdict = self._verdicts[ref] = _Verdict()
        try:
            self._put(Received(answer=given, principal=principal))
            await verdict.done.wait()
        finally:
            del self._verdicts[ref]
        if not verdict.taken:
            problem = verdict.reason or "nobody listens any more"
            raise AnswerRefusedError(f"the answer to {request_id[:200]!r}", problem)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PendingRequest:
        while not self._unseen:
            if self._hung_up:
                raise StopAsyncIteration
            await self.changed()
        return self._unseen.pop(next(iter(self._unseen)))

    async def changed(self) -> None:
        """Wait for the next message."""
        news = self._news
        await news.wait()

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()
        if self._hung_up:
            self._answered.set()

    def _put(self, received: Received) -> None:
        if self._hung_up:
            raise AnswerRefusedError(
                f"the answer to {received.answer.id[:200]!r}", "finds nobody who listens"
            )
        self._answers.append(received)
        self._answered.set()

    def _decide(self, ref: str, refused: RefusedMessage | None) -> None:
        verdict = self._verdicts.get(ref)
        if verdict is not None:
            verdict.taken = refused is None
            verdict.reason = refused.reason if refused is not None else ""
            verdict.done.set()


class _Verdict:
    """What became of an answer."""

    __slots__ = ("done", "reason", "taken")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.taken = False
        self.reason = ""
