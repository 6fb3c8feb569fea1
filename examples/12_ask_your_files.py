"""Ask a folder: the offline model finds the files, reads them, and says where it stands.

    python 12_ask_your_files.py "Where are secrets kept?" docs src

It may look at nothing but the folders that it was given, and changes nothing.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from kaizen import BaseAgent, InputField, Kernel, OutputField, Signature
from pydantic import BaseModel

FILES = {
    "harbour.md": "# Harbour\n\nThe harbour master is Ida Brandt.\nShe has a dog.\n",
    "prices.md": "# Prices\n\nA berth costs 18 euros a night.\nShowers cost two euros.\n",
    "crane.py": 'MAX_LOAD_TONNES = 5\n"""What the crane lifts at most, in tonnes."""\n',
}


class Source(BaseModel):
    """Where something stands."""

    path: str
    line: int
    quote: str


class Ask(Signature):
    """Answer the question from the files, and say where the answer stands."""

    question: str = InputField(desc="What is asked")
    answer: str = OutputField(desc="The answer")
    sources: list[Source] = OutputField(desc="Where it stands, best first")
    confidence: float = OutputField(desc="How sure it is", ge=0, le=1)


@asynccontextmanager
async def asking(*folders: str) -> AsyncIterator[BaseAgent]:
    """Give an agent that can read these folders."""
    kernel = Kernel(
        plugins=["offline", "tools"], settings={"tools": {"roots": list(folders)}}
    )
    async with kernel:
        yield BaseAgent(
            {"llm_provider": "offline"},
            Ask,
            tools=["list_directory", "search_files", "grep", "read_file"],
            kernel=kernel,
        )


async def main(questions: list[str], folders: list[str]) -> None:
    """Print what the files say."""
    async with asking(*folders) as agent:
        for question in questions:
            result = await agent.run(question=question)
            print(f"{question}\n  {result.answer}")
            for source in result["sources"][:2]:
                print(f"  {Path(source.path).name}:{source.line}  {source.quote}")


if len(sys.argv) > 2:
    anyio.run(main, sys.argv[1:2], sys.argv[2:])
else:
    with TemporaryDirectory() as folder:
        for name, text in FILES.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        anyio.run(
            main,
            ["Who is the harbour master?", "How much is a berth?", "Who sails to Rome?"],
            [folder],
        )
