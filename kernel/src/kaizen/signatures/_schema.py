"""The JSON schemas of a signature: plain, and closed as structured outputs demand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic.errors import PydanticInvalidForJsonSchema

from kaizen.errors import SignatureError
from kaizen.signatures._shape import QuietJsonSchema, build_adapter

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from kaizen.signatures._fields import SignatureField
    from kaizen.signatures._signature import Signature

_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    "array": ("minItems", "maxItems"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": (),
}
_TOLD: Final = {
    "minLength": "At least {} characters.",
    "maxLength": "At most {} characters.",
    "uniqueItems": "Without duplicates.",
    "minProperties": "At least {} entries.",
    "maxProperties": "At most {} entries.",
}
_SCALARS: Final[list[dict[str, Any]]] = [
    {"type": "string"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "null"},
]
_ANYTHING: Final[dict[str, Any]] = {
    "anyOf": [*_SCALARS, {"type": "array", "items": {"anyOf": _SCALARS}}]
}
_NULL: Final[dict[str, Any]] = {"type": "null"}


def signature_schema(signature: type[Signature]) -> dict[str, Any]:
    """Return a signature as JSON; see `Signature.to_schema`."""
    name = signature.__name__
    return {
        "name": name,
        "instructions": signature.instructions,
        "inputs": plain_schema(build_adapter(signature.input_fields, name), name),
        "outputs": plain_schema(build_adapter(signature.output_fields, name), name),
    }


def plain_schema(adapter: TypeAdapter[Any], signature: str) -> dict[str, Any]:
    """Return the JSON schema as pydantic makes it.

    Raises:
        SignatureError: A type can be validated but not described, such as a callable.
    """
    try:
        return adapter.json_schema(schema_generator=QuietJsonSchema)
    except PydanticInvalidForJsonSchema as error:
        problem = f"has a type that JSON cannot say: {str(error).partition(chr(10))[0]}"
        raise SignatureError(
            f"signature {signature!r}", problem, "Use a type that can be written as JSON."
        ) from error


def create_structured_output_config(
    signature: type[Signature] | Signature, *, strict: bool = True, name: str | None = None
) -> dict[str, Any]:
    """Return what goes to a provider as `response_format`.

    Args:
        signature: Whose outputs the reply must have.
        strict: Ask for replies that are guaranteed to fit. Without it the provider is
            asked for some JSON object; the schema then stands under `"schema"`, for
            providers that read it and for your prompt.
        name: What the schema is called; the signature's name if not given. Characters
            other than letters, digits, `_` and `-` become `_`.

    Returns:
        `{"type": "json_schema", "json_schema": {"name", "strict", "schema"}}`, or
        `{"type": "json_object", "schema": ...}` where not strict.
    """
    owner = signature if isinstance(signature, type) else type(signature)
    plain = plain_schema(build_adapter(owner.output_fields, owner.__name__), owner.__name__)
    if not strict:
        return {"type": "json_object", "schema": plain}
    called = re.sub(r"[^A-Za-z0-9_-]", "_", name or owner.__name__)[:64]
    closed = strict_schema(plain, owner.output_fields)
    return {
        "type": "json_schema",
        "json_schema": {"name": called, "strict": True, "schema": closed},
    }


def strict_schema(
    plain: Mapping[str, Any], fields: Mapping[str, SignatureField]
) -> dict[str, Any]:
    """Close a schema as OpenAI's strict structured outputs demand.

    Every object is closed and every property required; an output that may be left out
    may be null instead. Limits that the providers do not know are told in the
    description. An open mapping becomes a list of `{"key", "value"}`, which
    `pairs_to_mappings` reads; the place of `Any` takes what is not an object.
    """
    properties = {}
    for name, schema in plain.get("properties", {}).items():
        closed = _closed(schema)
        optional = not fields[name].required and not _takes_null(schema)
        properties[name] = _or_null(closed) if optional else closed
    made = _object(properties)
    if definitions := plain.get("$defs"):
        made["$defs"] = {name: _closed(schema) for name, schema in definitions.items()}
    return made


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    made = _closed_body(schema)
    description = " ".join(_sentences(schema, made))
    if not description:
        return made
    if "$ref" in made:  # which takes nothing beside it
        made = {"anyOf": [made]}
    return {**made, "description": description}


def _closed_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return {"anyOf": _distinct(_closed(member) for member in schema[word])}
    if "allOf" in schema:
        return _closed({k: v for part in schema["allOf"] for k, v in part.items()})
    if "const" in schema:
        return _enumeration([schema["const"]])
    if "enum" in schema:
        return _enumeration(schema["enum"])
    if "contentMediaType" in schema:  # a file of ours is none of the model's
        return _object(
            {k: _closed(v) for k, v in schema["properties"].items() if k != "path"}
        )
    kind = schema.get("type")
    if kind == "object":
        return _closed_object(schema)
    if kind == "array":
        return {**_kept(schema, "array"), "items": _items(schema)}
    return _kept(schema, kind) if isinstance(kind, str) else dict(_ANYTHING)


def _closed_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    value = _open_values(schema)
    if value is None:
        return _object({k: _closed(v) for k, v in schema.get("properties", {}).items()})
    key = _closed(schema.get("propertyNames", {"type": "string"}))
    limits = {
        ours: schema[theirs]
        for ours, theirs in (("minItems", "minProperties"), ("maxItems", "maxProperties"))
        if theirs in schema
    }
    return {
        "type": "array",
        **limits,
        "items": _object({"key": key, "value": _closed(value)}),
    }


def _open_values(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a mapping's values, or nothing if its keys are fixed."""
    if schema.get("type") != "object" or "properties" in schema:
        return None
    for pattern in schema.get("patternProperties", {}).values():
        return pattern if isinstance(pattern, Mapping) else {}
    values = schema.get("additionalProperties", True)
    if values is False:
        return None
    return values if isinstance(values, Mapping) else {}


def _items(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "prefixItems" not in schema:
        return _closed(schema.get("items") or {})
    members = _distinct(_closed(member) for member in schema["prefixItems"])
    return members[0] if len(members) == 1 else {"anyOf": members}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _kept(schema: Mapping[str, Any], kind: str) -> dict[str, Any]:
    made = {word: schema[word] for word in _KEPT.get(kind, ()) if word in schema}
    if kind == "string" and schema.get("format") in _FORMATS:
        made["format"] = schema["format"]
    if kind == "string" and "(?" not in schema.get("pattern", "(?"):
        made["pattern"] = schema["pattern"]
    return {"type": kind, **made}


def _enumeration(values: list[Any]) -> dict[str, Any]:
    names = {bool: "boolean", int: "integer", float: "number", type(None): "null"}
    kinds = list(dict.fromkeys(names.get(type(value), "string") for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _sentences(schema: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[str]:
    """Say what was described, and what the closed schema can say only in words."""
    if description := schema.get("description"):
        yield str(description)
    for word, sentence in _TOLD.items():
        if word in schema and "$ref" not in schema:
            yield sentence.format(schema[word])
    if (form := schema.get("format")) and form not in _FORMATS:
        yield f"Format: {form}."
    if "prefixItems" in schema and len(schema["prefixItems"]) > 1:
        yield f"In order: {', '.join(_kind(m) for m in schema['prefixItems'])}."
    if (examples := schema.get("examples")) and isinstance(examples, list):
        shown = (json.dumps(example, ensure_ascii=False) for example in examples[:5])
        yield f"Examples: {'; '.join(shown)}."
    if made.get("type") == "array" and schema.get("type") == "object":
        yield "One item for each key; no key twice."


def _kind(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    return str(schema.get("type", "any"))


def _distinct(schemas: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for schema in schemas:
        if schema not in made:
            made.append(schema)
    return made


def _takes_null(schema: Mapping[str, Any]) -> bool:
    members = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if any(_takes_null(member) for member in members):
        return True
    if None in schema.get("enum", ()) or schema.get("type") == "null":
        return True
    return not schema.keys() - {"title", "description", "default", "examples"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    description = schema.get("description")
    rest = {word: value for word, value in schema.items() if word != "description"}
    members = rest["anyOf"] if rest.keys() == {"anyOf"} else [rest]
    made: dict[str, Any] = {"anyOf": [*members, _NULL]}
    return {**made, "description": description} if description else made


def is_flat(plain: Mapping[str, Any]) -> bool:
    """Tell whether nothing that fits a schema has an object inside its only object."""
    return "$defs" not in plain and all(
        _is_flat(schema) for schema in plain.get("properties", {}).values()
    )


def _is_flat(schema: Mapping[str, Any]) -> bool:
    if members := schema.get("anyOf") or schema.get("oneOf"):
        return all(_is_flat(member) for member in members)
    if "enum" in schema or "const" in schema:
        return True
    if schema.get("type") == "array":
        inner = schema.get("prefixItems") or [schema.get("items") or {}]
        return all(_is_flat(member) for member in inner)
    return schema.get("type") in ("string", "number", "integer", "boolean", "null")


def has_mappings(plain: Mapping[str, Any]) -> bool:
    """Tell whether a schema has objects with free names at any depth."""
    return any(_open_values(node) is not None for node in _nodes(plain))


def property_names(plain: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of all properties, at any depth."""
    return frozenset(
        name
        for node in _nodes(plain)
        if isinstance(properties := node.get("properties"), Mapping)
        for name in properties
    )


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Go through all mappings in a schema, those that are no schemas too."""
    left = [schema]
    while left:
        node = left.pop()
        if isinstance(node, Mapping):
            yield node
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def pairs_to_mappings(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]
) -> Any:
    """Turn lists of `{"key", "value"}` into mappings where the schema has mappings.

    Args:
        value: What a model wrote under the strict schema.
        schema: The plain schema of this value.
        root: The plain schema of the whole, which holds the definitions.
    """
    for member in _members(schema, root):
        value = _pairs_to_mapping(value, member, root)
    return value


def _pairs_to_mapping(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]
) -> Any:
    inner = _open_values(schema)
    if inner is not None and _is_pairs(value):
        made = {
            pair["key"]: pairs_to_mappings(pair["value"], inner, root) for pair in value
        }
        return made if len(made) == len(value) else value
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {
            name: pairs_to_mappings(item, known.get(name, inner or {}), root)
            for name, item in value.items()
        }
    if isinstance(value, list) and schema.get("type") == "array":
        prefix = schema.get("prefixItems", ())
        rest = schema.get("items") or {}
        return [
            pairs_to_mappings(item, prefix[i] if i < len(prefix) else rest, root)
            for i, item in enumerate(value)
        ]
    return value


def _members(
    schema: Mapping[str, Any], root: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Go through the alternatives of a schema, following references."""
    left, seen = [schema], set()
    while left:
        node = left.pop()
        if (reference := node.get("$ref")) is not None:
            if reference not in seen:
                seen.add(reference)
                left.append(root["$defs"][reference.rpartition("/")[2]])
        elif members := node.get("anyOf") or node.get("oneOf"):
            left.extend(members)
        else:
            yield node


def _is_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, dict)
        and pair.keys() == {"key", "value"}
        and isinstance(pair["key"], str | int | float)
        for pair in value
    )
