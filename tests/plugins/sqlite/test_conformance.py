"""The store keeps every promise of its port."""

from __future__ import annotations

import pytest
from kaizen.testing.conformance import CheckpointStoreConformance


@pytest.mark.anyio
class TestSqliteStorage(CheckpointStoreConformance):
    """Uses the fixture `store`."""
