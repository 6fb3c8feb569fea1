"""`kaizen runs`: which runs were kept, what they did, and how they can go on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import click
from kaizen.errors import CheckpointLoadError
from kaizen.messages import Message
from kaizen.ports import CheckpointStore, RunRecord, StoredEntry
from kaizen.runlog import Entry, Marked, RunEnded, ToolIntended, encode, history
from pydantic_core import from_json

from kaizen_cli._options import Options
from kaizen_cli._overview import (
    SHOWN_DIGITS,
    Overview,
    all_records,
    beneath,
    carried_out_by,
    cut_off_in,
    find,
    moment,
    newest,
    overview,
)
from kaizen_cli._session import store_session
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._text import as_json_line, shortened

__all__ = ["export", "list_all", "show"]

_STYLES = {
    "running": "green",
    "paused": "yellow",
    "crashed": "red",
    "failed": "red",
    "damaged": "red",
    "interrupted": "yellow",
    "completed": "",
}
_MAX_ABOUT = 80
_MAX_AGENT = 40
_MAX_FACT = 1_000
_MAX_SAID = 240
_MAX_MESSAGES = 40
_FIRST_MESSAGES = 4
_AT_ONCE = 1_024
_WIDE = 100


def list_all(
    options: Options,
    *,
    agent: str | None,
    status: str | None,
    limit: int,
    with_children: bool,
    as_json: bool,
) -> int:
    """Print a table of runs; return the exit code."""
    terminal = Terminal(options)

    async def main() -> list[Overview]:
        async with store_session(options, terminal) as store:
            return await newest(
                store,
                agent=agent,
                status=status,
                limit=limit,
                with_children=with_children,
            )

    found = anyio.run(main)
    if as_json:
        terminal.write(f"{to_json([_as_values(each) for each in found])}\n")
    elif found:
        _print_table(terminal, found)
    else:
        narrowed = agent is not None or status is not None
        terminal.note("There is no such run." if narrowed else "No run has been kept yet.")
    return 0


def show(options: Options, *, run: str, with_log: bool, as_json: bool) -> int:
    """Print everything about one run; return the exit code.

    Raises:
        CheckpointLoadError: There is no such run, or its log is damaged.
    """
    terminal = Terminal(options)
    shown, calls, inside = anyio.run(_read, options, terminal, run)
    if as_json:
        values = _all_values(shown, calls, inside, with_log=with_log)
        terminal.write(f"{to_json(values)}\n")
        return 0
    _print_head(terminal, shown, inside)
    _print_checkpoints(terminal, shown)
    if with_log:
        _print_log(terminal, shown)
    else:
        _print_conversation(terminal, shown)
    _print_end(terminal, shown, calls)
    return 0


async def _read(
    options: Options, terminal: Terminal, name: str
) -> tuple[Overview, list[tuple[str, ToolIntended]], list[RunRecord]]:
    async with store_session(options, terminal) as store:
        records = await all_records(store)
        record, _ = find(records, name)
        shown = await overview(store, record)
        if shown.state is None:
            await store.read(record.run_id)  # raises itself if the store found the damage
            raise CheckpointLoadError(
                f"run {record.run_id!r}", f"cannot be shown: {shown.problem}"
            )
        cut_off = await cut_off_in(store, records, shown)
        calls = [(name, each) for name, each in cut_off if not each.idempotent]
        return shown, calls, beneath(records, record.run_id)


def export(options: Options, *, run: str, output: Path | None, force: bool) -> int:
    """Write the log of a run as lines of JSON; return the exit code.

    Raises:
        CheckpointLoadError: There is no such run, or its log is damaged, and what stands
            before the damage was written.
    """
    terminal = Terminal(options)

    async def main() -> tuple[Sequence[StoredEntry], CheckpointLoadError | None]:
        async with store_session(options, terminal) as store:
            record, _ = find(await all_records(store), run)
            return await _readable(store, record.run_id)

    entries, damage = anyio.run(main)
    if damage and not entries:
        raise damage
    lines = [as_json_line(_as_line(each)) for each in entries]
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        terminal.write(text)
    else:
        _write(output, text, force=force)
        terminal.note(f"Wrote {len(lines)} entries to {output}.")
    if damage:
        damage.add_note(f"The {len(lines)} entries before that were written.")
        raise damage
    return 0


async def _readable(
    store: CheckpointStore, run_id: str
) -> tuple[Sequence[StoredEntry], CheckpointLoadError | None]:
    """Return a log, or what stands before the damage in it, and the damage."""
    found: list[StoredEntry] = []
    damage, count = None, _AT_ONCE
    while count:
        try:
            piece = await store.read(run_id, start=len(found), limit=count)
        except CheckpointLoadError as error:
            damage, count = error, count // 2  # closer, in smaller steps
            continue
        if not piece:
            break
        found += piece
    return found, damage


def _as_line(stored: StoredEntry) -> dict[str, Any]:
    try:
        body = from_json(stored.body)
    except ValueError:
        raise CheckpointLoadError(
            f"entry {stored.seq} ({stored.type!r})", "is damaged: its body is not JSON"
        ) from None
    return {
        "seq": stored.seq,
        "type": stored.type,
        "version": stored.version,
        "body": body,
    }


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a file as a whole, for the user alone: a log holds what was said."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        if force:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".export-")
        else:
            handle, name = os.open(path, flags, 0o600), str(path)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if force:
                Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except FileExistsError:
        raise click.UsageError(
            f"{str(path)!r} exists. Say --force to replace it."
        ) from None
    except OSError as error:
        raise click.ClickException(
            f"{str(path)!r} cannot be written: {error.strerror}."
        ) from error


def _as_values(run: Overview) -> dict[str, Any]:
    record, state, when = run.record, run.state, moment(run.record.updated_at)
    cost = state.cost_usd if state else None
    origin = record.forked_from
    return {
        "run_id": record.run_id,
        "agent_id": record.agent_id,
        "status": run.status,
        "waits_for": run.waits_for,
        "carried_out_by": carried_out_by(record),
        "turns": state.turns if state else None,
        "tool_calls": state.tool_calls if state else None,
        "cost_usd": None if cost is None else float(cost),
        "updated_at": when.isoformat() if when else None,
        "about": shortened(run.about, 1_000),
        "command": run.recorded.command,
        "forked_from": {"run_id": origin[0], "length": origin[1]} if origin else None,
        "parent_id": record.parent_id,
    }


def _all_values(
    run: Overview,
    calls: Sequence[tuple[str, ToolIntended]],
    inside: Sequence[RunRecord],
    *,
    with_log: bool,
) -> dict[str, Any]:
    state = run.state
    assert state is not None
    values = _as_values(run)
    usage = state.usage
    values |= {
        "started_by": run.recorded.model_dump(mode="json"),
        "usage": {
            "requests": usage.requests,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
        },
        "inputs": dict(state.started.inputs) if state.started else {},
        "outputs": state.outputs,
        "error": state.error,
        "checkpoints": [
            {"id": f"{run.run_id}:{each.seq}", "description": _place(each)}
            for each in run.checkpoints
        ],
        "messages": [
            {"role": each.role, "name": each.name, "text": each.text}
            for each in state.messages
        ],
        "undecided": [
            {"call": name, "tool": each.name, "arguments": dict(each.arguments)}
            for name, each in calls
        ],
        "questions": [
            {"id": each.request_id, "text": each.text} for each in state.questions.values()
        ],
        "children": [each.run_id for each in inside],
        "resume": run.recorded.resume(run.run_id) if run.can_go_on else "",
    }
    if with_log:
        values["log"] = [_as_line(encode(each)) for each in run.entries]
    return values


def _print_table(terminal: Terminal, found: Sequence[Overview]) -> None:
    digits = _digits([each.run_id for each in found])
    rows = [_row(each, digits) for each in found]
    heads = list(rows[0])
    if terminal.out.is_terminal and terminal.out.width < _WIDE:
        heads = [head for head in heads if head not in ("Turns", "Cost")]
    terminal.table(
        heads,
        [[row[head] for head in heads] for row in rows],
        styles=[_STYLES.get(each.status, "dim") for each in found],
        cut=("Agent", "About"),
    )


def _row(run: Overview, digits: int) -> dict[str, str]:
    """Return what the list says of a run, by the heads of the columns."""
    state, when = run.state, moment(run.record.updated_at)
    cost = state.cost_usd if state else None
    return {
        "Run": run.run_id[:digits],
        "Agent": shortened(run.record.agent_id, _MAX_AGENT),
        "Status": run.status,
        "Turns": str(state.turns) if state else "?",
        "Cost": "" if cost is None else f"${cost.normalize():f}",
        "When": when.astimezone().strftime("%Y-%m-%d %H:%M") if when else "?",
        "About": " · ".join(_gist_of(run)),
    }


def _gist_of(run: Overview) -> Iterator[str]:
    """Give what tells a run from others, what matters now first."""
    origin = run.record.forked_from
    if run.waits_for:
        yield f"needs {_article(run.waits_for)}"
    if run.record.owner:
        yield carried_out_by(run.record)
    if origin:
        yield f"fork of {origin[0][:SHOWN_DIGITS]}"
    about = run.about if run.state else run.problem
    if about:
        yield shortened(about, _MAX_ABOUT)


def _digits(run_ids: Sequence[str]) -> int:
    """Return how much of these ids has to be shown to tell them apart."""
    longest = max(map(len, run_ids))
    for digits in range(SHOWN_DIGITS, longest):
        if len({each[:digits] for each in run_ids}) == len(run_ids):
            return digits
    return longest


def _told(run: Overview) -> str:
    """Say what a run is doing, who carries it out, and what it waits for."""
    parts = [run.status]
    if run.record.owner and run.status in ("running", "paused"):
        parts.append(f"({carried_out_by(run.record)})")
    if run.waits_for:
        parts.append(f"– waiting for {_article(run.waits_for)}")
    return " ".join(parts)


def _article(noun: str) -> str:
    return f"{'an' if noun == 'answer' else 'a'} {noun}"


def _print_head(terminal: Terminal, run: Overview, inside: Sequence[RunRecord]) -> None:
    state = run.state
    assert state is not None
    terminal.print(
        f"{run.run_id}  {shortened(_told(run), 120)}",
        style=f"bold {_STYLES.get(run.status, '')}".strip(),
    )
    for line in _facts(run, inside):
        terminal.print(shortened(line, _MAX_FACT), style="dim", indent=2)
    if state.started:
        terminal.print("\nInputs", style="bold")
        for name, value in state.started.inputs.items():
            said = shortened(str(value), _MAX_SAID)
            terminal.print(f"{shortened(name, _MAX_SAID)}: {said}", indent=2)


def _facts(run: Overview, inside: Sequence[RunRecord]) -> Iterator[str]:
    state, record = run.state, run.record
    assert state is not None
    cost = state.cost_usd
    counted = [
        f"agent {record.agent_id}",
        f"turns {state.turns}",
        f"tool calls {state.tool_calls}",
        f"tokens {state.usage.total_tokens:,}",
        *([] if cost is None else [f"cost ${cost.normalize():f}"]),
    ]
    yield " · ".join(counted)
    began = moment(run.entries[0].at) if run.entries else None
    latest = moment(record.updated_at)
    times = [f"began {began.astimezone():%Y-%m-%d %H:%M:%S}"] if began else []
    times += [f"last entry {latest.astimezone():%Y-%m-%d %H:%M:%S}"] if latest else []
    yield " · ".join(times)
    if record.forked_from:
        yield f"forked from {record.forked_from[0]}:{record.forked_from[1] - 1}"
    if record.parent_id:
        yield f"started inside {record.parent_id}"
    if run.recorded.command:
        words = (run.recorded.command, *run.recorded.given, *run.recorded.options)
        yield f"began as: kaizen {' '.join(words)}"
        yield f"in {run.recorded.directory}"
    if record.owner:
        yield f"carried out by {carried_out_by(record)}"
    for each in inside:
        yield f"started {each.run_id} ({each.agent_id}) inside"


def _print_checkpoints(terminal: Terminal, run: Overview) -> None:
    if run.checkpoints:
        terminal.print("\nCheckpoints", style="bold")
    for each in run.checkpoints:
        when = moment(each.at)
        time = f"{when.astimezone():%H:%M:%S}" if when else "?"
        terminal.print(f"{run.run_id}:{each.seq}  {time}  {_place(each)}", indent=2)


def _place(entry: Marked | RunEnded) -> str:
    if isinstance(entry, RunEnded):
        return f"(the run ended as {entry.status})"
    return shortened(entry.description, _MAX_SAID)


def _print_conversation(terminal: Terminal, run: Overview) -> None:
    assert run.state is not None
    messages = run.state.messages
    if not messages:
        return
    terminal.print("\nConversation", style="bold")
    left_out = len(messages) - _MAX_MESSAGES
    for place, message in enumerate(messages):
        if left_out > 0 and place == _FIRST_MESSAGES:
            terminal.print(f"… {left_out} more …", style="dim", indent=2)
        if left_out > 0 and _FIRST_MESSAGES <= place < _FIRST_MESSAGES + left_out:
            continue
        for line in _said(message):
            terminal.print(line, indent=2)


def _said(message: Message) -> Iterator[str]:
    who = f"tool {message.name}" if message.role == "tool" else message.role
    if message.text or not message.tool_uses:
        yield shortened(f"{who}: {message.text}", _MAX_SAID)
    for use in message.tool_uses:
        yield shortened(f"{who} calls {use.name} {use.arguments}", _MAX_SAID)


def _print_log(terminal: Terminal, run: Overview) -> None:
    terminal.print("\nLog", style="bold")
    counting = {each.seq for each in history(run.entries)}
    for each in run.entries:
        when = moment(each.at)
        time = f"{when.astimezone():%H:%M:%S}" if when else "?"
        undone = "" if each.seq in counting else "(undone) "
        line = f"{each.seq:>4}  {time}  {each.type:<16}  {undone}{_gist(each)}"
        terminal.print(line, style="dim" if undone else "", indent=2)


def _gist(entry: Entry) -> str:
    """Say in short what an entry holds."""
    values = from_json(encode(entry).body)
    return shortened(
        "  ".join(
            f"{name}={shortened(str(value), _MAX_SAID)}"
            for name, value in values.items()
            if name not in ("seq", "at") and value not in (None, "", [], {})
        ),
        _MAX_SAID,
    )


def _print_end(
    terminal: Terminal, run: Overview, calls: Sequence[tuple[str, ToolIntended]]
) -> None:
    state = run.state
    assert state is not None
    if state.error:
        terminal.print("\nError", style="bold red")
        terminal.print(shortened(state.error, 2_000), indent=2)
    for each in state.questions.values():
        terminal.print("\nWaits for an answer", style="bold yellow")
        terminal.print(shortened(each.text, 2_000), indent=2)
    _print_calls(terminal, run, calls)
    if run.can_go_on and not calls:
        terminal.print("\nGo on with", style="bold")
        terminal.print(run.recorded.resume(run.run_id), indent=2, fold=False)


def _print_calls(
    terminal: Terminal, run: Overview, calls: Sequence[tuple[str, ToolIntended]]
) -> None:
    """Show the calls that need a decision, and the command that gives it."""
    if not calls:
        return
    terminal.print("\nWaits for a decision", style="bold yellow")
    terminal.print("These calls were cut off; nobody knows what they did.", indent=2)
    for name, each in calls:
        arguments = shortened(str(dict(each.arguments)), _MAX_SAID)
        terminal.print(shortened(f"{name} {each.name} {arguments}", _MAX_FACT), indent=2)
    terminal.print(
        "Find out, then say as WORD `repeat` of one that did nothing, `done` of one that "
        "did its work, `skip` to go on without it:",
        indent=2,
    )
    command = run.recorded.decide(run.run_id, (name for name, _ in calls))
    terminal.print(command, indent=2, fold=False)
