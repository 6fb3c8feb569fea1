"""Which providers are offered, where they are, and which of them is found by itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from kaizen import (
    BaseAgent,
    BaseProvider,
    ConfigurationError,
    Kernel,
    ModelAuthError,
    ModelError,
    ModelReply,
    ModelRequest,
    ModelRequestError,
    PluginError,
    Provider,
    Registry,
    UnknownNameError,
    hookimpl,
)
from kaizen_litellm import LitellmPlugin, ProviderSettings
from kaizen_litellm._keys import Keys
from kaizen_litellm._names import ROUTES
from kaizen_litellm._targets import PRESETS, Target, route_target, target

from tests.wire.server import Fault, WireServer

from .conftest import Opened, asking, kernel_for, streamed

pytestmark = pytest.mark.anyio

NOWHERE = {"base_url": "http://127.0.0.1:1/v1"}
OFF = dict.fromkeys(("ollama", "docker"), NOWHERE)


def known(name: str, environ: Mapping[str, str], **settings: Any) -> Target:
    return target(name, ProviderSettings(**settings), Keys(environ))


async def test_nine_names_are_offered_and_every_other_route() -> None:
    async with kernel_for() as running:
        names = running.registry.names(Provider)
        offers = running.registry.offers(Provider)

    assert set(names) == {
        "anthropic",
        "azure",
        "cohere",
        "docker",
        "gemini",
        "google",
        "huggingface",
        "litellm",
        "ollama",
        "openai",
    }
    assert all(each.description for each in offers)
    assert [each.name for each in offers if each.routes] == ["litellm"]


async def test_what_a_table_names_is_a_route_as_well() -> None:
    providers: dict[str, Any] = {"openai": {}, "newcomer": {}}

    async with kernel_for({"providers": providers}) as running:
        offer = running.registry.find(Provider, "litellm")

    assert offer.routes == ROUTES | {"newcomer"}


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
        ({"ANTHROPIC_API_KEY": "k", "GOOGLE_API_KEY": "k"}, "anthropic"),
        ({"GOOGLE_API_KEY": "k", "COHERE_API_KEY": "k"}, "google"),
        ({"GEMINI_API_KEY": "k"}, "google"),
        ({"COHERE_API_KEY": "k", "HF_TOKEN": "k"}, ""),
        ({"AZURE_AI_INFERENCE_API_KEY": "k"}, ""),
        ({"AZURE_AI_INFERENCE_ENDPOINT": "https://a.example"}, ""),
        ({}, ""),
    ],
)
async def test_who_names_none_gets_the_first_with_a_key(
    environ: dict[str, str], name: str
) -> None:
    async with kernel_for({"providers": OFF}, environ) as running:
        assert await running.available(Provider) == name


async def test_who_has_no_key_gets_a_server_that_runs_here_and_has_models(
    wire: WireServer,
) -> None:
    docker = {"docker": {"base_url": wire.base_url("docker")}}
    ollama = {"ollama": {"base_url": wire.base_url("ollama")}}

    async with kernel_for({"providers": OFF | docker}) as running:
        assert await running.available(Provider) == "docker"
    async with kernel_for({"providers": docker | ollama}) as running:
        assert await running.available(Provider) == "ollama"
    await wire.closed()


async def test_a_server_that_says_nothing_is_not_waited_for_long(
    wire: WireServer,
) -> None:
    wire.listing = Fault("hang_headers")
    ollama = {"ollama": {"base_url": wire.base_url("ollama")}}

    async with kernel_for({"providers": OFF | ollama}) as running:
        assert await running.available(Provider) == ""
    await wire.closed()


class Other(BaseProvider):
    name = "openai"

    async def complete(self, request: ModelRequest) -> ModelReply:
        return ModelReply(text="from another plugin")


class OtherPlugin:
    """Offers a name that litellm offers, too."""

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "openai", Other)


@pytest.mark.parametrize("prefer", [[], ["openai"]])
async def test_it_stands_back_where_another_offers_a_name_unless_it_is_preferred(
    prefer: list[str],
) -> None:
    async with Kernel(
        plugins=[OtherPlugin, LitellmPlugin],
        discover=False,
        settings={"litellm": {"prefer": prefer}},
        config_file=False,
        environ={},
    ) as running:
        provider = await running.get(Provider, "openai")  # type: ignore[type-abstract]

    assert isinstance(provider, Other) is (not prefer)


async def test_a_preference_for_a_name_that_is_not_offered_is_refused() -> None:
    with pytest.raises(PluginError, match="opnai"):
        async with kernel_for({"prefer": ["opnai"]}):
            pass


@pytest.mark.parametrize(
    ("name", "environ", "base"),
    [
        ("openai", {}, "https://api.openai.com/v1"),
        ("anthropic", {}, "https://api.anthropic.com"),
        ("google", {}, "https://generativelanguage.googleapis.com/v1beta"),
        ("cohere", {}, "https://api.cohere.com/v2/chat"),
        ("cohere", {"CO_API_URL": "https://c.example/v2"}, "https://c.example/v2/chat"),
        (
            "cohere",
            {"COHERE_API_BASE": "https://c.example/v2/chat"},
            "https://c.example/v2/chat",
        ),
        ("huggingface", {}, "https://router.huggingface.co/v1"),
        ("ollama", {}, "http://127.0.0.1:11434/v1"),
        ("ollama", {"OLLAMA_HOST": "0.0.0.0:8080"}, "http://127.0.0.1:8080/v1"),
        ("ollama", {"OLLAMA_HOST": ":8080"}, "http://127.0.0.1:8080/v1"),
        ("ollama", {"OLLAMA_HOST": "[::1]"}, "http://[::1]:11434/v1"),
        ("docker", {}, "http://127.0.0.1:12434/engines/v1"),
    ],
)
async def test_litellm_is_given_each_address_as_it_wants_it(
    name: str, environ: dict[str, str], base: str
) -> None:
    assert known(name, environ).api_base("chat") == base


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OLLAMA_HOST", "box:port"),
        ("OPENAI_BASE_URL", "ftp://example.org"),
        ("OPENAI_BASE_URL", "https://user:secret@example.org"),
        ("ANTHROPIC_BASE_URL", "https://example.org/?a=b"),
    ],
)
async def test_an_address_that_is_none_is_refused_and_not_shown(
    variable: str, value: str
) -> None:
    name = variable.partition("_")[0].lower()

    with pytest.raises(ConfigurationError, match=variable) as caught:
        known(name, {variable: value})

    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("environ", "settings", "route", "base"),
    [
        (
            {"AZURE_OPENAI_ENDPOINT": "https://r.example", "AZURE_OPENAI_API_KEY": "k"},
            {},
            "azure",
            "https://r.example",
        ),
        (
            {"AZURE_API_BASE": "https://r.example", "AZURE_API_KEY": "k"},
            {},
            "azure",
            "https://r.example",
        ),
        (
            {"AZURE_AI_INFERENCE_ENDPOINT": "https://i.example"},
            {},
            "azure_ai",
            "https://i.example",
        ),
        (
            {
                "AZURE_OPENAI_ENDPOINT": "https://r.example",
                "AZURE_OPENAI_API_KEY": "k",
                "AZURE_AI_INFERENCE_ENDPOINT": "https://i.example",
            },
            {},
            "azure",
            "https://r.example",
        ),
        (
            {},
            {"base_url": "https://r.openai.azure.com"},
            "azure",
            "https://r.openai.azure.com",
        ),
        ({}, {}, "azure_ai", None),
    ],
)
async def test_of_azures_two_ways_in_the_one_with_address_and_key_is_taken(
    environ: dict[str, str], settings: dict[str, str], route: str, base: str | None
) -> None:
    found = known("azure", environ, **settings)

    assert (found.routes["chat"], found.api_base("chat")) == (route, base)


async def test_azure_without_anything_names_the_variables_of_its_address(
    opened: Opened,
) -> None:
    async with opened("azure", environ={"AZURE_AI_INFERENCE_API_KEY": "k"}) as provider:
        with pytest.raises(ConfigurationError) as caught:
            await provider.complete(asking())

    assert "AZURE_AI_INFERENCE_ENDPOINT" in caught.value.remedy


@pytest.mark.parametrize(
    "route", ["groq", "deepseek", "mistral", "hosted_vllm", "openrouter", "lm_studio"]
)
async def test_any_route_of_litellm_is_asked_by_its_name(
    wire: WireServer, route: str
) -> None:
    providers = {route: {"base_url": wire.base_url("local")}}
    environ = {f"{route.upper()}_API_KEY": wire.key}

    async with kernel_for({"providers": providers}, environ) as running:
        agent = BaseAgent(
            {"llm_provider": f"{route}/some/model"}, "question -> answer", kernel=running
        )
        wire.say("Four.")
        result = await agent.run(question="2 + 2?")
        provider = await running.get(Provider, "litellm")  # type: ignore[type-abstract]
        seen, reply = await streamed(provider, asking(model=f"{route}/some/model"))

    assert result.answer == "Four."
    assert seen == reply.text != ""
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0
    assert [each.model for each in wire.requests] == ["some/model"] * 2
    assert wire.requests[0].headers["authorization"] == f"Bearer {wire.key}"


async def test_a_route_that_is_offered_by_name_is_asked_as_there(wire: WireServer) -> None:
    environ = {"OPENAI_BASE_URL": wire.base_url("openai"), "OPENAI_API_KEY": wire.key}

    async with kernel_for(environ=environ) as running:
        provider = await running.get(Provider, "litellm")  # type: ignore[type-abstract]
        reply = await provider.complete(asking(model="openai/gpt-4o"))
        profile = provider.describe("openai/gpt-4o")

    assert reply.cost_usd
    assert (profile.name, profile.context_window) == ("openai/gpt-4o", 128_000)


async def test_the_key_of_openai_is_not_sent_to_a_route_without_a_key(
    wire: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-that-is-openais")
    providers = {"perplexity": {"base_url": wire.base_url("local")}}

    async with kernel_for({"providers": providers}) as running:
        provider = await running.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ModelAuthError) as caught:
            await provider.complete(asking(model="perplexity/sonar"))

    assert "PERPLEXITY_API_KEY" in caught.value.problem
    assert "sk-that" not in str(caught.value)
    assert not wire.requests


@pytest.mark.parametrize("model", ["", "gpt-4o", "/x"])
async def test_a_route_has_to_be_named(model: str) -> None:
    async with kernel_for() as running:
        provider = await running.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ModelError, match="does not know who has model"):
            await provider.complete(asking(model=model))


@pytest.mark.parametrize("model", ["groq", "groq/"])
async def test_a_route_without_a_model_says_how_to_name_one(model: str) -> None:
    async with kernel_for(environ={"GROQ_API_KEY": "k"}) as running:
        agent = BaseAgent({"llm_provider": model}, "question -> answer", kernel=running)
        with pytest.raises(ModelRequestError) as caught:
            await agent.run(question="?")

    assert "Name one as `groq/…`" in caught.value.remedy


async def test_a_route_has_a_model_of_its_own_if_the_settings_name_one(
    wire: WireServer,
) -> None:
    groq = {"base_url": wire.base_url("local"), "model": "llama"}

    async with kernel_for({"providers": {"groq": groq}}, {"GROQ_API_KEY": "k"}) as running:
        agent = BaseAgent({"llm_provider": "groq"}, "question -> answer", kernel=running)
        with suppress(ModelError):
            await agent.run(question="?")

    assert [each.model for each in wire.requests] == ["llama"]


@pytest.mark.parametrize(
    ("kernel", "config", "meant"),
    [
        ({}, {"llm_provider": "opanai"}, "openai"),
        ({}, {"model": "opanai/gpt-4o"}, "openai"),
        ({}, {"llm_provider": "OpenAI"}, "openai"),
        ({}, {"llm_provider": "gorq", "model": "llama"}, "groq"),
        ({"KAIZEN_DEFAULT_PROVIDER": "opanai"}, {}, "openai"),
    ],
)
async def test_a_typo_in_a_name_is_an_error_that_says_what_may_be_meant(
    kernel: dict[str, str], config: dict[str, str], meant: str
) -> None:
    async with kernel_for(environ=kernel) as running:
        agent = BaseAgent(config, "question -> answer", kernel=running)
        with pytest.raises(UnknownNameError) as caught:
            await agent.run(question="?")

    assert f"Did you mean {meant!r}?" in str(caught.value)
    assert len(str(caught.value)) < 300


async def test_a_typo_behind_the_plugins_own_name_is_one_as_well() -> None:
    async with kernel_for() as running:
        provider = await running.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ConfigurationError, match="Did you mean 'groq'"):
            await provider.complete(asking(model="gorq/llama"))


async def test_what_litellm_does_not_know_is_a_request_that_fails() -> None:
    async with kernel_for({"providers": {"nosuchroute": {}}}) as running:
        provider = await running.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ModelError) as caught:
            await provider.complete(asking("secret prompt", model="nosuchroute/x"))

    assert not caught.value.retryable
    assert "secret" not in str(caught.value)


async def test_a_route_has_a_name_that_can_be_one() -> None:
    with pytest.raises(ConfigurationError):
        route_target("../x", None)


@pytest.mark.parametrize("name", PRESETS)
async def test_the_default_model_of_a_provider_is_one_that_is_known(name: str) -> None:
    async with kernel_for() as running:
        provider = await running.get(Provider, name)  # type: ignore[type-abstract]
        profile = provider.describe("")

    if profile.name:
        assert profile.context_window
        assert profile.tools
