"""Keys come from where they may come from, and are shown nowhere."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
from kaizen import ConfigurationError, Kernel, ModelAuthError, Provider
from kaizen_direct import DirectPlugin
from kaizen_direct._endpoints import PRESETS, Endpoint
from kaizen_direct._keys import Keys
from kaizen_direct._provider import DirectProvider

from tests.wire.server import WireServer

from .conftest import KEY, Opened, asking

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("way", "variable", "page"),
    [
        ("openai", "OPENAI_API_KEY", "platform.openai.com"),
        ("azure", "AZURE_OPENAI_API_KEY", "portal.azure.com"),
        ("azure_ai", "AZURE_AI_INFERENCE_API_KEY", "portal.azure.com"),
        ("anthropic", "ANTHROPIC_API_KEY", "console.anthropic.com"),
        ("mine", "MY_KEY", "MY_KEY"),
    ],
)
async def test_a_missing_key_names_its_variable_and_where_one_gets_it(
    wire: WireServer, opened: Opened, way: str, variable: str, page: str
) -> None:
    url = {
        "azure": {"AZURE_OPENAI_ENDPOINT": wire.url},
        "azure_ai": {"AZURE_AI_INFERENCE_ENDPOINT": wire.url},
    }.get(way, {})

    async with opened(way, environ=url) as provider:
        with pytest.raises(ModelAuthError) as caught:
            await provider.complete(asking())

    assert f"{variable} is not set" in caught.value.problem
    assert variable in caught.value.remedy
    assert page in caught.value.remedy
    assert not wire.requests


async def test_azure_without_anything_names_the_variables_of_its_address(
    opened: Opened,
) -> None:
    environ = {"AZURE_AI_INFERENCE_API_KEY": KEY}

    async with opened("azure", environ=environ) as provider:
        with pytest.raises(ConfigurationError) as caught:
            await provider.complete(asking())

    assert "AZURE_AI_INFERENCE_ENDPOINT" in caught.value.remedy


@pytest.mark.parametrize("quoted", ["{}", '"{}"', "'{}'  # mine"])
async def test_a_key_is_read_from_dotenv_and_not_exported(
    wire: WireServer, opened: Opened, folder: Path, quoted: str
) -> None:
    text = f"export OPENAI_API_KEY={quoted.format(wire.key)}\n"
    (folder / ".env").write_text(text, encoding="utf-8")
    environ = {"OPENAI_BASE_URL": wire.base_url("openai")}

    async with opened(environ=environ, settings={"dotenv": True}) as provider:
        reply = await provider.complete(asking())

    assert reply.text
    assert "OPENAI_API_KEY" not in environ


async def test_the_environment_goes_before_dotenv(
    wire: WireServer, opened: Opened, folder: Path
) -> None:
    (folder / ".env").write_text("OPENAI_API_KEY=sk-old\n", encoding="utf-8")

    async with opened(settings={"dotenv": True}) as provider:
        await provider.complete(asking())

    assert wire.requests[-1].headers["authorization"] == f"Bearer {wire.key}"


async def test_dotenv_is_not_read_where_the_settings_say_so(
    wire: WireServer, opened: Opened, folder: Path
) -> None:
    (folder / ".env").write_text(f"OPENAI_API_KEY={wire.key}\n", encoding="utf-8")

    async with opened(environ={}, settings={"dotenv": False}) as provider:
        with pytest.raises(ModelAuthError):
            await provider.complete(asking())


async def test_an_address_in_dotenv_does_not_redirect_a_key(
    wire: WireServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"OPENAI_API_KEY={wire.key}", "OPENAI_BASE_URL=http://127.0.0.1:1/v1"]
    lines += ["OLLAMA_HOST=127.0.0.1:1", "ANTHROPIC_BASE_URL=${OPENAI_API_KEY}"]
    (folder / ".env").write_text("\n".join(lines), encoding="utf-8")
    environ = {"OPENAI_BASE_URL": wire.base_url("openai")}

    async with Kernel(
        plugins=[DirectPlugin], discover=False, config_file=False, environ=environ
    ) as kernel:
        provider = await kernel.get(Provider, "openai")  # type: ignore[type-abstract]
        ollama = await kernel.get(Provider, "ollama")  # type: ignore[type-abstract]
        reply = await provider.complete(asking())

    assert reply.text
    assert "127.0.0.1:11434" in repr(ollama)
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "ANTHROPIC_BASE_URL, OLLAMA_HOST, OPENAI_BASE_URL" in warning.getMessage()
    assert wire.key not in caplog.text


@pytest.mark.parametrize("content", [b"OPENAI_API_KEY=" + b"x" * 70_000, b"\xff\xfe="])
async def test_a_dotenv_that_cannot_be_read_gives_no_keys(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / ".env").write_bytes(content)

    assert Keys({}, folder).find(["OPENAI_API_KEY"]) == ""
    assert ".env" in caplog.text


async def test_a_key_may_stand_under_any_variable(wire: WireServer, opened: Opened) -> None:
    environ = {
        "OPENAI_BASE_URL": wire.base_url("openai"),
        "OPENAI_API_KEY": "sk-other",
        "TEAM_KEY": wire.key,
    }

    async with opened(environ=environ, api_key_env="TEAM_KEY") as provider:
        await provider.complete(asking())

    assert wire.requests[-1].headers["authorization"] == f"Bearer {wire.key}"


async def test_a_key_may_be_given_by_the_settings(wire: WireServer, opened: Opened) -> None:
    environ = {"OPENAI_BASE_URL": wire.base_url("openai"), "TEAM_KEY": wire.key}

    async with opened(environ=environ, api_key={"env": "TEAM_KEY"}) as provider:
        await provider.complete(asking())

    assert wire.requests[-1].outcome == "answered"


async def test_a_key_is_looked_up_again_after_it_was_refused(
    wire: WireServer, opened: Opened
) -> None:
    environ = {
        "OPENAI_BASE_URL": wire.base_url("openai"),
        "OPENAI_API_KEY": "sk-outdated",
    }

    async with opened(environ=environ) as provider:
        with pytest.raises(ModelAuthError):
            await provider.complete(asking())
        environ["OPENAI_API_KEY"] = wire.key
        reply = await provider.complete(asking())

    assert reply.text


@pytest.mark.parametrize("key", ["sk-a\nx-evil: 1", "sk-ü", "sk-a b", "sk-\x00"])
async def test_a_key_that_is_none_is_refused_without_showing_it(
    wire: WireServer, opened: Opened, key: str
) -> None:
    environ = {"OPENAI_BASE_URL": wire.base_url("openai"), "OPENAI_API_KEY": key}

    async with opened(environ=environ) as provider:
        with pytest.raises(ModelAuthError) as caught:
            await provider.complete(asking())

    assert "sk-" not in repr(caught.value) + str(caught.value)
    assert not wire.requests


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("http://example.org/v1", True),
        ("http://93.184.216.34/v1", True),
        ("https://example.org/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://10.0.0.7/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://model-runner.docker.internal/v1", False),
    ],
)
async def test_a_key_is_not_sent_unencrypted_to_another_machine(
    url: str, exposed: bool
) -> None:
    endpoint = Endpoint(name="mine", base_url=url, key_variables=("MY_KEY",))
    provider = DirectProvider(endpoint, keys=Keys({"MY_KEY": KEY}))

    assert endpoint.exposes_its_key is exposed
    if exposed:
        async with provider:
            with pytest.raises(ConfigurationError, match="unencrypted") as caught:
                await provider.complete(asking(model="m"))
        assert KEY not in repr(caught.value)


async def test_a_key_is_not_shown_by_what_holds_it(
    wire: WireServer, opened: Opened
) -> None:
    async with opened() as provider:
        await provider.complete(asking())

        assert isinstance(provider, DirectProvider)
        for each in (provider, provider._http, provider._http._keys, PRESETS["openai"]):
            assert KEY not in repr(each)
            assert KEY not in str(each)
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(provider)
