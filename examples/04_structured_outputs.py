"""Outputs are Python values, checked; a reply that does not fit goes back with the reasons.

The model follows a script here: its first reply has two mistakes, and its second has none.
"""

from datetime import date
from typing import Literal

import anyio
from kaizen import BaseAgent, InputField, Kernel, OutputError, OutputField, Signature
from pydantic import BaseModel


class Item(BaseModel):
    """One line of an invoice."""

    name: str
    price_eur: float


class Invoice(Signature):
    """Read an invoice."""

    text: str = InputField(desc="The invoice as text")
    due: date = OutputField(desc="When it must be paid")
    kind: Literal["goods", "service"] = OutputField(desc="What it is for")
    items: list[Item] = OutputField(desc="Its lines", min_length=1)


GOOD = {
    "due": "2026-03-01",
    "kind": "goods",
    "items": [{"name": "rope", "price_eur": 12.5}, {"name": "paint", "price_eur": 30}],
}
BAD = {**GOOD, "due": "soon", "kind": "rope"}


async def read(kernel: Kernel, *replies: object) -> None:
    """Let a model with these replies read an invoice."""
    config = {"llm_provider": "mock", "provider_config": {"replies": list(replies)}}
    agent = BaseAgent(config, Invoice, kernel=kernel)
    result = await agent.run(text="Rope 12.50, paint 30.00, due on the first of March")
    for message in result.messages:
        if message.origin == "kernel":
            print(f"sent back to the model:\n{message.text}\n")
    print(f"due {result.due:%d %B %Y}, {result.kind}")
    print(f"total {sum(item.price_eur for item in result['items']):.2f} EUR")


async def main() -> None:
    """Read it with one mistake, then with nothing but mistakes."""
    async with Kernel() as kernel:
        await read(kernel, BAD, GOOD)
        try:
            await read(kernel, BAD, BAD, BAD)
        except OutputError as error:
            print(f"\n{error.code}: {'; '.join(error.feedback)}")


anyio.run(main)
