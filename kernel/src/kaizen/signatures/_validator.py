"""Validate values against a signature, for those who have no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaizen.errors import InputError, OutputError
from kaizen.signatures._compiler import SignatureCompiler
from kaizen.signatures._signature import Signature


class SignatureValidator:
    """Validates the inputs and outputs of one signature."""

    def __init__(self, signature: type[Signature] | Signature) -> None:
        self._compiled = SignatureCompiler().compile(signature)

    def validate_inputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs as the types say; raise `InputError` if they do not fit."""
        return self._compiled.validate_inputs(values)

    def validate_outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs as the types say; raise `OutputError` if they do not fit."""
        return self._compiled.validate_outputs(values)

    def problems(
        self,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> tuple[str, ...]:
        """Return what is wrong with inputs, outputs or both, instead of raising it."""
        found: list[str] = []
        if inputs is not None:
            try:
                self._compiled.validate_inputs(inputs)
            except InputError as error:
                found.append(error.problem)
        if outputs is not None:
            try:
                self._compiled.validate_outputs(outputs)
            except OutputError as error:
                found.extend(error.feedback)
        return tuple(found)
