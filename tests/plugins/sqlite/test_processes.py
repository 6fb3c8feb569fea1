"""Many processes use one file at once, and die while they do."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen import StoredEntry
from kaizen_sqlite import SqliteStorage

CHILDREN = Path(__file__).parent / "children.py"


@contextmanager
def child(what: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(CHILDREN), what, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def go_on(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def started_together(
    stack: ExitStack, count: int, what: str, *arguments: object
) -> list[subprocess.Popen[str]]:
    """Start processes, and let them go when all of them are ready."""
    processes = [stack.enter_context(child(what, *arguments)) for _ in range(count)]
    assert [said(each) for each in processes] == ["ready"] * count
    go_on(*processes)
    return processes


def done(what: str, *arguments: object) -> Any:
    """Return what a process said that ended by itself."""
    with child(what, *arguments) as process:
        answer = said(process)
        assert process.wait(timeout=50) == 0
    return answer


def sound(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        answer = connection.execute("PRAGMA integrity_check").fetchall()
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    connection.close()
    return answer == [("ok",)] and not broken


async def logs(path: Path) -> dict[str, list[StoredEntry]]:
    async with SqliteStorage(path) as store:
        records = await store.runs(limit=10_000)
        return {each.run_id: list(await store.read(each.run_id)) for each in records}


def test_of_processes_that_race_for_runs_one_gets_each(path: Path) -> None:
    with ExitStack() as stack:
        processes = started_together(stack, 5, "claim", path, 100)
        won = [said(each) for each in processes]
        go_on(*processes)

    runs = [run_id for each in won for run_id in each]
    assert sorted(runs) == sorted(f"run{number}" for number in range(100))


@pytest.mark.anyio
async def test_processes_that_append_to_one_run_share_its_positions_and_lose_none(
    path: Path,
) -> None:
    with ExitStack() as stack:
        processes = started_together(stack, 4, "append", path, "run", 25)
        async with SqliteStorage(path) as reader:
            while all(each.poll() is None for each in processes):
                if [each for each in await reader.runs() if each.run_id == "run"]:
                    seqs = [each.seq for each in await reader.read("run")]
                    assert seqs == list(range(len(seqs)))
        got = {pid: seqs for each in processes for pid, seqs in said(each).items()}

    kept = (await logs(path))["run"]
    writers = {str(seq): pid for pid, seqs in got.items() for seq in seqs}
    assert [json.loads(each.body)["text"] for each in kept] == [
        writers[str(seq)] for seq in range(100)
    ]


@pytest.mark.anyio
async def test_processes_that_append_to_different_runs_wait_for_each_other(
    path: Path,
) -> None:
    with ExitStack() as stack:
        names = [f"run{number}" for number in range(4)]
        processes = [stack.enter_context(child("append", path, each, 25)) for each in names]
        assert [said(each) for each in processes] == ["ready"] * 4
        go_on(*processes)  # also race for who makes the file
        for each in processes:
            assert list(said(each).values()) == [list(range(25))]

    assert {
        run_id: len(kept) for run_id, kept in (await logs(path)).items()
    } == dict.fromkeys(names, 25)
    assert sound(path)


@pytest.mark.anyio
async def test_each_message_is_given_to_one_of_the_processes_that_want_it(
    path: Path,
) -> None:
    sent = [str(number) for number in range(50)]
    with ExitStack() as stack:
        processes = started_together(stack, 2, "receive", path, "run")
        async with SqliteStorage(path) as store:
            for text in sent:
                await store.send("run", text.encode())
            for _ in processes:
                before = [each for each in processes if each.poll() is None]
                await store.send("run", b"last")
                while [each for each in processes if each.poll() is None] == before:
                    await store.receive(["nobody"])
        taken = [text for each in processes for text in said(each)]

    assert sorted(text for text in taken if text != "last") == sorted(sent)


@pytest.mark.anyio
async def test_what_was_acknowledged_survives_kills_at_any_moment(path: Path) -> None:
    acknowledged = done("kill_often", path, 50)

    kept = await logs(path)

    assert len(acknowledged) == 50
    for run_id, count in acknowledged.items():
        seqs = [each.seq for each in kept[run_id]]
        assert seqs == list(range(len(seqs)))
        assert count <= len(seqs) <= count + 1
    assert sound(path)


@pytest.mark.anyio
async def test_what_was_acknowledged_survives_a_kill_at_each_point_of_an_append(
    path: Path,
) -> None:
    acknowledged = done("kill_everywhere", path)

    kept = await logs(path)

    assert len(acknowledged) > 50, "too few points to be all of them"
    for run_id, count in acknowledged.items():
        assert len(kept[run_id]) in (1, 3)
        assert len(kept[run_id]) >= count
    assert {len(each) for each in kept.values()} == {1, 3}, "both sides of the commit"
    assert sound(path)


def test_a_program_that_forgets_to_close_a_store_ends(path: Path) -> None:
    assert done("forget", path) == "done"


@pytest.mark.anyio
async def test_a_full_disk_is_told_and_takes_nothing_that_was_there(path: Path) -> None:
    acknowledged, kept, told = done("fill", path)

    assert kept == acknowledged > 10
    assert str(path) in told
    assert "Make room" in told or "Check the disk" in told
    assert len((await logs(path))["run"]) == kept + 1


def test_a_file_that_may_only_be_read_is_told_and_stays_as_it_was() -> None:
    folder = Path(tempfile.mkdtemp())  # not below the test's own, which is closed to others
    path = folder / "runs.db"
    try:
        anyio.run(logs, path)
        path.chmod(0o444)
        folder.chmod(0o555)
        before = path.read_bytes()

        told = done("write_as_nobody", path)

        assert str(path) in told
        assert "Check who" in told or "Check that" in told
        assert path.read_bytes() == before
        assert list(folder.iterdir()) == [path]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
