"""Measures in fresh processes: what is done once, such as an import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import NamedTuple, TypeVar

__all__ = ["Processes", "Program", "Sample"]

Key = TypeVar("Key")
Value = TypeVar("Value")

_FRAME = """
{prepare}
import time
started = time.process_time()
{work}
spent = time.process_time() - started
try:
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
except OSError:
    from resource import RUSAGE_SELF, getrusage
    peak = getrusage(RUSAGE_SELF).ru_maxrss
print(spent, peak * 1024)
"""


class Program(NamedTuple):
    """Code for a fresh process.

    Attributes:
        work: What is measured.
        prepare: What is done first.
    """

    work: str
    prepare: str = ""


class Sample(NamedTuple):
    """What one fresh process took.

    Attributes:
        cpu_s: Seconds of CPU that the work took.
        peak_bytes: The most memory that the process ever had.
    """

    cpu_s: float
    peak_bytes: int


class Processes:
    """Starts processes of this Python, each for one measurement.

    They keep compiled modules in a folder of their own, so that it does not matter what
    was compiled before. The first process of each kind compiles, and does not count.

    Args:
        folder: An empty folder, to work in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "KAIZEN_"))
        }
        self._environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")

    def interleave(
        self, programs: Mapping[str, Program], *, rounds: int = 11
    ) -> dict[str, list[Sample]]:
        """Measure programs in turns; return samples by program and round."""
        return _in_turns(programs, self._sample, rounds)

    def whole(
        self, commands: Mapping[str, Sequence[str]], *, rounds: int = 11
    ) -> dict[str, list[float]]:
        """Measure commands in turns; return seconds of CPU, start and end included."""
        return _in_turns(commands, self._cpu_s, rounds)

    def _sample(self, program: Program) -> Sample:
        code = _FRAME.format(**program._asdict())
        spent, peak = self._run([sys.executable, "-c", code]).split()
        return Sample(float(spent), int(peak))

    def _cpu_s(self, command: Sequence[str]) -> float:
        before = getrusage(RUSAGE_CHILDREN)
        self._run(command)
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=True,
            timeout=60,
        )
        return done.stdout


def _in_turns(
    subjects: Mapping[str, Key], measure: Callable[[Key], Value], rounds: int
) -> dict[str, list[Value]]:
    for each in subjects.values():
        measure(each)
    measured: dict[str, list[Value]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, each in subjects.items():
            measured[name].append(measure(each))
    return measured
