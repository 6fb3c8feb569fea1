"""`kaizen ask`: answers a question from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from kaizen.agent import BaseAgent
from kaizen.errors import AgentInterrupted, ConfigurationError, UnknownNameError
from kaizen.kernel import Kernel
from kaizen.operations import Result
from kaizen.signatures import InputField, OutputField, Signature
from pydantic import BaseModel, Field

from kaizen_cli._account import account, summary
from kaizen_cli._following import INTERRUPTED, follow, progress_for
from kaizen_cli._options import Options
from kaizen_cli._session import own_settings, provider_config, session
from kaizen_cli._terminal import Terminal
from kaizen_cli._text import as_json as to_json
from kaizen_cli._text import shortened

__all__ = ["FILE_TOOLS", "Ask", "Source", "ask", "file_tools_missing"]

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
) -> int:
    """Answer a question from files and print it; return the exit code."""
    terminal = Terminal(options)

    async def main() -> int:
        async with session(options, terminal, roots=paths or [Path()]) as kernel:
            config = {
                "max_cycles": own_settings(kernel).max_cycles,
                **provider_config(kernel, provider, model),
            }
            agent = BaseAgent(config, Ask, tools=FILE_TOOLS, kernel=kernel, name="ask")
            try:
                result = await _answer(agent, kernel, question, terminal, verbose=verbose)
            except AgentInterrupted as error:
                terminal.note(f"Interrupted, no answer. Run {error.run_id}", style="")
                return INTERRUPTED
            _show(terminal, question, result, as_json=as_json)
            return 0

    return anyio.run(main)


async def _answer(
    agent: BaseAgent, kernel: Kernel, question: str, terminal: Terminal, *, verbose: bool
) -> Result:
    progress = progress_for(terminal, verbose=verbose)
    try:
        return await follow(agent, {"question": question}, terminal, progress)
    except UnknownNameError as error:
        raise file_tools_missing(error) or error from None


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


def _show(terminal: Terminal, question: str, result: Result, *, as_json: bool) -> None:
    sources: list[Source] = result["sources"]
    if as_json:
        answer: dict[str, Any] = {
            "question": question,
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
    terminal.print(summary(result, f"confidence {result['confidence']:.2f}"), style="dim")
