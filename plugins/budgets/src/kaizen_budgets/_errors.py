"""What is raised where there is not enough left.

KaizenError
├── BudgetError
│   ├── BudgetExceededError    BUDGET_001
│   │   └── SoftLimitError     BUDGET_002
│   └── LedgerError            BUDGET_003
└── ToolRefusedError
    └── ToolUnaffordableError  BUDGET_001
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from kaizen.errors import KaizenError, ToolRefusedError

from kaizen_budgets._amounts import DIMENSIONS, SECONDS, natural, told

if TYPE_CHECKING:
    from kaizen_budgets._ledger import Account

__all__ = [
    "BudgetError",
    "BudgetExceededError",
    "LedgerError",
    "Shortage",
    "SoftLimitError",
    "ToolUnaffordableError",
]


class BudgetError(KaizenError):
    """Something about a budget that a caller may want to catch."""


class LedgerError(BudgetError):
    """A ledger cannot be read or written; nothing is spent meanwhile."""

    code = "BUDGET_003"


class Shortage(NamedTuple):
    """How an account stood when it had not enough left, in whole units.

    Attributes:
        place: Which dimension, by its place among `DIMENSIONS`.
        limit: What it may spend; for a soft limit, up to there.
    """

    place: int
    limit: int
    spent: int
    reserved: int
    wanted: int

    @property
    def left(self) -> int:
        """What is neither spent nor reserved; below 0 if the limit was passed."""
        return self.limit - self.spent - self.reserved


class BudgetExceededError(BudgetError):
    """A call could cost more than is left. Nothing was reserved, and it was not made.

    Amounts are US dollars as `Decimal`, whole numbers, or seconds, as the dimension has it.

    Attributes:
        account: Whose budget it is.
        shortage: How it stood.
    """

    code = "BUDGET_001"

    def __init__(self, account: Account, shortage: Shortage) -> None:
        place = shortage.place
        wanted = f", and the next call may cost {told(place, shortage.wanted)}"
        super().__init__(
            f"budget {account.label!r}",
            f"allows {told(place, shortage.limit)}, of which {told(place, shortage.left)} "
            f"are left{wanted if place != SECONDS else ''}",
            self._what_to_do(account),
        )
        self.args = (account, shortage)
        self.account = account
        self.shortage = shortage

    @property
    def dimension(self) -> str:
        """`usd`, `tokens`, `requests`, `tool_calls` or `seconds`."""
        return DIMENSIONS[self.shortage.place]

    @property
    def limit(self) -> Decimal | int | float:
        """What may be spent."""
        return natural(self.shortage.place, self.shortage.limit)

    @property
    def spent(self) -> Decimal | int | float:
        """What is spent."""
        return natural(self.shortage.place, self.shortage.spent)

    @property
    def left(self) -> Decimal | int | float:
        """What is neither spent nor reserved for other calls."""
        return natural(self.shortage.place, self.shortage.left)

    @property
    def wanted(self) -> Decimal | int | float:
        """What the call could cost."""
        return natural(self.shortage.place, self.shortage.wanted)

    def _what_to_do(self, account: Account) -> str:
        lasting = account.budget.window in ("run", "session", "forever")
        wait = "" if lasting else ", wait for its next window"
        return f"Raise the limit{wait}, or ask for less."


class SoftLimitError(BudgetExceededError):
    """A call could pass a soft limit, and nobody has allowed that yet."""

    code = "BUDGET_002"

    def _what_to_do(self, account: Account) -> str:
        return "Ask the user whether to go on, or raise `soft_at`."


class ToolUnaffordableError(ToolRefusedError):
    """A tool was not called because there is not enough left for it."""

    code = "BUDGET_001"
