"""What the tests of the store in one file share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from kaizen_sqlite import SqliteStorage


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, which aiosqlite needs."""
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file may be."""
    return tmp_path / "runs.db"


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[SqliteStorage]:
    """An empty store."""
    async with SqliteStorage(path) as opened:
        yield opened
