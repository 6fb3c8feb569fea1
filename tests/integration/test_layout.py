"""Every folder has the shape that the others have, so that one who knows one knows all."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "kernel"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

each_plugin = pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
each_distribution = pytest.mark.parametrize(
    "folder", [KERNEL, *PLUGINS], ids=lambda folder: folder.name
)


def pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads(Path(folder, "pyproject.toml").read_text(encoding="utf-8"))


def package(folder: Path) -> str:
    """One word serves as folder, package suffix, entry point and settings table."""
    return "kaizen_" + folder.name.replace("-", "_")


def entry_point(folder: Path) -> EntryPoint:
    group = pyproject(folder)["project"]["entry-points"]["kaizen.plugins"]
    ((name, value),) = group.items()
    return EntryPoint(name, value, "kaizen.plugins")


@each_plugin
def test_a_plugin_has_the_files_that_every_plugin_has(folder: Path) -> None:
    source = folder / "src" / package(folder)

    expected = [
        folder / "README.md",
        source / "__init__.py",
        source / "_plugin.py",
        source / "py.typed",
    ]

    assert [path for path in expected if not path.is_file()] == []
    assert [path.name for path in (folder / "src").iterdir()] == [package(folder)]


@each_plugin
def test_a_plugin_has_tests_in_the_folder_of_its_name(folder: Path) -> None:
    assert list((ROOT / "tests" / "plugins" / folder.name).rglob("test_*.py"))


@each_plugin
def test_a_plugin_says_in_its_pyproject_only_what_differs(folder: Path) -> None:
    tables, root = pyproject(folder), pyproject(ROOT)
    project = tables["project"]

    assert set(tables) == {"build-system", "project"}
    assert tables["build-system"] == root["build-system"]
    assert project["name"] == f"kaizen-{folder.name}"
    assert project["description"]
    assert project["readme"] == "README.md"
    assert project["license"] == root["project"]["license"]
    assert project["requires-python"] == root["project"]["requires-python"]


@each_plugin
def test_a_plugin_depends_on_the_kernel_and_on_no_other_plugin(folder: Path) -> None:
    project = pyproject(folder)["project"]
    extras = project.get("optional-dependencies", {}).values()

    requirements = [*project["dependencies"], *(name for extra in extras for name in extra)]

    ours = [name for name in requirements if re.match(r"kaizen\b", name)]
    assert ours == ["kaizen-kernel~=0.1"]


@each_plugin
def test_an_entry_point_has_the_name_of_its_folder_and_leads_to_a_class(
    folder: Path,
) -> None:
    found = entry_point(folder)

    assert found.name.replace("-", "_") == folder.name.replace("-", "_")
    assert found.module == package(folder)
    plugin = found.load()
    assert isinstance(plugin, type)
    assert plugin.__module__.startswith(package(folder))


def test_every_plugin_folder_is_installed_and_found() -> None:
    installed = {
        found.name
        for found in entry_points(group="kaizen.plugins")
        if found.dist is not None
    }

    assert {entry_point(folder).name for folder in PLUGINS} <= installed


@each_distribution
def test_a_distribution_has_the_one_version(folder: Path) -> None:
    assert pyproject(folder)["project"]["version"] == pyproject(ROOT)["project"]["version"]


@each_plugin
def test_kaizen_brings_or_offers_every_plugin(folder: Path) -> None:
    tables = pyproject(ROOT)
    name = f"kaizen-{folder.name}"
    extras = tables["project"]["optional-dependencies"]

    brought = f"{name}~=0.1" in tables["project"]["dependencies"]
    offered = extras.get(folder.name) == [f"{name}~=0.1"]

    assert brought or offered
    assert brought or any(f"kaizen[{folder.name}]" in each for each in extras["all"])
    assert tables["tool"]["uv"]["sources"][name] == {"workspace": True}


@each_plugin
def test_a_plugins_readme_says_what_every_plugins_readme_says(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    _title, sentence, *_ = text.split("\n\n")
    settings = entry_point(folder).load().Settings

    assert text.startswith(f"# kaizen-{folder.name}\n")
    assert sentence.endswith(".")
    assert f"pip install kaizen-{folder.name}" in text
    assert "```python\n" in text or "kaizen " in text
    assert re.search(r"\b[Hh]ooks?\b", text)
    assert re.search(r"\b[Pp]orts?\b", text)
    assert f"[plugins.{folder.name}" in text or not settings.model_fields


def test_the_changelog_starts_with_the_current_version() -> None:
    version = pyproject(ROOT)["project"]["version"]
    headings = re.findall(
        r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )

    assert headings[0] == version
    assert headings == sorted(headings, key=as_numbers, reverse=True)


def as_numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_ci_runs_the_command_that_the_readme_shows() -> None:
    *_, command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
