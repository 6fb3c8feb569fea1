"""One call for all who ask the same at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import anyio
from kaizen.runlog import ModelSwitched, ReasoningDelta, TextDelta

from kaizen_cache._answer import Piece, lengths_of

if TYPE_CHECKING:
    from kaizen.hookspecs import ModelCall
    from kaizen.messages import ModelReply, ModelRequest
    from kaizen.run import Run

    from kaizen_cache._answer import Answer
    from kaizen_cache._reader import Reader

__all__ = ["Ending", "Flight"]

Ending: TypeAlias = Literal["cancelled", "failed", "private"]
"""How a flight ends that brings no answer: the call was broken off; it failed; or its reply
is for the one who made it, and nobody else's would be either."""

MOST_PIECES = 20_000
MOST_CHARS = 1_000_000


class Flight:
    """A call that is under way, and what those have of it who wait for it.

    Attributes:
        answer: What it brought, for everybody.
        was_kept: Whether that was in a store, and may be too old for some.
        ending: How it ended, if it brought nothing.
        pieces: What was streamed until now, as far as it is remembered.
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
        "was_kept",
    )

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.was_kept = False
        self.ending: Ending | None = None
        self.pieces: list[Piece] = []
        self._restarts = 0
        self._reason = ""
        self._chars = 0
        self._streamed = False
        self._over: anyio.Event | None = None
        self._moved: anyio.Event | None = None

    @property
    def lengths(self) -> list[int] | None:
        """How the reply was streamed; `None` if it was not, or in too many pieces."""
        return lengths_of(self.pieces) if self._streamed else None

    def land(self, answer: Answer, *, was_kept: bool = False) -> None:
        """Give an answer to everybody."""
        self.answer = answer
        self.was_kept = was_kept
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
            if read < len(self.pieces) and reader.watches:
                reader.send(self.pieces[read:])
                read = len(self.pieces)
            if self.answer is not None or self.ending is not None:
                return self.answer
            await self._change(every=reader.watches).wait()

    async def carry(
        self, run: Run, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Make the call, and keep how its reply is streamed."""
        self._streamed = True
        tap = run.log.tap(self._hear)
        try:
            reply = await call_next(request)
        finally:
            tap.cancel()
        return reply

    def check(self, reply: ModelReply) -> None:
        """Forget pieces that are not the reply, which somebody has changed."""
        text = "".join(each.text for each in self.pieces if not each.is_thought)
        thought = "".join(each.text for each in self.pieces if each.is_thought)
        if (text, thought) != (reply.text, reply.reasoning):
            self._streamed = False

    def _hear(self, event: object) -> None:
        kind = type(event)
        if kind is TextDelta or kind is ReasoningDelta:
            text = cast(TextDelta, event).text
            self._chars += len(text)
            if self._chars > MOST_CHARS or len(self.pieces) >= MOST_PIECES:
                self._streamed = False
            if not self._streamed:
                return
            self.pieces.append(Piece(text, kind is ReasoningDelta))
        elif isinstance(event, ModelSwitched) and event.restarts:
            self.pieces = []
            self._chars = 0
            self._restarts += 1
            self._reason = event.reason
        else:
            return
        if self._moved is not None:
            self._moved.set()
            self._moved = None

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
