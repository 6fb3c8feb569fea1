"""Cuts texts into passages: paragraphs, list items, table rows, definitions, code.

Each passage knows its lines, and the headings or the class that it stands under: a word in
a heading speaks for everything below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

__all__ = [
    "Line",
    "Passage",
    "Sentence",
    "Text",
    "cells",
    "is_comment",
    "passages",
    "sentences",
]

Kind: TypeAlias = Literal["prose", "item", "row", "symbol", "code"]

_MAX_PROSE_LINES = 30
_MAX_CODE_LINES = 12
_MAX_LINE = 4000
_LONGEST_ABBREVIATION = 12
_PROSE = frozenset({"", ".md", ".markdown", ".rst", ".txt", ".adoc", ".org", ".log"})
_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")
_UNDERLINE = re.compile(r"(={3,}|-{3,}|~{3,})\s*$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S")
_ROW = re.compile(r"\s*\|.*\|\s*$")
_RULE = re.compile(r"[\s|:+=-]+$")
_FENCE = re.compile(r"\s*(```|~~~)")
_LABEL = re.compile(r"\s*[*_`]{0,2}[A-Za-z][\w .*/-]{0,40}?[*_`]{0,2}(?: \([^)]*\))?: +\S")
_DEFINITION = re.compile(r"\s*(?:async\s+def|def|class)\s+(\w+)")
_OPENS_BODY = re.compile(r":\s*(?:#.*|\.\.\.)?$")
_QUOTES = re.compile(r"""\s*[rRbBuUfF]{0,2}(\"\"\"|''')""")
_SECTION = re.compile(r"\s*\[+([^\[\]]+)\]+\s*$")
_END = re.compile(r"""(?<=[.!?])["'”’)\]`*]*\s+(?=["'“‘(\[`*]*[A-Z0-9])""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|no|fig|dr|mr|mrs|ms|prof|st|inc|ltd|jan|feb|mar|"
    r"apr|jun|jul|aug|sept?|oct|nov|dec)|\b[A-Z])\.$",
    re.IGNORECASE,
)


SAID_BEFORE = "extracted by the offline model"
"""What stands in every answer of this model: an answer that was pasted is no evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A stretch of a file, or of an input, and the line that it starts at."""

    path: str
    lines: tuple[str, ...]
    start_line: int = 1


@dataclass(frozen=True, slots=True)
class Line:
    """A line, or a part of one, and its number in the file."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Lines that belong together.

    Attributes:
        context: What it stands under: headings, the class, the header of the table.
        title: The name that a definition defines; the header above a table's row.
    """

    path: str
    kind: Kind
    lines: tuple[Line, ...]
    context: str = ""
    title: str = ""

    @property
    def text(self) -> str:
        """The lines, joined."""
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence of a passage, with the lines or parts of lines that it is made of."""

    passage: Passage
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """The lines, joined."""
        return "\n".join(line.text for line in self.lines)


def passages(text: Text) -> Iterator[Passage]:
    """Cut a text into passages, in order."""
    suffix = PurePosixPath(text.path).suffix.lower()
    lines = [
        Line(number, part)
        for number, line in enumerate(text.lines, start=text.start_line)
        for part in _parts(line)
    ]
    if suffix in (".py", ".pyi"):
        return _python(text.path, lines)
    if suffix in _PROSE:
        return _prose(text.path, lines)
    return _other(text.path, lines)


def _parts(line: str) -> Iterator[str]:
    """Cut a line that is too long at a blank: every pattern here looks at short texts."""
    start = 0
    while len(line) - start > _MAX_LINE:
        blank = line.rfind(" ", start + 1, start + _MAX_LINE)
        end = start + _MAX_LINE if blank < 0 else blank + 1
        yield line[start:end]
        start = end
    yield line[start:]


def sentences(passage: Passage) -> Iterator[Sentence]:
    """Cut a passage into sentences; rows, definitions and code stay whole."""
    if passage.kind in ("row", "code", "symbol"):
        yield Sentence(passage=passage, lines=passage.lines)
        return
    current: list[Line] = []
    for line in passage.lines:
        if current and _LABEL.match(line.text):
            yield Sentence(passage=passage, lines=tuple(current))
            current = []
        *ended, rest = _pieces(line.text)
        for piece in ended:
            yield Sentence(passage=passage, lines=(*current, Line(line.number, piece)))
            current = []
        current.append(Line(line.number, rest))
        if _ends(rest):
            yield Sentence(passage=passage, lines=tuple(current))
            current = []
    if current:
        yield Sentence(passage=passage, lines=tuple(current))


def _pieces(line: str) -> list[str]:
    pieces, start = [], 0
    for end in _END.finditer(line):
        if not _is_abbreviated(line, start, end.start()):
            pieces.append(line[start : end.end()])
            start = end.end()
    return [*pieces, line[start:]]


def _ends(piece: str) -> bool:
    stripped = piece.rstrip().rstrip("\"'”’)]`*")
    if not stripped.endswith((".", "!", "?")):
        return False
    return not _is_abbreviated(stripped, 0, len(stripped))


def _is_abbreviated(line: str, start: int, end: int) -> bool:
    """Whether a part of a line ends in an abbreviation; only its last letters are read."""
    return bool(_ABBREVIATION.search(line[max(start, end - _LONGEST_ABBREVIATION) : end]))


def _prose(path: str, lines: Sequence[Line], above: str = "") -> Iterator[Passage]:
    """Cut running text, as in a Markdown file or a docstring; `above` is its context."""
    headings: list[tuple[int, str]] = []
    intro = ""
    i = 0
    while i < len(lines):
        context = _joined([above, *(text for _, text in headings)])
        start, text = i, lines[i].text
        if _FENCE.match(text):
            i = _until(lines, start + 1, _FENCE.match)
            block = lines[start + 1 : i]
            if not any(SAID_BEFORE in line.text for line in block):
                yield from _blocks(path, block, context)
            i += 1
        elif heading := _heading(lines, start):
            headings = [each for each in headings if each[0] < heading[0]] + [heading]
            intro = ""
            i += 1
        elif _says_nothing(text):
            i += 1
        elif _ROW.match(text):
            i = _until(lines, start, lambda line: not _ROW.match(line))
            yield from _rows(path, lines[start:i], context)
        else:
            i = _until(lines, start + 1, _ends_paragraph, most=_MAX_PROSE_LINES - 1)
            block = tuple(lines[start:i])
            item = _ITEM.match(text)
            if not item:
                last = " ".join(line.text.strip() for line in block[-3:])
                intro = last if last.endswith(":") else ""
            yield Passage(
                path=path,
                kind="item" if item else "prose",
                lines=block,
                context=_joined([context, intro if item else ""]),
            )


def _rows(path: str, lines: Sequence[Line], context: str) -> Iterator[Passage]:
    """Give the rows of a table, each under the table's header."""
    header = " | ".join(cells(lines[0].text))
    for line in lines[1:]:
        if not _RULE.match(line.text):
            yield Passage(
                path=path, kind="row", lines=(line,), context=context, title=header
            )


def _blocks(path: str, lines: Sequence[Line], context: str) -> Iterator[Passage]:
    """Cut code at its empty lines, and where it is long."""
    start = 0
    while start < len(lines):
        end = _until(lines, start, _is_empty, most=_MAX_CODE_LINES)
        block = tuple(lines[start:end])
        if any(re.search(r"\w", line.text) for line in block):
            yield Passage(path=path, kind="code", lines=block, context=context)
        start = max(end, start + 1)


def _until(
    lines: Sequence[Line],
    start: int,
    found: Callable[[str], object],
    *,
    most: int | None = None,
) -> int:
    """Return the position of the first line from `start` on that was looked for.

    If none of the next `most` lines is, the position behind them is returned.
    """
    end = len(lines) if most is None else min(len(lines), start + most)
    return next((i for i in range(start, end) if found(lines[i].text)), end)


def _ends_paragraph(line: str) -> bool:
    return _says_nothing(line) or any(
        each.match(line) for each in (_FENCE, _ROW, _ITEM, _HEADING)
    )


def _is_empty(line: str) -> bool:
    return not line.strip()


def _says_nothing(text: str) -> bool:
    return not re.search(r"\w", text)


def _heading(lines: Sequence[Line], i: int) -> tuple[int, str] | None:
    """Return level and text of the heading at a line, marked or underlined."""
    text = lines[i].text
    if marked := _HEADING.match(text):
        return len(marked[1]), marked[2].rstrip().rstrip("#").rstrip()
    below = lines[i + 1].text if i + 1 < len(lines) else ""
    above = lines[i - 1].text if i else ""
    if text.strip() and not above.strip() and _UNDERLINE.match(below):
        return (1 if below[0] == "=" else 2), text.strip()
    return None


def _joined(parts: Sequence[str]) -> str:
    return " > ".join(part for part in parts if part)


def cells(row: str) -> list[str]:
    """Return the cells of a table's row."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _python(path: str, lines: Sequence[Line]) -> Iterator[Passage]:
    """Cut Python: definitions with the first paragraph of their docstring, docs, code."""
    scopes: list[tuple[int, str]] = []
    i = 0
    while i < len(lines):
        text = lines[i].text
        if not text.strip():
            i += 1
            continue
        indent = len(text) - len(text.lstrip())
        scopes = [each for each in scopes if each[0] < indent]
        context = _joined([name for _, name in scopes])
        if definition := _DEFINITION.match(text):
            opened = _signature_end(lines, i)
            closed = _docstring_end(lines, opened)
            said = _until(lines, opened, _is_empty, most=closed - opened)
            yield Passage(
                path=path,
                kind="symbol",
                lines=tuple(lines[i:said]),
                context=context,
                title=definition[1],
            )
            scopes.append((indent, definition[1]))
            yield from _prose(path, lines[said:closed], _joined([context, definition[1]]))
            i = closed
        elif (end := _docstring_end(lines, i)) > i:
            yield from _prose(path, lines[i:end], context)
            i = end
        else:
            end = _until(lines, i + 1, _starts_anew)
            yield from _blocks(path, lines[i:end], context)
            i = end


def _starts_anew(line: str) -> bool:
    return not line.strip() or bool(_DEFINITION.match(line) or _QUOTES.match(line))


def _signature_end(lines: Sequence[Line], start: int) -> int:
    """Return the position behind a signature; it may stretch over a few lines."""
    last = _until(lines, start, _OPENS_BODY.search, most=_MAX_CODE_LINES)
    return min(last + 1, len(lines))


def _docstring_end(lines: Sequence[Line], start: int) -> int:
    """Return the position behind the docstring at a line, or that of the line."""
    opening = _QUOTES.match(lines[start].text) if start < len(lines) else None
    if opening is None:
        return start
    if opening[1] in lines[start].text[opening.end() :]:
        return start + 1
    last = _until(lines, start + 1, lambda line: opening[1] in line)
    return min(last + 1, len(lines))


def _other(path: str, lines: Sequence[Line]) -> Iterator[Passage]:
    """Cut code and settings; a comment opens a block, and a `[section]` is a heading."""
    section, start = "", 0
    for i, line in enumerate(lines):
        title = _SECTION.match(line.text)
        above = lines[i - 1].text if i else "#"
        if title or (is_comment(line.text) and not is_comment(above)):
            yield from _blocks(path, lines[start:i], section)
            start = i
        if title:
            section, start = title[1].strip(), i + 1
    yield from _blocks(path, lines[start:], section)


def is_comment(line: str) -> bool:
    """Say whether a line of code is a comment."""
    return line.lstrip().startswith(("#", "//", "/*", "* ", "--", ";"))
