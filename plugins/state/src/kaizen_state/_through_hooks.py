"""Takes a checkpoint outside a run through the hooks that see those of runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from time import perf_counter, time
from typing import Any

import anyio
from kaizen import (
    Checkpoint,
    CheckpointEvent,
    CheckpointRequest,
    HookExecutionError,
    HookManager,
)
from kaizen.hooks import DEFAULT_TIMEOUT_S, Implementation

__all__ = ["save_through_hooks"]


async def save_through_hooks(
    managers: Sequence[HookManager],
    request: CheckpointRequest,
    save: Callable[[CheckpointRequest], Awaitable[Checkpoint]],
) -> Checkpoint:
    """Save, with the observers and the middleware of `checkpoint_save` around it.

    Observers that fail are reported; an error in middleware stops the operation.
    """
    metadata: dict[str, Any] = {}
    await _tell(managers, "pre_checkpoint_save", _event(request, metadata))
    started = perf_counter()
    error: BaseException | None = None
    result: Checkpoint | None = None
    try:
        result = await _chain(managers, save)(request)
        return result
    except BaseException as raised:
        error = raised
        raise
    finally:
        spent = (perf_counter() - started) * 1_000
        event = _event(request, metadata, duration_ms=spent, result=result, error=error)
        with anyio.CancelScope(shield=error is not None):  # each observer has its own time
            await _tell(managers, "post_checkpoint_save", event)


def _event(
    request: CheckpointRequest, metadata: dict[str, Any], **fields: Any
) -> CheckpointEvent:
    return CheckpointEvent(
        agent_id=request.agent_id,
        run_id=request.run_id,
        trace_id="",
        timestamp=time(),
        metadata=metadata,
        request=request,
        **fields,
    )


def _chain(
    managers: Sequence[HookManager],
    save: Callable[[CheckpointRequest], Awaitable[Checkpoint]],
) -> Callable[[CheckpointRequest], Awaitable[Checkpoint]]:
    chain = save
    links = _ordered(managers, "wrap_checkpoint_save")
    for each, _ in reversed(links):
        chain = _link(each, chain)
    return chain


def _link(
    each: Implementation, call_next: Callable[[CheckpointRequest], Awaitable[Checkpoint]]
) -> Callable[[CheckpointRequest], Awaitable[Checkpoint]]:
    async def call(request: CheckpointRequest) -> Checkpoint:
        given: dict[str, Any] = {"request": request, "call_next": call_next}
        outcome = each.function(*(given[name] for name in each.accepts))
        reply = await outcome if isawaitable(outcome) else outcome
        if not isinstance(reply, Checkpoint):
            raise HookExecutionError(
                f"hook {each.hook!r} of {each.plugin!r}",
                f"returned {type(reply).__name__!r} instead of 'Checkpoint'",
                "Write `return await call_next(…)`.",
            )
        return reply

    return call


async def _tell(managers: Sequence[HookManager], hook: str, event: CheckpointEvent) -> None:
    default_s = (managers[0].timeout_s if managers else None) or DEFAULT_TIMEOUT_S
    for each, manager in _ordered(managers, hook):
        limit = manager.timeout_s or default_s
        try:
            with anyio.fail_after(limit):
                outcome = each.function(*([event] if each.accepts else []))
                if isawaitable(outcome):
                    await outcome
        except Exception as error:  # noqa: BLE001 - observers fail open, and reported
            manager.report(manager.failure(each, error, limit))


def _ordered(
    managers: Sequence[HookManager], hook: str
) -> list[tuple[Implementation, HookManager]]:
    found = [
        (each, manager) for manager in managers for each in manager.implementations(hook)
    ]
    return sorted(found, key=lambda pair: pair[0].order[0])
