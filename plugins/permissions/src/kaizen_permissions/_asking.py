"""Asking a person about one call, and what they may add for the next ones."""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from os.path import realpath
from typing import Any

import anyio.to_thread
from kaizen.errors import (
    ConfigurationError,
    ControlError,
    NobodyToAskError,
    ToolRefusedError,
)
from kaizen.run import Run
from kaizen.tools import DangerLevel, ToolCall, action_digest

from kaizen_permissions._gate import SOURCE, Council
from kaizen_permissions._policy import Decided, judge
from kaizen_permissions._rules import PermissionRule
from kaizen_permissions._subject import Subject
from kaizen_permissions._types import PermissionType
from kaizen_permissions._urls import origin

__all__ = ["approved", "offered_rule"]

_LOG = logging.getLogger("kaizen.permissions")
MAX_COMMENT_CHARS = 2_000
_MOVING = frozenset(("cd", "pushd", "popd"))


async def approved(
    run: Run, call: ToolCall, decided: Decided, council: Council
) -> ToolCall:
    """Ask whether a call may be made, and return it with the approval.

    Raises:
        ToolRefusedError: It may not, or nobody said so.
    """
    rule = await anyio.to_thread.run_sync(offered_rule, call, council)
    operator = council.operator
    try:
        answer = await run.ask(
            f"May agent {run.agent_id!r} call {call.name!r}?",
            kind="approval",
            details=_details(run, call, decided, rule),
            expires_s=operator.expires_s if operator else None,
            action_digest=action_digest(call, run.principal),
        )
    except NobodyToAskError:
        raise _unapproved(call, decided, "there is nobody to ask") from None
    except ControlError as error:
        raise _unapproved(call, decided, f"nobody answered: {error.problem}") from error
    if not answer.approved:
        raise _unapproved(call, decided, _said_no(answer.text))
    if answer.always and rule is not None:
        await _keep(run, rule, council, answer.principal)
    who = answer.principal or "the user"
    return call.granted(
        by=SOURCE, reason=f"{who} approved it"[:500], approval=answer.request_id
    )


def offered_rule(call: ToolCall, council: Council) -> PermissionRule | None:
    """Return the rule that would spare a person the next such question, if one would.

    It is as narrow as can be: that very command, file or argument, or that very host.
    """
    if call.spec.effect.danger >= DangerLevel.CRITICAL:
        return None
    subject = council.subject(call)
    pattern = _pattern(subject, anywhere=council.keeps_in_a_file)
    if pattern is None:
        return None
    try:
        rule = _rule(pattern, subject, anywhere=council.keeps_in_a_file)
        levels = council.levels(rule)
        fits = all(judge(each, council.subject(call)).allowed for each in levels)
    except ConfigurationError:
        return None
    return rule if fits else None


def _rule(pattern: str, subject: Subject, *, anywhere: bool) -> PermissionRule:
    """Return a rule that is about no more than the call: for the same people and tenant.

    One that holds anywhere is kept where other programs read it, in other folders. What the
    same words do there nobody has seen, so that it is good for this folder alone; URLs and
    whole paths are the same everywhere.
    """
    alone = anywhere and not {"url", "path"} & subject.shape.kinds
    who = subject.who
    return PermissionRule(
        pattern,
        PermissionType.ALLOW,
        principals=(who.principal,) if who.principal else (),
        tenants=(who.tenant,) if who.tenant else (),
        folder=realpath(subject.place.directory) if alone else "",
    )


def _pattern(subject: Subject, *, anywhere: bool) -> str | None:
    """Return the pattern of a rule about a call that says all that it is about.

    A tool that takes things of two kinds gets none, since a rule looks at one of them.
    """
    kinds = subject.shape.kinds - {"text"}
    if len(kinds) > 1:
        return None
    if "command" in kinds:
        return _command_pattern(subject)
    if not kinds:
        return _exact_pattern(subject)
    kind = next(iter(kinds))
    readings = subject.readings(kind)
    if len(readings) != 1 or readings[0] is None:
        return None
    if kind == "url":
        found = origin(readings[0])
        return None if found is None else f"{subject.name}({found})"
    path = readings[0].strict[0]
    shown = path if anywhere else subject.base.relative(path) or path
    if set("*?@~=") & set(shown) or "://" in shown or shown.endswith("/"):
        return None
    return f"{subject.name}({shown})"


def _exact_pattern(subject: Subject) -> str | None:
    """Return the pattern of that very call, which has one argument or none."""
    arguments = dict(subject.arguments or {})
    if not arguments and not subject.shape.arguments:
        return subject.name
    if len(arguments) != 1 or len(subject.shape.arguments) != 1:
        return None
    ((name, value),) = arguments.items()
    if not isinstance(value, str) or "*" in value or value != value.strip():
        return None
    return f"{subject.name}({name}={value})"


def _command_pattern(subject: Subject) -> str | None:
    """Return the pattern of the one program that does more than read.

    There is none if something around it, such as another folder, has a say in what it does.
    """
    run = [each for analysis in subject.commands for each in analysis.invocations]
    changing = [each for each in run if not each.harmless]
    if len(changing) != 1 or any(each.argv[0] in _MOVING for each in run):
        return None
    only = changing[0]
    if only.wrappers or only.environment or any("*" in word for word in only.argv):
        return None
    words = (only.path, *only.argv[1:]) if only.path else only.argv
    return f"{subject.name}({shlex.join(words)})"


def _details(
    run: Run, call: ToolCall, decided: Decided, rule: PermissionRule | None
) -> dict[str, Any]:
    effect = call.spec.effect
    details: dict[str, Any] = {
        "agent": run.agent_id,
        "tool": call.name,
        "description": call.spec.description,
        "danger": effect.danger.name.lower(),
        "effect": {
            "reads": effect.reads,
            "writes": effect.writes,
            "external": effect.external,
            "idempotent": effect.idempotent,
        },
        "arguments": dict(call.arguments),
        "reason": decided.reason,
    }
    if rule is not None:
        details["rule"] = str(rule)
    return details


async def _keep(run: Run, rule: PermissionRule, council: Council, principal: str) -> None:
    """Add a rule that a person has accepted, where they can see it."""
    who = principal or "the user"
    said = f"{who} said always on {datetime.now(UTC):%Y-%m-%d}"[:500]
    dated = replace(rule, reason=said)
    try:
        where = await council.add(dated)
    except (OSError, ConfigurationError) as error:
        _LOG.warning("the rule %r could not be kept: %s", str(dated), error)
        run.note(SOURCE, "rule_lost", {"rule": str(dated), "problem": str(error)[:500]})
        return
    run.note(SOURCE, "rule_added", {"rule": str(dated), "by": who, "kept_in": where})


def _said_no(comment: str) -> str:
    said = comment.strip()[:MAX_COMMENT_CHARS]
    return f"the user refused and said: {said}" if said else "the user refused"


def _unapproved(call: ToolCall, decided: Decided, problem: str) -> ToolRefusedError:
    return ToolRefusedError(
        f"this call of tool {call.name!r}",
        f"needs an approval ({decided.reason}), and {problem}",
        "Do without it, or in another way that is allowed.",
    )
