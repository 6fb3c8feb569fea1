"""The plugin in a kernel: which channels there are, and when they are opened."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from kaizen import (
    BaseAgent,
    Channel,
    CheckpointStore,
    ConfigurationError,
    Kernel,
    NotAnsweredError,
    PluginError,
    Registry,
    hookimpl,
)
from kaizen.testing import MemoryCheckpointStore, ModelPlugin, ScriptedModel
from kaizen_control import ControlPlugin

from tests.plugins.control._client import Client

pytestmark = pytest.mark.anyio


class StorePlugin:
    """Offers a store."""

    name = "stores"

    def __init__(self) -> None:
        self.store = MemoryCheckpointStore()

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(CheckpointStore, "memory", self.store)


@asynccontextmanager
async def running(
    *plugins: object, settings: dict[str, Any] | None = None, **config: Any
) -> AsyncGenerator[Kernel]:
    async with Kernel(
        plugins=[ModelPlugin(ScriptedModel()), ControlPlugin, *plugins],
        discover=False,
        settings={"control": settings or {}},
        config={"default_provider": "scripted", **config},
        config_file=False,
        environ={},
    ) as kernel:
        yield kernel


async def test_three_channels_are_offered_and_none_is_opened(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with running() as kernel:
        assert kernel.registry.names(Channel) == ("cli", "http", "stdio")

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_http_a_page_and_programs_answer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    answers: list[object] = []
    async with running(channel="http") as kernel, anyio.create_task_group() as tasks:
        agent = BaseAgent(signature="n -> answer", kernel=kernel)

        async def ask() -> None:
            answers.append(await agent.ask_user_question("How many?", answer_type=int))

        tasks.start_soon(ask)
        told = ""
        with anyio.fail_after(10):
            while "\n" not in told:
                await anyio.lowlevel.checkpoint()
                told += capsys.readouterr().err
        match = re.search(r"at http://127\.0\.0\.1:(\d+)/ with the token in (\S+)\n", told)
        assert match is not None
        token_path = anyio.Path(match[2])
        token = (await token_path.read_text(encoding="ascii")).strip()
        client = Client(int(match[1]), token)
        with anyio.fail_after(10):
            while not (found := (await client.get("/requests")).json["requests"]):
                pass

        reply = await client.answer(found[0]["id"], text="12")

        assert reply.status == 200
    assert answers == [12]
    assert not await token_path.exists()
    assert token not in told


async def test_without_a_terminal_the_channel_cli_refuses_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    async with running(channel="cli") as kernel:
        agent = BaseAgent(signature="n -> answer", kernel=kernel)

        assert not await agent.request_approval("Delete it?", {"tool": "delete"})
        with pytest.raises(NotAnsweredError, match="channel = 'http'"):
            await agent.ask_user_question("Which?")


async def test_answers_that_come_later_need_a_store() -> None:
    async with running(settings={"http_detached": True}) as kernel:
        with pytest.raises(ConfigurationError, match="checkpoint_store"):
            await kernel.get(Channel, "http")  # type: ignore[type-abstract]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_with_a_store_answers_may_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    async with running(
        StorePlugin(), settings={"http_detached": True}, checkpoint_store="memory"
    ) as kernel:
        channel = await kernel.get(Channel, "http")  # type: ignore[type-abstract]

    assert isinstance(channel, Channel)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_server_says_that_it_needs_asyncio() -> None:
    async with running() as kernel:
        with pytest.raises(ConfigurationError, match="runs on asyncio alone"):
            await kernel.get(Channel, "http")  # type: ignore[type-abstract]


@pytest.mark.parametrize(
    "settings",
    [
        {"http_port": -1},
        {"http_port": 65_536},
        {"http_auth": False},
        {"progress_interval": -1},
        {"http_detached": "perhaps"},
    ],
)
async def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="settings"):
        async with running(settings=settings):
            pass


async def test_a_server_that_would_be_open_to_others_is_refused() -> None:
    async with running(settings={"http_host": "0.0.0.0"}) as kernel:
        with pytest.raises(ConfigurationError, match="allowed_hosts"):
            await kernel.get(Channel, "http")  # type: ignore[type-abstract]


PROGRAM = """
    import sys
    import anyio
    from kaizen import BaseAgent, Kernel
    from kaizen.testing import ModelPlugin, ScriptedModel
    from kaizen_control import ControlPlugin

    async def main():
        async with Kernel(
            plugins=[ModelPlugin(ScriptedModel()), ControlPlugin],
            config={"default_provider": "scripted", "channel": "stdio"},
            config_file=False,
            environ={},
        ) as kernel:
            agent = BaseAgent(signature="n -> answer", kernel=kernel)
            answer = await agent.ask_user_question("Which?", ["left", "right"])
            sys.stderr.write(answer)

    anyio.run(main, backend=sys.argv[1])
"""


async def test_a_program_asks_whoever_started_it(anyio_backend: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), anyio_backend]
    async with await anyio.open_process(command, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        with anyio.fail_after(30):
            lines = BufferedByteReceiveStream(process.stdout)
            asked = json.loads(await lines.receive_until(b"\n", 100_000))
            answer = {"id": asked["id"], "text": "left"}
            await process.stdin.send(json.dumps(answer).encode() + b"\n")
            errors = b"".join([each async for each in process.stderr])
            code = await process.wait()

    assert asked["options"] == ["left", "right"]
    assert (code, errors) == (0, b"left")


def test_the_plugin_is_imported_without_what_it_may_need_later() -> None:
    program = textwrap.dedent("""
        import sys
        import kaizen_control
        kaizen_control.ControlPlugin
        heavy = ["jsonschema", "rich", "starlette", "uvicorn", "asyncio.base_events"]
        print([each for each in heavy if each in sys.modules])
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8"
    )

    assert done.stdout == "[]\n"
