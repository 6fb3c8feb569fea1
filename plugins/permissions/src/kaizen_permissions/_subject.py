"""One call, as rules look at it: the paths, URLs and commands that are in its arguments.

What an argument is follows from its name, such as `path`, `url` or `command`, wherever in
the arguments it stands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from os.path import isabs
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kaizen.tools import ToolSpec

from kaizen_permissions._paths import Place, Reading
from kaizen_permissions._types import NOBODY, Who
from kaizen_permissions._urls import read_url

if TYPE_CHECKING:
    from kaizen_permissions._commands import Analysis

__all__ = ["Kind", "Shape", "Subject", "kind_of", "names_only"]

Kind: TypeAlias = Literal["path", "url", "command", "text"]

MAX_DEPTH = 32
MAX_VALUES = 1_000
_SINGLE = (str, int, float, bool, type(None))
_PATHS = frozenset(
    (
        *("cwd", "dest", "destination", "dst", "root", "roots", "source", "sources"),
        *("src", "target", "targets"),
    )
)
_PATH_ENDS = (
    *("dir", "dirs", "directory", "directories", "folder", "folders"),
    *("file", "files", "filename", "filenames", "file_name", "file_names"),
    *("path", "paths", "path_name", "path_names", "pathname", "_root"),
)
_PATH_STARTS = ("file_to_", "path_to_", "file_path", "path_of_")
_NO_PATHS = ("profile", "profiles", "xpath", "xpaths", "jsonpath")
_URLS = frozenset(("endpoint", "href", "hrefs", "link", "links", "webhook"))
_URL_ENDS = ("url", "urls", "uri", "uris", "_endpoint", "_href", "_link")
_COMMANDS = frozenset(
    (
        *("bash_command", "cmd", "command", "command_line", "commandline", "commands"),
        *("shell_cmd", "shell_command"),
    )
)
_CONTENTS = frozenset(
    (
        *("append", "body", "content", "contents", "data", "encoding", "mode", "newline"),
        *("new", "new_string", "new_str", "new_text", "old", "old_string", "old_str"),
        *("old_text", "pattern", "replace", "replacement", "search", "text", "description"),
    )
)
_BESIDE_COMMANDS = frozenset(
    (
        *("background", "description", "limit", "max_chars", "max_output_chars", "reason"),
        *("run_in_background", "timeout", "timeout_ms", "timeout_s", "timeout_seconds"),
    )
)
_PLACES = frozenset(("cwd", "directory", "dir", "folder", "workdir", "working_directory"))
_WORDS = frozenset(("args", "arguments", "argv"))
_SEAM = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[-. ]+")


@lru_cache(maxsize=4_096)
def plain_name(name: str) -> str:
    """Return a name in small letters and underscores, without numbers at its end."""
    return _SEAM.sub("_", name).lower().rstrip("_0123456789") or name


@lru_cache(maxsize=4_096)
def kind_of(name: str) -> Kind:
    """Return what an argument of a name is."""
    plain = plain_name(name)
    if plain in _COMMANDS:
        return "command"
    if plain in _URLS or plain.endswith(_URL_ENDS):
        return "url"
    if plain in _PATHS or plain.startswith(_PATH_STARTS):
        return "path"
    if plain.endswith(_PATH_ENDS) and not plain.endswith(_NO_PATHS):
        return "path"
    return "text"


class Shape:
    """What a tool is called and takes.

    Attributes:
        arguments: The names of its arguments.
        kinds: What there is among them.
    """

    __slots__ = ("arguments", "kinds", "name")

    def __init__(self, name: str, arguments: Iterable[str]) -> None:
        self.name = name
        self.arguments = frozenset(arguments)
        self.kinds: frozenset[Kind] = frozenset(map(kind_of, self.arguments))

    @classmethod
    def of(
        cls, name: str, arguments: Mapping[str, Any] | None, spec: ToolSpec | None
    ) -> Shape:
        """Return what is known of a tool; without a specification, what a call shows."""
        if spec is None:
            return cls(name, map(str, arguments or ()))
        return cls(name, _property_names(spec.parameters))

    def takes(self, kind: Kind) -> bool:
        """Whether an argument is of a kind."""
        return kind in self.kinds


class Subject:
    """One call that is to be decided. What is in its arguments is read once, when needed.

    Attributes:
        name: The tool.
        arguments: What it is called with; `None` if only the tool is asked about.
        spec: What is known of the tool, or `None`.
        who: On whose behalf it is made.
        base: Where the relative paths of rules begin.
        directory: The folder that the tool says it begins in; `""` if it says none.
        place: Where the relative paths of the call begin: there, or else where those of
            rules do.
        may_write: Whether a shell may write a file of the roots with `>`.
    """

    __slots__ = (
        "_analysis",
        "_read",
        "arguments",
        "base",
        "directory",
        "may_write",
        "name",
        "place",
        "shape",
        "spec",
        "who",
    )

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] | None,
        spec: ToolSpec | None,
        place: Place,
        shape: Shape | None = None,
        directory: str = "",
        who: Who = NOBODY,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.spec = spec
        self.who = who
        self.base = place
        self.directory = directory or _directory_of(spec)
        self.place = place.starting(self.directory) if self.directory else place
        self.shape = shape or Shape.of(name, arguments, spec)
        self.may_write: Callable[[str], bool] = _never
        self._read: dict[tuple[Kind, str], tuple[Reading | None, ...]] = {}
        self._analysis: tuple[Analysis, ...] | None = None

    @classmethod
    def of_files(
        cls, tool: str, readings: Iterable[Reading | None], place: Place
    ) -> Subject:
        """Return a call of a tool with files, of which it is known where they lead."""
        subject = cls(tool, {"path": ""}, None, place)
        known = tuple(readings)
        subject._read = {("path", ""): known, ("path", "path"): known}
        return subject

    def at(self, place: Place) -> Subject:
        """Return the same call as it is where relative paths begin elsewhere."""
        if place is self.base or place == self.base:
            return self
        return Subject(
            self.name,
            self.arguments,
            self.spec,
            place,
            self.shape,
            self.directory,
            self.who,
        )

    @property
    def starts_somewhere(self) -> bool:
        """Whether it is known in which folder commands would start.

        A tool for this machine that says nothing of it starts them where the program runs,
        as is usual; one that passes them on to somebody else may start them anywhere.
        """
        return bool(self.directory) or self.spec is None or self.spec.category == "system"

    @property
    def writes(self) -> bool:
        """Whether the tool changes something; one that is not known may."""
        return self.spec is None or self.spec.effect.writes

    @property
    def is_flat(self) -> bool:
        """Whether no argument holds others."""
        return all(isinstance(each, _SINGLE) for each in (self.arguments or {}).values())

    def readings(self, kind: Kind, argument: str = "") -> tuple[Reading | None, ...]:
        """Return what the arguments of a kind mean; `None` for what cannot be understood.

        Args:
            kind: What is looked for.
            argument: Only the argument of this name.
        """
        key = (kind, argument)
        known = self._read.get(key)
        if known is None:
            given = self.arguments or {}
            values = None if argument else _flat(given, kind)
            if values is None:
                values = _values(given, kind, argument)
            known = tuple(self._reading(kind, each) for each in values)
            if kind == "path" and self.spec is not None and self.spec.elsewhere:
                known = self._with(self.spec.elsewhere, known)
            self._read[key] = known
        return known

    def _with(
        self, elsewhere: Iterable[str], readings: tuple[Reading | None, ...]
    ) -> tuple[Reading | None, ...]:
        """Return what a tool looks at that takes the folder itself to be more than that."""
        if not any(each is not None and self.place.is_here(each) for each in readings):
            return readings
        return (*readings, *(Reading((each,), (each,)) for each in elsewhere))

    @property
    def commands(self) -> tuple[Analysis, ...]:
        """What each command of the call would run."""
        if self._analysis is None:
            from kaizen_permissions._commands import analyse

            cwd = Path(self.place.directory)
            roots = [Path(each) for each in self.place.roots]
            found = (
                analyse(each, cwd=cwd, roots=roots)
                for each in _commands(self.arguments or {}, self.place)
            )
            known = self.starts_somewhere
            self._analysis = tuple(each if known else _anywhere(each) for each in found)
        return self._analysis

    def _reading(self, kind: Kind, value: Any) -> Reading | None:
        if kind == "text":
            text = _as_text(value)
            return None if text is None else Reading((text,), (text,))
        if not isinstance(value, str):
            return None
        # To a tool, no path is the folder in which it begins.
        return self.place.read(value or ".") if kind == "path" else read_url(value)


def _directory_of(spec: ToolSpec | None) -> str:
    """Return the folder in which a tool says that it begins, or `""`."""
    said = "" if spec is None else spec.directory
    return said if isabs(said) else ""  # noqa: PTH117 - faster


def _anywhere(analysis: Analysis) -> Analysis:
    """Return what is known of a command that may start in any folder."""
    if not analysis.understood:
        return analysis
    problem = "it is not known in which folder it would start"
    return replace(analysis, understood=False, problem=problem)


def names_only(arguments: Mapping[str, Any], kind: Kind) -> bool:
    """Whether every text of a call is of a kind, or plainly what a file is to contain.

    One that is empty names nothing plainly.
    """
    return all(_is_named(value, name, kind, 0) for name, value in arguments.items())


def _is_named(value: Any, name: str, kind: Kind, depth: int) -> bool:
    """Whether all texts in a value stand under names that say what they are."""
    if plain_name(name) in _CONTENTS:
        return True
    if kind_of(name) == kind:
        return "" not in _leaves(value, depth)
    if isinstance(value, str) or depth > MAX_DEPTH:
        return False
    if isinstance(value, Mapping):
        return all(_is_named(value[each], str(each), kind, depth + 1) for each in value)
    if isinstance(value, list | tuple):
        return all(_is_named(each, name, kind, depth + 1) for each in value)
    return True


def _commands(arguments: Mapping[str, Any], place: Place) -> Iterator[str]:
    """Yield the commands of a call. A list may be several of them, or the words of one.

    What cannot be understood is a NUL, which no shell can; so is a command beside which the
    call has something else that may change what runs.
    """
    words: list[Any] = []
    for name, value in arguments.items():
        plain = plain_name(name)
        if not value or kind_of(name) == "command" or plain in _BESIDE_COMMANDS:
            continue
        if plain in _WORDS and isinstance(value, list | tuple):
            words += value
        elif plain not in _PLACES or not _is_here(value, place):
            yield "\0"
    commands = _written(arguments)
    if not words:
        yield from commands
    elif all(isinstance(each, str) for each in words):
        for command in commands:  # as tools may put them together
            yield f"{command} {shlex.join(words)}"
            yield from dict.fromkeys(
                (shlex.join((command, *words)), " ".join((command, *words)))
            )
    else:
        yield "\0"


def _is_here(value: Any, place: Place) -> bool:
    """Whether a command begins where relative paths do."""
    reading = place.read(value) if isinstance(value, str) else None
    return reading is not None and reading == place.read(".")


def _written(arguments: Mapping[str, Any]) -> Iterator[str]:
    for value in _named(arguments, "command", 0):
        leaves = list(_leaves(value, 0))
        words = [each if isinstance(each, str) else "\0" for each in leaves]
        yield from (each for each in words if each)
        if isinstance(value, list | tuple) and len(words) > 1:
            yield shlex.join(words)


def _flat(arguments: Mapping[str, Any], kind: Kind) -> list[Any] | None:
    """Return the texts of a kind where no argument holds others, as is usual."""
    found = []
    for name, value in arguments.items():
        if not isinstance(value, _SINGLE):
            return None
        if kind_of(name) == kind and value is not None and (value or kind == "path"):
            found.append(value)
    return found


def _values(arguments: Mapping[str, Any], kind: Kind, argument: str) -> list[Any]:
    """Return the values of the arguments of a kind; `None` among them is not understood."""
    if argument:
        if argument not in arguments:
            return []
        value = arguments[argument]
        return [value] if kind == "text" else list(_leaves(value, 0))
    found: list[Any] = []
    for value in _named(arguments, kind, 0):
        found.extend(_leaves(value, 0))
        if len(found) > MAX_VALUES:
            return [None]
    return [each for each in found if each != "" or kind == "path"]


def _named(value: Any, kind: Kind, depth: int) -> Iterator[Any]:
    """Yield what stands under names of a kind, however deep."""
    if depth > MAX_DEPTH:
        yield None
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if kind_of(str(name)) == kind and each is not None:
                yield each
            elif not isinstance(each, _SINGLE):
                yield from _named(each, kind, depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            if not isinstance(each, _SINGLE):
                yield from _named(each, kind, depth + 1)


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    if depth > MAX_DEPTH:
        yield None
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each, depth + 1)
    elif isinstance(value, Mapping):
        yield from map(str, value)  # a name may be one of what is written there
        for each in value.values():
            yield from _leaves(each, depth + 1)
    else:
        yield value if isinstance(value, str) else None


def _as_text(value: Any) -> str | None:
    """Return a value as text: a text as it is, the rest as JSON."""
    if isinstance(value, str):
        return value if _is_sound(value) else None
    from pydantic_core import to_json

    try:
        return to_json(value).decode()
    except (ValueError, TypeError):
        return None


def _is_sound(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text)


def _property_names(parameters: Mapping[str, Any]) -> Iterator[str]:
    properties = parameters.get("properties", {})
    if isinstance(properties, Mapping):
        yield from map(str, properties)


def _never(_path: str) -> bool:
    return False
