"""`kaizen policy`: which rule decides, and what other rules would have decided."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from kaizen.errors import ConfigurationError, KaizenError
from kaizen.ports import CheckpointStore, Tool

from kaizen_permissions._types import Who

if TYPE_CHECKING:
    from argparse import Namespace

    from kaizen import Kernel, ToolSpec

    from kaizen_permissions._plugin import PermissionsPlugin
    from kaizen_permissions._policy import Policy
    from kaizen_permissions._replay import Flip

__all__ = ["policy"]

DIFFERENT, MISUSED = 1, 2
MAX_SHOWN_CHARS = 100
_DEFAULT_STORE = "sqlite"
"""Where the command line keeps runs if nobody says anything."""


async def policy(kernel: Kernel, arguments: Sequence[str]) -> int:
    """Carry out `kaizen policy`; return 0, or 1 if decisions would flip."""
    try:
        options = _options(arguments)
    except SystemExit as end:  # it was shown how the command is used
        return end.code if isinstance(end.code, int) else MISUSED
    try:
        code: int = await options.carry_out(kernel, options)
    except (KaizenError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return MISUSED
    return code


def _options(arguments: Sequence[str]) -> Namespace:
    from argparse import ArgumentParser

    parser = ArgumentParser(
        prog="kaizen policy", description="See what tool calls are allowed, and why."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    show = commands.add_parser("show", help="list the rules that hold")
    show.set_defaults(carry_out=_show)
    explain = commands.add_parser("explain", help="say which rule decides about a call")
    explain.add_argument("tool", metavar="TOOL", help="the tool's name")
    explain.add_argument(
        "arguments",
        metavar="ARGS",
        nargs="?",
        help='its arguments as JSON, such as \'{"path": "notes.md"}\'',
    )
    explain.set_defaults(carry_out=_explain)
    explain.add_argument(
        "--as", dest="principal", default="", help="on whose behalf the call is made"
    )
    explain.add_argument("--tenant", default="", help="whose the run's work is")
    diff = commands.add_parser(
        "diff",
        help="list what other rules would have decided otherwise",
        description="Decide the calls of past runs by other rules. Exit code 1: some flip.",
    )
    diff.add_argument(
        "new", metavar="NEW.toml", type=Path, help="a policy, or another kaizen.toml"
    )
    diff.add_argument(
        "--limit", type=_count, default=1_000, help="most runs, the latest first (1000)"
    )
    diff.add_argument("--store", default="", help="the store that keeps the runs")
    diff.add_argument("--json", action="store_true", help="one JSON value a line")
    diff.set_defaults(carry_out=_diff)
    return parser.parse_args(list(arguments))


async def _show(kernel: Kernel, _options: Namespace) -> int:
    from kaizen_permissions._plugin import found_in

    policy = found_in(kernel).policy
    rules = sorted(
        policy.rules, key=lambda each: (-each.priority, -each.permission_type.strictness)
    )
    rows = [
        (str(each.priority), each.permission_type.value, each.about, each.reason)
        for each in rules
    ]
    _write_table([("priority", "", "rule", "reason"), *rows])
    sys.stdout.write(f"mode: {policy.mode.value}\n")
    for strong, weak in policy.contradictions:
        sys.stdout.write(
            f"{_shown(str(weak))} never has an effect beside {_shown(str(strong))}\n"
        )
    return 0


async def _explain(kernel: Kernel, options: Namespace) -> int:
    from kaizen_permissions._plugin import found_in

    policy = found_in(kernel).policy
    given = None if options.arguments is None else _mapping(options.arguments)
    spec = await _spec(kernel, options.tool)
    if given is not None and spec is not None:
        tool = await kernel.get(Tool, options.tool)  # type: ignore[type-abstract]
        given = tool.validate(given)
    who = Who(options.principal, options.tenant)
    decided = await anyio.to_thread.run_sync(
        lambda: policy.decide(options.tool, given, spec=spec, who=who)
    )
    danger = "unknown: no plugin offers it" if spec is None else spec.effect.danger.name
    rows = [
        ("decision", decided.type.value),
        ("because", decided.reason),
        ("rule", "none" if decided.rule is None else str(decided.rule)),
        ("priority", "" if decided.rule is None else str(decided.rule.priority)),
        ("mode", policy.mode.value),
        ("danger", danger.lower()),
    ]
    _write_table([row for row in rows if row[1]])
    return 0


async def _diff(kernel: Kernel, options: Namespace) -> int:
    from kaizen_permissions._plugin import found_in
    from kaizen_permissions._replay import flips, past_calls

    name = options.store or _store_name(kernel)
    if not name:
        raise ConfigurationError(
            "`kaizen policy diff`",
            "knows no past runs, since none are kept",
            "Set `checkpoint_store` under [kaizen], or name one with --store.",
        )
    changed = await anyio.to_thread.run_sync(_changed, found_in(kernel), options.new)
    store = await kernel.get(CheckpointStore, name)  # type: ignore[type-abstract]
    calls, damaged = await past_calls(store, limit=options.limit)
    found, unknown = await anyio.to_thread.run_sync(flips, calls, changed)
    for run_id in damaged:
        sys.stderr.write(f"run {_shown(run_id)} is damaged and left out\n")
    if options.json:
        for each in found:
            sys.stdout.write(json.dumps(_as_json(each)) + "\n")
        return DIFFERENT if found else 0
    _write_flips(found)
    left = f"; {unknown} others are not known well enough to say" if unknown else ""
    sys.stdout.write(
        f"{len(found)} of {len(calls) - unknown} decisions would flip{left}.\n"
    )
    return DIFFERENT if found else 0


def _count(text: str) -> int:
    """Return a number of runs.

    Raises:
        ArgumentTypeError: It is none.
    """
    from argparse import ArgumentTypeError

    if not (text.isascii() and text.isdigit() and int(text[:10]) > 0):
        raise ArgumentTypeError(f"{text[:20]!r} is no number of runs")
    return int(text[:10])


def _store_name(kernel: Kernel) -> str:
    name = kernel.config.checkpoint_store
    if name is None and kernel.registry.offered(CheckpointStore, _DEFAULT_STORE):
        return _DEFAULT_STORE
    return name or ""


def _changed(plugin: PermissionsPlugin, path: Path) -> Policy:
    """Return the policy that a file would make: one of rules, or a whole `kaizen.toml`."""
    from kaizen.config import explain, read_config
    from pydantic import ValidationError

    from kaizen_permissions._policy_file import read_policy
    from kaizen_permissions._settings import PermissionsSettings

    tables: Mapping[str, Any] = read_config(path)
    plugins = tables.get("plugins")
    if plugins is None and "kaizen" not in tables:
        return plugin.policy_of(plugin.settings, read_policy(path))
    table = plugins.get("permissions", {}) if isinstance(plugins, Mapping) else {}
    try:
        return plugin.policy_of(PermissionsSettings.model_validate(table))
    except ValidationError as error:
        problem = explain(error, known=tuple(PermissionsSettings.model_fields))
    raise ConfigurationError(f"the settings in {str(path)!r}", problem)


async def _spec(kernel: Kernel, tool: str) -> ToolSpec | None:
    if kernel.registry.offered(Tool, tool) is None:
        return None
    found = await kernel.get(Tool, tool)  # type: ignore[type-abstract]
    return found.spec


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"the arguments {text[:200]!r}",
            "are no JSON object",
            'Write them as in \'{"path": "notes.md"}\'.',
        )
    return value


def _write_flips(found: Sequence[Flip]) -> None:
    rows = [
        (
            each.call.decision,
            each.now.type.value,
            each.call.tool,
            json.dumps(each.call.arguments, default=str),
            f"{each.call.run_id}:{each.call.call_id}",
            each.now.reason,
        )
        for each in found
    ]
    if rows:
        _write_table([("was", "would be", "tool", "arguments", "call", "because"), *rows])


def _as_json(flip: Flip) -> dict[str, Any]:
    call = flip.call
    return {
        "run_id": call.run_id,
        "call_id": call.call_id,
        "tool": call.tool,
        "arguments": call.arguments,
        "was": call.decision,
        "would_be": flip.now.type.value,
        "rule": None if flip.now.rule is None else str(flip.now.rule),
        "reason": flip.now.reason,
    }


def _write_table(rows: Sequence[Sequence[str]]) -> None:
    """Write rows in columns; the last column is as long as it is."""
    shown = [[_shown(cell) for cell in row] for row in rows]
    last = len(shown[0]) - 1
    widths = [max(len(row[column]) for row in shown) for column in range(last)]
    for row in shown:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[last]]).rstrip() + "\n")


def _shown(text: str) -> str:
    """Return a text without what a terminal would obey, and not too much of it."""
    plain = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return plain if len(plain) <= MAX_SHOWN_CHARS else f"{plain[:MAX_SHOWN_CHARS]}…"
