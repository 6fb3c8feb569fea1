"""What it takes to run a shell command, in a sandbox and without one."""

from __future__ import annotations

import subprocess
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytest
from anyio.to_thread import run_sync
from kaizen.errors import ConfigurationError
from kaizen.kernel import Kernel
from kaizen.tools import Tool
from kaizen_tools import ToolsPlugin

from tests.benchmarks._measure import Subject, awaited, interleave, ratio
from tests.benchmarks._table import Row, Table

pytestmark = pytest.mark.asyncio

REACH_MS = 10.0


async def bare() -> None:
    """Start what every command starts, with nothing around it."""
    command = ["/bin/bash", "-c", "true"]
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True}
    await run_sync(partial(subprocess.run, command, check=True, **options))


async def opened(stack: AsyncExitStack, sandbox: str) -> Tool:
    settings = {"tools": {"bash": {"sandbox": sandbox}}}
    options: dict[str, Any] = {"discover": False, "config_file": False, "environ": {}}
    kernel = Kernel(plugins=[ToolsPlugin], settings=settings, **options)
    await stack.enter_async_context(kernel)
    return await kernel.get(Tool, "bash_command")  # type: ignore[type-abstract]


async def run(tool: Tool, sandbox: str) -> None:
    result = await tool.invoke({"command": "true", "timeout_s": 60.0}, None)  # type: ignore[arg-type]
    assert (result["exit_code"], result["sandbox"]) == (0, sandbox)


async def test_what_a_command_takes(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subjects: dict[str, Subject] = {"bare": awaited(bare, perf_counter)}
    async with AsyncExitStack() as stack:
        for sandbox in ("none", "landlock", "bubblewrap"):
            try:
                tool = await opened(stack, sandbox)
            except ConfigurationError:
                continue
            subjects[sandbox] = awaited(partial(run, tool, sandbox), perf_counter)
        found = await interleave(subjects, rounds=41, at_least_s=0.02)

    table.add(
        Row(
            what="for comparison: `bash -c true`, started and waited for",
            measured=median(found["bare"]) * 1e3,
            form="{:.2f} ms",
        )
    )
    for sandbox, times in found.items():
        if sandbox != "bare":
            where = "without a sandbox" if sandbox == "none" else f"in {sandbox}"
            table.add(
                Row(
                    what=f"`bash_command` {where}",
                    measured=median(times) * 1e3,
                    form="{:.2f} ms",
                    reach=REACH_MS,
                ),
                Row(
                    what=f"`bash_command` {where}, against `bash -c true`",
                    measured=ratio(times, found["bare"]),
                    form="{:.1f} ×",
                ),
            )
