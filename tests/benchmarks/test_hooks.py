"""What hooks cost: nothing without any, and little for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import anyio
import pluggy
from kaizen import Event, HookManager, ModelCall, ModelReply, ModelRequest, hookimpl
from kaizen._dispatch import compile_operation

from tests.benchmarks._measure import (
    Subject,
    awaited,
    called,
    interleave,
    ratio,
    slope,
    unit,
)
from tests.benchmarks._table import Row, Table

FEW, MANY = 10, 30

REQUEST = ModelRequest(messages=(), run_id="run", agent_id="agent", cycle=1)
REPLY = ModelReply(text="hello")
EVENT = Event(agent_id="agent", run_id="run", trace_id="run", timestamp=0.0, metadata={})


class Observing:
    @hookimpl
    async def pre_model_call(self, event: Event) -> None: ...


class Passing:
    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        return await call_next(request)


async def answer(request: ModelRequest) -> ModelReply:
    return REPLY


def told(**fields: Any) -> Event:
    return EVENT


def operation(plugin: Callable[[], object] | None = None, count: int = 0) -> Subject:
    """An operation that does next to nothing, with some implementations of a hook."""
    hooks = HookManager(trace=False)
    for number in range(count):
        assert plugin is not None
        hooks.add(plugin(), name=f"plugin {number:02}")
    run: Callable[[ModelRequest], Awaitable[ModelReply]]
    run = compile_operation("model_call", answer, [hooks], told)
    return awaited(lambda: run(REQUEST))


def plain_pluggy(count: int) -> Subject:
    """A call of pluggy's own, with some implementations that are no coroutines."""
    specify, implement = pluggy.HookspecMarker("plain"), pluggy.HookimplMarker("plain")

    class Specification:
        @specify
        def told(self, event: Event) -> None: ...

    class Implementation:
        @implement
        def told(self, event: Event) -> None: ...

    manager = pluggy.PluginManager("plain")
    manager.add_hookspecs(Specification)
    for _ in range(count):
        manager.register(Implementation())
    return called(lambda: manager.hook.told(event=EVENT))


def test_hooks(table: Table) -> None:
    subjects = {
        "unit": unit,
        "bare": operation(),
        "observer few": operation(Observing, FEW),
        "observer many": operation(Observing, MANY),
        "middleware few": operation(Passing, FEW),
        "middleware many": operation(Passing, MANY),
        "pluggy few": plain_pluggy(FEW),
        "pluggy many": plain_pluggy(MANY),
    }

    measured = anyio.run(interleave, subjects)

    one = measured["unit"]
    each = {
        name: slope(measured[f"{name} few"], measured[f"{name} many"], MANY - FEW)
        for name in ("observer", "middleware", "pluggy")
    }
    plain = ratio(each["pluggy"], one)
    table.saw_unit(one)
    table.add(
        Row(
            what="an operation without hooks",
            measured=ratio(measured["bare"], one),
            form="{:.3f} units",
            reach=0.1,
        ),
        Row(
            what="each async observer",
            measured=ratio(each["observer"], one),
            form="{:.3f} units",
            reach=0.025,
        ),
        Row(
            what="each middleware",
            measured=ratio(each["middleware"], one),
            form="{:.3f} units",
            reach=0.04,
        ),
        Row(
            what="for comparison: each plain function in pluggy's own call",
            measured=plain,
            form="{:.3f} units",
        ),
        Row(
            what="each async observer, against pluggy's plain function",
            measured=median(each["observer"]) / median(each["pluggy"]),
            form="{:.2f} ×",
            reach=1,
        ),
        Row(
            what="each middleware, against pluggy's plain function",
            measured=median(each["middleware"]) / median(each["pluggy"]),
            form="{:.2f} ×",
            reach=1,
        ),
    )
