"""Whatever is cut off, and wherever: what was acknowledged is there, and a log goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from kaizen.errors import (
    CheckpointError,
    CheckpointLoadError,
    StorageUnavailableError,
)
from kaizen.ports import StoredEntry
from kaizen.runlog import RunEnded, encode
from kaizen_state import (
    FilesystemStorage,
    _claim_file,
    _files,
    _log,
    _mail,
    _runs,
    _writer,
)

pytestmark = pytest.mark.anyio

MODULES = (_claim_file, _files, _log, _mail, _runs, _writer)
CHANGES = (
    "fdatasync",
    "fsync",
    "ftruncate",
    "mkdir",
    "open",
    "pwrite",
    "replace",
    "rmdir",
    "unlink",
    "utime",
    "write",
)
LONG = "x" * 3_000

Operation: TypeAlias = Callable[[FilesystemStorage], Awaitable[object]]
State: TypeAlias = dict[str, list[StoredEntry]]


class Crash(BaseException):
    """The process is gone: nothing of it happens any more."""


class System:
    """The calls of the operating system that change something, counted.

    The one with a certain number fails, a write after some of its bytes. After a crash each
    later one fails as well; after an error they work again. Nothing is synced for real: the
    power stays on here.
    """

    def __init__(
        self, fail_at: int = -1, *, error: int | None = None, share: float = 0.0
    ) -> None:
        self.calls: list[str] = []
        self._fail_at = fail_at
        self._error = error
        self._share = share
        self._dead = False

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in CHANGES:
            return function

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return function(*arguments, **options)
            self.calls.append(name)
            if not self._dead and len(self.calls) - 1 != self._fail_at:
                synced = name in ("fsync", "fdatasync")
                return None if synced else function(*arguments, **options)
            if name == "write" and not self._dead:
                descriptor, data = arguments
                function(descriptor, data[: int(len(data) * self._share)])
            if self._error is not None:
                raise OSError(self._error, os.strerror(self._error))
            self._dead = True
            raise Crash

        return call


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


class Acknowledging(FilesystemStorage):
    """A store that remembers what it has acknowledged.

    Attributes:
        acknowledged: How many entries a run has at least, by its id.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.acknowledged: dict[str, int] = {}

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        await super().append(run_id, entries, token=token)
        self.acknowledged[run_id] = entries[-1].seq + 1

    def check(self, found: State) -> None:
        """See that a store has all of it."""
        for run_id, length in self.acknowledged.items():
            assert len(found[run_id]) >= length


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[[System], None]:
    """Put something in the place of the system; first, one that works."""

    def use(instead: System) -> None:
        for module in MODULES:
            monkeypatch.setattr(module, "os", instead)

    use(System())
    return use


async def append_first(store: FilesystemStorage) -> None:
    await store.append("new", noted(0, 2))


async def append_more(store: FilesystemStorage) -> None:
    await store.append("run", noted(5, 3, LONG))


async def append_claimed(store: FilesystemStorage) -> None:
    token = await store.claim("run", owner="a", lease_s=60)
    for seq in (5, 6):
        await store.append("run", noted(seq, 1), token=token)


async def end(store: FilesystemStorage) -> None:
    token = await store.claim("run", owner="a", lease_s=60)
    await store.append("run", [ended(5)], token=token)
    await store.claim("run", owner="a", lease_s=0)


async def go_on_after_the_end(store: FilesystemStorage) -> None:
    await store.append("packed", noted(3, 2))


async def fork(store: FilesystemStorage) -> None:
    await store.fork("run", length=4, new_run_id="new")


async def fork_the_packed(store: FilesystemStorage) -> None:
    await store.fork("packed", length=2, new_run_id="new")


async def delete(store: FilesystemStorage) -> None:
    await store.delete("run")


async def delete_the_shared(store: FilesystemStorage) -> None:
    await store.delete("shared")


async def delete_the_last_who_shares(store: FilesystemStorage) -> None:
    await store.delete("branch")


async def send(store: FilesystemStorage) -> None:
    await store.send("run", b"second")


OPERATIONS = (
    append_first,
    append_more,
    append_claimed,
    end,
    go_on_after_the_end,
    fork,
    fork_the_packed,
    delete,
    delete_the_shared,
    delete_the_last_who_shares,
    send,
)


async def furnish(path: Path, *, compress: bool = True) -> None:
    """Make a store with runs that go on, ended, are shared, or were deleted."""
    async with FilesystemStorage(path, compress=compress) as store:
        await store.append("run", noted(0, 3))
        await store.append("run", noted(3, 2))
        token = await store.claim("packed", owner="a", lease_s=60)
        await store.append("packed", [*noted(0, 2), ended(2)], token=token)
        await store.claim("packed", owner="a", lease_s=0)
        await store.append("shared", noted(0, 3))
        await store.append("grand", noted(0, 3))
        await store.fork("grand", length=2, new_run_id="branch")
        await store.fork("shared", length=3, new_run_id="sharer")
        await store.append("branch", noted(2, 1))
        await store.delete("grand")
        await store.send("run", b"first")


async def state(store: FilesystemStorage) -> State:
    """Return every run that the store lists, and all that it holds."""
    listed = await store.runs()
    found = {each.run_id: list(await store.read(each.run_id)) for each in listed}
    for each in listed:
        assert each.status != "damaged"
        assert each.length == len(found[each.run_id])
    return found


async def outcomes(path: Path, operation: Operation) -> tuple[State, State]:
    """Return what a store holds before an operation and after it."""
    async with FilesystemStorage(path) as store:
        before = await state(store)
        await operation(store)
        return before, await state(store)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("share", [0.0, 0.7])
async def test_a_crash_at_any_call_of_the_system_loses_nothing(
    tmp_path: Path,
    system: Callable[[System], None],
    operation: Operation,
    share: float,
) -> None:
    await furnish(tmp_path / "start")
    shutil.copytree(tmp_path / "start", tmp_path / "whole")
    before, after = await outcomes(tmp_path / "whole", operation)
    steps = steps_between(before, after)

    for number in range(1_000):
        path = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", path)
        crashing = System(number, share=share)
        store = Acknowledging(path)
        system(crashing)
        try:
            await operation(store)
            crashed = False
        except Crash:
            crashed = True
        finally:
            system(System())
        await store.aclose()

        async with FilesystemStorage(path) as reopened:
            found = await state(reopened)
            assert found in steps, (number, crashing.calls)
            store.check(found)
            await check_that_it_goes_on(reopened, found)
        shutil.rmtree(path)
        if not crashed:
            break
    assert number > 3


def steps_between(before: State, after: State) -> list[State]:
    """Return the states in which an operation may be cut off: entries come one by one."""
    steps = [before, after]
    for run_id, entries in after.items():
        lengths = range(len(before.get(run_id, ())) + 1, len(entries))
        steps += ({**before, run_id: entries[:length]} for length in lengths)
    return steps


async def check_that_it_goes_on(store: FilesystemStorage, found: State) -> None:
    """Append to every run, and see that nothing else has changed; then delete them all."""
    for run_id, entries in found.items():
        owner = next(each.owner for each in await store.runs() if each.run_id == run_id)
        token = await store.claim(run_id, owner=owner or "b", lease_s=60)
        more = noted(len(entries), 1)
        await store.append(run_id, more, token=token)
        assert list(await store.read(run_id)) == [*entries, *more]
        await store.claim(run_id, owner=owner or "b", lease_s=0)
    for message in (b"first", b"second"):
        received = [each for _, each in await store.receive(["run"])]
        if received:
            assert received in ([b"first"], [b"first", b"second"]), message
    for run_id in found:
        await store.delete(run_id)
    assert list(await store.runs()) == []
    assert runs_left(store.base_dir) <= {"new", "packed", "run"}


def runs_left(path: Path) -> set[str]:
    """Return the folders of runs that are there, and those in the trash."""
    trash = path / ".trash"
    return {
        each.name
        for folder in (path, trash)
        if folder.is_dir()
        for each in folder.iterdir()
        if each.is_dir() and not each.name.startswith(".")
    }


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_an_error_at_any_call_of_the_system_is_told_and_loses_nothing(
    tmp_path: Path,
    system: Callable[[System], None],
    operation: Operation,
    error: int,
) -> None:
    await furnish(tmp_path / "start")
    shutil.copytree(tmp_path / "start", tmp_path / "whole")
    before, after = await outcomes(tmp_path / "whole", operation)
    steps = steps_between(before, after)

    for number in range(1_000):
        path = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", path)
        failing = System(number, error=error, share=0.5)
        async with Acknowledging(path) as store:
            system(failing)
            try:
                await operation(store)
                told = None
            except CheckpointError as raised:
                told = raised
            finally:
                system(System())
            found = await state(store)
            store.check(found)
            if told is None:
                assert found == after, (number, failing.calls)
            else:
                assert isinstance(told, StorageUnavailableError)
                assert os.strerror(error) in str(told)
                assert told.remedy
                assert found in steps, (number, failing.calls)
            await check_that_it_goes_on(store, found)
        shutil.rmtree(path)
        if len(failing.calls) <= number:
            break
    assert number > 3


async def test_after_a_failed_write_the_next_one_is_in_its_place(
    tmp_path: Path, system: Callable[[System], None]
) -> None:
    async with FilesystemStorage(tmp_path) as store:
        token = await store.claim("run", owner="a", lease_s=60)
        await store.append("run", noted(0, 2), token=token)
        size = (tmp_path / "run" / "00000000.jsonl").stat().st_size
        system(System(0, error=errno.ENOSPC, share=0.7))
        with pytest.raises(
            StorageUnavailableError, match=r"No space left.*Free some space"
        ):
            await store.append("run", noted(2, 1, LONG), token=token)
        system(System())

        assert (tmp_path / "run" / "00000000.jsonl").stat().st_size == size
        await store.append("run", noted(2, 1), token=token)
        assert list(await store.read("run")) == noted(0, 3)


async def test_an_append_that_was_cut_off_is_reported_and_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FilesystemStorage(tmp_path) as store:
        await store.append("run", noted(0, 2))
        segment = tmp_path / "run" / "00000000.jsonl"
        with segment.open("ab") as file:
            file.write(b'{"crc":"00000000","size":')

        assert list(await store.read("run")) == noted(0, 2)
        assert not caplog.records
        await store.append("run", noted(2, 1))

    assert list(await FilesystemStorage(tmp_path).read("run")) == noted(0, 3)
    (record,) = caplog.records
    assert "cut 25 bytes" in record.getMessage()
    assert str(segment) in record.getMessage()
    assert "2 entries" in record.getMessage()
    assert "cut-2-1" in record.getMessage()
    kept = tmp_path / "run" / "cut-2-1"
    assert kept.read_bytes() == b'{"crc":"00000000","size":'


async def test_what_is_cut_off_is_kept_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "_MAX_CUT_BYTES", 4)
    async with FilesystemStorage(tmp_path) as store:
        for number in range(12):
            await store.append("run", noted(number, 1))
            with (tmp_path / "run" / "00000000.jsonl").open("ab") as file:
                file.write(b"%04d and more" % number)
        await store.append("run", noted(12, 1))

        kept = [name for name in os.listdir(tmp_path / "run") if name.startswith("cut-")]  # noqa: PTH208
        assert sorted(kept) == sorted(f"cut-{n + 1}-{n + 1}" for n in range(4, 12))
        assert (tmp_path / "run" / "cut-12-12").read_bytes() == b"0011"
        assert list(await store.read("run")) == noted(0, 13)
        await store.delete("run")
    assert not (tmp_path / "run").exists()


async def test_an_append_is_whole_or_not_there_at_every_length_of_its_file(
    tmp_path: Path,
) -> None:
    async with FilesystemStorage(tmp_path / "whole") as store:
        await store.append("run", noted(0, 2))
        start = (tmp_path / "whole" / "run" / "00000000.jsonl").stat().st_size
        await store.append("run", noted(2, 3))
    content = (tmp_path / "whole" / "run" / "00000000.jsonl").read_bytes()

    store = FilesystemStorage(tmp_path / "cut")
    (tmp_path / "cut" / "run").mkdir(parents=True)
    segment = tmp_path / "cut" / "run" / "00000000.jsonl"
    for length in range(start, len(content)):
        segment.write_bytes(content[:length])
        assert list(await store.read("run")) == noted(0, 2)
        assert [each.length for each in await store.runs()] == [2]
    segment.write_bytes(content)
    assert list(await store.read("run")) == noted(0, 5)


async def test_a_first_append_that_was_cut_off_leaves_no_run(tmp_path: Path) -> None:
    async with FilesystemStorage(tmp_path / "whole") as store:
        await store.append("run", noted(0, 2))
    content = (tmp_path / "whole" / "run" / "00000000.jsonl").read_bytes()

    async with FilesystemStorage(tmp_path / "cut") as store:
        (tmp_path / "cut" / "run").mkdir(parents=True)
        segment = tmp_path / "cut" / "run" / "00000000.jsonl"
        for length in range(len(content)):
            segment.write_bytes(content[:length])
            with pytest.raises(CheckpointLoadError, match="unknown"):
                await store.read("run")
            assert list(await store.runs()) == []
        await store.append("run", noted(0, 1))
        assert list(await store.read("run")) == noted(0, 1)
