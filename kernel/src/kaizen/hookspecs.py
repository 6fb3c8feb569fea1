"""Every point where a plugin may act, in the order in which a run reaches them.

    contribute                                  the kernel starts: offer implementations
    pre_agent_init      post_agent_init         an agent is used for the first time
    pre_agent_loop      post_agent_loop         wrap_agent_loop        one whole run
      pre_cycle         post_cycle              wrap_cycle             one turn of its loop
        pre_model_call  post_model_call         wrap_model_call        one model request
        pre_tool_call   post_tool_call          wrap_tool_call         one tool call
      pre_checkpoint_save, post_checkpoint_save, wrap_checkpoint_save  one snapshot
    pre_interrupt       post_interrupt          a run stops on request

`pre_*` and `post_*` are **observers**: they are told, and cannot change the outcome. One
that raises or outlives its timeout is reported, and the agent goes on.

`wrap_*` are **middleware**: they get a frozen request and the rest of the chain, and decide
what happens. They may pass on a changed copy, call the rest again to retry, or answer
themselves. An error in one stops the operation: a gate that fails stays shut.

Write `def` or `async def`, and take only the parameters that you need. The order is by
`Priority`, then by the order in `kaizen.toml`, then by name; the first is asked first and
is outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import pluggy

from kaizen.events import (
    AgentInitEvent,
    AgentLoopEvent,
    CheckpointEvent,
    CycleEvent,
    InterruptEvent,
    ModelCallEvent,
    ToolCallEvent,
)
from kaizen.messages import ModelReply, ModelRequest
from kaizen.operations import (
    Checkpoint,
    CheckpointRequest,
    CycleRequest,
    CycleResult,
    Result,
    RunRequest,
)
from kaizen.tools import ToolCall, ToolResult

if TYPE_CHECKING:
    from kaizen.registry import Registry

__all__ = [
    "AgentLoop",
    "CallNext",
    "CheckpointSave",
    "Cycle",
    "ModelCall",
    "contribute",
    "post_agent_init",
    "post_agent_loop",
    "post_checkpoint_save",
    "post_cycle",
    "post_interrupt",
    "post_model_call",
    "post_tool_call",
    "pre_agent_init",
    "pre_agent_loop",
    "pre_checkpoint_save",
    "pre_cycle",
    "pre_interrupt",
    "pre_model_call",
    "pre_tool_call",
    "wrap_agent_loop",
    "wrap_checkpoint_save",
    "wrap_cycle",
    "wrap_model_call",
    "wrap_tool_call",
]

AgentLoop: TypeAlias = Callable[[RunRequest], Awaitable[Result]]
Cycle: TypeAlias = Callable[[CycleRequest], Awaitable[CycleResult]]
ModelCall: TypeAlias = Callable[[ModelRequest], Awaitable[ModelReply]]
CallNext: TypeAlias = Callable[[ToolCall], Awaitable[ToolResult]]
CheckpointSave: TypeAlias = Callable[[CheckpointRequest], Awaitable[Checkpoint]]

hookspec = pluggy.HookspecMarker("kaizen")


@hookspec
def contribute(registry: Registry) -> None:
    """Offer implementations of ports, while the kernel starts.

    Not a coroutine, and without I/O: what has to be opened is given as a factory, and
    opened when it is first asked for.

    Args:
        registry: Where they are added. What a plugin adds goes when the plugin goes.
    """
    raise NotImplementedError


@hookspec
async def pre_agent_init(event: AgentInitEvent) -> None:
    """Be told that an agent is about to be used for the first time with this kernel.

    Args:
        event: The agent's configuration and signature.
    """
    raise NotImplementedError


@hookspec
async def post_agent_init(event: AgentInitEvent) -> None:
    """Be told that an agent is ready, or why it is not.

    Args:
        event: The agent's configuration and signature; `error` if it cannot be used.
    """
    raise NotImplementedError


@hookspec
async def pre_agent_loop(event: AgentLoopEvent) -> None:
    """Be told that a run begins.

    Args:
        event: The run's inputs, validated.
    """
    raise NotImplementedError


@hookspec
async def wrap_agent_loop(request: RunRequest, call_next: AgentLoop) -> Result:
    """Act before, after or instead of one whole run.

    Args:
        request: The run's inputs. Changed inputs are validated again.
        call_next: The rest of the chain, then the run. Call it at most once: a run has one
            log.

    Returns:
        The result that the middleware outside yours, or the caller of the agent, will see.
    """
    raise NotImplementedError


@hookspec
async def post_agent_loop(event: AgentLoopEvent) -> None:
    """Be told that a run has ended, also when it failed or was cancelled.

    Args:
        event: The run's inputs, its duration, and its result or error.
    """
    raise NotImplementedError


@hookspec
async def pre_cycle(event: CycleEvent) -> None:
    """Be told that a turn of the loop begins.

    Args:
        event: Which turn.
    """
    raise NotImplementedError


@hookspec
async def wrap_cycle(request: CycleRequest, call_next: Cycle) -> CycleResult:
    """Act before, after or instead of one turn: a model call and its tool calls.

    Args:
        request: Which turn, and what is added to the conversation before it.
        call_next: The rest of the chain, then the turn.

    Returns:
        What the loop goes on with. A reply without tool calls ends it.
    """
    raise NotImplementedError


@hookspec
async def post_cycle(event: CycleEvent) -> None:
    """Be told that a turn has ended.

    Args:
        event: Which turn, its duration, and its result or error.
    """
    raise NotImplementedError


@hookspec
async def pre_model_call(event: ModelCallEvent) -> None:
    """Be told that a model is about to be asked.

    Args:
        event: The request, as it was before any middleware.
    """
    raise NotImplementedError


@hookspec
async def wrap_model_call(request: ModelRequest, call_next: ModelCall) -> ModelReply:
    """Act before, after or instead of one model call.

    Await `call_next(request)` once to pass the request on, again to retry it, or not
    at all to answer from a cache. To change the request, pass on a changed copy.

    Args:
        request: What is about to be sent. Frozen; use `dataclasses.replace`.
        call_next: The rest of the chain: the middleware inside yours, then the model.

    Returns:
        The reply that the middleware outside yours, or the kernel, will see.
    """
    raise NotImplementedError


@hookspec
async def post_model_call(event: ModelCallEvent) -> None:
    """Be told that a model has answered, or why not.

    Args:
        event: The request, its duration, and the reply or the error.
    """
    raise NotImplementedError


@hookspec
async def pre_tool_call(event: ToolCallEvent) -> None:
    """Be told that a tool is about to be called. To veto it, wrap it.

    Args:
        event: The call, as it was before any middleware.
    """
    raise NotImplementedError


@hookspec
async def wrap_tool_call(call: ToolCall, call_next: CallNext) -> ToolResult:
    """Change, refuse, retry or answer one tool call: the hook for permissions and approval.

    Only middleware may change a tool call. Pass on a copy with other arguments, which are
    validated again; pass on `call.granted(by=…)` to let a tool run that needs a grant;
    raise `ToolRefusedError` to refuse; do not call `call_next` to answer in the tool's
    place.

    Args:
        call: What is about to be called. Frozen; use `dataclasses.replace`.
        call_next: The rest of the chain: the middleware inside yours, then the tool.

    Returns:
        The result that the middleware outside yours, and then the model, will see.
    """
    raise NotImplementedError


@hookspec
async def post_tool_call(event: ToolCallEvent) -> None:
    """Be told what came of a tool call, also when it was refused.

    Args:
        event: The call, its duration, and its result or error.
    """
    raise NotImplementedError


@hookspec
async def pre_checkpoint_save(event: CheckpointEvent) -> None:
    """Be told that a snapshot is about to be taken.

    Args:
        event: Which run, and what the snapshot is for.
    """
    raise NotImplementedError


@hookspec
async def wrap_checkpoint_save(
    request: CheckpointRequest, call_next: CheckpointSave
) -> Checkpoint:
    """Act before, after or instead of one snapshot.

    Args:
        request: Which run, and what the snapshot is for.
        call_next: The rest of the chain, then the snapshot.

    Returns:
        The snapshot that the caller will see.
    """
    raise NotImplementedError


@hookspec
async def post_checkpoint_save(event: CheckpointEvent) -> None:
    """Be told that a snapshot has been taken, or why not.

    Args:
        event: Which run, the duration, and the snapshot or the error.
    """
    raise NotImplementedError


@hookspec
async def pre_interrupt(event: InterruptEvent) -> None:
    """Be told that a run is about to stop on request.

    Args:
        event: The reason.
    """
    raise NotImplementedError


@hookspec
async def post_interrupt(event: InterruptEvent) -> None:
    """Be told that a run has stopped on request; its history is valid now.

    Args:
        event: The reason.
    """
    raise NotImplementedError
