"""Checkpoints: their names, forks and going back, whatever comes in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from kaizen.checkpoints import fork, read_log, rewind, split_checkpoint_id
from kaizen.errors import (
    CheckpointLoadError,
    ClaimLostError,
    StorageUnavailableError,
    UnknownRunError,
)
from kaizen.ports import StoredEntry
from kaizen.runlog import Forked, Marked, Rewound, encode
from kaizen.testing import MemoryCheckpointStore


class Counting(MemoryCheckpointStore):
    """Counts what is read of it, and may stop whoever writes a run that is new.

    Attributes:
        reads: How many entries each call of `read` gave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.stop: Any = None

    async def read(
        self, run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        found = await super().read(run_id, start=start, limit=limit)
        self.reads.append(len(found))
        return found

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        if self.stop is not None and entries[-1].type == "forked":
            await self.stop()
        await super().append(run_id, entries, token=token)

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        token = await super().claim(run_id, owner=owner, lease_s=lease_s)
        if lease_s and self.stop is not None:
            await self.stop()
        return token


async def filled(store: MemoryCheckpointStore, length: int) -> None:
    marks = [Marked(seq=seq, at=0.0, mark_id=f"run:{seq}") for seq in range(length)]
    await store.append("run", [encode(each) for each in marks])


@pytest.mark.parametrize("wrong", [None, 7, b"run:1", ("run", 1), object()])
def test_what_is_no_text_names_no_checkpoint(wrong: Any) -> None:
    with pytest.raises(TypeError, match="give its `checkpoint_id`"):
        split_checkpoint_id(wrong)


@pytest.mark.parametrize(
    "wrong", ["", ":1", "run:", "run:x", "run:-1", "../run", "run:1:1"]
)
def test_a_text_that_is_no_id_is_refused(wrong: str) -> None:
    with pytest.raises(CheckpointLoadError, match="is none that there can be"):
        split_checkpoint_id(wrong)


def test_an_id_is_a_run_and_perhaps_a_position() -> None:
    assert split_checkpoint_id("run") == ("run", None)
    assert split_checkpoint_id("run:12") == ("run", 12)


@pytest.mark.anyio
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 1_000, 1_023, 1_024, 1_025])
async def test_a_fork_of_a_whole_run_looks_at_few_of_its_entries(length: int) -> None:
    store = Counting()
    await filled(store, length)

    run_id = await fork(store, "run")

    assert sum(store.reads) <= 2 * length.bit_length() + 2
    assert len(store.reads) <= 2 * length.bit_length() + 2
    entries = await read_log(store, run_id)
    assert len(entries) == length + 1
    assert isinstance(entries[-1], Forked)


@pytest.mark.anyio
async def test_going_back_looks_at_few_of_the_entries_that_are_undone() -> None:
    store = Counting()
    await filled(store, 1_000)

    await rewind(store, "run:3")

    assert sum(store.reads) <= 22
    last = (await read_log(store, "run"))[-1]
    assert isinstance(last, Rewound)
    assert (last.seq, last.to_seq) == (1_000, 3)


@pytest.mark.anyio
@pytest.mark.parametrize("fails", [True, False], ids=["fails", "is cut off"])
async def test_a_fork_that_was_not_finished_leaves_nothing_behind(fails: bool) -> None:
    store = Counting()
    await filled(store, 5)

    async def stop() -> None:
        if fails:
            raise StorageUnavailableError("the disk", "is full")
        scope.cancel()
        await anyio.sleep_forever()

    store.stop = stop
    with anyio.CancelScope() as scope:
        if fails:
            with pytest.raises(StorageUnavailableError):
                await fork(store, "run:2")
        else:
            await fork(store, "run:2")

    assert scope.cancelled_caught is not fails
    assert [each.run_id for each in await store.runs()] == ["run"]


@pytest.mark.anyio
async def test_whoever_is_cut_off_going_back_holds_the_run_no_longer() -> None:
    store = Counting()
    await filled(store, 5)

    async def stop() -> None:
        scope.cancel()
        await anyio.sleep_forever()

    store.stop = stop
    with anyio.CancelScope() as scope:
        await rewind(store, "run:2")

    assert scope.cancelled_caught
    (record,) = await store.runs()
    assert (record.owner, record.length) == ("", 5)


@pytest.mark.anyio
async def test_a_run_that_somebody_carries_out_goes_not_back() -> None:
    store = MemoryCheckpointStore()
    await filled(store, 5)
    await store.claim("run", owner="other", lease_s=60)

    with pytest.raises(ClaimLostError, match="is carried out by other"):
        await rewind(store, "run:2")

    (record,) = await store.runs()
    assert (record.owner, record.length) == ("other", 5)


@pytest.mark.anyio
async def test_a_run_that_there_is_not_is_unknown_and_not_damaged() -> None:
    store = MemoryCheckpointStore()
    for use in (fork(store, "nobody"), fork(store, "nobody:1"), read_log(store, "nobody")):
        with pytest.raises(UnknownRunError):
            await use
    await store.append("run", [StoredEntry(seq=0, type="noted", version=1, body=b"{")])
    with pytest.raises(CheckpointLoadError) as caught:
        await read_log(store, "run")
    assert not isinstance(caught.value, UnknownRunError)
