"""Save what an agent is at one moment, try something, and go another way from there."""

from decimal import Decimal
from tempfile import TemporaryDirectory

import anyio
from kaizen_state import AgentState, FilesystemStorage, StateManager


async def main() -> None:
    """Keep a conversation, fork it, and look at both."""
    with TemporaryDirectory() as folder:
        manager = StateManager(FilesystemStorage(folder), retention_count=100)
        state = AgentState(
            agent_id="research_agent",
            conversation_history=[{"user": "Research AI ethics", "agent": "Gladly."}],
            memory_contents={"papers_reviewed": 3},
            budget_spent_usd=Decimal("0.15"),
        )
        before = await manager.save_checkpoint(state, "before the risky part")

        state.conversation_history.append({"user": "Be bold", "agent": "Ethics is easy."})
        state.step_number = 1
        await manager.save_checkpoint(state, "bold")

        careful = await manager.fork_from_checkpoint(before, "careful_agent")
        careful.conversation_history.append({"user": "Be careful", "agent": "It depends."})
        careful.step_number = 1
        await manager.save_checkpoint(careful, "careful")

        for agent_id in ("research_agent", "careful_agent"):
            latest = await manager.resume_from_latest(agent_id)
            assert latest is not None
            print(f"{agent_id}, {len(latest.conversation_history)} lines:")
            print(f"  {latest.conversation_history[-1]['agent']}")

        back = await manager.rewind(before)
        print(f"back to {back.description!r}: {len(back.conversation_history)} line")


anyio.run(main)
