"""Finds what answers a question: BM25 over passages, then the sentences that cover it.

The index is SQLite's own full text search, in memory, with the stemmer of Porter (1980)
and the ranking function BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
Framework", 2009). The best passages by BM25 are cut into sentences, and these are ranked
by *coverage*: which share of the question's words they answer for.

    weight(t)   = 1 + ln(1 + (N - n + 0.5) / (n + 0.5))
    coverage(s) = sum of weight(t) * place(t, s)  /  sum of weight(t)

N is the number of passages and n how many hold the word t. `place` is 1 for a word in
the sentence itself, and less for one in the heading, the name or the paragraph that it
stands in. A question for a number or a time counts that as one more word. What the
model calls its confidence is the coverage of the best sentence times w/(w+0.5) for w
words: words that agree are no proof, and one or two say less than five.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, pairwise

from kaizen_offline._lexicon import NUMBERS
from kaizen_offline._passages import Passage, Sentence, Text, passages, sentences
from kaizen_offline._words import Term, answer_kind, attribute, split_names, terms

__all__ = ["Evidence", "Findings", "search"]

_MAX_PASSAGES = 30_000
_MAX_SECONDS = 10.0
_SHORT_QUESTION = 20
_CANDIDATES = 40
_IN_HEADING = 0.8
_IN_PARAGRAPH = 0.6
_IN_PATH = 0.5
_RELATED = 0.8
_ATTRIBUTE = 1.5
_KIND = 0.75
_COUNTS = (
    rf"\d|\b(?:{'|'.join(NUMBERS)}|half|dozen|never|every|daily|weekly|monthly|yearly)\b"
)
_FITS = {
    "number": re.compile(_COUNTS, re.IGNORECASE),
    "time": re.compile(
        rf"{_COUNTS}|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day|\b(?:january|february|march|"
        r"april|may|june|july|august|september|october|november|december|noon|midnight|"
        r"morning|evening|dawn|dusk|spring|summer|autumn|winter|before|after|until|when)\b",
        re.IGNORECASE,
    ),
    "who": re.compile(r"(?<=[\w,] )[A-Z][a-z]+|^[A-Z][a-z]+ [A-Z]|\b(?:by|team|staff)\b"),
    "why": re.compile(
        r"\b(?:because|since|so that|to avoid|reason|therefore|due to)\b", re.IGNORECASE
    ),
}
_SCHEMA = """
CREATE VIRTUAL TABLE units USING fts5(
    body, context, path, tokenize = "porter unicode61 remove_diacritics 2"
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A sentence that was read.

    Attributes:
        coverage: The share of the question's words that it answers for, 0 to 1.
        own: The same without the words that only stand elsewhere in its paragraph.
        score: What it is ranked by.
    """

    sentence: Sentence
    coverage: float
    own: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found for a question, best first."""

    question: str
    weights: Mapping[Term, float]
    evidence: tuple[Evidence, ...] = ()

    @property
    def confidence(self) -> float:
        """The coverage of the best evidence, less where few words were looked for."""
        best = max((each.coverage for each in self.evidence[:3]), default=0.0)
        count = len(self.weights)
        return round(best * count / (count + 0.5), 2)


def search(question: str, texts: Iterable[Text], *, limit: int = 12) -> Findings:
    """Return what the texts hold on a question.

    At most 30,000 passages are looked at: those that are cut within ten seconds.
    """
    wanted = tuple(terms(question))
    if not wanted:
        return Findings(question=question, weights={})
    units = _cut(texts)
    if not units:
        return Findings(question=question, weights=dict.fromkeys(wanted, 1.0))
    with closing(_Index([unit.text for unit in units], units)) as index:
        weights = index.weights(wanted)
        if (asked := attribute(question)) in weights:
            weights[asked] *= _ATTRIBUTE
        best = index.best(wanted, _CANDIDATES)
    found = _ranked(question, weights, [(units[i], rank) for i, rank in best])
    return Findings(question=question, weights=weights, evidence=tuple(found[:limit]))


def _asks(sentence: Sentence, question: str) -> bool:
    """Whether a sentence holds the very question: it asks, and does not answer."""
    asked = " ".join(question.casefold().split())
    if len(asked) <= _SHORT_QUESTION:
        return False
    return asked in " ".join(sentence.text.casefold().split())


def _cut(texts: Iterable[Text]) -> list[Passage]:
    deadline = time.monotonic() + _MAX_SECONDS
    units: list[Passage] = []
    every = (unit for text in texts for unit in passages(text))
    for unit in islice(every, _MAX_PASSAGES):
        units.append(unit)
        if time.monotonic() > deadline:
            break
    return units


class _Index:
    """Full text search over passages or sentences, for as long as it is open."""

    def __init__(self, bodies: Sequence[str], owners: Sequence[Passage]) -> None:
        import sqlite3  # when it is first needed

        self._size = len(bodies)
        self._database = sqlite3.connect(":memory:")
        self._database.execute(_SCHEMA)
        self._database.executemany(
            "INSERT INTO units (rowid, body, context, path) VALUES (?, ?, ?, ?)",
            (
                (
                    i,
                    _expanded(body),
                    _expanded(f"{owner.context} {owner.title}"),
                    owner.path,
                )
                for i, (body, owner) in enumerate(zip(bodies, owners, strict=True))
            ),
        )

    def close(self) -> None:
        """Free the memory."""
        self._database.close()

    def best(self, wanted: Sequence[Term], limit: int) -> list[tuple[int, float]]:
        """Return rows and their BM25 rank, best first; the rank of the best is 1."""
        expression = " OR ".join(f"{_exact(term)} OR {_related(term)}" for term in wanted)
        found = self._database.execute(
            "SELECT rowid, -bm25(units, 1.0, 0.8, 0.4) AS rank FROM units"
            " WHERE units MATCH ? ORDER BY rank DESC, rowid LIMIT ?",
            (expression, limit),
        ).fetchall()
        highest = max((rank for _, rank in found), default=1.0) or 1.0
        return [(row, rank / highest) for row, rank in found]

    def rows(self, expression: str, column: str = "body") -> set[int]:
        """Return the rows with a match in a column."""
        found = self._database.execute(
            "SELECT rowid FROM units WHERE units MATCH ?", (f"{column} : ({expression})",)
        )
        return {row for (row,) in found}

    def weights(self, wanted: Sequence[Term]) -> dict[Term, float]:
        """Return what each word weighs: the rarer, the more."""
        weights = {}
        for term in wanted:
            holding = len(self.rows(f"{_exact(term)} OR {_related(term)}"))
            rarity = math.log(1 + (self._size - holding + 0.5) / (holding + 0.5))
            weights[term] = 1 + rarity
        return weights

    def matched(self, wanted: Sequence[Term]) -> dict[Term, Mapping[int, float]]:
        """Return in which rows each word stands, and where: 1 is in the text itself."""
        places: dict[Term, Mapping[int, float]] = {}
        for term in wanted:
            found: dict[int, float] = {}
            for column, worth in (
                ("path", _IN_PATH),
                ("context", _IN_HEADING),
                ("body", 1.0),
            ):
                for row in self.rows(_related(term), column):
                    found[row] = max(found.get(row, 0.0), worth * _RELATED)
                for row in self.rows(_exact(term), column):
                    found[row] = max(found.get(row, 0.0), worth)
            places[term] = found
        return places


def _expanded(text: str) -> str:
    """Add the words of `camelCase` names behind the text, so that both are found."""
    split = split_names(text)
    both = text if split == text else f"{text}\n{split}"
    return both.encode("utf-8", "replace").decode(
        "utf-8"
    )  # a database wants whole characters


def _exact(term: Term) -> str:
    return " OR ".join(f'"{form}"' for form in (term.word, *term.forms))


def _related(term: Term) -> str:
    return f'"{term.stem}" *' if len(term.stem) >= 5 else _exact(term)


@dataclass(frozen=True, slots=True)
class _Row:
    """A sentence of one of the best passages, and how BM25 ranks that, 0 to 1."""

    passage: int
    sentence: Sentence
    rank: float


def _ranked(
    question: str, weights: Mapping[Term, float], best: Sequence[tuple[Passage, float]]
) -> list[Evidence]:
    """Return the sentences of passages, best first.

    Coverage decides; the rank of the passage, words in the order of the question, and
    the kind of answer that is wanted, such as a number, settle what is nearly equal.
    """
    rows = [
        _Row(number, sentence, rank)
        for number, (passage, rank) in enumerate(best)
        for sentence in sentences(passage)
        if not _asks(sentence, question)
    ]
    if not rows:
        return []
    bodies = [row.sentence.text for row in rows]
    with closing(_Index(bodies, [row.sentence.passage for row in rows])) as index:
        matched = index.matched(list(weights))
        pairs = [index.rows(f'"{one.word} {two.word}"') for one, two in pairwise(weights)]
    beside = _beside(rows, matched)
    total = sum(weights.values())
    kind = _Kind.of(question, total / len(weights))
    fitting = [kind.fits(passage.text) for passage, _ in best]
    found = []
    for i, row in enumerate(rows):
        here = {term: matched[term].get(i, 0.0) for term in weights}
        around = {
            term: max(place, _IN_PARAGRAPH * beside[row.passage, term])
            for term, place in here.items()
        }
        own, coverage = _share(weights, here), _share(weights, around)
        coverage = kind.joined(
            coverage, total, row.sentence.text, beside=fitting[row.passage]
        )
        score = (
            coverage + 0.3 * own + 0.3 * row.rank + 0.06 * sum(i in pair for pair in pairs)
        )
        score += 0.12 * kind.fits(row.sentence.text)
        if row.sentence.passage.kind == "code":
            score *= 0.85
        found.append(
            Evidence(sentence=row.sentence, coverage=coverage, own=own, score=score)
        )
    return sorted(found, key=lambda each: -each.score)


@dataclass(frozen=True, slots=True)
class _Kind:
    """The kind of answer that a question asks for, such as a number."""

    pattern: re.Pattern[str] | None
    weight: float

    @classmethod
    def of(cls, question: str, mean: float) -> _Kind:
        kind = answer_kind(question)
        return cls(_FITS.get(kind), _KIND * mean if kind in ("number", "time") else 0.0)

    def fits(self, text: str) -> bool:
        return self.pattern is not None and bool(self.pattern.search(text))

    def joined(self, coverage: float, total: float, text: str, *, beside: bool) -> float:
        """Count the kind like a word of the question; `beside`: its paragraph fits."""
        place = 1.0 if self.fits(text) else _IN_PARAGRAPH if beside else 0.0
        return (coverage * total + place * self.weight) / (total + self.weight)


def _share(weights: Mapping[Term, float], places: Mapping[Term, float]) -> float:
    return sum(weights[term] * place for term, place in places.items()) / sum(
        weights.values()
    )


def _beside(
    rows: Sequence[_Row], matched: Mapping[Term, Mapping[int, float]]
) -> dict[tuple[int, Term], float]:
    """Return how well each passage as a whole answers for each word."""
    beside: dict[tuple[int, Term], float] = {}
    for i, row in enumerate(rows):
        for term, places in matched.items():
            key = row.passage, term
            beside[key] = max(beside.get(key, 0.0), places.get(i, 0.0))
    return beside
