"""Stop runs when their money is spent, and hear of it in time.

The budget of all sessions of a program is a setting:

    [plugins.interrupts]
    max_budget_usd = 10
    track_by = "session"
"""

import logging
import sys
from decimal import Decimal

import anyio
from kaizen import AgentInterrupted, BaseAgent, Kernel, ModelReply
from kaizen_interrupts import BudgetAlert, BudgetInterruptHandler, InterruptManager


async def main() -> None:
    """Ask until the session has spent one dollar."""
    logging.basicConfig(stream=sys.stdout, format="log: %(message)s")

    def tell(alert: BudgetAlert) -> None:
        print(f"told: {alert.spent_usd} of {alert.limit_usd} US dollars are spent")

    async with Kernel() as kernel:
        budget = BudgetInterruptHandler(max_budget_usd=1, track_by="session", on_alert=tell)
        manager = await kernel.get(InterruptManager, "default")
        manager.add_handler(budget)

        reply = ModelReply(text="That depends.", cost_usd=Decimal("0.30"))
        config = {
            "llm_provider": "mock",
            "provider_config": {"replies": [reply], "on_exhausted": "repeat"},
        }
        agent = BaseAgent(config, "question -> answer", kernel=kernel)
        try:
            for number in range(1, 10):
                result = await agent.bind(session_id="chat-7").run(
                    question="Is it worth it?"
                )
                print(f"answer {number}: {result.answer}")
        except AgentInterrupted as stopped:
            print(f"stopped: {stopped.reason.message}")
        print("spent:", budget.spent_usd("chat-7"))


anyio.run(main)
