"""Ctrl+C: the first lets the turn end and keeps the run, which then goes on from there.

A second one would stop it at once, and a third end the process. The example presses the
keys itself, so that it needs nobody.
"""

import signal
from tempfile import TemporaryDirectory

import anyio
from kaizen import AgentInterrupted, BaseAgent, Kernel, ToolUse, tool
from kaizen_interrupts import InterruptManager


@tool(danger="safe")
async def read_page(number: int) -> str:
    """Read one page."""
    print(f"page {number}")
    if number == 2:
        signal.raise_signal(signal.SIGINT)  # as Ctrl+C does
        await anyio.sleep(0.1)
    return f"What stands on page {number}."


async def main() -> None:
    """Read three pages, with an interruption."""
    pages = [
        ToolUse(id=f"p{n}", name="read_page", arguments={"number": n}) for n in (1, 2, 3)
    ]
    with TemporaryDirectory() as folder:
        async with Kernel(
            config={"checkpoint_store": "filesystem"},
            settings={"interrupts": {"handle_signals": True}, "state": {"path": folder}},
        ) as kernel:
            agent = BaseAgent(
                {
                    "llm_provider": "mock",
                    "provider_config": {"replies": [*pages, "Three pages."]},
                },
                "task -> answer",
                tools=[read_page],
                kernel=kernel,
            )
            try:
                await agent.run(task="Read the book.")
            except AgentInterrupted as stopped:
                print(f"stopped by {stopped.reason.source.value}: {stopped.reason.message}")
                run_id = stopped.run_id

            manager = await kernel.get(InterruptManager, "default")
            manager.clear_interrupt()  # until then, no run begins
            result = await agent.resume(run_id)
            print(f"{result.answer} ({result.tool_calls} calls)")


anyio.run(main)
