"""Who may come in at all: by the names that a browser was told, before anything else.

A page of somebody else, open in the user's browser, can send requests to this machine. It
cannot choose the `Host` and `Origin` that the browser puts into them.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "ABORT",
    "KNOWN",
    "Guard",
    "StuckError",
    "Visitor",
    "header",
    "refuse",
    "visitor_of",
]

ABORT = "kaizen_control.abort"
"""What of a request's state ends its connection at once, if the server can."""
KNOWN = "kaizen_control.known"
"""What of a request's state tells the server that it comes from somebody known."""

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class StuckError(OSError):
    """The other side does not read what it is sent."""


class Visitor(NamedTuple):
    """Who sends a request.

    Attributes:
        principal: Who they are.
        scope: The one principal whose requests they see, or `None` for all.
    """

    principal: str
    scope: str | None


class Guard:
    """Lets requests through to an app that name it and come from its own pages.

    Args:
        app: The app.
        hosts: What the header `Host` may be beside this machine's names for itself, with
            the port on which the server listens.
        origins: What the app's own `Origin` may be beside what its `Host` says.
        host: The address that the server is bound to.
        send_timeout_s: How long a client may take to read a piece of what it is sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        origins: Collection[str],
        host: str,
        send_timeout_s: float,
    ) -> None:
        self._app = app
        self._send_timeout_s = send_timeout_s
        self._hosts = frozenset(each.encode() for each in hosts)
        self._origins = frozenset(each.encode() for each in origins)
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        send = _careful(scope, _impatient(scope, send, self._send_timeout_s))
        status, reason = self._problem(scope)
        with suppress(StuckError):
            if status:
                await refuse(send, status, reason)
            else:
                await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> tuple[int, str]:
        host = header(scope, b"host")
        if host is None or host not in self._allowed(scope):
            return 403, "this server is not known by that name"
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        own = b"%s://%s" % (str(scope.get("scheme", "http")).encode(), host)
        if any(each != own and each not in self._origins for each in origins):
            return 403, "requests of other pages are not taken"
        if len(origins) > 1:
            return 403, "a request has one origin"
        if scope["method"] not in ("GET", "POST"):
            return 405, "use GET or POST"
        return 0, ""

    def _allowed(self, scope: Scope) -> Collection[bytes]:
        """Return what `Host` may be. Spelt as browsers spell it, and no other way."""
        server = scope.get("server")
        if not server or server[1] is None:
            return self._hosts
        port = server[1]
        names = {"127.0.0.1", "localhost", "[::1]"}
        if self._host not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::", ""):  # noqa: S104
            names = {f"[{self._host}]" if ":" in self._host else self._host}
        found = self._hosts | {f"{name}:{port}".encode() for name in names}
        return found | {name.encode() for name in names} if port == 80 else found


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the one header of a name; `None` if there is none, or there are many."""
    found = [value for each, value in scope["headers"] if each == name]
    return found[0] if len(found) == 1 else None


def visitor_of(
    scope: Scope, tokens: Collection[tuple[bytes, Visitor]], open_to: Visitor | None
) -> Visitor | None:
    """Return who sends a request, or `None`.

    Every token is compared in full, so that time tells nothing. A server of ours is told
    that its connection is that of no stranger.

    Args:
        tokens: Who has which.
        open_to: Who they are who have none, if none is needed.
    """
    given = header(scope, b"authorization") or b""
    kind, _, token = given.partition(b" ")
    found = open_to
    for each, visitor in tokens:
        if compare_digest(each, token) and kind.lower() == b"bearer":
            found = visitor
    known = scope.get("state", {}).get(KNOWN)
    if found is not None and known is not None:
        known()
    return found


async def refuse(send: Send, status: int, reason: str, problem: str = "") -> None:
    """Answer with an error, as JSON."""
    from starlette.responses import JSONResponse

    body: dict[str, Any] = {"problem": problem or "refused", "reason": reason}
    extra = {"www-authenticate": "Bearer"} if status == 401 else None
    response = JSONResponse(body, status_code=status, headers=extra)
    for part in (
        {
            "type": "http.response.start",
            "status": status,
            "headers": response.raw_headers,
        },
        {"type": "http.response.body", "body": bytes(response.body)},
    ):
        await send(part)


def _impatient(scope: Scope, send: Send, timeout_s: float) -> Send:
    """Hang up on who does not read, whatever it is that they are sent."""

    async def sent(message: Message) -> None:
        with anyio.move_on_after(timeout_s) as sending:
            await send(message)
        if sending.cancelled_caught:
            abort = scope.get("state", {}).get(ABORT)
            if abort is not None:  # to close it would wait for the reader
                abort()
            raise StuckError("the other side does not read")

    return sent


def _careful(scope: Scope, send: Send) -> Send:
    """Add what browsers are to heed, and hang up on a body that nobody will read."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name for name, _ in message["headers"]}
            headers = [each for each in _HEADERS if each[0] not in present]
            if message["status"] >= 400 and scope["method"] != "GET":
                headers.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return sent
