"""Cutting what is too long for a model to read, with a mark that says so."""

from __future__ import annotations

import json

from kaizen.errors import ToolError

__all__ = ["ends", "excerpt", "head"]

_MARK = 200


def excerpt(
    text: str, path: str, *, start_line: int, max_lines: int, max_chars: int
) -> str:
    """Return lines of a text, whole ones, and how to go on where some are left out.

    Raises:
        ToolError: The text has fewer lines.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    total = len(lines)
    if start_line > max(total, 1):
        raise ToolError(
            f"path {path!r}",
            f"has {total} lines, and line {start_line} was asked for",
            "Choose an earlier `start_line`.",
        )
    kept, room = [], max_chars - _MARK
    for line in lines[start_line - 1 : start_line - 1 + max_lines]:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    if not kept and total:
        return _start_of_line(lines, start_line, max_chars - _MARK)
    end = start_line - 1 + len(kept)
    if end == total:
        return "\n".join(kept) + ("\n" if text.endswith("\n") else "")
    mark = f"[cut: lines {end + 1}-{total} of {total} not shown; {_continued(end + 1)}]"
    return "\n".join([*kept, mark])


def head(text: str, max_chars: int) -> tuple[str, bool]:
    """Return the start of a text that fits into so much JSON, and whether it is cut."""
    kept = _fitting(text, max_chars)
    if kept == len(text):
        return text, False
    kept = _fitting(text, max_chars - _MARK)
    return f"{text[:kept]}\n[cut: {len(text) - kept} more characters not shown]", True


def ends(start: str, end: str, left_out: int, max_chars: int) -> tuple[str, bool]:
    """Return start and end of a text that fit into so many characters of JSON.

    Args:
        start: The start of the text.
        end: The rest, or the end of it.
        left_out: How many bytes are missing between the two.
        max_chars: Longest result.

    Returns:
        The text, and whether any of it is missing.
    """
    whole = start + end
    if not left_out and _fitting(whole, max_chars) == len(whole):
        return whole, False
    half = (max_chars - _MARK) // 2
    if not left_out:
        start, end = whole, whole
    first = start[: _fitting(start, half)]
    last = end[len(end) - _fitting(end[::-1], half) :]
    return f"{first}\n[cut: the middle of the output is not shown]\n{last}", True


def _fitting(text: str, max_chars: int) -> int:
    """Return how many characters of a text fit into so many characters of JSON."""
    kept = min(len(text), max(max_chars, 0))
    while kept and (size := len(json.dumps(text[:kept], ensure_ascii=False))) > max_chars:
        kept = min(kept - 1, kept * max_chars // size)
    return kept


def _start_of_line(lines: list[str], number: int, room: int) -> str:
    line = lines[number - 1]
    following = _continued(number + 1) if number < len(lines) else "it is the last line"
    return (
        f"{line[:room]}\n[cut: the first {room} of {len(line)} characters of line {number} "
        f"shown; {following}]"
    )


def _continued(line: int) -> str:
    return f"continue with start_line={line}"
