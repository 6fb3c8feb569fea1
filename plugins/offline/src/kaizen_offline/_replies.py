"""What both models do with a reply: count its tokens, and cut it into pieces."""

from __future__ import annotations

import json
import re

from kaizen import Message, ModelReply, ModelRequest, Usage

__all__ = ["estimate_usage", "words"]

_CHARS_PER_TOKEN = 4
_MEDIA_CHARS = 1024


def estimate_usage(
    request: ModelRequest, text: str, reply: ModelReply | None = None
) -> Usage:
    """Return an estimate that is always the same for the same texts.

    A token is taken to be four characters, as it is on average in English; each text is
    rounded up. A picture or recording counts as 256 tokens. Tool descriptions do not count.
    """
    sent = 0
    for message in request.messages:
        content = message.content
        if type(content) is str:
            sent += len(content)
        else:
            sent += _length(message)
        if message.tool_uses:
            sent += _proposed(message)
    received = len(text)
    if reply is not None and reply.tool_uses:
        received += sum(
            len(use.name) + len(_json(use.arguments)) for use in reply.tool_uses
        )
    return Usage(
        requests=1,
        input_tokens=-(-sent // _CHARS_PER_TOKEN),
        output_tokens=-(-received // _CHARS_PER_TOKEN),
    )


def _length(message: Message) -> int:
    return sum(
        len(part) if isinstance(part, str) else _MEDIA_CHARS for part in message.content
    )


def _proposed(message: Message) -> int:
    return sum(len(use.name) + len(_json(use.arguments)) for use in message.tool_uses)


def _json(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, default=str)


def words(text: str) -> list[str]:
    """Return the words of a text, each with the white space behind it."""
    return re.findall(r"\S+\s*|^\s+", text)
