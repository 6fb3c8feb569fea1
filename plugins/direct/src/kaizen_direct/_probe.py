"""Asks whether a server on this machine is there and has models.

By hand, since that is far quicker than to import an HTTP client in order to find out that
there is nobody to talk to.
"""

from __future__ import annotations

from contextlib import aclosing
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream
from pydantic_core import from_json

__all__ = ["answers"]

LOOK_S = 0.8
MOST = 1024 * 1024


async def answers(url: str) -> bool:
    """Say whether a server answers at an address with a list that is not empty."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    place = f"{parts.path}?{parts.query}" if parts.query else parts.path
    head = (
        f"GET {place} HTTP/1.0\r\nHost: {parts.netloc}\r\n"
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
            return _has_models(said)
        except (OSError, UnicodeError, anyio.BrokenResourceError):
            return False  # of a name that can be none, Python says it in `UnicodeError`
    return False


def _has_models(said: bytes) -> bool:
    head, _, body = said.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        return False
    try:
        found = from_json(body)
    except ValueError:
        return False
    if not isinstance(found, dict):
        return False
    return bool(found.get("models") or found.get("data"))
