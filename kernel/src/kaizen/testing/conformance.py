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

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from itertools import count, pairwise
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kaizen._bounded import stepped
from kaizen.agent import BaseAgent
from kaizen.claims import is_gone, new_owner
from kaizen.errors import (
    CheckpointLoadError,
    CheckpointSaveError,
    ClaimLostError,
    ToolArgumentsError,
    UnknownRunError,
)
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
from kaizen.runlog import Forked, Resumed, RunEnded, RunStarted, encode
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


async def _cut_off(work: Coroutine[Any, Any, Any], at: int) -> bool:
    """Cancel some work when it waits for the nth time; say whether it came so far."""
    waits = 0
    scope = anyio.CancelScope()

    def on_wait() -> None:
        nonlocal waits
        waits += 1
        if waits == at:
            scope.cancel()

    with scope:
        await stepped(work, on_wait)
    return waits >= at


async def _at_once(work: Callable[[int], Coroutine[Any, Any, None]], *, tasks: int) -> None:
    async with anyio.create_task_group() as group:
        for number in range(tasks):
            group.start_soon(work, number)


def _started(run_id: str, agent_id: str, parent_id: str = "") -> StoredEntry:
    return encode(
        RunStarted(
            seq=0,
            at=0.0,
            run_id=run_id,
            agent_id=agent_id,
            parent_id=parent_id,
            trace_id=run_id,
            session_id="",
            inputs={},
            messages=(),
        )
    )


def _ended(seq: int) -> StoredEntry:
    return encode(RunEnded(seq=seq, at=0.0, status="completed"))


_ODD_IDS = (
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "ä",
    "a b",
    "x" * 129,
)


class CheckpointStoreConformance:
    """For `CheckpointStore`; fixture `store`, which is empty."""

    async def test_what_was_appended_is_read_in_order(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 2))
        await store.append("run", _entries(2, 1))
        assert list(await store.read("run")) == _entries(0, 3)

    async def test_a_part_of_a_log_can_be_read(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 5))
        assert list(await store.read("run", start=2, limit=2)) == _entries(2, 2)

    async def test_behind_its_end_a_log_has_nothing(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 2))
        for start in (2, 3, 1_000_000):
            assert list(await store.read("run", start=start)) == []
            assert list(await store.read("run", start=start, limit=1)) == []
        assert list(await store.read("run", start=1, limit=1_000_000)) == _entries(1, 1)

    async def test_a_limit_below_one_gives_nothing(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 3))
        for limit in (0, -1, -2):
            assert list(await store.read("run", limit=limit)) == []
            assert list(await store.read("run", start=1, limit=limit)) == []
            assert list(await store.runs(limit=limit)) == []

    async def test_a_long_log_comes_back_whole(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 1))
        await store.append("run", _entries(1, 1_499))
        await store.append("run", _entries(1_500, 700))
        assert list(await store.read("run")) == _entries(0, 2_200)
        assert list(await store.read("run", start=999, limit=1_003)) == _entries(999, 1_003)

    async def test_an_append_of_nothing_changes_nothing(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 2))
        await store.append("run", [])
        assert list(await store.read("run")) == _entries(0, 2)
        assert [each.length for each in await store.runs()] == [2]
        await store.append("run", _entries(2, 1))

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

    async def test_who_reads_sees_an_append_whole_or_not_at_all(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 4))
        seen: set[int] = set()

        async def work(number: int) -> None:
            for part in range(1, 6):
                if number == 0:
                    await store.append("run", _entries(4 * part, 4))
                else:
                    read = list(await store.read("run"))
                    assert read == _entries(0, len(read))
                    seen.add(len(read))

        await _at_once(work, tasks=4)
        assert {length % 4 for length in seen} == {0}

    async def test_an_append_that_is_cut_off_leaves_a_whole_log(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 1))
        length = 1
        for at in count(1):
            cut = await _cut_off(store.append("run", _entries(length, 5)), at)
            kept = list(await store.read("run"))
            assert kept in (_entries(0, length), _entries(0, length + 5))
            length = len(kept)
            await store.append("run", _entries(length, 1))
            length += 1
            if not cut:
                break
        assert list(await store.read("run")) == _entries(0, length)
        assert [each.length for each in await store.runs()] == [length]

    async def test_an_unknown_run_is_an_error(self, store: CheckpointStore) -> None:
        with pytest.raises(UnknownRunError):
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

    async def test_a_fork_that_was_refused_leaves_nothing(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 2))
        for length in (-1, 3):
            with pytest.raises(CheckpointSaveError):
                await store.fork("run", length=length, new_run_id="branch")
            with pytest.raises(CheckpointLoadError):
                await store.read("branch")
        assert [each.run_id for each in await store.runs()] == ["run"]

    async def test_of_many_forks_to_one_id_one_is_made(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 10))
        made: list[int] = []

        async def fork(number: int) -> None:
            with contextlib.suppress(CheckpointSaveError):
                await store.fork("run", length=number + 1, new_run_id="branch")
                made.append(number + 1)

        await _at_once(fork, tasks=10)
        assert len(made) == 1
        assert list(await store.read("branch")) == _entries(0, made[0])

    async def test_a_run_that_somebody_holds_can_be_forked(
        self, store: CheckpointStore
    ) -> None:
        token = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", _entries(0, 2), token=token)
        await store.fork("run", length=2, new_run_id="branch")
        await store.claim("branch", owner="b", lease_s=60)
        await store.append("run", _entries(2, 1), token=token)

    async def test_ids_that_look_alike_are_of_different_runs(
        self, store: CheckpointStore
    ) -> None:
        alike = ("run", "Run", "run_", "run1", "run-", "run.", "run.json", "run.lock")
        for length, run_id in enumerate(alike, start=1):
            await store.append(run_id, _entries(0, length))
            await store.send(run_id, run_id.encode())
        await store.delete("run")
        for length, run_id in enumerate(alike[1:], start=2):
            assert list(await store.read(run_id)) == _entries(0, length)
            assert list(await store.receive([run_id])) == [(run_id, run_id.encode())]
        assert {each.run_id for each in await store.runs()} == set(alike[1:])

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

    async def test_as_many_runs_are_listed_as_are_asked_for(
        self, store: CheckpointStore
    ) -> None:
        for number in range(120):
            await store.append(f"run{number}", _entries(0, 1))
        newest_first = [f"run{number}" for number in reversed(range(120))]
        assert [each.run_id for each in await store.runs()] == newest_first[:100]
        assert [each.run_id for each in await store.runs(limit=1_000)] == newest_first

    async def test_the_limit_counts_only_what_was_asked_for(
        self, store: CheckpointStore
    ) -> None:
        for run_id, agent_id in (("first", "alice"), ("second", "bob"), ("third", "bob")):
            await store.append(run_id, [_started(run_id, agent_id)])
        await store.append("third", [_ended(1)])
        listed = await store.runs(agent_id="alice", limit=1)
        assert [each.run_id for each in listed] == ["first"]
        listed = await store.runs(agent_id="bob", status="running", limit=1)
        assert [each.run_id for each in listed] == ["second"]

    async def test_a_run_is_known_by_the_run_that_started_it(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", [_started("run", "alice")])
        await store.append("child", [_started("child", "bob", parent_id="run")])
        records = {each.run_id: each.parent_id for each in await store.runs()}
        assert records == {"run": "", "child": "run"}

    async def test_the_record_of_a_run_says_when_it_was_written(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 1))
        first = (await store.runs())[0].updated_at
        await store.append("run", _entries(1, 1))
        second = (await store.runs())[0].updated_at
        assert first <= second
        assert abs(second - time.time()) < 86_400  # its clock need not be ours

    async def test_a_fork_says_where_it_comes_from(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 3))
        await store.fork("run", length=2, new_run_id="branch")
        records = {each.run_id: each for each in await store.runs()}
        assert records["branch"].forked_from == ("run", 2)
        assert records["branch"].length == 2
        assert records["run"].forked_from is None

    async def test_a_run_has_one_writer(self, store: CheckpointStore) -> None:
        await store.claim("run", owner="a", lease_s=60)
        with pytest.raises(ClaimLostError):
            await store.claim("run", owner="b", lease_s=60)

    async def test_a_writer_whose_claim_was_taken_over_cannot_write(
        self, store: CheckpointStore
    ) -> None:
        old = await store.claim("run", owner="a", lease_s=0)
        new = await store.claim("run", owner="b", lease_s=60)
        with pytest.raises(ClaimLostError):
            await store.append("run", _entries(0, 1), token=old)
        await store.append("run", _entries(0, 1), token=new)

    async def test_who_holds_a_run_may_hold_it_longer(self, store: CheckpointStore) -> None:
        token = await store.claim("run", owner="a", lease_s=60)
        assert await store.claim("run", owner="a", lease_s=120) == token
        await store.append("run", _entries(0, 1), token=token)

    async def test_a_run_that_was_given_up_can_be_had(self, store: CheckpointStore) -> None:
        await store.claim("run", owner="a", lease_s=60)
        await store.claim("run", owner="a", lease_s=0)
        await store.claim("run", owner="b", lease_s=60)

    async def test_a_run_whose_process_has_ended_can_be_had(
        self, store: CheckpointStore
    ) -> None:
        def ended() -> str:
            code = "from kaizen.claims import new_owner; print(new_owner())"
            asked = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True
            )
            return asked.stdout.strip()

        owner = await anyio.to_thread.run_sync(ended)
        if not is_gone(owner):
            pytest.skip("this system does not tell whether a process has ended")
        old = await store.claim("run", owner=owner, lease_s=600)
        assert await store.claim("run", owner=new_owner(), lease_s=60) > old

    async def test_nobody_writes_without_a_token_what_somebody_holds(
        self, store: CheckpointStore
    ) -> None:
        token = await store.claim("run", owner="a", lease_s=60)
        with pytest.raises(ClaimLostError):
            await store.append("run", _entries(0, 1))
        with pytest.raises(ClaimLostError):
            await store.append("run", _entries(0, 1), token=token + 1)
        await store.append("run", _entries(0, 1), token=token)
        assert list(await store.read("run")) == _entries(0, 1)

    async def test_who_is_refused_a_run_takes_nothing_from_its_holder(
        self, store: CheckpointStore
    ) -> None:
        token = await store.claim("run", owner="a", lease_s=60)
        for lease_s in (60.0, 0.0):
            with pytest.raises(ClaimLostError):
                await store.claim("run", owner="b", lease_s=lease_s)
        await store.append("run", _entries(0, 1), token=token)
        assert await store.claim("run", owner="a", lease_s=60) == token

    async def test_of_many_who_want_a_run_one_gets_it(self, store: CheckpointStore) -> None:
        tokens: list[int] = []

        async def want(number: int) -> None:
            with contextlib.suppress(CheckpointSaveError):
                owner = f"owner{number}"
                tokens.append(await store.claim("run", owner=owner, lease_s=60))

        await _at_once(want, tasks=20)
        assert len(tokens) == 1

    async def test_of_many_who_write_at_one_position_one_does(
        self, store: CheckpointStore
    ) -> None:
        written: list[int] = []

        async def write(number: int) -> None:
            with contextlib.suppress(CheckpointSaveError):
                await store.append("run", _entries(0, 1))
                written.append(number)

        await _at_once(write, tasks=10)
        assert len(written) == 1
        assert list(await store.read("run")) == _entries(0, 1)

    async def test_the_record_of_a_run_says_who_holds_it(
        self, store: CheckpointStore
    ) -> None:
        token = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", _entries(0, 1), token=token)
        assert [each.owner for each in await store.runs()] == ["a"]
        await store.claim("run", owner="a", lease_s=0)
        assert [each.owner for each in await store.runs()] == [""]

    async def test_runs_of_one_status_can_be_listed(self, store: CheckpointStore) -> None:
        for run_id in ("first", "second"):
            await store.append(run_id, [_started(run_id, "alice")])
        await store.append("second", [_ended(1)])
        listed = [each.run_id for each in await store.runs(status="running")]
        assert listed == ["first"]
        listed = [each.run_id for each in await store.runs(status="completed")]
        assert listed == ["second"]

    async def test_a_run_that_goes_on_is_no_longer_ended(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", [_started("run", "alice"), _ended(1)])
        await store.append("run", [encode(Resumed(seq=2, at=0.0, owner="a"))])
        assert [each.status for each in await store.runs()] == ["running"]

    async def test_a_fork_belongs_to_the_agent_of_its_past(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", [_started("run", "alice"), *_entries(1, 1)])
        await store.fork("run", length=2, new_run_id="branch")
        await store.fork("branch", length=1, new_run_id="twig")
        same = Forked(seq=1, at=0.0, run_id="twig", agent_id="", parent_run_id="branch")
        await store.append("twig", [encode(same)])
        listed = [each.run_id for each in await store.runs(agent_id="alice")]
        assert sorted(listed) == ["branch", "run", "twig"]

    async def test_forks_of_forks_belong_to_the_agent_with_whom_it_began(
        self, store: CheckpointStore
    ) -> None:
        ids = ("run", "branch", "twig", "leaf")
        await store.append("run", [_started("run", "alice"), *_entries(1, 1)])
        for length, (parent, child) in enumerate(pairwise(ids), 2):
            await store.fork(parent, length=length, new_run_id=child)
            forked = Forked(
                seq=length, at=0.0, run_id=child, agent_id="", parent_run_id=parent
            )
            await store.append(child, [encode(forked)])
        listed = await store.runs(agent_id="alice")
        assert {each.run_id: each.status for each in listed} == dict.fromkeys(
            ids, "running"
        )

    async def test_a_fork_may_belong_to_another_agent(self, store: CheckpointStore) -> None:
        await store.append("run", [_started("run", "alice"), _ended(1)])
        await store.fork("run", length=1, new_run_id="branch")
        forked = Forked(seq=1, at=0.0, run_id="branch", agent_id="bob", parent_run_id="run")
        await store.append("branch", [encode(forked)])
        listed = await store.runs(agent_id="bob")
        assert [(each.run_id, each.status) for each in listed] == [("branch", "running")]

    async def test_a_fork_of_a_fork_shares_both_pasts(self, store: CheckpointStore) -> None:
        await store.append("a", _entries(0, 3))
        await store.fork("a", length=2, new_run_id="b")
        await store.append("b", _entries(2, 2))
        await store.fork("b", length=3, new_run_id="c")
        await store.fork("c", length=1, new_run_id="d")
        for run_id in ("a", "b"):
            await store.delete(run_id)
        assert list(await store.read("c")) == _entries(0, 3)
        assert list(await store.read("c", start=1, limit=2)) == _entries(1, 2)
        assert list(await store.read("d")) == _entries(0, 1)

    async def test_a_fork_needs_a_past_and_an_id_of_its_own(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 2))
        await store.append("other", _entries(0, 1))
        with pytest.raises(CheckpointSaveError):
            await store.fork("run", length=3, new_run_id="branch")
        with pytest.raises(CheckpointSaveError):
            await store.fork("run", length=1, new_run_id="other")
        with pytest.raises(UnknownRunError):
            await store.fork("nobody", length=0, new_run_id="branch")

    async def test_an_id_that_no_run_has_leads_nowhere(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 1))
        for run_id in _ODD_IDS:
            with pytest.raises(CheckpointSaveError):
                await store.append(run_id, _entries(0, 1))
            with pytest.raises(CheckpointSaveError):
                await store.claim(run_id, owner="a", lease_s=60)
            with pytest.raises(CheckpointSaveError):
                await store.fork("run", length=1, new_run_id=run_id)
            with pytest.raises(CheckpointSaveError):
                await store.delete(run_id)
            with pytest.raises(CheckpointSaveError):
                await store.send(run_id, b"{}")
            with pytest.raises(CheckpointLoadError):
                await store.read(run_id)
            with pytest.raises(CheckpointLoadError):
                await store.fork(run_id, length=0, new_run_id="branch")
        assert [each.run_id for each in await store.runs()] == ["run"]

    async def test_a_body_comes_back_byte_for_byte(self, store: CheckpointStore) -> None:
        texts = ["", "ä \u2028 \U0001f600", 'quotes " and \\ and \n', "x" * 1_000_000]
        entries = [
            StoredEntry(
                seq=seq, type="noted", version=7, body=json.dumps({"text": text}).encode()
            )
            for seq, text in enumerate(texts)
        ]
        await store.append("run", entries)
        assert list(await store.read("run")) == entries

    async def test_a_deleted_run_is_gone(self, store: CheckpointStore) -> None:
        await store.append("run", _entries(0, 1))
        await store.delete("run")
        with pytest.raises(UnknownRunError):
            await store.read("run")
        assert list(await store.runs()) == []
        await store.delete("run")

    async def test_with_a_run_goes_all_that_was_left_for_it(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 2))
        await store.send("run", b"stop")
        await store.send("other", b"stay")
        await store.delete("run")
        assert list(await store.receive(["run", "other"])) == [("other", b"stay")]
        await store.append("run", _entries(0, 1))
        assert list(await store.read("run")) == _entries(0, 1)

    async def test_a_run_that_somebody_holds_cannot_be_deleted(
        self, store: CheckpointStore
    ) -> None:
        await store.append("run", _entries(0, 1))
        await store.claim("run", owner="a", lease_s=60)
        with pytest.raises(ClaimLostError):
            await store.delete("run")
        assert list(await store.read("run")) == _entries(0, 1)

    async def test_a_message_is_given_once_and_to_its_run(
        self, store: CheckpointStore
    ) -> None:
        await store.send("run", b"1")
        await store.send("other", b"2")
        await store.send("run", b"3")
        assert list(await store.receive(["run", "nobody"])) == [
            ("run", b"1"),
            ("run", b"3"),
        ]
        assert list(await store.receive(["run"])) == []
        assert list(await store.receive(["other"])) == [("other", b"2")]

    async def test_a_message_comes_back_byte_for_byte(self, store: CheckpointStore) -> None:
        messages = [b"", bytes(range(256)), b"\n\r\n\0", b"x" * 1024 * 1024]
        for message in messages:
            await store.send("run", message)
        assert [each for _, each in await store.receive(["run"])] == messages

    async def test_messages_sent_at_once_are_all_kept(self, store: CheckpointStore) -> None:
        async def send(number: int) -> None:
            for part in range(10):
                await store.send("run", b"%d:%d" % (number, part))

        await _at_once(send, tasks=4)
        found = [message for _, message in await store.receive(["run"])]
        assert len(found) == 40
        for number in range(4):
            mine = [each for each in found if each.startswith(b"%d:" % number)]
            assert mine == [b"%d:%d" % (number, part) for part in range(10)]

    async def test_a_message_goes_to_one_of_many_who_receive(
        self, store: CheckpointStore
    ) -> None:
        sent = [b"%d" % number for number in range(20)]
        for message in sent:
            await store.send("run", message)
        found: list[bytes] = []

        async def receive(_: int) -> None:
            found.extend(message for _, message in await store.receive(["run"]))

        await _at_once(receive, tasks=5)
        assert sorted(found) == sorted(sent)

    async def test_who_is_cut_off_receiving_loses_no_message(
        self, store: CheckpointStore
    ) -> None:
        found: list[bytes] = []

        async def receive() -> None:
            found.extend(message for _, message in await store.receive(["run"]))

        for at in count(1):
            found.clear()
            await store.send("run", b"stop")
            cut = await _cut_off(receive(), at)
            await receive()
            assert found == [b"stop"]
            if not cut:
                break

    async def test_messages_of_many_runs_are_received_at_once(
        self, store: CheckpointStore
    ) -> None:
        await store.send("run1999", b"stop")
        assert list(await store.receive([])) == []
        run_ids = [f"run{number}" for number in range(2_000)]
        assert list(await store.receive(run_ids)) == [("run1999", b"stop")]
        assert list(await store.receive(run_ids)) == []

    async def test_messages_are_bounded(self, store: CheckpointStore) -> None:
        with pytest.raises(CheckpointSaveError):
            await store.send("run", b"x" * (1024 * 1024 + 1))
        assert list(await store.receive(["run"])) == []

    async def test_no_more_than_a_thousand_messages_wait(
        self, store: CheckpointStore
    ) -> None:
        async def send(number: int) -> None:
            for part in range(50):
                await store.send("run", b"%d:%d" % (number, part))

        await _at_once(send, tasks=20)
        with pytest.raises(CheckpointSaveError):
            await store.send("run", b"too many")
        await store.send("other", b"one")
        assert len({message for _, message in await store.receive(["run"])}) == 1_000
        await store.send("run", b"again")


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
        await channel.progress("half way", percentage=50, run_path=("outer", "inner"))


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
