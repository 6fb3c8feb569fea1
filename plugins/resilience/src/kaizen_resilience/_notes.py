"""What is written into the log of a run about its model calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaizen.errors import KaizenError
    from kaizen.run import Run

__all__ = ["Notes", "reason_of"]

SOURCE = "resilience"
MOST = 64
MOST_CHARS = 200


class Notes:
    """The notes of one model call, of which there are so many at most."""

    __slots__ = ("_count", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._count = 0

    def add(self, kind: str, **data: Any) -> None:
        """Note something."""
        self._count += 1
        if self._count <= MOST:
            self._run.note(SOURCE, kind, data)


def reason_of(error: KaizenError) -> str:
    """Return in a few words what went wrong."""
    return f"{type(error).__name__}: {error.problem}"[:MOST_CHARS]
