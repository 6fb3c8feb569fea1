"""`kaizen runs`: what is said to a run that another process carries out.

The words are those that the plugin `interrupts` understands; they wait in the store until
it takes them.
"""

from __future__ import annotations

import getpass
import json
from typing import Any

import anyio
import click
from kaizen.errors import RunError

from kaizen_cli._options import Options
from kaizen_cli._overview import RESUMABLE, all_records, carried_out_by, find
from kaizen_cli._session import store_session
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json

__all__ = ["steer", "stop", "tell", "user"]

MAX_TEXT = 100_000
MAX_MESSAGE = 1_000
MAX_NAME = 100


def user() -> str:
    """Return the name of the user, for logs."""
    try:
        return _plain(getpass.getuser())[:MAX_NAME]
    except (KeyError, OSError, ImportError):
        return "somebody"


def steer(options: Options, run: str, text: str, *, as_json: bool) -> int:
    """Give the model of a run a message; return the exit code."""
    if not 0 < len(text.strip()) <= len(text) <= MAX_TEXT:
        raise click.UsageError(f"TEXT must have 1 to {MAX_TEXT:,} characters.")
    command = {"command": "steer", "text": _plain(text)}
    return tell(options, run, command, as_json=as_json)


def stop(
    options: Options, *, run: str, now: bool, cancel: bool, message: str, as_json: bool
) -> int:
    """Stop a run; return the exit code."""
    if len(message) > MAX_MESSAGE:
        raise click.UsageError(f"TEXT must have at most {MAX_MESSAGE:,} characters.")
    command: dict[str, Any] = {"command": "cancel"}
    if not cancel:
        command = {"command": "interrupt", "mode": "immediate" if now else "graceful"}
    if message:
        command["message"] = _plain(message)
    return tell(options, run, command, as_json=as_json)


def tell(options: Options, run: str, command: dict[str, Any], *, as_json: bool) -> int:
    """Leave a command for whoever carries out a run; return the exit code.

    A message for the model may come before the run goes on, and is read then.

    Raises:
        RunError: Nobody will hear it.
    """
    terminal = Terminal(options)
    message = {**command, "by": user()}

    async def main() -> tuple[str, str]:
        async with store_session(options, terminal) as store:
            record, _ = find(await all_records(store), run)
            early = command["command"] == "steer" and record.status in RESUMABLE
            if not (record.owner or early):
                raise RunError(
                    f"run {record.run_id!r}",
                    "is carried out by nobody, so that nobody would hear it",
                    "`kaizen runs show` says whether it can go on.",
                )
            await store.send(record.run_id, json.dumps(message).encode())
            return record.run_id, carried_out_by(record)

    run_id, owner = anyio.run(main)
    if as_json:
        values = {"run_id": run_id, "carried_out_by": owner, "sent": message}
        terminal.write(f"{to_json(values)}\n")
    elif owner:
        terminal.note(f"Sent to {owner}, which carries out {run_id}.", style="")
    else:
        terminal.note(f"Left for {run_id}, which reads it once it goes on.", style="")
    return 0


def _plain(text: str) -> str:
    """Return a text without what UTF-8 cannot say, such as bytes that were no text."""
    return text.encode("utf-8", "replace").decode()
