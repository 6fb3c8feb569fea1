"""What it takes to keep runs in files, against the least that a disk and JSON allow."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from time import perf_counter

import anyio
import anyio.to_thread
import pytest
from kaizen.messages import Message, ToolUse, Usage
from kaizen.ports import StoredEntry
from kaizen.runlog import (
    Entry,
    ModelReplied,
    ModelRequested,
    Paused,
    RunEnded,
    RunStarted,
    ToolFinished,
    ToolIntended,
    decode,
    encode,
    fold,
)
from kaizen_state import FilesystemStorage

from tests.benchmarks._measure import Subject, awaited, interleave, ratio
from tests.benchmarks._table import Row, Table

TURNS = 2_000
PAUSES = 100
OUTPUT_BYTES = 10_000
DOCS = Path(__file__).parents[2] / "docs"


@cache
def prose() -> str:
    """Return what people wrote: our own pages."""
    pages = (each.read_text(encoding="utf-8") for each in sorted(DOCS.rglob("*.md")))
    return " ".join(" ".join(pages).split())


def text(random: Random, size: int) -> str:
    """Return a piece of prose."""
    start = random.randrange(len(prose()) - size)
    return prose()[start : start + size]


def conversation(turns: int) -> Iterator[Entry]:
    """Give the log of a run of some turns, each with a tool call."""
    random = Random(7)
    yield RunStarted(
        seq=0,
        at=0.0,
        run_id="run",
        agent_id="alice",
        parent_id="",
        trace_id="run",
        session_id="",
        inputs={"question": text(random, 200)},
        messages=(Message(role="user", content=text(random, 200)),),
    )
    seq = 1
    for turn in range(turns):
        call_id = f"call{turn}"
        use = ToolUse(id=call_id, name="search", arguments=json.dumps({"q": "x y z"}))
        yield ModelRequested(seq=seq, at=1.5, cycle=turn, provider="p", model="m")
        yield ModelReplied(
            seq=seq + 1,
            at=1.5,
            cycle=turn,
            message=Message(role="assistant", content=text(random, 300), tool_uses=(use,)),
            usage=Usage(input_tokens=100, output_tokens=50, requests=1),
            cost_usd=None,
            finish_reason="tool_use",
            model="m",
        )
        yield ToolIntended(
            seq=seq + 2,
            at=1.5,
            call_id=call_id,
            name="search",
            arguments={"q": "x y z"},
            idempotency_key=f"run:{call_id}",
            idempotent=True,
            cycle=turn,
        )
        yield ToolFinished(
            seq=seq + 3,
            at=1.5,
            call_id=call_id,
            name="search",
            success=True,
            approved=True,
            content=text(random, 500),
            error_code="",
            duration_ms=1.5,
        )
        seq += 4


def noted(seq: int, content: str) -> StoredEntry:
    body = json.dumps({"seq": seq, "text": content}).encode()
    return StoredEntry(seq=seq, type="noted", version=1, body=body)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_append(table: Table, tmp_path: Path, backend: str) -> None:
    body = b'{"text":"%b"}' % (b"x" * (OUTPUT_BYTES - 11))
    line = body + b"y" * 150
    length = 0

    async def measure() -> dict[str, list[float]]:
        nonlocal length
        bare = os.open(tmp_path / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        async with FilesystemStorage(tmp_path / "runs") as store:
            token = await store.claim("run", owner="a", lease_s=600)

            def write() -> None:
                os.write(bare, line)
                os.fsync(bare)

            async def inline() -> None:
                write()

            async def threaded() -> None:
                await anyio.to_thread.run_sync(write)

            async def append() -> None:
                nonlocal length
                entry = StoredEntry(seq=length, type="noted", version=1, body=body)
                await store.append("run", [entry], token=token)
                length += 1

            measured = await in_turns(
                {"inline": inline, "threaded": threaded, "append": append}, rounds=400
            )
        os.close(bare)
        return measured

    measured = anyio.run(measure, backend=backend)

    table.add(
        Row(
            what=f"an append of 10 KB in files on {backend}, against write and fsync",
            measured=ratio(measured["append"], measured["threaded"]),
            form="{:.2f} ×",
            reach=1.3,
        ),
        Row(
            what="the same, against write and fsync that hold the event loop up",
            measured=ratio(measured["append"], measured["inline"]),
            form="{:.2f} ×",
        ),
    )


async def in_turns(
    subjects: dict[str, Callable[[], Awaitable[None]]], *, rounds: int
) -> dict[str, list[float]]:
    """Measure each subject once a round: a disk has moods that are shorter than a turn."""
    measured: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for _ in range(rounds):
        for name in order:
            started = perf_counter()
            await subjects[name]()
            measured[name].append(perf_counter() - started)
        order.append(order.pop(0))
    return measured


def test_the_load_of_a_long_run(table: Table, tmp_path: Path) -> None:
    entries = [encode(entry) for entry in conversation(TURNS)]

    async def measure() -> dict[str, list[float]]:
        store = FilesystemStorage(tmp_path)
        await store.append("run", entries)
        file = tmp_path / "run" / "00000000.jsonl"

        async def bare() -> None:
            content = await anyio.to_thread.run_sync(file.read_bytes)
            for line in content.splitlines():
                json.loads(line)

        async def read() -> None:
            await store.read("run")

        async def load() -> None:
            fold([decode(each) for each in await store.read("run")])

        async def decoded() -> None:
            fold([decode(each) for each in entries])

        named: dict[str, Subject] = {
            name: awaited(work, perf_counter)
            for name, work in (
                ("bare", bare),
                ("read", read),
                ("load", load),
                ("decode", decoded),
            )
        }
        return await interleave(named, rounds=9)

    measured = anyio.run(measure)

    table.add(
        Row(
            what=f"to load a run of {TURNS:,} turns, against reading and parsing its JSON",
            measured=ratio(measured["load"], measured["bare"]),
            form="{:.2f} ×",
            reach=2,
        ),
        Row(
            what="of it, to read and check the files",
            measured=ratio(measured["read"], measured["bare"]),
            form="{:.2f} ×",
        ),
        Row(
            what="of it, to decode and fold the entries",
            measured=ratio(measured["decode"], measured["bare"]),
            form="{:.2f} ×",
        ),
    )


def test_the_storage_of_pauses(table: Table, tmp_path: Path) -> None:
    random = Random(3)
    raw = 0

    async def write() -> None:
        nonlocal raw
        async with FilesystemStorage(tmp_path, compress=False) as store:
            token = await store.claim("run", owner="a", lease_s=600)
            for number in range(PAUSES):
                content = text(random, OUTPUT_BYTES)
                raw += len(content)
                finished = ToolFinished(
                    seq=2 * number,
                    at=1.5,
                    call_id=f"call{number}",
                    name="search",
                    success=True,
                    approved=True,
                    content=content,
                    error_code="",
                    duration_ms=1.5,
                )
                paused = Paused(seq=2 * number + 1, at=1.5)
                await store.append("run", [encode(finished), encode(paused)], token=token)

    anyio.run(write)

    table.add(
        Row(
            what=f"storage of {PAUSES} pauses with outputs of 10 KB, against the outputs",
            measured=disk_bytes(tmp_path) / raw,
            form="{:.2f} ×",
            reach=1.3,
        )
    )


def test_the_storage_of_a_chat_that_ended(table: Table, tmp_path: Path) -> None:
    entries = [encode(entry) for entry in conversation(TURNS // 4)]
    last = encode(RunEnded(seq=len(entries), at=2.0, status="completed"))

    async def write() -> None:
        for compress in (True, False):
            path = tmp_path / str(compress)
            async with FilesystemStorage(path, compress=compress) as store:
                token = await store.claim("run", owner="a", lease_s=600)
                await store.append("run", [*entries, last], token=token)
                await store.claim("run", owner="a", lease_s=0)

    anyio.run(write)

    packed = disk_bytes(tmp_path / "True") / disk_bytes(tmp_path / "False")
    table.add(
        Row(
            what="storage of a chat that ended, packed, against not packed",
            measured=packed,
            form="{:.2f} ×",
            reach=0.4,
        )
    )


def disk_bytes(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def test_a_fork(table: Table, tmp_path: Path) -> None:
    async def measure() -> dict[str, list[float]]:
        store = FilesystemStorage(tmp_path)
        for name, length in (("few", 10), ("many", 10_000)):
            for first in range(0, length, 10):  # the last append is read whole
                some = [noted(seq, "x" * 100) for seq in range(first, first + 10)]
                await store.append(name, some)
        made = 0

        def forking(name: str, length: int) -> Callable[[], Awaitable[None]]:
            async def fork() -> None:
                nonlocal made
                made += 1
                await store.fork(name, length=length, new_run_id=f"fork{made}")

            return fork

        return await in_turns(
            {"few": forking("few", 10), "many": forking("many", 10_000)}, rounds=25
        )

    measured = anyio.run(measure)

    table.add(
        Row(
            what="a fork of 10,000 entries in files, against one of 10",
            measured=ratio(measured["many"], measured["few"]),
            form="{:.2f} ×",
            reach=1.3,
        )
    )


def test_the_list_of_runs(table: Table, tmp_path: Path) -> None:
    runs = 300

    async def measure() -> dict[str, list[float]]:
        store = FilesystemStorage(tmp_path)
        for number in range(runs):
            await store.append(f"run{number}", [noted(seq, "x" * 100) for seq in range(20)])

        def first_and_last() -> None:
            for number in range(runs):
                content = (tmp_path / f"run{number}" / "00000000.jsonl").read_bytes()
                lines = content.splitlines()
                for line in (lines[0], lines[-1]):
                    zlib.crc32(line)
                    json.loads(line)

        async def bare() -> None:
            await anyio.to_thread.run_sync(first_and_last)

        async def listed() -> None:
            await store.runs(limit=runs)

        named = {
            "bare": awaited(bare, perf_counter),
            "listed": awaited(listed, perf_counter),
        }
        return await interleave(named, rounds=9)

    measured = anyio.run(measure)

    table.add(
        Row(
            what=f"to list {runs} runs, against reading the first and last line of each",
            measured=ratio(measured["listed"], measured["bare"]),
            form="{:.2f} ×",
        )
    )
