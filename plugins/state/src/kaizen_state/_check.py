"""Whether this release reads the logs that earlier releases wrote.

Each release leaves a file behind, `golden/<release>.json`: the version of every type of
entry, and the JSON schema of each of its fields. What can be read now is compared with all
of them. Old logs go on loading if an entry gets wider: a new type, a field that may be
missing, one more choice. For everything else the type needs a new version, and a migration
from each version before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kaizen import CheckpointLoadError, CheckpointSaveError
from kaizen.runlog import Entry
from pydantic import TypeAdapter

__all__ = ["GOLDEN", "Change", "changes", "described_types", "goldens", "write_golden"]

GOLDEN = Path(__file__).parent / "golden"
_ONLY_TOLD = frozenset(("title", "description", "default"))

Types = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between an earlier release and this one.

    Attributes:
        type: The type of entry.
        what: What became of it, as the end of a sentence that starts with the type.
        breaks: Whether logs of that release do not load any more.
    """

    release: str
    type: str
    what: str
    breaks: bool


def described_types(types: Mapping[str, type[Entry]]) -> dict[str, dict[str, Any]]:
    """Return what is to be compared of types of entries, as JSON values."""
    return {name: _described(each) for name, each in sorted(types.items())}


def goldens(folder: Path = GOLDEN) -> dict[str, Types]:
    """Return what each release could read, oldest first.

    Raises:
        CheckpointLoadError: A file is damaged, or there is none.
    """
    found = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: _as_numbers(path.stem)):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))["types"]
        except (ValueError, KeyError, TypeError):
            raise CheckpointLoadError(
                f"the golden file {path.name!r}",
                "is damaged",
                "Restore it from its release.",
            ) from None
    if not found:
        raise CheckpointLoadError(
            f"the folder {str(folder)!r}", "has no golden file", "Reinstall kaizen-state."
        )
    return found


def write_golden(
    types: Mapping[str, type[Entry]], *, folder: Path = GOLDEN, force: bool = False
) -> Path:
    """Leave behind what this release can read, and return the file.

    Raises:
        CheckpointSaveError: There is such a file already, and it says something else.
    """
    release = version("kaizen-kernel")
    path = folder / f"{release}.json"
    values = {"release": release, "types": described_types(types)}
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    if path.exists() and not force and path.read_text(encoding="utf-8") != text:
        raise CheckpointSaveError(
            f"the golden file {path.name!r}",
            "says something else already, and may be released",
            "Raise the release's version, or overwrite it with --force.",
        )
    path.write_text(text, encoding="utf-8")
    return path


def changes(
    release: str, before: Types, types: Mapping[str, type[Entry]]
) -> Iterator[Change]:
    """Yield what is different since a release, type by type."""
    now = described_types(types)
    for name, old in sorted(before.items()):
        if name not in now:
            yield Change(release=release, type=name, what="was removed", breaks=True)
            continue
        for what, breaks in _differences(old, now[name], types[name]):
            yield Change(release=release, type=name, what=what, breaks=breaks)
    for name in sorted(now.keys() - before.keys()):
        yield Change(release=release, type=name, what="is new", breaks=False)


def _described(entry_type: type[Entry]) -> dict[str, Any]:
    schema = TypeAdapter[Any](entry_type).json_schema()
    shared = schema.get("$defs", {})
    required = schema.get("required", ())
    fields = {
        name: {"required": name in required, "schema": _bare(each, shared)}
        for name, each in schema["properties"].items()
    }
    return {"version": entry_type.version, "fields": fields}


def _bare(schema: Any, shared: Mapping[str, Any]) -> Any:
    """Return a schema in one piece, without what changes nothing."""
    if isinstance(schema, list):
        return [_bare(each, shared) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _bare(shared[schema["$ref"].rpartition("/")[2]], shared)
    return {
        name: (
            {field: _bare(each, shared) for field, each in value.items()}
            if name == "properties"
            else _bare(value, shared)
        )
        for name, value in schema.items()
        if name not in _ONLY_TOLD
    }


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], entry_type: type[Entry]
) -> Iterator[tuple[str, bool]]:
    """Yield what became of a type, and whether that breaks old logs."""
    before, after = old["version"], new["version"]
    if after < before:
        yield f"went back from version {before} to {after}", True
        return
    missing = [each for each in range(before, after) if each not in entry_type.migrations]
    for each in missing:
        yield f"has no migration from version {each} to {each + 1}", True
    migrated = after > before and not missing
    if migrated:
        yield f"is migrated from version {before} to {after}", False
    for what, breaks in _field_differences(old["fields"], new["fields"]):
        yield what, breaks and not migrated


def _field_differences(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, bool]]:
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            yield f"lost its field {name!r}", True
            continue
        if before["schema"] != after["schema"]:
            wider = _is_wider(before["schema"], after["schema"])
            yield f"has a {'wider' if wider else 'different'} field {name!r}", not wider
        if after["required"] and not before["required"]:
            yield f"demands its field {name!r} now", True
        if before["required"] and not after["required"]:
            yield f"demands its field {name!r} no more", False
    for name, after in new.items():
        if name not in old:
            kind = "must" if after["required"] else "may"
            yield f"has a new field {name!r}, which {kind} be there", after["required"]


def _is_wider(old: Any, new: Any) -> bool:
    """Whether whatever fits the old schema fits the new one.

    Where that cannot be told, it does not.
    """
    if old == new or new == {}:
        return True
    if not isinstance(old, dict) or not isinstance(new, dict):
        return False
    if "anyOf" in old:
        return all(_is_wider(each, new) for each in old["anyOf"])
    if "anyOf" in new:
        return any(_is_wider(old, each) for each in new["anyOf"])
    if _choices(old) and _choices(new) and old.get("type") == new.get("type"):
        return all(each in _choices(new) for each in _choices(old))
    differing = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if differing <= {"items"} and "items" in old and "items" in new:
        return _is_wider(old["items"], new["items"])
    if differing <= {"properties", "required"} and "properties" in old:
        return _is_wider_object(old, new)
    return False


def _is_wider_object(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if not set(new.get("required", ())) <= set(old.get("required", ())):
        return False
    inside = new.get("properties", {})
    return all(
        name in inside and _is_wider(each, inside[name])
        for name, each in old["properties"].items()
    )


def _choices(schema: Mapping[str, Any]) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    choices: list[Any] = schema.get("enum", [])
    return choices


def _as_numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".") if part.isdecimal()]
