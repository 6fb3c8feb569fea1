"""Tools as plugins bring them, a person who answers, and calls that were never made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaizen import FunctionTool, tool
from kaizen.ports import Answer, PendingRequest
from kaizen.tools import ToolCall, ToolSpec
from kaizen_permissions import PermissionRule, PermissionType

ALLOW, ASK, DENY = PermissionType.ALLOW, PermissionType.ASK, PermissionType.DENY


class Journal:
    """Tools that do nothing but remember what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.tools = {each.spec.name: each for each in _tools(self._did)}

    def call(self, name: str, **arguments: Any) -> ToolCall:
        """Return a call of a tool, about to be made."""
        made = self.tools[name]
        return ToolCall(
            id="call", name=name, arguments=made.validate(arguments), spec=made.spec
        )

    def _did(self, name: str, **arguments: Any) -> str:
        self.calls.append((name, arguments))
        return "done"


def placed(made: FunctionTool, directory: Path | str, *elsewhere: str) -> ToolSpec:
    """Return what is known of a tool that begins in a folder."""
    return replace(made.spec, directory=str(directory), elsewhere=elsewhere)


class Person:
    """Answers every question with what is prepared for it.

    Attributes:
        asked: What they were asked.
    """

    def __init__(
        self, answer: Answer | Callable[[PendingRequest], Answer] | Exception
    ) -> None:
        self._answer = answer
        self.asked: list[PendingRequest] = []

    async def ask(self, request: PendingRequest) -> Answer:
        self.asked.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        if isinstance(self._answer, Answer):
            return self._answer
        return self._answer(request)

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        """Listen to nothing."""


def allow(pattern: str, priority: int = 0) -> PermissionRule:
    return PermissionRule(pattern, ALLOW, "", priority)


def ask(pattern: str, priority: int = 0) -> PermissionRule:
    return PermissionRule(pattern, ASK, "", priority)


def deny(pattern: str, priority: int = 0) -> PermissionRule:
    return PermissionRule(pattern, DENY, "", priority)


def yes(_request: PendingRequest) -> Answer:
    return Answer(approved=True, principal="ann")


def _tools(did: Callable[..., str]) -> list[FunctionTool]:
    @tool(danger="safe", reads=True, category="file")
    async def list_directory(path: str = ".", recursive: bool = False) -> str:
        """List."""
        return did("list_directory", path=path, recursive=recursive)

    @tool(danger="low", category="file")
    async def read_file(path: str) -> str:
        """Read."""
        return did("read_file", path=path)

    @tool(danger="low", category="file")
    async def grep(pattern: str, path: str = ".", glob: str = "*") -> str:
        """Search."""
        return did("grep", pattern=pattern, path=path, glob=glob)

    @tool(danger="medium", category="file", idempotent=True)
    async def write_file(path: str, content: str) -> str:
        """Write."""
        return did("write_file", path=path, content=content)

    @tool(danger="medium", category="file")
    async def edit_file(path: str, old: str, new: str) -> str:
        """Edit."""
        return did("edit_file", path=path, old=old, new=new)

    @tool(danger="medium", category="file")
    async def move_file(source: str, destination: str) -> str:
        """Move."""
        return did("move_file", source=source, destination=destination)

    @tool(danger="high", category="file")
    async def delete_file(path: str) -> str:
        """Delete."""
        return did("delete_file", path=path)

    @tool(danger="medium", category="file")
    async def edit_many(edits: list[dict[str, str]]) -> str:
        """Edit many."""
        return did("edit_many", edits=edits)

    @tool(danger="low", category="http", external=True)
    async def http_get(url: str, headers: dict[str, str] | None = None) -> str:
        """Get."""
        return did("http_get", url=url, headers=headers)

    @tool(danger="medium", category="http", external=True)
    async def http_post(url: str, body: str = "") -> str:
        """Post."""
        return did("http_post", url=url, body=body)

    @tool(danger="high", category="system", external=True)
    async def bash_command(command: str) -> str:
        """Run."""
        return did("bash_command", command=command)

    @tool(danger="critical", category="system")
    async def format_disk(path: str) -> str:
        """Format."""
        return did("format_disk", path=path)

    @tool(danger="medium", external=True)
    async def send_mail(to: str, body: str, count: int = 1) -> str:
        """Send."""
        return did("send_mail", to=to, body=body, count=count)

    @tool(danger="medium")
    async def note(line: str) -> str:
        """Note."""
        return did("note", line=line)

    @tool(danger="medium")
    async def tidy() -> str:
        """Tidy."""
        return did("tidy")

    @tool(danger="medium", category="file", external=True)
    async def download(url: str, path: str) -> str:
        """Download."""
        return did("download", url=url, path=path)

    @tool(danger="medium", category="file")
    async def write_files(files: dict[str, str]) -> str:
        """Write several."""
        return did("write_files", files=files)

    @tool(danger="medium", category="file")
    async def copy_file(path: str, destinationPath: str) -> str:  # noqa: N803
        """Copy."""
        return did("copy_file", path=path, destinationPath=destinationPath)

    @tool(danger="high", category="system")
    async def run_process(
        command: str,
        args: list[str] | None = None,
        env: dict[str, str] | None = None,
        stdin: str = "",
        cwd: str = ".",
        timeout_s: float = 9.0,
    ) -> str:
        """Run."""
        return did("run_process", command=command, args=args, env=env, stdin=stdin)

    @tool(danger="safe")
    async def add(first: int, second: int) -> str:
        """Add."""
        return did("add", first=first, second=second)

    return [
        list_directory,
        read_file,
        grep,
        write_file,
        edit_file,
        move_file,
        delete_file,
        edit_many,
        http_get,
        http_post,
        bash_command,
        format_disk,
        send_mail,
        note,
        tidy,
        download,
        write_files,
        copy_file,
        run_process,
        add,
    ]
