"""Images that are given by their address, and who would fetch them.

Most providers fetch such an image themselves. For the others litellm does, from this
machine: whoever writes a message could have it ask for what only this machine can reach.
So an address is given to litellm only where it is known to pass it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kaizen.media import Media
from kaizen.messages import Message

__all__ = ["PASSED_ON", "would_be_fetched"]

_ANY = ("https://", "http://")
PASSED_ON: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("https://",),
    **dict.fromkeys(
        (
            "azure",
            "azure_ai",
            "cerebras",
            "cohere_chat",
            "deepinfra",
            "fireworks_ai",
            "groq",
            "hosted_vllm",
            "lm_studio",
            "mistral",
            "moonshot",
            "nvidia_nim",
            "openai",
            "openrouter",
            "perplexity",
            "together_ai",
            "xai",
        ),
        _ANY,
    ),
}
"""How an address begins that litellm passes on, by its name of the provider."""


def would_be_fetched(route: str, messages: Sequence[Message]) -> bool:
    """Whether litellm would, or might, fetch an image of these messages by itself."""
    passed = PASSED_ON.get(route, ())
    return any(
        part.url is not None and not part.url.lower().startswith(passed)
        for message in messages
        if not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, Media)
    )
