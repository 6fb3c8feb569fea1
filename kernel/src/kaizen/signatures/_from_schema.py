"""Make types of JSON schemas, those that `Signature.to_schema` writes and their like."""

from __future__ import annotations

import copy
import datetime
import decimal
import keyword
import pathlib
import uuid
from collections.abc import Mapping
from enum import Enum
from functools import partial
from types import GenericAlias
from typing import Any, Final, ForwardRef, Literal, NamedTuple, NoReturn, Union

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

from kaizen.errors import SignatureError
from kaizen.media import Audio, Document, Image, Media
from kaizen.signatures._annotations import with_metadata
from kaizen.signatures._fields import MISSING, FieldMarker, Role

MAX_NODES: Final = 5000
MAX_DEPTH: Final = 50

_FORMATS: Final[Mapping[str, Any]] = {
    "date-time": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "binary": bytes,
    "path": pathlib.Path,
    "file-path": pathlib.Path,
}
_MEDIA: Final[Mapping[str, type[Media]]] = {
    "image/*": Image,
    "audio/*": Audio,
    "document/*": Document,
    "*/*": Media,
}
_SCALARS: Final[Mapping[str, Any]] = {
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": None,
}
_NUMBER: Final[Mapping[str, str]] = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
}
# For each type: which keywords become which arguments of pydantic's Field.
_CONSTRAINTS: Final[Mapping[str, Mapping[str, str]]] = {
    "string": {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"},
    "number": _NUMBER,
    "integer": _NUMBER,
    "array": {"minItems": "min_length", "maxItems": "max_length"},
    "object": {"minProperties": "min_length", "maxProperties": "max_length"},
    "boolean": {},
    "null": {},
}
_ABOUT: Final = frozenset({"title", "description", "default", "examples"})
_EMPTY: Final[Mapping[Any, Any]] = {"array": list, "object": dict}
_STRUCTURE: Final = frozenset(
    {
        "$defs",
        "$ref",
        "$schema",
        "additionalProperties",
        "anyOf",
        "const",
        "discriminator",
        "enum",
        "format",
        "items",
        "oneOf",
        "patternProperties",
        "prefixItems",
        "properties",
        "propertyNames",
        "required",
        "type",
        "uniqueItems",
    }
)
_MALFORMED = (
    AttributeError,
    KeyError,
    NameError,
    PydanticUserError,
    RecursionError,
    SchemaError,
    TypeError,
    ValueError,
)
_DECIMAL = "^(?!^[-+.]*$)"  # how the pattern starts that pydantic gives a Decimal


def read_schema(
    schema: Any, role: Role, signature: str
) -> dict[str, tuple[Any, FieldMarker]]:
    """Return the type and the marker of each property of an object's schema.

    Raises:
        SignatureError: The schema is too large, or says what no type here can say.
    """
    try:
        return _Reader(schema, signature).fields(role)
    except SignatureError:
        raise
    except _MALFORMED as error:
        problem = f"cannot be made of its schema, which is malformed: {error!s:.200}"
        raise SignatureError(f"signature {signature!r}", problem) from error


class _Reader:
    def __init__(self, schema: Any, signature: str) -> None:
        self._signature = signature
        self._nodes = 0
        self._schema = self._mapping(schema, "the schema")
        self._definitions = self._mapping(self._schema.get("$defs", {}), "$defs")
        self._made: dict[str, Any] = {}
        self._making: set[str] = set()

    def fields(self, role: Role) -> dict[str, tuple[Any, FieldMarker]]:
        properties = self._mapping(self._schema.get("properties", {}), f"the {role}s")
        required = self._schema.get("required", ())
        fields = {}
        for name, schema in properties.items():
            self._check_name(name)
            node = self._mapping(schema, name)
            annotation = self._type(node, name, about=False, depth=0)
            fields[name] = (annotation, self._marker(node, role, name in required))
        self._complete()
        return fields

    def _marker(self, schema: Mapping[str, Any], role: Role, required: bool) -> FieldMarker:
        about = {word: schema[word] for word in ("title", "examples") if word in schema}
        marker = partial(
            FieldMarker,
            role=role,
            description=str(schema.get("description", "")),
            constraints=about,
        )
        default = schema.get("default", MISSING)
        if required:
            return marker(required=True)
        if isinstance(default, list | dict):
            return marker(default_factory=partial(copy.deepcopy, default))
        if default is MISSING and schema.get("type") in _EMPTY:
            return marker(default_factory=_EMPTY[schema["type"]])
        if default is MISSING:
            return marker(required=False)
        return marker(default=default)

    def _type(self, schema: Any, path: str, *, about: bool = True, depth: int) -> Any:
        node = self._mapping(schema, path)
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            self._fail(path, "is too large or nested too deeply")
        annotation = self._bare(node, path, depth + 1)
        told = {word: node[word] for word in _ABOUT - {"default"} if word in node}
        if about and told and "properties" not in node and "enum" not in node:
            annotation = with_metadata(annotation, Field(**told))
        return annotation

    def _bare(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        if "$ref" in schema:
            return self._definition(str(schema["$ref"]), path, depth)
        if (media := str(schema.get("contentMediaType"))) in _MEDIA:
            return _MEDIA[media]
        self._check_words(schema, path)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._union(schema, word, path, depth)
        if "const" in schema:
            return Literal[schema["const"]]
        if "enum" in schema:
            self._nodes += len(schema["enum"])
            return Literal[tuple(schema["enum"])]
        kind = schema.get("type")
        if isinstance(kind, list):
            members = [self._bare({**schema, "type": one}, path, depth) for one in kind]
            return Union[tuple(members)]  # noqa: UP007
        if kind is None:
            return Any
        return self._constrained(self._typed(schema, kind, path, depth), schema, kind)

    def _typed(self, schema: Mapping[str, Any], kind: str, path: str, depth: int) -> Any:
        match kind:
            case "string":
                form = schema.get("format")
                if form is None or form in _FORMATS:
                    return _FORMATS.get(form or "", str)
                return with_metadata(str, Field(json_schema_extra={"format": form}))
            case "integer" | "number" | "boolean" | "null":
                return _SCALARS[kind]
            case "array":
                return self._array(schema, path, depth)
            case "object" if "properties" in schema:
                name = str(schema.get("title", path.rpartition(".")[2]))
                return self._model(name, schema, path, depth)
            case "object":
                return self._mapping_type(schema, path, depth)
        return self._fail(path, f"has the unknown type {kind!r}")

    def _constrained(self, annotation: Any, schema: Mapping[str, Any], kind: str) -> Any:
        words = _CONSTRAINTS[kind]
        if kind == "array" and "prefixItems" in schema:
            words = {}  # the types say how many
        limits: dict[str, Any] = {
            argument: schema[word] for word, argument in words.items() if word in schema
        }
        return with_metadata(annotation, Field(**limits)) if limits else annotation

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        if "prefixItems" in schema:
            members = schema["prefixItems"]
            types = [
                self._type(member, f"{path}[{i}]", depth=depth)
                for i, member in enumerate(members)
            ]
            return GenericAlias(tuple, tuple(types))
        item = self._type(schema.get("items", {}), f"{path}[]", depth=depth)
        return GenericAlias(set if schema.get("uniqueItems") else list, (item,))

    def _mapping_type(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        key: Any = str
        values = schema.get("additionalProperties", True)
        if patterns := schema.get("patternProperties"):
            if len(patterns) != 1:
                self._fail(path, "has several patternProperties")
            ((pattern, values),) = patterns.items()
            key = with_metadata(str, Field(pattern=pattern))
        if "propertyNames" in schema:
            key = self._type(schema["propertyNames"], f"{path} keys", depth=depth)
        if isinstance(values, bool):
            values = {}
        value = self._type(values, f"{path} values", depth=depth)
        return GenericAlias(dict, (key, value))

    def _union(self, schema: Mapping[str, Any], word: str, path: str, depth: int) -> Any:
        members = schema[word]
        if not isinstance(members, list) or not members:
            self._fail(path, f"has an {word} without members")
        if _is_decimal(members):
            return self._constrained(decimal.Decimal, members[0], "number")
        types = [
            self._type(member, f"{path} ({i})", depth=depth)
            for i, member in enumerate(members)
        ]
        union: Any = Union[tuple(types)]  # noqa: UP007
        if tag := schema.get("discriminator", {}).get("propertyName"):
            return with_metadata(union, Field(discriminator=tag))
        return union

    def _definition(self, reference: str, path: str, depth: int) -> Any:
        start, _, key = reference.rpartition("/")
        if start != "#/$defs" or key not in self._definitions:
            self._fail(path, f"refers to {reference!r}, which is not in $defs")
        if key in self._made:
            return self._made[key]
        if key in self._making:
            return ForwardRef(key)
        self._making.add(key)
        schema = self._mapping(self._definitions[key], key)
        self._made[key] = self._defined(key, schema, depth)
        self._making.discard(key)
        return self._made[key]

    def _defined(self, key: str, schema: Mapping[str, Any], depth: int) -> Any:
        name = str(schema.get("title", key))
        if "enum" in schema:
            values = {f"value_{i}": value for i, value in enumerate(schema["enum"])}
            made: Any = Enum(name, values)  # type: ignore[misc]  # made at run time
            made.__doc__ = schema.get("description")
            return made
        if "properties" in schema and "contentMediaType" not in schema:
            self._check_words(schema, key)
            return self._model(name, schema, key, depth)
        if (members := schema.get("prefixItems")) and _names(members):
            types = [
                self._type(member, key, about=False, depth=depth) for member in members
            ]
            pairs = list(zip(_names(members), types, strict=True))
            return NamedTuple(name, pairs)
        return self._type(schema, key, depth=depth)

    def _model(self, name: str, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        required = schema.get("required", ())
        fields: dict[str, Any] = {}
        for field, node in self._mapping(schema["properties"], path).items():
            self._check_name(field)
            annotation = self._type(node, f"{path}.{field}", depth=depth)
            if field not in required and "default" not in node:
                default: Any = Field(default_factory=_EMPTY.get(node.get("type"), _nothing))
            else:
                default = node.get("default", ...)
            fields[field] = (annotation, default)
        extra = schema.get("additionalProperties")
        config = ConfigDict(
            title=name,
            protected_namespaces=(),
            extra="forbid" if extra is False else "allow" if extra else "ignore",
        )
        identifier = name if name.isidentifier() else "Object"
        made: type[BaseModel] = create_model(
            identifier, __config__=config, __doc__=schema.get("description"), **fields
        )
        return made

    def _complete(self) -> None:
        """Let models that refer to each other find each other."""
        for made in self._made.values():
            if isinstance(made, type) and issubclass(made, BaseModel):
                try:
                    made.model_rebuild(_types_namespace=self._made)
                except (PydanticUserError, NameError) as error:
                    self._fail(made.__name__, f"cannot be made: {error}")

    def _check_words(self, schema: Mapping[str, Any], path: str) -> None:
        kinds = schema.get("type")
        known = {*_ABOUT, *_STRUCTURE}
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if kind is not None and kind not in _CONSTRAINTS:
                self._fail(path, f"has the unknown type {kind!r}")
            known.update(_CONSTRAINTS.get(kind or "", ()))
        if unknown := sorted(schema.keys() - known):
            self._fail(path, f"uses {unknown[0]!r}, which no type here can say")

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            self._fail(str(name)[:60], "is no Python identifier")
        if len(name) > 100:
            self._fail(name[:60], "is too long a name")

    def _mapping(self, value: Any, path: str) -> Mapping[str, Any]:
        if value is True:
            return {}
        if not isinstance(value, Mapping):
            self._fail(path, f"should be an object, not {type(value).__name__}")
        return value

    def _fail(self, path: str, problem: str) -> NoReturn:
        raise SignatureError(
            f"signature {self._signature!r}",
            f"cannot be made of its schema: {path!r} {problem}",
            "Write the schema in the words that `to_schema` uses.",
        )


def _names(members: list[Any]) -> list[str]:
    """Return the names of a NamedTuple's fields if the titles give them, else nothing."""
    titles = [str(member.get("title", "")) for member in members]
    names = [title.lower().replace(" ", "_") for title in titles]
    usable = all(n.isidentifier() and not keyword.iskeyword(n) for n in names)
    return names if usable and len(set(names)) == len(names) else []


def _nothing() -> None:
    """Be the default of what may be left out, without being told in the schema."""


def _is_decimal(members: list[Any]) -> bool:
    return (
        len(members) == 2
        and all(isinstance(member, Mapping) for member in members)
        and members[0].get("type") == "number"
        and str(members[1].get("pattern", "")).startswith(_DECIMAL)
    )
