"""A gate: middleware that decides about every tool call before it is made.

It grants what it knows to be harmless, refuses the rest, and is asked before everybody
else. If it raised by mistake, the call would not be made: gates fail closed.
"""

from pathlib import PurePosixPath

import anyio
from kaizen import (
    BaseAgent,
    CallNext,
    Kernel,
    Priority,
    ToolCall,
    ToolRefusedError,
    ToolResult,
    ToolUse,
    hookimpl,
    tool,
)


@tool(danger="high", idempotent=True)
async def delete_note(path: str) -> str:
    """Delete a note for good."""
    return f"{path} is gone"


class GatePlugin:
    """Lets agents delete drafts and nothing else."""

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        """Grant the call, or refuse it and say why."""
        path = PurePosixPath(str(call.arguments.get("path", "")))
        if path.is_relative_to("drafts") and ".." not in path.parts:
            return await call_next(call.granted(by="gate", reason="it is a draft"))
        raise ToolRefusedError(
            f"deleting {str(path)!r}", "is not allowed", "Only drafts may be deleted."
        )


WISHES = ("drafts/poem.md", "letters/will.md", "drafts/../letters/will.md")


async def main() -> None:
    """Let an agent try three deletions."""
    calls = [
        ToolUse(id=str(place), name="delete_note", arguments={"path": path})
        for place, path in enumerate(WISHES)
    ]
    config = {"llm_provider": "mock", "provider_config": {"replies": [calls, "Done."]}}
    async with Kernel(plugins=["offline", GatePlugin]) as kernel:
        agent = BaseAgent(config, "task -> report", tools=[delete_note], kernel=kernel)
        result = await agent.run(task="Delete all notes.")
        for message in result.messages:
            if message.role == "tool":
                print(message.text)


anyio.run(main)
