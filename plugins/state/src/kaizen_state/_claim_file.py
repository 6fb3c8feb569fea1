"""The file that says who may write a run.

It has two slots, which are written in turns: if one is torn or damaged, the other still
tells the last token but one, and so which token nobody was given yet. Who holds a run of
which the claim is damaged cannot go on, and anybody can claim it anew. It is also what
processes lock while they write the run. It is not made durable: after a loss of power
nobody is left who holds a claim.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from time import time_ns
from typing import Any
from zlib import crc32

from kaizen.claims import Claim
from kaizen.errors import CheckpointSaveError

__all__ = ["CLAIM", "Claims"]

CLAIM = "claim"
_SLOT = 1024
_FIELDS = {
    "owner": str,
    "token": int,
    "until": float,
    "until_monotonic": float,
    "boot": str,
}
_BLANK = frozenset((0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the file says.

    Attributes:
        raw: The file itself.
        claim: The last claim that is known.
        turn: How many claims were written.
        damaged: Whether there may be a later one, which cannot be read.
    """

    raw: bytes
    claim: Claim | None
    turn: int
    damaged: bool

    @staticmethod
    def read(fd: int, before: Claims | None = None) -> Claims:
        """Read an open file; what was read before is given back if nothing has changed."""
        raw = os.pread(fd, 2 * _SLOT, 0)  # more than that is none of ours
        if before is not None and before.raw == raw:
            return before
        slots = [raw[at : at + _SLOT] for at in (0, _SLOT)]
        used = [each for each in slots if not _BLANK.issuperset(each)]
        read = [each for each in map(_read_slot, used) if each is not None]
        turn, claim = max(read, key=lambda each: each[0], default=(0, None))
        damaged = len(read) < len(used) or len(raw) not in (0, 2 * _SLOT)
        return Claims(raw=raw, claim=claim, turn=turn, damaged=damaged)

    def next(self, run_id: str, *, owner: str, lease_s: float) -> Claim:
        """Return the claim that follows.

        Raises:
            CheckpointSaveError: Somebody else holds the run.
        """
        if not self.damaged:
            return Claim.next(self.claim, run_id, owner=owner, lease_s=lease_s)
        # The slot that cannot be read may hold the token after the last known. Where none
        # is known: tokens are counted from 1, so that none of them was ever like the time.
        token = time_ns() if self.claim is None else self.claim.token + 1
        unknown = Claim(owner="", token=token, until=0.0, until_monotonic=0.0, boot="")
        return Claim.next(unknown, run_id, owner=owner, lease_s=lease_s)

    def check(self, run_id: str, token: int | None) -> None:
        """Let a write pass, or refuse it.

        Raises:
            CheckpointSaveError: The writer's claim was taken over, or somebody holds it.
        """
        if self.damaged:
            raise CheckpointSaveError(
                f"run {run_id!r}",
                "has a damaged claim",
                "Claim it again before writing it.",
            )
        Claim.check(self.claim, run_id, token)

    def are_still(self, fd: int, token: int) -> bool:
        """Whether the open file is as it was read, and a writer with a token may write."""
        return (
            self.claim is not None
            and self.claim.token == token
            and not self.damaged
            and os.pread(fd, 2 * _SLOT, 0) == self.raw
        )

    def held(self) -> bool:
        """Whether somebody has the run."""
        return self.claim is not None and not self.damaged and self.claim.held()

    def write(self, fd: int, claim: Claim, run_id: str) -> Claims:
        """Write a claim to the open file, which must be locked.

        Raises:
            CheckpointSaveError: The name of the owner is too long.
        """
        # Where the other slot is damaged too, it is written as well.
        for turn in (self.turn + 1, self.turn + 2):
            slot = _slot(turn, claim)
            if len(slot) > _SLOT:
                raise CheckpointSaveError(
                    f"run {run_id!r}", "has an owner with too long a name"
                )
            os.pwrite(fd, slot, turn % 2 * _SLOT)
            written = Claims.read(fd)
            if not written.damaged:
                break
        return written


def _slot(turn: int, claim: Claim) -> bytes:
    values = {"turn": turn, **{name: getattr(claim, name) for name in _FIELDS}}
    rest = json.dumps(values, separators=(",", ":")).encode("ascii").removeprefix(b"{")
    rest = rest.ljust(_SLOT - 19) + b"\n"
    return b'{"crc":"%08x",' % crc32(rest) + rest


def _read_slot(slot: bytes) -> tuple[int, Claim] | None:
    head, rest = slot[:18], slot[18:]
    if head != b'{"crc":"%08x",' % crc32(rest):
        return None
    try:
        values: Any = json.loads(b"{" + rest)
    except (ValueError, RecursionError):
        return None
    turn = values.pop("turn", None)
    typed = all(type(values.get(name)) is kind for name, kind in _FIELDS.items())
    if not typed or values.keys() != _FIELDS.keys() or type(turn) is not int:
        return None
    return turn, Claim(**values)
