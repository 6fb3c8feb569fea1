"""Stop a run: gracefully, after the turn under way, or at once.

Either way its history is valid afterwards, so that it could be shown, kept or gone on with.
"""

import anyio
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
    Kernel,
    ToolUse,
    tool,
)


async def stop(kernel: Kernel, mode: InterruptMode) -> None:
    """Interrupt an agent that would count for ever."""
    counting = anyio.Event()

    @tool(danger="safe")
    async def count(number: int) -> str:
        """Count, slowly."""
        counting.set()
        await anyio.sleep(0.1)
        return f"{number} and counting"

    use = ToolUse(id="n", name="count", arguments={"number": 1})
    agent = BaseAgent(
        {
            "llm_provider": "mock",
            "provider_config": {"replies": [use], "on_exhausted": "repeat"},
        },
        "task -> answer",
        tools=[count],
        kernel=kernel,
    )
    async with agent.stream(task="Count.") as run:
        await counting.wait()
        run.interrupt(
            InterruptReason(
                source=InterruptSource.USER,
                mode=mode,
                signal=InterruptSignal.USER_REQUESTED,
                message="that is enough",
            )
        )
        try:
            await run.wait()
        except AgentInterrupted as stopped:
            print(f"{mode.value}: {stopped.problem}")
        for message in run.messages[2:]:
            said = message.text or ", ".join(use.name for use in message.tool_uses)
            print(f"  {message.role}: {said}")


async def main() -> None:
    """Stop one run gracefully and one at once."""
    async with Kernel() as kernel:
        await stop(kernel, InterruptMode.GRACEFUL)
        await stop(kernel, InterruptMode.IMMEDIATE)


anyio.run(main)
