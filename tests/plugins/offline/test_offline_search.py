"""Over a folder of texts the offline model finds the right lines, or says it cannot."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kaizen import ModelReply
from kaizen_offline import OfflineProvider
from pydantic import BaseModel, Field

pytestmark = pytest.mark.asyncio

REPOSITORY = Path(__file__).parents[3]
UNKNOWN = "I do not know: nothing in what I read answers this."
RunLoop = Callable[..., Awaitable[ModelReply]]


class Source(BaseModel):
    file: str
    line: int
    quote: str


class Answer(BaseModel):
    answer: str
    sources: list[Source]
    confidence: float = Field(ge=0, le=1)


ANSWERABLE = [
    ("How much does it cost to replace a lost library card?", "lost card costs two pounds"),
    ("Who must sign for a child?", "Children under twelve need"),
    ("How long may I keep a book?", "Books may be kept for three weeks"),
    ("Which things can not be taken out of the library?", "never leave the building"),
    ("What is the fine for a late book?", "ten pence a day"),
    ("When does the library open on Saturday?", "| Saturday |"),
    ("Who may use the laser cutter?", "laser cutter may only be used"),
    ("Whom do I ask to book the workshop?", "Imogen Achterberg"),
    ("What voltage does the pump need?", "400 volts"),
    ("How often must the oil be changed?", "every 4000 hours"),
    ("What does error E7 mean?", "Error E7"),
    ("Does the warranty cover damage by frost?", "Frost damage is not covered"),
    ("Why does the motor overheat?", "overheats when it runs dry"),
    ("How far above the bottom of the borehole should the pump hang?", "half a metre"),
    ("Who gets plot 23?", "Plot 23 has stood empty"),
    ("When are bonfires allowed?", "Bonfires are allowed on"),
    ("How much money did the seed swap raise?", "raised 240 euros"),
    ("Where is the next meeting?", "Next meeting: 11 April"),
    ("Who designed the lighthouse?", "designed by Ebba Lindqvist"),
    ("How many people live on Skarholm?", "About sixty people"),
    ("When did the school close?", "The school closed in 2009"),
    ("Are cars permitted on the island?", "Cars are not permitted"),
    ("When did the church burn down?", "burned down in 1697"),
    ("How often does the greenhouse controller read its sensors?", "every thirty seconds"),
    ("When is SensorTimeout raised?", "class SensorTimeout"),
    ("Why are plants not watered after sunset?", "Nothing is watered after sunset"),
    ("Which function decides whether to draw the curtains?", "def shade_needed"),
    ("At what wind speed do the roof vents stay shut?", "wind_speed > 14"),
    ("What does the walnut baguette contain?", "| Walnut baguette |"),
    ("How much is a rye loaf?", "| Rye loaf |"),
    ("Which product is free of gluten?", "only product that is free of gluten"),
    ("How early must a wedding cake be ordered?", "six weeks ahead"),
    ("What happens to yesterday's bread?", "Yesterday's bread is sold"),
    ("What is the minimum headway between two trams?", "minimum_headway"),
    ("Which port do the signal boxes report to?", "listen_port"),
    ("How long are entries of the event recorder kept?", "retention"),
    ("What is the price of a family ticket?", "function familyTicketPrice"),
    ("Why are coins refused in the cold?", "Coins are refused"),
    ("Where does the unsold bread end up?", "what remains goes to the night"),
    ("How many benches are there in the greenhouse?", "six benches"),
    ("Who takes the minutes?", "Oluwaseun Bello (minutes)"),
    ("By how much did the water bill rise?", "18 percent"),
    ("What kind of oil is in the motor?", "food-grade"),
    ("How far away could the lighthouse be seen?", "nineteen nautical"),
    ("At what temperature is the frost alarm sounded?", "FROST_ALARM_CELSIUS"),
    ("How many items may a member have at once?", "at most ten"),
    ("How long does the ferry take?", "fifty minutes"),
    ("Who is on call at night?", "on_call"),
    ("What should be done with the valve before the first start?", "Close the valve"),
    ("Where does the ear protection hang?", "hangs beside"),
    ("What was the seed swap money spent on?", "spend it on a second"),
    ("How big is the deposit for a wedding cake?", "one third"),
    ("Until when can I cancel?", "fourteen days"),
    ("Which products contain nuts?", "gluten, nuts"),
    ("What is the discount on return tickets?", "RETURN_DISCOUNT"),
    ("When does a membership lapse?", "Membership lapses"),
    ("What points to a leaking pressure tank?", "pressure tank"),
    ("Who keeps the key to the paper store?", "Imogen Achterberg"),
]
"""Questions, and a piece of the line that answers each."""

UNANSWERABLE = [
    "Who is the mayor of the borough?",
    "What is the phone number of the library?",
    "How many horsepower does the pump have?",
    "Who won the football championship?",
    "What is the capital of Portugal?",
    "How do I reset my password?",
    "When was the bakery founded?",
    "What colour are the trams painted?",
    "How many bicycles can the ferry carry?",
    "Which hotel on Skarholm has a sauna?",
    "Who sells the tickets for the zoo?",
    "What is the boiling point of mercury?",
    "Does the greenhouse grow orchids?",
    "What salary does a librarian earn?",
    "What is the ferry's name?",
    "How many staff work in the bakery?",
    "Which brand is the letterpress?",
    "Who manufactured the pump?",
    "What is the library's website?",
    "How long is the island?",
    "Who repaired the shed roof last year?",
    "What is the recipe of the rye loaf?",
    "How many trams are there?",
    "Is there a train to the harbour?",
]


async def asked(run_loop: RunLoop, tools: Any, question: str) -> Answer:
    reply = await run_loop(
        OfflineProvider(),
        f"question: {question}",
        tools=tools,
        schema=Answer.model_json_schema(),
    )
    return Answer.model_validate_json(reply.text)


async def test_the_right_line_is_among_the_first_three_sources(
    run_loop: RunLoop, corpus: Any
) -> None:
    missed = []
    for question, piece in ANSWERABLE:
        answer = await asked(run_loop, corpus, question)
        lines = [corpus.lines(each.file)[each.line - 1] for each in answer.sources[:3]]
        if not any(piece in line for line in lines):
            missed.append(question)

    share = 1 - len(missed) / len(ANSWERABLE)
    print(  # noqa: T201
        f"right line among the first three: {share:.0%} of {len(ANSWERABLE)}; not: {missed}"
    )
    assert share >= 0.85


async def test_what_the_texts_do_not_hold_is_not_known(
    run_loop: RunLoop, corpus: Any
) -> None:
    invented = []
    for question in UNANSWERABLE:
        answer = await asked(run_loop, corpus, question)
        if answer.answer.startswith(UNKNOWN):
            assert (answer.confidence, answer.sources) == (0, [])
        else:
            invented.append(question)

    share = 1 - len(invented) / len(UNANSWERABLE)
    print(  # noqa: T201
        f"not known, and said so: {share:.0%} of {len(UNANSWERABLE)}; not: {invented}"
    )
    assert share >= 0.8


@pytest.mark.parametrize(
    "parts", [["tests/plugins/offline/corpus"], ["kernel", "README.md"]]
)
async def test_every_quote_stands_word_for_word_at_its_line(
    run_loop: RunLoop, files: Any, parts: list[str]
) -> None:
    tools = files(REPOSITORY, *parts, max_lines=150)
    questions = (
        [question for question, _ in ANSWERABLE] if "kernel" not in parts else KERNEL
    )

    quotes = 0
    for question in questions:
        for source in (await asked(run_loop, tools, question)).sources:
            quotes += 1
            assert source.quote
            assert source.quote in tools.lines(source.file)[source.line - 1]

    assert quotes >= len(questions)


KERNEL = [
    "Which hooks may change a tool call?",
    "What does a CheckpointStore keep?",
    "What is the code of a ModelError?",
    "How many tokens does a Usage count?",
    "When is a tool SAFE?",
    "What is raised when an observer takes longer than it may?",
    "Which fields does a ModelRequest have?",
    "How is a hook registered?",
    "What does Effect.of do with a danger level?",
    "May a plugin define ports of its own?",
]


async def test_the_kernels_own_docstrings_say_which_hook_changes_a_tool_call(
    run_loop: RunLoop, files: Any
) -> None:
    tools = files(REPOSITORY, "README.md", "docs", "kernel")

    answer = await asked(run_loop, tools, "Which hooks may change a tool call?")

    assert "wrap_tool_call" in answer.answer
    assert answer.sources[0].file == "kernel/src/kaizen/hookspecs.py"
    assert "wrap_tool_call" in answer.sources[0].quote


async def test_it_works_in_turns_and_reads_only_what_promises_something(
    run_loop: RunLoop, corpus: Any
) -> None:
    await asked(run_loop, corpus, "How many people live on Skarholm?")

    names = [use.name for use in corpus.calls]
    read = [use.arguments["path"] for use in corpus.calls if use.name == "read_file"]
    assert names[:3] == ["list_directory", "search_files", "grep"]
    assert read[0] == "notes/island.txt"
    assert len(read) < len(corpus.files)


async def test_what_was_given_is_not_looked_for_in_files(
    run_loop: RunLoop, corpus: Any
) -> None:
    question = "Who is the harbour master?"
    content = f"context: The harbour master is Ingrid.\nquestion: {question}"

    reply = await run_loop(OfflineProvider(), content, tools=corpus)

    assert "Ingrid" in reply.text
    assert corpus.calls == []


async def test_no_call_is_made_twice(run_loop: RunLoop, corpus: Any) -> None:
    await asked(run_loop, corpus, "What does the pump need in frost, and what in spring?")

    made = [(use.name, json.dumps(use.arguments, sort_keys=True)) for use in corpus.calls]
    assert len(made) == len(set(made))


async def test_a_file_that_was_cut_is_read_on_where_matches_are_ahead(
    run_loop: RunLoop, files: Any, tmp_path: Path
) -> None:
    lines = [f"Entry {i} says nothing." for i in range(900)]
    lines[700] = "The harbour master is Ingrid Solheim."
    (tmp_path / "log.txt").write_text("\n".join(lines), encoding="utf-8")
    tools = files(tmp_path, max_lines=300)

    answer = await asked(run_loop, tools, "Who is the harbour master?")

    assert [(each.file, each.line) for each in answer.sources] == [("log.txt", 701)]


async def test_a_file_that_the_question_names_is_read_first(
    run_loop: RunLoop, corpus: Any
) -> None:
    await asked(run_loop, corpus, "What does tram.toml say about the library?")

    read = [use.arguments["path"] for use in corpus.calls if use.name == "read_file"]
    assert read[0] == "tram.toml"


async def test_the_number_of_turns_and_files_is_bounded(
    run_loop: RunLoop, files: Any, tmp_path: Path
) -> None:
    for i in range(100):
        text = "\n".join(f"The harbour has quay {i} and crane {n}." for n in range(50))
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    tools = files(tmp_path, max_lines=10)

    await run_loop(
        OfflineProvider(max_turns=3, max_reads=7), "Where is the harbour?", tools=tools
    )

    assert sum(use.name == "read_file" for use in tools.calls) <= 7


@pytest.mark.parametrize(
    "failure",
    [
        "[TOOL_001] tool 'grep' failed. Try again.",
        "Error: permission denied",
        "",
        '{"matches": [1, null, {"path": 3}, {"path": "x"}], "entries": [{}]}',
        '{"matches": null}',
        "[" * 10_000,
    ],
    ids=["code", "error", "empty", "odd", "null", "deep"],
)
async def test_tools_that_fail_leave_it_not_knowing(
    run_loop: RunLoop, corpus: Any, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr(corpus, "call", lambda use: failure)

    answer = await asked(run_loop, corpus, "How many people live on Skarholm?")

    assert answer.answer.startswith(UNKNOWN)


async def test_without_a_search_it_walks_the_folders(
    run_loop: RunLoop, corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = tuple(s for s in corpus.specs if s.name in ("list_directory", "read_file"))
    monkeypatch.setattr(type(corpus), "specs", some)

    answer = await asked(run_loop, corpus, "Who designed the lighthouse?")

    assert answer.sources[0].file == "notes/island.txt"


async def test_with_grep_alone_it_cites_the_lines_that_match(
    run_loop: RunLoop, corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = tuple(spec for spec in corpus.specs if spec.name == "grep")
    monkeypatch.setattr(type(corpus), "specs", some)

    answer = await asked(run_loop, corpus, "Who designed the lighthouse?")

    assert (answer.sources[0].file, answer.sources[0].line) == ("notes/island.txt", 5)


async def test_the_question_itself_and_earlier_answers_are_no_evidence(
    run_loop: RunLoop, files: Any, tmp_path: Path
) -> None:
    question = "Which day is the brass band practice?"
    (tmp_path / "README.md").write_text(
        f'# Try it\n\n```console\nask "{question}"\n```\n\n```text\nThe brass band '
        "practice is on Monday. (extracted by the offline model, which is not a language "
        "model)\n```\n",
        encoding="utf-8",
    )
    (tmp_path / "band.md").write_text(
        f"# Band\n\nQ: {question} A: The practice of the brass band is on the day after "
        "Wednesday.\n",
        encoding="utf-8",
    )

    found = await asked(run_loop, files(tmp_path), question)

    assert "after Wednesday" in found.answer
    assert {source.file for source in found.sources} == {"band.md"}
