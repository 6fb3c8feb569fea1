"""Read signatures such as `"question, context -> answer: str, confidence: float"`.

    signature = [fields] "->" fields
    fields    = field {"," field}
    field     = name [":" type] ["=" literal]
    type      = primary {"|" primary}
    primary   = name ["[" type {"," type} "]"] | "Literal" "[" literal {"," literal} "]"

Nothing is evaluated: names of types are looked up in a table.
"""

from __future__ import annotations

import datetime
import decimal
import keyword
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, NoReturn, Optional, Union

from kaizen.errors import SignatureError
from kaizen.media import Audio, Document, Image
from kaizen.signatures._fields import MISSING, FieldMarker, Role

MAX_LENGTH: Final = 10_000
MAX_FIELDS: Final = 200
_MAX_DEPTH: Final = 20

_TYPES: Final[Mapping[str, Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "bytes": bytes,
    "None": None,
    "Any": Any,
    "dict": dict,
    "Dict": dict,
    "list": list,
    "List": list,
    "set": set,
    "Set": set,
    "tuple": tuple,
    "Tuple": tuple,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "Audio": Audio,
    "Document": Document,
    "Image": Image,
}
# How many types each generic takes; None: any number.
_GENERICS: Final[Mapping[str, int | None]] = {
    "dict": 2,
    "Dict": 2,
    "list": 1,
    "List": 1,
    "set": 1,
    "Set": 1,
    "tuple": None,
    "Tuple": None,
    "Optional": 1,
    "Union": None,
}
_KNOWN: Final = sorted(
    {*_TYPES, *_GENERICS, "Literal"}, key=lambda name: (name.lower(), name)
)
_CONSTANTS: Final[Mapping[str, Any]] = {"True": True, "False": False, "None": None}
_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<arrow>->)
    | (?P<dots>\.\.\.)
    | (?P<name>[^\W\d]\w*)
    | (?P<number>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3})?)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<mark>[:,\[\]|=])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "t": "\t"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


def read_string(source: str) -> dict[str, tuple[Any, FieldMarker]]:
    """Return the type and the marker of each field, inputs first.

    Raises:
        SignatureError: Says what is wrong and shows where.
    """
    if len(source) > MAX_LENGTH:
        raise SignatureError(
            f"signature {source[:40] + '...'!r}",
            f"is longer than {MAX_LENGTH} characters",
            "Write a Signature class.",
        )
    return _Reader(source).signature()


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = self._tokenize()
        self._index = 0
        self._depth = 0

    def signature(self) -> dict[str, tuple[Any, FieldMarker]]:
        fields: dict[str, tuple[Any, FieldMarker]] = {}
        if self._next.kind != "arrow":
            self._fields("input", fields)
        if self._next.kind != "arrow":
            self._fail("expects ',' or '->' here", "Write inputs, then ->, then outputs.")
        self._take()
        if self._next.kind == "end":
            self._fail("has no outputs after '->'", "Name at least one, as in 'a -> b'.")
        self._fields("output", fields)
        if self._next.kind != "end":
            self._fail("expects ',' or the end here", "")
        return fields

    def _fields(self, role: Role, fields: dict[str, tuple[Any, FieldMarker]]) -> None:
        self._field(role, fields)
        while self._accept(","):
            self._field(role, fields)

    def _field(self, role: Role, fields: dict[str, tuple[Any, FieldMarker]]) -> None:
        name = self._next
        if name.kind != "name" or keyword.iskeyword(name.text):
            self._fail(
                f"expects the name of an {role} here", "Names are Python identifiers."
            )
        if name.text in fields:
            self._fail(f"names {name.text!r} twice", "Give each field a name of its own.")
        if len(fields) == MAX_FIELDS:
            self._fail(f"has more than {MAX_FIELDS} fields", "Group them in types.")
        self._take()
        annotation = self._type() if self._accept(":") else str
        default = self._literal() if self._accept("=") else MISSING
        fields[name.text] = (
            annotation,
            FieldMarker(role=role, default=default, constraints={}),
        )

    def _type(self) -> Any:
        members = [self._primary()]
        while self._accept("|"):
            members.append(self._primary())
        return members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007

    def _primary(self) -> Any:
        token = self._next
        name = token.text
        if token.kind != "name":
            self._fail("expects a type here", f"Known types: {', '.join(_KNOWN)}.")
        if name not in _KNOWN:
            near = get_close_matches(name, _KNOWN, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            remedy = f"{hint}Known types: {', '.join(_KNOWN)}; for others write a class."
            self._fail(f"has an unknown type {name!r}", remedy)
        self._take()
        if name == "Literal":
            return Literal[tuple(self._bracketed(self._literal))]
        if self._next.text != "[" or name not in _GENERICS:
            if name not in _TYPES:
                self._fail("expects '[' here", f"Write {name}[str], for example.")
            return _TYPES[name]
        return self._generic(token)

    def _generic(self, token: _Token) -> Any:
        arguments = self._bracketed(self._argument)
        count = _GENERICS[token.text]
        if count is not None and len(arguments) != count:
            problem = f"gives {token.text} {len(arguments)} types where it takes {count}"
            self._fail(problem, "", token)
        if ... in arguments and (
            _TYPES.get(token.text) is not tuple or len(arguments) != 2
        ):
            self._fail("may use '...' only as in tuple[str, ...]", "", token)
        if token.text == "Optional":
            return Optional[arguments[0]]  # noqa: UP045
        if token.text == "Union":
            return Union[tuple(arguments)]  # noqa: UP007
        return _TYPES[token.text][tuple(arguments)]

    def _argument(self) -> Any:
        if self._next.kind == "dots":
            self._take()
            return ...
        return self._type()

    def _bracketed(self, read: Callable[[], Any]) -> list[Any]:
        if not self._accept("["):
            self._fail("expects '[' here", "")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"is nested deeper than {_MAX_DEPTH}", "Write a Signature class.")
        found = [read()]
        while self._accept(","):
            found.append(read())
        if not self._accept("]"):
            self._fail("expects ',' or ']' here", "")
        self._depth -= 1
        return found

    def _literal(self) -> Any:
        token = self._next
        if token.kind == "string":
            value: Any = _ESCAPE.sub(
                lambda match: _ESCAPED.get(match[1], match[1]), token.text[1:-1]
            )
        elif token.kind == "number":
            whole = token.text.lstrip("+-").isdigit() and len(token.text) <= 300
            value = int(token.text) if whole else float(token.text)
        elif token.text in _CONSTANTS:
            value = _CONSTANTS[token.text]
        else:
            self._fail("expects a quoted text, a number, True, False or None here", "")
        self._take()
        return value

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _take(self) -> _Token:
        token = self._next
        self._index += 1
        return token

    def _accept(self, mark: str) -> bool:
        if self._next.kind == "mark" and self._next.text == mark:
            self._index += 1
            return True
        return False

    def _tokenize(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while position < len(self._source):
            match = _TOKEN.match(self._source, position)
            if match is None:
                character = self._source[position]
                problem = (
                    "has a quote that is not closed"
                    if character in "\"'"
                    else f"cannot hold {character!r}"
                )
                self._fail(problem, "", _Token("other", character, position))
            kind = str(match.lastgroup)
            if kind != "space":
                tokens.append(_Token(kind, match[0], position))
            position = match.end()
        return [*tokens, _Token("end", "", len(self._source.rstrip()))]

    def _fail(self, problem: str, remedy: str, token: _Token | None = None) -> NoReturn:
        position = (token or self._next).position
        start = self._source.rfind("\n", 0, position) + 1
        line = self._source[start:].partition("\n")[0]
        window = max(0, position - start - 60)
        shown = line[window : window + 120]
        caret = " " * (position - start - window) + "^"
        whole = self._source
        raise SignatureError(
            f"signature {whole if len(whole) <= 80 else whole[:77] + '...'!r}",
            f"{problem}, at position {position}",
            f"{remedy}\n  {shown}\n  {caret}".lstrip(" "),
        )
