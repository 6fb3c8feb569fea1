"""Ten thousand requests that are wrong in a few places: none of them breaks the server."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import pytest
from kaizen import PendingRequest
from kaizen_control import ControlProtocol, HTTPTransport

from tests.plugins.control._client import Client

pytestmark = pytest.mark.anyio

TOKEN = "t" * 40
HOST = "asks.example"
NUMBER = PendingRequest(
    id="run:ask_1", kind="question", text="How many?", schema={"type": "integer"}
)
OVER_THE_WIRE = 1_000
IN_PROCESS = 4_000
ODD = [
    *("", "\x00", "%", "%ff", "%00", "..", "é", "a" * 300, "{}", "\\", "'", "::"),
    *("ask_1", "a/b", "answer", "\n", "/"),
]


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"


@pytest.mark.parametrize("auth", [True, False])
async def test_whatever_is_sent_no_status_is_500(auth: bool) -> None:
    random_ = random.Random(20_261_126)
    token = TOKEN if auth else None
    async with ControlProtocol(HTTPTransport(token=token, auth=auth)) as protocol:
        transport = protocol.transport
        assert isinstance(transport, HTTPTransport)
        port = int(transport.url.rstrip("/").rpartition(":")[2])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(protocol.ask, NUMBER)
            await put(protocol)
            client, seen = Client(port, token), Counter[int]()
            for _ in range(OVER_THE_WIRE):
                wrong = fuzzed(random_, f"127.0.0.1:{port}")
                seen[(await client.raw(wrong.raw(random_))).status] += 1

            check(seen, auth=auth)
            assert (await client.answer(NUMBER.id, value=1)).status == 200


@pytest.mark.parametrize("auth", [True, False])
async def test_whatever_a_server_hands_on_no_status_is_500(auth: bool) -> None:
    random_ = random.Random(20_261_127)
    transport = HTTPTransport(
        token=TOKEN if auth else None, auth=auth, serve=False, allowed_hosts=[HOST]
    )
    async with ControlProtocol(transport) as protocol, anyio.create_task_group() as tasks:
        tasks.start_soon(protocol.ask, NUMBER)
        await put(protocol)
        seen = Counter[int]()
        for _ in range(IN_PROCESS):
            seen[await status(transport.app, fuzzed(random_, HOST))] += 1

        check(seen, auth=auth)
        good = json.dumps({"value": 1}).encode()
        last = Fuzzed("POST", f"/requests/{NUMBER.id}/answer", headers(HOST), good)
        assert await status(transport.app, last) == 200


async def put(protocol: ControlProtocol) -> None:
    with anyio.fail_after(5):
        while not protocol.open_requests:
            await anyio.lowlevel.checkpoint()


def check(seen: Counter[int], *, auth: bool) -> None:
    assert {each for each in seen if each >= 500} == set(), seen
    assert seen.keys() >= {200, 400, 403, 404, 405, 415, 422}, seen
    assert (401 in seen) is auth


class Fuzzed(NamedTuple):
    """A request that is wrong in a few places, or in none."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def raw(self, random_: random.Random) -> bytes:
        """Return it as it goes over the wire, where some more may go wrong."""
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        data = bytearray(head + self.body)
        if random_.random() < 0.1:
            data[random_.randrange(head.index(b"\r"))] = random_.randrange(256)
        return bytes(data)


def headers(host: str) -> dict[str, str]:
    return {
        "host": host,
        "authorization": f"Bearer {TOKEN}",
        "content-type": "application/json",
        "connection": "close",
    }


def fuzzed(random_: random.Random, host: str) -> Fuzzed:
    pick = random_.choice
    body = fuzzed_body(random_)
    path = pick(
        [
            "/requests",
            f"/requests/{NUMBER.id}/answer",
            f"/requests/{NUMBER.id}/answer",
            f"/requests/{NUMBER.id}/answer",
            f"/requests/{pick(ODD)}/answer",
            f"/{pick(ODD)}",
            f"/requests/{pick(ODD)}",
            f"/requests?{pick(ODD)}={pick(ODD)}",
        ]
    )
    about = headers(host)
    about["content-type"] = pick(["application/json"] * 8 + ["text/plain", "", *ODD])
    about["content-length"] = pick([str(len(body))] * 9 + ["0", "-1", "1e3", "9" * 30, ""])
    if random_.random() < 0.2:
        about["host"] = pick(["", "evil", *ODD])
    if random_.random() < 0.2:
        about["origin"] = pick(["null", "http://evil", *ODD])
    if random_.random() < 0.2:
        about["authorization"] = pick(["Bearer", f"Bearer {TOKEN[:-1]}", "Basic x", *ODD])
    if random_.random() < 0.1:
        name = pick(["accept", "x-forwarded-for", "cookie", "expect", "range"])
        about[name] = pick(ODD)
    method = pick(["POST"] * 6 + ["GET"] * 3 + ["PUT", "HEAD", "x"])
    return Fuzzed(method, path, about, body)


def fuzzed_body(random_: random.Random) -> bytes:
    return random_.choice(
        [
            b"",
            b"{}",
            b'{"value": 1.5}',
            b'{"value": "x"}',
            b'{"text": "' + random_.randbytes(20) + b'"}',
            random_.randbytes(random_.randint(1, 200)),
            b'{"id": null}',
            b'{"id": "run:ask_1", "value": [' + b"[" * random_.randint(0, 99),
            json.dumps(
                {random_.choice(ODD): random_.choice([1, None, {}, [], "x"])}
            ).encode(),
            json.dumps({"value": {"a": [None] * random_.choice([1, 6_000])}}).encode(),
            b'{"text": "%s"}' % (b"x" * 262_144),
        ]
    )


async def status(app: Any, wrong: Fuzzed) -> int:
    """Return how an app answers what a server hands on to it."""
    target, _, query = wrong.path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": wrong.method,
        "scheme": "http",
        "path": unquote(target),
        "raw_path": target.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (name.encode(), value.encode()) for name, value in wrong.headers.items()
        ],
        "server": None,
        "client": ("127.0.0.1", 1),
    }
    found: list[int] = []
    pieces = [wrong.body[start : start + 65_536] for start in range(0, 300_000, 65_536)]

    async def receive() -> MutableMapping[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: MutableMapping[str, Any]) -> None:
        found.extend([message["status"]] if "status" in message else [])

    await app(scope, receive, send)
    (only,) = found
    return only
