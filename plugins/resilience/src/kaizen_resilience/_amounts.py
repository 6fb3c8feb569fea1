"""How many tokens a request takes, about, where nobody has counted them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from kaizen.messages import Usage

if TYPE_CHECKING:
    from kaizen.messages import ModelProfile, ModelReply, ModelRequest

__all__ = ["cost_of", "expected_tokens", "usage_of"]

CHARS_PER_TOKEN = 4
TOKENS_PER_MEDIUM = 1_000
USUAL_REPLY = 256
MILLION = Decimal(1_000_000)


def expected_tokens(request: ModelRequest) -> int:
    """Return about how many tokens a request and its reply will take."""
    return _input_tokens(request) + (request.settings.max_tokens or USUAL_REPLY)


def usage_of(request: ModelRequest, partial: ModelReply | None) -> Usage:
    """Return about what a request has consumed that was cut off here.

    Whoever has begun to answer has read the question; of one who has not, nobody knows.
    """
    written = "" if partial is None else partial.text + partial.reasoning
    if not written:
        return Usage(requests=1)
    return Usage(
        requests=1,
        input_tokens=_input_tokens(request),
        output_tokens=-(-len(written) // CHARS_PER_TOKEN),
    )


def cost_of(usage: Usage, profile: ModelProfile) -> Decimal | None:
    """Return what a usage costs in US dollars, or `None` if no price is known."""
    price_in = profile.input_usd_per_million
    price_out = profile.output_usd_per_million
    if price_in is None or price_out is None or not usage.output_tokens:
        return None
    return (usage.input_tokens * price_in + usage.output_tokens * price_out) / MILLION


def _input_tokens(request: ModelRequest) -> int:
    chars, media = len(request.prefix), 0
    for message in request.messages:
        if isinstance(message.content, str):
            chars += len(message.content)
            continue
        for part in message.content:
            if isinstance(part, str):
                chars += len(part)
            else:
                media += 1
    return -(-chars // CHARS_PER_TOKEN) + media * TOKENS_PER_MEDIUM
