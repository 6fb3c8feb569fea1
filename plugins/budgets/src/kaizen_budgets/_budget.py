"""What a user allows: how much, to whom, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kaizen_budgets._amounts import UNLIMITED, Amounts, Money, Units, as_units, dollars

__all__ = ["SHARES", "Budget", "Scope", "Window", "as_money", "window_at"]

Scope: TypeAlias = Literal["run", "session", "agent", "user", "tenant", "kernel"]
"""Who shares a budget."""

Window: TypeAlias = (
    Literal["run", "session", "hour", "day", "month", "forever"]
    | Annotated[timedelta, Field(ge=timedelta(seconds=1), le=timedelta(days=36_525))]
)
"""For how long a budget is, until it begins anew."""

SHARES = 10_000
"""Shares of a limit are counted in hundredths of a percent."""


def as_money(value: Any) -> Decimal:
    """Return an amount of money; pydantic would take a float."""
    if isinstance(value, float):
        raise ValueError('money is written as text, such as usd = "0.50": floats round')
    try:
        return dollars(as_units(value))
    except TypeError as error:
        raise ValueError(str(error)) from None


_Usd = Annotated[Decimal, BeforeValidator(as_money)]
_Count = Annotated[int, Field(ge=0, le=10**15, strict=True)]
_Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Budget(BaseModel):
    """How much may be spent, by whom, and for how long.

    Every limit that is set holds. What is left out is not limited.

    Attributes:
        usd: US dollars: a `Decimal`, an int or a text, never a float.
        tokens: Tokens, sent and received.
        requests: Requests to models.
        tool_calls: Calls of tools.
        seconds: Time that runs take.
        window: When it begins anew: with each run or session, each hour, day or month of
            UTC, after a time span, or never (`forever`).
        scope: Who shares it. A run inside a run spends from the budgets of both.
        warn_at: Shares of each limit at which somebody is warned, once each.
        soft_at: Share of each limit at which the user is asked whether to go on.
        soft_step: By what share of the limit a yes raises that one.
        name: What it is known by; accounts of one name are the same after a restart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    usd: _Usd | None = None
    tokens: _Count | None = None
    requests: _Count | None = None
    tool_calls: _Count | None = None
    seconds: float | None = Field(default=None, ge=0, le=10**9, allow_inf_nan=False)
    window: Window = "forever"
    scope: Scope = "run"
    warn_at: tuple[_Share, ...] = Field(default=(0.8,), max_length=20)
    soft_at: _Share | None = None
    soft_step: _Share = 0.1
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]{0,64}$")

    if TYPE_CHECKING:  # pydantic takes more than what the fields are then

        def __init__(
            self,
            *,
            usd: Money | None = None,
            tokens: int | None = None,
            requests: int | None = None,
            tool_calls: int | None = None,
            seconds: float | None = None,
            window: Window = "forever",
            scope: Scope = "run",
            warn_at: Sequence[float] = (0.8,),
            soft_at: float | None = None,
            soft_step: float = 0.1,
            name: str = "",
        ) -> None: ...

    @model_validator(mode="after")
    def _limits_something(self) -> Budget:
        limits = (self.usd, self.tokens, self.requests, self.tool_calls, self.seconds)
        if all(each is None for each in limits):
            raise ValueError("limits nothing: set usd, tokens, requests or another limit")
        return self

    @property
    def label(self) -> str:
        """What it is known by: its name, or its scope and window."""
        return self.name or f"{self.scope}-{self.window_name}"

    @property
    def window_name(self) -> str:
        """The window as a word; a time span as its seconds."""
        window = self.window
        return window if isinstance(window, str) else f"{window.total_seconds():g}s"

    @property
    def ends_with_run(self) -> bool:
        """Whether each run has an account of its own."""
        return self.scope == "run" or self.window == "run"

    def limits(self) -> Units:
        """Return the limits in whole units; what is not limited is very large."""
        set_limits = Amounts(
            usd=self.usd or 0,
            tokens=self.tokens or 0,
            requests=self.requests or 0,
            tool_calls=self.tool_calls or 0,
            seconds=self.seconds or 0,
        ).units
        given = (self.usd, self.tokens, self.requests, self.tool_calls, self.seconds)
        usd, tokens, requests, tool_calls, seconds = (
            UNLIMITED if limit is None else units
            for limit, units in zip(given, set_limits, strict=True)
        )
        return (usd, tokens, requests, tool_calls, seconds)

    def shares(self) -> tuple[int, ...]:
        """Return where to warn, in hundredths of a percent, lowest first."""
        return tuple(sorted({max(1, round(each * SHARES)) for each in self.warn_at}))


def window_at(window: Window, now: float) -> tuple[int, int | None]:
    """Return when the window of a moment began and when it ends, seconds since the epoch.

    Args:
        window: Which one. Those without an end begin at 0.
        now: The moment, seconds since the epoch, UTC.
    """
    if isinstance(window, timedelta):
        length = max(1, int(window.total_seconds()))
    elif window == "hour":
        length = 3_600
    elif window == "day":
        length = 86_400
    elif window == "month":
        begin = datetime.fromtimestamp(now, UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        end = (begin + timedelta(days=32)).replace(day=1)
        return int(begin.timestamp()), int(end.timestamp())
    else:
        return 0, None
    begin_s = int(now // length) * length
    return begin_s, begin_s + length
