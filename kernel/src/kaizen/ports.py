"""What plugins offer and users pick by name.

A port is a `Protocol`. A plugin adds implementations of it to the registry in its
`contribute` hook; `await kernel.get(Provider, "openai")` opens one, once per kernel.
A plugin may define ports of its own in the same way: any class serves as a key.

| port | what it is |
|---|---|
| `Provider` | answers model requests |
| `Tool` | one thing a model may ask to have done |
| `ToolSource` | many tools under one name |
| `Strategy` | how an agent runs |
| `CheckpointStore` | keeps run logs |
| `MemoryStore` | keeps what agents remember |
| `Embedder` | turns texts into vectors |
| `Channel` | the way to a person or a program outside |
| `Interrupter` | decides whether a run must stop |
| `Engine` | where runs execute |
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from kaizen._records import record
from kaizen.errors import ModelError
from kaizen.messages import ModelDelta, ModelProfile, ModelReply, ModelRequest
from kaizen.tools import Tool

if TYPE_CHECKING:
    from kaizen.config import AgentConfig
    from kaizen.interrupts import InterruptReason
    from kaizen.media import Audio
    from kaizen.signatures import Signature

__all__ = [
    "Answer",
    "AnswerLater",
    "BaseProvider",
    "Channel",
    "CheckpointStore",
    "Embedder",
    "Engine",
    "Interrupter",
    "Memory",
    "MemoryStore",
    "PendingRequest",
    "Provider",
    "RunRecord",
    "StoredEntry",
    "Strategy",
    "Tool",
    "ToolSource",
    "Transcript",
]

Value = TypeVar("Value")


@record
class Transcript:
    """Speech as text.

    Attributes:
        language: The language's ISO 639-1 code, or `""` if it was not found out.
        duration_s: Length of the recording in seconds, or `None`.
    """

    text: str
    language: str = ""
    duration_s: float | None = None


@runtime_checkable
class Provider(Protocol):
    """Answers model requests. Derive from `BaseProvider` to offer only a part."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer one request.

        Raises:
            ModelError: The provider cannot answer; it says why and whether to retry. What
                had come of the reply is its `partial`.
        """
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelDelta | ModelReply]:
        """Answer one request piece by piece.

        Yields:
            Any number of deltas, then exactly one `ModelReply` that holds the whole answer.
        """
        ...

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        """Return one vector for each text, in their order."""
        ...

    async def transcribe(self, audio: Audio, *, model: str = "") -> Transcript:
        """Return what is said in a recording."""
        ...

    def describe(self, model: str) -> ModelProfile:
        """Say what a model can do; `""` is the default model. No I/O."""
        ...

    def supports_tools(self, model: str = "") -> bool:
        """Say whether a model calls tools. No I/O."""
        ...

    async def models(self) -> Sequence[ModelProfile]:
        """Return the models that there are, as far as the provider says."""
        ...


class BaseProvider:
    """A provider that can do nothing yet; override what yours can do.

    `stream` falls back on `complete`.
    """

    name = "provider"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer one request; by default none."""
        raise self._unsupported("complete requests")

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        """Answer one request piece by piece; by default in one piece."""
        reply = await self.complete(request)
        if reply.text:
            yield ModelDelta(text=reply.text)
        yield reply

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        """Return one vector for each text; by default none."""
        raise self._unsupported("embed texts")

    async def transcribe(self, audio: Audio, *, model: str = "") -> Transcript:
        """Return what is said in a recording; by default nothing."""
        raise self._unsupported("transcribe audio")

    def describe(self, model: str) -> ModelProfile:
        """Say what a model can do; by default what most can."""
        return ModelProfile(name=model)

    def supports_tools(self, model: str = "") -> bool:
        """Say whether a model calls tools, by what `describe` says of it."""
        return self.describe(model).tools

    async def models(self) -> Sequence[ModelProfile]:
        """Return the models that there are; by default it says of none."""
        return ()

    def _unsupported(self, ability: str) -> ModelError:
        return ModelError(self.name, f"cannot {ability}", "Choose a provider that can.")


class ToolSource(Protocol):
    """Brings tools that are found together, such as the tools of a server."""

    async def tools(self) -> Sequence[Tool]:
        """Return the tools, in an order that stays the same."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """Decides how an agent gets from inputs to outputs.

    `kaizen.current_run()` gives the run: its `cycle()` makes one turn of the loop, and its
    `read()` the outputs of a reply.
    """

    async def execute(
        self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
    ) -> Mapping[str, Any]:
        """Return a value for each output of the signature; the kernel validates them."""
        ...


@record
class StoredEntry:
    """One entry of a run log, as a store keeps it.

    Attributes:
        seq: Position in the log, from 0 without gaps.
        type: The entry's type, such as `tool_intended`.
        version: Version of that type.
        body: The entry as JSON, UTF-8.
    """

    seq: int
    type: str
    version: int
    body: bytes


@record
class RunRecord:
    """What a store can say of a run without reading its log.

    Attributes:
        status: How it ended, or `running` if it has not, be it that nobody carries it out.
        length: How many entries the log has.
        updated_at: When the last entry was written, seconds since the epoch, UTC.
        forked_from: The run whose log this one continues, and how many entries they share.
        parent_id: The run inside which it was started, or `""`.
        owner: Who holds it now, or `""`; see `kaizen.claims`.
    """

    run_id: str
    agent_id: str
    status: str
    length: int
    updated_at: float
    forked_from: tuple[str, int] | None = None
    parent_id: str = ""
    owner: str = ""


class CheckpointStore(Protocol):
    """Keeps run logs. Every acknowledged write survives a crash.

    An id of a run that a store would have to change in order to keep it, such as `../x`, is
    refused with a `CheckpointSaveError` by what writes and a `CheckpointLoadError` by what
    reads. A store that cannot be reached, or has no room, raises a
    `StorageUnavailableError`, and what it kept before stays as it was.

    Stores need not know the entries: `kaizen.runlog.described` says what each adds to the
    record of its run, and `kaizen.claims` who may write.
    """

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        """Add entries at the end of a log; all of them or none.

        Args:
            run_id: The run; its first append creates the log.
            entries: Consecutive entries; the first follows the last one stored. None at
                all change nothing.
            token: The fencing token of the claim under which the writer acts. Without one,
                only a run that nobody holds can be written.

        Raises:
            ClaimLostError: The token is no longer valid, or somebody holds the run and
                there is none. Nothing was written.
            CheckpointSaveError: Nothing was written: the position is taken, or the store
                failed.
        """
        ...

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        """Return entries in order, those shared with the run's ancestor included.

        An append under way elsewhere is seen whole or not at all.

        Args:
            start: The first entry wanted; there may be none.
            limit: Most entries; below one, none.

        Raises:
            UnknownRunError: There is no such run.
            CheckpointLoadError: Its log is damaged.
        """
        ...

    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        """Return the runs, last updated first.

        Args:
            agent_id: Only those of one agent.
            status: Only those of one status; `running` for those that have not ended.
            limit: Most records; below one, none.
        """
        ...

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        """Begin a new log that shares the first `length` entries of another.

        Takes the same time however long the past is, and copies none of it.

        Raises:
            CheckpointSaveError: The new id is taken, or the log is shorter.
            UnknownRunError: There is no such run.
        """
        ...

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        """Become the only writer of a run for some seconds and return a fencing token.

        The run need not have a log yet. Who holds it already extends the lease and keeps
        the token; a lease of 0 seconds gives the run up. A claim need not survive a loss
        of power, after which nobody is left who holds one, but its token must not be given
        twice to writers who can both be there.

        Raises:
            ClaimLostError: Somebody else holds the run.
        """
        ...

    async def delete(self, run_id: str) -> None:
        """Forget a run, its claim and its messages; a run that is not there is no error.

        Logs that share its entries keep them.

        Raises:
            ClaimLostError: Somebody holds the run.
        """
        ...

    async def send(self, run_id: str, message: bytes) -> None:
        """Leave a message for whoever carries out a run, in this process or another.

        Args:
            run_id: The run; it need not have a log.
            message: At most 1 MiB.

        Raises:
            CheckpointSaveError: It is too large, or 1,000 wait for the run already.
        """
        ...

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        """Take the messages that were left for some runs, oldest first.

        Cheap where there are none, since it is asked a few times a second.

        Returns:
            Pairs of a run's id and a message. Each message is given once; if the call is
            cancelled, its messages wait for the next one.
        """
        ...


@record
class Memory:
    """Something remembered.

    Attributes:
        importance: From 0 to 1.
        source: Where it came from, such as `user` or `mail:123`.
        score: How well it fits the search, from 0 to 1; `None` outside a search.
    """

    id: str
    text: str
    importance: float = 0.5
    tags: tuple[str, ...] = ()
    source: str = ""
    created_at: float = 0.0
    score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class MemoryStore(Protocol):
    """Keeps what agents remember."""

    async def add(
        self,
        text: str,
        *,
        importance: float = 0.5,
        tags: Sequence[str] = (),
        source: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Memory:
        """Remember a text and return it with its id."""
        ...

    async def search(self, query: str, *, limit: int = 5) -> Sequence[Memory]:
        """Return what fits a query, best first."""
        ...

    async def delete(self, memory_id: str) -> bool:
        """Forget one memory; say whether there was one."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector for each text, in their order, all of one length."""
        ...


@record
class PendingRequest:
    """A question that a run waits for.

    Attributes:
        id: `<run id>:<place>`; stable across restarts, and no other request has it.
        kind: `question` or `approval`.
        options: Answers to choose from; empty where any that fits will do.
        details: What an approval is about, all of it. JSON values.
        schema: JSON schema of the answer's value; empty for an approval, and for a question
            that any text answers.
        action_digest: What an approval is bound to; see `kaizen.tools.action_digest`.
        principal: On whose behalf the run acts, or `""`.
        run_path: The runs that wait, outermost first.
        agent_path: The ids of their agents.
        expires_at: When it counts as refused, seconds since the epoch, UTC.
    """

    id: str
    kind: Literal["question", "approval"]
    text: str
    options: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    action_digest: str = ""
    principal: str = ""
    run_path: tuple[str, ...] = ()
    agent_path: tuple[str, ...] = ()
    expires_at: float | None = None


@record
class Answer:
    """What came back for a pending request.

    Attributes:
        approved: For an approval, the decision; silence is `False`.
        text: For a question, the answer; for an approval, what else there is to say.
        value: For a question with a schema, the answer, as JSON values that fit it.
        always: For an approval, that the rule which was shown holds from now on.
        principal: Who answered, as the channel knows them.
        request_id: What it answers; filled in by `Run.ask`.
    """

    approved: bool = False
    text: str = ""
    value: Any = None
    always: bool = False
    principal: str = ""
    request_id: str = ""


class AnswerLater(Exception):
    """Raised by a channel that has passed a question on, and does not wait for the answer.

    The run stops, and goes on with `BaseAgent.resume` once `kaizen.checkpoints.answer` has
    put the answer into its log.
    """


@runtime_checkable
class Channel(Protocol):
    """The way to a person or a program outside."""

    async def ask(self, request: PendingRequest) -> Answer:
        """Put a question or an approval to the other side and wait for the answer.

        May be called many times at once. Is cancelled when the answer is no longer wanted.

        Raises:
            NotAnsweredError: Nobody will answer: the other side is gone, say.
            AnswerLater: The answer will come when this process may be gone.
        """
        ...

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        """Tell the other side how far the work is.

        Args:
            percentage: From 0 to 100, if it is known.
            run_path: The runs that do it, outermost first.
        """
        ...


class Interrupter(Protocol):
    """Decides at each cycle whether a run must stop."""

    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        """Return the reason to stop, or `None` to go on."""
        ...


class Engine(Protocol):
    """Where runs execute: in this process, or on a distributed engine."""

    async def submit(self, run_id: str, work: Callable[[], Awaitable[Value]]) -> Value:
        """Carry out the work of a run and return what it returns."""
        ...
