"""What it takes to start: imports, a kernel with its plugins, the command line."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from statistics import median

from tests.benchmarks._measure import ratio
from tests.benchmarks._processes import Processes, Program
from tests.benchmarks._table import Row, Table

EVERYTHING = "import kaizen\nfor name in kaizen.__all__: getattr(kaizen, name)"
BASE = "import anyio, pluggy, pydantic\npydantic.BaseModel"
LOOP = """
import anyio
anyio.run(anyio.sleep, 0)
async def start():
    async with kaizen.Kernel():
        pass
"""


def test_imports_and_the_start_of_a_kernel(table: Table, processes: Processes) -> None:
    installed = len(entry_points(group="kaizen.plugins"))
    programs = {
        "base": Program(BASE),
        "kaizen": Program("import kaizen"),
        "everything": Program(EVERYTHING),
        "kernel": Program("anyio.run(start)", prepare=EVERYTHING + LOOP),
    }

    samples = processes.interleave(programs)

    cpu = {name: [each.cpu_s for each in found] for name, found in samples.items()}
    peak = {
        name: median(each.peak_bytes for each in found) / 1_000_000
        for name, found in samples.items()
    }
    against = "CPU, against importing anyio, pluggy and pydantic"
    table.add(
        Row(
            what=f"`import kaizen`; {against}",
            measured=ratio(cpu["kaizen"], cpu["base"]),
            form="{:.2f} ×",
            reach=1.3,
        ),
        Row(
            what=f"`import kaizen` and every name in it; {against}",
            measured=ratio(cpu["everything"], cpu["base"]),
            form="{:.2f} ×",
            reach=1.3,
        ),
        Row(
            what="memory of a process after `import kaizen`",
            measured=peak["kaizen"],
            form="{:.1f} MB",
            reach=40,
        ),
        Row(
            what="memory of a process after `import kaizen` and every name in it",
            measured=peak["everything"],
            form="{:.1f} MB",
            reach=40,
        ),
        Row(
            what="for comparison: memory after importing anyio, pluggy and pydantic",
            measured=peak["base"],
            form="{:.1f} MB",
        ),
        Row(
            what=f"start and stop of a kernel with {installed} plugins; "
            "CPU, against importing every name",
            measured=ratio(cpu["kernel"], cpu["everything"]),
            form="{:.2f} ×",
            reach=1,
        ),
    )


def test_the_command_line(table: Table, processes: Processes) -> None:
    command = Path(sys.executable).with_name("kaizen")

    measured = processes.whole(
        {
            "python": [sys.executable, "-c", "pass"],
            "kaizen": [str(command), "--help"],
        }
    )

    table.add(
        Row(
            what="`kaizen --help`; CPU, against a Python that does nothing",
            measured=ratio(measured["kaizen"], measured["python"]),
            form="{:.1f} ×",
        )
    )
