"""What is known of models, and what requests cost."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from kaizen_direct import PriceSettings
from kaizen_direct._prices import Catalogue, _current, _rows
from kaizen_direct._wire import Counts

from tests.wire.script import Usage
from tests.wire.server import Answer, WireServer

from .conftest import Opened, asking, streamed

MILLION = 1_000_000


def counts(**fields: Any) -> Counts:
    return Counts(known=True, **fields)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("way", "usage", "cost"),
    [
        ("openai", Usage(input_tokens=1_000, output_tokens=100), "0.0035"),
        ("azure", Usage(input_tokens=1_000, output_tokens=100), "0.0035"),
        (
            "openai",
            Usage(input_tokens=1_000, output_tokens=100, cached_tokens=800),
            "0.0025",
        ),
        ("anthropic", Usage(input_tokens=1_000, output_tokens=100), "0.0015"),
        (
            "anthropic",
            Usage(
                input_tokens=1_000,
                output_tokens=100,
                cached_tokens=400,
                cache_write_tokens=200,
            ),
            "0.00119",
        ),
        ("ollama", Usage(input_tokens=1_000, output_tokens=100), "0"),
        ("docker", Usage(input_tokens=1_000, output_tokens=100), "0"),
        ("mine", Usage(input_tokens=1_000, output_tokens=100), None),
    ],
)
async def test_a_call_says_what_it_cost(
    wire: WireServer, opened: Opened, way: str, usage: Usage, cost: str | None
) -> None:
    wire.say(*[Answer("Yes.", usage=usage)] * 2)

    async with opened(way) as provider:
        whole = await provider.complete(asking())
        _, reply = await streamed(provider, asking())

    assert whole.cost_usd == reply.cost_usd == (None if cost is None else Decimal(cost))


@pytest.mark.anyio
async def test_a_name_with_a_date_has_the_price_of_its_model(
    wire: WireServer, opened: Opened
) -> None:
    wire.say(Answer("Yes.", model="gpt-4o-2024-11-20"), Answer("Yes.", model="a-riddle"))

    async with opened(model="gpt-4o-mini") as provider:
        dated = await provider.complete(asking())
        renamed = await provider.complete(asking())

    assert dated.cost_usd == Decimal("0.0001")
    assert renamed.cost_usd == Decimal("0.000006")


@pytest.mark.anyio
async def test_what_a_model_can_do_is_told_without_asking(opened: Opened) -> None:
    async with opened() as provider:
        known = provider.describe("gpt-4.1-mini")
        unknown = provider.describe("a-riddle")
        older = provider.describe("gpt-3.5-turbo")

    assert known.context_window == 1_047_576
    assert known.media == frozenset({"image", "document"})
    assert known.input_usd_per_million == Decimal("0.4")
    assert known.cached_input_usd_per_million == Decimal("0.1")
    assert known.output_usd_per_million == Decimal("1.6")
    assert (unknown.tools, unknown.structured_output) == (True, True)
    assert unknown.input_usd_per_million is None
    assert older.structured_output is False


@pytest.mark.anyio
async def test_models_that_run_here_are_free_and_those_in_ollamas_cloud_are_not(
    opened: Opened,
) -> None:
    async with opened("ollama") as provider:
        here = provider.describe("llama3.2")
        there = provider.describe("gpt-oss:120b-cloud")

    assert here.input_usd_per_million == here.output_usd_per_million == 0
    assert there.input_usd_per_million is None


@pytest.mark.anyio
async def test_what_runs_on_somebody_elses_machine_is_not_said_to_be_free(
    opened: Opened,
) -> None:
    for url, price in (
        ("https://ollama.example.org", None),
        ("http://10.0.0.7:11434", 0),
        ("http://box.local:11434", 0),
    ):
        async with opened("ollama", base_url=url) as provider:
            assert provider.describe("llama3.2").input_usd_per_million == price
    async with opened("ollama", base_url="https://a.example", local=True) as provider:
        assert provider.describe("llama3.2").input_usd_per_million == 0


def test_a_price_of_the_settings_goes_before_the_bundled_one_from_its_day_on() -> None:
    prices = [
        PriceSettings(model="gpt-4o", input=Decimal(1), output=Decimal(2)),
        PriceSettings(
            model="gpt-4o", since=date(2100, 1, 1), input=Decimal(9), output=Decimal(9)
        ),
        PriceSettings(model="gpt-4.1", provider="azure", input=Decimal(7)),
    ]
    catalogue = Catalogue("openai", "openai", prices)

    assert catalogue.cost(counts(input=MILLION, output=MILLION), "gpt-4o") == 3
    assert catalogue.cost(counts(input=MILLION), "gpt-4.1") == 2


def test_a_price_that_begins_tomorrow_does_not_hold_today() -> None:
    later = [PriceSettings(model="new", since=date(2100, 1, 1), input=Decimal(9))]

    assert Catalogue("", "mine", later).cost(counts(input=1), "new") is None


def test_a_price_holds_from_its_first_day_on() -> None:
    rows = [row for row in _rows("openai") if row.name == "o3"]

    before, after = (_current(rows, date(2025, 6, day)) for day in (9, 10))

    assert before is not None
    assert after is not None
    assert before.input == 10
    assert after.input == 2
    assert _current(rows, date(2020, 1, 1)) is before


@pytest.mark.parametrize(
    ("model", "name", "counted", "cost"),
    [
        ("openai", "gpt-5.4", counts(input=272_000), "0.68"),
        ("openai", "gpt-5.4", counts(input=300_000, output=1_000), "1.5225"),
        ("openai", "gpt-6-sol", counts(input=1_000, written=1_000), "0.0025"),
        (
            "anthropic",
            "claude-opus-4-5",
            counts(input=1_000, written=1_000, written_long=600),
            "0.0085",
        ),
        ("anthropic", "claude-haiku-5-5", counts(input=200_000), "0.1"),
        ("openai", "gpt-4o", counts(input=10, cached=99, written=99), "0.0000125"),
    ],
)
def test_long_requests_and_caches_have_their_own_prices(
    model: str, name: str, counted: Counts, cost: str
) -> None:
    assert Catalogue(model, model).cost(counted, name) == Decimal(cost)


def test_what_the_table_does_not_know_has_no_price_rather_than_none() -> None:
    catalogue = Catalogue("openai", "openai")

    assert catalogue.cost(counts(input=10), "a-riddle") is None
    assert catalogue.cost(Counts(input=10, known=True, odd=True), "gpt-4o") is None
    assert catalogue.cost(Counts(), "gpt-4o") is None


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_the_table_is_sound(name: str) -> None:
    rows = list(_rows(name))

    assert len(rows) > 15
    for row in rows:
        assert row.context_window
        assert row.input > 0
        assert row.cached is None or row.cached < row.input
        assert row.written is None or row.written > row.input
        assert set(row.abilities) <= set("tsidac")
        if "t" in row.abilities:
            assert row.output >= row.input
            assert row.max_output_tokens


def test_a_price_of_the_settings_goes_first_under_every_name_of_a_model() -> None:
    own = [PriceSettings(model="mine", input=Decimal(7))]
    catalogue = Catalogue("openai", "openai", own)
    million = counts(input=MILLION)

    assert catalogue.cost(million, "gpt-4o", "mine") == 7
    assert catalogue.cost(million, "mine", "gpt-4o") == 7
    assert catalogue.cost(million, "gpt-4o", "gpt-4.1") == Decimal("2.5")
    assert catalogue.cost(million, "", "a-riddle") is None
