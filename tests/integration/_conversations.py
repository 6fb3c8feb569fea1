"""What every conversation must keep, whatever happened to its run."""

from __future__ import annotations

from collections.abc import Sequence

from kaizen import Message


def problem_of(messages: Sequence[Message]) -> str:
    """Say why no provider would take a conversation, or `""`.

    After a message with calls come the results, one of each and in any order, and only then
    another message.
    """
    due: set[str] = set()
    known: set[str] = set()
    for place, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_use_id not in due:
                return f"message {place} answers {message.tool_use_id!r}, due are {due}"
            due.remove(message.tool_use_id)
        elif due:
            return f"message {place} ({message.role}) comes before results of {due}"
        asked = [use.id for use in message.tool_uses]
        if known.intersection(asked) or len({*asked}) < len(asked):
            return f"message {place} uses an id of a call twice"
        due.update(asked)
        known.update(asked)
    return f"no results of {due}" if due else ""
