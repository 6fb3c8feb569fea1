"""The kernel that agents use when they were given none.

There is one for each event loop, started when it is first needed and stopped when the loop
ends. Its plugins live in a task of their own: a thread that only waits asks the loop to run
that task, and the loop cancels it at its end, as it does with every task that is left.
"""

from __future__ import annotations

from threading import Thread

import anyio
from anyio import CancelScope, from_thread
from anyio.lowlevel import RunVar, current_token

from kaizen.kernel import Kernel

__all__ = ["default_kernel"]

STOP_TIMEOUT_S = 10.0
_HOST: RunVar[_Host | None] = RunVar("kaizen_default_kernel")


class _Host:
    """Keeps one kernel running for as long as the event loop runs."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.ready = anyio.Event()
        self.error: BaseException | None = None

    def start(self) -> None:
        token = current_token()

        def wait() -> None:
            try:
                from_thread.run(self._live, token=token)
            except BaseException as error:  # noqa: BLE001 - the loop has ended
                self.error = self.error or error

        Thread(target=wait, name="kaizen-default-kernel", daemon=True).start()

    async def _live(self) -> None:
        stops = False
        try:
            with CancelScope() as scope:
                async with self.kernel:
                    self.ready.set()
                    try:
                        await anyio.sleep_forever()
                    except anyio.get_cancelled_exc_class():
                        # The loop ends. What follows is the orderly stop, not the work.
                        stops = True
                        scope.shield = True
                        scope.deadline = anyio.current_time() + STOP_TIMEOUT_S
        except anyio.get_cancelled_exc_class():
            # A task group of a plugin remembers that its task was cancelled, and says so
            # once more when it is left. Nobody above waits for that: the task is done.
            if not stops:
                raise
        except Exception as error:  # noqa: BLE001 - raised to whoever waits for the kernel
            self.error = error
        finally:
            self.ready.set()


async def default_kernel() -> Kernel:
    """Return the default kernel of this event loop, started.

    Raises:
        KaizenError: It could not start.
    """
    host = _HOST.get(None)
    if host is None:
        host = _Host()
        _HOST.set(host)
        host.start()
    await host.ready.wait()
    if not host.kernel.running:
        _HOST.set(None)
        raise host.error or RuntimeError("the default kernel has stopped")
    return host.kernel
