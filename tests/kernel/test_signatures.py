from __future__ import annotations

import enum
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Optional,
)
from uuid import UUID

import pytest
from kaizen.errors import InputError, OutputError, SignatureError
from kaizen.signatures import (
    MISSING,
    CompiledSignature,
    InputField,
    OutputField,
    Signature,
    SignatureCompiler,
    SignatureField,
    SignatureValidator,
)
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from fractions import Fraction


def compiled(signature: type[Signature]) -> CompiledSignature:
    return SignatureCompiler().compile(signature)


class Review(Signature):
    """Judge a product review."""

    text: str = InputField(desc="The review")
    context: str = InputField(description="Where it was found", default="a shop")
    sentiment: Literal["good", "bad", "mixed"] = OutputField(desc="Overall tone")
    confidence: float = OutputField(desc="0 to 1", ge=0, le=1)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(BaseModel):
    name: str
    age: int = 0


@dataclass
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    first: str
    second: int


# The class form


def test_a_class_says_inputs_outputs_and_instructions() -> None:
    assert list(Review.input_fields) == ["text", "context"]
    assert list(Review.output_fields) == ["sentiment", "confidence"]
    assert Review.instructions == "Judge a product review."


def test_a_field_says_all_that_was_written() -> None:
    field = Review.output_fields["confidence"]

    assert isinstance(field, SignatureField)
    assert (field.name, field.annotation, field.role) == ("confidence", float, "output")
    assert (field.description, field.required, field.default) == ("0 to 1", True, MISSING)
    assert len(field.info.metadata) == 2


def test_description_is_another_word_for_desc() -> None:
    assert Review.input_fields["context"].description == "Where it was found"


def test_the_description_may_stand_in_the_annotation() -> None:
    class Ask(Signature):
        question: Annotated[str, Field(description="What to answer")] = InputField()
        answer: str = OutputField()

    assert Ask.input_fields["question"].description == "What to answer"


def test_fields_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Review.input_fields["more"] = Review.input_fields["text"]  # type: ignore[index]


def test_an_instance_needs_nothing_and_says_what_its_class_says() -> None:
    review = Review()

    assert review.input_fields == Review.input_fields
    assert SignatureCompiler().compile(review) is compiled(Review)


def test_class_variables_are_no_fields() -> None:
    class Ask(Signature):
        """Answer."""

        version: ClassVar[int] = 3
        answer: str = OutputField()

    assert list(Ask.output_fields) == ["answer"]
    assert not Ask.input_fields
    assert Ask.version == 3


def test_instructions_may_be_an_attribute_where_docstrings_are_stripped() -> None:
    class Ask(Signature):
        instructions = "Answer in verse."
        answer: str = OutputField()

    assert Ask.instructions == "Answer in verse."


def test_without_instructions_the_fields_say_what_to_do() -> None:
    class Ask(Signature):
        question: str = InputField()
        answer: str = OutputField()
        doubt: str = OutputField()

    assert Ask.instructions == ""
    assert compiled(Ask).instructions == "Given question, give answer and doubt."


# Inheritance


def test_a_subclass_adds_and_replaces_fields_and_inherits_instructions() -> None:
    class Longer(Review):
        confidence: int = OutputField(desc="Percent", ge=0, le=100)
        reasons: list[str] = OutputField()

    class Longest(Longer):
        """Judge at length."""

        author: str = InputField()

    assert list(Longest.input_fields) == ["text", "context", "author"]
    assert list(Longest.output_fields) == ["sentiment", "confidence", "reasons"]
    assert Longest.output_fields["confidence"].annotation is int
    assert Review.output_fields["confidence"].annotation is float
    assert Longer.instructions == "Judge a product review."
    assert Longest.instructions == "Judge at length."


def test_of_several_bases_the_one_that_python_would_choose_wins() -> None:
    class Base(Signature):
        value: int = InputField()
        answer: str = OutputField()

    class Left(Base):
        more: str = InputField()

    class Right(Base):
        value: float = InputField()  # type: ignore[assignment]

    class Both(Left, Right):
        pass

    assert Both.input_fields["value"].annotation is float


def test_an_abstract_base_may_lack_outputs() -> None:
    class WithContext(Signature, abstract=True):
        context: str = InputField()

    class Ask(WithContext):
        answer: str = OutputField()

    assert list(Ask.input_fields) == ["context"]
    with pytest.raises(SignatureError, match="'WithContext' is abstract"):
        compiled(WithContext)


def test_a_subclass_is_compiled_for_itself() -> None:
    first = compiled(Review)

    class Other(Review):
        more: str = OutputField()

    assert compiled(Other) is not first
    assert compiled(Other) is compiled(Other)


# What is refused when a class is made


def test_a_signature_without_outputs_is_refused() -> None:
    with pytest.raises(SignatureError, match=r"'Bad' has no outputs\. Declare one"):

        class Bad(Signature):
            text: str = InputField()


def test_a_name_that_is_input_and_output_is_refused() -> None:
    with pytest.raises(SignatureError, match="'text' both as an input and as an output"):

        class Bad(Review):
            text: str = OutputField()


def test_a_private_name_is_refused() -> None:
    with pytest.raises(SignatureError, match="private field '_secret'"):

        class Bad(Signature):
            _secret: str = InputField()
            answer: str = OutputField()


@pytest.mark.parametrize("name", ["instructions", "input_fields", "to_schema"])
def test_a_reserved_name_is_refused(name: str) -> None:
    namespace = {"__annotations__": {name: str}, name: OutputField()}

    with pytest.raises(SignatureError, match=f"reserved name '{name}'"):
        type("Bad", (Signature,), namespace)


def test_a_field_without_a_type_is_refused() -> None:
    with pytest.raises(
        SignatureError, match=r"field 'text' without a type.*text: str = Inp"
    ):

        class Bad(Signature):
            text = InputField()
            answer: str = OutputField()


def test_a_type_without_a_field_is_refused() -> None:
    with pytest.raises(SignatureError, match="whether 'text' is an input or an output"):

        class Bad(Signature):
            text: str
            answer: str = OutputField()


@pytest.mark.parametrize("default", [[], {}, set(), Person(name="Bob")])
def test_a_default_that_runs_would_share_is_refused(default: object) -> None:
    with pytest.raises(
        SignatureError, match=r"'tags' has a \w+ as default.*default_factory"
    ):

        class Bad(Signature):
            tags: Any = InputField(default=default)
            answer: str = OutputField()


def test_contradictions_are_refused() -> None:
    with pytest.raises(SignatureError, match="'text' is required and has a default"):

        class Bad(Signature):
            text: str = InputField(required=True, default="x")
            answer: str = OutputField()

    with pytest.raises(SignatureError, match="both a default and a default_factory"):

        class Worse(Signature):
            text: str = InputField(default="x", default_factory=str)
            answer: str = OutputField()


def test_a_misspelt_constraint_is_refused() -> None:
    with pytest.raises(TypeError, match="does not know 'minimum'; constraints are"):
        InputField(minimum=3)  # type: ignore[call-arg]


# What is refused when a signature is compiled


def test_a_type_that_pydantic_does_not_know_is_refused_by_name() -> None:
    class Thing:
        pass

    class Bad(Signature):
        thing: Thing = InputField()
        answer: str = OutputField()

    with pytest.raises(
        SignatureError, match="input 'thing' of type 'Thing' that cannot be"
    ):
        compiled(Bad)


@pytest.mark.parametrize(
    ("annotation", "constraint"),
    [
        (Person, {"min_length": 3}),
        (str, {"ge": 3}),
        (int, {"max_length": 3}),
        (list[str] | None, {"le": 3}),
        (int, {"pattern": "a"}),
    ],
)
def test_a_constraint_that_does_not_fit_its_type_is_refused_by_name(
    annotation: Any, constraint: Any
) -> None:
    bad = type(
        "Bad",
        (Signature,),
        {"__annotations__": {"answer": annotation}, "answer": OutputField(**constraint)},
    )

    with pytest.raises(SignatureError, match="output 'answer' of type '"):
        compiled(bad)


def test_a_pattern_that_cannot_be_used_is_refused_by_name() -> None:
    class Bad(Signature):
        answer: str = OutputField(pattern="(?=a)b")

    with pytest.raises(SignatureError, match=r'Field "answer".*look-around.*not supported'):
        compiled(Bad)


def test_a_default_that_does_not_fit_its_type_is_refused() -> None:
    class Bad(Signature):
        count: int = InputField(default="many")
        answer: str = OutputField()

    with pytest.raises(SignatureError, match=r"'count'.*the default does not fit"):
        compiled(Bad)


def test_an_output_that_json_cannot_say_is_refused() -> None:
    class Bad(Signature):
        answer: Callable[[], int] = OutputField()

    with pytest.raises(SignatureError, match="'Bad' has a type that JSON cannot say"):
        compiled(Bad)


# Annotations that are strings, as all are in this module


def test_types_of_the_enclosing_function_are_found() -> None:
    class Local(BaseModel):
        value: int

    class Ask(Signature):
        answer: list[Local] = OutputField()

    assert compiled(Ask).parse_output('{"answer": [{"value": 1}]}') == {
        "answer": [Local(value=1)]
    }


def test_types_of_a_function_around_an_enclosing_class_are_found() -> None:
    class Local(BaseModel):
        value: int

    class Outer:
        class Ask(Signature):
            answer: Local = OutputField()

    assert Outer.Ask.output_fields["answer"].annotation is Local


class Early(Signature):
    later: Later = InputField()
    maybe: Optional[Later] = InputField()  # noqa: UP045  # what is written is the point
    answer: str = OutputField()


class Later(BaseModel):
    value: int


class Earliest(Early):
    more: str = OutputField()


def test_types_that_are_defined_later_are_found() -> None:
    assert Early.input_fields["later"].annotation is Later
    assert not Early.input_fields["maybe"].required
    assert Earliest.input_fields["later"].annotation is Later


def test_a_type_that_is_never_defined_is_refused_by_name() -> None:
    class Bad(Signature):
        half: list[Fraction] = InputField()
        answer: str = OutputField()

    expected = r"'half' of type 'list\[Fraction\]', in which 'Fraction' is not defined"
    with pytest.raises(SignatureError, match=expected):
        compiled(Bad)
    with pytest.raises(SignatureError, match=expected):
        _ = Bad.input_fields


def test_an_annotation_that_is_no_type_is_refused_by_name() -> None:
    with pytest.raises(
        SignatureError, match=r"'answer' whose type .* cannot be understood"
    ):
        type(
            "Bad",
            (Signature,),
            {"__annotations__": {"answer": "list[}"}, "answer": OutputField()},
        )


def test_a_module_without_string_annotations_works_alike(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from typing import Optional
            from kaizen.signatures import *

            def make():
                class Local(str):
                    pass

                class Ask(Signature):
                    question: str = InputField()
                    hint: Optional[str] = InputField()
                    later: "list[Later]" = InputField(default_factory=list)
                    answer: list["Later"] = OutputField()

                return Ask

            Ask = make()

            class Later(int):
                pass

            assert Ask.input_fields["question"].annotation is str
            assert not Ask.input_fields["hint"].required
            assert Ask.output_fields["answer"].annotation == list[Later]
            """
        ),
        encoding="utf-8",
    )

    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    assert done.returncode == 0


# Inputs


def test_inputs_are_validated_and_defaults_filled_in() -> None:
    assert compiled(Review).validate_inputs({"text": "Nice"}) == {
        "text": "Nice",
        "context": "a shop",
    }


def test_an_optional_input_may_be_left_out() -> None:
    class Ask(Signature):
        question: str = InputField(required=True)
        hint: Optional[str] = InputField()  # noqa: UP045
        other: int | None = InputField()
        level: int = InputField(required=False)
        nothing: str = InputField(default=None)
        must: str | None = InputField(required=True)
        answer: str = OutputField()

    made = compiled(Ask).validate_inputs({"question": "Why?", "must": None})

    assert made == {
        "question": "Why?",
        "hint": None,
        "other": None,
        "level": None,
        "nothing": None,
        "must": None,
    }
    with pytest.raises(InputError, match="'must' is missing"):
        compiled(Ask).validate_inputs({"question": "Why?"})


def test_a_default_factory_makes_a_default_for_each_run() -> None:
    class Ask(Signature):
        tags: list[str] = InputField(default_factory=list)
        answer: str = OutputField()

    first = compiled(Ask).validate_inputs({})
    first["tags"].append("x")

    assert compiled(Ask).validate_inputs({}) == {"tags": []}


def test_a_default_becomes_a_value_of_the_type() -> None:
    class Ask(Signature):
        day: date = InputField(default="2026-01-31")
        words: list[str] = InputField(default=("a", "b"))
        answer: str = OutputField()

    first = compiled(Ask).validate_inputs({})
    first["words"].append("c")

    assert compiled(Ask).validate_inputs({}) == {
        "day": date(2026, 1, 31),
        "words": ["a", "b"],
    }


def test_every_input_that_does_not_fit_is_named_at_once() -> None:
    class Ask(Signature):
        question: str = InputField()
        level: int = InputField(ge=1, le=5)
        people: list[Person] = InputField(default_factory=list)
        answer: str = OutputField()

    with pytest.raises(InputError) as caught:
        compiled(Ask).validate_inputs(
            {"questoin": "Why?", "level": 9, "people": [{"name": "Bob", "age": "old"}]}
        )

    message = str(caught.value)
    assert message.startswith("[EXEC_001] signature 'Ask'")
    assert "'question' is missing" in message
    assert "'questoin' is unknown (did you mean 'question'?)" in message
    assert "'level' should be <= 5, got int" in message
    assert "'people[0].age' should be a valid integer" in message
    assert (
        "Its inputs are: question; level (int); people (list[Person], optional)" in message
    )


def test_an_input_error_holds_no_value_anywhere() -> None:
    def mistrust(value: str) -> str:
        raise ValueError(f"cannot take {value}")

    class Ask(Signature):
        number: int = InputField()
        mapping: dict[str, int] = InputField()
        picky: Annotated[str, Field(pattern="^a$")] = InputField()
        wary: Annotated[str, _after(mistrust)] = InputField()
        answer: str = OutputField()

    secret = "hunter2-very-secret"
    with pytest.raises(InputError) as caught:
        compiled(Ask).validate_inputs(
            {"number": secret, "mapping": {secret: secret}, "picky": secret, "wary": secret}
        )

    assert secret not in str(caught.value)
    assert secret not in repr(caught.value)
    assert "'wary' is not valid, got str" in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def _after(function: Callable[[str], str]) -> Any:
    from pydantic import AfterValidator

    return AfterValidator(function)


def test_the_words_of_an_own_validator_are_kept_where_they_tell_no_value() -> None:
    def odd(value: int) -> int:
        raise ValueError("must be odd")

    class Ask(Signature):
        number: Annotated[int, _after(odd)] = InputField()
        answer: str = OutputField()

    with pytest.raises(InputError, match="'number' must be odd, got int"):
        compiled(Ask).validate_inputs({"number": 4})


def test_inputs_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(InputError, match="should be a valid dictionary"):
        compiled(Review).validate_inputs("text")  # type: ignore[arg-type]


# Every kind of type

EVERY_TYPE: list[tuple[Any, Any, Any]] = [
    (str, "a", "a"),
    (int, 3, 3),
    (float, 0.5, 0.5),
    (bool, True, True),
    (bytes, "raw", b"raw"),
    (dict, {"a": 1}, {"a": 1}),
    (list, [1, "a"], [1, "a"]),
    (Any, {"a": [1]}, {"a": [1]}),
    (Literal["a", 1], 1, 1),
    (Colour, "red", Colour.RED),
    (Person, {"name": "Bob"}, Person(name="Bob")),
    (Point, {"x": 1, "y": 2}, Point(1, 2)),
    (Pair, ["a", 1], Pair("a", 1)),
    (datetime, "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    (date, "2026-01-31", date(2026, 1, 31)),
    (time, "12:30", time(12, 30)),
    (timedelta, "PT1H", timedelta(hours=1)),
    (Decimal, "1.50", Decimal("1.50")),
    (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678" + "12345678" * 3)),
    (list[Person], [{"name": "Bob"}], [Person(name="Bob")]),
    (dict[str, Point], {"a": {"x": 1, "y": 2}}, {"a": Point(1, 2)}),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (set[str], ["a"], {"a"}),
    (frozenset[int], [1], frozenset({1})),
    (int | str, "a", "a"),
    (Optional[int], None, None),  # noqa: UP045
    (Annotated[int, Field(gt=2)], 3, 3),
]


@pytest.mark.parametrize(
    ("annotation", "json", "value"), EVERY_TYPE, ids=lambda value: str(value)[:30]
)
def test_every_type_that_pydantic_takes_goes_in_and_comes_out(
    annotation: Any, json: Any, value: Any
) -> None:
    from pydantic_core import to_json

    ask = type(
        "Ask",
        (Signature,),
        {
            "__annotations__": {"given": annotation, "answer": annotation, "more": str},
            "given": InputField(),
            "answer": OutputField(),
            "more": OutputField(),
        },
    )
    signature = compiled(ask)

    assert signature.validate_inputs({"given": value}) == {"given": value}
    reply = to_json({"answer": json, "more": "x"}).decode()
    assert signature.parse_output(reply) == {"answer": value, "more": "x"}
    assert signature.validate_outputs({"answer": value, "more": "x"})["answer"] == value
    assert signature.render_inputs({"given": value})


@pytest.mark.parametrize(
    ("constraints", "good", "bad", "words"),
    [
        ({"ge": 1}, 1, 0, "should be >= 1, got 0"),
        ({"le": 1}, 1, 2, "should be <= 1, got 2"),
        ({"gt": 1}, 2, 1, "should be > 1, got 1"),
        ({"lt": 1}, 0, 1, "should be < 1, got 1"),
        ({"multiple_of": 5}, 10, 7, "should be a multiple of 5, got 7"),
    ],
)
def test_constraints_hold(constraints: Any, good: int, bad: int, words: str) -> None:
    class Ask(Signature):
        answer: int = OutputField(**constraints)

    assert compiled(Ask).validate_outputs({"answer": good}) == {"answer": good}
    with pytest.raises(OutputError) as caught:
        compiled(Ask).validate_outputs({"answer": bad})
    assert caught.value.feedback == (f"answer: {words}",)


def test_constraints_on_text_hold() -> None:
    class Ask(Signature):
        answer: str = OutputField(min_length=2, max_length=3, pattern="^a")

    assert not compiled(Ask).plain_text
    assert compiled(Ask).validate_outputs({"answer": "abc"}) == {"answer": "abc"}
    for bad in ("a", "abcd", "bcd"):
        with pytest.raises(OutputError):
            compiled(Ask).validate_outputs({"answer": bad})


# The validator


def test_a_validator_lists_problems_instead_of_raising() -> None:
    validator = SignatureValidator(Review())

    found = validator.problems(inputs={}, outputs={"sentiment": "fine", "confidence": 2})

    assert "'text' is missing" in found[0]
    assert found[1] == "sentiment: should be 'good', 'bad' or 'mixed', got \"fine\""
    assert found[2] == "confidence: should be <= 1, got 2"
    assert validator.problems(inputs={"text": "x"}) == ()


def test_a_validator_returns_validated_values() -> None:
    validator = SignatureValidator(Review)

    assert validator.validate_inputs({"text": "x"})["context"] == "a shop"
    assert validator.validate_outputs({"sentiment": "good", "confidence": 1}) == {
        "sentiment": "good",
        "confidence": 1.0,
    }


# Cost


def test_importing_a_module_of_signatures_builds_no_validator() -> None:
    class Bad(Signature):
        thing: Signature = InputField()  # pydantic cannot validate it, but is not asked
        answer: str = OutputField()

    assert Bad.input_fields["thing"].annotation is Signature
