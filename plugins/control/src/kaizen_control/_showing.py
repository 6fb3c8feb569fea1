"""A request as text for a person, in which nothing pretends to be something else.

What a model wrote may hold codes that move the cursor, hide a word or turn the direction of
writing. They are shown as codes.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING, Any

from kaizen.ports import PendingRequest

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["rendered", "visible"]

MAX_NESTED = 3
MAX_KEY_CHARS = 100
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
    the space are written as `\uXXXX`.
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
    """Return the lines that say everything about a request, none wider than `width`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Two columns, so that a line that is folded cannot look like the next field.
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", max_width=28, style="bold")
    table.add_column(overflow="fold")
    for name, value in _fields(request):
        table.add_row(Text(name), Text(value))
    parts: list[RenderableType] = [Text(_title(request), style="bold"), table]
    out = StringIO()
    console = Console(
        file=out,
        width=width,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
        force_terminal=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part, overflow="fold")
    return [line.rstrip() for line in out.getvalue().rstrip().split("\n")]


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
    """Yield each value with the names that lead to it."""
    for key, value in values.items():
        name = visible(f"{above}{key}")[:MAX_KEY_CHARS]
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
