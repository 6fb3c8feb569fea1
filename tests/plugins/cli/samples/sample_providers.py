"""Providers that say whether they can be used, for the tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal

from kaizen import (
    BaseProvider,
    ModelProfile,
    ModelReply,
    ModelRequest,
    Provider,
    Registry,
    hookimpl,
)
from kaizen.errors import ModelAuthError


class Known(BaseProvider):
    """Names its models, and answers with which one it was asked for."""

    name = "keyed"

    async def complete(self, request: ModelRequest) -> ModelReply:
        text = f"I am {request.model} of keyed."
        if request.output is not None:
            text = json.dumps({"answer": text, "sources": [], "confidence": 1})
        return ModelReply(text=text)

    async def models(self) -> Sequence[ModelProfile]:
        return [
            ModelProfile(name="small", tools=False),
            ModelProfile(
                name="big",
                context_window=200_000,
                media=frozenset({"image"}),
                input_usd_per_million=Decimal("2.50"),
                output_usd_per_million=Decimal(10),
            ),
        ]


class Unknown(BaseProvider):
    """Has no key."""

    name = "keyless"

    async def models(self) -> Sequence[ModelProfile]:
        raise ModelAuthError("keyless", "has no key", "Set KEYLESS_API_KEY.")

    def describe(self, model: str) -> ModelProfile:
        return ModelProfile(name=model)


async def _yes() -> bool:
    return True


class Keyed:
    """Offers a provider that can be used."""

    name = "keyed"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "keyed", Known, available=_yes, preference=2)


class Routes:
    """Offers a provider that takes other names beside its own."""

    name = "routes"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "routes", Known, routes=("far", "near"))


class Offline:
    """Offers a provider of the name of the one that has no models to choose from."""

    name = "offline"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "offline", Known)


class Keyless:
    """Offers a provider that cannot."""

    name = "keyless"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "keyless", Unknown, available=lambda: False, preference=1)
