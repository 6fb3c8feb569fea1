"""Requests over HTTP: who gets in, and what becomes of answers and events."""

from __future__ import annotations

import asyncio
import itertools
import json
import stat
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from kaizen import Answer, ConfigurationError, NotAnsweredError, PendingRequest
from kaizen_control import ControlProtocol, HTTPTransport, RequestMessage

from tests.plugins.control._client import Client, Event, read_reply
from tests.plugins.control._served import TOKEN, Served, served

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "ab" * 32
QUESTION = PendingRequest(id="run:ask_1", kind="question", text="Which way?")
NUMBER = replace(QUESTION, schema={"type": "integer"})
APPROVAL = PendingRequest(
    id="run:cycle.1.ask_1",
    kind="approval",
    text="Pay?",
    details={"tool": "pay"},
    action_digest=DIGEST,
)


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"


async def test_an_answer_comes_back_to_who_asked() -> None:
    async with served(principal="alice") as server:
        await server.ask(APPROVAL)

        reply = await server.client.answer(
            APPROVAL.id, approved=True, text="fine", action_digest=DIGEST
        )

        assert (reply.status, reply.json) == (200, {"id": APPROVAL.id, "taken": True})
        assert await server.answered(APPROVAL) == Answer(
            approved=True, text="fine", principal="alice"
        )


async def test_open_requests_are_listed_whole() -> None:
    async with served() as server:
        await server.ask(APPROVAL)
        await server.ask(NUMBER)

        reply = await server.client.get("/requests")

        listed = [
            RequestMessage.model_validate_json(json.dumps(each)).request
            for each in reply.json["requests"]
        ]
        assert reply.status == 200
        assert listed == [APPROVAL, NUMBER]


async def test_clients_hear_of_requests_progress_and_ends_in_order() -> None:
    async with served() as server, server.client.events() as events:
        assert (await anext(events)).data == {
            "type": "open",
            "missed": False,
            "requests": [],
        }
        await server.ask(QUESTION)
        await server.protocol.progress("half way", percentage=50)
        asked, progress = await anext(events), await anext(events)
        await server.client.answer(QUESTION.id, text="left")
        closed = await anext(events)

        assert (asked.name, asked.data["text"]) == ("request", "Which way?")
        assert (progress.name, progress.data["percentage"]) == ("progress", 50)
        assert closed.data == {
            "type": "closed",
            "id": QUESTION.id,
            "why": "answered",
            "ref": "",
        }


@pytest.mark.parametrize(
    ("fields", "status", "problem"),
    [
        ({"text": "many"}, 422, "misfit"),
        ({"value": 1.5}, 422, "misfit"),
        ({"approved": True}, 422, "misfit"),
        ({"id": "run:ask_2", "value": 1}, 400, "malformed"),
        ({"value": 1, "colour": "red"}, 400, "malformed"),
        ({"value": 1, "principal": "root"}, 400, "malformed"),
        ({"text": 5}, 400, "malformed"),
        ({"approved": "yes"}, 400, "malformed"),
        ({"text": "x" * 100_001}, 400, "malformed"),
        ({"type": "request"}, 400, "malformed"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays_open(
    fields: Mapping[str, Any], status: int, problem: str
) -> None:
    async with served() as server:
        await server.ask(NUMBER)

        reply = await server.client.answer(NUMBER.id, **fields)

        assert (reply.status, reply.json["problem"]) == (status, problem)
        assert reply.json["reason"]
        assert len((await server.client.get("/requests")).json["requests"]) == 1
        assert (await server.client.answer(NUMBER.id, value=1)).status == 200


async def test_an_approval_of_another_action_is_refused() -> None:
    async with served() as server:
        await server.ask(APPROVAL)

        for digest in ("", DIGEST[:-1] + "c", DIGEST.upper()):
            reply = await server.client.answer(
                APPROVAL.id, approved=True, action_digest=digest
            )
            assert (reply.status, reply.json["problem"]) == (409, "other_action")


async def test_a_second_answer_is_refused() -> None:
    async with served() as server:
        await server.ask(QUESTION)
        await server.client.answer(QUESTION.id, text="left")

        reply = await server.client.answer(QUESTION.id, text="right")

        assert (reply.status, reply.json["problem"]) == (409, "answered")
        assert (await server.answered(QUESTION)).text == "left"


async def test_an_answer_that_comes_too_late_is_refused() -> None:
    async with served() as server:
        brief = replace(QUESTION, expires_at=time() + 0.05)
        await server.ask(brief)
        assert isinstance(await server.outcome(brief), NotAnsweredError)

        reply = await server.client.answer(QUESTION.id, text="left")

        assert (reply.status, reply.json["problem"]) == (409, "expired")


async def test_an_answer_to_no_request_finds_nothing() -> None:
    async with served() as server:
        reply = await server.client.answer("run:ask_9", text="left")

        assert (reply.status, reply.json["problem"]) == (404, "unknown")


BODIES = [
    (b"{", 400),
    (b"[]", 400),
    (b"null", 400),
    (b'"yes"', 400),
    (b"{'value': 1}", 400),
    (b'{"value": NaN}', 400),
    (b'{"value": 1}{"value": 2}', 400),
    (b'{"value": 1, "value": 2}', 400),
    (b'{"value": {"a": 1, "\\u0061": 2}}', 400),
    (b"\xff\xfe", 400),
    (b'{"text": "\\ud800"}', 400),
    (b'{"value": ' + b"[" * 100_000, 400),
    (b'{"value": ' + b"[" * 50 + b"1" + b"]" * 50 + b"}", 400),
    (b'{"value": [' + b"1," * 20_000 + b"1]}", 400),
    (b'{"value": "' + b"x" * 300_000 + b'"}', 413),
]


@pytest.mark.parametrize(("body", "status"), BODIES, ids=range(len(BODIES)))
async def test_a_body_that_is_no_answer_is_refused(body: bytes, status: int) -> None:
    async with served() as server:
        await server.ask(NUMBER)

        reply = await server.client.send("POST", f"/requests/{NUMBER.id}/answer", body)

        assert (reply.status, reply.json["problem"]) == (status, "malformed")
        assert server.protocol.open_requests


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonp",
        "text/json",
        "application",
        "*/*",
        "application/json, text/plain",
    ],
)
async def test_a_body_of_another_type_is_refused(kind: str) -> None:
    async with served() as server:
        await server.ask(NUMBER)

        reply = await server.client.send(
            "POST",
            f"/requests/{NUMBER.id}/answer",
            b'{"value": 1}',
            {"content-type": kind or None},
        )

        assert reply.status == 415
        assert server.protocol.open_requests


async def test_a_body_of_100_mb_is_refused_before_it_is_read() -> None:
    async with served() as server:
        await server.ask(NUMBER)
        path = f"/requests/{NUMBER.id}/answer"
        for how in ({"content-length": str(100 * 2**20)}, {"transfer-encoding": "chunked"}):
            head = server.client.head(
                "POST", path, {"content-type": "application/json", **how}
            )

            async with await anyio.connect_tcp("127.0.0.1", server.client.port) as stream:
                sent = await sent_until_refused(
                    stream, head, chunked="content-length" not in how
                )

                reply = await read_reply(stream)
            assert reply.status == 413
            assert reply.headers["connection"] == "close"
            assert sent < 2**20


async def sent_until_refused(
    stream: anyio.abc.SocketStream, head: bytes, *, chunked: bool
) -> int:
    """Send a body without end, as long as somebody takes it; return how much was taken."""
    await stream.send(head)
    if not chunked:
        return 0
    piece, sent = b"x" * 65_536, 0
    while sent < 400_000:
        await stream.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        sent += len(piece)
    return sent


async def test_a_body_of_100_mb_of_somebody_unknown_is_refused_unread() -> None:
    async with served() as server:
        stranger = Client(server.client.port, "wrong" * 10)

        reply = await stranger.raw(
            stranger.head(
                "POST",
                "/requests/x/answer",
                {"content-type": "application/json", "content-length": str(100 * 2**20)},
            )
        )

        assert reply.status == 401


WRONG_TOKENS: list[str | None] = [
    None,
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN.upper()}",
    f"Bearer  {TOKEN}",
    f"Basic {TOKEN}",
    f"Token {TOKEN}",
    TOKEN,
    f"Bearer {TOKEN}, Bearer {TOKEN}",
    f"Bearer {TOKEN}\r\nauthorization: Bearer {TOKEN}",
    "Bearer \xff\xfe",
    f"Bearer {'x' * 10_000}",
]


@pytest.mark.parametrize(
    "route", ["GET /requests", "GET /events", "POST /requests/x/answer"]
)
@pytest.mark.parametrize("credential", WRONG_TOKENS, ids=range(len(WRONG_TOKENS)))
async def test_without_the_right_token_nobody_gets_in(
    route: str, credential: str | None
) -> None:
    method, path = route.split()
    async with served() as server:
        reply = await server.client.send(
            method,
            path,
            b"{}" if method == "POST" else b"",
            {"authorization": credential},
        )

        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert TOKEN.encode() not in reply.body


@pytest.mark.parametrize("where", ["?token=", "?access_token=", "?authorization=Bearer%20"])
async def test_a_token_in_the_address_or_a_cookie_opens_nothing(where: str) -> None:
    async with served() as server:
        reply = await server.client.get(
            f"/requests{where}{TOKEN}", authorization=None, cookie=f"token={TOKEN}"
        )

        assert reply.status == 401


def foreign_hosts(port: int) -> list[str | None]:
    return [
        None,
        "",
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        f"localhost.evil.example:{port}",
        f"127.0.0.1.nip.io:{port}",
        f"rebind.it:{port}",
        "127.0.0.1",
        "localhost",
        f"127.0.0.1:{port + 1}",
        f"127.0.0.1:{port}0",
        f"127.0.0.1:0{port}",
        f"127.0.0.1:+{port}",
        "127.0.0.1:",
        "127.0.0.1:http",
        f"localhost.:{port}",
        f"127.0.0.1.:{port}",
        f"LOCALHOST:{port}",
        f"LocalHost:{port}",
        f"127.1:{port}",
        f"127.0.0.2:{port}",
        f"0.0.0.0:{port}",
        f"0:{port}",
        f"2130706433:{port}",
        f"0x7f000001:{port}",
        f"0177.0.0.1:{port}",
        f"127.000.000.001:{port}",
        f"::1:{port}",
        "[::1]",
        f"[::]:{port}",
        f"[0:0:0:0:0:0:0:1]:{port}",
        f"[::ffff:127.0.0.1]:{port}",
        f"[::1%25lo]:{port}",
        f"[::1].evil.example:{port}",
        f"user@127.0.0.1:{port}",
        f"127.0.0.1:{port}@evil.example",
        f"127.0.0.1:{port},evil.example",
        f"127.0.0.1:{port} evil.example",
        f"127.0.0.1:{port}/",
        f"127.0.0.1:{port}#",
        f"127.0.0.1:{port}?",
        f"127.0.0.1\t:{port}",
        f"127.0.0.1%00:{port}",
        f"１２７.0.0.1:{port}".encode().decode("latin-1"),
        f"ⓛocalhost:{port}".encode().decode("latin-1"),
        "null",
        "*",
    ]


async def test_under_no_other_name_is_the_server_known() -> None:
    async with served() as server:
        wrong: list[object] = []
        for host in foreign_hosts(server.client.port):
            for path in ("/", "/requests", "/events", "/nowhere"):
                reply = await server.client.get(path, host=host)
                if reply.status not in (400, 403):
                    wrong.append((host, path, reply.status))

        assert wrong == []


async def test_two_names_are_one_too_many() -> None:
    async with served() as server:
        own = f"127.0.0.1:{server.client.port}"
        for second in (own, "evil.example"):
            head = server.client.head("GET", "/requests").replace(
                b"authorization", f"host: {second}\r\nauthorization".encode()
            )
            assert (await server.client.raw(head)).status in (400, 403)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
async def test_under_its_own_names_it_is_known(name: str) -> None:
    async with served() as server:
        host = f"{name}:{server.client.port}"

        assert (await server.client.get("/requests", host=host)).status == 200
        same = await server.client.get("/requests", host=host, origin=f"http://{host}")
        assert same.status == 200


def foreign_origins(port: int) -> list[str]:
    own = f"127.0.0.1:{port}"
    return [
        "null",
        "",
        "*",
        "http://evil.example",
        f"http://evil.example:{port}",
        "https://evil.example",
        f"https://{own}",
        "http://127.0.0.1",
        f"http://127.0.0.1:{port + 1}",
        f"http://127.0.0.1:0{port}",
        f"http://localhost:{port}",
        f"http://[::1]:{port}",
        f"http://{own}/",
        f"http://{own}.evil.example",
        f"http://{own}@evil.example",
        f"http://127.0.0.1.:{port}",
        f"HTTP://{own}",
        f"http:{own}",
        f"//{own}",
        own,
        f"file://{own}",
        f"chrome-extension://{own}",
        f"http://{own} http://evil.example",
        f"http://{own}, http://evil.example",
        f"http://{own}\r\norigin: http://evil.example",
        f"http://{own}\r\norigin: http://{own}",
    ]


async def test_no_page_of_somebody_else_gets_in() -> None:
    async with served() as server:
        await server.ask(NUMBER)
        wrong: list[object] = []
        for origin in foreign_origins(server.client.port):
            for method, path, body in (
                ("GET", "/requests", b""),
                ("GET", "/events", b""),
                ("POST", f"/requests/{NUMBER.id}/answer", b'{"value": 1}'),
            ):
                reply = await server.client.send(method, path, body, {"origin": origin})
                if reply.status not in (400, 403):
                    wrong.append((origin, path, reply.status))

        assert wrong == []
        assert server.protocol.open_requests


async def test_no_other_page_may_read_an_answer() -> None:
    async with served() as server:
        reply = await server.client.get("/requests")

        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert "set-cookie" not in reply.headers
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"


async def test_what_a_browser_asks_before_a_foreign_request_is_refused() -> None:
    async with served() as server:
        reply = await server.client.send(
            "OPTIONS",
            "/requests/x/answer",
            headers={
                "origin": "http://evil.example",
                "access-control-request-method": "POST",
            },
        )

        assert reply.status == 403


async def test_names_and_origins_can_be_allowed() -> None:
    async with served(
        allowed_hosts=["asks.example"], allowed_origins=["https://asks.example"]
    ) as server:
        good = await server.client.get(
            "/requests", host="asks.example", origin="https://asks.example"
        )
        own = await server.client.get("/requests")

        assert (good.status, own.status) == (200, 200)


async def test_names_that_are_allowed_come_beside_the_own_and_no_others() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        async with served(host=host, allowed_hosts=["asks.example"]) as server:
            port = server.client.port
            wrong = [
                name
                for name in foreign_hosts(port)
                if (await server.client.get("/requests", host=name)).status == 200
            ]
            right = [
                (await server.client.get("/requests", host=name)).status
                for name in ("asks.example", f"127.0.0.1:{port}", f"localhost:{port}")
            ]

            assert (wrong, right) == ([], [200, 200, 200])


async def test_the_origin_of_the_own_page_behind_a_proxy_is_no_way_in_for_others() -> None:
    async with served(allowed_origins=["https://asks.example"]) as server:
        await server.ask(NUMBER)
        own = await server.client.get("/requests", origin="https://asks.example")
        other = await server.client.get("/requests", origin="https://asks.example.evil")
        asked = await server.client.send(
            "OPTIONS", "/requests", headers={"origin": "https://asks.example"}
        )

        assert (own.status, other.status, asked.status) == (200, 403, 405)
        assert not [name for name in own.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        "/requests/",
        "/requests/x",
        "/requests/x/",
        "//requests",
        "/./requests",
        "/requests/../requests",
        "/%2e%2e/requests",
        "/requests%2f",
        "/requests/%2e%2e/answer",
        "/Requests",
        "/requests;x=1",
        "/requests%00",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/page.html",
        "/events/",
        "/static/page.html",
        "http://127.0.0.1/requests",
    ],
)
async def test_other_paths_lead_nowhere(path: str) -> None:
    async with served() as server:
        reply = await server.client.get(path)

        assert reply.status in (404, 405)
        assert "location" not in reply.headers


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "X"]
)
async def test_other_methods_are_refused(method: str) -> None:
    async with served() as server:
        for path in ("/", "/events", "/requests", "/requests/x/answer"):
            reply = await server.client.send(method, path)
            assert reply.status in (400, 405)


async def test_an_unknown_request_and_one_of_somebody_else_look_the_same() -> None:
    mine, theirs = "a" * 40, "b" * 40
    async with served(principals={mine: "alice", theirs: "bob"}) as server:
        request = replace(QUESTION, principal="bob")
        await server.ask(request)
        alice = Client(server.client.port, mine)

        foreign = await alice.answer(request.id, text="left")
        unknown = await alice.answer("run:ask_7", text="left")

        assert (foreign.status, foreign.body) == (unknown.status, unknown.body)
        assert foreign.status == 404
        assert (await alice.get("/requests")).json == {"requests": []}
        bob = Client(server.client.port, theirs)
        assert len((await bob.get("/requests")).json["requests"]) == 1
        assert (await bob.answer(request.id, text="left")).status == 200
        assert (await server.answered(request)).principal == "bob"

        again = await alice.answer(request.id, text="left")
        assert (again.status, again.body) == (unknown.status, unknown.body)


async def test_events_of_somebody_else_leave_no_trace() -> None:
    mine, theirs = "a" * 40, "b" * 40
    async with served(principals={mine: "alice", theirs: "bob"}) as server:
        alice, bob = Client(server.client.port, mine), Client(server.client.port, theirs)
        async with alice.events() as of_alice, bob.events() as of_bob:
            first, _ = await anext(of_alice), await anext(of_bob)
            await server.ask(replace(QUESTION, id="run:ask_1", principal="bob"))
            await server.ask(replace(QUESTION, id="run:ask_2", principal="alice"))
            await server.ask(replace(QUESTION, id="run:ask_3"))
            heard = await anext(of_alice)

            assert heard.data["id"] == "run:ask_2"
            assert number(heard) == number(first) + 1
            assert (await anext(of_bob)).data["id"] == "run:ask_1"


async def test_the_progress_of_somebody_elses_run_is_not_told() -> None:
    mine, theirs = "a" * 40, "b" * 40
    async with served(principals={mine: "alice", theirs: "bob"}) as server:
        alice, bob = Client(server.client.port, mine), Client(server.client.port, theirs)
        asked = replace(QUESTION, principal="bob", run_path=("outer", "inner"))
        async with (
            server.client.events() as of_owner,
            alice.events() as of_alice,
            bob.events() as of_bob,
        ):
            for each in (of_owner, of_alice, of_bob):
                await anext(each)
            await server.protocol.progress("before", run_path=("outer",))
            assert (await anext(of_owner)).data["message"] == "before"
            await server.ask(asked)
            assert (await anext(of_owner)).name == "request"
            assert (await bob.answer(asked.id, text="left")).status == 200
            assert (await anext(of_owner)).name == "closed"
            for path in (("outer", "other"), ("nobody's",)):
                await server.protocol.progress("secret", run_path=path)
                assert (await anext(of_owner)).data["message"] == "secret"
            await server.ask(replace(QUESTION, id="run:ask_2", principal="alice"))
            await server.ask(replace(QUESTION, id="run:ask_3", principal="bob"))

            assert (await anext(of_alice)).data["id"] == "run:ask_2"
            heard = [await anext(of_bob) for _ in range(4)]
            assert [each.name for each in heard] == [
                *("request", "closed", "progress", "request")
            ]
            assert heard[2].data["run_path"] == ["outer", "other"]


def number(event: Event) -> int:
    return int(event.id.rpartition("-")[2])


async def test_a_random_token_is_in_a_file_that_nobody_else_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    seen = set()
    for _ in range(2):
        transport = HTTPTransport()
        async with ControlProtocol(transport):
            path = transport.token_path
            assert path is not None
            token = path.read_text(encoding="ascii").strip()
            assert token == transport.token
            assert len(token) >= 43
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            client = Client(int(transport.url.rstrip("/").rpartition(":")[2]), token)
            assert (await client.get("/requests")).status == 200
            seen.add((token, path))
        assert not path.exists()
    assert len(seen) == 2


async def test_a_token_can_be_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "token"
    tokens = []
    for _ in range(2):
        transport = HTTPTransport(token_path=path)
        async with ControlProtocol(transport):
            tokens.append(transport.token)

    assert tokens[0] == tokens[1] == path.read_text(encoding="ascii").strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_token_that_others_can_read_or_made_is_not_used(tmp_path: Path) -> None:
    loose, link, short = tmp_path / "loose", tmp_path / "link", tmp_path / "short"
    folder, latin = tmp_path / "folder", tmp_path / "latin"
    loose.write_text(TOKEN, encoding="ascii")
    loose.chmod(0o640)
    link.symlink_to(tmp_path / "nowhere")
    short.write_text("abc", encoding="ascii")
    latin.write_bytes(b"\xff" * 40)
    folder.mkdir(mode=0o700)
    for each in (short, latin):
        each.chmod(0o600)

    for path in (loose, link, short, latin, folder):
        with pytest.raises(ConfigurationError, match="token file"):
            async with ControlProtocol(HTTPTransport(token_path=path)):
                pass
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"host": "0.0.0.0", "auth": False}, "open to everybody"),
        ({"host": "192.168.1.5", "auth": False}, "open to everybody"),
        ({"host": "::", "auth": False}, "open to everybody"),
        ({"host": "example.com", "auth": False}, "open to everybody"),
        ({"host": "127.0.0.1.example.com", "auth": False}, "open to everybody"),
        ({"host": "0.0.0.0"}, "allowed_hosts"),
        ({"host": ""}, "allowed_hosts"),
        ({"port": 99_999}, "65535"),
        ({"port": -1}, "65535"),
        ({"allowed_hosts": ["*"]}, "name each host"),
        ({"allowed_origins": ["https://*.example"]}, "each origin"),
        ({"token": "short"}, "less than 32"),
        ({"token": "ä" * 40}, "not ASCII"),
        ({"token": "t" * 40 + "\n"}, "not ASCII"),
        ({"principals": {"short": "bob"}}, "less than 32"),
        ({"principals": {"b" * 40: ""}}, "name its principal"),
        ({"token": TOKEN, "token_path": Path("x")}, "one of them"),
    ],
)
def test_a_server_that_would_let_in_others_is_not_made(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        HTTPTransport(**options)


async def test_on_loopback_a_server_may_do_without_a_token() -> None:
    async with served(auth=False) as server:
        server.client.token = None
        await server.ask(QUESTION)

        assert (await server.client.answer(QUESTION.id, text="left")).status == 200
        evil = await server.client.get("/requests", origin="http://evil.example")
        assert evil.status == 403


async def test_a_port_that_is_taken_is_reported() -> None:
    async with served() as server:
        with pytest.raises(ConfigurationError, match="cannot listen"):
            async with ControlProtocol(HTTPTransport(port=server.client.port, token=TOKEN)):
                pass


async def test_the_page_asks_for_the_token_and_loads_nothing() -> None:
    async with served() as server:
        reply = await server.client.get("/", authorization=None)

        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert policy.count("'sha256-") == 2
        for word in (b"http://", b"https://", b"innerHTML", b"src=", b"url(", b"eval"):
            assert word not in reply.body
        assert TOKEN.encode() not in reply.body


async def test_a_start_that_fails_leaves_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    async with served() as server:
        with pytest.raises(ConfigurationError, match="cannot listen"):
            async with ControlProtocol(HTTPTransport(port=server.client.port)):
                pass

        assert [each async for each in anyio.Path(tmp_path / "kaizen").iterdir()] == []


async def test_one_token_is_not_that_of_two(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN, encoding="ascii")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="somebody else"):
        HTTPTransport(token=TOKEN, principals={TOKEN: "bob"})

    transport = HTTPTransport(token_path=path, principals={TOKEN: "bob"})
    with pytest.raises(ConfigurationError, match="somebody else"):
        async with ControlProtocol(transport):
            pass
    assert path.exists()


@pytest.mark.parametrize(
    "request_id",
    ["run:tool/../x.ask_1", "a/b/answer/c", "/", "a//b", "..", "a%2fb", "a\nb\n", "ü/ ?#"],
)
async def test_whatever_an_id_looks_like_its_request_can_be_answered(
    request_id: str,
) -> None:
    async with served() as server:
        request = replace(QUESTION, id=request_id)
        await server.ask(request)

        reply = await server.client.answer(request_id, text="left")

        assert reply.status == 200, reply.body
        assert (await server.answered(request)).text == "left"


async def test_after_the_channel_is_closed_nothing_listens() -> None:
    async with served() as server:
        port = server.client.port
        async with server.client.events() as events:
            await anext(events)

    with pytest.raises(OSError, match="fail"):
        await anyio.connect_tcp("127.0.0.1", port)


async def test_readers_are_let_go_when_the_channel_is_closed() -> None:
    async with anyio.create_task_group() as tasks:
        ended = anyio.Event()

        async def read(client: Client, ready: anyio.Event) -> None:
            async with client.events() as events:
                await anext(events)
                ready.set()
                async for _ in events:
                    pass
            ended.set()

        async with served() as server:
            ready = anyio.Event()
            tasks.start_soon(read, server.client, ready)
            await ready.wait()

        with anyio.fail_after(5):
            await ended.wait()


async def test_after_the_channel_is_closed_nothing_is_left() -> None:
    for round_ in range(2):
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        descriptors = open_descriptors()
        async with served() as server, server.client.events() as events:
            await anext(events)
            await server.ask(QUESTION)
            await server.client.answer(QUESTION.id, text="left")
            await server.client.get("/")
        for _ in range(20):  # the other ends of the connections are closed soon
            await anyio.lowlevel.checkpoint()

        if round_:  # what is opened once and for all was opened in the first
            assert len(asyncio.all_tasks()) == tasks
            assert threading.active_count() == threads
            assert open_descriptors() == descriptors


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def test_a_client_too_many_is_told_so() -> None:
    async with served(max_clients=1) as server, server.client.events() as events:
        await anext(events)

        reply = await server.client.get("/events")

        assert reply.status == 503


async def test_in_silence_a_comment_keeps_the_line_open() -> None:
    async with (
        served(ping_s=0.01) as server,
        await anyio.connect_tcp("127.0.0.1", server.client.port) as stream,
    ):
        await stream.send(server.client.head("GET", "/events"))
        seen = b""
        with anyio.fail_after(5):
            while seen.count(b": ping\n\n") < 3:
                seen += await stream.receive()


async def test_who_never_reads_is_hung_up_on_and_holds_up_nobody() -> None:
    async with served(send_timeout_s=0.2, kept_events=20) as server:
        big = "x" * 200_000
        async with (
            await anyio.connect_tcp("127.0.0.1", server.client.port) as silent,
            server.client.events() as events,
        ):
            await silent.send(server.client.head("GET", "/events"))
            await anext(events)
            with anyio.fail_after(5):
                while server.transport.readers < 2:
                    await anyio.lowlevel.checkpoint()
            for each in range(40):  # more than any buffer between the two takes
                await server.ask(replace(QUESTION, id=f"run:ask_{each}", text=big))
                assert (await anext(events)).data["id"] == f"run:ask_{each}"

            with anyio.fail_after(10):
                while server.transport.readers > 1:
                    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("path", ["/requests", "/events"])
async def test_who_does_not_read_a_long_list_is_hung_up_on(path: str) -> None:
    async with served(send_timeout_s=0.2) as server:
        for each in range(40):
            big = replace(QUESTION, id=f"run:ask_{each}", text="x" * 500_000)
            await server.ask(big)
        async with await anyio.connect_tcp("127.0.0.1", server.client.port) as silent:
            await silent.send(server.client.head("GET", path))
            with anyio.fail_after(5):
                while len(connections(server)) < 1:
                    await anyio.lowlevel.checkpoint()
                while connections(server):
                    assert max(map(buffered, connections(server))) < 1_000_000
                    await anyio.sleep(0.01)


async def test_a_long_list_comes_whole() -> None:
    async with served() as server:
        for each in range(8):
            big = replace(QUESTION, id=f"run:ask_{each}", text="x" * 300_000)
            await server.ask(big)

        listed = (await server.client.get("/requests")).json["requests"]

        assert [len(each["text"]) for each in listed] == [300_000] * 8
        async with server.client.events() as events:
            assert (await anext(events)).data["requests"] == listed


def connections(server: Served) -> list[Any]:
    """Return the connections that a server has, by what asyncio knows of its sockets."""
    import gc

    port = server.client.port
    return [
        each
        for each in gc.get_objects()
        if type(each).__name__ == "_SelectorSocketTransport"
        and not each.is_closing()
        and (each.get_extra_info("sockname") or ("", 0))[1] == port
    ]


def buffered(connection: Any) -> int:
    size: int = connection.get_write_buffer_size()
    return size


async def test_a_client_that_has_missed_too_much_is_told_what_is_open() -> None:
    async with served(kept_events=5) as server:
        async with server.client.events() as events:
            first = await anext(events)
        await server.ask(APPROVAL)
        for each in range(10):
            await server.ask(replace(QUESTION, id=f"run:ask_{each}"))
            await server.client.answer(f"run:ask_{each}", text="left")

        async with server.client.events(first.id) as events:
            told = await anext(events)

        assert told.name == "open"
        assert told.data["missed"]
        assert [each["id"] for each in told.data["requests"]] == [APPROVAL.id]


@pytest.mark.parametrize(
    "last",
    [
        "0",
        "-1",
        "1",
        "x",
        "0123456789abcdef-1",
        "-",
        "99999999999999999999",
        "ab" * 8 + "-0",
        "é",
        "a" * 5_000,
    ],
)
async def test_an_id_of_another_server_leads_to_what_is_open(last: str) -> None:
    async with served() as server:
        await server.ask(QUESTION)

        async with server.client.events(last) as events:
            told = await anext(events)

        assert told.name == "open"
        assert told.data["missed"]
        assert [each["id"] for each in told.data["requests"]] == [QUESTION.id]


async def test_an_id_of_the_future_leads_to_what_is_open() -> None:
    async with served() as server, server.client.events() as events:
        first = await anext(events)
        future = first.id.rpartition("-")[0] + "-77"
        async with server.client.events(future) as others:
            assert (await anext(others)).data["missed"]


async def test_no_event_is_lost_or_doubled_wherever_a_client_is_cut_off() -> None:
    async with served() as server:
        async with server.client.events() as events:
            whole = [await anext(events)]
            for each in range(17):
                await server.ask(replace(QUESTION, id=f"run:ask_{each}"))
                await server.protocol.progress(f"step {each}", run_path=(str(each),))
                whole.append(await anext(events))
                whole.append(await anext(events))
                await server.client.answer(f"run:ask_{each}", text="left")
                whole.append(await anext(events))
        assert len(whole) == 52

        for cut in range(1, len(whole) + 1):
            seen = whole[:cut]
            async with server.client.events(seen[-1].id) as events:
                while len(seen) < len(whole):
                    seen.append(await anext(events))
            assert seen == whole


async def test_no_event_is_lost_or_doubled_between_any_two_cuts() -> None:
    async with served() as server:
        async with server.client.events() as events:
            whole = [await anext(events)]
            for each in range(10):
                await server.protocol.progress(f"step {each}", run_path=(str(each),))
                whole.append(await anext(events))

        for first, second in itertools.combinations(range(1, len(whole)), 2):
            seen = whole[:first]
            async with server.client.events(seen[-1].id) as events:
                while len(seen) < second:
                    seen.append(await anext(events))
            async with server.client.events(seen[-1].id) as events:
                while len(seen) < len(whole):
                    seen.append(await anext(events))
            assert seen == whole


async def test_who_never_reads_does_not_hold_up_the_end() -> None:
    async with served() as server, AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(
                await anyio.connect_tcp("127.0.0.1", server.client.port)
            )
            for _ in range(5)
        ]
        for stream in silent:
            await stream.send(server.client.head("GET", "/events"))
        with anyio.fail_after(5):
            while server.transport.readers < 5:
                await anyio.lowlevel.checkpoint()
        for each in range(40):
            text = "x" * 200_000
            await server.ask(replace(QUESTION, id=f"run:ask_{each}", text=text))
        started = anyio.current_time()
        server.tasks.cancel_scope.cancel()

    assert anyio.current_time() - started < 8


async def test_who_sends_no_request_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaizen_control._server.REQUEST_TIMEOUT_S", 0.05)
    async with (
        served() as server,
        await anyio.connect_tcp("127.0.0.1", server.client.port) as silent,
        await anyio.connect_tcp("127.0.0.1", server.client.port) as slow,
        server.client.events() as events,
    ):
        await slow.send(b"GET /requests HTTP/1.1\r\nhost: ")

        for each in (silent, slow):
            with (
                anyio.fail_after(5),
                pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)),
            ):
                await each.receive()

        await anext(events)
        await server.ask(QUESTION)
        assert (await anext(events)).name == "request"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: {host}\r\n\r\nGET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 100\r\n\r\n",
    ],
)
async def test_after_a_request_the_next_one_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("kaizen_control._server.REQUEST_TIMEOUT_S", 0.2)
    async with (
        served() as server,
        await anyio.connect_tcp("127.0.0.1", server.client.port) as slow,
        anyio.create_task_group() as tasks,
    ):
        host = f"127.0.0.1:{server.client.port}".encode()
        await slow.send(sent.replace(b"{host}", host))

        async def drip() -> None:
            while True:
                await slow.send(b"x")
                await anyio.sleep(0.02)

        with anyio.fail_after(5), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while await slow.receive():
                if not tasks.cancel_scope.cancel_called:
                    tasks.start_soon(suppressed, drip)
        tasks.cancel_scope.cancel()


async def suppressed(work: Callable[[], Awaitable[None]]) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await work()


async def test_who_reads_none_of_many_answers_is_hung_up_on() -> None:
    async with (
        served(send_timeout_s=0.2) as server,
        await anyio.connect_tcp("127.0.0.1", server.client.port) as silent,
    ):
        head = server.client.head("GET", "/", {"authorization": None})

        async def send() -> None:
            while True:
                await silent.send(head * 100)

        with anyio.fail_after(10), pytest.raises(anyio.BrokenResourceError):
            await send()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /requests HTTP/1.1\r\n", b"GET /requests HTTP/1.1\r\nhost: x"]
)
async def test_strangers_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("kaizen_control._server.MAX_STRANGERS", 10)
    monkeypatch.setattr("kaizen_control._server.STRANGER_S", 0.05)
    async with served(max_clients=50) as server, AsyncExitStack() as stack:
        events = await stack.enter_async_context(server.client.events())
        await anext(events)
        for _ in range(300):
            stranger = await anyio.connect_tcp("127.0.0.1", server.client.port)
            await stack.enter_async_context(stranger)
            await stranger.send(sent)

        assert (await server.client.get("/requests")).status == 200
        with anyio.fail_after(5):
            while len(connections(server)) > 11:
                assert (await server.client.get("/requests")).status == 200
        await server.ask(QUESTION)
        assert (await anext(events)).name == "request"


async def test_who_sends_a_body_too_slowly_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaizen_control._app.BODY_TIMEOUT_S", 0.05)
    async with served() as server:
        head = server.client.head(
            "POST",
            "/requests/x/answer",
            {"content-type": "application/json", "content-length": "100"},
        )

        reply = await server.client.raw(head + b'{"text": ')

        assert reply.status == 408


async def test_who_hangs_up_in_the_middle_of_a_body_answers_nothing() -> None:
    async with served() as server:
        await server.ask(NUMBER)
        head = server.client.head(
            "POST",
            f"/requests/{NUMBER.id}/answer",
            {"content-type": "application/json", "content-length": "100"},
        )
        async with await anyio.connect_tcp("127.0.0.1", server.client.port) as stream:
            await stream.send(head + b'{"value": 1}')

        assert (await server.client.answer(NUMBER.id, value=2)).status == 200
        assert (await server.answered(NUMBER)).value == 2
