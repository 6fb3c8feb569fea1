"""What it takes to run a shell command, in a sandbox and without one."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import anyio
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
PAUSE_S = 0.05


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


def after_a_pause(work: Callable[[], Awaitable[object]]) -> Subject:
    """Measure what comes after a time in which nothing is asked for, in seconds.

    What a command needs is prepared meanwhile; a model thinks longer between two of them.
    """

    async def repeat(count: int) -> float:
        taken = 0.0
        for _ in range(count):
            await anyio.sleep(PAUSE_S)
            started = perf_counter()
            await work()
            taken += perf_counter() - started
        return taken / count

    return repeat


async def test_what_a_command_takes(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subjects: dict[str, Subject] = {"bare": after_a_pause(bare)}
    async with AsyncExitStack() as stack:
        for sandbox in ("none", "landlock", "bubblewrap"):
            try:
                tool = await opened(stack, sandbox)
            except ConfigurationError:
                continue
            work = partial(run, tool, sandbox)
            subjects[sandbox] = after_a_pause(work)
            subjects[f"{sandbox}, one after the other"] = awaited(work, perf_counter)
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
            where = f"in {sandbox}".replace("in none", "without a sandbox")
            reach = None if "," in sandbox else REACH_MS
            table.add(
                Row(
                    what=f"`bash_command` {where}",
                    measured=median(times) * 1e3,
                    form="{:.2f} ms",
                    reach=reach,
                ),
                Row(
                    what=f"`bash_command` {where}, against `bash -c true`",
                    measured=ratio(times, found["bare"]),
                    form="{:.1f} ×",
                ),
            )
