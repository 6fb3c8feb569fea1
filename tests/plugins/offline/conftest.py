"""A small agent loop with file tools: the models are tested as the kernel uses them."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from kaizen import (
    Effect,
    Message,
    ModelReply,
    ModelRequest,
    OutputSpec,
    Provider,
    ToolSpec,
    ToolUse,
)

Loop: TypeAlias = Callable[..., Awaitable[ModelReply]]

CORPUS = Path(__file__).parent / "corpus"


class FileTools:
    """The four file tools over some folders and files below one folder."""

    def __init__(self, root: Path, *parts: str, max_lines: int = 2000) -> None:
        self.root = root
        self.max_lines = max_lines
        self.calls: list[ToolUse] = []
        starts = [root / part for part in parts] or [root]
        self.files = sorted(
            path.relative_to(root).as_posix()
            for start in starts
            for path in ([start] if start.is_file() else start.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        )

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        parameters = {
            "list_directory": ["path"],
            "search_files": ["pattern", "limit"],
            "grep": ["pattern", "path", "glob", "ignore_case", "limit"],
            "read_file": ["path", "start_line", "max_lines"],
        }
        return tuple(
            ToolSpec(
                name=name,
                description=name,
                parameters={
                    "type": "object",
                    "properties": {each: {} for each in names},
                    "required": names[:1],
                },
                effect=Effect.of("low"),
            )
            for name, names in parameters.items()
        )

    def call(self, use: ToolUse) -> str:
        self.calls.append(use)
        assert isinstance(use.arguments, Mapping)
        return str(getattr(self, use.name)(**use.arguments))

    def list_directory(self, path: str) -> str:
        inside = "" if path == "." else f"{path}/"
        names = {
            each.removeprefix(inside).split("/")[0]
            for each in self.files
            if each.startswith(inside)
        }
        entries = [
            {"name": name, "type": "file" if inside + name in self.files else "directory"}
            for name in sorted(names)
        ]
        return json.dumps({"path": path, "entries": entries, "truncated": False})

    def search_files(self, pattern: str, limit: int = 100) -> str:
        wanted = pattern.removeprefix("**/")
        matches = [each for each in self.files if fnmatch.fnmatch(each, wanted)]
        return json.dumps({"matches": matches[:limit], "truncated": len(matches) > limit})

    def grep(
        self, pattern: str, path: str = ".", ignore_case: bool = False, limit: int = 100
    ) -> str:
        compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
        matches = [
            {"path": each, "line": number, "text": line}
            for each in self.files
            for number, line in enumerate(self.lines(each), start=1)
            if compiled.search(line)
        ]
        return json.dumps({"matches": matches[:limit], "truncated": len(matches) > limit})

    def read_file(self, path: str, start_line: int = 1, max_lines: int = 0) -> str:
        lines = self.lines(path)
        end = start_line - 1 + (max_lines or self.max_lines)
        text = "\n".join(lines[start_line - 1 : end])
        if end < len(lines):
            text += (
                f"\n[cut: {len(lines)} lines in all; continue with start_line={end + 1}]"
            )
        return text

    def lines(self, path: str) -> list[str]:
        return (self.root / path).read_text(encoding="utf-8").splitlines()


async def loop(
    provider: Provider,
    content: str,
    *,
    tools: FileTools | None = None,
    schema: Mapping[str, Any] | None = None,
    max_turns: int = 8,
) -> ModelReply:
    """Run an agent's loop to its end and return the last reply."""
    request = ModelRequest(
        messages=(
            Message(role="system", content="Answer from the files."),
            Message(role="user", content=content, origin="user"),
        ),
        tools=tools.specs if tools else (),
        output=OutputSpec(name="Answer", schema=schema) if schema else None,
    )
    for _ in range(max_turns):
        reply = await provider.complete(request)
        if not reply.tool_uses:
            return reply
        assert tools is not None
        request = request.with_messages(
            Message(role="assistant", content=reply.text, tool_uses=reply.tool_uses),
            *(
                Message(
                    role="tool",
                    content=tools.call(use),
                    tool_use_id=use.id,
                    name=use.name,
                    origin=f"tool:{use.name}",
                )
                for use in reply.tool_uses
            ),
        )
    raise AssertionError(f"no answer after {max_turns} turns")


@pytest.fixture
def run_loop() -> Loop:
    """Run an agent's loop with a provider; see `loop`."""
    return loop


@pytest.fixture
def corpus() -> FileTools:
    """File tools over the folder of test texts."""
    return FileTools(CORPUS)


@pytest.fixture
def files() -> Callable[..., FileTools]:
    """Make file tools over another folder."""
    return FileTools
