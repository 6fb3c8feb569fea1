"""Handlers: each decides, again and again, whether a run must stop."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from anyio import to_thread
from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)

if TYPE_CHECKING:
    from kaizen.run import Run

__all__ = [
    "BaseInterruptHandler",
    "ResourceInterruptHandler",
    "TimeoutInterruptHandler",
    "require_positive",
]

MIN_READING_S = 0.1
MIB = 1024 * 1024


class BaseInterruptHandler:
    """Decides whether runs must stop; derive from it and write `check_interrupt`.

    That may be a `def`, if there is nothing to wait for, or an `async def`.
    One handler serves any number of runs of one event loop, and must not block that. It is
    asked before each turn of a run, and at intervals while the turn goes on.

    Attributes:
        on_failure: What becomes of a run when the handler raises, or does not answer in
            `timeout_s` seconds: `stop`, since a gate that fails stays shut, or `continue`.
            It is reported either way.
        timeout_s: How long one answer may take, in seconds.
    """

    on_failure: Literal["stop", "continue"] = "stop"
    timeout_s: float = 5.0

    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        """Return the reason to stop, or `None` to go on.

        Args:
            context: What is known of the run: `run_id`, `agent_id`, `session_id`, `user`
                (the `user_id` in its metadata, or in that of a run around it), `cycles`,
                `tool_calls`, `elapsed_s`, `usage`, `cost_usd`, `metadata`, and the `run`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no check_interrupt()")

    def due_in(self, context: Mapping[str, Any]) -> float | None:
        """Return in how many seconds to ask at the latest, or `None` for no hurry."""
        return None

    def begin(self, run: Run) -> None:
        """Be told of a run, once, before it is asked about."""


class TimeoutInterruptHandler(BaseInterruptHandler):
    """Stops each run after some seconds, also in the middle of a model call.

    It goes by a clock that nobody can set. A run that is resumed starts anew, since the
    time between counts for nobody; a pause counts.

    Args:
        timeout_seconds: The time that one run may take.
        mode: Whether the turn under way may come to its end, for as long as the agent's
            `graceful_shutdown_timeout` says, or is cancelled.
    """

    def __init__(
        self, timeout_seconds: float, mode: InterruptMode = InterruptMode.GRACEFUL
    ) -> None:
        self.timeout_seconds = require_positive("timeout_seconds", timeout_seconds)
        self.mode = InterruptMode(mode)

    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        elapsed = context["elapsed_s"]
        if elapsed < self.timeout_seconds:
            return None
        return InterruptReason(
            source=InterruptSource.SYSTEM,
            mode=self.mode,
            signal=InterruptSignal.TIMEOUT,
            message=f"the run took longer than {self.timeout_seconds:g} s",
            metadata={
                "timeout_seconds": self.timeout_seconds,
                "elapsed_s": round(elapsed, 3),
            },
        )

    def due_in(self, context: Mapping[str, Any]) -> float | None:
        """Return what is left of the run's time."""
        elapsed: float = context["elapsed_s"]
        return max(0.0, self.timeout_seconds - elapsed)


class ResourceInterruptHandler(BaseInterruptHandler):
    """Stops runs while this process uses too much memory or too much of the processor.

    All runs of a process share both, so that every run that is asked about stops.

    Args:
        max_memory_mb: Most resident memory, in MiB.
        max_cpu_percent: Most CPU use since the last reading; 100 is one core. The first
            reading says nothing, and readings are a tenth of a second apart or more.
        mode: How the runs stop.
    """

    UNITS: ClassVar[Mapping[str, str]] = {"memory": "MiB", "cpu": "%"}

    def __init__(
        self,
        max_memory_mb: float | None = None,
        max_cpu_percent: float | None = None,
        mode: InterruptMode = InterruptMode.GRACEFUL,
    ) -> None:
        if max_memory_mb is None and max_cpu_percent is None:
            raise ValueError("give max_memory_mb, max_cpu_percent, or both")
        self.limits: dict[str, float] = {}
        if max_memory_mb is not None:
            self.limits["memory"] = require_positive("max_memory_mb", max_memory_mb)
        if max_cpu_percent is not None:
            self.limits["cpu"] = require_positive("max_cpu_percent", max_cpu_percent)
        self.mode = InterruptMode(mode)
        self._process: Any = None
        self._read_at = 0.0
        self._used: dict[str, float] = {}

    async def check_interrupt(self, context: Mapping[str, Any]) -> InterruptReason | None:
        if self._process is None:
            self._process = await to_thread.run_sync(_this_process)
        used = self._reading()
        for what, limit in self.limits.items():
            if used[what] > limit:
                return self._reason(what, used[what], limit)
        return None

    def _reason(self, what: str, used: float, limit: float) -> InterruptReason:
        unit = self.UNITS[what]
        return InterruptReason(
            source=InterruptSource.SYSTEM,
            mode=self.mode,
            signal=InterruptSignal.CUSTOM,
            message=f"the process uses {used:.0f} {unit} of {what}, more than {limit:g}",
            metadata={"resource": what, "used": round(used, 1), "limit": limit},
        )

    def _reading(self) -> Mapping[str, float]:
        """Return what is used; not read again within a tenth of a second."""
        now = monotonic()
        if not self._used or now - self._read_at >= MIN_READING_S:
            self._read_at = now
            self._used["memory"] = self._process.memory_info().rss / MIB
            if "cpu" in self.limits:
                self._used["cpu"] = self._process.cpu_percent(interval=None)
        return self._used


def _this_process() -> Any:
    """Import psutil, which takes its time, and return what it knows of this process."""
    import psutil  # type: ignore[import-untyped]

    return psutil.Process()


def require_positive(name: str, value: float) -> float:
    """Return a number above zero.

    Raises:
        TypeError: It is no number.
        ValueError: It is not above zero.
    """
    given: object = value
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{name} is a number above 0, not {value!r:.100}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is a number above 0, not {value!r}")
    return value
