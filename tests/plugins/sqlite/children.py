"""What other processes do to a file: `python children.py WHAT FILE ...`.

Each prints what it did as JSON, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from kaizen import StoredEntry
from kaizen._bounded import stepped
from kaizen.claims import new_owner
from kaizen.errors import CheckpointSaveError, StorageUnavailableError
from kaizen_sqlite import SqliteStorage


def entry(seq: int, text: str = "") -> StoredEntry:
    body = json.dumps({"seq": seq, "text": text}).encode()
    return StoredEntry(seq=seq, type="noted", version=1, body=body)


def say(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def wait() -> None:
    """Wait until all the others have come as far."""
    say("ready")
    sys.stdin.readline()


async def claim(path: str, runs: str) -> None:
    """Want every run, and hold what was got until the input ends."""
    owner = new_owner()
    won: list[str] = []
    async with SqliteStorage(path, timeout_s=60) as store:
        wait()
        for number in range(int(runs)):
            try:
                await store.claim(f"run{number}", owner=owner, lease_s=600)
            except CheckpointSaveError:
                continue
            won.append(f"run{number}")
        say(won)
        sys.stdin.readline()


async def append(path: str, run_id: str, count: str) -> None:
    """Append to a run to which others append as well; say which positions were got."""
    wait()
    got: list[int] = []
    async with SqliteStorage(path, timeout_s=60) as store:
        seq = 0
        while len(got) < int(count):
            try:
                await store.append(run_id, [entry(seq, str(os.getpid()))])
            except CheckpointSaveError:
                seq = len(await store.read(run_id))
            else:
                got.append(seq)
                seq += 1
    say({str(os.getpid()): got})


async def receive(path: str, run_id: str) -> None:
    """Take messages until one says that it is the last."""
    taken: list[str] = []
    async with SqliteStorage(path, timeout_s=60) as store:
        wait()
        while "last" not in taken:
            taken += [text.decode() for _, text in await store.receive([run_id])]
    say(taken)


async def forget(path: str) -> None:
    """End without closing the store."""
    store = SqliteStorage(path)
    await store.append("run", [entry(0)])
    await store.read("run")
    globals()["forgotten"] = store
    say("done")


async def fill(path: str) -> None:
    """Append until there is no room, then with room again; say what was acknowledged."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    acknowledged = 0
    async with SqliteStorage(path) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, unlimited[1]))
        try:
            while True:
                await store.append("run", [entry(acknowledged, "x" * 2_000)])
                acknowledged += 1
        except StorageUnavailableError as error:
            kept = len(await store.read("run"))
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            await store.append("run", [entry(kept)])
            say([acknowledged, kept, str(error)])


async def write_as_nobody(path: str) -> None:
    """Try to use a file that this user may only read."""
    if os.getuid() == 0:
        os.setuid(65534)
    store = SqliteStorage(path)
    try:
        await store.append("run", [entry(1)])
    except StorageUnavailableError as error:
        say(str(error))
    await store.aclose()


def kill_often(path: str, times: str) -> None:
    """Kill a process that appends at random moments; say what each had acknowledged."""
    chance = random.Random(int(times))
    acknowledged: dict[str, int] = {}
    for number in range(int(times)):
        run_id = f"run{number}"
        acknowledged[run_id] = killed(
            lambda write, run_id=run_id: append_for_ever(path, run_id, write),  # type: ignore[misc]
            after=chance.randrange(1, 25),
            pause_s=chance.random() / 1_000,
        )
    say(acknowledged)


def kill_everywhere(path: str) -> None:
    """Kill a process at each point of one append, until one gets through all of it."""
    acknowledged: dict[str, int] = {}
    for kind in (append_to_await, append_to_call):
        for point in range(1, 2_000):
            run_id = f"{kind.__name__}{point}"
            count = killed(
                lambda write, kind=kind, run_id=run_id, point=point: kind(  # type: ignore[misc]
                    path, run_id, write, point
                )
            )
            acknowledged[run_id] = count
            if count == 3:
                break
    say(acknowledged)


def killed(
    work: Callable[[int], Awaitable[None]],
    *,
    after: int | None = None,
    pause_s: float = 0.0,
) -> int:
    """Do work in a process of its own and return how many appends it acknowledged.

    Args:
        work: Gets a descriptor, to which it writes a byte for each.
        after: After how many the process is killed; otherwise it kills itself, or ends.
        pause_s: How long to wait before that, in seconds.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        anyio.run(work, write)
        os._exit(0)
    os.close(write)
    acknowledged = 0
    while byte := os.read(read, 1):
        acknowledged += len(byte)
        if acknowledged == after:
            select.select([], [], [], pause_s)
            os.kill(child, signal.SIGKILL)
    os.close(read)
    os.waitpid(child, 0)
    return acknowledged


async def append_for_ever(path: str, run_id: str, write: int) -> None:
    store = SqliteStorage(path)
    seq = 0
    while True:
        await store.append(run_id, [entry(seq, "x" * 1_500)])
        os.write(write, b".")
        seq += 1


async def append_to_await(path: str, run_id: str, write: int, point: int) -> None:
    """Append three entries, and die before the process waits for the nth time in one."""
    waits = 0

    def wait_or_die() -> None:
        nonlocal waits
        waits += 1
        if waits == point:
            os.kill(os.getpid(), signal.SIGKILL)

    store = SqliteStorage(path)
    await store.append(run_id, [entry(0)])
    os.write(write, b".")
    await stepped(store.append(run_id, [entry(1), entry(2)]), wait_or_die)
    os.write(write, b"..")


async def append_to_call(path: str, run_id: str, write: int, point: int) -> None:
    """Append three entries, and die at the nth call that one makes where SQLite is."""
    calls = -1

    def call_or_die(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        if calls < 0 or not event.endswith("call"):
            return
        calls += 1
        if calls == point:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(call_or_die)
    store = SqliteStorage(path)
    await store.append(run_id, [entry(0)])
    os.write(write, b".")
    calls = 0
    await store.append(run_id, [entry(1), entry(2)])
    calls = -1
    os.write(write, b"..")


def warm_up() -> None:
    """Import once for all what is imported where it is needed."""

    async def use(path: Path) -> None:
        async with SqliteStorage(path) as store:
            await store.runs()

    with TemporaryDirectory() as folder:
        anyio.run(use, Path(folder, "runs.db"))


def main() -> None:
    work = globals()[sys.argv[1]]
    if sys.argv[1].startswith("kill"):
        warm_up()
        work(*sys.argv[2:])
        return
    if work is write_as_nobody:
        warm_up()  # since the other user may not read these modules
    anyio.run(work, *sys.argv[2:])


if __name__ == "__main__":
    main()
