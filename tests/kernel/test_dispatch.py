"""What an operation does with its hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from kaizen import Event, HookManager, Priority, hookimpl
from kaizen._dispatch import compile_operation
from kaizen.errors import HookExecutionError, HookTimeoutError

pytestmark = pytest.mark.anyio

Call = Callable[[Any], Awaitable[Any]]


async def work(request: Any) -> str:
    return f"done {request}"


def make_event(**fields: Any) -> Event:
    known = {
        name: fields[name]
        for name in ("metadata", "duration_ms", "error")
        if name in fields
    }
    return Event(agent_id="a", run_id="r", trace_id="t", timestamp=0.0, **known)


def compiled(*plugins: object, timeout_s: float = 5.0, trace: bool = False) -> Any:
    manager = HookManager(timeout_s=timeout_s, trace=trace)
    for rank, plugin in enumerate(plugins):
        manager.add(plugin, name=f"{type(plugin).__name__}-{rank}", rank=rank)
    return manager, compile_operation("cycle", work, [manager], make_event)


async def test_without_hooks_the_operation_is_the_bare_work() -> None:
    _, operation = compiled()
    assert operation is work


async def test_the_first_middleware_is_outermost() -> None:
    trail: list[str] = []

    def named(name: str) -> object:
        class Around:
            @hookimpl
            async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
                trail.append(f"{name} in")
                result = await call_next(request)
                trail.append(f"{name} out")
                return result

        return Around()

    _, operation = compiled(named("a"), named("b"))
    assert await operation("it") == "done it"
    assert trail == ["a in", "b in", "b out", "a out"]


async def test_middleware_may_change_the_request_and_the_result() -> None:
    class Change:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            return f"<{await call_next(request + '!')}>"

    _, operation = compiled(Change())
    assert await operation("it") == "<done it!>"


async def test_middleware_may_answer_itself_or_call_again() -> None:
    class Answer:
        @hookimpl
        async def wrap_cycle(self, request: Any) -> Any:
            return "answered"

    class Twice:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            return [await call_next(1), await call_next(2)]

    assert await compiled(Answer())[1]("it") == "answered"
    assert await compiled(Twice())[1]("it") == ["done 1", "done 2"]


async def test_plain_functions_serve_as_middleware() -> None:
    class Pass:
        @hookimpl
        def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            return call_next(f"{request} passed")

    class Answer:
        @hookimpl
        def wrap_cycle(self) -> Any:
            return "answered"

    assert await compiled(Pass())[1]("it") == "done it passed"
    assert await compiled(Answer())[1]("it") == "answered"


async def test_an_error_in_middleware_stops_the_operation() -> None:
    reached = False

    class Gate:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            raise RuntimeError("the gate is broken")

    class Inner:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            nonlocal reached
            reached = True
            return await call_next(request)

    _, operation = compiled(Gate(), Inner())
    with pytest.raises(RuntimeError, match="the gate is broken"):
        await operation("it")
    assert not reached


async def test_an_error_of_middleware_says_whose_it_is() -> None:
    class Outer:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            return await call_next(request)

    class Gate:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            if request == "own":
                raise RuntimeError("the gate is broken")
            await call_next(request)

    class Inner:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            return await call_next(request)

    async def broken(request: Any) -> str:
        raise RuntimeError("the work is broken")

    manager = HookManager()
    for plugin in (Outer(), Gate(), Inner()):
        manager.add(plugin, name=type(plugin).__name__.lower())
    operation = compile_operation("cycle", broken, [manager], make_event)
    with pytest.raises(RuntimeError) as own:
        await operation("own")
    with pytest.raises(RuntimeError) as other:
        await operation("other")
    assert own.value.__notes__ == ["raised by plugin 'gate' in hook 'wrap_cycle'"]
    assert not hasattr(other.value, "__notes__")


async def test_observers_see_the_operation_from_both_sides() -> None:
    seen: list[tuple[str, float | None]] = []

    class Watch:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            event.metadata["left by"] = "pre"
            seen.append(("pre", event.duration_ms))

        @hookimpl
        def post_cycle(self, event: Event) -> None:
            assert event.metadata["left by"] == "pre"
            seen.append(("post", event.duration_ms))

    _, operation = compiled(Watch())
    assert await operation("it") == "done it"
    assert [name for name, _ in seen] == ["pre", "post"]
    assert seen[0][1] is None
    assert seen[1][1] is not None
    assert seen[1][1] >= 0


async def test_post_observers_are_told_of_errors() -> None:
    errors: list[BaseException | None] = []

    class Watch:
        @hookimpl
        async def post_cycle(self, event: Event) -> None:
            errors.append(event.error)

    class Break:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            raise ValueError("broken")

    _, operation = compiled(Watch(), Break())
    with pytest.raises(ValueError, match="broken"):
        await operation("it")
    assert isinstance(errors[0], ValueError)


async def test_post_observers_are_told_of_a_cancellation() -> None:
    told = False

    class Watch:
        @hookimpl
        async def post_cycle(self, event: Event) -> None:
            nonlocal told
            await anyio.lowlevel.checkpoint()
            told = True

    class Hang:
        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            await anyio.sleep_forever()

    _, operation = compiled(Watch(), Hang())
    with anyio.move_on_after(0.01) as scope:
        await operation("it")
    assert scope.cancelled_caught
    assert told


async def test_an_observer_that_raises_is_reported_and_the_rest_goes_on() -> None:
    told: list[str] = []

    class Broken:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            raise ValueError("broken observer")

    class Fine:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            told.append("fine")

    manager, operation = compiled(Broken(), Fine())
    assert await operation("it") == "done it"
    assert told == ["fine"]
    (problem,) = manager.problems
    assert isinstance(problem, HookExecutionError)
    assert "Broken-0" in str(problem)
    assert "broken observer" in str(problem)


async def test_an_observer_that_outlives_its_timeout_is_reported_and_the_rest_goes_on() -> (
    None
):
    told: list[str] = []

    class Endless:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            await anyio.sleep_forever()

    class Fine:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            await anyio.lowlevel.checkpoint()
            told.append("fine")

    manager, operation = compiled(Fine(), Endless(), Fine(), timeout_s=0.02)
    assert await operation("it") == "done it"
    assert told == ["fine", "fine"]
    (problem,) = manager.problems
    assert isinstance(problem, HookTimeoutError)
    assert "Endless-1" in str(problem)


async def test_each_observer_has_its_own_time() -> None:
    class Slow:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            await anyio.sleep(0.06)

    manager, operation = compiled(*(Slow() for _ in range(4)), timeout_s=0.15)
    await operation("it")
    assert manager.problems == []


async def test_an_observer_that_swallows_its_cancellation_is_reported() -> None:
    class Stubborn:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            try:
                await anyio.sleep_forever()
            except BaseException:  # noqa: BLE001
                return

    manager, operation = compiled(Stubborn(), timeout_s=0.01)
    assert await operation("it") == "done it"
    assert isinstance(manager.problems[0], HookTimeoutError)


async def test_cancelling_during_an_observer_cancels_the_operation() -> None:
    class Endless:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            await anyio.sleep_forever()

    manager, operation = compiled(Endless())
    with anyio.move_on_after(0.01) as scope:
        await operation("it")
    assert scope.cancelled_caught
    assert manager.problems == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_observer_that_awaits_what_was_cancelled_is_reported() -> None:
    told: list[str] = []

    class AwaitsOther:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            other = asyncio.ensure_future(asyncio.Event().wait())
            asyncio.get_running_loop().call_soon(other.cancel)
            await other

    class Fine:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            told.append("fine")

    manager, operation = compiled(AwaitsOther(), Fine())
    assert await operation("it") == "done it"
    assert told == ["fine"]
    assert "raised CancelledError" in str(manager.problems[0])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_loops_own_cancellation_passes_through_an_observer() -> None:
    waiting = asyncio.Event()

    class Endless:
        @hookimpl
        async def pre_cycle(self, event: Event) -> None:
            waiting.set()
            await anyio.sleep_forever()

    manager, operation = compiled(Endless())
    task = asyncio.ensure_future(operation("it"))
    with anyio.fail_after(5):
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert manager.problems == []


async def test_the_agents_hooks_are_merged_with_the_kernels_by_priority() -> None:
    trail: list[str] = []

    def named(name: str, priority: Priority) -> object:
        class Watch:
            @hookimpl(priority=priority)
            async def pre_cycle(self, event: Event) -> None:
                trail.append(name)

        return Watch()

    kernel, agent = HookManager(), HookManager()
    kernel.add(named("kernel", Priority.NORMAL), name="k")
    agent.add(named("agent", Priority.HIGH), name="a")
    await compile_operation("cycle", work, [kernel, agent], make_event)("it")
    assert trail == ["agent", "kernel"]


async def test_tracing_writes_each_hook_that_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Watch:
        @hookimpl
        def pre_cycle(self, event: Event) -> None: ...

        @hookimpl
        async def wrap_cycle(self, request: Any, call_next: Call) -> Any:
            return await call_next(request)

    _, operation = compiled(Watch(), trace=True)
    assert await operation("it") == "done it"
    written = capsys.readouterr().err
    assert "pre_cycle Watch-0" in written
    assert "wrap_cycle Watch-0" in written


async def test_tracing_is_turned_on_by_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAIZEN_TRACE_HOOKS", "1")
    assert HookManager().trace
    monkeypatch.setenv("KAIZEN_TRACE_HOOKS", "0")
    assert not HookManager().trace
