"""What a user may write under `[plugins.direct]`."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from kaizen.config import PluginSettings
from pydantic import Field, SecretStr, field_validator

__all__ = ["DirectSettings", "EndpointSettings", "Kind", "PriceSettings"]

Kind = Literal["openai", "anthropic", "ollama"]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_LINE = re.compile(r"[\x20-\x7e]{0,4096}")


class EndpointSettings(PluginSettings):
    """One endpoint: what is left out stays as it is known of its name or kind."""

    kind: Kind | None = Field(
        default=None, description="What it speaks; `openai` for most."
    )
    base_url: str | None = Field(
        default=None,
        max_length=2048,
        description="Its address, as its documentation gives it for clients.",
    )
    api_key_env: str = Field(default="", description="The variable that holds its key.")
    api_key: SecretStr | None = Field(
        default=None, description='Its key, as `{ env = "NAME" }`.'
    )
    headers: dict[str, str] = Field(
        default_factory=dict, max_length=32, repr=False, description="Sent each time."
    )
    api_version: str = Field(
        default="", pattern=r"^[A-Za-z0-9.-]{0,32}$", description="For Azure."
    )
    model: str = Field(default="", description="The model of those who name none.")
    catalogue: Literal["openai", "anthropic", ""] | None = Field(
        default=None, description="Whose models and prices these are."
    )
    local: bool | None = Field(default=None, description="Whether its use costs nothing.")
    continues: bool | None = Field(
        default=None, description="Whether it goes on from the beginning of a reply."
    )
    tools: bool | None = Field(default=None, description="Whether its models call tools.")
    structured_output: bool | None = Field(
        default=None, description="Whether it holds replies to a JSON schema."
    )
    media: frozenset[Literal["image", "audio", "document"]] | None = Field(
        default=None, description="What its models read beside text."
    )
    context_window: int | None = Field(default=None, ge=1, description="In tokens.")
    max_output_tokens: int | None = Field(default=None, ge=1, description="Of one reply.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None, description="What it calls the limit of a reply."
    )
    stream_usage: bool | None = Field(
        default=None, description="Whether it is asked to count tokens in streams."
    )
    preference: int | None = Field(
        default=None, ge=0, description="Its place among those found by themselves."
    )
    insecure: bool = Field(
        default=False, description="Allow a key to be sent over http to another machine."
    )

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        return checked_url(value)

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable(cls, value: str) -> str:
        if value and not _VARIABLE.fullmatch(value):
            raise ValueError("is not the name of an environment variable")
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, line in value.items():
            if not is_header(name, line):
                raise ValueError("has a name or a value that no header has")
        return value


class PriceSettings(PluginSettings):
    """What a model costs, in US dollars for a million tokens."""

    model: str = Field(min_length=1, description="The model's name.")
    provider: str = Field(default="", description="The endpoint; all if left out.")
    since: date = Field(default=date.min, description="The first day of this price.")
    input: Decimal = Field(ge=0)
    output: Decimal = Field(default=Decimal(0), ge=0)
    cached_input: Decimal | None = Field(
        default=None, ge=0, description="Read from the cache; as `input` if left out."
    )
    cache_write: Decimal | None = Field(
        default=None, ge=0, description="Written into it; as `input` if left out."
    )


class DirectSettings(PluginSettings):
    """What a user may write under `[plugins.direct]`."""

    endpoints: dict[str, EndpointSettings] = Field(
        default_factory=dict,
        description="Endpoints by name: those that are known, changed, and your own.",
    )
    offers: tuple[str, ...] | None = Field(
        default=None, description="The names to offer; all that are known if left out."
    )
    prices: tuple[PriceSettings, ...] = Field(
        default=(), description="Prices that go before the bundled ones."
    )
    dotenv: bool = Field(
        default=True, description="Whether keys are read from `.env`, too."
    )
    connect_timeout_s: float = Field(
        default=10, gt=0, le=600, description="Longest time to connect, in seconds."
    )
    idle_timeout_s: float = Field(
        default=300, gt=0, le=86_400, description="Longest silence, in seconds."
    )
    timeout_s: float = Field(
        default=600,
        gt=0,
        le=86_400,
        description="Longest time for one request that says none itself, in seconds.",
    )
    max_reply_mb: int = Field(
        default=32, ge=1, le=1024, description="The most that one reply may be."
    )
    max_connections: int = Field(
        default=1_000, ge=1, le=100_000, description="Most connections of one endpoint."
    )
    embed_batch: int = Field(
        default=256, ge=1, le=2_048, description="Most texts of one request to embed."
    )
    proxy: SecretStr | None = Field(
        default=None, description="A proxy; those of the environment are not used."
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates to trust instead of the usual ones."
    )

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value():
            check_proxy(value.get_secret_value())
        return value

    @field_validator("endpoints")
    @classmethod
    def _have_names(cls, value: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError("has a name that is not of a-z, 0-9, '_' and '-'")
        return value


def checked_url(value: str) -> str:
    """Return an address without the slash at its end.

    Raises:
        ValueError: It is no plain http address; the message does not hold it.
    """
    if not re.fullmatch(r"[\x21-\x5b\x5d-\x7e]+", value):
        raise ValueError("is not a web address")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an address that begins with http:// or https://")
    if "@" in parts.netloc or parts.fragment or parts.query:
        raise ValueError("may have no user, no query and no fragment")
    if not _has_good_port(parts):
        raise ValueError("has a port that is none")
    return value.rstrip("/")


def check_proxy(value: str) -> None:
    """Look at the address of a proxy, which may hold a user and a password.

    Raises:
        ValueError: It is none; the message does not hold it.
    """
    problem = "is not the address of a proxy, such as http://user:password@host:port"
    if not re.fullmatch(r"[\x21-\x5b\x5d-\x7e]+", value):
        raise ValueError(problem)
    try:
        parts = urlsplit(value)
    except ValueError:
        raise ValueError(problem) from None
    known = parts.scheme in ("http", "https", "socks5", "socks5h") and parts.hostname
    if not known or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{problem}; some characters have to be written as %XX there")
    if not _has_good_port(parts):
        raise ValueError("has a port that is none")


def is_header(name: object, line: object) -> bool:
    """Whether a header may have this name and this value."""
    if not isinstance(name, str) or not isinstance(line, str):
        return False
    return bool(_HEADER.fullmatch(name) and _LINE.fullmatch(line))


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False
