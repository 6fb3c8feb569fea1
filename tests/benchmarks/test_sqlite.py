"""What the store in one SQLite file adds to SQLite itself."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import anyio
import anyio.to_thread
from kaizen import StoredEntry
from kaizen_sqlite import SqliteStorage

from tests.benchmarks._measure import awaited, interleave, ratio
from tests.benchmarks._table import Row, Table

BODY = b'{"text": "%s"}' % (b"x" * 1_500)
PAUSE = b'{"text": "%s"}' % (b"x" * 10_000)
PAUSES = 100
TURNS = 2_000
ENTRIES_OF_A_TURN = 4
INSERT = "INSERT INTO entry VALUES (?, ?, ?, ?, ?)"


def entry(seq: int, body: bytes = BODY) -> StoredEntry:
    return StoredEntry(seq=seq, type="noted", version=1, body=body)


@asynccontextmanager
async def filled(path: Path, lengths: dict[str, int]) -> AsyncGenerator[SqliteStorage]:
    """A store with runs of some lengths."""
    async with SqliteStorage(path) as store:
        for run_id, length in lengths.items():
            await store.append(run_id, [entry(seq) for seq in range(length)])
        yield store


def bare(path: Path) -> sqlite3.Connection:
    """The least that keeps entries as durably, for whatever thread."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE entry (run_id TEXT, seq INTEGER, type TEXT, version INTEGER,"
        " body BLOB, PRIMARY KEY (run_id, seq)) STRICT"
    )
    return connection


def inserting(connection: sqlite3.Connection, run_id: str) -> Callable[[], None]:
    seqs = iter(range(10**9))

    def insert() -> None:
        connection.execute(INSERT, (run_id, next(seqs), "noted", 1, BODY))

    return insert


def appending(
    store: SqliteStorage, run_id: str, token: int
) -> Callable[[], Awaitable[None]]:
    seqs = iter(range(10**9))

    async def append() -> None:
        await store.append(run_id, [entry(next(seqs))], token=token)

    return append


def test_an_append(table: Table, tmp_path: Path) -> None:
    async def measure() -> dict[str, list[float]]:
        connection = bare(tmp_path / "bare.db")
        async with SqliteStorage(tmp_path / "runs.db") as store:
            token = await store.claim("run", owner="me", lease_s=3_600)
            here = inserting(connection, "here")
            there = inserting(connection, "there")

            async def insert_here() -> None:
                here()

            subjects = {
                "here": awaited(insert_here, perf_counter),
                "there": awaited(lambda: anyio.to_thread.run_sync(there), perf_counter),
                "store": awaited(appending(store, "run", token), perf_counter),
            }
            measured = await interleave(subjects, at_least_s=0.05)
        connection.close()
        return measured

    measured = anyio.run(measure)

    table.add(
        Row(
            what="sqlite: an append, to an INSERT of the same",
            measured=ratio(measured["store"], measured["there"]),
            form="{:.2f} ×",
            reach=1.5,
        ),
        Row(
            what="the same, to an INSERT that holds the event loop up",
            measured=ratio(measured["store"], measured["here"]),
            form="{:.2f} ×",
        ),
    )


def test_a_log_that_is_read(table: Table, tmp_path: Path) -> None:
    length = TURNS * ENTRIES_OF_A_TURN

    async def measure() -> dict[str, list[float]]:
        connection = bare(tmp_path / "bare.db")
        connection.execute("BEGIN")
        connection.executemany(
            INSERT, (("run", seq, "noted", 1, BODY) for seq in range(length))
        )
        connection.execute("COMMIT")

        async def select() -> None:
            rows = connection.execute(
                "SELECT * FROM entry WHERE run_id = 'run' ORDER BY seq"
            )
            assert len(rows.fetchall()) == length

        async with filled(tmp_path / "runs.db", {"run": length}) as store:

            async def read() -> None:
                assert len(await store.read("run")) == length

            subjects = {
                "bare": awaited(select, perf_counter),
                "store": awaited(read, perf_counter),
            }
            measured = await interleave(subjects, rounds=11)
        connection.close()
        return measured

    measured = anyio.run(measure)

    table.add(
        Row(
            what=f"sqlite: {TURNS:,} turns ({length:,} entries) read, to a SELECT",
            measured=ratio(measured["store"], measured["bare"]),
            form="{:.2f} ×",
        ),
        Row(
            what="of it, each turn",
            measured=min(measured["store"]) / TURNS * 1e6,
            form="{:.1f} µs",
        ),
    )


def test_a_fork(table: Table, tmp_path: Path) -> None:
    async def measure() -> dict[str, list[float]]:
        lengths = {"short": 10, "long": 10_000}
        async with filled(tmp_path / "runs.db", lengths) as store:

            def forking(run_id: str) -> Callable[[], Awaitable[None]]:
                numbers = iter(range(10**9))

                async def fork() -> None:
                    new = f"{run_id}-{next(numbers)}"
                    await store.fork(run_id, length=lengths[run_id], new_run_id=new)

                return fork

            subjects = {each: awaited(forking(each), perf_counter) for each in lengths}
            return await interleave(subjects, at_least_s=0.05)

    measured = anyio.run(measure)

    table.add(
        Row(
            what="sqlite: a fork after 10,000 entries, to one after 10",
            measured=ratio(measured["long"], measured["short"]),
            form="{:.2f} ×",
            reach=1.5,
        )
    )


def test_the_room_that_pauses_take(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"

    async def pause() -> None:
        async with SqliteStorage(path) as store:
            for seq in range(PAUSES):
                await store.append("run", [entry(seq, PAUSE)])

    anyio.run(pause)

    table.add(
        Row(
            what=f"sqlite: room for {PAUSES} pauses of 10 KB, to their bytes",
            measured=path.stat().st_size / (PAUSES * len(PAUSE)),
            form="{:.2f} ×",
            reach=1.3,
        )
    )
