"""Starts the kernel that a command works with."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points
from os import urandom
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click
from kaizen.config import Sources, read_config
from kaizen.errors import ConfigurationError
from kaizen.kernel import Kernel
from kaizen.ports import CheckpointStore, Provider

from kaizen_cli._channel import TERMINAL, TerminalChannel, can_ask
from kaizen_cli._options import Options
from kaizen_cli._plugin import CliPlugin, CliSettings
from kaizen_cli._terminal import Terminal
from kaizen_cli._trust import config_file

if TYPE_CHECKING:
    from kaizen.agent import BaseAgent
    from kaizen.config import AgentConfig
    from kaizen.registry import Registry

__all__ = [
    "Keep",
    "answering",
    "imported",
    "own_settings",
    "session",
    "store_session",
    "terminal_channel",
]

Keep: TypeAlias = Literal["configured", "default", "always", "never"]
"""Where runs are kept: where the configuration says; or there, and else in the store
`sqlite`, if that works and the settings do not forbid it; or the same in any case; or
nowhere."""

_TOOLS = "tools"
_PERMISSIONS = "permissions"
_STORE = "sqlite"
_ASKS = "control"
_OFFLINE = "offline"


@asynccontextmanager
async def session(
    options: Options,
    terminal: Terminal,
    *,
    roots: Sequence[Path] = (),
    on_plugin_error: Literal["raise", "skip"] | None = None,
    quiet: bool = False,
    keep: Keep = "configured",
) -> AsyncIterator[Kernel]:
    """Run a kernel with the configuration that takes effect here.

    A store that nobody named and that cannot be written is done without.

    Args:
        options: The configuration file and plugins that were named.
        terminal: Where the user is told what is ignored or goes wrong.
        roots: What the file tools may read; by default what they are set to.
        on_plugin_error: What a plugin that fails does; by default what is configured.
        quiet: Whether the log is kept from the user.
        keep: Where the runs are kept.
    """
    _listen_to_log(terminal, options, quiet=quiet)
    file = config_file(options, terminal)
    sources = _sources(file)
    extra = [imported(each) for each in options.plugins]
    store = _unnamed_store(keep, sources, extra)

    def made(config: Mapping[str, Any] | None) -> Kernel:
        return Kernel(
            plugins=[*_enabled(sources), *extra] if extra else None,
            settings=_roots(roots, extra),
            config=config,
            config_file=file,
            on_plugin_error=on_plugin_error,
        )

    async with AsyncExitStack() as stack:
        asks = _unnamed_channel(sources)
        none = {"checkpoint_store": None, **asks}
        kept = {"checkpoint_store": store, **asks} if store else asks
        kernel = await stack.enter_async_context(made(none if keep == "never" else kept))
        if store and keep == "default" and not await _can_write(kernel, store, terminal):
            await stack.aclose()
            kernel = await stack.enter_async_context(made(none))
        yield kernel


@asynccontextmanager
async def store_session(
    options: Options, terminal: Terminal
) -> AsyncIterator[CheckpointStore]:
    """Open the store in which runs are kept here.

    Raises:
        ConfigurationError: There is none.
        CheckpointError: It cannot be opened.
    """
    async with session(options, terminal, keep="always") as kernel:
        name = kernel.config.checkpoint_store
        if not name:
            raise ConfigurationError(
                "the command",
                "finds no store that keeps runs",
                "Install one with `pip install kaizen-sqlite`, enable its plugin `sqlite`, "
                "or name one as `checkpoint_store`.",
            )
        yield await kernel.get(CheckpointStore, name)  # type: ignore[type-abstract]


def imported(place: str) -> Any:
    """Return what `module:name` leads to; modules of the working directory count.

    Raises:
        click.UsageError: There is no such module or name.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise click.UsageError(
            f"{place!r} leads nowhere. Write MODULE:NAME, such as my_plugins:WeatherPlugin."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise click.UsageError(
            f"There is no module {error.name!r}, neither installed nor in {here}."
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise click.UsageError(f"Module {module!r} has no {name!r}.")
        found = getattr(found, part)
    return found


async def answering(agent: BaseAgent, provider: str | None, model: str) -> BaseAgent:
    """Return an agent that asks who is named on the command line, or else `offline`.

    What the agent or the configuration names stands where the command line names nothing,
    but a model of one provider is not asked of another. Where nobody names a provider, the
    kernel finds one for a model, as for any other agent.

    Raises:
        ConfigurationError: Nobody but `offline` could be asked for that model.
    """
    kernel = agent.kernel
    assert kernel is not None
    config = agent.config.over(kernel.config.agent_defaults)
    if provider or model:
        agent = agent.bind(**_named(kernel, config, provider or "", model))
        if model:
            await _check_model(kernel, agent.config, model)
    elif not (config.llm_provider or config.model or kernel.config.default_provider):
        return agent.bind(llm_provider=_OFFLINE)
    return agent


def _named(
    kernel: Kernel, config: AgentConfig, provider: str, model: str
) -> dict[str, Any]:
    """Return who is asked, and for which model, where the command line names either."""
    registry, default = kernel.registry, kernel.config.default_provider or ""
    asked, wanted = _split(registry, provider, model)
    routes = not default and "/" not in model  # as the kernel would find one for the agent
    own, kept = _split(registry, config.llm_provider or "", config.model, routes=routes)
    own = own or _split(registry, default, "")[0]
    if asked == own and not wanted:
        wanted = kept
    return {"llm_provider": asked or own or None, "model": wanted}


def _split(
    registry: Registry, provider: str, model: str, *, routes: bool = False
) -> tuple[str, str]:
    """Tell a provider from its model; `provider/model` may stand as either of the two.

    Args:
        routes: Whether a model may also begin with a name that some provider takes beside
            its own. Else it is left whole, since names of models have slashes, too.
    """
    head, slash, rest = model.partition("/")
    if not provider and slash:
        taken = routes and any(head in each.routes for each in registry.offers(Provider))
        return (head, rest) if taken or registry.offered(Provider, head) else ("", model)
    if registry.offered(Provider, provider):
        return provider, model
    head, _, rest = provider.partition("/")
    return head, model or rest


async def _check_model(kernel: Kernel, config: AgentConfig, typed: str) -> None:
    """Refuse a model where only `offline` is there, which would answer to any name."""
    registry = kernel.registry
    name, _ = registry.route(Provider, config.llm_provider or "", config.model)
    name = name or await kernel.available(Provider)
    if not name:
        raise ConfigurationError(
            "the command",
            f"finds no provider for the model {typed!r}: no key is set, no local server "
            "runs, and `offline` has no models to choose from",
            "Set the key of a provider, or name no model: then `offline` answers.",
        )
    if name == _OFFLINE:
        raise ConfigurationError(
            "the command",
            f"is to ask `{_OFFLINE}`, which has no model {typed!r}",
            _instead_of_offline(registry, typed),
        )


def _instead_of_offline(registry: Registry, model: str) -> str:
    """Say how to have a model asked that `offline` does not have."""
    head, slash, _ = model.partition("/")
    if not slash:
        return "Say whose model it is, as `-m PROVIDER/MODEL` or with `-p`, or name none."
    if registry.offered(Provider, head):  # so that `offline` stands there, or behind `-p`
        return "Name another provider, or no model."
    known = ", ".join(registry.names(Provider))
    return f"{head!r} is no provider here; name one of {known}, or no model."


def own_settings(kernel: Kernel) -> CliSettings:
    """Return the settings of this very plugin, if it is enabled; else the defaults."""
    for info in kernel.plugins:
        if isinstance(info.plugin, CliPlugin):
            return info.plugin.settings
    return CliSettings()


def terminal_channel(kernel: Kernel) -> TerminalChannel | None:
    """Return the channel of this very plugin, if it is enabled."""
    for info in kernel.plugins:
        if isinstance(info.plugin, CliPlugin):
            return info.plugin.channel
    return None


def _unnamed_channel(sources: Sources) -> dict[str, str]:
    """Have runs ask at the terminal, if somebody is there and nothing is configured."""
    if sources.kernel({}).channel is not None or not can_ask():
        return {}
    enabled = _enabled(sources)
    return {"channel": TERMINAL} if {_ASKS, "cli"} <= {*enabled} else {}


def _sources(file: Path | Literal[False]) -> Sources:
    """Return where a kernel would find its settings."""
    contents = read_config(file) if file else {}
    return Sources(code={}, environ=os.environ, file=contents, path=str(file))


def _unnamed_store(keep: Keep, sources: Sources, extra: Sequence[Any]) -> str:
    """Return the store to keep runs in although nobody named one, or `""`."""
    if keep not in ("default", "always"):
        return ""
    if sources.kernel({}).checkpoint_store is not None:  # empty: somebody wants none
        return ""
    enabled = _enabled(sources)
    if _STORE not in {*enabled, *(getattr(each, "name", "") for each in extra)}:
        return ""
    if keep == "default" and "cli" in enabled:
        return _STORE if sources.plugin("cli", CliSettings).keep_runs else ""
    return _STORE


async def _can_write(kernel: Kernel, name: str, terminal: Terminal) -> bool:
    """Try a store that nobody named; say so if it does not work."""
    try:
        store = await kernel.get(CheckpointStore, name)  # type: ignore[type-abstract]
        await store.delete(
            urandom(16).hex()
        )  # leaves no trace, and needs what a write does
    except Exception as error:  # noqa: BLE001 - reported, and not what the user asked for
        told = " ".join(str(error).split())
        terminal.warn(f"Runs are not kept: {told}")
        return False
    return True


def _enabled(sources: Sources) -> list[str]:
    """Return the plugins that a kernel would enable without being told, in order."""
    configured = sources.kernel({}).plugins
    if configured is not None:
        return list(configured)
    tables = list(sources.file.get("plugins", {}))
    names = {point.name for point in entry_points(group="kaizen.plugins")}
    return [*(name for name in tables if name in names), *sorted(names - set(tables))]


def _roots(roots: Sequence[Path], extra: Sequence[Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings that keep the file tools inside what the user named.

    Who names a place lets it be read: the plugin that decides about calls learns of it too.
    To the tools, `.` is all that was named; to that plugin, it is the working directory.
    """
    names = {point.name for point in entry_points(group="kaizen.plugins")}
    names.update(getattr(each, "name", "") for each in extra)
    if not roots:
        return {}
    named = [str(root) for root in roots]
    settings = {_TOOLS: {"roots": named}, _PERMISSIONS: {"roots": [*named, "."]}}
    return {name: each for name, each in settings.items() if name in names}


class _Notes(logging.Handler):
    """Shows the kernel's warnings to the user, one line each."""

    def __init__(self, terminal: Terminal, *, debug: bool) -> None:
        super().__init__(logging.DEBUG if debug else logging.WARNING)
        self._terminal = terminal
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if self._debug:
            message = self.format(record)
        self._terminal.note(f"{record.levelname.lower()}: {message}", style="yellow")


def _listen_to_log(terminal: Terminal, options: Options, *, quiet: bool) -> None:
    log = logging.getLogger("kaizen")
    log.propagate = False
    notes = _Notes(terminal, debug=options.debug)
    log.handlers = [logging.NullHandler() if quiet else notes]
    if options.debug:
        log.setLevel(logging.DEBUG)
