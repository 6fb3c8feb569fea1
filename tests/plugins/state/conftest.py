"""What the tests of stored runs share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every test that is marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend
