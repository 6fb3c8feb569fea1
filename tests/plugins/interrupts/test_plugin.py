"""The plugin: its settings, what it costs to have it, and what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import pytest
from kaizen import AgentInterrupted, BaseAgent
from kaizen.errors import PluginError
from kaizen.testing import MemoryCheckpointStore, ScriptedModel
from kaizen_interrupts import (
    BudgetInterruptHandler,
    ResourceInterruptHandler,
    TimeoutInterruptHandler,
)

from .conftest import Running, Worker, default_manager

pytestmark = pytest.mark.anyio


async def test_without_settings_there_are_no_handlers(running: Running) -> None:
    async with running() as kernel:
        manager = await default_manager(kernel)
        assert manager.handlers == ()
        assert manager.check_interval == 0.5


async def test_each_limit_that_is_set_is_a_handler(running: Running) -> None:
    async with running(
        timeout_seconds=9,
        max_budget_usd="0.1",
        track_by="user",
        max_memory_mb=500,
        max_cpu_percent=80,
        check_interval=2,
    ) as kernel:
        manager = await default_manager(kernel)
        timeout, budget, resources = manager.handlers

    assert isinstance(timeout, TimeoutInterruptHandler)
    assert timeout.timeout_seconds == 9
    assert isinstance(budget, BudgetInterruptHandler)
    assert str(budget.max_budget_usd) == "0.1"
    assert budget.track_by == "user"
    assert isinstance(resources, ResourceInterruptHandler)
    assert resources.limits == {"memory": 500, "cpu": 80}
    assert manager.check_interval == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": "nan"},
        {"max_budget_usd": -1},
        {"track_by": "planet"},
        {"check_interval": 0},
        {"poll_interval": -1},
        {"max_time": 3},
    ],
    ids=str,
)
async def test_a_setting_that_makes_no_sense_is_refused(
    running: Running, settings: dict[str, Any]
) -> None:
    with pytest.raises(PluginError, match=next(iter(settings))):
        async with running(**settings):
            pass  # pragma: no cover


@pytest.mark.parametrize("at", range(0, 40, 3))
async def test_a_run_that_is_cancelled_anywhere_leaves_nothing_behind(
    running: Running, model: ScriptedModel, at: int
) -> None:
    before = len(anyio.get_running_tasks())
    async with running(timeout_seconds=60, check_interval=0.01) as kernel:
        manager = await default_manager(kernel)
        worker = Worker(model, kernel, store=MemoryCheckpointStore())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: worker.agent.run(question="?"))
            for _ in range(at):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

        names = [str(each.name) for each in anyio.get_running_tasks()]
        assert [each for each in names if "_watch" in each] == []
        assert not manager.runs
    assert len(anyio.get_running_tasks()) == before


async def test_two_kernels_in_one_process_share_no_request(
    running: Running, model: ScriptedModel
) -> None:
    async with running() as one, running() as two:
        (await default_manager(one)).request_interrupt("closed")
        model.say("yes")
        agent, other = (
            BaseAgent(signature="question -> answer", kernel=each) for each in (one, two)
        )
        with pytest.raises(AgentInterrupted, match="closed"):
            await agent.run(question="?")
        assert (await other.run(question="?")).answer == "yes"


STARTING = """
import sys
import anyio
from kaizen import Kernel

async def main():
    async with Kernel(plugins=["interrupts"], config_file=False, environ={}):
        late = ("kaizen.run", "kaizen_interrupts._commands", "psutil", "trio")
        print([name for name in late if name in sys.modules])

anyio.run(main)
"""


def test_a_kernel_starts_without_what_only_runs_need() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STARTING],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=50,
    )
    assert done.stdout.strip() == "[]"
