"""The way by which messages go out and come in."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from kaizen_control._messages import Outgoing, Received

__all__ = ["Transport", "TransportClosedError"]


class TransportClosedError(Exception):
    """The other side is gone, or was never there; the text says so to a person."""


@runtime_checkable
class Transport(Protocol):
    """Takes messages to the other side, and brings what it answers.

    Attributes:
        detached: Whether runs go on without waiting here: a request is put, its run stops,
            and its answer goes to the store in which the run is kept.
    """

    detached: bool

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Return what the transport is open in. It can be opened again after that.

        Raises:
            TransportClosedError: It cannot be opened; see there for the reason.
        """
        ...

    async def send(self, message: Outgoing) -> None:
        """Take one message to the other side, whole or not at all.

        May be called many times at once; the order is that of the calls. It returns when
        the message is on its way, and waits for nobody who has to read it.

        Raises:
            TransportClosedError: The other side is gone.
        """
        ...

    async def receive(self) -> Received:
        """Wait for the next answer. What is none was refused by the transport itself.

        Raises:
            TransportClosedError: None will come any more.
        """
        ...
