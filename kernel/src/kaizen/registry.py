"""The registry: which plugin offers what, under which name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar

from kaizen._records import record
from kaizen.errors import ConfigurationError, UnknownNameError

__all__ = ["Factory", "Offer", "Registry"]

Port = TypeVar("Port")
Factory: TypeAlias = Callable[[], Any] | AbstractAsyncContextManager[Any] | object
"""An implementation; or a function without arguments that returns one, a coroutine of one,
or an async context manager around one."""


@record
class Offer:
    """One implementation of a port.

    Attributes:
        plugin: Who offers it.
        description: One line for a person who chooses.
    """

    port: type[Any]
    name: str
    factory: Any
    plugin: str
    description: str = ""


class Registry:
    """What the plugins of one kernel offer, by port and name."""

    def __init__(self) -> None:
        self._offers: dict[type[Any], dict[str, Offer]] = {}

    def add(
        self,
        port: type[Any],
        name: str,
        factory: Factory,
        *,
        description: str = "",
        plugin: str = "",
    ) -> None:
        """Offer an implementation of a port.

        Args:
            port: The protocol, or any class that serves as a key.
            name: What users choose it by.
            factory: The implementation, or how to open it; see `Factory`.
            description: One line for a person who chooses.
            plugin: Who offers it; the kernel fills it in while plugins contribute.

        Raises:
            ConfigurationError: The name is taken.
        """
        taken = self._offers.setdefault(port, {})
        if name in taken:
            raise ConfigurationError(
                f"{port.__name__} {name!r}",
                f"is offered by plugin {taken[name].plugin!r} already",
                "Disable one of the plugins, or give yours another name.",
            )
        taken[name] = Offer(
            port=port, name=name, factory=factory, plugin=plugin, description=description
        )

    def remove_plugin(self, plugin: str) -> list[Offer]:
        """Take back what a plugin offers, and return it."""
        gone = [
            offer
            for offers in self._offers.values()
            for offer in offers.values()
            if offer.plugin == plugin
        ]
        for offer in gone:
            del self._offers[offer.port][offer.name]
        return gone

    def names(self, port: type[Any]) -> tuple[str, ...]:
        """Return the names under which a port is offered, sorted."""
        return tuple(sorted(self._offers.get(port, ())))

    def offers(self, port: type[Any] | None = None) -> tuple[Offer, ...]:
        """Return what is offered for a port, or for every port, in order of arrival."""
        groups = self._offers.values() if port is None else [self._offers.get(port, {})]
        return tuple(offer for group in groups for offer in group.values())

    def offered(self, port: type[Any], name: str) -> Offer | None:
        """Return the offer of a name, or `None`."""
        return self._offers.get(port, {}).get(name)

    def find(self, port: type[Any], name: str) -> Offer:
        """Return the offer of a name.

        Raises:
            UnknownNameError: Nobody offers it; it lists the names that are known.
        """
        try:
            return self._offers[port][name]
        except KeyError:
            raise UnknownNameError(
                _words(port), name, self.names(port), self.remedy(port, name)
            ) from None

    def remedy(self, port: type[Any], name: str) -> str:
        """Say which distribution brings a name that nobody offers here."""
        distribution = BROUGHT_BY.get((port.__name__, name))
        return f"Install it with `pip install {distribution}`." if distribution else ""


BROUGHT_BY = {
    **{
        ("Provider", name): "kaizen-litellm"
        for name in (
            "anthropic",
            "azure",
            "cohere",
            "docker",
            "gemini",
            "google",
            "huggingface",
            "ollama",
            "openai",
        )
    },
    ("Provider", "mock"): "kaizen-offline",
    ("Provider", "offline"): "kaizen-offline",
    ("CheckpointStore", "filesystem"): "kaizen-state",
    ("CheckpointStore", "sqlite"): "kaizen-sqlite",
    ("CheckpointStore", "postgres"): "kaizen-postgres",
    ("CheckpointStore", "redis"): "kaizen-redis",
    ("CheckpointStore", "s3"): "kaizen-s3",
    ("MemoryStore", "sqlite"): "kaizen-sqlite",
    **{("Channel", name): "kaizen-control" for name in ("cli", "http", "stdio")},
    **{
        ("Tool", name): "kaizen-tools"
        for name in (
            "bash_command",
            "delete_file",
            "edit_file",
            "extract_links",
            "fetch_url",
            "file_exists",
            "grep",
            "http_delete",
            "http_get",
            "http_post",
            "http_put",
            "list_directory",
            "read_file",
            "search_files",
            "write_file",
        )
    },
}
"""Names that users know from the documents, and the distributions that bring them."""


def _words(port: type[Any]) -> str:
    """Return `CheckpointStore` as `checkpoint store`."""
    spaced = "".join(f" {each}" if each.isupper() else each for each in port.__name__)
    return spaced.strip().lower()
