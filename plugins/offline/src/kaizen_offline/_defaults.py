"""Makes a value that fits a JSON schema, always the same one for the same schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kaizen_offline._schemas import Schema, problem, resolve

__all__ = ["default_value"]

_MAX_DEPTH = 24
_MAX_NODES = 10_000
_MAX_CHARS = 100_000
_ORDINARY = "a0A bcdefghijklmnopqrstuvwxyz123456789_-."
_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "mock@example.org",
    "name-email": "Mock <mock@example.org>",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uuid1": "00000000-0000-1000-8000-000000000000",
    "uuid3": "00000000-0000-3000-8000-000000000000",
    "uuid5": "00000000-0000-5000-8000-000000000000",
    "uri": "https://example.org/",
    "multi-host-uri": "https://example.org/",
    "hostname": "example.org",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "ipv4network": "127.0.0.0/8",
    "ipv6network": "::1/128",
    "ipv4interface": "127.0.0.1/8",
    "ipv6interface": "::1/128",
    "ipvanyaddress": "127.0.0.1",
    "ipvanynetwork": "127.0.0.0/8",
    "ipvanyinterface": "127.0.0.1/8",
    "base64": "bW9jaw==",
    "base64url": "bW9jaw==",
    "json-string": "{}",
    "regex": ".*",
    "color": "black",
    "path": "mock",
}


class _DeadEndError(Exception):
    """This part of the schema cannot be filled here; another alternative may do."""


def default_value(schema: Schema) -> Any:
    """Return a JSON value that fits a schema.

    It depends on nothing but the schema: the first example, default, choice or alternative
    that fits; texts that say which field they stand in; the number nearest to 0; one item
    in a list. Where a schema contains itself, the shortest way out is taken.

    Raises:
        ValueError: No value was found; the message says where.
    """
    maker = _Maker(schema)
    try:
        value = maker.make(schema, "reply", 0, ())
    except (_DeadEndError, RecursionError) as error:
        raise ValueError(str(error) or "it is nested too deeply") from None
    if found := problem(value, schema):
        raise ValueError(found)
    return value


class _Maker:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = _MAX_NODES

    def make(self, schema: Any, name: str, nth: int, inside: tuple[str, ...]) -> Any:
        """Make a value; `nth` tells the items of a list apart, `inside` knows recursion."""
        self._left -= 1
        if self._left < 0 or len(inside) > _MAX_DEPTH:
            raise _DeadEndError(f"{name} is nested too deeply")
        inside = self._entered(schema, name, inside)
        rules = resolve(schema, self._root)
        for value in self._stated(rules, nth):
            if not problem(value, schema, self._root):
                return value
        for part in self._alternatives(rules):
            try:
                value = self._plain(part, name, nth, inside)
            except _DeadEndError as error:
                failure = error
                continue
            failure = _DeadEndError(
                f"{name}: " + problem(value, schema, self._root).removeprefix("value ")
            )
            if not problem(value, schema, self._root):
                return value
        raise failure

    def _entered(self, schema: Any, name: str, inside: tuple[str, ...]) -> tuple[str, ...]:
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if reference in inside:
            raise _DeadEndError(f"{name} contains itself without an end")
        return (*inside, str(reference or ""))

    def _stated(self, rules: Schema, nth: int) -> Iterator[Any]:
        if "const" in rules:
            yield rules["const"]
        choices = rules.get("enum", ())
        yield from (*choices[nth:], *choices[:nth])
        if nth == 0:
            yield from rules.get("examples", ())
            if rules.get("default") is not None:
                yield rules["default"]

    def _alternatives(self, rules: Schema) -> Iterator[Schema]:
        """Give each plain alternative, those that are not null first."""
        choices = rules.get("anyOf") or rules.get("oneOf")
        if choices:
            outer = {k: v for k, v in rules.items() if k not in ("anyOf", "oneOf")}
            yield from sorted(
                ({"allOf": [outer, part]} for part in choices),
                key=lambda each: each["allOf"][1] == {"type": "null"},
            )
            return
        types = rules.get("type", _implied(rules))
        names = [types] if isinstance(types, str) else list(types)
        for name in sorted(names, key=lambda each: each == "null"):
            yield {**rules, "type": name}

    def _plain(self, rules: Schema, name: str, nth: int, inside: tuple[str, ...]) -> Any:
        if "allOf" in rules:
            return self._chosen(rules, name, nth, inside)
        match rules["type"]:
            case "string":
                return _text(rules, name, nth)
            case "integer" | "number":
                return _number(rules, nth)
            case "boolean":
                return nth % 2 == 1
            case "array":
                return self._list(rules, name, inside)
            case "object":
                return self._object(rules, name, nth, inside)
        return None

    def _chosen(self, rules: Schema, name: str, nth: int, inside: tuple[str, ...]) -> Any:
        outer, part = rules["allOf"]
        inside = self._entered(part, name, inside)
        if not set(outer) - {"title", "description", "default", "discriminator"}:
            return self.make({**resolve(part, self._root)}, name, nth, inside)
        return self.make({"allOf": [outer, resolve(part, self._root)]}, name, nth, inside)

    def _list(self, rules: Schema, name: str, inside: tuple[str, ...]) -> list[Any]:
        first = rules.get("prefixItems", ())
        least = rules.get("minItems", 0)
        wanted = min(max(least, len(first), 1), rules.get("maxItems", math.inf))
        items: list[Any] = []
        for i in range(int(wanted)):
            part = first[i] if i < len(first) else rules.get("items", True)
            nth = i if rules.get("uniqueItems") else 0
            try:
                items.append(self.make(part, name, nth, inside))
            except _DeadEndError:
                if i < least:
                    raise
                break
        return items

    def _object(
        self, rules: Schema, name: str, nth: int, inside: tuple[str, ...]
    ) -> dict[str, Any]:
        known = rules.get("properties", {})
        required = rules.get("required", ())
        made: dict[str, Any] = {}
        for key in (*known, *(key for key in required if key not in known)):
            part = known.get(key, rules.get("additionalProperties", True))
            try:
                made[key] = self.make(part, key, nth, inside)
            except _DeadEndError:
                if key in required:
                    raise
        for i in range(int(rules.get("minProperties", 0)) - len(made)):
            part = rules.get("additionalProperties", True)
            made[f"key{i + 1}"] = self.make(part, name, i, inside)
        return made


def _implied(rules: Schema) -> str:
    """Return the type that keywords speak of where none is named."""
    for name, keywords in (
        ("object", ("properties", "required", "additionalProperties", "minProperties")),
        ("array", ("items", "prefixItems", "minItems")),
        ("number", ("minimum", "maximum", "exclusiveMinimum", "multipleOf")),
    ):
        if any(keyword in rules for keyword in keywords):
            return name
    return "string"


def _text(rules: Schema, name: str, nth: int) -> str:
    suffix = f" {nth + 1}" if nth else ""
    if rules.get("contentMediaType") == "application/json":
        return json.dumps(f"mock {name}{suffix}")
    if rules.get("format") in _FORMATS:
        return _FORMATS[rules["format"]]
    if str(rules.get("format", "")).startswith("uuid"):
        return _FORMATS["uuid"]
    if "pattern" in rules:
        return _matching(rules, nth)
    text = f"mock {name}{suffix}"
    most = rules.get("maxLength", len(text) + len(suffix))
    if len(text) > most:
        text = text[: max(most - len(suffix), 0)] + suffix[len(suffix) - most :]
    return text.ljust(rules.get("minLength", 0), ".")


def _number(rules: Schema, nth: int) -> float:
    low = rules.get("minimum", rules.get("exclusiveMinimum", -math.inf))
    high = rules.get("maximum", rules.get("exclusiveMaximum", math.inf))
    step = rules.get("multipleOf", 1)
    value = max(low, min(0, high))
    if step and math.isfinite(value):
        value = math.ceil(value / step) * step
    if value == rules.get("exclusiveMinimum"):
        value += step
    if value >= rules.get("exclusiveMaximum", math.inf):
        value = high - step
    if not low <= value <= high or value == rules.get("exclusiveMinimum"):
        value = (low + high) / 2
    value += nth * step if value + nth * step <= high else -nth * step
    whole = rules["type"] == "integer" or float(value).is_integer()
    return int(value) if whole else float(value)


def _matching(rules: Schema, nth: int) -> str:
    """Return a text that matches a pattern, as far as its parse tree shows one."""
    from re import _parser  # type: ignore[attr-defined]  # the only parser of patterns there is

    try:
        tree = _parser.parse(rules["pattern"])
        least = int(rules.get("minLength", 0))
        for extra in (*range(8), least, least + 1):
            text = _written(tree, extra, nth)
            if not problem(text, {**rules, "type": "string"}):
                return text
    except (re.error, ValueError, TypeError, OverflowError) as error:
        raise _DeadEndError(
            f"no text was found for {rules['pattern']!r}: {error}"
        ) from None
    raise _DeadEndError(f"no text was found for {rules['pattern']!r}")


def _written(tree: Any, extra: int, nth: int) -> str:
    return "".join(_piece(str(kind), what, extra, nth) for kind, what in tree)


def _piece(kind: str, what: Any, extra: int, nth: int) -> str:
    match kind:
        case "LITERAL":
            return chr(what)
        case "NOT_LITERAL":
            return "a" if what != ord("a") else "b"
        case "ANY":
            return "a"
        case "IN":
            return _member([(str(each), value) for each, value in what], nth)
        case "BRANCH":
            return _written(what[1][nth % len(what[1])], extra, nth)
        case "SUBPATTERN":
            return _written(what[3], extra, nth)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            low, high, inner = what
            return _repeated(_written(inner, extra, nth), min(low + extra, int(high)))
        case "ATOMIC_GROUP":
            return _written(what, extra, nth)
        case "AT" | "ASSERT" | "ASSERT_NOT":
            return ""
    raise ValueError(f"{kind.lower()} is beyond this model")


def _repeated(text: str, times: int) -> str:
    if len(text) * times > _MAX_CHARS:
        raise ValueError("it asks for too long a text")
    return text * times


def _member(what: list[tuple[str, Any]], nth: int) -> str:
    """Return a character of a set such as `[A-Z0-9_]`, a simple one if there is one."""
    allowed = _characters(what)
    ordinary = [each for each in _ORDINARY if each in allowed]
    choices = ordinary or sorted(allowed)
    if not choices:
        raise ValueError("an empty set of characters")
    return choices[nth % len(choices)]


def _characters(what: list[tuple[str, Any]]) -> set[str]:
    everything = {chr(i) for i in range(32, 127)}
    found: set[str] = set()
    for kind, value in what:
        if kind == "LITERAL":
            found.add(chr(value))
        elif kind == "RANGE":
            found.update(chr(i) for i in range(value[0], min(value[1], value[0] + 300) + 1))
        elif kind == "CATEGORY":
            found.update(_category(str(value), everything))
    negated = bool(what) and what[0][0] == "NEGATE"
    return everything - found if negated else found


def _category(name: str, everything: set[str]) -> set[str]:
    shorthand = {"DIGIT": r"\d", "WORD": r"\w", "SPACE": r"\s"}
    pattern = shorthand[name.rsplit("_", 1)[-1]]
    inside = {each for each in everything if re.match(pattern, each)}
    return everything - inside if "NOT" in name else inside
