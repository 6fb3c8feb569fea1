"""A server that speaks the wire formats, and endpoints that are asked through a kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, TypeAlias

import pytest
from kaizen import (
    Kernel,
    Message,
    ModelDelta,
    ModelReply,
    ModelRequest,
    ModelSettings,
    Provider,
)
from kaizen_direct import DirectPlugin

from tests.wire.server import WireServer

Opened: TypeAlias = Callable[..., AbstractAsyncContextManager[Provider]]
Serving: TypeAlias = Callable[[bytes], str]
KEY = "sk-wire-4f9a0c77d1e2b3"


@dataclass(frozen=True)
class Way:
    """One way to ask: a provider's name, and what has to be set for it."""

    name: str
    base: str
    url_variable: str = ""
    key_variable: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = "gpt-4o"


WAYS = {
    "openai": Way("openai", "openai", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "azure": Way("azure", "azure", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY"),
    "azure_v1": Way(
        "azure",
        "azure",
        "AZURE_OPENAI_ENDPOINT",
        "AZURE_OPENAI_API_KEY",
        {"api_version": "v1"},
    ),
    "azure_ai": Way(
        "azure",
        "azure_ai",
        "AZURE_AI_INFERENCE_ENDPOINT",
        "AZURE_AI_INFERENCE_API_KEY",
    ),
    "anthropic": Way(
        "anthropic",
        "anthropic",
        "ANTHROPIC_BASE_URL",
        "ANTHROPIC_API_KEY",
        model="claude-haiku-4-5",
    ),
    "ollama": Way("ollama", "ollama", "OLLAMA_HOST", model="llama3.2"),
    "docker": Way("docker", "docker", model="ai/smollm2"),
    "vllm": Way("vllm", "local", model="meta/llama"),
    "lm_studio": Way("lm_studio", "local", model="qwen"),
    "mine": Way("mine", "openai", "", "MY_KEY", {"api_key_env": "MY_KEY"}, "wire-1"),
    "mine_anthropic": Way(
        "mine",
        "anthropic",
        "",
        "MY_KEY",
        {"api_key_env": "MY_KEY", "kind": "anthropic", "continues": True},
        "wire-1",
    ),
}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend


@pytest.fixture
def wire() -> Iterator[WireServer]:
    """The other end."""
    with WireServer(key=KEY) as server:
        yield server


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Start servers that answer whatever is asked with the same bytes, then hang up."""
    running: list[ThreadingTCPServer] = []

    def start(response: bytes) -> str:
        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(65_536)
                self.request.sendall(response)

        server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        running.append(server)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def environment(wire: WireServer, way: Way) -> dict[str, str]:
    """Return the variables that a way needs."""
    found = {}
    if way.url_variable:
        found[way.url_variable] = wire.base_url(way.base)
    if way.key_variable:
        found[way.key_variable] = wire.key
    return found


def table(wire: WireServer, way: Way, **changes: Any) -> dict[str, Any]:
    """Return the settings of the endpoint that a way needs."""
    made: dict[str, Any] = {"model": way.model, **way.settings, **changes}
    if not way.url_variable:
        made.setdefault("base_url", wire.base_url(way.base))
    return made


@pytest.fixture
def opened(wire: WireServer) -> Opened:
    """Open an endpoint by the name of its way, with settings of its own."""

    @asynccontextmanager
    async def start(
        name: str = "openai",
        *,
        settings: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> AsyncGenerator[Provider]:
        way = WAYS[name]
        endpoints = {way.name: table(wire, way, **changes)}
        async with Kernel(
            plugins=[DirectPlugin],
            discover=False,
            settings={
                "direct": {"endpoints": endpoints, "dotenv": False, **(settings or {})}
            },
            config_file=False,
            environ=environment(wire, way) if environ is None else environ,
        ) as kernel:
            yield await kernel.get(Provider, way.name)  # type: ignore[type-abstract]

    return start


def asking(text: str = "Say hello.", **fields: Any) -> ModelRequest:
    """Return a request with one message."""
    return ModelRequest(messages=(Message(role="user", content=text),), **fields)


def within(seconds: float) -> ModelSettings:
    """Return settings with a time limit."""
    return ModelSettings(timeout_s=seconds)


async def streamed(provider: Provider, request: ModelRequest) -> tuple[str, ModelReply]:
    """Return the text that a reader saw, and the reply at the end."""
    *deltas, last = [piece async for piece in provider.stream(request)]
    assert isinstance(last, ModelReply)
    return "".join(each.text for each in deltas if isinstance(each, ModelDelta)), last


async def answered(
    provider: Provider, request: ModelRequest, *, stream: bool
) -> ModelReply:
    """Ask in one of the two ways."""
    if not stream:
        return await provider.complete(request)
    seen, reply = await streamed(provider, request)
    assert seen == reply.text
    return reply
