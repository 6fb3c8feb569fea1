"""Say in words what pydantic found wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MOST_ERRORS: Final = 1000
"""With more, only their number is told."""

_MOST_LINES: Final = 20
_MOST_SHOWN: Final = 20
_COMPARISONS: Final = {
    "greater_than": "should be > {gt}",
    "greater_than_equal": "should be >= {ge}",
    "less_than": "should be < {lt}",
    "less_than_equal": "should be <= {le}",
    "multiple_of": "should be a multiple of {multiple_of}",
    "missing": "is missing",
}
_OWN_WORDS: Final = frozenset({"value_error", "assertion_error"})
_SELF_EVIDENT: Final = {*_OWN_WORDS, "missing", "json_invalid", "string_unicode"}
_PYDANTICS_WORDS: Final = {*get_args(core_schema.ErrorType), "media"} - _OWN_WORDS
_TYPES: Final = {
    "str": "a string",
    "list": "a list",
    "dict": "an object",
    "bool": "a boolean",
    "NoneType": "null",
}


def reply_problems(
    error: ValidationError, outputs: Iterable[str], names: frozenset[str]
) -> tuple[str, ...]:
    """Return one line a field, for the model that wrote the values.

    Args:
        error: What pydantic found.
        outputs: The names of the outputs.
        names: All the names of properties in the schema; other parts of a location,
            such as members of a union, are left out.
    """
    if error.error_count() > MOST_ERRORS:
        return (f"the reply has {error.error_count()} errors; follow the schema",)
    found: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    # With many errors, the values in them would be copied as many times.
    shown = error.error_count() <= _MOST_SHOWN
    for detail in error.errors(include_url=False, include_input=shown):
        where = _path(detail["loc"], names) or "the reply"
        if detail["type"] == "extra_forbidden":
            where = _short(str(detail["loc"][-1]), 60)
            words = f"is not expected here; the outputs are {', '.join(outputs)}"
        else:
            words = _words(detail)
            if shown and detail["type"] not in _SELF_EVIDENT:
                got[where] = f", got {_shown(detail['input'])}"
        found.setdefault(where, [])
        if words not in found[where]:
            found[where].append(words)
    lines = [f"{w}: {' or '.join(words[:4])}{got.get(w, '')}" for w, words in found.items()]
    return _bounded(lines)


def input_problems(
    error: ValidationError, inputs: Iterable[str], names: frozenset[str]
) -> tuple[str, ...]:
    """Return one line a field, for the caller who gave the values, without the values."""
    if error.error_count() > MOST_ERRORS:
        return (f"there are {error.error_count()} errors",)
    known = list(inputs)
    lines: dict[str, None] = {}
    for detail in error.errors(include_url=False):
        where = _path(detail["loc"], names)
        if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
            line = _unknown(str(detail["loc"][0]), known)
        elif detail["type"] == "extra_forbidden":
            line = f"{where!r} holds something that is not expected there"
        elif detail["type"] == "missing" or not where:
            line = f"{where!r} {_words(detail)}" if where else _words(detail)
        elif _tells_a_value(detail):
            line = f"{where!r} is not valid, got {type(detail['input']).__name__}"
        else:
            line = f"{where!r} {_words(detail)}, got {type(detail['input']).__name__}"
        lines[line] = None
    return _bounded(list(lines))


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{_short(name, 60)!r} is unknown{hint}"


def _words(detail: ErrorDetails) -> str:
    comparison = _COMPARISONS.get(detail["type"])
    if comparison is not None:
        limits = detail.get("ctx", {}).items()
        return comparison.format_map({k: str(v).removesuffix(".0") for k, v in limits})
    message = detail["msg"]
    for start in ("Value error, ", "Assertion failed, ", "Input "):
        message = message.removeprefix(start)
    return _short(message[:1].lower() + message[1:], 300)


def _path(location: tuple[int | str, ...], names: frozenset[str]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in names:
            path += f".{part}" if path else part
    return path


def _shown(value: Any) -> str:
    if isinstance(value, str):
        value = value[:80]
    if isinstance(value, str | int | float) or value is None:
        return _short(json.dumps(value, ensure_ascii=False), 60)
    name = type(value).__name__
    return _TYPES.get(name, name)


def _tells_a_value(detail: ErrorDetails) -> bool:
    """Tell whether a message that somebody else wrote repeats what it was given."""
    if detail["type"] in _PYDANTICS_WORDS:
        return False
    return any(atom in detail["msg"] for atom in _atoms(detail["input"], 4))


def _atoms(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str | int | float):
        if text := str(value):
            yield text
    elif depth and isinstance(value, Mapping):
        for key, item in list(value.items())[:100]:
            yield from _atoms(key, depth - 1)
            yield from _atoms(item, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for item in list(value)[:100]:
            yield from _atoms(item, depth - 1)
    elif value is not None:
        yield str(value)


def _bounded(lines: list[str]) -> tuple[str, ...]:
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more"]
    return tuple(lines)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
