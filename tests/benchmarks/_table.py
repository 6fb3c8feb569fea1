"""The table of what was measured, as text and for the page."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

__all__ = ["Row", "Table"]

HEADINGS = ("what", "measured", "reach", "peer", "seed", "verdict")
BEGIN = "<!-- what follows is written by the benchmarks -->"
END = "<!-- until here -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that was measured; the less, the better.

    Attributes:
        form: How the number is written, such as `{:.2f} units`.
        reach: What it has to come to at most, or `None` if it is only told.
        peer: What another framework took, or `""`.
        seed: What the framework took that ours follows, or `""`.
    """

    what: str
    measured: float
    form: str = "{:.2f} units"
    reach: float | None = None
    peer: str = ""
    seed: str = ""

    @property
    def missed(self) -> bool:
        """Whether more was measured than there may be."""
        return self.reach is not None and self.measured > self.reach

    @property
    def verdict(self) -> str:
        """Whether it was reached, and if not, by how much it was missed."""
        if self.reach is None:
            return ""
        if not self.missed:
            return "reached"
        return f"missed by {self.measured / self.reach - 1:.0%}".replace("%", " %")

    def cells(self) -> tuple[str, ...]:
        """Return what stands in the table, by heading."""
        _, _, kind = self.form.partition("}")
        reach = "" if self.reach is None else f"≤ {self.reach:g}{kind}"
        measured = self.form.format(self.measured)
        return (self.what, measured, reach, self.peer, self.seed, self.verdict)


class Table:
    """Collects rows, and what a unit was each time that it was measured."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._units: list[float] = []

    def add(self, *rows: Row) -> None:
        """Add rows in the order in which they are shown."""
        self.rows.extend(rows)

    def saw_unit(self, seconds: list[float]) -> None:
        """Remember what a unit was."""
        self._units.extend(seconds)

    def title(self) -> str:
        """Say when and on what it was measured."""
        parts = [
            f"{datetime.now(UTC):%Y-%m-%d}",
            f"{platform.python_implementation()} {platform.python_version()}",
            f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
        ]
        if self._units:
            parts.append(f"1 unit = {median(self._units) * 1e6:.1f} µs")
        return " · ".join(parts)

    def as_text(self) -> str:
        """Return the table for a terminal."""
        lines = [HEADINGS, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, tuple("-" * width for width in widths))
        return "\n".join(
            "  ".join(
                cell.ljust(width) for cell, width in zip(line, widths, strict=True)
            ).rstrip()
            for line in lines
        )

    def as_markdown(self) -> str:
        """Return the table for a page."""
        lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def write(self, page: Path) -> None:
        """Put the table between the two marks of a page.

        Raises:
            ValueError: The page does not have them.
        """
        text = page.read_text(encoding="utf-8")
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            raise ValueError(f"{page} must have the lines {BEGIN!r} and {END!r} once each")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        table = f"{BEGIN}\n\n{self.title()}\n\n{self.as_markdown()}\n\n{END}"
        page.write_text(before + table + after, encoding="utf-8")
