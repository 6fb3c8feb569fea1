"""What one process saved, the next one finds: each agent its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = '''
import json, os, sys
import anyio
from kaizen import AgentInterrupted, BaseAgent, InterruptReason, Kernel, current_run, tool
from kaizen.testing import Call, ModelPlugin, ScriptedModel
from kaizen_state import AgentState, FilesystemStorage, StateManager

folder, command = sys.argv[1:]


@tool(danger="safe")
async def stop() -> str:
    """Stop."""
    current_run().interrupt(InterruptReason())
    return "stopping"


async def main() -> None:
    lines = [Call("stop")] * 2 if command == "stop" else ["one is done", "two is done"]
    manager = StateManager(FilesystemStorage(folder))
    async with Kernel(
        plugins=[ModelPlugin(ScriptedModel(*lines))],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as kernel:
        agents = [
            BaseAgent(
                signature="question -> answer",
                tools=[stop],
                kernel=kernel,
                state_manager=manager,
            )
            for _ in range(2)
        ]
        if command == "stop":
            for number, agent in enumerate(agents):
                try:
                    await agent.run(question=f"number {number}")
                except AgentInterrupted:
                    pass
                made = AgentState(agent_id=f"by hand {number}", step_number=number)
                await manager.save_checkpoint(made)
            os._exit(7)  # as if it had crashed
        told = []
        for agent in agents:
            await agent.discover_tools()  # gives it its id
            state = await manager.resume_from_latest(agent.agent_id)
            result = await agent.resume(state.checkpoint_id)
            told.append([agent.agent_id, str(state.conversation_history[1]), result.answer])
        for number in range(2):
            made = await manager.resume_from_latest(f"by hand {number}")
            told.append(made.step_number)
        json.dump(told, sys.stdout)


anyio.run(main)
'''


def carry_out(folder: Path, command: str, *, code: int) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), command],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=50,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_agents_without_an_id_of_their_own_find_their_own_after_a_restart(
    tmp_path: Path,
) -> None:
    carry_out(tmp_path, "stop", code=7)

    told: list[Any] = json.loads(carry_out(tmp_path, "go on", code=0))

    (one, first, answer_1), (two, second, answer_2), *by_hand = told
    assert one != two
    assert "number 0" in first
    assert "number 1" in second
    assert (answer_1, answer_2) == ("one is done", "two is done")
    assert by_hand == [0, 1]
