"""A server that speaks the wire formats, and providers that are asked through a kernel."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
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
from kaizen_litellm import LitellmPlugin
from kaizen_litellm._line import LOADED

from tests.wire.server import WireServer

Opened: TypeAlias = Callable[..., AbstractAsyncContextManager[Provider]]
KEY = "sk-wire-4f9a0c77d1e2b3"


@dataclass(frozen=True)
class Way:
    """One way to ask: a provider's name, and what has to be set for it."""

    name: str
    base: str
    url_variable: str = ""
    key_variable: str = ""
    model: str = "gpt-4o"
    api_version: str = ""


WAYS = {
    "openai": Way("openai", "openai", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "azure": Way("azure", "azure", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY"),
    "azure_v1": Way(
        "azure",
        "azure",
        "AZURE_OPENAI_ENDPOINT",
        "AZURE_OPENAI_API_KEY",
        api_version="v1",
    ),
    "azure_ai": Way(
        "azure",
        "azure_ai",
        "AZURE_AI_INFERENCE_ENDPOINT",
        "AZURE_AI_INFERENCE_API_KEY",
        "mistral-large",
    ),
    "anthropic": Way(
        "anthropic",
        "anthropic",
        "ANTHROPIC_BASE_URL",
        "ANTHROPIC_API_KEY",
        "claude-haiku-4-5",
    ),
    "google": Way(
        "google", "google", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_API_KEY", "gemini-2.5-flash"
    ),
    "gemini": Way(
        "gemini", "google", "GEMINI_API_BASE", "GEMINI_API_KEY", "gemini-2.5-flash"
    ),
    "ollama": Way("ollama", "ollama", "OLLAMA_HOST", model="llama3.2"),
    "docker": Way("docker", "docker", model="ai/smollm2"),
    "cohere": Way("cohere", "cohere", "CO_API_URL", "COHERE_API_KEY", "command-a-03-2025"),
    "huggingface": Way(
        "huggingface", "huggingface", "HF_API_BASE", "HF_TOKEN", "openai/gpt-oss-20b"
    ),
}


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Import litellm before a test counts the time that a call takes."""
    loaded = import_module(LOADED)
    for route in ("openai", "anthropic"):
        loaded.warm(route)


@pytest.fixture
def anyio_backend() -> str:
    """Run tests that are marked `anyio` where litellm runs."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """See to it that nothing looks beyond this machine."""
    asked: set[str] = set()
    look_up = socket.getaddrinfo

    def watched(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in ("127.0.0.1", "None"):
            asked.add(name)
            raise socket.gaierror(socket.EAI_NONAME, "not in a test")
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    yield
    assert not asked


@pytest.fixture
def wire() -> Iterator[WireServer]:
    """The other end."""
    with WireServer(key=KEY) as server:
        yield server


def environment(wire: WireServer, way: Way) -> dict[str, str]:
    """Return the variables that a way needs."""
    found = {}
    if way.url_variable:
        found[way.url_variable] = wire.base_url(way.base)
    if way.key_variable:
        found[way.key_variable] = wire.key
    return found


def table(wire: WireServer, way: Way, **changes: Any) -> dict[str, Any]:
    """Return the settings of the provider that a way needs."""
    made: dict[str, Any] = {"model": way.model, "api_version": way.api_version, **changes}
    if not way.url_variable:
        made.setdefault("base_url", wire.base_url(way.base))
    return made


def kernel_for(
    settings: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Kernel:
    """Return a kernel with this plugin alone."""
    return Kernel(
        plugins=[LitellmPlugin],
        discover=False,
        settings={"litellm": {"dotenv": False, **(settings or {})}},
        config_file=False,
        environ=environ or {},
    )


@pytest.fixture
def opened(wire: WireServer) -> Opened:
    """Open a provider by the name of its way, with settings of its own."""

    @asynccontextmanager
    async def start(
        name: str = "openai",
        *,
        settings: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> AsyncGenerator[Provider]:
        way = WAYS[name]
        providers = {way.name: table(wire, way, **changes)}
        async with kernel_for(
            {"providers": providers, **(settings or {})},
            environment(wire, way) if environ is None else environ,
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
