"""Make signatures of strings, functions, models and schemas."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, cast, overload

from pydantic import BaseModel

from kaizen.errors import SignatureError
from kaizen.signatures._fields import FieldMarker
from kaizen.signatures._from_schema import read_schema
from kaizen.signatures._function import read_function, read_type
from kaizen.signatures._signature import Signature
from kaizen.signatures._string import read_string

if TYPE_CHECKING:
    from types import FrameType


class WrittenSignature(Signature, abstract=True):
    """What `signature("question -> answer")` returns.

    It is a signature, and it decorates a class or a function that gives name and
    instructions.
    """

    instructions = ""

    def __call__(self, target: Callable[..., Any]) -> type[Signature]:
        """Return a signature of these fields with the target's name and docstring."""
        namespace = {"__module__": target.__module__, "__qualname__": target.__qualname__}
        if document := target.__doc__:
            namespace["__doc__"] = document
        if isinstance(target, type) and issubclass(target, Signature):
            return type(target.__name__, (target, type(self)), namespace)
        return type(target.__name__, (type(self),), namespace)


class SignatureParser:
    """Makes a signature of whatever says one."""

    def parse(self, source: Any, *, name: str | None = None) -> type[Signature]:
        """Return the signature that the source says.

        Args:
            source: A string such as `"question -> answer: str"`; a `Signature` class or
                instance; a function; a pair of pydantic models, the first for inputs; or
                a mapping as `Signature.to_schema` returns it.
            name: What a signature made of a string or of models is called.

        Raises:
            SignatureError: Says what is wrong, where, and what to do.
        """
        return self._parse(source, name, sys._getframe(1))

    def from_schema(self, schema: Mapping[str, Any]) -> type[Signature]:
        """Return the signature that `Signature.to_schema` described.

        The schema may come from outside: it is bounded, and nothing in it is run.
        """
        if "outputs" not in schema:
            _refuse("a schema", "has no outputs", "Give what `to_schema` returns.")
        name, instructions = schema.get("name", "Schema"), schema.get("instructions", "")
        if not isinstance(name, str) or not name.isidentifier() or len(name) > 100:
            _refuse("a schema", "has a name that is no identifier", "Give it another.")
        if not isinstance(instructions, str):
            _refuse(
                f"signature {name!r}", "has instructions that are no str", "Write text."
            )
        inputs = read_schema(schema.get("inputs", {}), "input", name)
        outputs = read_schema(schema["outputs"], "output", name)
        if both := sorted(inputs.keys() & outputs.keys()):
            _refuse_both(name, both[0])
        return make_signature(name, {**inputs, **outputs}, instructions)

    def _parse(self, source: Any, name: str | None, frame: FrameType) -> type[Signature]:
        if isinstance(source, str):
            fields = read_string(source)
            return make_signature(name or _called(fields), fields, base=WrittenSignature)
        if isinstance(source, Signature):
            return type(source)
        if isinstance(source, type) and issubclass(source, Signature):
            return source
        if isinstance(source, Mapping):
            return self.from_schema(source)
        if isinstance(source, tuple) and len(source) == 2 and all(map(_is_model, source)):
            return _of_models(source[0], source[1], name)
        if isinstance(source, FunctionType):
            return make_signature(
                source.__name__,
                read_function(source, frame),
                source.__doc__ or "",
                module=source.__module__,
            )
        return _refuse(
            f"{source!r:.100}",
            "is no signature",
            "Give a Signature class, a string such as 'question -> answer', a function, "
            "or a pair of pydantic models.",
        )


@overload
def signature(source: str, /, *, name: str | None = None) -> WrittenSignature: ...
@overload
def signature(source: Callable[..., Any], /) -> type[Signature]: ...
def signature(
    source: str | Callable[..., Any], /, *, name: str | None = None
) -> WrittenSignature | type[Signature]:
    """Make a signature of a function, or of a string.

        @signature
        def review(text: str) -> Verdict:
            "Judge a product review."

        qa = signature("question, context -> answer: str, confidence: float")

        @signature("question -> answer")
        class Ask:
            "Answer in one sentence."

    Of a function, the parameters are the inputs and the docstring is the instruction; a
    returned dataclass, pydantic model, TypedDict or NamedTuple gives the outputs, any
    other type one output `result`. It is never called. A string's signature decorates a
    class or function for the sake of its name and docstring: the string gives all
    fields. For the sake of type checkers, write `class Ask(Signature, abstract=True)`.
    """
    made = SignatureParser()._parse(source, name, sys._getframe(1))
    return cast("WrittenSignature", made()) if isinstance(source, str) else made


def make_signature(
    name: str,
    fields: Mapping[str, tuple[Any, FieldMarker]],
    instructions: str = "",
    *,
    module: str = __name__,
    base: type[Signature] = Signature,
) -> type[Signature]:
    """Make a signature class of types and markers."""
    namespace: dict[str, Any] = {
        "__module__": module,
        "__annotations__": {field: annotation for field, (annotation, _) in fields.items()},
        **{field: marker for field, (_, marker) in fields.items()},
    }
    if instructions:
        namespace["__doc__"] = instructions
    return type(name, (base,), namespace)


def _of_models(inputs: Any, outputs: Any, name: str | None) -> type[Signature]:
    taken = read_type(inputs, "input", inputs.__name__)
    given = read_type(outputs, "output", outputs.__name__)
    called = name or outputs.__name__
    if both := sorted(taken.keys() & given.keys()):
        _refuse_both(called, both[0])
    own = outputs.__doc__ if "__doc__" in outputs.__dict__ else None
    return make_signature(called, {**taken, **given}, own or "", module=outputs.__module__)


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _called(names: Iterable[str]) -> str:
    """Make a class name of the names of fields."""
    words = [word.capitalize() for name in names for word in name.split("_")]
    return "".join(words)[:64] or "Signature"


def _refuse_both(name: str, field: str) -> NoReturn:
    _refuse(
        f"signature {name!r}",
        f"has {field!r} both as an input and as an output",
        "Give one of them another name.",
    )


def _refuse(subject: str, problem: str, remedy: str) -> NoReturn:
    raise SignatureError(subject, problem, remedy)
