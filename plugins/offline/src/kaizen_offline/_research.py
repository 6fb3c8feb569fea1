"""Decides what to look up next: which files to find, to search and to read.

Turn 1 lists and searches, later turns read the most promising files and go on with those
that were cut. Everything is decided from the conversation; nothing is remembered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from kaizen import ToolSpec, ToolUse

from kaizen_offline._conversation import Call, Conversation
from kaizen_offline._limits import Limits
from kaizen_offline._words import Term, split_names, terms

__all__ = ["next_calls"]

_MAX_SEARCHES = 8
_MAX_PAIRS = 4  # where single words are everywhere, two in one line are not
_MAX_READS_PER_TURN = 6
_MAX_DIRECTORIES = 8
_GREP_LIMIT = 300
_LIST_LIMIT = 1000
_FAR = 2000
_SKIPPED_PARTS = frozenset(
    [".git", ".venv", "node_modules", "__pycache__", "dist", "build", ".mypy_cache"]
)
_SUFFIXES = """
.7z .avi .bin .bmp .bz2 .class .db .dll .dylib .exe .gif .gz .ico .jar .jpeg .jpg .lock .map
.mov .mp3 .mp4 .o .otf .parquet .pdf .png .pyc .so .sqlite .svg .tar .tgz .ttf .wasm .wav
.webm .webp .whl .woff .woff2 .xz .zip .zst
"""
_SKIPPED_SUFFIXES = frozenset(_SUFFIXES.split())
_FOUND = re.compile(r"[\w./-]+\.\w{1,5}\b")


@dataclass(slots=True)
class _File:
    """What is known of a file before it is read."""

    path: str
    counts: dict[Term, int] = field(default_factory=dict)
    lines: dict[int, set[Term]] = field(default_factory=dict)

    def note(self, line: int, text: str, wanted: Sequence[Term]) -> None:
        """Take down which words a line holds; a line may be found more than once."""
        lower = split_names(text).lower()
        here = self.lines.setdefault(line, set())
        for term in wanted:
            if term not in here and term.is_in(lower):
                here.add(term)
                self.counts[term] = self.counts.get(term, 0) + 1

    def score(self, weights: Mapping[Term, float]) -> float:
        """Return what the words in it, in its best line and in its name are worth."""
        held = sum(
            weights[term] * (1 + 0.1 * min(n, 10)) for term, n in self.counts.items()
        )
        best = max(
            (sum(weights[t] for t in line) for line in self.lines.values()), default=0
        )
        path = split_names(self.path).lower()
        named = sum(weight for term, weight in weights.items() if term.is_in(path))
        is_test = {"tests", "test"} & set(PurePosixPath(self.path).parts)
        return (held + 2 * best + 0.5 * named) * (0.7 if is_test else 1.0)


def next_calls(
    conversation: Conversation, tools: Sequence[ToolSpec], limits: Limits
) -> tuple[ToolUse, ...]:
    """Return the tool calls that are worth making now; none when it is time to answer."""
    known = {spec.name: spec for spec in tools}
    wanted = terms(conversation.question)
    if not wanted or conversation.turns >= limits.turns:
        return ()
    if conversation.turns == 0:
        planned = list(_explore(wanted, known))
    else:
        planned = _read(conversation, wanted, limits)
    made = {_key(call.name, call.arguments) for call in conversation.calls}
    uses: list[ToolUse] = []
    for name, arguments in planned:
        if name not in known:
            continue
        fitting = _fitting(arguments, known[name])
        if _key(name, fitting) not in made:
            made.add(_key(name, fitting))
            number = f"{conversation.turns + 1}_{len(uses) + 1}"
            uses.append(ToolUse(id=f"call_{number}", name=name, arguments=fitting))
    return tuple(uses)


Planned = tuple[str, dict[str, Any]]


def _explore(wanted: Sequence[Term], known: Mapping[str, ToolSpec]) -> Iterator[Planned]:
    if "read_file" not in known and "grep" not in known:
        return
    yield "list_directory", {"path": "."}
    yield "search_files", {"pattern": "**/*", "limit": _LIST_LIMIT}
    patterns = [_pattern(one) + ".{0,30}" + _pattern(two) for one, two in pairwise(wanted)]
    longest_first = sorted(wanted, key=lambda term: -len(term.stem))
    for pattern in [*patterns[:_MAX_PAIRS], *map(_pattern, longest_first[:_MAX_SEARCHES])]:
        arguments = {"pattern": pattern, "path": ".", "ignore_case": True}
        yield "grep", {**arguments, "limit": _GREP_LIMIT}


def _pattern(term: Term) -> str:
    """Return a regular expression for a word in any of its forms."""
    forms = [re.escape(form) for form in dict.fromkeys([term.stem, *term.forms])]
    return forms[0] if len(forms) == 1 else f"(?:{'|'.join(forms)})"


def _read(
    conversation: Conversation, wanted: Sequence[Term], limits: Limits
) -> list[Planned]:
    reads = [call for call in conversation.calls if call.name == "read_file"]
    files = _files(conversation.calls, wanted)
    planned = list(_continued(reads, files))
    already = {call.arguments.get("path") for call in reads}
    searched = any("matches" in c.data for c in conversation.calls if c.name == "grep")
    ranked = _ranked(files, wanted, conversation.question, searched=searched)
    floor = 0.5 * ranked[0][1] if ranked else 0.0
    for file, score in ranked:
        if file.path not in already and (score >= floor or not reads):
            planned.append(("read_file", _opening(file)))
    if not any(call.name == "search_files" for call in conversation.calls):
        planned = [*_walk(conversation.calls), *planned]
    recent = conversation.calls[len(conversation.calls) - conversation.recent :]
    left = limits.reads - sum(call.name == "read_file" for call in recent)
    return planned[: max(min(_MAX_READS_PER_TURN, left), 0)]


def _files(calls: Sequence[Call], wanted: Sequence[Term]) -> dict[str, _File]:
    """Return every file that was seen, with the words that searches have found in it."""
    files: dict[str, _File] = {}
    for call in calls:
        for path in _listed(call):
            if _is_readable(path):
                files.setdefault(path, _File(path))
        for match in call.matches:
            if _is_readable(match.path):
                file = files.setdefault(match.path, _File(match.path))
                file.note(match.start_line, match.lines[0], wanted)
    return files


def _listed(call: Call) -> Iterator[str]:
    if call.name == "search_files":
        yield from (
            path for path in call.data.get("matches") or () if isinstance(path, str)
        )
    if call.name == "list_directory":
        yield from (path for path, kind in _entries(call) if kind == "file")


def _entries(call: Call) -> Iterator[tuple[str, str]]:
    """Give path and type of what a directory holds."""
    parent = str(call.data.get("path", ""))
    for entry in call.data.get("entries") or ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            inside = parent not in ("", ".") and "/" not in entry["name"]
            path = f"{parent}/{entry['name']}" if inside else entry["name"]
            yield path, str(entry.get("type", ""))


def _is_readable(path: Any) -> bool:
    if not isinstance(path, str) or not path:
        return False
    parts = PurePosixPath(path)
    hidden = _SKIPPED_PARTS.intersection(parts.parts)
    return not hidden and parts.suffix.lower() not in _SKIPPED_SUFFIXES


def _ranked(
    files: Mapping[str, _File], wanted: Sequence[Term], question: str, *, searched: bool
) -> list[tuple[_File, float]]:
    """Return the files that are worth reading, best first.

    A file counts for the words it holds, the rarer the more, and for its best line; a file
    that the question names comes first. Where no search was possible, any file may do.
    """
    holding = {term: sum(term in file.counts for file in files.values()) for term in wanted}
    weights = {
        term: math.log(1 + (len(files) + 1) / (count + 0.5))
        for term, count in holding.items()
    }
    named = tuple(_FOUND.findall(question))
    scored = [
        (file, file.score(weights) + 1000 * (bool(named) and file.path.endswith(named)))
        for file in files.values()
    ]
    scored.sort(key=lambda each: (-each[1], each[0].path))
    return [each for each in scored if each[1] > 0 or not searched]


def _opening(file: _File) -> dict[str, Any]:
    """Return how to start reading a file: at its top, or near a match far below."""
    if file.lines and min(file.lines) > _FAR:
        return {"path": file.path, "start_line": min(file.lines) - 100}
    return {"path": file.path}


def _continued(reads: Sequence[Call], files: Mapping[str, _File]) -> Iterator[Planned]:
    """Give the calls that go on with files that were cut, where matches are still ahead."""
    for call in reads:
        path, start = call.arguments.get("path"), call.continues_at
        if start is None or not isinstance(path, str):
            continue
        lines = files[path].lines if path in files else {}
        ahead = [number for number in lines if number >= start]
        if ahead or not lines:
            far = bool(ahead) and min(ahead) > start + _FAR
            yield (
                "read_file",
                {"path": path, "start_line": min(ahead) - 100 if far else start},
            )


def _walk(calls: Sequence[Call]) -> Iterator[Planned]:
    """List the directories below, where nothing else finds files."""
    directories = (
        path
        for call in calls
        if call.name == "list_directory"
        for path, kind in _entries(call)
        if kind in ("directory", "dir") and _is_readable(path)
    )
    for path, _ in zip(directories, range(_MAX_DIRECTORIES), strict=False):
        yield "list_directory", {"path": path}


def _fitting(arguments: Mapping[str, Any], spec: ToolSpec) -> dict[str, Any]:
    """Leave out what a tool does not take, and stay within what it allows.

    The folder "." is left out too where that may be: a tool knows best where it begins.
    """
    properties = spec.parameters.get("properties")
    if not isinstance(properties, Mapping):
        return dict(arguments)
    required = spec.parameters.get("required", ())
    fitting: dict[str, Any] = {}
    for name, value in arguments.items():
        rules = properties.get(name)
        if not isinstance(rules, Mapping) or (value == "." and name not in required):
            continue
        most = rules.get("maximum")
        is_large = isinstance(most, int) and isinstance(value, int) and value > most
        fitting[name] = most if is_large else value
    return fitting


def _key(name: str, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    return name, *sorted((key, repr(value)) for key, value in arguments.items())
