"""The way from a run to whoever sits at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from kaizen.ports import Answer, Channel, PendingRequest

if TYPE_CHECKING:
    from kaizen.kernel import Kernel

__all__ = ["PROMPTS", "TERMINAL", "TerminalChannel", "can_ask"]

TERMINAL = "terminal"
PROMPTS = "cli"
"""The channel that asks; any plugin may offer it."""


class TerminalChannel:
    """Asks by the channel `cli`, while nothing else is drawn on the terminal.

    Attributes:
        hidden: Hides what is drawn for the time of a `with` block.
        tell: Shows a line beside what is drawn; `None` leaves it to the channel `cli`.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.hidden: Callable[[], AbstractContextManager[None]] = nullcontext
        self.tell: Callable[[str], object] | None = None
        self._kernel = kernel

    async def ask(self, request: PendingRequest) -> Answer:
        """Ask, and draw on when there is an answer."""
        channel = await self._asking()
        with self.hidden():
            return await channel.ask(request)

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        """Show how far the work is."""
        if self.tell is not None:
            self.tell(message if percentage is None else f"{percentage:3.0f} % {message}")
            return
        channel = await self._asking()
        await channel.progress(message, percentage=percentage, run_path=run_path)

    async def _asking(self) -> Channel:
        return await self._kernel.get(Channel, PROMPTS)  # type: ignore[type-abstract]


def can_ask() -> bool:
    """Whether somebody can read a question here and type an answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()
