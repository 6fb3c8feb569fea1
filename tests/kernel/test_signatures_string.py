from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Optional, Union

import pytest
from kaizen.errors import SignatureError
from kaizen.media import Image
from kaizen.signatures import (
    InputField,
    Signature,
    SignatureCompiler,
    SignatureParser,
    WrittenSignature,
    signature,
)


def parse(source: str) -> type[Signature]:
    return SignatureParser().parse(source)


def test_a_string_names_inputs_and_outputs() -> None:
    made = parse("question, context -> answer: str, confidence: float")

    assert list(made.input_fields) == ["question", "context"]
    assert [field.annotation for field in made.input_fields.values()] == [str, str]
    assert {n: f.annotation for n, f in made.output_fields.items()} == {
        "answer": str,
        "confidence": float,
    }
    assert made.__name__ == "QuestionContextAnswerConfidence"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("str", str),
        ("int", int),
        ("float", float),
        ("bool", bool),
        ("dict", dict),
        ("list", list),
        ("list[int]", list[int]),
        ("List[int]", list[int]),
        ("dict[str, list[int]]", dict[str, list[int]]),
        ("Dict[str, int]", dict[str, int]),
        ("set[str]", set[str]),
        ("tuple[int, str]", tuple[int, str]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("Optional[int]", Optional[int]),  # noqa: UP045
        ("int | None", Optional[int]),  # noqa: UP045
        ("Union[int, str]", Union[int, str]),  # noqa: UP007
        ("list[int | str] | None", Optional[list[Union[int, str]]]),  # noqa: UP007, UP045
        ("Literal['a', \"b\", 3, True]", Literal["a", "b", 3, True]),
        ("Literal['x, y]', '->', 'it\\'s']", Literal["x, y]", "->", "it's"]),
        ("datetime", datetime),
        ("Decimal", Decimal),
        ("Image", Image),
        ("Any", Any),
    ],
)
def test_a_type_is_what_it_says(written: str, meant: Any) -> None:
    made = parse(f"a: {written}, z -> b: {written}, c")

    assert made.input_fields["a"].annotation == meant
    assert made.output_fields["b"].annotation == meant
    assert list(made.output_fields) == ["b", "c"]


def test_a_default_may_be_written() -> None:
    made = parse("a: int = 3, b = 'x, y', c: float = -1.5, d: bool = True -> e")

    assert SignatureCompiler().compile(made).validate_inputs({}) == {
        "a": 3,
        "b": "x, y",
        "c": -1.5,
        "d": True,
    }


def test_lines_and_spaces_mean_nothing() -> None:
    made = parse("\n  question : str ,\n context:list [ str ]->answer\n")

    assert made.input_fields["context"].annotation == list[str]


def test_there_may_be_no_inputs() -> None:
    assert not parse("-> joke").input_fields


@pytest.mark.parametrize(
    ("source", "problem", "column"),
    [
        ("question answer", "expects ',' or '->'", 9),
        ("question", "expects ',' or '->'", 8),
        ("", "expects the name of an input", 0),
        ("a, -> b", "expects the name of an input", 3),
        ("a -> ", "has no outputs", 4),
        ("a -> b,", "expects the name of an output", 7),
        ("a -> b c", "expects ',' or the end", 7),
        ("a -> b -> c", "expects ',' or the end", 7),
        ("a -> a", "names 'a' twice", 5),
        ("a, a -> b", "names 'a' twice", 3),
        ("class -> b", "expects the name of an input", 0),
        ("_a -> b: flot", "unknown type 'flot'", 9),
        ("a: -> b", "expects a type", 3),
        ("a: list[str -> b", "expects ',' or ']'", 12),
        ("a: list[] -> b", "expects a type", 8),
        ("a: list[int, str] -> b", "gives list 2 types where it takes 1", 3),
        ("a: dict[str] -> b", "gives dict 1 types where it takes 2", 3),
        ("a: str[int] -> b", "expects ',' or '->'", 6),
        ("a: list[...] -> b", "may use '...' only", 3),
        ("a: Literal -> b", "expects '['", 11),
        ("a: Literal[x] -> b", "expects a quoted text", 11),
        ("a: Optional -> b", "expects '['", 12),
        ("a: Literal['x] -> b", "a quote that is not closed", 11),
        ("a: str = foo -> b", "expects a quoted text", 9),
        ("a; b -> c", "cannot hold ';'", 1),
        ("a: __import__('os').system('true') -> b", "cannot hold '('", 13),
        ("a: [x for x in y] -> b", "expects a type", 3),
    ],
)
def test_a_malformed_string_is_refused_with_the_place(
    source: str, problem: str, column: int
) -> None:
    with pytest.raises(SignatureError) as caught:
        parse(source)

    message = str(caught.value)
    assert problem in message
    assert f"at position {column}." in message
    line, caret = message.splitlines()[-2:]
    assert line.strip() == source.strip()
    assert caret == " " * (column + 2) + "^"


def test_a_misspelt_type_gets_a_proposal() -> None:
    with pytest.raises(
        SignatureError, match=r"Did you mean 'float'\? Known types: Any, Au"
    ):
        parse("a -> b: flot")


def test_the_place_is_shown_in_its_line() -> None:
    with pytest.raises(SignatureError) as caught:
        parse("first,\nsecond: strr\n-> answer")

    assert str(caught.value).endswith("\n  second: strr\n          ^")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("a" * 20_000 + " -> b", "is longer than 10000 characters"),
        ("a: " + "list[" * 60 + "int" + "]" * 60 + " -> b", "is nested deeper than 20"),
        (", ".join(f"a{i}" for i in range(300)) + " -> b", "has more than 200 fields"),
    ],
)
def test_sizes_are_bounded(source: str, problem: str) -> None:
    with pytest.raises(SignatureError, match=problem) as caught:
        parse(source)

    assert len(str(caught.value)) < 1000


def test_a_string_alone_is_a_signature() -> None:
    made = signature("question -> answer", name="Ask")

    assert isinstance(made, WrittenSignature)
    assert list(made.input_fields) == ["question"]
    assert SignatureCompiler().compile(made).name == "Ask"
    assert made.instructions == ""


def test_a_string_decorates_a_class_that_gives_name_and_instructions() -> None:
    @signature("question -> answer: str, confidence: float")
    class Ask(Signature, abstract=True):
        """Answer in one sentence."""

    assert issubclass(Ask, Signature)
    assert Ask.__name__ == "Ask"
    assert Ask.__module__ == __name__
    assert Ask.instructions == "Answer in one sentence."
    assert list(Ask.output_fields) == ["answer", "confidence"]


def test_a_string_decorates_a_function_that_gives_name_and_instructions() -> None:
    @signature("question -> answer")
    def ask(question: str) -> None:
        """Answer in one sentence."""

    assert issubclass(ask, Signature)
    assert (ask.__name__, ask.instructions) == ("ask", "Answer in one sentence.")


def test_a_string_can_decorate_twice() -> None:
    written = signature("question -> answer")

    class First:
        """One."""

    class Second:
        """Two."""

    made = [written(First), written(Second)]
    assert [one.instructions for one in made] == ["One.", "Two."]


def test_a_string_adds_its_fields_to_those_of_a_signature() -> None:
    class WithTone(Signature, abstract=True):
        """Answer kindly."""

        tone: str = InputField(default="kind")

    made = signature("question -> answer")(WithTone)

    assert set(made.input_fields) == {"tone", "question"}
    assert made.instructions == "Answer kindly."


def test_a_reserved_name_is_refused_in_a_string_too() -> None:
    with pytest.raises(SignatureError, match="reserved name 'instructions'"):
        parse("instructions -> answer")
