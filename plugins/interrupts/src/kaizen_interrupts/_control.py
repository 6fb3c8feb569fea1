"""The sender's side: asks something of a run wherever it is carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaizen.interrupts import InterruptMode

if TYPE_CHECKING:
    from kaizen.ports import CheckpointStore

    from kaizen_interrupts._commands import Command

__all__ = ["RunControl"]


class RunControl:
    """Pauses, steers and stops runs that another process carries out, through their store.

    A command is left in the store. The process that carries out the run takes it within its
    `poll_interval`, if it has the plugin; until then, and while nobody carries the run out,
    it waits there. Nothing comes back: what became of it stands in the log of the run. Nor
    does anybody look whether there is such a run; ids can be had from `store.runs()`.

    Args:
        store: The store that keeps the runs.
        by: Who asks, for the log; at most 100 characters.

    Raises:
        ValueError: `by` is too long.
        TypeError: It is no text.
    """

    def __init__(self, store: CheckpointStore, *, by: str = "") -> None:
        from kaizen_interrupts._commands import MAX_BY_CHARS

        self._store = store
        self._by = _as_text("by", by, most=MAX_BY_CHARS)

    async def pause(self, run_id: str) -> None:
        """Let a run, and every run inside it, wait before its next step.

        Raises:
            CheckpointSaveError: The store does not take the command.
        """
        from kaizen_interrupts._commands import PauseCommand

        await self._send(run_id, PauseCommand(by=self._by))

    async def resume(self, run_id: str) -> None:
        """Let a run that is paused go on. For one that has ended, see `BaseAgent.resume`.

        Raises:
            CheckpointSaveError: The store does not take the command.
        """
        from kaizen_interrupts._commands import ResumeCommand

        await self._send(run_id, ResumeCommand(by=self._by))

    async def steer(self, run_id: str, text: str) -> None:
        """Give the model of a run a message, before it is asked next.

        Raises:
            ValueError: It is empty or longer than 100,000 characters.
            TypeError: It is no text.
            CheckpointSaveError: The store does not take the command.
        """
        from kaizen_interrupts._commands import MAX_TEXT_CHARS, SteerCommand

        text = _as_text("text", text, least=1, most=MAX_TEXT_CHARS)
        await self._send(run_id, SteerCommand(text=text, by=self._by))

    async def interrupt(
        self,
        run_id: str,
        *,
        mode: InterruptMode = InterruptMode.GRACEFUL,
        message: str = "",
    ) -> None:
        """Stop a run, and every run inside it, so that it can be resumed.

        Args:
            run_id: The run.
            mode: Whether the turn under way may come to its end.
            message: Why, at most 1,000 characters.

        Raises:
            ValueError: The message is longer, or there is no such mode.
            TypeError: The message is no text.
            CheckpointSaveError: The store does not take the command.
        """
        from kaizen_interrupts._commands import MAX_MESSAGE_CHARS, InterruptCommand

        text = _as_text("message", message, most=MAX_MESSAGE_CHARS)
        command = InterruptCommand(mode=_as_mode(mode), message=text, by=self._by)
        await self._send(run_id, command)

    async def cancel(self, run_id: str, *, message: str = "") -> None:
        """Stop a run, and every run inside it, at once.

        It ends as `cancelled`: nothing carries it on by itself, and only an explicit
        `BaseAgent.resume`, a fork or a rewind goes on from it.

        Args:
            run_id: The run.
            message: Why, at most 1,000 characters.

        Raises:
            ValueError: The message is longer.
            TypeError: It is no text.
            CheckpointSaveError: The store does not take the command.
        """
        from kaizen_interrupts._commands import MAX_MESSAGE_CHARS, CancelCommand

        text = _as_text("message", message, most=MAX_MESSAGE_CHARS)
        await self._send(run_id, CancelCommand(message=text, by=self._by))

    async def _send(self, run_id: str, command: Command) -> None:
        await self._store.send(run_id, command.model_dump_json().encode())


def _as_text(name: str, text: object, *, least: int = 0, most: int) -> str:
    """Return a text that can be sent: what is no character becomes a question mark.

    Raises:
        TypeError: It is no text.
        ValueError: It is too short or too long.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is a text, not {text!r:.100}")
    if not least <= len(text) <= most:
        wanted = f"{least} to {most}" if least else f"at most {most}"
        raise ValueError(f"{name} has {wanted} characters, not {len(text)}")
    return text.encode("utf-8", "replace").decode()


def _as_mode(mode: InterruptMode | str) -> InterruptMode:
    try:
        return InterruptMode(mode)
    except ValueError:
        known = " or ".join(repr(each.value) for each in InterruptMode)
        raise ValueError(f"mode is {known}, not {mode!r:.100}") from None
