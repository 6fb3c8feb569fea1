"""The fixtures that pytest finds wherever the kernel is installed.

pytest imports this module whenever it starts; the kernel is imported by the fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kaizen.testing._fixtures import async_fixture, pytest_fixture_setup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from kaizen.kernel import Kernel
    from kaizen.testing import ScriptedModel

__all__ = ["kernel", "model", "pytest_fixture_setup"]


@pytest.fixture
def model() -> ScriptedModel:
    """A model that says what the test tells it to: `model.say("hello")`."""
    from kaizen.testing import ScriptedModel

    return ScriptedModel()


@async_fixture
async def kernel(model: ScriptedModel) -> AsyncGenerator[Kernel]:
    """A running kernel without installed plugins; its default provider is `model`."""
    from kaizen.kernel import Kernel
    from kaizen.testing import ModelPlugin

    async with Kernel(
        plugins=[ModelPlugin(model)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    ) as running:
        yield running
