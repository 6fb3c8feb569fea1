"""URLs by the thousand: none that leads inside is followed, and every ordinary one is."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias
from urllib.parse import quote

import pytest
from kaizen.errors import ToolError

from tests.plugins.tools.addresses import (
    INTERNAL,
    INTERNAL_6,
    PUBLIC,
    Names,
    listening,
    spelled,
    spelled_6,
)

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
Client: TypeAlias = Callable[..., Callable[..., Any]]
NETWORKS = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/29", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
NETWORKS_6 = (
    *("::/127", "64:ff9b:1::/48", "100::/64", "2001:2::/48", "2001:db8::/32", "3fff::/20"),
    *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "::ffff:10.0.0.0/104"),
    *("::ffff:127.0.0.0/104", "64:ff9b::7f00:0/104", "2002:7f00::/24", "2002:a00::/24"),
)
SCHEMES = (
    *("file", "gopher", "ftp", "dict", "ldap", "ldaps", "data", "javascript", "unix", "ws"),
    *("wss", "sftp", "tftp", "jar", "netdoc", "php", "mailto", "news", "telnet", "ssh"),
    *("httpx", "http+unix", "view-source", "blob", "about", "chrome", "smb", "nfs", "h2c"),
)
BROKEN = (
    *("//example.com/", "example.com", "http:/example.com", "http:example.com", "http://"),
    *("http:///example.com", "http://example.com:0/", "http://example.com:99999/", ""),
    *("http://example.com:/", "http://example.com:8x/", "http://exa mple.com/", "http"),
    *("http://example.com/\r\nHost: x", "http://example.com\u2028/", "http://\ufeffa.com/"),
    *("http://example.com/" + "a" * 9_000, "ht\ntp://example.com", "http://%31%32.com/"),
    *("http://a..b/", "http://.com/", "http://-x.com/", "http://[::1", "http://[v1.x]/"),
    *(f"http://{'a' * 64}.com/", "http://[127.0.0.1]/", "http://xn--zz/", "http://[]/"),
)
INSIDE = {
    "localhost": "127.0.0.1",
    "localhost.localdomain": "127.0.0.1",
    "ip6-localhost": "::1",
    "metadata.google.internal": "169.254.169.254",
    "127.0.0.1.nip.io": "127.0.0.1",
    "printer.local": "192.168.1.9",
    "db.intern": "::ffff:10.0.0.1",
    "nat.example": "64:ff9b::a00:1",
    "tunnel.example": "2002:a00:1::1",
    "rebind.example": "0.0.0.0",
}


def addresses(networks: tuple[str, ...], count: int) -> Iterator[str]:
    """Give the first and the last address of each network, and some between."""
    chosen = random.Random(7)
    for name in networks:
        network = ipaddress.ip_network(name)
        for at in (0, network.num_addresses - 1):
            yield str(network[at])
        for _ in range(count):
            yield str(network[chosen.randrange(network.num_addresses)])


def hostile() -> Iterator[str]:
    hosts = [
        host
        for address in (*INTERNAL, *addresses(NETWORKS, 12))
        for host in spelled(address)
    ]
    for address in (*INTERNAL_6, *addresses(NETWORKS_6, 12)):
        hosts += spelled_6(address)
    hosts += [each for name in INSIDE for each in (name, name.upper(), f"{name}.")]
    yield from (f"http://{host}/" for host in hosts)
    yield from (f"https://{host}:443/x?y#z" for host in hosts[::4])
    yield from (f"HTTP://{host}:8080/" for host in hosts[::9])
    for scheme in SCHEMES:
        for rest in ("//example.com/", "//127.0.0.1/", "/etc/passwd", "///etc/passwd"):
            yield f"{scheme}:{rest}"
    for character in map(chr, (*range(0x21), 0x7F, 0x85, 0xA0, 0x200B, 0x2028, 0xFEFF)):
        for form in (
            "{}http://{}",
            "http://{}{}",
            "http://exa{}mple.com/{}",
            "ht{}tp://{}",
        ):
            yield form.format(character, "example.com/")
    yield from BROKEN


async def test_none_of_ten_thousand_hostile_urls_is_connected_to(
    client: Client, connections: list[str]
) -> None:
    urls = list(dict.fromkeys(hostile()))
    names = Names(**{name: [address] for name, address in INSIDE.items()})
    call = client(names)
    reached = []

    for url in urls:
        try:
            await call("http_get", url=url)
        except ToolError:
            continue
        reached.append(url)

    assert len(urls) >= 10_000
    assert set(INSIDE) <= set(names.asked)
    assert reached == []
    assert connections == []


def loopback() -> Iterator[str]:
    for address in ("127.0.0.1", "127.1.2.3", "127.255.255.254", "0.0.0.0"):
        yield from spelled(address)
    for address in ("::1", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"):
        yield from spelled_6(address)
    yield from ("localhost", "LOCALHOST", "localhost.", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "lo%63alhost")
    yield from ("localhost.localdomain", "ip6-localhost", "127.0.0.1.nip.io")


def places(port: int) -> list[str]:
    """Return URLs that lead to a port of this machine."""
    hosts = dict.fromkeys(loopback())
    return [f"http://{host}:{port}/hello" for host in hosts]


async def test_no_spelling_of_this_machine_reaches_a_server_that_runs_on_it(
    client: Client, server: Any
) -> None:
    call = client(Names(**{name: ["127.0.0.1"] for name in INSIDE}))
    reached = []

    for url in places(server.port):
        for tool in ("http_get", "fetch_url", "extract_links", "http_post", "http_delete"):
            try:
                await call(tool, url=url)
            except ToolError:
                continue
            reached.append(url)

    assert len(places(server.port)) >= 200
    assert reached == []
    assert server.requests == []


async def test_no_redirect_to_this_machine_is_followed(client: Client, server: Any) -> None:
    names = Names(**{name: ["127.0.0.1"] for name in INSIDE})
    call = client(names, private_hosts=[server.host])
    followed = []

    with listening() as (port, came):
        for number, place in enumerate(places(port)):
            code = (301, 302, 303, 307, 308)[number % 5]
            to = quote(place, errors="surrogatepass")
            try:
                await call("http_get", url=f"{server.url}/to?code={code}&url={to}")
            except ToolError:
                continue
            followed.append(place)

    assert came == []
    assert followed == []
    assert len(server.requests) >= 200


async def test_an_answer_that_flips_is_not_connected_to(
    client: Client, connections: list[str]
) -> None:
    chosen = random.Random(3)
    inside = [*INTERNAL, *INTERNAL_6]
    answers = [
        chosen.choice(
            [PUBLIC, "1.1.1.1", chosen.choice(inside), [PUBLIC, chosen.choice(inside)]]
        )
        for _ in range(1_000)
    ]
    names = Names(flips_test=answers)
    call = client(names)

    for _ in range(1_000):
        with pytest.raises(ToolError):
            await call("http_get", url="http://flips.test/")

    public = [answer for answer in answers if answer in (PUBLIC, "1.1.1.1")]
    assert len(names.asked) == 1_000
    assert connections == public
    assert 0 < len(public) < 1_000


async def test_the_address_that_was_checked_is_the_one_that_is_used(
    client: Client, server: Any
) -> None:
    # The second answer would lead to a server that is there.
    names = Names(flips_test=["10.255.255.1", "127.0.0.1"])
    call = client(names, private_hosts=[f"other.test:{server.port}"])

    for _ in range(4):
        with pytest.raises(ToolError, match="not public"):
            await call("http_get", url=f"http://flips.test:{server.port}/hello")

    assert server.requests == []


async def test_every_ordinary_url_is_connected_to(
    client: Client, connections: list[str]
) -> None:
    paths = ["", "/", "/a/b?c=d&e=%20f#g", "/ü?q=日本", "/a;b=c,d/~e/(f)/[g]/{h}|i"]
    hosts = ["example.com", "EXAMPLE.com", "a-b.example.co.uk", "xn--bcher-kva.example"]
    hosts += ["bücher.example", "1password.com", "a_b.example.com", PUBLIC, "127.example"]
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
