"""A run that goes on without its store says so once, not at every write."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from kaizen import BaseAgent, Kernel, current_run, tool
from kaizen.errors import StorageUnavailableError
from kaizen.ports import StoredEntry
from kaizen.testing import Call, MemoryCheckpointStore, ModelPlugin, ScriptedModel

pytestmark = pytest.mark.anyio


class Full(MemoryCheckpointStore):
    """A disk that is full for some writes."""

    def __init__(self, *full: int) -> None:
        super().__init__()
        self.writes = 0
        self.full = full

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        self.writes += 1
        if self.writes in self.full:
            raise StorageUnavailableError("the disk", "is full", "Free some space.")
        await super().append(run_id, entries, token=token)


@tool(danger="safe")
async def look(number: int) -> str:
    """Look."""
    return "seen"


def alone(model: ScriptedModel) -> Kernel:
    return Kernel(
        plugins=[ModelPlugin(model)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    )


async def told_by(store: Full, caplog: pytest.LogCaptureFixture, *, at_once: int) -> str:
    """Let a run go on over the outages of a store; return what it warns of, a line each."""
    turn = [Call("look", {"number": number}) for number in range(at_once)]
    model = ScriptedModel(turn, turn, turn, "done")
    async with alone(model) as kernel:
        agent = BaseAgent(
            {"on_save_error": "continue"},
            "question -> answer",
            tools=[look],
            kernel=kernel,
            store=store,
        )
        with caplog.at_level(logging.INFO, "kaizen"):
            await agent.run(question="?")
    return "\n".join(each.getMessage() for each in caplog.records)


@pytest.mark.parametrize("at_once", [1, 4])
async def test_an_outage_is_told_once_and_its_end_once(
    caplog: pytest.LogCaptureFixture, at_once: int
) -> None:
    store = Full(2, 3, 4, 6, 7)
    told = await told_by(store, caplog, at_once=at_once)

    assert store.writes > 7
    assert told.count("goes on, and is not kept: [CHECKPOINT_003] the disk is full") == 2
    assert told.count("is kept again") == 2


async def test_an_outage_without_an_end_is_told_once_while_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Full(*range(1, 1_000))
    told = await told_by(store, caplog, at_once=1)

    assert store.writes > 7
    assert told.count("goes on, and is not kept") == 1
    assert "again" not in told


async def test_the_end_of_an_outage_is_told_also_where_the_run_does_not_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Full(*range(1, 1_000))
    told: list[str] = []

    @tool(danger="safe")
    async def look_twice() -> str:
        """Look during an outage, and after it."""
        log = current_run().log
        await log.settle()
        told.append(caplog.text)
        store.full = ()
        await log.flush()  # as it is written in the background
        told.append(caplog.text)
        return "seen"

    model = ScriptedModel([Call("look_twice", {})], "done")
    async with alone(model) as kernel:
        config = {"on_save_error": "continue", "durability": "async"}
        agent = BaseAgent(
            config, "question -> answer", tools=[look_twice], kernel=kernel, store=store
        )
        await agent.run(question="?")

    assert ["goes on, and is not kept" in each for each in told] == [True, True]
    assert ["is kept again" in each for each in told] == [False, True]
