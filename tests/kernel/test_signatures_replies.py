from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from kaizen.errors import InputError, OutputError
from kaizen.media import Image
from kaizen.signatures import (
    CompiledSignature,
    InputField,
    OutputField,
    Signature,
    SignatureCompiler,
)
from pydantic import AfterValidator, BaseModel

PNG = b"\x89PNG\r\n\x1a\n"


class Review(Signature):
    """Judge a product review."""

    text: str = InputField(desc="The review")
    sentiment: Literal["good", "bad", "mixed"] = OutputField(desc="Overall tone")
    confidence: float = OutputField(desc="0 to 1", ge=0, le=1)
    reasons: list[str] = OutputField(default_factory=list)


class Person(BaseModel):
    name: str
    age: int = 0


class People(Signature):
    """Find people."""

    text: str = InputField()
    people: list[Person] = OutputField()
    anything: Any = OutputField(default=None)
    counts: dict[str, int] = OutputField(default_factory=dict)


class Ask(Signature):
    """Answer."""

    question: str = InputField()
    answer: str = OutputField(desc="One sentence")


def compiled(signature: type[Signature]) -> CompiledSignature:
    return SignatureCompiler().compile(signature)


def feedback(signature: type[Signature], reply: str) -> tuple[str, ...]:
    with pytest.raises(OutputError) as caught:
        compiled(signature).parse_output(reply)
    assert caught.value.__context__ is None
    return caught.value.feedback


GOOD = '{"sentiment": "good", "confidence": 0.9, "reasons": ["fun"]}'
GOOD_VALUES = {"sentiment": "good", "confidence": 0.9, "reasons": ["fun"]}


# Replies that are understood


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        f"  \n{GOOD}\n ",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\n",
        f"Here you are:\n\n```json\n{GOOD}\n```\n\nAnything else?",
        f"Sure! {GOOD} I hope it helps {{really}}.",
        f'He said "so": {GOOD}',
    ],
)
def test_one_object_is_found_wherever_it_stands(reply: str) -> None:
    assert compiled(Review).parse_output(reply) == GOOD_VALUES


def test_colons_in_texts_do_no_harm() -> None:
    values = {"sentiment": "bad", "confidence": 1, "reasons": ["a: b", 'the "end": c']}

    assert compiled(Review).parse_output(json.dumps(values)) == values


def test_what_may_be_left_out_may_be_null_too() -> None:
    made = {"sentiment": "bad", "confidence": 1.0, "reasons": []}

    assert compiled(Review).parse_output('{"sentiment": "bad", "confidence": 1}') == made
    reply = '{"sentiment": "bad", "confidence": 1, "reasons": null}'
    assert compiled(Review).parse_output(reply) == made


def test_values_come_out_as_their_types_say() -> None:
    made = compiled(People).parse_output('{"people": [{"name": "Bob", "age": "3"}]}')

    assert made == {"people": [Person(name="Bob", age=3)], "anything": None, "counts": {}}


def test_mappings_may_come_as_the_pairs_that_the_strict_schema_asks_for() -> None:
    reply = {
        "people": [],
        "anything": [{"key": "a", "value": 1}],
        "counts": [{"key": "a", "value": 1}, {"key": "b", "value": 2}],
    }

    made = compiled(People).parse_output(f"```json\n{json.dumps(reply)}\n```")

    assert made["counts"] == {"a": 1, "b": 2}
    assert made["anything"] == [{"key": "a", "value": 1}]


def test_pairs_inside_other_types_are_mappings_too() -> None:
    class Shelf(BaseModel):
        books: dict[Literal["a", "b"], dict[str, int]]
        above: Shelf | None = None

    class Find(Signature):
        shelves: tuple[Shelf, int] = OutputField()

    pairs = [{"key": "a", "value": [{"key": "x", "value": 1}]}]
    reply = {"shelves": [{"books": pairs, "above": {"books": [], "above": None}}, 3]}

    made = compiled(Find).parse_output(json.dumps(reply))

    assert made == {"shelves": (Shelf(books={"a": {"x": 1}}, above=Shelf(books={})), 3)}


def test_a_key_that_comes_twice_in_pairs_is_refused() -> None:
    pairs = [{"key": "a", "value": 1}, {"key": "a", "value": 2}]

    lines = feedback(People, json.dumps({"people": [], "anything": 1, "counts": pairs}))

    assert lines == ("counts: should be an object, got a list",)


def test_a_single_text_needs_no_json() -> None:
    for reply in ("Because.", '{"answer": "Because."}', "```\nx\n```"):
        assert compiled(Ask).parse_output(reply) == {"answer": reply}


def test_a_text_with_demands_does_need_json() -> None:
    class Strict(Signature):
        answer: Annotated[str, AfterValidator(str.upper)] = OutputField()

    assert not compiled(Strict).plain_text
    assert compiled(Strict).parse_output('{"answer": "x"}') == {"answer": "X"}


# Replies that are refused


def test_each_field_that_does_not_fit_gets_one_line() -> None:
    lines = feedback(Review, '{"sentiment": "fine", "confidence": 7, "extra": 1}')

    assert lines == (
        "sentiment: should be 'good', 'bad' or 'mixed', got \"fine\"",
        "confidence: should be <= 1, got 7",
        "extra: is not expected here; the outputs are sentiment, confidence, reasons",
    )


def test_a_line_tells_the_place_in_what_is_nested() -> None:
    lines = feedback(People, '{"people": [{"name": "Bob"}, {"age": "old"}]}')

    assert lines[0] == "people[1].name: is missing"
    assert lines[1].startswith("people[1].age: should be a valid integer")
    assert lines[1].endswith('got "old"')


def test_the_alternatives_of_a_union_share_a_line() -> None:
    class Pick(Signature):
        value: int | list[int] = OutputField()

    (line,) = feedback(Pick, '{"value": {"a": 1}}')

    assert (
        line == "value: should be a valid integer or should be a valid array, got an object"
    )


@pytest.mark.parametrize("reply", ["", "  \n\t"])
@pytest.mark.parametrize("signature", [Review, Ask])
def test_an_empty_reply_is_refused(signature: type[Signature], reply: str) -> None:
    (line,) = feedback(signature, reply)

    assert "the reply is empty" in line


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("I cannot answer that.", "holds no JSON object; reply with one"),
        ("It is {good}.", "holds no JSON object"),
        ('{"sentiment": "good", "confi', "is not valid JSON: Unterminated string"),
        ('```json\n{"sentiment": \n```', "is not valid JSON: Expecting value"),
        (f"{GOOD} {GOOD}", "holds 2 JSON objects; reply with exactly one"),
        (f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", "holds 2 JSON objects"),
        (
            '{"sentiment": "good", "sentiment": "bad", "confidence": 1}',
            "sentiment: occurs twice",
        ),
        (
            '{"sentiment": "good", "confidence": 1, "confidence": 1}',
            "confidence: occurs twice",
        ),
        (
            '{"sentiment": "good", "confidence": NaN}',
            "confidence: should be a finite number",
        ),
        ('{"sentiment": "good", "confidence": Infinity}', "confidence: should be"),
        ('{"sentiment": "good", "confidence": 1e999}', "confidence: should be"),
        (f"[{GOOD}]", "the reply: should be an object"),
        ('"good"', "the reply: should be an object"),
        ('{"sentiment": "\ud800", "confidence": 1}', "unable to parse"),
        ('{"sentiment": "\\ud800", "confidence": 1}', "invalid JSON"),
    ],
)
def test_what_is_no_honest_json_is_refused(reply: str, words: str) -> None:
    assert words in " ".join(feedback(Review, reply))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"a": 1, "a": 2}', "a: occurs twice in one object"),
        ("NaN", "the reply holds NaN"),
        ("-Infinity", "the reply holds -Infinity"),
        ("1e999", "a number that is too large"),
        ("[" * 150 + "]" * 150, "nested deeper than 100 levels"),
        ("[" * 500 + "]" * 500, "nested deeper than 100 levels"),
        ('{"a":' * 120 + "1" + "}" * 120, "nested deeper than 100 levels"),
        ("[" * 90 + "[]," * 200 + "[]" + "]" * 90, None),
        ('"' + "[" * 150 + '\\"{"', None),
    ],
)
def test_a_place_for_anything_takes_only_honest_json(value: str, words: str | None) -> None:
    reply = f'{{"people": [], "anything": {value}}}'

    if words is None:
        assert compiled(People).parse_output(reply)["people"] == []
    else:
        assert words in feedback(People, reply)[0]


@pytest.mark.parametrize("signature", [Review, Ask, People])
def test_a_reply_of_ten_megabytes_is_refused_unread(signature: type[Signature]) -> None:
    started = time.process_time()

    (line,) = feedback(signature, "x" * 10_000_000)

    assert "longer than 1048576 characters" in line
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    "reply",
    [
        "{" * 1_000_000,
        "[" * 1_000_000,
        '{"a":' * 200_000,
        '{"anything":' + "[]," * 300_000,
        '{"a":"' + '\\"' * 500_000,
        '"\\"' * 300_000,
        "```json\n" + " " * 1_000_000,
        "```" * 300_000,
        "{} " * 300_000,
        '{"people": [' + "1," * 400_000 + "1]}",
        '{"people": ' + "[" * 80 + "1," * 400_000 + "1" + "]" * 80 + "}",
        ('{"a":[' + "1," * 5000) * 90,
        "{" + ",".join(f'"k{i}": 1' for i in range(70_000)) + "}",
        '{"people": [], "anything": ' + "9" * 100_000 + "}",
        '{"people": [], "anything": "' + "{" * 500_000,
    ],
    ids=range(15),
)
@pytest.mark.parametrize("signature", [Review, People])
def test_a_hostile_reply_is_refused_fast(signature: type[Signature], reply: str) -> None:
    started = time.process_time()

    lines = feedback(signature, reply)

    assert time.process_time() - started < 5
    assert len(lines) <= 21
    assert sum(map(len, lines)) < 10_000


def test_an_error_can_be_pickled_and_shows_only_the_start_of_a_reply() -> None:
    import pickle

    with pytest.raises(OutputError) as caught:
        compiled(Review).parse_output("no " * 1000)

    copied = pickle.loads(pickle.dumps(caught.value))
    assert copied.feedback == caught.value.feedback
    assert len(str(caught.value)) < 500


def test_a_model_cannot_make_us_read_a_file(tmp_path: Path) -> None:
    class Draw(Signature):
        picture: Image = OutputField()

    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for value in (str(path), Image(path).to_json()):
        (line,) = feedback(Draw, json.dumps({"picture": value}))
        assert "is a local file, which is not allowed here" in line

    reply = json.dumps({"picture": "https://example.org/a.png"})
    assert compiled(Draw).parse_output(reply)["picture"].url == "https://example.org/a.png"
    assert compiled(Draw).validate_outputs({"picture": path})["picture"].path == path


def test_outputs_of_other_makers_are_validated_too() -> None:
    assert compiled(Ask).validate_outputs({"answer": "x"}) == {"answer": "x"}
    with pytest.raises(OutputError) as caught:
        compiled(Ask).validate_outputs({"answr": "x"})
    assert caught.value.feedback == (
        "answer: is missing",
        "answr: is not expected here; the outputs are answer",
    )


# Prompts


def test_the_prompts_say_what_goes_in_and_what_comes_out() -> None:
    review = compiled(Review)

    assert review.system_prompt == (
        "Judge a product review.\n\n"
        "You are given:\n- text: The review\n\n"
        "You answer with:\n"
        '- sentiment ("good" | "bad" | "mixed"): Overall tone\n'
        "- confidence (float): 0 to 1\n"
        "- reasons (list[str], optional)"
    )
    assert review.prompted_system_prompt.startswith(review.system_prompt)
    assert json.dumps(review.legacy_output_schema) in review.prompted_system_prompt


def test_a_single_text_is_asked_for_without_a_schema() -> None:
    ask = compiled(Ask)

    assert ask.plain_text
    assert ask.prompted_system_prompt == ask.system_prompt
    assert ask.system_prompt.endswith(
        "Reply with the text of answer and nothing else: One sentence"
    )


# The user message


@dataclass
class Point:
    x: int
    tags: set[str]


class Album(BaseModel):
    cover: Image


class Tone(Enum):
    KIND = "kind"


def rendered(annotation: Any, value: Any) -> Any:
    ask = type(
        "Ask",
        (Signature,),
        {
            "__annotations__": {"value": annotation, "answer": str},
            "value": InputField(),
            "answer": OutputField(),
        },
    )
    signature = compiled(ask)
    return signature.render_inputs(signature.validate_inputs({"value": value}))


def test_inputs_are_rendered_by_name_in_order() -> None:
    class Two(Signature):
        question: str = InputField()
        context: str = InputField(default="none")
        answer: str = OutputField()

    two = compiled(Two)

    values = two.validate_inputs({"question": "100 % sure?"})
    assert two.render_inputs(values) == "question: 100 % sure?\n\ncontext: none"
    assert two.render_inputs({"context": "x"}) == "context: x"


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (str, "a\nb", "a\nb"),
        (int, 3, "3"),
        (bool, True, "true"),
        (float, 0.5, "0.5"),
        (Tone, Tone.KIND, "kind"),
        (list[str], ["ä", "b"], '["ä", "b"]'),
        (Person, Person(name="Bob"), '{"name": "Bob", "age": 0}'),
        (Point, Point(1, {"b", "a"}), '{"x": 1, "tags": ["a", "b"]}'),
        (datetime, "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        (dict[str, Person], {"a": {"name": "Bob"}}, '{"a": {"name": "Bob", "age": 0}}'),
        (set[str], {"c", "a", "b"}, '["a", "b", "c"]'),
        (dict[str, set[int]], {"x": {3, 1, 2}}, '{"x": [1, 2, 3]}'),
        (str | None, None, "None"),
    ],
)
def test_a_value_is_rendered_readably(annotation: Any, value: Any, text: str) -> None:
    expected = "Begin." if value is None else f"value: {text}"

    assert rendered(annotation, value) == expected


def test_without_inputs_the_model_is_told_to_begin() -> None:
    class Joke(Signature):
        joke: str = OutputField()

    assert compiled(Joke).render_inputs({}) == "Begin."


def test_media_stand_where_they_belong() -> None:
    class Compare(Signature):
        question: str = InputField()
        left: Image = InputField()
        others: list[Image] = InputField()
        notes: dict[str, Any] = InputField()
        last: str = InputField()
        answer: str = OutputField()

    left, other, third = (Image(PNG + bytes([i])) for i in range(3))
    compare = compiled(Compare)
    values = compare.validate_inputs(
        {
            "question": "Same?",
            "left": left,
            "others": [other],
            "notes": {"a": Album(cover=third), "b": 1},
            "last": "Hurry",
        }
    )

    assert compare.render_inputs(values) == (
        "question: Same?\n\nleft:",
        left,
        "others:",
        other,
        'notes: {"a": {"cover": "[image 1]"}, "b": 1}',
        third,
        "last: Hurry",
    )


def test_inputs_from_a_stranger_may_hold_no_paths(tmp_path: Path) -> None:
    class See(Signature):
        picture: Image = InputField()
        answer: str = OutputField()

    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    see = compiled(See)

    assert see.validate_inputs({"picture": str(path)})["picture"].path == path
    with pytest.raises(InputError, match="'picture' is a local file, which is not allowed"):
        see.validate_inputs({"picture": str(path)}, local_files=False)
    url = "https://example.org/a.png"
    assert see.validate_inputs({"picture": url}, local_files=False)["picture"].url == url
