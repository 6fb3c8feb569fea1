"""Tools say what they do to the world; only what is harmless or granted is run.

The model follows a script here, so that you see every case: two reads at once, a change
that nobody granted, and the same change by an agent that was granted it.
"""

import anyio
from kaizen import BaseAgent, Kernel, ToolUse, tool

STOCK = {"apples": 12, "pears": 3}


@tool(danger="safe")
async def count(item: str) -> int:
    """Say how many of an item there are.

    Args:
        item: What to count, in the plural.
    """
    return STOCK[item]


@tool(danger="medium")
async def sell(item: str, number: int = 1) -> str:
    """Take items out of the stock."""
    STOCK[item] -= number
    return f"{STOCK[item]} {item} are left"


SCRIPT = [
    [
        ToolUse(id="1", name="count", arguments={"item": "apples"}),
        ToolUse(id="2", name="count", arguments={"item": "pears"}),
    ],
    ToolUse(id="3", name="sell", arguments={"item": "pears", "number": 2}),
    {"answer": "Done, as far as I may."},
]


async def main() -> None:
    """Run the same script without and with a grant."""
    config = {"llm_provider": "mock", "provider_config": {"replies": SCRIPT}}
    async with Kernel() as kernel:
        for grants in ([], ["sell"]):
            agent = BaseAgent(
                config, "task -> answer", tools=[count, sell], grants=grants, kernel=kernel
            )
            result = await agent.run(task="Sell two pears if there are enough.")
            print(f"granted: {', '.join(grants) or 'nothing'}")
            for message in result.messages:
                if message.role == "tool":
                    print(f"  {message.name}: {message.text}")
            print(f"  stock: {STOCK}")


anyio.run(main)
