"""What a call costs is told exactly, or not at all."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from kaizen_litellm import PriceSettings
from kaizen_litellm._prices import Catalogue, Counts, Table, read_table

from tests.wire.script import Usage
from tests.wire.server import Answer, WireServer

from .conftest import Opened, answered, asking

TABLE: Table = {
    "plain": {
        "litellm_provider": "openai",
        "input_cost_per_token": 2.5e-06,
        "cache_read_input_token_cost": 1.25e-06,
        "output_cost_per_token": 1e-05,
    },
    "long": {
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "input_cost_per_token_above_200k_tokens": 2e-06,
        "output_cost_per_token_above_200k_tokens": 6e-06,
    },
    "writes": {
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-06,
        "cache_creation_input_token_cost": 1.25e-06,
        "cache_creation_input_token_cost_above_1hr": 2e-06,
        "output_cost_per_token": 5e-06,
    },
    "thinks": {
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 1e-06,
        "output_cost_per_reasoning_token": 3e-06,
    },
    "by the second": {"litellm_provider": "openai", "input_cost_per_second": 0.0001},
    "azure/plain": {"litellm_provider": "azure", "input_cost_per_token": 3e-06},
}


def counts(sent: int, came: int, **more: Any) -> Counts:
    return Counts(input=sent, output=came, known=True, **more)


def costs(model: str, counted: Counts, **catalogue: Any) -> Decimal | None:
    return Catalogue("openai", ("openai",), TABLE, **catalogue).cost(counted, model)


@pytest.mark.parametrize(
    ("model", "counted", "cost"),
    [
        ("plain", counts(1000, 100), "0.0035"),
        ("plain", counts(1000, 100, cached=800), "0.0025"),
        ("plain", counts(3, 0), "0.0000075"),
        ("plain-2024-08-06", counts(1000, 0), "0.0025"),
        ("plain-20240806", counts(1000, 0), "0.0025"),
        ("long", counts(200_000, 10), "0.20004"),
        ("long", counts(200_001, 10), "0.400062"),
        ("writes", counts(1000, 0, written=400), "0.0011"),
        ("writes", counts(1000, 0, written=400, written_long=100), "0.001175"),
        ("thinks", counts(0, 100, reasoning=40), "0.00018"),
    ],
)
def test_a_cost_is_exact(model: str, counted: Counts, cost: str) -> None:
    assert costs(model, counted) == Decimal(cost)


@pytest.mark.parametrize(
    ("model", "counted"),
    [
        ("unheard-of", counts(10, 10)),
        ("by the second", counts(10, 10)),
        ("azure/plain", counts(10, 10)),
        ("plain", Counts()),
        ("plain", counts(10, 10, odd=True)),
    ],
)
def test_what_is_not_known_is_not_free(model: str, counted: Counts) -> None:
    assert costs(model, counted) is None


def test_the_prices_of_a_provider_are_its_own() -> None:
    azure = Catalogue("azure", ("azure", "openai"), TABLE)

    assert azure.cost(counts(1000, 0), "plain") == Decimal("0.003")
    assert azure.cost(counts(1000, 0), "long") == Decimal("0.001")


def test_settings_go_before_the_table_from_their_day_on() -> None:
    today = datetime.now(UTC).date()
    prices = [
        PriceSettings(model="plain", input=Decimal(1)),
        PriceSettings(model="plain", input=Decimal(2), since=today),
        PriceSettings(model="plain", input=Decimal(9), since=today + timedelta(days=1)),
        PriceSettings(model="plain", input=Decimal(7), since=today, provider="azure"),
        PriceSettings(model="own", input=Decimal(4), cached_input=Decimal(1)),
    ]

    assert costs("plain", counts(1_000_000, 0), prices=prices) == 2
    assert costs("own", counts(1_000_000, 0, cached=500_000), prices=prices) == Decimal(
        "2.5"
    )


def test_a_price_of_days_to_come_leaves_the_table_alone() -> None:
    prices = [PriceSettings(model="plain", input=Decimal(9), since=date.max)]

    assert costs("plain", counts(1000, 0), prices=prices) == Decimal("0.0025")


def test_models_of_ones_own_machine_are_free_and_those_of_the_cloud_unknown() -> None:
    local = Catalogue("ollama", ("ollama",), TABLE, free=True)

    assert local.cost(counts(10, 10), "llama3.2") == 0
    assert local.cost(counts(10, 10), "gpt-oss:120b-cloud") is None


def test_the_bundled_table_is_that_of_litellm() -> None:
    table = read_table()

    assert len(table) > 1_000
    assert table["gpt-4o"]["input_cost_per_token"] == 2.5e-06
    assert "sample_spec" not in table


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("way", "cost"),
    [
        ("openai", "0.0021"),  # 400 at 2.5, 600 cached at 1.25, 35 at 10
        ("azure", "0.0021"),
        ("anthropic", "0.000635"),  # 400 at 1, 600 cached at 0.1, 35 at 5
        ("google", "0.0002255"),  # 400 at 0.3, 600 cached at 0.03, 35 at 2.5
        ("cohere", "0.00285"),  # 1000 at 2.5, 35 at 10
        ("ollama", "0"),
        ("docker", "0"),
        ("huggingface", None),
    ],
)
async def test_each_reply_says_what_it_cost(
    wire: WireServer, opened: Opened, way: str, stream: bool, cost: str | None
) -> None:
    counted = Usage(input_tokens=1_000, output_tokens=35, cached_tokens=600)
    wire.say(Answer("Yes.", usage=counted))

    async with opened(way) as provider:
        reply = await answered(provider, asking(), stream=stream)

    assert reply.cost_usd == (None if cost is None else Decimal(cost))


@pytest.mark.anyio
async def test_what_was_written_into_the_cache_is_paid_for(
    wire: WireServer, opened: Opened
) -> None:
    counted = Usage(input_tokens=1_000, output_tokens=20, cache_write_tokens=400)

    async with opened("anthropic") as provider:
        for stream in (False, True):
            wire.say(Answer("Yes.", usage=counted))
            reply = await answered(provider, asking(), stream=stream)
            assert reply.usage.input_tokens == 1_000
            assert reply.cost_usd == Decimal("0.0012")


@pytest.mark.anyio
async def test_a_model_is_described_without_asking_anybody(opened: Opened) -> None:
    async with opened() as provider:
        known = provider.describe("gpt-4o")
        other = provider.describe("unheard-of")

    assert (known.context_window, known.max_output_tokens) == (128_000, 16_384)
    assert known.tools
    assert known.structured_output
    assert known.media == {"image", "document"}
    assert known.input_usd_per_million == Decimal("2.5")
    assert known.cached_input_usd_per_million == Decimal("1.25")
    assert known.output_usd_per_million == 10
    assert other.context_window is None
    assert other.input_usd_per_million is None
    assert other.tools


@pytest.mark.anyio
async def test_the_models_of_a_provider_are_those_of_the_table(opened: Opened) -> None:
    async with opened("google") as provider:
        found = {each.name: each for each in await provider.models()}

    assert found["gemini-2.5-flash"].input_usd_per_million == Decimal("0.3")
    assert "gpt-4o" not in found
