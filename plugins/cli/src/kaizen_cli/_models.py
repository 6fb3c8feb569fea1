"""`kaizen models` and `kaizen doctor`: what can be asked here, and what is in order."""

from __future__ import annotations

import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from inspect import isawaitable
from typing import Literal, TypeAlias

import anyio
from kaizen.errors import KaizenError, UnknownNameError
from kaizen.kernel import Kernel
from kaizen.messages import ModelProfile
from kaizen.ports import CheckpointStore, Provider
from kaizen.registry import Offer

from kaizen_cli._options import Options
from kaizen_cli._session import session
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._text import shortened

__all__ = ["Check", "doctor", "models"]

LOOK_S = 5.0
MAX_MODELS = 10_000
State: TypeAlias = Literal["ok", "off", "failed"]
_STYLES = {"ok": "green", "off": "dim", "failed": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found out about one thing.

    Attributes:
        state: `ok`; `off` for what is not there and need not be; or `failed`.
        detail: More about it, or what to do.
    """

    name: str
    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What is known of one provider.

    Attributes:
        available: Whether it can be used right now; `None` if it does not say.
        models: Those that it names; the default one if it names none.
        problem: Why it named none, or `""`.
    """

    name: str
    plugin: str
    available: bool | None
    models: Sequence[ModelProfile]
    problem: str = ""


def models(options: Options, provider: str | None, *, as_json: bool) -> int:
    """Print the models of one provider, or of those that can be used; return the code.

    Raises:
        UnknownNameError: Nobody offers the provider.
    """
    terminal = Terminal(options)

    async def main() -> list[Listed]:
        async with _quiet_session(options, terminal) as kernel:
            return await _listed(kernel, provider)

    found = anyio.run(main)
    if as_json:
        terminal.write(f"{to_json([_plain(each) for each in found])}\n")
        return 0
    _print_models(terminal, found)
    for each in found:
        if each.problem:
            terminal.note(f"{each.name}: {each.problem}", style="yellow")
    return 0


def doctor(options: Options, *, as_json: bool) -> int:
    """Print what is in order here and what is not; return 1 if something failed."""
    terminal = Terminal(options)

    async def main() -> list[Check]:
        async with _quiet_session(options, terminal) as kernel:
            checks = [_python()]
            checks += _plugins(kernel)
            checks += await _providers(kernel)
            checks.append(await _store(kernel))
            return checks

    checks = anyio.run(main)
    failed = [each.name for each in checks if each.state == "failed"]
    if as_json:
        outcome = {"ok": not failed, "checks": [asdict(each) for each in checks]}
        terminal.write(f"{to_json(outcome)}\n")
        return 1 if failed else 0
    width = max(len(each.name) for each in checks)
    for each in checks:
        line = f"{each.state:6}  {each.name:{width}}  {each.detail}".rstrip()
        terminal.print(line, style=_STYLES[each.state])
    terminal.print()
    told = f"Not in order: {', '.join(failed)}." if failed else "All is in order."
    terminal.print(told, style="bold")
    return 1 if failed else 0


@asynccontextmanager
async def _quiet_session(options: Options, terminal: Terminal) -> AsyncIterator[Kernel]:
    async with session(
        options, terminal, on_plugin_error="skip", quiet=not options.debug, keep="default"
    ) as kernel:
        yield kernel


async def _listed(kernel: Kernel, name: str | None) -> list[Listed]:
    """Return what is known of one provider, or of all that may be there."""
    offers = kernel.registry.offers(Provider)
    if name is not None:
        offers = tuple(each for each in offers if each.name == name)
        if not offers:
            raise UnknownNameError(
                "provider",
                name,
                kernel.registry.names(Provider),
                kernel.registry.remedy(Provider, name),
            )
    found: dict[str, Listed] = {}

    async def look(offer: Offer) -> None:
        available = await _is_available(offer)
        if name is not None or available is not False:
            found[offer.name] = await _of(kernel, offer, available)

    async with anyio.create_task_group() as tasks:
        for offer in offers:
            tasks.start_soon(look, offer)
    return [found[each] for each in sorted(found)]


async def _of(kernel: Kernel, offer: Offer, available: bool | None) -> Listed:
    """Ask a provider for its models; what goes wrong is told, not raised."""
    problem = "took too long to name its models"
    named: Sequence[ModelProfile] = ()
    try:
        provider = await kernel.get(Provider, offer.name)  # type: ignore[type-abstract]
        named = [provider.describe("")]
        with anyio.move_on_after(LOOK_S):
            named = list(await provider.models())[:MAX_MODELS] or named
            problem = ""
    except Exception as error:  # noqa: BLE001 - the others are of interest as well
        problem = shortened(str(error) or type(error).__name__, 300)
    return Listed(
        name=offer.name,
        plugin=offer.plugin,
        available=available,
        models=sorted(named, key=lambda each: each.name),
        problem=problem,
    )


async def _is_available(offer: Offer) -> bool | None:
    """Say whether a provider can be used right now; `None` if it does not say."""
    if offer.available is None:
        return None
    with anyio.move_on_after(LOOK_S):
        try:
            said: bool | Awaitable[bool] = offer.available()
            return bool(await said if isawaitable(said) else said)
        except Exception:  # noqa: BLE001 - what cannot say it is there is not
            return False
    return False


def _print_models(terminal: Terminal, found: Sequence[Listed]) -> None:
    heads = ("Provider", "Model", "Context", "Tools", "Reads", "$ in", "$ out")
    rows = [
        (
            each.name,
            model.name or "(default)",
            _count(model.context_window),
            "yes" if model.tools else "no",
            ", ".join(["text", *sorted(model.media)]),
            _price(model.input_usd_per_million),
            _price(model.output_usd_per_million),
        )
        for each in found
        for model in each.models
    ]
    if not rows:
        terminal.note("No provider can be used: no key is set, and no local server runs.")
        return
    terminal.table(heads, rows, styles=[""] * len(rows))
    terminal.note("Prices are in US dollars for a million tokens; ? is unknown.")


def _plain(each: Listed) -> dict[str, object]:
    return {
        "provider": each.name,
        "plugin": each.plugin,
        "available": each.available,
        "problem": each.problem,
        "models": [
            {
                "name": model.name,
                "context_window": model.context_window,
                "max_output_tokens": model.max_output_tokens,
                "tools": model.tools,
                "structured_output": model.structured_output,
                "media": sorted(model.media),
                "input_usd_per_million": _price(model.input_usd_per_million),
                "output_usd_per_million": _price(model.output_usd_per_million),
            }
            for model in each.models
        ],
    }


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else f"{tokens:,}"


def _price(usd: Decimal | None) -> str:
    return "?" if usd is None else f"{usd.normalize():f}"


def _python() -> Check:
    version = platform.python_version()
    return Check(
        name="python",
        state="ok" if sys.version_info >= (3, 11) else "failed",
        detail=f"{version} on {platform.system()} {platform.machine()}",
    )


def _plugins(kernel: Kernel) -> list[Check]:
    failed = [
        Check(
            name=f"plugin {info.name}",
            state="failed",
            detail=f"it {info.error.problem}. {info.error.remedy}",
        )
        for info in kernel.plugins
        if info.error is not None
    ]
    enabled = [info.name for info in kernel.plugins if info.status == "enabled"]
    return [Check(name="plugins", state="ok", detail=", ".join(enabled)), *failed]


async def _providers(kernel: Kernel) -> list[Check]:
    """Say of each provider whether it can be used, and which one agents get by default."""
    chosen = kernel.config.default_provider or ""
    checks: dict[str, Check] = {}

    async def look(offer: Offer) -> None:
        available = await _is_available(offer)
        state: State = "off" if available is False else "ok"
        detail = {None: "", True: "can be used", False: "no key, or no server"}[available]
        checks[offer.name] = Check(
            name=f"provider {offer.name}",
            state=state,
            detail=" ".join(filter(None, (detail, f"({offer.plugin})"))),
        )

    async with anyio.create_task_group() as tasks:
        for offer in kernel.registry.offers(Provider):
            tasks.start_soon(look, offer)
    by_default = chosen or await kernel.available(Provider) or "offline"
    known = by_default.partition("/")[0] in kernel.registry.names(Provider)
    default = Check(
        name="default provider",
        state="ok" if known else "failed",
        detail=by_default if known else f"{by_default}, which nobody offers",
    )
    return [*(checks[each] for each in sorted(checks)), default]


async def _store(kernel: Kernel) -> Check:
    """Say whether runs can be kept."""
    name = kernel.config.checkpoint_store
    if not name:
        return Check(name="store", state="off", detail="runs are not kept")
    try:
        store = await kernel.get(CheckpointStore, name)  # type: ignore[type-abstract]
        count = len(await store.runs(limit=1_000))
    except (KaizenError, OSError) as error:
        return Check(name="store", state="failed", detail=shortened(str(error), 300))
    more = " or more" if count == 1_000 else ""
    return Check(name="store", state="ok", detail=f"{name}, with {count}{more} runs")
