"""The offline model: it finds sentences in what it is given and makes nothing up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from kaizen import (
    BaseProvider,
    ModelDelta,
    ModelProfile,
    ModelReply,
    ModelRequest,
)

from kaizen_offline._limits import MODEL, Limits
from kaizen_offline._replies import words

__all__ = ["OfflineProvider"]

_FREE = Decimal(0)
_MAX_THREADS = 2


class OfflineProvider(BaseProvider):
    """Answers from what it is given and from what it can read, in words that stand there.

    It is not a language model: it looks for the sentences that hold the words of the
    question, with BM25 and a measure of coverage, and fills the fields of a schema from
    them. With tools such as `grep` and `read_file` it finds the files by itself, in a few
    turns. What it does not find it does not know, and says so.

    It keeps nothing between requests. Its work is done in at most two worker threads of
    each event loop. Tokens are estimated at four characters each, and cost nothing.

    Args:
        max_turns: Most turns in which it makes tool calls before it answers.
        max_reads: Most files, or parts of files, that it reads for one question.
    """

    name = "offline"

    def __init__(self, *, max_turns: int = 5, max_reads: int = 18) -> None:
        self._limits = Limits(turns=max_turns, reads=max_reads)
        self._threads: RunVar[anyio.CapacityLimiter] = RunVar("kaizen_offline_threads")

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Ask for what should be read next, or answer.

        Raises:
            ModelError: A field of the wanted output cannot be known, and its schema has no
                value that says so.
        """
        return await anyio.to_thread.run_sync(
            _respond, request, self._limits, limiter=self._limiter(), abandon_on_cancel=True
        )

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        """Answer word by word. The words come at once: they are not being thought of."""
        reply = await self.complete(request)
        for word in words(reply.text):
            yield ModelDelta(text=word)
        yield reply

    def describe(self, model: str) -> ModelProfile:
        """Say that it uses tools, fills schemas and costs nothing."""
        return ModelProfile(
            name=MODEL,
            tools=True,
            structured_output=True,
            input_usd_per_million=_FREE,
            output_usd_per_million=_FREE,
        )

    def _limiter(self) -> anyio.CapacityLimiter:
        try:
            return self._threads.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(_MAX_THREADS)
            self._threads.set(limiter)
            return limiter


def _respond(request: ModelRequest, limits: Limits) -> ModelReply:
    from kaizen_offline._respond import respond  # in the thread: it takes its time

    return respond(request, limits)
