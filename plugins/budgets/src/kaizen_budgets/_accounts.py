"""Which accounts a run spends from: its own, and those of everybody around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from kaizen_budgets._budget import Budget, Scope
from kaizen_budgets._ledger import Account

if TYPE_CHECKING:
    from kaizen.run import Run

__all__ = ["account_of", "accounts_of", "around"]

MAX_NAME = 200


def accounts_of(run: Run, budgets: Sequence[Budget]) -> tuple[Account, ...]:
    """Return the accounts that a run spends from, each once.

    A run inside a run spends on its behalf too: from its run's, session's, agent's, user's
    and tenant's accounts as well as from its own. So it can spend no more than any of them
    has left.
    """
    found: dict[str, Account] = {}
    for each in (run, *around(run)):
        for budget in budgets:
            account = account_of(each, budget)
            found.setdefault(account.key, account)
    return tuple(found.values())


def account_of(run: Run, budget: Budget) -> Account:
    """Return the account of a budget from which a run itself spends."""
    who = _WHO[budget.scope](run)
    window = budget.window_name
    part = {"run": run.id, "session": _session(run)}.get(window, "")
    key = json.dumps([budget.label, budget.scope, _short(who), window, _short(part)])
    if budget.scope == "kernel":
        label = budget.label
    else:
        label = f"{budget.label} of {budget.scope} {who[:64]}"
    return Account(key, budget, label=label)


def around(run: Run) -> Iterator[Run]:
    """Yield the runs around a run, innermost first."""
    each = run.parent
    while each is not None:
        yield each
        each = each.parent


def _short(text: str) -> str:
    """Return a name that identifies as well, and fits."""
    if len(text) <= MAX_NAME:
        return text
    return f"sha256:{sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def _named(run: Run, *names: str) -> str:
    """Return what a run says of itself, or the one around it that says something."""
    for each in (run, *around(run)):
        for name in names:
            value = each.metadata.get(name)
            if value not in (None, ""):
                return str(value)
    return ""


def _session(run: Run) -> str:
    return run.session_id or run.trace_id


_WHO: Mapping[Scope, Callable[[Run], str]] = {
    "run": lambda run: run.id,
    "session": _session,
    "agent": lambda run: run.agent_id,
    "user": lambda run: _named(run, "user_id", "principal"),
    "tenant": lambda run: _named(run, "tenant_id"),
    "kernel": lambda _run: "",
}
