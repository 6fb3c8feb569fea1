"""Connections are shared, closed, and opened in one event loop, which is asyncio's."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest
from kaizen import ModelConnectionError, ModelDelta, ModelError, ModelReply, Provider
from kaizen_litellm import LitellmPlugin

from tests.wire.script import FaultKind
from tests.wire.server import Answer, Fault, WireServer

from .conftest import (
    WAYS,
    Opened,
    answered,
    asking,
    environment,
    kernel_for,
    streamed,
    table,
)

each_way = pytest.mark.parametrize(
    "way", ["openai", "azure", "azure_ai", "anthropic", "google", "ollama", "cohere"]
)


@pytest.mark.anyio
@each_way
async def test_calls_one_after_the_other_share_a_connection(
    wire: WireServer, opened: Opened, way: str
) -> None:
    async with opened(way) as provider:
        for _ in range(3):
            await provider.complete(asking())
            await streamed(provider, asking())
        assert wire.open_connections == 1

    await wire.closed()


@pytest.mark.anyio
@each_way
async def test_all_that_is_sent_goes_out_by_our_connections(
    wire: WireServer, opened: Opened, way: str
) -> None:
    async with opened(way) as provider:
        await provider.complete(asking())
        await streamed(provider, asking())
        if way not in ("anthropic", "azure_ai"):
            await provider.embed(["a"], model="embedder")

    assert {each.headers["accept-encoding"] for each in wire.requests} == {"identity"}


@pytest.mark.anyio
@each_way
async def test_a_stream_that_is_left_closes_its_connection(
    wire: WireServer, opened: Opened, way: str
) -> None:
    wire.say(Answer(chunks=["a "] * 50, fault=Fault("hang_between", at=20)))

    async with opened(way) as provider:
        stream = provider.stream(asking())
        async for piece in stream:
            assert isinstance(piece, ModelDelta)
            break
        await stream.aclose()
        await wire.closed()


@pytest.mark.anyio
@each_way
@pytest.mark.parametrize("kind", ["hang_headers", "hang_first", "hang_between"])
async def test_a_request_that_is_cancelled_closes_its_connection(
    wire: WireServer, opened: Opened, way: str, kind: FaultKind
) -> None:
    async with opened(way) as provider:
        for stream in (True, False):
            wire.say(Answer("Hello there", fault=Fault(kind, at=1)))
            arrived = len(wire.requests) + 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(answered, provider, asking(), stream=stream))
                await wire.arrived(arrived)
                tasks.cancel_scope.cancel()
            await wire.closed()


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_can_be_cancelled_at_every_step(
    wire: WireServer, opened: Opened, stream: bool
) -> None:
    async with opened() as provider:
        await provider.complete(asking())
        for steps in range(30):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(partial(answered, provider, asking(), stream=stream))
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
    await wire.closed()


@pytest.mark.anyio
async def test_no_task_is_left_behind(wire: WireServer, opened: Opened) -> None:
    async with opened() as provider:
        before = asyncio.all_tasks()
        for stream in (False, True):
            await answered(provider, asking(), stream=stream)
            await only(before)
            wire.say(Fault("rate_limit"))
            with pytest.raises(ModelError):
                await answered(provider, asking(), stream=stream)
            await only(before)


async def only(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait until there are no other tasks: generators that were dropped take a moment."""
    with anyio.fail_after(5):
        while asyncio.all_tasks() != tasks:
            await anyio.lowlevel.checkpoint()


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
            for number in range(40):
                tasks.start_soon(read, number)

    await wire.closed()
    for number in range(40):
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
async def test_two_kernels_share_no_connection(wire: WireServer, opened: Opened) -> None:
    async with opened() as first:
        await first.complete(asking())
        async with opened() as second:
            await second.complete(asking())
            assert wire.open_connections == 2
        await first.complete(asking())
        assert wire.open_connections == 1


@pytest.mark.anyio
async def test_a_provider_that_was_closed_opens_no_connection(
    wire: WireServer, opened: Opened
) -> None:
    async with opened() as provider:
        await provider.complete(asking())

    with pytest.raises(ModelError, match="is closed"):
        await provider.complete(asking())
    await wire.closed()


@pytest.mark.anyio
async def test_a_provider_belongs_to_one_event_loop(opened: Opened) -> None:
    async with opened() as provider:
        await provider.complete(asking())

        async def elsewhere() -> str:
            with pytest.raises(ModelError) as caught:
                await provider.complete(asking())
            return str(caught.value)

        with ThreadPoolExecutor(1) as pool:
            said = await anyio.to_thread.run_sync(
                lambda: pool.submit(anyio.run, elsewhere).result()
            )

    assert "another event loop" in said


def test_every_event_loop_of_asyncio_gets_clients_of_its_own(wire: WireServer) -> None:
    for _ in range(3):
        assert asyncio.run(once(wire)).text


def test_on_trio_it_says_where_litellm_runs(wire: WireServer) -> None:
    with pytest.raises(ModelError, match="runs on asyncio alone") as caught:
        anyio.run(once, wire, backend="trio")

    assert not caught.value.retryable
    assert "`direct`" in caught.value.remedy
    assert not wire.requests


async def once(wire: WireServer) -> ModelReply:
    way = WAYS["openai"]
    settings: dict[str, Any] = {"providers": {"openai": table(wire, way)}}
    async with kernel_for(settings, environment(wire, way)) as kernel:
        provider = await kernel.get(Provider, "openai")  # type: ignore[type-abstract]
        return await provider.complete(asking())


def test_the_plugin_is_the_one_that_is_installed() -> None:
    from importlib.metadata import entry_points

    (found,) = entry_points(group="kaizen.plugins", name="litellm")
    assert found.load() is LitellmPlugin
