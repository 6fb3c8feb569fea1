"""Write a signature and its inputs as text for a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from kaizen.media import Media
from kaizen.signatures._fields import describe_field

if TYPE_CHECKING:
    from kaizen.signatures._fields import SignatureField
    from kaizen.signatures._signature import Signature

NO_INPUTS = "Begin."
"""What a model is told where there is nothing to tell it."""


def default_instructions(signature: type[Signature]) -> str:
    """Say what to do where nobody said it."""
    outputs = _listed(signature.output_fields)
    if not signature.input_fields:
        return f"Give {outputs}."
    return f"Given {_listed(signature.input_fields)}, give {outputs}."


def system_prompt(
    signature: type[Signature], instructions: str, *, plain_text: bool
) -> str:
    """Return instructions and the meaning of the fields."""
    parts = [instructions]
    if signature.input_fields:
        parts.append("You are given:\n" + _described(signature.input_fields))
    if plain_text:
        (output,) = signature.output_fields.values()
        told = f": {output.description}" if output.description else ""
        parts.append(f"Reply with the text of {output.name} and nothing else{told}")
    else:
        parts.append("You answer with:\n" + _described(signature.output_fields))
    return "\n\n".join(parts)


def with_schema(prompt: str, schema: Mapping[str, Any]) -> str:
    """Add what a provider without structured outputs has to be told."""
    return (
        f"{prompt}\n\nReply with one JSON object and nothing else: no prose, no code "
        f"fence. It must match this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )


def render(
    inputs: Mapping[str, SignatureField], values: Mapping[str, Any]
) -> str | tuple[str | Media, ...]:
    """Return the values as `name: value`, with media standing where they belong.

    An input that was left out and is `None` is not mentioned.
    """
    blocks: list[str] = []
    parts: list[str | Media] = []
    for name, field in inputs.items():
        value = values.get(name)
        if value is None and (name not in values or not field.required):
            continue
        media: list[Media] = []
        blocks.append(f"{name}: {_text(value, media)}".rstrip())
        if media:
            parts += ["\n\n".join(blocks), *media]
            blocks = []
    if not parts:
        return "\n\n".join(blocks) or NO_INPUTS
    if blocks:
        parts.append("\n\n".join(blocks))
    return tuple(parts)


def _text(value: Any, media: list[Media]) -> str:
    """Return a value as text, and put the media in it aside."""
    if isinstance(value, str):
        return value if type(value) is str else str(to_jsonable_python(value))
    if isinstance(value, Media):
        media.append(value)
        return ""
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(v, Media) for v in value)
    ):
        media.extend(value)
        return ""
    jsonable = to_jsonable_python(_plain(value, media), fallback=str)
    if isinstance(jsonable, str):
        return jsonable
    return json.dumps(jsonable, ensure_ascii=False)


def _plain(value: Any, media: list[Media]) -> Any:
    """Put sets in order, and a note in the place of each medium."""
    if isinstance(value, Media):
        media.append(value)
        return f"[{value.kind} {len(media)}]"
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item, media) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, media) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, media) for item in value), key=_order)
    return value


def _order(value: Any) -> str:
    return json.dumps(to_jsonable_python(value, fallback=str), sort_keys=True)


def _described(known: Mapping[str, SignatureField]) -> str:
    return "\n".join(f"- {describe_field(field)}" for field in known.values())


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
