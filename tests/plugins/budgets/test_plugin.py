"""The plugin, its settings and its command."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kaizen import Kernel, PluginError
from kaizen_budgets import (
    Account,
    Amounts,
    Budget,
    BudgetsPlugin,
    BudgetsSettings,
    Ledger,
    LedgerError,
    SpendLimits,
    SqliteLedger,
)
from kaizen_budgets._command import budget
from pydantic import ValidationError

from .conftest import PricedModel, Running, answering

pytestmark = pytest.mark.anyio


def plain_kernel(**settings: Any) -> Kernel:
    return Kernel(
        plugins=[BudgetsPlugin],
        discover=False,
        settings={"budgets": settings},
        config_file=False,
        environ={},
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"usd": 0.5},
        {"usd": "NaN"},
        {"usd": "-1"},
        {"usd": "1e13"},
        {"usd": True},
        {"tokens": -1},
        {"tokens": 1.5},
        {"requests": True},
        {"seconds": float("inf")},
        {"usd": "1", "window": "week-or-so"},
        {"usd": "1", "window": timedelta(0)},
        {"usd": "1", "scope": "everybody"},
        {"usd": "1", "warn_at": (1.5,)},
        {"usd": "1", "soft_at": 0},
        {"usd": "1", "name": "a|b"},
        {"usd": "1", "limit": 3},
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Budget(**wrong)


def test_a_float_for_money_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(ValidationError, match=r'usd = "0\.50"'):
        Budget(usd=0.5)  # type: ignore[arg-type]


def test_settings_name_budgets() -> None:
    settings = BudgetsSettings.model_validate(
        {
            "limits": {
                "run": {"usd": "0.50"},
                "daily": {"usd": 20, "scope": "user", "window": "day"},
                "slow": {"requests": 60, "scope": "kernel", "window": "PT1M"},
            },
            "tool_costs": {"search": "0.01"},
        }
    )

    assert [each.label for each in settings.budgets] == ["run", "daily", "slow"]
    assert settings.budgets[1].usd == Decimal(20)
    assert settings.budgets[2].window == timedelta(minutes=1)
    assert settings.tool_costs == {"search": Decimal("0.01")}


def test_two_budgets_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="run-forever"):
        SpendLimits(Budget(usd="1"), Budget(tokens=5))


async def test_settings_that_make_no_sense_are_refused_before_anything_runs() -> None:
    with pytest.raises(PluginError, match=r"limits\.run\.usd"):
        async with plain_kernel(limits={"run": {"usd": 0.1}}):
            pass


async def test_an_unknown_ledger_is_named_with_those_that_there_are(
    running: Running, priced: PricedModel
) -> None:
    priced.say("yes")
    async with running(limits={"run": {"usd": "1"}}, ledger="redis") as kernel:
        with pytest.raises(Exception, match=r"'redis'.*memory, sqlite"):
            await answering(kernel).run(question="?")


async def test_kernels_share_a_file(
    running: Running, priced: PricedModel, tmp_path: Path
) -> None:
    priced.say("yes", "yes")
    file = {"ledger": "sqlite", "path": str(tmp_path / "deep" / "budgets.db")}
    limits = {"all": {"requests": 5, "scope": "kernel"}}
    for spent in (1, 2):
        async with running(limits=limits, **file) as kernel:
            await answering(kernel).run(question="?")
            ledger: Ledger = await kernel.get(Ledger, "sqlite")  # type: ignore[type-abstract]
            (balance,) = await ledger.balances()
            assert balance.spent.requests == spent

    assert (tmp_path / "deep" / "budgets.db").stat().st_mode & 0o077 == 0
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["budgets.db"]


async def test_show_tells_what_is_spent_reserved_and_left(
    running: Running,
    priced: PricedModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    priced.say("yes")
    file = {"ledger": "sqlite", "path": str(tmp_path / "budgets.db")}
    limits = {"daily": {"usd": "0.5", "requests": 9, "scope": "user", "window": "day"}}
    async with running(limits=limits, **file) as kernel:
        assert await budget(kernel, ["show"]) == 0
        assert "No account yet" in capsys.readouterr().out
        mine = answering(kernel).bind(metadata={"user_id": "me\x1b[2J"})
        await mine.run(question="?")
        assert await budget(kernel, ["show"]) == 0
        heading, money, requests = capsys.readouterr().out.splitlines()
        assert await budget(kernel, ["show", "--json"]) == 0
        (account,) = json.loads(capsys.readouterr().out)["accounts"]

    assert heading.split() == [
        "account",
        "limit",
        "spent",
        "reserved",
        "left",
        "until",
        "(UTC)",
    ]
    assert money.startswith("daily of user me�[2J  $0.50       $0.002  ")
    assert "$0.498" in money
    assert requests.split("  ")[1:2] == ["9 requests"]
    assert account["limits"]["usd"] == {
        "limit": "0.50",
        "spent": "0.002",
        "reserved": "0.00",
        "left": "0.498",
    }
    assert account["limits"]["requests"]["left"] == 8
    assert account["ends"] - account["starts"] == 86_400


async def test_show_says_that_memory_is_forgotten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with plain_kernel() as kernel:
        assert await budget(kernel, ["show"]) == 0
    assert 'ledger = "sqlite"' in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [[], ["spend"], ["show", "--yaml"]])
async def test_a_command_that_is_none_says_how_it_is_used(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    async with plain_kernel() as kernel:
        assert await budget(kernel, wrong) == 2
    assert "usage: kaizen budget" in capsys.readouterr().err


async def test_a_file_of_another_program_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(LedgerError, match="another program"):
        async with SqliteLedger(path):
            pass

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "remedy"), [(1, "another `path`"), (99, "Update Kaizen")]
)
async def test_a_file_of_another_version_is_left_as_it_is(
    tmp_path: Path, version: int, remedy: str
) -> None:
    import sqlite3

    path = tmp_path / "budgets.db"
    async with SqliteLedger(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()

    with pytest.raises(LedgerError, match=f"has version {version}, .*{remedy}"):
        async with SqliteLedger(path):
            pass


async def test_a_ledger_that_is_closed_or_cannot_be_opened_lets_nobody_spend(
    tmp_path: Path,
) -> None:
    mine = Account("a", Budget(usd="1"))
    async with SqliteLedger(tmp_path / "budgets.db") as ledger:
        pass
    with pytest.raises(LedgerError, match="is closed"):
        await ledger.reserve([mine], Amounts(usd=1), reservation_id="1")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LedgerError, match="cannot be used"):
        async with SqliteLedger(tmp_path / "file" / "budgets.db"):
            pass


async def test_damage_in_the_file_is_refused_and_spends_nothing(tmp_path: Path) -> None:
    import sqlite3

    path, mine = tmp_path / "budgets.db", Account("a", Budget(usd="1"))
    async with SqliteLedger(path) as ledger:
        await ledger.reserve([mine], Amounts(usd="0.1"), reservation_id="1")
    for damage in ("spent = '1 2 x'", "spent = '1 2'", "budget = '{}'"):
        connection = sqlite3.connect(path)
        connection.execute(f"UPDATE account SET {damage}")
        connection.commit()
        connection.close()
        async with SqliteLedger(path) as ledger:
            with pytest.raises(LedgerError):
                await ledger.reserve([mine], Amounts(usd="0.1"), reservation_id="2")


def test_the_plugin_is_imported_without_its_heavy_parts() -> None:
    code = (
        "import sys, kaizen_budgets; kaizen_budgets.BudgetsPlugin;"
        "heavy = {'sqlite3', 'argparse', 'asyncio'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) if heavy - {'asyncio', 'argparse'} else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
