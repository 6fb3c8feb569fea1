"""The server in a process of its own, for what measures memory or CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["serving_apart"]


@contextmanager
def serving_apart(*arguments: str) -> Iterator[str]:
    """Run `python -m tests.wire` with these arguments, and give its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.wire", *arguments],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
