"""Shows evidence: in words for a reader, and verbatim with file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kaizen_offline._passages import Line, Sentence, cells, is_comment
from kaizen_offline._search import Evidence
from kaizen_offline._words import Term, weigh

__all__ = ["Citation", "citations", "said", "shortened"]

_MARKS = re.compile(r"^\s*(?:(?:[-*+•]|\d{1,3}[.)]|>|#+)\s+)+|[rRbBuUfF]?(?:\"\"\"|''')")
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
_MAX_SAID = 320
_MAX_QUOTE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A piece of one line, exactly as it stands in the file.

    Attributes:
        path: The file, or the name of the input, that was read.
        line: The line's number, from 1.
    """

    path: str
    line: int
    quote: str
    score: float = 0.0
    heading: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.quote}"


def said(sentence: Sentence) -> str:
    """Return a sentence on one line and without the marks of its format."""
    passage = sentence.passage
    if passage.kind == "row":
        names, values = cells(passage.title.replace(" | ", "|")), cells(sentence.text)
        pairs = zip(names, values, strict=False) if len(names) >= len(values) else ()
        return shortened("; ".join(f"{n}: {v}" if n else v for n, v in pairs if v))
    if passage.kind == "symbol":
        return _defined(sentence)
    lines = (_MARKS.sub("", line.text).strip() for line in sentence.lines)
    return shortened(" ".join(line for line in lines if line))


def _defined(sentence: Sentence) -> str:
    """Return what a definition says of itself, after its name."""
    signature, *doc = re.split(r"\"\"\"|'''", sentence.text, maxsplit=2)
    about = doc[0] if doc else ""
    words = " ".join((about if about.strip() else signature).split())
    return shortened(f"{sentence.passage.title}: {words}" if about.strip() else words)


def shortened(text: str, most: int = _MAX_SAID) -> str:
    """Cut a text at a word, with a mark where it was cut."""
    text = text.strip()
    if len(text) <= most:
        return text
    return text[: most - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"


def citations(
    evidence: Sequence[Evidence], weights: Mapping[Term, float]
) -> Iterator[Citation]:
    """Give the places that evidence stands at, each once, best first.

    A quote is a piece of a single line: the one that holds most of the words that were
    looked for. Before it comes, for a definition, the line with the name, and for a comment
    the code that it speaks of.
    """
    seen: set[tuple[str, int]] = set()
    for each in evidence:
        passage = each.sentence.passage
        for line in _telling(each.sentence, weights):
            if (passage.path, line.number) not in seen and _cut(line):
                seen.add((passage.path, line.number))
                yield Citation(
                    path=passage.path,
                    line=line.number,
                    quote=_cut(line),
                    score=round(each.coverage, 2),
                    heading=passage.context or passage.title,
                )


def _telling(sentence: Sentence, weights: Mapping[Term, float]) -> list[Line]:
    best = max(sentence.lines, key=lambda line: weigh(weights, line.text))
    kind, title = sentence.passage.kind, sentence.passage.title
    first: Line | None = None
    if kind == "symbol":
        first = next((line for line in sentence.lines if title in line.text), None)
    elif kind == "code" and is_comment(best.text):
        below = (line for line in sentence.lines if line.number > best.number)
        first = next((line for line in below if not is_comment(line.text)), None)
    return [best] if first in (None, best) else [first, best]


def _cut(line: Line) -> str:
    """Return what to quote of a line: characters that could not be read stand nowhere."""
    quote = max((part.strip() for part in line.text.split(_UNREADABLE)), key=len)
    return quote if len(quote) <= _MAX_QUOTE else quote[:_MAX_QUOTE].rsplit(" ", 1)[0]
