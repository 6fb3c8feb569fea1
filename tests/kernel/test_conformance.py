"""The conformance tests pass on what keeps the promises of its port, and fail otherwise."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from zlib import crc32

import anyio
import anyio.lowlevel
import pytest
from kaizen import (
    AgentConfig,
    Answer,
    Channel,
    CheckpointStore,
    Embedder,
    Engine,
    Interrupter,
    InterruptReason,
    Memory,
    MemoryStore,
    Message,
    ModelDelta,
    ModelReply,
    ModelRequest,
    MultiCycle,
    PendingRequest,
    Provider,
    RunRecord,
    Signature,
    SingleShot,
    StoredEntry,
    Strategy,
    Tool,
    ToolContext,
    ToolSource,
    ToolSpec,
    Usage,
    current_run,
)
from kaizen import tool as make_tool
from kaizen.claims import held_by_another
from kaizen.errors import CheckpointLoadError, CheckpointSaveError
from kaizen.testing import Line, MemoryCheckpointStore, ScriptedModel, conformance
from kaizen.testing.conformance import (
    ChannelConformance,
    CheckpointStoreConformance,
    EmbedderConformance,
    EngineConformance,
    InterrupterConformance,
    MemoryStoreConformance,
    ProviderConformance,
    StrategyConformance,
    ToolConformance,
    ToolSourceConformance,
)

Value = TypeVar("Value")

# Small implementations that keep every promise of their port.


def scripted() -> ScriptedModel:
    return ScriptedModel(*["hello there"] * 10)


@make_tool(danger="safe")
async def add(a: int, numbers: list[int], b: int = 2) -> int:
    """Add numbers."""
    return a + b + sum(numbers)


@make_tool(danger="safe")
async def greet(name: str) -> str:
    """Greet."""
    return f"hello {name}"


class TwoTools:
    async def tools(self) -> Sequence[Tool]:
        return (add, greet)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class ListOfMemories:
    """Finds memories by the words that they share with the query."""

    def __init__(self) -> None:
        self._memories: dict[str, Memory] = {}
        self._count = 0

    async def add(
        self,
        text: str,
        *,
        importance: float = 0.5,
        tags: Sequence[str] = (),
        source: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Memory:
        self._count += 1
        memory = Memory(
            id=str(self._count),
            text=text,
            importance=importance,
            tags=tuple(tags),
            source=source,
            metadata=metadata or {},
        )
        self._memories[memory.id] = memory
        return memory

    async def search(self, query: str, *, limit: int = 5) -> Sequence[Memory]:
        wanted = set(words(query))
        scored = [
            replace(memory, score=len(wanted & set(words(memory.text))) / len(wanted))
            for memory in self._memories.values()
        ]
        found = [memory for memory in scored if memory.score]
        return sorted(found, key=lambda memory: -(memory.score or 0))[:limit]

    async def delete(self, memory_id: str) -> bool:
        return self._memories.pop(memory_id, None) is not None


class HashEmbedder:
    """Counts words in as many places as a vector has."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = [[0.0] * 8 for _ in texts]
        for vector, text in zip(vectors, texts, strict=True):
            for word in words(text):
                vector[crc32(word.encode()) % 8] += 1
        return vectors


class YesChannel:
    """Somebody who agrees to everything."""

    async def ask(self, request: PendingRequest) -> Answer:
        return Answer(approved=True, text=request.options[0] if request.options else "yes")

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        return None


class CycleInterrupter:
    """Stops a run in its third cycle."""

    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        return InterruptReason(message="three are enough") if context["cycle"] > 2 else None


class InlineEngine:
    """Does the work where it is."""

    async def submit(self, run_id: str, work: Callable[[], Awaitable[Value]]) -> Value:
        return await work()


class AskTwice:
    """A strategy of one's own: asks for a draft, then for the answer."""

    async def execute(
        self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
    ) -> Mapping[str, Any]:
        run = current_run()
        draft = await run.cycle()
        message = Message(role="user", content=f"Improve: {draft.reply.text}")
        return run.read((await run.cycle([message])).reply)


@pytest.mark.anyio
class TestScriptedModel(ProviderConformance):
    @pytest.fixture
    def provider(self) -> Provider:
        return scripted()


@pytest.mark.anyio
class TestSlowModel(ProviderConformance):
    @pytest.fixture
    def provider(self) -> Provider:
        return ScriptedModel(*["hello there"] * 10, delay_s=0.001)


@pytest.mark.anyio
class TestFunctionTool(ToolConformance):
    @pytest.fixture
    def tool(self) -> Tool:
        return add

    @pytest.fixture
    def arguments(self) -> Mapping[str, Any]:
        return {"a": "1", "numbers": [1, 2]}


@pytest.mark.anyio
class TestTwoTools(ToolSourceConformance):
    @pytest.fixture
    def source(self) -> ToolSource:
        return TwoTools()


@pytest.mark.anyio
class TestMultiCycle(StrategyConformance):
    @pytest.fixture
    def strategy(self) -> Strategy:
        return MultiCycle()


@pytest.mark.anyio
class TestSingleShot(StrategyConformance):
    @pytest.fixture
    def strategy(self) -> Strategy:
        return SingleShot()


@pytest.mark.anyio
class TestAskTwice(StrategyConformance):
    script: tuple[Line, ...] = ("three?", "four")

    @pytest.fixture
    def strategy(self) -> Strategy:
        return AskTwice()


@pytest.mark.anyio
class TestMemoryCheckpointStore(CheckpointStoreConformance):
    @pytest.fixture
    def store(self) -> CheckpointStore:
        return MemoryCheckpointStore()


@pytest.mark.anyio
class TestListOfMemories(MemoryStoreConformance):
    @pytest.fixture
    def memories(self) -> MemoryStore:
        return ListOfMemories()


@pytest.mark.anyio
class TestHashEmbedder(EmbedderConformance):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return HashEmbedder()


@pytest.mark.anyio
class TestYesChannel(ChannelConformance):
    @pytest.fixture
    def channel(self) -> Channel:
        return YesChannel()


@pytest.mark.anyio
class TestCycleInterrupter(InterrupterConformance):
    @pytest.fixture
    def interrupter(self) -> Interrupter:
        return CycleInterrupter()

    @pytest.fixture
    def quiet(self) -> Mapping[str, Any]:
        return {"cycle": 1}

    @pytest.fixture
    def loud(self) -> Mapping[str, Any]:
        return {"cycle": 3}


@pytest.mark.anyio
class TestInlineEngine(EngineConformance):
    @pytest.fixture
    def engine(self) -> Engine:
        return InlineEngine()


# Implementations that break one promise each.


class UndescribedModel(ScriptedModel):
    def describe(self, model: str) -> Any:
        return None


class SilentModel(ScriptedModel):
    async def complete(self, request: ModelRequest) -> ModelReply:
        return ModelReply(text="", usage=Usage(requests=1))


class UncountedModel(ScriptedModel):
    async def complete(self, request: ModelRequest) -> ModelReply:
        return ModelReply(text="hello")


class EndlessModel(ScriptedModel):
    """Streams text, but no reply at the end."""

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        yield ModelDelta(text="hello")


class StutteringModel(ScriptedModel):
    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        reply = await self.complete(request)
        yield ModelDelta(text="hello")
        yield ModelDelta(text="hello")
        yield reply


class BusyModel(ScriptedModel):
    """Can answer one request at a time."""

    busy = False

    async def complete(self, request: ModelRequest) -> ModelReply:
        if self.busy:
            raise RuntimeError("busy")
        self.busy = True
        await anyio.lowlevel.checkpoint()
        self.busy = False
        return await super().complete(request)


class StubbornModel(ScriptedModel):
    """Answers although it was cancelled."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        try:
            await anyio.sleep(0.001)
        except anyio.get_cancelled_exc_class():
            return ModelReply(text="anyway", usage=Usage(requests=1))
        return await super().complete(request)


class BrokenTool:
    """A tool that passes everything on; what is broken is overridden."""

    @property
    def spec(self) -> ToolSpec:
        return add.spec

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return add.validate(arguments)

    async def invoke(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        return await add.invoke(arguments, context)


class ChangingTool(BrokenTool):
    calls = 0

    @property
    def spec(self) -> ToolSpec:
        self.calls += 1
        return replace(add.spec, description=f"version {self.calls}")


class UndocumentedTool(BrokenTool):
    @property
    def spec(self) -> ToolSpec:
        return replace(add.spec, description="")


class ListTool(BrokenTool):
    @property
    def spec(self) -> ToolSpec:
        return replace(add.spec, parameters={"type": "array"})


class SetTool(BrokenTool):
    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**add.validate(arguments), "numbers": {1, 2}}


class LaxTool(BrokenTool):
    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return dict(arguments)


class SameTools(TwoTools):
    async def tools(self) -> Sequence[Tool]:
        return (add, add)


class NoTools(TwoTools):
    async def tools(self) -> Sequence[Tool]:
        return ()


class ShuffledTools(TwoTools):
    calls = 0

    async def tools(self) -> Sequence[Tool]:
        self.calls += 1
        return (add, greet) if self.calls % 2 else (greet, add)


class EmptyStrategy:
    async def execute(
        self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
    ) -> Mapping[str, Any]:
        return {}


class SecretStrategy:
    """Asks the model behind the run's back."""

    async def execute(
        self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
    ) -> Mapping[str, Any]:
        run = current_run()
        reply = (await run.cycle()).reply
        run.log.state.charge(Usage(requests=1), None)
        return run.read(reply)


class BackwardStore(MemoryCheckpointStore):
    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        return (await super().read(run_id, start=start, limit=limit))[::-1]


class WholeStore(MemoryCheckpointStore):
    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        return await super().read(run_id)


class OverwritingStore(MemoryCheckpointStore):
    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        kept = self._logs.get(run_id, [])[: entries[0].seq]
        self._logs[run_id] = [*kept, *entries]


class HalfwayStore(MemoryCheckpointStore):
    """Keeps what came before the entry that it refuses."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        for entry in entries:
            await super().append(run_id, [entry], token=token)


class ForgivingStore(MemoryCheckpointStore):
    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        return self._logs.get(run_id, [])


class EntangledStore(MemoryCheckpointStore):
    """A fork writes into the log that it came from."""

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        await super().fork(run_id, length=length, new_run_id=new_run_id)
        del self._logs[run_id][length:]


class LinkedStore(MemoryCheckpointStore):
    """A fork is lost with what it came from."""

    async def delete(self, run_id: str) -> None:
        for record in await self.runs():
            if record.run_id == run_id or (record.forked_from or ("",))[0] == run_id:
                await super().delete(record.run_id)


class UnsortedStore(MemoryCheckpointStore):
    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        found = await super().runs(agent_id=agent_id, status=status, limit=limit)
        return sorted(found, key=lambda record: record.run_id, reverse=True)


class LimitlessStore(MemoryCheckpointStore):
    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        return await super().runs(agent_id=agent_id, status=status)


class OnePageStore(MemoryCheckpointStore):
    """Lists what comes in the first answer of a server, and asks for no more."""

    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        limit = min(limit, 100)
        return await super().runs(agent_id=agent_id, status=status, limit=limit)


class HurriedStore(MemoryCheckpointStore):
    """Counts before it selects."""

    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        return [
            record
            for record in await super().runs(limit=limit)
            if agent_id in (None, record.agent_id) and status in (None, record.status)
        ]


class StatuslessStore(MemoryCheckpointStore):
    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        return await super().runs(agent_id=agent_id, limit=limit)


class BrokenRecords(MemoryCheckpointStore):
    """A store that lists everything; what is broken is overridden."""

    def record(self, record: RunRecord) -> RunRecord:
        return record

    async def runs(
        self, *, agent_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        found = await super().runs(agent_id=agent_id, status=status, limit=limit)
        return [self.record(each) for each in found]


class NamelessStore(BrokenRecords):
    def record(self, record: RunRecord) -> RunRecord:
        return replace(record, agent_id="")


class OrphaningStore(BrokenRecords):
    def record(self, record: RunRecord) -> RunRecord:
        return replace(record, forked_from=None)


class ParentlessStore(BrokenRecords):
    def record(self, record: RunRecord) -> RunRecord:
        return replace(record, parent_id="")


class OwnerlessStore(BrokenRecords):
    def record(self, record: RunRecord) -> RunRecord:
        return replace(record, owner="")


class MillisecondStore(BrokenRecords):
    def record(self, record: RunRecord) -> RunRecord:
        return replace(record, updated_at=record.updated_at * 1_000)


class FinalStore(BrokenRecords):
    """A run that ended once has ended forever."""

    def record(self, record: RunRecord) -> RunRecord:
        ended = any(entry.type == "run_ended" for entry in self._logs[record.run_id])
        return replace(record, status="completed") if ended else record


class DynasticStore(MemoryCheckpointStore):
    """A fork belongs to whom the past belongs to."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        before = self._records.get(run_id)
        await super().append(run_id, entries, token=token)
        if before is not None and before.forked_from is not None:
            record = self._records[run_id]
            self._records[run_id] = replace(record, agent_id=before.agent_id)


class EndlessStore(MemoryCheckpointStore):
    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        if start >= len(self._log(run_id)):
            raise CheckpointLoadError(f"run {run_id!r}", "is shorter")
        return await super().read(run_id, start=start, limit=limit)


class SqlStore(MemoryCheckpointStore):
    """Takes a limit for what SQLite takes it for: a negative one is none."""

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        if limit is not None and limit < 0:
            limit = None
        return await super().read(run_id, start=start, limit=limit)


class PagedStore(MemoryCheckpointStore):
    """Reads the first page of a log."""

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        return (await super().read(run_id, start=start, limit=limit))[:1_000]


class TidyStore(MemoryCheckpointStore):
    """Writes JSON in its own way."""

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        found = await super().read(run_id, start=start, limit=limit)
        bodies = [json.dumps(json.loads(each.body), ensure_ascii=False) for each in found]
        return [
            replace(each, body=body.encode())
            for each, body in zip(found, bodies, strict=True)
        ]


class BusyStore(MemoryCheckpointStore):
    """Expects something to write."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        if not entries:
            raise CheckpointSaveError(f"run {run_id!r}", "has nothing to add")
        await super().append(run_id, entries, token=token)


class TornStore(MemoryCheckpointStore):
    """Others see what it is about to write."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        await super().append(run_id, entries, token=token)
        whole = self._logs[run_id]
        self._logs[run_id] = whole[: len(whole) - len(entries) // 2]
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            self._logs[run_id] = whole


class CutStore(MemoryCheckpointStore):
    """What is cancelled has begun."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            await super().append(run_id, entries[:1], token=token)
            raise
        await super().append(run_id, entries, token=token)


class LastWordStore(MemoryCheckpointStore):
    """Of two who write at once, the last one wins and both believe that they did."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        log = self._logs.get(run_id, [])
        await anyio.lowlevel.checkpoint()
        self._logs[run_id] = log
        await super().append(run_id, entries, token=token)


class OpenStore(MemoryCheckpointStore):
    """Takes those who have no token for those who hold the run."""

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        claim = self._claims.get(run_id)
        if claim is not None and token is None:
            token = claim.token
        await super().append(run_id, entries, token=token)


class SeedyStore(MemoryCheckpointStore):
    """Begins a fork before it looks whether it can."""

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        try:
            await super().fork(run_id, length=length, new_run_id=new_run_id)
        except CheckpointSaveError:
            self._logs.setdefault(new_run_id, [])
            raise


class RacingForks(MemoryCheckpointStore):
    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        taken = new_run_id in self._logs
        await anyio.lowlevel.checkpoint()
        if not taken:
            self._logs.pop(new_run_id, None)
        await super().fork(run_id, length=length, new_run_id=new_run_id)


class HereditaryStore(MemoryCheckpointStore):
    """Who holds a run holds what is forked from it."""

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        await super().fork(run_id, length=length, new_run_id=new_run_id)
        if run_id in self._claims:
            self._claims[new_run_id] = self._claims[run_id]


class FoundlingStore(MemoryCheckpointStore):
    """Does not know whose run a fork is."""

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        await super().fork(run_id, length=length, new_run_id=new_run_id)
        self._records[new_run_id] = replace(self._records[new_run_id], agent_id="")


class ForgetfulLineStore(MemoryCheckpointStore):
    """Knows whose run a fork is, but not that of a fork of a fork."""

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        await super().fork(run_id, length=length, new_run_id=new_run_id)
        if self._records[run_id].forked_from is not None:
            record = self._records[new_run_id]
            self._records[new_run_id] = replace(record, agent_id="")


class ShallowStore(MemoryCheckpointStore):
    """A fork has its parent's entries, but not those of its grandparent."""

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        await super().fork(run_id, length=length, new_run_id=new_run_id)
        if (origin := self._records[run_id].forked_from) is not None:
            del self._logs[new_run_id][: origin[1]]


class OvergrowingStore(MemoryCheckpointStore):
    """A fork takes the place of the run that has its id."""

    async def fork(self, run_id: str, *, length: int, new_run_id: str) -> None:
        self._logs.pop(new_run_id, None)
        await super().fork(run_id, length=length, new_run_id=new_run_id)


class RigidStore(MemoryCheckpointStore):
    """A lease cannot be made longer."""

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        claim = self._claims.get(run_id)
        if claim is not None and claim.held() and lease_s:
            raise held_by_another(run_id, claim)
        return await super().claim(run_id, owner=owner, lease_s=lease_s)


class ClingingStore(MemoryCheckpointStore):
    """Nothing ends before its time."""

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        if run_id in self._claims and not lease_s:
            return self._claims[run_id].token
        return await super().claim(run_id, owner=owner, lease_s=lease_s)


class PatientStore(MemoryCheckpointStore):
    """Waits for the dead."""

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        claim = self._claims.get(run_id)
        if claim is not None and claim.owner != owner and claim.until > time.time():
            raise held_by_another(run_id, claim)
        return await super().claim(run_id, owner=owner, lease_s=lease_s)


class JumpyStore(MemoryCheckpointStore):
    """Counts those who knock."""

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        try:
            return await super().claim(run_id, owner=owner, lease_s=lease_s)
        except CheckpointSaveError:
            if (claim := self._claims.get(run_id)) is not None:
                self._claims[run_id] = replace(claim, token=claim.token + 1)
            raise


class RacingClaims(MemoryCheckpointStore):
    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        before = self._claims.get(run_id)
        await anyio.lowlevel.checkpoint()
        if before is None:
            self._claims.pop(run_id, None)
        return await super().claim(run_id, owner=owner, lease_s=lease_s)


class GenerousStore(MemoryCheckpointStore):
    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        self._claims.pop(run_id, None)
        return await super().claim(run_id, owner=owner, lease_s=lease_s)


class UnfencedStore(MemoryCheckpointStore):
    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        await super().append(run_id, entries)


class HoardingStore(MemoryCheckpointStore):
    async def delete(self, run_id: str) -> None:
        return None


class PrefixStore(MemoryCheckpointStore):
    """Deletes all whose names begin like the run's."""

    async def delete(self, run_id: str) -> None:
        await super().delete(run_id)
        for other in list(self._logs):
            if other.startswith(run_id):
                await super().delete(other)


class RuthlessStore(MemoryCheckpointStore):
    async def delete(self, run_id: str) -> None:
        self._claims.pop(run_id, None)
        await super().delete(run_id)


class LitteringStore(MemoryCheckpointStore):
    """Messages outlive the run that they were for."""

    async def delete(self, run_id: str) -> None:
        waiting = self._messages.get(run_id, [])
        await super().delete(run_id)
        self._messages[run_id] = waiting


class LaxStore(MemoryCheckpointStore):
    """Takes messages for whatever anybody calls a run."""

    async def send(self, run_id: str, message: bytes) -> None:
        self._messages.setdefault(run_id, []).append(message)


class TruncatingStore(MemoryCheckpointStore):
    async def send(self, run_id: str, message: bytes) -> None:
        await super().send(run_id, message[: 1024 * 1024])


class LeakyStore(MemoryCheckpointStore):
    """Makes room for a message by dropping the oldest."""

    async def send(self, run_id: str, message: bytes) -> None:
        del self._messages.get(run_id, [])[:-999]
        await super().send(run_id, message)


class TextStore(MemoryCheckpointStore):
    """Takes a message for text."""

    async def send(self, run_id: str, message: bytes) -> None:
        await super().send(run_id, message.decode(errors="replace").encode())


class RacingMessages(MemoryCheckpointStore):
    async def send(self, run_id: str, message: bytes) -> None:
        waiting = list(self._messages.get(run_id, []))
        await anyio.lowlevel.checkpoint()
        self._messages[run_id] = [*waiting, message]


class RepeatingStore(MemoryCheckpointStore):
    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        return [
            (run_id, each) for run_id in run_ids for each in self._messages.get(run_id, [])
        ]


class RacingReaders(MemoryCheckpointStore):
    """Whoever comes before the messages are gone gets them too."""

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        found = [(run_id, list(self._messages.get(run_id, []))) for run_id in run_ids]
        await anyio.lowlevel.checkpoint()
        await super().receive(run_ids)
        return [(run_id, each) for run_id, messages in found for each in messages]


class DroppingStore(MemoryCheckpointStore):
    """Can be cancelled while it has messages in its hands."""

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        found = await super().receive(run_ids)
        await anyio.lowlevel.checkpoint()
        return found


class NarrowStore(MemoryCheckpointStore):
    """Asks for as many runs as fit into one statement."""

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        return await super().receive(run_ids[:999])


class UnsortedMemories(ListOfMemories):
    async def search(self, query: str, *, limit: int = 5) -> Sequence[Memory]:
        return list(self._memories.values())[-limit:]


class LimitlessMemories(ListOfMemories):
    async def search(self, query: str, *, limit: int = 5) -> Sequence[Memory]:
        return await super().search(query, limit=1_000)


class ForgetfulMemories(ListOfMemories):
    async def search(self, query: str, *, limit: int = 5) -> Sequence[Memory]:
        found = await super().search(query, limit=limit)
        return [replace(memory, source="") for memory in found]


class UndeletableMemories(ListOfMemories):
    async def delete(self, memory_id: str) -> bool:
        return memory_id in self._memories


class RaggedEmbedder(HashEmbedder):
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[0.0] * len(text) for text in texts]


class MoodyEmbedder(HashEmbedder):
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(place)] for place, _ in enumerate(texts)]


class TalkativeEmbedder(HashEmbedder):
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await super().embed(texts or ["nothing"])


class RefusingChannel(YesChannel):
    async def ask(self, request: PendingRequest) -> Answer:
        return replace(await super().ask(request), approved=False)


class CreativeChannel(YesChannel):
    async def ask(self, request: PendingRequest) -> Answer:
        return Answer(approved=True, text="up")


class SilentChannel(YesChannel):
    async def progress(self, message: str, **_: Any) -> None:
        raise NotImplementedError


class EagerInterrupter(CycleInterrupter):
    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        return InterruptReason()


class LazyInterrupter(CycleInterrupter):
    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        return None


class LosingEngine(InlineEngine):
    async def submit(self, run_id: str, work: Callable[[], Awaitable[Any]]) -> Any:
        await work()


class WrappingEngine(InlineEngine):
    async def submit(self, run_id: str, work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await work()
        except Exception as error:
            raise RuntimeError("it failed") from error


ARGUMENTS = {"a": 1, "numbers": [1]}
CONTEXTS = {"quiet": {"cycle": 1}, "loud": {"cycle": 3}}

BROKEN: list[tuple[type, str, dict[str, Any]]] = [
    (ProviderConformance, promise, {"provider": kind(*["hello"] * 10)})
    for promise, kind in (
        ("test_it_describes_a_model_without_io", UndescribedModel),
        ("test_it_answers_a_request", SilentModel),
        ("test_it_counts_what_it_uses", UncountedModel),
        ("test_a_stream_ends_in_one_whole_reply", EndlessModel),
        ("test_a_stream_ends_in_one_whole_reply", StutteringModel),
        ("test_requests_at_once_do_not_disturb_each_other", BusyModel),
        ("test_a_request_that_waits_can_be_cancelled", StubbornModel),
    )
]
BROKEN += [
    (ToolConformance, promise, {"tool": kind(), "arguments": ARGUMENTS})
    for promise, kind in (
        ("test_its_spec_never_changes", ChangingTool),
        ("test_its_spec_never_changes", UndocumentedTool),
        ("test_its_parameters_are_the_schema_of_an_object", ListTool),
        ("test_validated_arguments_are_json", SetTool),
        ("test_unknown_arguments_are_refused", LaxTool),
    )
]
BROKEN += [
    (ToolSourceConformance, promise, {"source": kind()})
    for promise, kind in (
        ("test_it_brings_tools_of_different_names", SameTools),
        ("test_it_brings_tools_of_different_names", NoTools),
        ("test_the_order_stays_the_same", ShuffledTools),
    )
]
BROKEN += [
    (StrategyConformance, promise, {"strategy": strategy})
    for promise, strategy in (
        ("test_it_gives_every_output", EmptyStrategy()),
        ("test_what_it_asks_the_model_is_on_the_account", SecretStrategy()),
    )
]
BROKEN += [
    (CheckpointStoreConformance, promise, {"store": kind()})
    for promise, kind in (
        ("test_what_was_appended_is_read_in_order", BackwardStore),
        ("test_a_part_of_a_log_can_be_read", WholeStore),
        ("test_behind_its_end_a_log_has_nothing", EndlessStore),
        ("test_a_limit_below_one_gives_nothing", SqlStore),
        ("test_a_long_log_comes_back_whole", PagedStore),
        ("test_a_body_comes_back_byte_for_byte", TidyStore),
        ("test_an_append_of_nothing_changes_nothing", BusyStore),
        ("test_a_position_is_taken_once", OverwritingStore),
        ("test_a_gap_is_refused_and_nothing_of_it_kept", HalfwayStore),
        ("test_who_reads_sees_an_append_whole_or_not_at_all", TornStore),
        ("test_an_append_that_is_cut_off_leaves_a_whole_log", CutStore),
        ("test_of_many_who_write_at_one_position_one_does", LastWordStore),
        ("test_an_unknown_run_is_an_error", ForgivingStore),
        ("test_a_fork_shares_the_past_and_nothing_else", EntangledStore),
        ("test_a_fork_outlives_what_it_came_from", LinkedStore),
        ("test_a_fork_of_a_fork_shares_both_pasts", ShallowStore),
        ("test_a_fork_needs_a_past_and_an_id_of_its_own", OvergrowingStore),
        ("test_a_fork_that_was_refused_leaves_nothing", SeedyStore),
        ("test_of_many_forks_to_one_id_one_is_made", RacingForks),
        ("test_a_run_that_somebody_holds_can_be_forked", HereditaryStore),
        ("test_a_fork_says_where_it_comes_from", OrphaningStore),
        ("test_a_fork_may_belong_to_another_agent", DynasticStore),
        ("test_a_fork_belongs_to_the_agent_of_its_past", FoundlingStore),
        (
            "test_forks_of_forks_belong_to_the_agent_with_whom_it_began",
            ForgetfulLineStore,
        ),
        ("test_runs_are_listed_last_updated_first", UnsortedStore),
        ("test_a_run_is_known_by_its_agent_and_its_status", NamelessStore),
        ("test_a_run_is_known_by_the_run_that_started_it", ParentlessStore),
        ("test_the_record_of_a_run_says_when_it_was_written", MillisecondStore),
        ("test_the_record_of_a_run_says_who_holds_it", OwnerlessStore),
        ("test_a_run_that_goes_on_is_no_longer_ended", FinalStore),
        ("test_no_more_runs_than_the_limit_are_listed", LimitlessStore),
        ("test_as_many_runs_are_listed_as_are_asked_for", OnePageStore),
        ("test_the_limit_counts_only_what_was_asked_for", HurriedStore),
        ("test_runs_of_one_status_can_be_listed", StatuslessStore),
        ("test_a_run_has_one_writer", GenerousStore),
        ("test_a_writer_whose_claim_was_taken_over_cannot_write", UnfencedStore),
        ("test_nobody_writes_without_a_token_what_somebody_holds", OpenStore),
        ("test_who_holds_a_run_may_hold_it_longer", RigidStore),
        ("test_a_run_that_was_given_up_can_be_had", ClingingStore),
        ("test_a_run_whose_process_has_ended_can_be_had", PatientStore),
        ("test_who_is_refused_a_run_takes_nothing_from_its_holder", JumpyStore),
        ("test_of_many_who_want_a_run_one_gets_it", RacingClaims),
        ("test_an_id_that_no_run_has_leads_nowhere", LaxStore),
        ("test_ids_that_look_alike_are_of_different_runs", PrefixStore),
        ("test_a_deleted_run_is_gone", HoardingStore),
        ("test_with_a_run_goes_all_that_was_left_for_it", LitteringStore),
        ("test_a_run_that_somebody_holds_cannot_be_deleted", RuthlessStore),
        ("test_a_message_is_given_once_and_to_its_run", RepeatingStore),
        ("test_a_message_comes_back_byte_for_byte", TextStore),
        ("test_messages_sent_at_once_are_all_kept", RacingMessages),
        ("test_a_message_goes_to_one_of_many_who_receive", RacingReaders),
        ("test_who_is_cut_off_receiving_loses_no_message", DroppingStore),
        ("test_messages_of_many_runs_are_received_at_once", NarrowStore),
        ("test_messages_are_bounded", TruncatingStore),
        ("test_no_more_than_a_thousand_messages_wait", LeakyStore),
    )
]
BROKEN += [
    (MemoryStoreConformance, promise, {"memories": kind()})
    for promise, kind in (
        ("test_what_fits_best_comes_first", UnsortedMemories),
        ("test_no_more_than_the_limit_comes_back", LimitlessMemories),
        ("test_everything_said_of_a_memory_is_kept", ForgetfulMemories),
        ("test_a_deleted_memory_is_never_found", UndeletableMemories),
    )
]
BROKEN += [
    (EmbedderConformance, promise, {"embedder": kind()})
    for promise, kind in (
        ("test_each_text_has_a_vector_of_one_length", RaggedEmbedder),
        ("test_equal_texts_have_equal_vectors", MoodyEmbedder),
        ("test_no_texts_give_no_vectors", TalkativeEmbedder),
    )
]
BROKEN += [
    (ChannelConformance, promise, {"channel": kind()})
    for promise, kind in (
        ("test_an_approval_is_answered", RefusingChannel),
        ("test_a_question_is_answered_with_an_option", CreativeChannel),
        ("test_progress_needs_no_answer", SilentChannel),
    )
]
BROKEN += [
    (InterrupterConformance, promise, {"interrupter": kind(), **CONTEXTS})
    for promise, kind in (
        ("test_it_lets_a_run_go_on", EagerInterrupter),
        ("test_it_stops_a_run_for_a_reason", LazyInterrupter),
    )
]
BROKEN += [
    (EngineConformance, promise, {"engine": kind()})
    for promise, kind in (
        ("test_work_is_done_and_its_value_returned", LosingEngine),
        ("test_an_error_keeps_its_type", WrappingEngine),
    )
]


def outcome(
    pytester: pytest.Pytester, suite: type, promise: str, parts: Mapping[str, Any]
) -> tuple[int, ...]:
    """Run one conformance test; return how often it passed, was skipped and failed."""
    pytester.makepyfile(
        f"""
        import pytest
        from kaizen.testing.conformance import {suite.__name__}

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        class TestBroken({suite.__name__}):
            pass
        """
    )
    fixtures = {name: given(name, value) for name, value in parts.items()}
    plugin = type("Parts", (), fixtures)()
    options = ["-p", "no:cacheprovider", "-p", "no:randomly"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    options += ["-k", f"TestBroken and {promise}"]
    return tuple(pytester.inline_run(*options, plugins=[plugin]).countoutcomes())


def given(name: str, value: Any) -> Any:
    @pytest.fixture(name=name)
    def fixture(self: object) -> Any:
        return value

    return fixture


@pytest.mark.parametrize(
    ("suite", "promise", "parts"),
    BROKEN,
    ids=[f"{type(next(iter(parts.values()))).__name__}" for _, _, parts in BROKEN],
)
def test_a_broken_promise_fails_its_test(
    pytester: pytest.Pytester, suite: type, promise: str, parts: dict[str, Any]
) -> None:
    assert outcome(pytester, suite, promise, parts) == (0, 0, 1)


@pytest.mark.parametrize(
    ("suite", "parts"),
    [
        (ProviderConformance, {"provider": ScriptedModel(*["hello"] * 20)}),
        (ToolConformance, {"tool": BrokenTool(), "arguments": ARGUMENTS}),
        (ToolSourceConformance, {"source": TwoTools()}),
        (StrategyConformance, {"strategy": MultiCycle()}),
        (EmbedderConformance, {"embedder": HashEmbedder()}),
        (ChannelConformance, {"channel": YesChannel()}),
        (InterrupterConformance, {"interrupter": CycleInterrupter(), **CONTEXTS}),
        (EngineConformance, {"engine": InlineEngine()}),
    ],
)
def test_in_the_same_place_what_is_not_broken_passes(
    pytester: pytest.Pytester, suite: type, parts: dict[str, Any]
) -> None:
    promises = sum(name.startswith("test_") for name in vars(suite))
    assert outcome(pytester, suite, "test_", parts) == (promises, 0, 0)


def test_every_promise_has_an_implementation_that_breaks_it() -> None:
    promises = {
        (suite.__name__, name)
        for suite in (getattr(conformance, each) for each in conformance.__all__)
        for name in vars(suite)
        if name.startswith("test_")
    }
    assert {(suite.__name__, promise) for suite, promise, _ in BROKEN} == promises
