"""`kaizen run`: runs an agent once."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import click
from kaizen.agent import BaseAgent
from kaizen.kernel import Kernel
from kaizen.operations import Result
from kaizen.run import Run
from kaizen.signatures import Signature, SignatureCompiler
from pydantic_core import to_jsonable_python

from kaizen_cli._account import account, summary
from kaizen_cli._following import (
    INTERRUPTED,
    Progress,
    follow,
    progress_for,
    stopped,
)
from kaizen_cli._options import Options
from kaizen_cli._recorded import Recorded
from kaizen_cli._session import Keep, answering, session
from kaizen_cli._targets import Target, load, make_agent
from kaizen_cli._terminal import Flow, Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._text import visible

__all__ = ["agent_on", "give_outputs", "run"]

MAX_BYTES = 64 * 1024 * 1024
_STANDARD_INPUT = "-"


def run(
    options: Options,
    *,
    target: str,
    inputs: Sequence[str],
    input_file: str | None,
    provider: str | None,
    model: str,
    stream: bool,
    verbose: bool,
    as_json: bool,
    no_keep: bool,
) -> int:
    """Run an agent once and print its outputs; return the exit code."""
    if stream and as_json:
        raise click.UsageError("--stream and --json exclude each other.")
    terminal = Terminal(options)
    found = load(target)
    given = _read(inputs, input_file)  # here, where Ctrl+C is heard: nothing runs yet
    recorded = Recorded.of_now("run", [target], options, provider=provider, model=model)

    async def main() -> int:
        keep: Keep = "never" if no_keep else "default"
        async with (
            session(options, terminal, keep=keep) as kernel,
            agent_on(kernel, found, provider=provider, model=model) as agent,
        ):
            values = given.values_for(agent.signature)
            SignatureCompiler().compile(agent.signature).validate_inputs(values)
            progress = Progress() if stream else progress_for(terminal, verbose=verbose)
            flow = Flow(terminal) if stream else None
            run = await follow(
                agent.bind(metadata=recorded.metadata).stream(**values),
                terminal,
                progress,
                recorded,
                flow.write if flow else None,
            )
            if flow:
                flow.flush()
            return give_outputs(terminal, run, recorded, streamed=stream, as_json=as_json)

    return anyio.run(main)


@asynccontextmanager
async def agent_on(
    kernel: Kernel, found: Target, *, provider: str | None, model: str
) -> AsyncIterator[BaseAgent]:
    """Give the agent of a target, and keep the kernel running that it works on."""
    agent = make_agent(found, kernel)
    if agent.kernel is None or agent.kernel.running:
        yield await answering(agent, provider, model)
        return
    async with agent.kernel:  # the agent was made with one of its own
        yield await answering(agent, provider, model)


def give_outputs(
    terminal: Terminal, run: Run, recorded: Recorded, *, streamed: bool, as_json: bool
) -> int:
    """Print what a run gave, or how it goes on; return the exit code."""
    if run.result is None:
        terminal.note(stopped(run, recorded, without="outputs"), style="", fold=False)
        return INTERRUPTED
    _show(terminal, run, run.result, streamed=streamed, as_json=as_json)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What the command line gives, with the files read that it names.

    Attributes:
        values: The inputs that stood in JSON or in files.
        texts: What was written behind `KEY=`.
        wrong: What is no input.
    """

    values: Mapping[str, Any]
    texts: Mapping[str, str]
    wrong: Sequence[str]

    def values_for(self, signature: type[Signature]) -> dict[str, Any]:
        """Return the inputs of a signature."""
        if self.wrong:
            raise click.UsageError(
                f"{self.wrong[0]!r} is no input. Write KEY=VALUE; {_inputs_of(signature)}"
            )
        texts = {name: _value(signature, name, text) for name, text in self.texts.items()}
        return {**self.values, **texts}


def _read(given: Sequence[str], file: str | None) -> _Given:
    """Read the inputs that the command line gives, in any of its ways."""
    pairs = [each for each in given if each != _STANDARD_INPUT]
    if len(pairs) < len(given):
        file = file or _STANDARD_INPUT
    values = _read_json(file) if file else {}
    texts: dict[str, str] = {}
    for each in pairs:
        name, equals, text = each.partition("=")
        if equals and text.startswith("@"):
            values[name] = _read_text(Path(text[1:]))
            texts.pop(name, None)
        elif equals:
            texts[name] = text
    wrong = [each for each in pairs if "=" not in each]
    return _Given(values=values, texts=texts, wrong=wrong)


def _inputs_of(signature: type[Signature]) -> str:
    names = ", ".join(signature.input_fields)
    return f"the inputs are {names}." if names else "there are no inputs."


def _value(signature: type[Signature], name: str, text: str) -> Any:
    field = signature.input_fields.get(name)
    if field is None or field.annotation in (str, str | None):
        return text
    if text.startswith(("{", "[")) or text == "null":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"{name} is not valid JSON: {error}.") from error
    return text


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise click.UsageError(f"{str(path)!r} cannot be read: {problem}.") from error
    if len(text) > MAX_BYTES:
        raise click.UsageError(f"{str(path)!r} is longer than {MAX_BYTES} characters.")
    return text


def _read_json(file: str) -> dict[str, Any]:
    if file == _STANDARD_INPUT:
        text, name = sys.stdin.read(MAX_BYTES + 1)[:MAX_BYTES], "standard input"
    else:
        text, name = _read_text(Path(file)), file
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise click.UsageError(f"{name} must hold a JSON object of inputs.")
    return values


def _show(
    terminal: Terminal,
    run: Run,
    result: Result,
    *,
    streamed: bool,
    as_json: bool,
) -> None:
    outputs = {
        name: to_jsonable_python(value, fallback=str) for name, value in result.items()
    }
    if as_json:
        terminal.write(f"{to_json({'outputs': outputs, **account(result)})}\n")
        return
    plain = SignatureCompiler().compile(run.agent.signature).plain_text
    if streamed:
        terminal.write("\n")
    if plain and not streamed:
        terminal.print(next(iter(outputs.values())))
    if not plain:
        _show_table(terminal, outputs)
    terminal.note(summary(run))


def _show_table(terminal: Terminal, outputs: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    texts = {
        name: value if isinstance(value, str) else to_json(value)
        for name, value in outputs.items()
    }
    if not terminal.out.is_terminal:
        for name, text in texts.items():
            terminal.write(f"{name}: {text}\n")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in texts.items():
        table.add_row(Text(visible(name)), Text(visible(text)))
    terminal.show(table)
