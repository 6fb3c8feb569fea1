"""Sends one answer, or breaks it at the place that the test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from tests.wire._api import STATUS, Api, Event, Page
from tests.wire._connection import Connection
from tests.wire.script import Answer, Fault, Request, Said

__all__ = ["Delivery", "send_page"]

SIGN_IN = b"<!doctype html><html><body><h1>Sign in to continue</h1></body></html>"
BROKEN = b'{"id": "wire", "choices": [{"delta": {"content": !!}]'
OTHER = {"wire": ["another", "shape"], "id": 42}
SIZE = 64 * 1024
Made = TypeVar("Made")


class Delivery:
    """One answer on its way."""

    def __init__(
        self, connection: Connection, api: Api, request: Request, answer: Answer
    ) -> None:
        self._connection = connection
        self._api = api
        self._request = request
        self._answer = answer
        self._fault = answer.fault
        self._said = Said(answer, request, request.number)

    async def send(self) -> None:
        """Send it, and say in the request what became of it, before the last byte leaves.

        Raises:
            Gone: The client has closed the connection.
        """
        if self._answer.gate is not None:
            await self._connection.unless_gone(self._answer.gate.passed)
        await self._pause(self._answer.delay_s)
        fault = self._fault
        if fault is None:
            await self._give()
        elif fault.kind in STATUS:
            await self._send(self._api.failure(self._request, fault), "refused")
        else:
            await self._fail(fault)

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await self._connection.unless_gone(partial(anyio.sleep, seconds))

    async def _send(self, page: Page, outcome: str = "broken") -> None:
        self._request.outcome = outcome
        await send_page(self._connection, page, self._answer.headers)

    async def _fail(self, fault: Fault) -> None:
        if fault.kind == "hang_headers":
            await self._connection.until_gone()
        elif fault.kind == "reset" and not (self._request.stream and fault.at):
            await self._leave(fault)
        elif fault.kind == "wrong_content_type":
            await self._send(Page(SIGN_IN, content_type="text/html; charset=utf-8"))
        else:
            if fault.kind == "slow":
                self._connection.slow_down(self._answer.between_s)
            await self._give()

    async def _give(self) -> None:
        if self._request.stream:
            await self._stream()
            return
        page = await self._made(self._api.page, self._request, self._said)
        if self._fault is None or self._fault.kind == "slow":
            await self._send(page, "answered")
        else:
            await self._page_with(self._fault, page)

    async def _page_with(self, fault: Fault, page: Page) -> None:
        if fault.kind == "enormous":
            await self._connection.start(200, {"content-type": page.content_type})
            await self._enormous(fault.size)
            await self._end("broken")
        elif fault.kind == "malformed":
            await self._send(Page(page.body[:-1] + b",!}"))
        elif fault.kind == "truncated":
            await self._send(Page(page.body[: len(page.body) // 2]))
        elif fault.kind == "wrong_schema":
            await self._send(Page(json.dumps(OTHER).encode()))
        elif fault.kind == "error_event":
            failed = self._api.failure(self._request, Fault("server_error"))
            await self._send(Page(failed.body))
        else:
            await self._connection.start(200, heads(page))
            if fault.kind != "hang_first" and (fault.at or fault.inside):
                await self._connection.write(page.body[: len(page.body) // 2])
            await self._leave(fault)

    async def _made(self, make: Callable[..., Made], *args: Any) -> Made:
        """Make a piece of the answer; where that takes time, the others need not wait."""
        if self._answer.ending is None:
            return make(*args)
        return await to_thread.run_sync(make, *args)

    async def _stream(self) -> None:
        kind = self._api.stream_type(self._request)
        headers = {"content-type": kind, "cache-control": "no-cache"}
        await self._connection.start(200, headers | dict(self._answer.headers))
        events = self._api.events(self._request, self._said)
        fault, sent = self._fault, 0
        while (event := await self._made(next, events, None)) is not None:
            if fault and due(fault, event, sent):
                if not await self._break(fault, event):
                    return
                fault = None
            else:
                await self._event(event.data)
            sent += event.content
            await self._pause(self._answer.between_s)
        whole = self._fault is None or self._fault.kind == "slow"
        await self._end("answered" if whole else "broken")

    async def _event(self, data: bytes) -> None:
        await self._connection.write(self._api.framed(self._request, data))

    async def _end(self, outcome: str) -> None:
        self._request.outcome = outcome
        await self._connection.finish()

    async def _break(self, fault: Fault, event: Event) -> bool:
        """Send something else than an event; say whether the stream goes on."""
        if fault.kind == "malformed":
            await self._event(self._api.line(BROKEN))
        elif fault.kind == "wrong_schema":
            await self._event(self._api.line(json.dumps(OTHER).encode()))
        elif fault.kind == "enormous":
            line = self._api.framed(self._request, self._api.line(b"\0"))
            before, after = line.split(b"\0")
            await self._connection.write(before)
            await self._enormous(fault.size)
            await self._connection.write(after)
            await self._event(event.data)
        elif fault.kind == "error_event":
            await self._event(self._api.failure_event(self._request, fault))
            await self._end("broken")
            return False
        elif fault.kind == "truncated":
            await self._end("broken")
            return False
        else:
            if fault.inside:
                whole = self._api.framed(self._request, event.data)
                await self._connection.write(whole[: len(whole) // 2])
            await self._leave(fault)
            return False
        return True

    async def _leave(self, fault: Fault) -> None:
        """Send no more: the connection is closed by who called, unless the client does."""
        if fault.kind.startswith("hang"):
            await self._connection.until_gone()
        self._request.outcome = "broken"
        if fault.kind == "reset":
            self._connection.reset()

    async def _enormous(self, size: int) -> None:
        before, after = b'{"padding": "', b'"}'
        await self._connection.write(before)
        left = size - len(before) - len(after)
        while left > 0:
            await self._connection.write(b"x" * min(SIZE, left))
            left -= SIZE
        await self._connection.write(after)


def due(fault: Fault, event: Event, sent: int) -> bool:
    """Say whether a fault happens now, instead of the next event of a stream."""
    if fault.kind == "slow":
        return False
    if event.end:
        return True
    at = {"hang_first": 0, "hang_between": max(1, fault.at)}.get(fault.kind, fault.at)
    return sent >= at and (event.content or sent > 0)


def heads(page: Page) -> dict[str, str]:
    return {
        "content-type": page.content_type,
        "content-length": str(len(page.body)),
        **page.headers,
    }


async def send_page(
    connection: Connection,
    page: Page,
    headers: Mapping[str, str] = {},
) -> None:
    """Send a whole response."""
    await connection.whole(page.status, heads(page) | dict(headers), page.body)
