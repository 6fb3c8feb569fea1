"""Makes frozen dataclasses cheap to construct.

A frozen dataclass sets each field by looking up `object.__setattr__`; a run makes about
a dozen of them. Storing through the slot's own descriptor does the same in two thirds of
the time, and is otherwise the `__init__` that `dataclasses` writes.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

__all__ = ["quick_init"]

Record = TypeVar("Record")


def quick_init(cls: type[Record]) -> type[Record]:
    """Replace the `__init__` of a frozen, slotted, keyword-only dataclass by a faster one.

    Only for classes without `__post_init__`, `InitVar` or `init=False` fields.
    """
    namespace: dict[str, Any] = {}
    parameters: list[str] = []
    statements: list[str] = []
    for field in fields(cls):  # type: ignore[arg-type]
        name = field.name
        namespace[f"_set_{name}"] = getattr(cls, name).__set__
        value = name
        if field.default is not MISSING:
            namespace[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        elif field.default_factory is not MISSING:
            namespace["_missing"] = MISSING
            namespace[f"_make_{name}"] = field.default_factory
            parameters.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        else:
            parameters.append(name)
        statements.append(f"    _set_{name}(self, {value})")
    body = "\n".join(statements) or "    pass"
    star = "*, " if parameters else ""
    exec(f"def __init__(self, {star}{', '.join(parameters)}):\n{body}", namespace)  # noqa: S102
    init = namespace["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = cls.__init__.__annotations__
    cls.__init__ = init  # type: ignore[method-assign]
    return cls
