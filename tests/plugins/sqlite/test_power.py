"""What is left of a file when the power fails while something is written to it.

Between two synchronisations a disk may have kept any of the sectors that were written, in
any order. Those of one append are kept and lost here in many ways.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from kaizen import StoredEntry
from kaizen_sqlite import SqliteStorage

SECTOR = 512
STATES = 100


def entries(start: int, count: int) -> list[StoredEntry]:
    return [
        StoredEntry(
            seq=seq,
            type="noted",
            version=1,
            body=json.dumps({"seq": seq, "text": "x" * 3_000}).encode(),
        )
        for seq in range(start, start + count)
    ]


def on_disk(path: Path) -> tuple[bytes, bytes]:
    """The file, and its write-ahead log."""
    return path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()


def put(path: Path, file: bytes, log: bytes) -> None:
    path.write_bytes(file)
    path.with_name(f"{path.name}-wal").write_bytes(log)


def torn(before: bytes, after: bytes) -> Iterator[bytes]:
    """What may be on the disk after a loss of power while one became the other."""
    places = range(0, len(after), SECTOR)
    fresh = [
        place
        for place in places
        if before[place : place + SECTOR] != after[place : place + SECTOR]
    ]
    chance = random.Random(len(after))
    for number in range(len(fresh) + STATES):
        if number < len(fresh):
            kept = set(fresh[:number])  # in the order in which they were written
        else:
            share = chance.random()
            kept = {place for place in fresh if chance.random() < share}
        size = max([len(before), *(place + SECTOR for place in kept)])
        state = bytearray(before.ljust(size, b"\0"))
        for place in kept:
            state[place : place + SECTOR] = after[place : place + SECTOR]
        yield bytes(state)
    yield after


@pytest.mark.anyio
@pytest.mark.parametrize("log", ["grows", "begins again"])
async def test_an_append_torn_by_a_loss_of_power_is_there_whole_or_not_at_all(
    path: Path, tmp_path: Path, log: str
) -> None:
    async with SqliteStorage(path) as store:
        for start in range(0, 20, 2):
            await store.append("run", entries(start, 2))
        if log == "begins again":
            await store._connections.write(
                lambda db: db.execute("PRAGMA wal_checkpoint").fetchall()
            )
        file, before = on_disk(path)
        await store.append("run", entries(20, 2))
        file_after, after = on_disk(path)
    assert file == file_after
    assert (len(after) == len(before)) == (log == "begins again")

    seen: dict[int, int] = {20: 0, 22: 0}
    broken = tmp_path / "broken.db"
    for state in torn(before, after):
        put(broken, file, state)
        async with SqliteStorage(broken) as store:
            kept = list(await store.read("run"))
            assert kept == entries(0, len(kept))
            seen[len(kept)] += 1
            await store.append("run", entries(len(kept), 1))

    assert all(seen.values())
