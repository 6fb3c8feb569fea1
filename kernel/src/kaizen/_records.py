"""Frozen dataclasses that are cheap to declare and cheap to make.

The `__init__` of a frozen dataclass looks up and calls `object.__setattr__` for each field,
and a run makes a dozen such objects. Here an object is filled while it is of a class of the
same layout that is not frozen yet, and then given its own class: that takes half the time.
`dataclasses` also compiles nine methods for each class, at import; here one is compiled,
and the others are shared.

A call of a class puts its keywords into a dict, from which its constructor takes them out
again, and that is half of what is left: `maker` gives what does without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from types import MethodType
from typing import Any, NoReturn, TypeVar, cast, dataclass_transform, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["maker", "record"]

Record = TypeVar("Record")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(cls: type[Record]) -> type[Record]:
    """Make a frozen, slotted, keyword-only dataclass of a class.

    `replace`, `fields`, `copy`, `pickle` and pydantic work as with any dataclass. There is
    no `__post_init__`, `InitVar` or `init=False`, and what derives from a record has to be
    one.
    """
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=True)(cls)
    names = tuple(each.name for each in fields(made))
    made.__new__ = _constructor(made)
    made.__init__ = object.__init__
    made.__setattr__ = _refuse_to_set
    made.__delattr__ = _refuse_to_delete
    made.__eq__, made.__hash__ = _comparison(names)
    made.__repr__ = _repr
    made.__reduce__ = _reduce
    made.__get_pydantic_core_schema__ = classmethod(_schema)
    return made  # type: ignore[no-any-return]


def maker(cls: type[Record]) -> type[Record]:
    """Return a function that makes a record as a call of its class does, in half the time.

    For what every turn of a run makes. To type checkers it is the class, so that its calls
    are checked; it is good for nothing else.
    """
    return cast("type[Record]", MethodType(cls.__new__, cls))


def _constructor(cls: Any) -> Callable[..., Any]:
    """Compile the function that makes a record of its fields."""
    unfrozen = type(
        cls.__name__,
        cls.__bases__,
        {
            "__slots__": cls.__slots__,
            "__setattr__": object.__setattr__,
            "__delattr__": object.__delattr__,
        },
    )
    namespace: dict[str, Any] = {
        "_make": object.__new__,
        "_missing": MISSING,
        "_unfrozen": unfrozen,
    }
    parameters: list[str] = []
    statements: list[str] = []
    for each in fields(cls):
        name = each.name
        value = name
        if each.default is not MISSING:
            namespace[f"_default_{name}"] = each.default
            parameters.append(f"{name}=_default_{name}")
        elif each.default_factory is not MISSING:
            namespace[f"_make_{name}"] = each.default_factory
            parameters.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        else:
            parameters.append(name)
        statements.append(f"    self.{name} = {value}")
    body = "\n".join(
        ["    self = _make(_unfrozen)", *statements, "    self.__class__ = cls"]
    )
    code = f"def __new__(cls, *, {', '.join(parameters)}):\n{body}\n    return self"
    exec(code, namespace)  # noqa: S102 - as `dataclasses` does, of names of fields alone
    new: Callable[..., Any] = namespace["__new__"]
    new.__qualname__ = f"{cls.__qualname__}.__new__"
    new.__annotations__ = {each.name: each.type for each in fields(cls)}
    return new


def _refuse_to_set(self: object, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _comparison(
    names: tuple[str, ...],
) -> tuple[Callable[[Any, object], Any], Callable[[Any], int]]:
    values = attrgetter(*names)

    def equal(self: Any, other: object) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return values(self) == values(other)

    def hashed(self: Any) -> int:
        return hash(values(self))

    return equal, hashed


def _repr(self: Any) -> str:
    shown = ", ".join(
        f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr
    )
    return f"{type(self).__qualname__}({shown})"


def _reduce(self: Any) -> tuple[Any, ...]:
    """Say how to make a record again, for `copy` and `pickle`."""
    values = {each.name: getattr(self, each.name) for each in fields(self)}
    return _rebuild, (type(self), values)


def _rebuild(cls: type[Any], values: dict[str, Any]) -> Any:
    return cls(**values)


def _schema(cls: type[Any], _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
    """Tell pydantic, which fills dataclasses field by field, to call the constructor."""
    hints = get_type_hints(cls, include_extras=True)
    members = {
        each.name: core_schema.typed_dict_field(
            handler.generate_schema(hints[each.name]),
            required=each.default is MISSING and each.default_factory is MISSING,
        )
        for each in fields(cls)
    }
    mapping = core_schema.typed_dict_schema(members, extra_behavior="forbid")
    made = core_schema.no_info_after_validator_function(
        lambda values: cls(**values), mapping
    )
    given = core_schema.is_instance_schema(cls)
    return core_schema.json_or_python_schema(
        json_schema=made, python_schema=core_schema.union_schema([given, made])
    )
