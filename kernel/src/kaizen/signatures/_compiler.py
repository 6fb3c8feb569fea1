"""Compile a signature: do once what every run needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kaizen.errors import InputError, OutputError, SignatureError
from kaizen.media import NO_LOCAL_FILES
from kaizen.signatures._fields import describe_field
from kaizen.signatures._problems import MOST_ERRORS, input_problems, reply_problems
from kaizen.signatures._prompts import (
    default_instructions,
    render,
    system_prompt,
    with_schema,
)
from kaizen.signatures._replies import (
    MAX_REPLY,
    ReplyProblem,
    check_json,
    count_names,
    one_object,
)
from kaizen.signatures._schema import (
    has_mappings,
    is_flat,
    pairs_to_mappings,
    plain_schema,
    property_names,
    strict_schema,
)
from kaizen.signatures._shape import build_adapter
from kaizen.signatures._signature import Signature

if TYPE_CHECKING:
    from kaizen.media import Media
    from kaizen.signatures._fields import SignatureField

_COMPILED = "__kaizen_compiled__"


class SignatureCompiler:
    """Compiles signatures, each class once."""

    def compile(self, signature: type[Signature] | Signature) -> CompiledSignature:
        """Return what runs need. The class keeps it, so that asking again is cheap.

        Raises:
            SignatureError: A type does not exist, or cannot be validated or described.
        """
        owner = signature if isinstance(signature, type) else type(signature)
        compiled: CompiledSignature | None = owner.__dict__.get(_COMPILED)
        if compiled is None:
            compiled = CompiledSignature(owner)
            setattr(owner, _COMPILED, compiled)
        return compiled


class CompiledSignature:
    """A signature with everything computed that does not change from run to run.

    Attributes:
        name: The name of the class.
        signature: The class.
        instructions: Its instructions, or a sentence made of its fields.
        plain_text: Whether the only output is a `str` without constraints: the text of
            the reply is then the answer, and no JSON is asked for.
        system_prompt: What a provider with structured outputs is told.
        prompted_system_prompt: What a provider without them is told: the schema too.
        output_schema: The outputs as a closed JSON schema, for strict modes.
        legacy_output_schema: The outputs as pydantic describes them.
    """

    __slots__ = (
        "__weakref__",
        "_has_mappings",
        "_input_adapter",
        "_input_fields",
        "_input_names",
        "_output_names",
        "_sure_colons",
        "_template",
        "_text_output",
        "_validate_inputs",
        "_validate_json",
        "_validate_outputs",
        "instructions",
        "legacy_output_schema",
        "name",
        "output_schema",
        "plain_text",
        "prompted_system_prompt",
        "signature",
        "system_prompt",
    )

    def __init__(self, signature: type[Signature]) -> None:
        self.name: str = signature.__name__
        self.signature: type[Signature] = signature
        inputs, outputs = signature.input_fields, signature.output_fields
        if not outputs:
            raise SignatureError(
                f"signature {self.name!r}", "is abstract: it has no outputs", "Subclass it."
            )
        self._input_fields = inputs
        self._compile_inputs(inputs)
        self._compile_outputs(outputs)
        self._write_prompts()

    def _compile_inputs(self, fields: Mapping[str, SignatureField]) -> None:
        adapter = build_adapter(fields, self.name)
        self._validate_inputs: Callable[..., dict[str, Any]]
        self._validate_inputs = adapter.validator.validate_python
        self._input_names: frozenset[str] | None = None
        only_text = fields and all(
            field.annotation is str and (field.required or isinstance(field.default, str))
            for field in fields.values()
        )
        self._template: str | None = (
            "\n\n".join(f"{name}: %({name})s" for name in fields) if only_text else None
        )
        self._input_adapter = adapter

    def _compile_outputs(self, fields: Mapping[str, SignatureField]) -> None:
        adapter = build_adapter(fields, self.name)
        plain = plain_schema(adapter, self.name)
        self.legacy_output_schema: Mapping[str, Any] = plain
        self.output_schema: Mapping[str, Any] = strict_schema(plain, fields)
        self._validate_outputs: Callable[..., dict[str, Any]]
        self._validate_outputs = adapter.validator.validate_python
        self._validate_json: Callable[..., dict[str, Any]] = adapter.validator.validate_json
        self._output_names = property_names(plain)
        self._text_output = _only_text(fields)
        self.plain_text: bool = self._text_output is not None
        required = sum(field.required for field in fields.values())
        self._has_mappings = has_mappings(plain)
        self._sure_colons = required if is_flat(plain) else -1

    def _write_prompts(self) -> None:
        signature = self.signature
        self.instructions: str = signature.instructions or default_instructions(signature)
        self.system_prompt: str = system_prompt(
            signature, self.instructions, plain_text=self.plain_text
        )
        self.prompted_system_prompt: str = (
            self.system_prompt
            if self.plain_text
            else with_schema(self.system_prompt, self.legacy_output_schema)
        )

    def __repr__(self) -> str:
        return f"<CompiledSignature {self.name}>"

    def validate_inputs(
        self, values: Mapping[str, Any], *, local_files: bool = True
    ) -> dict[str, Any]:
        """Return the values as the types say, with defaults filled in.

        Args:
            values: The inputs by name.
            local_files: Whether media may be paths. Say no where a stranger chose the
                values, who could otherwise read what this process can.

        Raises:
            InputError: Names every input that is missing, unknown or does not fit, and
                no value.
        """
        try:
            if local_files:
                return self._validate_inputs(values)
            return self._validate_inputs(values, context=dict(NO_LOCAL_FILES))
        except ValidationError as error:
            problems = input_problems(error, self._input_fields, self._names_of_inputs())
        # Raised out here, so that pydantic's error, which holds the values, is gone.
        raise self._input_error(problems)

    def render_inputs(self, values: Mapping[str, Any]) -> str | tuple[str | Media, ...]:
        """Return validated inputs as the user message: text, or text and media in order."""
        template = self._template
        if template is not None:
            try:
                return template % values
            except KeyError:  # not validated; say what is there
                pass
        return render(self._input_fields, values)

    def parse_output(self, text: str) -> dict[str, Any]:
        """Return the outputs that a model's reply holds.

        A code fence or prose around the JSON object does no harm.

        Raises:
            OutputError: The reply is empty, too long, too deep, no JSON or does not
                fit; its `feedback` tells the model what to do better.
        """
        if len(text) > MAX_REPLY:
            line = f"the reply is longer than {MAX_REPLY} characters; give a shorter one"
            raise self._output_error((line,), text)
        if self._text_output is not None:
            return self._parse_text(text)
        try:
            values = self._validate_json(text, context=NO_LOCAL_FILES)
        except ValidationError as error:
            failure = error
        else:
            # As many colons as names: no name occurs twice; no more can be wrong.
            if text.count(":") == self._sure_colons:
                return values
            if count_names(text) == self._sure_colons:
                return values
            return self._checked(values, text)
        return self._parse_slowly(text, failure)

    def validate_outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return outputs that something other than a model made, as the types say.

        Raises:
            OutputError: As `parse_output`.
        """
        try:
            return self._validate_outputs(values)
        except ValidationError as error:
            lines = self._reply_problems(error)
        raise self._output_error(lines, str(values)[:500])

    def _parse_text(self, text: str) -> dict[str, Any]:
        if not text.strip():
            raise self._output_error((f"{self._text_output}: the reply is empty",), text)
        return {str(self._text_output): text}

    def _checked(self, values: dict[str, Any], text: str) -> dict[str, Any]:
        try:
            check_json(text)
        except ReplyProblem as problem:
            lines = problem.args
        else:
            return values
        raise self._output_error(lines, text)

    def _parse_slowly(self, text: str, error: ValidationError) -> dict[str, Any]:
        try:
            if not _is_no_json(error):
                return self._mend(text, error)
            return self._parse_part(one_object(text))
        except ReplyProblem as problem:
            lines = problem.args
        raise self._output_error(lines, text)

    def _parse_part(self, document: str) -> dict[str, Any]:
        check_json(document)
        try:
            return self._validate_json(document, context=NO_LOCAL_FILES)
        except ValidationError as error:
            return self._mend(document, error)

    def _mend(self, document: str, error: ValidationError) -> dict[str, Any]:
        """Try again with mappings where the strict schema made the model write pairs."""
        if self._has_mappings and error.error_count() <= MOST_ERRORS:
            plain = self.legacy_output_schema
            restored = pairs_to_mappings(check_json(document), plain, plain)
            try:
                return self._validate_json(json.dumps(restored), context=NO_LOCAL_FILES)
            except ValidationError as second:
                error = second
        raise ReplyProblem(*self._reply_problems(error))

    def _reply_problems(self, error: ValidationError) -> tuple[str, ...]:
        return reply_problems(error, self.signature.output_fields, self._output_names)

    def _names_of_inputs(self) -> frozenset[str]:
        if self._input_names is None:
            try:
                schema = plain_schema(self._input_adapter, self.name)
            except SignatureError:  # an input need not be describable
                schema = {}
            self._input_names = property_names(schema) | self._input_fields.keys()
        return self._input_names

    def _input_error(self, problems: tuple[str, ...]) -> InputError:
        known = "; ".join(describe_field(field) for field in self._input_fields.values())
        return InputError(
            f"signature {self.name!r}",
            f"was given inputs that do not fit: {'; '.join(problems)}",
            f"Its inputs are: {known or 'none'}.",
        )

    def _output_error(self, lines: tuple[str, ...], reply: str) -> OutputError:
        return OutputError(f"signature {self.name!r}", lines, reply)


def _is_no_json(error: ValidationError) -> bool:
    if error.error_count() != 1:
        return False
    (detail,) = error.errors(include_url=False, include_input=False, include_context=False)
    return detail["type"] in ("json_invalid", "string_unicode")


def _only_text(fields: Mapping[str, SignatureField]) -> str | None:
    """Return the name of the only output if a reply's bare text can be its value."""
    if len(fields) != 1:
        return None
    (field,) = fields.values()
    plain = field.annotation is str and field.required and not field.info.metadata
    return field.name if plain else None
