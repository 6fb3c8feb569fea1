"""A request as text for a person, in which nothing pretends to be something else.

What a model wrote may hold codes that move the cursor, hide a word or turn the direction of
writing. They are shown as codes.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from kaizen.ports import PendingRequest

__all__ = ["MIN_WIDTH", "rendered", "visible"]

MAX_NESTED = 3
MAX_NAME_WIDTH = 28
MIN_WIDTH = 20
_GAP = _INDENT = "  "
MAX_MARKS = 2  # as many as letters of some languages have; a heap of them hides a line
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Me"})
_OVERLAY = 1  # the class of marks that strike a letter through
_WITHOUT_GLYPH = frozenset(
    {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180F, 0x2800, 0x3164, 0xFFA0}
    | {*range(0x180B, 0x180E), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
)


def visible(text: str) -> str:
    r"""Return a text in which every character is what it looks like.

    Controls, marks of direction, characters without width or glyph, and spaces that are not
    the space are written as `\u` and four digits.
    """
    if text.isascii() and text.isprintable():
        return text
    shown, marks = [], 0
    for each in text:
        marks = marks + 1 if unicodedata.category(each) == "Mn" else 0
        shown.append(each if marks <= MAX_MARKS and _is_plain(each) else _code(each))
    return "".join(shown)


def _is_plain(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Zs":
        return character == " "
    if category in _HIDDEN or ord(character) in _WITHOUT_GLYPH:
        return False
    return unicodedata.combining(character) != _OVERLAY


def _code(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def rendered(request: PendingRequest, *, width: int) -> list[str]:
    """Return the lines that say everything about a request, none wider than `width`.

    There are two columns, names and values, and what is folded is indented, so that the
    rest of a long name or value cannot look like the next field.

    Args:
        width: In characters, at least `MIN_WIDTH`.
    """
    from rich.cells import cell_len

    names = min(MAX_NAME_WIDTH, width // 3)
    lines = _folded(_title(request), width)
    for name, value in _fields(request):
        left = _folded(name, names)
        right = [
            part
            for line in value.split("\n")
            for part in _folded(line, width - names - len(_GAP))
        ]
        for start, rest in zip_longest(left, right, fillvalue=""):
            padding = " " * (names - cell_len(start))
            lines.append(f"{start}{padding}{_GAP}{rest}".rstrip())
    return lines


def _folded(line: str, width: int) -> list[str]:
    """Return a line in parts that fit, of which all but the first are indented."""
    from rich.cells import cell_len, chop_cells

    if len(line) <= width and cell_len(line) <= width:
        return [line]
    parts, start, room = [], 0, width - len(_INDENT)
    while start < len(line):
        part = line[start : start + room]
        if not part.isascii():
            part = next(iter(chop_cells(part, room)), "") or part
        space = part.rfind(" ", 2 * len(part) // 3)
        if space >= 0 and start + len(part) < len(line):
            part = part[: space + 1]
        parts.append(f"{_INDENT}{part}" if start else part)
        start += len(part)
    return parts


def _title(request: PendingRequest) -> str:
    what = "Approval" if request.kind == "approval" else "Question"
    who = " › ".join(visible(each) for each in request.agent_path)
    return f"{what} for {who}" if who else what


def _fields(request: PendingRequest) -> Iterator[tuple[str, str]]:
    yield "", _block(request.text, quoted=False)
    yield from _flat(request.details, "")
    for number, option in enumerate(request.options, start=1):
        yield str(number), visible(option)
    if request.schema and not request.options:
        yield "answer", visible(json.dumps(request.schema, ensure_ascii=False))
    if request.principal:
        yield "on behalf of", visible(request.principal)
    if request.expires_at is not None:
        yield "open until", _moment(request.expires_at)
    yield "request", visible(request.id)


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g} s after 1970"


def _flat(
    values: Mapping[str, Any], above: str, depth: int = 1
) -> Iterator[tuple[str, str]]:
    """Yield each value with the names that lead to it; the whole of them.

    A name that is no plain word is quoted: a dot in one does not look like two names.
    """
    for key, value in values.items():
        word = str(key)
        quoted = word if word.isidentifier() else json.dumps(word, ensure_ascii=False)
        name = f"{above}{visible(quoted)}"
        if isinstance(value, Mapping) and value and depth < MAX_NESTED:
            yield from _flat(value, f"{name}.", depth + 1)
        elif isinstance(value, str):
            yield name, _block(value)
        else:
            yield name, visible(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) else repr(value)


def _block(text: str, *, quoted: bool = True) -> str:
    """Return a text as it is written, line by line, or as JSON if it is one line."""
    if "\n" not in text:
        return visible(json.dumps(text, ensure_ascii=False)) if quoted else visible(text)
    mark = "│ " if quoted else ""
    return "\n".join(f"{mark}{visible(line)}" for line in text.split("\n"))
