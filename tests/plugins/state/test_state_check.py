"""`kaizen state check` finds every change of an entry that would break stored logs."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import field
from importlib.metadata import EntryPoint, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import pytest
from kaizen import CheckpointLoadError, CheckpointSaveError, Message
from kaizen._records import record
from kaizen.runlog import Entry, Marked, Noted, entry_types
from kaizen_state import _check
from kaizen_state._check import (
    GOLDEN,
    Change,
    changes,
    described_types,
    goldens,
    write_golden,
)
from kaizen_state._command import state

ROOT = Path(__file__).parents[3]


@record
class Said(Entry):
    """Something was said."""

    type: ClassVar[str] = "said"

    text: str
    who: Literal["user", "model"]
    count: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@record
class Lost(Entry):
    """The same without its text."""

    type: ClassVar[str] = "said"

    who: Literal["user", "model"]
    count: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@record
class Renamed(Entry):
    """The same with another name for its text."""

    type: ClassVar[str] = "said"

    words: str
    who: Literal["user", "model"]
    count: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@record
class Retyped(Entry):
    """The same with a text that is a number."""

    type: ClassVar[str] = "said"

    text: int
    who: Literal["user", "model"]
    count: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@record
class Narrowed(Entry):
    """The same with a choice less."""

    type: ClassVar[str] = "said"

    text: str
    who: Literal["user"]
    count: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@record
class Demanding(Entry):
    """The same with a field that must be there."""

    type: ClassVar[str] = "said"

    text: str
    who: Literal["user", "model"]
    language: str
    count: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@record
class Insisting(Entry):
    """The same with a count that must be there."""

    type: ClassVar[str] = "said"

    text: str
    who: Literal["user", "model"]
    count: int
    more: Mapping[str, Any] = field(default_factory=dict)


@record
class Wider(Entry):
    """The same with more of everything that does no harm."""

    type: ClassVar[str] = "said"

    text: str | None
    who: Literal["user", "model", "tool"] = "user"
    count: int | float = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    language: str = ""


@record
class Unmigrated(Said):
    """The same in a new version."""

    version: ClassVar[int] = 2


@record
class Migrated(Retyped):
    """Another one, and how the old one becomes it."""

    version: ClassVar[int] = 3
    migrations: ClassVar[Mapping[int, Any]] = MappingProxyType({1: dict, 2: dict})


@record
class HalfMigrated(Retyped):
    """Another one, and how the last but one became the last."""

    version: ClassVar[int] = 3
    migrations: ClassVar[Mapping[int, Any]] = MappingProxyType({2: dict})


def since(before: type[Entry], *after: type[Entry]) -> list[Change]:
    old = described_types({before.type: before})
    plain = json.loads(json.dumps(old))  # as it is stored
    return list(changes("0.1.0", plain, {each.type: each for each in after}))


def test_nothing_has_changed_where_nothing_has() -> None:
    assert since(Said, Said) == []


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (Lost, "lost its field 'text'"),
        (Renamed, "lost its field 'text'"),
        (Retyped, "has a different field 'text'"),
        (Narrowed, "has a different field 'who'"),
        (Demanding, "has a new field 'language', which must be there"),
        (Insisting, "demands its field 'count' now"),
        (Unmigrated, "has no migration from version 1 to 2"),
        (HalfMigrated, "has no migration from version 1 to 2"),
    ],
)
def test_a_change_that_breaks_old_logs_is_found(after: type[Entry], what: str) -> None:
    found = since(Said, after)

    assert what in [each.what for each in found if each.breaks]
    assert all(each.type == "said" for each in found)


def test_a_type_that_is_gone_is_found() -> None:
    assert [(each.what, each.breaks) for each in since(Said)] == [("was removed", True)]


def test_a_version_that_went_back_is_found() -> None:
    found = since(Migrated, Retyped)

    assert [(each.what, each.breaks) for each in found] == [
        ("went back from version 3 to 1", True)
    ]


def test_a_complete_chain_of_migrations_makes_every_change_good() -> None:
    found = since(Said, Migrated)

    assert [each.what for each in found] == [
        "is migrated from version 1 to 3",
        "has a different field 'text'",
    ]
    assert not any(each.breaks for each in found)


def test_what_gets_wider_breaks_nothing() -> None:
    found = since(Said, Wider)

    assert {each.what for each in found} == {
        "has a wider field 'text'",
        "has a wider field 'who'",
        "demands its field 'who' no more",
        "has a wider field 'count'",
        "has a new field 'language', which may be there",
    }
    assert not any(each.breaks for each in found)


def test_a_new_type_breaks_nothing() -> None:
    found = since(Said, Said, Marked)

    assert [(each.type, each.what, each.breaks) for each in found] == [
        ("marked", "is new", False)
    ]


def messages(change: Callable[[dict[str, Any]], None]) -> list[Change]:
    """Return what is found if what a message is had been another at the last release."""
    types = {"message_added": entry_types()["message_added"]}
    old = json.loads(json.dumps(described_types(types)))
    change(old["message_added"]["fields"]["message"]["schema"])
    return list(changes("0.1.0", old, types))


def test_what_is_inside_a_field_may_get_wider_as_well() -> None:
    (found,) = messages(lambda schema: schema["properties"].pop("origin"))

    assert (found.what, found.breaks) == ("has a wider field 'message'", False)


def test_what_is_lost_inside_a_field_is_found() -> None:
    def had_a_title(schema: dict[str, Any]) -> None:
        schema["properties"]["title"] = {"type": "string"}

    (found,) = messages(had_a_title)

    assert (found.what, found.breaks) == ("has a different field 'message'", True)


def test_what_is_demanded_inside_a_field_is_found() -> None:
    (found,) = messages(lambda schema: schema["required"].remove("role"))

    assert (found.what, found.breaks) == ("has a different field 'message'", True)
    assert Message(role="user", content="x").role == "user"


def test_this_release_loads_what_every_release_stored() -> None:
    for release, before in goldens().items():
        found = list(changes(release, before, entry_types()))
        assert [each for each in found if each.breaks] == []


def test_this_release_has_left_its_types_behind() -> None:
    before = goldens()[version("kaizen-kernel")]

    assert list(changes("now", before, entry_types())) == [], "kaizen state check --write"


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of golden files of its own."""
    folder = tmp_path / "golden"
    folder.mkdir()
    for path in GOLDEN.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(_check.goldens, "__defaults__", (folder,))
    keywords = {**(_check.write_golden.__kwdefaults__ or {}), "folder": folder}
    monkeypatch.setattr(_check.write_golden, "__kwdefaults__", keywords)
    return folder


def change(golden: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = golden / f"{version('kaizen-kernel')}.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values["types"])
    path.write_text(json.dumps(values), encoding="utf-8")


def run(*arguments: str) -> int:
    return state(None, arguments)  # type: ignore[arg-type] # it needs no kernel


def test_the_command_says_that_all_is_well(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("check")

    assert code == 0
    assert capsys.readouterr().out == (
        f"{len(entry_types())} types of entries load from 0.1.0 on.\n"
    )


def test_the_command_shows_what_breaks_and_fails(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(types: dict[str, Any]) -> None:
        types["marked"]["fields"]["colour"] = {"required": False, "schema": {}}
        del types["noted"]

    change(golden, other)

    code = run("check")

    shown = capsys.readouterr().out
    assert code == 1
    assert "0.1.0  marked  breaks  lost its field 'colour'" in shown
    assert "0.1.0  noted   fits    is new" in shown
    assert "1 of these break" in shown


def test_the_command_shows_what_is_new_and_succeeds(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(golden, lambda types: types["marked"]["fields"].pop("description"))

    assert run("check") == 0
    shown = capsys.readouterr().out
    assert "has a new field 'description', which may be there" in shown


def test_the_command_compares_with_every_release(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types = {**described_types({"noted": Noted}), "ancient": {"version": 1, "fields": {}}}
    (golden / "0.0.9.json").write_text(json.dumps({"types": types}), encoding="utf-8")

    assert run("check") == 1
    assert "0.0.9  ancient" in capsys.readouterr().out
    assert list(goldens()) == ["0.0.9", "0.1.0"]


def test_writing_again_what_is_there_changes_nothing(golden: Path) -> None:
    before = {path.name: path.read_bytes() for path in golden.iterdir()}

    assert run("check", "--write") == 0

    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before


def test_force_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--force") == 2
    assert "--write" in capsys.readouterr().err


def test_a_release_is_not_written_over_unless_that_is_forced(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(golden, lambda types: types.pop("noted"))

    assert run("check", "--write") == 1
    assert "--force" in capsys.readouterr().err
    assert run("check", "--write", "--force") == 0
    assert list(changes("", goldens()[version("kaizen-kernel")], entry_types())) == []


def test_a_new_release_is_written(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()

    path = write_golden({"said": Said}, folder=folder)

    assert path.name == f"{version('kaizen-kernel')}.json"
    assert json.loads(path.read_text(encoding="utf-8"))["types"] == json.loads(
        json.dumps(described_types({"said": Said}))
    )
    with pytest.raises(CheckpointSaveError, match="says something else"):
        write_golden({"said": Wider}, folder=folder)


def test_a_damaged_golden_file_is_reported(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (golden / "0.1.0.json").write_text("{", encoding="utf-8")

    assert run("check") == 1
    assert "damaged" in capsys.readouterr().err
    with pytest.raises(CheckpointLoadError):
        goldens()


def test_a_missing_golden_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointLoadError, match="no golden file"):
        goldens(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["chekc"], ["check", "--wirte"]])
def test_a_command_that_is_misspelt_is_a_misuse(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert "usage: kaizen state" in capsys.readouterr().err


def test_the_command_tells_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "check" in capsys.readouterr().out


def test_the_command_is_announced() -> None:
    text = (ROOT / "plugins" / "state" / "pyproject.toml").read_text(encoding="utf-8")
    points = tomllib.loads(text)["project"]["entry-points"]["kaizen.commands"]

    (name, value) = next(iter(points.items()))

    assert EntryPoint(name, value, "kaizen.commands").load() is state
