"""A model that counts how often it is asked, and kernels with a cache before it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kaizen import BaseAgent, BaseProvider, Kernel, Result, Run, hookimpl
from kaizen.messages import ModelDelta, ModelReply, ModelRequest, Usage
from kaizen.registry import Registry
from kaizen.runlog import ModelSwitched, Noted, ReasoningDelta, TextDelta
from kaizen.testing import ModelPlugin
from kaizen_cache import CachePlugin, CacheSettings, CacheStore, ModelCache

Said: TypeAlias = (
    ModelReply | Sequence[str | ModelDelta | BaseException] | str | BaseException
)
Staging: TypeAlias = Callable[..., AbstractAsyncContextManager["Staged"]]

USED = Usage(requests=1, input_tokens=10, output_tokens=5)
PRICE = Decimal("0.01")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend


class Clock:
    """Tells a time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def let_pass(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Teller(BaseProvider):
    """Says the next of what it is to say, and at last the number of the request.

    Attributes:
        requests: What it was asked.
        asked: Is set when it is asked; a test may put another event in its place.
        gate: What it waits for before it answers, or before the piece `...`, or `None`.
    """

    name = "teller"

    def __init__(self, *said: Said) -> None:
        self.requests: list[ModelRequest] = []
        self.asked = anyio.Event()
        self.gate: anyio.Event | None = None
        self._said = list(said)

    async def complete(self, request: ModelRequest) -> ModelReply:
        said = self._next(request)
        await self._pass_gate()
        if isinstance(said, BaseException):
            raise said
        return self._reply(said)

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        said = self._next(request)
        if isinstance(said, BaseException):
            await self._pass_gate()
            raise said
        reply = self._reply(said)
        pieces = [said] if isinstance(said, str) else said
        if isinstance(pieces, ModelReply):
            pieces = [pieces.text]
        if "..." not in pieces:
            await self._pass_gate()
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            if piece == "...":
                await self._pass_gate()
            elif piece:
                yield piece if isinstance(piece, ModelDelta) else ModelDelta(text=piece)
        yield reply

    def _next(self, request: ModelRequest) -> Said:
        self.requests.append(request)
        self.asked.set()
        if len(self.requests) <= len(self._said):
            return self._said[len(self.requests) - 1]
        return f"answer {len(self.requests)}"

    async def _pass_gate(self) -> None:
        if self.gate is not None:
            await self.gate.wait()

    def _reply(self, said: Said) -> ModelReply:
        assert not isinstance(said, BaseException)
        if isinstance(said, ModelReply):
            return said
        pieces = [said] if isinstance(said, str) else said
        deltas = [each for each in pieces if isinstance(each, ModelDelta)]
        return ModelReply(
            text="".join(
                each.text if isinstance(each, ModelDelta) else each
                for each in pieces
                if each != "..." and not isinstance(each, BaseException)
            ),
            reasoning="".join(each.reasoning for each in deltas),
            usage=USED,
            cost_usd=PRICE,
            model="teller-1",
        )


@dataclass
class Reading:
    """What a person reads who follows a run: text that does not count is struck out."""

    text: str = ""
    thoughts: str = ""
    pieces: list[str] = field(default_factory=list)
    switches: list[ModelSwitched] = field(default_factory=list)
    notes: list[Noted] = field(default_factory=list)
    moved: anyio.Event = field(default_factory=anyio.Event)

    async def read(self, run: Run) -> None:
        """Read until the run ends."""
        async for event in run:
            if isinstance(event, TextDelta):
                self.text += event.text
                self.pieces.append(event.text)
            elif isinstance(event, ReasoningDelta):
                self.thoughts += event.text
                self.pieces.append(f"({event.text})")
            elif isinstance(event, ModelSwitched):
                self.switches.append(event)
                if event.restarts:
                    self.text = self.thoughts = ""
                    self.pieces.clear()
            elif isinstance(event, Noted):
                self.notes.append(event)
            self.moved.set()
            self.moved = anyio.Event()

    async def until(self, text: str) -> None:
        """Wait until a text was read."""
        with anyio.fail_after(10):
            while self.text != text:
                await self.moved.wait()


@dataclass
class Staged:
    """A kernel with a cache and a model."""

    kernel: Kernel
    cache: ModelCache

    def agent(self, config: Mapping[str, Any] | None = None, **options: Any) -> BaseAgent:
        """Return an agent that asks the model, by way of the cache."""
        given = {"llm_provider": "teller", "cache_enabled": True, **(config or {})}
        signature = options.pop("signature", "question -> answer")
        options.setdefault("agent_id", "asker")
        return BaseAgent(given, signature, kernel=self.kernel, **options)

    async def stream(
        self, agent: BaseAgent, reading: Reading | None = None, question: str = "?"
    ) -> tuple[Reading, Run]:
        """Run an agent to its end, and read what a reader of its stream reads."""
        reading = reading or Reading()
        with anyio.fail_after(20):
            async with agent.stream(question=question) as run:
                await reading.read(run)
        return reading, run


@pytest.fixture
def staging(clock: Clock) -> Staging:
    """Start a kernel with a model, and the plugin with some settings."""

    @asynccontextmanager
    async def started(
        model: Teller,
        *,
        plugins: Sequence[object] = (),
        config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> AsyncGenerator[Staged]:
        plugin = CachePlugin(CacheSettings(**settings), clock=clock, now=clock)
        async with Kernel(
            plugins=[ModelPlugin(model, "teller"), *plugins, plugin],
            discover=False,
            config=config,
            config_file=False,
            environ={},
        ) as kernel:
            yield Staged(kernel, plugin.cache)

    return started


def notes(run: Run, kind: str = "hit") -> list[Noted]:
    """Return what the cache noted in the log of a run."""
    return [
        each
        for each in run.log.entries
        if isinstance(each, Noted) and each.source == "cache" and each.kind == kind
    ]


async def tell(agent: BaseAgent, question: str = "?", **metadata: Any) -> Result:
    """Run an agent, for somebody if so said."""
    if metadata:
        agent = agent.bind(metadata=metadata)
    with anyio.fail_after(20):
        return await agent.run(question=question)


class Offering:
    """Offers a store as `mine`."""

    name = "offering"

    def __init__(self, store: object) -> None:
        self._store = store

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(CacheStore, "mine", self._store)


async def following(staged: Staged, count: int) -> None:
    """Wait until some calls wait for another."""
    with anyio.fail_after(20):
        while staged.cache.figures.waiting < count:
            await checkpoint()


__all__ = [
    "PRICE",
    "USED",
    "Clock",
    "Offering",
    "Reading",
    "Said",
    "Staged",
    "Staging",
    "Teller",
    "following",
    "notes",
    "tell",
]
