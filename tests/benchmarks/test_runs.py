"""What the kernel itself takes for runs whose model answers at once."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from time import perf_counter

import anyio
from kaizen import (
    AgentConfig,
    BaseAgent,
    BaseProvider,
    InputField,
    Kernel,
    ModelDelta,
    ModelReply,
    ModelRequest,
    OutputField,
    Provider,
    Signature,
    TextDelta,
    ToolUse,
    tool,
)
from kaizen.testing import ModelPlugin

from tests.benchmarks._measure import awaited, called, interleave, ratio, slope, unit
from tests.benchmarks._table import Row, Table

CONFIG = AgentConfig(llm_provider="instant")
KEPT = 1_000
AT_ONCE = 1_000
THINKS_S = 0.05
FEW_DELTAS, MANY_DELTAS = 100, 1_100


class Answer(Signature):
    """Answer a question."""

    question: str = InputField(desc="What is asked")
    answer: str = OutputField(desc="The answer")


class Judged(Signature):
    """Answer a question, and say how sure you are."""

    question: str = InputField(desc="What is asked")
    answer: str = OutputField(desc="The answer")
    confidence: float = OutputField(desc="0 to 1")
    tags: list[str] = OutputField(desc="What it is about")


@tool(danger="safe")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(danger="safe")
async def subtract(a: int, b: int) -> int:
    """Subtract one number from another."""
    return a - b


class Instant(BaseProvider):
    """Has an answer ready for each cycle."""

    def __init__(self, *replies: ModelReply) -> None:
        self._replies = replies

    async def complete(self, request: ModelRequest) -> ModelReply:
        return self._replies[request.cycle - 1]


class Thinking(BaseProvider):
    """Takes as long as a fast model does."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        await anyio.sleep(THINKS_S)
        return ModelReply(text="hello")


class Talking(BaseProvider):
    """Answers in pieces, and lets others do something after each, as a network does."""

    def __init__(self, pieces: int) -> None:
        self._delta = ModelDelta(text="word ")
        self._reply = ModelReply(text="word " * pieces)
        self._pieces = pieces

    async def stream(
        self, request: ModelRequest | None
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        for _ in range(self._pieces):
            await asyncio.sleep(0)
            yield self._delta
        yield self._reply


def kernel_with(provider: Provider) -> Kernel:
    """A kernel that has one provider and nothing else."""
    return Kernel(
        plugins=[ModelPlugin(provider, "instant")],
        discover=False,
        config_file=False,
        environ={},
    )


def test_one_run_with_text_at_once(table: Table) -> None:
    provider = Instant(ModelReply(text="hello"))

    async def measure() -> dict[str, list[float]]:
        async with kernel_with(provider) as kernel:
            agent = BaseAgent(CONFIG, Answer, kernel=kernel)
            result = await agent.run(question="Why?")
            assert result.answer == "hello"
            run = awaited(lambda: agent.run(question="Why?"))
            return await interleave({"unit": unit, "run": run})

    measured = anyio.run(measure)

    add_row(table, measured, "one run, text at once", reach=3, peer="33", seed="550")


def test_one_run_with_structured_output(table: Table) -> None:
    text = '{"answer": "hello", "confidence": 0.5, "tags": ["a", "b"]}'
    provider = Instant(ModelReply(text=text))

    async def measure() -> dict[str, list[float]]:
        async with kernel_with(provider) as kernel:
            agent = BaseAgent(CONFIG, Judged, kernel=kernel)
            result = await agent.run(question="Why?")
            assert result.tags == ["a", "b"]
            run = awaited(lambda: agent.run(question="Why?"))
            return await interleave({"unit": unit, "run": run})

    measured = anyio.run(measure)

    add_row(table, measured, "one run, structured output of 3 fields", reach=4, peer="23")


def test_five_tool_cycles_in_one_run(table: Table) -> None:
    calls = [
        ModelReply(
            tool_uses=(ToolUse(id=f"call{n}", name="add", arguments='{"a": 1, "b": 2}'),)
        )
        for n in range(5)
    ]
    provider = Instant(*calls, ModelReply(text="3"))

    async def measure() -> dict[str, list[float]]:
        async with kernel_with(provider) as kernel:
            agent = BaseAgent(CONFIG, Answer, tools=[add], kernel=kernel)
            result = await agent.run(question="1 + 2?")
            assert (result.answer, result.cycles, result.tool_calls) == ("3", 6, 5)
            run = awaited(lambda: agent.run(question="1 + 2?"))
            return await interleave({"unit": unit, "run": run})

    measured = anyio.run(measure)

    add_row(table, measured, "one run, five tool cycles", reach=20, peer="195")


def test_the_construction_of_an_agent(table: Table) -> None:
    def construct() -> BaseAgent:
        return BaseAgent(CONFIG, Answer, tools=[add, subtract])

    def construct_with_own_config() -> BaseAgent:
        return BaseAgent({"llm_provider": "instant"}, Answer, tools=[add, subtract])

    subjects = {
        "unit": unit,
        "shared": called(construct),
        "own": called(construct_with_own_config),
    }

    measured = anyio.run(interleave, subjects)

    one = measured["unit"]
    table.saw_unit(one)
    for config, make in (("shared", construct), ("own", construct_with_own_config)):
        bound = config == "shared"
        table.add(
            Row(
                what=f"an agent with two tools and {config} configuration",
                measured=ratio(measured[config], one),
                reach=1,
                peer="1.2" if bound else "",
                seed="18–66" if bound else "",
            ),
            Row(
                what=f"memory of an agent with {config} configuration",
                measured=bytes_of_each(make) / 1_000,
                form="{:.2f} KB",
                reach=3,
                peer="3.7" if bound else "",
            ),
        )


def bytes_of_each(make: Callable[[], BaseAgent]) -> float:
    make()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [make() for _ in range(KEPT)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / len(kept)


def test_a_thousand_runs_at_once(table: Table) -> None:
    async def sleep() -> None:
        await asyncio.gather(*(asyncio.sleep(THINKS_S) for _ in range(AT_ONCE)))

    async def measure() -> dict[str, list[float]]:
        async with kernel_with(Thinking()) as kernel:
            agent = BaseAgent(CONFIG, Answer, kernel=kernel)

            async def run() -> None:
                runs = (agent.run(question="Why?") for _ in range(AT_ONCE))
                for result in await asyncio.gather(*runs):
                    assert result.answer == "hello"

            subjects = {
                "unit": unit,
                "sleep": awaited(sleep, perf_counter),
                "run": awaited(run, perf_counter),
                "cpu": awaited(run),
            }
            return await interleave(subjects)

    measured = anyio.run(measure)

    cpu = [seconds / AT_ONCE for seconds in measured["cpu"]]
    table.saw_unit(measured["unit"])
    table.add(
        Row(
            what=f"{AT_ONCE:,} runs at once, model sleeps 50 ms; time, against sleeping",
            measured=ratio(measured["run"], measured["sleep"]),
            form="{:.2f} ×",
            reach=1.4,
            peer="12",
            seed="15 at 100",
        ),
        Row(
            what="of it, CPU for each run and its waiting",
            measured=ratio(cpu, measured["unit"]),
        ),
    )


def test_a_stream(table: Table) -> None:
    async def measure() -> dict[str, list[float]]:
        few, many = Talking(FEW_DELTAS), Talking(MANY_DELTAS)
        async with kernel_with(few) as first, kernel_with(many) as second:
            subjects = {
                "unit": unit,
                "bare few": awaited(bare(few)),
                "bare many": awaited(bare(many)),
                "run few": awaited(streamed(first, FEW_DELTAS)),
                "run many": awaited(streamed(second, MANY_DELTAS)),
            }
            return await interleave(subjects)

    measured = anyio.run(measure)

    one, steps = measured["unit"], MANY_DELTAS - FEW_DELTAS
    of_run = slope(measured["run few"], measured["run many"], steps)
    of_provider = slope(measured["bare few"], measured["bare many"], steps)
    table.saw_unit(one)
    added = [whole - part for whole, part in zip(of_run, of_provider, strict=True)]
    table.add(Row(what="a stream: what is added to each delta", measured=ratio(added, one)))


def bare(provider: Talking) -> Callable[[], Awaitable[None]]:
    async def follow() -> None:
        async for _ in provider.stream(None):
            pass

    return follow


def streamed(kernel: Kernel, deltas: int) -> Callable[[], Awaitable[None]]:
    agent = BaseAgent(CONFIG, Answer, kernel=kernel)

    async def follow() -> None:
        seen = 0
        async with agent.stream(question="Why?") as run:
            async for event in run:
                seen += isinstance(event, TextDelta)
        assert seen == deltas

    return follow


def add_row(
    table: Table,
    measured: dict[str, list[float]],
    what: str,
    *,
    reach: float,
    peer: str,
    seed: str = "",
) -> None:
    table.saw_unit(measured["unit"])
    times = ratio(measured["run"], measured["unit"])
    table.add(Row(what=what, measured=times, reach=reach, peer=peer, seed=seed))
