"""When the power fails, what was acknowledged is on the disk, whatever else is not.

The calls of the system are recorded while a store is used. Of each moment, states of the
disk are made that a loss of power may leave: what was synced is there; of what was not,
each change to a folder and each piece of a file is there, or not, or torn, or zeros.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest
from kaizen.errors import CheckpointLoadError, CheckpointSaveError
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
from kaizen_state._runs import Runs

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="needs the calls of Linux"),
]

MODULES = (_claim_file, _files, _log, _mail, _runs, _writer)
STATES_OF_EACH_MOMENT = int(os.environ.get("KAIZEN_POWER_STATES", "6"))

Entries: TypeAlias = dict[str, list[StoredEntry]]


@dataclass
class File:
    """A file: what the disk has of it, and what programs see."""

    synced: bytes = b""
    now: bytes = b""


@dataclass
class Directory:
    """A directory: what the disk has of it, and what was changed since, in order."""

    synced: dict[str, Any] = field(default_factory=dict)
    now: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[str, Any]] = field(default_factory=list)

    def put(self, name: str, node: Any) -> None:
        if node is None:
            self.now.pop(name, None)
        else:
            self.now[name] = node
        self.pending.append((name, node))

    def sync(self) -> None:
        self.synced, self.pending = dict(self.now), []


class Disk:
    """The system, with a model beside it of what the disk would keep."""

    def __init__(self, base: Path) -> None:
        self.root = Directory()
        self._nodes: dict[int, Any] = {}
        self._base = str(base)
        self.moments = 0
        self.after_each: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        own = globals().get(f"_{name}")
        function = getattr(os, name)
        if own is None:
            return function

        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            own(self, result, *arguments, **options)
            return result

        return call

    def node(self, fd: int | None, path: str | int) -> tuple[Directory, str]:
        """Return the directory in which a path ends, and the last part of it."""
        folder = self.root if fd is None else self._nodes[fd]
        parts = str(path).removeprefix(self._base).strip("/").split("/")
        for part in parts[:-1]:
            folder = folder.now[part]
        return folder, parts[-1]

    def changed(self) -> None:
        self.moments += 1
        self.after_each()


class Unsynced:
    """The system, for whom the power does not fail again."""

    def __getattr__(self, name: str) -> Any:
        return _nothing if name in ("fsync", "fdatasync") else getattr(os, name)


def _nothing(_: int) -> None: ...


def _open(
    disk: Disk, fd: int, path: Any, flags: int, mode: int = 0, *, dir_fd: Any = None
) -> None:
    if dir_fd is None and str(path).rstrip("/") == disk._base:
        disk._nodes[fd] = disk.root
        return
    if dir_fd is None and not str(path).startswith(disk._base):
        return
    folder, name = disk.node(dir_fd, path)
    if name not in folder.now:
        folder.put(name, File())
        disk.changed()
    disk._nodes[fd] = folder.now[name]


def _mkdir(disk: Disk, _: None, path: Any, mode: int = 0, *, dir_fd: Any = None) -> None:
    folder, name = disk.node(dir_fd, path)
    folder.put(name, Directory())
    disk.changed()


def _write(disk: Disk, count: int, fd: int, data: Any) -> None:
    disk._nodes[fd].now += bytes(data[:count])
    disk.changed()


def _pwrite(disk: Disk, count: int, fd: int, data: bytes, at: int) -> None:
    file = disk._nodes[fd]
    before = file.now.ljust(at, b"\0")
    file.now = before[:at] + data[:count] + before[at + count :]
    disk.changed()


def _ftruncate(disk: Disk, _: None, fd: int, size: int) -> None:
    disk._nodes[fd].now = disk._nodes[fd].now[:size]
    disk.changed()


def _fdatasync(disk: Disk, _: None, fd: int) -> None:
    disk._nodes[fd].synced = disk._nodes[fd].now
    disk.changed()


def _fsync(disk: Disk, _: None, fd: int) -> None:
    disk._nodes[fd].sync()
    disk.changed()


def _replace(
    disk: Disk, _: None, name: str, to: str, *, src_dir_fd: int, dst_dir_fd: int
) -> None:
    source, target = disk._nodes[src_dir_fd], disk._nodes[dst_dir_fd]
    node = source.now[name]
    if source is target:
        # A rename is one change: never is neither name there.
        del source.now[name]
        source.now[to] = node
        source.pending.append((f"{name}/{to}", node))
    else:
        target.put(to, node)
        source.put(name, None)
    disk.changed()


def _unlink(disk: Disk, _: None, name: str, *, dir_fd: int) -> None:
    disk._nodes[dir_fd].put(name, None)
    disk.changed()


_rmdir = _unlink


def survive(folder: Directory, path: Path, random: Random, share: float) -> None:
    """Write to the disk what a loss of power may leave of a directory."""
    left = dict(folder.synced)
    for name, node in folder.pending:
        if random.random() > share:
            continue
        if "/" in name:
            before, after = name.split("/")
            left.pop(before, None)
            left[after] = node
        elif node is None:
            left.pop(name, None)
        else:
            left[name] = node
    path.mkdir()
    for name, node in left.items():
        if isinstance(node, Directory):
            survive(node, path / name, random, share)
        else:
            (path / name).write_bytes(torn(node, random))


def torn(file: File, random: Random) -> bytes:
    """Return what a loss of power may leave of a file."""
    if file.now == file.synced or random.random() < 0.25:
        return random.choice((file.now, file.synced))
    if len(file.now) < len(file.synced):
        return random.choice((file.now, file.synced))
    if not file.now.startswith(file.synced):  # written in place, such as a claim
        cut = random.randrange(len(file.now) + 1)
        return file.now[:cut] + file.synced[cut:]
    added = bytearray(file.now[len(file.synced) :])
    del added[random.randrange(len(added) + 1) :]
    for at in range(0, len(added), 64):  # blocks reach the disk in any order
        if random.random() < 0.2:
            size = len(added[at : at + 64])
            added[at : at + 64] = bytes(size)
    return file.synced + bytes(added)


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


class History:
    """What was acknowledged so far, and what was under way."""

    def __init__(self, store: FilesystemStorage) -> None:
        self.store = store
        self.kept: Entries = {}
        self.coming: dict[str, list[StoredEntry] | None] = {}

    async def append(self, run_id: str, entries: list[StoredEntry], token: int) -> None:
        after = [*self.kept.get(run_id, []), *entries]
        await self._do(run_id, after, self.store.append(run_id, entries, token=token))

    async def fork(self, run_id: str, length: int, new: str) -> None:
        after = self.kept[run_id][:length]
        await self._do(new, after, self.store.fork(run_id, length=length, new_run_id=new))

    async def delete(self, run_id: str) -> None:
        await self._do(run_id, None, self.store.delete(run_id))

    async def _do(
        self, run_id: str, after: list[StoredEntry] | None, work: Awaitable[None]
    ) -> None:
        self.coming = {run_id: after}
        await work
        self.coming = {}
        if after is None:
            del self.kept[run_id]
        else:
            self.kept[run_id] = after


async def live(history: History) -> None:
    """Do all that a store can do to runs."""
    store = history.store
    token = await store.claim("run", owner="a", lease_s=600)
    await history.append("run", noted(0, 1), token)
    await history.append("run", noted(1, 3, "x" * 200), token)
    for seq in range(4, 10):
        await history.append("run", noted(seq, 1, "y" * 150), token)
    await history.fork("run", 5, "branch")
    branch = await store.claim("branch", owner="a", lease_s=600)
    await history.append("branch", noted(5, 2), branch)
    await history.append("run", [ended(10)], token)
    await store.claim("run", owner="a", lease_s=0)
    await history.fork("run", 11, "late")
    token = await store.claim("run", owner="b", lease_s=600)
    await history.append("run", noted(11, 1), token)
    await store.claim("run", owner="b", lease_s=0)
    await history.delete("run")
    await history.append("branch", [ended(7)], branch)
    await store.claim("branch", owner="a", lease_s=0)
    await history.delete("late")
    await history.delete("branch")


async def test_a_loss_of_power_at_any_moment_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "SEGMENT_BYTES", 900)
    random = Random(11)
    base = tmp_path / "runs"
    base.mkdir()
    disk = Disk(base)
    history = History(FilesystemStorage(base))
    states = 0

    def lose_power() -> None:
        nonlocal states
        for module in MODULES:
            monkeypatch.setattr(module, "os", Unsynced())
        for number in range(STATES_OF_EACH_MOMENT):
            left = tmp_path / "left"
            share = (0.0, 1.0)[number] if number < 2 else random.random()
            survive(disk.root, left, random, share)
            check(left, history, disk.moments)
            shutil.rmtree(left)
            states += 1
        for module in MODULES:
            monkeypatch.setattr(module, "os", disk)

    disk.after_each = lose_power
    for module in MODULES:
        monkeypatch.setattr(module, "os", disk)
    await live(history)
    for module in MODULES:
        monkeypatch.setattr(module, "os", os)
    await history.store.aclose()

    assert history.kept == {}
    assert disk.moments > 100
    assert states == disk.moments * STATES_OF_EACH_MOMENT


def check(left: Path, history: History, moment: int) -> None:
    """See that a store finds what was acknowledged, or what was under way as well."""
    runs = Runs(left, compress=True)
    for run_id in ("run", "branch", "late"):
        expected = [history.kept.get(run_id)]
        if run_id in history.coming:
            expected.append(history.coming[run_id])
        found = found_of(runs, run_id)
        assert found in expected, (moment, run_id, found and len(found))
        listed = {each.run_id: each for each in runs.runs(None, None, 10)}
        assert (run_id in listed) is (found is not None)
        if found is not None:
            assert listed[run_id].length == len(found)
            runs.append(run_id, noted(len(found), 1), _token(runs, run_id))
            assert runs.read(run_id, 0, None) == [*found, *noted(len(found), 1)]
    runs.close()


def found_of(runs: Runs, run_id: str) -> list[StoredEntry] | None:
    """Return the entries of a run, or `None` if there is none."""
    try:
        return runs.read(run_id, 0, None)
    except CheckpointLoadError as error:
        if "unknown" in error.problem:
            return None
        raise


def _token(runs: Runs, run_id: str) -> int:
    for owner in ("a", "b"):
        try:
            return runs.claim(run_id, owner, 600.0)
        except CheckpointSaveError:
            continue
    raise AssertionError(run_id)
