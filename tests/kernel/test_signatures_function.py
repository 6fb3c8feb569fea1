from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import pytest
from kaizen.errors import SignatureError
from kaizen.signatures import (
    InputField,
    OutputField,
    Signature,
    SignatureCompiler,
    SignatureParser,
    signature,
)
from pydantic import BaseModel, Field


class Verdict(BaseModel):
    """What came of it."""

    sentiment: Literal["good", "bad"] = Field(description="Overall tone")
    confidence: float = Field(default=0.5, ge=0, le=1)
    tags: list[str] = []


@dataclass
class Judged:
    sentiment: str
    confidence: float = 0.5
    tags: list[str] = field(default_factory=list)


class Marked(NamedTuple):
    sentiment: str
    confidence: float = 0.5


class Noted(TypedDict):
    sentiment: str
    confidence: NotRequired[float]


def test_a_function_gives_inputs_output_and_instructions() -> None:
    @signature
    def summarize(text: str, sentences: int = 3) -> str:
        """Summarize a text."""
        raise AssertionError("never called")

    assert issubclass(summarize, Signature)
    assert summarize.__name__ == "summarize"
    assert summarize.instructions == "Summarize a text."
    assert {n: f.required for n, f in summarize.input_fields.items()} == {
        "text": True,
        "sentences": False,
    }
    assert list(summarize.output_fields) == ["result"]
    assert SignatureCompiler().compile(summarize).plain_text


def test_a_coroutine_function_does_as_well() -> None:
    @signature
    async def count(text: str) -> int:
        """Count words."""
        return len(text)

    assert count.output_fields["result"].annotation is int


def test_parameters_may_be_described() -> None:
    @signature
    def ask(
        text: Annotated[str, Field(description="What to read")],
        limit: int = InputField(desc="How much", default=3, ge=1),
    ) -> str:
        raise AssertionError("never called")

    assert ask.input_fields["text"].description == "What to read"
    assert ask.input_fields["limit"].description == "How much"
    assert SignatureCompiler().compile(ask).validate_inputs({"text": "x"})["limit"] == 3


def test_the_fields_of_a_returned_model_are_the_outputs() -> None:
    @signature
    def judge(text: str) -> Verdict:
        """Judge."""
        raise AssertionError("never called")

    assert list(judge.output_fields) == ["sentiment", "confidence", "tags"]
    assert judge.output_fields["sentiment"].description == "Overall tone"
    compiled = SignatureCompiler().compile(judge)
    assert compiled.parse_output('{"sentiment": "good"}') == {
        "sentiment": "good",
        "confidence": 0.5,
        "tags": [],
    }
    assert compiled.output_schema["properties"]["confidence"] == {
        "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]
    }


@pytest.mark.parametrize("returned", [Judged, Marked, Noted])
def test_the_fields_of_other_records_are_the_outputs(returned: type) -> None:
    def judge(text: str) -> Any:
        raise AssertionError("never called")

    judge.__annotations__["return"] = returned
    made = signature(judge)

    assert list(made.output_fields)[:2] == ["sentiment", "confidence"]
    assert made.output_fields["sentiment"].required
    assert not made.output_fields["confidence"].required


def test_types_of_the_enclosing_function_are_found() -> None:
    class Local(BaseModel):
        value: int

    @signature
    def ask(given: list[Local]) -> Local:
        raise AssertionError("never called")

    assert ask.input_fields["given"].annotation == list[Local]
    assert list(ask.output_fields) == ["value"]
    assert SignatureParser().parse(_nested()).input_fields["given"].annotation is str


def _nested() -> Callable[..., Any]:
    def inner(given: str) -> str:
        raise AssertionError("never called")

    return inner


def untyped(text) -> str:  # type: ignore[no-untyped-def]
    raise AssertionError("never called")


def silent(text: str) -> None:
    raise AssertionError("never called")


def variadic(*texts: str) -> str:
    raise AssertionError("never called")


def echo(result: str) -> str:
    raise AssertionError("never called")


def shared(texts: list[str] = []) -> str:  # noqa: B006
    raise AssertionError("never called")


def unknown(text: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    raise AssertionError("never called")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (untyped, "'untyped' has a parameter 'text' without a type. Write `text: str`"),
        (silent, "'silent' returns nothing. Annotate what it returns"),
        (variadic, r"'variadic' has the parameter \*texts. Name every input"),
        (echo, "'echo' has 'result' both as a parameter and as an output"),
        (shared, "'texts' has a list as default, which all runs would share"),
        (unknown, "parameter 'text' as 'Nowhere', in which 'Nowhere' is not defined"),
    ],
)
def test_a_function_that_says_too_little_is_refused(
    function: Callable[..., Any], problem: str
) -> None:
    with pytest.raises(SignatureError, match=problem):
        signature(function)


# The parser


class Question(BaseModel):
    question: str = Field(description="What to answer")
    tags: list[str] = []


class Answer(BaseModel):
    """Answer in one sentence."""

    answer: str


def test_a_pair_of_models_is_a_signature() -> None:
    made = SignatureParser().parse((Question, Answer))

    assert (made.__name__, made.instructions) == ("Answer", "Answer in one sentence.")
    assert made.input_fields["question"].description == "What to answer"
    assert SignatureCompiler().compile(made).validate_inputs({"question": "Why?"}) == {
        "question": "Why?",
        "tags": [],
    }
    assert list(made.output_fields) == ["answer"]


def test_a_pair_of_models_with_a_name_in_common_is_refused() -> None:
    with pytest.raises(SignatureError, match="'tags' both as an input and as an output"):
        SignatureParser().parse((Question, Verdict))


def test_classes_and_instances_are_themselves() -> None:
    class Ask(Signature):
        answer: str = OutputField()

    assert SignatureParser().parse(Ask) is Ask
    assert SignatureParser().parse(Ask()) is Ask


def test_the_parser_reads_functions_strings_and_schemas() -> None:
    parser = SignatureParser()

    assert list(parser.parse(_nested()).output_fields) == ["result"]
    made = parser.parse("question -> answer", name="Ask")
    assert made.__name__ == "Ask"
    assert parser.parse(made.to_schema()).to_schema() == made.to_schema()


@pytest.mark.parametrize("source", [3, None, object(), Question, (Question,), int])
def test_anything_else_is_refused_with_what_to_give(source: object) -> None:
    with pytest.raises(
        SignatureError, match=r"is no signature\. Give a Signature class, a str"
    ):
        SignatureParser().parse(source)
