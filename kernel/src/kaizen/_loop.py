"""The loop: what each operation of a run does when no hook changes it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import groupby
from time import perf_counter, time
from types import MappingProxyType
from typing import Any, TypeVar

import anyio
from anyio import CancelScope
from pydantic_core import PydanticSerializationError, from_json, to_json

from kaizen._asking import is_good
from kaizen._bounded import OutOfTimeError, bounded
from kaizen._dispatch import Observer, notify
from kaizen._plain import clean, plain
from kaizen._records import maker
from kaizen.errors import (
    AgentInterrupted,
    AgentTimeoutError,
    ClaimLostError,
    GracefulTimeoutError,
    KaizenError,
    ModelConnectionError,
    ModelError,
    OutcomeUnknownError,
    RunError,
    ToolArgumentsError,
    ToolError,
    ToolRefusedError,
    ToolTimeoutError,
    UnknownNameError,
)
from kaizen.events import InterruptEvent
from kaizen.interrupts import InterruptMode, InterruptReason
from kaizen.messages import Message, ModelDelta, ModelReply, ModelRequest, ToolUse, Usage
from kaizen.operations import (
    Checkpoint,
    CheckpointRequest,
    CycleRequest,
    CycleResult,
    Result,
    RunRequest,
)
from kaizen.ports import Provider
from kaizen.run import _CURRENT, _STEP, Decision, Run, current_run
from kaizen.runlog import (
    ChildEnded,
    Marked,
    MessageAdded,
    ModelCharged,
    ModelReplied,
    ModelRequested,
    OutcomeDecided,
    ReasoningDelta,
    Resumed,
    RunEnded,
    RunStarted,
    RunStatus,
    ToolFinished,
    ToolIntended,
)
from kaizen.tools import (
    Tool,
    ToolCall,
    ToolContext,
    ToolResult,
    ToolSpec,
    action_digest,
)

__all__ = [
    "agent_loop",
    "call_tool",
    "checkpoint_save",
    "cycle",
    "end_again",
    "execute",
    "execute_calls",
    "model_call",
    "reopen",
    "tool_call",
]

MAX_REPLY_CHARS = 1_000_000
MAX_ARGUMENT_CHARS = 1_000_000
MAX_TOOL_CALLS = 128
MAX_ID_CHARS = 256
MAX_NAME_CHARS = 64
MAX_ERROR_CHARS = 10_000
CLEANUP_S = 5.0
_LOG = logging.getLogger("kaizen")
_NOTHING = Usage()
_FREE = Decimal(0)
Value = TypeVar("Value")

# What every turn makes.
_cycle_result = maker(CycleResult)
_message = maker(Message)
_model_replied = maker(ModelReplied)
_model_request = maker(ModelRequest)
_model_requested = maker(ModelRequested)
_run_ended = maker(RunEnded)
_run_request = maker(RunRequest)
_run_started = maker(RunStarted)
_tool_call = maker(ToolCall)
_tool_finished = maker(ToolFinished)
_tool_intended = maker(ToolIntended)
_tool_result = maker(ToolResult)


async def execute(run: Run) -> Result:
    """Carry out a run from beginning to end and return its result.

    Raises:
        AgentInterrupted: It was asked to stop.
        AgentTimeoutError: It took longer than its configuration allows.
    """
    run._given = MappingProxyType(run.inputs)
    request = _run_request(run_id=run.id, agent_id=run.agent_id, inputs=run._given)
    result = await _guarded(run, run.plan.agent_loop(request))
    run.result = result
    _write_end(run, "completed", result.outputs)
    if run.plan.keeping is None:
        _let_go(run)
    else:
        await _let_go_kept(run)
    return result


async def execute_calls(run: Run, calls: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """Carry out a run that asks no model and only calls tools."""
    if run.ended:  # before it was read from its store: nothing is called any more
        return await calls()
    if run.past is None:
        _begin(run, "", direct=True)
    if run.plan.keeping is not None:
        run.plan.keeping.keeper.add(run.log, run.kernel._tasks, run.interrupt)
    value = await _guarded(run, calls())
    _write_end(run, "completed")
    await _let_go_kept(run)
    return value


def reopen(run: Run) -> None:
    """Let a run that was read from its store go on, as far as its log is concerned.

    Raises:
        OutcomeUnknownError: Calls were cut off, must not just be repeated, and nothing was
            decided about them.
    """
    keeping = run.plan.keeping
    owner = keeping.keeper.owner if keeping is not None else ""
    run.log.append(Resumed(seq=len(run.log.entries), at=time(), owner=owner))
    cut_off = list(run.state.pending.values())
    undecided = [
        each
        for each in cut_off
        if not _is_harmless(run, each) and _decision(run, each) is None
    ]
    if undecided:
        raise OutcomeUnknownError(
            ", ".join(_told_of(run, each) for each in undecided),
            f"of run {run.id!r} may have had its effect",
            "Find out, then resume with a decision: 'repeat' if it did nothing, 'done' if "
            "it did its work, 'skip' to go on without it.",
            tuple(f"{run.id}:{each.call_id}" for each in undecided),
        )
    for each in cut_off:
        decision = _decision(run, each)
        if decision is not None:
            _settle(run, each, decision)


def _is_harmless(run: Run, call: ToolIntended) -> bool:
    """Whether a call may just be repeated: the tool says so, and said so at that time."""
    spec = run.plan.spec_of.get(call.name)
    return call.idempotent and spec is not None and spec.effect.idempotent


def _told_of(run: Run, call: ToolIntended) -> str:
    told = f"call {call.call_id!r} of {call.name!r}"
    known = run.plan.definitions.get(call.name)
    if known is None:
        return f"{told} (which is a tool no more)"
    changed = bool(call.definition) and call.definition != known
    return f"{told} (which has changed since)" if changed else told


def _decision(run: Run, call: ToolIntended) -> Decision | None:
    """Return what the caller who resumed the run decided about a call.

    A decision for all calls is about those that must not just be repeated.
    """
    decisions = run.decisions
    if not isinstance(decisions, Mapping):
        return None if _is_harmless(run, call) else decisions
    return decisions.get(f"{run.id}:{call.call_id}") or decisions.get(call.call_id)


def _settle(run: Run, call: ToolIntended, decision: Decision) -> None:
    """Log a decision about a call that was cut off, and the result that follows from it."""
    run.log.append(
        OutcomeDecided(
            seq=len(run.log.entries),
            at=time(),
            call_id=call.call_id,
            decision=decision.action,
            by=decision.by,
        )
    )
    if decision.action == "repeat":
        return
    done = decision.action == "done"
    told = decision.content or ("Done." if done else "Error: it was not done.")
    result = ToolResult(
        call_id=call.call_id,
        name=call.name,
        success=done,
        content=_cut(clean(told), MAX_ARGUMENT_CHARS),
        outcome="known" if done else "not_made",
    )
    _finished(run, result, int(call.in_history))
    if run.past is not None:
        run.past.results[call.call_id] = result


async def _let_go_kept(run: Run) -> None:
    """Let go of a run that went well. Nobody hears of its end before it is kept."""
    keeping = run.plan.keeping
    soon = keeping is not None and keeping.durability == "async"
    problem = None
    if not (soon and keeping is not None and keeping.keeper.let_go_soon(run.log)):
        problem = await _keep(run)
    if problem is not None:
        run.result, run.error = None, problem
    _let_go(run)
    if problem is not None:
        raise problem


async def _guarded(run: Run, work: Awaitable[Value]) -> Value:
    """Do the work of a run inside its scope; if it fails, leave the run in good order."""
    token, step = _CURRENT.set(run), _STEP.set(())
    run._scope = scope = run.plan.new_scope()
    timeout = run.plan.config.timeout
    if timeout is not None:
        scope.deadline = anyio.current_time() + timeout
    try:
        with scope:
            if run.interrupted is not None:  # before it began
                if _is_immediate(run.interrupted):
                    scope.cancel()
                else:
                    run._hurry(scope)
            try:
                value = await work
            except Exception as error:
                if scope.cancel_called:
                    raise _stopped(run) from error
                raise
        if scope.cancel_called:
            raise _stopped(run)
        return value
    except BaseException as error:
        await _failed(run, error)
        raise
    finally:
        _CURRENT.reset(token)
        _STEP.reset(step)


async def agent_loop(request: RunRequest) -> Result:
    """Run the agent's strategy and account for what it did."""
    run = current_run()
    plan = run.plan
    signature = plan.signature
    if request.inputs is not run._given and run.past is None:
        run.inputs = signature.validate_inputs(dict(request.inputs))
    inputs = run.inputs
    if run.past is None:
        _begin(run, signature.render_inputs(inputs))
    elif run._begun:
        raise _begun_twice(run)
    else:
        run._begun = True
    if plan.keeping is not None:
        plan.keeping.keeper.add(run.log, plan.kernel._tasks, run.interrupt)
        if run.log.must_wait():
            await run.log.settle()
    strategy = plan.strategy
    outputs = await strategy.execute(signature.signature, inputs, plan.config)
    if not getattr(strategy, "validates", False):
        outputs = signature.validate_outputs(outputs)
    state = run.log.state
    return Result(
        outputs,
        run_id=run.id,
        cycles=state.cycles,
        tool_calls=state.tool_calls,
        usage=state.usage,
        cost_usd=state.cost_usd,
        duration_ms=(perf_counter() - run.started) * 1_000,
        messages=tuple(state.messages),
    )


async def cycle(request: CycleRequest) -> CycleResult:
    """Ask the model once and make the tool calls that it asks for."""
    run = current_run()
    plan = run.plan
    log = run.log
    known = None if run.past is None else run.past.take_reply(request.cycle)
    if known is not None:
        reply = known
    else:
        if request.added or log.state.steered:
            _add_messages(run, request)
        asked = _model_request(
            messages=tuple(log.state.messages),
            model=plan.config.model,
            tools=plan.specs,
            output=plan.output,
            settings=plan.settings,
            run_id=run.id,
            agent_id=request.agent_id,
            cycle=request.cycle,
        )
        if plan.keeping is None or plan.model_call is model_call:
            reply = await plan.model_call(asked)
        else:
            step = _STEP.set(("cycle", request.cycle, "model"))
            try:
                reply = await plan.model_call(asked)
            finally:
                _STEP.reset(step)
        if reply.tool_uses:
            reply = _with_distinct_calls(run, reply)
        _replied(run, request.cycle, reply)
        if plan.keeping is not None and not log.due and log.must_wait():
            await log.settle()
    run._replied = reply
    if not reply.tool_uses:
        return _cycle_result(reply=reply)
    make_calls = _make_calls if run.past is None else _make_other_calls
    try:
        results = await make_calls(run, request.cycle, reply.tool_uses)
    except BaseException:
        _answer_open_calls(run)
        raise
    return _cycle_result(reply=reply, tool_results=results)


def _add_messages(run: Run, request: CycleRequest) -> None:
    """Let messages join the conversation: the strategy's, and those that steer the run."""
    log = run.log
    added = request.added
    if added and run.past is not None:
        added = added[run.past.added(request.cycle) :]
    for message in added:
        log.append(
            MessageAdded(
                seq=len(log.entries), at=time(), message=message, cycle=request.cycle
            )
        )
    for each in log.state.steered:
        log.append(
            MessageAdded(
                seq=len(log.entries),
                at=time(),
                message=each.message,
                cycle=request.cycle,
                steer_id=each.steer_id,
            )
        )


async def model_call(request: ModelRequest) -> ModelReply:
    """Send one request to the provider."""
    run = current_run()
    plan = run.plan
    log = run.log
    if run._uncharged is not None:
        _charge_earlier(run)
    name, provider = plan.provider_name, plan.provider
    if request.provider and request.provider != name:
        name = request.provider
        provider = await plan.kernel.get(Provider, name)  # type: ignore[type-abstract]
    log.append(
        _model_requested(
            seq=len(log.entries),
            at=time(),
            cycle=request.cycle,
            provider=name,
            model=request.model,
        )
    )
    if plan.keeping is not None and not log.due and log.must_wait():
        await log.settle()
    try:
        if plan.config.stream or log.watched:
            reply = await _stream(run, provider, name, request)
        else:
            reply = await provider.complete(request)
    except ModelError as error:
        _charge_failed(run, error)
        raise
    if not isinstance(reply, ModelReply):
        raise ModelError(
            name, f"answered with {type(reply).__name__!r} instead of a ModelReply"
        )
    if run._uncharged is not None:
        _charge_earlier(run)
    run._uncharged = reply
    return reply


async def tool_call(call: ToolCall) -> ToolResult:
    """Call one tool, if it may run; its own failure is a result, not an error."""
    run = current_run()
    plan = run.plan
    tool = plan.tools.get(call.name)
    if tool is None:
        raise UnknownNameError("tool", call.name, plan.tools)
    spec = plan.spec_of[call.name]
    if call.name not in plan.free and call.grant is None:
        raise _ungranted(call.name, spec)
    arguments = _checked_again(run, tool, call) if plan.hooked else call.arguments
    approval = call.grant.approval if call.grant else ""
    if approval:
        _redeem(run, call, arguments, approval)
    log = run.log
    key = f"{run.id}:{call.id}"
    log.append(
        _tool_intended(
            seq=len(log.entries),
            at=time(),
            call_id=call.id,
            name=call.name,
            arguments=arguments,
            idempotency_key=key,
            idempotent=spec.effect.idempotent,
            cycle=call.cycle,
            grant=call.grant.by if call.grant else "",
            in_history=call.cycle > 0,
            approval=approval,
            definition=plan.definitions.get(call.name, ""),
        )
    )
    if plan.keeping is not None and not log.due and log.must_wait():
        await log.settle()
    context = ToolContext(run, call.id, key)
    started = perf_counter()
    result: ToolResult
    try:
        value = await bounded(
            tool.invoke(arguments, context), spec.timeout_s, plan.new_scope
        )
        content = _as_text(value, spec.max_output_chars)
    except AgentInterrupted as error:
        if run.interrupted is not None:  # a run inside the tool was stopped with this one
            raise
        result = _failure(call, error, (perf_counter() - started) * 1_000)
    except OutcomeUnknownError as error:
        if error.calls:  # of a run inside the tool: somebody has to decide
            raise
        result = _failure(call, error, (perf_counter() - started) * 1_000)
    except Exception as error:  # noqa: BLE001 - the model reads what went wrong
        result = _failure(call, error, (perf_counter() - started) * 1_000)
    else:
        result = _tool_result(
            call_id=call.id,
            name=call.name,
            success=True,
            result=value,
            content=content,
            duration_ms=(perf_counter() - started) * 1_000,
        )
    if plan.hooked:
        run._outcomes[call.id] = result.outcome
    return result


def _redeem(run: Run, call: ToolCall, arguments: Mapping[str, Any], approval: str) -> None:
    """Make sure that a person approved exactly what is about to be done, and that once.

    The approval is used up by the entry that announces the call: there is one log, and one
    process that may write it.

    Raises:
        ToolRefusedError: It was something else, or is no longer good.
    """
    answered = run.state.answers.get(approval)
    spec = run.plan.spec_of[call.name]
    about = replace(
        call, arguments=arguments, spec=spec, run_id=run.id, agent_id=run.agent_id
    )
    if answered is None or not answered.approved or answered.problem:
        problem = "was not approved"
    elif answered.action_digest != action_digest(about, run.principal):
        problem = "is not what was approved"
    elif approval in run.state.used:
        problem = "was approved once, and made already"
    elif not is_good(answered):
        problem = "was approved too long ago, or by another clock"
    else:
        return
    raise ToolRefusedError(
        f"this call of tool {call.name!r}", problem, "It needs an approval of its own."
    )


def _checked_again(run: Run, tool: Tool, call: ToolCall) -> Mapping[str, Any]:
    """Return arguments that have come through hooks; what these changed is checked."""
    known = run._validated.pop(call.id, None)
    if known is not None and known[0] is tool and known[2] is call.arguments:
        return known[1]
    return _validated(tool, dict(call.arguments))


async def checkpoint_save(request: CheckpointRequest) -> Checkpoint:
    """Mark the log, and make it durable up to there."""
    run = current_run()
    log = run.log
    seq = len(log.entries)
    mark_id = f"{run.id}:{seq}"
    log.append(
        Marked(
            seq=seq,
            at=time(),
            mark_id=mark_id,
            description=clean(request.description),
            metadata=plain("the metadata of a checkpoint", request.metadata),
        )
    )
    await log.flush()
    return Checkpoint(id=mark_id, run_id=run.id, seq=seq, description=request.description)


async def call_tool(
    run: Run, name: str, arguments: Mapping[str, Any] | str, *, call_id: str, cycle: int
) -> ToolResult:
    """Make one tool call through its hooks and log its result.

    What is wrong with the call or the tool becomes a result for the model to read. What
    goes wrong in a hook is raised, and the result says so.
    """
    plan = run.plan
    result: ToolResult | None = None
    try:
        call = _checked_call(run, name, arguments, call_id=call_id, cycle=cycle)
        if run.log.state.paused:
            await run.until_continued()
        if plan.keeping is None:
            result = await plan.tool_call(call)
        else:
            step = _STEP.set((call_id,))
            try:
                result = await plan.tool_call(call)
            finally:
                _STEP.reset(step)
        if result.call_id != call_id or result.name != name:
            result = replace(result, call_id=call_id, name=name)
    except (ToolError, ToolRefusedError, UnknownNameError) as error:
        result = _refusal(call_id, name, error)
        if call_id in run._outcomes:
            result = replace(result, outcome=run._outcomes[call_id])
        if isinstance(error, OutcomeUnknownError) and error.calls:
            _close(run, call_id, name, cycle)
            raise
    except AgentInterrupted as error:
        begun = call_id in run.state.pending
        result = _close(run, call_id, name, cycle)
        if run.interrupted is None:
            raise
        if begun and cycle:
            return result  # the rest of the turn is not stopped by that
        raise AgentInterrupted(run.interrupted, run.id) from error
    except BaseException:
        _close(run, call_id, name, cycle)
        raise
    finally:
        if plan.hooked:
            run._outcomes.pop(call_id, None)
    _finished(run, result, cycle)
    log = run.log
    if plan.keeping is not None and not log.due and log.must_wait():
        await log.settle()
    return result


def _checked_call(
    run: Run, name: str, arguments: Mapping[str, Any] | str, *, call_id: str, cycle: int
) -> ToolCall:
    """Return a call that fits its tool.

    Raises:
        UnknownNameError: There is no such tool, or it was not offered.
        ToolArgumentsError: The arguments do not fit.
    """
    plan = run.plan
    tool = plan.tools.get(name)
    if tool is None:
        raise UnknownNameError("tool", name[:64], plan.tools)
    if cycle and name not in plan.offered:
        raise UnknownNameError("tool", name[:64], plan.offered)
    validated = _validated(tool, _parse_arguments(name, arguments))
    shown: Mapping[str, Any] = validated
    if plan.hooked:
        shown = MappingProxyType(validated)
        run._validated[call_id] = (tool, validated, shown)
    return _tool_call(
        id=call_id,
        name=name,
        arguments=shown,
        spec=plan.spec_of[name],
        run_id=run.id,
        agent_id=run.agent_id,
        cycle=cycle,
    )


def _call_one(run: Run, cycle: int, use: ToolUse) -> Coroutine[Any, Any, ToolResult]:
    return call_tool(run, use.name, use.arguments, call_id=use.id, cycle=cycle)


async def _make_other_calls(
    run: Run, cycle: int, uses: Sequence[ToolUse]
) -> tuple[ToolResult, ...]:
    """Make the calls of one turn that have no result yet, and return all results."""
    assert run.past is not None
    known = run.past.results
    left = [use for use in uses if use.id not in known]
    made = {each.call_id: each for each in await _make_calls(run, cycle, left)}
    return tuple(made.get(use.id) or known[use.id] for use in uses)


async def _make_calls(
    run: Run, cycle: int, uses: Sequence[ToolUse]
) -> tuple[ToolResult, ...]:
    """Make calls: neighbours that only read at once, others in order."""
    if len(uses) == 1:
        return (await _call_one(run, cycle, uses[0]),)
    results: list[ToolResult] = []
    for only_read, group in groupby(uses, key=lambda use: _only_reads(run, use)):
        together = list(group)
        if only_read and len(together) > 1:
            results.extend(await _call_at_once(run, cycle, together))
        else:
            results.extend([await _call_one(run, cycle, use) for use in together])
    return tuple(results)


async def _call_at_once(run: Run, cycle: int, uses: Sequence[ToolUse]) -> list[ToolResult]:
    results: list[ToolResult | None] = [None] * len(uses)
    failures: list[Exception] = []

    async def call(place: int, use: ToolUse) -> None:
        try:
            results[place] = await _call_one(run, cycle, use)
        except Exception as error:  # noqa: BLE001 - raised again below, without a group
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for place, use in enumerate(uses):
            tasks.start_soon(call, place, use)
    if failures:
        raise failures[0]
    return [result for result in results if result is not None]


def _only_reads(run: Run, use: ToolUse) -> bool:
    tool = run.plan.tools.get(use.name)
    return tool is not None and not tool.spec.effect.writes


async def _stream(
    run: Run, provider: Provider, name: str, request: ModelRequest
) -> ModelReply:
    """Ask for a stream, pass its pieces on, and return the whole reply.

    An error of the provider says what the reader has read until then.
    """
    log = run.log
    read: list[str] = []
    reply: ModelReply | None = None
    stream = provider.stream(request)
    try:
        async for piece in stream:
            if not isinstance(piece, ModelDelta):
                reply = piece
                continue
            log.pulse += 1
            if piece.reasoning:
                log.publish(piece.reasoning, ReasoningDelta)
            if piece.text:
                log.publish(piece.text)
                read.append(piece.text)
        if reply is None:
            raise ModelConnectionError(name, "ended its stream without a reply")
    except ModelError as error:
        error.partial = replace(error.partial or ModelReply(), text="".join(read))
        raise
    finally:
        with CancelScope(shield=True, deadline=anyio.current_time() + CLEANUP_S):
            await stream.aclose()
    return reply


def _charge_failed(run: Run, error: ModelError) -> None:
    """Charge what an attempt consumed that failed on its way."""
    partial = error.partial
    if partial is None or (partial.usage == _NOTHING and partial.cost_usd is None):
        return
    run.add(ModelCharged, usage=partial.usage, cost_usd=partial.cost_usd)


def _begin(run: Run, content: Any, *, direct: bool = False) -> None:
    log = run.log
    if run._begun:
        raise _begun_twice(run)
    run._begun = True
    user = _message(role="user", content=content, origin="user")
    log.append(
        _run_started(
            seq=len(log.entries),
            at=time(),
            run_id=run.id,
            agent_id=run.agent_id,
            parent_id=run.parent.id if run.parent else "",
            trace_id=run.trace_id,
            session_id=run.session_id,
            inputs=run.inputs,
            messages=(*run.plan.opening, user),
            metadata=run.metadata,
            direct=direct,
        )
    )


def _begun_twice(run: Run) -> RunError:
    return RunError(
        f"run {run.id!r}",
        "was begun twice",
        "Call `call_next` once in `wrap_agent_loop`; retry in `wrap_model_call`.",
    )


def _replied(run: Run, cycle: int, reply: ModelReply) -> None:
    """Log the reply that joins the conversation, and charge what was paid for."""
    log = run.log
    text = reply.text if reply.text.isascii() else clean(reply.text)
    if len(text) > MAX_REPLY_CHARS:
        text = _cut(text, 1_000)
    uses = _to_keep(reply.tool_uses) if reply.tool_uses else ()
    usage, cost = reply.usage, reply.cost_usd
    paid = run._uncharged
    if paid is reply or _same_charge(paid, reply):
        run._uncharged = None
    else:
        _charge_earlier(run)
        usage, cost = _NOTHING, _FREE if reply.cached else None
    reasoning, data = reply.reasoning, reply.provider_data
    if reasoning:
        reasoning = _cut(clean(reasoning), MAX_REPLY_CHARS)
    if data is not None:  # a copy, as the log can hold it
        data = plain("the `provider_data` of a reply", data)
    log.append(
        _model_replied(
            seq=len(log.entries),
            at=time(),
            cycle=cycle,
            message=_message(
                role="assistant",
                content=text,
                tool_uses=uses,
                origin="model",
                provider_data=data,
            ),
            usage=usage,
            cost_usd=cost,
            finish_reason=reply.finish_reason,
            model=reply.model,
            reasoning=reasoning,
            cached=reply.cached,
        )
    )


def _same_charge(paid: ModelReply | None, reply: ModelReply) -> bool:
    """Whether a reply that was changed on its way still bears what was paid for."""
    if paid is None or paid.usage is not reply.usage:
        return False
    return paid.cost_usd is None or paid.cost_usd == reply.cost_usd


def _charge_earlier(run: Run) -> None:
    """Charge a reply that did not join the conversation, such as a failed attempt's."""
    paid, run._uncharged = run._uncharged, None
    if paid is not None:
        run.log.append(
            ModelCharged(
                seq=len(run.log.entries),
                at=time(),
                usage=paid.usage,
                cost_usd=paid.cost_usd,
            )
        )


def _with_distinct_calls(run: Run, reply: ModelReply) -> ModelReply:
    """Return a reply whose calls fit into a log and have ids that no other call has."""
    uses = reply.tool_uses
    known = run.log.state.call_ids
    if len(uses) == 1 and uses[0].id not in known and _fits(uses[0]):
        return reply
    if len(uses) > MAX_TOOL_CALLS:
        run.note("kernel", "tool_calls_dropped", {"dropped": len(uses) - MAX_TOOL_CALLS})
    taken = set(known)
    distinct = []
    for each in uses[:MAX_TOOL_CALLS]:
        use = each if _fits(each) else _fitting(each)
        call_id = use.id
        number = len(taken)
        while not call_id or call_id in taken:
            number += 1
            call_id = f"call_{number}"
        taken.add(call_id)
        distinct.append(use if call_id == use.id else replace(use, id=call_id))
    return replace(reply, tool_uses=tuple(distinct))


def _fits(use: ToolUse) -> bool:
    """Whether a call has an id, and neither id nor name is too long or odd."""
    return (
        0 < len(use.id) <= MAX_ID_CHARS
        and len(use.name) <= MAX_NAME_CHARS
        and use.id.isascii()
        and use.name.isascii()
    )


def _fitting(use: ToolUse) -> ToolUse:
    odd = len(use.id) > MAX_ID_CHARS or not use.id.isascii()
    return replace(use, id="" if odd else use.id, name=clean(use.name)[:MAX_NAME_CHARS])


def _to_keep(uses: tuple[ToolUse, ...]) -> tuple[ToolUse, ...]:
    """Return calls as the conversation keeps them: what no tool takes is cut."""
    for use in uses:
        text = use.arguments
        if isinstance(text, str) and not (
            len(text) <= MAX_ARGUMENT_CHARS and text.isascii()
        ):
            return tuple(_shortened(each) for each in uses)
    return uses


def _shortened(use: ToolUse) -> ToolUse:
    if not isinstance(use.arguments, str):
        return use
    text = clean(use.arguments)
    return replace(
        use, arguments=text if len(text) <= MAX_ARGUMENT_CHARS else _cut(text, 1_000)
    )


def _parse_arguments(name: str, arguments: Mapping[str, Any] | str) -> Mapping[str, Any]:
    if not isinstance(arguments, str):
        return arguments
    if len(arguments) > MAX_ARGUMENT_CHARS:
        problem = f"are longer than {MAX_ARGUMENT_CHARS} characters"
    else:
        try:
            parsed = from_json(arguments or "{}", allow_inf_nan=False)
        except (ValueError, TypeError) as error:
            problem = f"are not valid JSON: {error}"
        else:
            if isinstance(parsed, dict):
                return parsed
            problem = "are not a JSON object"
    raise ToolArgumentsError(
        f"the arguments for tool {name!r}", problem, "Send one JSON object."
    )


def _validated(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return tool.validate(arguments)
    except KaizenError:
        raise
    except Exception as error:
        raise ToolError(
            f"tool {tool.spec.name!r}",
            f"could not check its arguments: {type(error).__name__}: {error}",
        ) from error


def _as_text(value: Any, limit: int) -> str:
    """Return what the model reads, cut with a mark where it is too long.

    Raises:
        ToolError: The value is nothing that JSON can hold.
    """
    if isinstance(value, str):
        text = value if value.isascii() else clean(value)
    else:
        try:
            text = to_json(value, inf_nan_mode="strings").decode()
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise ToolError(
                f"a value of type {type(value).__name__!r}",
                f"is nothing that JSON can hold: {error}",
                "Return text, numbers, lists, mappings or models.",
            ) from error
    return text if len(text) <= limit else _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: {len(text) - limit} of {len(text)} characters not shown]"


def _ungranted(name: str, spec: ToolSpec) -> ToolRefusedError:
    return ToolRefusedError(
        f"tool {name!r}",
        f"is of danger level {spec.effect.danger.name} and nobody granted the call",
        "Do without it, or ask the user to grant it.",
    )


def _tool_error(call: ToolCall, error: Exception) -> KaizenError:
    if isinstance(error, KaizenError):
        return error
    if isinstance(error, OutOfTimeError):
        return ToolTimeoutError(
            f"tool {call.name!r}", f"took longer than {call.spec.timeout_s:g} s"
        )
    return ToolError(f"tool {call.name!r}", f"raised {type(error).__name__}: {error}")


def _failure(call: ToolCall, raised: Exception, duration_ms: float) -> ToolResult:
    error = _tool_error(call, raised)
    return ToolResult(
        call_id=call.id,
        name=call.name,
        success=False,
        content=_cut(clean(f"Error: {error}"), MAX_ERROR_CHARS),
        error=_cut(clean(str(error)), MAX_ERROR_CHARS),
        error_code=error.code,
        duration_ms=duration_ms,
        outcome="unknown" if isinstance(error, ToolTimeoutError) else "known",
    )


def _refusal(call_id: str, name: str, error: KaizenError) -> ToolResult:
    return ToolResult(
        call_id=call_id,
        name=name,
        success=False,
        content=_cut(clean(f"Error: {error}"), MAX_ERROR_CHARS),
        error=_cut(clean(str(error)), MAX_ERROR_CHARS),
        error_code=error.code,
        approved=not isinstance(error, ToolRefusedError),
        outcome="not_made",
    )


def _unfinished(run: Run, call_id: str, name: str) -> ToolResult:
    """Return what is known of a call that was stopped before it returned."""
    begun = run.log.state.pending.get(call_id)
    if call_id in run._outcomes:
        broken = KaizenError(
            f"tool {name!r}", "ran, but a hook failed before its result came"
        )
        return replace(_refusal(call_id, name, broken), outcome=run._outcomes[call_id])
    if begun is None:
        stopped = KaizenError(f"tool {name!r}", "was not called: the run was stopped")
        return _refusal(call_id, name, stopped)
    remedy = (
        "Repeating it is harmless."
        if begun.idempotent
        else "Find out before you repeat it."
    )
    unknown = OutcomeUnknownError(
        f"tool {name!r}", "was stopped while it ran: what it did is not known", remedy
    )
    return replace(_refusal(call_id, name, unknown), outcome="unknown")


def _close(run: Run, call_id: str, name: str, cycle: int) -> ToolResult:
    """Give a call that was stopped a result, so that the history is valid; return it.

    Should the run go on, the call is open again, unless it is known what it did.
    """
    result = _unfinished(run, call_id, name)
    _finished(run, result, cycle, closing=result.outcome != "known")
    return result


def _finished(run: Run, result: ToolResult, cycle: int, *, closing: bool = False) -> None:
    log = run.log
    log.append(
        _tool_finished(
            seq=len(log.entries),
            at=time(),
            call_id=result.call_id,
            name=result.name,
            success=result.success,
            approved=result.approved,
            content=result.content,
            error_code=result.error_code,
            duration_ms=result.duration_ms,
            outcome=result.outcome,
            in_history=cycle > 0,
            closing=closing,
            as_json=result.success and not isinstance(result.result, str),
        )
    )


def _write_end(
    run: Run,
    status: RunStatus,
    outputs: Mapping[str, Any] | None = None,
    error: BaseException | None = None,
) -> None:
    run.log.append(
        _run_ended(
            seq=len(run.log.entries),
            at=time(),
            status=status,
            outputs=outputs,
            error="" if error is None else _told(error),
            error_code=getattr(error, "code", ""),
        )
    )


def _told(error: BaseException) -> str:
    return _cut(clean(f"{type(error).__name__}: {error}"), MAX_ERROR_CHARS)


async def _keep(run: Run) -> Exception | None:
    """Make the end of a run durable, cancelled or not; return what went wrong."""
    keeping = run.plan.keeping
    if keeping is None or run.state.started is None:  # it was refused before it began
        return None
    run.log.over = True
    problem: Exception | None = None
    with CancelScope(shield=True):  # what is awaited here has limits of its own
        try:
            await run.log.flush()
        except Exception as error:  # noqa: BLE001 - the caller decides which is raised
            problem = error
        await keeping.keeper.let_go(run.log)
    if keeping.go_on and problem is not None and not isinstance(problem, ClaimLostError):
        _LOG.warning("the end of run %s is not kept: %s", run.id, problem)
        return None
    return problem


def _let_go(run: Run) -> None:
    """Tell everybody who waits for the run that it is over."""
    run.ended = True
    run._scope = None
    if run.parent is not None:
        _leave_parent(run, run.parent)
    run.log.close()
    if run._done is not None:
        run._done.set()


def end_again(run: Run) -> None:
    """Let go of a run that was completed before, and that was read from its store."""
    _let_go(run)


def _leave_parent(run: Run, parent: Run) -> None:
    """Let the run around this one know that it ended, and what it has consumed in all."""
    parent._leave(run)
    if parent.ended:
        return
    state = run.log.state
    parent.log.append(
        ChildEnded(
            seq=len(parent.log.entries),
            at=time(),
            run_id=run.id,
            agent_id=run.agent_id,
            status=state.status,
            usage=state.usage,
            cost_usd=state.cost_usd,
        )
    )


async def _failed(run: Run, error: BaseException) -> None:
    """Leave a valid history behind and tell whom it concerns."""
    run.error = error
    _charge_earlier(run)
    _answer_open_calls(run)
    status: RunStatus = "failed" if isinstance(error, Exception) else "cancelled"
    stopped = isinstance(error, AgentInterrupted) or status == "cancelled"
    reason = run.interrupted if stopped else None
    if reason is not None:
        status = "cancelled" if run.cancelled else "interrupted"
        await _tell_of_stop(run, run.plan.pre_interrupt, reason)
        reason = run.interrupted = _with_account(run, reason)
        if isinstance(error, AgentInterrupted):
            error.reason = reason
            error.args = (reason, error.run_id)
    _write_end(run, status, error=error)
    problem = await _keep(run)
    if problem is not None and problem is not error:
        error.add_note(f"and the end of the run could not be kept: {problem}")
    _let_go(run)
    if reason is not None:
        await _tell_of_stop(run, run.plan.post_interrupt, reason)


def _with_account(run: Run, reason: InterruptReason) -> InterruptReason:
    """Return a reason that also says what was spent, and where the run can go on."""
    added: dict[str, Any] = {}
    if run.state.cost_usd is not None:
        added["budget_spent_usd"] = run.state.cost_usd
    added |= reason.metadata  # who stopped it may know of more than this run
    if run.state.marks:
        added["checkpoint_id"] = run.state.marks[-1].mark_id
    return reason if added == reason.metadata else replace(reason, metadata=added)


async def _tell_of_stop(
    run: Run, told: tuple[Observer, ...], reason: InterruptReason
) -> None:
    with CancelScope(shield=True):  # each observer has its own time
        await notify(told, _interrupt_event(run, reason))


def _answer_open_calls(run: Run) -> None:
    """Give a result to every tool call of the conversation that has none."""
    messages = run.log.state.messages
    answered = {each.tool_use_id for each in messages if each.role == "tool"}
    unanswered = [
        use for each in messages for use in each.tool_uses if use.id not in answered
    ]
    for use in unanswered:
        _close(run, use.id, use.name, cycle=1)


def _interrupt_event(run: Run, reason: InterruptReason) -> InterruptEvent:
    return InterruptEvent(
        agent_id=run.agent_id,
        run_id=run.id,
        trace_id=run.trace_id,
        timestamp=time(),
        metadata=dict(run.metadata),
        request=reason,
    )


def _stopped(run: Run) -> KaizenError:
    """Return why the scope of a run was cancelled."""
    reason = run.interrupted
    if reason is not None:
        stopped = AgentInterrupted if _is_immediate(reason) else GracefulTimeoutError
        return stopped(reason, run.id)
    return AgentTimeoutError(
        f"run {run.id!r} of agent {run.agent_id!r}",
        f"took longer than {run.plan.config.timeout} s",
        "Raise `timeout` in the agent's config.",
    )


def _is_immediate(reason: InterruptReason) -> bool:
    return reason.mode is InterruptMode.IMMEDIATE
