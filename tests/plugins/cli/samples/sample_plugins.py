"""Plugins for the tests of the command line: a model that does as it is told, and tools.

Which model is asked for decides what it does.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import anyio
from kaizen import (
    BaseProvider,
    FunctionTool,
    Kernel,
    ModelCall,
    ModelError,
    ModelReply,
    ModelRequest,
    PluginSettings,
    Provider,
    Registry,
    Tool,
    ToolUse,
    Usage,
    hookimpl,
    tool,
)
from kaizen.events import ToolCallEvent
from pydantic import Field, SecretStr

CONTROLS = "".join(
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp")
)
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202egnp.exe\u202c [bold]not markup[/bold] \x9b2J"


class Model(BaseProvider):
    """Answers at once with what its model's name says."""

    name = "sample"

    async def complete(self, request: ModelRequest) -> ModelReply:
        match request.model:
            case "broken":
                raise ModelError("sample", "is out of order", "Choose another model.")
            case "crash":
                raise RuntimeError("the \x1b[1mroof\x1b[0m fell in")
            case "forever":
                await anyio.sleep_forever()
            case "patient":
                await anyio.sleep(1)
                return calls(request, "grep", pattern=str(request.cycle))
        if request.cycle == 1 and any(each.name == "grep" for each in request.tools):
            return calls(request, "grep", pattern="harbour", path=".")
        if request.cycle == 1 and any(each.name == "send_mail" for each in request.tools):
            return calls(request, "send_mail", to="ann")
        text = answer(request)
        return ModelReply(
            text=text,
            usage=Usage(requests=1, input_tokens=100, output_tokens=20),
            cost_usd=Decimal("0.0012"),
            model="sample",
        )


def calls(request: ModelRequest, name: str, **arguments: Any) -> ModelReply:
    use = ToolUse(id=f"call_{request.cycle}", name=name, arguments=arguments)
    return ModelReply(tool_uses=(use,), usage=Usage(requests=1, input_tokens=50))


def answer(request: ModelRequest) -> str:
    """Answer with what the last message says, in the fields that are asked for."""
    last = request.messages[-1].text
    if request.model == "system":
        last = request.messages[0].text
    if request.output is None:
        return spoken(request.model, last)
    text = HOSTILE if request.model == "hostile" else f"I read: {last}"
    if request.model == "controls":
        text = CONTROLS
    source = {"path": "island.txt", "line": 2, "quote": "The harbour opens at 6."}
    if request.model == "hostile":
        source = {"path": f"a{HOSTILE}.txt", "line": 1, "quote": HOSTILE}
    known = {"answer": text, "sources": [source], "confidence": 0.75, "count": 3}
    wanted = request.output.schema["properties"]
    return json.dumps({name: known.get(name, text) for name in wanted})


def spoken(model: str, said: str) -> str:
    """Reply to a conversation."""
    history, _, message = said.rpartition("message: ")
    history = history.removeprefix("history:").strip()
    replies = {
        "echo": f"echo: {message}",
        "history": history or "nothing was said",
        "hostile": HOSTILE,
        "long": "wherever " * 40,
    }
    return replies.get(model, f"You said: {said}")


class ToolsSettings(PluginSettings):
    """Settings of the file tools."""

    roots: list[Path] = Field(default=[Path()], description="What may be read.")
    token: SecretStr = Field(default=SecretStr("hidden"), description="A secret.")
    endpoint: str = Field(default="https://u:pw@example.org/", description="Where it is.")
    headers: dict[str, str] = Field(
        default={"Authorization": "Bearer swordfish"}, description="What is sent."
    )
    max_tokens: int = Field(default=7, description="No secret.")
    mode: Literal["fast", "safe"] = Field(default="safe", description="How it works.")


class SampleTools:
    """File tools that read what lies under their roots."""

    name = "tools"
    Settings = ToolsSettings

    def __init__(self, settings: ToolsSettings) -> None:
        self._roots = settings.roots

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        for each in self._tools():
            registry.add(Tool, each.spec.name, each, description=each.spec.description)

    @hookimpl
    async def pre_tool_call(self, event: ToolCallEvent) -> None:
        """Do nothing: there is a hook to be listed."""

    def _tools(self) -> Sequence[FunctionTool]:
        @tool(danger="low")
        def list_directory(path: str = ".") -> list[str]:
            """List a directory."""
            return sorted(each.name for root in self._roots for each in root.iterdir())

        @tool(danger="low")
        def search_files(pattern: str) -> list[str]:
            """Find files by name."""
            return sorted(str(p) for root in self._roots for p in root.glob(pattern))

        @tool(danger="low")
        def grep(pattern: str, path: str = ".") -> str:
            """Find lines."""
            files = (p for root in self._roots for p in sorted(root.rglob("*.txt")))
            lines = (line for p in files for line in p.read_text("utf-8").splitlines())
            return "\n".join(line for line in lines if pattern in line) or "nothing"

        @tool(danger="low")
        def read_file(path: str) -> str:
            """Read a file."""
            return (self._roots[0] / path).read_text(encoding="utf-8")

        return [list_directory, search_files, grep, read_file]


class SampleModel:
    """Brings the provider `sample`."""

    name = "sample-model"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "sample", Model(), description="Does as it is told.")


class Twice:
    """Asks each model twice."""

    name = "twice"

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        await call_next(request)
        return await call_next(request)


class Broken:
    """Cannot start."""

    name = "broken"

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        raise OSError("the \x1b[31mcable\x1b[0m is cut")
        yield


class Slow:
    """Takes its time to start."""

    name = "slow"

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        sys.stderr.write("slow plugin starts\n")
        sys.stderr.flush()
        await anyio.sleep_forever()
        yield


class WithCommands:
    """Adds commands to the command line."""

    name = "commander"

    @hookimpl(optionalhook=True)
    def register_commands(self, commands: Any) -> None:
        commands.add("echo", echo, help="Say it again.")
        commands.add("later", "sample_plugins:later", help="Say it later.")


async def echo(kernel: Kernel, arguments: Sequence[str]) -> int:
    sys.stdout.write(f"echo {' '.join(arguments)} on {len(kernel.plugins)} plugins\n")
    return 7 if "--seven" in arguments else 0


def later(kernel: Kernel, arguments: Sequence[str]) -> None:
    sys.stdout.write(f"later {list(arguments)}\n")
