"""The tools that read and change files, as a model sees them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio.to_thread import run_sync
from kaizen.tools import FunctionTool, tool
from pydantic import Field

from kaizen_tools._files import Files
from kaizen_tools._roots import Roots, kind_of
from kaizen_tools._search import Search
from kaizen_tools._settings import ToolsSettings
from kaizen_tools._text import excerpt

__all__ = ["FileTools"]

Limit = Annotated[int, Field(ge=1, le=10_000)]
_JSON_AROUND = 300
_MARGIN_S = 30.0


class FileTools:
    """The file tools over some roots."""

    def __init__(self, roots: Roots, settings: ToolsSettings) -> None:
        self._roots = roots
        self._max_chars = settings.max_output_chars
        self._timeout_s = settings.search_timeout_s + _MARGIN_S
        self._files = Files(roots, max_bytes=settings.max_file_bytes)
        self._search = Search(
            roots,
            skip=settings.skip,
            max_file_bytes=settings.max_file_bytes,
            max_chars=settings.max_output_chars - _JSON_AROUND,
            timeout_s=settings.search_timeout_s,
        )

    def tools(self) -> dict[str, FunctionTool]:
        """Return the tools by name."""
        looks: dict[str, Any] = {**self._options, "danger": "safe", "reads": True}
        reads: dict[str, Any] = {**self._options, "danger": "low"}
        edits: dict[str, Any] = {**self._options, "danger": "medium", "reads": True}
        replaces: dict[str, Any] = {**self._options, "reads": False, "idempotent": True}
        return {
            "list_directory": tool(self.list_directory, **looks),
            "file_exists": tool(self.file_exists, **looks),
            "search_files": tool(self.search_files, **reads),
            "grep": tool(self.grep, **reads),
            "read_file": tool(self.read_file, **reads),
            "write_file": tool(self.write_file, danger="medium", **replaces),
            "edit_file": tool(self.edit_file, **edits),
            "delete_file": tool(self.delete_file, danger="high", **replaces),
        }

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "category": "file",
            "directory": self._roots.base,
            "elsewhere": self._roots.elsewhere,
            "timeout_s": self._timeout_s,
            "max_output_chars": self._max_chars,
        }

    async def list_directory(
        self, path: str = ".", recursive: bool = False, limit: Limit = 200
    ) -> dict[str, Any]:
        """List what is in a directory, sorted by name.

        Gives `entries` with `name`, `type` (file, directory, link or other) and `size` in
        bytes. `truncated` says that there is more. For "." all directories and files that
        may be used are listed.

        Args:
            path: The directory.
            recursive: Whether to list what is in the directories below it as well; names
                are then relative paths. Directories such as .git are not entered.
            limit: Most entries.
        """
        work = partial(self._search.list, path, recursive=recursive, limit=limit)
        return await run_sync(work)

    async def file_exists(self, path: str) -> dict[str, Any]:
        """Say whether there is a file or directory of that name, and which of the two.

        Args:
            path: The file or directory.
        """
        return await run_sync(self._exists, path)

    async def search_files(
        self, pattern: str = "**/*", path: str = ".", limit: Limit = 200
    ) -> dict[str, Any]:
        """Find files by name. Gives their paths, sorted; `truncated` says there are more.

        Args:
            pattern: A glob for paths relative to `path`: `**/*.py` or `*.py` for all below,
                `docs/*.md` for one directory; `{a,b}` means either. Directories such as
                .git and node_modules are left out unless the pattern names them.
            path: The directory to search.
            limit: Most paths.
        """
        return await run_sync(partial(self._search.files, pattern, path, limit=limit))

    async def grep(
        self,
        pattern: str,
        path: str = ".",
        glob: str = "",
        ignore_case: bool = False,
        limit: Limit = 200,
        context: Annotated[int, Field(ge=0, le=20)] = 0,
    ) -> dict[str, Any]:
        r"""Find lines of text files. Gives `path`, `line` (from 1) and `text` of each.

        Binary files are left out. Long lines are cut around the match. `truncated` says
        that not everything was searched or shown: narrow the search then.

        Args:
            pattern: A regular expression in RE2's syntax, matched within a line; no
                look-around and no backreferences. Escape what is meant literally: `f\(x`.
            path: The directory or file to search.
            glob: Only files that fit this glob, such as `*.py`.
            ignore_case: Whether capital and small letters are the same.
            limit: Most lines.
            context: How many lines to show before and after each.
        """
        work = partial(
            self._search.grep,
            pattern,
            path,
            glob=glob,
            ignore_case=ignore_case,
            limit=limit,
            context=context,
        )
        return await run_sync(work)

    async def read_file(
        self,
        path: str,
        start_line: Annotated[int, Field(ge=1)] = 1,
        max_lines: Annotated[int, Field(ge=1, le=1_000_000)] = 2000,
    ) -> str:
        """Read a text file. Where lines are left out, the last line says how to go on.

        Args:
            path: The file.
            start_line: The first line to read, from 1.
            max_lines: Most lines.
        """
        text = await run_sync(self._files.read, path)
        return excerpt(
            text,
            path,
            start_line=start_line,
            max_lines=max_lines,
            max_chars=self._max_chars,
        )

    async def write_file(self, path: str, content: str) -> dict[str, Any]:
        """Write a text file. A file that exists is replaced; missing directories are made.

        To change a part of a file, use edit_file.

        Args:
            path: The file.
            content: All that will stand in it.
        """
        return await run_sync(self._files.write, path, content)

    async def edit_file(
        self,
        path: str,
        old: str,
        new: str,
        count: Annotated[int, Field(ge=1, le=100_000)] = 1,
        replace_all: bool = False,
    ) -> dict[str, Any]:
        """Replace a text in a file. Nothing is changed unless it occurs as often as said.

        Args:
            path: The file.
            old: The text as it stands in the file, with blanks and line ends; as many lines
                as make it unique.
            new: What stands there afterwards.
            count: How often `old` occurs; all of them are replaced.
            replace_all: Replace it however often it occurs.
        """
        work = partial(
            self._files.edit, path, old, new, count=count, replace_all=replace_all
        )
        return await run_sync(work)

    async def delete_file(self, path: str) -> dict[str, Any]:
        """Delete one file, for good. Directories are not deleted.

        Args:
            path: The file.
        """
        return await run_sync(self._files.delete, path)

    def _exists(self, path: str) -> dict[str, Any]:
        place = self._roots.locate(path)
        status = self._roots.status(place)
        kind = "" if status is None else kind_of(status.st_mode)
        return {"path": place.shown, "exists": status is not None, "type": kind}
