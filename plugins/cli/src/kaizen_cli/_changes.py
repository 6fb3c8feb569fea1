"""`kaizen runs`: what changes the runs in a store: forks, going back, deleting."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from time import time

import anyio
import click
from kaizen.checkpoints import fork, rewind
from kaizen.errors import CheckpointError, CheckpointLoadError, OutcomeUnknownError
from kaizen.ports import CheckpointStore, RunRecord
from kaizen.runlog import ToolFinished, decode, history

from kaizen_cli._options import Options
from kaizen_cli._overview import Overview, all_records, beneath, find, overview
from kaizen_cli._session import store_session
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._text import visible

__all__ = ["fork_run", "prune", "rewind_run"]

FAILED = 1
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_FINISHED = ("completed", "failed", "cancelled")  # as the plugin `state` has it
_MAX_NAMED = 20


def fork_run(options: Options, *, checkpoint: str, as_json: bool) -> int:
    """Begin a run with the past of another, and print its id; return the exit code."""
    terminal = Terminal(options)

    async def main() -> tuple[str, str, Overview]:
        async with store_session(options, terminal) as store:
            record, position = find(await all_records(store), checkpoint)
            place = _id_of(record, position)
            new_run_id = await fork(store, place)
            return place, new_run_id, await overview(store, record)

    place, new_run_id, origin = anyio.run(main)
    if as_json:
        terminal.write(f"{to_json({'run_id': new_run_id, 'forked_from': place})}\n")
        return 0
    terminal.print(new_run_id)
    terminal.note(f"Go on with: {origin.recorded.resume(new_run_id)}", style="")
    return 0


def rewind_run(options: Options, *, checkpoint: str, yes: bool, as_json: bool) -> int:
    """Let a run go back to a checkpoint; return the exit code."""
    terminal = Terminal(options)

    async def look() -> tuple[Overview, int]:
        async with store_session(options, terminal) as store:
            record, position = find(await all_records(store), checkpoint)
            run = await overview(store, record)
            if run.state is None:
                raise click.ClickException(f"Run {run.run_id} is damaged: {run.problem}")
            if position is None or position not in {each.seq for each in run.checkpoints}:
                raise CheckpointLoadError(
                    f"run {record.run_id!r}",
                    f"has no checkpoint {'there' if position is None else position}",
                    "`kaizen runs show` lists those that it has.",
                )
            return run, position

    async def go_back() -> None:
        async with store_session(options, terminal) as store:
            await rewind(store, place)

    run, position = anyio.run(look)
    place = _id_of(run.record, position)
    terminal.note(_undone(run, position), style="")
    if not (yes or _agreed(terminal, f"Go back to {place}?")):
        return FAILED
    anyio.run(go_back)
    if as_json:
        terminal.write(f"{to_json({'run_id': run.run_id, 'checkpoint': place})}\n")
        return 0
    terminal.note(f"Go on with: {run.recorded.resume(run.run_id)}", style="")
    return 0


def _undone(run: Overview, position: int) -> str:
    """Say what going back undoes, and what it does not."""
    later = [each for each in history(run.entries) if each.seq > position]
    made = [each.name for each in later if isinstance(each, ToolFinished)]
    tools = (
        f" These tools were called since: {', '.join(made[:_MAX_NAMED])}." if made else ""
    )
    return (
        f"{len(later)} entries will not count any more.{tools} What tools did stays done, "
        "and may be done again."
    )


def _id_of(record: RunRecord, position: int | None) -> str:
    return record.run_id if position is None else f"{record.run_id}:{position}"


def _agreed(terminal: Terminal, question: str) -> bool:
    """Ask the user, and say so if nothing is done.

    Raises:
        click.UsageError: Nobody is there to be asked.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked here. Say --yes to go on.")
    if click.confirm(visible(question), err=True):
        return True
    terminal.note("Nothing was changed.")
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """Which runs are to go.

    Attributes:
        groups: Runs, each with those inside it; these go first.
        spared: How many stay because they could go on.
        busy: How many stay because they are carried out.
    """

    groups: Sequence[Sequence[RunRecord]] = field(default=())
    spared: int = 0
    busy: int = 0

    @property
    def run_ids(self) -> list[str]:
        """All of them."""
        return [each.run_id for group in self.groups for each in group]

    def told(self) -> str:
        """Say what would go and what stays."""
        count = len(self.groups)
        inside = len(self.run_ids) - count
        parts = [f"{count} run{'' if count == 1 else 's'}"]
        parts += [f" with {inside} inside them"] if inside else []
        parts.append(" would be deleted." if count else " to delete.")
        if self.spared:
            parts.append(f" {self.spared} that could go on stay; --unfinished takes them.")
        if self.busy:
            parts.append(f" {self.busy} under way stay.")
        return "".join(parts)


def prune(
    options: Options,
    *,
    older_than: str | None,
    keep: int | None,
    unfinished: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Delete old runs; return the exit code, 1 if one of them stays."""
    terminal = Terminal(options)
    if older_than is None and keep is None:
        raise click.UsageError("Say which: --older-than 30d, --keep 100, or both.")
    age = _seconds(older_than) if older_than is not None else 0.0

    async def look() -> _Choice:
        async with store_session(options, terminal) as store:
            records = await all_records(store)
            chosen = _chosen(records, age=age, keep=keep or 0, unfinished=unfinished)
            return chosen if unfinished else await _decided(store, chosen)

    choice = anyio.run(look)
    if not as_json:
        _show_choice(terminal, choice)
    failed: dict[str, str] = {}
    if choice.groups and not dry_run:
        if not (yes or _agreed(terminal, "Delete them for good?")):
            return FAILED
        failed = anyio.run(_delete, options, terminal, choice.run_ids)
    if as_json:
        gone = [] if dry_run else [each for each in choice.run_ids if each not in failed]
        values = {
            "chosen": choice.run_ids,
            "deleted": gone,
            "failed": failed,
            "unfinished_kept": choice.spared,
            "under_way": choice.busy,
        }
        terminal.write(f"{to_json(values)}\n")
    for run_id, problem in failed.items():
        terminal.note(f"{run_id} stays: {problem}", style="red")
    return FAILED if failed else 0


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise click.UsageError(f"{text!r} is no length of time. Write 12h, 30d or 8w.")
    return float(int(match[1]) * _UNITS[match[2]])


def _chosen(
    records: Sequence[RunRecord], *, age: float, keep: int, unfinished: bool
) -> _Choice:
    """Choose among the runs that lie in no other; what lies in them goes with them."""
    known = {each.run_id for each in records}
    outermost = [each for each in records if each.parent_id not in known]
    before = time() - age
    groups, spared, busy = [], 0, 0
    for record in outermost[keep:]:
        if not record.updated_at <= before:
            continue
        group = [*reversed(beneath(records, record.run_id)), record]
        if any(each.owner for each in group):
            busy += 1
        elif record.status not in _FINISHED and not unfinished:
            spared += 1
        else:
            groups.append(group)
    return _Choice(groups=groups, spared=spared, busy=busy)


async def _decided(store: CheckpointStore, choice: _Choice) -> _Choice:
    """Spare the runs that failed since nobody knows what a call did: somebody may say."""
    groups = []
    for group in choice.groups:
        record = group[-1]
        if record.status != "failed" or not await _is_undecided(store, record):
            groups.append(group)
    spared = choice.spared + len(choice.groups) - len(groups)
    return replace(choice, groups=groups, spared=spared)


async def _is_undecided(store: CheckpointStore, record: RunRecord) -> bool:
    try:
        stored = await store.read(record.run_id, start=max(0, record.length - 1))
        last = [decode(each) for each in stored]
    except CheckpointLoadError:
        return False
    return any(getattr(each, "error_code", "") == OutcomeUnknownError.code for each in last)


def _show_choice(terminal: Terminal, choice: _Choice) -> None:
    for group in choice.groups[:_MAX_NAMED]:
        record = group[-1]
        terminal.print(f"{record.run_id}  {record.agent_id}  {record.status}", indent=2)
    if len(choice.groups) > _MAX_NAMED:
        terminal.print(f"and {len(choice.groups) - _MAX_NAMED} more", indent=2)
    terminal.print(choice.told())


async def _delete(
    options: Options, terminal: Terminal, run_ids: Iterable[str]
) -> dict[str, str]:
    """Delete runs; return what went wrong with those that stay."""
    failed: dict[str, str] = {}
    async with store_session(options, terminal) as store:
        for run_id in run_ids:
            try:
                await store.delete(run_id)
            except CheckpointError as error:
                failed[run_id] = str(error)
    return failed
