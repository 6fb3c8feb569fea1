"""Find the one JSON object in a model's reply, and refuse what is no honest JSON."""

from __future__ import annotations

import json
import math
import re
from string import ascii_letters
from typing import Any, Final, NoReturn

MAX_REPLY: Final = 1024 * 1024
"""The longest reply that is looked at, in characters."""

MAX_DEPTH: Final = 100
"""How deeply objects and arrays may be nested."""

_MOST_ATTEMPTS: Final = 100
_WORD_CHARACTERS: Final = ascii_letters + "+-_"
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NAME_END = re.compile(r'"[ \t\r\n]*+:')
_BRACKETS = str.maketrans("{}", "[]")
_NO_BRACKET = re.compile(r"[^\[\]]+")


class ReplyProblem(Exception):
    """A reply cannot be used; the arguments say why, to the model that wrote it."""


def one_object(text: str) -> str:
    """Return the part of a reply that is JSON.

    That is the whole reply if it is JSON at all; else what one code fence holds; else
    the only JSON object in the prose.

    Raises:
        ReplyProblem: There is none, or there are several.
    """
    if not text.strip():
        raise ReplyProblem("the reply is empty; reply with one JSON object")
    problem = _json_problem(text)
    if problem is None:
        return text
    fenced = _inside_fence(text)
    if fenced is not None and (problem := _json_problem(fenced)) is None:
        return fenced
    found = _objects(text)
    if len(found) == 1:
        return found[0]
    if found:
        raise ReplyProblem(
            f"the reply holds {len(found)} JSON objects; reply with exactly one"
        )
    if (fenced or text).lstrip().startswith("{"):
        raise ReplyProblem(f"the reply is not valid JSON: {problem}")
    raise ReplyProblem("the reply holds no JSON object; reply with one and nothing else")


def count_names(text: str) -> int:
    """Return how many names JSON has in its objects, or more."""
    return len(_NAME_END.findall(text))


def check_json(text: str) -> Any:
    """Read JSON, refusing what readers disagree about.

    Raises:
        ReplyProblem: A name occurs twice in one object, a number is not finite, or the
            nesting is deeper than `MAX_DEPTH`.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(text, MAX_DEPTH):
        raise _too_deep()
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ReplyProblem(f"the reply is not valid JSON: {error}") from None


def _json_problem(text: str) -> str | None:
    try:
        json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        return str(error)
    return None


def _inside_fence(text: str) -> str | None:
    """Return what stands between three backticks and three backticks, if that is all."""
    stripped = text.strip()
    if len(stripped) < 6 or not (stripped.startswith("```") and stripped.endswith("```")):
        return None
    inside = stripped[3:-3].lstrip(_WORD_CHARACTERS)
    return None if "```" in inside else inside


def _objects(text: str) -> list[str]:
    """Return the JSON objects in a text, outermost ones only, trying a bounded number."""
    decoder = json.JSONDecoder()
    found: list[str] = []
    position, attempts, work = text.find("{"), 0, 0
    while position >= 0 and attempts < _MOST_ATTEMPTS and work <= 4 * len(text):
        attempts += 1
        try:
            _, end = decoder.raw_decode(text, position)
        except RecursionError:
            raise _too_deep() from None
        except json.JSONDecodeError as error:
            work += error.pos - position
            end = position + 1
        except ValueError:
            work += len(text)
            end = position + 1
        else:
            found.append(text[position:end])
        position = text.find("{", end)
    return found


def _deeper_than(text: str, limit: int) -> bool:
    """Peel innermost brackets off until none is left; each round is one level."""
    left = _NO_BRACKET.sub("", _STRING.sub("", text).translate(_BRACKETS))
    for _ in range(limit):
        if not left:
            return False
        left = left.replace("[]", "")
    return bool(left)


def _too_deep() -> ReplyProblem:
    return ReplyProblem(f"the reply is nested deeper than {MAX_DEPTH} levels; flatten it")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ReplyProblem(f"{twice[:60]}: occurs twice in one object; give it once")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ReplyProblem(f"the reply holds {name}, which is not JSON; use a number or null")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ReplyProblem("the reply holds a number that is too large")
    return number


_STRICT = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)
