"""Values from outside, made fit for the log before they are in it.

An entry that JSON cannot hold can never be stored, nor anything that comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

__all__ = ["clean", "plain", "shown"]

MAX_BYTES = 16 * 1024 * 1024
MAX_SHOWN_CHARS = 500
_EVERY_ERROR = (ValueError, TypeError, RecursionError)


def clean(text: str) -> str:
    """Return a text without halves of characters, which no wire can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def plain(what: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a mapping as JSON has it, which nobody else can change.

    Args:
        what: What it is, for the error.
        data: At most 16 MiB as JSON.

    Raises:
        TypeError: It holds what JSON cannot; the error says under which key.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{what} must be a mapping, not {type(data).__name__!r}")
    try:
        return _copy(dict(data))
    except _EVERY_ERROR as error:
        problem = error
    for key, value in data.items():
        try:
            _copy({key: value})
        except _EVERY_ERROR as error:
            raise TypeError(
                f"{what} has under {_told(key)} what JSON cannot hold: {error}"
            ) from error
    raise TypeError(f"{what} holds what JSON cannot: {problem}") from problem


def shown(data: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a copy of a mapping as JSON has it; what JSON cannot hold is told in words.

    For what must be logged whatever it holds, such as the reason of a stop.
    """
    copy: dict[str, Any] = {}
    for key, value in data.items():
        name = clean(key) if isinstance(key, str) else _told(key)
        try:
            copy[name] = _copy({"": value}, fallback=_told)[""]
        except _EVERY_ERROR:
            copy[name] = _told(value)
    return copy


def _copy(values: dict[str, Any], fallback: Any = None) -> dict[str, Any]:
    body = to_json(values, inf_nan_mode="constants", fallback=fallback)
    if len(body) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    copied: dict[str, Any] = from_json(body)
    return copied


def _told(value: object) -> str:
    """Return what a value is in a few words, whatever it does when it is asked."""
    try:
        text = clean(repr(value))
    except Exception:  # noqa: BLE001 - a value of a stranger
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
