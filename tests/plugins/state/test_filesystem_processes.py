"""Several processes use one folder at once, and none of them spoils what another does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from kaizen.claims import new_owner
from kaizen.errors import CheckpointSaveError, StorageUnavailableError
from kaizen.ports import StoredEntry
from kaizen_state import FilesystemStorage, _files

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(sys.platform == "win32", reason="needs processes of POSIX"),
]

PREAMBLE = """
import contextlib, json, os, sys
import anyio
from kaizen.claims import new_owner
from kaizen.errors import CheckpointError
from kaizen.ports import StoredEntry
from kaizen_state import FilesystemStorage

def entry(seq, text=""):
    body = json.dumps({"seq": seq, "text": text}).encode()
    return StoredEntry(seq=seq, type="noted", version=1, body=body)

def say(word):
    print(word, flush=True)

def wait():
    sys.stdin.readline()

async def main(path):
    store = FilesystemStorage(path)
"""


def entry(seq: int, text: str = "") -> StoredEntry:
    body = json.dumps({"seq": seq, "text": text}).encode()
    return StoredEntry(seq=seq, type="noted", version=1, body=body)


class Process:
    """Another Python, with a store of its own in the same folder."""

    def __init__(self, path: Path, code: str) -> None:
        body = "\n".join(f"    {line}" for line in code.strip().splitlines())
        program = f"{PREAMBLE}{body}\nanyio.run(main, sys.argv[1])\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def said(self) -> str:
        """Wait for a line."""
        assert self.process.stdout is not None
        with anyio.fail_after(50):
            return (await anyio.to_thread.run_sync(self.process.stdout.readline)).strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    async def ended(self) -> None:
        with anyio.fail_after(50):
            assert await anyio.to_thread.run_sync(self.process.wait) == 0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Start other processes, which end with the test."""
    started: list[Process] = []

    def begin(code: str) -> Process:
        started.append(Process(tmp_path, code))
        return started[-1]

    yield begin
    for each in started:
        each.end()


async def test_of_many_processes_each_run_has_one_writer(
    start: Any, tmp_path: Path
) -> None:
    runs, racers = 40, 4
    code = f"""
say("ready")
wait()
won = []
for number in range({runs}):
    with contextlib.suppress(CheckpointError):
        await store.claim(f"run{{number}}", owner=new_owner(), lease_s=600)
        won.append(number)
say(json.dumps(won))
wait()
"""
    processes = [start(code) for _ in range(racers)]
    for each in processes:
        assert await each.said() == "ready"
    for each in processes:
        each.go_on()
    won = [json.loads(await each.said()) for each in processes]

    assert sorted(number for each in won for number in each) == list(range(runs))
    for each in processes:
        each.go_on()
        await each.ended()
    store = FilesystemStorage(tmp_path)
    for number in range(runs):  # each process has ended, and so have its claims
        await store.claim(f"run{number}", owner=new_owner(), lease_s=0)


async def test_many_processes_that_append_to_one_run_make_one_log(
    start: Any, tmp_path: Path
) -> None:
    each_writes, writers = 25, 3
    code = f"""
say("ready")
wait()
written = 0
while written < {each_writes}:
    length = 0
    with contextlib.suppress(CheckpointError):
        length = len(await store.read("run"))
    with contextlib.suppress(CheckpointError):
        await store.append("run", [entry(length, str(os.getpid()))])
        written += 1
say("done")
"""
    processes = [start(code) for _ in range(writers)]
    for each in processes:
        assert await each.said() == "ready"
    for each in processes:
        each.go_on()
    for each in processes:
        assert await each.said() == "done"
        await each.ended()

    found = await FilesystemStorage(tmp_path).read("run")
    assert [one.seq for one in found] == list(range(each_writes * writers))
    by = [json.loads(one.body)["text"] for one in found]
    assert sorted({by.count(each) for each in by}) == [each_writes]


async def test_a_process_whose_claim_was_taken_over_writes_nothing(
    start: Any, tmp_path: Path
) -> None:
    sleeper = start(
        """
token = await store.claim("run", owner=new_owner(), lease_s=0.2)
await store.append("run", [entry(0)], token=token)
say("written")
wait()
try:
    await store.append("run", [entry(1, "late")], token=token)
except CheckpointError as error:
    say(error)
"""
    )
    assert await sleeper.said() == "written"
    store = FilesystemStorage(tmp_path)
    owner = new_owner()
    with anyio.fail_after(50):
        while True:  # until its lease has run out
            with contextlib.suppress(CheckpointSaveError):
                token = await store.claim("run", owner=owner, lease_s=60)
                break
    sleeper.go_on()

    assert "was taken over" in await sleeper.said()
    await store.append("run", [entry(1)], token=token)
    assert list(await store.read("run")) == [entry(0), entry(1)]
    await store.aclose()


async def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_log(
    start: Any, tmp_path: Path
) -> None:
    store = FilesystemStorage(tmp_path)
    for _ in range(4):
        writer = start(
            """
owner = new_owner()
token = await store.claim("run", owner=owner, lease_s=600)
length = 0
with contextlib.suppress(CheckpointError):
    length = len(await store.read("run"))
while True:
    await store.append("run", [entry(length, "x" * 20_000), entry(length + 1)], token=token)
    length += 2
    say(length)
"""
        )
        acknowledged = 0
        for _ in range(10):
            acknowledged = int(await writer.said())
        writer.process.send_signal(signal.SIGKILL)
        writer.process.wait()
        assert writer.process.stdout is not None
        for line in writer.process.stdout.read().split():
            acknowledged = max(acknowledged, int(line))

        found = await store.read("run")
        assert len(found) >= acknowledged
        assert len(found) % 2 == 0
        assert [each.seq for each in found] == list(range(len(found)))
        assert (await store.runs())[0].owner == ""


async def test_a_run_that_was_deleted_and_begun_again_elsewhere_is_not_mixed_up(
    start: Any, tmp_path: Path
) -> None:
    store = FilesystemStorage(tmp_path)
    token = await store.claim("run", owner="a", lease_s=0.01)
    await store.append("run", [entry(0, "old"), entry(1, "old")], token=token)
    other = start(
        """
while True:
    with contextlib.suppress(CheckpointError):
        await store.delete("run")
        break
await store.append("run", [entry(0, "new"), entry(1, "new")])
say("again")
"""
    )
    assert await other.said() == "again"

    with pytest.raises(CheckpointSaveError):
        await store.append("run", [entry(2, "old")], token=token)
    assert list(await store.read("run")) == [entry(0, "new"), entry(1, "new")]
    await store.append("run", [entry(2, "new")])
    await store.aclose()


async def test_messages_reach_another_process_once(start: Any, tmp_path: Path) -> None:
    code = """
found = []
while b"end" not in found:
    found += [message for _, message in await store.receive(["run"])]
    found += [message for _, message in await store.receive([f"to{os.getpid()}"])]
say(json.dumps([each.decode() for each in found]))
"""
    store = FilesystemStorage(tmp_path)
    receivers = [start(code) for _ in range(2)]
    for number in range(50):
        await store.send("run", b"%d" % number)
    with anyio.fail_after(50):
        while (tmp_path / ".mail").is_dir() and any((tmp_path / ".mail").glob("run,*")):
            await anyio.lowlevel.checkpoint()
    for each in receivers:
        await store.send(f"to{each.process.pid}", b"end")
    found = [json.loads(await each.said()) for each in receivers]

    numbers = [each for some in found for each in some if each != "end"]
    assert sorted(map(int, numbers)) == list(range(50))


async def test_a_process_that_stands_still_with_a_lock_is_named(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "LOCK_TIMEOUT_S", 0.05)
    store = FilesystemStorage(tmp_path)
    await store.append("run", [entry(0)])
    other = start(
        """
import fcntl
fd = os.open(os.path.join(path, "run", "claim"), os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
say("locked")
wait()
"""
    )
    assert await other.said() == "locked"

    assert list(await store.read("run")) == [entry(0)]
    assert [each.run_id for each in await store.runs()] == ["run"]
    with pytest.raises(StorageUnavailableError, match=r"run/claim.*locked by another"):
        await store.append("run", [entry(1)])
    other.go_on()
    await other.ended()
    await store.append("run", [entry(1)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_process_that_was_forked_off_shares_no_lock(
    start: Any, tmp_path: Path
) -> None:
    process = start(
        """
token = await store.claim("run", owner="a", lease_s=600)
await store.append("run", [entry(0)], token=token)
child = os.fork()
if not child:
    try:
        store._runs.append("run", [entry(1)], token)
    finally:
        os._exit(0)
os.waitpid(child, 0)
for seq in (1, 2):
    with contextlib.suppress(CheckpointError):
        await store.append("run", [entry(seq)], token=token)
say(len(await store.read("run")))
"""
    )
    assert await process.said() == "3"


async def test_a_limit_on_the_size_of_files_is_told_and_loses_nothing(
    start: Any, tmp_path: Path
) -> None:
    process = start(
        """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
token = await store.claim("run", owner=new_owner(), lease_s=600)
length = 0
try:
    while True:
        await store.append("run", [entry(length, "x" * 7_000)], token=token)
        length += 1
except CheckpointError as error:
    say(error)
say(len(await store.read("run")) - length)
await store.append("run", [entry(length)], token=token)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
await store.append("run", [entry(length + 1, "x" * 7_000)], token=token)
say(len(await store.read("run")) - length)
"""
    )
    said = await process.said()
    assert "KAIZEN" not in said
    assert "File too large" in said
    assert str(tmp_path) in said
    assert "Raise the limit" in said
    assert await process.said() == "0"
    assert await process.said() == "2"
    await process.ended()
    found = await FilesystemStorage(tmp_path).read("run")
    assert [each.seq for each in found] == list(range(len(found)))
