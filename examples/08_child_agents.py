"""An agent as a tool of another: what it costs adds up, and a stop reaches both.

A run that starts inside another is its child. Nobody passes anything along: the kernel
knows which run it is in.
"""

from typing import Any

import anyio
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    InterruptMode,
    InterruptReason,
    Kernel,
    ToolUse,
    current_run,
    tool,
)


def agent(kernel: Kernel, name: str, *replies: object, **options: Any) -> BaseAgent:
    """Make an agent whose model says these things."""
    config = {"llm_provider": "mock", "provider_config": {"replies": list(replies)}}
    return BaseAgent(config, "task -> answer", name=name, kernel=kernel, **options)


async def main() -> None:
    """Run an editor that asks a researcher, then stop one in the middle of its work."""
    working = anyio.Event()

    @tool(danger="safe")
    async def search(words: str) -> str:
        """Look something up; the second time it takes for ever."""
        if words == "everything":
            working.set()
            await anyio.sleep_forever()
        return f"One page about {words}."

    async with Kernel() as kernel:
        quick = ToolUse(id="1", name="search", arguments={"words": "tides"})
        endless = ToolUse(id="1", name="search", arguments={"words": "everything"})
        researchers = {
            "tides": agent(kernel, "quick", quick, "Twice a day.", tools=[search]),
            "everything": agent(kernel, "patient", endless, tools=[search]),
        }

        @tool(danger="safe")
        async def research(subject: str) -> str:
            """Let another agent find something out."""
            result = await researchers[subject].run(task=subject)
            print(f"  {current_run().agent_id} reads what its child found: {result.answer}")
            return str(result.answer)

        def editor(subject: str) -> BaseAgent:
            asking = ToolUse(id="1", name="research", arguments={"subject": subject})
            return agent(kernel, "editor", asking, "It is written.", tools=[research])

        result = await editor("tides").run(task="Write about tides.")
        print(f"{result.answer} {result.usage.requests} model calls, child included")

        async with editor("everything").stream(task="Write about everything.") as run:
            await working.wait()
            (child,) = run.children
            run.interrupt(
                InterruptReason(mode=InterruptMode.IMMEDIATE, message="closing time")
            )
            try:
                await run.wait()
            except AgentInterrupted as stopped:
                print(stopped)
            print(f"parent {run.state.status}, child {child.state.status}")


anyio.run(main)
