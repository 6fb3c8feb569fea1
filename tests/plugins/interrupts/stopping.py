"""A program for `test_signals.py`: an agent at work that signals stop.

    stopping.py <backend> <turn>

`turn` says what a turn does: `ends` with a line of input, `hangs` until it is cancelled, or
`holds` on to the process whatever comes.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import anyio
from anyio import to_thread
from kaizen import AgentInterrupted, BaseAgent, Kernel, current_run, hookimpl, tool
from kaizen.events import InterruptEvent
from kaizen.testing import Call, MemoryCheckpointStore, ModelPlugin, ScriptedModel
from kaizen_interrupts import InterruptManager, InterruptsPlugin


class MarkPlugin:
    """Marks a run before it stops."""

    name = "mark"

    @hookimpl
    async def pre_interrupt(self, event: InterruptEvent) -> None:
        await current_run().checkpoint("interrupted")


class Telling(InterruptManager):
    """Says each time that a signal was heard, so that the next may come."""

    def request_interrupt(self, *reason: Any, **parts: Any) -> bool:
        say("heard")
        return super().request_interrupt(*reason, **parts)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def main(turn: str) -> None:
    turns = 0

    @tool(danger="safe")
    async def work() -> str:
        """Work."""
        nonlocal turns
        turns += 1
        say(f"turn {turns}")
        if turn == "ends":
            await to_thread.run_sync(sys.stdin.readline)
        with anyio.CancelScope(shield=turn == "holds"):
            if turn != "ends":
                await anyio.sleep(60)
        return "worked"

    async with Kernel(
        plugins=[
            ModelPlugin(ScriptedModel(*[Call("work")] * 3)),
            InterruptsPlugin,
            MarkPlugin(),
        ],
        discover=False,
        settings={"interrupts": {"handle_signals": True}},
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(
            {"graceful_shutdown_timeout": 50},
            "question -> answer",
            tools=[work],
            kernel=kernel,
            store=MemoryCheckpointStore(),
        )
        (await kernel.get(InterruptManager, "default")).add_child(Telling())
        try:
            await agent.run(question="?")
        except AgentInterrupted as error:
            reason = error.reason
            say(f"{reason.source.value} {reason.mode.value} {reason.signal.value}")
            say(f"marked {reason.metadata['checkpoint_id'].startswith(error.run_id)}")
            say(reason.message)


anyio.run(main, sys.argv[2], backend=sys.argv[1])
