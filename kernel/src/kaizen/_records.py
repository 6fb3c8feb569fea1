"""Makes frozen dataclasses cheap to construct.

The `__init__` of a frozen dataclass looks up and calls `object.__setattr__` for each field,
and a run makes a dozen such objects. Here an object is filled while it is of a class of the
same layout that is not frozen yet, and then given its own class: that takes half the time.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["quick_init"]

Record = TypeVar("Record")


def quick_init(cls: type[Record]) -> type[Record]:
    """Give a frozen, slotted, keyword-only dataclass a faster constructor.

    Only for classes without `__post_init__`, `InitVar` or `init=False` fields, and which no
    other class derives from unless it is decorated as well.
    """
    unfrozen = type(
        cls.__name__,
        cls.__bases__,
        {
            "__slots__": cls.__slots__,  # type: ignore[attr-defined]
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
    for field in fields(cls):  # type: ignore[arg-type]
        name = field.name
        value = name
        if field.default is not MISSING:
            namespace[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        elif field.default_factory is not MISSING:
            namespace[f"_make_{name}"] = field.default_factory
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
    new = namespace["__new__"]
    new.__qualname__ = f"{cls.__qualname__}.__new__"
    new.__annotations__ = cls.__init__.__annotations__
    cls.__new__ = new  # type: ignore[method-assign]
    cls.__init__ = object.__init__  # type: ignore[method-assign]
    cls.__reduce__ = _reduce  # type: ignore[method-assign]
    cls.__get_pydantic_core_schema__ = classmethod(_schema)  # type: ignore[attr-defined]
    return cls


def _reduce(self: object) -> tuple[Any, ...]:
    """Say how to make a record again, for `copy` and `pickle`."""
    values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
    return _rebuild, (type(self), values)


def _rebuild(cls: type[Any], values: dict[str, Any]) -> Any:
    return cls(**values)


def _schema(cls: type[Any], _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
    """Tell pydantic, which fills dataclasses field by field, to call the constructor."""
    hints = get_type_hints(cls, include_extras=True)
    members = {
        field.name: core_schema.typed_dict_field(
            handler.generate_schema(hints[field.name]),
            required=field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(cls)
    }
    mapping = core_schema.typed_dict_schema(members, extra_behavior="forbid")
    made = core_schema.no_info_after_validator_function(
        lambda values: cls(**values), mapping
    )
    given = core_schema.is_instance_schema(cls)
    return core_schema.json_or_python_schema(
        json_schema=made, python_schema=core_schema.union_schema([given, made])
    )
