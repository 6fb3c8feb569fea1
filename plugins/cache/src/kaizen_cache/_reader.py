"""What whoever follows the stream of a run reads of an answer that others were given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint
from kaizen.runlog import ModelSwitched, ReasoningDelta

from kaizen_cache._answer import Piece, pieces_of

if TYPE_CHECKING:
    from kaizen.messages import ModelRequest
    from kaizen.run import Run

    from kaizen_cache._answer import Answer

__all__ = ["Reader"]

MOST_AT_ONCE = 256
"""Most pieces that come in one go: fewer than a reader has room for who is slow."""


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

    def send(self, pieces: Sequence[Piece]) -> None:
        """Send pieces, and of too many at once some as one: none may be lost."""
        publish = self._run.log.publish
        for text, is_thought in _gathered(pieces, MOST_AT_ONCE):
            if is_thought:
                publish(text, ReasoningDelta)
            else:
                publish(text)
        self._sent.extend(pieces)

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
        text = "".join(each.text for each in self._sent if not each.is_thought)
        thoughts = "".join(each.text for each in self._sent if each.is_thought)
        reply = answer.reply
        if not (reply.text.startswith(text) and reply.reasoning.startswith(thoughts)):
            self.restart("the answer is another one than was streamed")
            text = thoughts = ""
        left = _rest(pieces_of(answer), len(text), len(thoughts))
        if left:
            self.send(left)
            await checkpoint()  # for who reads


def _gathered(pieces: Sequence[Piece], most: int) -> Sequence[Piece]:
    """Return the same text in at most that many pieces.

    Where thoughts and text alternate too often for that, all thoughts come first.
    """
    if len(pieces) <= most:
        return pieces
    changes = sum(one.is_thought != other.is_thought for one, other in pairwise(pieces))
    if changes > most // 2:
        pieces, changes = sorted(pieces, key=lambda each: not each.is_thought), 1
    share = -(-len(pieces) // (most - changes - 1))
    gathered: list[Piece] = []
    texts: list[str] = []
    for place, piece in enumerate(pieces):
        texts.append(piece.text)
        last = place + 1 == len(pieces)
        if last or len(texts) == share or pieces[place + 1].is_thought != piece.is_thought:
            gathered.append(Piece("".join(texts), piece.is_thought))
            texts.clear()
    return gathered


def _rest(pieces: Sequence[Piece], chars: int, thought_chars: int) -> list[Piece]:
    """Return pieces without what was sent of the text and of the thoughts before it."""
    sent = {False: chars, True: thought_chars}
    rest: list[Piece] = []
    for piece in pieces:
        skipped = min(sent[piece.is_thought], len(piece.text))
        sent[piece.is_thought] -= skipped
        if skipped < len(piece.text):
            rest.append(Piece(piece.text[skipped:], piece.is_thought) if skipped else piece)
    return rest
