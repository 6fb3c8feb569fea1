"""Ten thousand calls, a fifth of which go wrong on the wire in every way there is.

Whatever happens, an answer is the right one or there is none, a failure is one of ours,
nothing hangs, and no connection stays behind. Both ends have a process of their own; the
server is `python -m tests.integration.test_chaos SEED`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from subprocess import PIPE
from typing import Any, Literal, get_args

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from kaizen import BaseAgent, Kernel
from kaizen.errors import KaizenError
from kaizen.runlog import ModelSwitched, TextDelta

from tests.wire.script import FaultKind, Request
from tests.wire.server import Answer, Fault, WireServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(110)]

CALLS = int(os.environ.get("KAIZEN_CHAOS_CALLS", "2500"))
PARTS = (("asyncio", 1), ("trio", 2), ("asyncio", 3), ("trio", 4))
AT_A_TIME = 48
MOST_CONNECTIONS = 40
RATE = 0.2
ROOT = Path(__file__).parents[2]
LONGEST_CALL_S = 60
MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "ollama": "llama3.2",
}
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


def expected(question: str) -> list[str]:
    """Return the pieces of the one right answer to a question."""
    number = int(question)
    return [
        f"größe {number}",
        *(f" {number * step % 997}" for step in range(1, 6)),
        f"\n– {number} 🎉",
    ]


class Chaos:
    """Answers every question rightly, and lets a fifth of all requests fail.

    Attributes:
        faults: How often each kind of fault came up.
    """

    def __init__(self, seed: str) -> None:
        self.faults: Counter[str] = Counter()
        self._seed = seed

    def __call__(self, request: Request) -> Answer:
        number = request.prompt.split()[-1]
        answer = Answer(chunks=expected(number))
        if request.schema is not None:
            text = "".join(expected(number))
            answer = Answer(data={"said": text, "number": int(number)})
        random = Random(f"{self._seed}:{request.number}")
        if random.random() >= RATE:
            return answer
        kind = random.choice(KINDS)
        self.faults[kind] += 1
        fault = Fault(
            kind,
            at=random.randrange(7),
            inside=random.random() < 0.5,
            retry_after_s=random.choice([None, 0.01, 3_600]),
            size=300_000 if kind != "enormous" else 2 * 1024 * 1024,
        )
        return Answer(chunks=answer.chunks, data=answer.data, fault=fault)


class Callers:
    """Ask one question after the other, and keep account of what comes back."""

    def __init__(self, kernel: Kernel, questions: Iterator[int]) -> None:
        self.right = 0
        self.wrong: list[str] = []
        self.failures: Counter[str] = Counter()
        self.untyped: list[BaseException] = []
        self.hung = 0
        self._questions = questions
        self._texts = [
            BaseAgent({"llm_provider": name}, "question -> answer", kernel=kernel)
            for name in MODELS
        ]
        self._values = [
            BaseAgent(
                {"llm_provider": name, "stream": name == "openai"},
                "question -> said: str, number: int",
                kernel=kernel,
            )
            for name in MODELS
        ]

    async def work(self) -> None:
        """Ask until no question is left."""
        for number in self._questions:
            with anyio.move_on_after(LONGEST_CALL_S) as scope:
                try:
                    said = await self._ask(number)
                except KaizenError as error:
                    self.failures[type(error).__name__] += 1
                except Exception as error:  # noqa: BLE001 - there must be none
                    self.untyped.append(error)
                else:
                    self._judge(number, said)
            self.hung += scope.cancelled_caught

    def _judge(self, number: int, said: list[str]) -> None:
        right = "".join(expected(str(number)))
        if said == [right] * len(said):
            self.right += 1
        else:
            self.wrong.append(f"{number}: {said!r}")

    async def _ask(self, number: int) -> list[str]:
        """Ask in one of three ways; return all that has to be the answer."""
        agents = self._values if number % 3 == 2 else self._texts
        agent = agents[number // 3 % len(agents)]
        if number % 3 == 0:
            return await self._read(agent, number)
        result = await agent.run(question=str(number))
        return [result.answer if agents is self._texts else result.said]

    async def _read(self, agent: BaseAgent, number: int) -> list[str]:
        read = ""
        async with agent.stream(question=str(number)) as run:
            async for event in run:
                if isinstance(event, TextDelta):
                    read += event.text
                elif isinstance(event, ModelSwitched) and event.restarts:
                    read = ""
            return [read, (await run.wait()).answer]


class Server:
    """The other process.

    Attributes:
        places: Where clients of each provider find it.
        key: The key that it knows.
    """

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._said = BufferedByteReceiveStream(process.stdout)
        self.places: dict[str, str] = {}
        self.key = ""

    async def start(self) -> None:
        """Wait until it serves."""
        self.places, self.key = await self._line()

    async def report(self, state: Literal["quiet", "closed"]) -> Report:
        """Let it wait until no request, or no connection, is open; return how it stands."""
        assert self._process.stdin is not None
        await self._process.stdin.send(f"{state}\n".encode())
        return Report(**await self._line())

    async def _line(self) -> Any:
        with anyio.fail_after(20):
            return json.loads(await self._said.receive_until(b"\n", 100_000))


@dataclass(frozen=True, slots=True)
class Report:
    """How the server stands.

    Attributes:
        requests: How many came.
        faults: How often each kind of fault came up.
        connections: How many are open.
    """

    requests: int
    faults: dict[str, int]
    connections: int


@asynccontextmanager
async def serving(seed: int) -> AsyncGenerator[Server]:
    """Start the server, and stop it at the end."""
    command = [sys.executable, "-m", "tests.integration.test_chaos", str(seed)]
    async with await anyio.open_process(
        command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=None
    ) as process:
        server = Server(process)
        try:
            await server.start()
            yield server
        finally:
            process.terminate()


def serve() -> None:
    """Serve until nobody asks any more; report for each line that comes."""
    chaos = Chaos(sys.argv[1])
    with WireServer(otherwise=chaos) as wire:
        places = {name: wire.base_url(name) for name in MODELS}
        print(json.dumps([places, wire.key]), flush=True)  # noqa: T201
        for line in sys.stdin:
            anyio.run(wire.closed if line.startswith("closed") else wire.quiet)
            report = Report(len(wire.requests), dict(chaos.faults), wire.open_connections)
            print(json.dumps(asdict(report)), flush=True)  # noqa: T201


@asynccontextmanager
async def connected(server: Server) -> AsyncGenerator[Kernel]:
    """Start a kernel whose providers are all that server."""
    endpoints = {
        name: {"base_url": server.places[name], "model": model}
        for name, model in MODELS.items()
    }
    async with Kernel(
        plugins=["direct", "resilience"],
        settings={
            "direct": {"endpoints": endpoints, "dotenv": False, "max_reply_mb": 1},
            "resilience": {
                "retries": 2,
                "backoff_s": 0.01,
                "max_wait_s": 1,
                "timeout_s": 3,
                "first_token_s": 2,
                "between_tokens_s": 2,
                "fallbacks": list(MODELS),
                "circuit_open_s": 0.05,
                "limits": {"*": {"concurrency": MOST_CONNECTIONS}},
            },
        },
        config_file=False,
        environ={f"{name.upper()}_API_KEY": server.key for name in MODELS},
    ) as kernel:
        yield kernel


@pytest.mark.parametrize(("anyio_backend", "seed"), PARTS)
async def test_ten_thousand_calls_of_which_a_fifth_goes_wrong(seed: int) -> None:
    async with serving(seed) as server:
        async with connected(server) as kernel:
            callers = Callers(kernel, iter(range(CALLS)))
            async with anyio.create_task_group() as tasks:
                for _ in range(AT_A_TIME):
                    tasks.start_soon(callers.work)
            afterwards = await server.report("quiet")
        at_the_end = await server.report("closed")

    if "KAIZEN_CHAOS_CALLS" not in os.environ:  # with fewer, a kind may be missing
        assert len(PARTS) * CALLS == 10_000
        assert set(afterwards.faults) == set(KINDS)
    assert callers.wrong == []
    assert callers.untyped == []
    assert callers.hung == 0
    assert callers.right + callers.failures.total() == CALLS
    assert callers.right >= CALLS * 0.97
    assert sum(afterwards.faults.values()) > afterwards.requests * RATE * 0.9
    assert afterwards.connections <= MOST_CONNECTIONS * len(MODELS)
    assert at_the_end.connections == 0


if __name__ == "__main__":
    serve()
