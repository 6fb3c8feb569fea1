"""`kaizen ask`: answers a question from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from kaizen.agent import BaseAgent, RunStream
from kaizen.errors import ConfigurationError, UnknownNameError
from kaizen.kernel import Kernel
from kaizen.operations import Result
from kaizen.run import Run
from kaizen.signatures import InputField, OutputField, Signature
from pydantic import BaseModel, Field

from kaizen_cli._account import account, summary
from kaizen_cli._following import INTERRUPTED, follow, progress_for, stopped
from kaizen_cli._options import Options
from kaizen_cli._recorded import Recorded
from kaizen_cli._session import Keep, answering, own_settings, session
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._text import shortened

__all__ = [
    "FILE_TOOLS",
    "Ask",
    "Source",
    "ask",
    "ask_agent",
    "file_tools_missing",
    "give_answer",
]

FILE_TOOLS = ("list_directory", "search_files", "grep", "read_file")
_MAX_QUOTE = 300


class Source(BaseModel):
    """Where an answer stands."""

    path: str = Field(description="Path of the file, as the tools name it.")
    line: int = Field(ge=1, description="The line on which the quote begins, from 1.")
    quote: str = Field(description="What stands there, word for word.")


class Ask(Signature):
    """Answer the question from the files that your tools can read.

    Look before you answer: list and search the files, and read what may matter. Say only
    what stands in them, and give the place of everything you say. If they do not answer
    the question, say so and give no sources.
    """

    question: str = InputField(desc="What the user wants to know.")
    answer: str = OutputField(desc="The answer, in the language of the question.")
    sources: list[Source] = OutputField(desc="Where it stands, the best place first.")
    confidence: float = OutputField(desc="How sure the answer is, from 0 to 1.", ge=0, le=1)


def ask(
    options: Options,
    *,
    question: str,
    paths: Sequence[Path],
    provider: str | None,
    model: str,
    verbose: bool,
    as_json: bool,
    no_keep: bool,
) -> int:
    """Answer a question from files and print it; return the exit code."""
    terminal = Terminal(options)
    recorded = Recorded.of_now("ask", paths, options, provider=provider, model=model)

    async def main() -> int:
        keep: Keep = "never" if no_keep else "default"
        roots = paths or [Path()]
        async with session(options, terminal, roots=roots, keep=keep) as kernel:
            agent = await ask_agent(kernel, provider, model)
            return await give_answer(
                agent.bind(metadata=recorded.metadata).stream(question=question),
                terminal,
                recorded,
                verbose=verbose,
                as_json=as_json,
            )

    return anyio.run(main)


async def ask_agent(kernel: Kernel, provider: str | None, model: str) -> BaseAgent:
    """Return the agent that answers from files."""
    config = {"max_cycles": own_settings(kernel).max_cycles}
    agent = BaseAgent(config, Ask, tools=FILE_TOOLS, kernel=kernel, name="ask")
    return await answering(agent, provider, model)


async def give_answer(
    stream: RunStream,
    terminal: Terminal,
    recorded: Recorded,
    *,
    verbose: bool,
    as_json: bool,
) -> int:
    """Carry out a run of the agent, and print its answer; return the exit code."""
    progress = progress_for(terminal, verbose=verbose)
    try:
        run = await follow(stream, terminal, progress, recorded)
    except UnknownNameError as error:
        raise file_tools_missing(error) or error from None
    if run.result is None:
        terminal.note(stopped(run, recorded, without="answer"), style="", fold=False)
        return INTERRUPTED
    _show(terminal, run, run.result, as_json=as_json)
    return 0


def file_tools_missing(error: UnknownNameError) -> ConfigurationError | None:
    """Return the error for a file tool that nobody offers, or `None` for another name."""
    if error.kind != "tool" or error.name not in FILE_TOOLS:
        return None
    return ConfigurationError(
        "the command",
        f"reads files with the tools {', '.join(FILE_TOOLS)}, and no enabled plugin offers "
        f"{error.name!r}",
        "Install them with `pip install kaizen-tools`.",
    )


def _show(terminal: Terminal, run: Run, result: Result, *, as_json: bool) -> None:
    sources: list[Source] = result["sources"]
    if as_json:
        answer: dict[str, Any] = {
            "question": run.inputs["question"],
            "answer": result["answer"],
            "sources": [each.model_dump() for each in sources],
            "confidence": result["confidence"],
        }
        terminal.write(f"{to_json({**answer, **account(result)})}\n")
        return
    terminal.print(result["answer"])
    if sources:
        terminal.print()
        terminal.print("Sources", style="bold")
    for each in sources:
        terminal.print(f"{shortened(each.path, 1_000)}:{each.line}", style="cyan", indent=2)
        terminal.print(shortened(each.quote, _MAX_QUOTE), indent=4)
    terminal.print()
    terminal.print(summary(run, f"confidence {result['confidence']:.2f}"), style="dim")
