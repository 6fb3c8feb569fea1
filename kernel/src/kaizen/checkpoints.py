"""Checkpoints: places in the log of a run to come back to.

A checkpoint is named by its run and its position in the run's log, `<run id>:<position>`;
the id of the run alone stands for the end of its log. To go on with a run, see
`BaseAgent.resume`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from os import urandom
from time import time

import anyio

from kaizen._asking import checked, request_of
from kaizen._keeping import GIVE_UP_S, LEASE_S
from kaizen.claims import is_run_id, new_owner
from kaizen.errors import AnswerRefusedError, CheckpointError, CheckpointLoadError
from kaizen.ports import Answer, CheckpointStore, PendingRequest
from kaizen.runlog import (
    Answered,
    Asked,
    Entry,
    Forked,
    Marked,
    Rewound,
    RunEnded,
    decode,
    encode,
    fold,
)

__all__ = [
    "answer",
    "fork",
    "pending_requests",
    "read_log",
    "rewind",
    "split_checkpoint_id",
]

_WAITING = ("running", "interrupted", "failed")
_LOG = logging.getLogger("kaizen")


def split_checkpoint_id(checkpoint_id: str) -> tuple[str, int | None]:
    """Return the run and the position of a checkpoint; `None` for the end of the log.

    Raises:
        TypeError: It is no text.
        CheckpointLoadError: It is no id of a checkpoint or a run.
    """
    if not isinstance(checkpoint_id, str):
        raise TypeError(
            f"a checkpoint is named by a text, not by {type(checkpoint_id).__name__!r}: "
            "give its `checkpoint_id`"
        )
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


async def fork(
    store: CheckpointStore,
    checkpoint_id: str,
    *,
    agent_id: str = "",
    parent_id: str = "",
) -> str:
    """Begin a run that shares the past of another, up to a checkpoint, and return its id.

    The past is not copied. The other run stays as it is.

    Args:
        store: Where the run is kept.
        checkpoint_id: A checkpoint, or a run, whose whole past is shared.
        agent_id: Whose run it is from now on; by default that of the same agent.
        parent_id: The run inside which it belongs, if there is one.

    Raises:
        CheckpointLoadError: There is no such run or checkpoint.
    """
    run_id, seq = await _existing(store, checkpoint_id)
    new_run_id = urandom(16).hex()
    forked = Forked(
        seq=seq + 1,
        at=time(),
        run_id=new_run_id,
        agent_id=agent_id,
        parent_run_id=run_id,
        parent_id=parent_id,
    )
    try:
        await store.fork(run_id, length=seq + 1, new_run_id=new_run_id)
        await store.append(new_run_id, [encode(forked)])
    except BaseException:  # a run that does not know that it is one must not stay
        with anyio.move_on_after(GIVE_UP_S, shield=True), suppress(CheckpointError):
            await store.delete(new_run_id)
        raise
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
    try:
        token = await store.claim(run_id, owner=owner, lease_s=LEASE_S)
        length = await _length(store, run_id, at_least=seq + 1)
        entry = encode(Rewound(seq=length, at=time(), to_seq=seq))
        await store.append(run_id, [entry], token=token)
    finally:
        with anyio.move_on_after(GIVE_UP_S, shield=True), suppress(CheckpointError):
            await store.claim(run_id, owner=owner, lease_s=0)


async def pending_requests(
    store: CheckpointStore, *, run_id: str | None = None, limit: int = 1_000
) -> list[PendingRequest]:
    """Return the questions that runs wait for, oldest first.

    Args:
        store: Where the runs are kept.
        run_id: Only those of one run, without the runs inside it.
        limit: How many of the last updated runs of each status are looked at.

    Raises:
        CheckpointLoadError: There is no such run, or its log is damaged.
    """
    if run_id is not None:
        state = fold(await read_log(store, split_checkpoint_id(run_id)[0]))
        found = list(state.questions.values())
    else:
        found = []
        for status in _WAITING:
            for record in await store.runs(status=status, limit=limit):
                found += await _questions_of(store, record.run_id)
    return [request_of(asked) for asked in sorted(found, key=lambda asked: asked.at)]


async def _questions_of(store: CheckpointStore, run_id: str) -> Iterable[Asked]:
    """Return what a run asks; a log that cannot be read hides no other one."""
    try:
        return fold(await read_log(store, run_id)).questions.values()
    except CheckpointLoadError as error:
        _LOG.warning("what run %s asks cannot be read: %s", run_id, error)
        return ()


async def answer(store: CheckpointStore, request_id: str, given: Answer) -> None:
    """Put the answer to a question into the log of its run, which nobody carries out now.

    The run goes on from there with `BaseAgent.resume`. Whether the answer to a question
    with a schema fits is found out then; if not, the question is put again.

    Args:
        store: Where the run is kept.
        request_id: The question, see `pending_requests`.
        given: The answer.

    Raises:
        AnswerRefusedError: The question is not open, its time is over, or the answer is
            none that a log can hold.
        CheckpointLoadError: There is no such run.
        CheckpointSaveError: The run is carried out right now: answer it there.
    """
    run_id, _ = split_checkpoint_id(request_id.partition(":")[0])
    try:
        given = checked(given)
    except (TypeError, ValueError) as error:
        raise AnswerRefusedError(
            f"the answer to request {request_id[:200]!r}", f"cannot be used: {error}"
        ) from error
    owner = new_owner()
    await _length(store, run_id)
    try:
        token = await store.claim(run_id, owner=owner, lease_s=LEASE_S)
        entries = await read_log(store, run_id)
        state, now = fold(entries), time()
        asked = state.questions.get(request_id)
        if asked is None or state.status not in _WAITING:
            raise AnswerRefusedError(
                f"request {request_id[:200]!r}",
                "is not open: it was answered, or never put",
                "`pending_requests` has those that are.",
            )
        if asked.expires_at is not None and now >= asked.expires_at:
            raise AnswerRefusedError(f"request {request_id!r}", "has expired")
        entry = Answered(
            seq=len(entries),
            at=now,
            request_id=request_id,
            question=asked.question,
            approved=given.approved,
            text=given.text,
            value=given.value,
            always=given.always,
            principal=given.principal,
            action_digest=asked.action_digest,
            expires_at=asked.expires_at,
        )
        await store.append(run_id, [encode(entry)], token=token)
    finally:
        with anyio.move_on_after(GIVE_UP_S, shield=True), suppress(CheckpointError):
            await store.claim(run_id, owner=owner, lease_s=0)


async def _existing(store: CheckpointStore, checkpoint_id: str) -> tuple[str, int]:
    """Return the run and position of a checkpoint that there is."""
    run_id, seq = split_checkpoint_id(checkpoint_id)
    if seq is None:
        return run_id, await _length(store, run_id) - 1
    found = await store.read(run_id, start=seq, limit=1)
    if not found or not isinstance(decode(found[0]), Marked | RunEnded):
        raise CheckpointLoadError(
            f"run {run_id!r}",
            f"has no checkpoint at position {seq}",
            "`kaizen runs show` lists those that it has.",
        )
    return run_id, seq


async def _length(store: CheckpointStore, run_id: str, *, at_least: int = 0) -> int:
    """Return how many entries a log has, by looking at some of them.

    The steps double until they lead beyond the end, and are halved from there, so that a
    log of a million entries takes forty looks and not a million entries.
    """

    async def reaches(length: int) -> bool:
        return bool(await store.read(run_id, start=length - 1, limit=1))

    known, step = at_least, 1
    while await reaches(known + step):
        known += step
        step *= 2
    beyond = known + step
    while beyond - known > 1:
        middle = (known + beyond) // 2
        if await reaches(middle):
            known = middle
        else:
            beyond = middle
    return known
