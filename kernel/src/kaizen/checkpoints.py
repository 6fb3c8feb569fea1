"""Checkpoints: places in the log of a run to come back to.

A checkpoint is named by its run and its position in the run's log, `<run id>:<position>`;
the id of the run alone stands for the end of its log. To go on with a run, see
`BaseAgent.resume`.
"""

from __future__ import annotations

from os import urandom
from time import time

from anyio import CancelScope, current_time

from kaizen.claims import is_run_id, new_owner
from kaizen.errors import CheckpointLoadError
from kaizen.ports import CheckpointStore
from kaizen.runlog import Entry, Forked, Marked, Rewound, RunEnded, decode, encode

__all__ = ["fork", "read_log", "rewind", "split_checkpoint_id"]

LEASE_S = 60.0
MAX_SEQ = 10**9


def split_checkpoint_id(checkpoint_id: str) -> tuple[str, int | None]:
    """Return the run and the position of a checkpoint; `None` for the end of the log.

    Raises:
        CheckpointLoadError: It is no id of a checkpoint or a run.
    """
    run_id, colon, position = checkpoint_id.partition(":")
    fits = position.isascii() and position.isdecimal() and len(position) < 10
    if not is_run_id(run_id) or (colon and not fits):
        raise CheckpointLoadError(
            f"checkpoint {checkpoint_id[:200]!r}",
            "is none that there can be",
            "Ids look like RUN or RUN:POSITION; `kaizen runs list` shows them.",
        )
    return run_id, int(position) if colon else None


async def read_log(store: CheckpointStore, run_id: str) -> list[Entry]:
    """Return the whole log of a run.

    Raises:
        CheckpointLoadError: There is no such run, or its log is damaged.
    """
    split_checkpoint_id(run_id)
    return [decode(each) for each in await store.read(run_id)]


async def fork(store: CheckpointStore, checkpoint_id: str, *, agent_id: str = "") -> str:
    """Begin a run that shares the past of another, up to a checkpoint, and return its id.

    The past is not copied. The other run stays as it is.

    Args:
        store: Where the run is kept.
        checkpoint_id: A checkpoint, or a run, whose whole past is shared.
        agent_id: Whose run it is from now on; by default that of the same agent.

    Raises:
        CheckpointLoadError: There is no such run or checkpoint.
    """
    run_id, seq = await _existing(store, checkpoint_id)
    new_run_id = urandom(16).hex()
    await store.fork(run_id, length=seq + 1, new_run_id=new_run_id)
    forked = Forked(
        seq=seq + 1,
        at=time(),
        run_id=new_run_id,
        agent_id=agent_id,
        parent_run_id=run_id,
    )
    await store.append(new_run_id, [encode(forked)])
    return new_run_id


async def rewind(store: CheckpointStore, checkpoint_id: str) -> None:
    """Let a run go back to a checkpoint; nothing of its log is erased.

    What it consumed stays on its account, and what its tools did stays done: once it is
    resumed, it may do so again.

    Raises:
        CheckpointLoadError: There is no such run or checkpoint.
        CheckpointSaveError: The run is carried out right now.
    """
    run_id, seq = split_checkpoint_id(checkpoint_id)
    if seq is None:
        raise CheckpointLoadError(
            f"run {run_id!r}",
            "is no checkpoint to go back to",
            "Add a position: RUN:POSITION.",
        )
    owner = new_owner()
    await _existing(store, checkpoint_id)
    token = await store.claim(run_id, owner=owner, lease_s=LEASE_S)
    try:
        length = seq + len(await store.read(run_id, start=seq))
        entry = encode(Rewound(seq=length, at=time(), to_seq=seq))
        await store.append(run_id, [entry], token=token)
    finally:
        with CancelScope(shield=True, deadline=current_time() + LEASE_S):
            await store.claim(run_id, owner=owner, lease_s=0)


async def _existing(store: CheckpointStore, checkpoint_id: str) -> tuple[str, int]:
    """Return the run and position of a checkpoint that there is."""
    run_id, seq = split_checkpoint_id(checkpoint_id)
    if seq is None:
        return run_id, len(await store.read(run_id)) - 1
    found = await store.read(run_id, start=seq, limit=1)
    if not found or not isinstance(decode(found[0]), Marked | RunEnded):
        raise CheckpointLoadError(
            f"run {run_id!r}",
            f"has no checkpoint at position {seq}",
            "`kaizen runs show` lists those that it has.",
        )
    return run_id, seq
