"""The terms on which is spent: what is assumed, what is told, how long is waited."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from kaizen.config import PluginSettings
from pydantic import BeforeValidator, Field

from kaizen_budgets._budget import as_money

__all__ = ["Cost", "Terms"]

Cost = Annotated[Decimal, BeforeValidator(as_money)]
"""US dollars as pydantic reads them: never from a float."""


class Terms(PluginSettings):
    """How spending is reckoned; the same in code and under `[plugins.budgets]`."""

    tool_costs: dict[str, Cost] = Field(
        default_factory=dict, description="What each call of a tool costs, in US dollars."
    )
    unknown_price: Literal["refuse", "assume", "zero-with-warning"] = Field(
        default="refuse",
        description="What to do with a model whose price nobody names, where money is "
        "limited.",
    )
    assumed_usd_per_million: Cost = Field(
        default=Decimal(100),
        description="With `assume`: the price of a million tokens, in US dollars.",
    )
    assumed_output_tokens: int = Field(
        default=8_192,
        ge=1,
        le=10**9,
        description="Longest reply of a model that names none; the model is held to it.",
    )
    media_tokens: int = Field(
        default=16_384,
        ge=1,
        le=10**9,
        description="Most tokens that an image or a recording counts for, and the fewest "
        "of a document, which counts for four a byte.",
    )
    lost: Literal["release", "charge"] = Field(
        default="release",
        description="What counts for a call that was cut off, of which nobody knows what "
        "it cost: nothing, or the most that it could.",
    )
    wait_seconds: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="How long a call waits for others to give back what they reserved.",
    )
    lease_seconds: float = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="How long the reservations of a process outlive it.",
    )
    tell_model: bool = Field(
        default=False, description="Tell the model before each request what is left."
    )
