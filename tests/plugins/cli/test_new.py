"""`kaizen new` writes plugins and agents that work at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli


@pytest.mark.parametrize("name", ["weather", "bird-song-2"])
def test_a_new_plugin_passes_its_own_tests(kaizen: Cli, name: str) -> None:
    shown = kaizen("new", "plugin", name)
    folder = Path(name)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-q"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert shown.code == 0
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_new_plugin_has_the_shape_that_every_plugin_has(kaizen: Cli) -> None:
    kaizen("new", "plugin", "bird-song", "--directory", "plugins")
    folder = Path("plugins/bird-song")

    tables = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    files = {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}
    assert files == {
        "README.md",
        "pyproject.toml",
        "src/kaizen_bird_song/__init__.py",
        "src/kaizen_bird_song/_greeter.py",
        "src/kaizen_bird_song/_plugin.py",
        "src/kaizen_bird_song/py.typed",
        "tests/test_bird_song.py",
    }
    assert tables["project"]["name"] == "kaizen-bird-song"
    assert tables["project"]["dependencies"] == ["kaizen-kernel~=0.1"]
    assert tables["project"]["entry-points"]["kaizen.plugins"] == {
        "bird-song": "kaizen_bird_song:BirdSongPlugin"
    }
    assert [each for each in folder.rglob("*") if "$" in each.name] == []


def test_a_new_plugin_works_with_the_command_line(
    kaizen: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaizen("new", "plugin", "weather")
    monkeypatch.syspath_prepend("weather/src")

    shown = kaizen(
        "plugins", "show", "weather", "--plugin", "kaizen_weather:WeatherPlugin", "--json"
    )

    assert shown.json["status"] == "enabled"
    assert shown.json["offers"][0]["name"] == "weather_greet"
    assert shown.json["hooks"] == ["contribute", "post_tool_call"]


def test_nothing_is_overwritten(kaizen: Cli) -> None:
    Path("weather").mkdir()
    Path("weather/notes.txt").write_text("mine", encoding="utf-8")

    shown = kaizen("new", "plugin", "weather")

    assert shown.code == 1
    assert shown.err == "Error: weather exists already; nothing was written.\n"
    assert [each.name for each in Path("weather").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["", "Weather", "2nd", "a_b", "a--b", "../up", "a/b", "a" * 41, "kernel", "cli"]
)
def test_names_that_cannot_be_are_refused(kaizen: Cli, name: str) -> None:
    shown = kaizen("new", "plugin", name)

    assert shown.code == 2
    assert list(Path().iterdir()) == []


def test_a_better_name_is_proposed(kaizen: Cli) -> None:
    assert "Perhaps 'my-weather'?" in kaizen("new", "plugin", "My_Weather").err


def test_a_new_agent_runs_at_once(kaizen: Cli, sample: tuple[str, ...]) -> None:
    made = kaizen("new", "agent", "summer")

    shown = kaizen("run", *sample, "-p", "sample", "summer.py", "text=A b.")

    assert made.code == 0
    assert shown.code == 0
    assert shown.out.startswith("You said: ")
