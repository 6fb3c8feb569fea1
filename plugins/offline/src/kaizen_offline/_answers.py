"""Fills the fields of a JSON schema from what is known, and from nothing else.

Where a field cannot be known it becomes null, an empty list or the text "unknown",
whichever its schema allows. Where the schema leaves no such value, nothing is invented:
`UnknownFieldError` says which field it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kaizen_offline._names import (
    CONFIDENCE,
    FOUND,
    GENERIC,
    MAIN,
    NAMED,
    PARTS,
    PROPER_NAME,
    REASONS,
    SOURCES,
    TYPED,
    UNKNOWN_CHOICES,
)
from kaizen_offline._quotes import Citation, said, shortened
from kaizen_offline._report import Report
from kaizen_offline._schemas import Schema, problem, resolve
from kaizen_offline._search import Evidence
from kaizen_offline._values import (
    chosen,
    counts,
    dates,
    denies,
    listed,
    numbers,
    supports,
)
from kaizen_offline._words import Term, answer_kind, terms

__all__ = ["UnknownFieldError", "fill"]

_MAX_DEPTH = 8
_MAX_ITEMS = 12
_UNKNOWN = "unknown"
_UNSURE = 0.5
_OWN_WORDS = 0.75
_YEARS = re.compile(r"(?:\b|_)(?:years?|when|dates?)(?:\b|_)", re.IGNORECASE)


class UnknownFieldError(Exception):
    """A field cannot be known, and its schema has no value that says so."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def fill(schema: Schema, report: Report) -> Any:
    """Return a value that fits a schema and holds what is known.

    Raises:
        UnknownFieldError: The schema leaves no honest value for a field.
        ValueError: The schema refers to what is not there.
    """
    value = _Writer(schema, report).whole()
    if found := problem(value, schema):
        raise UnknownFieldError(found.split()[0].removeprefix("value."))
    return value


class _Writer:
    def __init__(self, root: Schema, report: Report) -> None:
        self._root = root
        self._report = report
        self._main = ""
        self._has_sources = False
        self._confidence = report.confidence
        self._shares: list[float] = []

    def whole(self) -> Any:
        rules = resolve(self._root, self._root)
        known = rules.get("properties", {})
        self._has_sources = any(SOURCES.fullmatch(name) for name in known)
        self._main = self._main_field(known)
        return self._value("answer", rules, 0)

    def _main_field(self, known: Mapping[str, Any]) -> str:
        """Return the name of the field that takes the answer in words."""
        texts = [name for name, part in known.items() if self._is_text(part)]
        named = [name for name in MAIN if name in texts]
        if named or not self._report.is_asked:
            return named[0] if named else ""
        plain = (n for n in texts if not (SOURCES.fullmatch(n) or REASONS.fullmatch(n)))
        return next(plain, "")

    def _is_text(self, part: Any) -> bool:
        rules = resolve(part, self._root)
        if {"enum", "const", "format", "pattern"} & set(rules):
            return False
        choices = rules.get("anyOf", ())
        return rules.get("type") == "string" or any(map(self._is_text, choices))

    def _value(self, name: str, schema: Any, depth: int, *, optional: bool = False) -> Any:
        if depth > _MAX_DEPTH:
            raise UnknownFieldError(name)
        rules = resolve(schema, self._root)
        if "const" in rules:
            return rules["const"]
        if "enum" in rules:
            return self._choice(name, rules, optional=optional)
        parts = _alternatives(rules)
        if len(parts) > 1:
            return self._first(name, rules, parts, depth)
        match parts[0].get("type", "object" if "properties" in rules else "string"):
            case "string":
                return self._text(name, rules, optional=optional)
            case "integer" | "number":
                return self._number(name, rules)
            case "boolean":
                return self._boolean(name, rules)
            case "array":
                return self._list(name, rules, depth)
            case "object":
                return self._object(name, rules, depth)
        return None

    def _first(self, name: str, rules: Schema, parts: Sequence[Schema], depth: int) -> Any:
        """Return the first alternative that can be known; null if that is one of them."""
        nullable = any(part.get("type") == "null" for part in parts)
        for part in parts:
            if part.get("type") == "null":
                continue
            try:
                value = self._value(name, part, depth + 1, optional=nullable)
            except UnknownFieldError:
                continue
            if not problem(value, rules, self._root):
                return value
        if nullable:
            return None
        raise UnknownFieldError(name)

    def _object(self, name: str, rules: Schema, depth: int) -> dict[str, Any]:
        known = rules.get("properties", {})
        if depth and _is_citation(known):
            return self._one_citation(name, rules)
        required = rules.get("required", ())
        made: dict[str, Any] = {}
        later = [each for each in known if CONFIDENCE.fullmatch(each)]
        for each in (*(key for key in known if key not in later), *later):
            try:
                made[each] = self._value(each, known[each], depth + 1)
            except UnknownFieldError:
                if each in required:
                    raise
        return {each: made[each] for each in known if each in made}

    def _one_citation(self, name: str, rules: Schema) -> dict[str, Any]:
        for citation in self._report.citations:
            if (made := self._cited(rules, citation)) is not None:
                return made
        raise UnknownFieldError(name)

    def _text(self, name: str, rules: Schema, *, optional: bool) -> str:
        most = rules.get("maxLength", 1200)
        if name == self._main:
            if not self._report.is_known and optional:
                raise UnknownFieldError(name)
            return self._report.text(with_places=not self._has_sources, most=most)
        for value in self._readings(name, rules):
            text = shortened(value, most)
            if text and not problem(text, rules, self._root):
                return text
        if optional or problem(_UNKNOWN, rules, self._root) or "format" in rules:
            raise UnknownFieldError(name)
        return _UNKNOWN

    def _readings(self, name: str, rules: Schema) -> Iterator[str]:
        """Give what a field of text might be, best first."""
        if REASONS.fullmatch(name):
            yield self._how()
            return
        if SOURCES.fullmatch(name):
            yield from map(str, self._report.citations)
            return
        yield from self._labelled(name)
        found = self._speaking_of(name, rules, asked=False)
        heard = [said(each.sentence) for each in found]
        shape = rules.get("pattern") or TYPED.get(str(rules.get("format", "")))
        shape = shape or next(
            (p for word, p in TYPED.items() if word in name.lower()), None
        )
        if NAMED.fullmatch(name) and answer_kind(self._report.question) == "who":
            shape = PROPER_NAME
        if shape:
            yield from _matches(str(shape), [*heard, *self._lines()])
        elif str(rules.get("format", "")).startswith("date") or name.endswith("date"):
            yield from self._days([*heard, *self._lines()], rules)
        else:
            yield from heard

    def _how(self) -> str:
        if not self._report.is_known:
            return "No sentence that was read holds enough of the question's words."
        if not self._report.is_asked:
            return "These sentences hold most of the words that the text repeats."
        words = ", ".join(term.word for term in self._report.terms)
        first = self._report.citations[0]
        return (
            f"Looked for the words {words}; most of them are at {first.path}:{first.line}."
        )

    def _labelled(self, name: str) -> Iterator[str]:
        """Give what follows the name of a field and a colon."""
        label = r"[\s_-]+".join(map(re.escape, name.split("_")))
        pattern = re.compile(rf"^\W*{label}\W*[:=]\s*(\S.*)$", re.IGNORECASE)
        for line in self._lines():
            if match := pattern.match(line):
                yield match[1].strip()

    def _lines(self) -> Iterator[str]:
        """Give the lines around the evidence; all that was given if nothing was asked."""
        if not self._report.is_asked:
            yield from (line for text in self._report.texts for line in text.lines)
        for each in self._report.evidence:
            yield from (line.text for line in each.sentence.passage.lines)

    def _days(self, heard: Sequence[str], rules: Schema) -> Iterator[str]:
        suffix = "T00:00:00Z" if rules.get("format") == "date-time" else ""
        for text in heard:
            for day in dates(text):
                yield f"{day.isoformat()}{suffix}"

    def _choice(self, name: str, rules: Schema, *, optional: bool) -> Any:
        options = [each for each in rules["enum"] if each is not None]
        if len(options) == 1:
            return options[0]
        names = [str(each) for each in options]
        found = chosen(names, supports(names, self._spoken()))
        if found is not None and (self._report.is_known or not self._report.is_asked):
            self._shares.append(found[1])
            if not self._is_asked_for(name):
                self._confidence = min(self._confidence, _UNSURE)
            return options[names.index(found[0])]
        self._shares.append(0.0)
        if None in rules["enum"]:
            return None
        unsure = [each for each in options if str(each).lower() in UNKNOWN_CHOICES]
        if optional or not unsure:
            raise UnknownFieldError(name)
        return unsure[0]

    def _spoken(self) -> list[tuple[str, float]]:
        """Return what may speak for a choice: the evidence, or the text that is judged."""
        if self._report.is_asked:
            return [(said(each.sentence), each.score) for each in self._report.evidence]
        return [("\n".join(text.lines), 1.0) for text in self._report.texts]

    def _number(self, name: str, rules: Schema) -> float:
        """Return the number that stands next to the words of the question.

        It may answer another question, so the confidence is at most 0.5 unless its own
        sentence holds most of those words, and counts what "how many" asks for.
        """
        if CONFIDENCE.fullmatch(name):
            return self._scaled(name, rules)
        question = self._report.question
        words = terms(f"{question} {_words(name, rules)}")
        asked = answer_kind(question) == "number"
        years = bool(_YEARS.search(f"{question} {_words(name, rules)}"))
        for each in self._speaking_of(name, rules, asked=asked):
            heard = said(each.sentence)
            for number in numbers(heard, words, years=years):
                value = int(number) if number.is_integer() else number
                if not problem(value, rules, self._root):
                    if each.own < _OWN_WORDS or not counts(heard, question):
                        self._confidence = min(self._confidence, _UNSURE)
                    return value
        raise UnknownFieldError(name)

    def _scaled(self, name: str, rules: Schema) -> float:
        """Return the confidence, on the field's own scale if that is not 0 to 1."""
        high = rules.get("maximum", rules.get("exclusiveMaximum", 1))
        value: float = round(self._sure() * (max(1, high)), 2)
        if rules.get("type") == "integer":
            value = round(value)
        if problem(value, rules, self._root):
            raise UnknownFieldError(name)
        return value

    def _sure(self) -> float:
        """Return the confidence: of the evidence, or of the choices where nothing is asked.

        A choice counts for half of its share of all support, since words that agree with
        its name say little.
        """
        if self._shares and not self._report.is_asked:
            return round(0.5 * sum(self._shares) / len(self._shares), 2)
        return self._confidence

    def _boolean(self, name: str, rules: Schema) -> bool:
        """Return what the evidence says: yes, unless it denies.

        A word such as `not` or `never` turns the answer round; one in the question turns it
        back, if the field is called `answer` or the like. That is crude, so the confidence
        is at most 0.5.
        """
        if FOUND.fullmatch(name):
            return self._report.is_known
        asked = answer_kind(self._report.question) == "yes_no"
        for each in self._speaking_of(name, rules, asked=asked):
            self._confidence = min(self._confidence, _UNSURE)
            turned = bool(GENERIC.fullmatch(name)) and denies(self._report.question)
            return denies(said(each.sentence)) is turned
        raise UnknownFieldError(name)

    def _speaking_of(self, name: str, rules: Schema, *, asked: bool) -> Sequence[Evidence]:
        """Return the evidence for a field: all of it, if the field was asked for."""
        if not self._report.is_known:
            return ()
        if asked or self._is_asked_for(name):
            return self._report.evidence
        return self._report.about(_words(name, rules))

    def _is_asked_for(self, name: str) -> bool:
        wanted = {term.stem for term in self._report.terms}
        named = {term.stem for term in terms(name.replace("_", " "))}
        return bool(GENERIC.fullmatch(name)) or bool(wanted & named)

    def _list(self, name: str, rules: Schema, depth: int) -> list[Any]:
        most = min(rules.get("maxItems", _MAX_ITEMS), _MAX_ITEMS)
        items: list[Any] = []
        part = rules.get("items", True)
        for item in self._items(name, rules, part, depth):
            if len(items) >= most:
                break
            if item not in items and not problem(item, part, self._root):
                items.append(item)
        if len(items) < rules.get("minItems", 0):
            raise UnknownFieldError(name)
        return items

    def _items(self, name: str, rules: Schema, part: Any, depth: int) -> Iterator[Any]:
        inner = resolve(part, self._root)
        if "enum" in inner:
            return self._supported(inner["enum"])
        kind = inner.get("type", "object" if "properties" in inner else "string")
        if kind == "object":
            return self._records(inner)
        if kind == "string" and SOURCES.fullmatch(name):
            return map(str, self._report.citations)
        found = self._speaking_of(name, rules, asked=not self._main and depth == 1)
        if kind in ("integer", "number"):
            words = terms(f"{self._report.question} {_words(name, rules)}")
            return _numbers(found, words)
        return self._enumerated(found) if kind == "string" else iter(())

    def _supported(self, options: Sequence[Any]) -> Iterator[Any]:
        if self._report.is_known or not self._report.is_asked:
            support = supports([str(each) for each in options], self._spoken())
            yield from (each for each, s in zip(options, support, strict=True) if s > 0)

    def _records(self, inner: Schema) -> Iterator[dict[str, Any]]:
        for citation in self._report.citations:
            if (made := self._cited(inner, citation)) is not None:
                yield made

    def _cited(self, rules: Schema, citation: Citation) -> dict[str, Any] | None:
        """Return a citation in the form that a schema gives it, if that is possible."""
        made: dict[str, Any] = {}
        required = rules.get("required", ())
        for name, part in rules.get("properties", {}).items():
            value = next((get(citation) for p, get in PARTS if p.fullmatch(name)), None)
            if value is not None and not problem(value, part, self._root):
                made[name] = value
            elif not problem(None, part, self._root):
                made[name] = None
            elif name in required:
                return None
        return made

    def _enumerated(self, found: Sequence[Evidence]) -> Iterator[str]:
        """Give the items that evidence lists, names, or else says."""
        if not found:
            return
        first = found[0]
        near = [each for each in found if each.score >= 0.85 * first.score]
        if first.sentence.passage.kind == "symbol":
            yield from (
                each.sentence.passage.title
                for each in near
                if each.sentence.passage.kind == "symbol"
            )
            return
        items = listed(said(first.sentence))
        yield from items or (said(each.sentence) for each in near)


def _alternatives(rules: Schema) -> list[Schema]:
    choices = rules.get("anyOf") or rules.get("oneOf")
    if choices:
        outer = {k: v for k, v in rules.items() if k not in ("anyOf", "oneOf")}
        return [_with(part, outer) for part in choices]
    types = rules.get("type")
    if isinstance(types, str) or types is None:
        return [rules]
    return [{**rules, "type": each} for each in types]


def _with(part: Any, outer: Schema) -> Schema:
    if isinstance(part, Mapping) and part.get("type") == "null":
        return part
    return {"allOf": [outer, part]}


def _is_citation(known: Mapping[str, Any]) -> bool:
    return any(PARTS[1][0].fullmatch(name) or name == "quote" for name in known)


def _words(name: str, rules: Schema) -> str:
    return f"{name.replace('_', ' ')} {rules.get('description', '')}"


def _matches(pattern: str, lines: Sequence[str]) -> Iterator[str]:
    inner = pattern.removeprefix("^").removesuffix("$")
    try:
        compiled = re.compile(inner)
    except re.error:
        return
    for line in lines:
        yield from (match[0] for match in compiled.finditer(line[:10_000]))


def _numbers(found: Sequence[Evidence], words: Sequence[Term]) -> Iterator[float]:
    for each in found[:1]:
        for number in numbers(said(each.sentence), words):
            yield int(number) if number.is_integer() else number
