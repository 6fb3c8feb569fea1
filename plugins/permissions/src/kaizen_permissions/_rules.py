"""One rule: which calls it is about, and what it says of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from kaizen.errors import ConfigurationError

from kaizen_permissions._patterns import Matcher, compile_pattern
from kaizen_permissions._types import PermissionType, Who

__all__ = ["MAX_PRIORITY", "PermissionRule", "is_tool_name"]

MAX_PRIORITY = 1_000_000
MAX_SPECIFIER_CHARS = 4_000
MAX_REASON_CHARS = 500
MAX_NAMES = 10_000
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_CALL = re.compile(r"([A-Za-z0-9_.-]{1,80})\((.*)\)", re.DOTALL)
_NO_NAME = re.compile(r"[A-Za-z0-9_-]*|.*[\s\x80-\U0010ffff].*")
_CLASS = r"\[\^?[A-Za-z0-9_-]+\]"
_EXPRESSION = re.compile(
    rf"(?:[a-z0-9_.*+?()|^$]|{_CLASS}|\{{[0-9]+(?:,[0-9]*)?\}}|\\[A-Za-z]|\(\?[a-zA-Z-]*:)*"
)
_BRACKETS = re.compile(r"\((?:[^()|?][^()|]*)?\)\Z")
_SOMETHING = re.compile(r"[a-z0-9_.\[\\]", re.IGNORECASE)
_SPECIFIERS = (
    "A specifier stands behind the whole name of one tool, as in `write_file(docs/)`; have "
    "a rule for each tool."
)
_GLOB = re.compile(r"(?<![.)\]}\\*+?])[*?]|\A[*?]")


def is_tool_name(name: object) -> bool:
    """Whether there can be a tool of this name; nothing is folded or trimmed first."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """What may be done by which calls.

    Attributes:
        pattern: `tool` is that tool, whatever its arguments. `tool(specifier)` is a call of
            it with such arguments. `re:…` is every tool whose whole name fits the regular
            expression; so is a bare pattern that is plainly one, such as `read_.*`.
        permission_type: ALLOW, ASK or DENY, or that word.
        reason: Why, for people, the log and the model.
        priority: The highest decides. At the same one, deny is stronger than ask, and ask
            than allow.
        principals: On whose behalf the call must be made; nobody named is everybody.
        roles: Of which roles one must be theirs; which people have one, the policy says.
        tenants: To whom what the run works on must belong.
        folder: The folder in which the tool must begin, as an absolute path; `""` is
            anywhere. A link is the place that it leads to when the rule is made. Only a
            rule that allows can be about one folder.

    Raises:
        ConfigurationError: The pattern cannot be used, or does not say what it seems to.
    """

    pattern: str
    permission_type: PermissionType
    reason: str = ""
    priority: int = 0
    principals: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    folder: str = ""
    tool: str = field(init=False, default="", repr=False, compare=False)
    specifier: str | None = field(init=False, default=None, repr=False, compare=False)
    _fits: Matcher | None = field(init=False, default=None, repr=False, compare=False)
    _where: str = field(init=False, default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the pattern, once."""
        keep = object.__setattr__
        keep(self, "permission_type", _type_of(self.permission_type, self.pattern))
        _check(self)
        for each in ("principals", "roles", "tenants"):
            keep(self, each, _names(getattr(self, each), self.pattern, each))
        _check_folder(self)
        keep(self, "_where", os.path.realpath(self.folder) if self.folder else "")
        name, specifier, expression = _parsed(self.pattern)
        keep(self, "tool", name)
        keep(self, "specifier", specifier)
        if not name:
            _check_expression(self.pattern, expression)
            try:
                keep(self, "_fits", compile_pattern(expression))
            except ValueError as error:
                raise _unusable(
                    self.pattern,
                    f"is no regular expression that can be used: {error}",
                    "Look-around and references are not to be had, since they can take "
                    "for ever; `re:.*` is every tool.",
                ) from None

    @classmethod
    def regex(
        cls,
        pattern: str,
        permission_type: PermissionType,
        reason: str = "",
        priority: int = 0,
    ) -> PermissionRule:
        """Return a rule about every tool whose whole name fits a regular expression."""
        return cls(f"re:{pattern}", permission_type, reason, priority)

    def names(self, tool: str) -> bool:
        """Whether it is about a tool, with whatever arguments."""
        if not is_tool_name(tool):
            return False
        return tool == self.tool if self._fits is None else self._fits(tool)

    @property
    def is_for_all(self) -> bool:
        """Whether it holds for everybody and everywhere."""
        return not (self.principals or self.roles or self.tenants or self.folder)

    def holds(self, who: Who, roles: AbstractSet[str], folder: str) -> bool:
        """Whether it holds for somebody, with these roles, and where the tool begins.

        Args:
            who: On whose behalf a call is made.
            roles: Theirs.
            folder: Where the tool begins, without links.
        """
        return (
            (not self.principals or who.principal in self.principals)
            and (not self.roles or not roles.isdisjoint(self.roles))
            and (not self.tenants or who.tenant in self.tenants)
            and self._where in ("", folder)
        )

    @property
    def about(self) -> str:
        """The pattern, and for whom and where it holds."""
        named = [
            f" for {words} {', '.join(map(repr, names))}"
            for words, names in (
                ("principals", self.principals),
                ("roles", self.roles),
                ("tenants", self.tenants),
            )
            if names
        ]
        where = f" in {self.folder!r}" if self.folder else ""
        return "".join((self.pattern, *named, where))

    def __str__(self) -> str:
        return f"{self.permission_type.value} {self.about}"


def _type_of(given: object, pattern: object) -> PermissionType:
    try:
        return PermissionType(given)
    except ValueError:
        raise _unusable(
            pattern, f"has the type {given!r}", "It is one of allow, ask and deny."
        ) from None


def _check(rule: PermissionRule) -> None:
    pattern: object = rule.pattern
    priority: object = rule.priority
    reason: object = rule.reason
    if not isinstance(pattern, str):
        raise _unusable(rule.pattern, "is no text", "Write `tool` or `tool(specifier)`.")
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise _unusable(rule.pattern, f"has the priority {priority!r}", "Give a number.")
    if abs(rule.priority) > MAX_PRIORITY:
        raise _unusable(
            rule.pattern,
            f"has the priority {rule.priority}",
            f"It goes from -{MAX_PRIORITY} to {MAX_PRIORITY}.",
        )
    if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS:
        raise _unusable(
            rule.pattern,
            "has a reason that is no text, or too long",
            f"Give at most {MAX_REASON_CHARS} characters.",
        )
    if not rule.pattern.isprintable():
        raise _unusable(
            rule.pattern, "holds characters that nobody sees", "Remove them from it."
        )


def _names(given: object, pattern: str, field: str) -> tuple[str, ...]:
    """Return names of people, roles or tenants; one text is taken for a slip."""
    names = None if isinstance(given, str) else given
    found = tuple(names) if isinstance(names, Iterable) else (None,)
    if len(found) <= MAX_NAMES and all(
        isinstance(each, str) and each.strip() and each.isprintable() for each in found
    ):
        return found
    raise _unusable(
        pattern,
        f"has {field} that are no names",
        f"Give a list of at most {MAX_NAMES} of them; without any, it holds for everybody.",
    )


def _check_folder(rule: PermissionRule) -> None:
    folder: object = rule.folder
    if folder == "":
        return
    if not (
        isinstance(folder, str) and Path(folder).is_absolute() and folder.isprintable()
    ):
        raise _unusable(
            rule.pattern, f"has the folder {folder!r}", "Give an absolute path."
        )
    if rule.permission_type is not PermissionType.ALLOW:
        raise _unusable(
            rule.pattern,
            "asks or refuses in one folder",
            "Leave the folder out: what is refused is refused everywhere.",
        )


def _parsed(pattern: str) -> tuple[str, str | None, str]:
    """Return the tool and specifier that a pattern names, or its regular expression."""
    if pattern.startswith("re:"):
        return "", None, pattern.removeprefix("re:")
    if _NAME.fullmatch(pattern):
        return pattern, None, ""
    call = _CALL.fullmatch(pattern)
    if call is not None:
        return call[1], _specifier(pattern, call[1], call[2]), ""
    if _NO_NAME.fullmatch(pattern):
        raise _unusable(
            pattern, "names no tool that there can be", "Names are made of a-z, 0-9 and _."
        )
    if _GLOB.search(pattern):
        raise _unusable(
            pattern,
            "has a wildcard, which it would mean as in a regular expression",
            "Write `re:git_.*` for all tools whose names begin with `git_`.",
        )
    if _BRACKETS.search(pattern):
        raise _unusable(
            pattern,
            "could be a regular expression, or tools with a specifier",
            f"Write `re:` before a regular expression. {_SPECIFIERS}",
        )
    return "", None, pattern


def _specifier(pattern: str, name: str, specifier: str) -> str:
    if not _NAME.fullmatch(name):
        raise _unusable(
            pattern, f"names the tool {name!r}", "Names are made of a-z, 0-9 and _."
        )
    if name.endswith("_") or "|" in specifier or not specifier.strip():
        raise _unusable(
            pattern,
            "could be a regular expression, or a tool with a specifier",
            "Write `re:` before a regular expression.",
        )
    if (slip := _slip(name, specifier.strip())) is not None:
        raise _unusable(pattern, *slip)
    if len(specifier) > MAX_SPECIFIER_CHARS:
        raise _unusable(
            pattern[:80], "is too long", f"Give at most {MAX_SPECIFIER_CHARS} characters."
        )
    return specifier.strip()


def _slip(name: str, specifier: str) -> tuple[str, str] | None:
    """Return what is wrong with a specifier that was plainly meant to be another."""
    meant = f"Write `{name}(@roots/)` for all that is in the roots"
    word, slash, _ = specifier.partition("/")
    if specifier == "@roots":
        return "is about the roots themselves, and about nothing in them", f"{meant}."
    if not re.fullmatch(r"@[A-Za-z]*", word):
        return None
    if specifier == "@reads" or (word == "@roots" and slash):
        return None
    remedy = (
        f"{meant}, `bash_command(@reads)` for what only reads, and `./` before the name of "
        "a file that begins so."
    )
    return f"begins with {word!r}, which stands for nothing", remedy


def _check_expression(pattern: str, expression: str) -> None:
    """Refuse an expression with letters that are in no name: it would fit nothing."""
    try:
        compile_pattern(expression)
    except ValueError:
        return  # which says more
    if _EXPRESSION.fullmatch(expression) and _SOMETHING.search(expression):
        return
    raise _unusable(
        pattern,
        "is an expression that fits the name of no tool, which is made of a-z, 0-9 and _",
        _SPECIFIERS,
    )


def _unusable(pattern: object, problem: str, remedy: str) -> ConfigurationError:
    shown = pattern if isinstance(pattern, str) else repr(pattern)
    return ConfigurationError(f"the rule {shown[:200]!r}", problem, remedy)
