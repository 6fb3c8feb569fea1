"""What the offline model is called, and how much it does for one question."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODEL", "Limits"]

MODEL = "offline-extractive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is looked up for one question.

    Attributes:
        turns: Most turns with tool calls.
        reads: Most calls of `read_file`.
    """

    turns: int = 5
    reads: int = 18
