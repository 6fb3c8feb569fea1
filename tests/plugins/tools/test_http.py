"""The guarded client: what is reached, what is not, and how much of it."""

from __future__ import annotations

import gzip
import ipaddress
import itertools
import json
import ssl
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import anyio
import httpcore
import pytest
from anyio.streams.tls import TLSListener
from kaizen.errors import ToolError
from kaizen_tools import HttpSettings, ToolsSettings
from kaizen_tools._http import GuardedClient
from kaizen_tools._urls import is_public, parse_url
from kaizen_tools._web_tools import WebTools

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
Client: TypeAlias = Callable[..., Callable[..., Any]]
TLS = Path(__file__).parent / "tls"
PUBLIC = "93.184.216.34"


class Names:
    """A name server of our own: each name has answers that it gives one after another."""

    def __init__(self, **answers: Sequence[str | Sequence[str]]) -> None:
        self.asked: list[str] = []
        self._answers = {
            name.replace("_", "."): itertools.cycle(given)
            for name, given in answers.items()
        }

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self._answers:
            return []
        answer = next(self._answers[host])
        return [answer] if isinstance(answer, str) else list(answer)


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


INTERNAL = [
    *("127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0", "255.255.255.255"),
    *("224.0.0.1", "192.0.0.192", "198.18.0.1", "168.63.129.16", "240.0.0.1", "192.0.2.1"),
]
INTERNAL_6 = [
    *("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1"),
    *("2001:db8::1", "2001::1", "2002:7f00:1::", "64:ff9b:1::1", "100::1", "3fff::1"),
]


def spelled(address: str) -> Iterator[str]:
    """Give the ways in which people have written an IPv4 address into a URL."""
    a, b, c, d = (int(part) for part in address.split("."))
    number = (a << 24) | (b << 16) | (c << 8) | d
    yield from (address, f"{address}.", str(number), hex(number), oct(number)[1:])
    yield from (
        f"0{number:o}",
        f"{number}.",
        f"0x{number:08X}",
        f"{a}.{number & 0xFFFFFF}",
    )
    yield from (
        f"{a}.{b}.{(c << 8) | d}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"{a:#x}.{b}.{c}.{d}",
    )
    yield from (f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:03d}.{b:03d}.{c:03d}.{d:03d}")
    yield from (
        address.replace(".", "。"),
        address.replace(".", "．"),
        address.replace(".", "%2e"),
    )
    yield address.translate({ord(str(digit)): 0xFF10 + digit for digit in range(10)})
    yield address.translate({ord(str(digit)): 0x2460 + digit - 1 for digit in range(1, 10)})
    yield "".join(f"%{ord(each):02x}" for each in address)
    packed = ipaddress.IPv4Address(address).packed.hex()
    high, low = packed[:4], packed[4:]
    yield from (f"[::ffff:{address}]", f"[::ffff:{high}:{low}]", f"[::{address}]")
    yield from (f"[64:ff9b::{address}]", f"[2002:{high}:{low}::1]", f"[2001::{high}:{low}]")
    yield from (f"[2607:f8b0::5efe:{address}]", f"[0:0:0:0:0:FFFF:{address}]")
    yield from (f"[::ffff:0:{address}]", f"[::ffff:{address}%25eth0]", "[::1%lo]")
    yield from (f"user@{address}", f"example.com@{address}", f"{address}:80@example.com")
    yield from (f"example.com\\@{address}", f"{address}\\.example.com", f"\t{address}")
    yield from (
        f"{address}\n",
        f"exa\r\nmple.com@{address}",
        f" {address}",
        f"{address}\x00",
    )


def hostile_urls() -> list[str]:
    hosts = [host for address in INTERNAL for host in spelled(address)]
    hosts += [f"[{address}]" for address in INTERNAL_6]
    hosts += ["localhost", "LOCALHOST", "localhost.", "metadata.google.internal", "intern"]
    hosts += ["ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "a" * 64 + ".com", "-x.com", "x..com", ".com", "", "[::1", "::1"]
    hosts += ["127.0.0.1.nip.io", "x_y.intern", "xn--zz", "[v1.x]", "[127.0.0.1]", "1", "0"]
    urls = [f"http://{host}/" for host in hosts]
    urls += [f"https://{host}:443/x?y" for host in hosts[::3]]
    schemes = ("file", "gopher", "ftp", "dict", "ldap", "data", "javascript", "unix", "ws")
    urls += [f"{scheme}://example.com/" for scheme in schemes]
    urls += [
        "//example.com/",
        "example.com",
        "http:/example.com",
        "http:example.com",
        "http://",
    ]
    urls += ["http:///example.com", "http://example.com:0/", "http://example.com:99999/"]
    urls += ["http://example.com:/", "http://example.com:8x/", "http://exa mple.com/"]
    urls += [
        "http://example.com/\r\nHost: x",
        "http://example.com\u2028/",
        "http://\ufeffa.com/",
    ]
    urls += [
        "http://example.com/" + "a" * 9_000,
        "ht\ntp://example.com",
        "http://%31%32.com/",
    ]
    return urls


async def test_no_spelling_of_an_internal_address_is_connected_to(
    client: Client, connections: list[str]
) -> None:
    inside = Names(
        localhost=["127.0.0.1"],
        metadata_google_internal=["169.254.169.254"],
        intern=[[PUBLIC, "10.0.0.1"]],
        **{"127_0_0_1_nip_io": ["127.0.0.1"], "x__y_intern": ["::ffff:10.0.0.1"]},
    )
    call = client(inside)
    urls = hostile_urls()

    for url in urls:
        with pytest.raises(ToolError):
            await call("http_get", url=url)

    assert connections == []
    assert len(set(urls)) >= 700
    assert {"localhost", "metadata.google.internal", "intern"} <= set(inside.asked)


async def test_no_spelling_of_this_machine_reaches_a_server_that_runs_on_it(
    toolbox: Toolbox, server: Any
) -> None:
    hosts = [*spelled("127.0.0.1"), *spelled("0.0.0.0"), "localhost", "[::1]", "[::]"]

    async with toolbox() as call:
        for host in hosts:
            for tool in ("http_get", "fetch_url", "extract_links", "http_post"):
                with pytest.raises(ToolError):
                    await call(tool, url=f"http://{host}:{server.port}/hello")

    assert server.requests == []


async def test_ordinary_urls_are_connected_to(
    client: Client, connections: list[str]
) -> None:
    paths = ["", "/", "/a/b?c=d&e=%20f#g", "/ü?q=日本", "/a;b=c,d/~e/(f)/[g]/{h}|i"]
    hosts = ["example.com", "EXAMPLE.com", "a-b.example.co.uk", "xn--bcher-kva.example"]
    hosts += ["bücher.example", "1password.com", "a_b.example.com", PUBLIC]
    hosts += ["[2606:4700:4700::1111]", "[::ffff:93.184.216.34]", "[64:ff9b::5db8:d822]"]
    urls = [
        f"{scheme}://{host}{port}{path}"
        for scheme in ("http", "https")
        for host in hosts
        for port in ("", ":8080")
        for path in paths
    ]

    class Public(Names):
        async def __call__(self, host: str, port: int) -> list[str]:
            return [PUBLIC]

    call = client(Public())
    for url in urls:
        with pytest.raises(ToolError, match="could not be reached: no network in tests"):
            await call("http_get", url=url)

    assert len(connections) == len(urls) >= 200


async def test_the_address_that_was_checked_is_the_one_that_is_used(
    client: Client, connections: list[str]
) -> None:
    names = Names(flips_test=[PUBLIC, "127.0.0.1", [PUBLIC, "::1"], "1.1.1.1"])
    call = client(names)

    for _ in range(1_000):
        with pytest.raises(ToolError):
            await call("http_get", url="http://flips.test/")

    assert len(names.asked) == 1_000
    assert set(connections) == {PUBLIC, "1.1.1.1"}
    assert len(connections) == 500


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
