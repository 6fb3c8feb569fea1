"""What holds for streams through `direct` holds for those through litellm.

Cut at every place, they are read whole and once; five hundred at once lose nothing and
need little.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kaizen import BaseAgent

from tests.wire.apart import serving_apart
from tests.wire.server import Answer, WireServer

from .test_fail_over import (
    CHUNKS,
    CONTINUES,
    RESTARTS,
    WHOLE,
    both_were_paid,
    connected,
    cut,
    read,
)

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
STREAMS, PIECES = 500, 12
MOST_KB = 100
AT_ONCE = """
import sys
import anyio
from kaizen import Kernel, Message, ModelDelta, ModelRequest, Provider

url, streams, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pieces = [f"piece {number} " for number in range(count)]
request = ModelRequest(
    messages=(Message(role="user", content="Hi"),), model="gpt-4o-mini"
)

def peak_kb():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

async def read_at_once(provider, count):
    open_now, everybody = 0, anyio.Event()

    async def read():
        nonlocal open_now
        found = []
        async for piece in provider.stream(request):
            if isinstance(piece, ModelDelta) and piece.text:
                found.append(piece.text)
            if len(found) == len(pieces) // 2 and not everybody.is_set():
                open_now += 1
                if open_now == count:
                    everybody.set()
                await everybody.wait()
        assert found == pieces, found

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(read)
    assert open_now == count

async def main():
    environ = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "wire-key"}
    async with Kernel(plugins=["litellm"], config_file=False, environ=environ) as kernel:
        provider = await kernel.get(Provider, "openai")
        await read_at_once(provider, 1)
        one = peak_kb()
        await read_at_once(provider, streams)
        print((peak_kb() - one) / (streams - 1))

anyio.run(main)
"""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as litellm does."""
    return "asyncio"


@pytest.fixture
def wire() -> Iterator[WireServer]:
    with WireServer() as server:
        yield server


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a server in a process of its own."""
    with serving_apart("--chunks", str(PIECES)) as address:
        yield address


@pytest.mark.timeout(115)
@pytest.mark.parametrize(
    ("first", "second"),
    [(CONTINUES, RESTARTS), (RESTARTS, CONTINUES)],
    ids=["restarts", "continues"],
)
async def test_another_provider_takes_over_after_a_cut_at_any_chunk(
    wire: WireServer, first: str, second: str
) -> None:
    whole = 0
    async with connected(wire, plugin="litellm", retries=0, fallbacks=[second]) as kernel:
        agent = BaseAgent({"model": first}, "question -> answer", kernel=kernel)
        wire.say(Answer(chunks=CHUNKS))
        await agent.run(question="Tell me.")  # which imports litellm
        for at in range(61):
            wire.say(cut(at, inside=bool(at % 2)), Answer(chunks=CHUNKS))
            seen = await read(agent)

            assert seen.text == WHOLE
            assert seen.result.answer == WHOLE
            (switch,) = seen.switches
            assert f"{switch.from_provider}/{switch.from_model}" == first
            assert f"{switch.provider}/{switch.model}" == second
            goes_on = second == CONTINUES and not "".join(CHUNKS[:at])[-1:].isspace()
            assert at == 0 or switch.restarts is not goes_on
            assert both_were_paid(seen)
            whole += 1
    assert whole == 61
    assert [each.provider for each in wire.requests[1:3]] == [
        each.partition("/")[0] for each in (first, second)
    ]
    await wire.closed()


@pytest.mark.timeout(115)  # litellm is imported, in a process of its own
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_hundreds_of_streams_at_once_lose_nothing_and_need_little(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, url, str(STREAMS), str(PIECES)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= MOST_KB
