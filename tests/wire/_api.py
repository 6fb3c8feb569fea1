"""What every provider's address has to know: keys, requests, answers, streams, errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from tests.wire.script import Fault, FaultKind, Request, Said

__all__ = ["Api", "Event", "Page", "Refused", "as_json", "delay", "list_of", "text_of"]

STATUS: Mapping[FaultKind, int] = {
    "unauthorized": 401,
    "forbidden": 403,
    "unknown_model": 404,
    "bad_request": 400,
    "context_length": 400,
    "content_filter": 400,
    "rate_limit": 429,
    "quota": 429,
    "server_error": 500,
    "bad_gateway": 502,
    "unavailable": 503,
    "overloaded": 529,
}
BAD_GATEWAY = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n"
    b"</body>\r\n</html>\r\n"
)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole response."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of a stream.

    Attributes:
        content: Whether it carries a piece of the answer, which is what faults count.
        end: Whether it says that the answer is whole; a fault comes before that.
    """

    data: bytes
    content: bool = False
    end: bool = False


class Refused(Exception):
    """A request that gets an error whatever the script says."""

    def __init__(self, page: Page) -> None:
        super().__init__(page.status)
        self.page = page


class Api:
    """One address of one provider. What is not overridden cannot be asked for there."""

    provider = "openai"
    kind = "chat"

    def __init__(self, key: str, models: tuple[str, ...]) -> None:
        self.key = key
        self.models = models

    def authorise(self, request: Request) -> None:
        """Refuse a request with the wrong key, or none.

        Raises:
            Refused: As the provider does it.
        """

    def understand(self, request: Request) -> None:
        """Fill in what a request means.

        Raises:
            Refused: The provider would not accept it.
        """

    def page(self, request: Request, said: Said) -> Page:
        """Return the answer in one piece."""
        raise NotImplementedError

    def events(self, request: Request, said: Said) -> Iterator[Event]:
        """Return the answer as a stream."""
        raise NotImplementedError

    def failure(self, request: Request, fault: Fault) -> Page:
        """Return an error as the provider words it."""
        raise NotImplementedError

    def failure_event(self, request: Request, fault: Fault) -> bytes:
        """Return what a stream of this provider says when it fails."""
        raise NotImplementedError

    def line(self, data: bytes) -> bytes:
        """Put some bytes into a stream where an event would stand."""
        return b"data: " + data + b"\n\n"

    def framed(self, request: Request, event: bytes) -> bytes:
        """Return an event in the form of stream that the client asked for."""
        return event

    def stream_type(self, request: Request) -> str:
        """Return the content type of a stream."""
        return "text/event-stream; charset=utf-8"


def as_json(value: Any, *, status: int = 200, headers: Mapping[str, str] = {}) -> Page:
    """Return a page of JSON."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return Page(body, status, headers=headers)


def delay(fault: Fault, reset: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that announce a delay.

    Args:
        reset: The provider's own headers of its limits.
    """
    seconds = fault.retry_after_s
    if seconds is None:
        return {}
    if fault.delay_in == "reset":
        return dict(reset)
    if fault.delay_in == "retry-after-ms":
        return {"retry-after-ms": f"{seconds * 1000:g}"}
    if fault.delay_in == "date":
        when = datetime.now(UTC) + timedelta(seconds=seconds)
        return {"retry-after": format_datetime(when, usegmt=True)}
    return {"retry-after": f"{seconds:g}"}


def list_of(value: Any) -> Iterable[Mapping[str, Any]]:
    """Return the objects in a list that came from outside."""
    if not isinstance(value, list):
        return []
    return [each for each in value if isinstance(each, dict)]


def text_of(content: Any) -> str:
    """Return the text of a message, be it written as a string or in parts."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or "") for part in list_of(content))
