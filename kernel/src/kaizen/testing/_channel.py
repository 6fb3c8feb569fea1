"""A channel whose other side says what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import anyio

from kaizen.ports import Answer, PendingRequest

__all__ = ["Said", "ScriptedChannel"]

Said: TypeAlias = (
    Answer | bool | str | BaseException | Callable[[PendingRequest], "Said"] | None
)
"""What the other side does: gives an answer, says yes or no, says a text, fails, what a
function of the request returns, or, with `None`, nothing at all."""


class ScriptedChannel:
    """Answers each request with the next line of a script; the last one is repeated.

    Attributes:
        requests: What was asked, in order.
        told: The progress that was reported, as message and percentage.
        withdrawn: The ids of requests that nobody waits for any more.
    """

    def __init__(self, *script: Said) -> None:
        self.requests: list[PendingRequest] = []
        self.told: list[tuple[str, float | None]] = []
        self.withdrawn: list[str] = []
        self._script = list(script) or [None]

    async def ask(self, request: PendingRequest) -> Answer:
        """Answer as the script says."""
        self.requests.append(request)
        said = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        while callable(said):
            said = said(request)
        if isinstance(said, BaseException):
            raise said
        if said is None:
            try:
                await anyio.sleep_forever()
            finally:
                self.withdrawn.append(request.id)
            raise AssertionError("the end of for ever")
        if isinstance(said, bool):
            return Answer(approved=said, principal="scripted")
        return Answer(text=said, principal="scripted") if isinstance(said, str) else said

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        """Remember it."""
        self.told.append((message, percentage))
