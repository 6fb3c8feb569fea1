"""Agents: a signature, a model and tools, ready to run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from os import urandom
from threading import get_ident
from time import time
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from kaizen import _loop
from kaizen._asking import (
    Question,
    ask_outside,
    channel_for,
    checked_progress,
    tell,
)
from kaizen._default import default_kernel
from kaizen._dispatch import MakeEvent, compile_operation, notify, observers
from kaizen._keeping import Keeping
from kaizen._past import Past
from kaizen._records import maker
from kaizen._sync import run_agent_sync
from kaizen.checkpoints import fork, split_checkpoint_id
from kaizen.config import AgentConfig, ConfigSource, refuse_idle_switches
from kaizen.errors import (
    AgentCreationError,
    CheckpointLoadError,
    ConfigurationError,
    ControlError,
    RunError,
    UnknownNameError,
    UnknownRunError,
)
from kaizen.events import (
    AgentInitEvent,
    AgentLoopEvent,
    CheckpointEvent,
    CycleEvent,
    Event,
    ModelCallEvent,
    ToolCallEvent,
)
from kaizen.hooks import HookManager
from kaizen.messages import Message, ModelProfile, ModelReply, OutputSpec
from kaizen.operations import Checkpoint, CycleResult, Result
from kaizen.ports import Answer, Channel, CheckpointStore, Provider, Strategy, ToolSource
from kaizen.run import MAX_DEPTH, Decision, Plan, Run, running
from kaizen.runlog import ChildStarted, Marked, RunEnded, RunLog, RunStarted, history
from kaizen.signatures import Signature, SignatureCompiler, SignatureParser
from kaizen.strategies import MultiCycle, SingleShot
from kaizen.tools import (
    Tool,
    ToolResult,
    ToolSpec,
    definition_digest,
    select,
    undeclared,
)

if TYPE_CHECKING:
    from kaizen.kernel import Kernel

__all__ = ["BaseAgent", "DecisionSource", "RunStream", "StateKeeper"]

Request = TypeVar("Request")
Reply = TypeVar("Reply")

_SINGLE_SHOT = SingleShot()
_MULTI_CYCLE = MultiCycle()


class BaseAgent:
    """Turns the inputs of a signature into its outputs, with a model and tools.

    Agents never change after they were made, keep nothing between runs, and may run any
    number of times at once. Nothing is opened before the first run.

    Args:
        config: An `AgentConfig`, or any mapping, dataclass or model that has its fields.
        signature: A signature class or instance, or its string form.
        tools: Tools declared with `@tool`, names of tools that plugins offer, or `"all"` of
            those.
        strategy: How it runs: an object with `execute`, the name of one that a plugin
            offers, or by default `MultiCycle` with tools and `SingleShot` without.
        kernel: The kernel to run on; by default one that starts when it is first needed.
        hook_manager: Handlers of this agent alone.
        hooks: Objects with methods marked by `hookimpl`, for this agent alone.
        grants: Tools that this agent may call although their danger level demands a grant.
        store: What keeps the logs of its runs; by default the kernel's `checkpoint_store`.
        state_manager: An object with hooks and a `storage`, which is used as `store`.
        control_protocol: The channel by which its runs, and those inside them, ask whoever
            is outside, or its name; by default the kernel's `channel`.
        name: What it is called; by default after its signature.
        agent_id: Its identity across restarts; by default its name, numbered from the
            second of that name on.
        description: What it does, in a sentence; by default the signature's first line.

    Raises:
        AgentCreationError: It cannot be made of what was given.
        SignatureError: The signature is not well formed.
    """

    __slots__ = (
        "__weakref__",
        "_description",
        "_grants",
        "_hooks",
        "_identity",
        "_kernel",
        "_metadata",
        "_name",
        "_plan",
        "_session_id",
        "_store",
        "_strategy",
        "_tools",
        "config",
        "control_protocol",
        "signature",
    )

    config: AgentConfig
    control_protocol: Channel | str | None
    signature: type[Signature]
    _tools: tuple[Tool | str, ...] | Literal["all"]
    _strategy: Strategy | str | None
    _kernel: Kernel | None
    _hooks: tuple[HookManager, ...]
    _grants: frozenset[str]
    _name: str
    _identity: _Identity
    _description: str
    _plan: Plan | None
    _session_id: str
    _store: CheckpointStore | None
    _metadata: Mapping[str, Any]

    def __init__(
        self,
        config: ConfigSource = None,
        signature: type[Signature] | Signature | str | None = None,
        *,
        tools: Sequence[Tool | str] | Literal["all"] = (),
        strategy: Strategy | str | None = None,
        kernel: Kernel | None = None,
        hook_manager: HookManager | None = None,
        hooks: Sequence[object] = (),
        grants: Iterable[str] = (),
        store: CheckpointStore | None = None,
        state_manager: StateKeeper | None = None,
        control_protocol: Channel | str | None = None,
        name: str = "",
        agent_id: str = "",
        description: str = "",
    ) -> None:
        keep = object.__setattr__
        keep(self, "config", AgentConfig.extract(config))
        keep(self, "signature", _signature(self, signature))
        keep(self, "_tools", tools if isinstance(tools, str) else tuple(tools))
        keep(self, "_strategy", strategy)
        keep(self, "_kernel", kernel)
        if state_manager is not None:
            hooks = (*hooks, state_manager)
            store = _one_store(store, state_manager)
        keep(self, "_hooks", _own_hooks(hook_manager, hooks))
        keep(self, "_store", store)
        keep(self, "control_protocol", control_protocol)
        keep(self, "_grants", frozenset(grants) if grants else _NONE)
        keep(self, "_name", name)
        keep(self, "_identity", _Identity(_own_id(kernel, agent_id, self.name)))
        keep(self, "_description", description)
        keep(self, "_plan", None)
        keep(self, "_session_id", "")
        keep(self, "_metadata", _EMPTY)
        _check_parts(self._tools, grants, strategy)

    def __setattr__(self, name: str, value: object) -> None:
        if name in BaseAgent.__slots__ or hasattr(BaseAgent, name):
            raise AttributeError(
                f"agents do not change: {name!r} cannot be set; make another, or use bind()"
            )
        object.__setattr__(self, name, value)  # a subclass may have parts of its own

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def name(self) -> str:
        """What it is called."""
        return self._name or self.signature.__name__

    @property
    def agent_id(self) -> str:
        """Its identity across restarts."""
        return self._identity.agent_id or self.name

    @property
    def kernel(self) -> Kernel | None:
        """The kernel that it was given, or `None` if it runs on the default one."""
        return self._kernel

    @property
    def grants(self) -> frozenset[str]:
        """The tools that it may call although their danger level demands a grant."""
        return self._grants

    @property
    def own_hooks(self) -> tuple[HookManager, ...]:
        """The hooks of this agent alone; at equal priority they come after the kernel's."""
        return self._hooks

    @property
    def description(self) -> str:
        """What it does, in a sentence."""
        return self._description or self.signature.instructions.strip().partition("\n")[0]

    def bind(
        self,
        *,
        kernel: Kernel | None = None,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> BaseAgent:
        """Return the same agent with something different for the runs made through it.

        Args:
            kernel: The kernel to run on.
            session_id: What the runs are grouped by.
            metadata: What is kept with the runs; added to what there is.
            config: Fields of the configuration, stronger than the agent's own.
        """
        bound = object.__new__(type(self))
        slots = [
            each for kind in type(self).__mro__ for each in getattr(kind, "__slots__", ())
        ]
        for name in (*slots, *getattr(self, "__dict__", ())):
            if name not in ("__weakref__", "__dict__") and hasattr(self, name):
                object.__setattr__(bound, name, getattr(self, name))
        if kernel is not None and kernel is not self._kernel:
            object.__setattr__(bound, "_kernel", kernel)
            object.__setattr__(bound, "_plan", None)
        if session_id is not None:
            object.__setattr__(bound, "_session_id", session_id)
        if metadata:
            merged = MappingProxyType({**self._metadata, **metadata})
            object.__setattr__(bound, "_metadata", merged)
        if config:
            own = {
                each: getattr(self.config, each) for each in self.config.model_fields_set
            }
            unknown = set(config) - set(AgentConfig.model_fields)
            if unknown:
                raise TypeError(f"bind() got unknown fields: {', '.join(sorted(unknown))}")
            object.__setattr__(bound, "config", AgentConfig.extract({**own, **config}))
            object.__setattr__(bound, "_plan", None)
        return bound

    async def run(self, /, **inputs: Any) -> Result:
        """Run the agent on inputs and return its outputs.

        Inside another run, as in a tool, the new run becomes a child of it.

        Raises:
            InputError: An input is missing, unknown or of the wrong type.
            OutputError: The model's reply does not fit, also after it was sent back.
            ModelError: The provider cannot answer.
            ConvergenceError: The run used up its cycles.
            AgentTimeoutError: It took longer than `timeout`.
            AgentInterrupted: It was asked to stop.
        """
        plan = self._plan
        if plan is None or not self._fits(plan):
            plan = await self._prepare()
        run = self._start(plan, plan.signature.validate_inputs(inputs))
        if run.parent is not None:
            return await _carry_on(await self._inside(run))
        return await _loop.execute(run)

    def run_sync(self, /, **inputs: Any) -> Result:
        """Run the agent from code that is not async, also where an event loop is running.

        The same as `run`, which see. Meant for scripts and notebooks.
        """
        return run_agent_sync(self._kernel, lambda: self.run(**inputs))

    async def resume(
        self,
        checkpoint_id: str,
        *,
        decision: DecisionSource = None,
    ) -> Result:
        """Go on with a run that was interrupted, failed, or lost with its process.

        It goes on where it stopped, with the same id, history and account, and does nothing
        twice that is on record. A tool call that was cut off is repeated, with the same
        idempotency key, if its tool declared that harmless, then and now; if not, somebody
        has to decide what became of it. A run that was completed gives its result again.

        Args:
            checkpoint_id: The run, or one of its checkpoints. A checkpoint stands for its
                run: to go back to it, use `kaizen.checkpoints.rewind` or `fork` first.
            decision: What became of calls that were cut off: `repeat`, `done` or `skip`, or
                a `Decision`. By itself it is about all those of this run that must not just
                be repeated. A mapping has one for each call, by its id or, also for calls
                of runs inside this one, by `<run id>:<call id>` as in `error.calls`.

        Raises:
            OutcomeUnknownError: A call that was cut off needs a decision; `calls` names it.
            CheckpointLoadError: There is no such run, or its log is damaged.
            CheckpointSaveError: The run is carried out by another process.
            RunError: It is carried out here, or belongs to another agent.
        """
        plan = await self._prepared()
        run = await self._take_up(
            plan, checkpoint_id, _decisions(decision), parent=_living_parent()
        )
        return await _carry_on(run)

    def stream(self, /, **inputs: Any) -> RunStream:
        """Run the agent and follow what it does.

            async with agent.stream(question="…") as run:
                async for event in run:
                    ...
                result = await run.wait()

        Leaving the block before the run has ended cancels it.
        """

        async def start() -> Run:
            plan = await self._prepared()
            run = self._start(plan, plan.signature.validate_inputs(inputs))
            return run if run.parent is None else await self._inside(run)

        return RunStream(start)

    def resume_stream(
        self, checkpoint_id: str, *, decision: DecisionSource = None
    ) -> RunStream:
        """Go on with a run, as `resume` does, and follow what it does, as with `stream`.

        What it did before stands in its log, `run.log.entries`.
        """
        decisions = _decisions(decision)

        async def start() -> Run:
            plan = await self._prepared()
            return await self._take_up(
                plan, checkpoint_id, decisions, parent=_living_parent()
            )

        return RunStream(start)

    async def discover_tools(
        self, *, category: str | None = None, safe_only: bool = False
    ) -> tuple[ToolSpec, ...]:
        """Return what is known of the agent's tools.

        Args:
            category: Only those filed under it.
            safe_only: Only those that run without a grant.
        """
        plan = await self._prepared()
        found = select(tuple(plan.tools.values()), category=category, safe_only=safe_only)
        return tuple(each.spec for each in found)

    async def execute_tool(
        self, name: str, params: Mapping[str, Any] | None = None
    ) -> ToolResult:
        """Call one of the agent's tools, through all hooks, as if a model had asked for it.

        Returns:
            The result; a failure or a refusal is a result too, with `success` false.
        """
        results = await self.execute_tool_chain(
            [{"tool_name": name, "params": params or {}}]
        )
        return results[0]

    async def execute_tool_chain(
        self, calls: Sequence[Mapping[str, Any]]
    ) -> tuple[ToolResult, ...]:
        """Call tools one after the other, up to the first that fails.

        Args:
            calls: For each, its `tool_name` and `params`.

        Returns:
            The results of those that were called; the last one may be the failure.
        """
        plan = await self._prepared()
        pairs = [_chain_link(each) for each in calls]
        run = running()
        if run is not None and run.agent is self and not run.ended:
            return await _call_in_order(run, pairs)
        run = self._start(plan, {})
        if run.parent is not None:
            run = await self._inside(run, direct=True)
        return await _loop.execute_calls(run, lambda: _call_in_order(run, pairs))

    async def ask_user_question(
        self,
        question: str,
        options: Sequence[str] | None = None,
        *,
        answer_type: Any = str,
        expires_s: float | None = None,
    ) -> Any:
        """Ask whoever is outside, and return the answer.

        Inside a run, as in a tool, the question is that run's; see `Run.ask`.

        Args:
            question: What they read.
            options: Answers to choose from.
            answer_type: What pydantic makes of the answer.
            expires_s: How long it is waited for, in seconds.

        Raises:
            NobodyToAskError: There is no channel.
            NotAnsweredError: No answer came that can be used.
        """
        answer = await self._ask(
            question,
            kind="question",
            options=options or (),
            answer_type=answer_type,
            expires_s=expires_s,
        )
        return answer.value

    async def request_approval(
        self,
        action: str,
        details: Mapping[str, Any] | None = None,
        *,
        expires_s: float | None = None,
    ) -> bool:
        """Ask whoever is outside whether something may be done.

        Args:
            action: What is to be done.
            details: Everything about it that they should know; JSON values.
            expires_s: How long an answer is waited for, in seconds.

        Returns:
            Whether they said yes. That nobody is there or answers in time is a no.
        """
        try:
            answer = await self._ask(
                action, kind="approval", details=details, expires_s=expires_s
            )
        except ControlError:
            return False
        return answer.approved

    async def report_progress(self, message: str, percentage: float | None = None) -> None:
        """Tell whoever is outside how far the work is.

        Args:
            message: What they read.
            percentage: From 0 to 100, if it is known.

        Raises:
            ValueError: The percentage is none, or the message is too long.
        """
        run = running()
        if run is not None and not run.ended:
            await run.report_progress(message, percentage=percentage)
            return
        told = checked_progress(message, percentage)
        await tell([self], await self._open_kernel(), told, percentage)

    async def _ask(self, text: str, **question: Any) -> Answer:
        """Ask for the run under way, or for none."""
        run = running()
        if run is not None and not run.ended:
            return await run.ask(text, **question)
        kernel = await self._open_kernel()
        if question["expires_s"] is None:
            question["expires_s"] = kernel.config.answer_timeout
        asked: dict[str, Any] = {
            "options": (),
            "details": None,
            "answer_type": None,
            "action_digest": "",
        }
        channel = await channel_for([self], kernel)
        return await ask_outside(Question(text, **(asked | question)), channel)

    async def _open_kernel(self) -> Kernel:
        return self._kernel if self._kernel is not None else await default_kernel()

    def to_a2a_card(self) -> dict[str, Any]:
        """Return what the Agent2Agent protocol 1.0 says of an agent, but no addresses."""
        inputs = ", ".join(self.signature.input_fields)
        outputs = ", ".join(self.signature.output_fields)
        return {
            "name": self.name,
            "description": self.description or f"From {inputs} to {outputs}",
            "version": "1.0.0",
            "supportedInterfaces": [],
            "capabilities": {"streaming": True, "pushNotifications": False},
            "defaultInputModes": ["application/json", "text/plain"],
            "defaultOutputModes": ["application/json", "text/plain"],
            "skills": [
                {
                    "id": self.agent_id,
                    "name": self.name,
                    "description": self.description or f"From {inputs} to {outputs}",
                    "tags": sorted(
                        {*self.signature.input_fields, *self.signature.output_fields}
                    ),
                }
            ],
        }

    def _start(self, plan: Plan, inputs: dict[str, Any]) -> Run:
        parent = _living_parent()
        run = Run(
            run_id=urandom(16).hex(),
            agent=self,
            plan=plan,
            inputs=inputs,
            parent=parent,
            session_id=self._session_id or (parent.session_id if parent else ""),
            metadata=self._metadata,
        )
        if parent is not None:
            _join(parent, run)
        return run

    async def _inside(self, run: Run, *, direct: bool = False) -> Run:
        """Return a run inside another: if that was resumed, what it did before with it.

        The run around it writes down where it begins, to find it again.
        """
        parent, keeping = run.parent, run.plan.keeping
        if parent is None or parent.plan.keeping is None or keeping is None:
            return run
        place = parent.place_of(run)
        known = None if parent.past is None else parent.past.child(place)
        parent._leave(run)
        if known is not None and known.superseded and known.status == "failed":
            raise RunError(
                f"run {known.run_id!r}", "failed before the run around it was resumed"
            )
        if known is not None:
            run_id = known.run_id
            try:
                if known.shared and known.status != "completed":
                    run_id = await fork(keeping.store, run_id, parent_id=parent.id)
                    await self._write_start(parent, run_id, place, known.run_id)
                return await self._take_up(
                    run.plan,
                    run_id,
                    _decisions_inside(parent),
                    parent=parent,
                    direct=direct,
                )
            except UnknownRunError:  # nothing of it was kept
                pass
        _join(parent, run)
        await self._write_start(parent, run.id, place)
        return run

    async def _write_start(
        self, parent: Run, run_id: str, place: str, replaces: str = ""
    ) -> None:
        log = parent.log
        log.append(
            ChildStarted(
                seq=len(log.entries),
                at=time(),
                run_id=run_id,
                agent_id=self.agent_id,
                place=place,
                replaces=replaces,
            )
        )
        if log.must_wait():
            await log.settle()

    async def _take_up(
        self,
        plan: Plan,
        checkpoint_id: str,
        decisions: Mapping[str, Decision] | Decision | None,
        *,
        parent: Run | None = None,
        direct: bool = False,
    ) -> Run:
        """Read a run from its store, so that it can go on; it has ended if it completed."""
        run_id, seq = split_checkpoint_id(checkpoint_id)
        keeping = plan.keeping
        if keeping is None:
            raise ConfigurationError(
                f"agent {self.name!r}",
                "keeps no runs, so that none can be resumed",
                "Set `checkpoint_store`, or give the agent a `store`.",
            )
        if not await keeping.keeper.finish(run_id):
            raise RunError(f"run {run_id!r}", "is carried out right now, in this process")
        log = RunLog(run_id, keeping)
        keeping.keeper.add(log, plan.kernel._tasks)
        try:
            await log.take_up()
            _check_place(log, seq)
            run = self._restored(plan, log, decisions, parent, direct=direct)
            if log.state.status != "completed":
                _loop.reopen(run)
                return run
        except BaseException:
            await keeping.keeper.let_go(log)
            raise
        await keeping.keeper.let_go(log)
        if not direct:
            run.result = _recorded_result(run)
        _loop.end_again(run)
        return run

    def _restored(
        self,
        plan: Plan,
        log: RunLog,
        decisions: Mapping[str, Decision] | Decision | None,
        parent: Run | None,
        *,
        direct: bool,
    ) -> Run:
        """Return the run whose log this is.

        Raises:
            RunError: It is not one of this agent's, or asked no model.
            InputError: Its inputs do not fit the agent's signature any more.
        """
        started = log.state.started
        if started is None:
            raise CheckpointLoadError(f"run {log.run_id!r}", "has a log without a start")
        if started.agent_id != self.agent_id:
            raise RunError(
                f"run {log.run_id!r}",
                f"belongs to agent {started.agent_id!r}, not to {self.agent_id!r}",
                "Resume it with the agent that has this `agent_id`.",
            )
        if started.direct != direct:
            raise RunError(
                f"run {log.run_id!r}",
                "was a call of tools alone"
                if started.direct
                else "was more than a call of tools",
                "Only what it was can be resumed.",
            )
        run = Run(
            run_id=log.run_id,
            agent=self,
            plan=plan,
            inputs={} if direct else plan.signature.validate_inputs(dict(started.inputs)),
            parent=parent,
            session_id=started.session_id,
            metadata=MappingProxyType({**started.metadata, **self._metadata}),
            trace_id=started.trace_id,
            log=log,
            past=Past(history(log.entries)),
            decisions=decisions,
        )
        if parent is not None:
            _join(parent, run)
        return run

    def _fits(self, plan: Plan) -> bool:
        """Whether a plan is still right: the same hooks, and the same event loop."""
        kernel = plan.kernel
        return plan.version == self._version(kernel) and kernel.thread == get_ident()

    def _version(self, kernel: Kernel) -> int:
        version = kernel.hooks.version
        for each in self._hooks:
            version += each.version
        return version

    async def _prepared(self) -> Plan:
        plan = self._plan
        if plan is None or not self._fits(plan):
            plan = await self._prepare()
        return plan

    async def _prepare(self) -> Plan:
        """Work out once what every run needs, and tell the observers of `agent_init`."""
        kernel = self._kernel or await default_kernel()
        kernel.require_running()
        first = self._plan is None or self._plan.kernel is not kernel
        if not self._identity.agent_id:
            self._identity.agent_id = kernel.default_agent_id(self.name)
        elif first:
            kernel.claim_agent_id(self._identity.agent_id)
        managers = (kernel.hooks, *self._hooks)
        config = self.config.over(kernel.config.agent_defaults)
        metadata: dict[str, Any] = {}
        if first:
            event = self._init_event(config, metadata)
            await notify(observers("pre_agent_init", managers), event)
        try:
            plan = await self._plan_for(kernel, config)
        except Exception as error:
            event = self._init_event(config, metadata, error=error)
            await notify(observers("post_agent_init", managers), event)
            raise
        object.__setattr__(self, "_plan", plan)
        if first:
            event = self._init_event(config, metadata)
            await notify(observers("post_agent_init", managers), event)
        return plan

    async def _plan_for(self, kernel: Kernel, config: AgentConfig) -> Plan:
        refuse_idle_switches(config, kernel.serves, f"agent {self.name!r}")
        version = self._version(kernel)
        managers = (kernel.hooks, *self._hooks)
        provider_name, config = await _chosen(self, kernel, config)
        provider = await kernel.get(Provider, provider_name)  # type: ignore[type-abstract]
        keeping = await self._keeping_for(kernel, config)
        tools = await self._resolve_tools(kernel)
        spec_of = {name: each.spec for name, each in tools.items()}
        strategy = await self._resolve_strategy(kernel, bool(tools))
        signature = SignatureCompiler().compile(self.signature)
        profile = provider.describe(config.model)
        _refuse_misfits(self, config, profile, provider_name)
        native = profile.structured_output and config.strict_outputs
        prompt = signature.system_prompt if native else signature.prompted_system_prompt
        specs = () if isinstance(strategy, SingleShot) else tuple(spec_of.values())
        compiled = partial(_compiled, managers)
        tool_call = compiled("tool_call", _loop.tool_call, ToolCallEvent, ToolResult)
        return Plan(
            version=version,
            kernel=kernel,
            config=config,
            signature=signature,
            provider=provider,
            provider_name=provider_name,
            profile=profile,
            strategy=strategy,
            keeping=keeping,
            tools=tools,
            spec_of=spec_of,
            definitions={} if keeping is None else _definitions(spec_of),
            specs=specs,
            offered=frozenset(each.name for each in specs),
            output=_output_spec(signature, strict=native),
            settings=config.model_settings,
            opening=(Message(role="system", content=prompt, origin="signature"),),
            free=self._grants.union(
                each.name for each in spec_of.values() if each.harmless
            ),
            hooked=tool_call is not _loop.tool_call,
            new_scope=type(anyio.CancelScope()),
            agent_loop=compiled("agent_loop", _loop.agent_loop, AgentLoopEvent, Result),
            cycle=compiled("cycle", _loop.cycle, CycleEvent, CycleResult),
            model_call=compiled("model_call", _loop.model_call, ModelCallEvent, ModelReply),
            tool_call=tool_call,
            checkpoint_save=compiled(
                "checkpoint_save", _loop.checkpoint_save, CheckpointEvent, Checkpoint
            ),
            pre_interrupt=observers("pre_interrupt", managers),
            post_interrupt=observers("post_interrupt", managers),
        )

    async def _keeping_for(self, kernel: Kernel, config: AgentConfig) -> Keeping | None:
        store, name = self._store, kernel.config.checkpoint_store
        if store is None and name:
            store = await kernel.get(CheckpointStore, name)
        if store is None:
            return None
        return Keeping(
            store=store,
            keeper=kernel.keeper,
            durability=config.durability,
            go_on=config.on_save_error == "continue",
        )

    async def _resolve_tools(self, kernel: Kernel) -> dict[str, Tool]:
        wanted: Iterable[Tool | str] = () if self._tools == "all" else self._tools
        offered: dict[str, Tool] = {}
        if self._tools == "all" or any(isinstance(each, str) for each in self._tools):
            offered = await _sources_tools(kernel)
        if self._tools == "all":
            wanted = (*kernel.registry.names(Tool), *offered)
        resolved: dict[str, Tool] = {}
        for each in wanted:
            if not isinstance(each, str):
                found = each
            elif each in offered:
                found = offered[each]
                if each in kernel.registry.names(Tool):
                    raise _shadowed(each, kernel.registry.find(Tool, each).plugin)
            else:
                found = await kernel.get(Tool, each)  # type: ignore[type-abstract]
            name = found.spec.name
            if name in resolved and resolved[name] is not found:
                raise AgentCreationError(
                    f"agent {self.name!r}",
                    f"was given two tools named {name!r}",
                    "Give one of them another `name`.",
                )
            resolved[name] = found
        return resolved

    async def _resolve_strategy(self, kernel: Kernel, has_tools: bool) -> Strategy:
        strategy = self._strategy
        if strategy is None:
            return _MULTI_CYCLE if has_tools else _SINGLE_SHOT
        if not isinstance(strategy, str):
            return strategy
        if strategy == "single_shot":
            return _SINGLE_SHOT
        if strategy == "multi_cycle":
            return _MULTI_CYCLE
        known = (*kernel.registry.names(Strategy), "multi_cycle", "single_shot")
        if strategy not in known:
            raise UnknownNameError("strategy", strategy, known)
        return await kernel.get(Strategy, strategy)  # type: ignore[type-abstract]

    def _init_event(
        self,
        config: AgentConfig,
        metadata: dict[str, Any],
        *,
        error: BaseException | None = None,
    ) -> AgentInitEvent:
        return AgentInitEvent(
            agent_id=self.agent_id,
            run_id="",
            trace_id="",
            timestamp=time(),
            metadata=metadata,
            error=error,
            config=config,
            signature=self.signature,
        )


class RunStream(AbstractAsyncContextManager[Run]):
    """A run under way, for the time of an `async with` block; see `BaseAgent.stream`."""

    def __init__(self, start: Callable[[], Awaitable[Run]]) -> None:
        self._start = start
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Run:
        run = await self._start()
        run.listen(start=run.log.stored)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._execute, run)
        return run

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def _execute(self, run: Run) -> None:
        try:
            await _carry_on(run)
        except Exception:  # noqa: BLE001 - kept as run.error, raised to who iterates or waits
            return


class _Identity:
    """The id of an agent, shared by what `bind` makes of it; settled at its first use."""

    __slots__ = ("agent_id",)

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id


_NONE: frozenset[str] = frozenset()
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class StateKeeper(Protocol):
    """Keeps the state of an agent: an object with hooks that has a store of its own."""

    @property
    def storage(self) -> CheckpointStore:
        """What keeps the logs of the agent's runs."""
        ...


DecisionSource: TypeAlias = (
    Decision
    | Literal["repeat", "done", "skip"]
    | Mapping[str, Decision | Literal["repeat", "done", "skip"]]
    | None
)
"""What a caller says became of calls that were cut off."""


def _decisions(source: DecisionSource) -> Mapping[str, Decision] | Decision | None:
    if source is None:
        return None
    if isinstance(source, Mapping):
        return {call_id: _decided(each) for call_id, each in source.items()}
    return _decided(source)


def _decided(source: Decision | str) -> Decision:
    if isinstance(source, Decision):
        return source
    if source in ("repeat", "done", "skip"):
        return Decision(action=cast(Literal["repeat", "done", "skip"], source))
    raise ValueError(f"a decision is 'repeat', 'done' or 'skip', not {source!r}")


async def _carry_on(run: Run) -> Result:
    """Carry out a run, unless it was completed before."""
    return run.result if run.result is not None else await _loop.execute(run)


def _decisions_inside(parent: Run) -> Mapping[str, Decision] | None:
    """Return the decisions that name a run as well as a call: only these go further in."""
    if not isinstance(parent.decisions, Mapping):
        return None
    return {name: each for name, each in parent.decisions.items() if ":" in name}


def _living_parent() -> Run | None:
    parent = running()
    return None if parent is None or parent.ended else parent


def _join(parent: Run, run: Run) -> None:
    if run.depth > MAX_DEPTH:
        raise RunError(
            f"a run of agent {run.agent_id!r}",
            f"would lie {run.depth} runs deep",
            f"At most {MAX_DEPTH} runs may lie inside one another.",
        )
    parent._join(run)


def _check_place(log: RunLog, seq: int | None) -> None:
    """Refuse a checkpoint that the run does not have."""
    if seq is None:
        return
    if seq >= len(log.entries) or not isinstance(log.entries[seq], Marked | RunEnded):
        raise CheckpointLoadError(
            f"run {log.run_id!r}",
            f"has no checkpoint at position {seq}",
            "`kaizen runs show` lists those that it has.",
        )


def _recorded_result(run: Run) -> Result:
    """Return the result of a run that was completed before."""
    state, started = run.state, run.state.started
    assert isinstance(started, RunStarted)
    return Result(
        run.plan.signature.validate_outputs(dict(state.outputs or {})),
        run_id=run.id,
        cycles=state.cycles,
        tool_calls=state.tool_calls,
        usage=state.usage,
        cost_usd=state.cost_usd,
        duration_ms=(run.log.entries[-1].at - started.at) * 1_000,
        messages=run.messages,
    )


def _own_id(kernel: Kernel | None, agent_id: str, name: str) -> str:
    """Return the id of a new agent; without a kernel and an id it gets one when it runs."""
    if kernel is None:
        return agent_id
    if not agent_id:
        return kernel.default_agent_id(name)
    kernel.choose_agent_id(agent_id)
    return agent_id


def _signature(
    agent: BaseAgent, source: type[Signature] | Signature | str | None
) -> type[Signature]:
    if isinstance(source, type) and issubclass(source, Signature):
        return source
    if source is None:
        source = getattr(type(agent), "default_signature", None)
    if source is None:
        raise AgentCreationError(
            "an agent",
            "was given no signature",
            'Pass one, such as signature="question -> answer".',
        )
    return SignatureParser().parse(source)


def _one_store(
    store: CheckpointStore | None, state_manager: StateKeeper
) -> CheckpointStore:
    """Return where the runs are kept: the manager's store, and no other."""
    own = getattr(state_manager, "storage", None)
    if own is None:
        raise AgentCreationError(
            f"state_manager={state_manager!r}",
            "has no `storage`",
            "Give a StateManager, or a store alone as `store=`.",
        )
    if store is not None and store is not own:
        raise AgentCreationError(
            "an agent",
            "was given a `store` and a `state_manager` with another one",
            "Leave `store` out.",
        )
    return cast(CheckpointStore, own)


def _check_parts(
    tools: tuple[Tool | str, ...] | str, grants: Iterable[str], strategy: object
) -> None:
    """Refuse what looks right and is not."""
    if isinstance(tools, str) and tools != "all":
        raise AgentCreationError(
            f"tools={tools!r}", "is one word", f"Write tools=[{tools!r}]."
        )
    if isinstance(grants, str):
        raise AgentCreationError(
            f"grants={grants!r}", "is one word", f"Write grants=[{grants!r}]."
        )
    for each in tools:
        if not isinstance(each, str) and not hasattr(each, "spec"):
            raise undeclared(each)
    if strategy is not None and not isinstance(strategy, str | Strategy):
        raise AgentCreationError(
            f"strategy {strategy!r}", "has no `execute`", "Give it one, or name a strategy."
        )


def _own_hooks(
    manager: HookManager | None, hooks: Sequence[object]
) -> tuple[HookManager, ...]:
    """Return the managers of one agent: that of its owner, and one for its own hooks."""
    own: tuple[HookManager, ...] = () if manager is None else (manager,)
    if not hooks:
        return own
    alone = HookManager()
    for rank, each in enumerate(hooks):
        alone.add(each, rank=rank)
    return (*own, alone)


async def _chosen(
    agent: BaseAgent, kernel: Kernel, config: AgentConfig
) -> tuple[str, AgentConfig]:
    """Return the provider of an agent, and its config with the model that this one knows.

    `provider/model` may stand as provider or as model. Who names none gets the default of
    the kernel, else what can be used right now.
    """
    registry, model = kernel.registry, config.model
    name = config.llm_provider or ""
    if not name:
        head, slash, rest = model.partition("/")
        if slash and registry.offered(Provider, head):
            name, model = head, rest
    name = name or kernel.config.default_provider or ""
    name, model = registry.route(Provider, name, model)
    if not name:
        name = await kernel.available(Provider)
    if not name:
        known = registry.names(Provider)
        raise ConfigurationError(
            f"agent {agent.name!r}",
            "names no provider, and none was found that could be used: no key is set, and "
            "no local server runs",
            "Set `llm_provider` in its config or KAIZEN_DEFAULT_PROVIDER (`offline` needs "
            f"neither key nor network); known: {', '.join(known) or 'none'}.",
        )
    if model != config.model:
        config = config.model_copy(update={"model": model})
    return name, config


async def _sources_tools(kernel: Kernel) -> dict[str, Tool]:
    """Return the tools of every tool source, by name."""
    found: dict[str, Tool] = {}
    for name in kernel.registry.names(ToolSource):
        source = await kernel.get(ToolSource, name)  # type: ignore[type-abstract]
        for each in await source.tools():
            if each.spec.name in found:
                raise _shadowed(each.spec.name, name)
            found[each.spec.name] = each
    return found


def _shadowed(name: str, origin: str) -> AgentCreationError:
    """Nobody may slip a tool under a name that somebody else has, and take its grants."""
    return AgentCreationError(
        f"tool {name!r}",
        f"is offered twice, by {origin!r} and by a tool source",
        "Disable one of the two, or rename its tool.",
    )


def _refuse_misfits(
    agent: BaseAgent, config: AgentConfig, profile: ModelProfile, provider: str
) -> None:
    """Refuse what a model or a signature cannot do."""
    if agent._tools and not profile.tools:
        raise AgentCreationError(
            f"agent {agent.name!r}",
            f"has tools, and model {profile.name!r} of provider {provider!r} calls none",
            "Choose another model, or leave the tools out.",
        )
    threshold = config.min_confidence_threshold
    if threshold is not None and "confidence" not in agent.signature.output_fields:
        raise AgentCreationError(
            f"agent {agent.name!r}",
            "has a `min_confidence_threshold`, and its signature no output `confidence`",
            "Add the output, or leave the threshold out.",
        )


def _definitions(spec_of: Mapping[str, ToolSpec]) -> dict[str, str]:
    return {name: definition_digest(spec) for name, spec in spec_of.items()}


def _output_spec(signature: Any, *, strict: bool) -> OutputSpec | None:
    if signature.plain_text:
        return None
    schema = signature.output_schema if strict else signature.legacy_output_schema
    return OutputSpec(name=signature.name, schema=schema, strict=strict)


def _compiled(
    managers: Sequence[HookManager],
    name: str,
    work: Callable[[Request], Awaitable[Reply]],
    event: Any,
    gives: type[Reply],
) -> Callable[[Request], Awaitable[Reply]]:
    return compile_operation(name, work, managers, _event_maker(event), gives)


def _event_maker(kind: Any) -> MakeEvent:
    """Return what makes an event of one kind for the current run."""
    made = maker(kind)

    def make(*, metadata: dict[str, Any], **fields: Any) -> Event:
        run = running()
        assert run is not None
        if not metadata:
            metadata.update(run.metadata)
        event: Event = made(
            agent_id=run.agent_id,
            run_id=run.id,
            trace_id=run.trace_id,
            timestamp=time(),
            metadata=metadata,
            **fields,
        )
        return event

    return make


def _chain_link(call: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    try:
        return call["tool_name"], call.get("params") or {}
    except (KeyError, TypeError, AttributeError):
        raise TypeError(
            "each call is a mapping such as {'tool_name': 'read_file', 'params': {…}}"
        ) from None


def _known_call(
    run: Run, call_id: str, name: str, params: Mapping[str, Any]
) -> ToolResult | None:
    """Return the result of a call that is on record."""
    assert run.past is not None
    tool = run.plan.tools.get(name)
    if tool is None or not run.past.knows(call_id):
        return run.past.results.get(call_id)
    return run.past.direct(call_id, name, tool.validate(params))


async def _call_in_order(
    run: Run, pairs: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[ToolResult, ...]:
    results: list[ToolResult] = []
    for name, params in pairs:
        call_id = run.next_direct_call()
        known = None if run.past is None else _known_call(run, call_id, name, params)
        if known is None and run.ended:
            raise RunError(
                f"run {run.id!r}", f"has ended, and did not call tool {name!r} before"
            )
        result = known or await _loop.call_tool(run, name, params, call_id=call_id, cycle=0)
        results.append(result)
        if not result.success:
            break
    return tuple(results)
