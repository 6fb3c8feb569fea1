"""What a question and its answer cost, and what a server with many readers does."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import IO

import anyio
from anyio.abc import TaskGroup
from kaizen import PendingRequest
from kaizen_control import ControlProtocol, MemoryTransport

from tests.benchmarks._measure import awaited, interleave, ratio, unit
from tests.benchmarks._table import Row, Table

CLIENTS = 1_000
EVENTS = 100
CROWD = Path(__file__).parents[1] / "plugins" / "control" / "many_clients.py"
TOKEN = "t" * 40
SERVER = textwrap.dedent("""
    import gc, sys
    from pathlib import Path
    import anyio, anyio.lowlevel
    from kaizen_control import HTTPTransport, ProgressMessage


    def say(word):
        sys.stdout.write(f"{word}\\n")
        sys.stdout.flush()


    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096


    async def main(token):
        transport = HTTPTransport(token=token)
        async with transport.opened():
            say(transport.url.rstrip("/").rpartition(":")[2])
            while word := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
                if word == "memory":
                    say(resident())
                for number in range(int(word) if word.isdigit() else 0):
                    text = "end" if number == int(word) - 1 else "x" * 100
                    await transport.send(ProgressMessage(message=text))
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()


    anyio.run(main, sys.argv[1])
""")


class Questions:
    """A channel over memory, and somebody who answers everything."""

    def __init__(self) -> None:
        self.transport = MemoryTransport()
        self.protocol = ControlProtocol(self.transport)
        self._numbers = count()

    async def answer_all(self) -> None:
        async for request in self.transport:
            await self.transport.answer(request, text="yes")

    async def ask(self) -> None:
        request = PendingRequest(
            id=f"run:ask_{next(self._numbers)}", kind="question", text="Go on?"
        )
        assert (await self.protocol.ask(request)).text == "yes"


def test_a_question_and_its_answer(table: Table) -> None:
    async def measure(tasks: TaskGroup, questions: Questions) -> dict[str, list[float]]:
        tasks.start_soon(questions.answer_all)
        return await interleave({"unit": unit, "ask": awaited(questions.ask)})

    async def main() -> dict[str, list[float]]:
        questions = Questions()
        async with questions.protocol, anyio.create_task_group() as tasks:
            measured = await measure(tasks, questions)
            tasks.cancel_scope.cancel()
        return measured

    measured = anyio.run(main)

    table.saw_unit(measured["unit"])
    table.add(
        Row(
            what="control: a question and its answer, over memory",
            measured=ratio(measured["ask"], measured["unit"]),
        )
    )


def test_a_server_with_a_thousand_readers(table: Table) -> None:
    with running("-c", SERVER, TOKEN) as server:
        port = said(server)
        tell(server, "memory")
        before = int(said(server))
        crowd_arguments = (str(CROWD), port, TOKEN, str(CLIENTS), "0")
        with running(*crowd_arguments) as crowd:
            assert said(crowd) == "ready"
            tell(server, "memory")
            after = int(said(server))
            started = perf_counter()
            tell(server, str(EVENTS))
            seen = json.loads(said(crowd))
            took = perf_counter() - started

    assert seen == [[list(range(EVENTS + 1)), CLIENTS]]
    table.add(
        Row(
            what=f"control: an event to one of {CLIENTS:,} readers over HTTP",
            measured=took / (EVENTS * CLIENTS) * 1e6,
            form="{:.0f} µs",
            reach=250,
        ),
        Row(
            what="of it, memory for each reader",
            measured=(after - before) / CLIENTS / 1024,
            form="{:.1f} KB",
            reach=30,
        ),
    )


@contextmanager
def running(*command: str) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    stream: IO[str] | None = process.stdout
    assert stream is not None
    return stream.readline().strip()


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
