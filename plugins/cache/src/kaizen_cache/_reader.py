"""What whoever follows the stream of a run reads of an answer that others were given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint
from kaizen.runlog import ModelSwitched, ReasoningDelta

from kaizen_cache._answer import Piece, pieces_of

if TYPE_CHECKING:
    from kaizen.messages import ModelRequest
    from kaizen.run import Run

    from kaizen_cache._answer import Answer

__all__ = ["Reader"]

AT_ONCE = 64
"""How many pieces are sent before readers have a turn: fewer than they have room for."""


class Reader:
    """Sends the pieces of an answer to those who follow one model call of a run."""

    __slots__ = ("_request", "_run", "_sent")

    def __init__(self, run: Run, request: ModelRequest) -> None:
        self._run = run
        self._request = request
        self._sent: list[Piece] = []

    @property
    def watches(self) -> bool:
        """Whether anybody follows the run."""
        return self._run.log.watched

    def send(self, piece: Piece) -> None:
        """Send one piece."""
        if piece.is_thought:
            self._run.log.publish(piece.text, ReasoningDelta)
        else:
            self._run.log.publish(piece.text)
        self._sent.append(piece)

    def restart(self, reason: str) -> None:
        """Tell readers that what they read of the answer does not count."""
        if not self._sent:
            return
        self._sent.clear()
        run, request = self._run, self._request
        provider = request.provider or run.plan.provider_name
        run.add(
            ModelSwitched,
            cycle=request.cycle,
            from_provider=provider,
            from_model=request.model,
            provider=provider,
            model=request.model,
            reason=reason,
            restarts=True,
        )

    async def complete(self, answer: Answer) -> None:
        """Send what is left of an answer, if anybody follows."""
        if not self.watches:
            return
        pieces = pieces_of(answer)
        if list(pieces[: len(self._sent)]) != self._sent:
            self.restart("the answer was changed after it was streamed")
        for number, piece in enumerate(pieces[len(self._sent) :], start=1):
            self.send(piece)
            if number % AT_ONCE == 0:
                await checkpoint()
