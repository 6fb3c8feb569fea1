"""Messages for whoever carries out a run: one folder for all, one file for each.

A file is named `<run>,<number>.message`; the number grows within what waits for the run.
Those who write or take messages lock the folder, so that each is given once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from kaizen.errors import CheckpointSaveError

from kaizen_state._files import TEMPORARY, Folder, lock, unlock

__all__ = ["MAIL", "MAX_MESSAGES", "MAX_MESSAGE_BYTES", "drop", "send", "take"]

MAIL = ".mail"
MAX_MESSAGES = 1_000
MAX_MESSAGE_BYTES = 1024 * 1024
_LOCK = "lock"
_NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}),([0-9]{12})\.message")


def send(base: Folder, run_id: str, message: bytes) -> None:
    """Leave a message.

    Raises:
        CheckpointSaveError: It is too large, or too many wait for the run.
    """
    subject = f"a message for run {run_id!r}"
    if len(message) > MAX_MESSAGE_BYTES:
        raise CheckpointSaveError(subject, f"is larger than {MAX_MESSAGE_BYTES} bytes")
    if base.make(MAIL):
        base.sync()
    with base.folder(MAIL) as folder, _locked(folder):
        names = folder.names()
        for name in names:
            if name.startswith(TEMPORARY):  # left by a crash: nobody else writes now
                folder.remove(name)
        waiting = _waiting(names, {run_id})
        if len(waiting) >= MAX_MESSAGES:
            raise CheckpointSaveError(
                subject,
                f"is one too many: {MAX_MESSAGES} wait already",
                "Resume the run, or delete it.",
            )
        number = waiting[-1][1] + 1 if waiting else 0
        folder.put(f"{run_id},{number:012d}.message", message)


def take(base: Folder, run_ids: Collection[str]) -> list[tuple[str, bytes]]:
    """Take the messages that wait for some runs, oldest first."""
    wanted = set(run_ids)
    try:
        folder = base.folder(MAIL)
    except FileNotFoundError:
        return []
    with folder:
        if not _waiting(folder.names(), wanted):
            return []
        with _locked(folder):
            waiting = _waiting(folder.names(), wanted)
            found = [
                (run_id, folder.read(name, limit=MAX_MESSAGE_BYTES))
                for run_id, _, name in waiting
            ]
            for _, _, name in waiting:
                folder.remove(name)
            if waiting:
                folder.sync()
            return found


def drop(base: Folder, run_id: str) -> None:
    """Throw away what waits for a run."""
    try:
        folder = base.folder(MAIL)
    except FileNotFoundError:
        return
    with folder:
        if _waiting(folder.names(), {run_id}):
            with _locked(folder):
                for _, _, name in _waiting(folder.names(), {run_id}):
                    folder.remove(name)


def _waiting(names: list[str], run_ids: Collection[str]) -> list[tuple[str, int, str]]:
    theirs = (name for name in names if name.partition(",")[0] in run_ids)
    matches = filter(None, map(_NAME.fullmatch, theirs))
    return sorted((match[1], int(match[2]), match[0]) for match in matches)


@contextmanager
def _locked(folder: Folder) -> Iterator[None]:
    fd = folder.open_file(_LOCK, os.O_RDWR | os.O_CREAT)
    try:
        lock(fd, folder.path / _LOCK)
        try:
            yield
        finally:
            unlock(fd)
    finally:
        os.close(fd)
