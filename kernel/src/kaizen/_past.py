"""What a run did before it was resumed, so that it is not done again.

A resumed run goes through its strategy from the start. Each turn that is on record gives
what it gave then, without a model, a tool or a hook; the first turn that is not, or not
wholly, is carried out. So a strategy needs nothing of its own to be resumed, as long as it
does the same when it is given the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from kaizen.errors import RunError
from kaizen.messages import ModelReply
from kaizen.operations import CycleResult
from kaizen.runlog import (
    Entry,
    MessageAdded,
    ModelReplied,
    ModelRequested,
    ToolFinished,
    ToolIntended,
)
from kaizen.tools import ToolResult

__all__ = ["Past"]


class Past:
    """The turns and tool calls of a run that are on record.

    Attributes:
        results: The result of each call that has one, by the call's id.
        last: The last turn that was begun.
    """

    __slots__ = ("_added", "_direct", "_replies", "_steered", "last", "results")

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.results: dict[str, ToolResult] = {}
        self.last = 0
        self._replies: dict[int, ModelReply] = {}
        self._added: dict[int, int] = {}
        self._steered: set[int] = set()
        self._direct: dict[str, str] = {}
        for entry in entries:
            self._read(entry)

    def _read(self, entry: Entry) -> None:
        if isinstance(entry, MessageAdded | ModelRequested | ModelReplied):
            self.last = max(self.last, entry.cycle)
        match entry:
            case ModelReplied():
                self._replies[entry.cycle] = _reply(entry)
            case MessageAdded(steer_id=""):
                self._added[entry.cycle] = self._added.get(entry.cycle, 0) + 1
            case MessageAdded():
                self._steered.add(entry.cycle)
            case ToolIntended(in_history=False):
                self._direct[entry.call_id] = entry.name
            case ToolFinished(closing=False):
                self.results[entry.call_id] = _result(entry)

    def whole(self, cycle: int) -> CycleResult | None:
        """Return what a turn gave, or `None` if it did not come to its end."""
        reply = self._replies.get(cycle)
        if reply is None or any(use.id not in self.results for use in reply.tool_uses):
            return None
        results = tuple(self.results[use.id] for use in reply.tool_uses)
        return CycleResult(reply=reply, tool_results=results)

    def reply(self, cycle: int) -> ModelReply | None:
        """Return what the model said in a turn, or `None` if it said nothing."""
        return self._replies.get(cycle)

    def added(self, cycle: int) -> int:
        """Return how many messages of the strategy joined before a turn."""
        return self._added.get(cycle, 0)

    def steered(self, cycle: int) -> bool:
        """Whether a message that steers the run joined before a turn."""
        return cycle in self._steered

    def knows(self, call_id: str) -> bool:
        """Whether a call that no model asked for is on record."""
        return call_id in self._direct

    def direct(self, call_id: str, name: str) -> ToolResult | None:
        """Return the result of a call that no model asked for, if it has one.

        Raises:
            RunError: Another tool was called at this place.
        """
        known = self._direct.get(call_id)
        if known is not None and known != name:
            raise RunError(
                f"call {call_id!r}",
                f"went to tool {known!r} before the run was resumed, and now to {name!r}",
                "A run that is resumed has to make its calls in the same order.",
            )
        return self.results.get(call_id)


def _reply(entry: ModelReplied) -> ModelReply:
    return ModelReply(
        text=entry.message.text,
        tool_uses=entry.message.tool_uses,
        usage=entry.usage,
        finish_reason=entry.finish_reason,
        cost_usd=entry.cost_usd,
        model=entry.model,
    )


def _result(entry: ToolFinished) -> ToolResult:
    """Return a result as it is on record: with its text in place of the value."""
    return ToolResult(
        call_id=entry.call_id,
        name=entry.name,
        success=entry.success,
        result=entry.content if entry.success else None,
        content=entry.content,
        error="" if entry.success else entry.content.removeprefix("Error: "),
        error_code=entry.error_code,
        approved=entry.approved,
        duration_ms=entry.duration_ms,
        outcome=entry.outcome,
    )
