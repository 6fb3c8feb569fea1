"""Every name keeps the promises of a provider."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from kaizen import Provider
from kaizen.testing.conformance import ProviderConformance

from .conftest import WAYS, Opened, asking, streamed


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
class TestProviders(ProviderConformance):
    @pytest.fixture
    async def provider(self, opened: Opened, way: str) -> AsyncGenerator[Provider]:
        async with opened(way) as provider:
            yield provider

    async def test_it_streams_in_pieces(self, provider: Provider) -> None:
        pieces = [piece async for piece in provider.stream(asking())]

        assert len(pieces) > 3

    async def test_it_says_which_model_answered_and_how_much_it_wrote(
        self, provider: Provider, way: str
    ) -> None:
        whole = await provider.complete(asking())
        _, reply = await streamed(provider, asking())

        assert reply == whole
        assert reply.model == WAYS[way].model
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (12, 7)
