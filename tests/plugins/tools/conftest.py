"""The tools as a kernel gives them, what confines commands, and a real server."""

from __future__ import annotations

import ctypes
import gzip
import io
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeAlias, cast
from urllib.parse import parse_qs, urlsplit

import httpcore
import pytest
from kaizen.kernel import Kernel
from kaizen.run import Run
from kaizen.testing import ModelPlugin, ScriptedModel
from kaizen.tools import Tool, ToolContext
from kaizen_tools import HttpSettings, ToolsPlugin, ToolsSettings
from kaizen_tools._http import GuardedClient
from kaizen_tools._web_tools import WebTools

from tests.plugins.tools.addresses import Names

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager["Tools"]]
Client: TypeAlias = Callable[..., Callable[..., Any]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests that are marked `anyio` on asyncio and on trio."""
    backend: str = request.param
    return backend


class Tools:
    """Calls tools of a kernel, as the kernel does."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def __call__(self, name: str, **arguments: Any) -> Any:
        tool = await self.kernel.get(Tool, name)  # type: ignore[type-abstract]
        return await call_tool(tool, **arguments)


async def call_tool(tool: Tool, **arguments: Any) -> Any:
    context = ToolContext(run=cast(Run, None), call_id="call_1", idempotency_key="key_1")
    return await tool.invoke(tool.validate(arguments), context)


@pytest.fixture
def call() -> Callable[..., Any]:
    """Call one tool as the kernel does."""
    return call_tool


@pytest.fixture
def toolbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolbox:
    """Start a kernel with the tools alone; the working directory is an empty one."""
    monkeypatch.chdir(tmp_path)

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncGenerator[Tools]:
        async with Kernel(
            discover=False,
            plugins=[ToolsPlugin, ModelPlugin(ScriptedModel())],
            settings={"tools": settings},
            config_file=False,
            environ={},
        ) as kernel:
            yield Tools(kernel)

    return opened


@pytest.fixture
def client(call: Callable[..., Any]) -> Client:
    """The web tools with names of our own."""

    def make(names: Names | None = None, **settings: Any) -> Callable[..., Any]:
        http = HttpSettings(**settings)
        guarded = GuardedClient(http, resolve=names or Names())
        tools = WebTools(guarded, ToolsSettings(http=http)).tools()
        return lambda name, **arguments: call(tools[name], **arguments)

    return make


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where connections would go; none is made."""
    tried: list[str] = []

    async def connect(self: Any, host: str, port: int, **_: Any) -> Any:
        tried.append(host)
        raise httpcore.ConnectError("no network in tests")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    return tried


LEAST_LANDLOCK = 6


@pytest.fixture(scope="session")
def bubblewrap(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the path of bubblewrap; where it is not installed, of one unpacked for now."""
    path = shutil.which("bwrap") or unpacked(tmp_path_factory.mktemp("bubblewrap"))
    if not path:
        pytest.skip("bubblewrap is not installed, and apt-get cannot download it")
    trial = [path, "--unshare-user", "--unshare-net", "--ro-bind", "/", "/", "true"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"bubblewrap does not work here: {done.stderr.strip()}")
    return path


def unpacked(folder: Path) -> str:
    """Return the path of bubblewrap from a package that is unpacked but not installed."""
    try:
        for command in (["apt-get", "download", "bubblewrap"], ["dpkg", "-x", "", "."]):
            package = [str(path) for path in folder.glob("*.deb")]
            words = [word or package[0] for word in command]
            subprocess.run(words, cwd=folder, capture_output=True, check=True, timeout=50)
    except (OSError, IndexError, subprocess.SubprocessError):
        return ""
    return str(folder / "usr/bin/bwrap")


@pytest.fixture(scope="session")
def landlock() -> int:
    """Give the version of Landlock that the kernel has."""
    create = 444
    version = (
        ctypes.CDLL(None).syscall(create, None, 0, 1) if sys.platform == "linux" else 0
    )
    if version < LEAST_LANDLOCK:
        pytest.skip(f"the kernel has Landlock {version}, and {LEAST_LANDLOCK} is needed")
    return int(version)


@pytest.fixture
def confined(request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
    """Give what the settings for `bash` need to say for a sandbox, or skip the test."""

    def settings(sandbox: str) -> dict[str, Any]:
        found = request.getfixturevalue(sandbox) if sandbox != "none" else None
        more = {"bubblewrap": found} if sandbox == "bubblewrap" else {}
        return {"sandbox": sandbox, **more}

    return settings


class Server:
    """A server on this machine that answers as its URLs say, and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.finished = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port = int(self._http.server_address[1])
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.bomb = b""
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finished.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def make_bomb(*, megabytes: int) -> bytes:
    """Return little gzip that becomes very much."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(megabytes):
            file.write(bytes(1_000_000))
    return packed.getvalue()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ValueError):
                self.close_connection = True

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((self.command, self.path, headers, body))
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path in server.pages:
                self._send(200, *server.pages[parts.path])
            else:
                getattr(self, f"_{parts.path[1:]}")(query)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def _send(self, status: int, kind: str, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, **headers}.items():
                if value:
                    self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _hello(self, query: dict[str, str]) -> None:
            self._send(200, "text/plain", b"hello", Set_Cookie="secret=1", X_Own="yes")

        def _status(self, query: dict[str, str]) -> None:
            self._send(int(query["code"]), "text/plain", b"status")

        def _to(self, query: dict[str, str]) -> None:
            code = int(query.get("code", "302"))
            self._send(code, "text/plain", b"moved", Location=query["url"])

        def _loop(self, query: dict[str, str]) -> None:
            self._send(302, "text/plain", b"", Location="/loop")

        def _big(self, query: dict[str, str]) -> None:
            self._send(200, "text/plain", b"x" * int(query["size"]))

        def _bomb(self, query: dict[str, str]) -> None:
            self._send(200, "text/plain", server.bomb, Content_Encoding="gzip")

        def _brotli(self, query: dict[str, str]) -> None:
            self._send(200, "text/plain", b"what", Content_Encoding="br")

        def _silent(self, query: dict[str, str]) -> None:
            server.finished.wait(20)

        def _drip(self, query: dict[str, str]) -> None:
            self.send_response(200)
            self.end_headers()
            while not server.finished.wait(0.02):
                self.wfile.write(b".")

        def _headers(self, query: dict[str, str]) -> None:
            self.send_response(200)
            for number in range(int(query["count"])):
                self.send_header(f"X-{number}", "v" * int(query["size"]))
            self.end_headers()

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    """Serve on a port of this machine for the time of a test."""
    with Server() as serving:
        yield serving


@pytest.fixture
def bomb() -> bytes:
    """Give 200 MB, as 900 kB of gzip."""
    return make_bomb(megabytes=200)
