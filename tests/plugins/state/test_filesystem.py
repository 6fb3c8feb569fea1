"""`FilesystemStorage` keeps every promise of a checkpoint store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from kaizen.testing.conformance import CheckpointStoreConformance
from kaizen_state import FilesystemStorage


@pytest.mark.anyio
class TestConformance(CheckpointStoreConformance):
    @pytest.fixture(params=[True, False], ids=["packed", "plain"])
    async def store(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> AsyncGenerator[FilesystemStorage]:
        async with FilesystemStorage(tmp_path / "runs", compress=request.param) as store:
            yield store
