"""`kaizen state`: what there is to do about logs of earlier releases."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kaizen import CheckpointError

if TYPE_CHECKING:
    from argparse import Namespace

    from kaizen import Kernel

    from kaizen_state._check import Change

__all__ = ["state"]

BROKEN, MISUSED = 1, 2


def state(_kernel: Kernel, arguments: Sequence[str]) -> int:
    """Carry out `kaizen state`; return 0, or 1 if old logs do not load any more."""
    try:
        options = _options(arguments)
    except SystemExit as end:  # it was shown how the command is used
        return end.code if isinstance(end.code, int) else MISUSED
    try:
        return _write(force=options.force) if options.write else _check()
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return BROKEN


def _options(arguments: Sequence[str]) -> Namespace:
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="kaizen state", description="Look after stored runs.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser(
        "check",
        help="whether this release loads what earlier ones stored",
        description="Compare the types of entries with those of every release.",
    )
    check.add_argument(
        "--write", action="store_true", help="leave behind what this release can load"
    )
    check.add_argument(
        "--force", action="store_true", help="with --write, also if that is there already"
    )
    options = parser.parse_args(list(arguments))
    if options.force and not options.write:
        check.error("--force says how to --write; alone it does nothing")
    return options


def _check() -> int:
    from kaizen.runlog import entry_types

    from kaizen_state._check import changes, goldens

    types = entry_types()
    before = goldens()
    found = [
        each for release, old in before.items() for each in changes(release, old, types)
    ]
    sys.stdout.write(_table(found))
    broken = sum(each.breaks for each in found)
    if broken:
        sys.stdout.write(
            f"{broken} of these break logs that are stored. Raise the version of the type, "
            "and add a migration from each version before it.\n"
        )
        return BROKEN
    sys.stdout.write(f"{len(types)} types of entries load from {', '.join(before)} on.\n")
    return 0


def _table(found: Sequence[Change]) -> str:
    rows = [
        (each.release, each.type, "breaks" if each.breaks else "fits", each.what)
        for each in found
    ]
    if not rows:
        return ""
    rows.insert(0, ("since", "type", "", "what became of it"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        "  ".join(
            [*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]
        )
        for row in rows
    )
    return "\n".join(lines) + "\n\n"


def _write(*, force: bool) -> int:
    from kaizen.runlog import entry_types

    from kaizen_state._check import write_golden

    path = write_golden(entry_types(), force=force)
    sys.stdout.write(f"{path.name} is written.\n")
    return 0
