"""Makes text from models, files and plugins harmless to a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["as_json", "as_json_line", "shortened", "visible"]

# What a terminal obeys instead of showing it, and what changes the order or hides the
# presence of the characters around it: controls, bidirectional marks and overrides,
# invisible characters, line separators, tags, and halves of surrogate pairs.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
_UNSEEN = (
    "\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_HOSTILE = re.compile(f"[{_CONTROLS}{_UNSEEN}]")
_HOSTILE_IN_JSON = re.compile(f"[\x7f-\x9f{_UNSEEN}]")


def visible(text: str) -> str:
    r"""Return a text in which everything that a terminal would obey is written out.

    Newlines and tabs stay; an escape character becomes the four characters `\x1b`.
    """
    return _HOSTILE.sub(_written_out, text.replace("\r\n", "\n"))


def shortened(text: str, length: int) -> str:
    """Return a text as one visible line of at most `length` characters."""
    line = " ".join(visible(text[: length * 4]).split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


def as_json(value: Mapping[str, Any] | list[Any]) -> str:
    """Return a value as JSON that is readable in every language and safe to print."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    return _HOSTILE_IN_JSON.sub(_as_json_escape, text)


def as_json_line(value: Mapping[str, Any]) -> str:
    """Return a value as JSON in one line, safe to print."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _HOSTILE_IN_JSON.sub(_as_json_escape, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _as_json_escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if ord(match[0]) > 0x7F else "\\u007f"
