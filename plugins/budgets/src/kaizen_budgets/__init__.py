"""Keeps Kaizen agents within budgets, also when many spend at once.

A `Budget` says how much may be spent, by whom and for how long. Before a call the most that
it can cost is reserved in every account that it concerns, in a `Ledger`; after it, what it
did cost is settled. `charge` and `metered` count what is spent beside the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen_budgets._amounts import Amounts
    from kaizen_budgets._budget import Budget
    from kaizen_budgets._errors import (
        BudgetError,
        BudgetExceededError,
        LedgerError,
        SoftLimitError,
        ToolUnaffordableError,
    )
    from kaizen_budgets._ledger import (
        Account,
        Balance,
        Crossing,
        Ledger,
        Reservation,
        Settlement,
    )
    from kaizen_budgets._limits import SpendLimits
    from kaizen_budgets._memory import MemoryLedger
    from kaizen_budgets._metered import charge, metered
    from kaizen_budgets._plugin import BudgetsPlugin
    from kaizen_budgets._prices import UnknownBoundError, UnknownPriceError
    from kaizen_budgets._settings import BudgetsSettings
    from kaizen_budgets._sqlite import SqliteLedger
    from kaizen_budgets._terms import Terms

__all__ = [
    "Account",
    "Amounts",
    "Balance",
    "Budget",
    "BudgetError",
    "BudgetExceededError",
    "BudgetsPlugin",
    "BudgetsSettings",
    "Crossing",
    "Ledger",
    "LedgerError",
    "MemoryLedger",
    "Reservation",
    "Settlement",
    "SoftLimitError",
    "SpendLimits",
    "SqliteLedger",
    "Terms",
    "ToolUnaffordableError",
    "UnknownBoundError",
    "UnknownPriceError",
    "charge",
    "metered",
]

_HOMES = {
    "Account": "_ledger",
    "Amounts": "_amounts",
    "Balance": "_ledger",
    "Budget": "_budget",
    "BudgetError": "_errors",
    "BudgetExceededError": "_errors",
    "BudgetsPlugin": "_plugin",
    "BudgetsSettings": "_settings",
    "Crossing": "_ledger",
    "Ledger": "_ledger",
    "LedgerError": "_errors",
    "MemoryLedger": "_memory",
    "Reservation": "_ledger",
    "Settlement": "_ledger",
    "SoftLimitError": "_errors",
    "SpendLimits": "_limits",
    "SqliteLedger": "_sqlite",
    "Terms": "_terms",
    "ToolUnaffordableError": "_errors",
    "UnknownBoundError": "_prices",
    "UnknownPriceError": "_prices",
    "charge": "_metered",
    "metered": "_metered",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no more: a kernel needs little of it to start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
