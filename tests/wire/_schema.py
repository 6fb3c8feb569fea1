"""Makes up a value that fits a JSON schema, as a model that is held to it would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["filled"]

Schema = Mapping[str, Any]
FORMATS = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "email": "wire@example.org",
    "uri": "https://example.org/wire",
    "uuid": "12345678-1234-4234-8234-123456789abc",
    "ipv4": "192.0.2.1",
    "duration": "PT1S",
}


def filled(schema: Schema, root: Schema | None = None, *, name: str = "value") -> Any:
    """Return a value that fits a schema; texts say for which property they stand."""
    root = schema if root is None else root
    schema = resolved(schema, root)
    for given in ("const", "default"):
        if given in schema:
            return schema[given]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            options = [resolved(each, root) for each in schema[choice]]
            wanted = next((o for o in options if o.get("type") != "null"), options[0])
            return filled(wanted, root, name=name)
    if schema.get("allOf"):
        whole = dict(schema)
        for each in whole.pop("allOf"):
            whole |= resolved(each, root)
        return filled(whole, root, name=name)
    return of_type(schema, root, name)


def resolved(schema: Schema, root: Schema) -> Schema:
    """Follow references into the same document."""
    while isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for step in reference.removeprefix("#").strip("/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")] if step else target
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def of_type(schema: Schema, root: Schema, name: str) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    # Gemini writes its types in capitals.
    kind = str(kind).lower()
    if kind == "object":
        return object_of(schema, root)
    if kind == "array":
        count = max(schema.get("minItems", 1), min(1, schema.get("maxItems", 1)))
        item = schema.get("items") or {}
        return [filled(item, root, name=name) for _ in range(count)]
    if kind in ("integer", "number"):
        return number_of(schema, whole=kind == "integer")
    if kind == "boolean":
        return True
    return None if kind == "null" else string_of(schema, name)


def object_of(schema: Schema, root: Schema) -> dict[str, Any]:
    required = schema.get("required", [])
    properties = schema.get("properties") or {name: {} for name in required}
    # What is optional is left out below a reference to itself, or it would never end.
    return {
        name: filled(each, root, name=name)
        for name, each in properties.items()
        if name in required or "$ref" not in str(each)
    }


def number_of(schema: Schema, *, whole: bool) -> float:
    step = 1 if whole else 0.25
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = 0 if high is None or high > 0 else high - step
    value = low + (step if "exclusiveMinimum" in schema else 0)
    if high is not None and value > high:
        value = (low + high) / 2
    if multiple := schema.get("multipleOf"):
        value = multiple * -(-value // multiple)
    return int(value) if whole else float(value)


def string_of(schema: Schema, name: str) -> str:
    text = FORMATS.get(str(schema.get("format")), name)
    text = text.ljust(schema.get("minLength", 0), "x")
    return text[: schema.get("maxLength", len(text))]
