"""Says what a run took."""

from __future__ import annotations

from typing import Any

from kaizen.operations import Result
from kaizen.run import Run

__all__ = ["account", "summary"]


def account(result: Result) -> dict[str, Any]:
    """Return what a run took, as JSON values."""
    usage = result.usage
    cost = result.cost_usd
    return {
        "run_id": result.run_id,
        "cycles": result.cycles,
        "tool_calls": result.tool_calls,
        "usage": {
            "requests": usage.requests,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
        },
        "cost_usd": None if cost is None else float(cost),
        "duration_ms": round(result.duration_ms, 1),
    }


def summary(run: Run, *first: str) -> str:
    """Return what a run took that has a result, in one line, and its id in another."""
    result = run.result
    assert result is not None
    parts = [
        *first,
        _counted(run.state.turns, "turn"),
        _counted(result.tool_calls, "tool call"),
        _counted(result.usage.total_tokens, "token"),
        *([] if result.cost_usd is None else [f"${result.cost_usd.normalize():f}"]),
        f"{result.duration_ms / 1_000:.1f} s",
    ]
    return f"{' · '.join(parts)}\nrun {result.run_id}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
