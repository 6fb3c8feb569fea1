"""Time limits that cost nothing until the work has to wait.

Entering a cancel scope costs several microseconds, and most hooks and tools finish without
suspending. The coroutine is therefore stepped by hand: only while it waits is a scope open
around the wait. Scopes that the coroutine itself opened lie outside ours and are left in
order, since ours is closed again before the coroutine goes on.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from anyio import CancelScope, current_time

__all__ = ["GRACE_S", "Wait", "bounded"]

Value = TypeVar("Value")

GRACE_S = 5.0
"""How long cancelled work may clean up before it is cancelled again, in seconds."""


class Wait:
    """One suspension of a coroutine: what it is resumed with, and whether time ran out."""

    __slots__ = ("raised", "sent", "timed_out")

    def __init__(self) -> None:
        self.sent: Any = None
        self.raised: BaseException | None = None
        self.timed_out = False

    def until(self, yielded: Any, deadline: float) -> Generator[Any, Any, None]:
        """Hand what the coroutine yielded to the event loop, at most until a deadline."""
        scope = CancelScope(deadline=deadline)
        try:
            with scope:
                try:
                    self.sent = yield yielded
                except BaseException as error:
                    self.raised = error
                    raise
        except BaseException as error:  # noqa: BLE001 - thrown into the coroutine by resume
            self.raised = error
        self.timed_out = scope.cancelled_caught

    def resume(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Let the coroutine go on; return what it yields next."""
        if self.raised is None:
            return coroutine.send(self.sent)
        return coroutine.throw(self.raised)


@types.coroutine
def bounded(
    coroutine: Coroutine[Any, Any, Value], timeout_s: float
) -> Generator[Any, Any, Value]:
    """Await a coroutine for at most some seconds.

    When time runs out the coroutine is cancelled once, and once more whenever it then takes
    longer than `GRACE_S` to clean up: what it shields is left to finish in that time.

    Raises:
        TimeoutError: Time ran out; the coroutine was cancelled and has ended.
    """
    timed_out = False
    try:
        yielded = coroutine.send(None)
        deadline = current_time() + timeout_s
        while True:
            wait = Wait()
            yield from wait.until(yielded, deadline)
            if wait.timed_out:
                timed_out = True
                deadline = current_time() + GRACE_S
            try:
                yielded = wait.resume(coroutine)
            except StopIteration:
                raise
            except BaseException as error:
                if wait.timed_out and error is wait.raised:
                    raise TimeoutError from None
                raise
    except StopIteration as stop:
        if timed_out:
            raise TimeoutError from None
        return stop.value  # type: ignore[no-any-return]
