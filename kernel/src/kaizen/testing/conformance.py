"""What every implementation of a port has to do, as test classes to derive from.

    @pytest.mark.anyio            # or asyncio, with pytest-asyncio
    class TestMyProvider(ProviderConformance):
        @pytest.fixture
        def provider(self) -> Provider:
            return MyProvider()

Each class names the fixture that it needs. A test that fails says which promise of the port
is broken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from kaizen._bounded import stepped
from kaizen.agent import BaseAgent
from kaizen.errors import CheckpointLoadError, CheckpointSaveError, ToolArgumentsError
from kaizen.interrupts import InterruptReason
from kaizen.kernel import Kernel
from kaizen.messages import Message, ModelDelta, ModelProfile, ModelReply, ModelRequest
from kaizen.operations import Result
from kaizen.ports import (
    Answer,
    Channel,
    CheckpointStore,
    Embedder,
    Engine,
    Interrupter,
    MemoryStore,
    PendingRequest,
    Provider,
    StoredEntry,
    Strategy,
    ToolSource,
)
from kaizen.runlog import RunEnded, RunStarted, encode
from kaizen.testing._model import Line, ScriptedModel
from kaizen.testing._plugins import ModelPlugin
from kaizen.tools import Tool

__all__ = [
    "ChannelConformance",
    "CheckpointStoreConformance",
    "EmbedderConformance",
    "EngineConformance",
    "InterrupterConformance",
    "MemoryStoreConformance",
    "ProviderConformance",
    "StrategyConformance",
    "ToolConformance",
    "ToolSourceConformance",
]


class ProviderConformance:
    """For `Provider`; fixture `provider`, which must be able to answer."""

    model = ""
    """The model to ask; by default the provider's own choice."""

    def request(self, text: str = "Say hello.") -> ModelRequest:
        """Return a request that the provider can answer; override if yours needs more."""
        return ModelRequest(
            messages=(Message(role="user", content=text),), model=self.model
        )

    async def test_it_describes_a_model_without_io(self, provider: Provider) -> None:
        profile = provider.describe(self.model)
        assert isinstance(profile, ModelProfile)

    async def test_it_answers_a_request(self, provider: Provider) -> None:
        reply = await provider.complete(self.request())
        assert isinstance(reply, ModelReply)
        assert reply.text or reply.tool_uses
        assert reply.finish_reason

    async def test_it_counts_what_it_uses(self, provider: Provider) -> None:
        reply = await provider.complete(self.request())
        assert reply.usage.requests >= 1
        assert reply.usage.input_tokens >= 0
        assert reply.cost_usd is None or reply.cost_usd >= 0

    async def test_a_stream_ends_in_one_whole_reply(self, provider: Provider) -> None:
        pieces = [piece async for piece in provider.stream(self.request())]
        *deltas, last = pieces
        assert isinstance(last, ModelReply)
        assert all(isinstance(piece, ModelDelta) for piece in deltas)
        written = "".join(piece.text for piece in deltas if isinstance(piece, ModelDelta))
        assert not deltas or written == last.text

    async def test_requests_at_once_do_not_disturb_each_other(
        self, provider: Provider
    ) -> None:
        replies: list[ModelReply] = []

        async def ask() -> None:
            replies.append(await provider.complete(self.request()))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert len(replies) == 5

    async def test_a_request_that_waits_can_be_cancelled(self, provider: Provider) -> None:
        waits: list[bool] = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stepped(provider.complete(self.request()), lambda: waits.append(True))
        assert scope.cancelled_caught or not waits


class ToolConformance:
    """For `Tool`; fixtures `tool` and `arguments`, with which it can be validated."""

    async def test_its_spec_never_changes(self, tool: Tool) -> None:
        assert tool.spec == tool.spec
        assert tool.spec.description, "a model needs a description"

    async def test_its_parameters_are_the_schema_of_an_object(self, tool: Tool) -> None:
        schema = json.loads(json.dumps(dict(tool.spec.parameters)))
        assert schema["type"] == "object"

    async def test_validated_arguments_are_json(
        self, tool: Tool, arguments: Mapping[str, Any]
    ) -> None:
        validated = tool.validate(arguments)
        assert json.loads(json.dumps(validated)) == validated
        assert tool.validate(validated) == validated

    async def test_unknown_arguments_are_refused(
        self, tool: Tool, arguments: Mapping[str, Any]
    ) -> None:
        with pytest.raises(ToolArgumentsError):
            tool.validate({**arguments, "no_such_argument_": 1})


class ToolSourceConformance:
    """For `ToolSource`; fixture `source`."""

    async def test_it_brings_tools_of_different_names(self, source: ToolSource) -> None:
        names = [tool.spec.name for tool in await source.tools()]
        assert names
        assert len(set(names)) == len(names)

    async def test_the_order_stays_the_same(self, source: ToolSource) -> None:
        first = [tool.spec.name for tool in await source.tools()]
        second = [tool.spec.name for tool in await source.tools()]
        assert first == second


class StrategyConformance:
    """For `Strategy`; fixture `strategy`, which is run by an agent with a scripted model.

    Override `script` if yours asks the model something else, or more than once.
    """

    script: tuple[Line, ...] = ("four",)
    """What the model says."""

    async def _run(self, strategy: Strategy) -> Result:
        model = ModelPlugin(ScriptedModel(*self.script))
        async with Kernel(plugins=[model], config_file=False, environ={}) as kernel:
            agent = BaseAgent(
                {"llm_provider": "scripted"},
                "question -> answer",
                strategy=strategy,
                kernel=kernel,
            )
            return await agent.run(question="2 + 2?")

    async def test_it_gives_every_output(self, strategy: Strategy) -> None:
        result = await self._run(strategy)
        assert set(result) == {"answer"}

    async def test_what_it_asks_the_model_is_on_the_account(
        self, strategy: Strategy
    ) -> None:
        result = await self._run(strategy)
        assert result.cycles == result.usage.requests


def _entries(start: int, count: int) -> list[StoredEntry]:
    return [
        StoredEntry(
            seq=seq, type="noted", version=1, body=json.dumps({"seq": seq}).encode()
        )
        for seq in range(start, start + count)
    ]


def _started(run_id: str, agent_id: str) -> StoredEntry:
    return encode(
        RunStarted(
            seq=0,
            at=0.0,
            run_id=run_id,
            agent_id=agent_id,
            parent_id="",
            trace_id=run_id,
            session_id="",
            inputs={},
            messages=(),
        )
    )


def _ended(seq: int) -> StoredEntry:
    return encode(RunEnded(seq=seq, at=0.0, status="completed"))


class CheckpointStoreConformance:
    """For `CheckpointStore`; fixture `store`, which is empty."""

    async def test_what_was_appended_is_read_in_order(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 2))
        await store.append("run", _entries(2, 1))
        assert list(await store.read("run")) == _entries(0, 3)

    async def test_a_part_of_a_log_can_be_read(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 5))
        assert list(await store.read("run", start=2, limit=2)) == _entries(2, 2)

    async def test_a_position_is_taken_once(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 2))
        with pytest.raises(CheckpointSaveError):
            await store.append("run", _entries(1, 1))
        assert list(await store.read("run")) == _entries(0, 2)

    async def test_a_gap_is_refused_and_nothing_of_it_kept(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 1))
        with pytest.raises(CheckpointSaveError):
            await store.append("run", [*_entries(1, 1), *_entries(3, 1)])
        assert list(await store.read("run")) == _entries(0, 1)

    async def test_an_unknown_run_is_an_error(self, store: CheckpointStore) -> None:
        with pytest.raises(CheckpointLoadError):
            await store.read("nobody")

    async def test_a_fork_shares_the_past_and_nothing_else(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 4))
        await store.fork("run", length=2, new_run_id="branch")
        await store.append("branch", _entries(2, 1))
        assert list(await store.read("branch")) == _entries(0, 3)
        assert list(await store.read("run")) == _entries(0, 4)

    async def test_a_fork_outlives_what_it_came_from(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 2))
        await store.fork("run", length=2, new_run_id="branch")
        await store.delete("run")
        assert list(await store.read("branch")) == _entries(0, 2)

    async def test_runs_are_listed_last_updated_first(self, store: CheckpointStore) -> None:
        await store.append("first", _entries(0, 1))
        await store.append("second", _entries(0, 1))
        await store.append("first", _entries(1, 1))
        records = await store.runs()
        assert [record.run_id for record in records] == ["first", "second"]
        assert records[0].length == 2

    async def test_a_run_is_known_by_its_agent_and_its_status(
        self, store: CheckpointStore
    ) -> None:
        for run_id, agent_id in (("first", "alice"), ("second", "bob")):
            await store.append(run_id, [_started(run_id, agent_id)])
        await store.append("first", [_ended(1)])
        assert [
            (each.run_id, each.agent_id, each.status) for each in await store.runs()
        ] == [
            ("first", "alice", "completed"),
            ("second", "bob", "running"),
        ]
        assert [each.run_id for each in await store.runs(agent_id="bob")] == ["second"]

    async def test_no_more_runs_than_the_limit_are_listed(
        self, store: CheckpointStore
    ) -> None:
        for number in range(3):
            await store.append(f"run{number}", _entries(0, 1))
        assert [each.run_id for each in await store.runs(limit=2)] == ["run2", "run1"]

    async def test_a_fork_says_where_it_comes_from(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 3))
        await store.fork("run", length=2, new_run_id="branch")
        records = {each.run_id: each for each in await store.runs()}
        assert records["branch"].forked_from == ("run", 2)
        assert records["branch"].length == 2
        assert records["run"].forked_from is None

    async def test_a_run_has_one_writer(self, store: CheckpointStore) -> None:
        await store.claim("run", owner="a", lease_s=60)
        with pytest.raises(CheckpointSaveError):
            await store.claim("run", owner="b", lease_s=60)

    async def test_a_writer_whose_claim_was_taken_over_cannot_write(
        self, store: CheckpointStore
    ) -> None:
        old = await store.claim("run", owner="a", lease_s=0)
        new = await store.claim("run", owner="b", lease_s=60)
        with pytest.raises(CheckpointSaveError):
            await store.append("run", _entries(0, 1), token=old)
        await store.append("run", _entries(0, 1), token=new)

    async def test_a_deleted_run_is_gone(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 1))
        await store.delete("run")
        with pytest.raises(CheckpointLoadError):
            await store.read("run")


class MemoryStoreConformance:
    """For `MemoryStore`; fixture `memories`, which is empty."""

    async def test_what_fits_best_comes_first(self, memories: MemoryStore) -> None:
        await memories.add("Bob likes chess")
        await memories.add("The sky is blue")
        found = await memories.search("chess with Bob?", limit=1)
        assert [each.text for each in found] == ["Bob likes chess"]

    async def test_no_more_than_the_limit_comes_back(self, memories: MemoryStore) -> None:
        for number in range(4):
            await memories.add(f"apple number {number}")
        assert len(await memories.search("apple", limit=3)) == 3

    async def test_everything_said_of_a_memory_is_kept(self, memories: MemoryStore) -> None:
        added = await memories.add(
            "Bob likes chess", importance=0.9, tags=["game"], source="mail:1"
        )
        found = (await memories.search("chess"))[0]
        assert (found.id, found.importance, found.tags, found.source) == (
            added.id,
            0.9,
            ("game",),
            "mail:1",
        )

    async def test_a_deleted_memory_is_never_found(self, memories: MemoryStore) -> None:
        added = await memories.add("Bob likes chess")
        assert await memories.delete(added.id)
        assert not await memories.delete(added.id)
        assert not await memories.search("chess")


class EmbedderConformance:
    """For `Embedder`; fixture `embedder`."""

    async def test_each_text_has_a_vector_of_one_length(self, embedder: Embedder) -> None:
        vectors = await embedder.embed(["a cat", "a dog", "the stock exchange"])
        assert len(vectors) == 3
        assert len({len(vector) for vector in vectors}) == 1

    async def test_equal_texts_have_equal_vectors(self, embedder: Embedder) -> None:
        first, second = await embedder.embed(["a cat", "a cat"])
        assert first == pytest.approx(second)

    async def test_no_texts_give_no_vectors(self, embedder: Embedder) -> None:
        assert await embedder.embed([]) == []


class ChannelConformance:
    """For `Channel`; fixture `channel`.

    Its other side says yes, and takes the first option of a question.
    """

    async def test_an_approval_is_answered(self, channel: Channel) -> None:
        request = PendingRequest(id="r1", kind="approval", text="Delete the file?")
        answer = await channel.ask(request)
        assert isinstance(answer, Answer)
        assert answer.approved

    async def test_a_question_is_answered_with_an_option(self, channel: Channel) -> None:
        request = PendingRequest(
            id="r2", kind="question", text="Which?", options=("left", "right")
        )
        assert (await channel.ask(request)).text in ("left", "right")

    async def test_progress_needs_no_answer(self, channel: Channel) -> None:
        await channel.progress("half way", percentage=50)


class InterrupterConformance:
    """For `Interrupter`; fixtures `interrupter`, `quiet` and `loud`.

    They are a context in which it lets a run go on, and one in which it stops it.
    """

    async def test_it_lets_a_run_go_on(
        self, interrupter: Interrupter, quiet: Mapping[str, Any]
    ) -> None:
        assert await interrupter.check_interrupt(quiet) is None

    async def test_it_stops_a_run_for_a_reason(
        self, interrupter: Interrupter, loud: Mapping[str, Any]
    ) -> None:
        reason = await interrupter.check_interrupt(loud)
        assert isinstance(reason, InterruptReason)
        assert reason.message


class EngineConformance:
    """For `Engine`; fixture `engine`."""

    async def test_work_is_done_and_its_value_returned(self, engine: Engine) -> None:
        async def work() -> int:
            return 42

        assert await engine.submit("run", work) == 42

    async def test_an_error_keeps_its_type(self, engine: Engine) -> None:
        async def work() -> int:
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            await engine.submit("run", work)
