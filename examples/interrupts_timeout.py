"""Stop a run after a time: gracefully, or in the middle of a turn.

The time that all runs of a program may take is a setting:

    [plugins.interrupts]
    timeout_seconds = 300
"""

import anyio
from kaizen import AgentInterrupted, BaseAgent, InterruptMode, Kernel, ToolUse, tool
from kaizen_interrupts import InterruptManager, TimeoutInterruptHandler


@tool(danger="safe")
async def dig() -> str:
    """Dig for a while."""
    await anyio.sleep(0.2)
    return "no treasure yet"


async def dig_for(kernel: Kernel, mode: InterruptMode) -> None:
    """Give an agent that would dig for ever half a second."""
    manager = InterruptManager()  # for this agent alone
    manager.add_handler(TimeoutInterruptHandler(timeout_seconds=0.5, mode=mode))
    agent = BaseAgent(
        {
            "llm_provider": "mock",
            "provider_config": {
                "replies": [ToolUse(id="d", name="dig", arguments={})],
                "on_exhausted": "repeat",
            },
            "graceful_shutdown_timeout": 5.0,
        },
        "task -> answer",
        tools=[dig],
        hooks=[manager],
        kernel=kernel,
    )
    async with agent.stream(task="Find the treasure.") as run:
        try:
            await run.wait()
        except AgentInterrupted as stopped:
            print(f"{mode.value}: {stopped.reason.message}")
            print(f"  its last call: {run.messages[-1].text}")


async def main() -> None:
    """Stop one run after its turn and one within it."""
    async with Kernel() as kernel:
        await dig_for(kernel, InterruptMode.GRACEFUL)
        await dig_for(kernel, InterruptMode.IMMEDIATE)


anyio.run(main)
