"""What a store in one file does beyond what every store has to."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import kaizen_sqlite._runs
import pytest
from kaizen import StoredEntry
from kaizen._bounded import stepped
from kaizen.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointSaveError,
    StorageUnavailableError,
)
from kaizen.runlog import RunEnded, encode
from kaizen_sqlite import SqliteStorage
from kaizen_sqlite._schema import SCRIPTS, open_writer

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parent / "golden"


def entries(start: int, count: int) -> list[StoredEntry]:
    return [
        StoredEntry(
            seq=seq, type="noted", version=1, body=json.dumps({"seq": seq}).encode()
        )
        for seq in range(start, start + count)
    ]


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as somebody has it who knows SQLite and not this store."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def count(path: Path, table: str) -> int:
    with by_hand(path) as connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(rows)


def content(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def files(folder: Path) -> dict[str, int]:
    """The files of a folder, and what may be done with each."""
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


def threads() -> set[threading.Thread]:
    return {
        each for each in threading.enumerate() if not each.name.startswith("AnyIO worker")
    }


@asynccontextmanager
async def no_thread_left() -> AsyncGenerator[None]:
    before = threads()
    yield
    assert threads() <= before


# Opening and closing


async def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.db"
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 1))
        made = files(path.parent)

    assert made == dict.fromkeys(("runs.db", "runs.db-wal", "runs.db-shm"), 0o600)
    assert files(tmp_path) == {"new": 0o700}


async def test_a_store_opens_when_it_is_first_used(path: Path) -> None:
    store = SqliteStorage(path)
    assert not files(path.parent)

    await store.append("run", entries(0, 1))
    assert list(await store.read("run")) == entries(0, 1)

    await store.aclose()


async def test_what_was_written_is_there_when_the_file_is_opened_again(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 2))
        token = await store.claim("run", owner="a", lease_s=60)
        await store.send("run", b"hello")

    async with SqliteStorage(path) as store:
        assert list(await store.read("run")) == entries(0, 2)
        assert [(each.run_id, each.owner) for each in await store.runs()] == [("run", "a")]
        assert await store.claim("run", owner="a", lease_s=60) == token
        assert list(await store.receive(["run"])) == [("run", b"hello")]


async def test_no_thread_and_no_other_file_is_left_of_a_closed_store(path: Path) -> None:
    async with (
        no_thread_left(),
        SqliteStorage(path) as store,
        anyio.create_task_group() as tasks,
    ):
        for number in range(20):
            tasks.start_soon(store.append, f"run{number}", entries(0, 1))
            tasks.start_soon(store.runs)

    assert list(files(path.parent)) == ["runs.db"]


async def test_a_closed_store_is_used_no_more(path: Path) -> None:
    async with no_thread_left():
        async with SqliteStorage(path) as store:
            await store.append("run", entries(0, 1))
        await store.aclose()

        for use in (store.read("run"), store.append("run", entries(1, 1)), store.runs()):
            with pytest.raises(StorageUnavailableError, match="is closed"):
                await use
        with pytest.raises(StorageUnavailableError, match="is closed"):
            await store.__aenter__()


async def test_a_store_that_is_closed_while_it_works_finishes_its_work(path: Path) -> None:
    store = SqliteStorage(path)
    written: list[int] = []

    async def write(number: int) -> None:
        try:
            await store.append(f"run{number}", entries(0, 1))
        except StorageUnavailableError:
            return
        written.append(number)

    async with no_thread_left():
        await store.runs()
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(write, number)
            await anyio.lowlevel.checkpoint()
            await store.aclose()

    async with SqliteStorage(path) as again:
        kept = {each.run_id for each in await again.runs()}
    assert kept == {f"run{number}" for number in written}


async def test_no_thread_is_left_of_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path  # a folder
    async with no_thread_left():
        for _ in range(3):
            with pytest.raises(StorageUnavailableError, match="is not a file"):
                await SqliteStorage(path).runs()
        with pytest.raises(StorageUnavailableError, match="is not a file"):
            await SqliteStorage(path).__aenter__()


async def test_a_folder_that_cannot_be_made_is_told(path: Path) -> None:
    write(path, b"")
    with pytest.raises(StorageUnavailableError, match="is a file, not a folder"):
        await SqliteStorage(path / "runs.db").runs()


@pytest.mark.parametrize("way", ["by anyio", "by asyncio"])
async def test_no_thread_is_left_if_the_opening_is_cancelled_anywhere(
    path: Path, way: str
) -> None:
    for point in range(1, 100):
        store = SqliteStorage(path)
        async with no_thread_left():
            waits = await cancelled(store.runs, point, way)
            await store.aclose()
        if waits < point:
            break
    assert 2 < point < 99


@pytest.mark.parametrize("way", ["by anyio", "by asyncio"])
async def test_no_thread_is_left_if_the_closing_is_cancelled_anywhere(
    path: Path, way: str
) -> None:
    for point in range(1, 100):
        async with no_thread_left():
            store = SqliteStorage(path)
            await store.runs()
            waits = await cancelled(store.aclose, point, way)
        if waits < point:
            break
    assert 1 < point < 99


async def test_who_waits_to_read_while_a_store_is_closed_is_told(path: Path) -> None:
    store = SqliteStorage(path)
    outcomes: list[str] = []

    async def read() -> None:
        try:
            await store.runs()
        except StorageUnavailableError as error:
            outcomes.append(error.problem)
        else:
            outcomes.append("")

    async with no_thread_left():
        await store.runs()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(read)
            await anyio.lowlevel.checkpoint()
            await store.aclose()

    assert len(outcomes) == 20
    assert set(outcomes) <= {"", "is closed"}


async def test_another_event_loop_is_refused_with_a_way_out(path: Path) -> None:
    async def use() -> None:
        with pytest.raises(StorageUnavailableError, match=r'"filesystem"'):
            await SqliteStorage(path).append("run", entries(0, 1))
        with pytest.raises(StorageUnavailableError, match=r'"filesystem"'):
            async with SqliteStorage(path):
                pass

    await anyio.to_thread.run_sync(lambda: anyio.run(use, backend="trio"))
    assert not files(path.parent)


async def test_an_open_store_is_refused_there_as_well(store: SqliteStorage) -> None:
    await store.append("run", entries(0, 1))

    async def use() -> None:
        with pytest.raises(StorageUnavailableError, match=r'"filesystem"'):
            await store.append("run", entries(1, 1))

    await anyio.to_thread.run_sync(lambda: anyio.run(use, backend="trio"))
    assert list(await store.read("run")) == entries(0, 1)


def by_one_loop_after_another(path: Path) -> list[StoredEntry]:
    store = SqliteStorage(path)
    for seq in range(3):
        anyio.run(partial(store.append, "run", entries(seq, 1)))
    kept = list(anyio.run(store.read, "run"))
    anyio.run(store.aclose)
    return kept


async def test_a_store_may_go_from_one_event_loop_to_the_next(path: Path) -> None:
    async with no_thread_left():
        kept = await anyio.to_thread.run_sync(by_one_loop_after_another, path)
    assert kept == entries(0, 3)


async def test_many_who_read_at_once_share_a_few_connections(path: Path) -> None:
    before = threads()
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 10))
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(store.read, "run")
        assert 2 <= len(threads() - before) <= 5


# Files that are not ours


async def test_a_file_that_is_no_database_stays_as_it_was(path: Path) -> None:
    write(path, b"what I wrote this summer\n" * 100)
    await refused_untouched(path, "is not an SQLite database")


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_the_database_of_another_program_stays_as_it_was(
    path: Path, mode: str
) -> None:
    with by_hand(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE recipe (title)")
    await refused_untouched(path, "is the database of another program")


async def test_a_newer_file_stays_as_it_was(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 1))
    with by_hand(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(SCRIPTS) + 1}")
    await refused_untouched(path, "Update Kaizen")


async def test_a_file_that_would_do_something_by_itself_is_refused(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 1))
    with by_hand(path) as connection:
        connection.execute(
            "CREATE TRIGGER more AFTER INSERT ON entry BEGIN DELETE FROM claim; END"
        )
    await refused_untouched(path, "other tables")


async def refused_untouched(path: Path, problem: str) -> None:
    before = content(path)
    async with no_thread_left():
        with pytest.raises(StorageUnavailableError, match=problem) as caught:
            await SqliteStorage(path).append("run", entries(0, 1))
    assert str(path) in str(caught.value)
    assert content(path) == before
    assert list(files(path.parent)) == [path.name]


@pytest.mark.parametrize(
    "version", sorted(GOLDEN.glob("*.sql")), ids=lambda file: file.stem
)
async def test_a_file_of_each_version_is_read_as_it_was_written(
    path: Path, version: Path
) -> None:
    with by_hand(path) as connection:
        connection.executescript(content(version).decode())

    async with SqliteStorage(path) as store:
        records = list(await store.runs())
        seqs = {
            each.run_id: [e.seq for e in await store.read(each.run_id)] for each in records
        }
        token = await store.claim("third", owner="b", lease_s=60)
        new = await store.claim("gone", owner="c", lease_s=60)
        taken = list(await store.receive(["third"]))

    assert [
        (each.run_id, each.agent_id, each.status, each.forked_from) for each in records
    ] == [
        ("third", "bob", "running", None),
        ("second", "alice", "running", ("first", 2)),
        ("first", "alice", "completed", None),
    ]
    assert seqs == {"third": [0], "second": [0, 1, 2], "first": [0, 1, 2]}
    assert (token, new, taken) == (2, 2, [("third", b"hello")])


async def test_an_older_file_is_brought_up_to_date_and_keeps_what_it_has(
    path: Path,
) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 1))
    newer = (
        *SCRIPTS,
        "CREATE TABLE more (one INTEGER) STRICT;\nINSERT INTO more VALUES (1);\n",
    )

    open_writer(path, sqlite3.Connection, timeout_s=1, scripts=newer).close()

    with by_hand(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
    assert count(path, "more") == count(path, "entry") == 1


@pytest.mark.parametrize("version", ["version1", "version2"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run SET length = length + 1 WHERE run_id = 'third'",
        """INSERT INTO run (log, run_id, agent_id, parent_id, status, length, updated_at,
        updated) VALUES (4, 'fourth', 'alice', '', 'running', 0, 9.0, 9)""",
        "DELETE FROM message",
    ],
    ids=["update", "insert", "delete"],
)
async def test_an_older_release_that_has_the_file_open_damages_no_run_of_it(
    path: Path, version: str, statement: str
) -> None:
    with by_hand(path) as older:
        older.executescript(content(GOLDEN / f"{version}.sql").decode())
        older.execute("INSERT INTO log (id, first) VALUES (4, 0)")
        older.execute("BEGIN")
        older.execute(statement)
        older.execute("ROLLBACK")

        async with SqliteStorage(path) as store:
            before = list(await store.runs())
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                older.execute(statement)

            assert list(await store.runs()) == before
            assert "damaged" not in {each.status for each in before}


async def test_a_file_that_a_newer_release_brought_up_to_date_is_used_no_more(
    path: Path,
) -> None:
    newer = (*SCRIPTS, "CREATE TABLE more (one INTEGER) STRICT;\n")
    async with SqliteStorage(path) as store:
        token = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", entries(0, 1), token=token)
        await store.send("run", b"hello")
        await store.read("run")
        open_writer(path, sqlite3.Connection, timeout_s=1, scripts=newer).close()
        with by_hand(path) as connection:
            before = list(connection.iterdump())

        for use in (
            store.append("run", entries(1, 1), token=token),
            store.fork("run", length=1, new_run_id="branch"),
            store.claim("run", owner="a", lease_s=60),
            store.delete("run"),
            store.send("run", b"hello"),
            store.receive(["run"]),
            store.read("run"),
            store.runs(),
        ):
            with pytest.raises(StorageUnavailableError, match="by now") as caught:
                await use
            assert str(path) in str(caught.value)

        with by_hand(path) as connection:
            assert list(connection.iterdump()) == before


async def test_an_update_that_fails_leaves_the_older_file(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 1))
    broken = (
        *SCRIPTS,
        "CREATE TABLE more (one INTEGER) STRICT;\nINSERT INTO less VALUES (1)",
    )

    with pytest.raises(sqlite3.OperationalError, match="less"):
        open_writer(path, sqlite3.Connection, timeout_s=1, scripts=broken)

    async with SqliteStorage(path) as store:
        assert list(await store.read("run")) == entries(0, 1)
    with pytest.raises(sqlite3.OperationalError, match="more"):
        count(path, "more")


async def test_what_is_acknowledged_is_on_the_disk(path: Path) -> None:
    with closing(open_writer(path, sqlite3.Connection, timeout_s=1)) as connection:
        said: list[str] = []
        connection.set_trace_callback(said.append)
        kaizen_sqlite._runs.claim(connection, "run", "a", 60)
        kaizen_sqlite._runs.append(connection, "run", entries(0, 1), 1)
        connection.set_trace_callback(None)

        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert [each for each in said if "synchronous" in each or each == "COMMIT"] == [
            "PRAGMA synchronous = NORMAL",  # a claim
            "COMMIT",
            "PRAGMA synchronous = FULL",
            "COMMIT",  # the entry, and the claim before it
        ]


async def test_a_position_is_taken_once_by_the_database_itself(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 1))
    with by_hand(path) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO entry SELECT * FROM entry")


# Forks


async def test_a_fork_copies_no_entry(store: SqliteStorage, path: Path) -> None:
    await store.append("run", entries(0, 500))
    for number in range(20):
        await store.fork("run", length=500, new_run_id=f"branch{number}")
    assert count(path, "entry") == 500


async def test_a_chain_of_a_thousand_forks_is_read_and_let_go(
    store: SqliteStorage, path: Path
) -> None:
    await store.append("run0", entries(0, 1))
    for number in range(1, 1_001):
        await store.fork(f"run{number - 1}", length=number, new_run_id=f"run{number}")
        await store.append(f"run{number}", entries(number, 1))

    assert list(await store.read("run1000")) == entries(0, 1_001)
    assert list(await store.read("run1000", start=3, limit=4)) == entries(3, 4)
    await store.fork("run1000", length=1, new_run_id="early")
    assert list(await store.read("early")) == entries(0, 1)
    await store.delete("early")
    for number in range(1_000):
        await store.delete(f"run{number}")
    assert list(await store.read("run1000")) == entries(0, 1_001)
    await store.delete("run1000")
    tables = ("record", "log", "entry", "described")
    assert [count(path, each) for each in tables] == [0] * 4


async def test_of_a_deleted_run_its_forks_keep_what_they_share_and_no_more(
    store: SqliteStorage, path: Path
) -> None:
    await store.append("run", entries(0, 100))
    await store.fork("run", length=60, new_run_id="long")
    await store.fork("run", length=30, new_run_id="short")

    left = []
    for run_id in ("run", "long", "short"):
        await store.delete(run_id)
        left.append(count(path, "entry"))

    assert left == [60, 30, 0]


async def test_a_fork_is_as_far_as_what_it_shares(store: SqliteStorage) -> None:
    ended = encode(RunEnded(seq=2, at=0.0, status="failed"))
    await store.append("run", [*entries(0, 2), ended, *entries(3, 1)])
    for length in range(5):
        await store.fork("run", length=length, new_run_id=f"branch{length}")
    await store.fork("branch4", length=2, new_run_id="again")

    statuses = {each.run_id: each.status for each in await store.runs()}

    assert statuses == {
        "run": "failed",
        "branch0": "running",
        "branch1": "running",
        "branch2": "running",
        "branch3": "failed",
        "branch4": "failed",
        "again": "running",
    }


# Lists, claims and messages


async def test_the_order_of_runs_is_not_that_of_the_clock(
    store: SqliteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, now in enumerate([3e9, 2e9, 1e9, 1e9]):
        monkeypatch.setattr(kaizen_sqlite._runs, "time", lambda now=now: now)
        await store.append(f"run{number}", entries(0, 1))
    await store.append("run1", entries(1, 1))
    await store.append("run1", entries(2, 1))
    await store.delete("run3")

    listed = [(each.run_id, each.updated_at) for each in await store.runs()]

    assert listed == [("run1", 1e9), ("run2", 1e9), ("run0", 3e9)]


async def test_the_token_of_a_deleted_run_does_not_come_again(store: SqliteStorage) -> None:
    await store.claim("run", owner="a", lease_s=0)
    old = await store.claim("run", owner="b", lease_s=0)
    await store.delete("run")

    new = await store.claim("run", owner="c", lease_s=60)

    assert new > old
    with pytest.raises(CheckpointSaveError):
        await store.append("run", entries(0, 1), token=old)


async def test_a_thousand_messages_wait_and_no_more(store: SqliteStorage) -> None:
    for number in range(1_000):
        await store.send("run", str(number).encode())
    with pytest.raises(CheckpointSaveError, match="one too many"):
        await store.send("run", b"1000")
    await store.send("other", b"hello")

    taken = await store.receive(["other", "run"])

    assert [int(text) for _, text in taken[:-1]] == list(range(1_000))
    assert taken[-1] == ("other", b"hello")


async def test_to_look_for_messages_keeps_nobody_from_writing(
    store: SqliteStorage, path: Path
) -> None:
    await store.append("run", entries(0, 1))
    with by_hand(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(2):
            assert list(await store.receive(["run", "nobody"])) == []
            assert list(await store.receive([])) == []
            assert list(await store.read("run")) == entries(0, 1)
            assert len(await store.runs()) == 1
            async with SqliteStorage(path) as another:
                assert list(await another.read("run")) == entries(0, 1)


@pytest.mark.parametrize(
    "odd",
    [
        StoredEntry(seq=0, type="noted", version=2**63, body=b"{}"),
        StoredEntry(seq=0, type="\ud800", version=1, body=b"{}"),
        StoredEntry(seq=0, type="noted", version=1, body="text"),  # type: ignore[arg-type]
        StoredEntry(seq=0, type=None, version=1, body=b"{}"),  # type: ignore[arg-type]
    ],
)
async def test_what_a_database_cannot_hold_is_refused_whole(
    store: SqliteStorage, odd: StoredEntry
) -> None:
    with pytest.raises(CheckpointSaveError):
        await store.append("run", [odd])
    assert list(await store.runs()) == []
    await store.append("run", entries(0, 1))


# Trouble


async def test_a_store_that_is_locked_for_too_long_says_so_and_works_again(
    path: Path,
) -> None:
    async with SqliteStorage(path, timeout_s=0.05) as store:
        await store.append("run", entries(0, 1))
        with by_hand(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for use in (store.append("run", entries(1, 1)), store.delete("run")):
                with pytest.raises(StorageUnavailableError, match="timeout_s"):
                    await use
        await store.append("run", entries(1, 1))
        assert list(await store.read("run")) == entries(0, 2)


@pytest.mark.parametrize(
    ("trouble", "relief", "told"),
    [
        ("PRAGMA max_page_count = 30", "PRAGMA max_page_count = 10000", "Make room"),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "cannot be written"),
    ],
    ids=["full", "read-only"],
)
async def test_where_nothing_can_be_written_nothing_is_lost(
    store: SqliteStorage, trouble: str, relief: str, told: str
) -> None:
    await store.append("run", entries(0, 1))
    await store._connections.write(lambda db: db.execute(trouble).fetchall())
    acknowledged = 1

    async def append_on() -> None:
        nonlocal acknowledged
        while True:
            await store.append("run", entries(acknowledged, 1))
            acknowledged += 1

    with pytest.raises(StorageUnavailableError, match=told):
        await append_on()

    assert list(await store.read("run")) == entries(0, acknowledged)
    await store._connections.write(lambda db: db.execute(relief).fetchall())
    await store.append("run", entries(acknowledged, 1))
    assert list(await store.read("run")) == entries(0, acknowledged + 1)


async def test_a_changed_bit_in_an_entry_is_told_with_its_place(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 3))
        await store.fork("run", length=2, new_run_id="branch")
    flip(path, content(path).index(b'{"seq": 1}') + 8)

    async with SqliteStorage(path) as store:
        for run_id in ("run", "branch"):
            with pytest.raises(CheckpointLoadError, match=f"entry 1 of run '{run_id}'"):
                await store.read(run_id)
        assert list(await store.read("run", start=2)) == entries(2, 1)


async def test_an_entry_that_is_gone_is_told_with_its_place(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 4))
    for seq, first in ((3, 3), (1, 1)):
        with by_hand(path) as connection:
            connection.execute("DELETE FROM entry WHERE seq = ?", (seq,))
        async with SqliteStorage(path) as store:
            with pytest.raises(CheckpointLoadError, match=f"entry {first} of run 'run'"):
                await store.read("run")


@pytest.mark.parametrize(
    "change",
    [
        "length = 1",
        "length = 4",
        "status = 'completed'",
        "agent_id = 'mallory'",
        "parent_id = 'mallory'",
        "updated_at = 0.0",
        "forked_from = 'mallory', forked_length = 1",
        "checksum = checksum + 1",
    ],
)
async def test_a_changed_row_of_a_run_is_told_by_whoever_would_go_by_it(
    path: Path, change: str
) -> None:
    async with SqliteStorage(path) as store:
        token = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", entries(0, 3), token=token)
        await store.append("other", entries(0, 1))
    with by_hand(path) as connection:
        connection.execute(f"UPDATE record SET {change} WHERE run_id = 'run'")

    async with SqliteStorage(path) as store:
        for use in (
            store.read("run"),
            store.read("run", limit=1),
            store.append("run", entries(1, 1), token=token),
            store.append("run", entries(3, 1), token=token),
            store.claim("run", owner="a", lease_s=60),
            store.fork("run", length=1, new_run_id="branch"),
        ):
            with pytest.raises(CheckpointLoadError, match="run 'run' is damaged"):
                await use
        records = {each.run_id: each.status for each in await store.runs()}
        assert records == {"run": "damaged", "other": "running"}
        await store.claim("run", owner="a", lease_s=0)
        await store.delete("run")
        assert [each.run_id for each in await store.runs()] == ["other"]


async def test_a_damaged_run_is_found_among_those_that_are_damaged(path: Path) -> None:
    async with SqliteStorage(path) as store:
        for run_id in ("run", "other"):
            await store.append(run_id, entries(0, 1))
    with by_hand(path) as connection:
        connection.execute("UPDATE record SET status = 'lost' WHERE run_id = 'run'")

    async with SqliteStorage(path) as store:
        listed = {
            status: [each.run_id for each in await store.runs(status=status)]
            for status in ("damaged", "lost", "running")
        }

    assert listed == {"damaged": ["run"], "lost": [], "running": ["other"]}


async def test_whatever_bit_of_the_row_of_a_run_is_flipped_it_is_as_it_was_or_damaged(
    path: Path,
) -> None:
    async with SqliteStorage(path) as store:
        await store.append("the-run", entries(0, 9))
        (before,) = await store.runs()
    whole = content(path)
    start = whole.rindex(b"the-runrunning") - 12
    told = 0

    for place, bit in product(range(start, start + 48), range(8)):
        write(path, whole)
        flip(path, place, bit)
        async with SqliteStorage(path) as store:
            with damage() as found:
                assert list(await store.read("the-run")) == entries(0, 9)
            told += len(found)
            with damage():
                (listed,) = await store.runs()
                assert listed == before or listed.status == "damaged"
            with damage() as found:
                await store.append("the-run", entries(9, 1))
            assert "UNIQUE" not in str(found)
    assert told > 48 * 4


@contextmanager
def damage() -> Iterator[list[CheckpointError]]:
    """What a store says of what is not as it was, if it says so."""
    told: list[CheckpointError] = []
    try:
        yield told
    except CheckpointError as error:
        told.append(error)


async def test_an_entry_behind_the_end_of_a_run_is_told_and_not_written_over(
    path: Path,
) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 2))
    with by_hand(path) as connection:
        connection.execute(
            "INSERT INTO entry SELECT log, 2, type, version, checksum, body FROM entry"
            " WHERE seq = 1"
        )

    async with SqliteStorage(path) as store:
        for use in (store.read("run"), store.append("run", entries(2, 1))):
            with pytest.raises(CheckpointLoadError, match="entry 2 stands behind its end"):
                await use


@pytest.mark.parametrize("lost", [1, 3])
async def test_nobody_goes_on_from_a_run_that_lacks_its_end(path: Path, lost: int) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 3))
    with by_hand(path) as connection:
        connection.execute("DELETE FROM entry WHERE seq >= ?", (3 - lost,))

    async with SqliteStorage(path) as store:
        for use in (
            store.append("run", entries(3, 1)),
            store.claim("run", owner="a", lease_s=60),
        ):
            with pytest.raises(CheckpointLoadError, match=f"entry {3 - lost} .* missing"):
                await use
        await store.fork("run", length=3 - lost, new_run_id="branch")
        assert list(await store.read("branch")) == entries(0, 3 - lost)


@pytest.mark.parametrize(
    "change",
    ["log SET first = 1", "log SET parent = NULL", "described SET status = 'failed'"],
)
async def test_a_changed_past_is_told_by_the_forks_that_share_it(
    path: Path, change: str
) -> None:
    started = encode(RunEnded(seq=0, at=0.0, status="completed"))
    async with SqliteStorage(path) as store:
        await store.append("run", [started, *entries(1, 2)])
        await store.fork("run", length=2, new_run_id="branch")
    with by_hand(path) as connection:
        connection.execute(f"UPDATE {change}")

    async with SqliteStorage(path) as store:
        with pytest.raises(CheckpointLoadError, match="run 'branch' is damaged"):
            await store.fork("branch", length=2, new_run_id="twig")


async def test_whatever_byte_is_changed_a_log_is_read_as_it_was_or_not_at_all(
    path: Path,
) -> None:
    async with SqliteStorage(path) as store:
        for start in range(0, 60, 3):
            await store.append("run", entries(start, 3))
        await store.fork("run", length=50, new_run_id="branch")
    whole = content(path)
    seen = {True: 0, False: 0}

    for place in range(0, len(whole), 89):
        write(path, whole)
        flip(path, place)
        try:
            async with SqliteStorage(path) as store:
                as_it_was = list(await store.read("branch")) == entries(0, 50)
        except CheckpointError:
            seen[False] += 1
        else:
            assert as_it_was, f"the byte at {place} was changed, and the log is another"
            seen[True] += 1
    assert all(seen.values())


async def test_a_file_that_is_malformed_is_told_with_the_run(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.append("run", entries(0, 500))
    with by_hand(path) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'entry'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)

    async with SqliteStorage(path) as store:
        with pytest.raises(CheckpointLoadError, match=r"run 'run' .*malformed"):
            await store.read("run")


def flip(path: Path, place: int, bit: int = 2) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


# Cancellation


async def cancelled(
    work: Callable[[], Awaitable[Any]], point: int, way: str = "by anyio"
) -> int:
    """Cancel work when it waits for the nth time; return how often it waited."""
    waits = 0

    async def run() -> None:
        task = asyncio.current_task()
        with anyio.CancelScope() as scope:

            def on_wait() -> None:
                nonlocal waits
                waits += 1
                if waits == point and way == "by anyio":
                    scope.cancel()
                elif waits >= point and way == "by asyncio":
                    assert task is not None
                    asyncio.get_running_loop().call_soon(task.cancel)

            await stepped(work(), on_wait)  # type: ignore[arg-type]

    await asyncio.wait([asyncio.ensure_future(run())])
    return waits


@pytest.mark.parametrize("way", ["by anyio", "by asyncio"])
async def test_a_cancelled_append_is_stored_or_not_and_has_ended(
    path: Path, way: str
) -> None:
    for point in range(1, 100):
        async with SqliteStorage(path) as store, SqliteStorage(path) as other:
            run_id = f"run{point}"
            await store.append(run_id, entries(0, 1))

            waits = await cancelled(
                partial(store.append, run_id, entries(1, 2)), point, way
            )

            kept = list(await other.read(run_id))
            assert kept in (entries(0, 1), entries(0, 3))
            await other.append(run_id, entries(len(kept), 1))  # nobody is in the way
            await store.append(run_id, entries(len(kept) + 1, 1))
        if waits < point:
            break
    assert 1 < point < 99


@pytest.mark.parametrize("way", ["by anyio", "by asyncio"])
async def test_who_is_cancelled_waits_for_the_write_that_is_under_way(
    store: SqliteStorage, path: Path, way: str
) -> None:
    await store.append("run", entries(0, 1))
    scope = anyio.CancelScope()

    async def append() -> None:
        with scope:
            await store.append("run", entries(1, 1))

    with by_hand(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        task = asyncio.ensure_future(append())
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
            if way == "by anyio":
                scope.cancel()
            else:
                task.cancel()
        assert not task.done()
        connection.execute("COMMIT")
    await asyncio.wait([task])

    assert list(await store.read("run")) == entries(0, 2)
    assert task.cancelled() == (way == "by asyncio")


async def test_a_message_is_not_lost_with_who_is_cancelled_while_taking_it(
    store: SqliteStorage,
) -> None:
    taken: list[tuple[str, bytes]] = []

    async def take() -> None:
        taken.extend(await store.receive(["run"]))

    for point in range(1, 100):
        taken.clear()
        await store.send("run", b"hello")
        waits = await cancelled(take, point)
        taken.extend(await store.receive(["run"]))
        assert taken == [("run", b"hello")]
        if waits < point:
            break
    assert 1 < point < 99


def test_a_file_that_another_process_makes_just_now_is_not_taken_for_foreign(
    path: Path,
) -> None:
    class Slow(sqlite3.Connection):
        """Looks at a file while somebody else makes it."""

        overtaken = False

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if sql == "PRAGMA user_version" and not Slow.overtaken:
                Slow.overtaken = True
                with suppress(sqlite3.OperationalError):  # it is locked, and has to wait
                    open_writer(path, sqlite3.Connection, timeout_s=0).close()
            return super().execute(sql, parameters)

    open_writer(path, Slow, timeout_s=1).close()
    open_writer(path, sqlite3.Connection, timeout_s=1).close()
    assert Slow.overtaken
