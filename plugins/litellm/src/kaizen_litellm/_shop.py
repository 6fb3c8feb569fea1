"""What the providers of one kernel share: settings, keys, the table of models."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from kaizen.errors import ConfigurationError, ModelAuthError

from kaizen_litellm._errors import missing_key
from kaizen_litellm._keys import Keys
from kaizen_litellm._names import ROUTES
from kaizen_litellm._prices import Catalogue, Table, read_table
from kaizen_litellm._settings import LitellmSettings, ProviderSettings
from kaizen_litellm._targets import PRESETS, Target, route_target, target

__all__ = ["Shop"]


class Shop:
    """Holds what is looked up once for all providers of a kernel."""

    def __init__(self, settings: LitellmSettings, keys: Keys) -> None:
        self.settings = settings
        self._keys = keys
        self._table: Table | None = None

    def __repr__(self) -> str:
        return "<Shop>"

    async def stock(self) -> None:
        """Read the table of models, if nobody has."""
        if self._table is None:
            self._table = await anyio.to_thread.run_sync(read_table)

    def catalogue(self, target: Target) -> Catalogue:
        """Return the models of a provider. Reads the table where `stock` has not."""
        if self._table is None:
            self._table = read_table()
        return Catalogue(
            target.name,
            target.families,
            self._table,
            self.settings.prices,
            free=target.local,
        )

    def target(self, name: str) -> Target:
        """Return what is known of a provider, or of a route of litellm.

        Raises:
            ConfigurationError: There is no such route, or it is not asked here.
        """
        given = self.settings.providers.get(name)
        if name in PRESETS:
            return target(name, given or ProviderSettings(), self._keys)
        return route_target(name, given)

    def knows(self, name: str) -> bool:
        """Say whether a name is that of a provider or of a route that is asked here."""
        return name in PRESETS or name in ROUTES or name in self.settings.providers

    def limits(self) -> dict[str, Any]:
        """Return the fields of `Limits`, whose module imports httpx."""
        settings = self.settings
        return {
            "connect_s": settings.connect_timeout_s,
            "idle_s": settings.idle_timeout_s,
            "reply_bytes": settings.max_reply_mb * 1024 * 1024,
            "connections": settings.max_connections,
            "proxy": settings.proxy.get_secret_value() if settings.proxy else "",
            "ca_file": settings.ca_file,
        }

    def key(self, asked: Target) -> str:
        """Return the key of a provider, or `""` where none is needed.

        Raises:
            ModelAuthError: There is none, or what is there can be none.
            ConfigurationError: It would be sent unencrypted.
        """
        key = asked.key.get_secret_value() if asked.key else ""
        key = (key or self._keys.find(asked.key_variables)).strip()
        if not key and asked.needs_key:
            raise missing_key(asked.name, asked.key_variables, asked.key_from)
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ModelAuthError(
                asked.name,
                "has a key with characters that no key has",
                "Look at its variable: an end of line or a quotation mark may be in it.",
            )
        if key and asked.exposes_its_key:
            raise ConfigurationError(
                f"provider {asked.name!r}",
                "would send its key unencrypted to another machine",
                "Use https, or set `insecure = true` for it.",
            )
        return key
