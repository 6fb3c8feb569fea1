"""`kaizen plugins`: what is installed, what it does, and whether it works."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import anyio
from kaizen.config import PluginSettings, read_config
from kaizen.errors import PluginError, UnknownNameError
from kaizen.kernel import Kernel, PluginInfo
from pydantic import SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from kaizen_cli._foreign import commands_of
from kaizen_cli._front import announced, summary
from kaizen_cli._options import Options
from kaizen_cli._session import session
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._text import visible
from kaizen_cli._trust import config_file

__all__ = ["doctor", "list_all", "show"]

MASK = "********"
_SECRET_NAME = re.compile(r"(?i)(api_?key|secret|token|password|passwd|credential|dsn)")
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*(?=@)")
_STYLES = {"enabled": "green", "disabled": "dim", "failed": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a plugin, as it takes effect.

    Attributes:
        value: The value as text; a secret is masked.
        default: The default as text, or `None` if the setting must be given.
        source: Where the value comes from.
    """

    name: str
    type: str
    value: str
    default: str | None
    source: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of a plugin."""

    name: str
    version: str
    distribution: str
    status: str
    description: str
    problem: str
    remedy: str
    hooks: list[str]
    offers: list[dict[str, str]]
    commands: list[dict[str, str]]
    settings: list[Setting]


def list_all(options: Options, *, as_json: bool) -> int:
    """Print a table of the plugins; return the exit code."""
    terminal = Terminal(options)
    reports = _reports(options, terminal)
    if as_json:
        _print_json(terminal, [asdict(each) for each in reports])
        return 0
    _print_table(terminal, reports)
    failed = [each.name for each in reports if each.status == "failed"]
    if failed:
        terminal.note(f"Failed: {', '.join(failed)}. `kaizen plugins doctor` says why.")
    return 0


def show(options: Options, name: str, *, as_json: bool) -> int:
    """Print everything about one plugin; return the exit code.

    Raises:
        UnknownNameError: It is not installed.
    """
    terminal = Terminal(options)
    reports = {each.name: each for each in _reports(options, terminal)}
    if name not in reports:
        raise UnknownNameError("plugin", name, reports)
    if as_json:
        _print_json(terminal, asdict(reports[name]))
    else:
        _print_report(terminal, reports[name])
    return 0


def doctor(options: Options, *, as_json: bool) -> int:
    """Start every enabled plugin; return 1 if one of them fails."""
    terminal = Terminal(options)
    reports = [each for each in _reports(options, terminal) if each.status != "disabled"]
    failed = [each for each in reports if each.status == "failed"]
    if as_json:
        outcome = {
            "ok": not failed,
            "failed": [each.name for each in failed],
            "plugins": [asdict(each) for each in reports],
        }
        _print_json(terminal, outcome)
        return 1 if failed else 0
    for each in reports:
        good = each.status == "enabled"
        mark, style = ("ok    ", "green") if good else ("failed", "red")
        terminal.print(f"{mark}  {each.name} {each.version}".rstrip(), style=style)
        if not good:
            terminal.print(f"It {each.problem}.", indent=8)
            terminal.print(each.remedy, indent=8)
    terminal.print()
    terminal.print(_verdict(len(reports), [each.name for each in failed]), style="bold")
    return 1 if failed else 0


def _verdict(count: int, failed: list[str]) -> str:
    if failed:
        return f"{len(failed)} of {count} enabled plugins failed: {', '.join(failed)}."
    return f"All {count} enabled plugins work." if count else "No plugin is enabled."


def _reports(options: Options, terminal: Terminal) -> list[Report]:
    async def main() -> list[Report]:
        async with session(
            options, terminal, on_plugin_error="skip", quiet=not options.debug
        ) as kernel:
            file = config_file(options, terminal, quiet=True)
            tables = read_config(file).get("plugins", {}) if file else {}
            return [
                _report(info, kernel, tables.get(info.name, {}), str(file))
                for info in kernel.plugins
            ]

    return anyio.run(main)


def _report(
    info: PluginInfo, kernel: Kernel, table: Mapping[str, Any], file: str
) -> Report:
    error, commands = info.error, []
    try:
        commands = list(_commands(info, kernel))
    except PluginError as second:
        error = error or second
    document = (type(info.plugin).__doc__ or "") if info.plugin is not None else ""
    return Report(
        name=info.name,
        version=info.version,
        distribution=info.distribution,
        status="failed" if error else info.status,
        description=document.strip().partition("\n")[0],
        problem=error.problem if error else "",
        remedy=error.remedy if error else "",
        hooks=list(_hooks(info.plugin)),
        offers=[
            {"port": each.port.__name__, "name": each.name, "description": each.description}
            for each in kernel.registry.offers()
            if each.plugin == info.name
        ],
        commands=commands,
        settings=list(_settings(info, table, file)),
    )


def _commands(info: PluginInfo, kernel: Kernel) -> Iterator[dict[str, str]]:
    """Give the commands that a plugin announces by entry points or adds by its hook."""
    for point in announced():
        if point.dist is not None and point.dist.name == info.distribution:
            yield {"name": point.name, "help": summary(point)}
    for each in commands_of(kernel, info.name):
        yield {"name": each.name, "help": each.help}


def _hooks(plugin: object) -> Iterator[str]:
    """Give the names of the hooks that a plugin implements, as pluggy's mark says them."""
    if plugin is None:
        return
    for name in dir(type(plugin)):
        mark = getattr(getattr(type(plugin), name, None), "kaizen_impl", None)
        if mark is not None:
            yield mark.get("specname") or name


def _settings(info: PluginInfo, table: Mapping[str, Any], file: str) -> Iterator[Setting]:
    model = getattr(info.plugin, "Settings", None)
    if not (isinstance(model, type) and issubclass(model, PluginSettings)):
        return
    prefix = f"KAIZEN_{info.name.upper().replace('-', '_')}__"
    for name, field in model.model_fields.items():
        variable = _variable(f"{prefix}{name.upper()}")
        default = None if field.is_required() else _default(name, field)
        source, value = "default", default or ""
        if variable:
            source = f"environment ({variable})"
            value = _masked(name, field, os.environ.get(variable, "…"))
        elif name in table:
            source, given = _in_file(table[name], file)
            value = _masked(name, field, given)
        yield Setting(
            name=name,
            type=_type_of(field),
            value=value,
            default=default,
            source=source,
            description=field.description or "",
        )


def _default(name: str, field: FieldInfo) -> str:
    return _masked(name, field, field.get_default(call_default_factory=True))


def _variable(name: str) -> str:
    """Return the variable that sets a field, or one of its parts; `""` if none does."""
    for each in os.environ:
        if each.upper() == name or each.upper().startswith(f"{name}__"):
            return each
    return ""


def _in_file(value: Any, file: str) -> tuple[str, Any]:
    if isinstance(value, Mapping) and set(value) == {"env"}:
        variable = str(value["env"])
        return f"environment ({variable}, named in {file})", os.environ.get(variable, "")
    return file, value


def _type_of(field: FieldInfo) -> str:
    annotation = field.annotation
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = str(annotation) if getattr(annotation, "__args__", ()) else name
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def _masked(name: str, field: FieldInfo, value: Any) -> str:
    if value is None:
        return "none"
    secret = "Secret" in str(field.annotation) or isinstance(value, SecretStr | SecretBytes)
    if secret or _SECRET_NAME.search(name):
        return MASK if str(value) else ""
    plain = to_jsonable_python(value, fallback=str)
    text = plain if isinstance(plain, str) else str(plain)
    return _PASSWORD_IN_URL.sub(rf"\1:{MASK}", text)


def _print_json(terminal: Terminal, value: Any) -> None:
    terminal.write(f"{to_json(value)}\n")


def _print_table(terminal: Terminal, reports: list[Report]) -> None:
    rows = [
        (each.name, each.version, each.distribution, each.status, _gist(each))
        for each in reports
    ]
    _print_columns(
        terminal,
        ("Name", "Version", "Distribution", "Status", "Offers"),
        rows,
        [_STYLES[each.status] for each in reports],
    )


def _gist(report: Report) -> str:
    """Say in a few words what a plugin offers."""
    ports: dict[str, list[str]] = {}
    for each in report.offers:
        ports.setdefault(each["port"], []).append(each["name"])
    parts = [f"{port}: {', '.join(names)}" for port, names in ports.items()]
    if report.commands:
        parts.append(f"commands: {', '.join(each['name'] for each in report.commands)}")
    return "; ".join(parts)


def _print_columns(
    terminal: Terminal,
    heads: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    styles: list[str] | None = None,
) -> None:
    """Print a table; where nobody watches, one line a row, however long."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        table.add_row(*(Text(visible(cell)) for cell in row), style=style or None)
    if not terminal.out.is_terminal:
        widest = max((sum(map(len, row)) for row in rows), default=0)
        terminal.out.width = max(80, widest + 4 * len(heads) + 80)
    terminal.show(table)


def _print_report(terminal: Terminal, report: Report) -> None:
    origin = f"{report.distribution} {report.version}".strip() or "given in code"
    terminal.print(f"{report.name}  {report.status}", style="bold")
    terminal.print(f"from {origin}", style="dim", indent=2)
    if report.description:
        terminal.print(report.description, indent=2)
    if report.problem:
        terminal.print(f"It {report.problem}. {report.remedy}", style="red", indent=2)
    _print_list(terminal, "Hooks", report.hooks)
    _print_list(terminal, "Offers", [_line(each, each["port"]) for each in report.offers])
    _print_list(
        terminal, "Commands", [f"{c['name']}  {c['help']}" for c in report.commands]
    )
    if report.settings:
        terminal.print(f"\nSettings  [plugins.{report.name}]", style="bold")
        _print_columns(
            terminal,
            ("Name", "Type", "Value", "Default", "From", "Description"),
            [
                (s.name, s.type, s.value, s.default or "–", s.source, s.description)
                for s in report.settings
            ],
        )


def _line(offer: Mapping[str, str], port: str) -> str:
    told = f"  {offer['description']}" if offer["description"] else ""
    return f"{port} {offer['name']}{told}"


def _print_list(terminal: Terminal, head: str, lines: list[str]) -> None:
    if lines:
        terminal.print(f"\n{head}", style="bold")
        for each in lines:
            terminal.print(each, indent=2)
