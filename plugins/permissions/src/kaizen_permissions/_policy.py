"""A policy: rules and a mode, compiled once, that decide calls."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kaizen.errors import ConfigurationError
from kaizen.tools import DangerLevel, ToolCall, ToolSpec

from kaizen_permissions._bound import Bound, Spoken, bind, path_of
from kaizen_permissions._defaults import PROTECTED
from kaizen_permissions._paths import Place, Reading
from kaizen_permissions._patterns import compile_all
from kaizen_permissions._rules import MAX_PRIORITY, PermissionRule, is_tool_name
from kaizen_permissions._subject import Shape, Subject, names_only
from kaizen_permissions._types import NOBODY, PermissionMode, PermissionType, Who

__all__ = ["Decided", "Policy", "judge", "strictest"]

_LOG = logging.getLogger("kaizen.permissions")
MAX_RULES = 10_000
MAX_KNOWN_TOOLS = 1_024
MAX_VIEWS = 1_024
_ALLOW, _ASK, _DENY = PermissionType
_DEFAULT, _ACCEPT_EDITS, _PLAN, _BYPASS = PermissionMode
_VERBS = {"allow": "allows it", "ask": "asks about it", "deny": "refuses it"}
_WRITERS = ("write_file", "edit_file", "delete_file")
_READERS = ("read_file",)
_REDIRECTS = ("write_file", "edit_file")
_LISTERS = ("list_directory", "file_exists")
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
        roles: Who has which roles, for rules that are about roles: the names of principals
            by role.
        stricter: Rules that can only ask and refuse more than the others do, whatever
            their priority, such as those of a file that is not to be trusted.
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
        roles: Mapping[str, Iterable[str]] | None = None,
        stricter: Iterable[PermissionRule] = (),
    ) -> None:
        allowed = _listed(allowed_tools, _ALLOW, "allowed_tools", 0)
        denied = _listed(denied_tools, _DENY, "denied_tools", MAX_PRIORITY)
        self.mode = _mode(mode)
        self.place = Place(directory, roots)
        self._allowed = None if allowed_tools is None else allowed
        self._denied = denied
        self._limit = DangerLevel.LOW if unasked == "low" else DangerLevel.SAFE
        self._protected = compile_all(
            (each for pattern in protected for each in self.place.compile(pattern).loose),
            ignore_case=True,
        )
        limits = tuple(each for each in stricter if each.permission_type is not _ALLOW)
        self._stricter: Policy | None = None
        if limits:
            self._stricter = Policy(
                limits, directory=directory, roots=roots, protected=(), roles=roles
            )
        self._roles = _roles_of(roles or {})
        self._set_rules((*denied, *_checked(rules), *allowed))
        for strong, weak in self.contradictions:
            _LOG.warning(
                "the rule %r never has an effect: %r has the same priority and is stronger",
                str(weak),
                str(strong),
            )

    def _set_rules(self, rules: tuple[PermissionRule, ...]) -> None:
        self._own = rules
        self._bound: dict[object, tuple[ToolSpec | None, Bound]] = {}
        self._shapes: dict[str, tuple[ToolSpec, Shape]] = {}
        self._for_some = tuple(each for each in rules if not each.is_for_all)
        self._for_folders = any(each.folder for each in rules)
        self._views: dict[tuple[Who, str], Policy] = {}
        self._lock = threading.Lock()
        self._file_rules = _about_files(rules)
        self._redirect_rules = _about_redirects(rules)

    @property
    def contradictions(self) -> tuple[tuple[PermissionRule, PermissionRule], ...]:
        """Pairs of rules of the same priority of which the second never has an effect.

        The first is stronger. They are looked for whenever this is asked for.
        """
        return tuple(_contradictions(self._own))

    @property
    def rules(self) -> tuple[PermissionRule, ...]:
        """All rules, in the order in which they were given."""
        return self._own + (self._stricter.rules if self._stricter else ())

    def with_rules(self, *rules: PermissionRule) -> Policy:
        """Return the same policy with more rules."""
        other = object.__new__(Policy)
        other.__dict__.update(self.__dict__)
        other._set_rules(_checked((*self._own, *rules)))
        return other

    def decide(
        self,
        call: ToolCall | str,
        arguments: Mapping[str, Any] | None = None,
        *,
        spec: ToolSpec | None = None,
        who: Who = NOBODY,
    ) -> Decided:
        """Return what is to be done about a call.

        Args:
            call: The call; or the name of a tool, with its arguments and specification as
                far as they are known. What is not known is never taken for harmless.
            arguments: What the tool is called with.
            spec: What is known of the tool.
            who: On whose behalf the call is made.
        """
        subject = self.subject(call, arguments, spec=spec, who=who)
        return judge((self,), subject)

    def subject(
        self,
        call: ToolCall | str,
        arguments: Mapping[str, Any] | None = None,
        *,
        spec: ToolSpec | None = None,
        directory: str = "",
        who: Who = NOBODY,
    ) -> Subject:
        """Return a call as rules look at it.

        Args:
            call: As for `decide`.
            arguments: As for `decide`.
            spec: As for `decide`.
            directory: The folder in which the tool began, if `spec` does not say it.
            who: As for `decide`.
        """
        name = call
        if isinstance(call, ToolCall):
            name, arguments, spec = call.name, call.arguments, call.spec
        elif arguments is not None and spec is not None:
            arguments = {**_defaults(spec), **arguments}
        name = str(name)
        shape = None if spec is None else self._shape(name, spec)
        return Subject(name, arguments, spec, self.place, shape, directory, who)

    def _shape(self, name: str, spec: ToolSpec) -> Shape:
        known = self._shapes.get(name)
        if known is not None and known[0] is spec:
            return known[1]
        if len(self._shapes) >= MAX_KNOWN_TOOLS:
            self._shapes.clear()
        shape = Shape.of(name, None, spec)
        self._shapes[name] = (spec, shape)
        return shape

    def _for(self, subject: Subject) -> Policy:
        """Return this policy with the rules that hold for whoever a call is made for.

        Those for whom the same rules hold share what is made of them.
        """
        if not self._for_some:
            return self
        folder = ""
        if self._for_folders:  # which a link may have led elsewhere before
            folder = os.path.realpath(subject.at(self.place).place.directory)
        view = self._views.get((subject.who, folder))
        if view is None:
            with self._lock:
                view = self._view(subject.who, folder)
        return view

    def _view(self, who: Who, folder: str) -> Policy:
        roles = self._roles.get(who.principal, frozenset())
        own = tuple(each for each in self._own if each.holds(who, roles, folder))
        view = next((each for each in self._views.values() if each._own == own), None)
        if view is None:
            view = object.__new__(Policy)
            view.__dict__.update(self.__dict__)
            view._set_rules(own)
            view._for_some = ()
        if len(self._views) >= MAX_VIEWS:
            self._views.clear()
        self._views[who, folder] = view
        return view

    def looks_at_files(self, subject: Subject) -> bool:
        """Whether to decide it takes looking at files, at a command or at all rules."""
        if self._for_some:
            known = None if self._for_folders else self._views.get((subject.who, ""))
            return known is None or known.looks_at_files(subject)
        if subject.shape.takes("command") or self._bind(subject).looks_at_files:
            return True
        if not subject.shape.takes("path") and subject.is_flat:
            return False
        limits = self._stricter
        return (
            subject.writes
            or bool(self._file_rules)
            or (limits is not None and limits.looks_at_files(subject))
        )

    def speak(self, subject: Subject) -> Spoken | Decided | None:
        """Return what rules and lists say of a call; `None` if they say nothing."""
        view = self._for(subject)
        if view is not self:
            return view.speak(subject)
        for rule in self._denied:
            if rule.specifier is None and rule.names(subject.name):
                return Spoken(_DENY, rule)
        unlisted = self._unlisted(subject)
        if unlisted is not None:
            return unlisted
        subject = subject.at(self.place)
        subject.may_write = partial(self._may_write, subject.place)
        spoken = self._bind(subject).speak(subject)
        if subject.shape.takes("command"):
            if self._file_rules or self._redirect_rules:
                spoken = _stricter(spoken, self._files_of_commands(subject))
        elif self._file_rules:
            spoken = _stricter(spoken, self._files_of_tools(subject))
        if self._stricter is None:
            return spoken
        limit = self._stricter.speak(subject)
        return _stricter(spoken, limit if isinstance(limit, Spoken) else None)

    def changes_protected(self, subject: Subject) -> bool:
        """Whether a call changes something that only a person may let it change."""
        if not subject.writes:
            return False
        subject = subject.at(self.place)
        if subject.shape.takes("command"):
            written = [
                subject.place.read(path)
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

    def _may_write(self, place: Place, path: str) -> bool:
        """Whether a shell may write a file with `>` that is inside the roots."""
        reading = place.read(path)
        said = [
            self.speak(Subject.of_files(tool, (reading,), self.place))
            for tool in _REDIRECTS
        ]
        if any(each is not None and each.type is not _ALLOW for each in said):
            return False
        if said[0] is not None:
            return True
        return self.mode is _ACCEPT_EDITS and self.place.inside(reading)

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
        bound = bind(self._own, subject.shape, self.place)
        if len(self._bound) >= MAX_KNOWN_TOOLS:
            self._bound.clear()
        self._bound[key] = (spec, bound)
        return bound

    def _files_of_commands(self, subject: Subject) -> Spoken | None:
        """Return what rules about files say of the files that commands read and write."""
        said: list[Spoken | None] = []
        read = subject.place.read
        for each in (one for analysis in subject.commands for one in analysis.invocations):
            for path in each.redirected:
                file = (read(path),)
                said += self._of_files(_REDIRECTS, file, self._redirect_rules)
            said.append(self._readings(_WRITERS, [*map(read, each.writes)]))
            moved = [path for path in each.writes if path not in each.redirected]
            said.append(_doubted(self._readings(_READERS, [*map(read, moved)])))
            said.append(self._readings(_READERS, [*map(read, each.reads)]))
            said += map(self._perhaps, dict.fromkeys(map(read, each.touched)))
        if not all(analysis.understood for analysis in subject.commands):
            said.append(_doubted(_strictest((*self._file_rules, *self._redirect_rules))))
        return _worst(said)

    def _files_of_tools(self, subject: Subject) -> Spoken | None:
        """Return what rules about files say of a tool that is none of those they name.

        It may read or write what it is given in another way than they do.
        """
        if subject.name in (*_WRITERS, *_READERS, *_LISTERS):
            return None
        readings = subject.readings("path")
        if not readings:
            return None
        said = self._readings(_READERS, readings)
        if subject.writes:
            said = _worst((said, self._readings(_WRITERS, readings)))
        is_file_tool = subject.spec is None or subject.spec.category == "file"
        return said if is_file_tool else _doubted(said)

    def _readings(
        self, tools: Sequence[str], readings: Sequence[Reading | None]
    ) -> Spoken | None:
        """Return what rules that name some tools say of files, or of what is in folders.

        Of a folder that is read counts what is in it now; of one that is written to, what
        may come to be there.
        """
        if not readings:
            return None
        said = self._of_files(tools, readings, self._file_rules)
        for reading in readings:
            if reading is None:
                continue
            if tools is _WRITERS:
                said.append(self._may_come(tools, reading))
                continue
            found = self.place.below(reading)
            if found:
                said += map(_doubted, self._of_files(tools, found, self._file_rules))
        return _worst(said)

    def _perhaps(self, reading: Reading | None) -> Spoken | None:
        """Return what rules about files say of what a program may read or write.

        Of a folder counts what is in it, and what may come to be there by a rule about it.
        """
        if reading is None or not self._file_rules:
            return None
        readings: list[Reading | None] = [reading]
        inner = self.place.anything_in(reading)
        if inner is not None:
            readings += [inner, *self.place.below(reading)]
        said = self._of_files((*_READERS, *_WRITERS), readings, self._file_rules)
        if inner is not None:
            said.append(self._may_come(_WRITERS, reading, named=True))
        return _doubted(_worst(said))

    def _may_come(
        self, tools: Sequence[str], folder: Reading, *, named: bool = False
    ) -> Spoken | None:
        """Return the rule that may be about something in a folder that is written to."""
        return _doubted(
            _strictest(
                each
                for each in self._file_rules
                if each.tool in tools
                and self.place.may_be_below(path_of(each), folder, named=named)
            )
        )

    def _of_files(
        self,
        tools: Sequence[str],
        readings: Sequence[Reading | None],
        rules: Sequence[PermissionRule],
    ) -> list[Spoken | None]:
        found = []
        for tool in tools:
            subject = Subject.of_files(tool, readings, self.place)
            key = (tool, rules is self._file_rules)
            known = self._bound.get(key)
            if known is None:
                bound = bind(rules, subject.shape, self.place)
                known = self._bound[key] = (None, bound)
            spoken = known[1].speak(subject)
            found.append(None if spoken is None or spoken.type is _ALLOW else spoken)
        return found


def judge(
    policies: Sequence[Policy], subject: Subject, *, granted: bool = False
) -> Decided:
    """Return what policies that hold at once come to for a call.

    Rules of any of them that refuse, or might, come first, then plan mode, then rules that
    ask, then what always asks, then rules that allow; where no rule speaks, the mode and at
    last the tool's danger level decide.

    Args:
        policies: At least one; what none of them speaks about, the last one's mode decides.
        subject: The call.
        granted: Whether code granted the call, or the tool to the agent.
    """
    if not is_tool_name(subject.name):
        return Decided(_DENY, "no tool can have this name")
    said = [each for policy in policies if (each := policy.speak(subject)) is not None]
    stops = [each for each in said if each.type is not _ALLOW]
    modes = [each.mode for each in policies]
    if stops:
        first = max(stops, key=_weight)
        if first.type is _DENY or (_may_refuse(first) and _PLAN not in modes):
            return _told(first)
    for mode in modes:
        if mode is not _DEFAULT and (decided := _by_mode(modes, subject)) is not None:
            return decided
    if stops:
        return _told(stops[0])
    always = _always_asked(policies, subject)
    if always:
        return Decided(_ASK, always)
    if said:
        return _told(said[-1])
    return _unspoken(policies, modes, subject, granted=granted)


def strictest(decisions: Iterable[Decided]) -> Decided:
    """Return the one that stops most; of equal ones the first."""
    return max(decisions, key=lambda each: each.type.strictness)


def _weight(said: Spoken | Decided) -> int:
    return said.weight if isinstance(said, Spoken) else 2 * said.type.strictness


def _may_refuse(said: Spoken | Decided) -> bool:
    return isinstance(said, Spoken) and said.may_refuse


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
    if not names_only(subject.arguments or {}, "path"):
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
    return one if one.weight >= other.weight else other


def _worst(said: Iterable[Spoken | None]) -> Spoken | None:
    worst: Spoken | None = None
    for each in said:
        worst = _stricter(worst, each)
    return worst


def _strictest(rules: Iterable[PermissionRule]) -> Spoken | None:
    """Return what the strictest of some rules says, if one of them may stop a call."""
    rule = max(rules, key=_strictness, default=None)
    if rule is None or rule.permission_type is _ALLOW:
        return None
    return Spoken(rule.permission_type, rule)


def _doubted(spoken: Spoken | None) -> Spoken | None:
    """Return what is said of something that may be, or may not be, what was looked at."""
    return None if spoken is None else Spoken(_ASK, spoken.rule, sure=False)


def _about_files(rules: Sequence[PermissionRule]) -> tuple[PermissionRule, ...]:
    """Return rules about certain files, if any may refuse: they hold for others too."""
    ours = tuple(
        each for each in rules if each.tool in (*_WRITERS, *_READERS) and path_of(each)
    )
    return ours if _may_stop(ours) else ()


def _about_redirects(rules: Sequence[PermissionRule]) -> tuple[PermissionRule, ...]:
    """Return rules about writing files, if any may refuse what a shell does with `>`."""
    ours = tuple(each for each in rules if any(map(each.names, _REDIRECTS)))
    return ours if _may_stop(ours) else ()


def _may_stop(rules: Iterable[PermissionRule]) -> bool:
    return any(each.permission_type is not _ALLOW for each in rules)


def _defaults(spec: ToolSpec) -> dict[str, Any]:
    """Return the arguments that a call has if it does not name them."""
    properties = spec.parameters.get("properties", {})
    return {
        name: each["default"]
        for name, each in properties.items()
        if isinstance(each, Mapping) and "default" in each
    }


def _roles_of(roles: Mapping[str, Iterable[str]]) -> Mapping[str, frozenset[str]]:
    """Return the roles of each principal."""
    found: dict[str, set[str]] = {}
    for role, principals in roles.items():
        given: object = principals
        listed = isinstance(given, Iterable) and not isinstance(given, str)
        names = tuple(principals) if listed else (None,)
        if not all(map(_is_name, (role, *names))):
            raise ConfigurationError(
                f"the role {role!r}", "is not given to names", "Write {role: [names]}."
            )
        for each in filter(None, names):
            found.setdefault(each, set()).add(role)
    return {each: frozenset(theirs) for each, theirs in found.items()}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != ""


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
    whole = [each for each in rules if each.specifier is None and each.is_for_all][:100]
    strongest: dict[tuple[str, int], PermissionRule] = {}
    for each in filter(_is_for_all, rules):
        key = (each.pattern, each.priority)
        known = strongest.get(key)
        if known is None or each.permission_type.strictness > _strictness(known):
            strongest[key] = each
    for weak in rules:
        same = strongest.get((weak.pattern, weak.priority))
        if same is not None and _strictness(same) > _strictness(weak):
            strong = same
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


def _is_for_all(rule: PermissionRule) -> bool:
    return rule.is_for_all


def _strictness(rule: PermissionRule) -> int:
    return rule.permission_type.strictness
