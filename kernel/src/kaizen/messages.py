"""What passes between the kernel and a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kaizen._records import record
from kaizen.media import Media

if TYPE_CHECKING:
    from kaizen.tools import ToolSpec

__all__ = [
    "Content",
    "Message",
    "ModelDelta",
    "ModelProfile",
    "ModelReply",
    "ModelRequest",
    "ModelSettings",
    "OutputSpec",
    "Role",
    "ToolUse",
    "Usage",
]

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Content: TypeAlias = str | tuple[str | Media, ...]
"""What a message says: text, or text and media in order."""


@record
class ToolUse:
    """A model's proposal to call a tool. It is data, never authority.

    Attributes:
        id: The model's id of the call; unique within a reply.
        name: The tool's name as the model wrote it.
        arguments: The arguments, as an object or as the JSON text of one.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] | str


@record
class Message:
    """One message of a conversation.

    Attributes:
        tool_uses: What an assistant message asks to have called.
        tool_use_id: In a tool message, the call that it answers.
        name: In a tool message, the tool that was called.
        origin: Where the content came from, such as `user`, `model`, `tool:http_get` or
            `memory`. Content keeps its origin wherever it goes; it never raises trust.
        provider_data: In an assistant message, what its provider wants to get back with
            it, such as signatures of its reasoning, by the provider's name. JSON values.
    """

    role: Role
    content: Content
    tool_uses: tuple[ToolUse, ...] = ()
    tool_use_id: str = ""
    name: str = ""
    origin: str = ""
    provider_data: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text parts of the content, joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part for part in self.content if isinstance(part, str))


@record
class Usage:
    """What was consumed. Adds up with `+`.

    Attributes:
        requests: Requests to a provider.
        input_tokens: Tokens sent, cached ones included.
        output_tokens: Tokens received, reasoning included.
        cached_tokens: Tokens of the input that the provider had cached.
        reasoning_tokens: Tokens of the output that were reasoning.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens sent and received."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage.total((self, other))

    @staticmethod
    def total(parts: Iterable[Usage]) -> Usage:
        """Return the sum of usages."""
        requests = input_tokens = output_tokens = cached_tokens = reasoning_tokens = 0
        for each in parts:
            requests += each.requests
            input_tokens += each.input_tokens
            output_tokens += each.output_tokens
            cached_tokens += each.cached_tokens
            reasoning_tokens += each.reasoning_tokens
        return Usage(
            requests=requests,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_tokens=cached_tokens,
            reasoning_tokens=reasoning_tokens,
        )


@record
class OutputSpec:
    """The structured output that a reply must have.

    Attributes:
        name: The signature's name.
        schema: JSON schema of the outputs.
        strict: Whether the schema is closed, as structured-output APIs demand.
    """

    name: str
    schema: Mapping[str, Any]
    strict: bool = True


@record
class ModelSettings:
    """How a model is to answer. `None` leaves the choice to the provider.

    Attributes:
        max_tokens: Most tokens of one reply.
        timeout_s: Longest time for one request, in seconds.
        extra: Fields for this provider alone (`provider_config`).
    """

    temperature: float | None = None
    max_tokens: int | None = None
    timeout_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


@record
class ModelRequest:
    """One request to a provider. Change it with `dataclasses.replace` or a `with_` method.

    Attributes:
        model: The model's name, or `""` for the provider's default.
        provider: Who is asked, by name, or `""` for the agent's provider.
        prefix: How the reply begins. The provider goes on from there, and gives only what
            follows; see `ModelProfile.continues`.
        tools: What the model may ask to have called.
        output: The structured output wanted, or `None` for text.
        cycle: The turn of the loop, from 1.
    """

    messages: tuple[Message, ...]
    model: str = ""
    provider: str = ""
    prefix: str = ""
    tools: tuple[ToolSpec, ...] = ()
    output: OutputSpec | None = None
    settings: ModelSettings = ModelSettings()
    run_id: str = ""
    agent_id: str = ""
    cycle: int = 1

    def with_messages(self, *messages: Message) -> ModelRequest:
        """Return a copy with messages added at the end."""
        return replace(self, messages=(*self.messages, *messages))

    def with_context(self, text: str, *, origin: str = "context") -> ModelRequest:
        """Return a copy with background that the model reads before the conversation.

        It stands behind the system message, as a user message: what was recalled or
        retrieved has no more authority than a user has.
        """
        if not text:
            return self
        start = next(
            (i for i, message in enumerate(self.messages) if message.role != "system"),
            len(self.messages),
        )
        added = Message(role="user", content=text, origin=origin)
        return replace(
            self, messages=(*self.messages[:start], added, *self.messages[start:])
        )


@record
class ModelReply:
    """A provider's whole answer to one request.

    Attributes:
        text: What the model wrote; JSON where structured output was asked for.
        tool_uses: The tool calls that it proposes.
        finish_reason: `stop`, `tool_calls`, `length`, `content_filter`, or the provider's
            own word.
        cost_usd: What the request cost in US dollars, if it is known.
        model: The model that answered.
        reasoning: What it thought before, as far as the provider shows it.
        cached: Whether this is an earlier reply, given again.
        provider_data: What the provider wants to get back; see `Message`.
    """

    text: str = ""
    tool_uses: tuple[ToolUse, ...] = ()
    usage: Usage = Usage()
    finish_reason: str = "stop"
    cost_usd: Decimal | None = None
    model: str = ""
    reasoning: str = ""
    cached: bool = False
    provider_data: Mapping[str, Any] | None = None


@record
class ModelDelta:
    """A piece of a reply that is still being written.

    An empty one is a sign of life: something comes that no reader is shown, such as the
    arguments of a tool call.

    Attributes:
        text: What is added to the text.
        reasoning: What is added to the reasoning.
    """

    text: str = ""
    reasoning: str = ""


@record
class ModelProfile:
    """What a model can do.

    Attributes:
        name: The model's name, as its provider knows it.
        context_window: Most tokens of input and output together, if known.
        max_output_tokens: Most tokens of one reply, if known.
        tools: Whether it calls tools.
        structured_output: Whether it is held to a JSON schema by its provider; where not,
            the schema is written into the prompt.
        media: Kinds of media it reads: `image`, `audio`, `document`.
        continues: Whether it goes on from a `prefix`.
        cached_input_usd_per_million: Price of a million input tokens that the provider had
            cached, if known.
        input_usd_per_million: Price of a million input tokens, if known.
        output_usd_per_million: Price of a million output tokens, if known.
    """

    name: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    tools: bool = True
    structured_output: bool = True
    media: frozenset[str] = frozenset()
    continues: bool = False
    cached_input_usd_per_million: Decimal | None = None
    input_usd_per_million: Decimal | None = None
    output_usd_per_million: Decimal | None = None
