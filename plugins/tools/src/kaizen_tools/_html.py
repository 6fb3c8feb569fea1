"""HTML as text and as links, in one pass and in linear time.

lxml's parser is used as a source of events, without a tree: the tree builders that were
measured need minutes for a megabyte of nested tags, and `html.parser` for one of `<a `.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from anyio.from_thread import check_cancelled

__all__ = ["Link", "links_of", "text_of"]

_CHUNK = 1 << 16
_MAX_LINKS = 10_000
_MAX_LINK_TEXT = 200
_HIDDEN = frozenset(
    (
        *("script", "style", "noscript", "template", "svg", "math", "head", "iframe"),
        *("object", "select", "canvas", "audio", "video"),
    )
)
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "br", "caption", "dd"),
        *("details", "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure"),
        *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "legend"),
        *("li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tr", "ul"),
    )
)
_APART = frozenset(
    ("h1", "h2", "h3", "h4", "h5", "h6", "p", "pre", "table", "ul", "ol", "blockquote")
)
_BLANKS = re.compile(r"[ \t\r\n\f\xa0]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link as it stands in a page."""

    href: str
    text: str


Result = TypeVar("Result", covariant=True)


class Target(Protocol[Result]):
    """Takes the events of a parser; the names are lxml's."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None: ...
    def end(self, tag: str) -> None: ...
    def data(self, text: str) -> None: ...
    def close(self) -> Result: ...


def text_of(html: str) -> str:
    """Return what a reader of a page sees. Blocks; run it in a thread of anyio."""
    return _parsed(html, Text())


def links_of(html: str) -> tuple[str, list[Link]]:
    """Return the base that a page names, or `""`, and its links in their order. Blocks."""
    return _parsed(html, Links())


def _parsed(html: str, target: Target[Result]) -> Result:
    from lxml import etree  # type: ignore[import-untyped]

    parser: Any = etree.HTMLParser(target=target, no_network=True, huge_tree=False)
    for position in range(0, len(html), _CHUNK):
        check_cancelled()
        parser.feed(html[position : position + _CHUNK])
    if not html.strip():
        return target.close()
    result: Result = parser.close()
    return result


class Text:
    """Collects text, a line for each block."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._line_has_text = False
        self._title: list[str] = []
        self._open: dict[str, int] = {}

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._open[tag] = self._open.get(tag, 0) + 1
        if self._hidden:
            return
        if tag in _BLOCKS:
            self._end_line(apart=tag in _APART)
        if tag == "li":
            self._append("- ")
        elif tag in ("td", "th") and self._line_has_text:
            self._append(" | ")
        elif tag[:1] == "h" and tag[1:].isdigit():
            self._append("#" * int(tag[1:]) + " ")
        elif tag == "img" and attributes.get("alt"):
            self._append(f"[{attributes['alt'][:_MAX_LINK_TEXT]}]")

    def end(self, tag: str) -> None:
        if tag in _BLOCKS and not self._hidden:
            self._end_line(apart=tag in _APART)
        if self._open.get(tag):
            self._open[tag] -= 1

    def data(self, text: str) -> None:
        if self._open.get("title") and not self._open.get("svg"):
            self._title.append(text)
        elif self._hidden:
            return
        elif self._open.get("pre"):
            first, *others = text.split("\n")
            self._append(first)
            for line in others:
                self._keep(self._taken_line().rstrip())
                self._append(line)
        else:
            self._append(_BLANKS.sub(" ", text))

    def close(self) -> str:
        self._end_line(apart=False)
        title = _squeezed("".join(self._title))
        body = "\n".join(self._lines).strip("\n")
        if title and not body.lstrip("# ").startswith(title):
            return f"{title}\n\n{body}".strip()
        return body

    @property
    def _hidden(self) -> bool:
        return any(self._open.get(tag) for tag in _HIDDEN)

    def _append(self, text: str) -> None:
        self._line.append(text)
        self._line_has_text = self._line_has_text or bool(text.strip())

    def _taken_line(self) -> str:
        line = "".join(self._line)
        self._line = []
        self._line_has_text = False
        return line

    def _end_line(self, *, apart: bool) -> None:
        line = self._taken_line()
        if not self._open.get("pre"):
            line = _BLANKS.sub(" ", line).strip()
        if line.strip("-# |"):
            self._keep(line)
        if apart:
            self._keep("")

    def _keep(self, line: str) -> None:
        if line or (self._lines and self._lines[-1]):
            self._lines.append(line)


class Links:
    """Collects links and their texts."""

    def __init__(self) -> None:
        self._base = ""
        self._links: list[Link] = []
        self._href = ""
        self._text: list[str] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        href = attributes.get("href", "").strip()
        if tag == "base" and not self._base:
            self._base = href
        elif tag in ("a", "area"):
            self._end_link()
            self._href = href
            self._text = [attributes.get("alt", "")] if tag == "area" else []
        elif tag == "img" and self._href:
            self._text.append(attributes.get("alt", ""))
        if tag == "area":
            self._end_link()

    def end(self, tag: str) -> None:
        if tag == "a":
            self._end_link()

    def data(self, text: str) -> None:
        if self._href and len(self._text) < 100:
            self._text.append(text)

    def close(self) -> tuple[str, list[Link]]:
        self._end_link()
        return self._base, self._links

    def _end_link(self) -> None:
        if self._href and len(self._links) < _MAX_LINKS:
            text = _squeezed("".join(self._text))[:_MAX_LINK_TEXT]
            self._links.append(Link(href=self._href, text=text))
        self._href = ""


def _squeezed(text: str) -> str:
    return _BLANKS.sub(" ", text).strip()
