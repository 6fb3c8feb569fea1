"""Servers on this machine are found, whatever they do with connections."""

from __future__ import annotations

import pytest
from kaizen_direct._probe import answers

from tests.wire.keeping import keeping_connections

pytestmark = pytest.mark.anyio


async def test_a_server_that_keeps_connections_is_asked_to_close_this_one() -> None:
    async with keeping_connections() as url:
        assert await answers(url)


@pytest.mark.parametrize("host", ["a" * 64, "a..b", f"{'a' * 64}.example"])
async def test_a_host_that_can_be_none_is_not_there(host: str) -> None:
    assert not await answers(f"http://{host}:1/v1/models")
