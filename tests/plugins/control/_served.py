"""A channel over HTTP that is open, and what is asked over it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from kaizen import Answer, NotAnsweredError, PendingRequest
from kaizen_control import ControlProtocol, HTTPTransport

from tests.plugins.control._client import Client

__all__ = ["TOKEN", "Served", "served"]

TOKEN = "t" * 40


class Served:
    """A channel over HTTP, and a client of it."""

    def __init__(self, protocol: ControlProtocol, transport: HTTPTransport) -> None:
        self.protocol = protocol
        self.transport = transport
        self.client = Client(int(transport.url.rstrip("/").rpartition(":")[2]), TOKEN)
        self.tasks = anyio.create_task_group()
        self.answers: dict[str, Answer | NotAnsweredError] = {}
        self._answered = anyio.Event()

    async def ask(self, request: PendingRequest) -> None:
        """Ask, and return when clients can see it."""
        self.tasks.start_soon(self._ask, request)
        with anyio.fail_after(5):
            while request not in self.protocol.open_requests:
                await anyio.lowlevel.checkpoint()

    async def _ask(self, request: PendingRequest) -> None:
        try:
            self.answers[request.id] = await self.protocol.ask(request)
        except NotAnsweredError as error:
            self.answers[request.id] = error
        self._answered.set()
        self._answered = anyio.Event()

    async def answered(self, request: PendingRequest) -> Answer:
        outcome = await self.outcome(request)
        assert isinstance(outcome, Answer)
        return outcome

    async def outcome(self, request: PendingRequest) -> Answer | NotAnsweredError:
        with anyio.fail_after(5):
            while request.id not in self.answers:
                await self._answered.wait()
        return self.answers[request.id]


@asynccontextmanager
async def served(**options: Any) -> AsyncGenerator[Served]:
    if options.get("auth", True):
        options.setdefault("token", TOKEN)
    transport = HTTPTransport(**options)
    async with ControlProtocol(transport, progress_interval_s=0) as protocol:
        made = Served(protocol, transport)
        async with made.tasks:
            yield made
            made.tasks.cancel_scope.cancel()
