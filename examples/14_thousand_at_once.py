"""A thousand runs at once in one thread, of one agent, with two tool calls each.

Every model call takes a fifth of a second here, as if it went over a network. One after the
other, the runs would take almost seven minutes.
"""

from time import perf_counter

import anyio
from kaizen import BaseAgent, Kernel, ModelRequest, ToolUse, tool

RUNS = 1_000


@tool(danger="safe")
async def double(number: int) -> int:
    """Double a number."""
    return 2 * number


async def ask_for_tools(request: ModelRequest) -> list[ToolUse]:
    """Think, then ask for two calls."""
    await anyio.sleep(0.2)
    return [
        ToolUse(id=str(number), name="double", arguments={"number": number})
        for number in (3, 4)
    ]


async def read_results(request: ModelRequest) -> str:
    """Think, then say what the tools gave."""
    await anyio.sleep(0.2)
    return " and ".join(each.text for each in request.messages if each.role == "tool")


async def main() -> None:
    """Run them all and print what it took."""
    config = {
        "llm_provider": "mock",
        "provider_config": {"replies": [ask_for_tools, read_results]},
    }
    answers: list[str] = []
    async with Kernel() as kernel:
        agent = BaseAgent(config, "task -> answer", tools=[double], kernel=kernel)

        async def run() -> None:
            answers.append((await agent.run(task="Double 3 and 4.")).answer)

        started = perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(RUNS):
                tasks.start_soon(run)
        elapsed = perf_counter() - started
    print(f"{len(answers):,} runs, each of which answered: {', '.join(set(answers))}")
    print(f"{4 * RUNS:,} model and tool calls in {elapsed:.1f} s")


anyio.run(main)
