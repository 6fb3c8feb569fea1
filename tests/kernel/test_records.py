"""Records behave as the frozen dataclasses that they stand for."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any, ClassVar

import pytest
from kaizen import events, messages, operations, runlog, tools
from kaizen._records import maker
from kaizen._records import record as recorded
from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainBase:
    name: str
    count: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain(PlainBase):
    kind: ClassVar[str] = "plain"
    items: list[str] = field(default_factory=list)
    pair: tuple[int, int] = (1, 2)

    @property
    def total(self) -> int:
        return self.count + len(self.items)


@recorded
class QuickBase:
    name: str
    count: int = 3


@recorded
class Quick(QuickBase):
    kind: ClassVar[str] = "plain"
    items: list[str] = field(default_factory=list)
    pair: tuple[int, int] = (1, 2)

    @property
    def total(self) -> int:
        return self.count + len(self.items)


both = pytest.mark.parametrize("record", [Plain, Quick])

EVERY = [
    value
    for module in (events, messages, operations, runlog, tools)
    for value in vars(module).values()
    if inspect.isclass(value)
    and dataclasses.is_dataclass(value)
    and value.__module__ == module.__name__
]


def as_plain(text: str) -> str:
    return text.replace("Quick", "Plain")


@both
def test_what_is_left_out_has_its_default(record: Any) -> None:
    made = record(name="a")
    assert (made.name, made.count, made.items, made.pair) == ("a", 3, [], (1, 2))
    assert (made.kind, made.total) == ("plain", 3)


@both
def test_what_is_given_is_kept(record: Any) -> None:
    items = ["x"]
    made = record(name="a", count=0, items=items, pair=(0, 0))
    assert made.items is items
    assert (made.count, made.pair, made.total) == (0, (0, 0), 1)


def test_a_maker_makes_what_its_class_does() -> None:
    make = maker(Quick)

    made = make(name="a", count=1)

    assert type(made) is Quick
    assert made == Quick(name="a", count=1)
    assert make(name="a").items is not make(name="a").items
    with pytest.raises(FrozenInstanceError):
        made.name = "b"  # type: ignore[misc]
    with pytest.raises(TypeError, match="name"):
        make()  # type: ignore[call-arg]


@both
def test_each_record_gets_a_default_of_its_own(record: Any) -> None:
    assert record(name="a").items is not record(name="a").items


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((), {}),
        ((), {"count": 1}),
        ((), {"name": "a", "unknown": 1}),
        (("a",), {}),
        (("a",), {"name": "a"}),
    ],
)
def test_wrong_arguments_are_type_errors_as_of_any_dataclass(
    positional: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with pytest.raises(TypeError) as plain:
        Plain(*positional, **named)
    with pytest.raises(TypeError) as quick:
        Quick(*positional, **named)
    for name in ("name", "unknown"):
        assert (f"'{name}'" in str(plain.value)) == (f"'{name}'" in str(quick.value))
    assert "Quick" in str(quick.value)


@both
def test_a_record_is_frozen(record: Any) -> None:
    made = record(name="a")
    with pytest.raises(FrozenInstanceError):
        made.name = "b"
    with pytest.raises(FrozenInstanceError):
        del made.name
    with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
        made.unknown = 1
    assert made == record(name="a")


@both
def test_a_record_has_no_dictionary(record: Any) -> None:
    assert not hasattr(record(name="a"), "__dict__")


def test_the_representation_is_the_same() -> None:
    assert as_plain(repr(Quick(name="a", items=["b"]))) == repr(
        Plain(name="a", items=["b"])
    )


@both
def test_records_are_equal_if_their_fields_are(record: Any) -> None:
    assert record(name="a") == record(name="a")
    assert record(name="a") != record(name="b")
    assert record(name="a") != (("a", 3, [], (1, 2)))


def test_a_record_is_equal_to_none_of_another_class() -> None:
    plain: object = Plain(name="a")
    assert QuickBase(name="a") != Quick(name="a")
    assert plain != Quick(name="a")


def test_records_hash_as_their_fields_do() -> None:
    assert hash(QuickBase(name="a")) == hash(QuickBase(name="a"))
    assert {QuickBase(name="a"): 1}[QuickBase(name="a")] == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Quick(name="a"))


@both
def test_a_changed_copy_keeps_the_rest(record: Any) -> None:
    made = record(name="a", count=1, items=["x"])
    changed = replace(made, count=2)
    assert (changed.name, changed.count) == ("a", 2)
    assert changed.items is made.items
    assert made.count == 1
    with pytest.raises(TypeError, match="unknown"):
        replace(made, unknown=1)


@both
def test_a_copy_is_equal(record: Any) -> None:
    made = record(name="a", items=["x"])
    assert copy.copy(made) == made
    assert copy.copy(made).items is made.items
    deep = copy.deepcopy(made)
    assert deep == made
    assert deep.items is not made.items
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(made, protocol)) == made
    assert type(copy.copy(made)) is record


@both
def test_a_record_can_be_matched_taken_apart_and_listed(record: Any) -> None:
    made = record(name="a")
    assert [each.name for each in fields(made)] == ["name", "count", "items", "pair"]
    assert dataclasses.asdict(made) == {
        "name": "a",
        "count": 3,
        "items": [],
        "pair": (1, 2),
    }
    match made:
        case Plain(name=name) | Quick(name=name):
            assert name == "a"


@both
def test_a_record_is_an_instance_of_its_class_and_base(record: Any) -> None:
    made = record(name="a")
    assert type(made) is record
    assert isinstance(made, (PlainBase, QuickBase))
    base: Any = record.__base__
    assert type(base(name="a")) is base


@both
def test_a_record_can_be_validated_by_pydantic(record: Any) -> None:
    adapter = TypeAdapter(record)
    made = adapter.validate_json(b'{"name": "a", "items": ["x"]}')
    assert type(made) is record
    assert made == record(name="a", items=["x"])
    assert adapter.dump_python(made) == dataclasses.asdict(made)
    with pytest.raises(FrozenInstanceError):
        made.name = "b"


@pytest.mark.parametrize("record", EVERY, ids=lambda record: record.__name__)
def test_every_record_of_the_kernel_is_frozen_slotted_and_keyword_only(record: Any) -> None:
    blank = object.__new__(record)
    with pytest.raises(FrozenInstanceError):
        setattr(blank, fields(record)[0].name, 1)
    with pytest.raises(FrozenInstanceError):
        delattr(blank, fields(record)[0].name)
    assert "__slots__" in vars(record)
    assert all(each.kw_only for each in fields(record))


@pytest.mark.parametrize("record", EVERY, ids=lambda record: record.__name__)
def test_every_record_of_the_kernel_names_its_missing_arguments(record: Any) -> None:
    required = [
        each.name
        for each in fields(record)
        if each.default is dataclasses.MISSING
        and each.default_factory is dataclasses.MISSING
    ]
    if not required:
        assert record() == record()
        return
    with pytest.raises(TypeError) as caught:
        record()
    assert all(f"'{name}'" in str(caught.value) for name in required)
