"""`kaizen budget`: how the accounts stand."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import Namespace

    from kaizen import Kernel

    from kaizen_budgets._ledger import Balance

__all__ = ["budget"]

FAILED, MISUSED = 1, 2
HEADINGS = ("account", "limit", "spent", "reserved", "left", "until (UTC)")


async def budget(kernel: Kernel, arguments: Sequence[str]) -> int:
    """Carry out `kaizen budget`; return 0, or 1 if the ledger cannot be read."""
    from kaizen_budgets._errors import LedgerError
    from kaizen_budgets._limits import SpendLimits

    try:
        options = _options(arguments)
    except SystemExit as end:  # it was shown how the command is used
        return end.code if isinstance(end.code, int) else MISUSED
    limits = await kernel.get(SpendLimits, "default")
    ledger = await limits.ledger()
    try:
        balances = await ledger.balances()
    except LedgerError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    if options.json:
        sys.stdout.write(_json(balances))
    elif balances:
        sys.stdout.write(_table(balances))
    else:
        sys.stdout.write(_nothing(kept=ledger.leases))
    return 0


def _options(arguments: Sequence[str]) -> Namespace:
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="kaizen budget", description="Look at budgets.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    show = commands.add_parser(
        "show",
        help="what is spent, reserved and left",
        description="Show every account whose window has not ended.",
    )
    show.add_argument("--json", action="store_true", help="as JSON, for programs")
    return parser.parse_args(list(arguments))


def _nothing(*, kept: bool) -> str:
    if kept:
        return "No account yet: nothing was spent, or no budget is set.\n"
    return (
        "No account here: each process counts by itself, in memory. "
        'Set `ledger = "sqlite"` in `[plugins.budgets]` to have one ledger.\n'
    )


def _limits(balance: Balance) -> Iterator[tuple[int, str, int]]:
    """Yield place, name and limit of what an account limits."""
    from kaizen_budgets._amounts import DIMENSIONS, UNLIMITED

    for place, name in enumerate(DIMENSIONS):
        if balance.limits[place] < UNLIMITED:
            yield place, name, balance.limits[place]


def _json(balances: Sequence[Balance]) -> str:
    import json

    from kaizen_budgets._amounts import natural

    def written(place: int, units: int | None) -> Any:
        value = natural(place, units or 0)
        return value if isinstance(value, int | float) else f"{value:f}"

    accounts = [
        {
            "account": each.label,
            "key": each.key,
            "starts": each.starts or None,
            "ends": each.ends,
            "limits": {
                name: {
                    "limit": written(place, limit),
                    "spent": written(place, each.spent.units[place]),
                    "reserved": written(place, each.reserved.units[place]),
                    "left": written(place, each.left(name)),
                }
                for place, name, limit in _limits(each)
            },
        }
        for each in balances
    ]
    return json.dumps({"accounts": accounts}, indent=2) + "\n"


def _table(balances: Sequence[Balance]) -> str:
    from kaizen_budgets._amounts import told

    rows: list[tuple[str, ...]] = [HEADINGS]
    for each in balances:
        ends = (
            "" if each.ends is None else f"{datetime.fromtimestamp(each.ends, UTC):%F %R}"
        )
        for place, name, limit in _limits(each):
            amounts = (
                limit,
                each.spent.units[place],
                each.reserved.units[place],
                each.left(name) or 0,
            )
            cells = (told(place, units) for units in amounts)
            rows.append((_shown(each.label), *cells, ends))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _shown(text: str) -> str:
    """Return a name that does nothing to a terminal: ids come from outside."""
    return "".join(each if each.isprintable() else "�" for each in text)
