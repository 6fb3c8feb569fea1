"""Asks a server on this machine which models it has.

By hand, since that is far quicker than to import an HTTP client in order to find out that
there is nobody to talk to.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream
from pydantic_core import from_json

__all__ = ["answers", "listed"]

LOOK_S = 0.8
MOST = 1024 * 1024


async def answers(url: str) -> bool:
    """Say whether a server answers at an address with models."""
    return bool(await listed(url))


async def listed(url: str) -> list[str]:
    """Return the names of the models that a server has; none if it is not there."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    head = (
        f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n"
        "Accept: application/json\r\nConnection: close\r\n\r\n"
    )
    said = b""
    with anyio.move_on_after(LOOK_S):
        try:
            stream: ByteStream = (
                await anyio.connect_tcp(host, port, tls=True)
                if secure
                else await anyio.connect_tcp(host, port)
            )
            async with aclosing(stream):
                await stream.send(head.encode("ascii"))
                while len(said) < MOST:
                    said += await stream.receive()
        except anyio.EndOfStream:
            return _names(said)
        except (OSError, UnicodeError, anyio.BrokenResourceError):
            return []  # of a name that can be none, Python says it in `UnicodeError`
    return []


def _names(said: bytes) -> list[str]:
    head, _, body = said.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        return []
    try:
        found: Any = from_json(body)
    except ValueError:
        return []
    if not isinstance(found, dict):
        return []
    models = found.get("models") or found.get("data")
    if not isinstance(models, list):
        return []
    named = (
        each.get("id") or each.get("name") for each in models if isinstance(each, dict)
    )
    return [name for name in named if isinstance(name, str)]
