"""Pages as text and as links."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import pytest
from kaizen.errors import ToolError

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
HTML = "text/html; charset=utf-8"

PAGE = """<!DOCTYPE html>
<html><head><title>Tea &amp; cake</title><style>p {color: red}</style>
<script>document.write("<p>never shown</p>")</script></head>
<body>
  <h1>All   about
  tea</h1>
  <p>Tea is <b>hot</b>, see <a href="/cups">cups</a>.<br>Second line.</p>
  <ul><li>green</li><li>black <i>tea</i></li></ul>
  <table><tr><th>kind</th><th>price</th></tr><tr><td>green</td><td>3</td></tr></table>
  <pre>def brew():
    pass</pre>
  <noscript>turn it on</noscript><img src="x" alt="a cup">
  <p>Grüße &lt;3
</body></html>"""


async def read(toolbox: Toolbox, server: Any, body: str | bytes, kind: str = HTML) -> str:
    server.pages["/page"] = (kind, body.encode() if isinstance(body, str) else body)
    async with toolbox(http={"private_hosts": [server.host]}) as call:
        text: str = await call("fetch_url", url=f"{server.url}/page")
    return text


async def test_a_page_is_read_as_a_reader_sees_it(toolbox: Toolbox, server: Any) -> None:
    text = await read(toolbox, server, PAGE)

    assert text.splitlines() == [
        "Tea & cake",
        "",
        "# All about tea",
        "",
        "Tea is hot, see cups.",
        "Second line.",
        "",
        "- green",
        "- black tea",
        "",
        "kind | price",
        "green | 3",
        "",
        "def brew():",
        "    pass",
        "",
        "[a cup]",
        "",
        "Grüße <3",
    ]


async def test_what_is_no_html_is_given_as_it_is(toolbox: Toolbox, server: Any) -> None:
    assert await read(toolbox, server, '{"a": "<b>"}', "application/json") == '{"a": "<b>"}'
    assert await read(toolbox, server, "a <b> c", "text/plain") == "a <b> c"
    assert await read(toolbox, server, "<html><p>Hi", "") == "Hi"
    assert await read(toolbox, server, "", HTML) == ""


async def test_what_is_binary_is_only_named(toolbox: Toolbox, server: Any) -> None:
    text = await read(toolbox, server, b"\x89PNG\0\0", "image/png")

    assert text == "[binary: 6 bytes of image/png not shown]"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html; charset=ISO-8859-1", "<p>Grüße".encode("latin-1")),
        ("text/html", '<meta charset="windows-1252"><p>Grüße'.encode("cp1252")),
        ("text/html; charset=utf-16", "<p>Grüße".encode("utf-16")),
        ("text/html", "<p>Grüße".encode()),
    ],
)
async def test_a_page_is_decoded_as_it_says(
    toolbox: Toolbox, server: Any, kind: str, body: bytes
) -> None:
    assert await read(toolbox, server, body, kind) == "Grüße"


@pytest.mark.parametrize(
    "charset", ["punycode", "zip", "unicode_escape", "utf-7", "x" * 999]
)
async def test_a_charset_that_is_none_for_pages_is_not_used(
    toolbox: Toolbox, server: Any, charset: str
) -> None:
    text = await read(toolbox, server, "a\\u0041-+AGE-", f"text/plain; charset={charset}")

    assert text == "a\\u0041-+AGE-"


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 200_000,
        "<b>" * 200_000,
        "<p><b>" * 100_000,
        "<table>" * 100_000,
        "<td>x" * 150_000,
        "<table><tr>" + "<th>x" * 150_000,
        "<a " * 300_000,
        "<!--" * 300_000,
        "<![CDATA[" * 100_000,
        "<?" * 400_000,
        "</" * 400_000,
        "<" * 900_000,
        "<a b='" * 150_000,
        "<a " + " ".join(f"b{number}=c" for number in range(90_000)),
        "<a href=x>" * 90_000,
        "<script>" * 100_000,
        "&" * 900_000,
        "<title>" * 100_000,
        "<pre>\n" * 100_000,
        "\0" * 10_000 + "<p>" * 100_000,
        " " * 900_000,
    ],
)
async def test_a_page_made_to_be_slow_is_not(
    toolbox: Toolbox, server: Any, html: str
) -> None:
    server.pages["/page"] = ("text/html", html.encode())
    async with toolbox(http={"private_hosts": [server.host]}) as call:
        await call("extract_links", html="<p>")
        before = time.perf_counter()
        await call("fetch_url", url=f"{server.url}/page")
        await call("extract_links", url=f"{server.url}/page")

    assert time.perf_counter() - before < 10


async def test_links_are_absolute_and_each_comes_once(
    toolbox: Toolbox, server: Any
) -> None:
    page = """<a href="/a">First</a> <a href="b?c=1#d">Second <b>bold</b></a>
      <a href="/a">again</a> <a href="#top">top</a> <a href="mailto:x@y.z">mail</a>
      <a href="javascript:alert(1)">no</a> <a href="//other.example/x"><img alt="pic"></a>
      <a href=" https://Example.com ">out</a> <a>none</a> <a href="http://u:p@h.x/">no</a>
      <map><area href="/area" alt="here"></map> <a href="http://[bad">bad</a>"""
    server.pages["/dir/page"] = (HTML, page.encode())

    async with toolbox(http={"private_hosts": [server.host]}) as call:
        found = await call("extract_links", url=f"{server.url}/dir/page")

    assert found == {
        "links": [
            {"url": f"{server.url}/a", "text": "First"},
            {"url": f"{server.url}/dir/b?c=1", "text": "Second bold"},
            {"url": "http://other.example/x", "text": "pic"},
            {"url": "https://example.com/", "text": "out"},
            {"url": f"{server.url}/area", "text": "here"},
        ],
        "truncated": False,
    }


async def test_links_of_html_at_hand_need_no_network(toolbox: Toolbox) -> None:
    html = '<base href="/base/"><a href="x">X</a>'

    async with toolbox() as call:
        based = await call("extract_links", html=html, url="https://a.example/b")
        alone = await call("extract_links", html='<a href="x/y">X</a>')
        with pytest.raises(ToolError, match="names no page"):
            await call("extract_links")

    assert based["links"] == [{"url": "https://a.example/base/x", "text": "X"}]
    assert alone["links"] == [{"url": "x/y", "text": "X"}]


async def test_many_links_are_cut(toolbox: Toolbox) -> None:
    html = "".join(f'<a href="https://a.example/{number}">x</a>' for number in range(500))

    async with toolbox() as call:
        found = await call("extract_links", html=html, limit=10)

    assert (len(found["links"]), found["truncated"]) == (10, True)


async def test_a_page_that_is_not_there_is_an_error(toolbox: Toolbox, server: Any) -> None:
    async with toolbox(http={"private_hosts": [server.host]}) as call:
        with pytest.raises(ToolError, match="answered with status 404"):
            await call("fetch_url", url=f"{server.url}/status?code=404")
