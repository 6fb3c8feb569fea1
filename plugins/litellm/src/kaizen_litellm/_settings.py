"""What a user may write under `[plugins.litellm]`."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from kaizen.config import PluginSettings
from pydantic import Field, SecretStr, field_validator

__all__ = [
    "LitellmSettings",
    "PriceSettings",
    "ProviderSettings",
    "checked_url",
    "is_header",
]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_LINE = re.compile(r"[\x20-\x7e]{0,4096}")


class ProviderSettings(PluginSettings):
    """One provider: what is left out stays as it is known of its name."""

    base_url: str | None = Field(
        default=None,
        max_length=2048,
        description="Its address, as its documentation gives it for clients.",
    )
    api_key_env: str = Field(default="", description="The variable that holds its key.")
    api_key: SecretStr | None = Field(
        default=None, description='Its key, as `{ env = "NAME" }`.'
    )
    api_version: str = Field(
        default="", pattern=r"^[A-Za-z0-9.-]{0,32}$", description="For Azure."
    )
    headers: dict[str, str] = Field(
        default_factory=dict, max_length=32, repr=False, description="Sent each time."
    )
    model: str = Field(default="", description="The model of those who name none.")
    embed_model: str = Field(default="", description="The same, for vectors.")
    transcribe_model: str = Field(default="", description="The same, for speech.")
    continues: bool | None = Field(
        default=None, description="Whether it goes on from the beginning of a reply."
    )
    insecure: bool = Field(
        default=False, description="Allow a key to be sent over http to another machine."
    )

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

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
    provider: str = Field(default="", description="The provider; all if left out.")
    since: date = Field(default=date.min, description="The first day of this price.")
    input: Decimal = Field(ge=0)
    output: Decimal = Field(default=Decimal(0), ge=0)
    cached_input: Decimal | None = Field(
        default=None, ge=0, description="Read from the cache; as `input` if left out."
    )
    cache_write: Decimal | None = Field(
        default=None, ge=0, description="Written into it; as `input` if left out."
    )


class LitellmSettings(PluginSettings):
    """What a user may write under `[plugins.litellm]`."""

    providers: dict[str, ProviderSettings] = Field(
        default_factory=dict,
        description="What is different with a provider. A name that is not offered is that "
        "of a route, such as `groq`.",
    )
    prefer: tuple[str, ...] = Field(
        default=(),
        description="Names that this plugin serves also where others offer them.",
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
        default=1_000, ge=1, le=100_000, description="Most connections of one provider."
    )
    embed_batch: int = Field(
        default=96, ge=1, le=2_048, description="Most texts of one request to embed."
    )
    proxy: SecretStr | None = Field(
        default=None, description="A proxy; those of the environment are not used."
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates to trust instead of the usual ones."
    )


def is_header(name: object, value: object) -> bool:
    """Say whether a header has a name and a value that can be sent."""
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and bool(_HEADER.fullmatch(name) and _LINE.fullmatch(value))
    )


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


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False
