"""The run log: its fold, its entries on disk, and those who listen to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import pytest
from kaizen import Gap, Image, Message, StoredEntry, TextDelta, ToolUse, Usage, runlog
from kaizen._keeping import Keeper, Keeping
from kaizen.errors import CheckpointLoadError, CheckpointSaveError
from kaizen.runlog import (
    Answered,
    Asked,
    ChildEnded,
    ChildStarted,
    Continued,
    CycleFailed,
    CycleGave,
    Entry,
    Forked,
    Interrupted,
    Marked,
    MessageAdded,
    ModelCharged,
    ModelReplied,
    ModelRequested,
    ModelSwitched,
    Noted,
    OutcomeDecided,
    Paused,
    ReasoningDelta,
    Reserved,
    Resumed,
    Rewound,
    RunEnded,
    RunLog,
    RunStarted,
    RunState,
    Settled,
    Steered,
    StreamEvent,
    Subscription,
    ToolFinished,
    ToolIntended,
    decode,
    encode,
    fold,
)
from kaizen.testing import MemoryCheckpointStore

PICTURE = Image(b"\x89PNG\r\n\x1a\n picture")


def kept(store: MemoryCheckpointStore) -> Keeping:
    return Keeping(store=store, keeper=Keeper(), durability="sync", go_on=False)


def story() -> list[Entry]:
    """A log with an entry of every type, in an order in which they may come."""
    place = iter(range(100))

    def at() -> dict[str, Any]:
        seq = next(place)
        return {"seq": seq, "at": 1_000.5 + seq}

    return [
        RunStarted(
            **at(),
            run_id="r",
            agent_id="a",
            parent_id="",
            trace_id="r",
            session_id="s",
            inputs={"text": "hi", "nested": {"list": [1, 2.5, None, True]}},
            messages=(
                Message(role="system", content="Be kind."),
                Message(role="user", content=("look", PICTURE), origin="user"),
            ),
            metadata={"tenant": "t"},
        ),
        ModelRequested(**at(), cycle=1, provider="openai", model="gpt"),
        ModelCharged(
            **at(), usage=Usage(requests=1, input_tokens=4), cost_usd=Decimal("0.01")
        ),
        ModelSwitched(
            **at(),
            cycle=1,
            from_provider="openai",
            from_model="gpt",
            provider="anthropic",
            model="claude",
            reason="it broke off",
            restarts=True,
        ),
        ModelReplied(
            **at(),
            cycle=1,
            message=Message(
                role="assistant",
                content="",
                tool_uses=(
                    ToolUse(id="c1", name="add", arguments={"a": 1}),
                    ToolUse(id="c2", name="add", arguments='{"a": 2}'),
                ),
            ),
            usage=Usage(requests=1, input_tokens=10, output_tokens=5, cached_tokens=2),
            cost_usd=Decimal("0.020"),
            finish_reason="tool_calls",
            model="gpt",
        ),
        Reserved(**at(), reservation_id="b1", amount_usd=Decimal("0.50")),
        Reserved(**at(), reservation_id="b2", amount_usd=Decimal("0.25")),
        Asked(
            **at(),
            request_id="q1",
            kind="approval",
            text="May I?",
            options=("yes", "no"),
            details={"a": 1},
            expires_at=2_000.0,
        ),
        Asked(**at(), request_id="q2", kind="question", text="Which?"),
        Answered(**at(), request_id="q1", approved=True, text="yes", principal="bob"),
        ToolIntended(
            **at(),
            call_id="c1",
            name="add",
            arguments={"a": 1},
            idempotency_key="r:c1",
            idempotent=True,
            cycle=1,
            grant="gate",
        ),
        ToolIntended(
            **at(),
            call_id="c2",
            name="add",
            arguments={"a": 2},
            idempotency_key="r:c2",
            idempotent=False,
            cycle=1,
        ),
        ToolFinished(
            **at(),
            call_id="c1",
            name="add",
            success=True,
            approved=True,
            content="2",
            error_code="",
            duration_ms=1.5,
        ),
        ToolFinished(
            **at(),
            call_id="direct",
            name="add",
            success=False,
            approved=False,
            content="Error: no",
            error_code="PERMISSION_001",
            duration_ms=0.0,
            in_history=False,
        ),
        Settled(**at(), reservation_id="b1", amount_usd=Decimal("0.02")),
        ChildEnded(
            **at(),
            run_id="child",
            agent_id="b",
            status="completed",
            usage=Usage(requests=2),
            cost_usd=None,
        ),
        Noted(**at(), source="gate", kind="decision", data={"allowed": True}),
        MessageAdded(**at(), message=Message(role="user", content="Go on.", origin="user")),
        Marked(**at(), mark_id="r:17", description="before the end", metadata={"n": 1}),
        ChildStarted(**at(), run_id="child", agent_id="b", place="c1.b:0", replaces="x"),
        CycleGave(
            **at(),
            cycle=1,
            text="the ***",
            tool_uses=(ToolUse(id="c3", name="add", arguments={}),),
            finish_reason="stop",
        ),
        CycleFailed(
            **at(), cycle=2, error="ModelError", arguments=("p", "no", 1), message="no"
        ),
        Paused(**at(), by="bob"),
        Continued(**at(), by="bob"),
        Steered(**at(), steer_id="s1", message=Message(role="user", content="Stop.")),
        OutcomeDecided(**at(), call_id="c2", decision="repeat", by="bob"),
        Resumed(**at(), owner="pid 1 on host"),
        Forked(**at(), run_id="r", agent_id="a", parent_run_id="q"),
        Rewound(**(here := at()), to_seq=here["seq"] - 1),
        Interrupted(
            **at(),
            source="user",
            mode="graceful",
            signal="custom",
            message="enough",
            metadata={"n": 1},
        ),
        RunEnded(
            **at(), status="failed", outputs={"x": 1}, error="E: no", error_code="X_1"
        ),
    ]


def marks(count: int) -> list[Entry]:
    return [Marked(seq=seq, at=0.0, mark_id=str(seq)) for seq in range(count)]


def note(data: Any) -> Noted:
    return Noted(seq=0, at=0.0, source="s", kind="k", data=data)


def filled(entries: Sequence[Entry], log: RunLog | None = None) -> RunLog:
    log = log or RunLog("r")
    for entry in entries:
        log.append(entry)
    return log


def facts(state: RunState) -> dict[str, Any]:
    names = [name for name in RunState.__slots__ if not name.startswith("_")]
    return {name: getattr(state, name) for name in [*names, "usage"]}


# The fold.


def test_the_state_of_a_living_run_is_the_fold_of_its_log() -> None:
    log = RunLog("r")
    for count, entry in enumerate(story(), start=1):
        log.append(entry)
        assert facts(log.state) == facts(fold(log.entries[:count]))


def test_the_state_is_the_same_after_a_way_through_a_store() -> None:
    again = [decode(encode(entry)) for entry in story()]
    assert facts(fold(again)) == facts(fold(story()))


def test_the_fold_says_what_happened() -> None:
    state = fold(story())

    assert state.started is not None
    assert state.started.run_id == "r"
    assert [message.role for message in state.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "user",
    ]
    assert (state.messages[3].content, state.messages[3].tool_use_id) == ("2", "c1")
    assert state.messages[3].origin == "tool:add"
    assert state.call_ids == {"c1", "c2"}
    assert list(state.pending) == ["c2"]
    assert state.pending["c2"].idempotent
    assert [each.steer_id for each in state.steered] == ["s1"]
    assert not state.paused
    assert not state.questions  # those of the run that it was forked from
    assert state.reserved == {"b2": Decimal("0.25")}
    assert [mark.mark_id for mark in state.marks] == ["r:17"]
    assert state.usage == Usage(
        requests=4, input_tokens=14, output_tokens=5, cached_tokens=2
    )
    assert state.cost_usd == Decimal("0.030")
    assert (state.cycles, state.tool_calls) == (1, 2)
    assert (state.status, state.outputs, state.error) == ("failed", {"x": 1}, "E: no")


def test_a_turn_counts_once_however_often_a_model_was_asked() -> None:
    asked = partial(ModelRequested, at=0.0, provider="p", model="m")
    replied = partial(
        ModelReplied,
        at=0.0,
        message=Message(role="assistant", content="x"),
        usage=Usage(),
        cost_usd=None,
        finish_reason="stop",
        model="m",
    )

    asked_twice = [asked(seq=0, cycle=1), asked(seq=1, cycle=1), replied(seq=2, cycle=1)]
    from_a_cache = [*asked_twice, replied(seq=3, cycle=2, cached=True)]

    assert (fold(asked_twice).cycles, fold(asked_twice).turns) == (2, 1)
    assert (fold(from_a_cache).cycles, fold(from_a_cache).turns) == (2, 2)


def test_the_fold_of_nothing_has_consumed_nothing() -> None:
    state = fold([])
    assert (state.status, state.usage, state.cost_usd) == ("running", Usage(), None)
    assert state.messages == []


@pytest.mark.parametrize("seq", [-1, 1, 3, 99])
def test_an_entry_out_of_place_is_refused_and_changes_nothing(seq: int) -> None:
    log = filled(marks(2))
    with pytest.raises(ValueError, match=f"entry {seq} does not follow the 2"):
        log.append(Marked(seq=seq, at=0.0, mark_id="x"))
    assert len(log.entries) == 2
    assert len(log.state.marks) == 2


# Entries as a store keeps them.


def test_the_story_has_every_type_of_entry() -> None:
    types = [
        value
        for value in (getattr(runlog, name) for name in runlog.__all__)
        if isinstance(value, type) and issubclass(value, Entry) and value is not Entry
    ]
    assert {type(entry) for entry in story()} == set(types)
    assert len({each.type for each in types}) == len(types)
    assert all(each.type and each.version >= 1 for each in types)


@pytest.mark.parametrize("entry", story(), ids=lambda entry: f"{entry.seq}-{entry.type}")
def test_an_entry_comes_back_as_it_was_stored(entry: Entry) -> None:
    stored = encode(entry)

    assert (stored.seq, stored.type, stored.version) == (
        entry.seq,
        entry.type,
        entry.version,
    )
    assert set(json.loads(stored.body)) == {each.name for each in fields(entry)}
    again = decode(stored)
    assert type(again) is type(entry)
    assert again == entry
    assert encode(again) == stored


def test_a_picture_that_is_gone_does_not_hide_the_conversation(tmp_path: Any) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    message = Message(
        role="user", content=(Image(file), Image("https://example.org/a.png"))
    )
    stored = encode(MessageAdded(seq=0, at=0.0, message=message))
    file.unlink()

    again = decode(stored)

    assert isinstance(again, MessageAdded)
    assert again.message == message


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    "data",
    [
        {"a": object()},
        {"a": print},
        {"a": b"\xff"},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": 10**5_000},
        nested(230),
        nested(100_000),
        cyclic(),
        {"a": iter},
    ],
    ids=[
        "object",
        "function",
        "bytes",
        "surrogate",
        "key",
        "number",
        "deep",
        "deeper",
        "cycle",
        "type",
    ],
)
def test_what_json_cannot_hold_is_not_stored(data: dict[str, Any]) -> None:
    with pytest.raises(
        CheckpointSaveError, match=r"entry 0 \(noted\) holds what JSON cannot"
    ):
        encode(note(data))


def test_what_is_stored_can_be_read_however_deep_it_is() -> None:
    for levels in (50, 100, 150, 190, 195, 200, 205, 250, 300):
        try:
            stored = encode(note(nested(levels)))
        except CheckpointSaveError:
            continue
        assert decode(stored) == note(nested(levels))
    assert decode(encode(note(nested(150)))) == note(nested(150))


def test_an_entry_that_is_too_large_is_neither_stored_nor_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = encode(note({"text": "x" * 2_000}))
    monkeypatch.setattr(runlog, "MAX_ENTRY_BYTES", 1_000)

    with pytest.raises(CheckpointSaveError, match="more than 1000 bytes"):
        encode(note({"text": "x" * 2_000}))
    with pytest.raises(CheckpointLoadError, match="is larger than 1000 bytes"):
        decode(stored)


@pytest.mark.parametrize(
    "kind", ["", "unknown", "Noted", "kaizen.runlog.Noted", "__class__"]
)
def test_an_unknown_type_is_refused(kind: str) -> None:
    stored = replace(encode(note({})), type=kind)
    with pytest.raises(CheckpointLoadError, match=r"has an unknown type\. Update Kaizen"):
        decode(stored)


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        (0, "cannot be brought from version 0 to 1"),
        (-1, "cannot be brought from version -1 to 0"),
        (2, "newer than version 1"),
        (999, "newer than version 1"),
    ],
)
def test_an_unknown_version_is_refused(version: int, problem: str) -> None:
    stored = replace(encode(note({})), version=version)
    with pytest.raises(CheckpointLoadError, match=problem):
        decode(stored)


def test_an_entry_at_another_place_than_it_says_is_refused() -> None:
    stored = replace(encode(note({})), seq=7)
    with pytest.raises(CheckpointLoadError, match=r"entry 7 .*says that it is entry 0"):
        decode(stored)


def test_every_cut_of_an_entry_is_damaged() -> None:
    stored = encode(story()[3])
    for length in range(len(stored.body)):
        with pytest.raises(CheckpointLoadError, match="is damaged at"):
            decode(replace(stored, body=stored.body[:length]))


def with_fields(**changes: Any) -> bytes:
    body = json.loads(encode(note({})).body)
    return json.dumps({**body, **changes}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"\x00" * 100,
        encode(note({})).body + b"{}",
        with_fields(seq="0"),
        with_fields(at="soon"),
        with_fields(seq=False),
        with_fields(seq=0.0),
        with_fields(source=None),
        with_fields(data=[]),
        with_fields(surprise=1),
        b'{"seq":0}',
        b'{"data":' * 10_000,
    ],
)
def test_a_body_that_is_damaged_is_reported_and_never_guessed(body: bytes) -> None:
    with pytest.raises(CheckpointLoadError, match="is damaged at") as caught:
        decode(StoredEntry(seq=0, type="noted", version=1, body=body))
    assert caught.value.__cause__ is None


def test_the_damaged_place_is_named() -> None:
    body = with_fields(source=7, kind=None)
    with pytest.raises(CheckpointLoadError, match=r"is damaged at source, kind\.$"):
        decode(StoredEntry(seq=0, type="noted", version=1, body=body))


def test_a_damaged_body_is_not_repeated_in_the_error() -> None:
    body = with_fields(source={"password": "hunter2"}, **{"x" * 10_000: "hunter2"})
    with pytest.raises(CheckpointLoadError) as caught:
        decode(StoredEntry(seq=0, type="noted", version=1, body=body))
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


HOSTILE = r"""
import json, sys
from kaizen.errors import CheckpointLoadError
from kaizen.ports import StoredEntry
from kaizen.runlog import MessageAdded, Noted, RunStarted, decode, encode
from kaizen import Image, Message

GADGETS = [
    {"py/object": "os.system", "args": ["touch HACKED"]},
    {"py/reduce": [{"py/function": "os.system"}, ["touch HACKED"]]},
    {"__class__": "subprocess.Popen", "__init__": ["touch", "HACKED"]},
    {"__reduce__": ["os.system", ["touch HACKED"]]},
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "x"}},
    {"$type": "System.Diagnostics.Process", "!!python/object/apply:os.system": ["x"]},
    {"__type__": "kaizen.runlog.RunStarted", "__module__": "antigravity"},
    {"__import__": "antigravity", "eval": "__import__('antigravity')"},
    {"{0.__class__.__init__.__globals__}": "%(x)s ${jndi:ldap://a} {{7*7}}"},
    {"kind": "image", "media_type": "image/png", "path": "/etc/passwd"},
    {"kind": "image", "media_type": "image/png", "url": "http://169.254.169.254/"},
    "gASVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAZ0b3VjaCBIlIWUUpQu",
    "\u0080\u0004cos\nsystem\n(S'touch HACKED'\ntR.",
    10**300,
]
samples = [
    encode(Noted(seq=0, at=0.0, source="s", kind="k", data={"a": 1})),
    encode(MessageAdded(seq=0, at=0.0, message=Message(role="user", content=("a", "b")))),
    encode(RunStarted(seq=0, at=0.0, run_id="r", agent_id="a", parent_id="", trace_id="t",
                      session_id="s", inputs={"a": 1}, messages=())),
]
for sample in samples:
    decode(sample)


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, list):
        for key, each in enumerate(value):
            yield from places(each, (*path, key))


def put(value, path, gadget):
    if not path:
        return gadget
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = put(value[path[0]], path[1:], gadget)
    return changed


payloads = []
for sample in samples:
    body = json.loads(sample.body)
    for path in places(body):
        for gadget in GADGETS:
            payloads.append((sample, json.dumps(put(body, path, gadget)).encode()))
            if isinstance(gadget, dict):
                mixed = {**body, **gadget}
                payloads.append((sample, json.dumps(mixed).encode()))
payloads += [(sample, sample.body[:n] + b"\x80\x04" + sample.body[n:])
             for sample in samples for n in range(len(sample.body))]
payloads += [(sample, bytes(body)) for sample in samples
             for body in (b"cos\nsystem\n(S'x'\ntR.", b"!!python/object/apply:os.system")]
for sample, body in payloads[:1]:  # what the first error needs is imported before
    try:
        decode(StoredEntry(seq=0, type=sample.type, version=1, body=body))
    except CheckpointLoadError:
        pass

seen, watching = [], True

def watch(event, args):
    # Our records get their class as their last step.
    if event == "object.__setattr__" and args[2].__module__.startswith("kaizen."):
        return
    if watching:
        seen.append((event, args))

sys.addaudithook(watch)
read = 0
for sample, body in payloads:
    try:
        decode(StoredEntry(seq=0, type=sample.type, version=1, body=body))
        read += 1
    except CheckpointLoadError:
        pass
watching = False
print(json.dumps({"payloads": len(payloads), "read": read,
                  "events": [repr(each)[:200] for each in seen][:20]}))
"""


def test_hostile_json_imports_calls_and_opens_nothing(tmp_path: Any) -> None:
    output = subprocess.run(
        [sys.executable, "-c", HOSTILE],
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=tmp_path,
    ).stdout

    found = json.loads(output)
    assert found["events"] == []
    assert found["payloads"] > 800
    assert 0 < found["read"] < found["payloads"]
    assert list(tmp_path.iterdir()) == []


# Making the log durable.


class SlowStore(MemoryCheckpointStore):
    """Lets others go on before it writes, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[list[int]] = []
        self.before: Callable[[], Any] = anyio.lowlevel.checkpoint
        self.after: Callable[[], Any] = anyio.lowlevel.checkpoint

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        await self.before()
        await super().append(run_id, entries, token=token)
        self.writes.append([entry.seq for entry in entries])
        await self.after()


@pytest.mark.anyio
async def test_without_a_store_there_is_nothing_to_wait_for() -> None:
    log = filled(marks(1))
    assert not log.durable
    await log.flush()


@pytest.mark.anyio
async def test_a_commit_writes_what_is_new() -> None:
    store = SlowStore()
    log = filled(story()[:2], RunLog("r", kept(store)))

    await log.flush()
    await log.flush()
    filled(story()[2:], log)
    await log.flush()

    assert store.writes == [[0, 1], list(range(2, len(story())))]
    assert [decode(each) for each in await store.read("r")] == story()


@pytest.mark.anyio
async def test_commits_at_once_write_each_entry_once() -> None:
    store = SlowStore()
    log = filled(marks(1), RunLog("r", kept(store)))

    async def mark_and_commit() -> None:
        mine = Marked(seq=len(log.entries), at=0.0, mark_id="x")
        log.append(mine)
        await log.flush()
        assert (await store.read("r"))[mine.seq] == encode(mine)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(mark_and_commit)

    assert [seq for write in store.writes for seq in write] == list(range(9))


@pytest.mark.anyio
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_commit_that_was_cancelled_is_made_good_by_the_next(moment: str) -> None:
    store = SlowStore()
    log = filled(marks(1), RunLog("r", kept(store)))
    await log.flush()
    log.append(Marked(seq=1, at=0.0, mark_id="x"))

    setattr(store, moment, anyio.sleep_forever)
    with anyio.move_on_after(0.01) as scope:
        await log.flush()
    assert scope.cancelled_caught
    setattr(store, moment, anyio.lowlevel.checkpoint)
    log.append(Marked(seq=2, at=0.0, mark_id="x"))
    await log.flush()

    assert [decode(each) for each in await store.read("r")] == log.entries


@pytest.mark.anyio
async def test_a_first_commit_that_was_cancelled_is_made_good_by_the_next() -> None:
    store = SlowStore()
    log = filled(marks(2), RunLog("r", kept(store)))

    store.before = anyio.sleep_forever
    with anyio.move_on_after(0.01):
        await log.flush()
    store.before = anyio.lowlevel.checkpoint
    await log.flush()

    assert store.writes == [[0, 1]]


@pytest.mark.anyio
async def test_a_log_that_somebody_else_wrote_is_not_taken_for_ones_own() -> None:
    store = SlowStore()
    log = filled(marks(1), RunLog("r", kept(store)))
    await store.append("r", [encode(replace(marks(1)[0], at=7.0))])

    for _ in range(2):
        with pytest.raises(CheckpointSaveError):
            await log.flush()

    assert len(await store.read("r")) == 1


@pytest.mark.anyio
async def test_a_store_that_fails_fails_the_commit_and_may_recover() -> None:
    store = SlowStore()
    log = filled(marks(1), RunLog("r", kept(store)))

    async def fail() -> None:
        raise CheckpointSaveError("run 'r'", "cannot be written: the disk is full")

    store.before = fail
    with pytest.raises(CheckpointSaveError, match="the disk is full"):
        await log.flush()
    store.before = anyio.lowlevel.checkpoint
    await log.flush()

    assert store.writes == [[0]]


# Listening.


def ready(subscription: Subscription) -> list[StreamEvent]:
    """What the subscription has, without waiting."""
    events = []
    while (event := subscription._next()) is not None:
        events.append(event)
    return events


def positions(events: Sequence[StreamEvent]) -> list[tuple[int, int]]:
    return [event.position for event in events]


async def collect(subscription: Subscription) -> list[StreamEvent]:
    with anyio.fail_after(5):
        return [event async for event in subscription]


@pytest.mark.anyio
async def test_entries_and_deltas_come_in_the_order_of_their_positions() -> None:
    log = RunLog("r")
    subscription = log.subscribe()
    for entry in marks(3):
        log.append(entry)
        log.publish("a")
        log.publish("b")
    log.close()

    events = await collect(subscription)

    assert positions(events) == [(seq, index) for seq in range(3) for index in range(3)]
    assert [event.text for event in events if isinstance(event, TextDelta)] == [
        "a",
        "b",
    ] * 3


@pytest.mark.anyio
async def test_a_reader_waits_for_what_is_not_there_yet() -> None:
    log = RunLog("r")
    events: list[StreamEvent] = []
    subscription = log.subscribe()
    read: list[anyio.Event] = [anyio.Event() for _ in range(3)]

    async def reader() -> None:
        async for event in subscription:
            events.append(event)
            read[len(events) - 1].set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await anyio.wait_all_tasks_blocked()
            assert events == []
            log.append(marks(1)[0])
            await read[0].wait()
            log.publish("a")
            await read[1].wait()
            log.append(marks(2)[1])
            await read[2].wait()
            log.close()

    assert positions(events) == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.anyio
async def test_a_slow_reader_misses_deltas_with_a_mark_but_no_entry() -> None:
    log = RunLog("r")
    subscription = log.subscribe(buffer=4)
    for entry in marks(10):
        log.append(entry)
        for _ in range(10):
            log.publish("x")
    log.close()

    events = await collect(subscription)

    entries = [event for event in events if isinstance(event, Entry)]
    gaps = [event for event in events if isinstance(event, Gap)]
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert entries == log.entries
    assert gaps == [Gap(position=(0, 1), missed=96)]
    assert positions(deltas) == [(9, 7), (9, 8), (9, 9), (9, 10)]
    assert positions(events) == sorted(positions(events))


def test_a_slow_reader_costs_bounded_memory() -> None:
    log = filled(marks(1))
    subscription = log.subscribe(buffer=8)
    for _ in range(10_000):
        log.publish("x")

    waiting = ready(subscription)

    assert len([event for event in waiting if isinstance(event, TextDelta)]) == 8
    assert Gap(position=(0, 1), missed=9_992) in waiting


def test_a_reader_that_catches_up_misses_nothing_more() -> None:
    log = filled(marks(1))
    subscription = log.subscribe(buffer=2)
    for _ in range(5):
        log.publish("x")
    assert positions(ready(subscription)) == [(0, 0), (0, 1), (0, 4), (0, 5)]
    log.publish("y")
    assert positions(ready(subscription)) == [(0, 6)]
    for _ in range(3):
        log.publish("z")
    assert ready(subscription)[0] == Gap(position=(0, 7), missed=1)


def test_a_buffer_holds_at_least_one_delta() -> None:
    log = filled(marks(1))
    subscription = log.subscribe(buffer=0)
    log.publish("a")
    log.publish("b")
    assert positions(ready(subscription)) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.anyio
async def test_every_reader_gets_everything() -> None:
    log = RunLog("r")
    subscriptions = [log.subscribe(), log.subscribe(), log.subscribe(buffer=1)]
    seen: list[list[StreamEvent]] = [[], [], []]

    async def reader(place: int) -> None:
        seen[place] = await collect(subscriptions[place])

    async with anyio.create_task_group() as tasks:
        for place in range(3):
            tasks.start_soon(reader, place)
        await anyio.wait_all_tasks_blocked()
        for entry in marks(2):
            log.append(entry)
            log.publish("a")
            log.publish("b")
        log.close()

    assert seen[0] == seen[1]
    assert len(seen[0]) == 6
    assert [event for event in seen[2] if isinstance(event, Entry)] == log.entries


def test_a_tap_hears_everything_from_then_on_at_once_until_it_is_cancelled() -> None:
    first, second, third = marks(3)
    log = filled([first])
    heard: list[StreamEvent] = []
    log.publish("before")

    tap = log.tap(heard.append)
    for _ in range(2_000):
        log.publish("x")
    log.append(second)
    log.publish("hm", ReasoningDelta)
    watched = log.watched
    tap.cancel()
    log.publish("after")
    log.append(third)
    log.close()

    texts = [each.text for each in heard if isinstance(each, TextDelta | ReasoningDelta)]
    assert texts == ["x"] * 2_000 + ["hm"]
    assert [each for each in heard if isinstance(each, Entry)] == [second]
    assert (watched, log.watched) == (True, False)


def test_a_late_reader_gets_every_entry_and_the_deltas_from_then_on() -> None:
    log = filled(marks(2))
    log.publish("missed")
    late = log.subscribe()
    log.publish("heard")
    assert positions(ready(late)) == [(0, 0), (1, 0), (1, 2)]


def test_a_delta_has_the_same_position_whoever_listens() -> None:
    log = filled(marks(1))
    first = log.subscribe()
    log.publish("a")
    first.cancel()
    log.publish("b")
    log.append(marks(2)[1])
    log.publish("c")
    second = log.subscribe(start=1)
    log.publish("d")
    assert positions(ready(second)) == [(1, 0), (1, 2)]


@pytest.mark.anyio
async def test_a_reader_of_a_log_that_is_over_gets_all_of_it_and_ends() -> None:
    log = filled(story())
    log.close()
    assert await collect(log.subscribe()) == log.entries
    assert await collect(log.subscribe()) == log.entries


@pytest.mark.anyio
@pytest.mark.parametrize(("start", "first"), [(0, 0), (2, 2), (3, 3), (9, 3), (-5, 0)])
async def test_a_reader_may_begin_in_the_middle(start: int, first: int) -> None:
    log = filled(marks(3))
    log.close()
    events = await collect(log.subscribe(start=start))
    assert positions(events) == [(seq, 0) for seq in range(first, 3)]


def test_a_cancelled_subscription_is_not_served_any_more() -> None:
    log = RunLog("r")
    first, second = log.subscribe(), log.subscribe()

    first.cancel()
    first.cancel()

    assert log.watched
    filled(marks(1), log).publish("a")
    assert positions(ready(second)) == [(0, 0), (0, 1)]
    second.cancel()
    assert not log.watched


@pytest.mark.anyio
async def test_a_closed_log_delivers_what_there_is_and_forgets_its_readers() -> None:
    log = RunLog("r")
    subscription = log.subscribe()
    filled(marks(1), log).publish("a")
    log.close()

    assert positions(await collect(subscription)) == [(0, 0), (0, 1)]
    assert not log.watched
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


@pytest.mark.anyio
async def test_a_reader_that_waits_can_be_cancelled() -> None:
    subscription = RunLog("r").subscribe()
    with anyio.move_on_after(0.01) as scope:
        await anext(subscription)
    assert scope.cancelled_caught
