"""Whatever a signature wants, the mock model makes up something that fits."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from kaizen import Message, ModelError, ModelRequest, OutputSpec
from kaizen_offline import MockProvider
from pydantic import AnyUrl, BaseModel, Field, IPvAnyAddress, Json, TypeAdapter

pytestmark = pytest.mark.asyncio


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    name: str
    next: Node | None
    children: list[Node]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1)


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: Annotated[str, Field(pattern=r"^(woof|arf){2,}$")]


class Endless(BaseModel):
    inner: Endless


TYPES = [
    str,
    int,
    float,
    bool,
    None,
    Any,
    list[str],
    dict[str, int],
    tuple[int, str, bool],
    set[Colour],
    int | None,
    Literal["only"],
    Literal[3, "x"] | None,
    Colour,
    Node,
    Cat | Dog,
    list[Annotated[Cat | Dog, Field(discriminator="kind")]],
    datetime,
    date,
    time,
    timedelta,
    UUID,
    Decimal,
    AnyUrl,
    IPvAnyAddress,
    Json,
    bytes,
    Annotated[int, Field(gt=3, multiple_of=5)],
    Annotated[int, Field(gt=5, lt=7)],
    Annotated[int, Field(le=-3)],
    Annotated[float, Field(gt=0, lt=1)],
    Annotated[float, Field(ge=0.2, le=0.3)],
    Annotated[float, Field(ge=-1, lt=-0.5)],
    Annotated[str, Field(min_length=40, max_length=45)],
    Annotated[str, Field(max_length=2)],
    Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{4}$")],
    Annotated[str, Field(pattern=r"^\w+@\w+\.(com|org)$", min_length=20)],
    Annotated[str, Field(pattern=r"^[^a-z\s]+\S?$", min_length=3)],
    Annotated[str, Field(pattern=r"colou?r")],
    Annotated[list[int], Field(min_length=3, max_length=3)],
    Annotated[set[int], Field(min_length=4)],
    Annotated[set[str], Field(min_length=3)],
    Annotated[dict[str, int], Field(min_length=2)],
    Annotated[list[str], Field(max_length=0)],
    Annotated[str, Field(examples=["chess"])],
]


async def reply(schema: dict[str, Any]) -> str:
    request = ModelRequest(
        messages=(Message(role="user", content="Go"),),
        output=OutputSpec(name="Wanted", schema=schema),
    )
    return (await MockProvider().complete(request)).text


@pytest.mark.parametrize("wanted", TYPES, ids=str)
async def test_pydantic_accepts_what_is_made_up_for_its_schema(wanted: Any) -> None:
    adapter = TypeAdapter(wanted)

    adapter.validate_json(await reply(adapter.json_schema()))


async def test_the_reply_depends_on_nothing_but_the_schema() -> None:
    schema = Node.model_json_schema()

    assert await reply(schema) == await reply(json.loads(json.dumps(schema)))


async def test_a_recursive_field_ends_as_soon_as_it_may() -> None:
    assert json.loads(await reply(Node.model_json_schema())) == {
        "name": "mock name",
        "next": None,
        "children": [],
    }


async def test_examples_and_defaults_are_preferred() -> None:
    schema = {
        "properties": {"a": {"type": "string", "examples": ["chess"]}, "b": {"default": 7}}
    }

    assert json.loads(await reply(schema)) == {"a": "chess", "b": 7}


async def test_a_default_that_does_not_fit_is_not_used() -> None:
    assert json.loads(await reply({"type": "integer", "minimum": 3, "default": 1})) == 3


@pytest.mark.parametrize(
    "schema",
    [
        Endless.model_json_schema(),
        {"type": "string", "pattern": "(?=x)y"},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "^a{500000}$"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.org/schema"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "string", "not": {}},
    ],
    ids=str,
)
async def test_a_schema_that_cannot_be_filled_is_a_clear_error(
    schema: dict[str, Any],
) -> None:
    with pytest.raises(ModelError, match="found nothing that fits the outputs of 'Wanted'"):
        await reply(schema)


async def test_a_schema_of_great_width_and_depth_takes_bounded_time() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}

    with pytest.raises(ModelError, match="nested too deeply"):
        await reply(schema)
