"""Joins the tools to the kernel."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kaizen.errors import ConfigurationError
from kaizen.hooks import hookimpl
from kaizen.kernel import Kernel
from kaizen.registry import Registry
from kaizen.tools import FunctionTool, Tool

from kaizen_tools._settings import ToolsSettings

if TYPE_CHECKING:
    from kaizen_tools._roots import Roots

__all__ = ["ToolsPlugin"]

FILE = {
    "list_directory": "List what is in a directory.",
    "file_exists": "Say whether there is a file or directory of a name.",
    "search_files": "Find files by name.",
    "grep": "Find lines of text files.",
    "read_file": "Read a text file.",
    "write_file": "Write a text file.",
    "edit_file": "Replace a text in a file.",
    "delete_file": "Delete one file, for good.",
}
SYSTEM = {"bash_command": "Run a command with bash."}
WEB = {
    "http_get": "Get what is at a URL.",
    "http_post": "Send something to a URL with POST.",
    "http_put": "Replace what is at a URL with PUT.",
    "http_delete": "Delete what is at a URL with DELETE.",
    "fetch_url": "Read a web page as text.",
    "extract_links": "Find the links of a web page.",
}


class ToolsPlugin:
    """Brings tools for files, the network and the shell."""

    Settings = ToolsSettings

    def __init__(self, settings: ToolsSettings) -> None:
        self._settings = settings
        self._directory = Path()
        self._opened: dict[str, FunctionTool] = {}
        self._roots: Roots | None = None
        self._stack = ExitStack()
        self._sandbox = ""

    @property
    def sandbox(self) -> str:
        """What confines commands: `bubblewrap`, `landlock`, or `none: ` and why.

        Empty until `bash_command` is used for the first time.
        """
        return self._sandbox

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Hold the roots open, from the first use of a tool until the kernel stops."""
        self._directory = Path.cwd()
        _require_roots(self._settings.roots, self._directory)
        with ExitStack() as self._stack:
            yield
        self._opened = {}
        self._roots = None

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        # Files are confined by directory descriptors, which only POSIX has.
        if os.name == "posix":
            for name, description in SYSTEM.items():
                registry.add(Tool, name, self._open_shell, description=description)
        for name, description in {**(FILE if os.name == "posix" else {}), **WEB}.items():
            opening = partial(self._open, name)
            registry.add(Tool, name, opening, description=description)

    def _open(self, name: str) -> FunctionTool:
        if name not in self._opened:
            self._opened.update(self._web() if name in WEB else self._files())
        return self._opened[name]

    def _files(self) -> Mapping[str, FunctionTool]:
        from kaizen_tools._file_tools import FileTools

        return FileTools(self._open_roots(), self._settings).tools()

    @asynccontextmanager
    async def _open_shell(self) -> AsyncGenerator[FunctionTool]:
        from kaizen_tools._shell import opened_shell

        roots = self._open_roots()
        async with opened_shell(roots, self._settings, self._directory) as shell:
            sandbox = shell.sandbox
            why = f": {sandbox.problem}" if sandbox.problem else ""
            self._sandbox = f"{sandbox.backend}{why}"
            yield shell.tool()

    def _open_roots(self) -> Roots:
        from kaizen_tools._roots import Roots

        if self._roots is None:
            opening = Roots.opened(self._settings.roots, directory=self._directory)
            self._roots = self._stack.enter_context(opening)
        return self._roots

    def _web(self) -> Mapping[str, FunctionTool]:
        from kaizen_tools._http import GuardedClient
        from kaizen_tools._web_tools import WebTools

        client = GuardedClient(self._settings.http)
        return WebTools(client, self._settings).tools()


def _require_roots(paths: tuple[Path, ...], directory: Path) -> None:
    """Refuse a root that does not exist now, and not at its first use.

    Raises:
        ConfigurationError: It names the root.
    """
    for path in paths:
        if not Path(directory, path).exists():
            raise ConfigurationError(
                f"the root {str(path)!r}",
                f"does not exist in {str(directory)!r}",
                "Correct `roots` under [plugins.tools].",
            )
