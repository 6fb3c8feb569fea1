"""Amounts: what a call may cost, and what it cost, exactly.

Money is counted in whole millionths of a millionth of a US dollar, so that no sum is ever
rounded, whatever decimal context a program has set. What is finer is rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from typing import Any, TypeAlias

__all__ = [
    "DIMENSIONS",
    "MAX_COUNT",
    "NOTHING",
    "REQUESTS",
    "SECONDS",
    "TOKENS",
    "TOOL_CALLS",
    "UNLIMITED",
    "USD",
    "Amounts",
    "Duration",
    "Money",
    "Units",
    "as_units",
    "dollars",
    "milliseconds",
    "natural",
    "told",
]

Money: TypeAlias = Decimal | int | str
"""US dollars: a `Decimal`, or what one is made of without loss. Never a float."""

Duration: TypeAlias = timedelta | float
"""A time span, or its length in seconds."""

Units: TypeAlias = tuple[int, int, int, int, int]
"""One number a dimension: 10^-12 US dollars, tokens, requests, tool calls, milliseconds."""

DIMENSIONS = ("usd", "tokens", "requests", "tool_calls", "seconds")
USD, TOKENS, REQUESTS, TOOL_CALLS, SECONDS = range(5)
NOTHING: Units = (0, 0, 0, 0, 0)
UNLIMITED = 1 << 200
MAX_USD = Decimal(10**12)
MAX_COUNT = 10**15
MAX_TEXT = 64
_PLACES = 12
_EXACT = Context(prec=100, rounding=ROUND_CEILING, traps=[InvalidOperation])
_SCALE = _EXACT.multiply
_PER_USD = Decimal(10**_PLACES)
_ZERO = Decimal(0)
_CENT = Decimal("0.01")


def as_units(value: Money) -> int:
    """Return an amount of money in whole units, rounded up.

    Raises:
        TypeError: It is a float, or no number at all.
        ValueError: It is negative, not finite, or more than a trillion.
    """
    if type(value) is not Decimal:
        value = _decimal(value)
    if not value.is_finite() or not _ZERO <= value <= MAX_USD:
        raise ValueError(f"an amount of money is from 0 to {MAX_USD:,}, not {value}")
    scaled = _SCALE(value, _PER_USD)
    units = int(scaled)
    return units if units == scaled else units + 1


def _decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        what = "binary floats round" if isinstance(value, float) else "it is no number"
        raise TypeError(f"an amount of money is a Decimal, an int or a text: {what}")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ValueError(f"an amount of money has at most {MAX_TEXT} characters")
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{value!r} is no amount of money") from None


def dollars(units: int) -> Decimal:
    """Return units of money as US dollars, with two places or as many as it takes."""
    value = Decimal(units).scaleb(-_PLACES, _EXACT).normalize(_EXACT)
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent > -2:
        return value.quantize(_CENT, context=_EXACT)
    return value


def milliseconds(value: Duration) -> int:
    """Return a time span in whole milliseconds, rounded up.

    Raises:
        ValueError: It is negative, not finite, or longer than the bound.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= seconds <= MAX_COUNT // 1_000:
        raise ValueError(f"a time is from 0 to {MAX_COUNT // 1_000} seconds, not {value!r}")
    return -int(-seconds * 1_000 // 1)


def _count(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    if not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{name} is from 0 to {MAX_COUNT:,}, not {value!r}")
    return value


class Amounts:
    """What a call may cost at most, or what it cost, in every dimension at once.

    Args:
        usd: US dollars.
        seconds: Time, in seconds; counted in milliseconds.

    Raises:
        TypeError: A number is none; money is never a float.
        ValueError: A number is negative, not finite or too large.
    """

    __slots__ = ("units",)

    units: Units

    def __init__(
        self,
        *,
        usd: Money = 0,
        tokens: int = 0,
        requests: int = 0,
        tool_calls: int = 0,
        seconds: Duration = 0,
    ) -> None:
        self.units = (
            as_units(usd),
            _count(tokens, "tokens") if tokens else 0,
            _count(requests, "requests") if requests else 0,
            _count(tool_calls, "tool_calls") if tool_calls else 0,
            milliseconds(seconds) if seconds else 0,
        )

    @classmethod
    def of(cls, units: Units) -> Amounts:
        """Return amounts of whole units."""
        made = cls.__new__(cls)
        made.units = units
        return made

    @property
    def usd(self) -> Decimal:
        """US dollars."""
        return dollars(self.units[0])

    @property
    def tokens(self) -> int:
        """Tokens, sent and received."""
        return self.units[1]

    @property
    def requests(self) -> int:
        """Requests to models."""
        return self.units[2]

    @property
    def tool_calls(self) -> int:
        """Calls of tools."""
        return self.units[3]

    @property
    def seconds(self) -> float:
        """Time in seconds."""
        return self.units[4] / 1_000

    def __add__(self, other: Amounts) -> Amounts:
        a, b = self.units, other.units
        return Amounts.of((a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4]))

    def beyond(self, other: Amounts) -> Amounts:
        """Return by how much this is more, dimension by dimension; never below nothing."""
        usd, tokens, requests, tool_calls, seconds = (
            max(0, mine - its) for mine, its in zip(self.units, other.units, strict=True)
        )
        return Amounts.of((usd, tokens, requests, tool_calls, seconds))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Amounts) and self.units == other.units

    def __hash__(self) -> int:
        return hash(self.units)

    def __bool__(self) -> bool:
        return self.units != NOTHING

    def __repr__(self) -> str:
        parts = (f"{name}={value!r}" for name, value in self.as_json().items())
        return f"Amounts({', '.join(parts)})"

    def as_json(self) -> dict[str, Any]:
        """Return what is not zero, as JSON values; money as text."""
        values: Mapping[str, Any] = {
            "usd": str(self.usd) if self.units[0] else 0,
            "tokens": self.tokens,
            "requests": self.requests,
            "tool_calls": self.tool_calls,
            "seconds": self.seconds,
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Amounts:
        """Return the amounts that `as_json` wrote; what else there is, is left out.

        Raises:
            TypeError: A number is none.
            ValueError: A number is out of bounds.
        """
        return cls(**{name: data[name] for name in DIMENSIONS if name in data})


def natural(place: int, units: int) -> Decimal | int | float:
    """Return an amount of one dimension as its users write it."""
    if place == USD:
        return dollars(units)
    return units / 1_000 if place == SECONDS else units


def told(place: int, units: int) -> str:
    """Return an amount of one dimension in words for a person."""
    if place == USD:
        sign, units = ("-", -units) if units < 0 else ("", units)
        return f"{sign}${dollars(units):f}"
    if place == SECONDS:
        return f"{units / 1_000:g} s"
    return f"{units:,} {DIMENSIONS[place].replace('_', ' ')}"
