"""The app in a server of somebody else, on asyncio and on trio."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import pytest
from kaizen import Answer, PendingRequest
from kaizen_control import ControlProtocol, HTTPTransport
from starlette.applications import Starlette
from starlette.routing import Mount

pytestmark = pytest.mark.anyio

TOKEN = "t" * 40
HOST = "asks.example"
QUESTION = PendingRequest(id="run:ask_1", kind="question", text="Which way?")
Message: TypeAlias = MutableMapping[str, Any]


class Visit:
    """One request, as a server hands it to an app, and what the app says."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.done = False
        self.gone = anyio.Event()
        self._news = anyio.Event()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        kind: str = "http",
        root_path: str = "",
    ) -> Visit:
        """Make the request, and return when it is over."""
        all_headers = {"host": HOST, "authorization": f"Bearer {TOKEN}", **(headers or {})}
        if body:
            all_headers["content-type"] = "application/json"
        scope = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": root_path,
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in all_headers.items()],
            "server": None,
            "client": ("127.0.0.1", 1),
        }
        pieces = [body]

        async def receive() -> Message:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        await self._app(scope, receive, self._take)
        self.done = True
        return self

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
        else:
            self.status = message.get("code", 0)
        news, self._news = self._news, anyio.Event()
        news.set()

    async def sees(self, text: bytes) -> None:
        with anyio.fail_after(5):
            while text not in self.body:
                await self._news.wait()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def mounted(**options: Any) -> AsyncGenerator[tuple[ControlProtocol, Any]]:
    options = {"serve": False, "token": TOKEN, "allowed_hosts": [HOST], **options}
    transport = HTTPTransport(**options)
    async with ControlProtocol(transport) as protocol:
        yield protocol, transport.app


async def test_a_question_is_seen_and_answered_in_a_server_of_somebody_else() -> None:
    answers: list[Answer] = []
    async with mounted() as (protocol, app), anyio.create_task_group() as tasks:
        events = Visit(app)
        tasks.start_soon(events.send, "GET", "/events")
        await events.sees(b"event: open")

        async def ask() -> None:
            answers.append(await protocol.ask(QUESTION))

        tasks.start_soon(ask)
        await events.sees(b"Which way?")
        reply = await Visit(app).send(
            "POST", f"/requests/{QUESTION.id}/answer", b'{"text": "left"}'
        )
        await events.sees(b"event: closed")
        events.gone.set()

    assert (events.status, reply.status) == (200, 200)
    assert events.headers[b"content-type"] == b"text/event-stream"
    assert [each.text for each in answers] == ["left"]


async def test_the_app_works_below_a_path() -> None:
    async with mounted() as (_, app):
        whole = Starlette(routes=[Mount("/asks", app)])

        page = await Visit(whole).send("GET", "/asks/")
        listed = await Visit(whole).send("GET", "/asks/requests")

        assert (page.status, listed.status) == (200, 200)
        assert listed.json == {"requests": []}


async def test_the_names_of_the_app_have_to_be_given() -> None:
    async with mounted(allowed_hosts=()) as (_, app):
        assert (await Visit(app).send("GET", "/requests")).status == 403


async def test_while_the_channel_is_closed_nothing_can_be_read_or_answered() -> None:
    transport = HTTPTransport(serve=False, auth=False, allowed_hosts=[HOST])

    events = await Visit(transport.app).send("GET", "/events")
    answer = await Visit(transport.app).send("POST", "/requests/x/answer", b"{}")

    assert (events.status, answer.status) == (503, 503)


async def test_before_it_is_open_nobody_is_known() -> None:
    transport = HTTPTransport(serve=False, allowed_hosts=[HOST])

    for authorization in ("Bearer ", "Bearer", ""):
        visit = Visit(transport.app)
        await visit.send("GET", "/requests", headers={"authorization": authorization})
        assert visit.status == 401


async def test_when_the_channel_is_closed_readers_are_let_go() -> None:
    async with anyio.create_task_group() as tasks, mounted() as (_, app):
        events = Visit(app)
        tasks.start_soon(events.send, "GET", "/events")
        await events.sees(b"event: open")

    assert events.done


async def test_web_sockets_are_closed() -> None:
    async with mounted() as (_, app):
        assert (await Visit(app).send("GET", "/events", kind="websocket")).status == 1008
