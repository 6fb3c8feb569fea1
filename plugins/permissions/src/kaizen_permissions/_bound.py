"""The rules of one policy that are about one tool, ready to be asked.

Rules of one type and priority that look at the same part of a call are one regular
expression, so that a hundred of them cost as much as a few.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from kaizen.errors import ConfigurationError

from kaizen_permissions._paths import Place, Reading, Sources
from kaizen_permissions._patterns import Matcher, compile_all, wildcards
from kaizen_permissions._rules import PermissionRule
from kaizen_permissions._subject import Kind, Shape, Subject, kind_of
from kaizen_permissions._types import Match, PermissionType
from kaizen_permissions._urls import compile_url, is_url_pattern

__all__ = ["Bound", "Spoken", "bind", "path_of"]

_LOG = logging.getLogger("kaizen.permissions")
READS = "@reads"
MAX_KEPT = 256
_ONE_LINE = r"[^\x00-\x1f\x7f\x{85}\x{2028}\x{2029}]*"
_NO, _UNKNOWN, _YES = Match
_ALLOW, _ASK, _DENY = PermissionType
_ARGUMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})=(.*)", re.DOTALL)


class Spoken(NamedTuple):
    """What the rules say of a call.

    Attributes:
        type: What is to be done.
        rule: The rule that decides.
        sure: Whether the rule is about the call, or that cannot be said.
    """

    type: PermissionType
    rule: PermissionRule
    sure: bool = True

    @property
    def may_refuse(self) -> bool:
        """Whether it is asked about since it cannot be said that it is not refused."""
        return not self.sure and self.rule.permission_type is _DENY

    @property
    def weight(self) -> int:
        """How much of a stop it is; what may be refused is more than any other question."""
        return 2 * self.type.strictness + self.may_refuse


class _Check(Protocol):
    """Some rules of one type and priority."""

    def any(self, subject: Subject) -> tuple[Match, PermissionRule | None]:
        """Say whether one of them is about a part of the call."""
        ...

    def all(self, subject: Subject) -> PermissionRule | None:
        """Return one of them if together they are about the whole of the call."""
        ...


class _Whole:
    """A rule about a tool, whatever its arguments."""

    def __init__(self, rule: PermissionRule) -> None:
        self._rule = rule

    def any(self, _subject: Subject) -> tuple[Match, PermissionRule | None]:
        return _YES, self._rule

    def all(self, _subject: Subject) -> PermissionRule | None:
        return self._rule


class _Unclear:
    """A rule whose specifier says nothing about this tool: it never allows."""

    def __init__(self, rule: PermissionRule) -> None:
        self._rule = rule

    def any(self, _subject: Subject) -> tuple[Match, PermissionRule | None]:
        return _UNKNOWN, self._rule

    def all(self, _subject: Subject) -> PermissionRule | None:
        return None


class _Texts:
    """Rules about texts of one kind: paths, URLs, or one argument.

    What refuses does so in capitals too, where file systems and servers may not tell them
    from small letters.
    """

    def __init__(
        self, kind: Kind, argument: str, rules: Sequence[tuple[PermissionRule, Sources]]
    ) -> None:
        self._kind: Kind = kind
        self._argument = argument
        self._folds = kind != "text"
        self._rules = [(rule, each.strict, each.loose) for rule, each in rules]
        self._parts: dict[tuple[int, int, bool], Matcher] = {}
        self._found: dict[tuple[str, bool], PermissionRule] = {}
        self._strict = compile_all(each for _, it in rules for each in it.strict)
        self._loose = compile_all(
            (each for _, it in rules for each in it.loose), ignore_case=self._folds
        )

    def any(self, subject: Subject) -> tuple[Match, PermissionRule | None]:
        if subject.arguments is None:
            return _UNKNOWN, self._rules[0][0]
        doubt: PermissionRule | None = None
        for reading in subject.readings(self._kind, self._argument):
            if reading is None:
                doubt = self._rules[0][0]
            elif found := self.meets(reading):
                return _YES, found
        return (_UNKNOWN if doubt else _NO), doubt

    def all(self, subject: Subject) -> PermissionRule | None:
        readings = subject.readings(self._kind, self._argument)
        if subject.arguments is None or not readings:
            return None
        for reading in readings:
            if reading is None or not all(map(self._strict, reading.strict)):
                return None
        first = readings[0]
        assert first is not None
        return self._which(first.strict[0], strict=True)

    def meets(self, reading: Reading) -> PermissionRule | None:
        """Return a rule that may be about what something means."""
        for text in reading.loose:
            if self._loose(text):
                return self._which(text, strict=False)
        return None

    def _which(self, text: str, *, strict: bool) -> PermissionRule:
        """Return the first rule that fits, by looking at halves of them.

        The last answers are kept, since agents come back to the same files.
        """
        known = self._found.get((text, strict))
        if known is not None:
            return known
        start, end = 0, len(self._rules)
        while end - start > 1:
            middle = (start + end) // 2
            if self._part(start, middle, strict=strict)(text):
                end = middle
            else:
                start = middle
        if len(self._found) >= MAX_KEPT:
            self._found.clear()
        self._found[text, strict] = found = self._rules[start][0]
        return found

    def _part(self, start: int, end: int, *, strict: bool) -> Matcher:
        """Return what matches any of some rules. Made when it is first needed."""
        known = self._parts.get((start, end, strict))
        if known is None:
            sources = (
                source
                for _, narrow, wide in self._rules[start:end]
                for source in (narrow if strict else wide)
            )
            known = compile_all(sources, ignore_case=self._folds and not strict)
            self._parts[start, end, strict] = known
        return known


class _Commands:
    """Rules about what a command would run. They are combined: see `_Level`."""

    def __init__(self, rules: Sequence[PermissionRule]) -> None:
        self.rules = rules

    def any(self, subject: Subject) -> tuple[Match, PermissionRule | None]:
        from kaizen_permissions._commands import touches

        if subject.arguments is None:
            return _UNKNOWN, self.rules[0]
        for analysis in subject.commands:
            for rule in self.rules:
                wanted = rule.specifier or ""
                if analysis.only_reads if wanted == READS else touches(analysis, wanted):
                    return _YES, rule
        if all(analysis.understood for analysis in subject.commands):
            return _NO, None
        return _UNKNOWN, self.rules[0]

    def all(self, subject: Subject) -> PermissionRule | None:
        return self.covering(subject, self.rules)

    @staticmethod
    def covering(
        subject: Subject, rules: Sequence[PermissionRule]
    ) -> PermissionRule | None:
        """Return a rule if together they allow all that the commands would run.

        What only reads is allowed beside what they name, so that `pytest | head` needs no
        rule about `head`; by itself it needs `@reads`.
        """
        from kaizen_permissions._commands import covers, touches

        if subject.arguments is None or not subject.commands:
            return None
        named = [each for each in rules if each.specifier != READS]
        wanted = [each.specifier or "" for each in named]
        for analysis in subject.commands:
            if not covers(analysis, wanted, may_write=subject.may_write):
                return None
            if len(named) == len(rules) and not any(
                touches(analysis, each) for each in wanted
            ):
                return None
        first = subject.commands[0]
        met = (each for each in named if touches(first, each.specifier or ""))
        reads = (each for each in rules if each.specifier == READS)
        return next(met, None) or next(reads, None) or rules[0]


class _Level:
    """The rules of one priority."""

    __slots__ = ("_allow", "_ask", "_deny")

    def __init__(
        self, deny: Sequence[_Check], ask: Sequence[_Check], allow: Sequence[_Check]
    ) -> None:
        self._deny = deny
        self._ask = ask
        self._allow = allow

    def speak(self, subject: Subject, commands: list[PermissionRule]) -> Spoken | None:
        doubt: PermissionRule | None = None
        for check in self._deny:
            match, rule = check.any(subject)
            if match is _YES and rule is not None:
                return Spoken(_DENY, rule)
            doubt = doubt or rule
        if doubt is not None:
            return Spoken(_ASK, doubt, sure=False)
        for check in self._ask:
            match, rule = check.any(subject)
            if match is not _NO and rule is not None:
                return Spoken(_ASK, rule, match is _YES)
        return self._allowing(subject, commands) if self._allow else None

    def _allowing(self, subject: Subject, commands: list[PermissionRule]) -> Spoken | None:
        for check in self._allow:
            if isinstance(check, _Commands):
                commands.extend(check.rules)
                rule = check.covering(subject, commands)
            else:
                rule = check.all(subject)
            if rule is not None:
                return Spoken(_ALLOW, rule)
        return None


class Bound:
    """The rules of a policy about one tool.

    Attributes:
        looks_at_files: Whether to ask them takes looking at the file system, or reading a
            command, and is better done in a thread.
    """

    def __init__(self, levels: Sequence[_Level], *, looks_at_files: bool) -> None:
        self._levels = levels
        self.looks_at_files = looks_at_files

    def speak(self, subject: Subject) -> Spoken | None:
        """Return what the rules say, or `None` if none is about the call."""
        commands: list[PermissionRule] = []
        for level in self._levels:
            spoken = level.speak(subject, commands)
            if spoken is not None:
                return spoken
        return None


def bind(rules: Iterable[PermissionRule], shape: Shape, place: Place) -> Bound:
    """Return the rules that are about a tool of some name and arguments."""
    ours = [each for each in rules if each.names(shape.name)]
    levels: list[_Level] = []
    looks = False
    for priority in sorted({each.priority for each in ours}, reverse=True):
        checks: dict[PermissionType, list[_Check]] = {}
        for kind in PermissionType:
            here = [
                each
                for each in ours
                if (each.priority, each.permission_type) == (priority, kind)
            ]
            checks[kind], looking = _checks(here, shape, place)
            looks = looks or looking
        levels.append(_Level(checks[_DENY], checks[_ASK], checks[_ALLOW]))
    return Bound(levels, looks_at_files=looks)


def _checks(
    rules: Sequence[PermissionRule], shape: Shape, place: Place
) -> tuple[list[_Check], bool]:
    whole: list[_Check] = []
    texts: dict[tuple[Kind, str], list[tuple[PermissionRule, Sources]]] = {}
    commands: list[PermissionRule] = []
    unclear: list[PermissionRule] = []
    for rule in rules:
        if rule.specifier is None:
            whole.append(_Whole(rule))
            continue
        kind, argument, wanted = _part(rule.specifier, shape)
        if kind == "command":
            (commands if _is_command(wanted) else unclear).append(rule)
            continue
        sources = None if kind is None else _sources(kind, wanted, place)
        if kind is None or sources is None:
            unclear.append(rule)
        else:
            texts.setdefault((kind, argument), []).append((rule, sources))
    parts = [_Texts(kind, argument, each) for (kind, argument), each in texts.items()]
    asked = [_Commands(commands)] if commands else []
    looks = bool(commands) or any(kind == "path" for kind, _ in texts)
    return [*whole, *parts, *asked, *map(_Unclear, unclear)], looks


def _part(specifier: str, shape: Shape) -> tuple[Kind | None, str, str]:
    """Return what a specifier looks at: a kind, or one argument, and what it wants there.

    No kind at all if that cannot be said.
    """
    named = _ARGUMENT.fullmatch(specifier)
    if named is not None and named[1] in shape.arguments:
        kind = kind_of(named[1])
        return ("text" if kind == "command" else kind), named[1], named[2]
    if shape.takes("command"):
        return "command", "", specifier
    if is_url_pattern(specifier):
        return ("url" if shape.takes("url") else None), "", specifier
    if named is not None or not shape.takes("path"):
        return None, "", specifier
    return "path", "", specifier


def path_of(rule: PermissionRule) -> str:
    """Return the pattern of the paths that a rule about a tool for files names, or `""`."""
    specifier = rule.specifier or ""
    named = _ARGUMENT.fullmatch(specifier)
    if named is not None:
        return named[2] if kind_of(named[1]) == "path" else ""
    return "" if is_url_pattern(specifier) else specifier


def _sources(kind: Kind, wanted: str, place: Place) -> Sources | None:
    if kind == "text":
        wide = wildcards(wanted, many=".*")
        narrow = wide if wanted == "*" else wildcards(wanted, many=_ONE_LINE)
        return Sources((narrow,), (wide,))
    try:
        return compile_url(wanted) if kind == "url" else place.compile(wanted)
    except ConfigurationError as error:
        _LOG.warning("a rule asks about every call that it could be about: %s", error)
        return None


def _is_command(wanted: str) -> bool:
    from kaizen_permissions._commands import specifier

    try:
        return wanted == READS or bool(specifier(wanted))
    except ValueError as error:
        _LOG.warning("a rule asks about every command: %s", error)
        return False
