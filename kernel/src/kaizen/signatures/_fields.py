"""What one field of a signature is, and how a class body says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Optional, TypeAlias, TypedDict, Unpack

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from kaizen.errors import SignatureError
from kaizen.signatures._annotations import takes_none, type_words

Role: TypeAlias = Literal["input", "output"]

MISSING: Final[Any] = PydanticUndefined
"""The default of a field that has none. The same object as pydantic's."""


class Constraints(TypedDict, total=False):
    """What a field may demand of its value, beyond its type; the words are pydantic's."""

    title: str
    examples: list[Any]
    gt: Any
    ge: Any
    lt: Any
    le: Any
    multiple_of: float
    allow_inf_nan: bool
    max_digits: int
    decimal_places: int
    min_length: int
    max_length: int
    pattern: str
    strict: bool
    discriminator: str
    json_schema_extra: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureField:
    """One field, complete.

    Attributes:
        name: Its name.
        annotation: The type that is validated. `None` is added to what was written
            where the field may be left out and has no other default.
        description: What people and models are told about it, or `""`.
        required: Whether it must be given.
        default: Its value if it is left out; `MISSING` if it is required or has a
            `info.default_factory`.
        role: Whether it goes in or comes out.
        info: The same for pydantic, with every constraint.
    """

    name: str
    annotation: Any
    description: str
    required: bool
    default: Any
    role: Role
    info: FieldInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMarker:
    """What `InputField` and `OutputField` leave in a class body."""

    role: Role
    description: str = ""
    default: Any = MISSING
    default_factory: Callable[[], Any] | None = None
    required: bool | None = None
    constraints: Mapping[str, Any]


def InputField(  # noqa: N802  # reads like a type, as in pydantic and dataclasses
    *,
    desc: str = "",
    description: str = "",
    default: Any = MISSING,
    default_factory: Callable[[], Any] | None = None,
    required: bool | None = None,
    **constraints: Unpack[Constraints],
) -> Any:
    """Declare an input of a signature.

    Args:
        desc: What it means, for people and for the model.
        description: The same, for those who know pydantic.
        default: Its value if it is left out.
        default_factory: Makes that value anew each time; for lists and the like.
        required: `True`: must be given, though it may be `None`; `False`: is `None` if
            it is left out. Without it, a field is required if it has no default and
            its type does not take `None`.
        **constraints: What `pydantic.Field` takes: `ge`, `max_length`, `pattern` ...
    """
    return _marker(
        "input", desc, description, default, default_factory, required, constraints
    )


def OutputField(  # noqa: N802
    *,
    desc: str = "",
    description: str = "",
    default: Any = MISSING,
    default_factory: Callable[[], Any] | None = None,
    required: bool | None = None,
    **constraints: Unpack[Constraints],
) -> Any:
    """Declare an output of a signature; the arguments are those of `InputField`.

    A model may leave out an output that is not required, or answer `null` for it.
    """
    return _marker(
        "output", desc, description, default, default_factory, required, constraints
    )


def _marker(
    role: Role,
    desc: str,
    description: str,
    default: Any,
    default_factory: Callable[[], Any] | None,
    required: bool | None,
    constraints: Constraints,
) -> FieldMarker:
    function = f"{role.capitalize()}Field()"
    if desc and description and desc != description:
        raise TypeError(f"{function} takes desc or description, not both")
    unknown = sorted(constraints.keys() - Constraints.__annotations__.keys())
    if unknown:
        known = ", ".join(Constraints.__annotations__)
        raise TypeError(f"{function} does not know {unknown[0]!r}; constraints are {known}")
    return FieldMarker(
        role=role,
        description=desc or description,
        default=MISSING if default is ... else default,
        default_factory=default_factory,
        required=required,
        constraints=dict(constraints),
    )


def check_marker(marker: FieldMarker, field: str, signature: str) -> None:
    """Refuse contradictions that can be seen before the type is known."""
    has_default = marker.default is not MISSING
    problem = None
    if has_default and marker.default_factory is not None:
        problem = "has both a default and a default_factory; keep one"
    elif marker.required and (has_default or marker.default_factory is not None):
        problem = "is required and has a default; drop one"
    elif has_default and type(marker.default).__hash__ is None:
        kind = type(marker.default).__name__
        problem = (
            f"has a {kind} as default, which all runs would share; "
            f"write default_factory=lambda: {kind}(...)"
        )
    if problem is not None:
        raise SignatureError(
            f"signature {signature!r}", f"is not well formed: {field!r} {problem}"
        )


def build_field(
    name: str, annotation: Any, marker: FieldMarker, signature: str
) -> SignatureField:
    """Put together what the type and the marker say."""
    has_default = marker.default is not MISSING or marker.default_factory is not None
    description = marker.description or _told(annotation)
    default = marker.default
    required = marker.required
    if required is None:
        required = not has_default and not takes_none(annotation)
    if not required and not has_default:
        default = None
    if default is None and not takes_none(annotation):
        annotation = Optional[annotation]  # noqa: UP045  # it may be no class
    try:
        info: FieldInfo = Field(  # type: ignore[call-overload]  # a factory or none
            default=default,
            default_factory=marker.default_factory,
            description=description or None,
            **marker.constraints,
        )
    except (TypeError, ValueError, RuntimeError) as error:
        problem = f"is not well formed: {name!r} ({type_words(annotation)}) {error}"
        raise SignatureError(f"signature {signature!r}", problem) from error
    return SignatureField(
        name=name,
        annotation=annotation,
        description=description,
        required=required,
        default=default,
        role=marker.role,
        info=info,
    )


def _told(annotation: Any) -> str:
    """Return the description that `Annotated[..., Field(description=...)]` holds."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, FieldInfo) and extra.description:
            return extra.description
    return ""


def describe_field(field: SignatureField) -> str:
    """Return a field in one line: `confidence (float, optional): how sure`."""
    words = [] if field.annotation is str else [type_words(field.annotation)]
    if not field.required:
        words.append("optional")
    aside = f" ({', '.join(words)})" if words else ""
    told = f": {field.description}" if field.description else ""
    return f"{field.name}{aside}{told}"
