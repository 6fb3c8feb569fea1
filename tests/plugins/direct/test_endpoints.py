"""Which endpoints are offered, where they are, and which of them is found by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
from kaizen import BaseAgent, ConfigurationError, Kernel, PluginError, Provider
from kaizen_direct import DirectPlugin
from kaizen_direct._endpoints import Endpoint, endpoints
from kaizen_direct._keys import Keys
from kaizen_direct._settings import EndpointSettings

from tests.wire.server import WireServer

from .conftest import Opened, asking

pytestmark = pytest.mark.anyio

NOWHERE = {"base_url": "http://127.0.0.1:1/v1"}
OFF = dict.fromkeys(("ollama", "docker", "vllm", "lm_studio"), NOWHERE)


def found(environ: Mapping[str, str], **settings: Mapping[str, Any]) -> dict[str, Endpoint]:
    given = {name: EndpointSettings(**each) for name, each in settings.items()}
    return {each.name: each for each in endpoints(given, Keys(environ))}


def kernel(environ: Mapping[str, str], **direct: Any) -> Kernel:
    return Kernel(
        plugins=[DirectPlugin],
        discover=False,
        settings={"direct": {"dotenv": False, **direct}},
        config_file=False,
        environ=environ,
    )


async def test_seven_names_are_offered_and_your_own() -> None:
    async with kernel({}, endpoints={"mine": NOWHERE}) as running:
        names = running.registry.names(Provider)
        described = [each.description for each in running.registry.offers(Provider)]

    assert set(names) == {
        "anthropic",
        "azure",
        "docker",
        "lm_studio",
        "mine",
        "ollama",
        "openai",
        "vllm",
    }
    assert all(described)


async def test_only_the_names_that_are_wanted_are_offered() -> None:
    async with kernel({}, offers=["anthropic", "openai"]) as running:
        assert running.registry.names(Provider) == ("anthropic", "openai")

    with pytest.raises(PluginError, match="opnai"):
        async with kernel({}, offers=["opnai"]):
            pass


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, "openai"),
        (
            {
                "AZURE_AI_INFERENCE_ENDPOINT": "https://a.example",
                "AZURE_AI_INFERENCE_API_KEY": "k",
                "ANTHROPIC_API_KEY": "k",
            },
            "azure",
        ),
        ({"ANTHROPIC_API_KEY": "k"}, "anthropic"),
        ({"AZURE_AI_INFERENCE_API_KEY": "k"}, ""),
        ({"AZURE_AI_INFERENCE_ENDPOINT": "https://a.example"}, ""),
        ({}, ""),
    ],
)
async def test_who_names_none_gets_the_first_with_a_key(
    environ: dict[str, str], name: str
) -> None:
    async with kernel(environ, endpoints=OFF) as running:
        assert await running.available(Provider) == name


async def test_who_has_no_key_gets_a_server_that_runs_here_and_has_models(
    wire: WireServer,
) -> None:
    docker = {"docker": {"base_url": wire.base_url("docker")}}

    async with kernel({}, endpoints=OFF | docker) as running:
        assert await running.available(Provider) == "docker"
    async with kernel(
        {}, endpoints=OFF | docker | {"ollama": {"base_url": wire.base_url("ollama")}}
    ) as running:
        assert await running.available(Provider) == "ollama"


async def test_a_server_without_models_is_none_that_can_be_used() -> None:
    with WireServer(models=()) as wire:
        ollama = {"ollama": {"base_url": wire.base_url("ollama")}}
        async with kernel({}, endpoints=OFF | ollama) as running:
            assert await running.available(Provider) == ""
        await wire.closed()


async def test_something_else_on_a_servers_port_is_not_taken_for_it(serving: Any) -> None:
    for said in (b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.0 200 OK\r\n\r\n<html>", b""):
        other = {"ollama": {"base_url": serving(said)}}
        async with kernel({}, endpoints=OFF | other) as running:
            assert await running.available(Provider) == ""


async def test_a_server_that_says_nothing_is_not_waited_for_long(
    wire: WireServer,
) -> None:
    from tests.wire.server import Fault

    wire.listing = Fault("hang_headers")
    ollama = {"ollama": {"base_url": wire.base_url("ollama")}}

    async with kernel({}, endpoints=OFF | ollama) as running:
        assert await running.available(Provider) == ""
    await wire.closed()


async def test_an_agent_names_provider_and_model_in_one_word(
    wire: WireServer, opened: Opened
) -> None:
    environ = {"OPENAI_BASE_URL": wire.base_url("openai"), "OPENAI_API_KEY": wire.key}
    wire.say("Four.")

    async with kernel(environ) as running:
        plain = BaseAgent(
            {"llm_provider": "openai/gpt-4o"}, "question -> answer", kernel=running
        )
        result = await plain.run(question="2 + 2?")

    assert result.answer == "Four."
    assert wire.requests[-1].model == "gpt-4o"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("box", "http://box:11434"),
        ("[::1]:9", "http://[::1]:9"),
        ("https://ollama.example", "https://ollama.example"),
        ("http://box:8080/base/", "http://box:8080/base"),
    ],
)
async def test_ollamas_variable_is_read_as_ollama_reads_it(host: str, url: str) -> None:
    assert found({"OLLAMA_HOST": host})["ollama"].base_url == url


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OLLAMA_HOST", "box:port"),
        ("OPENAI_BASE_URL", "ftp://example.org"),
        ("OPENAI_BASE_URL", "https://user:secret@example.org"),
        ("ANTHROPIC_BASE_URL", "https://example.org/?a=b"),
        ("AZURE_OPENAI_ENDPOINT", "https://exa mple.org"),
        ("AZURE_AI_INFERENCE_ENDPOINT", "example"),
    ],
)
async def test_an_address_that_is_none_is_refused_and_not_shown(
    variable: str, value: str
) -> None:
    with pytest.raises(ConfigurationError, match=variable) as caught:
        found({variable: value})

    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("environ", "settings", "url"),
    [
        (
            {
                "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com/",
                "AZURE_OPENAI_API_KEY": "k",
            },
            {},
            (
                "https://r.openai.azure.com/openai/deployments/d/chat/completions"
                "?api-version=2024-10-21"
            ),
        ),
        (
            {"AZURE_OPENAI_API_KEY": "k", "OPENAI_API_VERSION": "2025-03-01-preview"},
            {"base_url": "https://r.openai.azure.com"},
            (
                "https://r.openai.azure.com/openai/deployments/d/chat/completions"
                "?api-version=2025-03-01-preview"
            ),
        ),
        (
            {"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com/openai/v1"},
            {},
            "https://r.openai.azure.com/openai/v1/chat/completions",
        ),
        (
            {"AZURE_AI_INFERENCE_ENDPOINT": "https://r.services.ai.azure.com"},
            {},
            (
                "https://r.services.ai.azure.com/models/chat/completions"
                "?api-version=2024-05-01-preview"
            ),
        ),
        (
            {"AZURE_AI_INFERENCE_ENDPOINT": "https://m.eastus.models.ai.azure.com"},
            {},
            (
                "https://m.eastus.models.ai.azure.com/chat/completions"
                "?api-version=2024-05-01-preview"
            ),
        ),
        (
            {
                "AZURE_AI_INFERENCE_ENDPOINT": "https://a.example",
                "AZURE_OPENAI_ENDPOINT": "https://b.example",
                "AZURE_OPENAI_API_KEY": "k",
            },
            {},
            (
                "https://b.example/openai/deployments/d/chat/completions"
                "?api-version=2024-10-21"
            ),
        ),
    ],
)
async def test_both_ways_into_azure_are_known(
    environ: dict[str, str], settings: dict[str, Any], url: str
) -> None:
    azure = found(environ, azure=settings)["azure"]

    assert azure.url("/chat/completions", "d") == url


@pytest.mark.parametrize(
    "table",
    [
        {"mine": {}},
        {"mine": {"base_url": "nowhere"}},
        {"mine": {**NOWHERE, "api_key_env": "A=B"}},
        {"mine": {**NOWHERE, "headers": {"a": "x\r\ny: z"}}},
        {"my/own": NOWHERE},
        {"mine": {**NOWHERE, "unknown": 1}},
    ],
)
async def test_an_endpoint_that_cannot_be_is_refused_at_the_start(
    table: dict[str, Any],
) -> None:
    with pytest.raises((PluginError, ConfigurationError)):
        async with kernel({}, endpoints=table):
            pass


async def test_settings_change_what_is_known(wire: WireServer, opened: Opened) -> None:
    async with opened(
        "mine",
        tools=False,
        structured_output=False,
        media=["audio"],
        context_window=4_096,
        max_output_tokens=100,
        max_tokens_field="max_completion_tokens",
        stream_usage=False,
        continues=True,
    ) as provider:
        profile = provider.describe("x")
        async for _ in provider.stream(asking(prefix="Once")):
            pass

    assert (profile.tools, profile.structured_output, profile.continues) == (
        False,
        False,
        True,
    )
    assert not provider.supports_tools("x")
    assert profile.media == frozenset({"audio"})
    assert (profile.context_window, profile.max_output_tokens) == (4_096, 100)
    body = wire.requests[-1].json
    assert body["continue_final_message"] is True
    assert "stream_options" not in body


async def test_a_toml_file_may_say_it_all(wire: WireServer, tmp_path: Path) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_text(
        f"""
        [plugins.direct.endpoints.mine]
        base_url = "{wire.base_url("openai")}"
        api_key_env = "MY_KEY"
        model = "house-model"

        [[plugins.direct.prices]]
        model = "house-model"
        input = "0.5"
        output = "1.5"
        """,
        encoding="utf-8",
    )
    running = Kernel(
        plugins=[DirectPlugin],
        discover=False,
        config_file=file,
        environ={"MY_KEY": wire.key},
    )

    async with running:
        provider = await running.get(Provider, "mine")  # type: ignore[type-abstract]
        reply = await provider.complete(asking())

    assert reply.model == "house-model"
    assert str(reply.cost_usd) == "0.0000165"


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:p4ssw#rd@proxy:3128",
        "http://user:p4ssw/rd@proxy:3128",
        "http://user:p4ssw rd@proxy:3128",
        "http://user:p4ssw?rd@proxy:3128",
        "http://[user:p4ssw@proxy",
        "socks4://user:p4ssw@proxy:1",
        "user:p4ssw@proxy:80",
        "http://user:p4ssw@proxy:x",
        "http://user:p4ssw@",
    ],
)
async def test_a_proxy_that_is_none_is_refused_and_its_password_not_shown(
    proxy: str,
) -> None:
    with pytest.raises(PluginError, match="proxy") as caught:
        async with kernel({}, proxy=proxy):
            pass

    assert "p4ssw" not in "".join(format_exception(caught.value))


@pytest.mark.parametrize("proxy", ["http://u:p@proxy:3128/", "socks5h://proxy:1080", ""])
async def test_a_proxy_may_have_a_user(proxy: str) -> None:
    async with kernel({}, proxy=proxy) as running:
        assert running.registry.names(Provider)


async def test_a_proxy_that_httpx_cannot_use_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**_: Any) -> None:
        raise ValueError("p4ssw")

    monkeypatch.setattr("httpx.AsyncClient", refuse)
    async with kernel({}, proxy="http://u:p4ssw@proxy", endpoints={"mine": NOWHERE}) as it:
        provider = await it.get(Provider, "mine")  # type: ignore[type-abstract]
        with pytest.raises(ConfigurationError, match="proxy") as caught:
            await provider.complete(asking(model="m"))

    assert "p4ssw" not in "".join(format_exception(caught.value))
