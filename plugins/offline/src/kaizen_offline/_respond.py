"""Answers one request: with tool calls as long as they promise something, then in words."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

from kaizen import ModelError, ModelReply, ModelRequest, OutputSpec, ToolUse

from kaizen_offline._answers import UnknownFieldError, fill
from kaizen_offline._conversation import Conversation, read_conversation
from kaizen_offline._limits import MODEL, Limits
from kaizen_offline._replies import estimate_usage
from kaizen_offline._report import Report, report_on
from kaizen_offline._research import next_calls

__all__ = ["respond"]

_FREE = Decimal(0)
_CHARS_PER_TOKEN = 4
_MAX_CHARS = 1200
_ENOUGH_GIVEN = 0.7
_ENOUGH_READ = 0.85


def respond(request: ModelRequest, limits: Limits) -> ModelReply:
    """Return what the offline model replies to a request. Blocks; call it in a thread.

    Raises:
        ModelError: The outputs leave no honest value for a field.
    """
    conversation = read_conversation(request)
    calls = _calls(conversation, request, limits)
    reply = ModelReply(
        text="" if calls else _answer(report_on(conversation), request),
        tool_uses=calls,
        finish_reason="tool_calls" if calls else "stop",
        cost_usd=_FREE,
        model=MODEL,
    )
    return replace(reply, usage=estimate_usage(request, reply.text, reply))


def _calls(
    conversation: Conversation, request: ModelRequest, limits: Limits
) -> tuple[ToolUse, ...]:
    """Return what should be looked up; nothing if what is there answers the question."""
    given = bool(conversation.subject) and not conversation.calls
    enough = _ENOUGH_GIVEN if given else _ENOUGH_READ
    has_read = any(call.name == "read_file" for call in conversation.calls)
    if (given or has_read) and report_on(conversation).confidence >= enough:
        return ()
    return next_calls(conversation, request.tools, limits)


def _answer(report: Report, request: ModelRequest) -> str:
    if request.output is not None:
        return _structured(request.output, report)
    tokens = request.settings.max_tokens
    most = _MAX_CHARS if tokens is None else min(tokens * _CHARS_PER_TOKEN, _MAX_CHARS)
    return report.text(with_places=True, most=most)


def _structured(output: OutputSpec, report: Report) -> str:
    try:
        value = fill(output.schema, report)
    except UnknownFieldError as error:
        raise ModelError(
            "offline",
            f"cannot answer field {error.field!r} of {output.name!r}: nothing that it read"
            " says what it is, and the field has no value for that",
            "Let the field be null, or choose a language model.",
        ) from error
    except ValueError as error:
        problem = f"cannot read the schema of {output.name!r}: {error}"
        raise ModelError("offline", problem) from error
    return json.dumps(value, ensure_ascii=False)
