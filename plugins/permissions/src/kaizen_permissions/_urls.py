"""URLs: what they lead to, read once and strictly, and the patterns that rules have."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote

from kaizen.errors import ConfigurationError

from kaizen_permissions._paths import Reading, Sources
from kaizen_permissions._patterns import literal, wildcards

__all__ = ["compile_url", "is_url_pattern", "origin", "read_url"]

MAX_URL_CHARS = 8_192
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_URL = re.compile(
    r"(?P<scheme>https?|wss?)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:@%*]+|(?:\*\.)?[^\[\]:@%*]+|\*)"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
_HIDDEN = re.compile(
    r"[\x00-\x20\x7f-\xa0\\\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\uffff\ud800-\udfff]"
)
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*", re.ASCII)
_DOT = re.compile(r"%2e", re.IGNORECASE)
_DOMAIN = "domain:"


def is_url_pattern(specifier: str) -> bool:
    """Whether a specifier is meant for URLs."""
    return specifier.startswith(_DOMAIN) or "://" in specifier


def read_url(url: str) -> Reading | None:
    """Return what a URL leads to, in one spelling; `None` if that cannot be said."""
    if not url or len(url) > MAX_URL_CHARS or _HIDDEN.search(url):
        return None
    found = _URL.fullmatch(url)
    if found is None:
        return None
    authority = _AUTHORITY.fullmatch(found["authority"])
    if authority is None or "*" in authority["host"]:
        return None
    host = _host(authority["host"])
    scheme = found["scheme"].lower()
    port = int(authority["port"] or _PORTS[scheme])
    if host is None or not 0 < port < 65_536:
        return None
    start = f"{scheme}://{host}:{port}"
    texts = tuple(dict.fromkeys([start + rest for rest in _rests(found["rest"])]))
    return Reading(texts, texts)


def origin(reading: Reading) -> str | None:
    """Return a pattern for all that has the origin of a URL."""
    found = re.match(r"(\w+)://(.+):(\d+)(?=[/?]|\Z)", reading.strict[0])
    if found is None:
        return None
    port = "" if _PORTS[found[1]] == int(found[3]) else f":{found[3]}"
    return f"{found[1]}://{found[2]}{port}/*"


def compile_url(pattern: str) -> Sources:
    """Return the expressions of a pattern.

    Raises:
        ConfigurationError: It is not one.
    """
    if pattern.startswith(_DOMAIN):
        return _domain(pattern)
    found = None if _HIDDEN.search(pattern) else _URL.fullmatch(pattern)
    authority = _AUTHORITY.fullmatch(found["authority"]) if found else None
    host = _host_pattern(authority["host"]) if authority else None
    if found is None or authority is None or host is None:
        raise _unusable(pattern)
    scheme = found["scheme"].lower()
    rest = found["rest"] or "/"
    if rest.startswith("?"):
        rest = f"/{rest}"
    port = int(authority["port"] or _PORTS[scheme])
    start = f"{scheme}://{host}:{port}"
    ways = dict.fromkeys(
        (rest, unquote(rest))
    )  # as a URL is read, with and without escapes
    sources = tuple(start + wildcards(each, many=".*") for each in ways)
    return Sources(sources, sources)


def _domain(pattern: str) -> Sources:
    """Return the expressions of `domain:example.com`.

    What allows is the host itself at the usual ports; what refuses is also what lies below
    it, at any port.
    """
    authority = _AUTHORITY.fullmatch(pattern.removeprefix(_DOMAIN))
    host = _host_pattern(authority["host"]) if authority else None
    if authority is None or host is None:
        raise _unusable(pattern)
    port = authority["port"]
    usual = "https?://{0}:" + (port or "(?:80|443)") + "/.*"
    strict = usual.format(host)
    if not port:
        strict = f"(?:http://{host}:80|https://{host}:443)/.*"
    below = host if authority["host"].startswith(("*", "[")) else rf"(?:[^/:]+\.)?{host}"
    loose = f"[a-z]+://{below}:{port or '[0-9]+'}/.*"
    return Sources((strict,), (strict, loose))


def _rests(rest: str) -> list[str]:
    """Return the path and query of a URL in the ways in which servers may read them."""
    path, mark, query = rest.partition("?")
    path = path or "/"
    asked = mark + query
    if "%" not in path and "/." not in path:
        return [path + asked]
    readings = [path, _without_dots(_DOT.sub(".", path))]
    if "%" in path:
        readings.append(_without_dots(unquote(path).replace("\\", "/")))
    return [each + asked for each in readings]


def _without_dots(path: str) -> str:
    """Return a path without `.` and `..` (RFC 3986, section 5.2.4)."""
    kept: list[str] = []
    parts = path.split("/")[1:]
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    ends = "/" if parts and parts[-1] in (".", "..") and kept else ""
    return "/" + "/".join(kept) + ends


def _host_pattern(host: str) -> str | None:
    """Return the expression of a host, in which the first label may be `*`."""
    if host == "*":
        return r"[^/]+"
    star = host.startswith("*.")
    name = _host(host.removeprefix("*."))
    if name is None:
        return None
    return (r"(?:[^/:\[\]]+\.)" if star else "") + literal(name)


def _host(host: str) -> str | None:
    """Return the one spelling of a host; `None` if it is none, or could be two."""
    if host.startswith("["):
        return _address6(host[1:-1])
    name = host.rstrip(".") if host.endswith(".") and not host.endswith("..") else host
    if not name.isascii():
        name = _international(name)
    name = name.lower()
    if _NUMBER.fullmatch(name[name.rfind(".") + 1 :]):
        return _address4(name.split("."))
    return name if len(name) <= 253 and _NAME.fullmatch(name) else None


def _international(name: str) -> str:
    import idna

    try:
        return idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return ""


def _address6(text: str) -> str | None:
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    inner = address.ipv4_mapped
    return f"[{address.compressed}]" if inner is None else str(inner)


def _address4(labels: list[str]) -> str | None:
    """Return an IPv4 address that is written with one to four numbers of any base."""
    numbers: list[int] = []
    for each in labels:
        if len(labels) > 4 or not _NUMBER.fullmatch(each) or len(each) > 20:
            return None
        try:
            numbers.append(_number(each))
        except ValueError:
            return None
    *first, last = numbers
    if any(each > 255 for each in first) or last >= 256 ** (4 - len(first)):
        return None
    value = sum(each << (24 - 8 * place) for place, each in enumerate(first)) + last
    return str(IPv4Address(value))


def _number(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if text.startswith("0") and len(text) > 1 else int(text)


def _unusable(pattern: str) -> ConfigurationError:
    return ConfigurationError(
        f"the URL {pattern[:200]!r}",
        "is no pattern for URLs",
        "Write `https://example.com/*` or `domain:example.com`.",
    )
