"""Tools made of typed functions: schema, effects, arguments, calls."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, cast

import pytest
from kaizen import DangerLevel, Effect, FunctionTool, Tool, ToolCall, ToolContext, ToolSpec
from kaizen import tool as make_tool
from kaizen.errors import AgentCreationError, ToolArgumentsError
from kaizen.tools import select
from pydantic import BaseModel, Field

SECRET = "hunter2"
CONTEXT = ToolContext(
    run=cast(Any, "the run"), call_id="call_1", idempotency_key="r:call_1"
)


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Address(BaseModel):
    street: str
    number: int = Field(ge=1)


class Order(BaseModel):
    address: Address
    day: date
    size: Size = Size.SMALL
    price: Decimal = Decimal("9.90")


@make_tool(danger="low")
async def search(
    query: str, limit: Annotated[int, Field(ge=1, le=50)] = 5, exact: bool = False
) -> str:
    """Look through the notes.

    Case does not matter.

    Args:
        query: What to look for,
            in plain words.
        limit (int): Most notes
            to return.

    Returns:
        The notes: one a line.
    """
    return f"{query} {limit} {exact}"


@make_tool(danger="safe")
async def deliver(
    order: Order, tags: set[str], options: dict[str, Any] | None = None
) -> Any:
    """Deliver an order."""
    return order, tags, options


def test_the_schema_comes_from_types_and_docstring() -> None:
    assert search.spec.name == "search"
    assert search.spec.description == "Look through the notes.\n\nCase does not matter."
    assert search.spec.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["query"],
        "properties": {
            "query": {"type": "string", "description": "What to look for, in plain words."},
            "limit": {
                "type": "integer",
                "default": 5,
                "minimum": 1,
                "maximum": 50,
                "description": "Most notes to return.",
            },
            "exact": {"type": "boolean", "default": False},
        },
    }


def test_a_description_in_the_annotation_comes_before_the_docstring() -> None:
    @make_tool(danger="safe")
    def ask(text: Annotated[str, Field(description="From the field.")]) -> None:
        """Ask.

        Args:
            text: From the docstring.
        """

    assert ask.spec.parameters["properties"]["text"]["description"] == "From the field."


def test_what_the_decorator_says_comes_before_what_the_function_says() -> None:
    @make_tool(
        danger="medium",
        name="other",
        description="Other words.",
        category="file",
        timeout_s=3,
        max_output_chars=10,
    )
    def original() -> None:
        """Words."""

    spec = original.spec
    assert (spec.name, spec.description, spec.category) == ("other", "Other words.", "file")
    assert (spec.timeout_s, spec.max_output_chars) == (3, 10)
    assert repr(original) == "<tool other>"


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    @make_tool(danger="safe")
    def now() -> str:
        """Say what time it is."""
        return "noon"

    assert now.spec.parameters["type"] == "object"
    assert now.validate({}) == {}


@pytest.mark.parametrize(
    "name", ["json", "schema", "copy", "model_config", "model_dump", "_hidden", "self_"]
)
def test_a_parameter_may_have_any_name(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def named({name}: list[int]) -> None: ...", namespace)
    named = make_tool(namespace["named"], danger="safe")

    assert named.spec.parameters["required"] == [name]
    assert named.validate({name: ["1"]}) == {name: [1]}


@pytest.mark.parametrize(
    ("danger", "effect"),
    [
        ("safe", Effect(danger=DangerLevel.SAFE, idempotent=True)),
        ("low", Effect(danger=DangerLevel.LOW, reads=True, idempotent=True)),
        ("medium", Effect(danger=DangerLevel.MEDIUM, reads=True, writes=True)),
        ("high", Effect(danger=DangerLevel.HIGH, reads=True, writes=True)),
        ("critical", Effect(danger=DangerLevel.CRITICAL, reads=True, writes=True)),
        ("moderate", Effect(danger=DangerLevel.MEDIUM, reads=True, writes=True)),
        ("dangerous", Effect(danger=DangerLevel.HIGH, reads=True, writes=True)),
        ("SAFE", Effect(danger=DangerLevel.SAFE, idempotent=True)),
    ],
)
def test_what_an_effect_leaves_open_follows_from_its_danger(
    danger: Any, effect: Effect
) -> None:
    assert Effect.of(danger) == effect
    assert make_tool(danger=danger)(_nothing).spec.effect == effect


def test_what_an_effect_says_is_not_overruled() -> None:
    assert Effect.of("low", reads=False, writes=True, external=True) == Effect(
        danger=DangerLevel.LOW, writes=True, external=True
    )
    assert Effect.of("high", idempotent=True).idempotent
    assert not Effect.of("safe", idempotent=False).idempotent
    assert Effect.of("critical", writes=False).idempotent


def test_the_two_other_words_name_the_same_levels() -> None:
    assert DangerLevel["MODERATE"] is DangerLevel.MEDIUM
    assert DangerLevel["DANGEROUS"] is DangerLevel.HIGH
    assert [level.name for level in DangerLevel] == [
        "SAFE",
        "LOW",
        "MEDIUM",
        "HIGH",
        "CRITICAL",
    ]


def test_a_danger_level_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"'reckless'; known: safe, low, medium, high, crit"
    ):
        make_tool(danger=cast(Any, "reckless"))
    with pytest.raises(ValueError, match="7"):
        Effect.of(cast(Any, 7))


@pytest.mark.parametrize(
    ("effect", "hints"),
    [
        (Effect.of("safe"), (True, False, True, False)),
        (Effect.of("low", external=True), (True, False, True, True)),
        (Effect.of("medium"), (False, False, False, False)),
        (Effect.of("high", idempotent=True), (False, True, True, False)),
        (Effect.of("critical", external=True), (False, True, False, True)),
        (Effect.of("critical", writes=False), (True, False, True, False)),
    ],
)
def test_an_effect_has_the_hints_of_mcp(
    effect: Effect, hints: tuple[bool, bool, bool, bool]
) -> None:
    names = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    assert effect.mcp_hints == dict(zip(names, hints, strict=True))


def test_a_tool_that_does_not_state_its_effect_is_told_how() -> None:
    with pytest.raises(
        AgentCreationError, match=r"tool '_nothing' does not say.*danger=\"safe"
    ):
        cast(Any, make_tool)(_nothing)
    with pytest.raises(AgentCreationError, match="a tool does not say what it does"):
        cast(Any, make_tool)()


@pytest.mark.parametrize(
    "name", ["", "Weather", "get-weather", "a b", "naïve", "a" * 65, "tool\n", "../up"]
)
def test_a_name_that_models_cannot_call_is_refused(name: str) -> None:
    with pytest.raises(AgentCreationError, match="1 to 64 of a-z, 0-9 and '_'"):
        ToolSpec(name=name, description="", parameters={}, effect=Effect.of("safe"))


def test_a_function_whose_name_models_cannot_call_is_refused() -> None:
    @make_tool(danger="safe")
    def getWeather() -> None:  # noqa: N802
        """Say how the weather is."""

    with pytest.raises(AgentCreationError, match="tool 'getWeather' has a name"):
        _ = getWeather.spec


def _untyped(a) -> None: ...  # type: ignore[no-untyped-def]
def _many(*args: int) -> None: ...
def _keywords(**kwargs: int) -> None: ...
def _positional(a: int, /) -> None: ...
def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (_untyped, "parameter 'a' of tool '_untyped' has no type"),
        (_many, "parameter 'args' of tool '_many' takes any number"),
        (_keywords, "parameter 'kwargs' of tool '_keywords' takes any number"),
        (_positional, "parameter 'a' of tool '_positional' cannot be passed by name"),
        (partial(_many, 1), "is not a function. Write a function"),
        (object(), "is not a function"),
    ],
)
def test_a_function_that_no_schema_can_describe_is_refused_at_once(
    function: Any, problem: str
) -> None:
    with pytest.raises(AgentCreationError, match=problem):
        make_tool(function, danger="safe")


def test_a_type_that_cannot_be_found_is_named() -> None:
    @make_tool(danger="safe")
    def lost(place: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Go there."""

    with pytest.raises(AgentCreationError, match=r"tool 'lost' has a type.*'Nowhere'"):
        _ = lost.spec


def _lock(lock: threading.Lock) -> None: ...
def _callback(function: Callable[[int], int]) -> None: ...
def _endless(numbers: list[int], limit: float = float("inf")) -> None: ...


@pytest.mark.parametrize("function", [_lock, _callback, _endless])
def test_a_parameter_that_json_cannot_hold_is_refused(function: Any) -> None:
    refused = make_tool(function, danger="safe")
    with pytest.raises(AgentCreationError, match=f"tool '{function.__name__}' has a param"):
        _ = refused.spec


def test_arguments_are_validated_and_defaults_filled_in() -> None:
    assert search.validate({"query": "cats"}) == {
        "query": "cats",
        "limit": 5,
        "exact": False,
    }
    assert search.validate({"query": "cats", "limit": "7"})["limit"] == 7


def test_a_default_of_none_needs_no_optional_type() -> None:
    @make_tool(danger="safe")
    def page(
        number: int = cast(Any, None),
        size: Annotated[int, Field(ge=1, description="Lines.")] = cast(Any, None),
    ) -> None:
        """Turn a page."""

    validated = page.validate({})
    assert validated == {"number": None, "size": None}
    assert page.validate(validated) == validated
    assert page.spec.parameters["properties"]["size"]["description"] == "Lines."
    with pytest.raises(ToolArgumentsError, match="size"):
        page.validate({"size": 0})


def test_nested_types_become_json_and_stay_the_same_when_validated_again() -> None:
    arguments = {
        "order": {"address": {"street": "Elm", "number": 3}, "day": "2026-11-21"},
        "tags": ["a", "a"],
    }

    validated = deliver.validate(arguments)

    assert validated == {
        "order": {
            "address": {"street": "Elm", "number": 3},
            "day": "2026-11-21",
            "size": "small",
            "price": "9.90",
        },
        "tags": ["a"],
        "options": None,
    }
    assert json.loads(json.dumps(validated)) == validated
    assert deliver.validate(validated) == validated


@pytest.mark.anyio
async def test_the_function_gets_values_of_its_own_types() -> None:
    arguments = deliver.validate(
        {
            "order": {
                "address": {"street": "Elm", "number": 3},
                "day": "2026-11-21",
                "size": "large",
            },
            "tags": ["a"],
        }
    )

    order, tags, options = await deliver.invoke(arguments, CONTEXT)

    assert order == Order(
        address=Address(street="Elm", number=3), day=date(2026, 11, 21), size=Size.LARGE
    )
    assert (tags, options) == ({"a"}, None)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "query: "),
        ({"query": "a", "limit": SECRET}, "limit: "),
        ({"query": {"password": SECRET}}, "query: "),
        ({"query": "a", "limit": 51}, "limit: "),
        ({"query": "a", "colour": SECRET}, "colour: "),
        ([SECRET], "arguments: "),
        (SECRET, "arguments: "),
        (None, "arguments: "),
    ],
)
def test_an_argument_that_does_not_fit_is_named_without_its_value(
    arguments: Any, problem: str
) -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        search.validate(arguments)
    assert problem in str(caught.value)
    assert "'search'" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_nested_value_is_not_repeated_either() -> None:
    with pytest.raises(ToolArgumentsError, match=r"order\.address\.number: ") as caught:
        deliver.validate(
            {
                "order": {"address": {"street": SECRET, "number": SECRET}, "day": SECRET},
                "tags": [],
            }
        )
    assert SECRET not in str(caught.value)


def test_an_error_is_of_bounded_length() -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        search.validate(
            {"query": 1, **{f"{number}{'x' * 9_999}": 1 for number in range(99)}}
        )
    assert len(str(caught.value)) < 2_000


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [_deep(1_000), _deep(100_000), "\ud800", object(), b"\xff", 10**5_000, {"\udfff": 1}],
    ids=["deep", "deeper", "surrogate", "object", "bytes", "number", "surrogate-key"],
)
def test_what_json_cannot_hold_is_refused_and_breaks_nothing(value: Any) -> None:
    arguments = {
        "order": {"address": {"street": "Elm", "number": 3}, "day": "2026-11-21"},
        "tags": [],
        "options": {"any": value},
    }
    with pytest.raises(ToolArgumentsError, match="JSON cannot hold"):
        deliver.validate(arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "NaN", "-Infinity", 1e999])
def test_a_number_that_is_none_is_refused(value: Any) -> None:
    @make_tool(danger="safe")
    def double(number: float) -> float:
        """Double a number."""
        return 2 * number

    with pytest.raises(ToolArgumentsError, match="finite"):
        double.validate({"number": value})


def test_half_a_character_is_refused() -> None:
    assert search.validate({"query": "grün \U0001f600"})["query"] == "grün \U0001f600"
    with pytest.raises(ToolArgumentsError, match="surrogates"):
        search.validate({"query": "\ud800"})


@pytest.mark.anyio
async def test_a_coroutine_function_runs_in_the_loop() -> None:
    @make_tool(danger="safe")
    async def where() -> int:
        """Say which thread this is."""
        return threading.get_ident()

    assert await where.invoke(where.validate({}), CONTEXT) == threading.get_ident()


@pytest.mark.anyio
async def test_a_plain_function_runs_in_a_thread() -> None:
    @make_tool(danger="safe")
    def where(word: str) -> tuple[int, str]:
        """Say which thread this is."""
        return threading.get_ident(), word

    thread, word = await where.invoke(where.validate({"word": "hi"}), CONTEXT)

    assert thread != threading.get_ident()
    assert word == "hi"


@pytest.mark.anyio
async def test_a_plain_function_that_returns_a_coroutine_is_awaited() -> None:
    async def answer() -> str:
        return "later"

    @make_tool(danger="safe")
    def wrapped() -> Any:
        """Answer later."""
        return answer()

    assert await wrapped.invoke({}, CONTEXT) == "later"


@pytest.mark.anyio
async def test_an_error_of_the_function_passes_through() -> None:
    @make_tool(danger="safe")
    def fail() -> None:
        """Fail."""
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        await fail.invoke({}, CONTEXT)


@pytest.mark.anyio
async def test_the_context_is_filled_in_and_not_shown_to_the_model() -> None:
    @make_tool(danger="safe")
    async def who(name: str, context: ToolContext) -> str:
        """Say who calls."""
        return f"{name} {context.call_id} {context.idempotency_key}"

    @make_tool(danger="safe")
    async def maybe(tags: list[str], context: ToolContext | None = None) -> str:
        """Say who calls, if somebody does."""
        return context.call_id if context else "nobody"

    assert list(who.spec.parameters["properties"]) == ["name"]
    assert await who.invoke(who.validate({"name": "a"}), CONTEXT) == "a call_1 r:call_1"
    assert await maybe.invoke(maybe.validate({"tags": []}), CONTEXT) == "call_1"
    assert await maybe(tags=[]) == "nobody"
    with pytest.raises(ToolArgumentsError, match="context"):
        who.validate({"name": "a", "context": "mine"})


@pytest.mark.anyio
async def test_a_tool_can_still_be_called_as_the_function_that_it_is() -> None:
    assert await search("cats", limit=1) == "cats 1 False"


@pytest.mark.anyio
async def test_a_bound_method_can_be_a_tool() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        async def add(self, amount: int) -> int:
            """Count on."""
            self.count += amount
            return self.count

    counter = Counter()
    add = make_tool(counter.add, danger="safe")

    assert await add.invoke(add.validate({"amount": 2}), CONTEXT) == 2
    assert list(add.spec.parameters["properties"]) == ["amount"]


def test_a_function_tool_is_a_tool_and_builds_its_spec_once() -> None:
    assert isinstance(search, FunctionTool)
    assert isinstance(search, Tool)
    assert search.spec is search.spec


def test_defaults_are_not_shared_between_calls() -> None:
    @make_tool(danger="safe")
    def collect(items: list[str] = []) -> None:  # noqa: B006
        """Collect."""

    collect.validate({})["items"].append("left over")

    assert collect.validate({}) == {"items": []}


def test_a_default_of_another_type_becomes_json_too() -> None:
    @make_tool(danger="safe")
    def odd(text: str = cast(Any, 3), number: int = cast(Any, Decimal("1.5"))) -> None:
        """Be odd."""

    assert odd.validate({}) == {"text": 3, "number": "1.5"}


def test_a_literal_shows_the_words_there_are() -> None:
    @make_tool(danger="safe")
    def turn(direction: Literal["left", "right"]) -> None:
        """Turn."""

    assert turn.spec.parameters["properties"]["direction"]["enum"] == ["left", "right"]
    with pytest.raises(ToolArgumentsError, match="'left' or 'right'"):
        turn.validate({"direction": "up"})


def test_a_granted_call_is_a_copy() -> None:
    call = ToolCall(id="1", name="search", arguments={}, spec=search.spec)

    granted = call.granted("gate", "a person said so")

    assert call.grant is None
    assert granted.grant is not None
    assert (granted.grant.by, granted.grant.reason) == ("gate", "a person said so")
    assert (granted.id, granted.spec) == ("1", search.spec)


def test_tools_are_chosen_by_category_and_by_what_needs_no_grant() -> None:
    def make(name: str, danger: Any, category: str) -> Tool:
        return make_tool(_nothing, danger=danger, name=name, category=category)

    tools = [make("a", "safe", "file"), make("b", "high", "file"), make("c", "low", "web")]

    def names(chosen: Iterable[Tool]) -> list[str]:
        return [each.spec.name for each in chosen]

    assert names(select(tools)) == ["a", "b", "c"]
    assert names(select(tools, category="file")) == ["a", "b"]
    assert names(select(tools, safe_only=True)) == ["a", "c"]
    assert names(select(tools, category="file", safe_only=True)) == ["a"]
    assert names(select(tools, category="mail")) == []
