"""Turns a request into what `litellm.acompletion` takes."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from typing import Any

from kaizen.errors import InputError
from kaizen.media import MAX_MEDIA_BYTES, Media
from kaizen.messages import Message, ModelRequest, OutputSpec, ToolUse
from pydantic_core import from_json, to_json

from kaizen_litellm._settings import is_header
from kaizen_litellm._targets import Target

__all__ = [
    "CHARS_PER_TOKEN",
    "OWN_DATA",
    "Unsendable",
    "asked",
    "guessed_input",
    "loaded",
    "output_of",
]

OWN_DATA = "litellm"
"""Under what name a reply's `provider_data` holds what its provider wants back."""

MAX_MEDIA_TOTAL = 5 * MAX_MEDIA_BYTES
CHARS_PER_TOKEN = 4
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"[^A-Za-z0-9_-]")
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_APART = frozenset({"extra_body", "extra_headers", "response_format", "tool_choice"})
# What litellm and the providers by name have for models. All else that litellm takes
# changes where a request goes, with which key, what is noted of it, or litellm itself.
_PARAMETERS = frozenset(
    (
        "additional_drop_params",
        "allowed_openai_params",
        "audio",
        "cache_control",
        "cached_content",
        "container",
        "context_management",
        "drop_params",
        "frequency_penalty",
        "guardrailConfig",
        "include_server_side_tool_invocations",
        "inference_geo",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "mcp_servers",
        "min_p",
        "modalities",
        "n",
        "output_config",
        "parallel_tool_calls",
        "performanceConfig",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "repetition_penalty",
        "safety_identifier",
        "safety_settings",
        "seed",
        "service_tier",
        "speed",
        "stop",
        "store",
        "temperature",
        "thinking",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    )
)
_OURS_IN_BODY = frozenset({"messages", "model", "stream", "stream_options", "tools"})


class Unsendable(Exception):
    """A request for which there are no words.

    Attributes:
        problem: What the provider cannot do, as the end of a sentence.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def asked(
    request: ModelRequest,
    target: Target,
    output: OutputSpec | None,
    media: Mapping[int, bytes],
    *,
    natively: bool,
) -> dict[str, Any]:
    """Return the messages and options of a request.

    Args:
        output: The structured output wanted.
        media: The bytes of media in its messages, by `id` of the medium.
        natively: Whether the model is held to its schema by its provider.

    Raises:
        Unsendable: It holds what cannot be said.
    """
    settings, extra = request.settings, request.settings.extra
    made: dict[str, Any] = {"messages": _messages(request, target, media)}
    if settings.temperature is not None:
        made["temperature"] = settings.temperature
    if settings.max_tokens is not None:
        made["max_tokens"] = settings.max_tokens
    if request.tools:
        made["tools"] = [_tool(each) for each in request.tools]
        if "tool_choice" in extra:
            made["tool_choice"] = extra["tool_choice"]
    if output is not None and natively:
        is_hint = request.output is None and _is_lax(extra)
        made["response_format"] = _response_format(output, strict=not is_hint)
    elif output is not None and output.strict:
        _tell_schema(made["messages"], output)
    made |= _parameters(extra)
    if body := _body(request, target):
        made["extra_body"] = body
    if headers := _headers(target, extra.get("extra_headers")):
        made["extra_headers"] = headers
    return made


def _parameters(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user sets for a model.

    Raises:
        Unsendable: It is nothing for a model.
    """
    for name in extra:
        if name not in _PARAMETERS and name not in _APART:
            raise Unsendable(f"cannot be given {name!r} by `provider_config`")
    return {name: value for name, value in extra.items() if name in _PARAMETERS}


def _body(request: ModelRequest, target: Target) -> dict[str, Any]:
    """Return the fields of the body that litellm does not know.

    Raises:
        Unsendable: They are none, or those that only we can fill in.
    """
    given = request.settings.extra.get("extra_body") or {}
    if not isinstance(given, Mapping):
        raise Unsendable("takes an object as `extra_body`")
    if ours := sorted(_OURS_IN_BODY & given.keys()):
        raise Unsendable(f"cannot be given {ours[0]!r} by `extra_body`")
    made = dict(given)
    if request.prefix and target.extends:
        made |= {"continue_final_message": True, "add_generation_prompt": False}
    return made


def _headers(target: Target, given: Any) -> dict[str, str]:
    """Return the headers of a provider and those of one request.

    Raises:
        Unsendable: They are none; it does not show them, as keys may be there.
    """
    if given is None:
        return dict(target.headers)
    if isinstance(given, Mapping) and all(is_header(*each) for each in given.items()):
        return {**target.headers, **given}
    raise Unsendable("takes no `extra_headers` with such a name or value")


def output_of(request: ModelRequest) -> OutputSpec | None:
    """Return the structured output that a request or its `response_format` asks for."""
    wanted = request.settings.extra.get("response_format")
    if request.output is not None or not isinstance(wanted, Mapping):
        return request.output
    if wanted.get("type") == "json_object":
        return OutputSpec(name="output", schema=wanted.get("schema") or {}, strict=False)
    told = wanted.get("json_schema")
    if not isinstance(told, Mapping) or not isinstance(told.get("schema"), Mapping):
        return None
    return OutputSpec(name=str(told.get("name") or "output"), schema=told["schema"])


async def loaded(messages: Sequence[Message]) -> dict[int, bytes]:
    """Return the bytes of all media that are not on the web, by the `id` of each.

    Raises:
        InputError: They are too large.
        OSError: A file cannot be read.
    """
    found: dict[int, bytes] = {}
    total = 0
    for message in messages:
        if isinstance(message.content, str):
            continue
        for part in message.content:
            if isinstance(part, Media) and part.url is None and id(part) not in found:
                data = found[id(part)] = await part.read()
                total += len(data)
                if total > MAX_MEDIA_TOTAL:
                    raise InputError(
                        "the media of a request",
                        f"are larger than {MAX_MEDIA_TOTAL} bytes together",
                        "Send fewer or smaller ones.",
                    )
    return found


def guessed_input(request: ModelRequest) -> int:
    """Return about how many tokens a request has: a token is about four characters."""
    said = sum(len(message.text) for message in request.messages)
    said += sum(len(str(each.parameters)) for each in request.tools)
    return -(-said // CHARS_PER_TOKEN)


def _messages(
    request: ModelRequest, target: Target, media: Mapping[int, bytes]
) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    behind: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role != "tool" and behind:
            made.append({"role": "user", "content": behind})
            behind = []
        made.append(_message(message, target, media, behind))
    if behind:
        made.append({"role": "user", "content": behind})
    if prefix := request.prefix.rstrip():  # Anthropic refuses blanks there; see `Seam`
        made.append({"role": "assistant", "content": prefix})
    return made


def _message(
    message: Message,
    target: Target,
    media: Mapping[int, bytes],
    behind: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return one message; what a tool message cannot hold goes behind the tool messages."""
    if message.role == "tool":
        content = message.content if isinstance(message.content, tuple) else ()
        behind.extend(_part(each, media) for each in content if isinstance(each, Media))
        return {
            "role": "tool",
            "tool_call_id": _wire_id(message.tool_use_id),
            "name": message.name,
            "content": message.text,
        }
    if message.role == "assistant":
        return _own_message(message, _given_back(message, target))
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [part for part in message.content if part]
    if all(isinstance(part, str) for part in parts):
        return {"role": message.role, "content": message.text}
    return {"role": message.role, "content": [_part(part, media) for part in parts]}


def _own_message(message: Message, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model said, with what its provider wants back of it."""
    made: dict[str, Any] = {"role": "assistant", "content": message.text}
    if kept.get("thinking_blocks"):
        made["thinking_blocks"] = kept["thinking_blocks"]
    if message.tool_uses:
        made["content"] = message.text or None
        fields = kept.get("tool_fields")
        known = fields if isinstance(fields, Mapping) else {}
        made["tool_calls"] = [_called(use, known.get(use.id)) for use in message.tool_uses]
    return made


def _called(use: ToolUse, fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": _wire_id(use.id),
        "type": "function",
        "function": {"name": use.name, "arguments": _arguments(use)},
    }
    if isinstance(fields, Mapping):
        made["provider_specific_fields"] = dict(fields)
    return made


def _given_back(message: Message, target: Target) -> Mapping[str, Any]:
    """Return what a provider wants back, if it is the one that gave it."""
    kept = (message.provider_data or {}).get(OWN_DATA)
    if isinstance(kept, Mapping) and kept.get("route") == target.routes.get("chat"):
        return kept
    return {}


def _arguments(use: ToolUse) -> str:
    """Return a call's arguments as the JSON text of an object, whatever the model wrote.

    litellm reads it for providers that want the object itself.
    """
    if not isinstance(use.arguments, str):
        return to_json(use.arguments).decode()
    try:
        read = from_json(use.arguments or "{}")
    except ValueError:
        read = None
    if isinstance(read, dict):
        return use.arguments or "{}"
    return to_json({"unreadable": use.arguments}).decode()


def _part(part: str | Media, media: Mapping[int, bytes]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.url or _url(part, media)}}
    if part.url is None and part.kind == "audio" and part.media_type in _AUDIO:
        heard = b64encode(media[id(part)]).decode("ascii")
        return {
            "type": "input_audio",
            "input_audio": {"data": heard, "format": _AUDIO[part.media_type]},
        }
    if part.url is None and part.media_type.startswith("text/"):
        return {"type": "text", "text": media[id(part)].decode(errors="replace")}
    if part.url is None and part.media_type == "application/pdf":
        name = part.path.name if part.path else "document.pdf"
        file = {"filename": name, "file_data": _url(part, media)}
        return {"type": "file", "file": file}
    raise Unsendable(f"takes no {part.kind} of type {part.media_type!r}")


def _url(part: Media, media: Mapping[int, bytes]) -> str:
    data = b64encode(media[id(part)]).decode("ascii")
    return f"data:{part.media_type};base64,{data}"


def _tool(spec: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": spec.name,
            "description": spec.description,
            "parameters": deepcopy(spec.parameters),  # litellm changes it
        },
    }


def _response_format(output: OutputSpec, *, strict: bool) -> dict[str, Any]:
    if not output.strict:
        return {"type": "json_object"}
    name = _NAME.sub("_", output.name)[:64] or "output"
    wanted = {"name": name, "strict": strict, "schema": deepcopy(output.schema)}
    return {"type": "json_schema", "json_schema": wanted}


def _is_lax(extra: Mapping[str, Any]) -> bool:
    """Whether a user's `response_format` says itself that the schema is a mere hint."""
    told = extra["response_format"].get("json_schema")
    return isinstance(told, Mapping) and told.get("strict") is False


def _tell_schema(messages: list[dict[str, Any]], output: OutputSpec) -> None:
    """Tell a model in its system message what it cannot be held to."""
    words = (
        "When you give your answer, rather than call a tool, write one JSON object that "
        "fits this JSON schema, and nothing else:\n" + to_json(output.schema).decode()
    )
    first = messages[0] if messages else {}
    if first.get("role") == "system" and isinstance(first.get("content"), str):
        first["content"] = f"{first['content']}\n\n{words}"
    else:
        messages.insert(0, {"role": "system", "content": words})


def _wire_id(call_id: str) -> str:
    """Return the id of a call as providers accept it; the same for the same id.

    Gemini's are long, since litellm puts signatures into them, and must stay as they are.
    """
    if _ID.fullmatch(call_id) or "__thought__" in call_id:
        return call_id
    return f"call_{sha256(call_id.encode()).hexdigest()[:24]}"
