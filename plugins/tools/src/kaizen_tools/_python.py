"""Where the code of this very program is, which nothing confines when it runs again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import kaizen

from kaizen_tools._order import is_below

__all__ = ["PythonPaths", "python_paths"]


@dataclass(frozen=True, slots=True)
class PythonPaths:
    """What commands could put code in that this program runs.

    Attributes:
        kept: Directories below a root, none below another.
        exposed: Those that are roots or in a root that is in them, or that a link in a root
            leads to. They cannot be kept.
    """

    kept: tuple[str, ...]
    exposed: tuple[str, ...]


def python_paths(roots: Sequence[str], *, is_path_writable: bool) -> PythonPaths:
    """Find what has to be kept from commands.

    Args:
        roots: Directories that commands may change, without links.
        is_path_writable: Whether they may change what is imported from elsewhere than the
            environment: an editable install, for instance.
    """
    spelled = [*_always(), *(() if is_path_writable else _imported())]
    real = sorted({os.path.realpath(path) for path in spelled})
    below = [path for path in real if path not in roots and _is_in(path, roots)]
    kept = tuple(path for path in below if not _is_in(path, below))
    linked = {
        path
        for path in spelled
        if _is_in(path, roots) and path not in real and not _is_in(path, kept)
    }
    exposed = sorted({*linked, *(path for path in real if path in roots)})
    return PythonPaths(kept, tuple(exposed))


def _always() -> Iterator[str]:
    yield from (sys.prefix, sys.base_prefix)
    if sys.executable:
        yield str(Path(sys.executable).parent)
        yield str(Path(sys.executable).resolve().parent)
    yield str(Path(__file__).parent)
    yield str(Path(kaizen.__file__).parent)


def _imported() -> Iterator[str]:
    """Give what is imported from; an empty name is the working directory."""
    return (os.path.abspath(path) for path in sys.path)  # noqa: PTH100 - keeps links


def _is_in(path: str, directories: Sequence[str]) -> bool:
    return any(is_below(path, each) for each in directories)
