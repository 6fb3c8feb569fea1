"""Reads forms that carry files."""

from __future__ import annotations

from collections.abc import Mapping
from email.parser import BytesParser
from email.policy import HTTP

__all__ = ["parts"]


def parts(content_type: str, body: bytes) -> Mapping[str, bytes]:
    """Return the fields of a `multipart/form-data` body by name; of others, none."""
    if not content_type.startswith("multipart/form-data"):
        return {}
    head = f"content-type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    fields = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content
    return fields
