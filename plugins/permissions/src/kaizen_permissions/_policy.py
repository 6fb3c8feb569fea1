"""A policy: rules and a mode, compiled once, that decide calls."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kaizen.errors import ConfigurationError
from kaizen.tools import DangerLevel, ToolCall, ToolSpec

from kaizen_permissions._bound import Bound, Spoken, bind
from kaizen_permissions._defaults import PROTECTED
from kaizen_permissions._paths import Place, Reading
from kaizen_permissions._patterns import compile_all
from kaizen_permissions._rules import MAX_PRIORITY, PermissionRule, is_tool_name
from kaizen_permissions._subject import Shape, Subject
from kaizen_permissions._types import PermissionMode, PermissionType

__all__ = ["Decided", "Policy", "judge", "strictest"]

_LOG = logging.getLogger("kaizen.permissions")
MAX_RULES = 10_000
MAX_KNOWN_TOOLS = 1_024
_ALLOW, _ASK, _DENY = PermissionType
_DEFAULT, _ACCEPT_EDITS, _PLAN, _BYPASS = PermissionMode
_VERBS = {"allow": "allows it", "ask": "asks about it", "deny": "refuses it"}
_WRITERS = ("write_file", "edit_file", "delete_file")
_READERS = ("read_file",)
Unasked: TypeAlias = Literal["safe", "low"]
PLAN_REMEDY = (
    "This is plan mode: read what you need, and describe the change instead of making it. "
    "The user decides when changes are made."
)


@dataclass(frozen=True, slots=True)
class Decided:
    """What is decided about a call. True if it may run without a question.

    Attributes:
        type: ALLOW, ASK or DENY.
        reason: Why, as a sentence.
        rule: The rule that decided, or `None` if none spoke.
        remedy: What the model can do instead, or `""`.
    """

    type: PermissionType
    reason: str
    rule: PermissionRule | None = None
    remedy: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the call may run without a question."""
        return self.type is _ALLOW

    def __bool__(self) -> bool:
        return self.allowed

    def __iter__(self) -> Iterator[Any]:
        return iter((self.allowed, self.reason))


class Policy:
    """Rules and a mode that decide calls. Never changes; `with_rules` gives another.

    Args:
        rules: The rules, in any order.
        mode: What happens where no rule speaks, and what PLAN refuses.
        allowed_tools: If given, whatever is not named here is denied.
        denied_tools: What is denied whatever rules say.
        roots: The folders and files inside which agents work.
        directory: What relative paths are relative to; by default the working directory.
        unasked: The highest danger level that runs where no rule speaks.
        protected: Patterns of paths; each change of what they name is asked about.

    Attributes:
        contradictions: Pairs of rules of the same priority of which the second never has
            an effect, since the first is stronger.
    """

    def __init__(
        self,
        rules: Iterable[PermissionRule] = (),
        *,
        mode: PermissionMode | str = PermissionMode.DEFAULT,
        allowed_tools: Iterable[str] | None = None,
        denied_tools: Iterable[str] = (),
        roots: Sequence[Path | str] = (".",),
        directory: Path | str | None = None,
        unasked: Unasked = "safe",
        protected: Iterable[str] = PROTECTED,
    ) -> None:
        allowed = _listed(allowed_tools, _ALLOW, "allowed_tools", 0)
        denied = _listed(denied_tools, _DENY, "denied_tools", MAX_PRIORITY)
        self._given = _checked(rules)
        self.mode = _mode(mode)
        self.place = Place(directory, roots)
        self.rules = (*denied, *self._given, *allowed)
        self._allowed = None if allowed_tools is None else allowed
        self._denied = denied
        self._unasked: Unasked = unasked
        self._limit = DangerLevel.LOW if unasked == "low" else DangerLevel.SAFE
        self._protected_patterns = tuple(protected)
        self._protected = compile_all(
            source
            for each in self._protected_patterns
            for source in self.place.compile(each).loose
        )
        self._bound: dict[object, tuple[ToolSpec | None, Bound, Shape]] = {}
        self._file_rules = _about_files(self.rules)
        self.contradictions = tuple(_contradictions(self.rules))
        for strong, weak in self.contradictions:
            _LOG.warning(
                "the rule %r never has an effect: %r has the same priority and is stronger",
                str(weak),
                str(strong),
            )

    def with_rules(self, *rules: PermissionRule) -> Policy:
        """Return the same policy with more rules."""
        other = object.__new__(Policy)
        other.__dict__.update(self.__dict__)
        other._given = _checked((*self._given, *rules))
        other.rules = (*self.rules, *rules)
        other._bound = {}
        other.contradictions = tuple(_contradictions(other.rules))
        other._file_rules = _about_files(other.rules)
        return other

    def decide(
        self,
        call: ToolCall | str,
        arguments: Mapping[str, Any] | None = None,
        *,
        spec: ToolSpec | None = None,
    ) -> Decided:
        """Return what is to be done about a call.

        Args:
            call: The call; or the name of a tool, with its arguments and specification as
                far as they are known. What is not known is never taken for harmless.
            arguments: What the tool is called with.
            spec: What is known of the tool.
        """
        subject = self.subject(call, arguments, spec=spec)
        return judge((self,), subject)

    def subject(
        self,
        call: ToolCall | str,
        arguments: Mapping[str, Any] | None = None,
        *,
        spec: ToolSpec | None = None,
    ) -> Subject:
        """Return a call as rules look at it."""
        name = call
        if isinstance(call, ToolCall):
            name, arguments, spec = call.name, call.arguments, call.spec
        elif arguments is not None and spec is not None:
            arguments = {**_defaults(spec), **arguments}
        known = self._bound.get(name)
        shape = known[2] if known is not None and known[0] is spec else None
        return Subject(str(name), arguments, spec, self.place, shape)

    def looks_at_files(self, subject: Subject) -> bool:
        """Whether to decide it takes looking at files, or reading a command."""
        if subject.shape.takes("command") or self._bind(subject).looks_at_files:
            return True
        return subject.writes and subject.shape.takes("path")

    def speak(self, subject: Subject) -> Spoken | Decided | None:
        """Return what rules and lists say of a call; `None` if they say nothing."""
        for rule in self._denied:
            if rule.specifier is None and rule.names(subject.name):
                return Spoken(_DENY, rule)
        unlisted = self._unlisted(subject)
        if unlisted is not None:
            return unlisted
        subject = subject.at(self.place)
        subject.may_write = self._may_write
        spoken = self._bind(subject).speak(subject)
        if self._file_rules and subject.shape.takes("command"):
            return _stricter(spoken, self._files_of_commands(subject))
        return spoken

    def changes_protected(self, subject: Subject) -> bool:
        """Whether a call changes something that only a person may let it change."""
        if not subject.writes:
            return False
        subject = subject.at(self.place)
        if subject.shape.takes("command"):
            written = [
                self.place.read(path)
                for analysis in subject.commands
                for path in analysis.writes
            ]
        else:
            written = list(subject.readings("path"))
        for reading in written:
            if reading is not None and any(map(self._protected, reading.loose)):
                return True
        return False

    def runs_unasked(self, subject: Subject) -> bool:
        """Whether a call of its danger level runs where no rule speaks."""
        return subject.spec is not None and subject.spec.effect.danger <= self._limit

    def _may_write(self, path: str) -> bool:
        """Whether a shell may write a file with `>` that is inside the roots."""
        reading = self.place.read(path)
        if self.mode is _ACCEPT_EDITS and self.place.inside(reading):
            return True
        subject = Subject("write_file", {"path": path}, None, self.place)
        spoken = self._bind(subject).speak(subject)
        return spoken is not None and spoken.type is _ALLOW

    def _unlisted(self, subject: Subject) -> Decided | None:
        if self._allowed is None:
            return None
        ours = [each for each in self._allowed if each.names(subject.name)]
        if any(each.specifier is None for each in ours):
            return None
        if ours and subject.arguments is None:
            return None
        spoken = bind(ours, subject.shape, self.place).speak(subject) if ours else None
        if spoken is not None:
            return None
        return Decided(_DENY, "it is not among the tools that are allowed")

    def _bind(self, subject: Subject) -> Bound:
        spec = subject.spec
        key: object = subject.name
        if spec is None:
            key = (subject.name, subject.shape.arguments)
        known = self._bound.get(key)
        if known is not None and known[0] is spec:
            return known[1]
        bound = bind(self.rules, subject.shape, self.place)
        if len(self._bound) >= MAX_KNOWN_TOOLS:
            self._bound.clear()
        self._bound[key] = (spec, bound, subject.shape)
        return bound

    def _files_of_commands(self, subject: Subject) -> Spoken | None:
        """Return what rules about files say of the files that commands read and write."""
        worst: Spoken | None = None
        for analysis in subject.commands:
            for tools, paths in ((_WRITERS, analysis.writes), (_READERS, analysis.reads)):
                for path in paths:
                    worst = self._file(tools, path, worst)
        return worst

    def _file(self, tools: Sequence[str], path: str, worst: Spoken | None) -> Spoken | None:
        for tool in tools:
            subject = Subject(tool, {"path": path}, None, self.place)
            known = self._bound.get((tool, "files"))
            if known is None:
                bound = bind(self._file_rules, subject.shape, self.place)
                known = self._bound[tool, "files"] = (None, bound, subject.shape)
            spoken = known[1].speak(subject)
            if spoken is not None and spoken.type is not _ALLOW:
                worst = _stricter(worst, spoken)
        return worst


def judge(
    policies: Sequence[Policy], subject: Subject, *, granted: bool = False
) -> Decided:
    """Return what policies that hold at once come to for a call.

    Rules of any of them that refuse come first, then plan mode, then rules that ask, then
    what always asks, then rules that allow; where no rule speaks, the mode and at last the
    tool's danger level decide.

    Args:
        policies: At least one; what none of them speaks about, the last one's mode decides.
        subject: The call.
        granted: Whether code granted the call, or the tool to the agent.
    """
    if not is_tool_name(subject.name):
        return Decided(_DENY, "no tool can have this name")
    said = [each for policy in policies if (each := policy.speak(subject)) is not None]
    refused = _first(said, _DENY)
    if refused is not None:
        return refused
    modes = [each.mode for each in policies]
    for mode in modes:
        if mode is not _DEFAULT and (decided := _by_mode(modes, subject)) is not None:
            return decided
    asked = _first(said, _ASK)
    if asked is not None:
        return asked
    always = _always_asked(policies, subject)
    if always:
        return Decided(_ASK, always)
    if said:
        return _told(said[-1])
    return _unspoken(policies, modes, subject, granted=granted)


def strictest(decisions: Iterable[Decided]) -> Decided:
    """Return the one that stops most; of equal ones the first."""
    return max(decisions, key=lambda each: each.type.strictness)


def _first(said: Sequence[Spoken | Decided], kind: PermissionType) -> Decided | None:
    for each in said:
        if each.type is kind:
            return _told(each)
    return None


def _by_mode(modes: Sequence[PermissionMode], subject: Subject) -> Decided | None:
    if _PLAN in modes and not _only_reads(subject):
        if subject.arguments is None and subject.shape.takes("command"):
            return Decided(_ASK, "it depends on the command", None)
        return Decided(
            _DENY,
            "plan mode does nothing that is not known to only read",
            remedy=PLAN_REMEDY,
        )
    if _BYPASS in modes and _PLAN not in modes:
        return Decided(_ALLOW, "permissions are bypassed")
    return None


def _always_asked(policies: Sequence[Policy], subject: Subject) -> str:
    spec = subject.spec
    if spec is not None and spec.effect.danger >= DangerLevel.CRITICAL:
        return "each call of a critical tool is asked about"
    for each in policies:
        if each.changes_protected(subject):
            return "it changes a protected file"
    return ""


def _unspoken(
    policies: Sequence[Policy],
    modes: Sequence[PermissionMode],
    subject: Subject,
    *,
    granted: bool,
) -> Decided:
    if _ACCEPT_EDITS in modes and _is_edit(policies[-1].place, subject):
        return Decided(_ALLOW, "edits are accepted")
    if _PLAN in modes and not _is_external(subject):
        return Decided(_ALLOW, "plan mode reads")
    if granted:
        return Decided(_ALLOW, "it was granted in code")
    if all(each.runs_unasked(subject) for each in policies):
        return Decided(_ALLOW, "the tool is harmless")
    if subject.spec is None:
        return Decided(_ASK, "nothing is known of the tool")
    level = subject.spec.effect.danger.name
    unclear = next((each for each in _problems(subject)), "")
    reason = f"no rule is about it, and its danger level is {level}"
    return Decided(_ASK, f"{reason}; {unclear}" if unclear else reason)


def _problems(subject: Subject) -> Iterator[str]:
    """Yield why a command could not be understood."""
    if subject.shape.takes("command"):
        for analysis in subject.commands:
            if not analysis.understood:
                yield f"the command cannot be understood: {analysis.problem[:200]}"


def _only_reads(subject: Subject) -> bool:
    """Whether a call changes nothing, as far as is known."""
    if subject.spec is None:
        return False
    if not subject.spec.effect.writes:
        return True
    return _runs_shell(subject) and all(each.only_reads for each in subject.commands)


def _runs_shell(subject: Subject) -> bool:
    """Whether a tool gives commands to a shell of this machine, and to nobody else."""
    if subject.spec is None or subject.spec.category != "system":
        return False
    return subject.shape.takes("command") and bool(subject.commands)


def _is_external(subject: Subject) -> bool:
    """Whether a call that only reads reaches outside; commands that only read do not."""
    if subject.spec is None or not subject.spec.effect.external:
        return subject.spec is None
    return not (subject.spec.effect.writes and _runs_shell(subject))


def _is_edit(place: Place, subject: Subject) -> bool:
    """Whether a call changes files of the roots, and nothing else."""
    spec = subject.spec
    if spec is None or spec.category != "file" or spec.effect.external:
        return False
    if spec.effect.danger > DangerLevel.MEDIUM:
        return False
    readings: tuple[Reading | None, ...] = subject.at(place).readings("path")
    return bool(readings) and all(map(place.inside, readings))


def _told(spoken: Spoken | Decided) -> Decided:
    if isinstance(spoken, Decided):
        return spoken
    rule = spoken.rule
    if spoken.sure:
        words = f"the rule {rule.pattern!r} {_VERBS[spoken.type.value]}"
    else:
        words = f"it cannot be said whether the rule {str(rule)!r} is about it"
    return Decided(spoken.type, f"{words}: {rule.reason}" if rule.reason else words, rule)


def _stricter(one: Spoken | None, other: Spoken | None) -> Spoken | None:
    if one is None or other is None:
        return one or other
    return one if one.type.strictness >= other.type.strictness else other


def _about_files(rules: Sequence[PermissionRule]) -> tuple[PermissionRule, ...]:
    """Return rules about certain files, if any may refuse: they hold for commands too."""
    ours = tuple(
        each
        for each in rules
        if each.specifier is not None and each.tool in (*_WRITERS, *_READERS)
    )
    if all(each.permission_type is _ALLOW for each in ours):
        return ()
    return ours


def _defaults(spec: ToolSpec) -> dict[str, Any]:
    """Return the arguments that a call has if it does not name them."""
    properties = spec.parameters.get("properties", {})
    return {
        name: each["default"]
        for name, each in properties.items()
        if isinstance(each, Mapping) and "default" in each
    }


def _mode(mode: object) -> PermissionMode:
    try:
        return PermissionMode(mode)
    except ValueError:
        known = ", ".join(each.value for each in PermissionMode)
        raise ConfigurationError(
            f"the mode {mode!r}", "is unknown", f"Known: {known}."
        ) from None


def _listed(
    tools: Iterable[str] | None, kind: PermissionType, where: str, priority: int
) -> tuple[PermissionRule, ...]:
    if isinstance(tools, str):
        raise ConfigurationError(
            f"{where}={tools!r}", "is one word", f"Write {where}=[{tools!r}]."
        )
    return tuple(
        PermissionRule(each, kind, f"in {where}", priority)
        for each in dict.fromkeys(tools or ())
    )


def _checked(rules: Iterable[PermissionRule]) -> tuple[PermissionRule, ...]:
    found = tuple(rules)
    for each in found:
        if not isinstance(each, PermissionRule):
            raise ConfigurationError(
                f"the rule {each!r}", "is no PermissionRule", "Make one of it."
            )
    if len(found) > MAX_RULES:
        raise ConfigurationError(
            f"a policy of {len(found)} rules", "is too large", f"Have at most {MAX_RULES}."
        )
    return found


def _contradictions(
    rules: Sequence[PermissionRule],
) -> Iterator[tuple[PermissionRule, PermissionRule]]:
    """Yield a stronger and a weaker rule of one priority where the weaker one is idle."""
    whole = [each for each in rules if each.specifier is None][:100]
    strongest: dict[tuple[str, int], PermissionRule] = {}
    for each in rules:
        key = (each.pattern, each.priority)
        known = strongest.get(key)
        if known is None or each.permission_type.strictness > _strictness(known):
            strongest[key] = each
    for weak in rules:
        strong = strongest[weak.pattern, weak.priority]
        if _strictness(strong) > _strictness(weak):
            yield strong, weak
            continue
        if not weak.tool:
            continue
        for strong in whole:
            if (
                strong.priority == weak.priority
                and _strictness(strong) > _strictness(weak)
                and strong.names(weak.tool)
            ):
                yield strong, weak
                break


def _strictness(rule: PermissionRule) -> int:
    return rule.permission_type.strictness
