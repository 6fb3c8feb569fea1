"""What a store leaves on the disk, in the process and to other users is what it must."""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from time import time, time_ns
from typing import Any

import anyio
import pytest
from kaizen import CheckpointStore, Kernel
from kaizen.errors import CheckpointError, CheckpointLoadError, StorageUnavailableError
from kaizen.ports import RunRecord, StoredEntry
from kaizen.runlog import Forked, Noted, Resumed, RunEnded, RunStarted, encode
from kaizen.testing import MemoryCheckpointStore
from kaizen_state import FilesystemStorage, StatePlugin, _files, _log, _runs, _work, _writer
from kaizen_state._plugin import StateSettings

pytestmark = pytest.mark.anyio

SEGMENT = "00000000.jsonl"
PORT: Any = CheckpointStore
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def noted(start: int, count: int, text: str = "") -> list[StoredEntry]:
    return [
        StoredEntry(
            seq=seq,
            type="noted",
            version=1,
            body=json.dumps({"seq": seq, "text": text}).encode(),
        )
        for seq in range(start, start + count)
    ]


def ended(seq: int) -> StoredEntry:
    return encode(RunEnded(seq=seq, at=0.0, status="completed"))


def open_files(below: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    found: list[str] = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = str(each.readlink())
        except OSError:
            continue
        if target.startswith(str(below)):
            found.append(target)
    return found


def threads() -> set[threading.Thread]:
    """Return the threads of stores, those of other tests included."""
    return {each for each in threading.enumerate() if each.name == "kaizen-state"}


def within(folder: Path, pattern: str = "*") -> list[Path]:
    return list(folder.rglob(pattern))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


@needs_proc
async def test_no_file_is_open_but_of_runs_that_are_held(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    assert not within(tmp_path)
    await store.append("run", noted(0, 1))
    await store.read("run")
    await store.runs()
    await store.fork("run", length=1, new_run_id="branch")
    await store.send("run", b"hello")
    await store.receive(["run"])
    assert open_files(tmp_path) == []

    token = await store.claim("run", owner="a", lease_s=60)
    await store.append("run", noted(1, 1), token=token)
    assert open_files(tmp_path)
    await store.claim("run", owner="a", lease_s=0)
    assert open_files(tmp_path) == []

    await store.claim("run", owner="a", lease_s=60)
    with pytest.raises(CheckpointError):
        await store.delete("run")
    await store.claim("run", owner="a", lease_s=0)
    await store.delete("run")
    assert open_files(tmp_path) == []


@needs_proc
async def test_closing_leaves_no_file_and_no_thread_and_the_store_usable(
    tmp_path: Path,
) -> None:
    before = threads()
    async with FilesystemStorage(tmp_path) as store:
        token = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", noted(0, 1), token=token)
        assert open_files(tmp_path)
    assert open_files(tmp_path) == []
    assert not threads() - before

    await store.append("run", noted(1, 1), token=token)
    assert list(await store.read("run")) == noted(0, 2)
    await store.aclose()
    await store.aclose()
    assert open_files(tmp_path) == []
    assert not threads() - before


async def test_a_thread_that_has_nothing_to_do_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_work, "IDLE_S", 0.01)
    before = threads()
    store = FilesystemStorage(tmp_path)
    await store.append("run", noted(0, 1))

    for each in threads() - before:
        each.join(timeout=30)
    assert not threads() - before
    await store.append("run", noted(1, 1))
    assert list(await store.read("run")) == noted(0, 2)
    await store.aclose()


@needs_proc
async def test_of_many_runs_that_are_held_the_files_of_few_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_runs, "MAX_OPEN", 4)
    async with FilesystemStorage(tmp_path) as store:
        tokens = [
            await store.claim(f"run{number}", owner="a", lease_s=60) for number in range(20)
        ]
        for seq in range(3):
            for number, token in enumerate(tokens):
                await store.append(f"run{number}", noted(seq, 1), token=token)
        assert len(open_files(tmp_path)) <= 3 * 4
        for number in range(20):
            assert list(await store.read(f"run{number}")) == noted(0, 3)


@posix
async def test_nobody_else_can_read_what_is_kept(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with FilesystemStorage(tmp_path / "a" / "runs") as store:
            token = await store.claim("run", owner="a", lease_s=60)
            await store.append("run", [*noted(0, 2), ended(2)], token=token)
            await store.claim("run", owner="a", lease_s=0)
            await store.fork("run", length=2, new_run_id="branch")
            await store.append("branch", noted(2, 1))
            await store.send("run", b"hello")
    finally:
        os.umask(before)

    modes = {
        path: path.stat().st_mode & 0o777
        for path in (tmp_path / "a", *(tmp_path / "a").rglob("*"))
    }
    assert len(modes) > 8
    for path, mode in modes.items():
        assert mode == (0o700 if path.is_dir() else 0o600), path


async def test_a_run_that_ended_is_packed_when_it_is_given_up(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    token = await store.claim("run", owner="a", lease_s=60)
    await store.append("run", [*noted(0, 2), ended(2)], token=token)
    assert (tmp_path / "run" / SEGMENT).exists()
    await store.claim("run", owner="a", lease_s=0)

    assert not (tmp_path / "run" / SEGMENT).exists()
    packed = tmp_path / "run" / f"{SEGMENT}.gz"
    lines = gzip.decompress(packed.read_bytes()).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [0, 1, 2]
    assert list(await store.read("run")) == [*noted(0, 2), ended(2)]
    (record,) = await store.runs()
    assert (record.status, record.length) == ("completed", 3)


async def test_a_run_that_has_not_ended_is_not_packed(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    token = await store.claim("run", owner="a", lease_s=60)
    await store.append("run", noted(0, 2), token=token)
    await store.claim("run", owner="a", lease_s=0)

    assert [each.name for each in (tmp_path / "run").glob("*.jsonl*")] == [SEGMENT]


async def test_every_line_is_json(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    await store.append("run", noted(0, 2))

    lines = (tmp_path / "run" / SEGMENT).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["body"] for line in lines] == [
        {"seq": 0, "text": ""},
        {"seq": 1, "text": ""},
    ]


@pytest.mark.parametrize("compress", [True, False])
async def test_a_long_log_has_many_segments_and_is_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    monkeypatch.setattr(_writer, "SEGMENT_BYTES", 1_000)
    store = FilesystemStorage(tmp_path, compress=compress)
    token = await store.claim("run", owner="a", lease_s=60)
    for seq in range(0, 40, 2):
        await store.append("run", noted(seq, 2), token=token)

    segments = sorted(each.name for each in (tmp_path / "run").glob("*.jsonl*"))
    assert len(segments) > 4
    assert all(name.endswith(".gz") is compress for name in segments[:-1])
    assert segments[-1].endswith(".jsonl")
    for start in range(42):
        found = await store.read("run", start=start, limit=7)
        assert list(found) == noted(0, 40)[start : start + 7]
    for length in (1, 13, 40):
        await store.fork("run", length=length, new_run_id=f"branch{length}")
        assert list(await store.read(f"branch{length}")) == noted(0, length)
    await store.append("run", [ended(40)], token=token)
    await store.claim("run", owner="a", lease_s=0)
    assert list(await store.read("run")) == [*noted(0, 40), ended(40)]
    await store.append("run", noted(41, 1))
    assert list(await store.read("run", start=39)) == [
        *noted(39, 1),
        ended(40),
        *noted(41, 1),
    ]


@pytest.mark.parametrize("now", [True, False])
@pytest.mark.parametrize("before", [True, False])
async def test_what_was_written_with_one_choice_is_read_with_the_other(
    tmp_path: Path, before: bool, now: bool
) -> None:
    async with FilesystemStorage(tmp_path, compress=before) as store:
        token = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", [*noted(0, 2), ended(2)], token=token)
        await store.claim("run", owner="a", lease_s=0)

    async with FilesystemStorage(tmp_path, compress=now) as store:
        assert list(await store.read("run")) == [*noted(0, 2), ended(2)]
        await store.fork("run", length=2, new_run_id="branch")
        token = await store.claim("run", owner="b", lease_s=60)
        resumed = encode(Resumed(seq=3, at=0.0, owner="b"))
        await store.append("run", [resumed], token=token)
        await store.append("run", [ended(4)], token=token)
        await store.claim("run", owner="b", lease_s=0)
        assert list(await store.read("run")) == [*noted(0, 2), ended(2), resumed, ended(4)]
        assert list(await store.read("branch")) == noted(0, 2)


async def test_the_space_of_a_past_is_free_when_the_last_who_shares_it_is_gone(
    tmp_path: Path,
) -> None:
    store = FilesystemStorage(tmp_path)
    await store.append("a", noted(0, 3, "x" * 10_000))
    await store.fork("a", length=3, new_run_id="b")
    await store.append("b", noted(3, 1, "x" * 10_000))
    await store.fork("b", length=4, new_run_id="c")
    await store.fork("b", length=2, new_run_id="d")

    for gone, left in (("a", 40_000), ("b", 40_000), ("c", 30_000), ("d", 0)):
        await store.delete(gone)
        kept = sum(each.stat().st_size for each in within(tmp_path, "*.jsonl"))
        assert left <= kept <= left * 1.1
        assert gone not in [each.run_id for each in await store.runs()]
        with pytest.raises(CheckpointLoadError, match="unknown"):
            await store.read(gone)
    assert {each.name for each in within(tmp_path)} == {".clock", ".trash"}


async def test_a_run_of_which_forks_need_the_past_cannot_be_begun_again(
    tmp_path: Path,
) -> None:
    store = FilesystemStorage(tmp_path)
    await store.append("run", noted(0, 2))
    await store.fork("run", length=2, new_run_id="branch")
    await store.delete("run")

    attempts: list[Callable[[], Any]] = [
        lambda: store.append("run", noted(0, 1)),
        lambda: store.claim("run", owner="a", lease_s=60),
        lambda: store.fork("branch", length=1, new_run_id="run"),
    ]
    for attempt in attempts:
        with pytest.raises(CheckpointError):
            await attempt()
    assert list(await store.read("branch")) == noted(0, 2)
    await store.delete("branch")
    await store.append("run", noted(0, 1))
    assert list(await store.read("run")) == noted(0, 1)


async def test_a_fork_of_nothing_belongs_to_nobody_whatever_else_is_listed(
    tmp_path: Path,
) -> None:
    store = FilesystemStorage(tmp_path)
    await store.append("run", [started("run", "alice"), *noted(1, 1)])
    await store.fork("run", length=0, new_run_id="empty")
    await store.append("empty", noted(0, 1))
    await store.fork("empty", length=1, new_run_id="twig")
    owners = {"empty": "", "twig": ""}
    assert await agents(store) == owners | {"run": "alice"}

    await store.fork("run", length=1, new_run_id="branch")  # is listed first

    assert await agents(store) == owners | {"run": "alice", "branch": "alice"}


async def agents(store: FilesystemStorage) -> dict[str, str]:
    """Return to whom each run belongs."""
    return {each.run_id: each.agent_id for each in await store.runs()}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_in_a_long_line_of_forks_each_is_looked_at_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, forks = FilesystemStorage(tmp_path), 40
    await store.append("run0", [started("run0", "alice")])
    for seq in range(1, forks):
        await store.fork(f"run{seq - 1}", length=seq, new_run_id=f"run{seq}")
        await store.append(f"run{seq}", noted(seq, 1))
    looks: list[str] = []

    class Counted(_log.Log):
        def __init__(self, folder: _files.Folder, run_id: str) -> None:
            looks.append(run_id)
            super().__init__(folder, run_id)

    monkeypatch.setattr(_runs, "Log", Counted)

    assert len(await store.runs(agent_id="alice")) == forks
    assert len(looks) < 4 * forks


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("seed", range(6))
async def test_records_are_what_the_entries_make_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(_writer, "SEGMENT_BYTES", 2_000)
    random = Random(seed)
    store, model = FilesystemStorage(tmp_path), MemoryCheckpointStore()
    lengths: dict[str, int] = {}
    written: set[str] = set()
    for step in range(60):
        run_id = random.choice(["a", "b", "c", *lengths])
        if run_id in lengths and random.random() < 0.3:
            length, new = random.randint(0, lengths[run_id]), f"fork{step}"
            for each in (store, model):
                await each.fork(run_id, length=length, new_run_id=new)
            lengths[new] = length
            continue
        is_new = run_id not in written
        written.add(run_id)
        entries = some_entries(random, run_id, lengths.get(run_id, 0), is_new=is_new)
        for each in (store, model):
            token = await each.claim(run_id, owner="a", lease_s=60)
            await each.append(run_id, entries, token=token)
            await each.claim(run_id, owner="a", lease_s=0)
        lengths[run_id] = entries[-1].seq + 1

    assert plain(await store.runs()) == plain(await model.runs())
    for run_id in lengths:
        assert list(await store.read(run_id)) == list(await model.read(run_id))
    for status in ("running", "completed"):
        assert plain(await store.runs(status=status)) == plain(
            await model.runs(status=status)
        )


def some_entries(
    random: Random, run_id: str, seq: int, *, is_new: bool
) -> list[StoredEntry]:
    """Return an append as a run may make it, most often a short one."""
    if not seq:
        return [started(run_id, random.choice(["alice", "bob"]))]
    kinds: list[Callable[[int], StoredEntry]] = [
        lambda at: encode(Noted(seq=at, at=0.0, source="x", kind="y")),
        lambda at: encode(Resumed(seq=at, at=0.0, owner="a")),
        ended,
    ]
    found = [random.choice(kinds)(seq + place) for place in range(random.randint(1, 4))]
    if run_id.startswith("fork") and is_new and random.random() < 0.7:
        forked = Forked(seq=seq, at=0.0, run_id=run_id, agent_id="", parent_run_id="a")
        agent_id = random.choice(["", f"agent of {run_id}"])
        parent_id = random.choice(["", "another"])
        found[0] = encode(replace(forked, agent_id=agent_id, parent_id=parent_id))
    return found


def started(run_id: str, agent_id: str) -> StoredEntry:
    return encode(
        RunStarted(
            seq=0,
            at=0.0,
            run_id=run_id,
            agent_id=agent_id,
            parent_id="parent",
            trace_id=run_id,
            session_id="",
            inputs={},
            messages=(),
        )
    )


def plain(records: Sequence[RunRecord]) -> list[RunRecord]:
    return [replace(each, updated_at=0.0) for each in records]


async def test_the_last_updated_comes_first_though_the_clock_jumps_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumped = 3_600 * 10**9
    async with FilesystemStorage(tmp_path) as store:
        await store.append("first", noted(0, 1))
        monkeypatch.setattr(_runs, "time_ns", lambda: time_ns() - jumped)
        await store.append("second", noted(0, 1))
        await store.append("first", noted(1, 1))
        await store.append("third", noted(0, 1))
    async with FilesystemStorage(tmp_path) as other:
        await other.append("second", noted(1, 1))
        listed = [each.run_id for each in await other.runs()]

    assert listed == ["second", "third", "first"]


async def test_a_long_log_is_listed_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FilesystemStorage(tmp_path)
    await store.append("plain", [started("plain", "alice")])
    for start in range(1, 201, 10):
        await store.append("plain", noted(start, 10, "x" * 5_000))
    token = await store.claim("packed", owner="a", lease_s=60)
    entries = [started("packed", "bob"), *noted(1, 200, "x" * 5_000), ended(201)]
    await store.append("packed", entries, token=token)
    await store.claim("packed", owner="a", lease_s=0)
    read: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            if name != "pread":
                return getattr(os, name)

            def pread(fd: int, size: int, at: int) -> bytes:
                data = os.pread(fd, size, at)
                read.append(len(data))
                return data

            return pread

    for module in (_files, _log):
        monkeypatch.setattr(module, "os", Counting())

    records = await store.runs()

    assert [(each.run_id, each.agent_id, each.length) for each in records] == [
        ("packed", "bob", 202),
        ("plain", "alice", 201),
    ]
    assert sum(read) < 250_000


async def test_the_path_is_that_from_which_the_store_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = FilesystemStorage("./checkpoints")
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.append("run", noted(0, 1))

    assert store.base_dir == tmp_path / "checkpoints"
    assert (tmp_path / "checkpoints" / "run" / SEGMENT).exists()


async def test_a_store_that_does_not_exist_has_no_runs_and_is_not_made(
    tmp_path: Path,
) -> None:
    store = FilesystemStorage(tmp_path / "runs")

    assert list(await store.runs()) == []
    assert list(await store.receive(["run"])) == []
    await store.delete("run")
    with pytest.raises(CheckpointLoadError, match="unknown"):
        await store.read("run")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("inside", ["", "deeper/still"])
async def test_a_file_in_the_place_of_the_folder_is_named(
    tmp_path: Path, inside: str
) -> None:
    (tmp_path / "runs").write_bytes(b"")
    store = FilesystemStorage(tmp_path / "runs" / inside)

    attempts: list[Callable[[], Any]] = [
        lambda: store.append("run", noted(0, 1)),
        lambda: store.claim("run", owner="a", lease_s=60),
        lambda: store.read("run"),
        store.runs,
        lambda: store.send("run", b""),
        lambda: store.receive(["run"]),
        lambda: store.delete("run"),
        lambda: store.fork("run", length=1, new_run_id="branch"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageUnavailableError) as caught:
            await attempt()
        told = f"{str(tmp_path / 'runs')!r} is a file, not a folder"
        assert told in str(caught.value)
        assert "Move what is in its place" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which cannot be written")
async def test_a_folder_that_cannot_be_written_is_named() -> None:
    store = FilesystemStorage("/proc/self/runs")

    with pytest.raises(StorageUnavailableError, match="/proc/self/runs"):
        await store.append("run", noted(0, 1))


async def test_who_is_cancelled_leaves_nothing_half_done(tmp_path: Path) -> None:
    async with FilesystemStorage(tmp_path) as store:
        token = await store.claim("run", owner="a", lease_s=60)
        for seq in range(0, 40, 2):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await store.append("run", noted(seq, 2), token=token)
            length = len(await store.read("run")) if seq else 0
            assert length in (seq, seq + 2)
            if length == seq:
                await store.append("run", noted(seq, 2), token=token)
        assert list(await store.read("run")) == noted(0, 40)


async def test_a_slow_disk_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, let_go = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        slow.set()
        assert let_go.wait(timeout=30)

    store = FilesystemStorage(tmp_path)
    await store.append("run", noted(0, 1))
    monkeypatch.setattr(_writer, "sync", wait)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.append, "run", noted(1, 1))
        with anyio.fail_after(30):
            while not slow.is_set():
                await anyio.lowlevel.checkpoint()
            assert list(await store.read("run"))  # while the disk is at it
        tasks.cancel_scope.cancel()
        let_go.set()
    monkeypatch.undo()

    assert list(await store.read("run")) == noted(0, 2)
    await store.append("run", noted(2, 1))
    await store.aclose()
    assert list(await store.read("run")) == noted(0, 3)


async def test_many_runs_at_once_are_all_written(tmp_path: Path) -> None:
    async def write(number: int) -> None:
        token = await store.claim(f"run{number}", owner="a", lease_s=60)
        for seq in range(5):
            await store.append(f"run{number}", noted(seq, 1), token=token)
        await store.claim(f"run{number}", owner="a", lease_s=0)

    async with FilesystemStorage(tmp_path) as store:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(write, number)
        assert len(await store.runs(limit=1_000)) == 100
        for number in range(100):
            assert list(await store.read(f"run{number}")) == noted(0, 5)


@needs_proc
async def test_who_is_refused_leaves_no_file_open(tmp_path: Path) -> None:
    async with FilesystemStorage(tmp_path) as store, FilesystemStorage(tmp_path) as other:
        old = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", noted(0, 1), token=old)
        (tmp_path / "run" / "claim").write_bytes(bytes(2048))
        new = await other.claim("run", owner="b", lease_s=60)
        await other.claim("run", owner="b", lease_s=0)
        await other.claim("run", owner="c", lease_s=0)
        assert new == old  # the history of the claim is lost, but not that of the last one

        with pytest.raises(CheckpointError):
            await store.append("run", noted(1, 1), token=old)
        assert open_files(tmp_path) == []


async def test_what_else_lies_in_the_folder_is_no_run(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    await store.append("run", noted(0, 1))
    (tmp_path / "README.txt").write_text("Do not delete!", encoding="utf-8")
    (tmp_path / "empty").mkdir()

    assert [each.run_id for each in await store.runs()] == ["run"]


async def test_a_name_that_is_too_long_to_keep_is_refused(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)

    with pytest.raises(CheckpointError, match="too long a name"):
        await store.claim("run", owner="x" * 2_000, lease_s=60)
    assert await store.claim("run", owner="x" * 500, lease_s=60) == 1
    await store.aclose()


async def test_updates_have_a_time_that_people_know(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    await store.append("run", noted(0, 1))

    (record,) = await store.runs()
    assert abs(record.updated_at - time()) < 60


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_plugin_offers_the_store_where_the_settings_say(tmp_path: Path) -> None:
    async with Kernel(
        plugins=[StatePlugin(StateSettings(path=tmp_path / "runs", compress=False))],
        discover=False,
        config_file=False,
        environ={},
    ) as kernel:
        store = await kernel.get(PORT, "filesystem")
        await store.append("run", noted(0, 1))

    assert (tmp_path / "runs" / "run" / SEGMENT).exists()


@posix
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_by_default_runs_are_kept_with_the_data_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, place in (
        ("", tmp_path / ".local" / "share"),
        ("not/absolute", tmp_path / ".local" / "share"),
        (str(tmp_path / "data"), tmp_path / "data"),
    ):
        monkeypatch.setenv("XDG_DATA_HOME", value)
        async with Kernel(
            plugins=[StatePlugin(StateSettings())],
            discover=False,
            config_file=False,
            environ={},
        ) as kernel:
            store = await kernel.get(PORT, "filesystem")
        assert isinstance(store, FilesystemStorage)
        assert store.base_dir == place / "kaizen" / "runs"
        assert not store.base_dir.exists()
