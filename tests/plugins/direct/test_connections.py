"""Connections are shared, closed, and opened in one event loop."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from kaizen import ModelConnectionError, ModelDelta, ModelError
from kaizen_direct._endpoints import PRESETS
from kaizen_direct._keys import Keys
from kaizen_direct._provider import DirectProvider

from tests.wire.server import Answer, Fault, WireServer

from .conftest import Opened, answered, asking, streamed

SILENT = """
import sys
import anyio
from kaizen import Kernel, Provider
import kaizen_direct

async def start():
    async with Kernel(plugins=["direct"], config_file=False, environ={}) as kernel:
        provider = await kernel.get(Provider, "openai")
        provider.describe("gpt-4o")
        await kernel.available(Provider)

anyio.run(start)
print([name for name in ("httpx", "dotenv") if name in sys.modules])
"""


@pytest.mark.anyio
async def test_calls_one_after_the_other_share_a_connection(
    wire: WireServer, opened: Opened
) -> None:
    async with opened() as provider:
        for _ in range(5):
            await provider.complete(asking())
            await streamed(provider, asking())
            await provider.embed(["a"])
        assert wire.open_connections == 1

    await wire.closed()


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["openai", "anthropic", "ollama"])
async def test_a_stream_that_is_left_closes_its_connection(
    wire: WireServer, opened: Opened, way: str
) -> None:
    wire.say(Answer(chunks=["a"] * 50, fault=Fault("hang_between", at=20)))

    async with opened(way) as provider:
        stream = provider.stream(asking())
        async for piece in stream:
            assert isinstance(piece, ModelDelta)
            break
        await stream.aclose()
        await wire.closed()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["hang_headers", "hang_first", "hang_between"])
async def test_a_request_that_is_cancelled_closes_its_connection(
    wire: WireServer, opened: Opened, kind: str
) -> None:
    async with opened() as provider:
        for stream in (True, False):
            wire.say(Answer("Hello there", fault=Fault(kind, at=1)))  # type: ignore[arg-type]
            arrived = len(wire.requests) + 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(answered, provider, asking(), stream=stream))
                await wire.arrived(arrived)
                tasks.cancel_scope.cancel()
            await wire.closed()


@pytest.mark.anyio
async def test_a_request_that_is_cancelled_while_it_is_sent_leaves_nothing_unfinished(
    opened: Opened,
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:  # takes the connection and reads nothing
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with opened(base_url=url) as provider:
            with anyio.move_on_after(0.5) as waiting:
                await provider.complete(asking("much " * 4_000_000))
            gc.collect()  # a generator that is not finished is warned of here
            await anyio.lowlevel.checkpoint()

    assert waiting.cancelled_caught


@pytest.mark.anyio
async def test_many_streams_at_once_lose_nothing_and_mix_nothing(
    wire: WireServer, opened: Opened
) -> None:
    wire.otherwise = lambda request: Answer(
        chunks=[f"{request.prompt}:{number} " for number in range(20)]
    )
    texts: dict[int, str] = {}

    async with opened() as provider:

        async def read(number: int) -> None:
            texts[number], _ = await streamed(provider, asking(str(number)))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(read, number)

    await wire.closed()
    for number in range(100):
        assert texts[number] == "".join(f"{number}:{piece} " for piece in range(20))


@pytest.mark.anyio
async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(
    wire: WireServer, opened: Opened
) -> None:
    async with opened() as provider:
        wire.say(Fault("reset"), "Hello")
        with pytest.raises(ModelConnectionError):
            await provider.complete(asking())
        assert (await provider.complete(asking())).text == "Hello"


@pytest.mark.anyio
async def test_a_provider_belongs_to_one_event_loop(wire: WireServer) -> None:
    provider = DirectProvider(
        PRESETS["vllm"], keys=Keys({"OPENAI_BASE_URL": wire.base_url("local")})
    )

    async def elsewhere() -> ModelError:
        with pytest.raises(ModelError) as caught:
            await provider.complete(asking(model="m"))
        return caught.value

    async with provider:
        first = await elsewhere()
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(anyio.run, elsewhere).result()

    assert isinstance(first, ModelConnectionError)
    assert "another event loop" in str(second)


@pytest.mark.anyio
async def test_a_provider_that_was_closed_opens_no_connection(
    wire: WireServer, opened: Opened
) -> None:
    async with opened() as provider:
        await provider.complete(asking())

    with pytest.raises(ModelError, match="is closed"):
        await provider.complete(asking())
    await wire.closed()


IN_A_THREAD = """
import sys, threading
import anyio

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "httpx":
            print(threading.current_thread() is threading.main_thread())

sys.meta_path.insert(0, Watch())

from kaizen import Kernel, Message, ModelError, ModelRequest, Provider

async def ask():
    settings = {"direct": {"endpoints": {"vllm": {"base_url": "http://127.0.0.1:1/v1"}}}}
    async with Kernel(
        plugins=["direct"], config_file=False, environ={}, settings=settings
    ) as kernel:
        provider = await kernel.get(Provider, "vllm")
        try:
            await provider.complete(ModelRequest(messages=(), model="m"))
        except ModelError as error:
            print(error.problem)

anyio.run(ask)
"""


def test_the_first_call_imports_in_a_thread_and_holds_nothing_up() -> None:
    assert printed(IN_A_THREAD) == "False\ncannot be reached"


def test_nothing_heavy_is_imported_before_the_first_call() -> None:
    assert printed(SILENT) == "[]"


def printed(code: str) -> str:
    """Return what code prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    return done.stdout.strip()
