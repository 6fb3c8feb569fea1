"""Settles what is known before any field is filled: evidence, confidence, the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from kaizen_offline._conversation import Conversation
from kaizen_offline._passages import Sentence, Text, passages, sentences
from kaizen_offline._quotes import Citation, citations, said
from kaizen_offline._search import Evidence, Findings, search
from kaizen_offline._values import summary
from kaizen_offline._words import Term, terms

__all__ = ["NOTE", "UNKNOWN", "Report", "report_on"]

NOTE = "(extracted by the offline model, which is not a language model)"
UNKNOWN = "I do not know: nothing in what I read answers this."

KNOWN_FROM = 0.5
"""The confidence from which on a question counts as answered."""

_SUMMARY_CONFIDENCE = 0.5
_NEAR = 0.65  # more than a sentence can get from its paragraph alone
_MAX_CITATIONS = 8
_MAX_SENTENCES = 3
_MAX_SUMMARISED = 2000
_ASKS_SUMMARY = re.compile(r"\b(?:summar(?:y|i[sz]e)|overview|tl;?dr)\b", re.IGNORECASE)
_FILE = re.compile(r"[\w./-]+\.\w{1,5}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known.

    Attributes:
        given: The names of the texts that came with the question.
        weights: The words of the question, and what each weighs.
        evidence: Sentences that answer the question, or sum up what was given; best first.
        confidence: 0 if nothing is known.
    """

    question: str
    texts: tuple[Text, ...]
    given: frozenset[str]
    weights: Mapping[Term, float]
    evidence: tuple[Evidence, ...]
    confidence: float

    @property
    def is_known(self) -> bool:
        """Whether there is anything to answer with."""
        return bool(self.evidence)

    @property
    def citations(self) -> list[Citation]:
        """Where the evidence stands."""
        return list(citations(self.evidence, self.weights))[:_MAX_CITATIONS]

    def text(self, *, with_places: bool, most: int = 1200) -> str:
        """Return the answer in words, with the note that no language model wrote it.

        Args:
            with_places: Whether file and line follow each sentence.
            most: The most characters; sentences that do not fit are left out.
        """
        pieces: list[str] = []
        for each in self._told():
            place = self._place(each.sentence) if with_places else ""
            piece = said(each.sentence) + place
            if piece in pieces:
                continue
            if pieces and len(" ".join([*pieces, piece, NOTE])) > most:
                break
            pieces.append(piece)
        body = " ".join(pieces) or UNKNOWN
        if len(body) + 1 + len(NOTE) > most:
            return body[:most]
        return f"{body} {NOTE}"

    def _place(self, sentence: Sentence) -> str:
        path = sentence.passage.path
        return "" if path in self.given else f" ({path}:{sentence.lines[0].number})"

    def _told(self) -> Sequence[Evidence]:
        """Return the best sentence, and those that are nearly as good."""
        near = [
            each
            for each in self.evidence
            if each.score >= 0.8 * self.evidence[0].score
            and each.own >= 0.8 * self.evidence[0].own
        ]
        return near[:_MAX_SENTENCES]

    def about(self, words: str) -> tuple[Evidence, ...]:
        """Return evidence that speaks of a field as well as of the question."""
        wanted = terms(words)
        found = search(f"{self.question} {words}" if self.is_asked else words, self.texts)
        return tuple(
            each
            for each in _relevant(found)
            if any(term.is_in(_heard(each.sentence)) for term in wanted)
        )

    @property
    def is_asked(self) -> bool:
        """Whether there is a question, and not only a text."""
        return bool(self.weights)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The words of the question that count."""
        return tuple(self.weights)


def report_on(conversation: Conversation) -> Report:
    """Search what was read for what was asked; sum it up if nothing was."""
    texts, question = conversation.texts, conversation.question
    wanted = terms(_FILE.sub(" ", question) if _ASKS_SUMMARY.search(question) else question)
    chosen = _to_sum_up(conversation, wanted)
    if chosen:
        evidence: tuple[Evidence, ...] = tuple(_summed_up(chosen))
        confidence = _SUMMARY_CONFIDENCE if evidence else 0.0
        weights: Mapping[Term, float] = dict.fromkeys(wanted, 1.0)
    else:
        found = search(question, texts)
        evidence = _relevant(found)
        confidence = found.confidence if evidence else 0.0
        weights = found.weights
    return Report(
        question=question,
        texts=texts,
        given=frozenset(text.path for text in conversation.subject),
        weights=weights,
        evidence=evidence,
        confidence=confidence,
    )


def _to_sum_up(conversation: Conversation, wanted: Sequence[Term]) -> list[Text]:
    """Return the texts to sum up, none if a question is to be answered."""
    if not conversation.question:
        return list(conversation.subject)
    if not _ASKS_SUMMARY.search(conversation.question):
        return []
    named = _FILE.findall(conversation.question)
    read = [text for text in conversation.texts if text.path.endswith(tuple(named))]
    if named and read:
        return read
    return list(conversation.subject) if not wanted or conversation.subject else []


def _summed_up(texts: Sequence[Text]) -> list[Evidence]:
    every = (
        sentence
        for text in texts
        for passage in passages(text)
        if passage.kind in ("prose", "item", "symbol")
        for sentence in sentences(passage)
    )
    found = list(islice(every, _MAX_SUMMARISED))
    bodies = [said(sentence) for sentence in found]
    first = dict(zip(reversed(bodies), reversed(found), strict=True))
    return [
        Evidence(sentence=first[body], coverage=_SUMMARY_CONFIDENCE, own=1.0, score=1.0)
        for body in summary(bodies)
    ]


def _relevant(found: Findings) -> tuple[Evidence, ...]:
    if found.confidence < KNOWN_FROM:
        return ()
    floor = _NEAR * max(each.coverage for each in found.evidence)
    return tuple(each for each in found.evidence if each.coverage >= floor)


def _heard(sentence: Sentence) -> str:
    passage = sentence.passage
    return f"{sentence.text} {passage.context} {passage.title}".lower()
