"""What a hit of the cache takes: beyond a bare run, and against the call that it saves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import anyio
import pytest
from kaizen import (
    AgentConfig,
    BaseAgent,
    BaseProvider,
    Image,
    InputField,
    Kernel,
    Message,
    ModelDelta,
    ModelReply,
    ModelRequest,
    OutputField,
    Signature,
    Tool,
    Usage,
    current_run,
    tool,
)
from kaizen.testing import ModelPlugin
from kaizen_cache import CachePlugin, CacheSettings, ModelCache
from kaizen_direct._endpoints import PRESETS
from kaizen_direct._keys import Keys
from kaizen_direct._provider import DirectProvider

from tests.benchmarks._measure import Subject, awaited, interleave, ratio, unit
from tests.benchmarks._table import Row, Table
from tests.wire.apart import serving_apart

ROOT = Path(__file__).parents[2]
AT_ONCE = 1_000
TURNS = 100
QUESTIONS = 1_000
PLAIN = AgentConfig(llm_provider="asked")
CACHED = AgentConfig(llm_provider="asked", cache_enabled=True)


class Instant(BaseProvider):
    """Has its answer ready."""

    reply = ModelReply(text="hello", usage=Usage(requests=1, input_tokens=9))

    async def complete(self, request: ModelRequest) -> ModelReply:
        return self.reply


class Chat:
    """Adds a kilobyte to the conversation, and asks, a hundred times."""

    async def execute(self, *_: object) -> Mapping[str, Any]:
        run = current_run()
        for number in range(TURNS):
            said = f"{number:1024}"
            await run.cycle([Message(role="user", content=said, origin="user")])
        return {"answer": "hello"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server in a process of its own."""
    with serving_apart() as address:
        yield address


@asynccontextmanager
async def kernel_with(provider: BaseProvider, *plugins: object) -> AsyncGenerator[Kernel]:
    async with Kernel(
        plugins=[ModelPlugin(provider, "asked"), *plugins],
        discover=False,
        config_file=False,
        environ={},
    ) as kernel:
        yield kernel


def cache() -> CachePlugin:
    return CachePlugin(CacheSettings())


def asking(
    kernel: Kernel,
    config: AgentConfig,
    clock: Callable[[], float] = process_time,
    **options: Any,
) -> Subject:
    agent = BaseAgent(config, "question -> answer", kernel=kernel, **options)
    return awaited(lambda: agent.run(question="Why?"), clock)


def less(one: list[float], other: list[float], count: int = 1) -> list[float]:
    return [(more - base) / count for more, base in zip(one, other, strict=True)]


def test_a_hit(table: Table, url: str) -> None:
    endpoint = replace(PRESETS["openai"], base_url=f"{url}/v1")
    keys = Keys({"OPENAI_API_KEY": "wire-key"})

    async def measure() -> dict[str, list[float]]:
        async with (
            DirectProvider(endpoint, keys=keys) as direct,
            kernel_with(Instant()) as bare,
            kernel_with(Instant(), cache()) as caching,
            kernel_with(direct) as calling,
        ):
            subjects = {
                "unit": unit,
                "bare": asking(bare, PLAIN),
                "off": asking(caching, PLAIN),
                "hit": asking(caching, CACHED),
                "bare in time": asking(bare, PLAIN, perf_counter),
                "hit in time": asking(caching, CACHED, perf_counter),
                "call in time": asking(calling, PLAIN, perf_counter),
            }
            measured = await interleave(subjects, at_least_s=0.02)
            figures = (await caching.get(ModelCache, "default")).figures
            assert (figures.misses, figures.kept) == (2, 2)  # one for each agent
        return measured

    measured = anyio.run(measure)

    hit, bare = measured["hit in time"], measured["bare in time"]
    saved = less(measured["call in time"], bare)
    table.saw_unit(measured["unit"])
    table.add(
        Row(
            what="a cache hit, beyond a bare run",
            measured=ratio(less(measured["hit"], measured["bare"]), measured["unit"]),
            reach=5,
        ),
        Row(
            what="a cache hit, to the HTTP call to a local server that it saves",
            measured=ratio(less(hit, bare), saved) * 100,
            form="{:.2f} %",
            reach=1,
        ),
        Row(
            what="a cached run, whole, to the run with that call",
            measured=ratio(hit, measured["call in time"]) * 100,
            form="{:.1f} %",
        ),
        Row(
            what="a cache that is installed and not enabled, beyond a bare run",
            measured=ratio(less(measured["off"], measured["bare"]), measured["unit"]),
        ),
    )


def rare(**given: Any) -> Instant:
    """Return a provider with another reply."""
    provider = Instant()
    provider.reply = replace(Instant.reply, **given)
    return provider


def in_turn(agent: BaseAgent) -> Subject:
    """Ask one of a thousand questions after the other."""
    numbers = itertools.cycle(range(QUESTIONS))
    return awaited(lambda: agent.run(question=f"Why {next(numbers)}?"))


def for_a_tenant(agent: BaseAgent) -> Subject:
    """Ask for somebody else's sake each time, as a server does."""
    whom = {"tenant": "acme", "user_id": "zoe"}
    return awaited(lambda: agent.bind(metadata=whom).run(question="Why?"))


def plainly(agent: BaseAgent) -> Subject:
    return awaited(lambda: agent.run(question="Why?"))


def read_along(agent: BaseAgent) -> Subject:
    async def read() -> None:
        async with agent.stream(question="Why?") as run:
            async for _ in run:
                pass

    return awaited(read)


def tools(count: int) -> list[Tool]:
    made: list[Tool] = []
    for number in range(count):

        async def look_up(name: str, most: int = 10, since: float = 0.0) -> str:
            """Look something up in one of the places where it may be.

            Args:
                name: What it is called.
                most: How many are wanted.
                since: How old they may be, in days.
            """
            return name

        made.append(tool(danger="safe", name=f"look_up_{number}")(look_up))
    return made


class Seen(Signature):
    """Say what is in a picture."""

    photo: Image = InputField(desc="A picture")
    answer: str = OutputField(desc="What is in it")


PICTURE = Image(b"\x89PNG\r\n\x1a\n" + bytes(5_000_000))
DATA = {"asked": {"blocks": [{"type": "thinking", "signature": "x" * 400}] * 2}}
ORDINARY: Mapping[str, tuple[Instant, dict[str, Any], Callable[[BaseAgent], Subject]]] = {
    f"each of {QUESTIONS:,} questions in turn": (Instant(), {}, in_turn),
    "a reply of 20 KB": (rare(text="word " * 4_000), {}, plainly),
    "a reply with data for its provider": (rare(provider_data=DATA), {}, plainly),
    "an agent with 20 tools, for another tenant each time": (
        Instant(),
        {"tools": tools(20)},
        for_a_tenant,
    ),
    "a question about a picture of 5 MB in memory": (
        Instant(),
        {"signature": Seen},
        lambda agent: awaited(lambda: agent.run(photo=PICTURE)),
    ),
}


@pytest.mark.parametrize("what", ORDINARY)
def test_other_ordinary_hits(table: Table, what: str) -> None:
    provider, options, asks = ORDINARY[what]

    async def measure() -> dict[str, list[float]]:
        async with kernel_with(provider) as bare, kernel_with(provider, cache()) as caching:
            given = {"signature": "question -> answer", **options}
            plain = BaseAgent(PLAIN, kernel=bare, **given)
            cached = BaseAgent(CACHED, kernel=caching, **given)
            for agent in (plain, cached):
                inputs = {"photo": PICTURE} if "signature" in options else {"question": "?"}
                await agent.run(**inputs)  # what is bound shares what that works out
                await asks(agent)(QUESTIONS)
            subjects = {"unit": unit, "bare": asks(plain), "hit": asks(cached)}
            measured = await interleave(subjects, rounds=15)
            figures = (await caching.get(ModelCache, "default")).figures
            assert figures.misses <= QUESTIONS + 1
        return measured

    measured = anyio.run(measure)

    beyond = less(measured["hit"], measured["bare"])
    table.add(
        Row(
            what=f"a cache hit: {what}",
            measured=ratio(beyond, measured["unit"]),
            reach=5,
        )
    )


def test_what_is_streamed(table: Table) -> None:
    class Speaking(BaseProvider):
        """Streams sixty pieces at once."""

        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            for number in range(60):
                yield ModelDelta(text=f"w{number} ")
            text = "".join(f"w{number} " for number in range(60))
            yield ModelReply(text=text, usage=Usage(requests=1))

        async def complete(self, request: ModelRequest) -> ModelReply:
            raise NotImplementedError

    async def measure() -> dict[str, list[float]]:
        uncached = AgentConfig(llm_provider="asked", cache_enabled=True, cache_ttl=0)
        async with (
            kernel_with(Speaking()) as bare,
            kernel_with(Speaking(), cache()) as caching,
        ):

            def agent(config: AgentConfig, kernel: Kernel) -> BaseAgent:
                return BaseAgent(config, "question -> answer", kernel=kernel)

            subjects = {
                "unit": unit,
                "bare": read_along(agent(PLAIN, bare)),
                "hit": read_along(agent(CACHED, caching)),
                "miss": read_along(agent(uncached, caching)),
            }
            return await interleave(subjects, rounds=15)

    measured = anyio.run(measure)

    bare, one = measured["bare"], measured["unit"]
    table.add(
        Row(
            what="a streamed cache hit of 60 pieces, to streaming them from a provider "
            "that is instant",
            measured=ratio(measured["hit"], bare),
            form="{:.2f} ×",
        ),
        Row(
            what="a streamed call of 60 pieces that the cache passes on, beyond one "
            "without a cache",
            measured=ratio(less(measured["miss"], bare), one),
        ),
    )


def test_a_long_conversation(table: Table) -> None:
    async def measure() -> dict[str, list[float]]:
        async with (
            kernel_with(Instant()) as bare,
            kernel_with(Instant(), cache()) as caching,
        ):
            subjects = {
                "unit": unit,
                "bare": asking(bare, PLAIN, strategy=Chat()),
                "hit": asking(caching, CACHED, strategy=Chat()),
            }
            measured = await interleave(subjects, at_least_s=0.02)
            figures = (await caching.get(ModelCache, "default")).figures
            assert figures.misses == TURNS
        return measured

    measured = anyio.run(measure)

    hit = less(measured["hit"], measured["bare"], TURNS)
    table.add(
        Row(
            what=f"each cache hit in a conversation that grows by 1 KB, {TURNS} times",
            measured=ratio(hit, measured["unit"]),
        )
    )


def test_a_thousand_identical_calls_at_once(table: Table) -> None:
    async def crowd(agent: BaseAgent) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(ask, agent)

    async def ask(agent: BaseAgent) -> None:
        await agent.run(question="Why?")

    class Thinking(Instant):
        async def complete(self, request: ModelRequest) -> ModelReply:
            await anyio.sleep(0.05)
            return self.reply

    async def measure() -> dict[str, list[float]]:
        config = AgentConfig(llm_provider="asked", cache_enabled=True, cache_ttl=0)
        async with kernel_with(Thinking(), cache()) as kernel:
            plain = BaseAgent(PLAIN, "question -> answer", kernel=kernel)
            shared = BaseAgent(config, "question -> answer", kernel=kernel)
            subjects = {
                "apart": awaited(lambda: crowd(plain)),
                "shared": awaited(lambda: crowd(shared)),
            }
            measured = await interleave(subjects, rounds=7)
            figures = (await kernel.get(ModelCache, "default")).figures
            assert figures.shared == figures.misses * (AT_ONCE - 1)
        return measured

    measured = anyio.run(measure)

    table.add(
        Row(
            what=f"{AT_ONCE:,} identical calls at once, one made; CPU, to making each",
            measured=ratio(measured["shared"], measured["apart"]),
            form="{:.2f} ×",
        )
    )
