"""States that are saved by hand: they come back as they were, and cost what is new."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen import (
    Checkpoint,
    CheckpointEvent,
    CheckpointLoadError,
    CheckpointRequest,
    CheckpointSave,
    CheckpointSaveError,
    CheckpointStore,
    HookContext,
    HookEvent,
    HookManager,
    StoredEntry,
    hookimpl,
)
from kaizen.claims import new_owner
from kaizen.runlog import Forked, Marked, Noted, RunEnded, RunStarted, encode
from kaizen.testing import MemoryCheckpointStore
from kaizen_state import AgentState, CheckpointInfo, FilesystemStorage, StateManager
from pydantic import ValidationError

pytestmark = pytest.mark.anyio

ODD_IDS = [
    "../x",
    "a/../../etc/passwd",
    "",
    " ",
    "日本 🐕",
    "x" * 1_000,
    "\0",
    "C:\\x",
    ".",
    "-",
]


@pytest.fixture(params=["memory", "files"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[CheckpointStore]:
    if request.param == "memory":
        yield MemoryCheckpointStore()
        return
    async with FilesystemStorage(tmp_path / "runs") as files:
        yield files


@pytest.fixture
def manager(store: CheckpointStore) -> StateManager:
    return StateManager(store)


def state(agent_id: str = "agent", turns: int = 1, **fields: Any) -> AgentState:
    lines = [{"user": f"question {turn}", "agent": "words " * 50} for turn in range(turns)]
    return AgentState(agent_id=agent_id, conversation_history=lines, **fields)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def size_of(store: CheckpointStore, run_id: str) -> int:
    return sum(len(each.body) for each in await store.read(run_id))


async def test_a_state_comes_back_as_it_was(manager: StateManager) -> None:
    made = AgentState(
        agent_id="research_agent",
        step_number=3,
        status="running",
        conversation_history=[
            {"user": "Grüezi", "agent": "日本"},
            ["x", 1, 2.5, None, True],
        ],
        memory_contents={
            "price": Decimal("0.10"),
            "seen": datetime(2026, 5, 4, 3, 2, 1, 6, tzinfo=UTC),
            "inside": [{"deep": Decimal("1E+3")}, datetime(2026, 1, 1)],  # noqa: DTZ001
            "names": [{"$decimal": "7"}, {"$": 1}, {"$datetime": {"$": {}}}, {"$x": []}],
        },
        budget_spent_usd=0.15,
        metadata={"session_id": "session_123"},
    )

    checkpoint_id = await manager.save_checkpoint(made, "first", {"key": "value"})
    loaded = await manager.load_checkpoint(checkpoint_id)

    assert loaded.checkpoint_id == checkpoint_id
    assert loaded.run_id == checkpoint_id.partition(":")[0]
    assert loaded.description == "first"
    assert loaded.created_at > 0
    own = {"checkpoint_id", "run_id", "created_at", "description"}
    assert loaded.model_dump(exclude=own) == made.model_dump(exclude=own)
    assert isinstance(loaded.budget_spent_usd, float)


async def test_money_that_is_a_decimal_stays_one(manager: StateManager) -> None:
    made = state(budget_spent_usd=Decimal("0.30"))

    loaded = await manager.load_checkpoint(await manager.save_checkpoint(made))

    assert isinstance(loaded.budget_spent_usd, Decimal)
    assert str(loaded.budget_spent_usd) == "0.30"


async def test_every_checkpoint_keeps_its_own_state(manager: StateManager) -> None:
    made = state(turns=0, memory_contents={"gone": 1})
    expected, ids = [], []
    for turn in range(5):
        made.step_number = turn
        made.conversation_history.append({"turn": turn})
        made.memory_contents = {"turn": turn, "same": "same"}
        expected.append(made.model_copy(deep=True))
        ids.append(await manager.save_checkpoint(made))

    for checkpoint_id, was in zip(ids, expected, strict=True):
        loaded = await manager.load_checkpoint(checkpoint_id)
        assert loaded.conversation_history == was.conversation_history
        assert loaded.memory_contents == was.memory_contents
        assert loaded.step_number == was.step_number


async def test_a_history_that_grew_costs_what_is_new(
    store: CheckpointStore, manager: StateManager
) -> None:
    long = state(turns=200, memory_contents={"big": "m" * 10_000})
    first = await manager.save_checkpoint(long)
    run_id = first.partition(":")[0]
    before = await size_of(store, run_id)

    long.conversation_history.append({"user": "one more"})
    await manager.save_checkpoint(long)

    assert before > 60_000
    assert await size_of(store, run_id) - before < 600


async def test_another_manager_goes_on_from_what_is_stored(store: CheckpointStore) -> None:
    long = state(turns=100)
    first = await StateManager(store).save_checkpoint(long)
    before = await size_of(store, first.partition(":")[0])
    long.conversation_history.append("one more")

    second = await StateManager(store).save_checkpoint(long)

    assert second.partition(":")[0] == first.partition(":")[0]
    assert await size_of(store, first.partition(":")[0]) - before < 600
    loaded = await StateManager(store).load_checkpoint(second)
    assert loaded.conversation_history == long.conversation_history


async def test_two_managers_in_turns_confuse_nothing(store: CheckpointStore) -> None:
    one, two = StateManager(store), StateManager(store)
    for turn in range(6):
        made = state(turns=turn, memory_contents={str(turn): turn})
        checkpoint_id = await (one, two)[turn % 2].save_checkpoint(made)
        loaded = await one.load_checkpoint(checkpoint_id)
        assert loaded.conversation_history == made.conversation_history
        assert loaded.memory_contents == made.memory_contents


async def test_a_line_of_the_history_may_change(manager: StateManager) -> None:
    made = state(turns=5)
    await manager.save_checkpoint(made)
    made.conversation_history[1] = "rewritten"
    del made.conversation_history[3:]

    loaded = await manager.load_checkpoint(await manager.save_checkpoint(made))

    assert loaded.conversation_history == made.conversation_history


async def test_saves_at_once_each_keep_their_own(manager: StateManager) -> None:
    found: dict[int, str] = {}

    async def save(number: int) -> None:
        made = state(turns=number, step_number=number)
        found[number] = await manager.save_checkpoint(made)

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(save, number)

    assert len(set(found.values())) == 10
    for number, checkpoint_id in found.items():
        assert (await manager.load_checkpoint(checkpoint_id)).step_number == number


async def test_managers_at_once_wait_for_each_other(store: CheckpointStore) -> None:
    managers = [StateManager(store) for _ in range(4)]

    async def save(each: StateManager) -> None:
        for turn in range(3):
            await each.save_checkpoint(state(turns=turn))

    async with anyio.create_task_group() as tasks:
        for each in managers:
            tasks.start_soon(save, each)

    assert len(await managers[0].list("agent")) == 12


@pytest.mark.parametrize("agent_id", [each for each in ODD_IDS if each])
async def test_any_text_may_be_the_id_of_an_agent(
    manager: StateManager, store: CheckpointStore, agent_id: str, tmp_path: Path
) -> None:
    checkpoint_id = await manager.save_checkpoint(state(agent_id))

    latest = await manager.resume_from_latest(agent_id)

    assert latest is not None
    assert latest.agent_id == agent_id
    assert latest.checkpoint_id == checkpoint_id
    assert set(names_in(tmp_path)) <= {"runs"}


async def test_agents_find_only_their_own(manager: StateManager) -> None:
    for agent_id in ("a", "a/", "A", "a "):
        await manager.save_checkpoint(state(agent_id, memory_contents={"mine": agent_id}))

    for agent_id in ("a", "a/", "A", "a "):
        latest = await manager.resume_from_latest(agent_id)
        assert latest is not None
        assert latest.memory_contents == {"mine": agent_id}
        assert [each.agent_id for each in await manager.list(agent_id)] == [agent_id]
    assert await manager.resume_from_latest("b") is None


@pytest.mark.parametrize("checkpoint_id", [*ODD_IDS, "../x:1", "a:b", "a:-1", "a:1e3"])
async def test_an_id_that_cannot_be_is_refused_whatever_is_asked(
    manager: StateManager, checkpoint_id: str
) -> None:
    for ask in (
        manager.load_checkpoint,
        manager.restore_checkpoint,
        manager.fork_from_checkpoint,
        manager.rewind,
        manager.delete,
    ):
        with pytest.raises(CheckpointLoadError):
            await ask(checkpoint_id)


@pytest.mark.parametrize("checkpoint_id", ["nosuch", "nosuch:3"])
async def test_an_unknown_id_is_refused_whatever_is_asked(
    manager: StateManager, checkpoint_id: str
) -> None:
    with pytest.raises(CheckpointLoadError, match="nosuch"):
        await manager.load_checkpoint(checkpoint_id)
    with pytest.raises(CheckpointLoadError, match="nosuch"):
        await manager.delete(checkpoint_id)


async def test_a_place_that_is_no_checkpoint_is_none(manager: StateManager) -> None:
    run_id, _, place = (await manager.save_checkpoint(state())).partition(":")

    with pytest.raises(CheckpointLoadError, match="no checkpoint at position 0"):
        await manager.load_checkpoint(f"{run_id}:0")
    with pytest.raises(CheckpointLoadError, match="no checkpoint at position"):
        await manager.load_checkpoint(f"{run_id}:{int(place) + 1}")


async def test_the_checkpoint_of_another_agent_is_refused_where_that_counts(
    manager: StateManager,
) -> None:
    checkpoint_id = await manager.save_checkpoint(state("one"))

    with pytest.raises(CheckpointLoadError, match="belongs to agent 'one', not to 'two'"):
        await manager.load_checkpoint(checkpoint_id, agent_id="two")
    loaded = await manager.load_checkpoint(checkpoint_id, agent_id="one")
    assert loaded.agent_id == "one"


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", {1: "number"}, lambda: None, "\ud800"],
    ids=["object", "set", "bytes", "key", "function", "surrogate"],
)
async def test_what_json_cannot_hold_is_refused_and_nothing_is_written(
    manager: StateManager, store: CheckpointStore, value: object
) -> None:
    with pytest.raises(CheckpointSaveError):
        await manager.save_checkpoint(state(memory_contents={"x": value}))

    assert await store.runs() == []


async def test_what_is_nested_too_deeply_is_refused(manager: StateManager) -> None:
    deep: list[Any] = []
    deep.append(deep)

    with pytest.raises(CheckpointSaveError, match="levels"):
        await manager.save_checkpoint(state(metadata={"x": deep}))


@pytest.mark.parametrize(
    "fields",
    [
        {"agent_id": ""},
        {"agent_id": "x" * 1_001},
        {"step_number": -1},
        {"budget_spent_usd": float("nan")},
        {"budget_spent_usd": -1},
        {"status": ""},
        {"conversation_history": "text"},
        {"unknown": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_state_is_checked_when_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AgentState(**{"agent_id": "agent", **fields})


async def test_an_id_in_a_state_leads_nowhere(
    manager: StateManager, tmp_path: Path
) -> None:
    made = state(checkpoint_id="../escaped", run_id="../../escaped")

    checkpoint_id = await manager.save_checkpoint(made)

    assert "escaped" not in checkpoint_id
    assert set(names_in(tmp_path)) <= {"runs"}


def hostile_notes() -> list[dict[str, Any]]:
    good = {"format": 1, "step_number": 1, "status": "x", "budget_spent_usd": 0, "kept": 0}
    return [
        {},
        {**good, "format": 2},
        {**good, "kept": 5},
        {**good, "kept": -1},
        {**good, "step_number": "1"},
        {**good, "history": {"a": 1}},
        {**good, "memory": {"set": []}},
        {**good, "budget_spent_usd": "much"},
        {**good, "budget_spent_usd": {"$decimal": "x"}},
        {**good, "memory": {"set": {"a": {"$datetime": "never"}}}},
        {**good, "memory": {"set": {"a": {"$os.system": "true"}}}},
        {**good, "more": 1},
        {**good, "status": ""},
    ]


@pytest.mark.parametrize("data", hostile_notes(), ids=range(13))
async def test_a_stored_state_that_is_none_is_refused(
    manager: StateManager, store: CheckpointStore, data: dict[str, Any]
) -> None:
    run_id = (await manager.save_checkpoint(state(turns=2))).partition(":")[0]
    length = len(await store.read(run_id))
    hostile = Noted(seq=length, at=1.0, source="state", kind="agent_state", data=data)
    mark = Marked(seq=length + 1, at=1.0, mark_id="mark")
    await store.append(run_id, [encode(hostile), encode(mark)])

    with pytest.raises(CheckpointLoadError):
        await manager.load_checkpoint(f"{run_id}:{length + 1}")
    with pytest.raises(CheckpointLoadError):
        await manager.load_checkpoint(run_id)
    after = state(turns=3)
    try:
        checkpoint_id = await StateManager(store).save_checkpoint(after)
    except CheckpointLoadError:
        return
    loaded = await manager.load_checkpoint(checkpoint_id)  # nothing of it is left
    assert loaded.conversation_history == after.conversation_history
    assert loaded.memory_contents == {}


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b'{"seq":0}', b"[" * 5_000, b'{"seq":1e999}']
)
async def test_a_stored_entry_that_is_none_is_refused(body: bytes) -> None:
    store = MemoryCheckpointStore()
    manager = StateManager(store)
    bad = StoredEntry(seq=0, type="run_started", version=1, body=body)
    await store.append("bad", [bad])

    with pytest.raises(CheckpointLoadError):
        await manager.load_checkpoint("bad")


async def test_a_log_without_a_start_holds_no_state(
    manager: StateManager, store: CheckpointStore
) -> None:
    await store.append("odd", [encode(RunEnded(seq=0, at=1.0, status="failed"))])

    with pytest.raises(CheckpointLoadError, match="without a start"):
        await manager.load_checkpoint("odd")


async def test_a_list_says_what_there_is_newest_first(manager: StateManager) -> None:
    await manager.save_checkpoint(state("other"), "elsewhere")
    ids = [
        await manager.save_checkpoint(
            state(step_number=turn, status="paused"), f"turn {turn}", {"turn": turn}
        )
        for turn in range(3)
    ]

    found = await manager.list("agent")

    assert [each.id for each in found] == ids[::-1]
    newest = found[0]
    assert isinstance(newest, CheckpointInfo)
    assert newest.run_id == ids[0].partition(":")[0]
    assert newest.agent_id == "agent"
    assert newest.description == "turn 2"
    assert newest.metadata == {"turn": 2}
    assert newest.step_number == 2
    assert newest.status == "paused"
    assert found[0].created_at >= found[1].created_at >= found[2].created_at
    assert [each.id for each in await manager.list("agent", limit=2)] == ids[:0:-1]
    assert len(await manager.list()) == 4
    assert await manager.list("agent", limit=0) == []


async def test_a_list_leaves_out_a_damaged_log_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = StateManager(MemoryCheckpointStore())
    good = await manager.save_checkpoint(state())
    bad = StoredEntry(seq=0, type="run_started", version=1, body=b'{"agent_id":"agent"}')
    await manager.storage.append("bad", [bad])

    assert [each.id for each in await manager.list()] == [good]
    assert "bad" in caplog.text


async def test_a_fork_goes_its_own_way(manager: StateManager) -> None:
    made = state(turns=2)
    ids = [await manager.save_checkpoint(made)]
    made.conversation_history.append("mine")
    ids.append(await manager.save_checkpoint(made))

    forked = await manager.fork_from_checkpoint(ids[0], "other")
    forked.conversation_history.append("theirs")
    theirs = await manager.save_checkpoint(forked)

    assert forked.agent_id == "other"
    assert theirs.partition(":")[0] == forked.run_id
    loaded = await manager.load_checkpoint(theirs)
    assert loaded.agent_id == "other"
    assert loaded.conversation_history == [*state(turns=2).conversation_history, "theirs"]
    assert (await manager.load_checkpoint(ids[1])).conversation_history[-1] == "mine"
    latest = await manager.resume_from_latest("other")
    assert latest is not None
    assert latest.conversation_history == loaded.conversation_history
    assert [each.id for each in await manager.list("other")] == [theirs]


async def test_a_fork_copies_nothing(store: CheckpointStore, manager: StateManager) -> None:
    checkpoint_id = await manager.save_checkpoint(state(turns=300))

    forked = await manager.fork_from_checkpoint(checkpoint_id)
    forked.conversation_history.append("one more")
    await manager.save_checkpoint(forked)

    own = (await store.read(forked.run_id))[int(checkpoint_id.partition(":")[2]) + 1 :]
    assert own[0].type == Forked.type
    assert sum(len(each.body) for each in own) < 1_000


async def test_a_fork_of_the_same_agent_is_found_as_its_latest(
    manager: StateManager,
) -> None:
    first = await manager.save_checkpoint(state(step_number=1))
    await manager.save_checkpoint(state(step_number=2))

    forked = await manager.fork_from_checkpoint(first)

    latest = await manager.resume_from_latest("agent")
    assert latest is not None
    assert (latest.run_id, latest.step_number) == (forked.run_id, 1)


async def test_a_state_of_somebody_elses_fork_is_saved_with_its_own_agent(
    manager: StateManager,
) -> None:
    forked = await manager.fork_from_checkpoint(
        await manager.save_checkpoint(state("one")), "two"
    )

    checkpoint_id = await manager.save_checkpoint(state("three", run_id=forked.run_id))

    assert checkpoint_id.partition(":")[0] != forked.run_id
    assert (await manager.load_checkpoint(checkpoint_id)).agent_id == "three"


async def test_going_back_leaves_the_old_state_and_goes_on_from_there(
    manager: StateManager,
) -> None:
    ids = [await manager.save_checkpoint(state(turns=turn)) for turn in (1, 2, 3)]

    back = await manager.rewind(ids[0])
    made = state(turns=1)
    made.conversation_history.append("another way")
    later = await manager.save_checkpoint(made)

    assert back.checkpoint_id == ids[0]
    assert (await manager.load_checkpoint(later)).conversation_history[1:] == [
        "another way"
    ]
    assert [each.id for each in await manager.list("agent")] == [later, ids[0]]
    undone = await manager.load_checkpoint(ids[2])
    assert undone.conversation_history == state(turns=3).conversation_history


async def test_no_run_is_left_over_that_waits_to_be_carried_out(
    manager: StateManager, store: CheckpointStore
) -> None:
    first = await manager.save_checkpoint(state())
    await manager.save_checkpoint(state(turns=2))
    await manager.fork_from_checkpoint(first, "other")
    await manager.rewind(first)

    assert await store.runs(status="running") == []
    assert [each.owner for each in await store.runs()] == ["", ""]


async def test_a_deleted_checkpoint_is_gone_and_the_others_are_not(
    manager: StateManager,
) -> None:
    ids = [await manager.save_checkpoint(state(turns=turn)) for turn in (1, 2, 3)]

    await manager.delete(ids[2])
    await manager.delete(ids[0])

    assert [each.id for each in await manager.list("agent")] == [ids[1]]
    for gone in (ids[0], ids[2]):
        with pytest.raises(CheckpointLoadError, match="was deleted"):
            await manager.load_checkpoint(gone)
        with pytest.raises(CheckpointLoadError, match="was deleted"):
            await manager.fork_from_checkpoint(gone)
        with pytest.raises(CheckpointLoadError, match="was deleted"):
            await manager.delete(gone)
    latest = await manager.resume_from_latest("agent")
    assert latest is not None
    assert latest.checkpoint_id == ids[1]
    assert len(latest.conversation_history) == 2


async def test_the_id_of_a_log_stands_for_the_last_checkpoint_that_is_left(
    manager: StateManager,
) -> None:
    ids = [await manager.save_checkpoint(state(turns=turn)) for turn in (1, 2)]
    run_id = ids[0].partition(":")[0]
    await manager.delete(ids[1])

    loaded = await manager.load_checkpoint(run_id)
    forked = await manager.fork_from_checkpoint(run_id, "other")
    await manager.delete(ids[0])

    assert loaded.checkpoint_id == ids[0]
    assert len(forked.conversation_history) == 1
    assert len((await manager.load_checkpoint(forked.run_id)).conversation_history) == 1
    with pytest.raises(CheckpointLoadError, match="no checkpoint any more"):
        await manager.load_checkpoint(run_id)


async def test_a_note_about_a_checkpoint_that_there_cannot_be_hides_nothing(
    manager: StateManager, store: CheckpointStore
) -> None:
    checkpoint_id = await manager.save_checkpoint(state())
    run_id = checkpoint_id.partition(":")[0]
    values: list[dict[str, Any]] = [{}, {"seq": []}, {"seq": {}}, {"seq": "3"}, {"seq": 99}]
    length = len(await store.read(run_id))
    for seq, data in enumerate(values, start=length):
        odd = Noted(seq=seq, at=1.0, source="state", kind="checkpoint_deleted", data=data)
        await store.append(run_id, [encode(odd)])

    assert (await manager.load_checkpoint(checkpoint_id)).checkpoint_id == checkpoint_id


async def test_a_state_that_was_loaded_is_saved_under_a_description_of_its_own(
    manager: StateManager,
) -> None:
    loaded = await manager.load_checkpoint(await manager.save_checkpoint(state(), "old"))

    again = await manager.load_checkpoint(await manager.save_checkpoint(loaded))

    assert again.description == ""


async def test_the_latest_of_many_runs_is_found_without_asking_for_all(
    manager: StateManager, store: CheckpointStore
) -> None:
    for number in range(40):
        started = RunStarted(
            seq=0,
            at=float(number),
            run_id=f"run{number}",
            agent_id="busy",
            parent_id="",
            trace_id="",
            session_id="",
            inputs={},
            messages=(),
        )
        ended = RunEnded(seq=1, at=float(number), status="completed")
        await store.append(f"run{number}", [encode(started), encode(ended)])

    latest = await manager.resume_from_latest("busy")

    assert latest is not None
    assert latest.run_id == "run39"
    assert len(await manager.list("busy", limit=1_000)) == 40


async def test_a_deleted_checkpoint_stays_so_after_going_back(
    manager: StateManager,
) -> None:
    ids = [await manager.save_checkpoint(state(turns=turn)) for turn in (1, 2)]
    await manager.delete(ids[0])

    await manager.rewind(ids[1])

    with pytest.raises(CheckpointLoadError, match="was deleted"):
        await manager.load_checkpoint(ids[0])


async def test_an_agent_whose_every_checkpoint_was_deleted_has_no_state(
    manager: StateManager,
) -> None:
    await manager.delete(await manager.save_checkpoint(state()))

    assert await manager.resume_from_latest("agent") is None
    assert await manager.list("agent") == []
    after = await manager.save_checkpoint(state(turns=4))
    assert len((await manager.load_checkpoint(after)).conversation_history) == 4


async def test_deleting_the_log_of_a_fork_or_of_what_was_forked_spares_the_other(
    manager: StateManager,
) -> None:
    checkpoint_id = await manager.save_checkpoint(state(turns=3))
    forked = await manager.fork_from_checkpoint(checkpoint_id, "other")

    await manager.delete(checkpoint_id.partition(":")[0])

    with pytest.raises(CheckpointLoadError):
        await manager.load_checkpoint(checkpoint_id)
    loaded = await manager.load_checkpoint(forked.run_id)
    assert loaded.conversation_history == state(turns=3).conversation_history


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize(
    "deleting",
    [lambda manager: manager, lambda manager: StateManager(manager.storage)],
    ids=["by_itself", "by_another"],
)
async def test_a_state_is_saved_also_after_its_log_was_deleted(
    manager: StateManager,
    deleting: Callable[[StateManager], StateManager],
    shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaizen_state._by_hand.PATIENCE_S", 0.1)
    first = await manager.save_checkpoint(state(turns=3))
    if shared:
        await manager.fork_from_checkpoint(first, "other")
    await deleting(manager).delete(first.partition(":")[0])

    again = await manager.save_checkpoint(state(turns=3))

    loaded = await manager.load_checkpoint(again)
    assert loaded.conversation_history == state(turns=3).conversation_history


async def test_of_states_made_by_hand_the_newest_are_kept(store: CheckpointStore) -> None:
    manager = StateManager(store, retention_count=3)
    ids = [
        await manager.save_checkpoint(state(turns=turn, step_number=turn))
        for turn in range(10)
    ]

    found = await manager.list("agent")

    assert [each.id for each in found] == ids[:-4:-1]
    loaded = [(await manager.load_checkpoint(each.id)).step_number for each in found]
    assert loaded == [9, 8, 7]
    with pytest.raises(CheckpointLoadError):
        await manager.load_checkpoint(ids[0])
    assert len(await store.runs()) == 2
    again = StateManager(store, retention_count=3)
    await again.save_checkpoint(state(turns=10))
    assert len(await store.runs()) == 2


async def test_a_list_of_a_fork_shows_it_when_its_agent_keeps_few(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=2)
    forked = await manager.fork_from_checkpoint(await manager.save_checkpoint(state()), "b")
    for turn in range(3):
        forked.step_number = turn
        await manager.save_checkpoint(forked)

    steps = [each.step_number for each in await manager.list("b")]

    assert steps[:2] == [2, 1]
    latest = await manager.resume_from_latest("b")
    assert latest is not None
    assert latest.step_number == 2


async def test_a_log_that_somebody_else_writes_is_waited_for_and_then_refused(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaizen_state._by_hand.PATIENCE_S", 0.05)
    manager = StateManager(store)
    first = await manager.save_checkpoint(state())
    run_id = first.partition(":")[0]
    await store.claim(run_id, owner=new_owner(), lease_s=60)

    with pytest.raises(CheckpointSaveError, match="is carried out by"):
        await manager.save_checkpoint(state(turns=2))
    with pytest.raises(CheckpointSaveError, match="is carried out by"):
        await manager.rewind(first)
    with pytest.raises(CheckpointSaveError, match="is carried out by"):
        await manager.delete(run_id)


async def test_a_save_that_is_cancelled_is_whole_and_lets_go(
    manager: StateManager, store: CheckpointStore
) -> None:
    await manager.save_checkpoint(state())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await manager.save_checkpoint(state(turns=2))

    third = await manager.save_checkpoint(state(turns=3))

    assert len(await manager.list("agent")) in (2, 3)
    assert [each.owner for each in await store.runs()] == [""]
    loaded = await manager.load_checkpoint(third)
    assert loaded.conversation_history == state(turns=3).conversation_history


async def test_a_storage_that_does_not_answer_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(MemoryCheckpointStore):
        async def append(self, *_: Any, **__: Any) -> None:
            await anyio.sleep_forever()

    monkeypatch.setattr("kaizen_state._by_hand.STORAGE_TIMEOUT_S", 0.05)

    with anyio.fail_after(10), pytest.raises(CheckpointSaveError, match="did not answer"):
        await StateManager(Silent()).save_checkpoint(state())


class Watcher:
    """Sees every snapshot, and puts something into each."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, CheckpointEvent]] = []

    @hookimpl
    async def pre_checkpoint_save(self, event: CheckpointEvent) -> None:
        event.metadata["seen"] = True
        self.seen.append(("pre", event))

    @hookimpl
    def post_checkpoint_save(self, event: CheckpointEvent) -> None:
        self.seen.append(("post", event))

    @hookimpl
    async def wrap_checkpoint_save(
        self, request: CheckpointRequest, call_next: CheckpointSave
    ) -> Checkpoint:
        return await call_next(
            CheckpointRequest(
                run_id=request.run_id,
                agent_id=request.agent_id,
                description=f"{request.description}!",
                metadata={**request.metadata, "by": "watcher"},
            )
        )


async def test_hooks_see_a_state_that_is_saved_by_hand(store: CheckpointStore) -> None:
    hooks, watcher = HookManager(), Watcher()
    hooks.add(watcher)
    told: list[HookContext] = []
    hooks.register(HookEvent.POST_CHECKPOINT_SAVE, told.append)
    manager = StateManager(store, hook_manager=hooks)

    checkpoint_id = await manager.save_checkpoint(state(), "made", {"key": 1})

    (first, before), (last, after) = watcher.seen
    assert (first, last) == ("pre", "post")
    assert (before.agent_id, before.run_id) == ("agent", "")
    assert after.metadata == {"seen": True, "status": "ok"} | after.metadata
    assert after.result is not None
    assert after.result.id == checkpoint_id
    assert after.duration_ms is not None
    assert [each.event_type for each in told] == [HookEvent.POST_CHECKPOINT_SAVE]
    (info,) = await manager.list("agent")
    assert info.description == "made!"
    assert info.metadata == {"key": 1, "by": "watcher"}


async def test_an_observer_that_fails_is_reported_and_the_state_is_saved(
    store: CheckpointStore,
) -> None:
    class Broken:
        @hookimpl
        async def pre_checkpoint_save(self) -> None:
            raise ValueError("no")

        @hookimpl
        async def post_checkpoint_save(self, event: CheckpointEvent) -> None:
            await anyio.sleep_forever()

    hooks = HookManager(timeout_s=0.01)
    hooks.add(Broken())

    checkpoint_id = await StateManager(store, hook_manager=hooks).save_checkpoint(state())

    assert checkpoint_id
    assert len(hooks.problems) == 2


async def test_a_gate_that_refuses_stops_the_save(store: CheckpointStore) -> None:
    class Gate:
        @hookimpl
        def wrap_checkpoint_save(self) -> Checkpoint:
            raise PermissionError("no snapshots")

    hooks, watcher = HookManager(), Watcher()
    hooks.add(Gate())
    hooks.add(watcher)

    with pytest.raises(PermissionError):
        await StateManager(store, hook_manager=hooks).save_checkpoint(state())

    assert isinstance(watcher.seen[-1][1].error, PermissionError)
    assert await store.runs() == []


async def test_middleware_that_returns_nothing_is_an_error(store: CheckpointStore) -> None:
    class Forgetful:
        @hookimpl
        async def wrap_checkpoint_save(
            self, call_next: CheckpointSave, request: CheckpointRequest
        ) -> None:
            await call_next(request)

    hooks = HookManager()
    hooks.add(Forgetful())

    with pytest.raises(Exception, match="instead of 'Checkpoint'"):
        await StateManager(store, hook_manager=hooks).save_checkpoint(state())


async def test_create_checkpoint_saves_the_latest_state_anew(manager: StateManager) -> None:
    await manager.save_checkpoint(state(turns=3), "first")

    checkpoint_id = await manager.create_checkpoint("agent", "Before something risky")

    loaded = await manager.restore_checkpoint(checkpoint_id)
    assert loaded.description == "Before something risky"
    assert loaded.conversation_history == state(turns=3).conversation_history
    assert len(await manager.list("agent")) == 2


async def test_create_checkpoint_of_an_agent_that_did_nothing_yet_is_empty(
    manager: StateManager,
) -> None:
    checkpoint_id = await manager.create_checkpoint("new", "Before the first run")

    loaded = await manager.restore_checkpoint(checkpoint_id)

    assert loaded.agent_id == "new"
    assert loaded.conversation_history == []


async def test_save_state_does_the_same_as_save_checkpoint(manager: StateManager) -> None:
    checkpoint_id = await manager.save_state(state(turns=2, description="why"))

    loaded = await manager.load_checkpoint(checkpoint_id)

    assert loaded.conversation_history == state(turns=2).conversation_history
    assert loaded.description == "why"


@pytest.mark.parametrize(
    "name",
    ["checkpoint_frequency", "checkpoint_interval", "retention_count", "ttl_seconds"],
)
def test_a_number_that_is_not_above_zero_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        StateManager(MemoryCheckpointStore(), **dict[str, Any]({name: 0}))


async def test_a_log_that_only_bears_such_a_name_is_not_written(
    manager: StateManager, store: CheckpointStore
) -> None:
    run_id = (await manager.save_checkpoint(state())).partition(":")[0]
    await manager.delete(run_id)
    started = RunStarted(
        seq=0,
        at=1.0,
        run_id=run_id,
        agent_id="agent",
        parent_id="",
        trace_id="",
        session_id="",
        inputs={},
        messages=(),
    )
    await store.append(run_id, [encode(started)])

    with pytest.raises(CheckpointSaveError, match="no states made by hand"):
        await StateManager(store).save_checkpoint(state())
