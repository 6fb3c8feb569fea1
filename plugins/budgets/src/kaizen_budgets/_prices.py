"""What a request to a model can cost at most, and what a reply did cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from kaizen.errors import ModelError
from kaizen.media import MAX_MEDIA_BYTES, Document, Media
from kaizen.messages import Message, ModelProfile, ModelReply, ModelRequest, Usage
from pydantic_core import to_json

from kaizen_budgets._amounts import MAX_COUNT, Amounts, as_units
from kaizen_budgets._errors import BudgetError

if TYPE_CHECKING:
    from kaizen.tools import ToolSpec

    from kaizen_budgets._terms import Terms

__all__ = [
    "Price",
    "UnknownBoundError",
    "UnknownPriceError",
    "cost_of",
    "cost_of_failure",
    "most_of",
    "price_of",
]

MESSAGE_TOKENS = 16
"""What a provider adds to each message, such as its role: four to eight tokens."""

TOOLING_TOKENS = 1_024
"""What a provider adds where there are tools: its own instructions, up to some hundreds."""

DOCUMENT_TOKENS = 4
"""What a byte of a document may come to: text in it is packed to a quarter, or so."""

BOUNDS = frozenset(
    (
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "maxOutputTokens",
        "max_new_tokens",
        "max_tokens_to_sample",
        "num_predict",
    )
)
"""How providers call the most tokens of a reply."""

COUNTS = frozenset(
    ("n", "best_of", "candidate_count", "candidateCount", "num_return_sequences")
)
"""How they call the number of replies that are written to one request."""

INSIDE = ("extra_body", "options", "generation_config", "generationConfig")
"""Where such fields stand, beside the top."""

MILLION = 1_000_000
_LOG = logging.getLogger("kaizen")


class UnknownPriceError(BudgetError):
    """Money is limited, and nobody says what a model costs."""

    code = "BUDGET_004"


class UnknownBoundError(BudgetError):
    """Money or tokens are limited, and nobody can say how long a request is answered."""

    code = "BUDGET_005"


class Price:
    """What a million tokens cost, in whole units of money."""

    __slots__ = ("input", "output")

    def __init__(self, input: int, output: int) -> None:  # noqa: A002
        self.input = input
        self.output = output

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """Return what tokens cost, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // MILLION)


def price_of(profile: ModelProfile, terms: Terms, *, limited: bool) -> Price:
    """Return the price of a model.

    Args:
        profile: What its provider says of it.
        terms: What to do if that is no price.
        limited: Whether money is.

    Raises:
        UnknownPriceError: It names none, and that is to be refused.
    """
    given = (profile.input_usd_per_million, profile.output_usd_per_million)
    if given[0] is not None and given[1] is not None:
        return Price(_units(given[0], profile), _units(given[1], profile))
    if not limited:
        return Price(0, 0)
    if terms.unknown_price == "assume":
        assumed = as_units(terms.assumed_usd_per_million)
        return Price(assumed, assumed)
    if terms.unknown_price == "refuse":
        raise UnknownPriceError(
            f"model {profile.name!r}",
            "has no price that its provider names, and money is limited",
            'Set `unknown_price = "assume"` and `assumed_usd_per_million` in '
            "`[plugins.budgets]`.",
        )
    _LOG.warning("model %r names no price: it is taken to cost nothing", profile.name)
    return Price(0, 0)


def _units(price: Decimal, profile: ModelProfile) -> int:
    try:
        return as_units(price)
    except (ValueError, TypeError) as error:
        raise UnknownPriceError(
            f"model {profile.name!r}", f"has a price that is none: {error}"
        ) from error


def most_of(
    request: ModelRequest,
    profile: ModelProfile,
    price: Price,
    terms: Terms,
    *,
    limited: bool = True,
    replies: int = 1,
) -> tuple[ModelRequest, Amounts]:
    """Return the most that a request can cost, and the request that keeps to it.

    A token stands for at least one byte of UTF-8, so that there are no more tokens than
    bytes. Where nobody says how long a reply may be, the request does from now on. A length
    of none or less is none that all providers keep to, and counts as not said.

    Args:
        request: What is asked; what it has for its provider alone is read too.
        profile: What its provider says of the model.
        price: What tokens cost.
        terms: What is assumed where nobody says.
        limited: Whether money or tokens are.
        replies: How many replies are written, unless the request wants more; 0 for none.

    Raises:
        UnknownBoundError: It is limited, and what it has for its provider bounds nothing.
    """
    window = profile.context_window or MAX_COUNT
    given = min(_tokens(request, terms), window)
    extra = request.settings.extra
    named = [request.settings.max_tokens or 0, *_numbers(extra, BOUNDS, limited=limited)]
    longest = max(named)
    limits = [each for each in (longest, profile.max_output_tokens or 0) if each > 0]
    if not limits:
        limits = [terms.assumed_output_tokens]
        settings = replace(request.settings, max_tokens=terms.assumed_output_tokens)
        request = replace(request, settings=settings)
    written = replies * min(*limits, window)
    written *= max((1, *_numbers(extra, COUNTS, limited=limited)))
    usd = price.of(given, written)
    return request, Amounts.of((usd, given + written, 1, 0, 0))


def _numbers(
    extra: Mapping[str, Any], names: frozenset[str], *, limited: bool
) -> Iterator[int]:
    """Yield the numbers that a request has under some names for its provider."""
    inside = (extra.get(each) for each in INSIDE)
    for place in (extra, *(each for each in inside if isinstance(each, Mapping))):
        for name in names.intersection(place):
            value = place[name]
            if type(value) is int and 0 < value <= MAX_COUNT:
                yield value
            elif limited:
                raise UnknownBoundError(
                    f"provider_config {name!r}",
                    f"is {repr(value)[:50]}, which bounds nothing, and spending is limited",
                    f"Give a whole number above 0, or leave {name!r} out.",
                )


def _tokens(request: ModelRequest, terms: Terms) -> int:
    tokens = sum(_of_message(each, terms) for each in request.messages)
    tokens += _bytes(request.prefix)
    if request.tools:
        tokens += TOOLING_TOKENS + _of_tools(request.tools)
    if request.output is not None:
        tokens += len(to_json(request.output.schema)) + MESSAGE_TOKENS
    return tokens


def _of_tools(tools: Sequence[ToolSpec]) -> int:
    return sum(
        MESSAGE_TOKENS
        + len(each.name)
        + _bytes(each.description)
        + len(to_json(each.parameters))
        for each in tools
    )


def _of_message(message: Message, terms: Terms) -> int:
    tokens = MESSAGE_TOKENS
    content = message.content
    for part in (content,) if isinstance(content, str) else content:
        tokens += _bytes(part) if isinstance(part, str) else _of_media(part, terms)
    for use in message.tool_uses:
        arguments = use.arguments
        text = arguments if isinstance(arguments, str) else to_json(arguments).decode()
        tokens += MESSAGE_TOKENS + len(use.id) + _bytes(use.name) + _bytes(text)
    return tokens + len(message.tool_use_id) + len(message.name)


def _of_media(media: Media, terms: Terms) -> int:
    """Return the most tokens of a medium, for a document by its size.

    Providers scale pictures down to a size of their own; of documents they read it all.
    """
    if not isinstance(media, Document):
        return terms.media_tokens
    return max(terms.media_tokens, DOCUMENT_TOKENS * _size(media))


def _size(media: Media) -> int:
    """Return how many bytes there are; as many as can be, where nobody can tell."""
    if media.data is not None:
        return len(media.data)
    if media.path is not None:
        try:
            return media.path.stat().st_size
        except OSError:  # whoever sends it will say so
            pass
    return MAX_MEDIA_BYTES


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def cost_of(reply: ModelReply, price: Price, most: Amounts) -> Amounts:
    """Return what a reply cost: what its provider says, or what its tokens come to.

    A provider that says neither, or what cannot be, is taken to have charged the most.
    """
    usage = reply.usage
    tokens = usage.total_tokens
    if not 0 < tokens <= MAX_COUNT or min(usage.input_tokens, usage.output_tokens) < 0:
        usd, tokens = most.units[0], most.tokens
    else:
        usd = price.of(usage.input_tokens, usage.output_tokens)
    if reply.cost_usd is not None:
        try:
            usd = as_units(reply.cost_usd)
        except (ValueError, TypeError) as error:
            usd = most.units[0]
            _LOG.warning("a provider names a cost that is none: %s", error)
    requests = usage.requests if 1 <= usage.requests <= MAX_COUNT else 1
    return Amounts.of((usd, tokens, requests, 0, 0))


def cost_of_failure(error: Exception, price: Price, most: Amounts) -> Amounts | None:
    """Return what a failed request cost, if its provider says so with the error."""
    partial = error.partial if isinstance(error, ModelError) else None
    if partial is None or (partial.usage == Usage() and partial.cost_usd is None):
        return None
    return cost_of(partial, price, most)
