"""Tools that say in which folder they begin, so that others can judge relative paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from kaizen.tools import Danger, Effect, FunctionTool, ToolSpec

__all__ = ["PlacedSpec", "placed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSpec(ToolSpec):
    """What is known of a tool, and where it begins.

    Attributes:
        directory: The folder to which the paths that it is given are relative, and in which
            it starts commands; `""` if there is none.
        elsewhere: What it takes that folder itself to be as well: roots that are not in it.
    """

    directory: str = ""
    elsewhere: tuple[str, ...] = ()


class _Placed(FunctionTool):
    """A tool made of a function, which says where it begins."""

    __slots__ = ("_directory", "_elsewhere", "_told")

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        directory: str,
        elsewhere: tuple[str, ...],
        **options: Any,
    ) -> None:
        super().__init__(function, **options)
        self._directory = directory
        self._elsewhere = elsewhere
        self._told: PlacedSpec | None = None

    @property
    def spec(self) -> PlacedSpec:
        """What is known of the tool without calling it."""
        if self._told is None:
            known = super().spec
            told = {each.name: getattr(known, each.name) for each in fields(known)}
            self._told = PlacedSpec(
                **told, directory=self._directory, elsewhere=self._elsewhere
            )
        return self._told


def placed(
    function: Callable[..., Any],
    *,
    directory: str,
    elsewhere: tuple[str, ...] = (),
    danger: Danger,
    reads: bool | None = None,
    external: bool = False,
    idempotent: bool | None = None,
    **options: Any,
) -> FunctionTool:
    """Make a tool of a typed function, as `kaizen.tool` does, that begins in a folder."""
    effect = Effect.of(danger, reads=reads, external=external, idempotent=idempotent)
    return _Placed(
        function, directory=directory, elsewhere=elsewhere, effect=effect, **options
    )
