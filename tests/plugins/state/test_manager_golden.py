"""What an earlier release wrote is read by every later one, for ever.

`golden/write.py` writes the files of a release.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kaizen.runlog import decode, encode, entry_types
from kaizen_state._check import GOLDEN

FOLDER = Path(__file__).parent / "golden"
RELEASES = sorted(path for path in FOLDER.iterdir() if re.match(r"\d", path.name))
LOGS = [path for release in RELEASES for path in sorted(release.glob("*.jsonl"))]

each_log = pytest.mark.parametrize(
    "path", LOGS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
each_release = pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def golden() -> Iterator[ModuleType]:
    """The module that wrote the files and reads them."""
    spec = importlib.util.spec_from_file_location("golden_write", FOLDER / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its signatures look up their types
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@pytest.mark.anyio
@each_log
async def test_a_log_of_an_earlier_release_comes_to_the_state_that_it_had(
    golden: ModuleType, path: Path
) -> None:
    states = json.loads(path.with_name("states.json").read_text(encoding="utf-8"))

    loaded = await golden.loaded(golden.read(path))

    expected = states[path.stem]
    assert at_least(loaded["run"], expected["run"]) == expected["run"]
    assert at_least(loaded["agent"], expected["agent"]) == expected["agent"]


def at_least(found: Any, expected: Any) -> Any:
    """Leave out what a later release says in addition, by itself."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return {
            name: at_least(value, expected[name])
            for name, value in found.items()
            if name in expected
        }
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return found
        return [at_least(*pair) for pair in zip(found, expected, strict=True)]
    return found


@each_log
def test_a_log_of_an_earlier_release_can_be_written_again(
    golden: ModuleType, path: Path
) -> None:
    entries = [decode(each) for each in golden.read(path)]

    assert [decode(encode(each)) for each in entries] == entries


@each_release
def test_a_release_has_left_every_type_of_entry_that_it_had(
    golden: ModuleType, release: Path
) -> None:
    types = json.loads((GOLDEN / f"{release.name}.json").read_text(encoding="utf-8"))
    stored = [each for path in release.glob("*.jsonl") for each in golden.read(path)]

    assert {each.type for each in stored} == set(types["types"])
    for each in stored:
        assert each.version == types["types"][each.type]["version"]


@each_release
def test_a_release_has_filled_every_field_of_an_entry(
    golden: ModuleType, release: Path
) -> None:
    text = (GOLDEN / f"{release.name}.json").read_text(encoding="utf-8")
    types = json.loads(text)["types"]
    filled: dict[str, set[str]] = {}
    for each in golden.read(release / "every_entry.jsonl"):
        filled.setdefault(each.type, set()).update(json.loads(each.body))

    assert filled == {name: set(each["fields"]) for name, each in types.items()}


@each_release
def test_a_release_says_of_every_log_what_it_comes_to(release: Path) -> None:
    states = json.loads((release / "states.json").read_text(encoding="utf-8"))

    assert set(states) == {path.stem for path in release.glob("*.jsonl")}


def test_this_release_has_left_its_logs() -> None:
    assert version("kaizen-kernel") in [path.name for path in RELEASES]
    assert len(entry_types()) > 0


@pytest.mark.anyio
async def test_the_logs_can_be_written_anew(golden: ModuleType, tmp_path: Path) -> None:
    await golden.write(tmp_path)

    assert names_in(tmp_path) == names_in(FOLDER / version("kaizen-kernel"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
