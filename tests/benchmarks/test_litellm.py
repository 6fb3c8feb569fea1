"""What the plugin `litellm` adds to litellm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from kaizen import Kernel, Message, ModelRequest, Provider
from kaizen_litellm import LitellmPlugin

from tests.benchmarks._measure import awaited, interleave, ratio
from tests.benchmarks._processes import Processes, Program
from tests.benchmarks._table import Row, Table
from tests.wire.apart import serving_apart

ROOT = Path(__file__).parents[2]
ASKED = (
    Message(role="system", content="You answer in few words. " * 8),
    Message(role="user", content="What is told here? " * 8),
)
REQUEST = ModelRequest(messages=ASKED, model="gpt-4o-mini")

# litellm as its documentation has it, with no more than what keeps it off the network.
BARE = """
import os
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import anyio
import litellm

async def main():
    reply = await litellm.acompletion(
        model="openai/gpt-4o-mini",
        messages=[{{"role": "user", "content": "Hi"}}],
        api_base="{url}/v1",
        api_key="wire-key",
    )
    assert reply.choices[0].message.content

anyio.run(main)
"""
OURS = """
import time
import anyio
from kaizen import Kernel, Message, ModelRequest, Provider
from kaizen_litellm import LitellmPlugin

worst = 0.0

async def tick(task_status):
    global worst
    task_status.started()
    last = time.perf_counter()
    while True:
        await anyio.sleep(0.001)
        now = time.perf_counter()
        worst, last = max(worst, now - last), now

async def main():
    environ = dict(OPENAI_BASE_URL="{url}/v1", OPENAI_API_KEY="wire-key")
    request = ModelRequest(
        messages=(Message(role="user", content="Hi"),), model="gpt-4o-mini"
    )
    async with Kernel(
        plugins=[LitellmPlugin], discover=False, config_file=False, environ=environ
    ) as kernel:
        provider = await kernel.get(Provider, "openai")
        async with anyio.create_task_group() as tasks:
            if {watched}:
                await tasks.start(lambda *, task_status: tick(task_status))
            assert (await provider.complete(request)).text
            tasks.cancel_scope.cancel()

anyio.run(main)
if {watched}:
    print(worst)
"""
KERNEL = """
import kaizen
kaizen.Kernel, kaizen.Provider, kaizen.BaseProvider, kaizen.ModelRequest, kaizen.hookimpl
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server in a process of its own."""
    with serving_apart() as address:
        yield address


@asynccontextmanager
async def both(url: str) -> AsyncGenerator[tuple[Provider, Any, dict[str, Any]]]:
    """The plugin, litellm, and what litellm is given."""
    environ = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "wire-key"}
    async with Kernel(
        plugins=[LitellmPlugin], discover=False, config_file=False, environ=environ
    ) as kernel:
        provider = await kernel.get(Provider, "openai")  # type: ignore[type-abstract]
        await provider.complete(REQUEST)
        from kaizen_litellm._loaded import litellm

        litellm.disable_aiohttp_transport = False  # as it is by itself
        yield (
            provider,
            litellm,
            {
                "model": "openai/gpt-4o-mini",
                "messages": [
                    {"role": each.role, "content": each.content} for each in ASKED
                ],
                "api_base": f"{url}/v1",
                "api_key": "wire-key",
            },
        )
        for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
            await client.close()
        litellm.in_memory_llm_clients_cache.cache_dict.clear()


async def calls(url: str) -> dict[str, list[float]]:
    """Return what calls and streams took, of litellm and of the plugin, by round."""
    async with both(url) as (provider, litellm, options):

        async def bare() -> None:
            reply = await litellm.acompletion(**options)
            assert reply.choices[0].message.content

        async def ours() -> None:
            assert (await provider.complete(REQUEST)).text

        async def bare_stream() -> None:
            stream = await litellm.acompletion(
                **options, stream=True, stream_options={"include_usage": True}
            )
            assert len([chunk async for chunk in stream]) > 60

        async def our_stream() -> None:
            assert len([piece async for piece in provider.stream(REQUEST)]) >= 61

        subjects = {
            "bare": awaited(bare),
            "ours": awaited(ours),
            "bare stream": awaited(bare_stream),
            "our stream": awaited(our_stream),
        }
        return await interleave(subjects, rounds=15, at_least_s=0.2)


def test_a_call(table: Table, url: str) -> None:
    """In a process of its own, so that no benchmark pays for what others have imported."""
    program = f"""
import json, anyio
from tests.benchmarks.test_litellm import calls
print(json.dumps(anyio.run(calls, {url!r})))
"""
    measured = json.loads(printed(program))

    table.add(
        Row(
            what="litellm: CPU of a call, to `litellm.acompletion`",
            measured=ratio(measured["ours"], measured["bare"]),
            form="{:.2f} ×",
            reach=1.03,
        ),
        Row(
            what="litellm: CPU of a stream of 60 chunks, to the same with litellm",
            measured=ratio(measured["our stream"], measured["bare stream"]),
            form="{:.2f} ×",
            reach=1.03,
        ),
    )


def test_the_first_call(table: Table, processes: Processes, url: str) -> None:
    programs = {
        "bare": Program(BARE.format(url=url)),
        "ours": Program(OURS.format(url=url, watched=False), prepare=KERNEL),
    }

    samples = processes.interleave(programs, rounds=3)

    cpu = {name: [each.cpu_s for each in found] for name, found in samples.items()}
    table.add(
        Row(
            what="litellm: import and first call in a fresh process, to litellm's own",
            measured=ratio(cpu["ours"], cpu["bare"]),
            form="{:.2f} ×",
            reach=1.1,
        )
    )


def test_the_event_loop_goes_on(table: Table, url: str) -> None:
    stalls = [stall(url) for _ in range(3)]

    table.add(
        Row(
            what="litellm: the longest that a first call holds up the event loop",
            measured=median(stalls),
            form="{:.2f} s",
            reach=0.5,
        )
    )


def stall(url: str) -> float:
    """Return the longest time in a first call in which the event loop did nothing."""
    return float(printed(OURS.format(url=url, watched=True)))


def printed(program: str) -> str:
    """Return what a program prints in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=ROOT,
    )
    return done.stdout
