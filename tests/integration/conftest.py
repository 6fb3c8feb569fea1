"""What all tests here share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep programs that are started here away from what the user's own have kept."""
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        folder = variable.removeprefix("XDG_").removesuffix("_HOME").lower()
        monkeypatch.setenv(variable, str(tmp_path / f"home-{folder}"))
