"""The offline model and the file tools together answer questions about real folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from kaizen import BaseAgent, InputField, Kernel, OutputField, Result, Signature
from pydantic import BaseModel

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "plugins" / "offline" / "corpus"


class Source(BaseModel):
    file: str
    line: int
    quote: str


class Research(Signature):
    """Answer a question about the files, and say where the answer stands."""

    question: str = InputField(desc="What is asked")
    answer: str = OutputField(desc="The answer")
    sources: list[Source] = OutputField(desc="Where it stands")
    confidence: float = OutputField(desc="How sure", ge=0, le=1)


async def asked(question: str, roots: Sequence[Path]) -> Result:
    async with Kernel(
        plugins=["offline", "tools"],
        settings={"tools": {"roots": [str(root) for root in roots]}},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(
            config={"llm_provider": "offline"},
            signature=Research,
            tools=["list_directory", "search_files", "grep", "read_file"],
            kernel=kernel,
        )
        return await agent.run(question=question)


@pytest.mark.parametrize(
    ("question", "name", "piece"),
    [
        ("Who designed the lighthouse?", "island.txt", "Ebba Lindqvist"),
        ("How much is a rye loaf?", "bakery-prices.md", "4.20 euros"),
        ("When is SensorTimeout raised?", "greenhouse.py", "class SensorTimeout"),
        ("Which port do the signal boxes report to?", "tram.toml", "listen_port = 7411"),
    ],
)
async def test_the_first_source_is_the_line_that_answers(
    question: str, name: str, piece: str
) -> None:
    result = await asked(question, [CORPUS])

    first = result.sources[0]
    assert Path(first.file).name == name
    assert piece in first.quote


async def test_what_no_file_says_is_not_known() -> None:
    result = await asked("What is the capital of Portugal?", [CORPUS])

    assert result.answer.startswith("I do not know")
    assert (result.confidence, result.sources) == (0, [])


async def test_the_repository_says_which_hook_may_change_a_tool_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)

    result = await asked(
        "Which hooks may change a tool call?",
        [Path("README.md"), Path("docs"), Path("kernel")],
    )

    assert "wrap_tool_call" in result.answer
    assert "wrap_tool_call" in result.sources[0].quote
    assert result.sources[0].file.endswith("hookspecs.py")
    for source in result.sources:
        lines = (ROOT / source.file).read_text(encoding="utf-8").splitlines()
        assert source.quote in lines[source.line - 1]
    assert result.tool_calls > 3
