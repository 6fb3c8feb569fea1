"""What a request can cost at most, whatever it says to its provider."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kaizen import Message, ModelProfile, ModelRequest
from kaizen.media import MAX_MEDIA_BYTES, Document, Image, Media
from kaizen.messages import ModelSettings
from kaizen.runlog import Reserved
from kaizen_budgets import Budget, SpendLimits, Terms, UnknownBoundError
from kaizen_budgets._prices import Price, most_of

from .conftest import PricedModel, Running, answering

FREE = Price(0, 0)
ANY = ModelProfile(name="any")


def most_tokens(
    *content: str | Media,
    profile: ModelProfile = ANY,
    max_tokens: int | None = 100,
    extra: Mapping[str, Any] | None = None,
    limited: bool = True,
) -> int:
    """Return the most tokens of a request, those of an empty message left out."""
    request = ModelRequest(
        messages=(Message(role="user", content=content),),
        settings=ModelSettings(max_tokens=max_tokens, extra=extra or {}),
    )
    _, most = most_of(request, profile, FREE, Terms(), limited=limited)
    return most.tokens - 16


@pytest.mark.parametrize(
    ("extra", "tokens"),
    [
        ({}, 100),
        ({"n": 8}, 800),
        ({"n": 2, "best_of": 5}, 500),
        ({"n": 1}, 100),
        ({"candidateCount": 3}, 300),
        ({"extra_body": {"n": 4}}, 400),
        ({"max_tokens": 700}, 700),
        ({"max_completion_tokens": 9_000, "n": 2}, 18_000),
        ({"max_output_tokens": 10}, 100),
        ({"options": {"num_predict": 5_000}}, 5_000),
        ({"temperature": 1, "options": "none"}, 100),
    ],
)
def test_what_a_request_has_for_its_provider_alone_counts(
    extra: dict[str, Any], tokens: int
) -> None:
    assert most_tokens(extra=extra) == tokens


def test_a_bound_for_the_provider_alone_is_one_where_nobody_else_names_one() -> None:
    assert most_tokens(max_tokens=None, extra={"max_completion_tokens": 50}) == 50


def test_a_model_writes_no_more_than_it_can_each_time() -> None:
    short = ModelProfile(name="short", max_output_tokens=60)

    assert most_tokens(profile=short, extra={"max_tokens": 10_000, "n": 3}) == 180


@pytest.mark.parametrize("name", ["n", "best_of", "max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [0, -1, True, None, 2.0, "8", [8], 10**16])
def test_what_bounds_nothing_is_refused_where_spending_is_limited(
    name: str, value: Any
) -> None:
    with pytest.raises(UnknownBoundError, match=name):
        most_tokens(extra={name: value})

    assert most_tokens(extra={name: value}, limited=False) == 100


@pytest.mark.parametrize("max_tokens", [0, -1, -5_000])
def test_a_length_of_none_or_less_reserves_what_the_model_can_write(
    max_tokens: int,
) -> None:
    known = ModelProfile(name="known", max_output_tokens=60)

    assert most_tokens(max_tokens=max_tokens, profile=known) == 60
    assert most_tokens(max_tokens=max_tokens) == Terms().assumed_output_tokens


def test_a_document_counts_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_bytes(b"x" * 30_000)
    gone = Document(tmp_path / "long.txt")
    small = Document(b"%PDF-1.7 and little more")

    assert most_tokens(Document(b"%PDF-" + b"x" * 9_995)) == 40_000 + 100
    assert most_tokens(Document(file)) == 120_000 + 100
    assert most_tokens(small) == Terms().media_tokens + 100
    assert most_tokens(Image(b"\x89PNG\r\n\x1a\n" + b"x" * 90_000)) == 16_384 + 100
    file.unlink()
    assert most_tokens(gone) == 4 * MAX_MEDIA_BYTES + 100


def test_a_document_of_unknown_size_counts_as_the_largest_that_the_model_can_read() -> None:
    somewhere = Document("https://example.org/report.pdf")
    reader = ModelProfile(name="reader", context_window=200_000)

    assert most_tokens(somewhere) == 4 * MAX_MEDIA_BYTES + 100
    assert most_tokens(somewhere, profile=reader) == 200_000 + 100 - 16


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("budget", "asked"),
    [(Budget(usd=9), 0), (Budget(tokens=10**6), 0), (Budget(requests=9), 1)],
)
async def test_a_run_refuses_what_bounds_nothing_before_it_is_asked(
    running: Running, priced: PricedModel, budget: Budget, asked: int
) -> None:
    priced.say("yes")
    limits = SpendLimits(budget)
    async with running() as kernel:
        config = {"provider_config": {"n": -1}}
        agent = answering(kernel, config=config, hooks=[limits])
        if asked:
            await agent.run(question="?")
        else:
            with pytest.raises(UnknownBoundError, match="BUDGET_005"):
                await agent.run(question="?")

    assert len(priced.requests) == asked


@pytest.mark.anyio
async def test_eight_replies_are_reserved_eight_times(
    running: Running, priced: PricedModel
) -> None:
    priced.say("yes")
    limits = SpendLimits(Budget(usd="1"))
    async with running() as kernel:
        agent = answering(kernel, config={"provider_config": {"n": 8}}, hooks=[limits])
        async with agent.stream(question="?") as run:
            await run.wait()

    reserved = [each.amount_usd for each in run.log.entries if isinstance(each, Reserved)]
    assert reserved == [Decimal("0.08")]
