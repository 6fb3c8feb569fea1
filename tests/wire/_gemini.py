"""Google's Gemini."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.wire._api import (
    BAD_GATEWAY,
    STATUS,
    Api,
    Event,
    Page,
    Refused,
    as_json,
    delay,
    list_of,
    text_of,
)
from tests.wire._openai import vector
from tests.wire.script import Fault, FaultKind, Request, Said, Stop, Turn, Usage

__all__ = ["GeminiEmbed", "GeminiGenerate", "GeminiModels", "GeminiStream"]

SIGNATURE = "d2lyZS10aG91Z2h0"
STOPS: Mapping[Stop, str] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
}
ERRORS: Mapping[FaultKind, tuple[int, str, str]] = {
    "unauthorized": (
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
    ),
    "forbidden": (
        403,
        "PERMISSION_DENIED",
        "Generative Language API has not been used in project wire before.",
    ),
    "unknown_model": (
        404,
        "NOT_FOUND",
        (
            "models/{model} is not found for API version v1beta, or is not supported for "
            "generateContent. Call ListModels to see the list of available models and "
            "their supported methods."
        ),
    ),
    "bad_request": (
        400,
        "INVALID_ARGUMENT",
        "* GenerateContentRequest.contents: contents is not specified\n",
    ),
    "context_length": (
        400,
        "INVALID_ARGUMENT",
        (
            "The input token count (1200293) exceeds the maximum number of tokens allowed "
            "(1048576)."
        ),
    ),
    "rate_limit": (
        429,
        "RESOURCE_EXHAUSTED",
        (
            "You exceeded your current quota, please check your plan and billing details.\n"
            "* Quota exceeded for metric: generativelanguage.googleapis.com/"
            "generate_content_free_tier_requests, limit: 10, model: {model}"
        ),
    ),
    "quota": (
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "server_error": (
        500,
        "INTERNAL",
        (
            "An internal error has occurred. Please retry or report in "
            "https://developers.generativeai.google/guide/troubleshooting"
        ),
    ),
    "unavailable": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "overloaded": (
        503,
        "UNAVAILABLE",
        "The model is overloaded. Please try again later.",
    ),
}
NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). "
    "Please use API Key or other form of API consumer identity to call this API."
)
TYPES = "type.googleapis.com/google.rpc."
SCHEMAS = ("responseJsonSchema", "responseSchema")
# What a user wrote, and not the API, stands below these.
VALUES = ("args", "response", "parameters", "parametersJsonSchema", *SCHEMAS)


def error(
    status: int,
    code: str,
    message: str,
    details: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] = {},
) -> Page:
    told: dict[str, Any] = {"code": status, "message": message, "status": code}
    if details:
        told["details"] = details
    return as_json({"error": told}, status=status, headers=headers)


def bad(message: str) -> Refused:
    return Refused(error(400, "INVALID_ARGUMENT", message))


class Gemini(Api):
    """What all of Gemini's addresses share: keys and errors."""

    provider = "google"

    def authorise(self, request: Request) -> None:
        given = request.headers.get("x-goog-api-key") or request.query.get("key")
        if not given:
            raise Refused(error(403, "PERMISSION_DENIED", NO_KEY))
        if given != self.key:
            raise Refused(self.failure(request, Fault("unauthorized")))

    def failure(self, request: Request, fault: Fault) -> Page:
        if fault.kind == "bad_gateway":
            return Page(BAD_GATEWAY, STATUS[fault.kind], "text/html")
        if fault.kind == "content_filter":
            return self._blocked(request)
        status, code, message = ERRORS[fault.kind]
        message = fault.message or message.format(model=request.model)
        details = list(details_of(fault))
        return error(status, code, message, details, delay(fault, {}))

    def _blocked(self, request: Request) -> Page:
        """Answer 200 without a candidate, as Gemini does."""
        blocked = {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
            "modelVersion": request.model,
            "responseId": "wire",
        }
        if not request.stream:
            return as_json(blocked)
        return Page(self.line(json.dumps(blocked).encode()), 200, self.stream_type(request))

    def failure_event(self, request: Request, fault: Fault) -> bytes:
        return self.line(
            self.failure(request, Fault("overloaded", message=fault.message)).body
        )


def details_of(fault: Fault) -> Iterator[dict[str, Any]]:
    """Give what Gemini adds to an error; the delay of a limit is there, in no header."""
    if fault.kind == "unauthorized":
        info = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
        yield {"@type": f"{TYPES}ErrorInfo", **info}
    if fault.kind in ("rate_limit", "quota"):
        per = "Minute" if fault.kind == "rate_limit" else "Day"
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
            "quotaId": f"GenerateRequestsPer{per}PerProjectPerModel",
            "quotaValue": "10",
        }
        yield {"@type": f"{TYPES}QuotaFailure", "violations": [violation]}
    if fault.kind == "rate_limit" and fault.retry_after_s is not None:
        yield {"@type": f"{TYPES}RetryInfo", "retryDelay": f"{fault.retry_after_s:g}s"}


class GeminiGenerate(Gemini):
    """`/v1beta/models/M:generateContent`."""

    def understand(self, request: Request) -> None:
        body = spelled(request.json)
        if not isinstance(body, dict):
            raise bad("Invalid JSON payload received. Unexpected end of string.")
        contents = list_of(body.get("contents"))
        if not contents:
            raise Refused(self.failure(request, Fault("bad_request")))
        system = body.get("systemInstruction")
        if isinstance(system, dict):
            request.turns.append(Turn("system", text_of(system.get("parts"))))
        request.turns += [turn_of(each) for each in contents]
        for tool in list_of(body.get("tools")):
            for each in list_of(tool.get("functionDeclarations")):
                schema = each.get("parametersJsonSchema") or each.get("parameters")
                request.tools[str(each.get("name"))] = schema or {}
        request.must_call = must_call(body, request)
        config = body.get("generationConfig") or {}
        schema = config.get("responseJsonSchema") or config.get("responseSchema")
        if schema is None and config.get("responseMimeType") == "application/json":
            schema = {"type": "object"}
        request.schema = schema
        check_calls(contents, signed=request.model.startswith("gemini-3"))

    def page(self, request: Request, said: Said) -> Page:
        parts: list[dict[str, Any]] = []
        if said.thinking:
            parts.append({"text": said.thinking, "thought": True})
        if text := said.text():
            parts.append({"text": text})
        parts += call_parts(said)
        stop, usage = said.ending()
        return as_json(self._chunk(said, parts, usage, stop))

    def _chunk(
        self,
        said: Said,
        parts: list[dict[str, Any]],
        usage: Usage,
        stop: Stop | None = None,
    ) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
        if stop:
            candidate["finishReason"] = STOPS[stop]
        return {
            "candidates": [candidate | {"index": 0}],
            "usageMetadata": usage_of(usage),
            "modelVersion": said.model,
            "responseId": f"wire-{said.number}",
        }

    def events(self, request: Request, said: Said) -> Iterator[Event]:
        used = said.answer.usage

        def chunk(part: dict[str, Any]) -> bytes:
            return self.line(json.dumps(self._chunk(said, [part], used)).encode())

        if said.thinking:
            yield Event(chunk({"text": said.thinking, "thought": True}))
        for piece in said.pieces():
            yield Event(chunk({"text": piece}), content=True)
        for part in call_parts(said):
            yield Event(chunk(part), content=True)
        stop, usage = said.ending()
        last = self._chunk(said, [{"text": ""}], usage, stop)
        yield Event(self.line(json.dumps(last).encode()), end=True)


class GeminiStream(GeminiGenerate):
    """`/v1beta/models/M:streamGenerateContent`; without `alt=sse` a list of chunks."""

    def understand(self, request: Request) -> None:
        super().understand(request)
        request.stream = request.query.get("alt") == "sse"

    def page(self, request: Request, said: Said) -> Page:
        return Page(b"[" + super().page(request, said).body + b"]")


def spelled(value: Any) -> Any:
    """Return a request in one spelling; Gemini takes `system_instruction` too."""
    if isinstance(value, list):
        return [spelled(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        camel(key): each if camel(key) in VALUES else spelled(each)
        for key, each in value.items()
    }


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each.capitalize() for each in others)


def must_call(body: Mapping[str, Any], request: Request) -> str:
    config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    if config.get("mode") != "ANY":
        return ""
    allowed = config.get("allowedFunctionNames") or request.tools
    return next(iter(allowed), "")


def call_parts(said: Said) -> list[dict[str, Any]]:
    """Return the tool calls; the first carries the signature of the thoughts."""
    parts: list[dict[str, Any]] = [
        {"functionCall": {"id": each.id, "name": each.name, "args": dict(each.arguments)}}
        for each in said.calls
    ]
    if parts:
        parts[0]["thoughtSignature"] = SIGNATURE
    return parts


def usage_of(usage: Usage) -> dict[str, int]:
    """Count as Gemini does: thoughts are not among the tokens of the candidate."""
    counted = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.cached_tokens:
        counted["cachedContentTokenCount"] = usage.cached_tokens
    if usage.reasoning_tokens:
        counted["thoughtsTokenCount"] = usage.reasoning_tokens
    return counted


def turn_of(content: Mapping[str, Any]) -> Turn:
    parts = list_of(content.get("parts"))

    def names(kind: str) -> tuple[str, ...]:
        return tuple(str(part[kind].get("name")) for part in parts if kind in part)

    answers = names("functionResponse")
    role = {"model": "assistant"}.get(str(content.get("role")), "user")
    return Turn(
        role="tool" if answers else role,
        text=text_of(parts),
        calls=names("functionCall"),
        answers=answers,
        images=sum("inlineData" in part or "fileData" in part for part in parts),
    )


def check_calls(contents: Any, *, signed: bool) -> None:
    """Refuse calls whose answers do not stand behind them, or, if asked, no signature."""
    called = 0
    for place, content in enumerate(list_of(contents)):
        parts = list_of(content.get("parts"))
        answered = sum("functionResponse" in part for part in parts)
        if called != answered:
            raise bad(
                "Please ensure that the number of function response parts is equal to the "
                "number of function call parts of the function call turn."
            )
        calls = [part for part in parts if "functionCall" in part]
        called = len(calls)
        if signed and calls and not calls[0].get("thoughtSignature"):
            raise bad(
                "Function call is missing a thought_signature in functionCall parts. This "
                "is required for tools to work correctly. Additional data, function call "
                f"`{calls[0]['functionCall'].get('name')}`, position {place}."
            )


class GeminiEmbed(Gemini):
    """`/v1beta/models/M:embedContent` and `:batchEmbedContents`."""

    kind = "embed"

    def understand(self, request: Request) -> None:
        body = request.json if isinstance(request.json, dict) else {}
        wanted = list_of(body.get("requests")) or [body]
        contents = [each.get("content") or {} for each in wanted]
        request.texts = [text_of(each.get("parts")) for each in contents]
        if not any(contents):
            raise bad("* EmbedContentRequest.content: content is not specified\n")

    def page(self, request: Request, said: Said) -> Page:
        vectors = said.answer.vectors or [vector(text) for text in request.texts]
        values = [{"values": list(each)} for each in vectors]
        if re.search(r":batchEmbedContents$", request.path):
            return as_json({"embeddings": values})
        return as_json({"embedding": values[0]})


class GeminiModels(Gemini):
    """`/v1beta/models`."""

    kind = "list"

    def page(self, request: Request, said: Said) -> Page:
        models = [
            {
                "name": f"models/{name}",
                "version": "001",
                "displayName": name.title(),
                "inputTokenLimit": 1048576,
                "outputTokenLimit": 65536,
                "supportedGenerationMethods": ["generateContent", "countTokens"],
            }
            for name in self.models
        ]
        return as_json({"models": models})
