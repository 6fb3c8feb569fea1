"""Turns what goes wrong with a call into the kernel's errors, in words of ours.

litellm and the libraries that it uses put whole bodies into their messages, and those
repeat keys and prompts. Nothing of that is passed on: what the transport has seen is read
to tell one failure from another, and only codes are shown, which are single words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from kaizen.errors import (
    ModelAuthError,
    ModelConnectionError,
    ModelContextError,
    ModelError,
    ModelFilterError,
    ModelOverloadedError,
    ModelQuotaError,
    ModelRateLimitError,
    ModelRequestError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from pydantic_core import from_json

if TYPE_CHECKING:
    from kaizen_litellm._call import Call

__all__ = [
    "ended_early",
    "failed",
    "filtered",
    "missing_account",
    "missing_key",
    "retry_after",
    "too_slow",
    "unreadable",
]

MOST_S = 86_400.0
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]-]{0,63}")
_QUOTA = re.compile(
    r"insufficient_quota|billing|credit balance|exceeded your current quota|payment|"
    r"calls / month|(?:weekly|monthly) usage limit|included credits"
)
_CONTEXT = re.compile(
    r"context_length_exceeded|context[ _](?:length|window|size)|maximum context|"
    r"prompt is too long|too many (?:input )?tokens|request_too_large|"
    r"exceeds? (?:the )?(?:available |model'?s? )?(?:context|maximum (?:number|length))|"
    r"input is too long|string_above_max_length|token limit"
)
_FILTER = re.compile(
    r"content_filter|content_policy|content management policy|invalid_prompt|"
    r"responsibleaipolicy|content filtering policy|flagged as|safety system|"
    r"blocked due to safety|prohibited_content|violate the usage guidelines"
)
_RATE = re.compile(r"rate_limit|too_many_requests|rate limit|resource_exhausted")
_OVERLOADED = re.compile(r"overload|server_error|api_error|unavailable|capacity|internal")
_MODEL = re.compile(
    r"model_not_found|deploymentnotfound|model .*(?:not found|not exist|not supported)"
)
_TIMEOUT = re.compile(r"timeout|timed out")
_KEY = re.compile(r"authentication|permission|api[_ ]key|unauthenticated")
_BAD_KEY = re.compile(r"api_key_invalid|api key not valid|api key expired")
_REQUEST = re.compile(r"invalid_request|invalid_value|bad_request|invalid_argument")
_BY_WORDS: tuple[tuple[re.Pattern[str], type[ModelError]], ...] = (
    (_QUOTA, ModelQuotaError),
    (_RATE, ModelRateLimitError),
    (_CONTEXT, ModelContextError),
    (_FILTER, ModelFilterError),
    (_TIMEOUT, ModelTimeoutError),
    (_KEY, ModelAuthError),
    (_MODEL, ModelUnavailableError),
    (_REQUEST, ModelRequestError),
    (_OVERLOADED, ModelOverloadedError),
)
# What litellm says before anything is sent. What else it raises there, such as an
# `InternalServerError` or an `APIConnectionError`, is no word of a provider's.
_BY_TYPE: Mapping[str, type[ModelError]] = {
    "AuthenticationError": ModelAuthError,
    "PermissionDeniedError": ModelAuthError,
    "BudgetExceededError": ModelQuotaError,
    "ContextWindowExceededError": ModelContextError,
    "ContentPolicyViolationError": ModelFilterError,
    "NotFoundError": ModelUnavailableError,
}
_VAGUE = frozenset(
    {"APIConnectionError", "APIError", "BadRequestError", "InternalServerError"}
)
_UNKEYED = re.compile(r"api[_ ]key|credentials|access token")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d))")
_DELAYED = (ModelRateLimitError, ModelOverloadedError, ModelTimeoutError)
_SAID: Mapping[type[ModelError], tuple[str, str]] = {
    ModelAuthError: (
        "does not accept the key, or does not let it do this",
        "Look at the key and at what it may do.",
    ),
    ModelRateLimitError: (
        "has had too many requests or tokens for now",
        "Wait, send less at once, or ask for a higher limit.",
    ),
    ModelQuotaError: (
        "says that what was paid for is used up",
        "Look at the plan and the billing of the account.",
    ),
    ModelOverloadedError: (
        "is overloaded or out of order",
        "Try again later, or ask another provider.",
    ),
    ModelContextError: (
        "got a request that is longer than the model reads",
        "Send less, or choose a model with a larger context.",
    ),
    ModelFilterError: (
        "will not answer this: its content filter says no",
        "Change what is asked.",
    ),
    ModelTimeoutError: (
        "took too long to answer",
        "Try again, ask for less, or allow more time.",
    ),
    ModelRequestError: (
        "does not accept the request",
        "Look at what was asked, at `provider_config` and at `base_url`.",
    ),
    ModelConnectionError: ("cannot be reached", "Look at the network and at `base_url`."),
}


def missing_account(provider: str, variables: tuple[str, ...]) -> ModelError:
    """Return the error of a call without a key or the account of a cloud."""
    either = f"{' or '.join(variables)}, or an account" if variables else "an account"
    return ModelAuthError(
        provider,
        "has no credentials that litellm finds",
        f"Set {either} as https://docs.litellm.ai/docs/providers says of {provider!r}.",
    )


def missing_key(
    provider: str,
    variables: tuple[str, ...],
    key_from: str,
    status: int | None = None,
) -> ModelError:
    """Return the error of a call without a key."""
    names = " or ".join(variables) or "api_key_env"
    where = f"; you get a key at {key_from}" if key_from else ""
    return ModelAuthError(
        provider,
        f"has no key: {names} is not set",
        f"Set {names} in the environment or in `.env`{where}.",
        None,
        status,
    )


def too_slow(provider: str) -> ModelError:
    """Return the error of a call that took longer than it may."""
    return ModelTimeoutError(provider, *_SAID[ModelTimeoutError])


def filtered(provider: str) -> ModelError:
    """Return the error of an answer of which a filter left nothing."""
    return ModelFilterError(provider, *_SAID[ModelFilterError])


def ended_early(provider: str) -> ModelError:
    """Return the error of a stream that ended without saying that the model had."""
    return ModelConnectionError(provider, "broke off in the middle", "Try again.")


def unreadable(provider: str, *, is_page: bool = False) -> ModelError:
    """Return the error of an answer that makes no sense; the next one may."""
    if is_page:
        return ModelRequestError(
            provider,
            "answers with a web page",
            "Look at `base_url`, and at what stands between here and there.",
            True,
        )
    return ModelRequestError(
        provider,
        "gave an answer that cannot be understood",
        "Try again; if it stays so, look at `base_url`.",
        True,
    )


def failed(
    provider: str,
    error: BaseException,
    call: Call,
    *,
    key: str,
    model: str,
    options: Iterable[str] = (),
) -> ModelError:
    """Return the error that a failed call means.

    Args:
        error: What litellm raised. Its type is looked at, and its words for some that are
            known; none is shown.
        key: The key that was sent; no word that holds it is shown.
        options: The names of the options of the request.
    """
    if call.too_large:
        return ModelRequestError(
            provider, "answered more than it may", "Raise `max_reply_mb`, or ask for less."
        )
    if call.compressed:
        return ModelRequestError(
            provider, "answers in a compressed form that was not asked for"
        )
    if call.watch.told is not None:
        return _told(provider, call.watch.told, key=key, model=model)
    if call.watch.spoiled:
        return unreadable(provider, is_page=call.is_page)
    if call.failure is not None:
        return _lost(provider, call.failure, begun=bool(call.status))
    if call.status >= 300:
        return _refused(provider, call, key=key, model=model)
    if call.status:
        return unreadable(provider)
    return _unsent(provider, error, model, options, has_key=bool(key))


def _lost(provider: str, error: Exception, *, begun: bool) -> ModelError:
    """Return the error that a failure of the connection means."""
    import httpx

    if isinstance(error, httpx.TimeoutException):
        slow = isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
        problem = "could not be reached in time" if slow else "was silent for too long"
        return ModelTimeoutError(provider, problem, "Try again, or allow more time.")
    if isinstance(error, httpx.ConnectError):
        if "certificate" in str(error).lower():
            return ModelConnectionError(
                provider,
                "has a certificate that is not trusted",
                "Look at `base_url`, or name the certificates to trust in `ca_file`.",
                False,
            )
        return ModelConnectionError(provider, *_SAID[ModelConnectionError])
    if isinstance(error, httpx.ProxyError):
        return ModelConnectionError(
            provider, "cannot be reached through the proxy", "Look at `proxy`."
        )
    where = "in the middle" if begun else "before it answered"
    return ModelConnectionError(provider, f"broke off {where}", "Try again.")


def _refused(provider: str, call: Call, *, key: str, model: str) -> ModelError:
    """Return the error that a response with an error status means."""
    try:
        data: Any = from_json(call.body)
    except ValueError:
        data = call.body.decode(errors="replace")
    details = list(_details(data))
    kind = _kind_of_status(call.status, _spoken(data))
    if kind is ModelQuotaError and details:
        # Gemini uses the same words for what is used up in a minute and in a day.
        daily = any("perday" in str(each.get("violations")).lower() for each in details)
        kind = ModelQuotaError if daily else ModelRateLimitError
    delay = None
    if kind in _DELAYED:
        said = next((each["retryDelay"] for each in details if "retryDelay" in each), None)
        delay = retry_after(call.headers) if said is None else _span(str(said))
    return _made(kind, provider, _words(data, key), model, call.status, delay)


def _told(provider: str, told: Any, *, key: str, model: str) -> ModelError:
    """Return the error of an answer that says itself that it failed."""
    data = told if isinstance(told, Mapping) else {"message": str(told)}
    spoken = _spoken(data)
    code = data.get("code")
    status = code if type(code) is int and 400 <= code < 600 else None
    kind = _kind_of_status(status, spoken) if status else _kind_of_words(spoken)
    return _made(kind, provider, _words(data, key), model, status, None)


def _kind_of_words(spoken: str) -> type[ModelError]:
    for pattern, kind in _BY_WORDS:
        if pattern.search(spoken):
            return kind
    return ModelOverloadedError


def _unsent(
    provider: str,
    error: BaseException,
    model: str,
    options: Iterable[str],
    *,
    has_key: bool,
) -> ModelError:
    """Return the error of a request that was not sent; no provider has said a word."""
    name = type(error).__name__
    spoken = str(error).lower()[:4_000]
    kind = _BY_TYPE.get(name, ModelRequestError)
    if name in _VAGUE and not has_key and _UNKEYED.search(spoken):
        kind = ModelAuthError
    if name == "UnsupportedParamsError":
        named = [each for each in options if each in spoken and each != "model"]
        name = ", ".join([name, *named])
    return _made(kind, provider, name, model, None, None)


def _kind_of_status(status: int, spoken: str) -> type[ModelError]:
    if status == 402 or (status in (400, 403, 429) and _QUOTA.search(spoken)):
        return ModelQuotaError
    if status in (401, 403) or (status == 400 and _BAD_KEY.search(spoken)):
        return ModelAuthError
    if status == 429:
        return ModelRateLimitError
    if status in (408, 504):
        return ModelTimeoutError
    if status >= 500:
        return ModelOverloadedError
    if status == 413 or _CONTEXT.search(spoken):
        return ModelContextError
    if _FILTER.search(spoken):
        return ModelFilterError
    if status == 404 or _MODEL.search(spoken):
        return ModelUnavailableError
    return ModelRequestError


def _made(
    kind: type[ModelError],
    provider: str,
    words: str,
    model: str,
    status: int | None,
    delay: float | None,
) -> ModelError:
    if kind is ModelUnavailableError:
        problem = f"has no model {model!r}, or not for this account"
        remedy = "Choose one that `kaizen models` lists, or look at `base_url`."
    elif status is not None and 300 <= status < 400:
        problem = "answers from another address, where no key is sent"
        remedy = "Set `base_url` to that address if you trust it."
    else:
        problem, remedy = _SAID[kind]
    shown = ", ".join(filter(None, (f"status {status}" if status else "", words)))
    if shown:
        problem = f"{problem} ({shown})"
    again = True if status == 409 else None
    return kind(provider, problem, remedy, again, status, delay)


def _details(data: Any) -> Iterator[Mapping[str, Any]]:
    """Give what Gemini adds to an error."""
    error = data.get("error") if isinstance(data, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for each in details if isinstance(details, list) else ():
        if isinstance(each, Mapping) and ("violations" in each or "retryDelay" in each):
            yield each


def _objects(data: Any) -> Iterator[Mapping[str, Any]]:
    """Give the parts of a body that may say what is wrong."""
    for _ in range(4):
        if isinstance(data, list) and data:
            data = data[0]
        if not isinstance(data, Mapping):
            return
        yield data
        if isinstance(data.get("innererror"), Mapping):
            yield data["innererror"]
        data = data.get("error")


def _spoken(data: Any) -> str:
    """Return all that a body says, to look for words in it."""
    found: list[str] = [data[:2_000]] if isinstance(data, str) else []
    for each in _objects(data):
        for name in ("code", "type", "status", "message", "error", "detail"):
            value = each.get(name)
            if isinstance(value, str):
                found.append(value[:2_000])
    return "\n".join(found).lower()


def _words(data: Any, key: str) -> str:
    """Return the single words with which a body says what is wrong."""
    found: dict[str, None] = {}
    for each in _objects(data):
        for name in ("code", "type", "status", "param"):
            value = each.get(name)
            if not isinstance(value, str) or not _WORD.fullmatch(value):
                continue
            if value != "error" and not (key and (key in value or value in key)):
                found[value] = None
    return ", ".join(list(found)[:4])


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how long a response says to wait, in seconds, if it says so."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (milliseconds := _number(headers.get(name, ""))) is not None:
            return min(milliseconds / 1000, MOST_S)
    if said := headers.get("retry-after", ""):
        seconds = _number(said)
        return min(seconds, MOST_S) if seconds is not None else _until(said)
    delays = [
        delay
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
        if (delay := _reset(headers, kind)) is not None
    ]
    return max(delays, default=None)


def _reset(headers: Mapping[str, str], kind: str) -> float | None:
    """Return when a limit that is used up begins anew, in seconds from now."""
    if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
        return _span(headers.get(f"x-ratelimit-reset-{kind}", ""))
    if headers.get(f"anthropic-ratelimit-{kind}-remaining") == "0":
        return _until(headers.get(f"anthropic-ratelimit-{kind}-reset", ""))
    return None


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\s*\d{1,12}(?:\.\d{1,9})?\s*", text):
        return None
    return float(text)


def _span(text: str) -> float | None:
    """Return a span such as `6m0s` or `20ms` in seconds."""
    if (seconds := _number(text)) is not None:
        return min(seconds, MOST_S)
    found = _SPAN.findall(text)
    if not found or "".join(a + b for a, b in found) != text.strip():
        return None
    return min(sum(float(size) * _UNITS[unit] for size, unit in found), MOST_S)


def _until(text: str) -> float | None:
    """Return how far away a date is, in seconds; HTTP's form or that of RFC 3339."""
    try:
        if text[:4].isdigit():
            when = datetime.fromisoformat(text)
        else:
            when = parsedate_to_datetime(text)
        away = (when - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(away, 0.0), MOST_S)
