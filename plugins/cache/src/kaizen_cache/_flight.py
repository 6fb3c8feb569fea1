"""One call for all who ask the same at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
from kaizen.runlog import Gap, ModelSwitched, ReasoningDelta, TextDelta

from kaizen_cache._answer import Piece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run

    from kaizen_cache._answer import Answer
    from kaizen_cache._reader import Reader

__all__ = ["Ending", "Flight"]

Ending: TypeAlias = Literal["cancelled", "failed", "private"]
"""How a flight ends that brings no answer: the call was broken off; it failed; or its reply
is for the one who made it, and nobody else's would be either."""

MOST_UNREAD = 65_536
MOST_CHARS = 1_000_000


class Flight:
    """A call that is under way, and what those have of it who wait for it.

    Attributes:
        answer: What it brought, for everybody.
        ending: How it ended, if it brought nothing.
        pieces: What was streamed until now.
    """

    __slots__ = (
        "_chars",
        "_moved",
        "_over",
        "_reason",
        "_restarts",
        "_streamed",
        "answer",
        "ending",
        "pieces",
    )

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.ending: Ending | None = None
        self.pieces: list[Piece] = []
        self._restarts = 0
        self._reason = ""
        self._chars = 0
        self._streamed = False
        self._over: anyio.Event | None = None
        self._moved: anyio.Event | None = None

    @property
    def streamed(self) -> Sequence[Piece] | None:
        """How the reply was streamed; `None` if it was not, or not all of it was seen."""
        return self.pieces if self._streamed else None

    def land(self, answer: Answer) -> None:
        """Give an answer to everybody."""
        self.answer = answer
        self._wake()

    def end(self, ending: Ending) -> None:
        """Let those who wait look after themselves, unless they have their answer."""
        if self.answer is None and self.ending is None:
            self.ending = ending
            self._wake()

    async def follow(self, reader: Reader) -> Answer | None:
        """Wait for the answer, and let a reader read what comes; `None` if none does."""
        read = restarts = 0
        while True:
            if restarts != self._restarts:
                reader.restart(self._reason)
                read, restarts = 0, self._restarts
            if reader.watches:
                for piece in self.pieces[read:]:
                    reader.send(piece)
                read = len(self.pieces)
            if self.answer is not None or self.ending is not None:
                return self.answer
            await self._change(every=reader.watches).wait()

    async def carry(
        self, run: Run, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Make the call, and keep how its reply is streamed."""
        events = run.log.subscribe(start=len(run.log.entries), buffer=MOST_UNREAD)
        self._streamed = True
        reply: ModelReply | None = None
        failure: Exception | None = None

        async def listen() -> None:
            async for event in events:
                self._hear(event)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            try:
                reply = await call_next(request)
            except Exception as error:  # noqa: BLE001 - raised again below, without a group
                failure = error
            finally:
                events.cancel()
        if failure is not None:
            raise failure
        assert reply is not None
        self._check(reply)
        return reply

    def _hear(self, event: object) -> None:
        if isinstance(event, TextDelta | ReasoningDelta):
            self._chars += len(event.text)
            if self._streamed and self._chars <= MOST_CHARS:
                self.pieces.append(Piece(event.text, isinstance(event, ReasoningDelta)))
            else:
                self._streamed = False
        elif isinstance(event, ModelSwitched) and event.restarts:
            self.pieces = []
            self._chars = 0
            self._restarts += 1
            self._reason = event.reason
        elif isinstance(event, Gap):
            self._streamed = False
        else:
            return
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _check(self, reply: ModelReply) -> None:
        """Forget pieces that are not the reply, which somebody has changed."""
        text = "".join(each.text for each in self.pieces if not each.is_thought)
        thought = "".join(each.text for each in self.pieces if each.is_thought)
        if (text, thought) != (reply.text, reply.reasoning):
            self._streamed = False

    def _change(self, *, every: bool) -> anyio.Event:
        """Return what happens next: that it ends, or also that there is more to read."""
        if not every:
            if self._over is None:
                self._over = anyio.Event()
            return self._over
        if self._moved is None:
            self._moved = anyio.Event()
        return self._moved

    def _wake(self) -> None:
        for event in (self._over, self._moved):
            if event is not None:
                event.set()
