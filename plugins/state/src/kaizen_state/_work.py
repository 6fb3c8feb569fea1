"""File work for an event loop: in threads, and the shortest of it without two switches.

To hand work to a thread and be woken by it takes an event loop as long as a fast disk takes
to write. So for short work there is one thread of our own, and the loop waits for it where
it stands, for half a millisecond at most; if that does not do, it waits as for any other
thread, and does not try again for a while. However slow the disk is, the loop is held up
no longer than that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar, cancel_shielded_checkpoint, checkpoint_if_cancelled

__all__ = ["Work"]

Value = TypeVar("Value")

PATIENCE_S = 0.0005
IDLE_S = 1.0
MAX_THREADS = 16
_IN_A_ROW = 16
_MAX_PAUSE = 256


class _Job(Generic[Value]):
    """Something to do, and what came of it."""

    __slots__ = ("_done", "_given", "_work", "error", "value")

    def __init__(self, work: Callable[..., Value], given: tuple[Any, ...]) -> None:
        self._work = work
        self._given = given
        self._done = threading.Lock()
        self._done.acquire()
        self.value: Any = None
        self.error: BaseException | None = None

    def carry_out(self) -> None:
        try:
            self.value = self._work(*self._given)
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            self.error = error
        finally:
            self._done.release()

    def wait(self, timeout_s: float = -1) -> bool:
        return self._done.acquire(timeout=timeout_s)

    def result(self) -> Value:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        value: Value = self.value
        return value


class Work:
    """Carries out what blocks. What has begun is finished, also if nobody waits for it."""

    def __init__(self) -> None:
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar("kaizen_state_threads")
        self._mutex = threading.Lock()
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._pause = 1
        self._skip = 0
        self._in_a_row = 0

    async def do(self, work: Callable[..., Value], *given: Any) -> Value:
        """Do something in a thread."""
        await checkpoint_if_cancelled()
        with anyio.CancelScope(shield=True):
            value = await anyio.to_thread.run_sync(work, *given, limiter=self._threads())
        return value  # noqa: RET504 - a scope may swallow, as types go

    async def do_shortly(self, work: Callable[..., Value], *given: Any) -> Value:
        """Do something in a thread that is likely to take a fraction of a millisecond."""
        if self._skip:
            self._skip -= 1
            return await self.do(work, *given)
        await checkpoint_if_cancelled()
        job = _Job(work, given)
        if not self._hand_over(job):
            return await self.do(work, *given)
        try:
            if job.wait(PATIENCE_S):
                self._pause = 1
                await self._let_others()
            else:
                self._skip, self._pause = self._pause, min(self._pause * 2, _MAX_PAUSE)
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(job.wait, limiter=self._threads())
            return job.result()
        finally:
            self._busy = False

    def close(self) -> None:
        """End the thread, and wait for it."""
        with self._mutex:
            thread = self._thread
            if thread is not None:
                self._jobs.put(None)
        if thread is not None:
            thread.join()

    def _hand_over(self, job: _Job[Any]) -> bool:
        with self._mutex:
            if self._busy:
                return False
            self._busy = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._serve, name="kaizen-state", daemon=True
                )
                self._thread.start()
            self._jobs.put(job)
        return True

    async def _let_others(self) -> None:
        """Let other tasks run now and then, as they do when this one waits."""
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            await cancel_shielded_checkpoint()

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_S)
            except Empty:
                with self._mutex:
                    if self._jobs.empty():
                        self._thread = None
                        return
                continue
            if job is None:
                with self._mutex:
                    self._thread = None
                return
            job.carry_out()
            del job

    def _threads(self) -> anyio.CapacityLimiter:
        """Return what bounds the threads; those of others, such as tools, do not count."""
        try:
            return self._limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(MAX_THREADS)
            self._limiter.set(limiter)
            return limiter
