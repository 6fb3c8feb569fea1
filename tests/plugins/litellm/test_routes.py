"""Every route of litellm is asked by our connections and with a key of its own, or not."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kaizen import (
    ConfigurationError,
    KaizenError,
    ModelAuthError,
    ModelError,
    Provider,
)
from kaizen.media import Audio
from kaizen_litellm._call import CALL, Limits
from kaizen_litellm._clients import Clients, SharedCache, SharedClient
from kaizen_litellm._names import (
    CLOUDS,
    EMBED_ONLY,
    HEAR_ONLY,
    OPEN,
    REFUSED,
    ROUTES,
    WITHOUT_RETRIES,
)
from kaizen_litellm._targets import PRESETS, route_target

from tests.wire.script import FaultKind
from tests.wire.server import Fault, WireServer

from .conftest import Opened, answered, asking, kernel_for

pytestmark = pytest.mark.anyio

OPENAIS = "sk-that-is-openais"
# They ask the servers of their cloud for a token first, at addresses of litellm's.
SIGN_IN_ELSEWHERE = {
    "bedrock_mantle",
    "gigachat",
    "sagemaker_chat",
    "sagemaker_nova",
    "vertex_ai",
    "vertex_ai_beta",
    "watsonx",
    "watsonx_text",
}
# What they are asked for is not an answer; to import what speaks it takes seconds.
OTHERWISE = {"a2a"}
# What litellm lists although it asks none of their models by our connections: they make
# pictures, keep vectors or prompts, or are reached in a way that is not HTTP.
NO_MODELS = {
    "a2a_agent",
    "auto_router",
    "aws_polly",
    "aws_textract",
    "azure_speech",
    "black_forest_labs",
    "cursor",
    "dotprompt",
    "fal_ai",
    "humanloop",
    "langfuse",
    "litellm_agent",
    "manus",
    "milvus",
    "mongodb",
    "nvidia_riva",
    "pg_vector",
    "recraft",
    "reducto",
    "runwayml",
    "s3_vectors",
    "stability",
    "strands_decider",
    "topaz",
    "transcribe",
    "typesafe",
    "valkey",
}


async def loaded() -> Any:
    """Return litellm, as it is used here."""
    from kaizen_litellm._loaded import litellm

    return litellm


def names_in(litellm: Any) -> set[str]:
    """Return all names that litellm has for providers."""
    listed = {str(getattr(each, "value", each)) for each in litellm.provider_list}
    return listed | set(litellm.JSONProviderRegistry.list_providers())


async def test_the_routes_are_those_of_the_installed_litellm() -> None:
    known = names_in(await loaded())

    assert known - PRESETS.keys() - REFUSED - NO_MODELS == ROUTES
    assert known >= REFUSED | NO_MODELS
    assert not (REFUSED | NO_MODELS | PRESETS.keys()) & ROUTES
    assert OPEN | CLOUDS | WITHOUT_RETRIES | EMBED_ONLY | HEAR_ONLY <= ROUTES
    assert not OPEN & CLOUDS


async def test_keys_are_looked_for_where_the_installed_litellm_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    litellm = await loaded()
    for name in [each for each in os.environ if each.endswith(("_KEY", "_TOKEN"))]:
        monkeypatch.delenv(name)
    files = litellm.JSONProviderRegistry

    for route in sorted(ROUTES - CLOUDS):
        wanted = set(litellm.validate_environment(model=f"{route}/m")["missing_keys"])
        if files.exists(route):
            wanted.add(files.get(route).api_key_env)
        wanted = {each for each in wanted if not each.endswith("_BASE")}
        assert wanted <= set(route_target(route, None).key_variables), route


@pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier")
async def test_the_routes_that_refuse_to_be_told_of_retries_are_known() -> None:
    litellm = await loaded()
    refusing = set()
    for route in ROUTES:
        try:
            litellm.utils.get_optional_params("m", custom_llm_provider=route, max_retries=0)
        except litellm.UnsupportedParamsError:
            refusing.add(route)

    assert refusing == WITHOUT_RETRIES


@pytest.mark.parametrize("keyed", [True, False], ids=["key", "no key"])
async def test_no_route_evades_our_connections_or_takes_the_key_of_another(
    wire: WireServer, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OPENAIS)
    # Each of a hundred providers reads the certificates of the system otherwise.
    monkeypatch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
    names = sorted(ROUTES - SIGN_IN_ELSEWHERE - OTHERWISE)
    more = {"api_key_env": "OWN"} if keyed else {}
    providers = {name: {"base_url": f"{wire.url}/routes/{name}", **more} for name in names}
    environ = {"OWN": "sk-own"} if keyed else {}
    failures: dict[str, str] = {}

    async with kernel_for({"providers": providers}, environ) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        for name in names:
            request = asking(model=f"{name}/m")
            try:
                await answered(provider, request, stream=keyed)
            except KaizenError as error:
                failures[name] = str(error)

    assert not [name for name, told in failures.items() if "UnknownProvider" in told]
    asked = {each.path.split("/")[2] for each in wire.requests}
    assert len(asked) > (80 if keyed else 5)
    assert keyed or asked <= OPEN | CLOUDS
    for each in wire.requests:
        assert each.headers["accept-encoding"] == "identity", each.path
        assert not any(OPENAIS in value for value in each.headers.values()), each.path


@pytest.mark.parametrize("route", sorted(REFUSED))
async def test_a_route_that_would_be_asked_in_another_way_is_refused(
    wire: WireServer, route: str
) -> None:
    providers = {route: {"base_url": wire.url, "api_key_env": "OWN"}}

    async with kernel_for({"providers": providers}, {"OWN": "sk-own"}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ConfigurationError, match=route):
            await provider.complete(asking(model=f"{route}/m"))

    assert not wire.requests


@pytest.mark.parametrize("kind", ["server_error", "reset"])
@pytest.mark.parametrize("route", ["deepinfra", "gradient_ai", "groq", "zai"])
async def test_a_route_is_asked_once(wire: WireServer, route: str, kind: FaultKind) -> None:
    providers = {route: {"base_url": wire.base_url("local"), "api_key_env": "OWN"}}

    async with kernel_for({"providers": providers}, {"OWN": wire.key}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        for stream in (False, True, False):
            wire.say(Fault(kind))
            with pytest.raises(ModelError):
                await answered(provider, asking(model=f"{route}/m"), stream=stream)

    assert len(wire.requests) == 3


@pytest.mark.parametrize(
    ("route", "variables"),
    [
        ("groq", ("GROQ_API_KEY",)),
        ("github", ("GITHUB_API_KEY",)),
        ("ai21_chat", ("AI21_API_KEY",)),
        ("custom_openai", ("CUSTOM_OPENAI_API_KEY",)),
        ("meta_llama", ("LLAMA_API_KEY",)),
        ("voyage", ("VOYAGE_API_KEY", "VOYAGE_AI_API_KEY", "VOYAGE_AI_TOKEN")),
        ("vertex_ai", ()),
    ],
)
async def test_the_key_of_a_route_is_looked_for_where_litellm_would(
    route: str, variables: tuple[str, ...]
) -> None:
    assert route_target(route, None).key_variables == variables


@pytest.mark.parametrize(
    ("route", "variable"),
    [
        ("groq", "GROQ_API_KEY"),
        ("fireworks_ai", "FIREWORKS_API_KEY"),
        ("nano-gpt", "NANOGPT_API_KEY"),
        ("together_ai", "TOGETHERAI_API_KEY"),
    ],
)
async def test_the_key_of_a_route_is_read_from_dotenv(
    wire: WireServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    variable: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"{variable}={wire.key}\n", encoding="utf-8")
    settings = {
        "dotenv": True,
        "providers": {route: {"base_url": wire.base_url("local")}},
    }

    async with kernel_for(settings) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        await provider.complete(asking(model=f"{route}/m"))

    assert wire.requests[-1].headers["authorization"] == f"Bearer {wire.key}"


def keyed_routes() -> list[str]:
    return sorted(ROUTES - OPEN - CLOUDS - EMBED_ONLY - HEAR_ONLY)


async def test_a_route_that_needs_a_key_is_not_asked_without_one(wire: WireServer) -> None:
    providers = {name: {"base_url": wire.base_url("local")} for name in keyed_routes()}

    async with kernel_for({"providers": providers}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        for name in keyed_routes():
            with pytest.raises(ModelAuthError) as caught:
                await provider.complete(asking(model=f"{name}/m"))
            variable = route_target(name, None).key_variables[0]
            assert f"has no key: {variable}" in caught.value.problem
            own = name in ("custom_openai", "litellm_proxy")
            assert own or "https://" in caught.value.remedy

    assert not wire.requests


async def test_who_sends_headers_of_their_own_to_a_route_needs_no_key(
    wire: WireServer,
) -> None:
    headers = {"authorization": f"Bearer {wire.key}"}
    providers = {"deepseek": {"base_url": wire.base_url("local"), "headers": headers}}

    async with kernel_for({"providers": providers}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        assert (await provider.complete(asking(model="deepseek/m"))).text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("route", ["custom_openai", "litellm_proxy", "perplexity"])
async def test_headers_in_whose_place_the_key_of_openai_would_go_out_are_not_enough(
    wire: WireServer, monkeypatch: pytest.MonkeyPatch, route: str, stream: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OPENAIS)
    headers = {"x-api-key": "mine"}
    providers = {route: {"base_url": wire.base_url("local"), "headers": headers}}

    async with kernel_for({"providers": providers}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ModelAuthError, match=f"has no key: {route.upper()}_API_KEY"):
            await answered(provider, asking(model=f"{route}/m"), stream=stream)

    assert not wire.requests


@pytest.mark.parametrize("route", sorted(EMBED_ONLY | HEAR_ONLY))
async def test_a_route_without_models_that_answer_says_so_and_does_what_it_can(
    wire: WireServer, route: str
) -> None:
    providers = {route: {"base_url": wire.base_url("local"), "api_key_env": "OWN"}}

    async with kernel_for({"providers": providers}, {"OWN": wire.key}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        for stream in (False, True):
            with pytest.raises(ModelError, match="cannot answer messages"):
                await answered(provider, asking(model=f"{route}/m"), stream=stream)
        assert not wire.requests
        with suppress(ModelError):  # the server may not speak as this one does
            if route in EMBED_ONLY:
                await provider.embed(["word"], model=f"{route}/m")
            else:
                audio = Audio(b"RIFF    WAVE", media_type="audio/wav")
                await provider.transcribe(audio, model=f"{route}/m")

    assert wire.requests


@pytest.mark.parametrize("route", ["hosted_vllm", "llamafile", "lm_studio"])
async def test_a_server_that_wants_a_key_after_all_says_that_there_is_none(
    wire: WireServer, route: str
) -> None:
    wire.say(Fault("unauthorized"))
    providers = {route: {"base_url": wire.base_url("local")}}

    async with kernel_for({"providers": providers}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ModelAuthError, match=f"has no key: {route.upper()}_API_KEY"):
            await provider.complete(asking(model=f"{route}/m"))


async def test_a_cloud_without_an_account_says_that_there_is_none(
    wire: WireServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    providers = {"bedrock": {"base_url": wire.url}}

    async with kernel_for({"providers": providers}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ModelAuthError, match=r"has no credentials.*BEDROCK, or"):
            await provider.complete(asking(model="bedrock/anthropic.claude-3-haiku"))


async def test_a_route_without_its_key_names_litellms_variable_for_it(
    wire: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OPENAIS)
    providers = {"nano-gpt": {"base_url": wire.base_url("local")}}

    async with kernel_for({"providers": providers}) as kernel:
        provider = await kernel.get(Provider, "litellm")  # type: ignore[type-abstract]
        with pytest.raises(ModelAuthError) as caught:
            await provider.complete(asking(model="nano-gpt/m"))

    assert "NANOGPT_API_KEY" in caught.value.remedy
    assert OPENAIS not in str(caught.value)
    assert not wire.requests


@pytest.mark.parametrize("way", ["huggingface", "docker", "ollama", "azure", "openai"])
async def test_the_organization_of_openai_is_told_to_nobody_else(
    wire: WireServer, opened: Opened, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for variable in ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(variable, "mine-and-openais")

    async with opened(way) as provider:
        await provider.complete(asking())

    assert "mine-and-openais" not in str(wire.requests[-1].headers)


async def test_openai_is_told_its_organization() -> None:
    from kaizen_litellm._loaded import handler
    from openai import AsyncOpenAI

    clients = Clients(Limits(), handler, frozenset(), {})
    for url, told in (
        ("https://api.openai.com/v1", "acme"),
        ("https://eu.api.openai.com/v1", "acme"),
        ("https://openai.com.example.org/v1", None),
    ):
        client = AsyncOpenAI(
            api_key="k", organization="acme", base_url=url, http_client=clients._http
        )
        clients.keep(url, client)
        assert client.organization == told
    await clients.close()


async def test_the_clients_of_an_application_stay_its_own(
    wire: WireServer, opened: Opened
) -> None:
    litellm = await loaded()
    closing = {"connection": "close"}

    async with opened("anthropic") as provider:
        await provider.complete(asking())
        await litellm.module_level_aclient.get(f"{wire.url}/theirs", headers=closing)
        assert wire.requests[-1].headers["accept-encoding"] != "identity"
    await litellm.module_level_aclient.get(f"{wire.url}/theirs", headers=closing)
    await litellm.module_level_aclient.client._transport.aclose()

    assert wire.requests[-1].path == "/theirs"


async def test_a_call_of_ours_takes_no_client_of_an_application(
    wire: WireServer, opened: Opened
) -> None:
    litellm = await loaded()
    options: dict[str, Any] = {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": "theirs"}],
        "api_base": wire.base_url("openai"),
        "api_key": wire.key,
        "timeout": 600.0,
        "max_retries": 0,
    }
    await litellm.acompletion(**options)

    async with opened() as provider:
        await provider.complete(asking())

    theirs, ours = wire.requests
    assert theirs.headers["accept-encoding"] != "identity"
    assert ours.headers["accept-encoding"] == "identity"
    cache = litellm.in_memory_llm_clients_cache
    for key in [each for each in cache.cache_dict if wire.url in each]:
        await cache.cache_dict.pop(key).close()


class Known:
    """Stands for a call, and for the clients of its provider."""

    handler = "our handler"

    def __init__(self) -> None:
        self.clients: Any = self
        self.kept: list[str] = []

    def find(self, key: str) -> str:
        return f"our {key}"

    def keep(self, key: str, client: Any) -> None:
        self.kept.append(key)


class Inner:
    handler = post = "theirs"

    def get_cache(self, key: str) -> str:
        return f"their {key}"

    def set_cache(self, key: str, value: Any) -> str:
        return f"kept {key}"


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("async_httpx_clientssl_verify_Nonegroq", True),
        ("hashed_api_key=x,is_async=True", True),
        ("async_httpx_clientlogging_callback", False),
        ("async_httpx_clientguardrail_callback", False),
        ("async_httpx_clienttimeout_6000.0litellm_module_level_client", False),
        ("httpx_client", False),
    ],
)
async def test_a_call_of_ours_brings_clients_for_its_provider_and_for_nothing_else(
    key: str, ours: bool
) -> None:
    litellm = await loaded()
    names = tuple(str(getattr(each, "value", each)) for each in litellm.provider_list)
    cache = SharedCache(Inner(), names)
    call: Any = Known()

    mark = CALL.set(call)
    found, kept = cache.get_cache(key), cache.set_cache(key, object())
    CALL.reset(mark)

    assert found == (f"our {key}" if ours else f"their {key}")
    assert (kept, call.kept) == ((None, [key]) if ours else (f"kept {key}", []))
    assert cache.get_cache(key) == f"their {key}"


async def test_what_routes_use_without_asking_is_ours_in_a_call_of_ours() -> None:
    class Handler(Known):
        handler: Any = Inner()

    Handler.handler.post = "ours"
    call: Any = Handler()
    shared = SharedClient(Inner())

    mark = CALL.set(call)
    in_call = shared.post
    CALL.reset(mark)

    assert (in_call, shared.post) == ("ours", "theirs")
