"""The offline model fills whatever fields are wanted, from what it was given only."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import anyio
import pytest
from kaizen import (
    Message,
    ModelDelta,
    ModelError,
    ModelReply,
    ModelRequest,
    ModelSettings,
    OutputSpec,
    Provider,
    ToolUse,
)
from kaizen_offline import OfflineProvider
from pydantic import BaseModel, Field, create_model

pytestmark = pytest.mark.asyncio

NOTE = "(extracted by the offline model, which is not a language model)"
UNKNOWN = "I do not know: nothing in what I read answers this."
FERRY = """\
The ferry leaves Brandvik at 7:15 and carries 45 cars. It serves four ports: Brandvik,
Skarholm, Ostvik and Lund. Dogs are not allowed in the saloon. Bicycles are carried free of
charge. Tickets cost 12.50 euros for adults. The captain is Marta Dahl, who is reached at
marta.dahl@ferry.example. The ferry was launched on 3 May 2019.""".replace("\n", " ")


class Person(BaseModel):
    name: str | None
    email: str | None


class Cited(BaseModel):
    path: str
    line: int
    text: str
    relevance: float


class Tree(BaseModel):
    label: str
    branches: list[Tree]


def wanted(fields: Mapping[str, Any]) -> type[BaseModel]:
    return type("Wanted", (BaseModel,), {"__annotations__": dict(fields)})


def request(content: str, **fields: Any) -> ModelRequest:
    output = None
    if fields:
        output = OutputSpec(name="Wanted", schema=wanted(fields).model_json_schema())
    return ModelRequest(
        messages=(
            Message(role="system", content="Answer.", origin="signature"),
            Message(role="user", content=content, origin="user"),
        ),
        output=output,
    )


async def answer(content: str, **fields: Any) -> Mapping[str, Any]:
    """Return the outputs, after pydantic has accepted them."""
    reply = await OfflineProvider().complete(request(content, **fields))
    wanted(fields).model_validate_json(reply.text)
    values: Mapping[str, Any] = json.loads(reply.text)
    return values


def about_ferry(question: str) -> str:
    return f"context: {FERRY}\nquestion: {question}"


async def test_it_is_a_provider() -> None:
    assert isinstance(OfflineProvider(), Provider)


async def test_the_answer_is_a_sentence_that_was_given_and_says_who_found_it() -> None:
    found = await answer(about_ferry("Who is the captain?"), answer=str, confidence=float)

    sentence = found["answer"].removesuffix(NOTE).strip()
    assert sentence in FERRY
    assert "Marta Dahl" in sentence
    assert found["answer"].count(NOTE) == 1
    assert 0.5 < found["confidence"] < 1


async def test_a_reply_in_words_says_where_and_by_whom() -> None:
    reply = await OfflineProvider().complete(request(about_ferry("Who is the captain?")))

    assert "Marta Dahl" in reply.text
    assert reply.text.endswith(NOTE)
    assert reply.model == "offline-extractive"


@pytest.mark.parametrize(
    "content",
    ["Hello there", "What is the capital of Peru?", about_ferry("Who owns the cinema?")],
)
async def test_what_was_not_given_is_not_known(content: str) -> None:
    found = await answer(
        content,
        answer=str,
        confidence=float,
        sources=list[Cited],
        names=list[str],
        cinema=str | None,
        seats=int | None,
        open_today=bool | None,
        found=bool,
        colour=Literal["red", "unknown"],
    )

    assert found["answer"] == f"{UNKNOWN} {NOTE}"
    assert (found["confidence"], found["found"], found["colour"]) == (0, False, "unknown")
    assert found["sources"] == found["names"] == []
    assert [found[name] for name in ("cinema", "seats", "open_today")] == [None] * 3


@pytest.mark.parametrize(
    "kind",
    [int, bool, date, Literal["red", "blue"], Person, list[int]],
    ids=["number", "yes or no", "date", "choice", "object", "list"],
)
async def test_a_field_without_an_honest_value_is_an_error_and_not_a_guess(
    kind: Any,
) -> None:
    field: Any = kind
    if kind == list[int]:
        field = create_model("Some", items=(list[int], Field(min_length=1)))
    if kind is Person:
        field = create_model("Strict", owner_age=(int, ...))

    with pytest.raises(ModelError, match="cannot answer field") as caught:
        await answer(about_ferry("Who owns the cinema?"), answer=str, cinema=field)

    assert "null" in caught.value.remedy
    assert not caught.value.retryable


async def test_an_enumeration_becomes_a_list() -> None:
    found = await answer(about_ferry("Which ports does the ferry serve?"), ports=list[str])

    assert found["ports"] == ["Brandvik", "Skarholm", "Ostvik", "Lund"]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("The island has 3 harbours.", "How many islands are there?"),
        ("The captain has 40 cats. The ferry is blue.", "How old is the captain's ferry?"),
    ],
)
async def test_a_number_that_may_count_something_else_is_not_trusted(
    text: str, question: str
) -> None:
    found = await answer(
        f"context: {text}\nquestion: {question}", number=int | None, confidence=float
    )

    assert found["confidence"] <= 0.5


@pytest.mark.parametrize(
    ("text", "number"),
    [("The island has 3 harbours.", 3), ("Harbours: 3 on the island.", 3)],
)
async def test_a_number_of_what_was_counted_is_trusted(text: str, number: int) -> None:
    question = "How many harbours has the island?"

    found = await answer(
        f"context: {text}\nquestion: {question}", number=int, confidence=float
    )

    assert found["number"] == number
    assert found["confidence"] > 0.5


async def test_a_year_is_a_number_only_where_a_year_is_asked_for() -> None:
    text = "In 1950 the population of the island was counted."

    people = await answer(
        f"context: {text}\nquestion: What is the population of the island?",
        answer=int | None,
    )
    year = await answer(
        f"context: {text}\nquestion: In which year was the population counted?",
        answer=int | None,
    )

    assert people["answer"] is None
    assert year["answer"] == 1950


async def test_a_number_is_the_one_next_to_the_words_of_the_question() -> None:
    cars = await answer(about_ferry("How many cars does the ferry carry?"), cars=int)
    price = await answer(about_ferry("How much is a ticket for adults?"), price=float)

    assert (cars["cars"], price["price"]) == (45, 12.5)


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("Are dogs allowed in the saloon?", False),
        ("Are dogs not allowed in the saloon?", True),
        ("Are bicycles carried free of charge?", True),
    ],
)
async def test_yes_or_no_follows_the_denials_and_is_never_sure(
    question: str, fact: bool
) -> None:
    found = await answer(about_ferry(question), answer=bool, confidence=float)

    assert found["answer"] is fact
    assert found["confidence"] <= 0.5


async def test_a_field_that_names_a_fact_is_not_turned_round_by_the_question() -> None:
    found = await answer(about_ferry("Are dogs not allowed in the saloon?"), allowed=bool)

    assert found["allowed"] is False


async def test_a_choice_is_what_the_evidence_names() -> None:
    found = await answer(
        about_ferry("What does a ticket for adults cost?"),
        currency=Literal["dollars", "euros"],
    )

    assert found["currency"] == "euros"


async def test_objects_are_filled_field_by_field() -> None:
    found = await answer(
        about_ferry("Who is the captain?"), captain=Person, ship=Person | None
    )

    assert found["captain"] == {"name": "Marta Dahl", "email": "marta.dahl@ferry.example"}


async def test_dates_are_read_in_words_and_written_as_iso() -> None:
    found = await answer(about_ferry("When was the ferry launched?"), launched=date)

    assert found["launched"] == "2019-05-03"


async def test_citations_come_in_the_form_that_is_wanted() -> None:
    asked = "context: The harbour is deep.\nThe crane is red.\nquestion: Is the crane red?"

    found = await answer(asked, answer=str, sources=list[str], evidence=list[Cited])

    assert found["sources"] == ["context:2: The crane is red."]
    [cited] = found["evidence"]
    assert (cited["path"], cited["line"]) == ("context", 2)
    assert cited["text"] == "The crane is red."
    assert 0 < cited["relevance"] <= 1


async def test_the_reasoning_says_what_was_looked_for_and_where_it_was() -> None:
    found = await answer(
        about_ferry("Who is the captain?"), reasoning=str, answer=str, confidence=float
    )

    assert "captain" in found["reasoning"]
    assert "context:1" in found["reasoning"]


async def test_fields_are_read_from_labels_where_nothing_is_asked() -> None:
    invoice = "text: Invoice 4711\nSeller: Acme\nEmail: pay@acme.example\nTotal: 99.50\n"

    found = await answer(
        f"{invoice}Due date: 2031-04-05",
        seller=str,
        email=str,
        total=float,
        due_date=date,
        iban=str | None,
    )

    assert found == {
        "seller": "Acme",
        "email": "pay@acme.example",
        "total": 99.5,
        "due_date": "2031-04-05",
        "iban": None,
    }


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("Loved it, works perfectly!", "good"),
        ("Terrible quality, it broke after a week.", "bad"),
        ("This is not good.", "bad"),
        ("Great screen, awful battery.", "mixed"),
    ],
)
async def test_an_opinion_is_told_by_praise_and_blame_with_little_confidence(
    text: str, sentiment: str
) -> None:
    found = await answer(
        f"text: {text}", sentiment=Literal["good", "bad", "mixed"], confidence=float
    )

    assert found["sentiment"] == sentiment
    assert 0 < found["confidence"] <= 0.5


async def test_a_class_is_told_by_the_words_that_its_name_shares_with_the_text() -> None:
    found = await answer(
        "ticket: The printer is dead, please get technical support.",
        category=Literal["billing", "technical_support", "shipping"],
        confidence=float,
    )

    assert found["category"] == "technical_support"
    assert 0 < found["confidence"] <= 0.5


async def test_a_class_that_nothing_speaks_for_is_an_error() -> None:
    with pytest.raises(ModelError, match="cannot answer field 'sentiment'"):
        await answer("text: It came on Monday.", sentiment=Literal["good", "bad"])


async def test_a_summary_is_made_of_sentences_of_the_text() -> None:
    text = (
        "Foxes eat mice and voles. Mice eat grain. The weather was nice on that day. Grain "
        "draws mice, and mice draw foxes. Nobody had expected the bus to be so late."
    )

    found = await answer(f"text: {text}", summary=str)

    sentences = found["summary"].removesuffix(NOTE).strip().split(". ")
    assert 1 <= len(sentences) <= 3
    assert all(sentence.rstrip(".") in text for sentence in sentences)
    assert "mice" in found["summary"]


async def test_a_text_keeps_to_its_longest_length() -> None:
    short: Any = create_model("Short", answer=(str, Field(max_length=30)))

    reply = await OfflineProvider().complete(
        ModelRequest(
            messages=request(about_ferry("Who is the captain?")).messages,
            output=OutputSpec(name="Short", schema=short.model_json_schema()),
        )
    )

    short.model_validate_json(reply.text)


async def test_a_schema_that_contains_itself_is_filled_or_refused_but_ends() -> None:
    found = await answer(about_ferry("Who is the captain?"), answer=str, tree=Tree | None)

    assert found["answer"]


async def test_a_schema_with_a_broken_reference_is_named() -> None:
    asked = ModelRequest(
        messages=request("question: Who?").messages,
        output=OutputSpec(name="Broken", schema={"$ref": "#/$defs/missing"}),
    )

    with pytest.raises(ModelError, match="cannot read the schema of 'Broken'"):
        await OfflineProvider().complete(asked)


async def test_background_from_a_plugin_is_read_as_well() -> None:
    asked = request("question: What does Bob like?", answer=str)

    reply = await OfflineProvider().complete(
        asked.with_context("Bob likes chess.", origin="memory")
    )

    assert "Bob likes chess." in json.loads(reply.text)["answer"]


async def test_what_the_kernel_says_is_neither_question_nor_evidence() -> None:
    asked = request("question: Who is the captain?", answer=str).with_messages(
        Message(role="assistant", content="{}", origin="model"),
        Message(
            role="user", content="Your reply: the captain is missing.", origin="kernel"
        ),
    )

    reply = await OfflineProvider().complete(asked)

    assert json.loads(reply.text)["answer"].startswith(UNKNOWN)


async def test_in_a_session_the_last_question_is_answered() -> None:
    asked = request(about_ferry("Who is the captain?")).with_messages(
        Message(role="assistant", content="Marta Dahl.", origin="model"),
        Message(role="user", content=about_ferry("How many cars?"), origin="user"),
    )

    reply = await OfflineProvider().complete(asked)

    assert "45 cars" in reply.text
    assert "captain" not in reply.text


async def test_a_result_that_the_kernel_cut_is_read_up_to_its_last_whole_line() -> None:
    use = ToolUse(id="1", name="read_file", arguments='{"path": "log.txt"}')
    asked = request("question: Who is the captain?", answer=str, sources=list[Cited])
    asked = asked.with_messages(
        Message(role="assistant", content="", tool_uses=(use,)),
        Message(
            role="tool",
            content="The captain is Marta.\nThe ca\n[cut: 90 of 118 characters not shown]",
            tool_use_id="1",
            name="read_file",
        ),
    )

    found = json.loads((await OfflineProvider().complete(asked)).text)

    assert [each["text"] for each in found["sources"]] == ["The captain is Marta."]


async def test_a_torn_search_result_still_shows_what_it_holds() -> None:
    use = ToolUse(id="1", name="grep", arguments={"pattern": "captain"})
    whole = json.dumps(
        {"matches": [{"path": "a", "line": 4, "text": "Captain: Marta"}] * 9}
    )
    asked = request("question: Who is the captain?", sources=list[str]).with_messages(
        Message(role="assistant", content="", tool_uses=(use,)),
        Message(
            role="tool",
            content=f"{whole[:90]}\n[cut: 400 of 490 characters not shown]",
            tool_use_id="1",
            name="grep",
        ),
    )

    found = json.loads((await OfflineProvider().complete(asked)).text)

    assert found["sources"] == ["a:4: Captain: Marta"]


async def test_half_a_character_in_a_text_does_no_harm() -> None:
    asked = request(f"context: Ada keeps bees. {chr(0xD83D)}\nquestion: Who keeps bees?")

    reply = await OfflineProvider().complete(asked)

    assert reply.text.startswith("Ada keeps bees.")


async def test_a_stream_gives_the_words_and_then_the_reply() -> None:
    asked = request(about_ferry("Who is the captain?"))

    parts = [part async for part in OfflineProvider().stream(asked)]

    assert all(isinstance(part, ModelDelta) for part in parts[:-1])
    assert len(parts) > 5
    assert isinstance(parts[-1], ModelReply)
    assert "".join(part.text for part in parts[:-1]) == parts[-1].text


async def test_usage_is_counted_and_nothing_costs_anything() -> None:
    asked = request(about_ferry("Who is the captain?"))

    reply = await OfflineProvider().complete(asked)

    sent = sum(len(message.text) for message in asked.messages)
    assert reply.usage.requests == 1
    assert reply.usage.input_tokens == -(-sent // 4)
    assert reply.usage.output_tokens == -(-len(reply.text) // 4)
    assert reply.cost_usd == Decimal(0)


async def test_a_reply_in_words_keeps_to_the_most_tokens() -> None:
    asked = ModelRequest(
        messages=request(about_ferry("Who is the captain?")).messages,
        settings=ModelSettings(max_tokens=20),
    )

    reply = await OfflineProvider().complete(asked)

    assert 0 < reply.usage.output_tokens <= 20


async def test_it_describes_itself_as_free_and_able() -> None:
    profile = OfflineProvider().describe("anything")

    assert (profile.name, profile.tools, profile.structured_output) == (
        "offline-extractive",
        True,
        True,
    )
    assert profile.input_usd_per_million == profile.output_usd_per_million == Decimal(0)


async def test_it_invents_no_vectors() -> None:
    with pytest.raises(ModelError, match="cannot embed texts"):
        await OfflineProvider().embed(["Hello"])


async def test_many_conversations_run_at_once_and_none_hears_another() -> None:
    provider = OfflineProvider()
    found: dict[int, str] = {}

    async def ask(number: int) -> None:
        content = f"context: The code of door {number} is X{number}Y.\nquestion: "
        reply = await provider.complete(request(f"{content}What is the code of the door?"))
        found[number] = reply.text

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(ask, number)

    assert all(f"X{number}Y" in text for number, text in found.items())
    assert len(found) == 100


async def test_a_large_text_does_not_block_the_loop() -> None:
    large = " ".join(f"Crate {i} holds {i} apples." for i in range(20_000))
    gaps: list[float] = []

    async def count(scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                before = time.perf_counter()
                await anyio.sleep(0.001)
                gaps.append(time.perf_counter() - before)

    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        tasks.start_soon(count, scope)
        reply = await OfflineProvider().complete(
            request(f"context: {large}\nquestion: What does crate 19999 hold?")
        )
        scope.cancel()

    assert "19999 apples" in reply.text
    assert max(gaps) < 0.5 * sum(gaps)


@pytest.mark.parametrize(
    "shape",
    [
        lambda size: "# a" + " " * size + "x harbour",
        lambda size: "# " + "#" * size + " harbour" + "#" * size,
        lambda size: "e.g. A harbour " * (size // 15),
        lambda size: "The harbour opens at nine. " * (size // 27),
        lambda size: "harbour " + "Sand is wet. " * (size // 13),
        lambda size: "|" * size + "harbour",
        lambda size: "harbour opens." + ")" * size + "x",
        lambda size: "a.b@" * (size // 4) + " harbour opens",
    ],
    ids=[
        "blanks",
        "hashes",
        "abbreviations",
        "sentences",
        "sand",
        "bars",
        "brackets",
        "at",
    ],
)
async def test_the_work_on_a_long_line_grows_with_its_length_alone(
    shape: Callable[[int], str],
) -> None:
    async def cost(size: int) -> float:
        asked = request(f"context: {shape(size)}\nquestion: When does the harbour open?")
        before = time.process_time()
        await OfflineProvider().complete(asked)
        return time.process_time() - before

    gc.disable()  # It would take as long as all else in this process is large.
    try:
        await cost(100)  # what is imported for the first time
        short = min([await cost(15_000) for _ in range(3)])
        long = min([await cost(60_000) for _ in range(2)])
    finally:
        gc.enable()

    assert long < 8 * max(short, 0.002)


async def test_a_quote_leaves_out_what_could_not_be_read() -> None:
    found = await answer(
        "context: Caf\ufffd: the harbour opens at nine.\n"
        "question: When does the harbour open?",
        answer=str,
        quotes=list[str],
    )

    assert "the harbour opens at nine." in found["quotes"][0]
    assert "\ufffd" not in found["quotes"][0]


async def test_what_stands_far_behind_in_a_long_line_is_found() -> None:
    line = "Sand is wet. " * 900 + "The harbour opens at nine. " + "Mud is wet. " * 900

    reply = await OfflineProvider().complete(
        request(f"context: {line}\nquestion: When does the harbour open?")
    )

    assert "The harbour opens at nine." in reply.text


async def test_a_request_can_be_cancelled_while_it_is_searched() -> None:
    large = "\n".join(f"Crate {i} holds {i} apples." for i in range(50_000))

    with anyio.move_on_after(0.01) as scope:
        await OfflineProvider().complete(
            request(f"context: {large}\nquestion: Which crate?")
        )

    assert scope.cancelled_caught
