"""Starting, stopping and failing in good order: whole plugins, and nobody's error lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from kaizen import (
    AgentConfig,
    HookManager,
    Kernel,
    MemoryStore,
    PluginSettings,
    Priority,
    Provider,
    Registry,
    hookimpl,
)
from kaizen._dispatch import compile_operation, notify, observers
from kaizen.errors import AgentCreationError, InitializationError, PluginError
from kaizen.events import Event
from pydantic import field_validator

pytestmark = pytest.mark.anyio


def alone(*plugins: object, **options: Any) -> Kernel:
    return Kernel(
        **{
            "plugins": plugins,
            "discover": False,
            "config_file": False,
            "environ": {},
            **options,
        }
    )


def event(**fields: Any) -> Event:
    return Event(agent_id="a", run_id="r", trace_id="t", timestamp=0.0, metadata={})


def store_plugin(trail: list[str]) -> object:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[list[str]]:
        trail.append("store opens")
        try:
            yield trail
            trail.append("store closes")
        except BaseException:
            trail.append("store is cut off")
            raise

    class StorePlugin:
        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            yield
            trail.append("store plugin leaves")

        @hookimpl
        def contribute(self, registry: Registry) -> None:
            registry.add(MemoryStore, "it", opened)

    return StorePlugin()


def writer_plugin(trail: list[str]) -> object:
    class WriterPlugin:
        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            await kernel.get(MemoryStore, "it")  # type: ignore[type-abstract]
            try:
                yield
            finally:
                store: Any = await kernel.get(MemoryStore, "it")
                store.append("writer flushes")

    return WriterPlugin()


async def test_what_was_opened_outlives_its_users_and_not_who_brought_it() -> None:
    trail: list[str] = []
    async with alone(store_plugin(trail), writer_plugin(trail)):
        pass
    assert trail == ["store opens", "writer flushes", "store closes", "store plugin leaves"]


async def test_what_was_opened_is_closed_in_order_also_when_the_start_fails() -> None:
    trail: list[str] = []

    class LastPlugin:
        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            raise OSError("no disk")
            yield

    with pytest.raises(PluginError, match="no disk"):
        async with alone(store_plugin(trail), writer_plugin(trail), LastPlugin()):
            pass
    assert trail[:3] == ["store opens", "writer flushes", "store closes"]


async def test_an_implementation_that_died_is_opened_anew() -> None:
    opened: list[anyio.Event] = []

    @asynccontextmanager
    async def fragile() -> AsyncGenerator[int]:
        fail = anyio.Event()
        opened.append(fail)

        async def work() -> None:
            await fail.wait()
            raise OSError("connection lost")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            yield len(opened)
            tasks.cancel_scope.cancel()

    class FragilePlugin:
        @hookimpl
        def contribute(self, registry: Registry) -> None:
            registry.add(Provider, "it", fragile)

    async with alone(FragilePlugin) as kernel:
        first: object = await kernel.get(Provider, "it")
        opened[0].set()
        second = first
        with anyio.fail_after(5):
            while second == first:
                await anyio.lowlevel.checkpoint()
                second = await kernel.get(Provider, "it")
    assert (first, second) == (1, 2)


async def test_hooks_that_cannot_be_specified_name_their_plugin() -> None:
    class EmptyPlugin:
        hookspecs = dict

    with pytest.raises(PluginError, match="'empty' brings hooks that cannot be added"):
        async with alone(EmptyPlugin):
            pass
    async with alone(EmptyPlugin, on_plugin_error="skip") as kernel:
        assert [each.status for each in kernel.plugins] == ["failed"]


async def test_a_contribution_that_is_a_coroutine_is_refused() -> None:
    class LatePlugin:
        @hookimpl
        async def contribute(self, registry: Registry) -> None: ...

    with pytest.raises(PluginError, match="would offer nothing"):
        async with alone(LatePlugin):
            pass


async def test_a_lifespan_that_is_no_context_manager_is_refused() -> None:
    class PlainPlugin:
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            yield

    with pytest.raises(PluginError, match=r"contextlib\.asynccontextmanager"):
        async with alone(PlainPlugin):
            pass


async def test_a_kernel_that_is_starting_cannot_be_started_again() -> None:
    entered: list[int] = []

    class SlowPlugin:
        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            entered.append(1)
            await anyio.wait_all_tasks_blocked()
            yield

    kernel = alone(SlowPlugin)
    refused: list[InitializationError] = []

    async def enter() -> None:
        try:
            async with kernel:
                pass
        except InitializationError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
    assert len(entered) == len(refused) == 1


async def test_an_error_while_a_plugin_stops_says_whose_it_is() -> None:
    class FlushPlugin:
        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            yield
            raise RuntimeError("cannot flush")

    with pytest.raises(RuntimeError) as caught:
        async with alone(FlushPlugin):
            pass
    assert caught.value.__notes__ == ["raised by plugin 'flush' while it stopped"]


async def test_an_error_of_the_application_is_nobody_elses() -> None:
    class GoodPlugin:
        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            yield

    with pytest.raises(KeyError) as caught:
        async with alone(GoodPlugin):
            raise KeyError("mine")
    assert not hasattr(caught.value, "__notes__")


# Secrets.


class SecretPlugin:
    class Settings(PluginSettings):
        size: int = 1
        key: str = ""

        @field_validator("key")
        @classmethod
        def _check(cls, value: str) -> str:
            if value and not value.startswith("sk-"):
                raise ValueError(f"{value!r} is no key")
            return value

    def __init__(self, settings: Settings) -> None: ...


def chain(error: BaseException | None) -> str:
    """Everything that an error reporter would find."""
    told = []
    while error is not None:
        told.append(f"{error} {error!r} {getattr(error, 'errors', lambda: '')()}")
        error = error.__cause__ or error.__context__
    return " ".join(told)


@pytest.mark.parametrize("settings", [{"size": "hunter2"}, {"key": "hunter2"}])
async def test_no_value_is_told_anywhere_in_the_chain_of_errors(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(PluginError) as caught:
        async with alone(SecretPlugin, settings={"secret": settings}):
            pass
    assert "hunter2" not in chain(caught.value)
    assert next(iter(settings)) in str(caught.value)


async def test_an_agents_configuration_tells_no_value() -> None:
    with pytest.raises(AgentCreationError) as caught:
        AgentConfig.extract({"temperature": "hunter2"})
    assert "hunter2" not in chain(caught.value)
    config = AgentConfig(provider_config={"api_key": "hunter2"})
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(config.model_settings)


# Order, and shapes of hooks.


async def test_a_kernels_hooks_come_before_an_agents_of_equal_priority() -> None:
    trail: list[str] = []

    def watch(name: str, priority: Priority = Priority.NORMAL) -> object:
        class Watch:
            @hookimpl(priority=priority)
            def pre_cycle(self) -> None:
                trail.append(name)

        return Watch()

    kernel, agent = HookManager(), HookManager()
    kernel.add(watch("kernel late"), name="z", rank=9)
    agent.add(watch("agent"), name="a", rank=0)
    agent.add(watch("agent first", Priority.HIGH), name="b", rank=1)
    await notify(observers("pre_cycle", [kernel, agent]), event())
    assert trail == ["agent first", "kernel late", "agent"]


async def test_an_agents_hooks_have_the_time_that_the_kernel_gives() -> None:
    class Slow:
        @hookimpl
        async def pre_cycle(self) -> None:
            await anyio.sleep_forever()

    class Own:
        @hookimpl
        def pre_cycle(self) -> None:
            raise TimeoutError("my own")

    kernel, agent = HookManager(timeout_s=0.02), HookManager()
    agent.add(Slow())
    agent.add(Own())
    with anyio.fail_after(3):
        await notify(observers("pre_cycle", [kernel, agent]), event())
    assert [each.code for each in agent.problems] == ["HOOK_003", "HOOK_002"]
    assert "my own" in str(agent.problems[0])
    assert "took longer than 0.02 s" in str(agent.problems[1])


async def test_a_plain_observer_may_return_what_has_to_be_awaited() -> None:
    told: list[str] = []

    async def later() -> None:
        told.append("told")

    class Wrapped:
        @hookimpl
        def pre_cycle(self, event: Event) -> Any:
            return later()

    manager = HookManager()
    manager.add(Wrapped())
    await notify(observers("pre_cycle", [manager]), event())
    assert told == ["told"]


async def test_middleware_gets_its_parameters_by_name() -> None:
    class Turned:
        @hookimpl
        async def wrap_cycle(self, call_next: Callable[..., Any], request: Any) -> Any:
            return await call_next(f"{request} turned")

    async def work(request: Any) -> str:
        return f"done {request}"

    manager = HookManager()
    manager.add(Turned())
    operation = compile_operation("cycle", work, [manager], event)
    assert await operation("it") == "done it turned"


def test_names_that_are_given_are_the_same_each_time() -> None:
    class Watch:
        @hookimpl
        def pre_cycle(self) -> None: ...

    def names() -> tuple[str, ...]:
        manager = HookManager()
        return (manager.add(Watch()), manager.add(Watch()))

    assert names() == names() == ("Watch-1", "Watch-2")
