"""Providers that break off where a test wants it, and readers who see what comes of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeAlias

import anyio
import pytest
from kaizen import BaseAgent, BaseProvider, Kernel, Run
from kaizen.errors import ModelError
from kaizen.messages import ModelDelta, ModelProfile, ModelReply, ModelRequest, Usage
from kaizen.runlog import ModelSwitched, Noted, ReasoningDelta, TextDelta
from kaizen.testing import ModelPlugin
from kaizen_resilience import ResiliencePlugin

Piece: TypeAlias = (
    str | ModelDelta | BaseException | anyio.Event | Callable[[], object] | None
)
"""A piece of text; what is raised; what is waited for, `None` for ever; or what is done."""

Staging: TypeAlias = Callable[..., AbstractAsyncContextManager["Staged"]]

USED = Usage(requests=1, input_tokens=10, output_tokens=5)
PRICE = Decimal("0.01")
EMPTY = ModelReply()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend


@dataclass
class Attempt:
    """What a provider does when it is asked once.

    Attributes:
        repeats: Whether it begins with the prefix that it was to go on from.
    """

    pieces: Sequence[Piece]
    usage: Usage = USED
    cost_usd: Decimal | None = PRICE
    reply: ModelReply = EMPTY
    repeats: bool = False


class Actor(BaseProvider):
    """Does what a list of attempts says; the last one again and again.

    Attributes:
        requests: What it was asked.
    """

    def __init__(
        self,
        *attempts: Attempt | Sequence[Piece] | str | BaseException,
        name: str = "first",
        continues: bool = False,
        **profile: Any,
    ) -> None:
        self.name = name
        self.requests: list[ModelRequest] = []
        self.attempts = [_attempt(each) for each in attempts]
        self._profile = ModelProfile(name="model", continues=continues, **profile)

    def describe(self, model: str) -> ModelProfile:
        return self._profile

    async def complete(self, request: ModelRequest) -> ModelReply:
        stream = self.stream(request)
        async with aclosing(stream):
            reply = [piece async for piece in stream][-1]
        assert isinstance(reply, ModelReply)
        return reply

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        number = min(len(self.requests), len(self.attempts) - 1)
        self.requests.append(request)
        attempt = self.attempts[number]
        said: list[str] = [request.prefix] if attempt.repeats else []
        thought: list[str] = []
        if attempt.repeats and request.prefix:
            yield ModelDelta(text=request.prefix)
        for piece in attempt.pieces:
            delta = await self._done(piece, attempt, thought)
            if delta is not None:
                said.append(delta.text)
                thought.append(delta.reasoning)
                yield delta
        yield replace(
            attempt.reply,
            text="".join(said),
            reasoning="".join(thought),
            usage=attempt.usage,
            cost_usd=attempt.cost_usd,
            model=request.model or "model",
        )

    async def _done(
        self, piece: Piece, attempt: Attempt, thought: Sequence[str]
    ) -> ModelDelta | None:
        if isinstance(piece, ModelDelta):
            return piece
        if isinstance(piece, str):
            return ModelDelta(text=piece)
        if isinstance(piece, ModelError):
            partial = piece.partial or ModelReply()
            piece.partial = replace(partial, usage=attempt.usage, cost_usd=attempt.cost_usd)
        if isinstance(piece, BaseException):
            raise piece
        if isinstance(piece, anyio.Event):
            await piece.wait()
        elif piece is None:
            await anyio.sleep_forever()
        else:
            piece()
        return None


def _attempt(each: Attempt | Sequence[Piece] | str | BaseException) -> Attempt:
    if isinstance(each, Attempt):
        return each
    return Attempt([each] if isinstance(each, str | BaseException) else each)


class Reader:
    """Reads a run as a person would: text that does not count any more is struck out.

    Attributes:
        text: What stands.
        thoughts: What stands of the reasoning.
        switches: The events that say that another model goes on.
        notes: What the plugin noted: pairs of kind and data.
    """

    def __init__(self) -> None:
        self.text = ""
        self.thoughts = ""
        self.switches: list[ModelSwitched] = []
        self.notes: list[tuple[str, Mapping[str, Any]]] = []

    async def read(self, run: Run) -> None:
        """Read until the run ends."""
        async for event in run:
            if isinstance(event, TextDelta):
                self.text += event.text
            elif isinstance(event, ReasoningDelta):
                self.thoughts += event.text
            elif isinstance(event, ModelSwitched):
                self.switches.append(event)
                if event.restarts:
                    self.text = self.thoughts = ""
                else:
                    assert len(self.text) == event.kept_chars
            elif isinstance(event, Noted) and event.source == "resilience":
                self.notes.append((event.kind, event.data))

    def kinds(self) -> list[str]:
        """Return the kinds of the notes, in order."""
        return [kind for kind, _ in self.notes]


@dataclass
class Staged:
    """A kernel with the plugin, and some actors as its providers."""

    kernel: Kernel

    def agent(self, config: Mapping[str, Any] | None = None, **options: Any) -> BaseAgent:
        """Return an agent that asks the first actor for a text."""
        given = {"llm_provider": "first", **(config or {})}
        signature = options.pop("signature", "question -> answer")
        return BaseAgent(given, signature, kernel=self.kernel, **options)

    async def read(self, agent: BaseAgent) -> tuple[Reader, Run]:
        """Run an agent to its end, and read what a reader of its stream reads."""
        reader = Reader()
        with anyio.fail_after(20):
            async with agent.stream(question="?") as run:
                await reader.read(run)
        return reader, run


@pytest.fixture
def staging() -> Staging:
    """Start a kernel with actors as providers, and the plugin with some settings.

    Waits are so short by default that no test notices them.
    """

    @asynccontextmanager
    async def started(
        *actors: Actor, plugins: Sequence[object] = (), **settings: Any
    ) -> AsyncGenerator[Staged]:
        async with Kernel(
            plugins=[
                *(_offering(each) for each in actors),
                ResiliencePlugin,
                *plugins,
            ],
            discover=False,
            settings={"resilience": {"backoff_s": 0, **settings}},
            config_file=False,
            environ={},
        ) as kernel:
            yield Staged(kernel)

    return started


def _offering(actor: Actor) -> ModelPlugin:
    plugin = ModelPlugin(actor, actor.name)
    plugin.name = f"offering_{actor.name}"
    return plugin


def broken(text: str = "broke off", **fields: Any) -> ModelError:
    """Return an error that may be retried."""
    return ModelError("first", text, retryable=True, **fields)
