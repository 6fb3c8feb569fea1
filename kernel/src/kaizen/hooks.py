"""Hooks: how plugins, and users who know no plugins, watch and change what agents do.

`hookimpl` marks the methods of a plugin. `HookManager` keeps the implementations of one
kernel, or those of one agent, in a pluggy registry; `HookManager.register` and `BaseHook`
are the same mechanism for single handlers.
"""

from __future__ import annotations

import inspect
import logging
import os
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import field
from difflib import get_close_matches
from enum import Enum, IntEnum
from time import time
from typing import Any, TypeAlias, TypeVar, overload

import pluggy

from kaizen import hookspecs
from kaizen._bounded import OutOfTimeError, bounded
from kaizen._records import record
from kaizen.errors import (
    HookError,
    HookExecutionError,
    HookRegistrationError,
    HookTimeoutError,
)
from kaizen.events import Event

__all__ = [
    "BaseHook",
    "HookContext",
    "HookEvent",
    "HookHandler",
    "HookManager",
    "HookPriority",
    "HookResult",
    "Implementation",
    "Priority",
    "hookimpl",
]

Function = TypeVar("Function", bound=Callable[..., Any])

PROJECT = "kaizen"
DEFAULT_TIMEOUT_S = 5.0
_MARK = pluggy.HookimplMarker(PROJECT)
_LOG = logging.getLogger("kaizen.hooks")


class HookPriority(IntEnum):
    """When an implementation is asked. The first is asked first and is outermost."""

    CRITICAL = 1
    HIGH = 2
    NORMAL = 3
    LOW = 4
    LOWEST = 5


Priority = HookPriority


class HookEvent(Enum):
    """What a handler can be told of; each is the hook of the same name."""

    PRE_AGENT_INIT = "pre_agent_init"
    POST_AGENT_INIT = "post_agent_init"
    PRE_AGENT_LOOP = "pre_agent_loop"
    POST_AGENT_LOOP = "post_agent_loop"
    PRE_CYCLE = "pre_cycle"
    POST_CYCLE = "post_cycle"
    PRE_MODEL_CALL = "pre_model_call"
    POST_MODEL_CALL = "post_model_call"
    PRE_TOOL_CALL = "pre_tool_call"
    POST_TOOL_CALL = "post_tool_call"
    PRE_CHECKPOINT_SAVE = "pre_checkpoint_save"
    POST_CHECKPOINT_SAVE = "post_checkpoint_save"
    PRE_INTERRUPT = "pre_interrupt"
    POST_INTERRUPT = "post_interrupt"


@record
class HookContext:
    """What a handler is told.

    Attributes:
        timestamp: Seconds since the epoch, UTC.
        metadata: Shared by the events before and after one operation. After it, holds
            `status` (`ok` or `error`) and `duration_seconds`.
        duration_ms: How long the operation took; after it only.
        data: The typed event, with the operation's own fields; `None` if triggered by hand.
    """

    agent_id: str
    event_type: HookEvent
    timestamp: float
    metadata: dict[str, Any] = field(default_factory=dict)
    trace_id: str = ""
    run_id: str = ""
    duration_ms: float | None = None
    data: Event | None = None

    @property
    def event(self) -> HookEvent:
        """The same as `event_type`."""
        return self.event_type


@record
class HookResult:
    """What a handler may say of its work. Failure is reported; it vetoes nothing."""

    success: bool = True
    data: Any = None
    error: str = ""


HookHandler: TypeAlias = Callable[
    [HookContext], Awaitable[HookResult | None] | HookResult | None
]


class BaseHook:
    """A named handler of several events, for `HookManager.register_hook`.

    Attributes:
        events: The events to be told of; set it in the class or the constructor.
    """

    events: list[HookEvent]

    def __init__(self, name: str) -> None:
        self.name = name
        self.events = list(getattr(type(self), "events", ()))

    async def handle(self, context: HookContext) -> HookResult | None:
        """Do what the hook is for."""
        raise NotImplementedError(f"hook {self.name!r} has no handle()")


@overload
def hookimpl(function: Function) -> Function: ...


@overload
def hookimpl(
    function: None = None,
    *,
    priority: HookPriority = HookPriority.NORMAL,
    specname: str | None = None,
    optionalhook: bool = False,
) -> Callable[[Function], Function]: ...


def hookimpl(
    function: Function | None = None,
    *,
    priority: HookPriority = HookPriority.NORMAL,
    specname: str | None = None,
    optionalhook: bool = False,
) -> Function | Callable[[Function], Function]:
    """Mark a plugin's method as the implementation of a hook.

    Args:
        function: The method; its name is the hook's.
        priority: When it is asked, before or after those of other plugins.
        specname: The hook's name, if the method has another.
        optionalhook: The hook may be unknown, since the plugin that specifies it may not
            be there.
    """

    def mark(marked: Function) -> Function:
        _MARK(marked, specname=specname, optionalhook=optionalhook)
        marked.__kaizen_priority__ = priority  # type: ignore[attr-defined]
        return marked

    return mark if function is None else mark(function)


@record
class Implementation:
    """One implementation of a hook, ready to be called.

    Attributes:
        plugin: Who implements it.
        accepts: The parameters that it takes, in order.
        order: Sorts implementations: priority, place in `kaizen.toml`, name.
    """

    plugin: str
    hook: str
    function: Callable[..., Any]
    accepts: tuple[str, ...]
    order: tuple[int, int, str]

    @property
    def is_async(self) -> bool:
        """Whether calling it gives something to await."""
        return inspect.iscoroutinefunction(self.function)


class HookManager:
    """The hooks of one kernel or of one agent.

    Attributes:
        version: Rises whenever an implementation comes or goes.
        timeout_s: How long one observer may take, in seconds; by default as long as the
            kernel's `hook_timeout` says.
        trace: Whether every hook that runs is written to standard error; by default where
            `KAIZEN_TRACE_HOOKS` is `1`.
        problems: The last hundred failures of observers.
    """

    def __init__(
        self, *, timeout_s: float | None = None, trace: bool | None = None
    ) -> None:
        self.version = 0
        self.timeout_s = timeout_s
        self.trace = os.environ.get("KAIZEN_TRACE_HOOKS") == "1" if trace is None else trace
        self.problems: list[HookError] = []
        self._specs: list[types.ModuleType | type] = [hookspecs]
        self._registry = _registry(self._specs)
        self._ranks: dict[str, int] = {}
        self._handlers = 0
        self._unnamed = 0

    def add_specs(self, specs: types.ModuleType | type) -> None:
        """Add the hook specifications of a module or class, all of them or none.

        Raises:
            HookRegistrationError: There are none, or one has the name of another hook.
        """
        try:
            self._registry.add_hookspecs(specs)
        except Exception as error:
            self._rebuild()
            raise HookRegistrationError(
                "a plugin",
                f"brings hooks that cannot be added: {error}",
                "Mark them with pluggy.HookspecMarker('kaizen'), under names of their own.",
            ) from error
        self._specs.append(specs)

    def remove_specs(self, specs: types.ModuleType | type) -> None:
        """Take hook specifications back; what implements them is not called any more."""
        self._specs.remove(specs)
        self._rebuild()
        self.version += 1

    def add(
        self,
        plugin: object,
        *,
        name: str | None = None,
        rank: int = 1_000,
        may_have_none: bool = False,
    ) -> str:
        """Register the marked methods of a plugin, all of them or none.

        Args:
            plugin: Any object with methods marked by `hookimpl`.
            name: What it is called; by default after its class.
            rank: Its place among plugins of equal priority.
            may_have_none: Whether a plugin without any hook is accepted.

        Returns:
            The name.

        Raises:
            HookRegistrationError: A hook is misspelt or has unknown parameters, there is
                none, or a class was given.
        """
        if isinstance(plugin, type):
            raise HookRegistrationError(
                f"class {plugin.__name__!r}",
                "was given where a plugin is expected",
                f"Give an object of it, such as {plugin.__name__}().",
            )
        if name is None:
            self._unnamed += 1
            name = f"{type(plugin).__name__}-{self._unnamed}"
        if self._registry.is_blocked(name):
            raise HookRegistrationError(
                f"plugin {name!r}", "is blocked", "Call `unblock` before you register it."
            )
        _refuse_keyword_only(plugin, name)
        try:
            self._registry.register(plugin, name)
            self._check(plugin, name, may_have_none=may_have_none)
        except (pluggy.PluginValidationError, HookRegistrationError) as error:
            if self._registry.has_plugin(name):
                self._registry.unregister(name=name)
            if isinstance(error, HookRegistrationError):
                raise
            raise HookRegistrationError(
                f"plugin {name!r}", f"has a hook that does not fit: {error}", _SPELLING
            ) from error
        except ValueError as error:
            raise HookRegistrationError(
                f"plugin {name!r}", "is registered already", "Give it another name."
            ) from error
        self._ranks[name] = rank
        self.version += 1
        return name

    def remove(self, name: str) -> None:
        """Take a plugin's hooks away; unknown names are ignored."""
        if self._registry.has_plugin(name):
            self._registry.unregister(name=name)
            self._ranks.pop(name, None)
            self.version += 1

    def block(self, name: str) -> None:
        """Take a plugin's hooks away and refuse to register it again."""
        self._registry.set_blocked(name)
        self._ranks.pop(name, None)
        self.version += 1

    def unblock(self, name: str) -> None:
        """Allow a blocked plugin to be registered again."""
        self._registry.unblock(name)

    def names(self) -> tuple[str, ...]:
        """Return the names of what is registered, in order of rank and name."""
        return tuple(sorted(self._ranks, key=lambda name: (self._ranks[name], name)))

    def register(
        self,
        event_type: HookEvent,
        handler: HookHandler,
        priority: HookPriority = HookPriority.NORMAL,
    ) -> str:
        """Tell a handler of an event from now on; return its name, for `remove`.

        Raises:
            HookRegistrationError: The handler does not take exactly one argument.
        """
        if not isinstance(event_type, HookEvent):
            raise HookRegistrationError(
                f"event {event_type!r}", "is not a HookEvent", "Use one of HookEvent."
            )
        label = getattr(handler, "__qualname__", type(handler).__name__)
        _check_handler(handler, label)
        self._handlers += 1
        plugin = types.SimpleNamespace()
        observer = _observer(event_type, handler, label)
        setattr(plugin, event_type.value, hookimpl(priority=priority)(observer))
        return self.add(plugin, name=f"{label}#{self._handlers}", rank=self._handlers)

    def register_hook(
        self, hook: BaseHook, priority: HookPriority = HookPriority.NORMAL
    ) -> tuple[str, ...]:
        """Tell a hook of each of its events; return the names, for `remove`."""
        if not hook.events:
            raise HookRegistrationError(
                f"hook {hook.name!r}", "names no events", "Set `events` to what it is for."
            )
        return tuple(self.register(each, hook.handle, priority) for each in hook.events)

    async def trigger(
        self,
        event_type: HookEvent,
        *,
        agent_id: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> list[HookResult]:
        """Tell the handlers of an event by hand.

        Returns:
            What each handler said, in order; a failure where it raised or took too long.
            Observers that are methods of plugins expect a typed event and are not called.
        """
        context = HookContext(
            agent_id=agent_id,
            event_type=event_type,
            timestamp=time(),
            metadata=dict(metadata or {}),
        )
        results = []
        for each in self.implementations(event_type.value):
            handler = getattr(each.function, "__kaizen_handler__", None)
            if handler is not None:
                results.append(await self._tell(each, handler, context))
        return results

    def implementations(self, hook: str) -> tuple[Implementation, ...]:
        """Return the implementations of a hook, the one to be asked first at the front.

        This is the one place that turns pluggy's order, last registered first, into ours.
        """
        caller = getattr(self._registry.hook, hook, None)
        if caller is None:
            return ()
        found = [
            Implementation(
                plugin=each.plugin_name,
                hook=hook,
                function=each.function,
                accepts=tuple(each.argnames),
                order=(
                    getattr(each.function, "__kaizen_priority__", HookPriority.NORMAL),
                    self._ranks.get(each.plugin_name, 1_000),
                    each.plugin_name,
                ),
            )
            for each in caller.get_hookimpls()
        ]
        return tuple(sorted(found, key=lambda each: each.order))

    def call(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call a hook that is not a coroutine, in order; yield plugin and result."""
        for each in self.implementations(hook):
            yield each.plugin, each.function(*(arguments[name] for name in each.accepts))

    def report(self, error: HookError) -> None:
        """Keep and log the failure of an observer."""
        self.problems.append(error)
        del self.problems[:-100]
        _LOG.warning("%s", error, exc_info=error.__cause__)

    def failure(
        self, each: Implementation, error: BaseException, timeout_s: float | None = None
    ) -> HookError:
        """Return the report of an observer that raised or, after a time, was stopped."""
        timeout_s = timeout_s or self.timeout_s or DEFAULT_TIMEOUT_S
        subject = f"observer {each.hook!r} of plugin {each.plugin!r}"
        report: HookError
        if isinstance(error, OutOfTimeError):
            report = HookTimeoutError(
                subject,
                f"took longer than {timeout_s:g} s",
                "Make it faster, or raise `hook_timeout`.",
            )
        else:
            report = HookExecutionError(
                subject, f"raised {type(error).__name__}: {error}", "The agent went on."
            )
        report.__cause__ = error
        return report

    async def _tell(
        self, each: Implementation, handler: HookHandler, context: HookContext
    ) -> HookResult:
        async def handle() -> HookResult | None:
            outcome = handler(context)
            return await outcome if isinstance(outcome, Awaitable) else outcome

        try:
            outcome = await bounded(handle(), self.timeout_s or DEFAULT_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - one handler must not stop the others
            self.report(self.failure(each, error))
            return HookResult(success=False, error=f"{type(error).__name__}: {error}")
        return outcome or HookResult()

    def _rebuild(self) -> None:
        """Make the registry anew, of the specifications and plugins that there are."""
        plugins = self._registry.list_name_plugin()
        self._registry = _registry(self._specs)
        for name, plugin in plugins:
            if plugin is None:
                self._registry.set_blocked(name)
            else:
                self._registry.register(plugin, name)

    def _check(self, plugin: object, name: str, *, may_have_none: bool) -> None:
        """Refuse marked methods that are no hook, and plugins that have none."""
        callers = self._registry.get_hookcallers(plugin)
        if not callers and not may_have_none:
            raise HookRegistrationError(
                f"plugin {name!r}",
                "has no hooks",
                "Mark its methods with `@hookimpl`. " + _SPELLING,
            )
        for caller in callers or ():
            for each in caller.get_hookimpls():
                if each.plugin_name != name or caller.has_spec() or each.optionalhook:
                    continue
                near = get_close_matches(caller.name, self._known(), n=1)
                hint = f"Did you mean {near[0]!r}?" if near else _SPELLING
                raise HookRegistrationError(
                    f"plugin {name!r}", f"implements the unknown hook {caller.name!r}", hint
                )

    def _known(self) -> list[str]:
        callers = vars(self._registry.hook).items()
        return [name for name, caller in callers if caller.has_spec()]


_SPELLING = "The hooks and their parameters stand in `kaizen.hookspecs`."


def _registry(specs: Sequence[types.ModuleType | type]) -> pluggy.PluginManager:
    registry = pluggy.PluginManager(PROJECT)
    for each in specs:
        registry.add_hookspecs(each)
    return registry


def _refuse_keyword_only(plugin: object, name: str) -> None:
    for attribute in dir(type(plugin)):
        method = getattr(type(plugin), attribute, None)
        if method is None or not hasattr(method, f"{PROJECT}_impl"):
            continue
        for parameter in inspect.signature(method).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                raise HookRegistrationError(
                    f"plugin {name!r}",
                    f"has keyword-only parameter {parameter.name!r} in hook {attribute!r}",
                    "Hooks pass plain parameters; remove the `*`.",
                )


def _check_handler(handler: HookHandler, label: str) -> None:
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        raise HookRegistrationError(
            f"handler {label!r}",
            f"cannot be called with one argument: {error}",
            "Write it as `async def handler(context: HookContext)`.",
        ) from error


def _observer(
    event_type: HookEvent, handler: HookHandler, label: str
) -> Callable[[Event], Awaitable[None]]:
    """Return an observer that tells a handler of each event in the handler's words."""

    async def observe(event: Event) -> None:
        outcome = handler(_context(event_type, event))
        result = await outcome if isinstance(outcome, Awaitable) else outcome
        if isinstance(result, HookResult) and not result.success:
            raise RuntimeError(f"handler {label} reported failure: {result.error}")

    observe.__kaizen_handler__ = handler  # type: ignore[attr-defined]
    return observe


def _context(event_type: HookEvent, event: Event) -> HookContext:
    if event.duration_ms is not None:
        event.metadata["status"] = "error" if event.error is not None else "ok"
        event.metadata["duration_seconds"] = event.duration_ms / 1_000
    return HookContext(
        agent_id=event.agent_id,
        event_type=event_type,
        timestamp=event.timestamp,
        metadata=event.metadata,
        trace_id=event.trace_id,
        run_id=event.run_id,
        duration_ms=event.duration_ms,
        data=event,
    )
