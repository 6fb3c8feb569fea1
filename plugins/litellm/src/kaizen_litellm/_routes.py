"""All providers of litellm that have no name of their own here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self

from kaizen.errors import ModelRequestError
from kaizen.media import Audio
from kaizen.messages import ModelDelta, ModelProfile, ModelReply, ModelRequest
from kaizen.ports import BaseProvider, Transcript

from kaizen_litellm._provider import LitellmProvider
from kaizen_litellm._shop import Shop

__all__ = ["RoutesProvider"]


class RoutesProvider(BaseProvider):
    """Asks for `provider/model`, whatever provider of litellm that is."""

    def __init__(self, name: str, shop: Shop) -> None:
        self.name = name
        self._shop = shop
        self._asked: dict[str, LitellmProvider] = {}

    async def __aenter__(self) -> Self:
        await self._shop.stock()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for provider in self._asked.values():
            await provider.__aexit__(kind, error, traceback)

    async def complete(self, request: ModelRequest) -> ModelReply:
        provider, model = self._find(request.model)
        return await provider.complete(replace(request, model=model))

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        provider, model = self._find(request.model)
        async with aclosing(provider.stream(replace(request, model=model))) as pieces:
            async for piece in pieces:
                yield piece

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        provider, rest = self._find(model)
        return await provider.embed(texts, model=rest)

    async def transcribe(self, audio: Audio, *, model: str = "") -> Transcript:
        provider, rest = self._find(model)
        return await provider.transcribe(audio, model=rest)

    def describe(self, model: str) -> ModelProfile:
        if "/" not in model:
            return ModelProfile(name=model)
        provider, rest = self._find(model)
        return replace(provider.describe(rest), name=model)

    def _find(self, model: str) -> tuple[LitellmProvider, str]:
        """Return who is asked, and for what.

        Raises:
            ModelRequestError: The model does not say.
            ConfigurationError: There is no such route, or it is not asked here.
        """
        route, slash, rest = model.partition("/")
        if not route or not (slash or self._shop.knows(route)):
            raise ModelRequestError(
                self.name,
                f"does not know who has model {model!r}",
                "Write it as `provider/model`.",
            )
        if route not in self._asked:
            self._asked[route] = LitellmProvider(self._shop.target(route), self._shop)
        return self._asked[route], rest
