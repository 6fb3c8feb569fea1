"""`kaizen plugins`: what is installed, what it does, and whether it works."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import anyio
from kaizen.config import Sources, read_config
from kaizen.errors import PluginError, UnknownNameError
from kaizen.kernel import Kernel, PluginInfo

from kaizen_cli._foreign import commands_of
from kaizen_cli._front import announced, summary
from kaizen_cli._options import Options
from kaizen_cli._session import session
from kaizen_cli._settings import Setting, settings_of
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._trust import config_file

__all__ = ["doctor", "list_all", "show"]

_STYLES = {"enabled": "green", "disabled": "dim", "failed": "red"}


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
            contents = read_config(file) if file else {}
            sources = Sources(
                code={}, environ=os.environ, file=contents, path=str(file or "")
            )
            return [_report(info, kernel, sources) for info in kernel.plugins]

    return anyio.run(main)


def _report(info: PluginInfo, kernel: Kernel, sources: Sources) -> Report:
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
        settings=list(settings_of(info, sources)),
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


def _print_json(terminal: Terminal, value: Any) -> None:
    terminal.write(f"{to_json(value)}\n")


def _print_table(terminal: Terminal, reports: list[Report]) -> None:
    """Print one line a plugin."""
    heads = ("Name", "Version", "Distribution", "Status", "Offers")
    rows = [
        (each.name, each.version, each.distribution, each.status, _gist(each))
        for each in reports
    ]
    terminal.table(heads, rows, styles=[_STYLES[each.status] for each in reports])


def _gist(report: Report) -> str:
    """Say in a few words what a plugin offers."""
    ports: dict[str, list[str]] = {}
    for each in report.offers:
        ports.setdefault(each["port"], []).append(each["name"])
    parts = [f"{port}: {', '.join(names)}" for port, names in ports.items()]
    if report.commands:
        parts.append(f"commands: {', '.join(each['name'] for each in report.commands)}")
    return "; ".join(parts)


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
    for each in report.settings:
        _print_setting(terminal, each)


def _print_setting(terminal: Terminal, setting: Setting) -> None:
    stated = f"{setting.name} = {setting.value or '(empty)'}"
    if setting.default is None and setting.source == "default":
        stated = f"{setting.name} must be set"
    terminal.print(stated, style="" if setting.source == "default" else "cyan", indent=2)
    about = [setting.type]
    if setting.source != "default":
        about.append(f"from {setting.source}")
        about += [] if setting.default is None else [f"default {setting.default}"]
    terminal.print(f"{'; '.join(about)}. {setting.description}", style="dim", indent=4)


def _line(offer: Mapping[str, str], port: str) -> str:
    told = f"  {offer['description']}" if offer["description"] else ""
    return f"{port} {offer['name']}{told}"


def _print_list(terminal: Terminal, head: str, lines: list[str]) -> None:
    if lines:
        terminal.print(f"\n{head}", style="bold")
        for each in lines:
            terminal.print(each, indent=2)
