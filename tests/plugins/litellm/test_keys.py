"""Keys come from where they may come from, and are shown nowhere."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
from kaizen import ConfigurationError, ModelAuthError, Provider
from kaizen_litellm import ProviderSettings
from kaizen_litellm._keys import Keys
from kaizen_litellm._provider import LitellmProvider
from kaizen_litellm._settings import LitellmSettings
from kaizen_litellm._shop import Shop
from kaizen_litellm._targets import target

from tests.wire.server import WireServer

from .conftest import KEY, Opened, asking, kernel_for

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
        ("anthropic", "ANTHROPIC_API_KEY", "console.anthropic.com"),
        ("google", "GOOGLE_API_KEY", "aistudio.google.com"),
        ("google", "GEMINI_API_KEY", "aistudio.google.com"),
        ("cohere", "COHERE_API_KEY", "dashboard.cohere.com"),
        ("huggingface", "HF_TOKEN", "huggingface.co/settings/tokens"),
    ],
)
async def test_a_missing_key_names_its_variable_and_where_one_gets_it(
    wire: WireServer, opened: Opened, way: str, variable: str, page: str
) -> None:
    async with opened(way, environ={}) as provider:
        with pytest.raises(ModelAuthError) as caught:
            await provider.complete(asking())

    assert variable in caught.value.problem
    assert variable in caught.value.remedy
    assert page in caught.value.remedy
    assert not wire.requests


async def test_a_key_is_read_from_dotenv_and_not_exported(
    wire: WireServer, opened: Opened, folder: Path
) -> None:
    text = f"export OPENAI_API_KEY='{wire.key}'  # mine\nOTHER=1\n"
    (folder / ".env").write_text(text, encoding="utf-8")
    environ = {"OPENAI_BASE_URL": wire.base_url("openai")}

    async with opened(environ=environ, settings={"dotenv": True}) as provider:
        reply = await provider.complete(asking())

    assert reply.text
    assert "OPENAI_API_KEY" not in environ
    assert "OTHER" not in os.environ


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
    (folder / ".env").write_text("\n".join(lines), encoding="utf-8")
    environ = {"OPENAI_BASE_URL": wire.base_url("openai")}

    async with kernel_for({"dotenv": True}, environ) as kernel:
        provider = await kernel.get(Provider, "openai")  # type: ignore[type-abstract]
        reply = await provider.complete(asking())

    assert reply.text
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "OPENAI_BASE_URL" in warning.getMessage()
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
        ("http://model-runner.docker.internal/v1", False),
    ],
)
async def test_a_key_is_not_sent_unencrypted_to_another_machine(
    url: str, exposed: bool
) -> None:
    keys = Keys({"OPENAI_API_KEY": KEY})
    known = target("openai", ProviderSettings(base_url=url), keys)

    assert known.exposes_its_key is exposed
    if exposed:
        async with LitellmProvider(known, Shop(LitellmSettings(), keys)) as provider:
            with pytest.raises(ConfigurationError, match="unencrypted") as caught:
                await provider.complete(asking())
        assert KEY not in repr(caught.value)


async def test_a_key_is_not_shown_by_what_holds_it(opened: Opened) -> None:
    async with opened() as provider:
        await provider.complete(asking())

        assert isinstance(provider, LitellmProvider)
        for each in (provider, provider._shop, provider._shop._keys, provider._target):
            assert KEY not in repr(each)
            assert KEY not in str(each)
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(provider)
