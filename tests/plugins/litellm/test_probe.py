"""A server on this machine is found in the ways in which people run and name one."""

from __future__ import annotations

import pytest
from kaizen import Provider
from kaizen_litellm import ProviderSettings
from kaizen_litellm._call import Limits
from kaizen_litellm._keys import Keys
from kaizen_litellm._probe import listed
from kaizen_litellm._provider import _Prepared
from kaizen_litellm._targets import target

from tests.wire.keeping import keeping_connections
from tests.wire.server import WireServer

from .conftest import Opened, asking, kernel_for

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_server_that_keeps_connections_is_asked_to_close_this_one() -> None:
    async with keeping_connections() as url:
        assert await listed(url) == ["one", "two"]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("host", ["a" * 64, "a..b", f"{'a' * 64}.example"])
async def test_a_host_that_can_be_none_is_not_there(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # it looks for no host: the name is refused before

    assert await listed(f"http://{host}:1/v1/models") == []


@pytest.mark.parametrize("suffix", ["", "/v1"])
async def test_models_of_ollama_are_listed_whichever_address_is_given(
    wire: WireServer, opened: Opened, suffix: str
) -> None:
    url = wire.base_url("ollama") + suffix

    async with opened("ollama", base_url=url, model="") as provider:
        reply = await provider.complete(asking())
        found = [each.name for each in await provider.models()]
    async with kernel_for({"providers": {"ollama": {"base_url": url}}}) as kernel:
        assert await kernel.available(Provider) == "ollama"

    assert reply.model == "wire-1"
    assert found == ["wire-1", "wire-2"]


async def test_docker_is_asked_where_its_models_are() -> None:
    known = target("docker", ProviderSettings(), Keys({}))

    assert known.list_url == "http://127.0.0.1:12434/engines/v1/models"


async def test_what_is_shown_of_a_request_and_of_limits_holds_no_secret() -> None:
    ready = _Prepared(asking(), "m", {"api_key": "sk-hidden"})
    limits = Limits(proxy="http://me:hidden@127.0.0.1:1")

    assert "hidden" not in repr(ready) + repr(limits)
