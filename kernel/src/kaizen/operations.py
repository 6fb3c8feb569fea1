"""What the kernel's operations take and give, beside model and tool calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from kaizen._records import record
from kaizen.messages import Message, ModelReply, Usage
from kaizen.tools import ToolResult

__all__ = [
    "Checkpoint",
    "CheckpointRequest",
    "CycleRequest",
    "CycleResult",
    "Result",
    "RunRequest",
]


@record
class RunRequest:
    """One whole run, about to begin.

    Attributes:
        inputs: The validated inputs. A changed copy is validated again.
    """

    run_id: str
    agent_id: str
    inputs: Mapping[str, Any]


@record
class CycleRequest:
    """One turn of the loop, about to begin.

    Attributes:
        cycle: Which one, from 1.
        added: Messages to add to the conversation before the model is asked.
    """

    run_id: str
    agent_id: str
    cycle: int
    added: tuple[Message, ...] = ()


@record
class CycleResult:
    """What came of one turn: the model's reply and the results of its tool calls.

    Attributes:
        tool_results: One for each tool call of the reply, in its order.
    """

    reply: ModelReply
    tool_results: tuple[ToolResult, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the model asked for no tool: the reply is its answer."""
        return not self.reply.tool_uses


@record
class CheckpointRequest:
    """One snapshot, about to be taken."""

    run_id: str
    agent_id: str
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@record
class Checkpoint:
    """A mark in a run's log.

    Attributes:
        id: `<run id>:<position in the log>`.
        seq: The mark's position in the log.
    """

    id: str
    run_id: str
    seq: int
    description: str = ""


class Result(Mapping[str, Any]):
    """What a run gave: its outputs by key and by attribute, and its account.

    Attributes:
        run_id: The run.
        cycles: Requests to the model, repeated ones included.
        tool_calls: Tool calls that were made or refused.
        usage: Tokens and requests, child runs included.
        cost_usd: US dollars, child runs included; `None` if no provider said.
        duration_ms: Wall time in milliseconds.
        messages: The conversation, system message first.

    An output that bears one of these names is reached by key.
    """

    __slots__ = (
        "cost_usd",
        "cycles",
        "duration_ms",
        "messages",
        "outputs",
        "run_id",
        "tool_calls",
        "usage",
    )

    def __init__(
        self,
        outputs: Mapping[str, Any],
        *,
        run_id: str = "",
        cycles: int = 0,
        tool_calls: int = 0,
        usage: Usage = Usage(),  # noqa: B008 - frozen
        cost_usd: Decimal | None = None,
        duration_ms: float = 0.0,
        messages: tuple[Message, ...] = (),
    ) -> None:
        self.outputs = MappingProxyType(outputs)
        self.run_id = run_id
        self.cycles = cycles
        self.tool_calls = tool_calls
        self.usage = usage
        self.cost_usd = cost_usd
        self.duration_ms = duration_ms
        self.messages = messages

    def with_outputs(self, **outputs: Any) -> Result:
        """Return a copy with some outputs replaced."""
        account = {name: getattr(self, name) for name in Result.__slots__}
        return Result({**account.pop("outputs"), **outputs}, **account)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(
                f"no output {name!r}; there are {', '.join(self.outputs)}"
            ) from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in Result.__slots__:
            raise AttributeError(name)
        if name in self.outputs:
            return self.outputs[name]
        raise AttributeError(
            f"no output or attribute {name!r}; the outputs are {', '.join(self.outputs)}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        account = {name: getattr(self, name) for name in Result.__slots__}
        return _result, (dict(account.pop("outputs")), account)

    def __repr__(self) -> str:
        return f"Result({dict(self.outputs)!r}, run_id={self.run_id!r})"


def _result(outputs: dict[str, Any], account: dict[str, Any]) -> Result:
    return Result(outputs, **account)
