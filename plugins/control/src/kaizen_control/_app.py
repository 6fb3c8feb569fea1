"""What an HTTP transport says to whom, as an ASGI app."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import aclosing, suppress
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol, TypeAlias

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kaizen_control._feed import in_pieces
from kaizen_control._guard import Guard, Visitor, header, refuse, visitor_of
from kaizen_control._messages import (
    MAX_ANSWER_BYTES,
    AnswerMessage,
    ClosedMessage,
    MalformedError,
    Problem,
    RefusedMessage,
    read_answer,
    read_object,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Desk", "control_app"]

_Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
BODY_TIMEOUT_S = 10.0
_STATUS: dict[Problem, int] = {
    "malformed": 400,
    "unknown": 404,
    "answered": 409,
    "expired": 409,
    "withdrawn": 409,
    "other_action": 409,
    "misfit": 422,
    "busy": 503,
}


class Desk(Protocol):
    """Where the app takes answers to, and gets from what it shows."""

    tokens: list[tuple[bytes, Visitor]]
    open_to: Visitor | None
    max_clients: int
    send_timeout_s: float

    @property
    def readers(self) -> int:
        """How many clients read events."""
        ...

    def listing(self, scope: str | None) -> list[bytes]:
        """Return the open requests that somebody sees, as parts of JSON."""
        ...

    def follow(self, scope: str | None, last_event_id: str) -> AsyncGenerator[bytes] | None:
        """Return the events that somebody sees, or `None` while there are none."""
        ...

    async def decide(
        self, answer: AnswerMessage, visitor: Visitor
    ) -> RefusedMessage | ClosedMessage:
        """Hand an answer on and return what became of it."""
        ...


def control_app(
    desk: Desk, *, hosts: Collection[str], origins: Collection[str], host: str
) -> ASGIApp:
    """Return the app that serves a desk."""
    answering = Route("/requests/{id:path}/answer", _answering(desk), methods=["POST"])
    # Ids hold what models and tools have named: slashes, and even ends of lines.
    answering.path_regex = re.compile(answering.path_regex.pattern, re.DOTALL)
    app = Starlette(
        routes=[
            Route("/", _page(), methods=["GET"]),
            Route("/events", _Events(desk)),
            Route("/requests", _listing(desk), methods=["GET"]),
            answering,
        ]
    )
    app.router.redirect_slashes = False
    return Guard(
        app,
        hosts=hosts,
        origins=origins,
        host=host,
        send_timeout_s=desk.send_timeout_s,
    )


def _page() -> _Endpoint:
    text = files("kaizen_control").joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(text, 'script')}; "
        f"style-src {_hash(text, 'style')}; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )

    async def page(_request: Request) -> Response:
        return HTMLResponse(text, headers={"content-security-policy": policy})

    return page


def _hash(text: str, tag: str) -> str:
    """Return the hash by which a browser knows the one script, or style, of the page."""
    _, _, rest = text.partition(f"<{tag}>")
    inner, _, _ = rest.partition(f"</{tag}>")
    return f"'sha256-{b64encode(sha256(inner.encode()).digest()).decode()}'"


def _listing(desk: Desk) -> _Endpoint:
    async def listing(request: Request) -> Response:
        visitor = visitor_of(request.scope, desk.tokens, desk.open_to)
        if visitor is None:
            return _unknown_visitor()
        pieces = _each(in_pieces(desk.listing(visitor.scope)))
        return StreamingResponse(pieces, media_type="application/json")

    return listing


async def _each(pieces: Iterable[bytes]) -> AsyncGenerator[bytes]:
    """Give pieces without a thread for each, as they take no time to make."""
    for piece in pieces:
        yield piece


def _answering(desk: Desk) -> _Endpoint:
    async def answering(request: Request) -> Response:
        visitor = visitor_of(request.scope, desk.tokens, desk.open_to)
        if visitor is None:
            return _unknown_visitor()
        try:
            status, body = await _body(request)
            if status:
                return _problem("malformed", body.decode(), status)
            answer = _answer(body, request.path_params["id"])
        except MalformedError as error:
            return _problem("malformed", str(error))
        except ClientDisconnect:
            return _problem("malformed", "the body came to no end")
        verdict = await desk.decide(answer, visitor)
        if isinstance(verdict, RefusedMessage):
            return _problem(verdict.problem, verdict.reason)
        return JSONResponse({"id": verdict.id, "taken": True})

    return answering


def _answer(body: bytes, request_id: str) -> AnswerMessage:
    """Return the answer that a body holds to the request that the path names."""
    found = read_object(body)
    if found.setdefault("id", request_id) != request_id:
        raise MalformedError("the body and the path name different requests")
    return read_answer(found)


async def _body(request: Request) -> tuple[int, bytes]:
    """Return 0 and the body, or the status and the reason for which it is not read."""
    kind = (header(request.scope, b"content-type") or b"").partition(b";")[0]
    if kind.strip().lower() != b"application/json":
        return 415, b"send application/json"
    too_long = 413, b"the body is longer than %d bytes" % MAX_ANSWER_BYTES
    announced = header(request.scope, b"content-length")
    if announced is not None and _number(announced) > MAX_ANSWER_BYTES:
        return too_long
    body = bytearray()
    with anyio.move_on_after(BODY_TIMEOUT_S) as reading:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                return too_long
    if reading.cancelled_caught:
        return 408, b"the body took too long"
    return 0, bytes(body)


def _number(digits: bytes) -> float:
    """Return what some digits say; what is no number, or very long, says infinity."""
    return int(digits) if digits.isdigit() and len(digits) < 12 else float("inf")


def _unknown_visitor() -> Response:
    return JSONResponse(
        {"problem": "refused", "reason": "send `Authorization: Bearer TOKEN`"},
        status_code=401,
        headers={"www-authenticate": "Bearer"},
    )


def _problem(problem: Problem, reason: str, status: int | None = None) -> Response:
    return JSONResponse(
        {"problem": problem, "reason": reason}, status_code=status or _STATUS[problem]
    )


class _Events:
    """Server-sent events, for as long as somebody reads them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        desk = self._desk
        visitor = visitor_of(scope, desk.tokens, desk.open_to)
        if scope["method"] != "GET":
            await refuse(send, 405, "use GET")
        elif visitor is None:
            await _unknown_visitor()(scope, receive, send)
        elif desk.readers >= desk.max_clients:
            await refuse(send, 503, "too many read already", "busy")
        else:
            last = (header(scope, b"last-event-id") or b"").decode("latin-1")
            events = desk.follow(visitor.scope, last)
            if events is None:
                await refuse(send, 503, "nobody asks anything yet", "busy")
                return
            await self._stream(events, scope, receive, send)

    async def _stream(
        self, events: AsyncGenerator[bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send events until one side has had enough."""
        async with anyio.create_task_group() as tasks, aclosing(events):
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            await self._send_all(events, send)
            tasks.cancel_scope.cancel()

    async def _send_all(self, events: AsyncGenerator[bytes], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        with suppress(OSError):  # as guard and servers say that the other side is gone
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for piece in events:
                part = {"type": "http.response.body", "body": piece, "more_body": True}
                await send(part)
            await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
