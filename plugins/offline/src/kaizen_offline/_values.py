"""Reads values out of sentences: numbers, dates, items, yes and no, a choice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime

from kaizen_offline._lexicon import BLAME, NUMBERS, PRAISE
from kaizen_offline._words import Term, base, split_names, terms

__all__ = [
    "chosen",
    "counts",
    "dates",
    "denies",
    "listed",
    "numbers",
    "polarity",
    "summary",
    "supports",
]

_NUMBER = re.compile(
    r"(?<![\w.])([-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+]?\d+(?:\.\d+)?)(?!\w*[-/]\d)"
)
_YEAR = re.compile(
    r"\b(?:in|since|until|during)\s+(?:19|20)\d\d\b(?![.,]\d)", re.IGNORECASE
)
_COUNTED = re.compile(r"\bhow many\s+(.*)", re.IGNORECASE | re.DOTALL)
_WORDS_BEHIND = 4
_DATE_FORMATS = (
    "%Y-%m-%d",
    *("%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%d.%m.%Y"),
)
_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}|\d{1,2}\.\d{1,2}\.\d{4}|"
    r"\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2},? \d{4}"
)
_DENIAL = re.compile(
    r"\b(?:not|no|never|neither|nor|none|nobody|nothing|cannot|without|forbidden|refuse[sd]?|"
    r"prohibited|impossible|unable|except)\b|n't\b",
    re.IGNORECASE,
)
_OPENS_LIST = re.compile(
    r":\s+|\b(?:are|is|includes?|including|namely|such as|consists? of)\b\s+|\s[—–]\s",
)
_BETWEEN = re.compile(r"\s*[,;·]\s*(?:and\s+|or\s+|und\s+)?|\s+(?:and|or)\s+")
_LABELS = {
    "good": frozenset(
        ["good", "positive", "pos", "happy", "satisfied", "praise", "favourable"]
    ),
    "bad": frozenset(["bad", "negative", "neg", "unhappy", "dissatisfied", "complaint"]),
    "mixed": frozenset(["mixed", "neutral", "ambivalent"]),
}


def numbers(sentence: str, wanted: Sequence[Term], *, years: bool = True) -> list[float]:
    """Return the numbers of a sentence, those next to the words looked for first.

    Args:
        sentence: What is read.
        wanted: The words that were looked for.
        years: Whether the year of "in 1950" is a number like others.
    """
    if not years:
        sentence = _YEAR.sub(lambda match: " " * len(match[0]), sentence)
    lower = sentence.lower()
    stems = [stem for term in wanted for stem in (term.stem, *term.forms)]
    anchors = [at for stem in stems for at in _positions(stem, lower)]
    found = [
        (_distance(match.start(), match.end(), anchors), float(match[1].replace(",", "")))
        for match in _NUMBER.finditer(sentence)
    ]
    found += [
        (_distance(match.start(), match.end(), anchors), float(NUMBERS[match[0]]))
        for match in re.finditer(r"[a-z]+", lower)
        if match[0] in NUMBERS
    ]
    return [value for _, value in sorted(found, key=lambda each: each[0])]


def counts(sentence: str, question: str) -> bool:
    """Say whether a sentence counts what a question asks for: `cars`, for "how many cars".

    The word stands a few words behind a number or right before it. What does not ask
    "how many" is not judged.
    """
    asked = _COUNTED.search(question)
    wanted = terms(asked[1], limit=1) if asked else []
    if not wanted:
        return True
    words = re.findall(r"[\w.,]*\w", split_names(sentence).lower())
    return any(
        any(
            wanted[0].is_in(near)
            for near in (*words[i + 1 : i + 1 + _WORDS_BEHIND], before)
        )
        for i, word in enumerate(words)
        if word[0].isdigit() or word in NUMBERS
        for before in words[max(i - 1, 0) : i] or [""]
    )


def _positions(stem: str, text: str) -> Iterator[int]:
    return (match.start() for match in re.finditer(re.escape(stem), text))


def _distance(start: int, end: int, anchors: Sequence[int]) -> float:
    """How far a number stands from the words; a word behind it is most likely its unit."""
    behind = (at - end for at in anchors if at >= end)
    before = (2.0 * (start - at) for at in anchors if at < start)
    return min((*behind, *before), default=0.0)


def dates(sentence: str) -> Iterator[date]:
    """Give the days that a sentence names."""
    for match in _DATE.finditer(sentence):
        for form in _DATE_FORMATS:
            try:
                yield datetime.strptime(match[0], form).date()  # noqa: DTZ007
            except ValueError:
                continue
            break


def denies(sentence: str) -> bool:
    """Say whether a sentence holds an odd number of words such as `not` or `never`."""
    return len(_DENIAL.findall(sentence)) % 2 == 1


def listed(sentence: str) -> list[str]:
    """Return the items that a sentence enumerates, or nothing if it does not."""
    for opening in _OPENS_LIST.finditer(sentence):
        items = _items(sentence[opening.end() :])
        if len(items) >= 2:
            return items
    return []


def _items(text: str) -> list[str]:
    text = re.split(r"(?<=[.!?])\s", text)[0].strip().rstrip(".!?")
    pieces = [piece.strip(" `*\"'“”") for piece in _BETWEEN.split(text)]
    if any(len(piece.split()) > 6 for piece in pieces):
        return []
    return list(dict.fromkeys(piece for piece in pieces if piece))


def polarity(text: str) -> tuple[int, int]:
    """Count the words of praise and of blame; one behind a denial counts as the other."""
    good = bad = 0
    words = re.findall(r"[a-z']+", text.lower())
    for i, word in enumerate(words):
        value = (word in PRAISE) - (word in BLAME)
        if value and any(denies(each) for each in words[max(i - 3, 0) : i]):
            value = -value
        good += value > 0
        bad += value < 0
    return good, bad


def supports(options: Sequence[str], texts: Sequence[tuple[str, float]]) -> list[float]:
    """Return how much texts, each with its weight, speak for each option.

    An option that is named counts fully, one of which only words occur by their share. The
    usual labels of an opinion count the words of praise and blame, as in lexicon-based
    sentiment analysis (Hu and Liu, "Mining and Summarizing Customer Reviews", 2004).
    """
    return [
        sum(weight * _support(option, text) for text, weight in texts) for option in options
    ]


def _support(option: str, text: str) -> float:
    lower = split_names(text).lower()
    label = split_names(option).replace("_", " ").lower().strip()
    good, bad = polarity(lower)
    if label in _LABELS["good"]:
        return float(good) if good > bad else 0.0
    if label in _LABELS["bad"]:
        return float(bad) if bad > good else 0.0
    if label in _LABELS["mixed"]:
        return 0.5 * (good + bad) if good == bad else 0.0
    if label and re.search(rf"(?<!\w){re.escape(label)}(?!\w)", lower):
        return 1.0
    words = terms(label)
    held = {base(word) for word in re.findall(r"[^\W_]+", lower)}
    return 0.8 * sum(term.stem in held for term in words) / len(words) if words else 0.0


def chosen(options: Sequence[str], support: Sequence[float]) -> tuple[str, float] | None:
    """Return the option with most support and its share of all; `None` if none has any."""
    total = sum(support)
    if total <= 0:
        return None
    best = max(range(len(options)), key=lambda i: support[i])
    return options[best], support[best] / total


def summary(pieces: Sequence[str], *, count: int = 3) -> list[str]:
    """Return the sentences that hold most of what the text speaks of, in their order.

    A sentence counts for the mean frequency of its words in the whole text, as in Nenkova
    and Vanderwende, "The Impact of Frequency on Summarization" (2005); once a sentence is
    taken, its words count less.
    """
    words = [[term.stem for term in terms(piece, limit=60)] for piece in pieces]
    total = sum(map(len, words)) or 1
    shares: dict[str, float] = {}
    for word in (word for each in words for word in each):
        shares[word] = shares.get(word, 0.0) + 1 / total
    left = [i for i, each in enumerate(words) if len(each) >= 3] or list(range(len(pieces)))
    taken: list[int] = []
    while left and len(taken) < count:
        best = max(
            left,
            key=lambda i: (
                sum(shares[w] for w in words[i]) / max(len(words[i]), 1) / (1 + i / 50)
            ),
        )
        left.remove(best)
        taken.append(best)
        for word in words[best]:
            shares[word] *= shares[word]
    return [pieces[i] for i in sorted(taken)]
