"""What a run did before it was resumed, so that it is not done again.

A resumed run goes through its strategy from the start. Each turn that is on record gives
what it gave then, without a model, a tool or a hook; the last one, which is not known to
have come to its end, goes through its hooks again, and does what is missing. So a strategy
needs nothing of its own to be resumed, as long as it does the same when it is given the
same. Runs inside the run are found again by the step in which they began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import from_json

from kaizen import errors
from kaizen._records import record
from kaizen.errors import KaizenError, RunError
from kaizen.messages import ModelReply
from kaizen.operations import CycleResult
from kaizen.runlog import (
    ChildEnded,
    ChildStarted,
    CycleFailed,
    CycleGave,
    Entry,
    Forked,
    MessageAdded,
    ModelReplied,
    ModelRequested,
    Resumed,
    Rewound,
    RunStatus,
    ToolFinished,
    ToolIntended,
)
from kaizen.tools import ToolResult

__all__ = ["Child", "Past"]

_OF_A_TURN = (MessageAdded, ModelRequested, ModelReplied, CycleGave, CycleFailed)


@record
class Child:
    """A run that was begun inside another before that was resumed.

    Attributes:
        status: How it ended, or `running` if nobody wrote that down.
        shared: Whether it belongs to the run from which this one was forked.
        superseded: Whether another one was begun in its place afterwards.
    """

    run_id: str
    status: RunStatus = "running"
    shared: bool = False
    superseded: bool = False


class Past:
    """The turns, tool calls and runs inside a run that are on record.

    Attributes:
        results: The result of each call that has one, by the call's id.
        last: The last turn that was begun.
    """

    __slots__ = (
        "_added",
        "_children",
        "_closing",
        "_direct",
        "_ended",
        "_failed",
        "_forked_at",
        "_gave",
        "_replies",
        "_steered",
        "last",
        "results",
    )

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Read a past.

        Args:
            entries: Those that count, see `kaizen.runlog.history`.
        """
        self.results: dict[str, ToolResult] = {}
        self.last = 0
        self._replies: dict[int, ModelReply] = {}
        self._gave: dict[int, ModelReply] = {}
        self._failed: dict[int, CycleFailed] = {}
        self._added: dict[int, int] = {}
        self._steered: set[int] = set()
        self._direct: dict[str, ToolIntended] = {}
        self._closing: dict[str, ToolResult] = {}
        self._children: dict[str, list[ChildStarted]] = {}
        self._ended: dict[str, RunStatus] = {}
        self._forked_at = -1
        for entry in entries:
            self._read(entry)

    def _read(self, entry: Entry) -> None:
        if isinstance(entry, _OF_A_TURN):
            self.last = max(self.last, entry.cycle)
        match entry:
            case ModelRequested():
                # What was closed is final, since the conversation went on with it.
                self.results |= self._closing
                self._closing.clear()
            case ModelReplied():
                self.results |= self._closing  # also if nobody was asked
                self._closing.clear()
                self._replies[entry.cycle] = _reply(entry)
                self._failed.pop(entry.cycle, None)
                self._gave.pop(entry.cycle, None)
            case CycleGave():
                self._gave[entry.cycle] = ModelReply(
                    text=entry.text,
                    tool_uses=entry.tool_uses,
                    finish_reason=entry.finish_reason,
                )
            case CycleFailed():
                self._failed[entry.cycle] = entry
            case MessageAdded(steer_id=""):
                self._added[entry.cycle] = self._added.get(entry.cycle, 0) + 1
            case MessageAdded():
                self._steered.add(entry.cycle)
            case ToolIntended(in_history=False):
                self._direct[entry.call_id] = entry
            case ToolFinished(closing=True):
                self._closing[entry.call_id] = _result(entry)
            case ToolFinished():
                self.results[entry.call_id] = _result(entry)
            case ChildStarted():
                self._begin(entry)
            case ChildEnded():
                self._ended[entry.run_id] = entry.status
            case Resumed() | Rewound() | Forked():
                self._go_on()
                if isinstance(entry, Forked):
                    self._forked_at = entry.seq

    def _go_on(self) -> None:
        """Forget how the run had stopped: what was open then was open again."""
        self._closing.clear()
        self._failed.pop(self.last, None)

    def _begin(self, child: ChildStarted) -> None:
        """Keep a run inside this one, in the place of the one that it was forked from."""
        begun = self._children.setdefault(child.place, [])
        for at, each in enumerate(begun):
            if each.run_id == child.replaces:
                begun[at] = child
                return
        begun.append(child)

    def whole(self, cycle: int) -> CycleResult | None:
        """Return what a turn gave after which another one began; else `None`.

        Raises:
            KaizenError: What the turn failed of.
        """
        if cycle >= self.last:
            return None
        failed = self._failed.get(cycle)
        if failed is not None:
            raise _error(failed)
        reply = self._replies.get(cycle)
        if reply is None and cycle in self._gave:  # it asked no model
            return CycleResult(reply=self._gave[cycle])
        if reply is None or any(use.id not in self.results for use in reply.tool_uses):
            raise RunError(
                f"turn {cycle}",
                "is not wholly on record, and others came after it",
                "Rewind the run to a checkpoint before that turn.",
            )
        results = tuple(self.results[use.id] for use in reply.tool_uses)
        return CycleResult(reply=self._gave.get(cycle, reply), tool_results=results)

    def take_reply(self, cycle: int) -> ModelReply | None:
        """Return what the model said in a turn, once; `None` if it said nothing.

        Whoever makes the turn again after that asks the model.
        """
        return self._replies.pop(cycle, None)

    def added(self, cycle: int) -> int:
        """Return how many messages of the strategy joined before a turn."""
        return self._added.get(cycle, 0)

    def steered(self, cycle: int) -> bool:
        """Whether a turn was made since somebody had a message for the model.

        Messages of the strategy say that it was made for another reason.
        """
        return cycle in self._steered and cycle not in self._added

    def knows(self, call_id: str) -> bool:
        """Whether a call that no model asked for is on record."""
        return call_id in self._direct

    def direct(
        self, call_id: str, name: str, arguments: Mapping[str, Any]
    ) -> ToolResult | None:
        """Return the result of a call that no model asked for, if it has one.

        Raises:
            RunError: Another call was made at this place.
        """
        known = self._direct.get(call_id)
        if known is not None and (known.name != name or known.arguments != arguments):
            raise RunError(
                f"call {call_id!r} of tool {name!r}",
                f"was another one before the run was resumed, of tool {known.name!r}",
                "A run that is resumed has to make the same calls in the same order.",
            )
        return self.results.get(call_id)

    def child(self, place: str) -> Child | None:
        """Take the next run that was begun at a place; each is given once."""
        begun = self._children.get(place)
        if not begun:
            return None
        entry = begun.pop(0)
        return Child(
            run_id=entry.run_id,
            status=self._ended.get(entry.run_id, "running"),
            shared=entry.seq < self._forked_at,
            superseded=bool(begun),
        )


def _error(failed: CycleFailed) -> KaizenError:
    """Return the error of a turn again; its class is one of ours or none."""
    kind = getattr(errors, failed.error, None) if failed.error in errors.__all__ else None
    if isinstance(kind, type) and issubclass(kind, KaizenError):
        with suppress(TypeError):
            return kind(*failed.arguments)
    return RunError(f"turn {failed.cycle}", f"failed before: {failed.message}")


def _reply(entry: ModelReplied) -> ModelReply:
    return ModelReply(
        text=entry.message.text,
        tool_uses=entry.message.tool_uses,
        usage=entry.usage,
        finish_reason=entry.finish_reason,
        cost_usd=entry.cost_usd,
        model=entry.model,
        reasoning=entry.reasoning,
        cached=entry.cached,
        provider_data=entry.message.provider_data,
    )


def _result(entry: ToolFinished) -> ToolResult:
    """Return a result as it is on record, where values stand as JSON."""
    value: object = entry.content if entry.success else None
    if entry.as_json:
        with suppress(ValueError):  # it was too long, and cut
            value = from_json(entry.content)
    return ToolResult(
        call_id=entry.call_id,
        name=entry.name,
        success=entry.success,
        result=value,
        content=entry.content,
        error="" if entry.success else entry.content.removeprefix("Error: "),
        error_code=entry.error_code,
        approved=entry.approved,
        duration_ms=entry.duration_ms,
        outcome=entry.outcome,
    )
