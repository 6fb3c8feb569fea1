"""What the plugin `direct` adds to httpx, which it asks with."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import anyio
import httpx
import pytest
from kaizen import Message, ModelRequest
from kaizen_direct._endpoints import PRESETS
from kaizen_direct._keys import Keys
from kaizen_direct._provider import DirectProvider

from tests.benchmarks._measure import awaited, interleave, ratio
from tests.benchmarks._processes import Processes, Program
from tests.benchmarks._table import Row, Table
from tests.wire.apart import serving_apart

ROOT = Path(__file__).parents[2]
STREAMS = 500
ASKED = (
    Message(role="system", content="You answer in few words. " * 8),
    Message(role="user", content="What is told here? " * 8),
)
REQUEST = ModelRequest(messages=ASKED)
BODY = {
    "model": "gpt-4o-mini",
    "messages": [{"role": each.role, "content": each.content} for each in ASKED],
}
STREAM = BODY | {"stream": True, "stream_options": {"include_usage": True}}

KERNEL = """
import kaizen
kaizen.Kernel, kaizen.Provider, kaizen.BaseProvider, kaizen.ModelRequest
"""
FIRST_CALL = """
import kaizen_direct
import kaizen_direct._openai
import httpx
"""
AT_ONCE = """
import anyio
from dataclasses import replace
from kaizen import Message, ModelDelta, ModelRequest
from kaizen_direct._endpoints import PRESETS
from kaizen_direct._keys import Keys
from kaizen_direct._provider import DirectProvider

request = ModelRequest(messages=(Message(role="user", content="Hi"),))
pieces = [f"piece {{number}} " for number in range(60)]

async def main():
    open_now = 0
    everybody = anyio.Event()
    endpoint = replace(PRESETS["vllm"], base_url="{url}/v1", model="m")
    async with DirectProvider(endpoint, keys=Keys({{"VLLM_API_KEY": "wire-key"}})) as asked:
        async def read():
            nonlocal open_now
            found = []
            async for piece in asked.stream(request):
                if isinstance(piece, ModelDelta) and piece.text:
                    found.append(piece.text)
                if len(found) == 30 and not everybody.is_set():
                    open_now += 1
                    if open_now == {streams}:
                        everybody.set()
                    await everybody.wait()
            assert found == pieces

        async with anyio.create_task_group() as tasks:
            for _ in range({streams}):
                tasks.start_soon(read)

anyio.run(main)
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server in a process of its own."""
    with serving_apart() as address:
        yield address


@asynccontextmanager
async def both(url: str) -> AsyncGenerator[tuple[DirectProvider, httpx.AsyncClient]]:
    """The plugin, and a client of httpx that is set up in the same way."""
    endpoint = replace(PRESETS["openai"], base_url=f"{url}/v1")
    keys = Keys({"OPENAI_API_KEY": "wire-key"})
    headers = {"authorization": "Bearer wire-key"}
    async with (
        DirectProvider(endpoint, keys=keys) as provider,
        httpx.AsyncClient(base_url=f"{url}/v1", headers=headers, trust_env=False) as client,
    ):
        yield provider, client


def test_a_call(table: Table, url: str) -> None:
    async def measure() -> dict[str, list[float]]:
        async with both(url) as (provider, client):

            async def raw() -> None:
                response = await client.post("/chat/completions", json=BODY)
                response.raise_for_status()
                assert response.json()["choices"][0]["message"]["content"]

            async def ours() -> None:
                assert (await provider.complete(REQUEST)).text

            async def raw_stream() -> None:
                sent = client.stream("POST", "/chat/completions", json=STREAM)
                async with sent as response:
                    found = [
                        json.loads(line[6:])
                        async for line in response.aiter_lines()
                        if line.startswith("data: {")
                    ]
                assert len(found) > 60

            async def our_stream() -> None:
                assert len([piece async for piece in provider.stream(REQUEST)]) >= 61

            subjects = {
                "raw": awaited(raw),
                "ours": awaited(ours),
                "raw stream": awaited(raw_stream),
                "our stream": awaited(our_stream),
            }
            return await interleave(subjects, rounds=15, at_least_s=0.1)

    measured = anyio.run(measure)

    table.add(
        Row(
            what="direct: CPU of a call, to the same with httpx and JSON",
            measured=ratio(measured["ours"], measured["raw"]),
            form="{:.2f} ×",
            reach=1.3,
        ),
        Row(
            what="direct: CPU of a stream of 60 chunks, to the same with httpx and JSON",
            measured=ratio(measured["our stream"], measured["raw stream"]),
            form="{:.2f} ×",
            reach=1.3,
        ),
    )


def test_the_first_import(table: Table, processes: Processes) -> None:
    programs = {
        "httpx": Program("import httpx"),
        "first call": Program(FIRST_CALL, prepare=KERNEL),
        "plugin": Program("import kaizen_direct", prepare=KERNEL),
        "everything": Program(KERNEL + FIRST_CALL),
    }

    samples = processes.interleave(programs, rounds=7)

    cpu = {name: [each.cpu_s for each in found] for name, found in samples.items()}
    table.add(
        Row(
            what="direct: all that a first call imports, beside the kernel; to httpx",
            measured=ratio(cpu["first call"], cpu["httpx"]),
            form="{:.2f} ×",
            reach=1.5,
        ),
        Row(
            what="the same with the kernel and pydantic",
            measured=ratio(cpu["everything"], cpu["httpx"]),
            form="{:.2f} ×",
        ),
        Row(
            what="`import kaizen_direct`, beside the kernel; to httpx",
            measured=ratio(cpu["plugin"], cpu["httpx"]),
            form="{:.2f} ×",
        ),
    )


def test_streams_at_once(table: Table, processes: Processes, url: str) -> None:
    programs = {
        "one": Program(AT_ONCE.format(url=url, streams=1)),
        "many": Program(AT_ONCE.format(url=url, streams=STREAMS)),
    }

    samples = processes.interleave(programs, rounds=3)

    peak = {
        name: median(each.peak_bytes for each in found) for name, found in samples.items()
    }
    table.add(
        Row(
            what=f"direct: memory of each of {STREAMS} streams at once, no chunk lost",
            measured=(peak["many"] - peak["one"]) / (STREAMS - 1) / 1000,
            form="{:.0f} KB",
            reach=100,
        )
    )
