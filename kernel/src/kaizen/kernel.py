"""The kernel: starts plugins, opens what they offer, and stops them again."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from functools import partial
from inspect import isawaitable, iscoroutinefunction, isroutine
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import EventLoopToken, current_token

from kaizen import _discovery
from kaizen._discovery import Candidate
from kaizen._keeping import Keeper
from kaizen._records import record
from kaizen.config import (
    KaizenConfig,
    PluginSettings,
    Sources,
    read_config,
    refuse_idle_switches,
)
from kaizen.errors import (
    AgentCreationError,
    ConfigurationError,
    HookRegistrationError,
    InitializationError,
    KaizenError,
    PluginError,
    UnknownNameError,
)
from kaizen.hooks import HookManager
from kaizen.registry import Offer, Registry, first_available

if TYPE_CHECKING:
    from kaizen.agent import BaseAgent
    from kaizen.signatures import Signature

__all__ = ["AgentManager", "Kernel", "PluginInfo"]

Port = TypeVar("Port")

Key: TypeAlias = tuple[type[Any], str]
"""A port and a name."""

CONFIG_FILE = "kaizen.toml"
CLOSE_TIMEOUT_S = 10.0
MAX_CLAIMED_IDS = 10_000
_REMEDY = "Correct its settings, or leave it out of `plugins`."
_LOG = logging.getLogger("kaizen")
_OPENING: ContextVar[tuple[Kernel | None, Key | None]] = ContextVar(
    "kaizen_opening", default=(None, None)
)


@record
class PluginInfo:
    """What became of a plugin.

    Attributes:
        distribution: What brings it, or `""` if it was given in code.
        status: `enabled`; `disabled`, since it was not asked for; or `failed`.
        error: Why it failed.
        plugin: The plugin itself, while it is enabled.
    """

    name: str
    distribution: str
    version: str
    status: Literal["enabled", "disabled", "failed"]
    error: PluginError | None = None
    plugin: Any = None


class Kernel:
    """Runs plugins and agents for the time of an `async with` block.

        async with Kernel() as kernel:
            agent = BaseAgent(signature="question -> answer", kernel=kernel)

    Several kernels in one process share nothing. A kernel may be started again after it
    was stopped.

    Args:
        plugins: What to enable, in order: names of installed plugins, classes, or objects.
            By default all that is installed.
        discover: Whether installed plugins are found by themselves.
        settings: Settings by plugin; stronger than the environment and the file.
        config: The fields of `KaizenConfig`; stronger than the environment and the file.
        config_file: The configuration file. By default the one that `KAIZEN_CONFIG` names,
            else `kaizen.toml` in the working directory if there is one; `False` for none.
        on_plugin_error: Whether a plugin that fails stops the kernel or is left out whole.
        environ: The environment; by default that of the process.

    Attributes:
        hooks: The hooks of this kernel; plugins may come and go while it runs.
        registry: What is offered.
        plugins: What became of each plugin.
        thread: The thread whose event loop it runs in, while it runs.
    """

    def __init__(
        self,
        *,
        plugins: Sequence[str | object] | None = None,
        discover: bool = True,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        config: KaizenConfig | Mapping[str, Any] | None = None,
        config_file: str | Path | Literal[False] | None = None,
        on_plugin_error: Literal["raise", "skip"] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._wanted = plugins
        self._discover = discover
        self._settings = settings or {}
        self._given_config = config
        self._config_file = config_file
        self._on_plugin_error = on_plugin_error
        self._environ = environ
        self._stack: AsyncExitStack | None = None
        self._started_up = False
        self._agent_names: dict[str, int] = {}  # goes on, as agents keep their ids
        self._claimed_ids: dict[str, None] = {}
        self.hooks = HookManager()
        self._reset()

    def _reset(self) -> None:
        self.config = KaizenConfig()
        version = self.hooks.version + 1
        self.hooks = HookManager(trace=self.environ.get("KAIZEN_TRACE_HOOKS") == "1")
        self.hooks.version = version  # goes on, so that agents notice the new start
        self.registry = Registry()
        self.plugins: tuple[PluginInfo, ...] = ()
        self.agents = AgentManager(self)
        self.serves: frozenset[str] = frozenset()
        self._token: EventLoopToken | None = None
        self.thread = 0
        self._tasks: TaskGroup | None = None
        self._opened: dict[Key, Any] = {}
        self._owners: dict[Key, str] = {}
        self._locks: dict[Key, anyio.Lock] = {}
        self._waits: dict[Key, list[Key]] = {}
        self._found: dict[type[Any], str] = {}
        self._hosts: list[_Host] = []
        self._keeper: Keeper | None = None

    def __repr__(self) -> str:
        state = "running" if self.running else "not running"
        return f"<Kernel {state}, {len(self.plugins)} plugins>"

    @property
    def running(self) -> bool:
        """Whether the kernel has started and not stopped."""
        return self._token is not None

    async def __aenter__(self) -> Self:
        if self._started_up:
            raise InitializationError(
                "the kernel", "is running already", "Start each kernel once at a time."
            )
        self._started_up = True
        self._reset()
        try:
            await self._start()
        except BaseException:
            self._started_up = False
            raise
        return self

    async def _start(self) -> None:
        async with AsyncExitStack() as stack:
            sources = self._sources()
            self.config = self._configure(sources)
            self.hooks.timeout_s = self.config.hook_timeout
            self._tasks = await anyio.create_task_group().__aenter__()
            stack.push_async_callback(self._leave_tasks, self._tasks)
            self._token = current_token()
            self.thread = get_ident()
            stack.callback(self._stopped)
            stack.push_async_callback(self._close_offers, None)
            await self._start_plugins(sources, stack)
            stack.push_async_callback(self._close_keeper)
            refuse_idle_switches(self.config, self.serves, "the kernel's config")
            self._stack = stack.pop_all()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            try:
                await stack.__aexit__(kind, error, trace)
            finally:
                self._started_up = False

    async def get(self, port: type[Port], name: str) -> Port:
        """Open an implementation of a port and return it.

        It is opened once per kernel, in a task of its own that also closes it, whoever
        asked first.

        Raises:
            UnknownNameError: Nobody offers it; lists the known names.
            InitializationError: The kernel is not running; its plugin left meanwhile; or
                it is asked for, in a circle, by what it opens itself.
        """
        key = (port, name)
        if key in self._opened:
            return cast(Port, self._opened[key])
        if self._tasks is None:
            raise self._not_running()
        offer = self.registry.find(port, name)
        with self._waiting(key):
            async with self._locks.setdefault(key, anyio.Lock()):
                if key not in self._opened:
                    return cast(Port, await self._open_once(key, offer))
                return cast(Port, self._opened[key])

    async def available(self, port: type[Any]) -> str:
        """Return the offer of a port that can be used right now, for those who choose none.

        Those that know it without looking further are asked first, in order of preference;
        then all the others at once, for a second. What was found is remembered.

        Returns:
            A name, or `""` if there is none.
        """
        if port not in self._found:
            found = await first_available(self.registry.offers(port))
            if not found:
                return ""
            self._found[port] = found
        return self._found[port]

    def agent(
        self,
        name: str,
        config: object = None,
        *,
        signature: type[Signature] | Signature | str,
        **options: Any,
    ) -> BaseAgent:
        """Make an agent of this kernel and keep it under a name.

        Args:
            name: Its name and its id.
            config: An `AgentConfig`, or what it can be read from.
            signature: What it takes and gives.
            options: As for `BaseAgent`.

        Raises:
            ConfigurationError: The name is taken.
            AgentCreationError: It is the id of an agent which was given none.
        """
        from kaizen.agent import BaseAgent

        agent = BaseAgent(
            config=config,
            signature=signature,
            kernel=self,
            name=name,
            agent_id=name,
            **options,
        )
        self.agents._add(name, agent)
        return agent

    def default_agent_id(self, name: str) -> str:
        """Return an id for an agent that has none: its name, numbered from the second.

        Agents are numbered as they are made, so that the same program gives its agents the
        same ids each time it starts. Ids that were claimed are left out.
        """
        while True:
            count = self._agent_names.get(name, 0) + 1
            self._agent_names[name] = count
            agent_id = name if count == 1 else f"{name}-{count}"
            if agent_id not in self._claimed_ids:
                return agent_id

    def claim_agent_id(self, agent_id: str) -> None:
        """Keep an id that an agent has from being given to one that has none.

        The last ten thousand are remembered.
        """
        self._claimed_ids[agent_id] = None
        if len(self._claimed_ids) > MAX_CLAIMED_IDS:
            del self._claimed_ids[next(iter(self._claimed_ids))]

    def choose_agent_id(self, agent_id: str) -> None:
        """Claim an id that somebody chose.

        Raises:
            AgentCreationError: An agent without an id of its own has it already.
        """
        if agent_id not in self._claimed_ids and self._is_given(agent_id):
            raise AgentCreationError(
                f"the agent id {agent_id!r}",
                "is that of an agent which was given none",
                "Give that one an id as well, or choose another.",
            )
        self.claim_agent_id(agent_id)

    def _is_given(self, agent_id: str) -> bool:
        if agent_id in self._agent_names:
            return True
        name, _, number = agent_id.rpartition("-")
        fits = number.isascii() and number.isdecimal() and len(number) < 10
        if not fits or number[0] == "0":
            return False
        return 1 < int(number) <= self._agent_names.get(name, 0)

    def require_running(self) -> None:
        """Raise unless the kernel is running, and in this event loop."""
        if self._token is None:
            raise self._not_running()
        if self.thread != get_ident():
            raise InitializationError(
                "the kernel",
                "runs in the event loop of another thread",
                "Use `run_sync` from here, or a kernel of this loop.",
            )

    def _not_running(self) -> InitializationError:
        return InitializationError(
            "the kernel",
            "is not running",
            "Use it inside `async with Kernel() as kernel:`.",
        )

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that it was given, or that of the process."""
        return os.environ if self._environ is None else self._environ

    def _sources(self) -> Sources:
        environ = self.environ
        path: str | Path | None = None
        if self._config_file is not False:
            named = self._config_file or environ.get("KAIZEN_CONFIG")
            path = named or (CONFIG_FILE if Path(CONFIG_FILE).is_file() else None)
        contents = read_config(Path(path)) if path else {}
        return Sources(
            code=self._settings,
            environ=environ,
            file=contents,
            path=str(path or CONFIG_FILE),
        )

    def _configure(self, sources: Sources) -> KaizenConfig:
        unknown = set(sources.file) - {"kaizen", "plugins"}
        if unknown:
            raise ConfigurationError(
                f"{sources.path}: {', '.join(sorted(unknown))}",
                "is unknown",
                "There are the tables [kaizen] and [plugins.<name>].",
            )
        config = self._given_config
        if isinstance(config, KaizenConfig):
            config = {name: getattr(config, name) for name in config.model_fields_set}
        configured = sources.kernel(config or {})
        if configured.log_level is not None:
            _LOG.setLevel(configured.log_level)
        return configured

    async def _start_plugins(self, sources: Sources, stack: AsyncExitStack) -> None:
        found = _discovery.discover() if self._discover else []
        wanted = self.config.plugins if self._wanted is None else self._wanted
        chosen = _discovery.candidates(found, wanted, sources.file.get("plugins", {}))
        self._refuse_unknown_tables(sources, found, chosen)
        mode = self._on_plugin_error or (
            "raise" if self.config.error_handling == "strict" else "skip"
        )
        made: list[tuple[Candidate, Any]] = []
        infos: dict[str, PluginInfo] = {}
        for candidate in chosen:
            try:
                plugin = _construct(candidate, sources)
                self._specify(candidate, plugin)
                made.append((candidate, plugin))
            except PluginError as error:
                infos[candidate.name] = _skip(candidate, error, mode)
        for rank, (candidate, plugin) in enumerate(made):
            specs = getattr(plugin, "hookspecs", None)
            try:
                await stack.enter_async_context(self._started(candidate, plugin, rank))
                infos[candidate.name] = _info(candidate, "enabled", plugin=plugin)
            except PluginError as error:
                if specs is not None:
                    self.hooks.remove_specs(specs)
                infos[candidate.name] = _skip(candidate, error, mode)
        for candidate in found:
            infos.setdefault(candidate.name, _info(candidate, "disabled"))
        self.plugins = tuple(infos.values())

    def _refuse_unknown_tables(
        self, sources: Sources, found: Sequence[Candidate], chosen: Sequence[Candidate]
    ) -> None:
        """Refuse settings given in code for plugins that there are not."""
        known = {each.name for each in (*found, *chosen)}
        for name in self._settings:
            if name not in known:
                raise UnknownNameError("plugin", name, known)
        for name in sources.file.get("plugins", {}):
            if name not in known:
                _LOG.warning(
                    "%s: [plugins.%s] is for no installed plugin", sources.path, name
                )

    @asynccontextmanager
    async def _started(
        self, candidate: Candidate, plugin: Any, rank: int
    ) -> AsyncIterator[None]:
        """Keep one plugin at work; undo all of it at the end, or if it fails to start."""
        passing: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                await self._enter(candidate, plugin, rank, stack)
                try:
                    yield
                except BaseException as error:
                    passing = error
                    raise
        except PluginError:
            raise
        except Exception as error:
            if error is not passing:
                error.add_note(f"raised by plugin {candidate.name!r} while it stopped")
            raise

    async def _enter(
        self, candidate: Candidate, plugin: Any, rank: int, stack: AsyncExitStack
    ) -> None:
        name = candidate.name
        try:
            lifespan = getattr(plugin, "lifespan", None)
            if lifespan is not None:
                await stack.enter_async_context(
                    _checked_lifespan(candidate, lifespan(self))
                )
            stack.push_async_callback(self._close_offers, name)
            self.hooks.add(plugin, name=name, rank=rank, may_have_none=True)
            stack.callback(self.hooks.remove, name)
            stack.callback(self.registry.remove_plugin, name)
            self._contribute(candidate, plugin)
            self.serves |= frozenset(getattr(plugin, "serves", ()))
        except PluginError:
            raise
        except HookRegistrationError as error:
            raise candidate.error(error.problem, error.remedy) from error
        except Exception as error:
            raise _failure(candidate, "could not start", error) from error

    def _specify(self, candidate: Candidate, plugin: Any) -> None:
        """Add the hooks that a plugin brings for others to implement."""
        specs = getattr(plugin, "hookspecs", None)
        if specs is None:
            return
        try:
            self.hooks.add_specs(specs)
        except HookRegistrationError as error:
            raise candidate.error(error.problem, error.remedy) from error

    def _contribute(self, candidate: Candidate, plugin: Any) -> None:
        contribute = getattr(plugin, "contribute", None)
        if iscoroutinefunction(contribute):
            raise candidate.error(
                "has a `contribute` that is a coroutine, and would offer nothing",
                "Write `def contribute`, and offer a factory for what has to be awaited.",
            )
        if contribute is not None and hasattr(contribute, "kaizen_impl"):
            contribute(_PluginRegistry(self.registry, candidate.name))

    @contextmanager
    def _waiting(self, key: Key) -> Iterator[None]:
        """Note that what is being opened here waits for another; refuse a circle."""
        kernel, asker = _OPENING.get()
        if kernel is not self or asker is None:
            yield
            return
        if circle := self._path(key, asker):
            raise InitializationError(
                " → ".join(f"{port.__name__} {name!r}" for port, name in (asker, *circle)),
                "would wait for itself to be opened",
                "Let one ask for the other when it is used, not while it is opened.",
            )
        waits = self._waits.setdefault(asker, [])
        waits.append(key)
        try:
            yield
        finally:
            waits.remove(key)

    def _path(self, start: Key, end: Key) -> list[Key]:
        """Return how one implementation waits for another; empty if it does not."""
        if start == end:
            return [end]
        for each in self._waits.get(start, ()):
            if path := self._path(each, end):
                return [start, *path]
        return []

    async def _open_once(self, key: Key, offer: Offer) -> Any:
        before = _OPENING.set((self, key))
        try:
            value = await self._open(offer)
        finally:
            _OPENING.reset(before)
        if self.registry.offered(*key) is not offer:
            raise InitializationError(
                f"{key[0].__name__} {key[1]!r}",
                f"cannot be opened any more: plugin {offer.plugin!r} has left",
                "Open it while its plugin is enabled.",
            )
        return value

    async def _open(self, offer: Offer) -> Any:
        factory = offer.factory
        made = factory() if _is_factory(factory) else factory
        if isawaitable(made):
            made = await made
        if not isinstance(made, AbstractAsyncContextManager):
            self._remember(offer, made)
            return made
        if self._tasks is None:
            raise self._not_running()
        return await self._tasks.start(self._keep_open, _Host(made, offer))

    async def _keep_open(self, host: _Host, *, task_status: TaskStatus[Any]) -> None:
        self._hosts.append(host)
        try:
            await host.run(partial(self._remember, host.offer), task_status)
        finally:
            self._hosts.remove(host)
            self._forget((host.offer.port, host.offer.name))

    def _remember(self, offer: Offer, value: object) -> None:
        key = (offer.port, offer.name)
        if self.registry.offered(*key) is offer:
            self._opened[key] = value
            self._owners[key] = offer.plugin

    def _forget(self, key: Key) -> None:
        self._opened.pop(key, None)
        self._owners.pop(key, None)

    async def _close_offers(self, plugin: str | None) -> None:
        """Close what a plugin offered and somebody opened, last opened first.

        Whoever uses it has left already: plugins leave in reverse order. `None` stands for
        what is left in the end.
        """
        for host in reversed(tuple(self._hosts)):
            if host.closing or (plugin is not None and host.offer.plugin != plugin):
                continue
            with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True) as scope:
                await host.close()
            if scope.cancelled_caught:
                _LOG.error("%s did not close in %g s", host, CLOSE_TIMEOUT_S)
        for key, owner in tuple(self._owners.items()):
            if plugin is None or owner == plugin:
                self._forget(key)

    async def _leave_tasks(self, tasks: TaskGroup) -> None:
        """Leave the task group without wrapping the error that passes by."""
        self._tasks = None
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)

    @property
    def keeper(self) -> Keeper:
        """What keeps the logs of this kernel's runs in their stores."""
        if self._keeper is None:
            self._keeper = Keeper()
        return self._keeper

    async def _close_keeper(self) -> None:
        if self._keeper is not None:
            await self._keeper.close()

    def _stopped(self) -> None:
        self._token = None
        self.hooks.version += 1  # so that agents look again before they run


class AgentManager:
    """The agents that a kernel keeps by name."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._agents: dict[str, BaseAgent] = {}

    def get_agent(self, name: str) -> BaseAgent:
        """Return an agent.

        Raises:
            UnknownNameError: There is none of that name; lists those that there are.
        """
        try:
            return self._agents[name]
        except KeyError:
            raise UnknownNameError("agent", name, self._agents) from None

    def list_agents(self) -> tuple[str, ...]:
        """Return the names, in the order in which the agents were made."""
        return tuple(self._agents)

    def _add(self, name: str, agent: BaseAgent) -> None:
        if name in self._agents:
            raise ConfigurationError(
                f"agent {name!r}", "exists already", "Choose another name."
            )
        self._agents[name] = agent


class _Host:
    """Holds one opened implementation: opens and closes it in one task."""

    def __init__(self, manager: AbstractAsyncContextManager[Any], offer: Offer) -> None:
        self.offer = offer
        self._manager = manager
        self._closing = anyio.Event()
        self._closed = anyio.Event()

    def __str__(self) -> str:
        offer = self.offer
        return f"{offer.port.__name__} {offer.name!r} of plugin {offer.plugin!r}"

    @property
    def closing(self) -> bool:
        """Whether somebody closes it."""
        return self._closing.is_set()

    async def run(
        self, on_open: Callable[[Any], None], task_status: TaskStatus[Any]
    ) -> None:
        opened = False
        try:
            async with self._manager as value:
                opened = True
                on_open(value)
                task_status.started(value)
                await self._closing.wait()
        except Exception:
            if not opened:
                raise
            when = "while it was closed" if self.closing else "while it was open"
            _LOG.exception("%s failed %s", self, when)
        finally:
            self._closed.set()

    async def close(self) -> None:
        self._closing.set()
        await self._closed.wait()


class _PluginRegistry(Registry):
    """The registry as one plugin sees it: what it adds bears its name."""

    def __init__(self, registry: Registry, plugin: str) -> None:
        self._registry = registry
        self._plugin = plugin
        self._offers = registry._offers

    def add(
        self,
        port: type[Any],
        name: str,
        factory: Any,
        *,
        plugin: str = "",
        **offer: Any,
    ) -> None:
        self._registry.add(port, name, factory, plugin=plugin or self._plugin, **offer)


def _construct(candidate: Candidate, sources: Sources) -> Any:
    """Return the plugin, made with its settings.

    Raises:
        PluginError: Its import, its settings or its constructor failed.
    """
    loaded = candidate.load()
    if not isinstance(loaded, type):
        return loaded
    settings_type = getattr(loaded, "Settings", None)
    try:
        if settings_type is None:
            return loaded()
        settings = sources.plugin(candidate.name, cast(type[PluginSettings], settings_type))
        return loaded(settings)
    except ConfigurationError as error:
        raise _failure(candidate, "has settings that do not fit", error) from error
    except Exception as error:
        raise _failure(candidate, "could not be made", error) from error


def _failure(candidate: Candidate, what: str, error: Exception) -> PluginError:
    """Return the error of a plugin, in one sentence with that which caused it."""
    if isinstance(error, KaizenError):
        return candidate.error(
            f"{what}: {error.subject} {error.problem}", error.remedy or _REMEDY
        )
    told = f"{type(error).__name__}: {error}".rstrip(" .:")
    return candidate.error(f"{what}: {told}", _REMEDY)


def _checked_lifespan(
    candidate: Candidate, lifespan: Any
) -> AbstractAsyncContextManager[None]:
    if isinstance(lifespan, AbstractAsyncContextManager):
        return lifespan
    raise candidate.error(
        "has a `lifespan` that is no async context manager",
        "Decorate it with `contextlib.asynccontextmanager`.",
    )


def _skip(
    candidate: Candidate, error: PluginError, mode: Literal["raise", "skip"]
) -> PluginInfo:
    if mode == "raise":
        raise error
    _LOG.warning("%s It was left out.", error)
    return _info(candidate, "failed", error=error)


def _info(
    candidate: Candidate,
    status: Literal["enabled", "disabled", "failed"],
    *,
    error: PluginError | None = None,
    plugin: Any = None,
) -> PluginInfo:
    return PluginInfo(
        name=candidate.name,
        distribution=candidate.distribution,
        version=candidate.version,
        status=status,
        error=error,
        plugin=plugin,
    )


def _is_factory(factory: Any) -> bool:
    """Whether an offer has to be called: a class or a function, not an implementation."""
    return isinstance(factory, type | partial) or isroutine(factory)
