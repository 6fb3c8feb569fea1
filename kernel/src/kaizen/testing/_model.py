"""A model that says what a test tells it to."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

import anyio

from kaizen.errors import ModelError
from kaizen.messages import ModelDelta, ModelReply, ModelRequest, ToolUse, Usage
from kaizen.ports import BaseProvider

__all__ = ["Call", "Line", "ScriptedModel"]


@dataclass(frozen=True, slots=True)
class Call:
    """A line of a script: the model asks for a tool."""

    name: str
    arguments: Mapping[str, object] | str = ""
    id: str = ""


Line: TypeAlias = (
    str
    | Mapping[str, object]
    | ModelReply
    | Call
    | Sequence[Call]
    | BaseException
    | Callable[[ModelRequest], "Line"]
)
"""What the model does in one turn: says a text or the JSON of a mapping, asks for one or
more tools, raises, or what a function of the request returns."""


class ScriptedModel(BaseProvider):
    """Answers each request with the next line of a script.

    Attributes:
        requests: What it was asked, in order.
        cost_usd: What each request costs.
        delay_s: How long it thinks, in seconds.
    """

    name = "scripted"

    def __init__(
        self, *script: Line, delay_s: float = 0.0, cost_usd: Decimal | None = None
    ) -> None:
        self.requests: list[ModelRequest] = []
        self.delay_s = delay_s
        self.cost_usd = cost_usd
        self._script = list(script)
        self._spoken = 0

    def say(self, *lines: Line) -> None:
        """Add lines at the end of the script."""
        self._script.extend(lines)

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer with the next line.

        Raises:
            ModelError: The script is at its end.
        """
        self.requests.append(request)
        if self.delay_s:
            await anyio.sleep(self.delay_s)
        if self._spoken == len(self._script):
            raise ModelError(
                self.name,
                f"has no line for request {self._spoken + 1}",
                "Give ScriptedModel as many lines as the test has model calls.",
            )
        line = self._script[self._spoken]
        self._spoken += 1
        return self._reply(line, request)

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        """Answer with the next line, word by word."""
        reply = await self.complete(request)
        for piece in re.findall(r"\s*\S+|\s+$", reply.text):
            yield ModelDelta(text=piece)
        yield reply

    def _reply(self, line: Line, request: ModelRequest) -> ModelReply:
        if isinstance(line, BaseException):
            raise line
        if callable(line):
            return self._reply(line(request), request)
        if isinstance(line, ModelReply):
            return line
        text = ""
        uses: tuple[ToolUse, ...] = ()
        if isinstance(line, str):
            text = line
        elif isinstance(line, Mapping):
            text = json.dumps(line)
        else:
            calls = [line] if isinstance(line, Call) else line
            uses = tuple(
                ToolUse(
                    id=each.id or f"use_{self._spoken}_{place}",
                    name=each.name,
                    arguments=each.arguments or {},
                )
                for place, each in enumerate(calls)
            )
        return ModelReply(
            text=text,
            tool_uses=uses,
            usage=Usage(requests=1, input_tokens=10, output_tokens=5),
            finish_reason="tool_calls" if uses else "stop",
            cost_usd=self.cost_usd,
            model="scripted",
        )
