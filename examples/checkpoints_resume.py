"""Lose a process in the middle of a run, and go on with the run in the next one.

The run is on disk before each step that it takes. The second kernel stands for the next
process: it knows nothing but the folder.
"""

from tempfile import TemporaryDirectory

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
from kaizen_state import FilesystemStorage, StateManager

chapters = [
    ToolUse(id=f"c{n}", name="read", arguments={"chapter": n}) for n in (1, 2, 3, 4)
]
script = [*chapters, "It is about sand."]


@tool(danger="safe")
async def read(chapter: int) -> str:
    """Read a chapter; the third one in vain, at first."""
    print(f"  reads chapter {chapter}")
    run = current_run()
    if chapter == 3 and run.past is None:
        run.interrupt(InterruptReason(mode=InterruptMode.IMMEDIATE))
        await anyio.sleep_forever()
    return f"what chapter {chapter} says"


def reader(kernel: Kernel, manager: StateManager) -> BaseAgent:
    """Return the agent, as each process makes it."""
    return BaseAgent(
        {"llm_provider": "mock", "provider_config": {"replies": script}},
        "book -> summary",
        tools=[read],
        kernel=kernel,
        agent_id="reader",
        state_manager=manager,
    )


async def main() -> None:
    """Read half a book, stop, and read the other half."""
    with TemporaryDirectory() as folder:
        manager = StateManager(FilesystemStorage(folder), checkpoint_frequency=1)
        async with Kernel() as kernel:
            print("the first process:")
            try:
                await reader(kernel, manager).run(book="Dune")
            except AgentInterrupted as stopped:
                print(f"  {stopped.problem}")

        manager = StateManager(FilesystemStorage(folder))
        state = await manager.resume_from_latest("reader")
        assert state is not None
        print(f"{state.status} after {state.step_number} turns; its checkpoints:")
        for each in await manager.list("reader"):
            print(f"  turn {each.step_number}: {each.description or each.status}")

        async with Kernel() as kernel:
            print("the second process:")
            agent = reader(kernel, manager)
            result = await agent.resume(state.checkpoint_id, decision="repeat")
            print(f"  {result.summary}")


anyio.run(main)
