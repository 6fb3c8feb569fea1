"""Which words of a question count, and how they are looked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kaizen_offline._lexicon import IRREGULAR, STOP_WORDS

__all__ = [
    "AnswerKind",
    "Term",
    "answer_kind",
    "base",
    "is_question",
    "split_names",
    "terms",
]

AnswerKind: TypeAlias = Literal["yes_no", "number", "time", "who", "why", "any"]

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SUFFIX = re.compile(
    r"(?:ations?|itions?|ings?|edly|ed|ies|ied|ers?|ors?|ments?|ness|als?|ly|es|s|y|e)$"
)
_OPENERS = (
    r"(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|can|could|"
    r"may|might|must|should|shall|will|would|has|have|had|find|list|name|tell|explain|"
    r"describe|show|summari[sz]e|give|define|count|compare)"
)
_ATTRIBUTE = re.compile(
    r"what(?: is| are| was| were|'s) (?:the|its|their)\b", re.IGNORECASE
)
_YES_NO = re.compile(
    r"(?:is|are|was|were|do|does|did|can|could|may|might|must|should|shall|will|would|has|"
    r"have|had|isn't|aren't|doesn't|don't|can't)\b",
    re.IGNORECASE,
)
_KINDS: dict[AnswerKind, str] = {
    "time": r"when|(?:what|which)\ (?:time|year|date|day|month)",
    "number": r"""how\ (?:many|much|long|far|often|old|big|large|high|deep|wide|heavy|fast|
        hot|cold|tall|late|soon|quickly)|what\ (?:number|percentage|share|price)""",
    "who": r"who|whom|whose",
    "why": r"why|what\ .*reason",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One word that counts.

    Attributes:
        word: The word in lower case.
        stem: Its beginning, as it stands in related words: `deliv` for `delivery`.
        forms: Its irregular forms, itself included: `keep` and `kept`.
    """

    word: str
    stem: str
    forms: tuple[str, ...] = ()

    def is_in(self, lower: str) -> bool:
        """Say whether a text in lower case holds the word or one that is related."""
        return self.stem in lower or any(form in lower for form in self.forms)


def terms(text: str, *, limit: int = 24) -> list[Term]:
    """Return the words that count, each once, in order; names in code are split."""
    found: dict[str, Term] = {}
    for word in _WORD.findall(split_names(text)):
        lower = word.lower()
        if lower in STOP_WORDS or (len(lower) < 2 and not lower.isdigit()):
            continue
        forms = IRREGULAR.get(lower) or IRREGULAR.get(lower.removesuffix("s"), ())
        stem = base(lower)
        found.setdefault(stem, Term(word=lower, stem=stem, forms=forms))
        if len(found) == limit:
            break
    return list(found.values())


def split_names(text: str) -> str:
    """Put blanks into `camelCase`; `snake_case` is split by every tokenizer anyway."""
    return _CAMEL.sub(" ", text.replace("’", "'"))


def base(word: str) -> str:
    """Return the beginning that related words share; at least four letters remain."""
    shorter = _SUFFIX.sub("", word)
    return (
        shorter if len(shorter) >= 4 else word.removesuffix("s") if len(word) > 3 else word
    )


def weigh(weights: Mapping[Term, float], text: str) -> float:
    """Return what the words that a text holds weigh together."""
    lower = split_names(text).lower()
    return sum(weight for term, weight in weights.items() if term.is_in(lower))


def is_question(text: str) -> bool:
    """Say whether a text asks for something, rather than being what is asked about."""
    stripped = text.strip()
    if stripped.endswith("?"):
        return True
    return len(stripped) < 300 and bool(re.match(rf"{_OPENERS}\b", stripped, re.IGNORECASE))


def attribute(question: str) -> Term | None:
    """Return what is asked of a thing: `price`, in "What is the price of the loaf?"."""
    asked = _ATTRIBUTE.match(question.strip())
    found = terms(question[asked.end() :], limit=1) if asked else []
    return found[0] if found else None


def answer_kind(question: str) -> AnswerKind:
    """Return what kind of answer a question asks for."""
    if _YES_NO.match(question.strip()) and not re.search(r"\bor\b", question):
        return "yes_no"
    for kind, pattern in _KINDS.items():
        if re.search(rf"\b(?:{pattern})\b", question, re.IGNORECASE | re.VERBOSE):
            return kind
    return "any"
