"""Joins the beginning of an answer to what another request gave as its rest."""

from __future__ import annotations

__all__ = ["rest_after"]

SURE_CHARS = 16
SURE_OF_END_CHARS = 64
MOST_TRIES = 64


def rest_after(prefix: str, text: str) -> str | None:
    """Return what of a text follows a prefix, which the text may wrongly repeat.

    A provider that goes on from a prefix gives only what follows. One that begins with the
    whole prefix again, or with a long piece of its end, says that twice. Where the repeated
    piece is short, or is one piece over and over, it may as well be meant.

    Returns:
        The rest, or `None` if nobody can tell whether the prefix was repeated.
    """
    if text.startswith(prefix):
        sure = len(prefix) >= SURE_CHARS and not _is_periodic(prefix)
        return text[len(prefix) :] if sure else None
    end = prefix[-SURE_OF_END_CHARS:]
    place = text.rfind(end, 0, len(prefix))
    if place < 0 or len(end) < SURE_OF_END_CHARS:
        return text
    overlap = text[: place + len(end)]
    if not prefix.endswith(overlap) or _is_periodic(overlap):
        return text
    return text[len(overlap) :]


def _is_periodic(text: str) -> bool:
    """Whether a text is one piece at least twice, and perhaps a part of it once more."""
    half = len(text) // 2
    period = 0
    for _ in range(MOST_TRIES):
        period = text.find(text[:half], period + 1)
        if not 0 < period <= half:
            return False
        if text.startswith(text[period:]):
            return True
    return True
