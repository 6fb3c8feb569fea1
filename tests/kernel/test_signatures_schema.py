from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Optional
from uuid import UUID

import pytest
from kaizen.errors import SignatureError
from kaizen.media import Audio, Document, Image, Media
from kaizen.signatures import (
    InputField,
    OutputField,
    Signature,
    SignatureCompiler,
    SignatureParser,
    create_structured_output_config,
    signature,
)
from pydantic import BaseModel, Field
from typing_extensions import TypedDict


class Colour(Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    """A node of a tree."""

    name: str = Field(min_length=1)
    weight: int = 3
    kids: list[Node] = []
    note: str | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Closed(BaseModel, extra="forbid"):
    value: Cat | Dog


class Loose(TypedDict, total=False):
    title: str


class Pair(NamedTuple):
    first: str
    second: int


class Everything(Signature):
    """Say everything."""

    photo: Image = InputField(desc="What to see")
    files: list[Media] = InputField(default_factory=list)
    sound: Audio | None = InputField()
    paper: Document = InputField()
    hint: Optional[str] = InputField()  # noqa: UP045
    limit: int = InputField(default=3, ge=1, le=9)

    text: str = OutputField(desc="Said", min_length=2, max_length=5, pattern="^a")
    number: float = OutputField(gt=0, lt=1, examples=[0.5])
    even: int = OutputField(multiple_of=2, title="An even one")
    yes: bool = OutputField()
    choice: Literal["a", "b"] = OutputField()
    only: Literal["x"] = OutputField()
    mixed: Literal["a", 1] | None = OutputField()
    colour: Colour = OutputField(desc="Seen")
    node: Node = OutputField(desc="The root")
    point: Point = OutputField()
    points: list[Point] = OutputField(min_length=1, max_length=3)
    closed: Closed = OutputField()
    loose: Loose = OutputField()
    pair: Pair = OutputField()
    when: datetime = OutputField()
    day: date = OutputField()
    hour: time = OutputField()
    span: timedelta = OutputField()
    price: Decimal = OutputField()
    key: UUID = OutputField()
    counts: dict[str, int] = OutputField()
    nested: dict[str, dict[str, Point]] = OutputField()
    by_colour: dict[Colour, int] = OutputField()
    by_pattern: dict[Annotated[str, Field(pattern="^a")], int] = OutputField()
    free: dict = OutputField()  # type: ignore[type-arg]
    some: list = OutputField()  # type: ignore[type-arg]
    two: tuple[int, str] = OutputField()
    many: tuple[int, ...] = OutputField()
    distinct: set[str] = OutputField()
    union: int | str | None = OutputField()
    described: Annotated[int, Field(ge=1, description="One or more")] = OutputField()
    inner: list[Annotated[str, Field(max_length=3, description="Short")]] = OutputField()
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = OutputField()
    anything: Any = OutputField()
    counted: int = OutputField(default=3, ge=1)
    maybe: Optional[int] = OutputField()  # noqa: UP045
    tags: list[str] = OutputField(default_factory=list)
    picture: Image | None = OutputField()


EVERYTHING = Everything


# What structured outputs of OpenAI demand


def nodes(schema: Any, path: str = "#") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Go through all the schemas in a schema, but not through what is no schema."""
    yield path, schema
    for word in ("properties", "$defs"):
        for name, inner in schema.get(word, {}).items():
            yield from nodes(inner, f"{path}/{word}/{name}")
    for i, inner in enumerate(schema.get("anyOf", ())):
        yield from nodes(inner, f"{path}/anyOf/{i}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}/items")


ALLOWED = {
    "object": {"properties", "required", "additionalProperties", "$defs"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"enum", "pattern", "format"},
    "number": {
        "enum",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    },
    "boolean": {"enum"},
    "null": {"enum"},
}
ALLOWED["integer"] = ALLOWED["number"]
FORMATS = {"date-time", "time", "date", "duration", "email", "ipv4", "ipv6", "uuid"}


def violations(root: Mapping[str, Any]) -> list[str]:
    """Return where a schema breaks the rules of strict mode."""
    found = [] if root.get("type") == "object" else ["the root is no object"]
    for path, node in nodes(root):
        words = node.keys() - {"description"}
        kind = node.get("type")
        if "$ref" in node:
            if node.keys() != {"$ref"}:
                found.append(f"{path}: something beside $ref")
            if node["$ref"].removeprefix("#/$defs/") not in root.get("$defs", {}):
                found.append(f"{path}: $ref to nowhere")
        elif "anyOf" in node:
            if words != {"anyOf"} or not node["anyOf"] or node is root:
                found.append(f"{path}: anyOf with {words}")
        elif isinstance(kind, list):
            if words != {"type", "enum"}:
                found.append(f"{path}: several types")
        elif kind not in ALLOWED:
            found.append(f"{path}: no type")
        elif extra := words - ALLOWED[kind] - {"type"}:
            found.append(f"{path}: {extra} not supported")
        if kind == "object":
            if node.get("additionalProperties") is not False:
                found.append(f"{path}: open")
            if list(node.get("properties", {})) != node.get("required"):
                found.append(f"{path}: not all required")
        if kind == "array" and "items" not in node:
            found.append(f"{path}: array of what?")
        if node.get("format", "date") not in FORMATS or "(?" in node.get("pattern", ""):
            found.append(f"{path}: format or pattern")
    return found


def test_the_checker_finds_what_is_forbidden() -> None:
    plain = SignatureCompiler().compile(EVERYTHING).legacy_output_schema

    found = " ".join(violations(plain))

    for words in ("not supported", "open", "not all required", "something beside $ref"):
        assert words in found


def test_the_strict_schema_keeps_the_rules_of_structured_outputs() -> None:
    schema = SignatureCompiler().compile(EVERYTHING).output_schema

    assert violations(schema) == []
    assert schema["required"] == list(EVERYTHING.output_fields)
    json.dumps(schema)


def test_what_may_be_left_out_may_be_null() -> None:
    schema = SignatureCompiler().compile(EVERYTHING).output_schema["properties"]

    null = {"type": "null"}
    assert schema["counted"] == {"anyOf": [{"type": "integer", "minimum": 1}, null]}
    assert schema["maybe"] == {"anyOf": [{"type": "integer"}, null]}
    assert schema["tags"]["anyOf"][1] == null
    assert schema["yes"] == {"type": "boolean"}


def test_limits_that_providers_do_not_know_are_told() -> None:
    schema = SignatureCompiler().compile(EVERYTHING).output_schema["properties"]

    assert schema["text"] == {
        "type": "string",
        "pattern": "^a",
        "description": "Said At least 2 characters. At most 5 characters.",
    }
    assert schema["distinct"]["description"] == "Without duplicates."
    assert schema["two"]["description"] == "In order: integer, string."
    assert schema["number"]["description"] == "Examples: 0.5."


def test_a_field_may_have_the_name_of_a_keyword() -> None:
    class Odd(Signature):
        title: str = OutputField()
        default: int = OutputField(default=3)
        description: str = OutputField()

    class Inner(BaseModel):
        title: str
        items: dict[str, str]
        format: int

    class Odder(Signature):
        properties: Inner = OutputField()
        type: str = OutputField()
        enum: list[str] = OutputField()

    for odd in (Odd, Odder):
        schema = SignatureCompiler().compile(odd).output_schema
        assert violations(schema) == []
        assert schema["required"] == list(odd.output_fields)
    assert list(schema["$defs"]["Inner"]["properties"]) == ["title", "items", "format"]


class Reply(Signature):
    """Reply."""

    text: str = InputField()
    answer: str = OutputField(max_length=100)
    score: float = OutputField()


def test_the_configuration_for_structured_outputs_is_what_providers_take() -> None:
    config = create_structured_output_config(Reply)

    assert config == {
        "type": "json_schema",
        "json_schema": {
            "name": "Reply",
            "strict": True,
            "schema": SignatureCompiler().compile(Reply).output_schema,
        },
    }
    assert create_structured_output_config(Reply()) == config


def test_the_configuration_without_strictness_carries_the_plain_schema() -> None:
    config = create_structured_output_config(Reply, strict=False)

    plain = SignatureCompiler().compile(Reply).legacy_output_schema
    assert config == {"type": "json_object", "schema": plain}
    assert plain["properties"]["answer"]["maxLength"] == 100


def test_the_name_of_a_configuration_is_made_to_fit() -> None:
    config = create_structured_output_config(Reply, name="my reply, v2/" + "x" * 100)

    assert config["json_schema"]["name"] == "my_reply__v2_" + "x" * 51


# There and back


def test_a_signature_survives_the_way_to_its_schema_and_back() -> None:
    schema = json.loads(json.dumps(EVERYTHING.to_schema()))

    made = SignatureParser().from_schema(schema)

    assert made.__name__ == "Everything"
    assert made.instructions == "Say everything."
    assert json.dumps(made.to_schema()) == json.dumps(schema)
    ours, theirs = (SignatureCompiler().compile(s) for s in (EVERYTHING, made))
    assert ours.output_schema == theirs.output_schema
    assert made.input_fields["photo"].annotation is Image
    assert made.input_fields["photo"].description == "What to see"


def test_what_was_read_back_validates_alike() -> None:
    made = SignatureCompiler().compile(
        SignatureParser().from_schema(EVERYTHING.to_schema())
    )
    fields = made.signature.output_fields

    assert fields["when"].annotation is datetime
    assert fields["counts"].annotation == dict[str, int]
    tree = {"name": "a", "kids": [{"name": "b", "kids": []}]}
    node = fields["node"].annotation.model_validate(tree)
    assert type(node.kids[0]) is type(node)
    with pytest.raises(ValueError, match="at least 1 character"):
        fields["node"].annotation.model_validate({"name": ""})


@pytest.mark.parametrize(
    "source", ["question -> answer", "a: int = 3 -> b: list[str], c: bool", "-> joke"]
)
def test_strings_survive_the_way_to_their_schema_and_back(source: str) -> None:
    schema = signature(source).to_schema()

    assert SignatureParser().from_schema(schema).to_schema() == schema


def test_types_that_refer_to_each_other_survive() -> None:
    class Linked(Signature):
        start: Left = OutputField()

    schema = Linked.to_schema()
    made = SignatureParser().from_schema(schema)

    assert made.to_schema() == schema
    compiled = SignatureCompiler().compile(made)
    reply = '{"start": {"right": {"left": {"right": null}}}}'
    assert compiled.parse_output(reply)["start"].right.left.right is None


class Left(BaseModel):
    right: Right | None


class Right(BaseModel):
    left: Left | None


def outputs(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": "Made", "inputs": {}, "outputs": schema}


def test_a_schema_in_other_words_is_read_too() -> None:
    made = SignatureParser().from_schema(
        outputs(
            a={"type": ["string", "null"]},
            b={"type": "object", "properties": {"x": {"type": "integer"}}},
            c={"type": "string", "format": "email"},
            d={},
            e=True,
            f={"oneOf": [{"type": "integer"}, {"type": "string"}]},
        )
    )

    reply = '{"a": null, "b": {}, "c": "x", "d": [1], "e": {}, "f": "y"}'
    made_of = SignatureCompiler().compile(made).parse_output(reply)
    assert (made_of["a"], made_of["b"].x, made_of["c"]) == (None, None, "x")
    again = SignatureParser().from_schema(made.to_schema())
    assert again.to_schema() == made.to_schema()


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({}, "has no outputs"),
        ({"outputs": {}}, "has no outputs"),
        ({**outputs(a={}), "name": "no name"}, "a name that is no identifier"),
        ({**outputs(a={}), "instructions": 3}, "instructions that are no str"),
        ({**outputs(a={}), "inputs": {"properties": {"a": {}}}}, "both as an input and as"),
        (outputs(a={"type": "thing"}), "'a' has the unknown type 'thing'"),
        (outputs(a={"not": {}}), "'a' uses 'not', which no type here can say"),
        (outputs(a={"type": "string", "minimum": 3}), "'a' uses 'minimum'"),
        (outputs(a={"$ref": "#/$defs/B"}), "refers to '#/\\$defs/B', which is not in"),
        (outputs(a={"$ref": "https://example.org"}), "which is not in \\$defs"),
        (outputs(a={"anyOf": []}), "has an anyOf without members"),
        (outputs(a=3), "'a' should be an object, not int"),
        (outputs(a={"enum": 3}), "malformed"),
        (outputs(**{"no name": {}}), "'no name' is no Python identifier"),
        (outputs(_a={}), "private field '_a'"),
        ({"outputs": 3}, "should be an object, not int"),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(SignatureError, match=problem):
        SignatureParser().from_schema(schema)


def test_a_schema_without_bounds_is_refused() -> None:
    deep: Any = {"type": "string"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}

    wide = {f"f{i}": {"type": "string"} for i in range(6000)}
    for schema in (outputs(a=deep), outputs(**wide)):
        with pytest.raises(SignatureError, match="too large or nested too deeply"):
            SignatureParser().from_schema(schema)


def test_a_damaged_schema_never_ends_in_another_error() -> None:
    chance = random.Random(1)
    whole = EVERYTHING.to_schema()

    def damage(node: Any) -> Any:
        if chance.random() < 0.01:
            return chance.choice([None, 3, "x", [], {}, [1], {"type": 3}, {"a": "b"}])
        if isinstance(node, dict):
            return {key: damage(value) for key, value in node.items()}
        if isinstance(node, list):
            return [damage(value) for value in node]
        return node

    made = 0
    for _ in range(60):
        damaged = damage(whole)
        try:
            SignatureCompiler().compile(SignatureParser().parse(damaged))
        except SignatureError:
            continue
        made += 1
    assert made < 60
