"""Asks over HTTP: one pool of connections, bounded answers, errors of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.lowlevel import EventLoopToken, current_token
from kaizen.errors import (
    ConfigurationError,
    ModelAuthError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelTimeoutError,
)

from kaizen_direct._endpoints import Endpoint
from kaizen_direct._errors import lost, missing_key, refusal
from kaizen_direct._keys import Keys
from kaizen_direct._wire import parsed

if TYPE_CHECKING:
    import httpx

__all__ = ["Exchange", "Http", "Limits"]

CLOSE_S = 2.0
MAX_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take, and how large they may be.

    Attributes:
        reply_bytes: The most that one answer, or one piece of a stream, may be.
    """

    connect_s: float = 10
    idle_s: float = 300
    whole_s: float = 600
    reply_bytes: int = 32 * 1024 * 1024
    connections: int = 1_000
    embed_batch: int = 256
    proxy: str = ""
    ca_file: Path | None = None


class Http:
    """Sends requests to one endpoint, from one event loop.

    httpx is imported with the first request, and in a thread, since that takes a while.
    """

    def __init__(
        self, endpoint: Endpoint, keys: Keys, limits: Limits, headers: Mapping[str, str]
    ) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self._keys = keys
        self._fixed = headers
        self._key = ""
        self._headers: Any = None
        self._urls: dict[tuple[str, str], httpx.URL] = {}
        self._client: httpx.AsyncClient | None = None
        self._token: EventLoopToken | None = None
        self._closed = False
        self._making = anyio.Lock()
        idle = limits.idle_s
        self._waits = {
            "connect": limits.connect_s,
            "read": idle,
            "write": idle,
            "pool": idle,
        }

    def __repr__(self) -> str:
        return f"<Http {self.endpoint.name!r} at {self.endpoint.base_url!r}>"

    @property
    def key(self) -> str:
        """The key that is sent, or `""`."""
        return self._key

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None and self._token == current_token():
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_S):
                await client.aclose()

    async def ask(
        self,
        path: str,
        body: bytes | None,
        *,
        model: str = "",
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Exchange:
        """Send a request and return its answer as soon as that begins.

        Args:
            body: What is posted; without one, it is a GET.
            headers: More of them, for this request.

        Raises:
            ModelError: There is no key, no connection, or no answer but an error.
        """
        client = self._client or await self._open()
        if self._token != current_token():
            raise self._elsewhere()
        import httpx  # which `_open` has imported by now, in a thread

        given = self._headers if self._headers is not None else self._with_key()
        if headers or content_type != "application/json":
            given = httpx.Headers(given)
            given.update(headers)  # by name: one that is there is replaced
            given["content-type"] = content_type
        request = httpx.Request(
            "GET" if body is None else "POST",
            self._url(path, model),
            headers=given,
            content=body,
            extensions={"timeout": self._waits},
        )
        if body is not None:
            from kaizen_direct._body import Body  # which imports httpx

            request.stream = Body(body)
        exchange = Exchange(self, self.limits.whole_s if timeout_s is None else timeout_s)
        await exchange.begin(client, request)
        if exchange.status >= 300:
            raise await exchange.refusal(model)
        return exchange

    def _url(self, path: str, model: str) -> httpx.URL:
        endpoint = self.endpoint
        place = (path, model if endpoint.deployments else "")
        url = self._urls.get(place)
        if url is None:
            import httpx

            if not endpoint.base_url:
                raise ConfigurationError(
                    f"endpoint {endpoint.name!r}",
                    "has no address",
                    "Set AZURE_AI_INFERENCE_ENDPOINT or AZURE_OPENAI_ENDPOINT, or "
                    f"`base_url` in [plugins.direct.endpoints.{endpoint.name}].",
                )
            if len(self._urls) > 100:
                self._urls.clear()
            url = self._urls[place] = httpx.URL(endpoint.url(path, model))
        return url

    def _with_key(self) -> Any:
        """Return the headers of every request, with the key."""
        endpoint, key = self.endpoint, self._find_key()
        found = {
            "accept": "*/*",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "kaizen-direct",
            **self._fixed,
            **{name.lower(): value for name, value in endpoint.headers.items()},
        }
        if key and endpoint.auth in ("bearer", "both"):
            found["authorization"] = f"Bearer {key}"
        if key and endpoint.auth == "x-api-key":
            found["x-api-key"] = key
        if key and endpoint.auth in ("api-key", "both"):
            found["api-key"] = key
        self._key = key
        self._headers = [(name.encode(), line.encode()) for name, line in found.items()]
        return self._headers

    def _find_key(self) -> str:
        """Return the key, or `""` where none is needed."""
        endpoint = self.endpoint
        key = endpoint.key.get_secret_value() if endpoint.key else ""
        key = (key or self._keys.find(endpoint.key_variables)).strip()
        if not key and endpoint.needs_key:
            raise missing_key(endpoint.name, endpoint.key_variables, endpoint.key_from)
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ModelAuthError(
                endpoint.name,
                "has a key with characters that no key has",
                "Look at its variable: an end of line or a quotation mark may be in it.",
            )
        if key and endpoint.exposes_its_key:
            raise ConfigurationError(
                f"endpoint {endpoint.name!r}",
                "would send its key unencrypted to another machine",
                "Use https, or set `insecure = true` for it.",
            )
        return key

    def forget_key(self) -> None:
        """Look the key up again before the next request."""
        self._headers = None

    async def _open(self) -> httpx.AsyncClient:
        async with self._making:
            if self._closed:
                raise ModelRequestError(
                    self.endpoint.name, "is closed", "Use it while its kernel runs."
                )
            if self._client is None:
                self._client = await anyio.to_thread.run_sync(self._make)
                self._token = current_token()
            return self._client

    def _make(self) -> httpx.AsyncClient:
        import httpx

        limits, trusted = self.limits, self._trusted()
        try:
            return httpx.AsyncClient(
                verify=trusted,
                trust_env=False,
                follow_redirects=False,
                proxy=limits.proxy or None,
                limits=httpx.Limits(
                    max_connections=limits.connections,
                    max_keepalive_connections=min(limits.connections, 100),
                    keepalive_expiry=30,
                ),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            kind = type(error).__name__  # and no more: its words may hold a password
        raise ConfigurationError(
            "`proxy` of [plugins.direct]",
            f"cannot be used ({kind})",
            "Correct it; for socks5, install `httpx[socks]`.",
        )

    def _trusted(self) -> Any:
        """Return which certificates are trusted; loading them takes a while."""
        import ssl

        if self.limits.ca_file is not None:
            try:
                return ssl.create_default_context(cafile=str(self.limits.ca_file))
            except OSError:
                problem = "cannot be read, or holds no certificates"
            raise ConfigurationError(
                "`ca_file` of [plugins.direct]", problem, "Correct it."
            )
        # Without encryption there is nothing to verify, as redirects are not followed.
        return self.endpoint.base_url.startswith("https:") or bool(self.limits.proxy)

    def _elsewhere(self) -> ModelError:
        return ModelRequestError(
            self.endpoint.name,
            "was opened in another event loop",
            "Use a kernel of this loop.",
        )


class Exchange:
    """One answer, while it comes.

    Attributes:
        status: Its HTTP status; 0 before it is there.
    """

    def __init__(self, http: Http, whole_s: float) -> None:
        self.status = 0
        self._http = http
        self._name = http.endpoint.name
        self._ends = monotonic() + whole_s
        self._whole_s = whole_s
        self._response: httpx.Response
        self._parts: AsyncGenerator[bytes]

    async def begin(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        """Send the request and wait for the head of the answer."""
        import httpx

        try:
            with anyio.move_on_after(self._whole_s) as scope:
                self._response = await client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = lost(self._name, error, "before it answered")
        else:
            if not scope.cancelled_caught:
                self.status = self._response.status_code
                self._parts = self._response.aiter_raw()  # type: ignore[assignment]
                return
            failure = self._too_slow()
        raise failure

    @property
    def is_page(self) -> bool:
        """Whether it is a web page, which no model wrote."""
        return "html" in self.content_type

    @property
    def content_type(self) -> str:
        """What the answer says that it is, without parameters."""
        said: str = self._response.headers.get("content-type", "")
        return said.partition(";")[0].strip().lower()

    async def chunk(self) -> bytes | None:
        """Return the next bytes, or `None` at the end.

        Raises:
            ModelError: It broke off, or took too long.
        """
        import httpx

        try:
            # While the time for a silence ends before the time for all, httpx watches the
            # clock; a scope of our own for each piece would cost a third of all the work.
            left = self._ends - monotonic()
            if left > self._http.limits.idle_s:
                return await anext(self._parts, None)
            with anyio.CancelScope(deadline=anyio.current_time() + left):
                return await anext(self._parts, None)
        except (httpx.HTTPError, httpx.StreamError) as error:
            failure = lost(self._name, error, "in the middle of its answer")
        else:
            failure = self._too_slow()
        raise failure

    async def read(self, limit: int | None = None) -> bytes:
        """Return the whole body.

        Raises:
            ModelError: It broke off, took too long, or is too large.
        """
        limit = self._http.limits.reply_bytes if limit is None else limit
        parts: list[bytes] = []
        size = 0
        try:
            self.check_encoding()
            while (part := await self.chunk()) is not None:
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise self.too_large(limit)
        finally:
            await self.close()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ModelError: It is none.
        """
        body = await self.read()
        if len(body) > 1024 * 1024:
            data = await anyio.to_thread.run_sync(_parsed, body)
        else:
            data = _parsed(body)
        if data is None:
            raise self.unreadable()
        return data

    def check_encoding(self) -> None:
        """Refuse what is compressed: it was not asked for, and may grow without bounds."""
        said = self._response.headers.get("content-encoding", "identity")
        if said.lower() not in ("identity", ""):
            raise ModelRequestError(
                self._name, "answers in a compressed form that was not asked for"
            )

    async def refusal(self, model: str) -> ModelError:
        """Return the error that the answer means."""
        endpoint = self._http.endpoint
        if self.status in (401, 403):
            self._http.forget_key()
        try:
            body = await self.read(MAX_ERROR_BYTES)
        except ModelError:
            body = b""
        data = _parsed(body)
        if data is None:
            data = body[:2_000].decode(errors="replace")
        headers = self._response.headers
        key = self._http.key
        return refusal(endpoint.name, self.status, headers, data, key=key, model=model)

    async def close(self) -> None:
        """Give the connection back, or close it if the answer has not ended."""
        if self._response.is_closed:
            return
        import httpx

        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_S):
            await self._response.aclose()
            # The generators inside one another that httpx reads with would be left as
            # they are; on a closed connection each ends by itself.
            try:
                while await anext(self._parts, None) is not None:
                    pass
            except (httpx.HTTPError, httpx.StreamError):
                pass

    def unreadable(self) -> ModelError:
        """Return the error of an answer that cannot be understood."""
        if self.is_page:
            return ModelRequestError(
                self._name,
                "answers with a web page",
                "Look at `base_url`, and at what stands between here and there.",
                True,
                self.status,
            )
        return ModelRequestError(
            self._name,
            "gave an answer that cannot be understood",
            "Try again; if it stays so, look at `base_url` and at `kind`.",
            True,
            self.status,
        )

    def too_large(self, limit: int) -> ModelError:
        """Return the error of an answer that is larger than it may be."""
        return ModelRequestError(
            self._name,
            f"gave an answer of more than {limit} bytes",
            "Ask for less, or raise `max_reply_mb`.",
            False,
            self.status,
        )

    def ended_early(self) -> ModelError:
        """Return the error of a stream that ends without its end."""
        return ModelConnectionError(
            self._name,
            "ended its answer in the middle",
            "Try again.",
            True,
            self.status,
        )

    def _too_slow(self) -> ModelError:
        return ModelTimeoutError(
            self._name,
            f"did not finish its answer in {self._whole_s:g} s",
            "Ask for less, or allow more time.",
        )


def _parsed(body: bytes) -> Any:
    """Return what a body says, or `None` if it is no JSON."""
    try:
        return parsed(body)
    except ValueError:
        return None
