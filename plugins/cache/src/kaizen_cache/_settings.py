"""What users may write under `[plugins.cache]`."""

from __future__ import annotations

from typing import Literal

from kaizen.config import PluginSettings
from pydantic import Field

__all__ = ["CacheSettings"]

MIB = 1024 * 1024


class CacheSettings(PluginSettings):
    """What a user may write under `[plugins.cache]`."""

    store: str | None = Field(
        default=None,
        min_length=1,
        description="Where replies are kept; by default the kernel's `cache_backend`, "
        "which is `memory`.",
    )
    scope: Literal["agent", "definition"] = Field(
        default="agent",
        description="Who shares replies: each agent by itself, or all agents that are "
        "asked the same and have the same tools. Never two tenants.",
    )
    namespace: str = Field(
        default="",
        max_length=200,
        description="A part of every key. Another one begins anew, such as when a "
        "provider has got another address.",
    )
    cache_tool_calls: bool = Field(
        default=False,
        description="Keep replies that ask for tools too. To give one again calls them "
        "again.",
    )
    cache_urls: bool = Field(
        default=False,
        description="Take media that are given by their URL for unchanged while that is "
        "the same.",
    )
    max_entries: int = Field(
        default=10_000, ge=1, le=10_000_000, description="Most replies in memory."
    )
    max_bytes: int = Field(
        default=64 * MIB, ge=1, description="Most memory for all of them."
    )
    max_reply_bytes: int = Field(
        default=MIB,
        ge=1,
        le=64 * MIB,
        description="Largest reply that is kept, in whatever store.",
    )
    store_timeout_s: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="Longest time that a store is waited for, in seconds.",
    )
