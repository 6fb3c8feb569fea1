"""Logs of states made by hand: whoever saves, in whatever order, nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen import (
    CheckpointLoadError,
    CheckpointSaveError,
    CheckpointStore,
    RunRecord,
    StoredEntry,
)
from kaizen.runlog import Noted, RunEnded, RunStarted, encode
from kaizen.testing import MemoryCheckpointStore
from kaizen_state import AgentState, FilesystemStorage, StateManager

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "files"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[CheckpointStore]:
    if request.param == "memory":
        yield MemoryCheckpointStore()
        return
    async with FilesystemStorage(tmp_path / "runs") as files:
        yield files


async def save(manager: StateManager, number: int, agent_id: str = "agent") -> str:
    made = AgentState(agent_id=agent_id, step_number=number)
    return await manager.save_checkpoint(made, str(number))


async def listed(manager: StateManager, agent_id: str = "agent") -> list[str]:
    return [each.description for each in await manager.list(agent_id)]


@pytest.mark.parametrize(
    "turns",
    ["ABBBAB", "ABBBBBBBAAA", "AABBBABABB", "ABABABABAB", "AAABBBAAABBB"],
)
async def test_of_two_managers_in_any_order_the_newest_states_stay(
    store: CheckpointStore, turns: str
) -> None:
    managers = {name: StateManager(store, retention_count=2) for name in "AB"}

    ids = [await save(managers[name], number) for number, name in enumerate(turns, start=1)]

    count = len(turns)
    for manager in managers.values():
        assert await listed(manager) == [str(count), str(count - 1)]
        latest = await manager.resume_from_latest("agent")
        assert latest is not None
        assert latest.step_number == count
        await manager.prune()
        assert await listed(manager) == [str(count), str(count - 1)]
    for number, checkpoint_id in list(enumerate(ids, start=1))[-2:]:
        loaded = await managers["A"].load_checkpoint(checkpoint_id)
        assert loaded.step_number == number
    assert len(await store.runs()) <= 3


async def test_managers_that_save_at_once_begin_each_log_once(
    store: CheckpointStore,
) -> None:
    managers = [StateManager(store, retention_count=2) for _ in range(4)]
    ids: list[str] = []

    async def save_some(manager: StateManager) -> None:
        for number in range(5):
            ids.extend([await save(manager, number)])

    async with anyio.create_task_group() as tasks:
        for each in managers:
            tasks.start_soon(save_some, each)

    assert len(set(ids)) == 20
    places = [each.partition(":")[0].split("_")[2] for each in ids]
    assert sorted(map(int, places)) == [place for place in range(10) for _ in range(2)]
    newest = [each.id for each in await managers[0].list("agent")]
    assert set(newest) == set(sorted(ids, key=lambda each: int(each.split("_")[2]))[-2:])


async def test_a_manager_that_keeps_fewer_does_not_end_what_another_still_needs(
    store: CheckpointStore,
) -> None:
    few, many = StateManager(store, retention_count=1), StateManager(store)
    await save(few, 1)
    await save(many, 2)
    await save(many, 3)
    assert await listed(many) == ["3", "2", "1"]


async def test_the_place_where_the_next_log_is_begun_leaves_nothing_behind(
    store: CheckpointStore, tmp_path: Path
) -> None:
    manager = StateManager(store, retention_count=1)
    for number in range(3):
        await save(manager, number)

    runs = {each.run_id for each in await store.runs()}
    folder = tmp_path / "runs"
    if folder.exists():
        assert {each.name for each in folder.iterdir() if each.name[0] != "."} == runs


async def test_the_id_of_a_deleted_state_never_names_another(
    store: CheckpointStore,
) -> None:
    for _ in range(3):
        manager = StateManager(store)
        first = await save(manager, 1)
        await manager.delete(first.partition(":")[0])
        second = await save(manager, 99)
        await manager.delete(second.partition(":")[0])

        assert first != second
        with pytest.raises(CheckpointLoadError):
            await manager.load_checkpoint(first)


async def test_a_log_named_as_in_earlier_days_is_gone_on_with(
    store: CheckpointStore,
) -> None:
    run_id = (await save(StateManager(store), 1)).partition(":")[0]
    old = run_id.rpartition("_")[0]
    await store.fork(run_id, length=len(await store.read(run_id)), new_run_id=old)
    await store.delete(run_id)

    second = await save(StateManager(store), 2)

    assert second.partition(":")[0] == old


@pytest.mark.parametrize("part", ["memory_contents", "metadata"])
@pytest.mark.parametrize("name", [7, ("a",), None, 1.5, "\ud800"])
async def test_a_name_that_is_no_text_is_refused_and_spoils_nothing(
    store: CheckpointStore, part: str, name: Any
) -> None:
    manager = StateManager(store)
    made = AgentState(agent_id="agent")
    setattr(made, part, {"good": 1, "1": "text"})
    good = await manager.save_checkpoint(made)
    getattr(made, part)[name] = "odd"

    with pytest.raises(CheckpointSaveError):
        await manager.save_checkpoint(made)

    del getattr(made, part)[name]
    again = await manager.save_checkpoint(made)
    for reader in (manager, StateManager(store)):
        for checkpoint_id in (good, again):
            loaded = await reader.load_checkpoint(checkpoint_id)
            assert getattr(loaded, part) == {"good": 1, "1": "text"}


async def test_states_are_saved_beside_a_log_that_is_damaged(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = (await save(StateManager(store), 1)).partition(":")[0]
    length = len(await store.read(run_id))
    odd = Noted(seq=length, at=1.0, source="state", kind="agent_state", data={"format": 9})
    await store.append(run_id, [encode(odd)])

    saved = await save(StateManager(store), 2)

    assert saved.partition(":")[0] != run_id
    assert (await StateManager(store).load_checkpoint(saved)).step_number == 2
    assert f"states are saved beside run {run_id}" in caplog.text


def ended_run(run_id: str, agent_id: str) -> list[StoredEntry]:
    started = RunStarted(
        seq=0,
        at=1.0,
        run_id=run_id,
        agent_id=agent_id,
        parent_id="",
        trace_id="",
        session_id="",
        inputs={},
        messages=(),
    )
    return [encode(started), encode(RunEnded(seq=1, at=2.0, status="completed"))]


async def test_forks_of_states_go_for_their_own_states_and_not_for_runs(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=2)
    base = await save(manager, 0)
    old = await manager.fork_from_checkpoint(base, "other")
    forked = await manager.fork_from_checkpoint(base, "other")
    mine = [await manager.save_checkpoint(forked, str(number)) for number in range(2)]
    for number in range(4):
        await store.append(f"run{number}", ended_run(f"run{number}", "other"))

    dropped = await manager.prune()

    assert set(dropped) == {"run0", "run1", old.run_id}
    for each in mine:
        assert (await manager.load_checkpoint(each)).agent_id == "other"


async def test_a_list_goes_by_what_was_saved_last_and_by_no_clock(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = StateManager(store, retention_count=2)
    for number in range(5):
        monkeypatch.setattr("kaizen_state._by_hand.time", lambda at=1e9 - number: at)
        await save(manager, number)

    assert [each.description for each in await manager.list("agent", limit=1)] == ["4"]
    assert await listed(manager) == ["4", "3"]
    latest = await manager.resume_from_latest("agent")
    assert latest is not None
    assert latest.step_number == 4


async def test_that_a_state_was_deleted_moves_its_log_to_no_other_place(
    store: CheckpointStore,
) -> None:
    manager = StateManager(store, retention_count=2)
    ids = [await save(manager, number) for number in range(3)]

    await manager.delete(ids[0])

    assert await listed(manager) == ["2", "1"]


async def test_a_run_of_nobody_known_is_told_of_when_an_agent_is_looked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Damaged(MemoryCheckpointStore):
        async def runs(
            self, *, agent_id: str | None = None, **options: Any
        ) -> Sequence[RunRecord]:
            found = await super().runs(**options)
            lost = [
                replace(each, agent_id="") if each.run_id == "lost" else each
                for each in found
            ]
            return [each for each in lost if agent_id in (None, each.agent_id)]

    manager = StateManager(Damaged())
    await save(manager, 1)
    await manager.storage.append("lost", ended_run("lost", "agent"))

    latest = await manager.resume_from_latest("agent")

    assert latest is not None
    assert latest.step_number == 1
    assert "run lost is damaged, so that nobody can tell" in caplog.text
    caplog.clear()
    await manager.list("agent")
    assert "run lost is damaged" in caplog.text


@pytest.mark.parametrize("storage", ["./checkpoints", Path(), FilesystemStorage, None])
def test_what_is_no_store_is_refused_with_the_way_to_make_one(storage: Any) -> None:
    with pytest.raises(TypeError, match=r"such as FilesystemStorage\('./checkpoints'\)"):
        StateManager(storage)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_frequency", "5"),
        ("checkpoint_frequency", 2.5),
        ("checkpoint_frequency", True),
        ("checkpoint_interval", "60"),
        ("checkpoint_interval", True),
        ("retention_count", 2.5),
        ("ttl_seconds", "5"),
    ],
)
def test_a_number_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} is a .*number above 0, or None"):
        StateManager(MemoryCheckpointStore(), **dict[str, Any]({name: value}))


@pytest.mark.parametrize("state", [{"agent_id": "agent"}, None, "agent"])
async def test_what_is_no_state_is_not_saved(state: Any) -> None:
    with pytest.raises(TypeError, match="AgentState"):
        await StateManager(MemoryCheckpointStore()).save_checkpoint(state)


async def test_what_is_no_id_says_where_the_id_stands() -> None:
    manager = StateManager(MemoryCheckpointStore())
    checkpoint_id = await save(manager, 1)
    (info,) = await manager.list("agent")
    state = await manager.load_checkpoint(checkpoint_id)
    wrong: list[tuple[Any, str]] = [
        (None, "the id of a checkpoint"),
        (7, "the id of a checkpoint"),
        (state, "its `checkpoint_id`"),
        (info, "its `id`"),
    ]
    for value, help_ in wrong:
        for ask in (
            manager.load_checkpoint,
            manager.restore_checkpoint,
            manager.fork_from_checkpoint,
            manager.rewind,
            manager.delete,
        ):
            with pytest.raises(TypeError, match=help_):
                await ask(value)
