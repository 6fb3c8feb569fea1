"""URLs and addresses: what they mean, read once and strictly."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias
from urllib.parse import quote, urljoin

from kaizen.errors import ToolError

__all__ = ["Address", "Target", "is_private", "is_public", "joined", "parse_url"]

Address: TypeAlias = IPv4Address | IPv6Address

_MAX_URL = 8_192
_FORBIDDEN = re.compile(
    r"[\x00-\x20\x7f-\xa0\\\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff0-\uffff\ud800-\udfff]"
)
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:@%]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_SAFE = "!#$%&'()*+,/:;=?@[]~"

# What is not for the public, from the special-purpose registries of IANA and from where
# clouds keep their metadata. Python's own `is_global` changes from release to release.
_NOT_PUBLIC_4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
)
_NOT_PUBLIC_6 = (
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
)
_PRIVATE = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "::1/128",
    "fc00::/7",
)
# Metadata services at addresses that are otherwise private.
_METADATA = ("100.100.100.200/32", "fd00:ec2::/32", "fd20:ce::254/128")
_NAT64 = "64:ff9b::/96"
_GLOBAL_UNICAST_6 = "2000::/3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a URL leads.

    Attributes:
        host: The name in lower case and ASCII, or the address without brackets.
        path: Path and query, with a slash at the start.
        address: The address, where the URL names one instead of a host.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None = None

    @property
    def authority(self) -> str:
        """Host and port as a `Host` header and an origin have them."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def named(self) -> str:
        """Host and port, the port always."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """The URL, as it is requested."""
        return f"{self.origin}{self.path}"


def parse_url(url: str) -> Target:
    """Read a URL the one way in which nobody can read it differently.

    Raises:
        ToolError: It is not http or https, names a user, has another spelling of an
            address than the usual one, or contains what does not belong into a URL.
    """
    if len(url) > _MAX_URL:
        raise _refused(url, f"is over {_MAX_URL} characters")
    if _FORBIDDEN.search(url):
        raise _refused(url, "contains blanks, control characters or backslashes")
    found = _URL.fullmatch(url)
    if not found:
        raise _refused(url, "is no http:// or https:// URL")
    if "@" in found["authority"]:
        raise _refused(url.rpartition("@")[2], "names a user, which is not sent")
    authority = _AUTHORITY.fullmatch(found["authority"])
    if not authority:
        raise _refused(url, "names no valid host and port")
    scheme = found["scheme"].lower()
    host, address = _host(authority["host"], url)
    port = int(authority["port"] or (443 if scheme == "https" else 80))
    if not 1 <= port <= 65_535:
        raise _refused(url, "has no valid port")
    rest = quote(found["rest"], safe=_SAFE)
    path = rest if rest.startswith("/") else f"/{rest}"
    return Target(scheme=scheme, host=host, port=port, path=path, address=address)


def joined(target: Target, location: str) -> Target:
    """Return where a reference leads that was found at a URL.

    Raises:
        ToolError: As for `parse_url`.
    """
    if len(location) > _MAX_URL or _FORBIDDEN.search(location):
        raise _refused(location, "is no valid reference")
    try:
        return parse_url(urljoin(target.url, location))
    except ValueError:
        raise _refused(location, "is no valid reference") from None


def is_public(address: Address) -> bool:
    """Say whether an address belongs to the public internet, embedded ones included."""
    if isinstance(address, IPv4Address):
        return address.is_global and not _is_in(address, _NOT_PUBLIC_4)
    mapped = address.ipv4_mapped
    if mapped is None and _is_in(address, (_NAT64,)):
        mapped = IPv4Address(int(address) & 0xFFFF_FFFF)
    if mapped is not None:
        return is_public(mapped)
    if not _is_in(address, (_GLOBAL_UNICAST_6,)) or _is_in(address, _NOT_PUBLIC_6):
        return False
    # ISATAP (RFC 5214) puts an IPv4 address behind 0000:5efe or 0200:5efe.
    if int(address) >> 32 & 0xFDFF_FFFF == 0x0000_5EFE:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global


def is_private(address: Address) -> bool:
    """Say whether an address is this machine's or a private network's, but no cloud's."""
    plain = getattr(address, "ipv4_mapped", None) or address
    return _is_in(plain, _PRIVATE) and not _is_in(plain, _METADATA)


def _is_in(address: Address, networks: tuple[str, ...]) -> bool:
    return any(address in ipaddress.ip_network(network) for network in networks)


def _host(written: str, url: str) -> tuple[str, Address | None]:
    """Return a host in lower case and ASCII, and its address if it is one."""
    if written.startswith("["):
        try:
            address = IPv6Address(written[1:-1])
        except ValueError:
            raise _refused(url, "names no valid IPv6 address") from None
        return str(address), address
    name = written.lower() if written.isascii() else _ascii(written, url)
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            number = IPv4Address(name)
        except ValueError:
            raise _refused(url, "spells an address in an unusual way") from None
        if not written.isascii():
            raise _refused(url, "spells an address in an unusual way")
        return str(number), number
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise _refused(url, "names no valid host")
    return name, None


def _ascii(name: str, url: str) -> str:
    import idna

    try:
        return idna.encode(name, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise _refused(url, "names no valid host") from None


def _refused(url: str, problem: str) -> ToolError:
    return ToolError(f"the URL {url[:200]!r}", problem, "Give a plain http or https URL.")
