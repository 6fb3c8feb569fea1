"""Policies in files: rules with reasons and priorities, and those that a person added.

    [[deny]]
    rule = "bash_command(git push *)"
    reason = "releases are made by people"
    priority = 10

A list of rules alone is accepted too: `allow = ["read_file(docs/)", "http_get"]`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from kaizen.config import explain
from kaizen.errors import ConfigurationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kaizen_permissions._rules import PermissionRule
from kaizen_permissions._types import PermissionType

__all__ = ["Written", "append_rule", "parse_policy", "read_policy", "rules_of"]

MAX_BYTES = 1_024 * 1_024
MAX_RULES = 10_000


Names = Annotated[tuple[str, ...], Field(max_length=10_000)]


class Written(BaseModel):
    """One rule, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    rule: str = Field(min_length=1, max_length=5_000)
    reason: str = Field(default="", max_length=500)
    priority: int = Field(default=0, strict=True, ge=-1_000_000, le=1_000_000)
    principals: Names = ()
    roles: Names = ()
    tenants: Names = ()
    folder: str = Field(default="", max_length=4_096)


def _as_table(value: object) -> object:
    return {"rule": value} if isinstance(value, str) else value


_Rules = Annotated[
    tuple[Annotated[Written, BeforeValidator(_as_table)], ...], Field(max_length=MAX_RULES)
]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    allow: _Rules = ()
    ask: _Rules = ()
    deny: _Rules = ()


def rules_of(lists: Mapping[PermissionType, tuple[Written, ...]]) -> list[PermissionRule]:
    """Return the rules that are written in lists by type.

    Raises:
        ConfigurationError: One cannot be used.
    """
    return [
        PermissionRule(
            each.rule,
            kind,
            each.reason,
            each.priority,
            principals=each.principals,
            roles=each.roles,
            tenants=each.tenants,
            folder=each.folder,
        )
        for kind, written in lists.items()
        for each in written
    ]


def read_policy(path: Path) -> list[PermissionRule]:
    """Return the rules of a file.

    Raises:
        ConfigurationError: It cannot be read, or is no policy.
    """
    return parse_policy(_read(path), str(path))


def parse_policy(text: str, where: str) -> list[PermissionRule]:
    """Return the rules that are written in TOML.

    Raises:
        ConfigurationError: They are no policy; it says what is wrong with which of them.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(text)
        file = _File.model_validate(tables)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(where, f"is not valid TOML: {error}") from error
    except ValidationError as error:
        raise _bad(where, explain(error, known=tuple(_File.model_fields))) from None
    lists = {kind: getattr(file, kind.value) for kind in PermissionType}
    try:
        return rules_of(lists)
    except ConfigurationError as error:
        raise _bad(where, f"cannot be used: {error}") from error


def append_rule(path: Path, rule: PermissionRule) -> None:
    """Add a rule at the end of a file, which is made if need be, for its owner alone.

    The file is replaced at once, so that it is there whole, before and after, whatever
    happens; and it is read first, so that what would make it useless is not written.

    Raises:
        ConfigurationError: The file is no policy to which a rule can be added.
        OSError: It cannot be written.
    """
    with _alone(path.parent):
        before = _read(path) if path.exists() else ""
        wanted = [*parse_policy(before, str(path)), rule]
        text = _with_rule(before, rule)
        found = parse_policy(text, str(path))
        if sorted(map(repr, found)) != sorted(map(repr, wanted)):
            raise _bad(str(path), "is written in a way in which no rule can be added")
        _replace(path, text)


def _with_rule(text: str, rule: PermissionRule) -> str:
    """Return a file with one rule more: in its list of such rules, or else at its end."""
    tables = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    lists = text[: tables.start()] if tables else text
    start = rf"^{rule.permission_type.value}[ \t]*=[ \t]*\["
    opened = re.search(start, lists, re.MULTILINE)
    if opened is None:
        return f"{text.rstrip()}\n\n{_entry(rule)}".lstrip()
    place = opened.end()
    return f"{text[:place]}{{ {', '.join(_fields(rule))} }}, {text[place:]}"


def _entry(rule: PermissionRule) -> str:
    return "\n".join([f"[[{rule.permission_type.value}]]", *_fields(rule)]) + "\n"


def _fields(rule: PermissionRule) -> Iterator[str]:
    yield f"rule = {_quoted(rule.pattern)}"
    if rule.reason:
        yield f"reason = {_quoted(rule.reason)}"
    if rule.priority:
        yield f"priority = {rule.priority}"
    for field in ("principals", "roles", "tenants"):
        if names := getattr(rule, field):
            yield f"{field} = [{', '.join(map(_quoted, names))}]"
    if rule.folder:
        yield f"folder = {_quoted(rule.folder)}"


def _quoted(text: str) -> str:
    """Return a text as TOML has it: as JSON does, but for one character."""
    return json.dumps(text, ensure_ascii=True).replace("\x7f", "\\u007f")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _bad(str(path), f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _bad(str(path), f"is larger than {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _bad(str(path), "is not UTF-8") from error


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process that does the same change a file of the folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _bad(where: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"the policy {where!r}",
        problem,
        "See the page on permissions for what it may hold.",
    )
