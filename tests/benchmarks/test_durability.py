"""What it takes to keep the log of a run, beside what its store takes."""

from __future__ import annotations

import asyncio
from time import perf_counter, process_time

import anyio
from kaizen import AgentConfig, BaseAgent, Kernel, ModelReply, ToolUse
from kaizen.testing import MemoryCheckpointStore

from tests.benchmarks._measure import Subject, interleave, ratio
from tests.benchmarks._table import Row, Table
from tests.benchmarks.test_runs import Answer, Instant, add, kernel_with

AT_A_TIME = 5


def five_cycles() -> Instant:
    calls = [
        ModelReply(
            tool_uses=(ToolUse(id=f"call{n}", name="add", arguments='{"a": 1, "b": 2}'),)
        )
        for n in range(5)
    ]
    return Instant(*calls, ModelReply(text="3"))


def test_what_durability_takes_of_a_run(table: Table) -> None:
    async def measure() -> dict[str, dict[str, list[float]]]:
        async with kernel_with(five_cycles()) as kernel:
            agents = {
                "none": agent_on(kernel),
                "async": agent_on(kernel, "async"),
                "sync": agent_on(kernel, "sync"),
            }
            waited = {name: waiting(each, kernel) for name, each in agents.items()}
            spent = {name: spending(each, kernel) for name, each in agents.items()}
            return {
                "waited": await interleave(waited, at_least_s=0.02),
                "spent": await interleave(spent, at_least_s=0.02),
            }

    measured = anyio.run(measure)

    waited, spent = measured["waited"], measured["spent"]
    table.add(
        Row(
            what="durability `async`, until a run of five tool cycles has its result; "
            "against the same run without a store",
            measured=ratio(waited["async"], waited["none"]),
            form="{:.2f} ×",
            reach=1.25,
        ),
        Row(
            what="of it, CPU in all, with the writing afterwards to a store in memory",
            measured=ratio(spent["async"], spent["none"]),
            form="{:.2f} ×",
        ),
        Row(
            what="durability `sync` with a store in memory, against the run without",
            measured=ratio(waited["sync"], waited["none"]),
            form="{:.2f} ×",
        ),
    )


def agent_on(kernel: Kernel, durability: str = "") -> BaseAgent:
    config = AgentConfig.extract(
        {"llm_provider": "instant"} | ({"durability": durability} if durability else {})
    )
    store = MemoryCheckpointStore() if durability else None
    return BaseAgent(config, Answer, tools=[add], kernel=kernel, store=store)


def waiting(agent: BaseAgent, kernel: Kernel) -> Subject:
    """Measure how long callers wait; what is written afterwards has time to be written."""

    async def repeat(count: int) -> float:
        waited = 0.0
        for at in range(0, count, AT_A_TIME):
            started = perf_counter()
            for _ in range(min(AT_A_TIME, count - at)):
                await agent.run(question="1 + 2?")
            waited += perf_counter() - started
            await until_written(kernel)
        return waited / count

    return repeat


def spending(agent: BaseAgent, kernel: Kernel) -> Subject:
    """Measure the CPU that a run takes, with everything that is written of it."""

    async def repeat(count: int) -> float:
        started = process_time()
        for at in range(0, count, AT_A_TIME):
            for _ in range(min(AT_A_TIME, count - at)):
                await agent.run(question="1 + 2?")
            await until_written(kernel)
        return (process_time() - started) / count

    return repeat


async def until_written(kernel: Kernel) -> None:
    while kernel.keeper.busy:  # noqa: ASYNC110 - what ends it is the kernel's own
        await asyncio.sleep(0)
