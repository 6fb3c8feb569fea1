"""What the pages show is true: every block of code in them runs, offline.

Of each page the blocks marked `python` are run, and the lines of those marked `console`,
`bash` or `sh` that call `kaizen`; blocks marked `toml` must be what the plugins accept.

- Every block runs by itself, in an empty folder. A block with a title, as in
  `toml title="kaizen.toml"`, is a file there for the blocks below it; so is a `toml`
  block with settings, as `kaizen.toml`.
- `<!-- continued -->` above a block runs the `python` block before it first.
- Top-level `await` and `async with` are allowed, as in a notebook.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("README.md", "docs/**/*.md", "kernel/README.md", "plugins/*/README.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(
    r"(?P<continued><!-- continued -->\s*)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<text>.*?)^[ ]*```\s*$",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(
    r"^(\$ )?(?P<command>([A-Z_]+=\S+ |[^#]*\| *)?kaizen( .*)?)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of code in a page.

    Attributes:
        line: The line of the page on which the first line of `text` stands.
        before: The block that this one continues.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    before: Block | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    source = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for match in FENCE.finditer(source):
        python = [block for block in blocks if block.language == "python"]
        indent, title = match["indent"], re.search(r'title="([^"]+)"', match["options"])
        block = Block(
            page=page,
            line=source.count("\n", 0, match.start("text")) + 1,
            language=match["language"],
            title=title[1] if title else None,
            text=re.sub(f"^{indent}", "", match["text"], flags=re.MULTILINE),
            before=python[-1] if match["continued"] else None,
        )
        blocks.append(block)
    return tuple(blocks)


def each(*languages: str) -> pytest.MarkDecorator:
    found = [
        block for page in PAGES for block in blocks_of(page) if block.language in languages
    ]
    return pytest.mark.parametrize("block", found, ids=str)


def is_settings(block: Block) -> bool:
    return block.language == "toml" and "plugins" in tomllib.loads(block.text)


@pytest.fixture(autouse=True)
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Stand in an empty folder but for the files that the page has shown so far."""
    block = request.getfixturevalue("block")
    assert isinstance(block, Block)
    for other in blocks_of(block.page):
        name = other.title or ("kaizen.toml" if is_settings(other) else None)
        if name is not None and other.line < block.line:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(other.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know no key of anybody's, and find no other machine."""
    for name in os.environ:
        if name.endswith("_API_KEY") or name.startswith("KAIZEN_"):
            monkeypatch.delenv(name)
    find = socket.getaddrinfo

    def find_here(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in {None, "localhost", "127.0.0.1", "::1"}:
            raise OSError(f"the pages must do without a network, and so without {host!r}")
        return find(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", find_here)


@each("python")
def test_a_block_of_python_runs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)

    for part in with_what_it_continues(block):
        run(part, module)


def with_what_it_continues(block: Block) -> Iterator[Block]:
    if block.before is not None:
        yield from with_what_it_continues(block.before)
    yield block


def run(block: Block, module: ModuleType) -> None:
    """Run a block as if it stood in a file where it stands in its page."""
    code = compile(
        "\n" * (block.line - 1) + block.text,
        str(block.page),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    outcome = eval(code, module.__dict__)
    if inspect.iscoroutine(outcome):
        anyio.run(lambda: outcome)


@each("console", "bash", "sh")
def test_the_commands_of_a_block_succeed(block: Block, folder: Path) -> None:
    commands = [match["command"] for match in COMMAND.finditer(block.text)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
            timeout=50,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"


@each("toml")
def test_settings_in_a_block_of_toml_are_what_the_plugin_accepts(block: Block) -> None:
    plugins = {found.name: found for found in entry_points(group="kaizen.plugins")}

    tables = tomllib.loads(block.text).get("plugins", {})

    for name, table in tables.items():
        if name in plugins:
            plugins[name].load().Settings.model_validate(table)
