"""Kernels with the plugin, and a project to work in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from kaizen import Kernel
from kaizen.testing import ModelPlugin, ScriptedModel
from kaizen_permissions import PermissionsPlugin

from tests.plugins.permissions.workbench import Journal

Running: TypeAlias = Callable[..., AbstractAsyncContextManager[Kernel]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend


@pytest.fixture
def journal() -> Journal:
    """Tools that remember their calls."""
    return Journal()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with some files, and with others beside it."""
    folder = tmp_path / "project"
    for name in ("src/app/main.py", "docs/index.md", ".git/config", ".env", "secret.key"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text", encoding="utf-8")
    (folder / ".git" / "config").write_text("[core]\n\tbare = false\n", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "victim.txt").write_text("text", encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def running(model: ScriptedModel) -> Running:
    """Start a kernel with the plugin and some settings; its provider is `model`."""

    @asynccontextmanager
    async def started(
        *plugins: object, config: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncGenerator[Kernel]:
        async with Kernel(
            plugins=[ModelPlugin(model), PermissionsPlugin, *plugins],
            discover=False,
            settings={"permissions": settings},
            config={"default_provider": "scripted", **(config or {})},
            config_file=False,
            environ={},
        ) as kernel:
            yield kernel

    return started
