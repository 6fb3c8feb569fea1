"""Past decisions, and what other rules would have made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaizen.checkpoints import read_log
from kaizen.errors import CheckpointError
from kaizen.ports import CheckpointStore
from kaizen.runlog import Entry, ModelReplied, Noted, ToolIntended
from kaizen.tools import DangerLevel, Effect, ToolSpec

from kaizen_permissions._gate import SOURCE
from kaizen_permissions._paths import MAX_PATH_CHARS
from kaizen_permissions._policy import Decided, Policy, judge
from kaizen_permissions._rules import is_tool_name
from kaizen_permissions._types import NOBODY, Who

__all__ = ["Flip", "PastCall", "calls_of", "flips", "past_calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCall:
    """One call that was decided.

    Attributes:
        decision: What the settings decided then: `allow`, `ask` or `deny`; empty if they
            had no say.
        arguments: What it was called with; `None` if that was not kept.
        spec: What was known of the tool.
        directory: The folder in which the tool began, if that was not where rules begin.
        who: On whose behalf it was made.
    """

    run_id: str
    call_id: str
    tool: str
    decision: str
    arguments: Mapping[str, Any] | None
    spec: ToolSpec | None
    granted: bool = False
    directory: str = ""
    who: Who = NOBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A call about which other rules decide otherwise."""

    call: PastCall
    now: Decided


async def past_calls(
    store: CheckpointStore, *, limit: int
) -> tuple[list[PastCall], list[str]]:
    """Return the calls of the runs of a store, each once, and the runs that are damaged."""
    found: dict[tuple[str, str], PastCall] = {}
    damaged = []
    for record in await store.runs(limit=limit):
        try:
            entries = await read_log(store, record.run_id)
        except CheckpointError:
            damaged.append(record.run_id)
            continue
        for key, call in calls_of(record.run_id, entries):
            found.setdefault(key, call)
    return list(found.values()), damaged


def calls_of(
    run_id: str, entries: Sequence[Entry]
) -> Iterator[tuple[tuple[str, str], PastCall]]:
    """Yield the calls of a log, each with what it is told apart by in forks of the log."""
    arguments = _arguments(entries)
    noted = set()
    for entry in entries:
        if not isinstance(entry, Noted) or (entry.source, entry.kind) != (
            SOURCE,
            "decision",
        ):
            continue
        call = _noted(run_id, entry.data, arguments)
        if call is not None:
            noted.add(call.call_id)
            yield ("", str(entry.data.get("digest"))), call
    for entry in entries:
        if isinstance(entry, ToolIntended) and entry.call_id not in noted:
            yield (
                (entry.idempotency_key, entry.name),
                PastCall(
                    run_id=run_id,
                    call_id=entry.call_id,
                    tool=entry.name,
                    decision="allow",
                    arguments=entry.arguments,
                    spec=None,
                ),
            )


def flips(calls: Iterable[PastCall], policy: Policy) -> tuple[list[Flip], int]:
    """Return the calls about which a policy decides otherwise, and how many are not known.

    Of a call from before this plugin it is known what was done, and not how dangerous its
    tool was: what a policy makes of it is known if a rule says it.
    """
    found, unknown = [], 0
    for call in calls:
        if call.arguments is None or not call.decision:
            unknown += 1
            continue
        subject = policy.subject(
            call.tool,
            call.arguments,
            spec=call.spec,
            directory=call.directory,
            who=call.who,
        )
        now = judge((policy,), subject, granted=call.granted)
        if call.spec is None and now.rule is None:
            unknown += 1
        elif now.type.value != call.decision:
            found.append(Flip(call=call, now=now))
    return found, unknown


def _arguments(entries: Sequence[Entry]) -> dict[str, Mapping[str, Any]]:
    """Return what each call was made with; if it was not, what the model asked for."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if isinstance(entry, ModelReplied):
            for use in entry.message.tool_uses:
                if isinstance(use.arguments, Mapping):
                    found[use.id] = use.arguments
    for entry in entries:
        if isinstance(entry, ToolIntended):
            found[entry.call_id] = entry.arguments
    return found


def _noted(
    run_id: str, data: Mapping[str, Any], arguments: Mapping[str, Mapping[str, Any]]
) -> PastCall | None:
    """Return the call of a note; `None` if it is none of ours. It comes from outside."""
    call_id, tool = data.get("call_id"), data.get("tool")
    decision = data.get("settings", "")
    if not isinstance(call_id, str) or not is_tool_name(tool):
        return None
    if decision not in ("", "allow", "ask", "deny"):
        return None
    given = data.get("arguments")
    known = given if isinstance(given, Mapping) else arguments.get(call_id)
    return PastCall(
        run_id=run_id,
        call_id=call_id,
        tool=str(tool),
        decision=decision,
        arguments=known,
        spec=_spec(str(tool), data, known or {}),
        granted=data.get("granted") is True,
        directory=_folder(data.get("directory")),
        who=Who(*(_text(data.get(name)) for name in Who._fields)),
    )


def _text(written: object) -> str:
    return written if isinstance(written, str) else ""


def _folder(written: object) -> str:
    """Return the folder of a note, if it can be one."""
    if not isinstance(written, str) or not written.isprintable():
        return ""
    absolute = Path(written).is_absolute() and len(written) <= MAX_PATH_CHARS
    return written if absolute else ""


def _spec(
    tool: str, data: Mapping[str, Any], arguments: Mapping[str, Any]
) -> ToolSpec | None:
    danger = str(data.get("danger", "")).upper()
    if danger not in DangerLevel.__members__:
        return None
    effect = Effect.of(
        DangerLevel[danger],
        writes=data.get("writes") is not False,
        external=data.get("external") is not False,
    )
    return ToolSpec(
        name=tool,
        description="",
        parameters={"type": "object", "properties": {name: {} for name in arguments}},
        effect=effect,
        category=str(data.get("category", "function")),
    )
