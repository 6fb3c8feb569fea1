"""Amounts are exact, bounded, and never made of floats."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from kaizen_budgets import Account, Amounts, Budget, BudgetExceededError
from kaizen_budgets._amounts import dollars, told
from kaizen_budgets._book import State, check, parts_of
from kaizen_budgets._budget import window_at


@pytest.mark.parametrize(
    ("written", "units"),
    [
        ("1", 10**12),
        (3, 3 * 10**12),
        (Decimal("0.000000000001"), 1),
        ("0.0000000000001", 1),
        ("1e-999", 1),
        ("0.0000000000011", 2),
        ("-0", 0),
        ("1e12", 10**24),
    ],
)
def test_money_is_counted_in_whole_units_and_rounded_up(written: Any, units: int) -> None:
    assert Amounts(usd=written).units == (units, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("field", "wrong", "error"),
    [
        ("usd", 0.5, TypeError),
        ("usd", True, TypeError),
        ("usd", None, TypeError),
        ("usd", "NaN", ValueError),
        ("usd", "sNaN", ValueError),
        ("usd", "-Infinity", ValueError),
        ("usd", "-0.01", ValueError),
        ("usd", "1e13", ValueError),
        ("usd", "1e999999", ValueError),
        ("usd", "one", ValueError),
        ("usd", "1" * 65, ValueError),
        ("tokens", -1, ValueError),
        ("tokens", 1.0, TypeError),
        ("requests", True, TypeError),
        ("tool_calls", 10**16, ValueError),
        ("seconds", -1, ValueError),
        ("seconds", float("nan"), ValueError),
        ("seconds", float("inf"), ValueError),
    ],
)
def test_what_is_no_amount_is_refused(
    field: str, wrong: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Amounts(**{field: wrong})


def test_amounts_add_up_and_come_back_from_json() -> None:
    one = Amounts(usd="0.10", tokens=5, seconds=timedelta(milliseconds=1500))
    two = one + Amounts(requests=1, tool_calls=2)

    assert Amounts.from_json(two.as_json()) == two
    assert two.as_json() == {
        "usd": "0.10",
        "tokens": 5,
        "requests": 1,
        "tool_calls": 2,
        "seconds": 1.5,
    }
    assert two.beyond(one) == Amounts(requests=1, tool_calls=2)
    assert not Amounts()
    assert hash(one) == hash(Amounts(usd="0.1", tokens=5, seconds=1.5))


@pytest.mark.parametrize(
    ("place", "units", "text"),
    [
        (0, 10**12, "$1.00"),
        (0, -5 * 10**10, "-$0.05"),
        (0, 1, "$0.000000000001"),
        (1, 12_345, "12,345 tokens"),
        (3, 2, "2 tool calls"),
        (4, 1_500, "1.5 s"),
    ],
)
def test_amounts_are_told_as_people_write_them(place: int, units: int, text: str) -> None:
    assert told(place, units) == text


def test_dollars_have_two_places_or_as_many_as_it_takes() -> None:
    assert [str(dollars(each)) for each in (0, 10**13, 5 * 10**9)] == [
        "0.00",
        "10.00",
        "0.005",
    ]


@pytest.mark.parametrize(
    ("window", "starts", "ends"),
    [
        ("hour", datetime(2024, 2, 29, 23, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)),
        ("day", datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)),
        ("month", datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)),
    ],
)
def test_windows_are_those_of_utc(window: Any, starts: datetime, ends: datetime) -> None:
    now = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp()

    assert window_at(window, now) == (starts.timestamp(), ends.timestamp())
    assert window_at(window, ends.timestamp())[0] == ends.timestamp()


def test_an_error_survives_pickling() -> None:
    account = Account("key", Budget(usd="1", window="day", scope="user"), label="mine")
    with pytest.raises(BudgetExceededError) as caught:
        check([State(account)], parts_of(Amounts(usd="2").units))

    copy = pickle.loads(pickle.dumps(caught.value))

    assert str(copy) == str(caught.value)
    assert "wait for its next window" in copy.remedy
    assert (copy.limit, copy.left, copy.wanted) == (1, 1, 2)
    assert copy.account.key == "key"
