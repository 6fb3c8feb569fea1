"""Both ledgers keep the same promises, on both event loops."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import anyio
import pytest
from kaizen_budgets import (
    Account,
    Amounts,
    Budget,
    BudgetExceededError,
    Ledger,
    LedgerError,
    MemoryLedger,
    SoftLimitError,
    SqliteLedger,
)

pytestmark = pytest.mark.anyio

Opened: TypeAlias = Callable[[], AbstractAsyncContextManager[Ledger]]
CENT = Amounts(usd="0.01")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 2, 28, 23, 59, 50, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Opened:
    @asynccontextmanager
    async def open_one() -> AsyncGenerator[Ledger]:
        if request.param == "memory":
            yield MemoryLedger(clock=clock)
        else:
            async with SqliteLedger(tmp_path / "budgets.db", clock=clock) as ledger:
                yield ledger

    return open_one


def account(key: str = "a", **budget: Any) -> Account:
    return Account(key, Budget(**({"usd": "1"} | budget)))


async def test_what_is_reserved_cannot_be_reserved_again(opened: Opened) -> None:
    async with opened() as ledger:
        mine = account(usd="0.02")
        await ledger.reserve([mine], CENT, reservation_id="1")
        await ledger.reserve([mine], CENT, reservation_id="2")

        with pytest.raises(BudgetExceededError) as caught:
            await ledger.reserve([mine], CENT, reservation_id="3")
        await ledger.release("1")
        await ledger.reserve([mine], CENT, reservation_id="4")
        balance = await ledger.balance(mine)

    assert caught.value.code == "BUDGET_001"
    assert str(caught.value) == (
        "[BUDGET_001] budget 'run-forever' allows $0.02, of which $0.00 are left, and the "
        "next call may cost $0.01. Raise the limit, or ask for less."
    )
    assert balance.reserved.usd == Decimal("0.02")
    assert balance.left_usd == 0


async def test_one_account_that_has_not_enough_refuses_for_all(opened: Opened) -> None:
    async with opened() as ledger:
        rich, poor = account("rich"), account("poor", usd="0.005", tokens=5)
        with pytest.raises(BudgetExceededError):
            await ledger.reserve([rich, poor], CENT, reservation_id="1")

        assert not (await ledger.balance(rich)).reserved
        assert not (await ledger.balance(poor)).reserved
        assert await ledger.outcome("1") == ("unknown", Amounts())


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ({"tokens": 10}, {"tokens": 11}),
        ({"requests": 0}, {"requests": 1}),
        ({"tool_calls": 2}, {"tool_calls": 3}),
        ({"seconds": 1}, {"seconds": 1.001}),
        ({"usd": "0.000000000001"}, {"usd": "0.000000000002"}),
    ],
)
async def test_every_dimension_has_its_limit(
    opened: Opened, limit: dict[str, Any], wanted: dict[str, Any]
) -> None:
    async with opened() as ledger:
        mine = Account("a", Budget(**limit))
        with pytest.raises(BudgetExceededError) as caught:
            await ledger.reserve([mine], Amounts(**wanted), reservation_id="1")

        await ledger.reserve([mine], Amounts(**limit), reservation_id="2")
    assert [caught.value.dimension] == list(limit)


async def test_a_reservation_is_settled_or_released_once(opened: Opened) -> None:
    async with opened() as ledger:
        mine = account()
        await ledger.reserve([mine], CENT, reservation_id="1")
        first = await ledger.settle("1", Amounts(usd="0.004"))
        again = await ledger.settle("1", Amounts(usd="0.009"))
        late = await ledger.release("1")

        assert not first.repeated
        assert again.repeated
        assert again.amounts == Amounts(usd="0.004")
        assert (late.outcome, late.repeated) == ("settled", True)
        assert await ledger.outcome("1") == ("settled", Amounts(usd="0.004"))
        assert (await ledger.balance(mine)).spent == Amounts(usd="0.004")


async def test_what_was_never_reserved_cannot_be_settled(opened: Opened) -> None:
    async with opened() as ledger:
        with pytest.raises(LedgerError, match="unknown"):
            await ledger.settle("nothing", CENT)
        assert (await ledger.release("nothing")).outcome == "unknown"


async def test_an_id_is_reserved_once(opened: Opened) -> None:
    async with opened() as ledger:
        await ledger.reserve([account()], CENT, reservation_id="1")
        with pytest.raises(LedgerError):
            await ledger.reserve([account()], CENT, reservation_id="1")
        assert (await ledger.balance(account())).reserved == CENT


async def test_the_truth_counts_although_it_is_more_than_was_reserved(
    opened: Opened,
) -> None:
    async with opened() as ledger:
        mine = account(usd="0.02")
        await ledger.reserve([mine], CENT, reservation_id="1")
        settled = await ledger.settle("1", Amounts(usd="0.03"))
        with pytest.raises(BudgetExceededError):
            await ledger.reserve([mine], Amounts(requests=1), reservation_id="2")

    assert [each.key for each in settled.over] == ["a"]


async def test_what_is_spent_already_is_counted_whatever_is_left(opened: Opened) -> None:
    async with opened() as ledger:
        mine = account(usd="0.001")
        await ledger.reserve([mine], CENT, reservation_id="1", spent=True)
        settled = await ledger.settle("1", CENT)

        assert settled.over
        assert (await ledger.balance(mine)).spent == CENT


async def test_each_warning_is_given_once(opened: Opened) -> None:
    async with opened() as ledger:
        mine = account(usd="0.10", warn_at=(0.5, 0.8))
        heard = []
        for number in range(10):
            await ledger.reserve([mine], CENT, reservation_id=f"{number}")
            settled = await ledger.settle(f"{number}", CENT)
            heard.append([each.share for each in settled.crossings])

    assert [place for place, each in enumerate(heard, 1) if each] == [5, 8]
    assert heard[4] + heard[7] == [0.5, 0.8]


async def test_a_soft_limit_holds_until_somebody_allows_more(opened: Opened) -> None:
    async with opened() as ledger:
        mine = account(usd="0.10", soft_at=0.5)
        await ledger.reserve([mine], Amounts(usd="0.05"), reservation_id="1")
        with pytest.raises(SoftLimitError, match=r"allows \$0\.05"):
            await ledger.reserve([mine], CENT, reservation_id="2")
        await ledger.allow(mine, "usd", 6_000)
        await ledger.reserve([mine], CENT, reservation_id="3")
        await ledger.allow(mine, "usd", 5_500)
        with pytest.raises(SoftLimitError):
            await ledger.reserve([mine], CENT, reservation_id="4")
        await ledger.allow(mine, "usd", 10_000)
        await ledger.reserve([mine], Amounts(usd="0.04"), reservation_id="5")
        with pytest.raises(BudgetExceededError) as caught:
            await ledger.reserve([mine], CENT, reservation_id="6")

    assert caught.value.code == "BUDGET_001"


async def test_a_soft_limit_that_is_set_lower_holds_from_then_on(opened: Opened) -> None:
    async with opened() as ledger:
        before, after = account(usd="0.10", soft_at=0.9), account(usd="0.10", soft_at=0.2)
        await ledger.reserve([before], Amounts(usd="0.05"), reservation_id="1")
        with pytest.raises(SoftLimitError):
            await ledger.reserve([after], CENT, reservation_id="2")


async def test_a_window_ends_by_utc_and_begins_anew(opened: Opened, clock: Clock) -> None:
    async with opened() as ledger:
        budgets = {
            str(window): account(str(window), usd="0.01", window=window)
            for window in ("hour", "day", "month", timedelta(seconds=20))
        }
        for window, mine in budgets.items():
            await ledger.reserve([mine], CENT, reservation_id=f"{window}-1")
            await ledger.settle(f"{window}-1", CENT)
        clock.now += 9.9
        for window, mine in budgets.items():
            with pytest.raises(BudgetExceededError):
                await ledger.reserve([mine], CENT, reservation_id=f"{window}-2")
        clock.now += 0.1  # midnight, the first of March
        for window, mine in budgets.items():
            await ledger.reserve([mine], CENT, reservation_id=f"{window}-3")
        balances = {each.key: each for each in await ledger.balances()}

    assert balances["day"].ends == datetime(2026, 3, 2, tzinfo=UTC).timestamp()
    assert balances["month"].ends == datetime(2026, 4, 1, tzinfo=UTC).timestamp()
    assert all(not each.spent for each in balances.values())


async def test_a_clock_that_is_set_back_opens_no_window_again_and_none_early(
    opened: Opened, clock: Clock
) -> None:
    async with opened() as ledger:
        mine = account(usd="0.01", window="hour")
        await ledger.reserve([mine], CENT, reservation_id="1")
        await ledger.settle("1", CENT)
        clock.now += 10
        await ledger.reserve([mine], CENT, reservation_id="2")
        await ledger.settle("2", CENT)
        for back in (5, 60, 3_600, 86_400):
            clock.now -= back
            with pytest.raises(BudgetExceededError):
                await ledger.reserve([mine], CENT, reservation_id=f"back-{back}")


async def test_what_was_reserved_in_a_window_is_settled_there(
    opened: Opened, clock: Clock
) -> None:
    async with opened() as ledger:
        mine = account(usd="0.01", window="day")
        await ledger.reserve([mine], CENT, reservation_id="1")
        clock.now += 20
        await ledger.reserve([mine], Amounts(usd="0.001"), reservation_id="2")
        await ledger.settle("1", CENT)
        balance = await ledger.balance(mine)

    assert balance.spent.usd == 0
    assert balance.reserved.usd == Decimal("0.001")


async def test_each_limit_warns_at_its_own_shares(opened: Opened) -> None:
    heard: list[tuple[str, float]] = []
    for number, amounts in enumerate(
        [{"tool_calls": 8}, {"usd": "0.5"}, {"usd": "0.35"}, {"usd": "0.01"}]
    ):
        async with opened() as ledger:  # a file is read anew each time
            if number == 0 or isinstance(ledger, SqliteLedger):
                known = ledger
            mine = account(tool_calls=10, warn_at=(0.5, 0.8))
            spent = Amounts(**amounts)  # type: ignore[arg-type]
            await known.reserve([mine], spent, reservation_id=f"{number}")
            settled = await known.settle(f"{number}", spent)
            heard.extend((each.dimension, each.share) for each in settled.crossings)

    assert heard == [("tool_calls", 0.5), ("tool_calls", 0.8), ("usd", 0.5), ("usd", 0.8)]


async def test_a_yes_to_one_soft_limit_leaves_the_others_as_they_are(
    opened: Opened,
) -> None:
    mine = account(usd="0.10", requests=10, soft_at=0.5)
    async with opened() as ledger:
        known = ledger
        await ledger.allow(mine, "requests", 10_000)
    async with opened() as ledger:
        if isinstance(ledger, SqliteLedger):
            known = ledger
        many, dear = Amounts(requests=9), Amounts(usd="0.06", requests=1)

        await known.reserve([mine], many, reservation_id="1")
        with pytest.raises(SoftLimitError) as caught:
            await known.reserve([mine], dear, reservation_id="2")
        balance = await known.balance(mine)

    assert caught.value.dimension == "usd"
    assert balance.soft == {"usd": 0.5, "requests": 1}


async def test_who_is_being_asked_passes_soft_limits_and_no_hard_one(
    opened: Opened,
) -> None:
    mine = account(usd="0.02", soft_at=0.5)
    async with opened() as ledger:
        for name in "12":
            await ledger.reserve([mine], CENT, reservation_id=name, beyond_soft=True)
        with pytest.raises(BudgetExceededError) as caught:
            await ledger.reserve([mine], CENT, reservation_id="3", beyond_soft=True)

    assert not isinstance(caught.value, SoftLimitError)


async def test_a_raised_limit_holds_from_the_next_call_on(opened: Opened) -> None:
    async with opened() as ledger:
        await ledger.reserve([account(usd="0.01")], CENT, reservation_id="1")
        await ledger.reserve([account(usd="0.02")], CENT, reservation_id="2")
        with pytest.raises(BudgetExceededError):
            await ledger.reserve([account(usd="0.015")], CENT, reservation_id="3")


async def test_sums_are_exact_whatever_decimal_context_is_set(opened: Opened) -> None:
    amounts = [Decimal(Random(7).randrange(1, 10**12)) / 10**12 for _ in range(50)]
    async with opened() as ledger:
        mine = account(usd=10**9)
        with localcontext() as context:
            context.prec = 3
            for number, usd in enumerate(amounts):
                await ledger.reserve([mine], Amounts(usd=usd), reservation_id=f"{number}")
                await ledger.settle(f"{number}", Amounts(usd=usd))
        assert (await ledger.balance(mine)).spent.usd == sum(amounts)


async def test_who_waits_hears_when_something_is_given_back(opened: Opened) -> None:
    async with opened() as ledger:
        mine = account(usd="0.01")
        await ledger.reserve([mine], CENT, reservation_id="1")
        got: list[str] = []

        async def wait() -> None:
            while True:
                try:
                    await ledger.reserve([mine], CENT, reservation_id="2")
                except BudgetExceededError:
                    await ledger.changed(10)
                else:
                    got.append("2")
                    return

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await ledger.release("1")
        assert got == ["2"]


@pytest.mark.parametrize("seed", range(20))
async def test_no_schedule_of_calls_passes_a_limit(opened: Opened, seed: int) -> None:
    random = Random(seed)
    accounts = [
        account(f"{place}", usd=Decimal(random.randint(1, 20)) / 100) for place in range(4)
    ]
    limits = {each.key: each.budget.usd for each in accounts}
    async with opened() as ledger:
        held: list[tuple[str, int]] = []
        for number in range(60):
            if held and random.random() < 0.5:
                which, most = held.pop(random.randrange(len(held)))
                if random.random() < 0.2:
                    await ledger.release(which)
                else:
                    cost = Decimal(random.randint(0, most)) / 1_000
                    await ledger.settle(which, Amounts(usd=cost))
                continue
            where = random.sample(accounts, random.randint(1, 4))
            most = random.randint(0, 40)
            amounts = Amounts(usd=Decimal(most) / 1_000)
            try:
                await ledger.reserve(where, amounts, reservation_id=f"{number}")
            except BudgetExceededError:
                continue
            held.append((f"{number}", most))
        for which, most in held:
            await ledger.settle(which, Amounts(usd=Decimal(most) / 1_000))
        for each in await ledger.balances():
            assert each.spent.usd <= (limits[each.key] or 0)
            assert not each.reserved
