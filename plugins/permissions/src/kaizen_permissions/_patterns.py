"""Regular expressions that take linear time, whatever they are given.

The engine is that of Rust, which pydantic brings. It has no look-around and no references
to groups, which is why it cannot be made to search for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from pydantic_core import SchemaError, SchemaValidator, core_schema

__all__ = ["Matcher", "compile_all", "compile_pattern", "literal", "wildcards"]

Matcher: TypeAlias = Callable[[str], bool]
"""Whether a whole text matches."""

MAX_PATTERN_CHARS = 1_000
_AT_ONCE = 100


def compile_pattern(pattern: str) -> Matcher:
    """Return what matches whole texts against a pattern of a user.

    Raises:
        ValueError: It is too long or too large, or the engine cannot have it.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"it has more than {MAX_PATTERN_CHARS} characters")
    _compile(pattern)  # alone too, so that it cannot close the group around it
    return _compile(rf"\A(?:{pattern})\z")


def compile_all(sources: Iterable[str], *, ignore_case: bool = False) -> Matcher:
    """Return what matches whole texts against any of our own patterns at once."""
    flags = "si" if ignore_case else "s"
    patterns = list(dict.fromkeys(sources))
    if not patterns:
        return _nothing
    parts = [
        _compile(rf"(?{flags})\A(?:{'|'.join(f'(?:{each})' for each in chunk)})\z")
        for chunk in _chunks(patterns)
    ]
    if len(parts) == 1:
        return parts[0]
    return lambda text: any(part(text) for part in parts)


def literal(text: str) -> str:
    """Return the pattern of a text that stands for itself."""
    return "".join(
        each if each.isascii() and each.isalnum() else rf"\x{{{ord(each):x}}}"
        for each in text
    )


def wildcards(text: str, *, many: str, one: str = "") -> str:
    """Return the pattern of a text in which `*` and, if it may, `?` stand for others."""
    return "".join(
        many if each == "*" else one if each == "?" and one else literal(each)
        for each in text
    )


def _compile(pattern: str) -> Matcher:
    try:
        validator = SchemaValidator(
            core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True)
        )
    except (SchemaError, UnicodeEncodeError) as error:
        raise ValueError(_reason(error)) from None
    return validator.isinstance_python


def _reason(error: Exception) -> str:
    """Return what the engine said, without the picture that it draws."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error: ")), lines[-1])
    return said.removeprefix("error: ").removeprefix("SchemaError: ")[:300]


def _chunks(patterns: Sequence[str]) -> Iterable[Sequence[str]]:
    return (
        patterns[start : start + _AT_ONCE] for start in range(0, len(patterns), _AT_ONCE)
    )


def _nothing(_text: str) -> bool:
    return False
