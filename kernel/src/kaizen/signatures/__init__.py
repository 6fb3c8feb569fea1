"""Typed signatures: what goes into a run of an agent, and what comes out of it.

    class Review(Signature):
        "Judge a product review."

        text: str = InputField(desc="The review")
        sentiment: Literal["good", "bad", "mixed"] = OutputField(desc="Overall tone")
        confidence: float = OutputField(desc="0 to 1", ge=0, le=1)

Also written as `signature("text -> sentiment, confidence: float")`, or made of a function
with `@signature`. Pydantic validates: any of its types will do, and those of
`kaizen.media`.
"""

from kaizen.signatures._compiler import CompiledSignature, SignatureCompiler
from kaizen.signatures._fields import (
    MISSING,
    InputField,
    OutputField,
    SignatureField,
)
from kaizen.signatures._parser import SignatureParser, WrittenSignature, signature
from kaizen.signatures._schema import create_structured_output_config
from kaizen.signatures._signature import Signature
from kaizen.signatures._validator import SignatureValidator

__all__ = [
    "MISSING",
    "CompiledSignature",
    "InputField",
    "OutputField",
    "Signature",
    "SignatureCompiler",
    "SignatureField",
    "SignatureParser",
    "SignatureValidator",
    "WrittenSignature",
    "create_structured_output_config",
    "signature",
]
