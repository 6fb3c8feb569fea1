"""Hooks that only watch: one trail with everything an agent asked, did and was told.

Shown twice: as a plugin with typed events, and as a single handler of one agent.
Neither can change what happens, and one that fails does not stop the agent.
"""

import json
from collections.abc import Callable

import anyio
from kaizen import (
    AgentLoopEvent,
    BaseAgent,
    HookContext,
    HookEvent,
    HookManager,
    Kernel,
    ModelCallEvent,
    ToolCallEvent,
    ToolUse,
    hookimpl,
    tool,
)


class AuditPlugin:
    """Writes one line of JSON for each thing that an agent does."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def _record(self, what: str, event: object, **facts: object) -> None:
        run_id = getattr(event, "run_id", "")
        self._write(json.dumps({"run": run_id[:8], "what": what, **facts}))

    @hookimpl
    def pre_agent_loop(self, event: AgentLoopEvent) -> None:
        """Record what was asked."""
        self._record("asked", event, inputs=dict(event.request.inputs))

    @hookimpl
    def post_model_call(self, event: ModelCallEvent) -> None:
        """Record who answered."""
        reply = event.result
        self._record("model", event, model=reply.model if reply else None)

    @hookimpl
    def post_tool_call(self, event: ToolCallEvent) -> None:
        """Record what was called, and whether it was allowed."""
        call, result = event.request, event.result
        allowed = result is not None and result.approved
        self._record("tool", event, name=call.name, allowed=allowed)

    @hookimpl
    def post_agent_loop(self, event: AgentLoopEvent) -> None:
        """Record how it ended."""
        self._record("ended", event, failed=event.error is not None)


@tool(danger="safe")
async def tide(port: str) -> str:
    """Say when the tide is high."""
    return f"High tide in {port} at 14:20."


async def timed(context: HookContext) -> None:
    """Print how long the model took."""
    print(f"{context.event_type.value} of {context.agent_id}: {context.duration_ms:.2f} ms")


async def main() -> None:
    """Run an agent under both kinds of observers and print the trail."""
    replies = [
        ToolUse(id="1", name="tide", arguments={"port": "Husum"}),
        "At twenty past two.",
    ]
    config = {"llm_provider": "mock", "provider_config": {"replies": replies}}
    own = HookManager()
    own.register(event_type=HookEvent.POST_MODEL_CALL, handler=timed)

    trail: list[str] = []
    async with Kernel(plugins=["offline", AuditPlugin(trail.append)]) as kernel:
        agent = BaseAgent(
            config, "question -> answer", tools=[tide], hook_manager=own, kernel=kernel
        )
        await agent.run(question="When is high tide in Husum?")
    print("\n".join(trail))


anyio.run(main)
