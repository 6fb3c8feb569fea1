"""The guarded client: what is reached, what is not, and how much of it."""

from __future__ import annotations

import gzip
import ipaddress
import json
import ssl
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import anyio
import pytest
from anyio.streams.tls import TLSListener
from kaizen.errors import ToolError
from kaizen_tools._urls import is_public, parse_url

from tests.plugins.tools.addresses import INTERNAL, INTERNAL_6, PUBLIC, Names

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
Client: TypeAlias = Callable[..., Callable[..., Any]]
TLS = Path(__file__).parent / "tls"


async def test_a_get_gives_status_headers_body_and_url(
    toolbox: Toolbox, server: Any
) -> None:
    async with toolbox(http={"private_hosts": [server.host]}) as call:
        answer = await call("http_get", url=f"{server.url}/hello", headers={"X-Mine": "1"})

    assert answer["status"] == 200
    assert answer["body"] == "hello"
    assert answer["url"] == f"{server.url}/hello"
    assert answer["truncated"] is False
    assert answer["headers"]["x-own"] == "yes"
    assert "set-cookie" not in answer["headers"]
    ((_, _, sent, _),) = server.requests
    assert sent["x-mine"] == "1"
    assert sent["host"] == server.host
    assert sent["user-agent"] == "kaizen-tools/0.1"


async def test_bodies_are_sent_as_text_or_as_json(toolbox: Toolbox, server: Any) -> None:
    async with toolbox(http={"private_hosts": [server.host]}) as call:
        await call("http_post", url=f"{server.url}/hello", body={"a": ["ü", 1]})
        await call("http_put", url=f"{server.url}/hello", body="text ü")
        await call(
            "http_post",
            url=f"{server.url}/hello",
            body="<a/>",
            headers={"content-type": "text/xml"},
        )
        await call("http_delete", url=f"{server.url}/hello")
        await call("http_post", url=f"{server.url}/hello")

    sent = [
        (method, body.decode(), headers.get("content-type"), headers.get("content-length"))
        for method, _, headers, body in server.requests
    ]
    assert sent == [
        ("POST", '{"a": ["ü", 1]}', "application/json", "16"),
        ("PUT", "text ü", "text/plain; charset=utf-8", "7"),
        ("POST", "<a/>", "text/xml", "4"),
        ("DELETE", "", None, None),
        ("POST", "", None, "0"),
    ]


async def test_a_server_on_this_machine_is_reached_only_where_settings_say_so(
    toolbox: Toolbox, server: Any
) -> None:
    url = f"{server.url}/hello"
    for http in ({}, {"private_hosts": ["127.0.0.1:1"]}, {"allowed_hosts": ["127.0.0.1"]}):
        async with toolbox(http=http) as call:
            with pytest.raises(ToolError, match="not public"):
                await call("http_get", url=url)
    assert server.requests == []

    for allowed in ({"private_hosts": [server.host]}, {"allow_private": True}):
        async with toolbox(http=allowed) as call:
            assert (await call("http_get", url=url))["body"] == "hello"


async def test_hosts_are_allowed_and_denied_by_name(
    client: Client, connections: list[str]
) -> None:
    names = Names(**{name: [PUBLIC] for name in ("a_com", "b_a_com", "b_com", "evila_com")})
    call = client(names, allowed_hosts=["*.a.com", "b.com:8443"], denied_hosts=["x.a.com"])

    for url in ("http://b.a.com", "https://b.com:8443/x"):
        with pytest.raises(ToolError, match="could not be reached"):
            await call("http_get", url=url)
    reached = list(names.asked)
    for url in ("http://a.com", "http://x.a.com", "https://b.com", "http://evila.com"):
        with pytest.raises(ToolError, match="by the settings"):
            await call("http_get", url=url)

    assert reached == names.asked == ["b.a.com", "b.com"]


async def test_a_name_is_looked_up_once_for_a_request_that_succeeds(
    client: Client, server: Any
) -> None:
    names = Names(here_test=["127.0.0.1", "10.255.255.1"])
    call = client(names, private_hosts=[f"here.test:{server.port}"])

    answer = await call("http_get", url=f"http://here.test:{server.port}/hello")

    assert answer["body"] == "hello"
    assert names.asked == ["here.test"]
    assert server.requests[0][2]["host"] == f"here.test:{server.port}"


async def test_an_address_that_does_not_answer_gives_way_to_the_next(
    client: Client, server: Any
) -> None:
    names = Names(here_test=[["127.0.0.2", "127.0.0.1"]])
    call = client(names, private_hosts=[f"here.test:{server.port}"])

    answer = await call("http_get", url=f"http://here.test:{server.port}/hello")

    assert answer["body"] == "hello"


async def test_private_networks_may_be_allowed_but_never_where_clouds_keep_credentials(
    client: Client, connections: list[str]
) -> None:
    call = client(allow_private=True)

    for host in ("127.0.0.1", "10.1.2.3", "[::1]", "[fd12::1]", "[::ffff:192.168.1.1]"):
        with pytest.raises(ToolError, match="could not be reached"):
            await call("http_get", url=f"http://{host}/")
    for host in (
        "169.254.169.254",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "0.0.0.0",
        "[::]",
    ):
        with pytest.raises(ToolError, match="not public"):
            await call("http_get", url=f"http://{host}/")

    assert len(connections) == 5


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_to_an_internal_address_is_refused(
    client: Client, server: Any, code: int
) -> None:
    names = Names(inside_test=["127.0.0.1"])
    call = client(names, private_hosts=[server.host])
    places = [
        "http://169.254.169.254/latest/meta-data/",
        f"http://127.0.0.1:{server.port + 1}/",
        f"http://inside.test:{server.port}/hello",
        f"http://localhost:{server.port}/hello",
        f"//0x7f.1:{server.port}/hello",
        "file:///etc/passwd",
        "http://user:pass@127.0.0.1/",
    ]

    for place in places:
        with pytest.raises(ToolError):
            await call("http_get", url=f"{server.url}/to?code={code}&url={quote(place)}")

    assert len(server.requests) == len(places)


async def test_redirects_are_followed_so_far_and_no_further(
    client: Client, server: Any
) -> None:
    call = client(private_hosts=[server.host], max_redirects=3)

    one = await call("http_get", url=f"{server.url}/to?url=/hello")
    with pytest.raises(ToolError, match="after 3 redirects, and leads on"):
        await call("http_get", url=f"{server.url}/loop")

    assert (one["body"], one["url"]) == ("hello", f"{server.url}/hello")
    assert [path for _, path, _, _ in server.requests].count("/loop") == 4


async def test_credentials_stay_at_the_origin_that_they_were_for(
    client: Client, server: Any
) -> None:
    other = f"other.test:{server.port}"
    call = client(Names(other_test=["127.0.0.1"]), private_hosts=[server.host, other])
    secrets = {
        "Authorization": "Bearer x",
        "X-Api-Key": "x",
        "Cookie": "x",
        "Accept": "a/b",
    }

    await call("http_get", url=f"{server.url}/to?url=/hello", headers=secrets)
    away = f"{server.url}/to?url=http://{other}/hello"
    await call("http_get", url=away, headers=secrets)

    sent = [headers for _, _, headers, _ in server.requests]
    assert [headers.get("authorization") for headers in sent] == ["Bearer x"] * 3 + [None]
    assert [headers.get("x-api-key") for headers in sent] == ["x"] * 3 + [None]
    assert "cookie" not in sent[3]
    assert sent[3]["accept"] == "a/b"


async def test_a_write_is_not_repeated_at_another_origin(
    client: Client, server: Any
) -> None:
    other = f"other.test:{server.port}"
    call = client(Names(other_test=["127.0.0.1"]), private_hosts=[server.host, other])
    away = quote(f"http://{other}/hello")

    kept = await call("http_post", url=f"{server.url}/to?code=307&url={away}", body="x")
    same = await call("http_put", url=f"{server.url}/to?code=308&url=/hello", body="y")
    seen = await call("http_post", url=f"{server.url}/to?code=303&url={away}", body="z")

    assert (kept["status"], kept["headers"]["location"]) == (307, f"http://{other}/hello")
    assert (same["status"], seen["status"]) == (200, 200)
    assert [(method, body) for method, _, _, body in server.requests] == [
        ("POST", b"x"),
        ("PUT", b"y"),
        ("PUT", b"y"),
        ("POST", b"z"),
        ("GET", b""),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil"},
        {"content-length": "3"},
        {"Transfer-Encoding": "chunked"},
        {"Proxy-Authorization": "x"},
        {"X": "a\r\nY: b"},
        {"X\r\nY": "a"},
        {"X y": "a"},
        {"": "a"},
        {"X": "\u0100"},
        {f"x{number}": "y" for number in range(40)},
    ],
)
async def test_headers_that_are_not_for_a_model_to_write_are_refused(
    client: Client, server: Any, headers: dict[str, str]
) -> None:
    call = client(private_hosts=[server.host])

    with pytest.raises(ToolError, match="header"):
        await call("http_get", url=f"{server.url}/hello", headers=headers)

    assert server.requests == []


async def test_a_large_body_is_cut_with_a_mark(client: Client, server: Any) -> None:
    call = client(private_hosts=[server.host], max_bytes=50_000)

    whole = await call("http_get", url=f"{server.url}/big?size=50000")
    longer = await call("http_get", url=f"{server.url}/big?size=50001")
    huge = await call("http_get", url=f"{server.url}/big?size=30000000")

    assert (len(whole["body"]), whole["truncated"]) == (50_000, False)
    assert (len(longer["body"]), longer["truncated"]) == (50_000, True)
    assert (len(huge["body"]), huge["truncated"]) == (50_000, True)


async def test_a_result_fits_into_the_longest_output(toolbox: Toolbox, server: Any) -> None:
    http = {"private_hosts": [server.host]}
    async with toolbox(http=http, max_output_chars=10_000) as call:
        answer = await call("http_get", url=f"{server.url}/big?size=1000000")
        page = await call("fetch_url", url=f"{server.url}/big?size=1000000")

    assert len(json.dumps(answer)) <= 10_000
    assert answer["truncated"] is True
    assert "more characters not shown]" in answer["body"]
    assert len(page) <= 10_000
    assert page.endswith("more characters not shown]")


async def test_a_decompression_bomb_is_opened_no_further_than_wanted(
    client: Client, server: Any, bomb: bytes
) -> None:
    server.bomb = bomb
    call = client(private_hosts=[server.host], max_bytes=100_000)
    await call("http_get", url=f"{server.url}/hello")

    tracemalloc.start()
    answer = await call("http_get", url=f"{server.url}/bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert answer["truncated"] is True
    assert answer["body"].startswith("[binary: 100000 bytes or more")
    assert peak < 5_000_000


GZIP = {
    "cut in the middle": (gzip.compress(b"hello " * 500)[:-12], True),
    "cut in its trailer": (gzip.compress(b"hello " * 500)[:-1], True),
    "in two members": (
        gzip.compress(b"hello " * 250) + gzip.compress(b"hello " * 250),
        False,
    ),
    "with padding": (gzip.compress(b"hello " * 500) + bytes(512), False),
    "with a strange end": (gzip.compress(b"hello " * 500) + b"\x1f", False),
}


@pytest.mark.parametrize("body", GZIP)
async def test_gzip_is_whole_or_said_not_to_be(
    client: Client, server: Any, body: str
) -> None:
    server.bomb, is_cut = GZIP[body]
    call = client(private_hosts=[server.host])

    answer = await call("http_get", url=f"{server.url}/bomb")

    assert answer["truncated"] is is_cut
    assert answer["body"].startswith("hello ") or is_cut
    assert is_cut or answer["body"] == "hello " * 500


async def test_what_comes_behind_gzip_is_not_collected(client: Client, server: Any) -> None:
    server.bomb = gzip.compress(b"hello") + bytes(30_000_000)
    call = client(private_hosts=[server.host])
    await call("http_get", url=f"{server.url}/hello")

    tracemalloc.start()
    answer = await call("http_get", url=f"{server.url}/bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (answer["body"], answer["truncated"]) == ("hello", False)
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (gzip.compress(b"") * 200, "over 100 gzip members"),
        (gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 300_000, "gzip that says nothing"),
    ],
)
async def test_gzip_that_only_costs_time_is_refused(
    client: Client, server: Any, body: bytes, problem: str
) -> None:
    server.bomb = body
    call = client(private_hosts=[server.host], max_bytes=10_000)

    with pytest.raises(ToolError, match=problem):
        await call("http_get", url=f"{server.url}/bomb")


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"]
)
async def test_a_header_that_asks_for_another_method_is_refused(
    client: Client, server: Any, name: str
) -> None:
    call = client(private_hosts=[server.host])

    with pytest.raises(ToolError, match="asks for another method"):
        await call("http_post", url=f"{server.url}/hello", headers={name: "DELETE"})

    assert server.requests == []


async def test_an_encoding_that_was_not_asked_for_is_refused(
    client: Client, server: Any
) -> None:
    call = client(private_hosts=[server.host])

    with pytest.raises(ToolError, match="in the encoding 'br'"):
        await call("http_get", url=f"{server.url}/brotli")


@pytest.mark.parametrize("page", ["silent", "drip"])
async def test_a_server_that_takes_its_time_is_left(
    client: Client, server: Any, page: str
) -> None:
    call = client(private_hosts=[server.host], timeout_s=0.3)

    with anyio.fail_after(5), pytest.raises(ToolError, match=r"took longer than 0.3 s"):
        await call("http_get", url=f"{server.url}/{page}")


async def test_headers_of_an_answer_are_limited(client: Client, server: Any) -> None:
    call = client(private_hosts=[server.host])

    some = await call("http_get", url=f"{server.url}/headers?count=90&size=900")
    with pytest.raises(ToolError, match="does not answer as HTTP demands"):
        await call("http_get", url=f"{server.url}/headers?count=99&size=60000")

    assert len(some["headers"]) <= 50
    assert len(json.dumps(some["headers"])) <= 21_000


async def test_a_body_that_is_too_large_to_send_is_refused(client: Client) -> None:
    call = client(max_request_bytes=10)

    with pytest.raises(ToolError, match="is over 10 bytes"):
        await call("http_post", url="http://example.com/", body="x" * 11)


async def test_no_proxy_is_taken_from_the_environment(
    client: Client, server: Any, monkeypatch: pytest.MonkeyPatch, connections: list[str]
) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, server.url)

    with pytest.raises(ToolError, match="could not be reached"):
        await client()("http_get", url=f"http://{PUBLIC}/")

    assert connections == [PUBLIC]


@asynccontextmanager
async def tls_server() -> AsyncGenerator[tuple[int, list[str | None]]]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem")
    asked: list[str | None] = []

    def remember(_: Any, name: str | None, __: Any) -> None:
        asked.append(name)

    context.sni_callback = remember

    async def answer(stream: Any) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecure")

    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = plain.extra_attributes[anyio.abc.SocketAttribute.local_port]()
    listener = TLSListener(plain.listeners[0], context, standard_compatible=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        yield port, asked
        tasks.cancel_scope.cancel()
    await plain.aclose()


async def test_a_certificate_is_checked_for_the_name_and_not_for_the_address(
    client: Client,
) -> None:
    async with tls_server() as (port, asked):
        hosts = [f"{name}:{port}" for name in ("secure.test", "other.test")]
        names = Names(secure_test=["127.0.0.1"], other_test=["127.0.0.1"])
        call = client(names, private_hosts=hosts, ca_file=TLS / "authority.pem")
        distrusting = client(names, private_hosts=hosts)

        answer = await call("http_get", url=f"https://secure.test:{port}/")
        with pytest.raises(ToolError, match="ertificate"):
            await call("http_get", url=f"https://other.test:{port}/")
        with pytest.raises(ToolError, match="ertificate"):
            await distrusting("http_get", url=f"https://secure.test:{port}/")

    assert answer["body"] == "secure"
    assert asked == ["secure.test", "other.test", "secure.test"]


async def test_every_special_network_of_the_registries_is_internal() -> None:
    for address in [*INTERNAL, *INTERNAL_6]:
        assert not is_public(ipaddress.ip_address(address)), address
    for address in ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"):
        assert is_public(ipaddress.ip_address(address)), address


async def test_a_url_is_read_the_same_way_by_who_checks_and_who_sends() -> None:
    target = parse_url(
        "HTTPS://Bücher.Example:443/ä b".replace(" ", "%20") + "?q=ü#fragment"
    )

    assert target.url == "https://xn--bcher-kva.example/%C3%A4%20b?q=%C3%BC"
    assert parse_url(target.url) == target
