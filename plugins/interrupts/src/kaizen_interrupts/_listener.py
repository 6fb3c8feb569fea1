"""The receiver's side: takes commands for runs from their stores, and carries them out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from kaizen.ports import CheckpointStore
    from kaizen.run import Run

    from kaizen_interrupts._manager import InterruptManager

__all__ = ["Listener"]

STORE_TIMEOUT_S = 30.0
PUT_BACK_S = 5.0
RETRY_S = 5.0
_LOG = logging.getLogger("kaizen")


class Listener:
    """Looks for commands for the runs of a manager, as long as one of them has a store.

    Args:
        manager: Knows the runs.
        poll_interval: How often it looks, in seconds.
    """

    def __init__(self, manager: InterruptManager, poll_interval: float) -> None:
        self._manager = manager
        self._poll_interval = poll_interval
        self._wake = anyio.Event()
        self._retry_at: dict[int, float] = {}
        self._told: set[str] = set()
        self._late: dict[str, list[tuple[CheckpointStore, bytes]]] = {}

    def wake(self) -> None:
        """Look at once, since a run with a store begins."""
        self._wake.set()

    async def listen(self) -> None:
        """Look for commands until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while stores := self._stores():
                self._told.intersection_update(
                    run_id for _, runs in stores for run_id in runs
                )
                for store, runs in stores:
                    await self._receive(store, runs)
                await anyio.sleep(self._poll_interval)

    def _stores(self) -> list[tuple[CheckpointStore, dict[str, Run]]]:
        """Return the stores that runs have now, each with its runs."""
        found: dict[int, tuple[CheckpointStore, dict[str, Run]]] = {}
        for run in self._manager.runs:
            if run.plan.keeping is not None:
                store = run.plan.keeping.store
                found.setdefault(id(store), (store, {}))[1][run.id] = run
        return list(found.values())

    async def _receive(self, store: CheckpointStore, runs: dict[str, Run]) -> None:
        failed = id(store) in self._retry_at
        if failed and anyio.current_time() < self._retry_at[id(store)]:
            return
        problem: Exception | None = None
        with anyio.move_on_after(STORE_TIMEOUT_S) as scope:
            try:
                received = await store.receive(list(runs))
                with anyio.CancelScope(shield=True):  # what was taken is nowhere else
                    for run_id, message in received:
                        await self._carry_out(store, runs.get(run_id), run_id, message)
            except Exception as error:  # noqa: BLE001 - a stranger's; it may come back
                problem = error
        if scope.cancelled_caught:
            problem = TimeoutError(f"it did not answer in {STORE_TIMEOUT_S:g} s")
        if problem is None:
            self._retry_at.pop(id(store), None)
            return
        self._retry_at[id(store)] = anyio.current_time() + RETRY_S
        if not failed:
            _LOG.warning("commands for runs cannot be received now: %s", problem)

    async def _carry_out(
        self, store: CheckpointStore, run: Run | None, run_id: str, message: bytes
    ) -> None:
        from kaizen_interrupts._commands import SteerCommand, read_command

        try:
            command = read_command(message)
        except ValueError as error:
            self._drop(run, run_id, len(message), str(error))
            return
        done = run is not None and command.carry_out(run)
        if not done and isinstance(command, SteerCommand):
            self._late.setdefault(run_id, []).append((store, message))
            if run not in self._manager.runs:
                await self.put_back(run_id)
        if not done:
            _LOG.info("run %s: %r changed nothing", run_id, command.command)

    async def put_back(self, run_id: str) -> None:
        """Leave again what a run that has ended could not hear, for when it is resumed.

        Until then it is kept here: in the store it would be found at each look.
        """
        late = self._late.pop(run_id, ())
        if not late:
            return
        problem: Exception = TimeoutError("its store did not answer")
        with anyio.move_on_after(PUT_BACK_S, shield=True):
            try:
                for store, message in late:
                    await store.send(run_id, message)
            except Exception as error:  # noqa: BLE001 - a stranger's, and others wait
                problem = error
            else:
                return
        _LOG.warning("run %s: what steers it came too late: %s", run_id, problem)

    def _drop(self, run: Run | None, run_id: str, size: int, problem: str) -> None:
        """Report a message that is no command; in the log of a run, the first one only."""
        _LOG.warning(
            "run %s: a message of %d bytes is no command and was dropped: %s",
            run_id,
            size,
            problem,
        )
        if run is None or run.ended or run_id in self._told:
            return
        self._told.add(run_id)
        data = {"bytes": size, "problem": problem}
        run.note("interrupts", "message_dropped", data)
