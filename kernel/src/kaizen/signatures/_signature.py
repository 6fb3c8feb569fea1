"""The base class of all signatures."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from kaizen.errors import SignatureError
from kaizen.signatures._annotations import (
    annotation_text,
    is_class_variable,
    missing_name,
    names_around,
    only_used,
    own_annotations,
    resolve,
)
from kaizen.signatures._fields import (
    FieldMarker,
    Role,
    SignatureField,
    build_field,
    check_marker,
)

if TYPE_CHECKING:
    from types import FrameType

_OWN = "__kaizen_own_fields__"
_FIELDS = "__kaizen_fields__"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unresolved:
    """A field whose annotation names something that does not exist yet."""

    annotation: Any
    marker: FieldMarker
    namespace: Mapping[str, Any]
    module: str


class _Fields:
    """Gives the fields of one role, resolving on first use what could not be before."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def __get__(self, _: object, owner: type[Signature]) -> Mapping[str, SignatureField]:
        fields = _resolved(owner)
        return MappingProxyType(
            {name: field for name, field in fields.items() if field.role == self._role}
        )


class Signature:
    """What goes into a run and what comes out of it.

        class Review(Signature):
            "Judge a product review."

            text: str = InputField(desc="The review")
            sentiment: Literal["good", "bad"] = OutputField(desc="Overall tone")

    The docstring is the instruction to the model; a class attribute `instructions`
    takes its place where docstrings are stripped. A subclass adds fields or gives them
    anew, and inherits instructions if it has none. `class Base(Signature,
    abstract=True)` may lack outputs. An instance says no more than its class.
    """

    input_fields: ClassVar[Mapping[str, SignatureField]]
    output_fields: ClassVar[Mapping[str, SignatureField]]
    instructions: ClassVar[str] = ""

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = _own_fields(cls, _defining_frame())
        setattr(cls, _OWN, own)
        merged = _merge(cls)
        if not abstract and not any(_role(field) == "output" for field in merged.values()):
            _refuse(cls, "has no outputs", "Declare one: `answer: str = OutputField()`.")
        setattr(cls, _FIELDS, MappingProxyType(merged))
        own_instructions = cls.__dict__.get("instructions")
        if own_instructions is not None and not isinstance(own_instructions, str):
            _refuse(cls, "has instructions that are no str", "Write the text itself.")
        if own_instructions is None and (text := cls.__dict__.get("__doc__")):
            cls.instructions = inspect.cleandoc(text)

    @classmethod
    def to_schema(cls) -> dict[str, Any]:
        """Return the signature as JSON: `name`, `instructions`, `inputs` and `outputs`.

        The last two are JSON schemas. `SignatureParser.from_schema` reads it back.
        """
        from kaizen.signatures._schema import signature_schema

        return signature_schema(cls)


# Set here, so that type checkers see mappings where there are descriptors.
setattr(Signature, "input_fields", _Fields("input"))  # noqa: B010
setattr(Signature, "output_fields", _Fields("output"))  # noqa: B010
setattr(Signature, _FIELDS, MappingProxyType({}))


def _own_fields(
    cls: type[Signature], frame: FrameType | None
) -> dict[str, SignatureField | _Unresolved]:
    annotations = own_annotations(cls)
    for name, value in cls.__dict__.items():
        if isinstance(value, FieldMarker) and name not in annotations:
            _refuse(
                cls,
                f"has a field {name!r} without a type",
                f"Annotate it: `{name}: str = {value.role.capitalize()}Field()`.",
            )
    around = names_around(frame, cls.__module__)
    fields = {
        name: _own_field(cls, name, annotation, around)
        for name, annotation in annotations.items()
        if not is_class_variable(annotation)
    }
    for name in fields:
        delattr(cls, name)
    return fields


def _own_field(
    cls: type[Signature], name: str, annotation: Any, around: Mapping[str, Any]
) -> SignatureField | _Unresolved:
    marker = cls.__dict__.get(name)
    if name.startswith("_"):
        _refuse(cls, f"has a private field {name!r}", "Give it a name without underscore.")
    if hasattr(Signature, name):
        _refuse(cls, f"has a field with the reserved name {name!r}", "Choose another.")
    if not isinstance(marker, FieldMarker):
        _refuse(
            cls,
            f"does not say whether {name!r} is an input or an output",
            f"Write `{name}: {annotation_text(annotation)} = InputField()` or "
            "`= OutputField()`, or annotate it as ClassVar.",
        )
    check_marker(marker, name, cls.__name__)
    unresolved = _Unresolved(
        annotation=annotation, marker=marker, namespace=around, module=cls.__module__
    )
    try:
        return _resolve(cls, name, unresolved)
    except NameError:
        return replace(unresolved, namespace=only_used(annotation, around))


def _resolve(cls: type[Signature], name: str, field: _Unresolved) -> SignatureField:
    try:
        annotation = resolve(field.annotation, field.namespace, field.module)
    except NameError:
        raise
    except Exception as error:  # whatever the code in an annotation raises
        text = annotation_text(field.annotation)
        problem = f"has a field {name!r} whose type {text!r} cannot be understood: {error}"
        raise SignatureError(f"signature {cls.__name__!r}", problem) from error
    return build_field(name, annotation, field.marker, cls.__name__)


def _resolved(cls: type[Signature]) -> Mapping[str, SignatureField]:
    fields = getattr(cls, _FIELDS)
    if not any(isinstance(field, _Unresolved) for field in fields.values()):
        return dict(fields)
    done: dict[str, SignatureField] = {}
    for name, field in fields.items():
        if isinstance(field, SignatureField):
            done[name] = field
            continue
        try:
            done[name] = _resolve(cls, name, field)
        except NameError:
            _refuse_unresolved(cls, name, field)
    setattr(cls, _FIELDS, MappingProxyType(done))
    return done


def _refuse_unresolved(cls: type[Signature], name: str, field: _Unresolved) -> NoReturn:
    text = annotation_text(field.annotation)
    lacking = missing_name(field.annotation, field.namespace, field.module)
    _refuse(
        cls,
        f"has a field {name!r} of type {text!r}, in which "
        f"{lacking or 'a name'!r} is not defined in module {field.module!r}",
        "Import it there outside `if TYPE_CHECKING`, or define it before the signature.",
    )


def _merge(cls: type[Signature]) -> dict[str, SignatureField | _Unresolved]:
    merged: dict[str, SignatureField | _Unresolved] = {}
    for base in reversed(cls.__mro__):
        for name, field in base.__dict__.get(_OWN, {}).items():
            if name in merged and _role(merged[name]) != _role(field):
                _refuse(
                    cls,
                    f"has {name!r} both as an input and as an output",
                    "Give one of them another name.",
                )
            merged[name] = field
    return merged


def _role(field: SignatureField | _Unresolved) -> Role:
    return field.role if isinstance(field, SignatureField) else field.marker.role


def _defining_frame() -> FrameType | None:
    """Return the frame in which the class statement stands."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name == "__init_subclass__":
        frame = frame.f_back
    return frame


def _refuse(cls: type, problem: str, remedy: str) -> NoReturn:
    raise SignatureError(f"signature {cls.__name__!r}", problem, remedy)
