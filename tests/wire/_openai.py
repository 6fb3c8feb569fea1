"""OpenAI's chat completions, and everybody else's who speaks them."""

from __future__ import annotations

import hashlib
import json
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
from tests.wire.script import Fault, FaultKind, Request, Said, Turn, Usage

__all__ = [
    "AzureAi",
    "AzureChat",
    "AzureEmbeddings",
    "AzureTranscriptions",
    "AzureV1Chat",
    "HuggingFaceChat",
    "LocalChat",
    "LocalEmbeddings",
    "LocalModels",
    "OpenAi",
    "OpenAiChat",
    "OpenAiEmbeddings",
    "OpenAiModels",
    "OpenAiTranscriptions",
    "error",
    "vector",
]

CREATED = 1_764_000_000
# What an error says: message, type, param, code.
ERRORS: Mapping[FaultKind, tuple[str, str, str | None, str | None]] = {
    "forbidden": (
        "Country, region, or territory not supported",
        "request_forbidden",
        None,
        "unsupported_country_region_territory",
    ),
    "unknown_model": (
        "The model `{model}` does not exist or you do not have access to it.",
        "invalid_request_error",
        None,
        "model_not_found",
    ),
    "bad_request": (
        "Invalid value: 'wire'. Supported values are: 'system', 'assistant', 'user'.",
        "invalid_request_error",
        "messages[0].role",
        "invalid_value",
    ),
    "context_length": (
        (
            "This model's maximum context length is 128000 tokens. However, your messages "
            "resulted in 140021 tokens. Please reduce the length of the messages."
        ),
        "invalid_request_error",
        "messages",
        "context_length_exceeded",
    ),
    "content_filter": (
        (
            "Invalid prompt: your prompt was flagged as potentially violating our usage "
            "policy. Please try again with a different prompt."
        ),
        "invalid_request_error",
        None,
        "invalid_prompt",
    ),
    "rate_limit": (
        (
            "Rate limit reached for {model} in organization org-wire on requests per min "
            "(RPM): Limit 3, Used 3, Requested 1. Please try again in 20s."
        ),
        "requests",
        None,
        "rate_limit_exceeded",
    ),
    "quota": (
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        None,
        "insufficient_quota",
    ),
    "server_error": (
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
        None,
    ),
    "unavailable": (
        (
            "That model is currently overloaded with other requests. You can retry your "
            "request, or contact us through our help center if the error persists."
        ),
        "server_error",
        None,
        "service_unavailable",
    ),
    "overloaded": (
        "The engine is currently overloaded, please try again later",
        "server_error",
        None,
        "overloaded",
    ),
}
NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization "
    "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API "
    "key from https://platform.openai.com/account/api-keys."
)


def error(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] = {},
) -> Page:
    """Return an error as OpenAI words it."""
    told = {"message": message, "type": kind, "param": param, "code": code}
    return as_json({"error": told}, status=status, headers=headers)


def vector(text: str, size: int = 8) -> list[float]:
    """Return the embedding of a text: of length one, and the same every time."""
    digest = hashlib.shake_128(text.encode()).digest(size)
    raw = [byte - 127.5 for byte in digest]
    length = sum(each * each for each in raw) ** 0.5
    return [each / length for each in raw]


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class OpenAi(Api):
    """What all of OpenAI's addresses share: keys and errors."""

    def authorise(self, request: Request) -> None:
        header = request.headers.get("authorization", "")
        if not header:
            raise Refused(error(401, NO_KEY))
        if header != f"Bearer {self.key}":
            raise Refused(self.wrong_key(header.removeprefix("Bearer ")))

    def wrong_key(self, key: str) -> Page:
        """Say so; OpenAI repeats some of the key."""
        shown = f"{key[:8]}{'*' * 12}{key[-4:]}"
        message = (
            f"Incorrect API key provided: {shown}. You can find your API key at "
            "https://platform.openai.com/account/api-keys."
        )
        return error(401, message, code="invalid_api_key")

    def failure(self, request: Request, fault: Fault) -> Page:
        status = STATUS[fault.kind]
        if fault.kind == "unauthorized":
            return self.wrong_key("sk-wrong-key-1234")
        if fault.kind == "bad_gateway":
            return Page(BAD_GATEWAY, status, "text/html")
        message, kind, param, code = ERRORS[fault.kind]
        message = fault.message or message.format(model=request.model)
        return error(status, message, kind, param, code, self.delay(fault))

    def delay(self, fault: Fault) -> dict[str, str]:
        seconds = fault.retry_after_s or 0
        reset = f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
        return delay(
            fault,
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": reset,
                "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-tokens": "149984",
                "x-ratelimit-reset-tokens": "6ms",
            },
        )

    def failure_event(self, request: Request, fault: Fault) -> bytes:
        message, kind, param, code = ERRORS["server_error"]
        told = {
            "message": fault.message or message,
            "type": kind,
            "param": param,
            "code": code,
        }
        return self.line(json.dumps({"error": told}).encode())


class OpenAiChat(OpenAi):
    """`/chat/completions`."""

    thinking_field = "reasoning_content"

    def understand(self, request: Request) -> None:
        body = request.json
        if not isinstance(body, dict):
            raise Refused(error(400, "We could not parse the JSON body of your request."))
        request.model = str(body.get("model") or request.model)
        if not request.model:
            raise Refused(error(400, "you must provide a model parameter"))
        if not list_of(body.get("messages")):
            message = "Missing required parameter: 'messages'."
            raise Refused(
                error(400, message, param="messages", code="missing_required_parameter")
            )
        request.stream = body.get("stream") is True
        request.turns = [turn_of(each) for each in list_of(body["messages"])]
        for tool in list_of(body.get("tools")):
            function = tool.get("function") or {}
            request.tools[str(function.get("name"))] = function.get("parameters") or {}
        request.must_call = must_call(body.get("tool_choice"), request)
        request.schema = schema_of(body.get("response_format"))
        check_schema(body.get("response_format"))
        check_calls(request.turns)
        if body.get("continue_final_message") is True or body["messages"][-1].get("prefix"):
            request.prefix = request.turns[-1].text

    def page(self, request: Request, said: Said) -> Page:
        message: dict[str, Any] = {"role": "assistant", "content": said.text() or None}
        if said.thinking:
            message[self.thinking_field] = said.thinking
        if said.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments),
                    },
                }
                for call in said.calls
            ]
        stop, usage = said.ending()
        choice = {"index": 0, "message": message, "finish_reason": stop, "logprobs": None}
        whole = self.head(said, "chat.completion") | {
            "choices": [choice | self.choice_extra()],
            "usage": usage_of(usage),
        }
        return as_json(whole, headers=self.limits())

    def events(self, request: Request, said: Said) -> Iterator[Event]:
        head = self.head(said, "chat.completion.chunk")
        wants_usage = (request.json.get("stream_options") or {}).get("include_usage")
        unused = {"usage": None} if wants_usage else {}

        def chunk(delta: dict[str, Any], stop: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": stop}
            choices = [choice | self.choice_extra()]
            return self.line(json.dumps(head | {"choices": choices} | unused).encode())

        yield from self.preamble()
        first: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        yield Event(chunk(first))
        if said.thinking:
            yield Event(chunk({self.thinking_field: said.thinking}))
        for piece in said.pieces():
            yield Event(chunk({"content": piece}), content=True)
        for place, call in enumerate(said.calls):
            for number, delta in enumerate(call_deltas(call.id, call.name, call.arguments)):
                each = {"tool_calls": [{"index": place, **delta}]}
                yield Event(chunk(each), content=number > 0)
        stop, usage = said.ending()
        yield Event(chunk({}, stop), end=True)
        if wants_usage:
            last = head | {"choices": [], "usage": usage_of(usage)}
            yield Event(self.line(json.dumps(last).encode()))
        yield Event(self.line(b"[DONE]"))

    def head(self, said: Said, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{said.number}",
            "object": kind,
            "created": CREATED,
            "model": said.model,
            "service_tier": "default",
            "system_fingerprint": "fp_wire",
        }

    def preamble(self) -> Iterator[Event]:
        """Give what comes before the first chunk; from OpenAI nothing."""
        return iter(())

    def choice_extra(self) -> dict[str, Any]:
        return {}

    def limits(self) -> dict[str, str]:
        return {"x-request-id": "req_wire", "x-ratelimit-remaining-requests": "59"}


def call_deltas(
    call_id: str, name: str, arguments: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Give one tool call as a stream has it: first its name, then its arguments."""
    function = {"name": name, "arguments": ""}
    yield {"id": call_id, "type": "function", "function": function}
    written = json.dumps(arguments)
    for start in range(0, len(written), 8):
        yield {"function": {"arguments": written[start : start + 8]}}


def turn_of(message: Mapping[str, Any]) -> Turn:
    content = message.get("content")
    images = [part for part in list_of(content) if part.get("type") == "image_url"]
    answers = message.get("tool_call_id")
    return Turn(
        role=str(message.get("role")),
        text=text_of(content),
        calls=tuple(str(each.get("id")) for each in list_of(message.get("tool_calls"))),
        answers=(str(answers),) if answers else (),
        images=len(images),
    )


def must_call(choice: Any, request: Request) -> str:
    """Return the tool that has to be called; of many the first."""
    if choice == "required":
        return next(iter(request.tools), "")
    function = choice.get("function") if isinstance(choice, dict) else None
    return str((function or choice).get("name", "")) if isinstance(choice, dict) else ""


def schema_of(response_format: Any) -> Mapping[str, Any] | None:
    """Return the schema that a `response_format` demands; any object for `json_object`."""
    if not isinstance(response_format, dict):
        return None
    if response_format.get("type") == "json_object":
        return {"type": "object"}
    wanted = response_format.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    return schema if isinstance(schema, dict) else None


def check_schema(response_format: Any) -> None:
    """Refuse a strict schema that is not closed, as OpenAI does."""
    wanted = response_format.get("json_schema") if isinstance(response_format, dict) else {}
    if not isinstance(wanted, dict) or not wanted.get("strict"):
        return
    name, problem = wanted.get("name"), open_object(wanted.get("schema"), ())
    if problem:
        message = f"Invalid schema for response_format '{name}': {problem}"
        raise Refused(error(400, message, param="response_format"))


def open_object(schema: Any, path: tuple[str, ...]) -> str:
    """Say what keeps a schema from being strict, or `""`."""
    if isinstance(schema, list):
        return next(filter(None, (open_object(each, path) for each in schema)), "")
    if not isinstance(schema, dict):
        return ""
    where = f"In context={path}, "
    properties = schema.get("properties")
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return (
                f"{where}'additionalProperties' is required to be supplied and to be false."
            )
        missing = [
            name for name in properties or {} if name not in schema.get("required", ())
        ]
        if missing:
            return (
                f"{where}'required' is required to be supplied and to be an array "
                f"including every key in properties. Missing '{missing[0]}'."
            )
    inside: list[tuple[str, Any]] = list((properties or {}).items())
    inside += [(key, schema.get(key)) for key in ("items", "anyOf")]
    inside += list((schema.get("$defs") or {}).items())
    return next(filter(None, (open_object(each, (*path, key)) for key, each in inside)), "")


def check_calls(turns: list[Turn]) -> None:
    """Refuse a conversation in which a tool call has no answer, or an answer no call."""
    open_calls: set[str] = set()
    for place, turn in enumerate(turns):
        if turn.role == "tool":
            if not open_calls.issuperset(turn.answers) or not turn.answers:
                message = (
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceding message with 'tool_calls'."
                )
                raise Refused(error(400, message, param=f"messages.[{place}].role"))
            open_calls.difference_update(turn.answers)
            continue
        if open_calls:
            break
        open_calls = set(turn.calls)
    if open_calls:
        message = (
            "An assistant message with 'tool_calls' must be followed by tool messages "
            "responding to each 'tool_call_id'. The following tool_call_ids did not have "
            f"response messages: {', '.join(sorted(open_calls))}"
        )
        raise Refused(error(400, message, param="messages"))


class OpenAiEmbeddings(OpenAi):
    """`/embeddings`."""

    kind = "embed"

    def understand(self, request: Request) -> None:
        body = request.json if isinstance(request.json, dict) else {}
        request.model = str(body.get("model") or request.model)
        given = body.get("input")
        request.texts = [given] if isinstance(given, str) else list(given or ())
        if not request.model:
            raise Refused(error(400, "you must provide a model parameter"))
        if not request.texts:
            raise Refused(
                error(400, "'$.input' is invalid. Please check the API reference.")
            )

    def page(self, request: Request, said: Said) -> Page:
        vectors = said.answer.vectors or [vector(str(text)) for text in request.texts]
        packed = request.json.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": place,
                "embedding": as_base64(each) if packed else each,
            }
            for place, each in enumerate(vectors)
        ]
        count = said.answer.usage.input_tokens
        used = {"prompt_tokens": count, "total_tokens": count}
        return as_json({"object": "list", "data": data, "model": said.model, "usage": used})


def as_base64(numbers: Any) -> str:
    import base64
    import struct

    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


class OpenAiTranscriptions(OpenAi):
    """`/audio/transcriptions`."""

    kind = "transcribe"

    def understand(self, request: Request) -> None:
        request.model = request.form.get("model", request.model.encode()).decode()
        if not request.model:
            raise Refused(error(400, "you must provide a model parameter"))
        if not request.form.get("file"):
            raise Refused(error(400, "Audio file is too short. Minimum is 0.1 seconds."))

    def page(self, request: Request, said: Said) -> Page:
        text, duration = said.text(), said.answer.duration_s
        wanted = request.form.get("response_format", b"json").decode()
        if wanted in ("text", "srt", "vtt"):
            return Page(text.encode() + b"\n", content_type="text/plain; charset=utf-8")
        used = {"type": "duration", "seconds": round(duration)}
        if wanted != "verbose_json":
            return as_json({"text": text, "usage": used})
        segment = {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": duration,
            "text": text,
            "tokens": [50364, 50414],
            "temperature": 0.0,
            "avg_logprob": -0.2,
            "compression_ratio": 1.1,
            "no_speech_prob": 0.01,
        }
        return as_json(
            {
                "task": "transcribe",
                "language": said.answer.language,
                "duration": duration,
                "text": text,
                "segments": [segment],
                "usage": used,
            }
        )


class OpenAiModels(OpenAi):
    """`/models`."""

    kind = "list"

    def page(self, request: Request, said: Said) -> Page:
        data = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "wire"}
            for name in self.models
        ]
        return as_json({"object": "list", "data": data})


class AzureKeys(OpenAi):
    """Azure's keys, errors and filters."""

    provider = "azure"

    def authorise(self, request: Request) -> None:
        given = request.headers.get("api-key") or request.headers.get(
            "authorization", ""
        ).removeprefix("Bearer ")
        if given != self.key:
            raise Refused(self.wrong_key(given))

    def wrong_key(self, key: str) -> Page:
        message = (
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure"
            " to provide a valid key for an active subscription and use a correct regional "
            "API endpoint for your resource."
        )
        return as_json({"error": {"code": "401", "message": message}}, status=401)

    def failure(self, request: Request, fault: Fault) -> Page:
        if fault.kind == "unknown_model":
            message = (
                "The API deployment for this resource does not exist. If you created the "
                "deployment within the last 5 minutes, please wait a moment and try again."
            )
            told: dict[str, Any] = {"code": "DeploymentNotFound", "message": message}
            return as_json({"error": told}, status=404)
        if fault.kind == "rate_limit":
            message = (
                "Requests to the ChatCompletions_Create Operation have exceeded call rate "
                "limit of your current pricing tier. Please retry after 20 seconds."
            )
            told = {"code": "429", "message": fault.message or message}
            return as_json({"error": told}, status=429, headers=self.delay(fault))
        if fault.kind == "content_filter":
            return as_json({"error": filtered(fault.message)}, status=400)
        return super().failure(request, fault)


def filtered(message: str) -> dict[str, Any]:
    """Return what Azure says of a prompt that its filter stopped."""
    message = message or (
        "The response was filtered due to the prompt triggering Azure OpenAI's content "
        "management policy. Please modify your prompt and retry."
    )
    safe, high = (
        {"filtered": False, "severity": "safe"},
        {"filtered": True, "severity": "high"},
    )
    return {
        "message": message,
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": safe, "sexual": safe, "violence": high},
        },
    }


class AzureChat(AzureKeys, OpenAiChat):
    """`/openai/deployments/D/chat/completions`; the model is the deployment."""

    def understand(self, request: Request) -> None:
        if not request.query.get("api-version"):
            told = {"code": "404", "message": "Resource not found"}
            raise Refused(as_json({"error": told}, status=404))
        super().understand(request)

    def preamble(self) -> Iterator[Event]:
        first = {"prompt_index": 0, "content_filter_results": {}}
        empty = {"choices": [], "created": 0, "id": "", "model": "", "object": ""}
        whole = empty | {"prompt_filter_results": [first]}
        yield Event(self.line(json.dumps(whole).encode()))

    def choice_extra(self) -> dict[str, Any]:
        return {"content_filter_results": {}}


class AzureV1Chat(AzureKeys, OpenAiChat):
    """`/openai/v1/chat/completions`."""


class AzureAi(AzureKeys, OpenAiChat):
    """`/chat/completions` of a model in Azure's catalogue."""

    provider = "azure_ai"


class AzureEmbeddings(AzureKeys, OpenAiEmbeddings):
    """`/openai/deployments/D/embeddings`."""


class AzureTranscriptions(AzureKeys, OpenAiTranscriptions):
    """`/openai/deployments/D/audio/transcriptions`."""


class Local(OpenAi):
    """A server on this machine, which needs no key."""

    provider = "docker"

    def authorise(self, request: Request) -> None:
        """Let everybody in."""


class LocalChat(Local, OpenAiChat):
    """`/chat/completions` of a server on this machine.

    llama.cpp, which is inside Docker's, and Ollama go on with a last assistant message.
    """

    def understand(self, request: Request) -> None:
        super().understand(request)
        last = request.turns[-1]
        if last.role == "assistant" and request.provider != "local":
            request.prefix = last.text


class LocalEmbeddings(Local, OpenAiEmbeddings):
    """`/embeddings` of a server on this machine."""


class LocalModels(Local, OpenAiModels):
    """`/models` of a server on this machine."""


class HuggingFaceChat(OpenAiChat):
    """`/v1/chat/completions` of Hugging Face's router: other errors."""

    provider = "huggingface"

    def wrong_key(self, key: str) -> Page:
        return as_json({"error": "Invalid username or password."}, status=401)

    def authorise(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(self.wrong_key(""))

    def failure(self, request: Request, fault: Fault) -> Page:
        if fault.kind == "unknown_model":
            message = f"The requested model '{request.model}' does not exist"
            return error(400, message, param="model", code="model_not_found")
        if fault.kind == "quota":
            message = (
                "You have exceeded your monthly included credits for Inference Providers. "
                "Subscribe to PRO to get 20x more monthly included credits."
            )
            return as_json({"error": fault.message or message}, status=402)
        return super().failure(request, fault)
