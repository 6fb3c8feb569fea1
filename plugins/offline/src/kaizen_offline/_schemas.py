"""What both models must know of JSON schema: following references, and checking values.

It covers what pydantic writes and what structured-output APIs take. `format` is not
checked, as in JSON schema itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = ["Schema", "problem", "resolve"]

Schema: TypeAlias = Mapping[str, Any]

_MAX_REFERENCES = 64
_MAX_DEPTH = 64


def resolve(schema: Any, root: Schema) -> dict[str, Any]:
    """Return a schema in which `$ref` and `allOf` at its top are replaced by what they say.

    Raises:
        ValueError: A reference leads nowhere, or round in a circle.
    """
    found: dict[str, Any] = {}
    waiting: list[Any] = [schema]
    steps = 0
    while waiting:
        steps += 1
        if steps > _MAX_REFERENCES:
            raise ValueError("its references lead round in a circle")
        part = waiting.pop()
        if part is True:
            continue
        if not isinstance(part, Mapping):
            return {"not": {}}
        rest = {key: item for key, item in part.items() if key not in ("$ref", "allOf")}
        found = _both(rest, found)
        if "$ref" in part:
            waiting.append(_target(str(part["$ref"]), root))
        waiting.extend(part.get("allOf", ()))
    return found


def _both(first: Schema, second: Schema) -> dict[str, Any]:
    joined = {**first, **second}
    for key in ("properties", "$defs"):
        if key in first and key in second:
            joined[key] = {**first[key], **second[key]}
    if "required" in first and "required" in second:
        joined["required"] = [*first["required"], *second["required"]]
    return joined


def _target(reference: str, root: Schema) -> Any:
    if not reference.startswith("#"):
        raise ValueError(f"the reference {reference!r} points outside the schema")
    target: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or key not in target:
            raise ValueError(f"the reference {reference!r} leads nowhere")
        target = target[key]
    return target


def problem(value: Any, schema: Any, root: Schema | None = None) -> str:
    """Return the first way in which a value does not fit a schema, or `""` if it fits."""
    return _problem(value, schema, schema if root is None else root, "value", 0)


def _problem(value: Any, schema: Any, root: Any, where: str, depth: int) -> str:
    if depth > _MAX_DEPTH:
        return f"{where} is nested too deeply"
    rules = resolve(schema, root)
    if "type" in rules and not _has_type(value, rules["type"]):
        return f"{where} is not of type {rules['type']!r}"
    if "const" in rules and not _same(value, rules["const"]):
        return f"{where} is not {rules['const']!r}"
    if "enum" in rules and not any(_same(value, each) for each in rules["enum"]):
        return f"{where} is not one of {rules['enum']!r}"

    def check(inner: Any, part: Any, step: str = "") -> str:
        return _problem(inner, part, root, f"{where}{step}", depth + 1)

    found = _choice_problem(value, rules, where, check)
    if found:
        return found
    if isinstance(value, str):
        return _text_problem(value, rules, where)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number_problem(value, rules, where)
    if isinstance(value, list):
        return _list_problem(value, rules, where, check)
    if isinstance(value, Mapping):
        return _object_problem(value, rules, where, check)
    return ""


def _choice_problem(
    value: Any, rules: Schema, where: str, check: Callable[..., str]
) -> str:
    if "anyOf" in rules and all(check(value, part) for part in rules["anyOf"]):
        return f"{where} fits none of the alternatives"
    if "oneOf" in rules and sum(not check(value, part) for part in rules["oneOf"]) != 1:
        return f"{where} does not fit exactly one of the alternatives"
    if "not" in rules and not check(value, rules["not"]):
        return f"{where} is what it must not be"
    return ""


def _text_problem(value: str, rules: Schema, where: str) -> str:
    if not rules.get("minLength", 0) <= len(value) <= rules.get("maxLength", math.inf):
        return f"{where} is too short or too long"
    if "pattern" in rules:
        try:
            fits = re.search(rules["pattern"], value)
        except re.error:
            return f"{where} has a pattern that Python cannot read"
        if not fits:
            return f"{where} does not match the pattern {rules['pattern']!r}"
    return ""


def _number_problem(value: float, rules: Schema, where: str) -> str:
    if not rules.get("minimum", -math.inf) <= value <= rules.get("maximum", math.inf):
        return f"{where} is too small or too large"
    above, below = rules.get("exclusiveMinimum"), rules.get("exclusiveMaximum")
    if (above is not None and value <= above) or (below is not None and value >= below):
        return f"{where} is too small or too large"
    if step := rules.get("multipleOf"):
        multiples = value / step
        if abs(multiples - round(multiples)) > 1e-9:
            return f"{where} is not a multiple of {step}"
    return ""


def _list_problem(
    value: Sequence[Any], rules: Schema, where: str, check: Callable[..., str]
) -> str:
    if not rules.get("minItems", 0) <= len(value) <= rules.get("maxItems", math.inf):
        return f"{where} has too few or too many items"
    if rules.get("uniqueItems") and any(
        _same(item, other) for i, item in enumerate(value) for other in value[:i]
    ):
        return f"{where} holds an item twice"
    first = rules.get("prefixItems", ())
    for i, item in enumerate(value):
        part = first[i] if i < len(first) else rules.get("items", True)
        if found := check(item, part, f"[{i}]"):
            return found
    return ""


def _object_problem(
    value: Mapping[str, Any], rules: Schema, where: str, check: Callable[..., str]
) -> str:
    if missing := [key for key in rules.get("required", ()) if key not in value]:
        return f"{where} lacks {missing[0]!r}"
    if (
        not rules.get("minProperties", 0)
        <= len(value)
        <= rules.get("maxProperties", math.inf)
    ):
        return f"{where} has too few or too many properties"
    known = rules.get("properties", {})
    patterns = rules.get("patternProperties", {})
    for key, item in value.items():
        parts = [part for pattern, part in patterns.items() if re.search(pattern, key)]
        if key in known:
            parts.append(known[key])
        for part in parts or [rules.get("additionalProperties", True)]:
            if found := check(item, part, f".{key}"):
                return found
        if found := check(key, rules.get("propertyNames", True), f" key {key!r}"):
            return found
    return ""


def _has_type(value: Any, types: str | Sequence[str]) -> bool:
    names = [types] if isinstance(types, str) else types
    return any(_is(value, name) for name in names)


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    kinds: dict[str, Any] = {
        "string": str,
        "number": (int, float),
        "array": list,
        "object": Mapping,
        "null": type(None),
    }
    return name in kinds and isinstance(value, kinds[name])


def _same(one: Any, other: Any) -> bool:
    """Equality in which, unlike in Python, `1` and `True` differ."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other)
