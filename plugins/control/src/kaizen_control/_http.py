"""A transport over HTTP: server-sent events out, JSON in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from kaizen.errors import ConfigurationError

from kaizen_control._feed import Feed
from kaizen_control._guard import Visitor
from kaizen_control._messages import (
    AnswerMessage,
    ClosedMessage,
    Outgoing,
    Received,
    RefusedMessage,
    RequestMessage,
    as_json,
)
from kaizen_control._token import MIN_TOKEN_CHARS, forget_token, keep_token, new_token
from kaizen_control._transport import TransportClosedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["HTTPTransport"]

MAX_OPEN_BYTES = 64 * 1024 * 1024
MAX_WAITING = 1_000
VERDICT_S = 30.0


class HTTPTransport:
    """Shows requests to programs and browsers, and takes answers from them.

    By default it starts a server on this machine's loopback address, for whoever has the
    token. With `serve=False` it starts none: mount its `app` in an app of yours.

    Attributes:
        url: Where the server is; `""` while it does not run.
        token_path: The file that has the token; `None` if it was given.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        token_path: Path | None = None,
        principal: str = "owner",
        principals: Mapping[str, str] | None = None,
        auth: bool = True,
        serve: bool = True,
        detached: bool = False,
        allowed_hosts: Collection[str] = (),
        allowed_origins: Collection[str] = (),
        kept_events: int = 1_000,
        max_clients: int = 2_000,
        ping_s: float = 15.0,
        send_timeout_s: float = 30.0,
    ) -> None:
        """Make a transport; nothing is opened yet.

        Args:
            host: The address to listen at.
            port: The port to listen at; 0 for any that is free.
            token: What the owner has to send; by default a random one, in a file.
            token_path: The file that has the owner's token, and goes on to have it.
            principal: Who the owner is, for the log.
            principals: Tokens of others, and who they are: each sees and answers only what
                is asked on their behalf.
            auth: Whether a token is needed at all.
            serve: Whether to start a server.
            detached: Whether runs stop until there is an answer, rather than wait.
            allowed_hosts: Names, port included, by which it may be asked for beside those
                of the loopback address.
            allowed_origins: The origins that its own page has behind a proxy, such as
                `https://asks.example`. Pages of others cannot use it: there is no CORS.
            kept_events: How many events are kept for clients that come back.
            max_clients: How many may read events at once.
            ping_s: After how many seconds of silence readers get a comment.
            send_timeout_s: How long a client may take to read before it is hung up on.

        Raises:
            ConfigurationError: Somebody could come in who should not.
        """
        self.detached = detached
        self.url = ""
        self.token_path: Path | None = None
        self.max_clients = max_clients
        self.send_timeout_s = send_timeout_s
        self.open_to = None if auth else Visitor(principal, None)
        self.tokens: list[tuple[bytes, Visitor]] = []
        self._bound = host, port, serve
        self._owner = principal
        self._given = token, token_path
        self._others = dict(principals or {})
        self._allowed = tuple(allowed_hosts), tuple(allowed_origins)
        self._kept, self._ping_s = kept_events, ping_s
        self._open: dict[str, bytes] = {}
        self._whose: dict[str, str] = {}
        self._open_bytes = 0
        self._feeds: dict[str | None, Feed] = {}
        self._verdicts: dict[str, _Verdict] = {}
        self._answers: MemoryObjectSendStream[Received] | None = None
        self._received: MemoryObjectReceiveStream[Received] | None = None
        self._app: ASGIApp | None = None
        self._check()

    @property
    def app(self) -> ASGIApp:
        """The ASGI app, to be mounted in one of yours; it works while the channel is open.

        It needs a server of asyncio or trio that can stream.
        """
        if self._app is None:
            from kaizen_control._app import control_app

            hosts, origins = self._allowed
            host, _, _ = self._bound
            self._app = control_app(self, hosts=hosts, origins=origins, host=host)
        return self._app

    @property
    def token(self) -> str:
        """The owner's token; `""` if none is needed, or there is none yet."""
        return self.tokens[0][0].decode() if self.tokens else ""

    @property
    def readers(self) -> int:
        """How many clients read events."""
        return sum(feed.readers for feed in self._feeds.values())

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Be open: make the token, and start the server if there is to be one."""
        host, port, serve = self._bound
        async with AsyncExitStack() as stack:
            self._answers, self._received = anyio.create_memory_object_stream[Received](
                MAX_WAITING
            )
            stack.callback(self._close)
            stack.push_async_callback(self._forget_token)
            await self._make_tokens()
            self._feeds = {
                scope: Feed(
                    partial(self._state, scope), kept=self._kept, ping_s=self._ping_s
                )
                for scope in (None, *self._others.values())
            }
            if serve:
                await stack.enter_async_context(self._serving(host, port))
            yield

    async def send(self, message: Outgoing) -> None:
        """Tell everybody whom it concerns; waits for nobody."""
        if self._received is None:
            raise TransportClosedError("the server is closed")
        if isinstance(message, RefusedMessage):
            self._decide(message.ref, message)
        elif isinstance(message, ClosedMessage):
            self._decide(message.ref, message)
            principal = self._drop(message.id)
            plain = message.model_copy(update={"ref": ""})
            self._publish("closed", as_json(plain), principal)
        elif isinstance(message, RequestMessage):
            body = as_json(message)
            self._drop(message.id)
            if self._open_bytes + len(body) > MAX_OPEN_BYTES:
                raise TransportClosedError("too much is open already")
            self._open[message.id], self._whose[message.id] = body, message.principal
            self._open_bytes += len(body)
            self._publish("request", body, message.principal)
        else:
            self._publish("progress", as_json(message), message.principal)

    async def receive(self) -> Received:
        """Wait for an answer."""
        if self._received is None:
            raise TransportClosedError("the server is closed")
        try:
            return await self._received.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise TransportClosedError("the server is closed") from None

    def listing(self, scope: str | None) -> list[bytes]:
        """Return the open requests that somebody sees, as parts of JSON."""
        return [b'{"requests":[', *self._seen(scope), b"]}"]

    def follow(self, scope: str | None, last_event_id: str) -> AsyncGenerator[bytes] | None:
        """Return the events that somebody sees, or `None` while there are none."""
        feed = self._feeds.get(scope)
        return None if feed is None else feed.follow(last_event_id)

    async def decide(
        self, answer: AnswerMessage, visitor: Visitor
    ) -> RefusedMessage | ClosedMessage:
        """Hand an answer on, and return what became of it."""
        ref = token_hex(8)
        given = answer.model_copy(update={"ref": ref})
        verdict = self._verdicts[ref] = _Verdict()
        received = Received(answer=given, principal=visitor.principal, scope=visitor.scope)
        try:
            with anyio.move_on_after(VERDICT_S):
                if self._answers is not None:
                    await self._answers.send(received)
                    await verdict.done.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            del self._verdicts[ref]
        return verdict.message or RefusedMessage(
            id=answer.id, problem="busy", reason="nobody takes answers now; try again"
        )

    def _check(self) -> None:
        host, port, serve = self._bound
        hosts, origins = self._allowed
        open_to_others = serve and not _is_loopback(host)
        token, token_path = self._given
        problem = ""
        if open_to_others and self.open_to is not None:
            problem = "would be open to everybody who reaches this machine"
        elif open_to_others and ip_of(host) in ("0.0.0.0", "::", "") and not hosts:  # noqa: S104
            problem = "does not know its names: give `allowed_hosts`"
        elif not 0 <= port <= 65_535:
            problem = f"cannot listen at port {port}: it is not from 0 to 65535"
        elif any("*" in each for each in (*hosts, *origins)):
            problem = "knows no `*`: name each host and each origin"
        elif token is not None and token_path is not None:
            problem = "has a token and a file for one: give one of them"
        elif any(len(each) < MIN_TOKEN_CHARS for each in self._secrets()):
            problem = f"has a token of less than {MIN_TOKEN_CHARS} characters"
        elif any(not each.isascii() or not each.isprintable() for each in self._secrets()):
            problem = "has a token that is not ASCII"
        elif token in self._others:
            problem = "has one token for the owner and for somebody else"
        elif not all(self._others.values()):
            problem = "has a token of nobody: name its principal"
        if problem:
            raise ConfigurationError(f"the HTTP transport at {host!r}", problem)

    def _secrets(self) -> list[str]:
        token, _ = self._given
        return [*self._others, *([] if token is None else [token])]

    async def _make_tokens(self) -> None:
        token, path = self._given
        if self.open_to is not None:
            self.tokens = []
            return
        if token is None and path is not None:
            token = await anyio.to_thread.run_sync(keep_token, path)
            self.token_path = path
        elif token is None:
            token, self.token_path = await anyio.to_thread.run_sync(new_token)
        owner = Visitor(self._owner, None)
        assert token is not None
        if token in self._others:
            raise ConfigurationError(
                f"the token file {str(path)!r}",
                "has a token that is somebody else's too",
                "Remove the file, or give the other one another token.",
            )
        self.tokens = [(token.encode(), owner)]
        for each, principal in self._others.items():
            self.tokens.append((each.encode(), Visitor(principal, principal)))

    async def _forget_token(self) -> None:
        _, kept = self._given
        path, self.token_path = self.token_path, None
        if path is not None and path != kept:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(forget_token, path)

    @asynccontextmanager
    async def _serving(self, host: str, port: int) -> AsyncGenerator[None]:
        _need_asyncio()
        from kaizen_control._server import serving

        listener = _listen(host, port)
        name = f"[{host}]" if ":" in host else host
        async with serving(
            self.app,
            listener,
            max_clients=self.max_clients,
            before_end=self._close_feeds,
        ):
            self.url = f"http://{name}:{listener.getsockname()[1]}/"
            try:
                yield
            finally:
                self.url = ""

    def _close_feeds(self) -> None:
        for feed in self._feeds.values():
            feed.close()
        for verdict in self._verdicts.values():
            verdict.done.set()

    def _close(self) -> None:
        self._close_feeds()
        self._feeds = {}
        self._open.clear()
        self._whose.clear()
        self._open_bytes = 0
        for stream in (self._answers, self._received):
            if stream is not None:
                stream.close()
        self._answers = self._received = None

    def _drop(self, request_id: str) -> str:
        """Forget a request, and return on whose behalf it was asked."""
        self._open_bytes -= len(self._open.pop(request_id, b""))
        return self._whose.pop(request_id, "")

    def _publish(self, event: str, data: bytes, principal: str) -> None:
        """Tell the owner, and the one whom it concerns."""
        for scope, feed in self._feeds.items():
            if scope is None or scope == principal:
                feed.publish(event, data)

    def _state(self, scope: str | None, missed: bool) -> list[bytes]:
        """Return what is open now, for somebody who comes or has missed something."""
        told = b"true" if missed else b"false"
        head = b'{"type":"open","missed":%s,"requests":[' % told
        return [head, *self._seen(scope), b"]}"]

    def _seen(self, scope: str | None) -> list[bytes]:
        """Return the open requests that somebody sees, with what goes between them."""
        seen: list[bytes] = []
        for request_id, body in self._open.items():
            if scope is None or self._whose[request_id] == scope:
                seen += (b",", body) if seen else (body,)
        return seen

    def _decide(self, ref: str, message: RefusedMessage | ClosedMessage) -> None:
        verdict = self._verdicts.get(ref)
        if verdict is not None:
            verdict.message = message
            verdict.done.set()


class _Verdict:
    """What became of an answer."""

    __slots__ = ("done", "message")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.message: RefusedMessage | ClosedMessage | None = None


def ip_of(host: str) -> str:
    """Return the canonical spelling of an address, or `""` for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (bool(ip_of(host)) and ip_address(host).is_loopback)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        raise ConfigurationError(
            f"the HTTP transport at {host}:{port}",
            f"cannot listen: {error.strerror or error}",
            "Choose another port, or 0 for any.",
        ) from error
    listener.setblocking(False)
    return listener


def _need_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "the server of the HTTP transport",
            "runs on asyncio alone",
            "Use `serve=False`, and mount its `app` in a server that runs on trio.",
        ) from None
