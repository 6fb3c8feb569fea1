"""What a user may set."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from kaizen_budgets._budget import Budget
from kaizen_budgets._terms import Terms

__all__ = ["BudgetsSettings"]


class BudgetsSettings(Terms):
    """What a user may write under `[plugins.budgets]`."""

    limits: dict[str, Budget] = Field(
        default_factory=dict, description="Budgets by name; see `Budget` for their fields."
    )
    ledger: str = Field(
        default="memory",
        min_length=1,
        max_length=64,
        description="Where it is counted: `memory`, `sqlite` for many processes, or a "
        "`Ledger` of another plugin.",
    )
    path: Path = Field(
        default=Path(".kaizen/budgets.db"), description="With `sqlite`: which file."
    )
    timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="With `sqlite`: how long to wait for other processes, in seconds.",
    )

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets, each with its name."""
        return tuple(
            budget.model_copy(update={"name": budget.name or name})
            for name, budget in self.limits.items()
        )
