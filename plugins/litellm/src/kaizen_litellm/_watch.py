"""Looks at what a provider sends before litellm does, for litellm overlooks things.

Some of its readers skip JSON that is broken or means nothing, take an error in the middle
of a stream for its end, or make up a reason and counts where they find none. Half an answer
would then be given as a whole one. So each event is read here once more, to ask: is it
JSON, is it what this provider says, does it say that it failed, does it say that the model
has ended. And of Cohere's answers litellm drops some parts, which are kept here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from kaizen_litellm._names import COHERE

__all__ = ["Watch"]

_OPENAI = ("choices", "output", "type", "data", "text", "usage")
# What has to stand in an answer, or in each event, by litellm's name of the provider.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("content", "type"),
    "azure": _OPENAI,
    "azure_ai": _OPENAI,
    "cohere": ("embeddings",),
    COHERE: ("message", "type"),
    "gemini": ("candidates", "promptFeedback", "usageMetadata", "embeddings", "embedding"),
    "openai": _OPENAI,
}
_REASONS: Mapping[str, str] = {
    # Anthropic
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    # Gemini and Cohere
    "STOP": "stop",
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    **dict.fromkeys(
        (
            "BLOCKLIST",
            "ERROR_TOXIC",
            "ESCALATION",
            "IMAGE_OTHER",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "IMAGE_SAFETY",
            "LANGUAGE",
            "NO_IMAGE",
            "OTHER",
            "PROHIBITED_CONTENT",
            "RECITATION",
            "SAFETY",
            "SPII",
        ),
        "content_filter",
    ),
    # OpenAI, in its two forms, and those who speak as it does
    "eos": "stop",
    "function_call": "tool_calls",
    "max_output_tokens": "length",
}
_ENDED = ("completed", "incomplete")


class Watch:
    """Watches one answer.

    Args:
        route: litellm's name of the provider; of one that is not known here, only JSON that
            is broken and errors are seen.

    Attributes:
        knows: Whether it would see that the model has ended.
        reason: Why the model ended, in the words of OpenAI; `""` until it has.
        text: The text of an answer of Cohere's that came in one piece.
        usage: What Cohere counts, of which litellm does not see all.
        told: What the provider said of a failure, or `None`.
        spoiled: Whether something came that cannot be read.
    """

    __slots__ = (
        "_ending",
        "_held",
        "_keys",
        "_route",
        "_thoughts",
        "knows",
        "reason",
        "spoiled",
        "text",
        "told",
        "usage",
    )

    def __init__(self, route: str) -> None:
        self._route = route
        self._keys = _KEYS.get(route, ())
        self._held: list[bytes] = []
        self._ending = ""
        self._thoughts: list[str] = []
        self.knows = bool(self._keys)
        self.reason = ""
        self.text = ""
        self.usage: Mapping[str, Any] | None = None
        self.told: Any = None
        self.spoiled = False

    @property
    def is_bad(self) -> bool:
        """Whether the rest is not to be read."""
        return self.spoiled or self.told is not None

    def thoughts(self) -> str:
        """Return what Cohere's model thought since this was asked last."""
        if not self._thoughts:
            return ""
        thoughts, self._thoughts = "".join(self._thoughts), []
        return thoughts

    def whole(self, body: bytes) -> None:
        """Look at an answer that came in one piece."""
        try:
            data = from_json(body)
        except ValueError:
            self.spoiled = True
            return
        self._look(data)
        choices = data.get("choices") if isinstance(data, Mapping) else None
        if choices is not None and not isinstance(_first(choices).get("message"), Mapping):
            self.spoiled = True
        if not self.is_bad and isinstance(data, Mapping):
            self._note_end(data)
            if self._route == COHERE:
                message = _inside(data, "message")
                self.text = "".join(_text(each.get("text")) for each in _parts(message))
                self._cohere_thought(message)
                self._cohere_ended(data)
            else:
                self._stopped(data.get("stop_reason") or data.get("finish_reason"))
            self.reason = self._ending

    def feed(self, chunk: bytes) -> int:
        """Look at a piece of a stream, and return how much of it is good."""
        if b"\n" not in chunk:
            self._held.append(chunk)
            return len(chunk)
        place = 0
        lines = chunk.split(b"\n")
        skipped = sum(map(len, self._held))
        lines[0] = b"".join((*self._held, lines[0]))
        self._held = [lines.pop()]
        for line in lines:
            self._read(line.strip())
            if self.is_bad:
                return place
            place += len(line) + 1 - skipped
            skipped = 0
        return len(chunk)

    def end(self) -> None:
        """Look at what stands behind the last end of line."""
        line = b"".join(self._held).strip()
        self._held = []
        if line.startswith(b"{") and line.endswith(b"}"):
            self._read(line)
        self.reason = self._ending

    def _read(self, line: bytes) -> None:
        """Look at a line; an event of a stream is whole once an empty one follows it."""
        if line.startswith(b"data:"):
            self._event(line[5:].strip())
        elif line.startswith((b"{", b"[")):
            self._event(line)
            self.reason = self._ending
        elif not line:
            self.reason = self._ending

    def _event(self, line: bytes) -> None:
        if not line or line == b"[DONE]":
            return
        try:
            event = from_json(line)
        except ValueError:
            self.spoiled = True
            return
        self._look(event)
        if not self.is_bad and isinstance(event, Mapping):
            self._note_end(event)

    def _look(self, data: Any) -> None:
        """Note an error, and what makes no sense from this provider."""
        if not isinstance(data, Mapping):
            self.spoiled = self.spoiled or bool(self._keys)
            return
        error = data.get("error")
        if data.get("type") == "response.failed":
            self.told = _inside(data, "response").get("error") or data
        elif error:
            self.told = error
        elif data.get("type") == "error" or isinstance(data.get("message"), str):
            self.told = data
        elif self._keys and all(data.get(key) is None for key in self._keys):
            self.spoiled = True

    def _note_end(self, event: Mapping[str, Any]) -> None:
        route = self._route
        if route == "anthropic":
            self._stopped(_inside(event, "delta").get("stop_reason"))
        elif route == "gemini":
            candidate = _first(event.get("candidates"))
            self._stopped(candidate.get("finishReason"))
            if _inside(event, "promptFeedback").get("blockReason"):
                self._stopped("content_filter")
        elif route == COHERE:
            if event.get("type") == "message-end":
                self._cohere_ended(_inside(event, "delta"))
            else:
                self._cohere_thought(_inside(_inside(event, "delta"), "message"))
        else:
            self._stopped(_first(event.get("choices")).get("finish_reason"))
            if event.get("type") in ("response.completed", "response.incomplete"):
                event = _inside(event, "response")
            if event.get("object") == "response" and event.get("status") in _ENDED:
                self._stopped(_inside(event, "incomplete_details").get("reason") or "stop")

    def _cohere_thought(self, message: Mapping[str, Any]) -> None:
        """Keep the thoughts and the plan of a message, or of a piece of one."""
        self._thoughts += [_text(each.get("thinking")) for each in _parts(message)]
        self._thoughts.append(_text(message.get("tool_plan")))

    def _cohere_ended(self, delta: Mapping[str, Any]) -> None:
        reason = delta.get("finish_reason")
        if reason in ("ERROR", "ERROR_LIMIT", "TIMEOUT"):
            kind = "timeout" if reason == "TIMEOUT" else "server_error"
            self.told = {"type": kind, "message": delta.get("error")}
            return
        self._stopped(reason)
        usage = _inside(delta, "usage")
        tokens = _inside(usage, "tokens")
        self.usage = {
            "prompt_tokens": _count(tokens.get("input_tokens")),
            "completion_tokens": _count(tokens.get("output_tokens")),
            "prompt_tokens_details": {"cached_tokens": _count(usage.get("cached_tokens"))},
        }

    def _stopped(self, reason: Any) -> None:
        if isinstance(reason, str) and reason:
            self._ending = _REASONS.get(reason, reason)[:100]


def _inside(owner: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = owner.get(name)
    return found if isinstance(found, Mapping) else {}


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the parts of a message of Cohere's; a piece of one has one part."""
    content = message.get("content")
    listed = content if isinstance(content, list) else [content]
    return [each for each in listed if isinstance(each, Mapping)]


def _first(listed: Any) -> Mapping[str, Any]:
    """Return the first of several choices, which is the one taken, if it is there.

    In a stream each event may hold another one, and those are numbered.
    """
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping) and not each.get("index"):
            return each
    return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> Any:
    """Return a count, which Cohere writes with a decimal point at times."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
