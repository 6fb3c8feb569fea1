"""Globs and regular expressions that run in linear time, whatever a model writes."""

from __future__ import annotations

from typing import Any

from kaizen.errors import ToolError

__all__ = ["Pattern", "glob_pattern", "line_pattern"]

_MAX_PATTERN = 1_000
_MAX_PROGRAM = 5_000


class Pattern:
    """A compiled pattern."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def matches(self, text: str) -> bool:
        """Say whether a whole path fits."""
        return self._compiled.fullmatch(text.lstrip("/")) is not None

    def find(self, data: bytes, position: int) -> int | None:
        """Return where the first match at or after a position begins."""
        found = self._compiled.search(data, position)
        return None if found is None else int(found.start())


def line_pattern(pattern: str, *, ignore_case: bool = False) -> Pattern:
    """Compile a regular expression that matches within single lines.

    Raises:
        ToolError: It is none, or too large.
    """
    return _compiled(
        f"(?m){pattern}", "regular expression", pattern, ignore_case=ignore_case
    )


def glob_pattern(glob: str) -> Pattern:
    """Compile a glob over relative paths.

    `*` and `?` stay within a name, `**` crosses directories, `{a,b}` means either and
    `[a-z]` one of. A glob without a slash is for the name alone, in whatever directory.

    Raises:
        ToolError: It is none, or too large.
    """
    text = glob.removeprefix("./")
    if text.endswith("/"):
        text += "**"
    if "/" not in text:
        text = f"**/{text}"
    return _compiled(f"(?s){_translated(text)}", "glob", glob, one_line=False)


def _compiled(
    source: str,
    kind: str,
    written: str,
    *,
    ignore_case: bool = False,
    one_line: bool = True,
) -> Pattern:
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not ignore_case
    options.never_nl = one_line
    problem = ""
    if len(source) > _MAX_PATTERN:
        problem = f"is over {_MAX_PATTERN} characters"
    else:
        try:
            compiled = re2.compile(source, options)
            # The module keeps 128 compiled patterns of up to 8 MB each.
            re2.purge()
            if compiled.programsize <= _MAX_PROGRAM:
                return Pattern(compiled)
            problem = "is too large"
        except (re2.error, UnicodeEncodeError) as error:
            reason = error.args[0] if error.args else error
            text = (
                reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
            )
            problem = f"is not valid: {str(text).replace(source, written)}"
    raise ToolError(
        f"the {kind} {written[:100]!r}",
        problem,
        "The syntax is RE2's: no look-around, no backreferences; `\\` escapes."
        if kind == "regular expression"
        else "Use `*`, `**`, `?`, `[...]` and `{a,b}`.",
    )


def _translated(glob: str) -> str:
    """Return a glob as a regular expression, read from left to right."""
    written: list[str] = []
    position, braces = 0, 0
    while position < len(glob):
        if glob.startswith("**/", position) and (not position or glob[position - 1] == "/"):
            token, length = "(?:[^/]+/)*", 3
        elif glob.startswith("**", position):
            token, length = ".*", 2
        elif glob[position] == "[" and (close := glob.find("]", position + 2)) > 0:
            token, length = _class(glob[position + 1 : close]), close + 1 - position
        else:
            token, length = _token(glob[position], braces), 1
            braces += (token == "(?:") - (token == ")")
        written.append(token)
        position += length
    return "".join(written) + ")" * braces


def _token(character: str, braces: int) -> str:
    if character == "*":
        return "[^/]*"
    if character == "?":
        return "[^/]"
    if character == "{":
        return "(?:"
    if braces and character in ",}":
        return "|" if character == "," else ")"
    return (
        character
        if character.isalnum() or character in "/_- "
        else f"\\x{{{ord(character):x}}}"
    )


def _class(inside: str) -> str:
    negated = inside[0] in "!^"
    letters = "".join(
        each if each == "-" else f"\\x{{{ord(each):x}}}" for each in inside[negated:]
    )
    return f"[{'^/' if negated else ''}{letters}]"
