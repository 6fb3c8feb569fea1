"""Carries out a command line; turns whatever happens into an exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

import click

from kaizen_cli._front import front
from kaizen_cli._options import Options
from kaizen_cli._text import visible

__all__ = ["main"]

FAILED = 1
MISUSED = 2
INTERRUPTED = 130
_ONE_DOT = re.compile(r"(?<=[\w)'\"`])\.\.(?= |$)")  # one sentence at the end of another


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line and return the exit code.

    Args:
        arguments: What stands behind `kaizen`; by default that of this process.

    Returns:
        0 if it was done, 1 if it failed, 2 if the command line makes no sense, 130 if it
        was interrupted.
    """
    options = Options()
    _let_every_character_through()
    try:
        code = front.main(
            args=None if arguments is None else list(arguments),
            prog_name="kaizen",
            standalone_mode=False,
            obj=options,
        )
        if sys.stdout is not None:  # as it is behind `>&-`
            sys.stdout.flush()
    except click.ClickException as error:
        _complain(options, f"Error: {_explained(error)}")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain(options, "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_is_gone()
    except Exception as error:  # noqa: BLE001 - the last resort: one line, or the traceback
        return _failed(options, error)
    return code if isinstance(code, int) else 0


def _failed(options: Options, error: Exception) -> int:
    if options.debug:
        _show_traceback(error)
    message = str(error) if _is_expected(error) else _unexpected(error)
    notes = getattr(error, "__notes__", ())
    _complain(options, " ".join(["Error:", message, *notes]))
    return FAILED


def _is_expected(error: Exception) -> bool:
    errors: Any = sys.modules.get("kaizen.errors")
    return errors is not None and isinstance(error, errors.KaizenError)


def _unexpected(error: Exception) -> str:
    return f"{type(error).__name__}: {error}. `--debug` shows where it was raised."


def _explained(error: click.ClickException) -> str:
    """Return what is wrong with a command line, and where to read on."""
    message = error.format_message()
    context: click.Context | None = getattr(error, "ctx", None)
    if isinstance(error, click.MissingParameter):
        usage = f" {context.get_usage()}." if context else ""
        message = f"{message}{usage}"
    elif isinstance(error, click.BadParameter) and isinstance(error.param, click.Argument):
        message = error.message
    if context is None:
        return message
    return f"{message} See `{context.command_path} --help`."


def _complain(options: Options, message: str) -> None:
    """Write one line to standard error, in red where that is wanted."""
    line = _ONE_DOT.sub(".", " ".join(visible(message).split()))
    colored = options.color and sys.stderr.isatty()
    click.echo(click.style(line, fg="red") if colored else line, err=True, color=colored)


def _show_traceback(error: Exception) -> None:
    import traceback

    click.echo(visible("".join(traceback.format_exception(error))), err=True, nl=False)


def _let_every_character_through() -> None:
    """Neither fail at what an encoding cannot say, nor at bytes that it does not know."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def _reader_is_gone() -> int:
    """Let the interpreter's own last flush have somewhere to go."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return FAILED
