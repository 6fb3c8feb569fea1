"""What a plugin is set to, and where that was said."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from kaizen.config import PluginSettings, Sources
from kaizen.kernel import PluginInfo
from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

__all__ = ["Setting", "settings_of"]

MASK = "********"

_SECRET_NAME = re.compile(
    r"(?i)(api_?key|secret|token|password|passwd|credential|authorization)"
)
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*(?=@)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a plugin, as it takes effect.

    Attributes:
        value: The value as text; a secret is masked.
        default: The default as text, or `None` if the setting must be given.
        source: Where the value comes from.
    """

    name: str
    type: str
    value: str
    default: str | None
    source: str
    description: str


def settings_of(info: PluginInfo, sources: Sources) -> Iterator[Setting]:
    """Give the settings of an enabled plugin, those of groups as `outer.inner`."""
    model = getattr(info.plugin, "Settings", None)
    if not (isinstance(model, type) and issubclass(model, PluginSettings)):
        return
    prefix = f"KAIZEN_{info.name.upper().replace('-', '_')}"
    table = sources.file.get("plugins", {}).get(info.name)
    values = sources.plugin(info.name, model)
    yield from _settings_of(values, "", _Origin(prefix, table, sources.path))


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a group of settings may have been set: by variables, by a table of the file."""

    prefix: str
    table: Any
    file: str

    def below(self, name: str) -> _Origin:
        """Return the same for the group in a field."""
        table = self.table.get(name) if isinstance(self.table, Mapping) else None
        return _Origin(f"{self.prefix}__{name.upper()}", table, self.file)

    def source(self) -> str:
        """Say what set this very field."""
        for variable in os.environ:
            name = variable.upper()
            # A variable may set a part of the field, or hold the group that it is in.
            if f"{name}__".startswith(f"{self.prefix}__") or (
                name.count("__") > 0 and f"{self.prefix}__".startswith(f"{name}__")
            ):
                return f"environment ({variable})"
        if self.table is None:
            return "default"
        if isinstance(self.table, Mapping) and set(self.table) == {"env"}:
            return f"environment ({self.table['env']}, named in {self.file})"
        return self.file


def _settings_of(values: BaseModel, inside: str, origin: _Origin) -> Iterator[Setting]:
    """Give the settings of a model, and of the models in it as `outer.inner`."""
    for name, field in type(values).model_fields.items():
        value, here = getattr(values, name), origin.below(name)
        if isinstance(value, BaseModel):
            yield from _settings_of(value, f"{inside}{name}.", here)
            continue
        yield Setting(
            name=f"{inside}{name}",
            type=_type_words(field.annotation),
            value=_masked(name, value),
            default=None if field.is_required() else _default(name, field),
            source=here.source(),
            description=field.description or "",
        )


def _default(name: str, field: FieldInfo) -> str:
    return _masked(name, field.get_default(call_default_factory=True))


def _type_words(annotation: Any) -> str:
    """Return a type as people write it, without its constraints."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_words(arguments[0])
    if origin is Literal:
        return " | ".join(repr(each) for each in arguments)
    if origin in (Union, UnionType):
        return " | ".join(_type_words(each) for each in arguments)
    if annotation in (None, NoneType):
        return "None"
    name: str = getattr(annotation, "__name__", str(annotation))
    if annotation is Ellipsis or not arguments:
        return "..." if annotation is Ellipsis else name
    return f"{name}[{', '.join(_type_words(each) for each in arguments)}]"


def _masked(name: str, value: Any) -> str:
    """Return a value as text, without what is secret in it."""
    if value is None:
        return "none"
    if isinstance(value, SecretStr | SecretBytes):
        return MASK if value else ""
    plain = _without_secrets(name, to_jsonable_python(value, fallback=str))
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _without_secrets(name: str, value: Any) -> Any:
    """Mask texts whose names tell that they are secret, and passwords in addresses."""
    if isinstance(value, str):
        if value and _SECRET_NAME.search(name):
            return MASK
        return _PASSWORD_IN_URL.sub(rf"\1:{MASK}", value)
    if isinstance(value, Mapping):
        return {key: _without_secrets(str(key), each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(name, each) for each in value]
    return value
