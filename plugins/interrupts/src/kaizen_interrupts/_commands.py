"""What one process may ask of a run in another: five commands, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)
from kaizen.run import Run
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

__all__ = [
    "CancelCommand",
    "Command",
    "InterruptCommand",
    "PauseCommand",
    "ResumeCommand",
    "SteerCommand",
    "read_command",
]

MAX_COMMAND_BYTES = 1024 * 1024
MAX_BY_CHARS = 100
MAX_MESSAGE_CHARS = 1_000
MAX_TEXT_CHARS = 100_000


class _Command(BaseModel):
    """One command; what it does not know is refused.

    Attributes:
        by: Who asks, for the log. Nobody checks it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    by: str = Field(default="", max_length=MAX_BY_CHARS)


class PauseCommand(_Command):
    """Let the run wait before its next step."""

    command: Literal["pause"] = "pause"

    def carry_out(self, run: Run) -> bool:
        """Do it; say whether that changed anything."""
        return run.pause(self.by)


class ResumeCommand(_Command):
    """Let the run go on."""

    command: Literal["resume"] = "resume"

    def carry_out(self, run: Run) -> bool:
        """Do it; say whether that changed anything."""
        return run.resume(self.by)


class SteerCommand(_Command):
    """Give the run's model a message."""

    command: Literal["steer"] = "steer"
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARS)

    def carry_out(self, run: Run) -> bool:
        """Do it; say whether the run can still hear it."""
        return run.steer(self.text, self.by)


class InterruptCommand(_Command):
    """Stop the run, so that it can be resumed."""

    command: Literal["interrupt"] = "interrupt"
    mode: InterruptMode = InterruptMode.GRACEFUL
    message: str = Field(default="", max_length=MAX_MESSAGE_CHARS)

    def carry_out(self, run: Run) -> bool:
        """Do it; say whether that changed anything."""
        return run.interrupt(
            InterruptReason(
                source=InterruptSource.USER,
                mode=self.mode,
                signal=InterruptSignal.USER_REQUESTED,
                message=self.message or "stopped from another process",
                metadata={"by": self.by} if self.by else {},
            )
        )


class CancelCommand(_Command):
    """Stop the run at once, so that nothing carries it on by itself."""

    command: Literal["cancel"] = "cancel"
    message: str = Field(default="", max_length=MAX_MESSAGE_CHARS)

    def carry_out(self, run: Run) -> bool:
        """Do it; say whether that changed anything."""
        return run.cancel(self.message or "cancelled from another process")


Command: TypeAlias = (
    PauseCommand | ResumeCommand | SteerCommand | InterruptCommand | CancelCommand
)


def read_command(message: bytes) -> Command:
    """Return the command that a message holds.

    Raises:
        ValueError: It holds none. The error says of what kind the mistake is, and nothing
            of what the message says.
    """
    if len(message) > MAX_COMMAND_BYTES:
        raise ValueError("it is too long")
    try:
        return _adapter().validate_json(message)
    except ValidationError as error:
        kind = error.errors(include_url=False, include_context=False, include_input=False)
        problem = kind[0]["type"]
    # Out here, so that pydantic's error, which holds the message, is gone.
    raise ValueError(problem)


def _adapter() -> TypeAdapter[Command]:
    return TypeAdapter(Annotated[Command, Field(discriminator="command")])
