"""Build pydantic validators that turn mappings into dicts of one signature's fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaError, core_schema

from kaizen.errors import SignatureError
from kaizen.media import Media
from kaizen.signatures._annotations import takes_none, type_words, with_metadata
from kaizen.signatures._fields import MISSING, SignatureField

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

_UNUSABLE = (PydanticUserError, SchemaError, TypeError, ValueError, RuntimeError, NameError)
_COMPARED = ("gt", "ge", "lt", "le", "multiple_of")
_SIZED = ("min_length", "max_length")
_CONTAINERS = (list, dict, set, frozenset, tuple)
_NOT_COMPARED = (str, bytes, *_CONTAINERS, BaseModel, Enum, UUID, Media)
_NOT_SIZED = (int, float, Decimal, date, time, timedelta, BaseModel, Enum, UUID, Media)


class QuietJsonSchema(GenerateJsonSchema):
    """Leaves out defaults that JSON cannot say, without a warning."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012


def build_adapter(fields: Mapping[str, SignatureField], signature: str) -> TypeAdapter[Any]:
    """Return an adapter that validates a mapping of exactly these fields.

    A TypedDict does the same, but would have to come from typing_extensions, could
    have no default factories, and would not tell which of its fields has a bad type.

    Raises:
        SignatureError: A field's type, constraints or default are of no use.
    """

    class Shape:
        @classmethod
        def __get_pydantic_core_schema__(
            cls, source: Any, handler: GetCoreSchemaHandler
        ) -> core_schema.CoreSchema:
            return core_schema.typed_dict_schema(
                {
                    name: core_schema.typed_dict_field(
                        _field_schema(field, signature, handler), required=field.required
                    )
                    for name, field in fields.items()
                },
                cls_name=signature,
                extra_behavior="forbid",
                config=core_schema.CoreConfig(allow_inf_nan=False, title=signature),
            )

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(Shape)
    except SignatureError:
        raise
    except _UNUSABLE as error:  # what shows only when the parts are put together
        problem = f"cannot be compiled: {' '.join(str(error).split())[:500]}"
        raise SignatureError(f"signature {signature!r}", problem) from error
    return adapter


def _field_schema(
    field: SignatureField, signature: str, handler: GetCoreSchemaHandler
) -> core_schema.CoreSchema:
    annotated = with_metadata(field.annotation, field.info)
    if misfit := _misfit(field):
        raise _unusable(field, signature, f"{misfit!r} does not fit that type")
    try:
        schema = handler.generate_schema(annotated)
        if field.required:
            return schema
        return _with_default(field, annotated, schema)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise _unusable(field, signature, f"the default does not fit: {problem}") from None
    except _UNUSABLE as error:
        raise _unusable(field, signature, str(error).partition("\n")[0]) from error


def _misfit(field: SignatureField) -> str | None:
    """Return a constraint at which pydantic would stumble only when there is a value."""
    members = [m for m in get_args(field.annotation) if m is not NoneType]
    base = members[0] if len(members) == 1 and takes_none(field.annotation) else None
    base = base or field.annotation
    base = get_origin(base) or base
    if not isinstance(base, type):
        return None
    wrong = [
        *(_COMPARED if issubclass(base, _NOT_COMPARED) else ()),
        *(_SIZED if issubclass(base, _NOT_SIZED) else ()),
        *(("pattern",) if issubclass(base, (*_NOT_SIZED, *_CONTAINERS)) else ()),
    ]
    given = field.info.metadata
    return next((w for w in wrong for m in given if getattr(m, w, None) is not None), None)


def _with_default(
    field: SignatureField, annotated: Any, schema: core_schema.CoreSchema
) -> core_schema.CoreSchema:
    factory: Callable[[], Any] | None = field.info.default_factory  # type: ignore[assignment]  # ours take nothing
    if factory is not None:
        schema = _null_means(factory, field, schema)
        return core_schema.with_default_schema(schema, default_factory=factory)
    default = field.default
    if default is not None and default is not MISSING:
        default = TypeAdapter(annotated).validate_python(default)
    schema = _null_means(lambda: default, field, schema)
    return core_schema.with_default_schema(schema, default=default)


def _null_means(
    default: Callable[[], Any], field: SignatureField, schema: core_schema.CoreSchema
) -> core_schema.CoreSchema:
    """Let a model say `null` where the strict schema does not let it say nothing."""
    if field.role == "input" or takes_none(field.annotation):
        return schema
    return core_schema.no_info_before_validator_function(
        lambda value: default() if value is None else value, schema
    )


def _unusable(field: SignatureField, signature: str, reason: str) -> SignatureError:
    return SignatureError(
        f"signature {signature!r}",
        f"has an {field.role} {field.name!r} of type {type_words(field.annotation)!r} "
        f"that cannot be used: {reason.rstrip('.')}",
        "Use a type that pydantic validates, and constraints that fit it.",
    )
