"""Time limits and cancellation hold whatever litellm is waiting for."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import pytest
from kaizen import ConfigurationError, ModelReply, ModelTimeoutError, Provider
from kaizen_litellm._line import Line

from tests.wire.server import WireServer

from .conftest import Opened, answered, asking, within
from .raw import RawServer, asked_at, completion, http

pytestmark = pytest.mark.anyio

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def embedded(provider: Provider) -> object:
    return await provider.embed(["a"], model="embedder")


CALLS: dict[str, Callable[[Provider], Any]] = {
    "whole": partial(answered, request=asking(), stream=False),
    "stream": partial(answered, request=asking(), stream=True),
    "embed": embedded,
}


@asynccontextmanager
async def full_executor() -> AsyncGenerator[Callable[[], None]]:
    """Keep all threads of asyncio's own busy, until what this gives is called."""
    done, loop = Event(), asyncio.get_running_loop()
    waiting = [loop.run_in_executor(None, done.wait, 30) for _ in range(40)]
    try:
        yield done.set
    finally:
        done.set()
        await asyncio.gather(*waiting)


@both_ways
async def test_a_call_ends_in_its_time_though_no_thread_is_free_for_it(
    wire: WireServer, opened: Opened, stream: bool
) -> None:
    async with opened() as provider:
        await provider.complete(asking())
        async with full_executor():
            with anyio.fail_after(5), pytest.raises(ModelTimeoutError):
                await answered(provider, asking(settings=within(0.2)), stream=stream)

    assert len(wire.requests) == 1


@pytest.mark.parametrize("kind", CALLS)
async def test_a_call_is_cancelled_at_once_though_no_thread_is_free_for_it(
    wire: WireServer, opened: Opened, kind: str
) -> None:
    async with opened() as provider:
        await provider.complete(asking())
        async with full_executor() as free:
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(CALLS[kind], provider)
                    await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            free()
            again = await provider.complete(asking())

    assert again.text
    assert len(wire.requests) == 2


@pytest.mark.parametrize("way", ["openai", "anthropic", "cohere"])
@pytest.mark.parametrize("kind", ["whole", "stream"])
@pytest.mark.parametrize("ready", [True, False])
async def test_what_was_prepared_for_a_call_that_is_gone_is_put_away(
    wire: WireServer,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    kind: str,
    ready: bool,
) -> None:
    async with opened(way) as provider:
        await CALLS[kind](provider)
        from kaizen_litellm._loaded import litellm

        held, go_on = Event(), Event()
        prepare = litellm.main.completion

        def slow(*given: Any, **options: Any) -> Any:
            made = prepare(*given, **options) if ready else None
            held.set()
            go_on.wait(10)
            return made or prepare(*given, **options)

        monkeypatch.setattr(litellm.main, "completion", slow)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(CALLS[kind], provider)
            await anyio.to_thread.run_sync(held.wait, 10)
            tasks.cancel_scope.cancel()
        go_on.set()
        await asyncio.get_running_loop().shutdown_default_executor()

    gc.collect()  # of what was never awaited it would warn here, which is an error
    assert len(wire.requests) == 1


@both_ways
async def test_the_time_of_a_call_holds_while_litellm_is_imported(
    opened: Opened, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported, make = Event(), Line._make

    def slow(line: Line) -> Any:
        imported.wait(10)
        return make(line)

    monkeypatch.setattr(Line, "_make", slow)
    async with opened() as provider:
        with anyio.fail_after(5), pytest.raises(ModelTimeoutError):
            await answered(provider, asking(settings=within(0.1)), stream=stream)
        imported.set()
        assert (await provider.complete(asking())).text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ca_file": "/nowhere/at/all.pem"}, "`ca_file`"),
        ({"ca_file": __file__}, "`ca_file`"),
        ({"proxy": "ftp://me:pa55@127.0.0.1:1"}, "`proxy`"),
        ({"proxy": "socks5://me:pa55@127.0.0.1:1"}, "`proxy`"),
    ],
)
async def test_connections_that_cannot_be_set_up_say_which_setting_is_wrong(
    opened: Opened, settings: dict[str, Any], said: str
) -> None:
    async with opened(settings=settings) as provider:
        with pytest.raises(ConfigurationError, match=said) as caught:
            await provider.complete(asking())

    assert "pa55" not in repr(caught.value.args)
    assert caught.value.__cause__ is caught.value.__context__ is None


async def test_certificates_of_a_file_are_taken(tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(
        "".join(
            ssl.DER_cert_to_PEM_cert(each)
            for each in ssl.create_default_context().get_ca_certs(binary_form=True)[:1]
        )
    )

    with RawServer(http(completion())) as server:
        async with asked_at(server, settings={"ca_file": str(trusted)}) as provider:
            reply: ModelReply = await provider.complete(asking())

    assert reply.text == "hi"
