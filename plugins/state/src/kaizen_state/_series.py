"""The names of the logs that hold states made by hand.

An agent's id may be any text, so that the names are made of its hash. When a log holds as
many states as are kept, the next one is begun, and those that nobody needs are let go:
`state_<hash>_0_<random>`, `state_<hash>_1_<random>` …. What is random in them lets no name
come again, nor the id of a state that was deleted; the earliest names lack it. A fork of
such a log is called `state_<random>`. Whoever begins a log holds `state_<hash>_next`.
"""

from __future__ import annotations

import re
from hashlib import sha256
from os import urandom

__all__ = [
    "is_fork_by_hand",
    "new_fork_by_hand",
    "new_in_series",
    "next_of",
    "place_in_series",
    "series_of",
]

_LOG = re.compile(r"(state_[0-9a-f]{32})_([0-9]{1,9})(?:_[0-9a-f]{16})?")
_FORK = re.compile(r"state_[0-9a-f]{32}")


def series_of(agent_id: str) -> str:
    """Return what the names of an agent's logs begin with."""
    return f"state_{sha256(agent_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def new_in_series(series: str, place: int) -> str:
    """Return a new name for a log of a series."""
    return f"{series}_{place}_{urandom(8).hex()}"


def next_of(series: str) -> str:
    """Return what is claimed by whoever begins a log of a series; it has no log."""
    return f"{series}_next"


def place_in_series(run_id: str) -> int | None:
    """Return which log of its agent one is, or `None` if it is none of these."""
    match = _LOG.fullmatch(run_id)
    return int(match[2]) if match else None


def new_fork_by_hand() -> str:
    """Return a name for a fork of such a log."""
    return f"state_{urandom(16).hex()}"


def is_fork_by_hand(run_id: str) -> bool:
    """Whether this is the name of a fork of such a log."""
    return _FORK.fullmatch(run_id) is not None
