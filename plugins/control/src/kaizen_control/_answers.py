"""Whether an answer fits what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import anyio.to_thread
from kaizen.ports import Answer, PendingRequest

from kaizen_control._messages import (
    AnswerMessage,
    MalformedError,
    Problem,
    check_shape,
    read_value,
)

__all__ = ["MisfitError", "fitting"]

MAX_TOLD_CHARS = 300
MAX_STEPS = 100_000  # one for each part of an answer and of a schema that meet
_LEFT_OUT = object()


class MisfitError(ValueError):
    """An answer does not fit its request.

    Attributes:
        problem: Why, as a word for programs.
        reason: Why, as a sentence.
    """

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(problem, reason)
        self.problem: Problem = problem
        self.reason = reason


async def fitting(
    request: PendingRequest, given: AnswerMessage, *, principal: str = ""
) -> Answer:
    """Return the answer that a message gives to a request.

    Args:
        request: What was asked.
        given: What came; `declined` counts as a no to an approval, and fits no question.
        principal: Who answers.

    Raises:
        MisfitError: It does not fit.
    """
    if request.kind == "approval":
        return _approval(request, given, principal)
    if given.approved is not None or given.always:
        raise MisfitError("misfit", "a question is answered, not approved")
    value = given.value if "value" in given.model_fields_set else _LEFT_OUT
    if not request.schema:
        text = _text(request, given.text, value)
        return Answer(text=text, principal=principal)
    found = await _valued(request, given.text, value)
    text = given.text or (found if isinstance(found, str) else "")
    return Answer(text=text, value=found, principal=principal)


def _approval(request: PendingRequest, given: AnswerMessage, principal: str) -> Answer:
    if given.value is not None:
        raise MisfitError("misfit", "an approval is yes or no, and has no value")
    if given.approved is None and not given.declined:
        raise MisfitError("misfit", "an approval is yes or no: set `approved`")
    if given.action_digest != request.action_digest:
        raise MisfitError(
            "other_action", "`action_digest` is not that of what was asked: look again"
        )
    approved = given.approved is True and not given.declined
    if given.always and not approved:
        raise MisfitError("misfit", "`always` goes with a yes")
    if given.always and not request.details.get("rule"):
        raise MisfitError("misfit", "no rule was shown that could hold always")
    return Answer(
        approved=approved, text=given.text, always=given.always, principal=principal
    )


def _text(request: PendingRequest, text: str, value: object) -> str:
    """Return the text that answers a question without a schema."""
    if value is not _LEFT_OUT and value is not None:
        if not isinstance(value, str):
            raise MisfitError("misfit", "the answer has to be a text")
        text = text or value
    if request.options and text not in request.options:
        raise MisfitError("misfit", f"it is none of {_listed(request.options)}")
    if not text:
        raise MisfitError("misfit", "the answer is empty")
    return text


async def _valued(request: PendingRequest, text: str, value: object) -> Any:
    """Return the value that answers a question with a schema.

    A text alone is taken as it is where it fits, and otherwise as JSON, so that a person
    may type `42`.
    """
    if value is not _LEFT_OUT:
        return await _checked(request.schema, value)
    if not text:
        raise MisfitError("misfit", "the answer is empty")
    wrong = await _misfit(request.schema, text)
    if wrong is None:
        return text
    try:
        parsed = read_value(text.encode("utf-8", "replace"))
    except MalformedError:
        raise _wrong(wrong) from None
    return await _checked(request.schema, parsed)


async def _checked(schema: Mapping[str, Any], value: Any) -> Any:
    try:
        check_shape(value)
    except MalformedError as error:
        raise _wrong(str(error)) from None
    wrong = await _misfit(schema, value)
    if wrong is not None:
        raise _wrong(wrong)
    return value


def _wrong(what: str) -> MisfitError:
    return MisfitError("misfit", f"the answer does not fit: {what}")


async def _misfit(schema: Mapping[str, Any], value: object) -> str | None:
    """Return what is wrong with a value, or `None`.

    A thread looks at it: some schemas take long, whatever they are given.
    """
    return await anyio.to_thread.run_sync(_first_error, schema, value)


def _first_error(schema: Mapping[str, Any], value: object) -> str | None:
    from referencing import Registry

    # An empty registry: a reference that leads outside leads nowhere, and opens nothing.
    validator = _validators()(dict(schema), registry=Registry())
    try:
        error = next(validator.iter_errors(value), None)
    except Exception as problem:  # noqa: BLE001 - a schema may be anybody's
        return f"nobody can tell ({type(problem).__name__})"
    if error is None:
        return None
    place = "/".join(str(each) for each in error.absolute_path)
    told = f"{place[:100]}: {error.message}" if place else error.message
    return told if len(told) <= MAX_TOLD_CHARS else f"{told[:MAX_TOLD_CHARS]}…"


def _validators() -> Any:
    """Return a class that checks an answer in a time that has an end."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.validators import extend  # type: ignore[import-untyped]

    ours = {
        "pattern": _pattern,
        "patternProperties": _unchecked,
        "unevaluatedProperties": _unchecked,
        "additionalProperties": _additional,
        "uniqueItems": _unique,
    }
    found: Any = extend(Draft202012Validator, ours)
    evolve, steps = found.evolve, count(1)

    def evolved(self: object, **changes: Any) -> Any:
        if next(steps) > MAX_STEPS:
            raise TimeoutError("the schema takes too long")
        schema = changes.get("schema")
        if isinstance(schema, dict) and "$schema" in schema:
            # A part that names a dialect would be checked by another class than this.
            rest = {name: each for name, each in schema.items() if name != "$schema"}
            changes["schema"] = rest
        return evolve(self, **changes)

    found.evolve = evolved
    return found


def _unchecked(*_: object) -> Iterator[Exception]:
    """Leave to whoever asked what is matched by patterns that may take for ever."""
    return iter(())


def _additional(
    validator: Any, wanted: object, instance: object, schema: Mapping[str, Any]
) -> Iterator[Exception]:
    from jsonschema import Draft202012Validator

    if not schema.get("patternProperties"):
        usual = Draft202012Validator.VALIDATORS["additionalProperties"]
        yield from usual(validator, wanted, instance, schema) or ()


def _unique(
    _validator: object, wanted: object, instance: object, _schema: object
) -> Iterator[Exception]:
    """Look for equal items in a time that grows with their number, not with its square."""
    from jsonschema.exceptions import (  # type: ignore[import-untyped]
        ValidationError as Misfit,
    )

    if wanted is not True or not isinstance(instance, list):
        return
    if len({_key(each) for each in instance}) < len(instance):
        yield Misfit("it has the same item twice")


def _key(value: object) -> object:
    """Return what is equal for values that JSON Schema calls equal: `1` and `1.0`, say."""
    if isinstance(value, dict):
        return "object", frozenset((name, _key(each)) for name, each in value.items())
    if isinstance(value, list):
        return "array", tuple(_key(each) for each in value)
    return isinstance(value, bool), value


def _pattern(
    _validator: object, pattern: str, instance: object, _schema: object
) -> Iterator[Exception]:
    """Match by an engine that takes linear time, whatever a pattern is like.

    What that cannot match is left to whoever asked, who looks at each answer again.
    """
    from jsonschema.exceptions import ValidationError as Misfit
    from pydantic import ValidationError
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    if not isinstance(instance, str):
        return
    try:
        matching = core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")
        SchemaValidator(matching).validate_python(instance)
    except SchemaError:
        return
    except ValidationError:
        yield Misfit(f"it does not match {pattern!r}")


def _listed(options: tuple[str, ...]) -> str:
    shown = ", ".join(repr(each[:60]) for each in options[:20])
    return shown if len(options) <= 20 else f"{shown} …"
