"""litellm is imported late, in a thread, and kept from what it does by itself."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kaizen_litellm._call import CALL, QUIET, not_ours

from tests.wire.server import WireServer

from .conftest import Opened, asking

ROOT = Path(__file__).parents[3]

SILENT = """
import sys
import anyio
from kaizen import BaseAgent, ConfigurationError, Kernel, ModelAuthError, Provider
import kaizen_litellm

async def refuses(kernel, error, **config):
    try:
        await BaseAgent(config, "question -> answer", kernel=kernel).run(question="?")
    except error:
        return
    raise AssertionError(config)

async def start():
    async with Kernel(plugins=["litellm"], config_file=False, environ={}) as kernel:
        await kernel.available(Provider)
        provider = await kernel.get(Provider, "anthropic")
        assert provider.describe("claude-haiku-4-5").context_window == 200_000
        assert await provider.models()
        await refuses(kernel, ModelAuthError, model="groq/llama")
        await refuses(kernel, ConfigurationError, model="gorq/llama")

anyio.run(start)
print([name for name in ("litellm", "httpx", "openai", "dotenv") if name in sys.modules])
"""
FIRST_CALL = """
import json, logging, os, socket, sys, threading
import anyio

class Watch:
    threads = set()
    def find_spec(self, name, path=None, target=None):
        if name in ("litellm", "openai", "openai.resources", "httpx"):
            self.threads.add(threading.current_thread() is threading.main_thread())

sys.meta_path.insert(0, Watch())
looked_up, look_up = set(), socket.getaddrinfo

def watched(host, *rest, **options):
    looked_up.add(str(host))
    return look_up(host, *rest, **options)

socket.getaddrinfo = watched

from kaizen import Kernel, Message, ModelRequest, Provider

async def ask():
    async with Kernel(plugins=["litellm"], config_file=False, environ=dict(
        OPENAI_API_KEY="wire-key", OPENAI_BASE_URL=sys.argv[1]
    )) as kernel:
        provider = await kernel.get(Provider, "openai")
        asked = ModelRequest(messages=(Message(role="user", content="Hi"),))
        reply = await provider.complete(asked)
        async for _ in provider.stream(asked):
            pass
        return reply.text

before = dict(os.environ)
text = anyio.run(ask)
added = sorted(name for name in os.environ if os.environ[name] != before.get(name))
sys.stdout.write(json.dumps([text, added, sorted(Watch.threads), sorted(looked_up)]))
"""


def ran(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with all that it might take for a mistake."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
        cwd=cwd,
        env={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OPENAI_", "LITELLM_", "TIKTOKEN_"))
        },
    )


def test_nothing_heavy_is_imported_before_the_first_call(tmp_path: Path) -> None:
    done = ran(SILENT, cwd=tmp_path)

    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_first_call_imports_in_a_thread_and_does_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SECRET_OF_THE_FOLDER=1\n", encoding="utf-8")

    with WireServer() as wire:
        done = ran(FIRST_CALL, wire.base_url("openai"), cwd=tmp_path)

    assert done.stderr == ""
    text, added, threads, looked_up = json.loads(done.stdout)
    assert text
    assert added == [
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
        "LITELLM_LOCAL_MODEL_COST_MAP",
        "TIKTOKEN_CACHE_DIR",  # set by litellm, to a folder of its own
    ]
    assert threads == [False]
    assert set(looked_up) <= {"127.0.0.1"}


@pytest.mark.anyio
async def test_others_who_use_litellm_find_it_as_it_is(
    wire: WireServer, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as provider:
        await provider.complete(asking())
        from kaizen_litellm._loaded import litellm

        with caplog.at_level(logging.DEBUG):
            theirs = await litellm.acompletion(
                model="openai/gpt-4o",
                messages=[{"role": "user", "content": "theirs"}],
                api_base=wire.base_url("openai"),
                api_key=wire.key,
            )
        cached = [
            key for key in litellm.in_memory_llm_clients_cache.cache_dict if wire.url in key
        ]

    assert theirs.choices[0].message.content
    assert "theirs" in caplog.text
    assert len(cached) == 1
    assert wire.requests[-1].headers["accept-encoding"] != "identity"
    await litellm.in_memory_llm_clients_cache.cache_dict.pop(cached[0]).close()


def test_only_records_of_our_own_calls_are_dropped() -> None:
    record = logging.LogRecord("LiteLLM", logging.DEBUG, "", 0, "a prompt", (), None)
    anything: Any = object()

    assert not_ours(record)
    ours = CALL.set(anything)
    assert not not_ours(record)
    CALL.reset(ours)
    quiet = QUIET.set(True)
    assert not not_ours(record)
    QUIET.reset(quiet)
