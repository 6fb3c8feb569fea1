"""Turns what providers say when they fail into the kernel's errors, in words of ours.

What a provider writes is read to tell one failure from another, and never passed on: its
messages repeat keys, prompts and parts of bodies. Only its codes are shown, which are
single words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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

__all__ = ["lost", "missing_key", "refusal", "retry_after", "told"]

MOST_S = 86_400.0
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]-]{0,63}")
_QUOTA = re.compile(
    r"insufficient_quota|billing_(?:hard_limit|not_active|error)|credit balance|"
    r"exceeded your current quota|(?:weekly|monthly) usage limit"
)
_QUOTA_CODE = re.compile(r"insufficient_quota|billing")
_RATE_CODE = re.compile(r"rate_?limit.*|too_many_requests|requests|tokens")
_CONTEXT = re.compile(
    r"context_length_exceeded|context[ _](?:length|window|size)|maximum context|"
    r"prompt is too long|too many (?:input )?tokens|request_too_large|"
    r"exceeds? (?:the )?(?:available |model'?s? )?(?:context|maximum (?:number|length))|"
    r"input is too long|string_above_max_length"
)
_FILTER = re.compile(
    r"content_filter|content_policy|content management policy|invalid_prompt|"
    r"responsibleaipolicy|content filtering policy|flagged as|safety system"
)
_RATE = re.compile(r"rate_limit|too_many_requests|rate limit")
_AUTH = re.compile(r"authentication|permission|api[_ ]key")
_REQUEST = re.compile(r"invalid_request|invalid_value|bad_request")
_MODEL = re.compile(r"model_not_found|deploymentnotfound|model .*(?:not found|not exist)")
_TIMEOUT = re.compile(r"timeout|timed out")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d))")


def missing_key(provider: str, variables: tuple[str, ...], key_from: str) -> ModelError:
    """Return the error of a call without a key."""
    names = " or ".join(variables) or "api_key_env"
    where = f"; you get a key at {key_from}" if key_from else ""
    return ModelAuthError(
        provider,
        f"has no key: {names} is not set",
        f"Set {names} in the environment or in `.env`{where}.",
    )


def refusal(
    provider: str,
    status: int,
    headers: Mapping[str, str],
    data: Any,
    *,
    key: str = "",
    model: str = "",
) -> ModelError:
    """Return the error that a response means.

    Args:
        data: Its body as JSON, or whatever else it was.
        key: The key that was sent; no word that holds it is shown.
        model: The model that was asked for.
    """
    spoken = _spoken(data)
    words = _words(data, key)
    kind = _kind_of_status(status, spoken, _codes(data))
    delay = retry_after(headers) if kind in _DELAYED else None
    return _made(kind, provider, words, model, status, delay)


def told(provider: str, data: Any, *, key: str = "", model: str = "") -> ModelError:
    """Return the error that an answer means which says itself that it failed."""
    spoken = _spoken(data)
    status = data.get("code") if isinstance(data, dict) else None
    known = status if type(status) is int and 400 <= status < 600 else None
    codes = _codes(data)
    kind = _kind_of_status(known, spoken, codes) if known else _kind_of_words(spoken, codes)
    return _made(kind, provider, _words(data, key), model, known, None)


def _is_quota(spoken: str, codes: Sequence[str]) -> bool:
    """Whether waiting does not help, since what was paid for is used up.

    Messages about a rate that is too high speak of billing and of payments, too, as ways
    to raise it: so the codes decide wherever they say anything.
    """
    if any(map(_QUOTA_CODE.search, codes)):
        return True
    return not any(map(_RATE_CODE.fullmatch, codes)) and bool(_QUOTA.search(spoken))


def _kind_of_status(status: int, spoken: str, codes: Sequence[str]) -> type[ModelError]:
    if status == 402 or (status in (400, 403, 429) and _is_quota(spoken, codes)):
        return ModelQuotaError
    if status in (401, 403):
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


def _kind_of_words(spoken: str, codes: Sequence[str]) -> type[ModelError]:
    if _is_quota(spoken, codes):
        return ModelQuotaError
    if any(map(_RATE_CODE.fullmatch, codes)):
        return ModelRateLimitError
    for pattern, kind in (
        (_RATE, ModelRateLimitError),
        (_CONTEXT, ModelContextError),
        (_FILTER, ModelFilterError),
        (_TIMEOUT, ModelTimeoutError),
        (_AUTH, ModelAuthError),
        (_MODEL, ModelUnavailableError),
        (_REQUEST, ModelRequestError),
    ):
        if pattern.search(spoken):
            return kind
    return ModelOverloadedError


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
        "Look at what was asked, at `provider_config` and at the endpoint's `base_url`.",
    ),
}


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


def lost(provider: str, error: Exception, waited: str) -> ModelError:
    """Return the error that a failure of the connection means.

    Args:
        error: What httpx raised; only its type is looked at, and whether it speaks of a
            certificate.
        waited: What was waited for.
    """
    import httpx

    if isinstance(error, httpx.TimeoutException):
        slow = isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
        return ModelTimeoutError(
            provider,
            "could not be reached in time" if slow else f"was silent for too long {waited}",
            "Try again, or allow more time.",
        )
    if isinstance(error, httpx.ConnectError):
        if "certificate" in str(error).lower():
            return ModelConnectionError(
                provider,
                "has a certificate that is not trusted",
                "Look at `base_url`, or name the certificates to trust in `ca_file`.",
                False,
            )
        return ModelConnectionError(
            provider, "cannot be reached", "Look at the network and at `base_url`."
        )
    if isinstance(error, httpx.ProxyError):
        return ModelConnectionError(
            provider, "cannot be reached through the proxy", "Look at `proxy`."
        )
    return ModelConnectionError(
        provider,
        f"broke off {waited} ({type(error).__name__})",
        "Try again.",
    )


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
        for name in ("code", "type", "message", "error", "detail"):
            value = each.get(name)
            if isinstance(value, str):
                found.append(value[:2_000])
    return "\n".join(found).lower()


def _codes(data: Any) -> list[str]:
    """Return the codes and types of a body, in lower case."""
    found = (each.get(name) for each in _objects(data) for name in ("code", "type"))
    return [value[:200].lower() for value in found if isinstance(value, str)]


def _words(data: Any, key: str) -> str:
    """Return the single words with which a body says what is wrong."""
    found: dict[str, None] = {}
    for each in _objects(data):
        for name in ("code", "type", "param"):
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
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        if text[:4].isdigit():
            when = datetime.fromisoformat(text)
        else:
            when = parsedate_to_datetime(text)
        away = (when - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(away, 0.0), MOST_S)
