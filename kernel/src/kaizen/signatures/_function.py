"""Read signatures from functions, and fields from the types that have some."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kaizen.errors import SignatureError
from kaizen.signatures._annotations import (
    annotation_text,
    missing_name,
    names_around,
    resolve,
    with_metadata,
)
from kaizen.signatures._fields import MISSING, FieldMarker, Role

if TYPE_CHECKING:
    from types import FrameType

RESULT = "result"
"""The output of a function that returns one value."""


def read_function(
    function: Callable[..., Any], frame: FrameType | None
) -> dict[str, tuple[Any, FieldMarker]]:
    """Return a function's parameters as inputs and what it returns as outputs.

    Args:
        function: Never called.
        frame: Where it is defined, for types that are local there.
    """
    name = getattr(function, "__name__", repr(function))
    around = {
        **getattr(function, "__globals__", {}),
        **names_around(frame, function.__module__),
    }
    shape = inspect.signature(function)
    fields: dict[str, tuple[Any, FieldMarker]] = {}
    for parameter in shape.parameters.values():
        fields[parameter.name] = _input(parameter, name, around, function.__module__)
    returned = shape.return_annotation
    if returned is shape.empty or returned in (None, "None"):
        _refuse(name, "returns nothing", "Annotate what it returns: `-> str`.")
    annotation = _resolve(returned, "what it returns", name, around, function.__module__)
    for output, field in read_type(annotation, "output", name).items():
        if output in fields:
            problem = f"has {output!r} both as a parameter and as an output"
            _refuse(name, problem, "Give one of them another name.")
        fields[output] = field
    return fields


def read_type(
    annotation: Any, role: Role, owner: str
) -> dict[str, tuple[Any, FieldMarker]]:
    """Return the fields of a model, dataclass, TypedDict or NamedTuple; else one field."""
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return {
                name: _model_field(info, role, f"{owner}.{name}")
                for name, info in annotation.model_fields.items()
            }
        if dataclasses.is_dataclass(annotation):
            return _dataclass_fields(annotation, role)
        if issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
            return _named_tuple_fields(annotation, role)
        if issubclass(annotation, dict) and hasattr(annotation, "__required_keys__"):
            return _typed_dict_fields(annotation, role)
    if typing.is_typeddict(annotation):
        return _typed_dict_fields(annotation, role)
    return {RESULT: (annotation, FieldMarker(role=role, constraints={}))}


def _input(
    parameter: inspect.Parameter, owner: str, around: Mapping[str, Any], module: str
) -> tuple[Any, FieldMarker]:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        _refuse(owner, f"has the parameter *{name}", "Name every input.")
    if parameter.annotation is parameter.empty:
        _refuse(owner, f"has a parameter {name!r} without a type", f"Write `{name}: str`.")
    annotation = _resolve(
        parameter.annotation, f"parameter {name!r}", owner, around, module
    )
    if isinstance(parameter.default, FieldMarker):
        return annotation, dataclasses.replace(parameter.default, role="input")
    default = MISSING if parameter.default is parameter.empty else parameter.default
    return annotation, FieldMarker(role="input", default=default, constraints={})


def _resolve(
    annotation: Any, what: str, owner: str, around: Mapping[str, Any], module: str
) -> Any:
    text = annotation_text(annotation)
    try:
        return resolve(annotation, around, module)
    except NameError:
        lacking = missing_name(annotation, around, module)
        problem = f"annotates {what} as {text!r}, in which {lacking!r} is not defined"
        _refuse(owner, problem, "Define or import it before the function.")
    except Exception as error:  # whatever the code in an annotation raises
        problem = f"annotates {what} as {text!r}, which cannot be understood: {error}"
        raise SignatureError(f"signature {owner!r}", problem) from error


def _model_field(info: FieldInfo, role: Role, path: str) -> tuple[Any, FieldMarker]:
    if info.default_factory_takes_validated_data:
        _refuse(path, "has a default that is made of other fields", "Give it a fixed one.")
    constraints: dict[str, Any] = {
        name: value
        for name in ("title", "examples", "json_schema_extra", "discriminator")
        if (value := getattr(info, name)) is not None
    }
    factory: Callable[[], Any] | None = info.default_factory  # type: ignore[assignment]  # checked above
    marker = FieldMarker(
        role=role,
        description=info.description or "",
        default=info.default,
        default_factory=factory,
        constraints=constraints,
    )
    return with_metadata(info.annotation, *info.metadata), _own_default(marker)


def _dataclass_fields(cls: type, role: Role) -> dict[str, tuple[Any, FieldMarker]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {}
    for field in dataclasses.fields(cls):
        default = field.default
        if isinstance(default, FieldInfo):
            info = FieldInfo.merge_field_infos(default, annotation=hints[field.name])
            fields[field.name] = _model_field(info, role, f"{cls.__name__}.{field.name}")
            continue
        factory = field.default_factory
        marker = FieldMarker(
            role=role,
            default=MISSING if default is dataclasses.MISSING else default,
            default_factory=None if factory is dataclasses.MISSING else factory,
            constraints={},
        )
        fields[field.name] = (hints[field.name], _own_default(marker))
    return fields


def _named_tuple_fields(cls: Any, role: Role) -> dict[str, tuple[Any, FieldMarker]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        name: (
            hints.get(name, Any),
            _own_default(
                FieldMarker(
                    role=role,
                    default=cls._field_defaults.get(name, MISSING),
                    constraints={},
                )
            ),
        )
        for name in cls._fields
    }


def _typed_dict_fields(cls: Any, role: Role) -> dict[str, tuple[Any, FieldMarker]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {}
    for name, hint in hints.items():
        mark = str(getattr(hint, "__origin__", "")).rpartition(".")[2]
        wrapped = mark in ("Required", "NotRequired", "ReadOnly")
        # Python does not see the marks of string annotations in __required_keys__.
        may_lack = mark == "NotRequired" or name not in cls.__required_keys__
        required = False if may_lack and mark != "Required" else None
        annotation = typing.get_args(hint)[0] if wrapped else hint
        marker = FieldMarker(role=role, required=required, constraints={})
        fields[name] = (annotation, marker)
    return fields


def _own_default(marker: FieldMarker) -> FieldMarker:
    """Copy a default that another class may share among its instances."""
    if marker.default is MISSING or type(marker.default).__hash__ is not None:
        return marker
    factory = partial(copy.deepcopy, marker.default)
    return dataclasses.replace(marker, default=MISSING, default_factory=factory)


def _refuse(owner: str, problem: str, remedy: str) -> NoReturn:
    raise SignatureError(f"signature {owner!r}", problem, remedy)
