"""The one client through which everything here goes to the network.

A URL is read once, its host is looked up once, every answer is checked, and the connection
goes to exactly an address that was checked; each redirect begins anew. Nothing is taken
from the environment, no cookies are kept, and time, size and decompression are limited.
"""

from __future__ import annotations

import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from types import ModuleType
from typing import TypeAlias

import anyio
from anyio.to_thread import run_sync
from kaizen.errors import ToolError

from kaizen_tools._settings import HttpSettings
from kaizen_tools._urls import Address, Target, is_private, is_public, joined, parse_url

__all__ = ["Answer", "GuardedClient", "Resolve", "system_resolver"]

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Look up a host: its name and port; gives addresses, the best first."""

_MAX_ADDRESSES = 16
_MAX_HEADERS = 32
_MAX_HEADER_VALUE = 8_192
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_GZIP_MEMBERS = 100
_MAX_OVERHEAD = 1 << 20
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    (
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive"),
        *("te", "trailer", "upgrade", "expect", "accept-encoding"),
    )
)
_METHOD_OVERRIDES = frozenset(
    ("x-http-method-override", "x-http-method", "x-method-override")
)
_KEPT_ACROSS_ORIGINS = frozenset(("accept", "accept-language", "user-agent"))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, which a redirect may change into another."""

    method: str
    target: Target
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered.

    Attributes:
        headers: Names in lower case, in their order.
        body: The start of the body, decompressed.
        target: Where it came from, after redirects.
        truncated: Whether the body is longer, or was cut off on its way.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    target: Target
    truncated: bool

    def header(self, name: str) -> str:
        """Return the first header of a name, or `""`."""
        return next((value for each, value in self.headers if each == name), "")


class GuardedClient:
    """Makes requests to public hosts, and to others only where the settings say so.

    Args:
        settings: What may be reached.
        resolve: How names are looked up; by default as the system does it.
    """

    def __init__(self, settings: HttpSettings, *, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._resolve = resolve or system_resolver
        self._tls: ssl.SSLContext | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Make a request and follow its redirects.

        Raises:
            ToolError: The URL or a header is not valid, the host may not be reached, the
                server cannot be reached, or it takes too long.
        """
        if len(body) > self._settings.max_request_bytes:
            raise ToolError(
                f"the body of {len(body)} bytes",
                f"is over {self._settings.max_request_bytes} bytes",
                "Send less, or raise `http.max_request_bytes`.",
            )
        target = parse_url(url)
        request = Request(
            method=method, target=target, headers=_checked(headers or {}), body=body
        )
        try:
            with anyio.fail_after(self._settings.timeout_s):
                return await self._follow(request)
        except TimeoutError:
            raise ToolError(
                f"the server {target.authority!r}",
                f"took longer than {self._settings.timeout_s:g} s",
                "Try again later, or another URL.",
            ) from None

    async def _follow(self, request: Request) -> Answer:
        for _ in range(self._settings.max_redirects + 1):
            answer = await self._once(request)
            following = _redirected(request, answer)
            if following is None:
                return answer
            request = following
        raise ToolError(
            f"the URL {request.target.url[:200]!r}",
            f"was reached after {self._settings.max_redirects} redirects, and leads on",
            "Give the URL that the redirects end at.",
        )

    async def _once(self, request: Request) -> Answer:
        exchange = (await run_sync(_connection)).exchange

        target = request.target
        addresses = await self._addresses(target)
        tls = await self._tls_context() if target.scheme == "https" else None
        inflated = Inflated(self._settings.max_bytes)
        headers = [
            ("Host", target.authority),
            *_defaults(request, self._settings.user_agent),
            *request.headers,
        ]
        async with exchange(
            target,
            method=request.method,
            headers=headers,
            body=request.body,
            addresses=[str(address) for address in addresses],
            tls=tls,
        ) as (status, received, chunks):
            named = tuple(
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in received
            )
            encodings = [value for name, value in named if name == "content-encoding"]
            inflated.begin(", ".join(encodings), target)
            async for chunk in chunks:
                if not inflated.add(chunk):
                    break
            inflated.finish()
        return Answer(
            status=status,
            headers=named,
            body=bytes(inflated.data),
            target=target,
            truncated=inflated.truncated,
        )

    async def _addresses(self, target: Target) -> list[Address]:
        """Look a host up, once, and check every answer.

        Raises:
            ToolError: The host may not be reached, or is not known.
        """
        self._require_permitted(target)
        if target.address is not None:
            found = [target.address]
        else:
            answers = await self._resolve(target.host, target.port)
            found = [ip_address(answer) for answer in dict.fromkeys(answers)]
        if not found:
            raise _unknown_host(target)
        if not all(self._may_connect(target, address) for address in found):
            raise ToolError(
                f"the host {target.host!r}",
                "leads to an address that is not public",
                "Use a public one; an operator may name others in `http.private_hosts`.",
            )
        return found[:_MAX_ADDRESSES]

    def _require_permitted(self, target: Target) -> None:
        settings = self._settings
        denied = any(_fits(target, each) for each in settings.denied_hosts)
        allowed = not settings.allowed_hosts or any(
            _fits(target, each) for each in settings.allowed_hosts
        )
        if denied or not allowed:
            raise ToolError(
                f"the host {target.host!r}",
                "may not be reached, by the settings of the tools",
                "Use another source.",
            )

    def _may_connect(self, target: Target, address: Address) -> bool:
        if target.named in self._settings.private_hosts:
            return True
        if self._settings.allow_private and is_private(address):
            return True
        return is_public(address)

    async def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await run_sync(partial(_tls_context, self._settings))
        return self._tls


class Inflated:
    """A body as it comes in, decompressed no further than it is wanted."""

    def __init__(self, max_bytes: int) -> None:
        self.data = bytearray()
        self.truncated = False
        self._max_bytes = max_bytes
        self._gzip: zlib._Decompress | None = None
        self._members = 0
        self._received = 0
        self._behind = b""
        self._authority = ""

    def begin(self, encoding: str, target: Target) -> None:
        """Prepare for an encoding.

        Raises:
            ToolError: It is another one than was asked for.
        """
        self._authority = target.authority
        encoding = encoding.strip().lower()
        if encoding in ("gzip", "x-gzip"):
            self._gzip = _gzip_member()
        elif encoding not in ("", "identity"):
            raise self._broken(f"answered in the encoding {encoding[:50]!r}")

    def add(self, chunk: bytes) -> bool:
        """Take a piece of the body; say whether more is wanted."""
        if self._gzip is None:
            self._keep(chunk)
            return not self.truncated
        self._received += len(chunk)
        if self._received > 2 * self._max_bytes + _MAX_OVERHEAD:
            raise self._broken("answered with gzip that says nothing")
        chunk = self._behind + chunk
        self._behind = b""
        while chunk and not self.truncated:
            if self._gzip.eof and not self._begins_member(chunk):
                # One byte does not tell yet; what is no member ends the body.
                self._behind = chunk if chunk == _GZIP_MAGIC[:1] else b""
                return bool(self._behind)
            chunk = self._inflate(self._gzip, chunk)
        return not self.truncated

    def finish(self) -> None:
        """Take the end of the body, which may come too early."""
        if self._gzip is not None and self._received and not self._gzip.eof:
            self.truncated = True

    def _begins_member(self, chunk: bytes) -> bool:
        if not chunk.startswith(_GZIP_MAGIC):
            return False
        self._members += 1
        if self._members > _MAX_GZIP_MEMBERS:
            raise self._broken(f"answered with over {_MAX_GZIP_MEMBERS} gzip members")
        self._gzip = _gzip_member()
        return True

    def _inflate(self, member: zlib._Decompress, chunk: bytes) -> bytes:
        """Keep what a chunk holds; return what is behind the end of the member."""
        try:
            piece = member.decompress(chunk, self._max_bytes - len(self.data) + 1)
        except zlib.error as error:
            raise self._broken(f"answered with broken gzip: {error}") from None
        self._keep(piece)
        return member.unused_data

    def _keep(self, piece: bytes) -> None:
        room = self._max_bytes - len(self.data)
        self.truncated = len(piece) > room
        self.data += piece[:room]

    def _broken(self, problem: str) -> ToolError:
        return ToolError(f"the server {self._authority!r}", problem, "Use another source.")


def _gzip_member() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _connection() -> ModuleType:
    """Return the module that speaks HTTP; to import it takes a while."""
    from kaizen_tools import _connection

    return _connection


async def system_resolver(host: str, port: int) -> list[str]:
    """Look up a host as the system does."""
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(answer[4][0]) for answer in found]


def _redirected(request: Request, answer: Answer) -> Request | None:
    """Return the request that a redirect asks for, or `None` if it is not made.

    What changes something is not repeated at another origin: only the one that was named
    was agreed to.
    """
    location = answer.header("location")
    if answer.status not in _REDIRECTS or not location:
        return None
    target = joined(request.target, location)
    same = target.origin == request.target.origin
    reads = request.method == "GET"
    as_get = answer.status == 303 or (answer.status < 303 and request.method == "POST")
    if not (reads or as_get or same):
        return None
    changed = replace(request, target=target)
    if as_get:
        headers = [each for each in changed.headers if not _is_content(each[0])]
        changed = replace(changed, method="GET", body=b"", headers=tuple(headers))
    if not same:
        headers = [
            each for each in changed.headers if each[0].lower() in _KEPT_ACROSS_ORIGINS
        ]
        changed = replace(changed, headers=tuple(headers))
    return changed


def _is_content(name: str) -> bool:
    return name.lower().startswith("content-")


def _defaults(request: Request, user_agent: str) -> list[tuple[str, str]]:
    given = {name.lower() for name, _ in request.headers}
    defaults = [
        ("User-Agent", user_agent),
        ("Accept", "*/*"),
        ("Accept-Encoding", "gzip"),
        ("Connection", "close"),
    ]
    if request.body or request.method in ("POST", "PUT"):
        defaults.append(("Content-Length", str(len(request.body))))
    return [(name, value) for name, value in defaults if name.lower() not in given]


def _checked(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return headers that a model wrote.

    Raises:
        ToolError: One is not valid, or is ours to write.
    """
    if len(headers) > _MAX_HEADERS:
        raise ToolError("the request", f"has over {_MAX_HEADERS} headers", "Send fewer.")
    for name, value in headers.items():
        problem = ""
        if not _TOKEN.fullmatch(name) or name.lower().startswith("proxy-"):
            problem = "has no valid name"
        elif name.lower() in _OURS:
            problem = "is written by the tool itself"
        elif name.lower() in _METHOD_OVERRIDES:
            problem = "asks for another method than the tool's"
        elif len(value) > _MAX_HEADER_VALUE or not _VALUE.fullmatch(value):
            problem = "has no valid value"
        if problem:
            raise ToolError(f"the header {name[:100]!r}", problem, "Correct or omit it.")
    return tuple((name, value.strip()) for name, value in headers.items())


def _fits(target: Target, pattern: str) -> bool:
    """Say whether a host fits `example.com`, `*.example.com` or one with a port."""
    host, _, port = pattern.rpartition(":") if _has_port(pattern) else (pattern, "", "")
    if port and int(port) != target.port:
        return False
    if host.startswith("*."):
        return target.host.endswith(host[1:])
    return target.host == host.strip("[]")


def _has_port(pattern: str) -> bool:
    return ":" in pattern.rpartition("]")[2]


def _unknown_host(target: Target) -> ToolError:
    return ToolError(
        f"the host {target.host!r}", "is not known", "See whether the URL is right."
    )


def _tls_context(settings: HttpSettings) -> ssl.SSLContext:
    import certifi

    return ssl.create_default_context(cafile=str(settings.ca_file or certifi.where()))
