"""What the tests of the control plugin share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend
