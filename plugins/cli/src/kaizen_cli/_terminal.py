"""Where the command prints: results to standard output, all else to standard error."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from kaizen_cli._options import Options
from kaizen_cli._text import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Flow", "Terminal"]


class Terminal:
    """Prints what is harmless: no text is read as markup or obeyed by the terminal.

    Attributes:
        interactive: Whether somebody is watching standard error.
    """

    def __init__(self, options: Options) -> None:
        self._color = options.color
        self._warned: set[str] = set()
        self.interactive = sys.stderr.isatty()

    @cached_property
    def out(self) -> Console:
        """Standard output."""
        return self._console(stderr=False)

    @cached_property
    def err(self) -> Console:
        """Standard error."""
        return self._console(stderr=True)

    def print(
        self, text: str = "", *, style: str = "", indent: int = 0, fold: bool = True
    ) -> None:
        """Print a text to standard output.

        Args:
            text: What to print.
            style: How it looks.
            indent: How far its lines are set in.
            fold: Whether lines end where the terminal does. A command has to be one line,
                or it cannot be copied.
        """
        self._print(self.out, text, style, indent, fold=fold)

    def note(self, text: str, *, style: str = "dim", fold: bool = True) -> None:
        """Tell the user something that is not a result, on standard error."""
        self._print(self.err, text, style, 0, fold=fold)

    def warn(self, text: str) -> None:
        """Tell the user, once, of something that may go wrong."""
        if text not in self._warned:
            self._warned.add(text)
            self.note(text, style="yellow")

    def write(self, text: str) -> None:
        """Print a piece of a text to standard output, and nothing behind it."""
        sys.stdout.write(visible(text))
        sys.stdout.flush()

    def show(self, renderable: RenderableType) -> None:
        """Print a table or the like, whose texts are visible already."""
        self.out.print(renderable)

    def table(
        self,
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        styles: Sequence[str],
        cut: Collection[str] = (),
    ) -> None:
        """Print a table of texts; where nobody watches, with lines however long they are.

        Args:
            heads: The names of the columns.
            rows: A text for each column.
            styles: The style of each row.
            cut: The columns that alone make room, by being cut off, not folded; by default
                all do, and are folded.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for head in heads:
            fixed = bool(cut) and head not in cut
            table.add_column(head, overflow="fold", no_wrap=fixed)
        widest = 0
        for row, style in zip(rows, styles, strict=True):
            cells = [visible(cell) for cell in row]
            widest = max(widest, sum(map(len, cells)))
            texts = [
                Text(cell, no_wrap=True, overflow="ellipsis") if head in cut else Text(cell)
                for head, cell in zip(heads, cells, strict=True)
            ]
            table.add_row(*texts, style=style)
        if not self.out.is_terminal:
            self.out.width = max(80, widest + 80)
        self.show(table)

    def _print(
        self, console: Console, text: str, style: str, indent: int, *, fold: bool
    ) -> None:
        from rich.padding import Padding
        from rich.text import Text

        shown = Text(visible(text), style=style)
        fold = fold and console.is_terminal
        if fold and indent:
            console.print(Padding(shown, (0, 0, 0, indent)))
            return
        margin = " " * indent
        lines = Text("\n").join(Text(margin) + line for line in shown.split("\n"))
        console.print(lines, soft_wrap=not fold)

    def _console(self, *, stderr: bool) -> Console:
        from rich.console import Console

        return Console(
            stderr=stderr,
            color_system="auto" if self._color else None,
            markup=False,
            emoji=False,
            highlight=False,
        )


class Flow:
    """Writes a text that comes in pieces, and breaks its lines between words.

    Where standard output is no terminal, lines are left as they are.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._width = terminal.out.width if terminal.out.is_terminal else 0
        self._column = 0
        self._gap = ""
        self._word = ""

    def write(self, text: str) -> None:
        """Write a piece; its last word may have to wait for its end."""
        if not self._width:
            self._terminal.write(text)
            return
        for piece in re.findall(r"\n|[^\S\n]+|\S+", visible(text)):
            if not piece.isspace():
                self._word += piece
                continue
            self.flush()
            if piece == "\n":
                self._terminal.write("\n")
                self._column = 0
            else:
                self._gap = piece

    def flush(self) -> None:
        """Write the word that waits."""
        from rich.cells import cell_len

        if self._word:
            needed = cell_len(self._gap + self._word)
            if self._column and self._column + needed > self._width:
                self._terminal.write("\n")
                self._column, self._gap = 0, ""
                needed = cell_len(self._word)
            self._terminal.write(self._gap + self._word)
            self._column += needed
        self._gap = self._word = ""
