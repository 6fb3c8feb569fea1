"""Turn annotations, which may be strings, into types; and types into words."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import sys
import types
import typing
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

_CLASS_VAR = re.compile(r"\s*(?:\w+\.)?ClassVar\b")


def own_annotations(cls: type) -> dict[str, Any]:
    """Return the annotations that the body of a class holds, as they were written."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def is_class_variable(annotation: Any) -> bool:
    """Tell whether an annotation says that a name is no field."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return _CLASS_VAR.match(annotation) is not None
    return annotation is ClassVar or typing.get_origin(annotation) is ClassVar


def resolve(annotation: Any, namespace: Mapping[str, Any], module: str) -> Any:
    """Evaluate an annotation in a module and in the names around it.

    Raises:
        Exception: Whatever evaluating it raises; `NameError` for a name that is not
            known, or not yet.
    """
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation
    holder: Any = types.SimpleNamespace(__annotations__={"it": annotation})
    known = vars(sys.modules[module]) if module in sys.modules else {}
    hints = typing.get_type_hints(holder, dict(known), dict(namespace), include_extras=True)
    return hints["it"]


def names_around(frame: FrameType | None, module: str) -> dict[str, Any]:
    """Return the local names of the function that a class or function stands in.

    Args:
        frame: Where it stands. The bodies of classes around it do not count, as
            anywhere in Python.
        module: Its module.
    """
    while frame is not None and frame.f_globals.get("__name__") == module:
        if frame.f_code.co_flags & inspect.CO_NEWLOCALS:
            return dict(frame.f_locals)
        frame = frame.f_back if frame.f_locals is not frame.f_globals else None
    return {}


def only_used(annotation: Any, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Keep those names that an annotation mentions, so that no more stays alive."""
    texts = re.findall(
        r"\w+", annotation if isinstance(annotation, str) else repr(annotation)
    )
    return {name: namespace[name] for name in texts if name in namespace}


def missing_name(annotation: Any, namespace: Mapping[str, Any], module: str) -> str | None:
    """Return the first name in a string annotation that cannot be found."""
    text = annotation_text(annotation)
    known = vars(sys.modules[module]) if module in sys.modules else {}
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return None
    names = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    defined = {*namespace, *known, *dir(builtins)}
    return next((name for name in names if name not in defined), None)


def annotation_text(annotation: Any) -> str:
    """Return an annotation as its author wrote it, or nearly so."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    return type_words(annotation)


def with_metadata(annotation: Any, *metadata: Any) -> Any:
    """Return `Annotated[annotation, *metadata]`, for types that are known at run time."""
    for extra in metadata:
        annotation = Annotated[annotation, extra]
    return annotation


def takes_none(annotation: Any) -> bool:
    """Tell whether a type says that `None` is one of its values."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return takes_none(typing.get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        return any(takes_none(member) for member in typing.get_args(annotation))
    if origin is Literal:
        return None in typing.get_args(annotation)
    if hasattr(annotation, "__value__"):  # `type X = ...`
        return takes_none(annotation.__value__)
    return annotation is None or annotation is types.NoneType


def type_words(annotation: Any) -> str:
    """Write a type for people and models: `list[str]`, `"good" | "bad"`, `float | None`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin is Literal:
        return " | ".join(_literal_words(value) for value in arguments)
    if origin is Union or origin is types.UnionType:
        return " | ".join(type_words(member) for member in arguments)
    if annotation is None or annotation is types.NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if origin is not None and arguments:
        inner = ", ".join(type_words(argument) for argument in arguments)
        return f"{getattr(origin, '__name__', str(origin))}[{inner}]"
    if isinstance(annotation, list):  # the parameters of a Callable
        return f"[{', '.join(type_words(member) for member in annotation)}]"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(_literal_words(member.value) for member in annotation)
    name = getattr(annotation, "__name__", None)
    return name if isinstance(name, str) else repr(annotation).replace("typing.", "")


def _literal_words(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    return json.dumps(value, ensure_ascii=False, default=str)
