"""What a hit of the cache takes: beyond a bare run, and against the call that it saves."""

from __future__ import annotations

import subprocess
import sys
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
    Kernel,
    Message,
    ModelReply,
    ModelRequest,
    Usage,
    current_run,
)
from kaizen.testing import ModelPlugin
from kaizen_cache import CachePlugin, CacheSettings, ModelCache
from kaizen_direct._endpoints import PRESETS
from kaizen_direct._keys import Keys
from kaizen_direct._provider import DirectProvider

from tests.benchmarks._measure import Subject, awaited, interleave, ratio, unit
from tests.benchmarks._table import Row, Table

ROOT = Path(__file__).parents[2]
AT_ONCE = 1_000
TURNS = 100
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
    with subprocess.Popen(
        [sys.executable, "-m", "tests.wire"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


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
