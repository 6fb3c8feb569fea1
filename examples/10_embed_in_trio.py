"""The same kernel on trio: it knows no event loop by name.

Runs are ordinary trio tasks. A deadline around them cancels them, and nothing is left over.
Needs trio: `pip install trio`.
"""

import trio
from kaizen import BaseAgent, Kernel, tool


@tool(danger="safe")
async def fetch(page: str) -> str:
    """Read a page; one of them never comes."""
    if page == "slow":
        await trio.sleep_forever()
    return f"The page about {page} says that all is well."


async def main() -> None:
    """Call a tool of an agent for three pages at once, for at most a fifth of a second."""
    async with Kernel() as kernel:
        agent = BaseAgent(
            {"llm_provider": "mock"}, "task -> answer", tools=[fetch], kernel=kernel
        )

        async def read(page: str) -> None:
            result = await agent.execute_tool("fetch", {"page": page})
            print(result.content)

        before = trio.lowlevel.current_statistics().tasks_living
        with trio.move_on_after(0.2) as deadline:
            async with trio.open_nursery() as nursery:
                for page in ("ropes", "slow", "sails"):
                    nursery.start_soon(read, page)
        left = trio.lowlevel.current_statistics().tasks_living - before
        print(f"out of time: {deadline.cancelled_caught}; tasks left over: {left}")

        result = await agent.run(task="Say something.")
        print(f"the kernel still works: {result.answer!r}")


trio.run(main)
