"""`kaizen runs resume`: lets a run go on.

Nothing is imported, and no file is opened to a model, because a record says so: the target
or the paths have to be typed, and the record only says what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

import anyio
import click
from kaizen.agent import RunStream
from kaizen.errors import ClaimLostError
from kaizen.ports import RunRecord
from kaizen.run import Decision
from kaizen.runlog import ToolIntended

from kaizen_cli._ask import ask_agent, give_answer
from kaizen_cli._chat import chat_agent
from kaizen_cli._control import user
from kaizen_cli._following import follow, progress_for
from kaizen_cli._options import Options
from kaizen_cli._overview import (
    Overview,
    all_records,
    carried_out_by,
    cut_off_in,
    find,
    overview,
)
from kaizen_cli._recorded import Recorded
from kaizen_cli._run import agent_on, give_outputs
from kaizen_cli._session import session, store_session
from kaizen_cli._targets import load
from kaizen_cli._terminal import Terminal

__all__ = ["resume"]

Decisions: TypeAlias = Decision | Mapping[str, Decision] | None
Calls: TypeAlias = Sequence[tuple[str, ToolIntended]]
Word: TypeAlias = Literal["repeat", "done", "skip"]
_WORDS = ("repeat", "done", "skip")


def resume(
    options: Options,
    *,
    run: str,
    given: Sequence[str],
    decisions: Sequence[str],
    provider: str | None,
    model: str,
    verbose: bool,
    as_json: bool,
) -> int:
    """Let a run go on and print what it gives; return the exit code."""
    terminal = Terminal(options)
    words = [_word(each) for each in decisions]
    found, calls = anyio.run(_look, options, terminal, run, bool(words))
    _check_given(found, given)
    decided = _decided(found, calls, words)
    recorded = _recorded(found, given, options, provider, model)
    _warn_of_changes(terminal, found.recorded, recorded)
    going = _Going(
        options=options,
        terminal=terminal,
        run_id=found.run_id,
        recorded=recorded,
        decisions=decided,
        verbose=verbose,
        as_json=as_json,
    )
    if found.recorded.built_in:
        return going.built_in([Path(each) for each in given], provider, model)
    return going.target(given[0], provider, model)


async def _look(
    options: Options, terminal: Terminal, run: str, deciding: bool
) -> tuple[Overview, Calls]:
    """Return what there is of a run, and the calls that were cut off.

    Args:
        deciding: Whether somebody does. What is said of that run then has to be true of it
            now, and another process may have taken it up while its log was read.
    """
    async with store_session(options, terminal) as store:
        records = await all_records(store)
        record, _ = find(records, run)
        _check_free(record)
        found = await overview(store, record)
        if found.state is None:
            raise click.ClickException(f"Run {record.run_id} is damaged: {found.problem}")
        calls = await cut_off_in(store, records, found)
        if deciding:
            now, _ = find(await all_records(store), record.run_id)
            _check_free(now, length=record.length)
        return found, calls


def _check_free(record: RunRecord, *, length: int | None = None) -> None:
    """Leave a run alone that another process carries out, or did since it had a length.

    Raises:
        ClaimLostError: Another process carries it out.
        click.ClickException: Another process has written it.
    """
    run_id = record.run_id
    if record.owner:
        raise ClaimLostError(
            f"run {run_id!r}",
            f"is carried out by {carried_out_by(record)}",
            "Wait for it, or stop it there; a crashed process lets go by itself.",
        )
    if length not in (None, record.length):
        raise click.ClickException(
            f"Another process has just gone on with run {run_id}. What became of it: "
            f"`kaizen runs show {run_id}`."
        )


def _recorded(
    found: Overview,
    given: Sequence[str],
    options: Options,
    provider: str | None,
    model: str,
) -> Recorded:
    """Return how the run goes on if it is stopped again: as it was let go on now."""
    command = found.recorded.command or "run"
    return Recorded.of_now(command, given, options, provider=provider, model=model)


def _warn_of_changes(terminal: Terminal, before: Recorded, now: Recorded) -> None:
    """Say what is different from when the run began, and may have been forgotten."""
    missing = before.missing_in(now)
    if missing:
        terminal.warn(f"The run began with {missing}, which is not given now.")
    if before.directory not in ("", now.directory):
        terminal.warn(f"The run began in {before.directory}.")


def _check_given(found: Overview, given: Sequence[str]) -> None:
    """Refuse to guess what has to be typed.

    Raises:
        click.UsageError: The target or the paths are missing, or are too many.
    """
    recorded = found.recorded
    if recorded.built_in:
        if recorded.given and not given:
            raise click.UsageError(
                f"Run {found.run_id} read {', '.join(recorded.given)}. "
                f"Type: `{recorded.resume(found.run_id)}`."
            )
        for each in given:
            if not Path(each).exists():
                raise click.UsageError(f"Path {each!r} does not exist.")
    elif not given:
        raise click.UsageError(
            f"Run {found.run_id} belongs to agent {found.record.agent_id!r}; name where "
            f"that is. Type: `{recorded.resume(found.run_id)}`."
        )
    elif len(given) > 1:
        raise click.UsageError(f"One TARGET is enough; there is also {given[1]!r}.")


def _word(text: str) -> tuple[str, Decision]:
    """Return the call, or `""`, and what was said of it."""
    call, _, word = text.rpartition("=")
    if word not in _WORDS or (not call and "=" in text):
        raise click.UsageError(
            f"{text!r} is no decision. Write CALL=repeat, CALL=done or CALL=skip, or one "
            "of these words for all calls."
        )
    return call, Decision(action=cast(Word, word), by=user())


def _decided(
    found: Overview, calls: Calls, words: Sequence[tuple[str, Decision]]
) -> Decisions:
    """Return what was decided about the calls that were cut off.

    One that says that a repeat is harmless needs no decision here. The run may want one all
    the same, if its tool no longer says so.

    Raises:
        click.UsageError: There is no such call, or one was forgotten.
    """
    names = [name for name, _ in calls]
    of_all = [decision for call, decision in words if not call]
    own = f"{found.run_id}:"  # as an error of the kernel names its calls
    by_call = {call.removeprefix(own): decision for call, decision in words if call}
    for call in by_call:
        if call not in names:
            known = f"There are {', '.join(names)}." if names else "There is none."
            raise click.UsageError(
                f"Run {found.run_id} has no call {call!r} to decide about. {known}"
            )
    needed = [name for name, each in calls if not each.idempotent]
    missing = [] if of_all else [name for name in needed if name not in by_call]
    if missing:
        raise click.ClickException(
            f"Run {found.run_id} was cut off while it called "
            f"{', '.join(each.name for name, each in calls if name in missing)}, and "
            "nobody knows what that did. Find out, then say as WORD `repeat` if it did "
            "nothing, `done` if it did its work, or `skip`: "
            f"{found.recorded.decide(found.run_id, missing)}"
        )
    if by_call and of_all:
        return dict.fromkeys(needed, of_all[-1]) | by_call
    return of_all[-1] if of_all else by_call or None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Going:
    """A run that goes on, by an agent that somebody named or that is built in.

    Attributes:
        recorded: How it goes on if it is stopped again.
        decisions: What became of the calls that were cut off.
    """

    options: Options
    terminal: Terminal
    run_id: str
    recorded: Recorded
    decisions: Decisions
    verbose: bool
    as_json: bool

    def target(self, target: str, provider: str | None, model: str) -> int:
        """Let the agent of a target carry it on; return the exit code."""
        loaded = load(target)

        async def main() -> int:
            async with (
                session(self.options, self.terminal, keep="always") as kernel,
                agent_on(kernel, loaded, provider=provider, model=model) as agent,
            ):
                stream = agent.resume_stream(self.run_id, decision=self.decisions)
                return await self._outputs(stream)

        return anyio.run(main)

    def built_in(self, paths: Sequence[Path], provider: str | None, model: str) -> int:
        """Let `kaizen ask` or `kaizen chat` carry it on; return the exit code."""
        ask = self.recorded.command == "ask"
        roots = paths or ([Path()] if ask else [])

        async def main() -> int:
            async with session(
                self.options, self.terminal, roots=roots, keep="always"
            ) as kernel:
                agent = await (
                    ask_agent(kernel, provider, model)
                    if ask
                    else chat_agent(kernel, paths, provider, model)
                )
                stream = agent.resume_stream(self.run_id, decision=self.decisions)
                if not ask:
                    return await self._outputs(stream)
                return await give_answer(
                    stream,
                    self.terminal,
                    self.recorded,
                    verbose=self.verbose,
                    as_json=self.as_json,
                )

        return anyio.run(main)

    async def _outputs(self, stream: RunStream) -> int:
        progress = progress_for(self.terminal, verbose=self.verbose)
        run = await follow(stream, self.terminal, progress, self.recorded)
        return give_outputs(
            self.terminal, run, self.recorded, streamed=False, as_json=self.as_json
        )
